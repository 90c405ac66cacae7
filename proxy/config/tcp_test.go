// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// exchangeBytes sends p, closes that direction and returns all that comes back.
func exchangeBytes(t *testing.T, nc *net.TCPConn, p []byte) []byte {
	t.Helper()
	go func() {
		_, _ = nc.Write(p)
		_ = nc.CloseWrite()
	}()
	got, err := io.ReadAll(nc)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestTCPEcho: bytes of any number go both ways unchanged, a FIN ends one
// direction only, and everything is counted and logged.
func TestTCPEcho(t *testing.T) {
	for _, size := range []int{0, 1, 8 << 10, 8<<10 + 1, 3 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			origin := tcpOrigin(t, echo)
			r := serveTCP(t, tcpChain(tcpProxy("cluster: c")), tcpCluster("c", "", origin))
			p := make([]byte, size)
			for i := range p {
				p[i] = byte(i * 7 / 5)
			}
			if got := exchangeBytes(t, r.dial(), p); !bytes.Equal(got, p) {
				t.Fatalf("%d bytes came back, and not the %d that were sent", len(got), size)
			}
			n := float64(size)
			r.wait("istiocustom.istio_tcp_connections_closed_total*", 1)
			for name, want := range map[string]float64{
				"istiocustom.istio_tcp_connections_opened_total*": 1,
				"istiocustom.istio_tcp_sent_bytes_total*":         n,
				"istiocustom.istio_tcp_received_bytes_total*":     n,
				"tcp.p.downstream_cx_total":                       1,
				"tcp.p.downstream_cx_rx_bytes_total":              n,
				"tcp.p.downstream_cx_tx_bytes_total":              n,
				"cluster.c.upstream_cx_total":                     1,
				"cluster.c.upstream_cx_rx_bytes_total":            n,
				"cluster.c.upstream_cx_tx_bytes_total":            n,
			} {
				if got := r.value(name); got != want {
					t.Errorf("%s is %v, want %v", name, got, want)
				}
			}
			r.wait("cluster.c.upstream_cx_active", 0)
			r.wait("cluster.c.upstream_cx_destroy", 1)
			if got, want := r.line(), fmt.Sprintf("0 - - %d %d %s c - -", size, size, origin); got != want {
				t.Errorf("the log says %q, want %q", got, want)
			}
		})
	}
}

// TestTCPUpstreamEndsFirst: the client still sends after the host's FIN.
func TestTCPUpstreamEndsFirst(t *testing.T) {
	heard := make(chan string, 1)
	origin := tcpOrigin(t, func(nc *net.TCPConn) {
		_, _ = io.WriteString(nc, "bye")
		_ = nc.CloseWrite()
		p, _ := io.ReadAll(nc)
		heard <- string(p)
	})
	r := serveTCP(t, tcpChain(tcpProxy("cluster: c")), tcpCluster("c", "", origin))
	nc := r.dial()
	if p, err := io.ReadAll(nc); err != nil || string(p) != "bye" {
		t.Fatalf("%q, %v", p, err)
	}
	if _, err := io.WriteString(nc, "still here"); err != nil {
		t.Fatal(err)
	}
	_ = nc.CloseWrite()
	if got := <-heard; got != "still here" {
		t.Errorf("the host heard %q after its FIN", got)
	}
}

// TestTCPReset: a reset of either side is one for the other.
func TestTCPReset(t *testing.T) {
	reset := func(nc *net.TCPConn) {
		_ = nc.SetLinger(0)
		_ = nc.Close()
	}
	isReset := func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
	t.Run("by the host", func(t *testing.T) {
		r := serveTCP(t, tcpChain(tcpProxy("cluster: c")), tcpCluster("c", "", tcpOrigin(t, func(nc *net.TCPConn) {
			_, _ = nc.Read(make([]byte, 1))
			reset(nc)
		})))
		nc := r.dial()
		_, _ = nc.Write([]byte("x"))
		if _, err := nc.Read(make([]byte, 1)); !isReset(err) {
			t.Errorf("the client gets %v", err)
		}
		r.wait("cluster.c.upstream_cx_destroy_remote", 1)
	})
	for _, half := range []bool{false, true} {
		t.Run(fmt.Sprintf("by the client after its FIN %v", half), func(t *testing.T) {
			result := make(chan error, 1)
			r := serveTCP(t, tcpChain(tcpProxy("cluster: c")), tcpCluster("c", "", tcpOrigin(t, func(nc *net.TCPConn) {
				_, _ = nc.Write([]byte("x"))
				_, err := nc.Read(make([]byte, 1))
				if half && err == io.EOF {
					// Nothing is read on the client's side any more, so that
					// the proxy has to look for the reset.
					eachTick(func() bool {
						_, err = nc.Write([]byte("y"))
						return err != nil
					})
					if errors.Is(err, syscall.EPIPE) {
						err = syscall.ECONNRESET
					}
				}
				result <- err
			})))
			nc := r.dial()
			_, _ = nc.Read(make([]byte, 1))
			if half {
				_ = nc.CloseWrite()
				r.wait("tcp.p.downstream_cx_active", 1)
			}
			reset(nc)
			if err := <-result; !isReset(err) {
				t.Errorf("the host gets %v", err)
			}
			r.wait("tcp.p.downstream_cx_active", 0)
		})
	}
}

// TestTCPResetAfterHalfClose: a client that is gone after its FIN is noticed
// although nothing moves.
func TestTCPResetAfterHalfClose(t *testing.T) {
	ended := make(chan error, 1)
	finSeen := make(chan bool, 1)
	r := serveTCP(t, tcpChain(tcpProxy("cluster: c")), tcpCluster("c", "", tcpOrigin(t, func(nc *net.TCPConn) {
		_, _ = io.Copy(io.Discard, nc)
		finSeen <- true
		// A quiet host: all it does is wait, and see whether it is reset.
		raw, _ := nc.SyscallConn()
		var no int
		eachTick(func() bool {
			_ = raw.Control(func(fd uintptr) { no, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR) })
			return no != 0
		})
		ended <- syscall.Errno(no)
	})))
	nc := r.dial()
	_ = nc.CloseWrite()
	<-finSeen
	_ = nc.SetLinger(0)
	_ = nc.Close()
	if err := <-ended; err != syscall.EPIPE && err != syscall.ECONNRESET {
		t.Errorf("the host gets %v", err)
	}
}

// TestTCPFailures: what goes wrong before there is a host is told by flags.
func TestTCPFailures(t *testing.T) {
	nobody := refusing(t)
	for _, tc := range []struct {
		name, proxy, cluster, line string
		metrics                    map[string]float64
	}{
		{"refused", "cluster: c", tcpCluster("c", "", nobody), "0 UF,URX delayed_connect_error:_Connection_refused 0 0 " + nobody + " c - -",
			map[string]float64{"cluster.c.upstream_cx_connect_fail": 1, "cluster.c.upstream_cx_connect_attempts_exceeded": 1,
				"istiocustom.istio_tcp_connections_opened_total*": 1, "istiocustom.istio_tcp_connections_closed_total*": 1}},
		{"refused three times", "cluster: c, max_connect_attempts: 3", tcpCluster("c", "", nobody),
			"0 UF,URX delayed_connect_error:_Connection_refused 0 0 " + nobody + " c - -", map[string]float64{"cluster.c.upstream_cx_connect_fail": 3}},
		{"no host", "cluster: c", "name: c\ntype: STATIC\n", "0 UH - 0 0 - c - -", map[string]float64{"cluster.c.upstream_cx_none_healthy": 1}},
		{"no cluster", "cluster: x", "name: c\ntype: STATIC\n", "0 NC - 0 0 - x - -", map[string]float64{"tcp.p.downstream_cx_no_route": 1}},
		{"no connection left", "cluster: c", tcpCluster("c", "circuit_breakers: {thresholds: [{max_connections: 0}]}", nobody),
			"0 UO - 0 0 " + nobody + " c - -", map[string]float64{"cluster.c.upstream_cx_overflow": 1, "cluster.c.upstream_cx_connect_fail": 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := serveTCP(t, tcpChain(tcpProxy(tc.proxy)), tc.cluster)
			nc := r.dial()
			if n, err := nc.Read(make([]byte, 1)); err == nil {
				t.Errorf("%d bytes came from nowhere", n)
			}
			if got := r.line(); got != tc.line {
				t.Errorf("the log says %q, want %q", got, tc.line)
			}
			for name, want := range tc.metrics {
				r.wait(name, want)
			}
		})
	}
}

// TestTCPConnectTimeout connects to a host whose queue is full.
func TestTCPConnectTimeout(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, _ := syscall.Getsockname(fd)
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
	d := net.Dialer{Timeout: 100 * time.Millisecond}
	for {
		nc, err := d.Dial("tcp", addr)
		if err != nil {
			break
		}
		defer nc.Close()
	}
	r := serveTCP(t, tcpChain(tcpProxy("cluster: c")), strings.Replace(tcpCluster("c", "", addr), "5s", "0.2s", 1))
	if _, err := r.dial().Read(make([]byte, 1)); err == nil {
		t.Fatal("the connection works")
	}
	if got := r.line(); !strings.HasPrefix(got, "0 UF,URX ") {
		t.Errorf("the log says %q", got)
	}
	r.wait("cluster.c.upstream_cx_connect_timeout", 1)
}

// TestTCPMaxConnections: places are taken and given back.
func TestTCPMaxConnections(t *testing.T) {
	r := serveTCP(t, tcpChain(tcpProxy("cluster: c")),
		tcpCluster("c", "circuit_breakers: {thresholds: [{max_connections: 1}]}", tcpOrigin(t, echo)))
	first := r.dial()
	_, _ = first.Write([]byte("x"))
	if _, err := first.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.dial().Read(make([]byte, 1)); err == nil {
		t.Error("a second connection works")
	}
	r.wait("cluster.c.upstream_cx_overflow", 1)
	_ = first.Close()
	r.wait("cluster.c.upstream_cx_active", 0)
	if got := exchangeBytes(t, r.dial(), []byte("again")); string(got) != "again" {
		t.Errorf("after the first one has ended: %q", got)
	}
}

// TestTCPOutlier: a host that refuses connections is ejected, and others are
// tried for the same client.
func TestTCPOutlier(t *testing.T) {
	const more = "outlier_detection: {consecutive_5xx: 2, interval: 3600s, base_ejection_time: 3600s, max_ejection_percent: 100, enforcing_success_rate: 0}\nlb_policy: ROUND_ROBIN"
	r := serveTCP(t, tcpChain(tcpProxy("cluster: c, max_connect_attempts: 2")), tcpCluster("c", more, refusing(t), tcpOrigin(t, echo)))
	for range 12 {
		if got := exchangeBytes(t, r.dial(), []byte("hi")); string(got) != "hi" {
			t.Fatalf("got %q", got)
		}
	}
	r.wait("cluster.c.outlier_detection.ejections_active", 1)
	if n := r.value("cluster.c.upstream_cx_connect_fail"); n != 2 {
		t.Errorf("%v attempts failed, want the 2 that eject", n)
	}
}

func TestTCPWeights(t *testing.T) {
	a, b := tcpOrigin(t, say("a")), tcpOrigin(t, say("b"))
	r := serveTCP(t, tcpChain(tcpProxy("weighted_clusters: {clusters: [{name: a, weight: 70}, {name: b, weight: 30}, {name: none, weight: 0}]}")),
		tcpCluster("a", "", a), tcpCluster("b", "", b))
	const n = 200
	got := map[string]int{}
	for range n {
		got[string(exchangeBytes(t, r.dial(), nil))]++
	}
	if got["a"] < n*68/100 || got["a"] > n*72/100 || got["a"]+got["b"] != n {
		t.Errorf("of %d connections %v, want 70 %% to a and the rest to b", n, got)
	}
}

// TestTCPHash: one client always gets the same host.
func TestTCPHash(t *testing.T) {
	var hosts []string
	var got [8]atomic.Int32
	for i := range got {
		hosts = append(hosts, tcpOrigin(t, func(nc *net.TCPConn) { got[i].Add(1); echo(nc) }))
	}
	r := serveTCP(t, tcpChain(tcpProxy("cluster: c, hash_policy: [{source_ip: {}}]")), tcpCluster("c", "lb_policy: RING_HASH", hosts...))
	const n = 16
	for range n {
		exchangeBytes(t, r.dial(), []byte("x"))
	}
	for i := range got {
		if c := got[i].Load(); c != 0 && c != n {
			t.Errorf("host %d got %d of %d connections of one client", i, c, n)
		}
	}
}

func TestTCPIdleTimeout(t *testing.T) {
	r := serveTCP(t, tcpChain(tcpProxy("cluster: c, idle_timeout: 0.5s")), tcpCluster("c", "", tcpOrigin(t, echo)))
	if p, err := io.ReadAll(r.dial()); err != nil || len(p) > 0 {
		t.Errorf("%q, %v", p, err)
	}
	r.wait("tcp.p.idle_timeout", 1)
	r.wait("cluster.c.upstream_cx_active", 0)
}

// TestTCPMaxDuration: a connection ends at its time, however busy it is.
func TestTCPMaxDuration(t *testing.T) {
	r := serveTCP(t, tcpChain(tcpProxy("cluster: c, max_downstream_connection_duration: 0.5s")), tcpCluster("c", "", tcpOrigin(t, echo)))
	nc, one := r.dial(), make([]byte, 1)
	eachTick(func() bool {
		_, err := nc.Write([]byte("x"))
		if err == nil {
			_, err = nc.Read(one)
		}
		return err != nil
	})
	r.wait("tcp.p.max_downstream_connection_duration", 1)
	r.wait("cluster.c.upstream_cx_active", 0)
	if got := r.line(); !strings.HasPrefix(got, "0 DT - ") {
		t.Errorf("the log says %q", got)
	}
}

// TestTCPDrain: a drain waits for connections until its time is over.
func TestTCPDrain(t *testing.T) {
	r := serveTCP(t, tcpChain(tcpProxy("cluster: c")), tcpCluster("c", "", tcpOrigin(t, echo)))
	nc := r.dial()
	one := make([]byte, 1)
	works := func() bool {
		_, _ = nc.Write([]byte("x"))
		_, err := nc.Read(one)
		return err == nil
	}
	if !works() {
		t.Fatal("the connection doesn't work")
	}
	ctx, over := context.WithCancel(t.Context())
	done := make(chan bool)
	go func() { r.tracker.Drain(ctx); close(done) }()
	if !works() {
		t.Error("the connection ends when a drain begins")
	}
	over()
	<-done
	if works() {
		t.Error("the connection works after the drain's time")
	}
	if n := r.tracker.Count(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}
