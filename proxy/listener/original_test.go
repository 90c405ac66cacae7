// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"pillion/proxy/http"
	"pillion/proxy/stats"
	"pillion/test/need"
)

// tell is a handler that says its name, and what it knows of the connection.
func tell(name string) Handler {
	return handlerFunc(func(nc net.Conn, info *http.ConnInfo) {
		direction := map[http.Direction]string{http.Inbound: "in", http.Outbound: "out"}[info.Direction]
		_, _ = io.WriteString(nc, name+" "+direction+" "+info.OriginalDst)
		_ = nc.Close()
	})
}

// lookupFrom answers as the kernel would, with what the test has put there.
func lookupFrom(p *atomic.Pointer[netip.AddrPort]) func(net.Conn) (netip.AddrPort, bool) {
	return func(net.Conn) (netip.AddrPort, bool) {
		if a := p.Load(); a != nil {
			return *a, true
		}
		return netip.AddrPort{}, false
	}
}

// TestHandOff: a redirected connection is served by the listener of its address,
// then by that of every address with its port, then by the one that it came to.
// What wasn't redirected stays where it came to.
func TestHandOff(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	var dispatch Dispatch
	var dst atomic.Pointer[netip.AddrPort]
	outbound, err := Listen("virtualOutbound", "127.0.0.1:0", http.Outbound, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(outbound.Close)
	outbound.SetHandler(tell("virtualOutbound"))
	outbound.SetOriginal(&Original{HandOff: &dispatch, Lookup: lookupFrom(&dst)})
	outbound.Start()
	inbound, err := Listen("virtualInbound", "127.0.0.1:0", http.Inbound, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(inbound.Close)
	inbound.SetHandler(tell("virtualInbound"))
	// A second look must not hand a connection on again.
	inbound.SetOriginal(&Original{Lookup: lookupFrom(&dst)})
	inbound.Start()
	all := []*Listener{outbound, inbound}
	for name, addrs := range map[string][]string{
		"one": {"10.0.0.1:9080"}, "every4": {"0.0.0.0:9080"}, "every6": {"[::]:9080"}, "six": {"[fd00::1]:9080"},
		"both": {":9090"}, "two": {"10.0.0.2:7000", "[fd00::2]:7000"},
	} {
		l := NewUnbound(name, addrs[0], http.Outbound, log, addrs[1:]...)
		if l.Bound() || l.Addr() != addrs[0] {
			t.Errorf("%s: bound %t, at %s", name, l.Bound(), l.Addr())
		}
		l.SetHandler(tell(name))
		all = append(all, l)
	}
	ask := func(to *Listener, original string) string {
		dst.Store(nil)
		if original != "" {
			a := netip.MustParseAddrPort(original)
			dst.Store(&a)
		}
		return read(t, to.Addr())
	}
	if got, want := ask(outbound, "10.0.0.1:9080"), "virtualOutbound out 10.0.0.1:9080"; got != want {
		t.Errorf("without a table: %q, want %q", got, want)
	}
	table, err := NewTable(all)
	if err != nil {
		t.Fatal(err)
	}
	dispatch.Store(table)
	for _, c := range []struct {
		to         *Listener
		dst, serve string
	}{
		{outbound, "10.0.0.1:9080", "one out"},
		{outbound, "10.0.0.9:9080", "every4 out"},
		{outbound, "[fd00::1]:9080", "six out"},
		{outbound, "[fd00::9]:9080", "every6 out"},
		{outbound, "10.0.0.9:9090", "both out"},
		{outbound, "[fd00::9]:9090", "both out"},
		{outbound, "10.0.0.2:7000", "two out"},
		{outbound, "[fd00::2]:7000", "two out"},
		{outbound, "10.0.0.3:7000", "virtualOutbound out"},
		{outbound, "10.0.0.1:9081", "virtualOutbound out"},
		// As in Envoy another bound listener may be the one, and decides for itself.
		{outbound, inbound.Addr(), "virtualInbound in"},
		{outbound, "", "virtualOutbound out"},
		{outbound, outbound.Addr(), "virtualOutbound out"},
		{inbound, "10.0.0.1:9080", "virtualInbound in"},
	} {
		want := c.serve + " "
		if c.dst != c.to.Addr() {
			want += c.dst
		}
		if got := ask(c.to, c.dst); got != want {
			t.Errorf("%s, meant for %q: served by %q, want %q", c.to.Name(), c.dst, got, want)
		}
	}
}

// TestHandOffCounts: a connection counts where it is served, as in Envoy, and what
// goes wrong there is contained.
func TestHandOffCounts(t *testing.T) {
	var log lockedBuffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	a := netip.MustParseAddrPort("10.0.0.1:80")
	var dst atomic.Pointer[netip.AddrPort]
	dst.Store(&a)
	other := NewUnbound("other", "10.0.0.1:80", http.Outbound, logger)
	other.SetHandler(handlerFunc(func(net.Conn, *http.ConnInfo) { panic("defect") }))
	table, err := NewTable([]*Listener{other})
	if err != nil {
		t.Fatal(err)
	}
	var dispatch Dispatch
	dispatch.Store(table)
	l := listen(t, logger, tell("own"))
	l.SetOriginal(&Original{HandOff: &dispatch, Lookup: lookupFrom(&dst)})
	if got := read(t, l.Addr()); got != "" {
		t.Errorf("the client hears %q", got)
	}
	if n := l.cxTotal.Value(); n != 0 {
		t.Errorf("%d connections where they came to", n)
	}
	if total, defects := other.cxTotal.Value(), other.cxPanics.Value(); total != 1 || defects != 1 {
		t.Errorf("%d connections and %d defects where they are served", total, defects)
	}
	if !strings.Contains(log.String(), "listener=other") {
		t.Errorf("the log says %s", log.String())
	}
	r := stats.NewRegistry()
	r.Add(other)
	const name = "listener.10.0.0.1_80.downstream_cx_total"
	if !slices.ContainsFunc(r.List(stats.Query{}), func(m stats.Metric) bool { return m.Name == name && m.Value == 1 }) {
		t.Errorf("%s isn't 1", name)
	}
	other.Close() // has nothing to free
}

func TestTableRefusesTwo(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	one := NewUnbound("one", "10.0.0.1:80", http.Outbound, log, "10.0.0.1:80")
	if _, err := NewTable([]*Listener{one, one}); err != nil {
		t.Errorf("one address twice in one listener: %v", err)
	}
	two := NewUnbound("two", "[::ffff:10.0.0.1]:80", http.Outbound, log)
	const want = "listener two: has the address 10.0.0.1:80 of listener one; remove one of them"
	if _, err := NewTable([]*Listener{one, two}); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	named := NewUnbound("named", "localhost:80", http.Outbound, log)
	table, err := NewTable([]*Listener{one, named})
	if err != nil {
		t.Fatal(err)
	}
	if l := table.Find(netip.AddrPort{}); l != nil {
		t.Errorf("no address is that of %s", l.Name())
	}
}

// TestFamilies: a listener of one family leaves the port to that of the other.
func TestFamilies(t *testing.T) {
	need.IPv6(t)
	log := slog.New(slog.DiscardHandler)
	four, err := Listen("four", "0.0.0.0:0", http.Outbound, log)
	if err != nil {
		t.Fatal(err)
	}
	defer four.Close()
	_, port, _ := net.SplitHostPort(four.Addr())
	if four.Addr() != "0.0.0.0:"+port {
		t.Errorf("bound to %s", four.Addr())
	}
	six, err := Listen("six", "127.0.0.2:0", http.Outbound, log, "[::]:"+port)
	if err != nil {
		t.Fatal(err)
	}
	six.SetHandler(tell("six"))
	six.Start()
	defer six.Close()
	if addrs := six.Addrs(); len(addrs) != 2 || addrs[1] != "[::]:"+port {
		t.Errorf("bound to %v", addrs)
	}
	for _, to := range []string{six.Addr(), "[::1]:" + port} {
		if got := read(t, to); got != "six out " {
			t.Errorf("%s says %q", to, got)
		}
	}
	if _, err := Listen("again", "127.0.0.3:0", http.Outbound, log, "[::]:"+port); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the same address again: %v", err)
	}
}

// TestListenAfter: a listener takes the place of another one at its address, and no
// connection is lost in between.
func TestListenAfter(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	probe, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := probe.Addr().String()
	_ = probe.Close()
	old, err := Listen("old", addr, http.Outbound, log)
	if err != nil {
		t.Fatal(err)
	}
	old.SetHandler(tell("old"))
	old.Start()
	if got := read(t, addr); got != "old out " {
		t.Errorf("%q serves", got)
	}
	next, err := ListenAfter([]*Listener{old}, "next", addr, http.Inbound, log, "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if next.Addr() != addr {
		t.Errorf("at %s instead of %s", next.Addr(), addr)
	}
	old.Close()
	waiting, err := net.Dial("tcp", addr) // waits in the queue
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	next.SetHandler(tell("next"))
	next.Start()
	for _, a := range next.Addrs() {
		if got := read(t, a); got != "next in " {
			t.Errorf("%s is served by %q", a, got)
		}
	}
	if p, err := io.ReadAll(waiting); err != nil || string(p) != "next in " {
		t.Errorf("what waited hears %q, %v", p, err)
	}
	// Without the other one to share with, it is taken.
	if _, err := Listen("other", addr, http.Outbound, log); err == nil {
		t.Error("an address is bound twice")
	}
}
