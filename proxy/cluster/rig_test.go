// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"pillion/proxy/outlier"
	"pillion/proxy/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newManager returns a manager whose choices are reproducible and whose
// connections are in memory.
func newManager(t testing.TB, set func(*Options)) *Manager {
	o := Options{SweepInterval: 1000 * time.Hour, Random: func() uint64 { return 0 }, Dial: pipe, Resolver: names{}}
	if set != nil {
		set(&o)
	}
	m := NewManager(o)
	t.Cleanup(func() { closeManager(m) })
	return m
}

// closeManager closes m unless a test has done that already, which tests in
// a synctest bubble must do before they return.
func closeManager(m *Manager) {
	if m.dns.ctx.Err() == nil {
		m.Close()
	}
}

func pipe(context.Context, string, *pool.Socket) (net.Conn, error) {
	near, _ := net.Pipe()
	return near, nil
}

// static is a cluster with n hosts 10.0.0.1, 10.0.0.2 and so on.
func static(name string, n int, set func(*Config)) *Config {
	c := &Config{Name: name, Discovery: EDS, Conn: pool.Defaults(), Endpoints: []Endpoint{},
		Breakers: Breakers{MaxRequests: 1024, MaxRetries: 3}, Balance: Balance{ActiveRequestBias: 1, PanicThreshold: 50}}
	for i := range n {
		c.Endpoints = append(c.Endpoints, Endpoint{Address: address(i)})
	}
	if set != nil {
		set(c)
	}
	return c
}

func address(i int) string { return fmt.Sprintf("10.0.%d.%d:80", i/250, i%250+1) }

func weighted(weights ...uint32) func(*Config) {
	return func(c *Config) {
		for i, w := range weights {
			c.Endpoints[i].Weight = w
		}
	}
}

// apply makes cfgs the clusters of m and returns the first.
func apply(t testing.TB, m *Manager, cfgs ...*Config) *Cluster {
	t.Helper()
	if err := m.Apply(cfgs); err != nil {
		t.Fatal(err)
	}
	return m.Get(cfgs[0].Name)
}

// addrs returns the addresses of hosts.
func addrs(hosts []*Host) []string {
	out := []string{}
	for _, h := range hosts {
		out = append(out, h.Facts.Address)
	}
	return out
}

// eject reports errors until a host is out.
func eject(t testing.TB, h *Host) {
	t.Helper()
	for range 5 {
		h.ReportStatus(500)
	}
	if !h.outlier.Ejected() {
		t.Fatal("the host was not ejected")
	}
}

func ejecting(percent uint8) *outlier.Settings {
	s := outlier.Defaults()
	s.MaxEjectionPercent = percent
	return &s
}

// names is a Resolver of fixed answers; nothing is found without one.
type names map[string][]string

func (n names) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range n[host] {
		a := netip.MustParseAddr(s)
		if network == "ip" || (network == "ip4") == a.Unmap().Is4() {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return out, nil
}

// changing is a Resolver whose answers tests change.
type changing struct {
	mu      sync.Mutex
	answers names
	fail    error
	hang    bool
	asked   int
}

func (c *changing) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	c.mu.Lock()
	c.asked++
	answers, fail, hang := c.answers, c.fail, c.hang
	c.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if fail != nil {
		return nil, fail
	}
	return answers.LookupNetIP(ctx, network, host)
}

func (c *changing) set(f func(*changing)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

func (c *changing) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// pass lets virtual time go by, and all that is due then happen.
func pass(d time.Duration) {
	<-time.NewTimer(d).C
	synctest.Wait()
}
