// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pillion/proxy/http"
)

func original(set func(*Config)) *Config {
	return static("a", 0, func(c *Config) {
		c.Discovery = OriginalDst
		c.Endpoints = nil
		if set != nil {
			set(c)
		}
	})
}

func TestOriginalDst(t *testing.T) {
	m := newManager(t, func(o *Options) {
		o.SelfAddr = func(a netip.AddrPort) bool {
			return a.Port() == 15080 && a.Addr().IsLoopback() || a == netip.MustParseAddrPort("10.9.9.9:15001")
		}
	})
	c := apply(t, m, original(func(c *Config) { c.ServiceHost = "svc" }))
	for _, tc := range []struct {
		dst, authority string
		want           string // empty: no host
	}{
		{"10.0.0.1:80", "", "10.0.0.1:80"},
		{"10.0.0.1:80", "elsewhere:81", "10.0.0.1:80"},
		{"", "10.0.0.2:8080", "10.0.0.2:8080"},
		{"", "10.0.0.2", "10.0.0.2:80"},
		{"", "[2001:db8::1]:81", "[2001:db8::1]:81"},
		{"", "[2001:db8::1]", "[2001:db8::1]:80"},
		{"", "::ffff:10.0.0.3", ""}, // needs brackets
		{"", "[::ffff:10.0.0.3]:80", "10.0.0.3:80"},
		{"", "Example.COM", "example.com:80"},
		{"", "example.com:8443", "example.com:8443"},
		{"", "my_host.default", "my_host.default:80"},
		{"", "", ""},
		{"", ":80", ""},
		{"", "example.com:", ""},
		{"", "example.com:0", ""},
		{"", "example.com:65536", ""},
		{"", "example.com:-1", ""},
		{"", "example.com:80:81", ""},
		{"", "[10.0.0.1]:80", ""},
		{"", "[2001:db8::1", ""},
		{"", "[2001:db8::1]x", ""},
		{"", "user@example.com", ""},
		{"", "a b", ""},
		{"", "a/../b", ""},
		{"", "a\x00b", ""},
		{"", strings.Repeat("a", 254), ""},
		// Never the proxy itself, nor what stands for no single host.
		{"127.0.0.1:15080", "", ""},
		{"", "127.0.0.1:15080", ""},
		{"", "127.8.8.8:15080", ""},
		{"", "[::1]:15080", ""},
		{"", "[::ffff:127.0.0.1]:15080", ""},
		{"10.9.9.9:15001", "", ""},
		{"", "[::ffff:10.9.9.9]:15001", ""},
		{"", "0.0.0.0:8080", ""},
		{"", "[::]:8080", ""},
		{"", "224.0.0.1:80", ""},
		{"", "255.255.255.255:80", ""},
		{"", "127.0.0.1:15081", "127.0.0.1:15081"},
		{"10.9.9.9:15002", "", "10.9.9.9:15002"},
	} {
		invalid := c.Stats.OriginalDstHostInvalid.Value()
		h := c.Pick(&PickArgs{OriginalDst: tc.dst, Authority: []byte(tc.authority)})
		got := ""
		if h != nil {
			got = h.Facts.Address
			if again := c.Pick(&PickArgs{OriginalDst: tc.dst, Authority: []byte(tc.authority)}); again != h {
				t.Errorf("%q %q: another host the second time", tc.dst, tc.authority)
			}
			if h.Facts.Peer.ServiceHost != "svc" || !h.Healthy() {
				t.Errorf("%q: %+v", got, h.Facts)
			}
		}
		if got != tc.want {
			t.Errorf("dst %q, authority %q: %q, want %q", tc.dst, tc.authority, got, tc.want)
		}
		if counted := c.Stats.OriginalDstHostInvalid.Value() > invalid; counted != (tc.want == "") {
			t.Errorf("dst %q, authority %q: original_dst_host_invalid counted: %v", tc.dst, tc.authority, counted)
		}
	}
	byName := []byte("example.com:8443")
	if n := testing.AllocsPerRun(100, func() {
		c.Pick(&PickArgs{OriginalDst: "10.0.0.1:80"})
		c.Pick(&PickArgs{Authority: byName})
	}); n != 0 {
		t.Errorf("%v allocations for known hosts", n)
	}
}

// A name is resolved for each connection, and can't be used to reach the
// proxy either.
func TestOriginalDstByName(t *testing.T) {
	r := &changing{answers: names{"ok.example": {"2001:db8::9", "10.0.0.5"}, "self.example": {"10.9.9.9"}, "mixed.example": {"10.9.9.9", "10.0.0.6"},
		"zero.example": {"0.0.0.0"}}}
	m := newManager(t, func(o *Options) {
		o.Resolver = r
		o.SelfAddr = func(a netip.AddrPort) bool { return a.Addr() == netip.MustParseAddr("10.9.9.9") }
	})
	c := apply(t, m, original(nil))
	for name, want := range map[string]string{"ok.example": "", "mixed.example": "", "self.example": "self.example is this proxy itself",
		"zero.example": "zero.example is this proxy itself", "none.example": "lookup none.example: no such host"} {
		h := c.Pick(&PickArgs{Authority: []byte(name)})
		pc, err := c.Acquire(h, nil, 0, nil, http.MethodGet)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case want == "":
			c.Put(pc, true)
		case err == nil:
			t.Errorf("%s: a connection was made", name)
		case err.Kind != http.KindResolve || err.Transport != want:
			t.Errorf("%s: %+v", name, err)
		}
	}
	got, err := m.resolveOriginal(context.Background(), "ok.example", 81)
	if err != nil || !slices.Equal(got, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.5:81")}) {
		t.Errorf("resolved to %v, %v", got, err)
	}
	// The look-up is bounded by the connect timeout.
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, func(o *Options) { o.Resolver = &changing{hang: true} })
		defer m.Close()
		c := apply(t, m, original(func(c *Config) { c.Conn.ConnectTimeout = 3 * time.Second }))
		start := time.Now()
		_, err := c.Acquire(c.Pick(&PickArgs{Authority: []byte("slow.example")}), nil, 0, nil, http.MethodGet)
		if err == nil || err.Kind != http.KindConnectTimeout || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestOriginalPort(t *testing.T) {
	m := newManager(t, nil)
	c := apply(t, m, original(func(c *Config) { c.Original = &OriginalLB{Port: 9080} }))
	h := c.Pick(&PickArgs{OriginalDst: "10.0.0.1:80"})
	if h.Facts.Address != "10.0.0.1:9080" {
		t.Errorf("address %s", h.Facts.Address)
	}
	apply(t, m, original(func(c *Config) { c.Original = &OriginalLB{Port: 9081} }))
	if h := c.Pick(&PickArgs{OriginalDst: "10.0.0.1:80"}); h.Facts.Address != "10.0.0.1:9081" {
		t.Errorf("after a change: %s", h.Facts.Address)
	}
	// Another type of discovery is another cluster, in the same slot.
	slot := m.Slot("a")
	if next := apply(t, m, static("a", 1, nil)); next == c || slot.Load() != next || next.Pick(&PickArgs{}) == nil {
		t.Error("from ORIGINAL_DST to EDS")
	}
	if next := apply(t, m, original(nil)); next.Pick(&PickArgs{OriginalDst: "10.0.0.1:80"}) == nil {
		t.Error("from EDS to ORIGINAL_DST")
	}
}

func TestOriginalHostsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, nil)
		defer m.Close()
		c := apply(t, m, original(func(c *Config) { c.Original = &OriginalLB{Cleanup: 5 * time.Second} })) // less than the least
		idle := c.Pick(&PickArgs{OriginalDst: "10.0.0.1:80"})
		c.Put(acquire(t, c, idle), true)
		busy := c.Pick(&PickArgs{OriginalDst: "10.0.0.2:80"})
		pc := acquire(t, c, busy)
		used := c.Pick(&PickArgs{OriginalDst: "10.0.0.3:80"})
		pass(time.Minute)
		if len(c.Hosts()) != 3 { // the first clean-up only notes that they were used
			t.Fatalf("%d hosts after a minute", len(c.Hosts()))
		}
		c.Pick(&PickArgs{OriginalDst: "10.0.0.3:80"})
		pass(time.Minute)
		if got := c.Hosts(); len(got) != 2 || slices.Contains(got, idle) || idle.pool.Open() != 0 {
			t.Fatalf("%d hosts after two minutes, %d connections of the forgotten one", len(got), idle.pool.Open())
		}
		c.Put(pc, true)
		pass(2 * time.Minute)
		if len(c.Hosts()) != 0 || c.group.Open() != 0 {
			t.Fatalf("%d hosts, %d connections in the end", len(c.Hosts()), c.group.Open())
		}
		if again := c.Pick(&PickArgs{OriginalDst: "10.0.0.3:80"}); again == nil || again == used {
			t.Error("a forgotten host")
		}
	})
}

// Requests may name as many addresses as they like; those in use stay.
func TestOriginalHostsAreBounded(t *testing.T) {
	c := apply(t, newManager(t, nil), original(nil))
	busy := c.Pick(&PickArgs{OriginalDst: "192.0.2.1:80"})
	pc := acquire(t, c, busy)
	for i := range 3 * maxOriginal {
		if c.Pick(&PickArgs{OriginalDst: fmt.Sprintf("10.%d.%d.%d:80", i>>16, i>>8&255, i&255)}) == nil {
			t.Fatalf("no host for address %d", i)
		}
	}
	hosts := c.Hosts()
	if len(hosts) > maxOriginal || len(hosts) < maxOriginal-1 || !slices.Contains(hosts, busy) {
		t.Errorf("%d hosts, the busy one among them: %v", len(hosts), slices.Contains(hosts, busy))
	}
	c.Put(pc, true)
	// All in use: a new one is refused.
	for _, h := range c.Hosts() {
		h.pool.Stats.RqActive.Inc()
	}
	if c.Pick(&PickArgs{OriginalDst: "203.0.113.1:80"}) != nil {
		t.Error("more hosts than the bound, all busy")
	}
}

func TestOriginalConcurrently(t *testing.T) {
	c := apply(t, newManager(t, nil), original(nil))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			for range 5000 {
				dst := fmt.Sprintf("10.0.%d.%d:80", rnd.IntN(40), rnd.IntN(250))
				h := c.Pick(&PickArgs{OriginalDst: dst})
				if h == nil || h.Facts.Address != dst {
					t.Errorf("%s: %v", dst, h)
					return
				}
				if rnd.IntN(100) == 0 {
					pc, err := c.Acquire(h, nil, 0, nil, http.MethodGet)
					if err != nil {
						t.Error(err)
						return
					}
					c.Put(pc, true)
				}
				if rnd.IntN(500) == 0 {
					c.original.sweep(c)
				}
			}
		})
	}
	wg.Wait()
	c.original.mu.Lock()
	count := c.original.count
	c.original.mu.Unlock()
	if got := len(c.Hosts()); got != count || got > maxOriginal {
		t.Errorf("%d hosts, counted %d", got, count)
	}
}

func FuzzSplitAuthority(f *testing.F) {
	for _, s := range []string{"a", "a:80", "[::1]:80", "[::1]", "A.b:65535", ":", "[", "]", "[]:1", "a:+1", "1.2.3.4:5", "a:00080", "x:\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, ok := splitAuthority(s)
		if !ok {
			return
		}
		if host == "" || port == 0 || strings.ToLower(host) != host || strings.ContainsAny(host, " /@\x00[]") {
			t.Errorf("%q gave host %q, port %d", s, host, port)
		}
		if ip, err := netip.ParseAddr(host); strings.Contains(host, ":") && (err != nil || !ip.Is6()) {
			t.Errorf("%q gave host %q, which is neither a name nor an address", s, host)
		}
	})
}
