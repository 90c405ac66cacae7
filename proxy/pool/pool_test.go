// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"pillion/proxy/http"
)

func TestReuseIsLIFO(t *testing.T) {
	r := newRig(t, Defaults(), (&pipes{}).dial, time.Hour, "a:1")
	a, b, c := r.must(t, 0), r.must(t, 0), r.must(t, 0)
	for _, x := range []*Conn{a, b, c} {
		if x.Reused() {
			t.Error("a new connection counts as reused")
		}
		r.hosts[0].Put(x, true)
	}
	for i, want := range []*Conn{c, b, a} {
		if got := r.must(t, 0); got != want || !got.Reused() {
			t.Errorf("reuse %d is not the one used last", i)
		}
	}
	if r.st.CxTotal.Value() != 3 || r.st.CxHTTP1Total.Value() != 3 || r.hosts[0].Stats.CxTotal.Value() != 3 ||
		r.hosts[0].Stats.CxActive.Value() != 3 {
		t.Errorf("counters: %+v", r.st)
	}
}

// Why a connection is closed, and where that is counted.
func TestRetirement(t *testing.T) {
	for _, tc := range []struct {
		name     string
		set      func(*Settings)
		idle     time.Duration // before the third request
		reusable bool
		counter  func(*Stats) uint64
	}{
		{"kept", func(*Settings) {}, 0, true, nil},
		{"not reusable", func(*Settings) {}, 0, false, func(s *Stats) uint64 { return s.CxDestroyLocal.Value() }},
		{"requests", func(s *Settings) { s.MaxRequestsPerConnection = 2 }, 0, true, func(s *Stats) uint64 { return s.CxMaxRequests.Value() }},
		{"fewer requests", func(s *Settings) { s.MaxRequestsPerConnection = 3 }, 0, true, nil},
		{"idle", func(s *Settings) { s.IdleTimeout = time.Minute }, time.Minute, true, func(s *Stats) uint64 { return s.CxIdleTimeout.Value() }},
		{"not yet idle", func(s *Settings) { s.IdleTimeout = time.Minute }, time.Minute - 1, true, nil},
		{"idle without a bound", func(s *Settings) { s.IdleTimeout = 0 }, 100 * time.Hour, true, nil},
		{"age", func(s *Settings) { s.MaxConnectionAge = time.Minute }, time.Minute, true, func(s *Stats) uint64 { return s.CxMaxDuration.Value() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := Defaults()
				tc.set(&s)
				r := newRig(t, s, (&pipes{}).dial, 1000*time.Hour, "a:1")
				p := r.hosts[0]
				first := r.must(t, 0)
				p.Put(first, true)
				second := r.must(t, 0)
				if second != first {
					t.Fatal("the second request got another connection")
				}
				p.Put(second, tc.reusable)
				pass(tc.idle)
				third := r.must(t, 0)
				if kept := third == first; kept != (tc.counter == nil) {
					t.Errorf("kept = %v", kept)
				}
				if tc.counter != nil && (tc.counter(r.st) != 1 || r.st.CxDestroy.Value() != 1) {
					t.Errorf("counter %d, destroy %d", tc.counter(r.st), r.st.CxDestroy.Value())
				}
				if r.Open() != 1 || p.Open() != 1 {
					t.Errorf("open %d, of the host %d", r.Open(), p.Open())
				}
				r.close()
			})
		})
	}
}

func TestAgeEndsAConnectionAfterItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Defaults()
		s.MaxConnectionAge = time.Minute
		r := newRig(t, s, (&pipes{}).dial, 1000*time.Hour, "a:1")
		c := r.must(t, 0)
		pass(time.Hour)
		r.hosts[0].Put(c, true)
		if r.Open() != 0 || r.st.CxMaxDuration.Value() != 1 {
			t.Errorf("open %d, cx_max_duration_reached %d", r.Open(), r.st.CxMaxDuration.Value())
		}
		r.close()
	})
}

// A change of socket options, the removal of the host and that of the
// cluster close what is idle at once, and the rest when it comes back.
func TestDrain(t *testing.T) {
	for name, drain := range map[string]func(*rig){
		"socket options": func(r *rig) {
			s := *r.Settings()
			s.Socket.Keepalive = true
			r.Update(&s)
		},
		"host":    func(r *rig) { r.hosts[0].Close() },
		"cluster": func(r *rig) { r.Group.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Defaults(), (&pipes{}).dial, time.Hour, "a:1")
			idle, busy := r.must(t, 0), r.must(t, 0)
			r.hosts[0].Put(idle, true)
			drain(r)
			if r.Open() != 1 || r.hosts[0].Idle() != 0 {
				t.Errorf("after the change: open %d, idle %d", r.Open(), r.hosts[0].Idle())
			}
			r.hosts[0].Put(busy, true)
			if r.Open() != 0 {
				t.Errorf("the busy one was kept")
			}
			c := r.must(t, 0) // a request that was on its way
			r.hosts[0].Put(c, true)
			if kept := r.Open() == 1; kept != (name == "socket options") {
				t.Errorf("a later connection: kept = %v", kept)
			}
		})
	}
}

func TestOtherSettingsDoNotDrain(t *testing.T) {
	r := newRig(t, Defaults(), (&pipes{}).dial, time.Hour, "a:1")
	c := r.must(t, 0)
	r.hosts[0].Put(c, true)
	s := Defaults()
	s.MaxConnections, s.IdleTimeout, s.ConnectTimeout = 7, time.Minute, time.Second
	r.Update(&s)
	if r.must(t, 0) != c {
		t.Error("the connection was lost")
	}
}

func TestConnectFailures(t *testing.T) {
	op := func(sys string, no syscall.Errno) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError(sys, no)}
	}
	for _, tc := range []struct {
		name      string
		err       error
		kind      http.Kind
		flag      string
		detail    string
		body      string
		transport string
	}{
		{"refused", op("connect", syscall.ECONNREFUSED), http.KindConnectFailure, "UF",
			"upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
			"upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
			"delayed connect error: Connection refused"},
		{"unreachable", op("connect", syscall.ENETUNREACH), http.KindConnectFailure, "UF",
			"upstream_reset_before_response_started{remote_connection_failure|immediate_connect_error:_Network_is_unreachable}",
			"upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
			"immediate connect error: Network is unreachable"},
		{"bind", op("bind", syscall.EADDRNOTAVAIL), http.KindConnectFailure, "UF",
			"upstream_reset_before_response_started{local_connection_failure|failed_to_bind_to_the_local_address:_Cannot_assign_requested_address}",
			"upstream connect error or disconnect/reset before headers. reset reason: local connection failure",
			"failed to bind to the local address: Cannot assign requested address"},
		{"timeout", &net.OpError{Op: "dial", Net: "tcp", Err: context.DeadlineExceeded}, http.KindConnectTimeout, "UF",
			"upstream_reset_before_response_started{connection_timeout}",
			"upstream connect error or disconnect/reset before headers. reset reason: connection timeout", ""},
		{"name", fmt.Errorf("look up: %w", &ResolveError{Reason: "no such host"}), http.KindResolve, "DF",
			"dns_resolution_failure{no_such_host}", "DNS resolution failure", "no such host"},
		{"other", errors.New("boom"), http.KindConnectFailure, "UF",
			"upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Boom}",
			"upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
			"delayed connect error: Boom"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, Defaults(), (&pipes{fail: tc.err}).dial, time.Hour, "a:1")
			_, err := r.hosts[0].Acquire(0, nil, http.MethodGet)
			if err == nil {
				t.Fatal("no error")
			}
			if err.Kind != tc.kind || err.Flag.String() != tc.flag || err.Detail != tc.detail || err.Body != tc.body ||
				err.Transport != tc.transport || err.Status != 503 || err.Retry != http.RetryByPolicy {
				t.Errorf("got %+v", err)
			}
			if r.Open() != 0 || r.Pending() != 0 || r.hosts[0].Open() != 0 {
				t.Errorf("open %d, pending %d", r.Open(), r.Pending())
			}
			timeouts := uint64(0)
			if tc.kind == http.KindConnectTimeout {
				timeouts = 1
			}
			if r.st.CxConnectFail.Value() != 1 || r.hosts[0].Stats.CxConnectFail.Value() != 1 ||
				r.st.RqPendingFailure.Value() != 1 || r.st.CxConnectTimeout.Value() != timeouts || r.st.CxDestroy.Value() != 1 {
				t.Errorf("counters: %+v", r.st)
			}
		})
	}
}

// What ends first decides the error: the connect timeout, the request's
// deadline, or the client.
func TestConnectIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Defaults()
		s.ConnectTimeout = 3 * time.Second
		r := newRig(t, s, (&pipes{block: make(chan struct{})}).dial, time.Hour, "a:1")
		start := time.Now()
		_, err := r.hosts[0].Acquire(0, nil, http.MethodGet)
		if err != errConnectTimeout || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		start = time.Now()
		_, err = r.hosts[0].Acquire(http.Now()+int64(time.Second), nil, http.MethodGet)
		if err != errLate || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		start = time.Now()
		cancel := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(cancel) })
		_, err = r.hosts[0].Acquire(http.Now()+int64(2*time.Second), cancel, http.MethodGet)
		if err != errCancelled || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if r.Open() != 0 || r.st.CxConnectFail.Value() != 1 {
			t.Errorf("open %d, connect_fail %d", r.Open(), r.st.CxConnectFail.Value())
		}
		r.close()
	})
}

// Against real sockets: refused, options, Unix sockets.
func TestDialSockets(t *testing.T) {
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = refusing.Close()
	s := serve(t, forever)
	path := filepath.Join(t.TempDir(), "s")
	ul, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for nc, err := ul.Accept(); err == nil; nc, err = ul.Accept() {
			go func() { defer nc.Close(); forever(nc) }()
		}
	}()
	defer ul.Close()

	r := newRig(t, Defaults(), nil, time.Hour, refusing.Addr().String(), s.addr(), path)
	_, cerr := r.hosts[0].Acquire(0, nil, http.MethodGet)
	if cerr == nil || cerr.Transport != "delayed connect error: Connection refused" {
		t.Errorf("refused: %+v", cerr)
	}
	for host := 1; host <= 2; host++ {
		c := r.must(t, host)
		ok, err := send(c, http.MethodGet)
		if err != nil || !ok {
			t.Errorf("host %d: %v, reusable %v", host, err, ok)
		}
		r.hosts[host].Put(c, false)
	}

	opt := func(set Socket, level, name int) int {
		nc, err := Dial(context.Background(), s.addr(), &set)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		raw, err := nc.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		v := -1
		if err := raw.Control(func(fd uintptr) { v, _ = unix.GetsockoptInt(int(fd), level, name) }); err != nil {
			t.Fatal(err)
		}
		return v
	}
	ka := Socket{Keepalive: true, KeepaliveTime: 300 * time.Second, KeepaliveInterval: 75 * time.Second, KeepaliveProbes: 3}
	some := Socket{Keepalive: true, KeepaliveTime: 7 * time.Second}
	kernelProbes := opt(Socket{}, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	bound := Socket{Bind: netip.MustParseAddrPort("127.0.0.6:0")}
	for _, tc := range []struct {
		name        string
		set         Socket
		level, opt  int
		want        int
		wantAtLeast bool
	}{
		{"nodelay", Socket{}, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, false},
		{"no keep-alive by itself", Socket{}, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0, false},
		{"keep-alive", ka, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, false},
		{"time", ka, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 300, false},
		{"interval", ka, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 75, false},
		{"probes", ka, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3, false},
		{"time alone", some, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 7, false},
		{"the kernel's probes", some, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, kernelProbes, false},
		{"late bind", bound, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1, false},
	} {
		if got := opt(tc.set, tc.level, tc.opt); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
	nc, err := Dial(context.Background(), s.addr(), &bound)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if !strings.HasPrefix(nc.LocalAddr().String(), "127.0.0.6:") {
		t.Errorf("bound to %v", nc.LocalAddr())
	}
}

// TestDialFrom: the local address is of the host's own family, as far as there is one.
func TestDialFrom(t *testing.T) {
	four, six := netip.MustParseAddrPort("127.0.0.6:0"), netip.MustParseAddrPort("[::6]:0")
	for _, c := range []struct {
		set  Socket
		to   string
		want netip.AddrPort
	}{
		{Socket{}, "10.0.0.1:80", netip.AddrPort{}},
		{Socket{Bind: four}, "10.0.0.1:80", four},
		{Socket{Bind: four}, "[fd00::1]:80", four}, // which fails, as with Envoy
		{Socket{Bind: four, BindOther: six}, "10.0.0.1:80", four},
		{Socket{Bind: four, BindOther: six}, "[fd00::1]:80", six},
		{Socket{Bind: six, BindOther: four}, "[::ffff:10.0.0.1]:80", four},
		{Socket{BindOther: six}, "10.0.0.1:80", netip.AddrPort{}},
		{Socket{BindOther: six}, "[fd00::1]:80", six},
	} {
		if got := c.set.bind(c.to); got != c.want {
			t.Errorf("%+v to %s: from %v, want %v", c.set, c.to, got, c.want)
		}
	}
	to, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	nc, err := Dial(t.Context(), to.Addr().String(), &Socket{Bind: six, BindOther: four})
	if err != nil {
		t.Fatal(err)
	}
	if from := nc.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); from != four.Addr() {
		t.Errorf("connected from %v, want %v", from, four.Addr())
	}
	_ = nc.Close()
}

func TestDialFirst(t *testing.T) {
	addrs := []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::1]:80"), netip.MustParseAddrPort("192.0.2.1:80"),
		netip.MustParseAddrPort("192.0.2.2:80")}
	type plan struct {
		after time.Duration // -1: never
		err   error
	}
	refused := errors.New("refused")
	for _, tc := range []struct {
		name  string
		plans []plan
		want  int // index, -1 for an error
		took  time.Duration
	}{
		{"the first", []plan{{after: 10 * time.Millisecond}, {}, {}}, 0, 10 * time.Millisecond},
		{"the first fails", []plan{{after: 10 * time.Millisecond, err: refused}, {after: 5 * time.Millisecond}, {}}, 1, 15 * time.Millisecond},
		{"the first hangs", []plan{{after: -1}, {after: time.Millisecond}, {}}, 1, attemptDelay + time.Millisecond},
		{"the first is slow but wins", []plan{{after: 300 * time.Millisecond}, {after: 100 * time.Millisecond}, {}}, 0, 300 * time.Millisecond},
		{"all fail", []plan{{err: refused}, {err: errors.New("b")}, {err: errors.New("c")}}, -1, 0},
		{"all hang", []plan{{after: -1}, {after: -1}, {after: -1}}, -1, 3 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithTimeout(context.Background(), 3*time.Second)
				defer stop()
				start := time.Now()
				open := 0
				nc, err := dialFirst(ctx, addrs, func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
					p := tc.plans[indexOf(addrs, a)]
					wait := p.after
					if wait < 0 {
						wait = time.Hour
					}
					timer := time.NewTimer(wait)
					defer timer.Stop()
					select {
					case <-timer.C:
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if p.err != nil {
						return nil, p.err
					}
					near, _ := net.Pipe()
					open++
					return &namedConn{Conn: near, index: indexOf(addrs, a), closed: func() { open-- }}, nil
				})
				if time.Since(start) != tc.took {
					t.Errorf("took %v, want %v", time.Since(start), tc.took)
				}
				if tc.want < 0 {
					if err == nil {
						t.Fatal("no error")
					}
					if tc.took == 0 && err != refused {
						t.Errorf("error %v is not that of the first address", err)
					}
					return
				}
				if err != nil || nc.(*namedConn).index != tc.want {
					t.Fatalf("got %v, %v; want address %d", nc, err, tc.want)
				}
				stop()
				synctest.Wait()
				if open != 1 {
					t.Errorf("%d connections stay open, want 1", open)
				}
			})
		})
	}
}

type namedConn struct {
	net.Conn
	index  int
	closed func()
}

func (c *namedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

func indexOf(addrs []netip.AddrPort, a netip.AddrPort) int {
	for i := range addrs {
		if addrs[i] == a {
			return i
		}
	}
	return -1
}

func TestResolvingTarget(t *testing.T) {
	s := serve(t, forever)
	r := newRig(t, Defaults(), nil, time.Hour)
	good := netip.MustParseAddrPort(s.addr())
	for _, tc := range []struct {
		name    string
		resolve func(context.Context) ([]netip.AddrPort, error)
		kind    http.Kind
	}{
		{"good", func(context.Context) ([]netip.AddrPort, error) { return []netip.AddrPort{good}, nil }, http.KindNone},
		{"second is good", func(context.Context) ([]netip.AddrPort, error) {
			return []netip.AddrPort{netip.AddrPortFrom(good.Addr(), 1), good}, nil
		}, http.KindNone},
		{"none", func(context.Context) ([]netip.AddrPort, error) { return nil, nil }, http.KindResolve},
		{"error", func(context.Context) ([]netip.AddrPort, error) { return nil, &ResolveError{Reason: "SERVFAIL"} }, http.KindResolve},
	} {
		p := &Pool{}
		p.Init(&r.Group, Target{Address: "name:80", Resolve: tc.resolve})
		c, err := p.Acquire(0, nil, http.MethodGet)
		kind := http.KindNone
		if err != nil {
			kind = err.Kind
		} else {
			p.Put(c, false)
		}
		if kind != tc.kind {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
