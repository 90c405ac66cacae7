// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/pool"
)

func byName(d Discovery, names ...string) *Config {
	return static("a", 0, func(c *Config) {
		c.Discovery = d
		c.DNS = &DNS{Family: FamilyV4Only, Refresh: time.Minute, FailureBase: 5 * time.Second, FailureMax: 40 * time.Second}
		for _, n := range names {
			c.Endpoints = append(c.Endpoints, Endpoint{Address: n})
		}
	})
}

// dnsRig runs f in a bubble with a manager that resolves by r.
func dnsRig(t *testing.T, r *changing, f func(t *testing.T, m *Manager)) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, func(o *Options) { o.Resolver = r })
		defer m.Close()
		f(t, m)
	})
}

func wantHosts(t *testing.T, c *Cluster, want ...string) {
	t.Helper()
	if got := addrs(c.Hosts()); !slices.Equal(got, append([]string{}, want...)) {
		t.Fatalf("hosts %v, want %v", got, want)
	}
}

func TestStrictDNS(t *testing.T) {
	r := &changing{answers: names{"one.example": {"10.0.0.2", "10.0.0.1", "10.0.0.1"}, "two.example": {"10.0.1.1"}}}
	dnsRig(t, r, func(t *testing.T, m *Manager) {
		c := apply(t, m, byName(StrictDNS, "one.example:80", "two.example:81", "192.0.2.9:82", "[2001:db8::1]:83"))
		if err := m.Warm(context.Background()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantHosts(t, c, "10.0.0.1:80", "10.0.0.2:80", "10.0.1.1:81", "192.0.2.9:82", "[2001:db8::1]:83")
		first := c.Hosts()[0]
		if first.hostname != "one.example" {
			t.Errorf("hostname %q", first.hostname)
		}
		pc := acquire(t, c, first)
		c.Put(pc, true)

		// An answer with another address: hosts that stay keep all.
		r.set(func(r *changing) {
			r.answers = names{"one.example": {"10.0.0.1", "10.0.0.3"}, "two.example": {"10.0.1.1"}}
		})
		pass(64 * time.Second)
		wantHosts(t, c, "10.0.0.1:80", "10.0.0.3:80", "10.0.1.1:81", "192.0.2.9:82", "[2001:db8::1]:83")
		if c.Hosts()[0] != first || acquire(t, c, first) != pc {
			t.Fatal("a host that stayed lost its connection")
		}
		// Servers fail: the last good answer stays, for hours.
		r.set(func(r *changing) { r.fail = errors.New("server misbehaving") })
		pass(5 * time.Hour)
		wantHosts(t, c, "10.0.0.1:80", "10.0.0.3:80", "10.0.1.1:81", "192.0.2.9:82", "[2001:db8::1]:83")
		if c.Stats.UpdateFailure.Value() < 100 || c.Stats.UpdateSuccess.Value() < 4 || c.Stats.UpdateNoRebuild.Value() < 1 {
			t.Errorf("counters: %d failures, %d successes", c.Stats.UpdateFailure.Value(), c.Stats.UpdateSuccess.Value())
		}
		// They work again and don't know a name: at first nothing happens.
		r.set(func(r *changing) { r.fail = nil; r.answers = names{"two.example": {"10.0.1.2"}} })
		pass(45 * time.Second)
		wantHosts(t, c, "10.0.0.1:80", "10.0.0.3:80", "10.0.1.2:81", "192.0.2.9:82", "[2001:db8::1]:83")
		pass(3 * time.Minute)
		wantHosts(t, c, "10.0.1.2:81", "192.0.2.9:82", "[2001:db8::1]:83")
	})
}

func TestDNSSchedule(t *testing.T) {
	r := &changing{answers: names{"one.example": {"10.0.0.1"}}}
	dnsRig(t, r, func(t *testing.T, m *Manager) {
		apply(t, m, byName(StrictDNS, "one.example:80"))
		synctest.Wait()
		asked := func(in time.Duration) int {
			n := r.count()
			pass(in)
			return r.count() - n
		}
		if got := asked(10*time.Minute - time.Second); got != 9 { // each minute, plus up to 5 %
			t.Errorf("asked %d times in 10 minutes", got)
		}
		r.set(func(r *changing) { r.fail = errors.New("server misbehaving") })
		// At the next look-up it begins: after 5, 10, 20, 40, 40… seconds.
		for r.count() == 10 {
			pass(time.Second)
		}
		if got := asked(36 * time.Second); got != 2 && got != 3 {
			t.Errorf("asked %d times in the first 36 s of failure", got)
		}
		if got := asked(10 * time.Minute); got < 14 || got > 18 {
			t.Errorf("asked %d times in 10 minutes of failure", got)
		}
	})
}

// A resolver that hangs holds up nobody: not Apply, not other names, and not
// the end of the manager.
func TestHangingResolver(t *testing.T) {
	r := &changing{hang: true}
	dnsRig(t, r, func(t *testing.T, m *Manager) {
		start := time.Now()
		var cfgs []*Config
		for _, n := range []string{"b", "c", "d"} {
			cfg := byName(StrictDNS, n+".example:80")
			cfg.Name = n
			cfgs = append(cfgs, cfg)
		}
		cfgs[0].Endpoints = append(cfgs[0].Endpoints, Endpoint{Address: "192.0.2.9:82"})
		c := apply(t, m, append([]*Config{static("a", 1, nil)}, cfgs...)...)
		wantHosts(t, m.Get("b"), "192.0.2.9:82") // what needs no look-up is there
		if c.Pick(&PickArgs{}) == nil || m.Get("c").Pick(&PickArgs{}) != nil {
			t.Error("picks while the resolver hangs")
		}
		ctx, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		if err := m.Warm(ctx); err == nil || !strings.Contains(err.Error(), ".example") {
			t.Errorf("warm: %v", err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %v", took)
		}
		pass(lookupTimeout)
		if err := m.Warm(context.Background()); err != nil { // tried once, in vain
			t.Errorf("warm: %v", err)
		}
	})
}

// Clusters that have a name in common look it up once, and a name that
// nobody has any more not at all.
func TestNamesAreShared(t *testing.T) {
	r := &changing{answers: names{"one.example": {"10.0.0.1"}}}
	dnsRig(t, r, func(t *testing.T, m *Manager) {
		var cfgs []*Config
		for _, n := range []string{"a", "b", "c"} {
			cfg := byName(StrictDNS, "one.example:80", "one.example:81")
			cfg.Name = n
			cfgs = append(cfgs, cfg)
		}
		apply(t, m, cfgs...)
		synctest.Wait()
		if r.count() != 1 {
			t.Errorf("asked %d times", r.count())
		}
		for _, c := range m.Clusters() {
			wantHosts(t, c, "10.0.0.1:80", "10.0.0.1:81")
		}
		// A new cluster has the known answer at once, a changed one keeps it.
		d := byName(StrictDNS, "one.example:90")
		d.Name = "d"
		c := apply(t, m, d)
		wantHosts(t, c, "10.0.0.1:90")
		apply(t, m, static("e", 1, nil))
		n := r.count()
		pass(time.Hour)
		if r.count() != n || len(m.dns.names) != 0 {
			t.Errorf("a forgotten name was asked for %d times", r.count()-n)
		}
	})
}

// A mesh of many names doesn't ask for all at once.
func TestLookupsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slow{}
		m := newManager(t, func(o *Options) { o.Resolver = r })
		defer m.Close()
		cfg := byName(StrictDNS)
		for i := range 200 {
			cfg.Endpoints = append(cfg.Endpoints, Endpoint{Address: fmt.Sprintf("n%d.example:80", i)})
		}
		c := apply(t, m, cfg)
		if err := m.Warm(context.Background()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(c.Hosts()) != 200 || r.most.Load() != maxLookups {
			t.Errorf("%d hosts, %d look-ups at once", len(c.Hosts()), r.most.Load())
		}
	})
}

// slow answers each name after a second.
type slow struct{ now, most, next atomic.Int32 }

func (s *slow) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	if n := s.now.Add(1); n > s.most.Load() {
		s.most.Store(n)
	}
	<-time.NewTimer(time.Second).C
	s.now.Add(-1)
	return []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(s.next.Add(1))})}, nil
}

func TestFamilies(t *testing.T) {
	both := names{"x": {"2001:db8::1", "10.0.0.1", "::ffff:10.0.0.2"}}
	v4, v6 := names{"x": {"10.0.0.1"}}, names{"x": {"2001:db8::1"}}
	for _, tc := range []struct {
		family Family
		r      names
		want   string
	}{
		{FamilyAuto, both, "2001:db8::1"}, {FamilyAuto, v4, "10.0.0.1"}, {FamilyAuto, v6, "2001:db8::1"},
		{FamilyV4Only, both, "10.0.0.1 10.0.0.2"}, {FamilyV4Only, v6, ""},
		{FamilyV6Only, both, "2001:db8::1"}, {FamilyV6Only, v4, ""},
		{FamilyV4Preferred, both, "10.0.0.1 10.0.0.2"}, {FamilyV4Preferred, v6, "2001:db8::1"},
		{FamilyAll, both, "10.0.0.1 10.0.0.2 2001:db8::1"},
	} {
		got, err := resolve(context.Background(), tc.r, "x", tc.family)
		var s []string
		for _, a := range got {
			s = append(s, a.String())
		}
		if strings.Join(s, " ") != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("family %d of %v: %v, %v; want %s", tc.family, tc.r, s, err, tc.want)
		}
	}
}

func TestLogicalDNS(t *testing.T) {
	r := &changing{answers: names{"one.example": {"10.0.0.2", "10.0.0.1"}}}
	synctest.Test(t, func(t *testing.T) {
		var dialed []string
		m := newManager(t, func(o *Options) {
			o.Resolver = r
			o.Dial = func(ctx context.Context, a string, s *pool.Socket) (net.Conn, error) {
				dialed = append(dialed, a)
				return pipe(ctx, a, s)
			}
		})
		defer m.Close()
		c := apply(t, m, byName(LogicalDNS, "one.example:80"))
		synctest.Wait()
		wantHosts(t, c, "10.0.0.1:80") // one host, whatever the number of addresses
		h := c.Hosts()[0]
		pc := acquire(t, c, h)
		r.set(func(r *changing) { r.answers = names{"one.example": {"10.0.0.9"}} })
		pass(64 * time.Second)
		wantHosts(t, c, "10.0.0.9:80")
		if !c.Hosts()[0].Same(h) || h.hostname != "one.example" {
			t.Error("a new address made a new host")
		}
		c.Put(pc, true)
		if acquire(t, c, c.Hosts()[0]) != pc {
			t.Error("the open connection was not kept")
		}
		c.Put(acquire(t, c, c.Hosts()[0]), true)
		if !slices.Equal(dialed, []string{"10.0.0.1:80", "10.0.0.9:80"}) {
			t.Errorf("dialed %v", dialed)
		}
		// Another name is another host.
		r.set(func(r *changing) { r.answers = names{"two.example": {"10.0.0.9"}} })
		apply(t, m, byName(LogicalDNS, "two.example:80"))
		synctest.Wait()
		if c.Hosts()[0].Same(h) {
			t.Error("another name has the connections of the first")
		}
		// As an address, it is not the logical host.
		logical := c.Hosts()[0]
		apply(t, m, static("a", 0, func(c *Config) { c.Endpoints = []Endpoint{{Address: "10.0.0.9:80"}} }))
		if got := c.Hosts()[0]; got.Same(logical) {
			t.Error("an address has the state of a name")
		}
	})
}

func TestLogicalDNSOfARemovedCluster(t *testing.T) {
	r := &changing{answers: names{"one.example": {"10.0.0.1"}}}
	dnsRig(t, r, func(t *testing.T, m *Manager) {
		c := apply(t, m, byName(LogicalDNS, "one.example:80"))
		synctest.Wait()
		apply(t, m, static("b", 1, nil))
		h := c.Pick(&PickArgs{})
		pc, err := c.Acquire(h, nil, 0, nil, http.MethodGet)
		if err != nil {
			t.Fatalf("a request on its way: %v", err)
		}
		c.Put(pc, true)
	})
}

func TestNotFound(t *testing.T) {
	if notFound(errors.New("x")) || !notFound(nil) || !notFound(&net.DNSError{IsNotFound: true}) || notFound(&net.DNSError{IsTimeout: true}) {
		t.Error("notFound")
	}
	if _, err := resolve(context.Background(), &changing{fail: errors.New("boom")}, "x", FamilyAll); err == nil {
		t.Error("no error")
	}
}
