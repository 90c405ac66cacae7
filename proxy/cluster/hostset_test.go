// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// priorities makes a cluster of hosts in priorities; of the n[i] hosts of
// priority i the first sick[i] are unhealthy.
func priorities(n, sick []int, set func(*Config)) *Config {
	return static("a", 0, func(c *Config) {
		for p := range n {
			for i := range n[p] {
				e := Endpoint{Address: fmt.Sprintf("10.0.%d.%d:80", p, i+1), Priority: uint8(p)}
				if i < sick[p] {
					e.Health = HealthUnhealthy
				}
				c.Endpoints = append(c.Endpoints, e)
			}
		}
		if set != nil {
			set(c)
		}
	})
}

// The table of Envoy's documentation of priority levels, and its panic.
func TestPrioritiesAndPanic(t *testing.T) {
	for _, tc := range []struct {
		name      string
		n, sick   []int
		threshold float64
		want      []float64 // share of the load by priority, in percent
		panicked  []bool
	}{
		{"all well", []int{10}, []int{0}, 50, []float64{100}, []bool{false}},
		{"half well", []int{10}, []int{5}, 50, []float64{100}, []bool{false}},
		{"panic", []int{10}, []int{6}, 50, []float64{100}, []bool{true}},
		{"panic is off", []int{10}, []int{9}, 0, []float64{100}, []bool{false}},
		{"100/100", []int{100, 100}, []int{0, 0}, 50, []float64{100, 0}, []bool{false, false}},
		{"72/72", []int{100, 100}, []int{28, 28}, 50, []float64{100, 0}, []bool{false, false}},
		{"71/71", []int{100, 100}, []int{29, 29}, 50, []float64{99, 1}, []bool{false, false}},
		{"50/50", []int{100, 100}, []int{50, 50}, 50, []float64{70, 30}, []bool{false, false}},
		{"25/100: the second covers for the first", []int{100, 100}, []int{75, 0}, 50, []float64{35, 65}, []bool{false, false}},
		{"25/25: both in panic", []int{100, 100}, []int{75, 75}, 50, []float64{50, 50}, []bool{true, true}},
		{"5/65: the first in panic", []int{100, 100}, []int{95, 35}, 50, []float64{7, 93}, []bool{true, false}},
		{"0/100", []int{100, 100}, []int{100, 0}, 50, []float64{0, 100}, []bool{false, false}},
		{"none well, panic by number", []int{30, 10}, []int{30, 10}, 50, []float64{75, 25}, []bool{true, true}},
		{"an empty first priority", []int{0, 10}, []int{0, 0}, 50, []float64{0, 100}, []bool{false, false}},
		{"three", []int{100, 100, 100}, []int{75, 75, 0}, 50, []float64{35, 35, 30}, []bool{false, false, false}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := apply(t, newManager(t, nil), priorities(tc.n, tc.sick, func(c *Config) { c.Balance.PanicThreshold = tc.threshold }))
			hs := c.hosts.Load()
			for i := range hs.tiers {
				if hs.tiers[i].panicked != tc.panicked[i] {
					t.Errorf("priority %d: panic is %v", i, hs.tiers[i].panicked)
				}
			}
			const n = 20000
			byPriority := make([]float64, len(tc.n))
			got := picks(t, c, n, nil)
			for _, h := range c.Hosts() {
				byPriority[h.priority] += float64(got[h.Facts.Address])
				if got[h.Facts.Address] > 0 && !h.Healthy() && !tc.panicked[h.priority] {
					t.Fatalf("%s is unhealthy and was chosen", h.Facts.Address)
				}
			}
			for i, want := range tc.want {
				share := byPriority[i] / n * 100
				if math.Abs(share-want) > 1.5 || want == 0 && share > 0 {
					t.Errorf("priority %d has %.1f %% of the load, want %.0f", i, share, want)
				}
			}
			inPanic := slices.Contains(tc.panicked, true)
			if counted := c.Stats.LbHealthyPanic.Value() > 0; counted != inPanic {
				t.Errorf("lb_healthy_panic is counted: %v", counted)
			}
		})
	}
}

func TestNobodyIsWell(t *testing.T) {
	for name, cfg := range map[string]*Config{
		"no hosts":        static("a", 0, nil),
		"all sick":        priorities([]int{3}, []int{3}, func(c *Config) { c.Balance.PanicThreshold = 0 }),
		"all sick in two": priorities([]int{3, 2}, []int{3, 2}, func(c *Config) { c.Balance.PanicThreshold = 0 }),
		// Panic doesn't make usable what can't be used.
		"unusable": static("a", 1, func(c *Config) { c.Endpoints[0].Unusable = "it wants TLS" }),
	} {
		c := apply(t, newManager(t, nil), cfg)
		if h := c.Pick(&PickArgs{}); h != nil {
			t.Errorf("%s: got %s", name, h.Facts.Address)
		}
		if c.Stats.CxNoneHealthy.Value() != 1 {
			t.Errorf("%s: upstream_cx_none_healthy = %d", name, c.Stats.CxNoneHealthy.Value())
		}
	}
}

func TestHealthStates(t *testing.T) {
	c := apply(t, newManager(t, nil), static("a", 7, func(c *Config) {
		c.Balance.PanicThreshold = 0
		for i, h := range []Health{HealthUnknown, HealthHealthy, HealthUnhealthy, HealthDraining, HealthTimeout, HealthDegraded} {
			c.Endpoints[i].Health = h
		}
		c.Endpoints[6].Unusable = "it wants TLS"
	}))
	var got []int
	for i, h := range c.Hosts() {
		if h.Healthy() {
			got = append(got, i)
		}
	}
	if !slices.Equal(got, []int{0, 1, 5}) {
		t.Errorf("healthy: %v", got)
	}
}

func TestLocalityWeights(t *testing.T) {
	near, far := &Locality{Zone: "near", Weight: 3}, &Locality{Zone: "far", Weight: 1}
	cfg := func(sickNear int) *Config {
		return static("a", 8, func(c *Config) {
			c.Balance.LocalityWeighted = true
			c.Balance.PanicThreshold = 0
			for i := range c.Endpoints {
				c.Endpoints[i].Locality = near
				if i >= 5 { // three hosts far away, one of them heavy
					c.Endpoints[i].Locality = far
				}
				if i < sickNear {
					c.Endpoints[i].Health = HealthUnhealthy
				}
			}
			c.Endpoints[7].Weight = 2
		})
	}
	const n = 20000
	m := newManager(t, nil)
	c := apply(t, m, cfg(0))
	fair(t, picks(t, c, n, nil), n, .15, .15, .15, .15, .15, .0625, .0625, .125)
	// Three of five are well: 1.4 × 60 % is 84 % of the locality's share.
	c = apply(t, m, cfg(2))
	fair(t, picks(t, c, n, nil), n, 0, 0, .84, .84, .84, .25, .25, .5)
	// A locality of weight 0 gets nothing.
	c = apply(t, m, static("a", 2, func(c *Config) {
		c.Balance.LocalityWeighted = true
		c.Endpoints[0].Locality = &Locality{Zone: "off"}
		c.Endpoints[1].Locality = far
	}))
	for _, p := range []Policy{RoundRobin, LeastRequest, Random} {
		c.config.Load().Balance.Policy = p
		if got := picks(t, c, 1000, nil); got[address(0)] > 0 {
			t.Errorf("%v: a locality of weight 0 got %d of 1000", p, got[address(0)])
		}
	}
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, nil)
		defer m.Close()
		cfg := func(n int) *Config {
			return static("a", n, func(c *Config) {
				c.Balance.SlowStart = &SlowStart{Window: 100 * time.Second, Aggression: 1, MinWeightPercent: 10}
			})
		}
		c := apply(t, m, cfg(1))
		pass(200 * time.Second)
		apply(t, m, cfg(2))
		share := func() float64 { return float64(picks(t, c, 10000, nil)[address(1)]) / 10000 }
		for _, tc := range []struct {
			at   time.Duration
			want float64
		}{
			{0, 10. / 110}, {15 * time.Second, 15. / 115}, {50 * time.Second, 50. / 150}, {100 * time.Second, .5},
		} {
			if got := share(); math.Abs(got-tc.want) > .01 {
				t.Errorf("after %v: share %.3f, want %.3f", tc.at, got, tc.want)
			}
			switch tc.at {
			case 0:
				pass(15 * time.Second)
			case 15 * time.Second:
				pass(35 * time.Second)
			case 50 * time.Second:
				pass(50 * time.Second)
			}
		}
	})
}

func TestSlowStartFactor(t *testing.T) {
	s := func(v float64) int64 { return int64(v * float64(time.Second)) }
	for _, tc := range []struct {
		slow *SlowStart
		age  int64
		want float64
	}{
		{nil, 0, 1},
		{&SlowStart{Window: 0}, 0, 1},
		{&SlowStart{Window: 10 * time.Second, Aggression: 1}, s(10), 1},
		{&SlowStart{Window: 10 * time.Second, Aggression: 1}, s(5), .5},
		{&SlowStart{Window: 10 * time.Second, Aggression: 1}, 0, .1}, // a second counts as passed
		{&SlowStart{Window: 10 * time.Second, Aggression: 1, MinWeightPercent: 30}, s(1), .3},
		{&SlowStart{Window: 100 * time.Second, Aggression: 2}, s(25), .5},
	} {
		if got := tc.slow.factor(tc.age); math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("%+v at %v: %v, want %v", tc.slow, time.Duration(tc.age), got, tc.want)
		}
	}
}
