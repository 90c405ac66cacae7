// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"pillion/proxy/http"
	"pillion/proxy/http/h2"
)

// host is an HTTP/2 host. Its connections answer each request at once with
// 200, unless they hold answers back.
type host struct {
	settings []http2.Setting
	hold     bool
	goAway   atomic.Bool // each request is answered with GOAWAY, too
	served   atomic.Int32
	most     atomic.Int32 // streams open at once on a connection
}

func (h *host) serve(nc net.Conn) {
	defer nc.Close()
	if _, err := io.ReadFull(nc, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	fr := http2.NewFramer(nc, nc)
	// The writes have a goroutine of their own, since a pipe holds nothing.
	out := make(chan func(), 1000)
	var wg sync.WaitGroup
	wg.Go(func() {
		for f := range out {
			f()
		}
	})
	defer wg.Wait()
	defer close(out)
	out <- func() { _ = fr.WriteSettings(h.settings...) }
	open := int32(0)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				out <- func() { _ = fr.WriteSettingsAck() }
			}
		case *http2.PingFrame:
			if data := f.Data; !f.IsAck() {
				out <- func() { _ = fr.WritePing(true, data) }
			}
		case *http2.RSTStreamFrame:
			open--
		case *http2.HeadersFrame:
			open++
			h.served.Add(1)
			h.most.Store(max(h.most.Load(), open))
			if h.hold {
				continue
			}
			open--
			id := f.StreamID
			out <- func() {
				if h.goAway.Load() {
					_ = fr.WriteGoAway(id, http2.ErrCodeNo, nil)
				}
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x88}, EndHeaders: true, EndStream: true})
			}
		}
	}
}

// dial is a DialFunc to the host, in memory.
func (h *host) dial(wg *sync.WaitGroup, dialed *atomic.Int32) DialFunc {
	return func(context.Context, string, *Socket) (net.Conn, error) {
		near, far := net.Pipe()
		dialed.Add(1)
		wg.Go(func() { h.serve(far) })
		return near, nil
	}
}

// multiRig is a pool to one host.
type multiRig struct {
	*rig
	*host
	dialed atomic.Int32
	wg     sync.WaitGroup
}

// withHost runs f on virtual time.
func withHost(t *testing.T, s Settings, h *host, f func(t *testing.T, r *multiRig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &multiRig{host: h}
		s.Speaks = SpeaksHTTP2
		r.rig = newRig(t, s, r.host.dial(&r.wg, &r.dialed), time.Second, "a")
		f(t, r)
		r.rig.close()
		r.wg.Wait()
	})
}

func bounds() Settings {
	return Settings{MaxConnections: NoLimit, MaxPending: NoLimit, ConnectTimeout: time.Second}
}

func (r *multiRig) acquire(t *testing.T) *StreamConn {
	t.Helper()
	c, err := r.hosts[0].AcquireStream(http.Now()+int64(5*time.Second), nil)
	if err != nil {
		t.Fatalf("acquire: %v", err)
	}
	return c
}

// reply is the receiver of a request.
type reply struct {
	s    h2.Stream
	done chan *http.Error
}

func (r *reply) OnHead(_ h2.Event, _ *h2.Block, end bool) h2.Verdict {
	if end {
		r.done <- nil
	}
	return h2.Good
}
func (r *reply) OnData(h2.Event, []byte, bool)             {}
func (r *reply) OnTrailers(h2.Event, *h2.Block) h2.Verdict { return h2.Good }
func (r *reply) OnReset(_ h2.Event, err *http.Error)       { r.done <- err }
func (r *reply) OnTaken(h2.Event, int, bool)               {}

// open sends a request on c.
func open(c *StreamConn) (*reply, *http.Error) {
	r := &reply{done: make(chan *http.Error, 4)}
	h := &http.RequestHead{RawMethod: []byte("GET"), Method: http.MethodGet, Scheme: []byte("http"), Authority: []byte("a"), Path: []byte("/")}
	_, err := c.H2.Open(&r.s, r, h, true)
	c.H2.Flush()
	return r, err
}

// exchange makes a whole request.
func (r *multiRig) exchange(t *testing.T) *http.Error {
	t.Helper()
	c := r.acquire(t)
	defer c.Pool().PutStream(c)
	re, err := open(c)
	if err != nil {
		return err
	}
	return <-re.done
}

func TestStreamsShareAConnection(t *testing.T) {
	withHost(t, bounds(), &host{}, func(t *testing.T, r *multiRig) {
		if r.hosts[0].TryStream() != nil {
			t.Fatal("there is a connection before one was asked for")
		}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := r.exchange(t); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := r.dialed.Load(); n != 1 || r.served.Load() != 50 {
			t.Errorf("%d connections for %d requests", n, r.served.Load())
		}
		if n := r.hosts[0].Stats.RqActive.Value(); n != 0 {
			t.Errorf("%d requests are active", n)
		}
	})
}

// TestStreamsDialFails holds that all who wait for a connection learn why
// there is none.
func TestStreamsDialFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{block: make(chan struct{}), fail: errors.New("refused")}
		r := newRig(t, bounds(), p.dial, time.Hour, "a")
		var wg sync.WaitGroup
		var failed atomic.Int32
		for range 10 {
			wg.Go(func() {
				if _, err := r.hosts[0].AcquireStream(0, nil); err != nil && err.Side == http.SideUpstream {
					failed.Add(1)
				}
			})
		}
		synctest.Wait()
		close(p.block)
		wg.Wait()
		if failed.Load() != 10 || r.hosts[0].Open() != 0 || r.hosts[0].Stats.RqActive.Value() != 0 || r.pending.Load() != 0 {
			t.Errorf("%d failed, %d connections, %d active, %d pending", failed.Load(), r.hosts[0].Open(), r.hosts[0].Stats.RqActive.Value(), r.pending.Load())
		}
		r.close()
	})
}

// TestStreamsRoom holds that no more requests go on a connection than the host
// and the settings allow, that another one is made, and that what exceeds all
// of them waits for its turn.
func TestStreamsRoom(t *testing.T) {
	for _, tc := range []struct {
		name               string
		host, ours         uint32
		connections, dials uint32
	}{
		{"the host's bound", 3, 0, NoLimit, 4},
		{"our bound", 100, 5, NoLimit, 2},
		{"one connection", 3, 0, 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := bounds()
			s.MaxStreams, s.MaxConnections = tc.ours, tc.connections
			h := &host{settings: []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: tc.host}}}
			withHost(t, s, h, func(t *testing.T, r *multiRig) {
				if err := r.exchange(t); err != nil { // the settings are known now
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				for range 10 {
					wg.Go(func() {
						for r.late(t) == again {
						}
					})
				}
				wg.Wait()
				if n := r.dialed.Load(); n > int32(tc.dials) || r.served.Load() != 11 {
					t.Errorf("%d connections, want up to %d; %d requests served", n, tc.dials, r.served.Load())
				}
				if n := uint32(r.most.Load()); n > tc.host || tc.ours > 0 && n > tc.ours {
					t.Errorf("%d streams at once", n)
				}
			})
		})
	}
}

// again is how a request ends that found the host's bound to be lower than was
// thought before its SETTINGS came: it wasn't sent.
var again = &http.Error{}

// late is exchange for requests that all come before one is sent.
func (r *multiRig) late(t *testing.T) *http.Error {
	c := r.acquire(t)
	defer c.Pool().PutStream(c)
	<-time.After(100 * time.Millisecond)
	re, err := open(c)
	if err == nil {
		err = <-re.done
	} else if err.Retry == http.RetryAlways {
		return again
	}
	if err != nil {
		t.Error(err)
	}
	return err
}

func TestStreamsWaitEnds(t *testing.T) {
	s := bounds()
	s.MaxConnections, s.MaxStreams, s.MaxPending = 1, 1, 2
	withHost(t, s, &host{hold: true}, func(t *testing.T, r *multiRig) {
		p := r.hosts[0]
		c := r.acquire(t)
		cancel := make(chan struct{})
		results := make(chan *http.Error, 2)
		go func() { _, err := p.AcquireStream(0, cancel); results <- err }()
		go func() { _, err := p.AcquireStream(http.Now()+int64(time.Second), nil); results <- err }()
		synctest.Wait()
		if _, err := p.AcquireStream(0, nil); err != errOverflow {
			t.Errorf("beyond the pending ones: %v", err)
		}
		if err := <-results; err != errLate {
			t.Errorf("at the deadline: %v", err)
		}
		close(cancel)
		if err := <-results; err != errCancelled {
			t.Errorf("when cancelled: %v", err)
		}
		p.PutStream(c)
		if p.Stats.RqActive.Value() != 0 || r.pending.Load() != 0 {
			t.Errorf("%d active, %d pending", p.Stats.RqActive.Value(), r.pending.Load())
		}
	})
}

func TestStreamsMaxRequests(t *testing.T) {
	s := bounds()
	s.MaxRequestsPerConnection = 3
	withHost(t, s, &host{}, func(t *testing.T, r *multiRig) {
		for range 7 {
			if err := r.exchange(t); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := r.dialed.Load(); n != 3 || r.hosts[0].Open() != 1 {
			t.Errorf("%d connections for 7 requests, %d open", n, r.hosts[0].Open())
		}
	})
}

func TestStreamsTimes(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(s *Settings)
		idle uint64
	}{
		{"idle", func(s *Settings) { s.IdleTimeout = 5 * time.Second }, 1},
		{"age", func(s *Settings) { s.MaxConnectionAge = 5 * time.Second }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := bounds()
			tc.set(&s)
			withHost(t, s, &host{hold: true}, func(t *testing.T, r *multiRig) {
				c := r.acquire(t)
				re, err := open(c)
				if err != nil {
					t.Fatal(err)
				}
				pass(20 * time.Second)
				if r.hosts[0].Open() != 1 {
					t.Fatal("a connection with a request is closed")
				}
				if got := r.st.CxIdleTimeout.Value() + r.st.CxMaxDuration.Value(); got != 1-tc.idle {
					t.Errorf("counted %d times", got)
				}
				re.s.Reset(h2.CodeCancel)
				c.Pool().PutStream(c)
				pass(10 * time.Second)
				if r.hosts[0].Open() != 0 || r.st.CxIdleTimeout.Value() != tc.idle || r.st.CxMaxDuration.Value() != 1-tc.idle {
					t.Errorf("%d open; idle %d, age %d", r.hosts[0].Open(), r.st.CxIdleTimeout.Value(), r.st.CxMaxDuration.Value())
				}
			})
		})
	}
}

// TestStreamsGoAway holds that a host that leaves gets no further requests.
func TestStreamsGoAway(t *testing.T) {
	h := &host{}
	withHost(t, bounds(), h, func(t *testing.T, r *multiRig) {
		h.goAway.Store(true)
		for range 3 {
			if err := r.exchange(t); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if n := r.dialed.Load(); n != 3 || r.hosts[0].Open() != 0 {
			t.Errorf("%d connections, %d open", n, r.hosts[0].Open())
		}
	})
}

// TestStreamsClose holds that a pool that is closed lets requests end, and
// serves those that wait.
func TestStreamsClose(t *testing.T) {
	t.Run("in use", func(t *testing.T) {
		withHost(t, bounds(), &host{hold: true}, func(t *testing.T, r *multiRig) {
			c := r.acquire(t)
			r.hosts[0].Close()
			re, err := open(c)
			if err != nil {
				t.Fatal("a request that had its connection is refused")
			}
			synctest.Wait()
			if len(re.done) > 0 || r.hosts[0].Open() != 1 {
				t.Fatal("a request is cut off")
			}
			re.s.Reset(h2.CodeCancel)
			r.hosts[0].PutStream(c)
			synctest.Wait()
			if r.hosts[0].Open() != 0 {
				t.Error("the connection stays open")
			}
		})
	})
	t.Run("while dialling", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, wg, dialed, block := &host{}, sync.WaitGroup{}, atomic.Int32{}, make(chan struct{})
			in := h.dial(&wg, &dialed)
			r := &multiRig{host: h}
			r.rig = newRig(t, bounds(), func(ctx context.Context, a string, s *Socket) (net.Conn, error) {
				<-block
				return in(ctx, a, s)
			}, time.Hour, "a")
			done := make(chan *http.Error, 1)
			go func() { done <- r.exchange(t) }()
			synctest.Wait()
			r.hosts[0].Close()
			close(block)
			if err := <-done; err != nil {
				t.Errorf("the request that waited: %v", err)
			}
			synctest.Wait()
			if dialed.Load() != 1 || r.hosts[0].Open() != 0 {
				t.Errorf("%d connections made, %d open", dialed.Load(), r.hosts[0].Open())
			}
			r.rig.close()
			wg.Wait()
		})
	})
}

func TestStreamsKeepalive(t *testing.T) {
	s := bounds()
	s.HTTP2 = h2.Config{KeepaliveInterval: 10 * time.Second, KeepaliveTimeout: 5 * time.Second}
	withHost(t, s, &host{}, func(t *testing.T, r *multiRig) {
		if err := r.exchange(t); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if r.hosts[0].Open() != 1 {
			t.Error("a connection that answers is closed")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var far net.Conn
		r := newRig(t, s, func(context.Context, string, *Socket) (net.Conn, error) {
			near, f := net.Pipe()
			far = f
			go func() { _, _ = io.Copy(io.Discard, f) }()
			return near, nil
		}, time.Second, "a")
		c, err := r.hosts[0].AcquireStream(0, nil)
		if err != nil {
			t.Fatal(err)
		}
		re, _ := open(c)
		pass(30 * time.Second)
		if err := <-re.done; err == nil || r.hosts[0].Open() != 0 {
			t.Errorf("a connection that is dead: %v, %d open", err, r.hosts[0].Open())
		}
		r.hosts[0].PutStream(c)
		r.close()
		_ = far.Close()
	})
}

// TestStreamsRaces changes everything at once, for the race detector.
func TestStreamsRaces(t *testing.T) {
	s := bounds()
	s.MaxRequestsPerConnection, s.MaxStreams, s.MaxConnections = 7, 3, 4
	withHost(t, s, &host{}, func(t *testing.T, r *multiRig) {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 50 {
					if err := r.exchange(t); err != nil && err.Retry == http.RetryNever {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if r.most.Load() > 3 {
			t.Errorf("%d streams at once on a connection", r.most.Load())
		}
	})
}
