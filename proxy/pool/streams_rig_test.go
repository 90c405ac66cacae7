// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
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

// h2Hosts is a DialFunc to hosts that speak HTTP/2 in memory, so that tests can
// run on virtual time. They answer nothing by themselves.
type h2Hosts struct {
	settings []http2.Setting // of new connections
	held     bool            // dials wait for block
	block    chan struct{}   // as that of pipes; of the test's bubble
	fail     error

	mu    sync.Mutex
	conns []*h2Host // in order of their making
	tried int
}

// h2Host is a host's end of one connection.
type h2Host struct {
	*http2.Framer
	nc      net.Conn
	write   sync.Mutex   // held while a frame is written
	goAways atomic.Int32 // that came
	opened  atomic.Int32 // HEADERS that came
	acks    atomic.Int32 // SETTINGS that the client has acknowledged
	ended   atomic.Bool  // nothing more comes
}

func (h *h2Hosts) dial(ctx context.Context, _ string, _ *Socket) (net.Conn, error) {
	h.mu.Lock()
	h.tried++
	h.mu.Unlock()
	if h.block != nil {
		select {
		case <-h.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if h.fail != nil {
		return nil, h.fail
	}
	near, far := net.Pipe()
	host := &h2Host{Framer: http2.NewFramer(far, far), nc: far}
	h.mu.Lock()
	h.conns = append(h.conns, host)
	h.mu.Unlock()
	go host.serve(h.settings)
	return near, nil
}

func (h *h2Hosts) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.conns)
}

func (h *h2Hosts) attempts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tried
}

func (h *h2Hosts) at(i int) *h2Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns[i]
}

// end closes the group and all connections.
func (h *h2Hosts) end(r *rig) {
	r.close()
	h.mu.Lock()
	for _, c := range h.conns {
		_ = c.nc.Close()
	}
	h.mu.Unlock()
	synctest.Wait()
}

// send writes a frame; the client may have closed the connection.
func (h *h2Host) send(write func() error) {
	h.write.Lock()
	defer h.write.Unlock()
	_ = write()
}

func (h *h2Host) serve(settings []http2.Setting) {
	defer h.ended.Store(true)
	defer h.nc.Close()
	if _, err := io.ReadFull(h.nc, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	// Writing waits for the client to read, which must not keep us from reading.
	acks := make(chan struct{}, 16)
	defer close(acks)
	go func() {
		h.send(func() error { return h.WriteSettings(settings...) }) // comes first
		for range acks {
			h.send(h.WriteSettingsAck)
		}
	}()
	for {
		f, err := h.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				h.acks.Add(1)
			} else {
				acks <- struct{}{}
			}
		case *http2.GoAwayFrame:
			h.goAways.Add(1)
		case *http2.HeadersFrame:
			h.opened.Add(1)
		}
	}
}

// nobody receives what comes on a stream.
type nobody struct{ resets atomic.Int32 }

func (*nobody) OnHead(h2.Event, *h2.Block, bool) h2.Verdict { return h2.Good }
func (*nobody) OnData(h2.Event, []byte, bool)               {}
func (*nobody) OnTrailers(h2.Event, *h2.Block) h2.Verdict   { return h2.Good }
func (n *nobody) OnReset(h2.Event, *http.Error)             { n.resets.Add(1) }
func (*nobody) OnTaken(h2.Event, int, bool)                 {}

var getHead = http.RequestHead{Method: http.MethodGet, RawMethod: []byte("GET"), Authority: []byte("a"), Path: []byte("/"), Protocol: http.HTTP2}

// begin sends a request on c.
func begin(t *testing.T, c *StreamConn) (*h2.Stream, *nobody) {
	t.Helper()
	s, n := new(h2.Stream), new(nobody)
	if _, err := c.H2.Open(s, n, &getHead, true); err != nil {
		t.Fatalf("a request that has a place can't be sent: %v", err.Detail)
	}
	c.H2.Flush()
	return s, n
}

// finish ends a request and gives its place back.
func finish(c *StreamConn, s *h2.Stream) {
	s.Reset(http2.ErrCodeCancel)
	c.H2.Flush()
	c.Pool().PutStream(c)
}

// line is requests that stand in line for a connection.
type line struct {
	mu   sync.Mutex
	got  []*StreamConn // in the order of the requests; nil while they wait
	errs []*http.Error
	came []int // the requests in the order in which they were served
	done int
}

// join starts a request that waits for a connection of p; it stands in line
// when join returns.
func (l *line) join(p *Pool, deadline int64, cancel <-chan struct{}) {
	l.mu.Lock()
	i := len(l.got)
	l.got, l.errs = append(l.got, nil), append(l.errs, nil)
	l.mu.Unlock()
	go func() {
		c, err := p.AcquireStream(deadline, cancel)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.got[i], l.errs[i] = c, err
		l.came = append(l.came, i)
		l.done++
	}()
	synctest.Wait()
}

// wantDone tells how many requests have a connection, or know that there is none.
func (l *line) wantDone(t *testing.T, n int) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done != n {
		t.Fatalf("%d requests wait no more, want %d", l.done, n)
	}
}

// streamRig runs f on virtual time with the pool of one host.
func streamRig(t *testing.T, set func(*Settings), hosts *h2Hosts, f func(t *testing.T, r *rig, p *Pool)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if hosts.held {
			hosts.block = make(chan struct{})
		}
		s := Defaults()
		s.Speaks = SpeaksHTTP2
		if set != nil {
			set(&s)
		}
		r := newRig(t, s, hosts.dial, time.Minute, "a:1")
		// Deferred, so that a test that fails leaves nothing behind.
		defer hosts.end(r)
		f(t, r, r.hosts[0])
		hosts.end(r)
		if n := r.Open(); n != 0 {
			t.Errorf("%d connections count as open at the end", n)
		}
		if n := r.Pending(); n != 0 {
			t.Errorf("%d requests count as pending at the end", n)
		}
	})
}

func concurrent(n uint32) []http2.Setting {
	return []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: n}}
}
