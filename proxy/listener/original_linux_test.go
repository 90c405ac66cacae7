// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pillion/proxy/http"
	"pillion/test/need"
)

// inOwnNetwork is set in the process that runs within a network of its own.
const inOwnNetwork = "PILLION_TEST_OWN_NETWORK"

// TestRedirected: where a connection was going is learnt from a real kernel, which
// redirects as the init container of a pod has it do.
func TestRedirected(t *testing.T) {
	if os.Getenv(inOwnNetwork) == "" {
		runInOwnNetwork(t)
		return
	}
	log := slog.New(slog.DiscardHandler)
	var dispatch Dispatch
	l, err := Listen("virtualOutbound", "0.0.0.0:0", http.Outbound, log)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr())
	six, err := Listen("six", "[::]:"+port, http.Outbound, log)
	if err != nil {
		t.Fatal(err)
	}
	defer six.Close()
	both, err := Listen("both", ":0", http.Outbound, log)
	if err != nil {
		t.Fatal(err)
	}
	defer both.Close()
	_, bothPort, _ := net.SplitHostPort(both.Addr())
	service := NewUnbound("service", "10.99.0.1:80", http.Outbound, log)
	service.SetHandler(tell("service"))
	wide := NewUnbound("wide", "[::]:80", http.Outbound, log)
	wide.SetHandler(tell("wide"))
	table, err := NewTable([]*Listener{l, six, both, service, wide})
	if err != nil {
		t.Fatal(err)
	}
	dispatch.Store(table)
	for _, l := range []*Listener{l, six, both} {
		l.SetHandler(tell(l.Name()))
		l.SetOriginal(&Original{HandOff: &dispatch})
		l.Start()
	}
	for _, args := range []string{
		"ip link set lo up",
		"ip addr add 10.98.0.1/32 dev lo",
		"ip -6 addr add fd98::1/128 dev lo nodad",
		"ip route add 10.99.0.0/16 dev lo",
		"ip -6 route add fd99::/64 dev lo",
		"iptables -w -t nat -A OUTPUT -p tcp -d 10.99.1.0/24 -j REDIRECT --to-ports " + bothPort,
		"iptables -w -t nat -A OUTPUT -p tcp -d 10.99.0.0/16 -j REDIRECT --to-ports " + port,
		"ip6tables -w -t nat -A OUTPUT -p tcp -d fd99::1:0/112 -j REDIRECT --to-ports " + bothPort,
		"ip6tables -w -t nat -A OUTPUT -p tcp -d fd99::/64 -j REDIRECT --to-ports " + port,
	} {
		f := strings.Fields(args)
		if out, err := exec.Command(need.Program(t, f[0]), f[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	for to, want := range map[string]string{
		"10.99.0.1:80":      "service out 10.99.0.1:80",
		"10.99.0.2:80":      "virtualOutbound out 10.99.0.2:80",
		"10.99.0.1:81":      "virtualOutbound out 10.99.0.1:81",
		"[fd99::1]:80":      "wide out [fd99::1]:80",
		"[fd99::1]:81":      "six out [fd99::1]:81",
		"10.99.1.1:80":      "both out 10.99.1.1:80", // mapped into IPv6 on the socket
		"[fd99::1:1]:81":    "both out [fd99::1:1]:81",
		"127.0.0.1:" + port: "virtualOutbound out ",
		"[::1]:" + port:     "six out ",
	} {
		if got := read(t, to); got != want {
			t.Errorf("%s is served by %q, want %q", to, got, want)
		}
	}
}

// runInOwnNetwork runs this test in a new network namespace.
func runInOwnNetwork(t *testing.T) {
	need.Superuser(t)
	need.IPv6(t)
	for _, p := range []string{"ip", "iptables", "ip6tables"} {
		need.Program(t, p)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, need.Program(t, "unshare"), "-n", os.Args[0], "-test.run=^TestRedirected$", "-test.v")
	cmd.Env = append(os.Environ(), inOwnNetwork+"=yes")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestRedirected") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestKernelOriginalAllocates bounds what a connection costs beyond what is kept of it.
func TestKernelOriginalAllocates(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	// The one is net's handle of the socket.
	if n := testing.AllocsPerRun(100, func() { kernelOriginal(nc) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
	if a, ok := kernelOriginal(nc); ok && a.String() != ln.Addr().String() {
		t.Errorf("a connection that nobody has redirected was going to %v", a)
	}
	if _, ok := kernelOriginal(&net.UnixConn{}); ok {
		t.Error("a Unix socket was redirected")
	}
}
