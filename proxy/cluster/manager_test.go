// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/pool"
)

func hashed(c *Config, h byte) *Config {
	c.Hash = [16]byte{h}
	return c
}

// acquire gets a connection to a host or fails the test.
func acquire(t testing.TB, c *Cluster, h *Host) *pool.Conn {
	t.Helper()
	pc, err := c.Acquire(h, nil, 0, nil, http.MethodGet)
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

func TestApply(t *testing.T) {
	m := newManager(t, nil)
	slot := m.Slot("a")
	if slot.Name() != "a" || slot.Load() != nil {
		t.Fatal("a cluster before any was applied")
	}
	a := apply(t, m, hashed(static("a", 2, nil), 1), static("b", 1, nil))
	if slot.Load() != a || m.Slot("a") != slot || m.Slot("b").Load().Name() != "b" {
		t.Fatal("the slot was not filled")
	}
	if got := m.Clusters(); len(got) != 2 || got[0] != a {
		t.Fatalf("clusters: %v", got)
	}
	hosts := a.Hosts()
	pc := acquire(t, a, hosts[0])
	a.Put(pc, true)

	// The same hash: nothing is touched, whatever else the configuration says.
	apply(t, m, hashed(static("a", 5, nil), 1), static("b", 1, nil))
	if !slices.Equal(a.Hosts(), hosts) || m.counts.modified.Value() != 1 { // b has no hash
		t.Fatal("an equal configuration was applied")
	}
	// Another one: the same cluster, the same hosts, the same connections.
	changed := hashed(static("a", 3, func(c *Config) { c.Breakers.MaxRequests = 7; c.Conn.MaxRequestsPerConnection = 9 }), 2)
	if apply(t, m, changed, static("b", 1, nil)) != a {
		t.Fatal("a changed configuration made another cluster")
	}
	if got := a.Hosts(); len(got) != 3 || got[0] != hosts[0] || got[1] != hosts[1] {
		t.Fatal("hosts were not kept")
	}
	if again := acquire(t, a, a.Hosts()[0]); again != pc {
		t.Fatal("the connection was not kept")
	} else {
		a.Put(again, true)
	}
	if a.Config().Breakers.MaxRequests != 7 || a.group.Settings().MaxRequestsPerConnection != 9 {
		t.Error("the new settings do not act")
	}
	// Gone: the slot is empty, and what was idle is closed.
	busy := acquire(t, a, hosts[1])
	apply(t, m, static("b", 1, nil))
	if slot.Load() != nil || m.Get("a") != nil || a.group.Open() != 1 {
		t.Fatalf("after removal: slot %v, open %d", slot.Load(), a.group.Open())
	}
	// A request that still has the cluster is finished, and may even retry.
	a.Put(busy, true)
	h := a.Pick(&PickArgs{})
	if h == nil {
		t.Fatal("a drained cluster has no hosts for those who have it")
	}
	a.Put(acquire(t, a, h), true)
	if a.group.Open() != 0 {
		t.Errorf("%d connections outlive the removal", a.group.Open())
	}
	// Back again: a new cluster in the old slot.
	back := apply(t, m, static("a", 2, nil), static("b", 1, nil))
	if slot.Load() != back || back == a {
		t.Error("the slot was not filled again")
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	m := newManager(t, nil)
	apply(t, m, static("a", 1, nil))
	for name, bad := range map[string]*Config{
		"nil":                       nil,
		"a cluster has no name":     static("", 1, nil),
		`"b" is there twice`:        static("b", 1, nil),
		"10.0.0.1 is neither ip":    static("c", 1, func(c *Config) { c.Endpoints[0].Address = "10.0.0.1 is neither ip" }),
		`"localhost:80" is neither`: static("c", 1, func(c *Config) { c.Endpoints[0].Address = "localhost:80" }),
		`"10.0.0.1:0" is neither`:   static("c", 1, func(c *Config) { c.Endpoints[0].Address = "10.0.0.1:0" }),
		`"name" is not name:port`:   static("c", 1, func(c *Config) { c.Discovery = StrictDNS; c.Endpoints[0].Address = "name" }),
		`"a:70000" is not`:          static("c", 1, func(c *Config) { c.Discovery = LogicalDNS; c.Endpoints[0].Address = "a:70000" }),
		"and 100 is not":            static("c", 1, func(c *Config) { c.Balance.Policy = Maglev; c.Balance.TableSize = 100 }),
	} {
		err := m.Apply([]*Config{static("b", 1, nil), bad})
		if err == nil || bad != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if got := m.Clusters(); len(got) != 1 || got[0].Name() != "a" {
			t.Fatalf("%s: a refused set was applied in part", name)
		}
	}
	ok := static("c", 2, func(c *Config) { c.Endpoints[0].Address, c.Endpoints[1].Address = "/run/x.sock", "@abstract" })
	if err := m.Apply([]*Config{ok}); err != nil {
		t.Errorf("Unix sockets: %v", err)
	}
}

func TestUpdateByName(t *testing.T) {
	m := newManager(t, nil)
	apply(t, m, static("a", 1, nil), static("b", 1, nil))
	if err := m.Update([]*Config{static("c", 1, nil)}, []string{"a", "unknown"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range m.Clusters() {
		got = append(got, c.Name())
	}
	if !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("clusters: %v", got)
	}
	if err := m.Update([]*Config{{}}, []string{"b"}); err == nil || m.Get("b") == nil {
		t.Errorf("a refused update: %v", err)
	}
}

func TestSlotsAreForgotten(t *testing.T) {
	m := newManager(t, nil)
	kept := m.Slot("kept")
	for i := range 100 {
		m.Slot(fmt.Sprint(i))
	}
	runtime.GC()
	apply(t, m, static("a", 1, nil))
	m.mu.Lock()
	n := len(m.slots)
	m.mu.Unlock()
	if n > 50 { // the collector may be late with some
		t.Errorf("%d slots are kept", n)
	}
	if m.Slot("kept") != kept {
		t.Error("a slot in use was forgotten")
	}
	runtime.KeepAlive(kept)
}

func TestSetEndpoints(t *testing.T) {
	m := newManager(t, nil)
	eds := static("a", 0, nil)
	eds.Endpoints = nil
	c := apply(t, m, eds)
	eps := []Endpoint{{Address: "10.0.0.1:80", Peer: http.Peer{Workload: "w1", Namespace: "n"}}, {Address: "10.0.0.2:80"}}
	m.SetEndpoints("unknown", eps)
	m.SetEndpoints("a", eps)
	hosts := c.Hosts()
	if !slices.Equal(addrs(hosts), []string{"10.0.0.1:80", "10.0.0.2:80"}) {
		t.Fatalf("hosts: %v", addrs(hosts))
	}
	pc := acquire(t, c, hosts[0])
	c.Put(pc, true)

	// A change of the cluster alone keeps the endpoints and renews what they
	// have from it.
	eds2 := *eds
	eds2.ServiceHost = "svc"
	apply(t, m, &eds2)
	if got := c.Hosts(); !got[0].Same(hosts[0]) || got[0].Facts.Peer.ServiceHost != "svc" || got[0].Facts.Peer.Workload != "w1" {
		t.Fatalf("hosts after a change of the cluster: %+v", got[0].Facts)
	}
	// Weight, health and labels are descriptions: the connections stay.
	m.SetEndpoints("a", []Endpoint{{Address: "10.0.0.1:80", Weight: 5, Health: HealthDraining,
		Peer: http.Peer{Workload: "w1", Namespace: "n", Version: "v2"}}, {Address: "10.0.0.2:80"}})
	if h := c.Hosts()[0]; !h.Same(hosts[0]) || h.Healthy() || h.weight != 5 || h.Facts.Peer.Version != "v2" {
		t.Fatalf("described anew: %+v", h)
	}
	if changes := c.Stats.MembershipChange.Value(); changes != 1 {
		t.Errorf("membership_change = %d, want 1", changes)
	}
	// The address was given to another workload: a new host.
	m.SetEndpoints("a", []Endpoint{{Address: "10.0.0.1:80", Peer: http.Peer{Workload: "w2", Namespace: "n"}}, {Address: "10.0.0.2:80"}})
	if h := c.Hosts()[0]; h.Same(hosts[0]) || h.pool.Open() != 0 || hosts[0].pool.Open() != 0 {
		t.Fatal("another workload inherited the connections")
	}
	// Twice the same address is one host; many are found as well.
	eps = nil
	for i := range 300 {
		eps = append(eps, Endpoint{Address: address(i)}, Endpoint{Address: address(i), Weight: 9})
	}
	m.SetEndpoints("a", eps)
	if got := c.Hosts(); len(got) != 300 || got[7].weight != 1 {
		t.Errorf("%d hosts", len(got))
	}
	all := c.Hosts()
	m.SetEndpoints("a", eps[2:])
	if got := c.Hosts(); len(got) != 299 || got[0] != all[1] {
		t.Errorf("%d hosts after one left", len(got))
	}
	m.SetEndpoints("a", nil)
	if len(c.Hosts()) != 0 || c.Pick(&PickArgs{}) != nil || c.Stats.UpdateEmpty.Value() != 1 {
		t.Error("hosts of an empty assignment")
	}
}

// The reference mesh: two hosts, one fails, through the cluster's own calls.
func TestOutlierStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, nil)
		defer m.Close()
		cfg := func(set func(*Config)) *Config {
			return static("reviews", 2, func(c *Config) {
				c.Outlier = ejecting(50)
				c.Balance.PanicThreshold = 0
				if set != nil {
					set(c)
				}
			})
		}
		c := apply(t, m, cfg(nil))
		bad, good := c.Hosts()[0], c.Hosts()[1]
		only := func(h *Host) {
			t.Helper()
			for range 20 {
				if got := c.Pick(&PickArgs{}); !got.Same(h) {
					t.Fatalf("chosen: %s", got.Facts.Address)
				}
			}
		}
		for range 4 {
			bad.ReportStatus(500)
		}
		bad.ReportFailure(http.KindClientGone) // not the host's fault
		if got := picks(t, c, 100, nil); got[address(0)] != 50 {
			t.Fatalf("before the fifth error: %v", got)
		}
		bad.ReportStatus(500)
		only(good)
		for range 10 {
			good.ReportStatus(503)
			good.ReportFailure(http.KindConnectFailure)
		}
		only(good) // never more than 50 %

		st := c.Status()
		if h := st.Hosts[0]; !h.Outlier.Ejected || h.Healthy || h.Outlier.Remaining != 30*time.Second || h.RqError != 5 {
			t.Errorf("status of the ejected host: %+v", h)
		}
		if all, healthy := c.membership(); all != 2 || healthy != 1 {
			t.Errorf("membership %d, healthy %d", all, healthy)
		}
		// Ejections outlive updates of the cluster and of its endpoints.
		pass(10 * time.Second)
		apply(t, m, cfg(func(c *Config) { c.Breakers.MaxRequests = 5 }))
		only(good)
		m.SetEndpoints("reviews", []Endpoint{{Address: address(1)}, {Address: address(0), Weight: 3}})
		only(good)
		pass(20*time.Second - 1)
		only(good)
		pass(1)
		if got := picks(t, c, 100, nil); got[address(0)] == 0 {
			t.Fatalf("after 30 s: %v", got)
		}
		for range 5 {
			bad.ReportFailure(http.KindTimeout)
		}
		if st := c.Status(); st.Hosts[1].Outlier.Remaining != time.Minute || st.Hosts[1].RqTimeout != 5 {
			t.Fatalf("second ejection: %+v", st.Hosts[1])
		}
		// minHealthPercent: with too few healthy ones, all are used.
		apply(t, m, cfg(func(c *Config) { c.Outlier = ejecting(50); c.Balance.PanicThreshold = 60 }))
		if got := picks(t, c, 100, nil); got[address(0)] != 50 {
			t.Fatalf("in panic: %v", got)
		}
		// Turned off.
		apply(t, m, cfg(func(c *Config) { c.Outlier = nil }))
		if st := c.Status(); st.Outlier || !st.Hosts[0].Healthy {
			t.Errorf("without outlier detection: %+v", st.Hosts[0])
		}
	})
}

func TestFailuresByKind(t *testing.T) {
	counts := map[http.Kind]bool{
		http.KindConnectFailure: true, http.KindConnectTimeout: true, http.KindReset: true, http.KindRefused: true,
		http.KindTimeout: true, http.KindPoolReset: true, http.KindUpstreamProtocol: true, http.KindResolve: true,
		http.KindIdleTimeout: true, http.KindMaxDuration: true,
	}
	for kind := http.KindNone; kind <= http.KindUpstreamProtocol; kind++ {
		c := apply(t, newManager(t, nil), static("a", 2, func(c *Config) { c.Outlier = ejecting(50) }))
		h := c.Hosts()[0]
		for range 5 {
			h.ReportFailure(kind)
		}
		if h.outlier.Ejected() != counts[kind] || (h.Stats.RqError.Value() == 5) != counts[kind] {
			t.Errorf("kind %d: ejected %v, rq_error %d", kind, h.outlier.Ejected(), h.Stats.RqError.Value())
		}
	}
}

func TestBreakers(t *testing.T) {
	m := newManager(t, nil)
	c := apply(t, m, static("a", 1, func(c *Config) { c.Breakers = Breakers{MaxRequests: 2, MaxRetries: 1} }))
	for i := range 3 {
		if got := c.AdmitRequest(); got != (i < 2) {
			t.Errorf("max_requests 2: request %d is admitted: %v", i, got)
		}
	}
	c.ReleaseRequest()
	if !c.AdmitRequest() {
		t.Error("a released request is not free")
	}
	if !c.AdmitRetry() || c.AdmitRetry() {
		t.Error("max_retries 1")
	}
	if c.Stats.RqActiveOverflow.Value() != 1 || c.Stats.RqRetryOverflow.Value() != 1 {
		t.Errorf("overflows: %d, %d", c.Stats.RqActiveOverflow.Value(), c.Stats.RqRetryOverflow.Value())
	}
	c.ReleaseRetry()
	// A budget of 20 % of the active requests, but at least 3.
	apply(t, m, static("a", 1, func(c *Config) {
		c.Breakers = Breakers{MaxRequests: pool.NoLimit, MaxRetries: 1, RetryBudget: &RetryBudget{Percent: 20, MinConcurrency: 3}}
	}))
	retries := func() (n int) {
		for c.AdmitRetry() {
			n++
		}
		for range n {
			c.ReleaseRetry()
		}
		return n
	}
	if got := retries(); got != 3 {
		t.Errorf("with 2 active requests the budget allows %d", got)
	}
	for range 98 {
		c.AdmitRequest()
	}
	if got := retries(); got != 20 {
		t.Errorf("with 100 active requests the budget allows %d", got)
	}
}

// What a cluster with one endpoint costs, and how long many take. The bounds
// are those of the design.
func TestManyClusters(t *testing.T) {
	const n = 5000
	cfgs := func(conns uint32) []*Config {
		out := make([]*Config, n)
		for i := range out {
			name := fmt.Sprintf("outbound|9080|v1|service-%d.default.svc.cluster.local", i)
			out[i] = &Config{Name: name, Hash: [16]byte{byte(i), byte(i >> 8), byte(conns)}, Discovery: EDS, Conn: pool.Defaults(),
				Breakers: Breakers{MaxRequests: 1024, MaxRetries: 3}, Outlier: ejecting(50), ServiceHost: name[16:], ServiceName: name[16:],
				Endpoints: []Endpoint{{Address: address(i), Peer: http.Peer{Workload: "w", Namespace: "default"}}}}
			out[i].Conn.MaxConnections = conns
		}
		return out
	}
	m := newManager(t, nil)
	heap := func() uint64 {
		runtime.GC()
		var st runtime.MemStats
		runtime.ReadMemStats(&st)
		return st.HeapAlloc
	}
	first, second := cfgs(100), cfgs(200)
	before := heap()
	start := time.Now()
	apply(t, m, first...)
	added := time.Since(start)
	used := (heap() - before) / n
	// The caller's configurations go when it drops them; a copy without the
	// endpoints is the cluster's own and counted already.
	start = time.Now()
	apply(t, m, second...)
	changed := time.Since(start)
	start = time.Now()
	apply(t, m, second...)
	equal := time.Since(start)
	t.Logf("%d bytes per cluster; %d clusters added in %v, changed in %v, equal in %v", used, n, added, changed, equal)
	if used > 3<<10 {
		t.Errorf("a cluster takes %d bytes, more than 3 KiB", used)
	}
	if !raceEnabled && added > time.Second {
		t.Errorf("%d clusters took %v", n, added)
	}
	runtime.KeepAlive(first)
	runtime.KeepAlive(second)
}

func BenchmarkApply(b *testing.B) {
	cfgs := make([]*Config, 5000)
	for i := range cfgs {
		cfgs[i] = static(fmt.Sprintf("outbound|9080||service-%d.default.svc.cluster.local", i), 1, nil)
	}
	for b.Loop() {
		m := NewManager(Options{})
		if err := m.Apply(cfgs); err != nil {
			b.Fatal(err)
		}
		m.Close()
	}
}
