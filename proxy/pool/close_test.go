// SPDX-License-Identifier: Apache-2.0

package pool

import (
	stdtls "crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/tls/localca"
)

// closingHost is a host that ends each connection without a word: after some
// requests, or when it was idle for a time, as configured.
func closingHost(requests int, idle time.Duration) func(net.Conn) {
	return func(nc net.Conn) {
		buf := make([]byte, 1024)
		for n := 0; requests == 0 || n < requests; n++ {
			if idle > 0 && n > 0 {
				_ = nc.SetReadDeadline(time.Now().Add(idle))
			}
			if !readRequest(nc, buf) {
				return
			}
			if _, err := io.WriteString(nc, answer); err != nil {
				return
			}
		}
	}
}

// The main promise: idle connections that the host closes never cost a
// request anything. What the forwarder does is done here too: it repeats a
// request on a reused connection that ended before the first octet if the
// method allows it, or if the host's kernel took nothing of it.
//
// That leaves one case that no client can mend: these hosts give no warning,
// so that a POST may reach the host's kernel in the moment in which the
// application decides to close. It is rare even on a machine so busy that
// the moment lasts.
func TestHostThatCloses(t *testing.T) {
	for _, tc := range []struct {
		name     string
		requests int
		idle     time.Duration
		pause    []time.Duration // between two requests of a worker, in turn
		total    int
	}{
		{"after every request", 1, 0, []time.Duration{0}, 4000},
		{"after three requests", 3, 0, []time.Duration{0, 0, 100 * time.Microsecond}, 3000},
		{"after 20 ms", 0, 20 * time.Millisecond, []time.Duration{0, 0, 0, 0, 0, 0, 0, 19900 * time.Microsecond, 0, 20 * time.Millisecond,
			0, 0, 0, 20100 * time.Microsecond, 5 * time.Millisecond}, 3000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, closingHost(tc.requests, tc.idle))
			r := newRig(t, Defaults(), nil, 10*time.Millisecond, s.addr())
			var wg sync.WaitGroup
			var n outcomes
			const workers = 8
			for w := range workers {
				wg.Go(func() {
					for i := range tc.total / workers {
						m := http.MethodGet
						if (i+w)%3 == 0 {
							m = http.MethodPost
						}
						if !request(t, r.hosts[0], m, &n) {
							return
						}
						if d := tc.pause[i%len(tc.pause)]; d > 0 {
							pause(d)
						}
					}
				})
			}
			wg.Wait()
			t.Logf("connections %d, closed by the host %d, repeated because of the method %d, because unseen %d, taken %d, learned %v",
				r.st.CxTotal.Value(), r.st.CxDestroyRemote.Value(), n.repeated.Load(), n.unseen.Load(), n.taken.Load(),
				r.hosts[0].LearnedIdle())
			if got := n.taken.Load(); int(got) > tc.total/200 {
				t.Errorf("%d of %d requests were sent to a host that was closing", got, tc.total)
			}
		})
	}
}

// TestHostThatClosesTLS: the same over TLS, where the request meets the end of a
// connection in any of its forms.
func TestHostThatClosesTLS(t *testing.T) {
	s := serve(t, overTLS(ownPair(t), closingHost(3, 0)))
	r := newRig(t, Defaults(), nil, 10*time.Millisecond, s.addr())
	r.hosts[0].Secure(newTLSClient(t))
	var wg sync.WaitGroup
	var n outcomes
	const workers, each = 4, 150
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				m := http.MethodGet
				if (i+w)%3 == 0 {
					m = http.MethodPost
				}
				if !request(t, r.hosts[0], m, &n) {
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("connections %d, repeated because of the method %d, because unseen %d, taken %d",
		r.st.CxTotal.Value(), n.repeated.Load(), n.unseen.Load(), n.taken.Load())
	if got := n.taken.Load(); got > workers*each/20 {
		t.Errorf("%d of %d requests were sent to a host that was closing", got, workers*each)
	}
}

// ownPair makes a certificate that nobody vouches for.
func ownPair(t *testing.T) stdtls.Certificate {
	t.Helper()
	ca, err := localca.New("test")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Issue("a", "b")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := stdtls.X509KeyPair(leaf.Chain, leaf.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// overTLS has a host speak TLS. It ends connections with a close_notify, and its
// socket right after it.
func overTLS(pair stdtls.Certificate, handle func(net.Conn)) func(net.Conn) {
	return func(nc net.Conn) {
		c := stdtls.Server(nc, &stdtls.Config{Certificates: []stdtls.Certificate{pair}})
		handle(c)
		_ = c.Close()
	}
}

// TestUnseenOverTLS: of a request that met a closed connection it is certain that the
// host didn't see it, and of one that the host may have read it isn't.
func TestUnseenOverTLS(t *testing.T) {
	pair := ownPair(t)
	for _, tc := range []struct {
		name string
		end  func(c *stdtls.Conn, nc net.Conn) // what the host does after its first answer
		want bool
	}{
		{"closed", func(c *stdtls.Conn, _ net.Conn) { _ = c.Close() }, true},
		{"closed without a word", func(_ *stdtls.Conn, nc net.Conn) { _ = nc.Close() }, true},
		{"broken off", func(_ *stdtls.Conn, nc net.Conn) {
			_ = nc.(*net.TCPConn).SetLinger(0)
			_ = nc.Close()
		}, true},
		{"read, then closed", func(c *stdtls.Conn, _ net.Conn) {
			readRequest(c, make([]byte, 1024))
			_ = c.Close()
		}, false},
		{"read, then broken off", func(c *stdtls.Conn, nc net.Conn) {
			readRequest(c, make([]byte, 1024))
			_ = nc.(*net.TCPConn).SetLinger(0)
			_ = nc.Close()
		}, false},
		{"half closed", func(c *stdtls.Conn, _ net.Conn) {
			_ = c.CloseWrite()
			readRequest(c, make([]byte, 1024))
		}, false},
		{"closed with the request unread", func(c *stdtls.Conn, nc net.Conn) {
			_, _ = nc.Read(make([]byte, 1))
			_ = c.Close()
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan bool, 1)
			s := serve(t, func(nc net.Conn) {
				c := stdtls.Server(nc, &stdtls.Config{Certificates: []stdtls.Certificate{pair}})
				if readRequest(c, make([]byte, 1024)) {
					_, _ = io.WriteString(c, answer)
				}
				if tc.want {
					defer func() { ended <- true }()
				}
				tc.end(c, nc)
			})
			r := newRig(t, Defaults(), nil, time.Hour, s.addr())
			r.hosts[0].Secure(newTLSClient(t))
			c := r.must(t, 0)
			if _, err := send(c, http.MethodPost); err != nil {
				t.Fatal(err)
			}
			if tc.want {
				<-ended // and on this machine, what it sent has come
			}
			if _, err := send(c, http.MethodPost); err == nil {
				t.Fatal("it is answered")
			}
			if got := c.H1.Unseen(); got != tc.want {
				t.Errorf("unseen is %t, want %t", got, tc.want)
			}
			r.hosts[0].Put(c, false)
		})
	}
}

// outcomes count what happened to requests on connections that were closed.
type outcomes struct {
	repeated atomic.Int32 // because the method allows it
	unseen   atomic.Int32 // repeated because the host's kernel took nothing
	taken    atomic.Int32 // not repeated
}

func request(t *testing.T, p *Pool, m http.Method, n *outcomes) bool {
	c, err := p.Acquire(0, nil, m)
	if err != nil {
		t.Error(err)
		return false
	}
	reusable, serr := send(c, m)
	if serr == nil || !c.Reused() {
		p.Put(c, reusable)
		if serr != nil {
			t.Errorf("method %d on a new connection: %v", m, serr)
		}
		return serr == nil
	}
	unseen := c.H1.Unseen()
	p.Put(c, reusable)
	switch {
	case m.Idempotent():
		n.repeated.Add(1)
	case unseen:
		n.unseen.Add(1)
	default:
		n.taken.Add(1)
		return true
	}
	if c, err = p.AcquireFresh(0, nil); err != nil {
		t.Error(err)
		return false
	}
	reusable, serr = send(c, m)
	p.Put(c, reusable)
	if serr != nil {
		t.Errorf("method %d, repeated on a new connection: %v", m, serr)
	}
	return serr == nil
}

// pause waits in real time, which only sockets and their hosts understand.
func pause(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
}

// The sweep finds what the host closed, without anybody asking for it.
func TestSweep(t *testing.T) {
	s := serve(t, forever)
	settings := Defaults()
	r := newRig(t, settings, nil, 5*time.Millisecond, s.addr())
	p := r.hosts[0]
	var conns []*Conn
	for range 50 {
		c := r.must(t, 0)
		if _, err := send(c, http.MethodGet); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns[:49] {
		p.Put(c, true)
	}
	// They survive sweeps, in their order.
	eventually(t, "the sweep has looked at all", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.checked.n == 0 && p.idle.n == 49
	})
	pause(20 * time.Millisecond)
	p.Put(conns[49], true)
	if got := r.must(t, 0); got != conns[49] {
		t.Error("the one used last was not reused first")
	} else {
		p.Put(got, true)
	}
	p.mu.Lock()
	l := p.idle
	l.appendList(&list{})
	for c := p.idle.head; c != nil && c.next != nil; c = c.next {
		if c.idleSince < c.next.idleSince {
			t.Error("the order of idle connections is lost")
			break
		}
	}
	p.mu.Unlock()

	s.closeAll()
	eventually(t, "all closed connections are found", func() bool { return r.Open() == 0 })
	if got := r.st.CxDestroyRemote.Value(); got != 50 {
		t.Errorf("%d closed by the host, want 50", got)
	}
	// With nothing left, the sweeper sleeps and wakes for the next one.
	eventually(t, "the group is forgotten", func() bool {
		r.sw.mu.Lock()
		defer r.sw.mu.Unlock()
		return len(r.sw.groups) == 0
	})
	p.Put(r.must(t, 0), true)
	short := settings
	short.IdleTimeout = time.Millisecond
	r.Update(&short)
	eventually(t, "the idle timeout acts without a request", func() bool { return r.st.CxIdleTimeout.Value() == 1 && r.Open() == 0 })
}

// Bytes that nobody asked for end a connection as well.
func TestUnaskedBytes(t *testing.T) {
	s := serve(t, func(nc net.Conn) {
		buf := make([]byte, 1024)
		for readRequest(nc, buf) {
			_, _ = io.WriteString(nc, answer)
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\n")
		}
	})
	r := newRig(t, Defaults(), nil, time.Hour, s.addr())
	c := r.must(t, 0)
	reusable, err := send(c, http.MethodGet)
	if err != nil {
		t.Fatal(err)
	}
	r.hosts[0].Put(c, reusable)
	pause(5 * time.Millisecond)
	if again := r.must(t, 0); again == c {
		t.Error("a connection with stray bytes was reused")
	}
}

func TestKeepaliveLearns(t *testing.T) {
	ms := int64(time.Millisecond)
	var k keepalive
	check := func(step string, idle int64, want bool) {
		t.Helper()
		if got := k.expired(idle); got != want {
			t.Errorf("%s: expired(%v) = %v", step, time.Duration(idle), got)
		}
	}
	check("nothing learned", 1e18, false)
	k.closed(ms) // a limit on requests, no timeout
	check("closed right after an answer", 1e18, false)
	k.closed(5000 * ms)
	check("5 s", 3333*ms, false)
	check("5 s", 3335*ms, true)
	k.closed(6000 * ms)
	check("a later close says nothing new", 3335*ms, true)
	k.closed(1000 * ms) // the host restarted
	check("restart", 700*ms, true)
	check("restart", 600*ms, false)
	k.open(800 * ms)
	check("open within the learned time", 700*ms, true)
	k.open(4000 * ms) // disproved: 4.5 s is possible again
	check("disproved", 2900*ms, false)
	check("disproved", 3100*ms, true)
	k.closed(75000 * ms)
	k.open(70000 * ms)
	check("the margin is at most 2 s", 76000*ms, false)
	check("the margin is at most 2 s", 77000*ms, true)
}

// Requests that can't be repeated don't get a connection that the host may
// be about to close; others do.
func TestCarefulRequestsAvoidOldConnections(t *testing.T) {
	s := serve(t, forever)
	r := newRig(t, Defaults(), nil, time.Hour, s.addr())
	p := r.hosts[0]
	p.learned.closed(int64(6 * time.Millisecond))
	c := r.must(t, 0)
	p.Put(c, true)
	pause(10 * time.Millisecond)
	for _, m := range []http.Method{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodOther, http.MethodConnect} {
		got, err := p.Acquire(0, nil, m)
		if err != nil {
			t.Fatal(err)
		}
		if got == c {
			t.Errorf("method %d got an old connection", m)
		}
		p.Put(got, false)
	}
	if p.Idle() != 1 {
		t.Fatalf("idle = %d", p.Idle())
	}
	got, err := p.Acquire(0, nil, http.MethodDelete)
	if err != nil || got != c {
		t.Errorf("DELETE got %p, %v; want the idle one", got, err)
	}
	// At the limit, the old one gives its place.
	one := Defaults()
	one.MaxConnections = 1
	r.Update(&one)
	p.learned.ns.Store(int64(6 * time.Millisecond))
	p.Put(c, true)
	pause(10 * time.Millisecond)
	got, err = p.Acquire(0, nil, http.MethodPost)
	if err != nil || got == c || r.Open() != 1 {
		t.Errorf("at the limit: got the old one %v, %v, open %d", got == c, err, r.Open())
	}
}
