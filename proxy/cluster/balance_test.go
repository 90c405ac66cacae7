// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"pillion/proxy/http"
)

// picks returns how often each host of c was chosen in n picks, with random
// numbers from a fixed seed.
func picks(t *testing.T, c *Cluster, n int, arg func(i int, a *PickArgs)) map[string]int {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	got := map[string]int{}
	for i := range n {
		a := &PickArgs{Random: rnd.Uint64()}
		if arg != nil {
			arg(i, a)
		}
		h := c.Pick(a)
		if h == nil {
			t.Fatal("no host")
		}
		got[h.Facts.Address]++
	}
	return got
}

// fair fails unless each count is within five standard deviations of its
// share of n.
func fair(t *testing.T, got map[string]int, n int, weights ...float64) {
	t.Helper()
	var sum float64
	for _, w := range weights {
		sum += w
	}
	for i, w := range weights {
		p := w / sum
		want, dev := p*float64(n), 5*math.Sqrt(float64(n)*p*(1-p))
		if d := math.Abs(float64(got[address(i)]) - want); d > dev {
			t.Errorf("host %d was chosen %d times, want %.0f ± %.0f", i, got[address(i)], want, dev)
		}
	}
	if len(got) > len(weights) {
		t.Errorf("%d hosts were chosen: %v", len(got), got)
	}
}

func TestRoundRobinTakesTurns(t *testing.T) {
	c := apply(t, newManager(t, nil), static("a", 3, nil))
	var last *Host
	for i := range 30 {
		h := c.Pick(&PickArgs{})
		if h == last {
			t.Fatalf("pick %d is the same host again", i)
		}
		last = h
	}
	if got := picks(t, c, 3000, nil); got[address(0)] != 1000 || got[address(1)] != 1000 {
		t.Errorf("shares: %v", got)
	}
}

// Weights are right in the long run and nearly so at any time: the count of
// a host never strays far from its share.
func TestRoundRobinWeights(t *testing.T) {
	for _, weights := range [][]uint32{{1, 2}, {1, 99}, {3, 5, 7}, {1, 1, 1, 997}, {1, 4294967295}, {10, 10, 10, 1}} {
		c := apply(t, newManager(t, nil), static("a", len(weights), weighted(weights...)))
		var sum float64
		for _, w := range weights {
			sum += float64(w)
		}
		got := map[string]int{}
		for n := 1; n <= 20000; n++ {
			got[c.Pick(&PickArgs{}).Facts.Address]++
			for i, w := range weights {
				want := float64(n) * float64(w) / sum
				if d := math.Abs(float64(got[address(i)]) - want); d > 6 {
					t.Fatalf("weights %v, after %d picks: host %d was chosen %d times, want %.1f", weights, n, i, got[address(i)], want)
				}
			}
		}
	}
}

func TestRandom(t *testing.T) {
	for _, weights := range [][]uint32{{1, 1, 1, 1}, {1, 2, 3}, {1, 99}} {
		c := apply(t, newManager(t, nil), static("a", len(weights), func(c *Config) {
			c.Balance.Policy = Random
			weighted(weights...)(c)
		}))
		const n = 20000
		var w []float64
		for _, x := range weights {
			w = append(w, float64(x))
		}
		fair(t, picks(t, c, n, nil), n, w...)
	}
}

func leastRequest(c *Config) { c.Balance.Policy = LeastRequest }

func TestLeastRequestWithoutLoad(t *testing.T) {
	const n = 20000
	c := apply(t, newManager(t, nil), static("a", 3, leastRequest))
	fair(t, picks(t, c, n, nil), n, 1, 1, 1)
	c = apply(t, newManager(t, nil), static("a", 3, func(c *Config) { leastRequest(c); weighted(1, 2, 5)(c) }))
	fair(t, picks(t, c, n, nil), n, 1, 2, 5)
}

// With two hosts every choice is a comparison, so that a busy host gets
// nothing; with many, it gets only what draws it without a better one, which
// for two choices is never.
func TestLeastRequestAvoidsLoad(t *testing.T) {
	for _, hosts := range []int{2, 3, 10} {
		c := apply(t, newManager(t, nil), static("a", hosts, leastRequest))
		busy := c.Hosts()[0]
		busy.pool.Stats.RqActive.Set(5)
		if got := picks(t, c, 5000, nil)[busy.Facts.Address]; got != 0 {
			t.Errorf("%d hosts: the busy one was chosen %d times", hosts, got)
		}
	}
}

// Keeping requests open, the numbers of active requests follow the weights.
func TestLeastRequestWeightsUnderLoad(t *testing.T) {
	for _, tc := range []struct {
		weights []uint32
		bias    float64
	}{{[]uint32{1, 1, 1}, 1}, {[]uint32{1, 3}, 1}, {[]uint32{1, 2, 4}, 1}, {[]uint32{1, 2}, 0.5}} {
		c := apply(t, newManager(t, nil), static("a", len(tc.weights), func(c *Config) {
			leastRequest(c)
			c.Balance.ActiveRequestBias = tc.bias
			weighted(tc.weights...)(c)
		}))
		rnd := rand.New(rand.NewPCG(3, 4))
		const n = 7000
		for range n {
			c.Pick(&PickArgs{Random: rnd.Uint64()}).pool.Stats.RqActive.Inc()
		}
		var sum float64
		for _, w := range tc.weights {
			sum += math.Pow(float64(w), 1/tc.bias)
		}
		for i, w := range tc.weights {
			got := float64(c.Hosts()[i].pool.Stats.RqActive.Value())
			// Two choices bring the loads near to their balance; with a bias
			// below 1 the pull is weaker than the weights of the draw.
			want := n * math.Pow(float64(w), 1/tc.bias) / sum
			if tc.bias == 1 && math.Abs(got-want) > want/20 {
				t.Errorf("weights %v, bias %v: host %d has %v active requests, want about %.0f", tc.weights, tc.bias, i, got, want)
			}
		}
	}
}

func TestLeastRequestBiasZeroIsRoundRobin(t *testing.T) {
	c := apply(t, newManager(t, nil), static("a", 2, func(c *Config) {
		leastRequest(c)
		c.Balance.ActiveRequestBias = 0
		weighted(1, 3)(c)
	}))
	c.Hosts()[1].pool.Stats.RqActive.Set(100)
	got := picks(t, c, 4000, nil)
	if d := got[address(0)] - 1000; d < -5 || d > 5 {
		t.Errorf("shares: %v", got)
	}
}

func TestMoreChoices(t *testing.T) {
	c := apply(t, newManager(t, nil), static("a", 4, func(c *Config) { leastRequest(c); c.Balance.ChoiceCount = 20 }))
	for i, h := range c.Hosts() {
		h.pool.Stats.RqActive.Set(int64(i))
	}
	got := picks(t, c, 1000, nil)
	if got[address(0)] < 990 {
		t.Errorf("with 20 choices the idle host was chosen %d times of 1000", got[address(0)])
	}
}

func TestAvoid(t *testing.T) {
	for _, p := range []Policy{RoundRobin, LeastRequest, Random, RingHash, Maglev} {
		c := apply(t, newManager(t, nil), static("a", 3, func(c *Config) {
			c.Balance.Policy = p
			weighted(1000, 1, 1)(c)
		}))
		hosts := c.Hosts()
		for avoid := 1; avoid <= 2; avoid++ {
			got := picks(t, c, 2000, func(i int, a *PickArgs) {
				a.Avoid = hosts[:avoid]
				a.Hash, a.HasHash = mix(uint64(i)), true
			})
			for i := range avoid {
				if got[address(i)] > 0 {
					t.Errorf("%v: host %d was chosen %d times although another one was free", p, i, got[address(i)])
				}
			}
		}
		if h := c.Pick(&PickArgs{Avoid: hosts}); h == nil {
			t.Errorf("%v: no host when all were tried", p)
		}
	}
	// A host that was described anew is still the one that was tried.
	m := newManager(t, nil)
	c := apply(t, m, static("a", 2, nil))
	tried := c.Hosts()[0]
	c = apply(t, m, static("a", 2, weighted(7, 7)))
	if c.Hosts()[0] == tried {
		t.Fatal("the description did not change")
	}
	for range 10 {
		if h := c.Pick(&PickArgs{Avoid: []*Host{tried}}); h.Same(tried) {
			t.Fatal("a tried host was chosen under its new description")
		}
	}
}

func TestHashing(t *testing.T) {
	for _, p := range []Policy{RingHash, Maglev} {
		build := func(n int, set func(*Config)) *Cluster {
			return apply(t, newManager(t, nil), static("a", n, func(c *Config) {
				c.Balance.Policy = p
				if set != nil {
					set(c)
				}
			}))
		}
		at := func(c *Cluster, i int) string {
			return c.Pick(&PickArgs{Hash: mix(uint64(i)), HasHash: true}).Facts.Address
		}
		const n = 20000
		ten, nine := build(10, nil), build(9, nil)
		moved := 0
		got := map[string]int{}
		for i := range n {
			a := at(ten, i)
			if a != at(ten, i) {
				t.Fatalf("%v: one hash, two hosts", p)
			}
			got[a]++
			if a != address(9) && a != at(nine, i) {
				moved++
			}
		}
		for i := range 10 {
			if c := got[address(i)]; c < n/10*6/10 || c > n/10*15/10 {
				t.Errorf("%v: host %d has %d of %d", p, i, c, n)
			}
		}
		// Without its tenth host, the others keep nearly all they had. The
		// ring gives the nine some more points each.
		if moved > n/12 {
			t.Errorf("%v: %d of %d moved between hosts that stayed", p, moved, n)
		}
		heavy := build(2, weighted(1, 3))
		got = map[string]int{}
		for i := range n {
			got[at(heavy, i)]++
		}
		if share := float64(got[address(1)]) / n; share < 0.68 || share > 0.82 {
			t.Errorf("%v: a host of weight 3 of 4 has %.2f", p, share)
		}
		// Without a hash any host will do.
		if got := picks(t, ten, 2000, nil); len(got) != 10 {
			t.Errorf("%v: without a hash %d hosts were chosen", p, len(got))
		}
		if ten.hosts.Load().tiers[0].table.built.Load() == nil {
			t.Errorf("%v: no table", p)
		}
		if build(3, nil).hosts.Load().tiers[0].table.built.Load() != nil {
			t.Errorf("%v: a table for a cluster without requests", p)
		}
	}
}

func TestHashTableSizes(t *testing.T) {
	for _, tc := range []struct {
		b    Balance
		want int
	}{
		{Balance{Policy: RingHash}, 1024},
		{Balance{Policy: RingHash, MinRingSize: 4096}, 4096},
		{Balance{Policy: RingHash, MinRingSize: 64, MaxRingSize: 50}, 50},
		{Balance{Policy: Maglev}, 65537},
		{Balance{Policy: Maglev, TableSize: 101}, 101},
		{Balance{Policy: Maglev, TableSize: 2}, 2},
	} {
		c := apply(t, newManager(t, nil), static("a", 4, func(c *Config) { c.Balance = tc.b }))
		c.Pick(&PickArgs{})
		if got := len(c.hosts.Load().tiers[0].table.built.Load().hosts); got != tc.want {
			t.Errorf("%+v: size %d, want %d", tc.b, got, tc.want)
		}
	}
}

func TestPickConcurrently(t *testing.T) {
	m := newManager(t, nil)
	c := apply(t, m, static("a", 5, leastRequest))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if h := c.Pick(&PickArgs{}); h == nil {
					t.Error("no host")
					return
				} else {
					h.ReportStatus(200)
				}
			}
		})
	}
	for i := range 200 {
		apply(t, m, static("a", 3+i%5, func(c *Config) { c.Balance.Policy = Policy(i % 5); c.Outlier = ejecting(50) }))
	}
	close(stop)
	wg.Wait()
}

func TestPickDoesNotAllocate(t *testing.T) {
	for _, p := range []Policy{RoundRobin, LeastRequest, Random, RingHash, Maglev} {
		for _, weights := range [][]uint32{{1, 1, 1}, {1, 2, 3}} {
			c := apply(t, newManager(t, nil), static("a", 3, func(c *Config) { c.Balance.Policy = p; weighted(weights...)(c) }))
			avoid := c.Hosts()[:1]
			a := &PickArgs{}
			if n := testing.AllocsPerRun(1000, func() {
				a.Avoid = nil
				c.Pick(a)
				a.Avoid = avoid
				c.Pick(a)
			}); n != 0 {
				t.Errorf("%v %v: %v allocations", p, weights, n)
			}
		}
	}
}

// The whole way to a connection and back.
func TestAcquireDoesNotAllocate(t *testing.T) {
	c := apply(t, newManager(t, nil), static("a", 2, leastRequest))
	run := func() {
		h := c.Pick(&PickArgs{})
		pc, err := c.Acquire(h, nil, 0, nil, http.MethodGet)
		if err != nil {
			t.Fatal(err)
		}
		c.Put(pc, true)
		h.ReportStatus(200)
	}
	for range 50 {
		run()
	}
	if n := testing.AllocsPerRun(1000, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPickAcquirePut(b *testing.B) {
	for _, tc := range []struct {
		name string
		set  func(*Config)
	}{
		{"ROUND_ROBIN", nil},
		{"LEAST_REQUEST", leastRequest},
		{"LEAST_REQUEST/weighted", func(c *Config) { leastRequest(c); weighted(1, 2)(c) }},
	} {
		b.Run(tc.name, func(b *testing.B) {
			c := apply(b, newManager(b, nil), static("a", 2, tc.set))
			b.ReportAllocs()
			for b.Loop() {
				h := c.Pick(&PickArgs{})
				pc, err := c.Acquire(h, nil, 0, nil, http.MethodGet)
				if err != nil {
					b.Fatal(err)
				}
				c.Put(pc, true)
			}
		})
	}
}

func BenchmarkPick(b *testing.B) {
	for _, p := range []Policy{RoundRobin, LeastRequest, Random, RingHash, Maglev} {
		b.Run(p.String(), func(b *testing.B) {
			c := apply(b, newManager(b, nil), static("a", 10, func(c *Config) { c.Balance.Policy = p; c.Endpoints[0].Weight = 3 }))
			a := &PickArgs{Hash: 0x123456789abcdef, HasHash: true}
			b.ReportAllocs()
			for b.Loop() {
				c.Pick(a)
			}
		})
	}
}
