// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pillion/test/rig"
)

// originalDst is where a connection that iptables redirected was going.
// The kernel's struct sockaddr_in lies in the first 16 bytes.
func originalDst(t *testing.T, c net.Conn) netip.AddrPort {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var dst netip.AddrPort
	var failed error
	err = raw.Control(func(fd uintptr) {
		// An IPv6 mreq has room for a sockaddr_in: 20 bytes.
		got, err := unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, unix.SO_ORIGINAL_DST)
		if failed = err; err == nil {
			b := got.Multiaddr
			dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
		}
	})
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return dst
}

// gate is a listener that tells of every connection and answers with its name.
type gate struct {
	name string
	took chan net.Conn
}

func newGate(t *testing.T, p *Pod, name, addr string) *gate {
	t.Helper()
	ln, err := p.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{name, make(chan net.Conn, 16)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := nethttp.ReadRequest(bufio.NewReader(c)); err != nil {
				_ = c.Close() // it was no request of Get
				continue
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(name), name)
			g.took <- c
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return g
}

// next returns the next connection.
func (g *gate) next(t *testing.T) net.Conn {
	t.Helper()
	select {
	case c := <-g.took:
		t.Cleanup(func() { _ = c.Close() })
		return c
	case <-time.After(rig.Patience):
		t.Fatalf("no connection came to %s", g.name)
		return nil
	}
}

// TestPodNetwork: Istio's own rules send a pod's connections where a sidecar
// waits for them, and SO_ORIGINAL_DST tells where they were going.
func TestPodNetwork(t *testing.T) {
	t.Parallel()
	n := StartNetwork(t, BookinfoPods())
	app := BuildApp(t)
	web, reviews, legacy := n.Pod("productpage-v1"), n.Pod("reviews-v1"), n.Pod("legacy")
	out := newGate(t, web, "outbound", ":15001")
	in := newGate(t, reviews, "inbound", ":15006")
	status := newGate(t, reviews, "status", ":15021")
	origin := newGate(t, reviews, "application", ":9080")

	for _, tc := range []struct {
		name      string
		from      *Pod
		uid       uint32
		to        string
		gate      *gate
		wantFrom  string // the address that the connection came from
		wantGoing string // "" where it wasn't redirected
	}{
		{"an application to a service", web, 0, "10.96.0.11:9080", out, "10.244.0.10", "10.96.0.11:9080"},
		{"an application to a pod", web, 0, "10.244.0.11:9080", out, "10.244.0.10", "10.244.0.11:9080"},
		{"a sidecar to a pod with one", web, ProxyUID, "10.244.0.11:9080", in, "10.244.0.10", "10.244.0.11:9080"},
		{"a pod without a sidecar to one", legacy, 0, "10.244.0.11:9080", in, "10.244.0.20", "10.244.0.11:9080"},
		{"to a port that is left out", legacy, 0, "10.244.0.11:15021", status, "10.244.0.20", ""},
		{"within the pod", reviews, 0, "127.0.0.1:9080", origin, "127.0.0.1", ""},
		{"a sidecar to its application", reviews, ProxyUID, "127.0.0.1:9080", origin, "127.0.0.1", ""},
	} {
		code, body, err := tc.from.Get(app, tc.uid, "http://"+tc.to+"/", "")
		if err != nil || code != 200 || body != tc.gate.name {
			t.Errorf("%s: %d %q %v, not %s", tc.name, code, body, err, tc.gate.name)
			continue
		}
		c := tc.gate.next(t)
		if host, _, _ := net.SplitHostPort(c.RemoteAddr().String()); host != tc.wantFrom {
			t.Errorf("%s: from %s, not %s", tc.name, host, tc.wantFrom)
		}
		if tc.wantGoing != "" {
			if got := originalDst(t, c); got.String() != tc.wantGoing {
				t.Errorf("%s: it was going to %s, not %s", tc.name, got, tc.wantGoing)
			}
		}
	}
	// What comes from 127.0.0.6 goes to the application, by the pod's address
	// too: that is how a sidecar reaches it.
	var c net.Conn
	err := reviews.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 6)}, Timeout: 5 * time.Second}
		c, err = d.DialContext(t.Context(), "tcp4", "10.244.0.11:9080")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got := origin.next(t).RemoteAddr().String(); !strings.HasPrefix(got, "127.0.0.6:") {
		t.Errorf("the application sees %s", got)
	}
}

// TestNetworksAreApart: two at once have the same addresses, and this machine
// has none of them.
func TestNetworksAreApart(t *testing.T) {
	t.Parallel()
	pods := []PodSpec{{Namespace: "default", Name: "a", Addr: netip.MustParseAddr("10.244.0.7")}}
	one, two := StartNetwork(t, pods), StartNetwork(t, pods)
	newGate(t, one.Pod("a"), "one", ":80")
	newGate(t, two.Pod("a"), "two", ":80")
	app := BuildApp(t)
	for name, node := range map[string]*Namespace{"one": one.Node, "two": two.Node} {
		p := &Pod{Namespace: node, t: t}
		if _, body, err := p.Get(app, 0, "http://10.244.0.7/", ""); err != nil || body != name {
			t.Errorf("%s: %q %v", name, body, err)
		}
	}
	// The network that this machine is in may have such an address too.
	outside := &Pod{t: t}
	if _, body, err := outside.Get(app, 0, "http://10.244.0.7/", ""); err == nil && (body == "one" || body == "two") {
		t.Errorf("the pod of %s is reached from outside", body)
	}
}

// TestIstiodInNetwork: istiod is at its usual address in a network, and pods
// reach it.
func TestIstiodInNetwork(t *testing.T) {
	t.Parallel()
	n := StartNetwork(t, BookinfoPods())
	l := Start(t, Options{Host: n.Node, Objects: Bookinfo()})
	for _, port := range []string{"15010", "15012"} {
		c, err := n.Pod("legacy").DialContext(t.Context(), "tcp", "10.244.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	if got := l.Syncz(); len(got) != 0 {
		t.Errorf("proxies that nobody started: %v", got)
	}
}
