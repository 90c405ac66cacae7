// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"bufio"
	"context"
	"errors"
	"net"
	nethttp "net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"pillion/proxy/http"
	"pillion/proxy/proxytest"
)

// idleRig are connections that have each served a request and now wait.
type idleRig struct {
	t       *testing.T
	tr      *Tracker
	m       *Manager
	clients []*idleClient
	// moves counts how often a goroutine has left a connection to another one.
	moves  atomic.Int32
	served sync.WaitGroup
}

// idleClient is the other end of one.
type idleClient struct {
	net.Conn
	in *bufio.Reader
	h2 *nethttp.Transport // nil speaks HTTP/1
}

// ask has a request answered.
func (c *idleClient) ask() error {
	req, err := nethttp.NewRequest(nethttp.MethodGet, "http://a/", nil)
	if err != nil {
		return err
	}
	var resp *nethttp.Response
	if c.h2 != nil {
		resp, err = c.h2.RoundTrip(req)
	} else if err = req.Write(c); err == nil {
		resp, err = nethttp.ReadResponse(c.in, req)
	}
	if err != nil {
		return err
	}
	if resp.StatusCode != nethttp.StatusNotFound {
		err = errors.New(resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

func newIdleRig(t *testing.T, n int, overHTTP2 bool) *idleRig {
	r := &idleRig{t: t, tr: NewTracker()}
	r.m = New(&Config{Routes: new(Routes)}, r.tr)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for range n {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		nc, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r.served.Add(1)
		go r.serve(func() http.Rest {
			return r.m.Serve(nc, &http.ConnInfo{Local: nc.LocalAddr().String(), Remote: nc.RemoteAddr().String()})()
		})
		t.Cleanup(func() { _ = c.Close() })
		client := &idleClient{Conn: c, in: bufio.NewReaderSize(c, 512)}
		if overHTTP2 {
			client.h2 = &nethttp.Transport{Protocols: new(nethttp.Protocols)}
			client.h2.Protocols.SetUnencryptedHTTP2(true)
			client.h2.DialContext = func(context.Context, string, string) (net.Conn, error) { return c, nil }
		}
		r.clients = append(r.clients, client)
	}
	r.askAll()
	return r
}

func (r *idleRig) askAll() {
	r.t.Helper()
	for _, c := range r.clients {
		if err := c.ask(); err != nil {
			r.t.Fatal(err)
		}
	}
}

// serve does as a listener does.
func (r *idleRig) serve(part http.Rest) {
	if rest := part(); rest != nil {
		r.moves.Add(1)
		go r.serve(rest)
		return
	}
	r.served.Done()
}

// renew renews the stacks, as after a while.
func (r *idleRig) renew() { r.tr.renewStacks(r.t.Context(), http.Now()+int64(2*sweepEvery)) }

// TestRenewStacks: idle connections cost no more stack than waiting takes, go on as
// before, and are each counted once.
func TestRenewStacks(t *testing.T) {
	t.Run("HTTP/1", func(t *testing.T) { testRenewStacks(t, false) })
	t.Run("HTTP/2", func(t *testing.T) { testRenewStacks(t, true) })
}

func testRenewStacks(t *testing.T, overHTTP2 bool) {
	const n = 1000
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.StackInuse / n
	}
	r := newIdleRig(t, n, overHTTP2)
	was := inUse()
	r.renew()
	if got := r.moves.Load(); got != n {
		t.Fatalf("%d of %d connections have moved", got, n)
	}
	// The goroutines of clients of HTTP/2 count, too.
	if is := inUse(); is+1800 > was && !overHTTP2 && !proxytest.Race {
		t.Errorf("a connection has %d bytes of stack after %d, want 2 KiB less", is, was)
	}
	r.renew()
	if got := r.moves.Load(); got != n {
		t.Errorf("%d more have moved without a request between", got-n)
	}
	r.askAll()
	r.renew()
	if got := r.moves.Load(); got != 2*n {
		t.Errorf("%d have moved after a request on each, want %d", got-n, n)
	}
	if s := &r.m.Stats; s.CxTotal.Value() != n || s.CxActive.Value() != n || r.tr.Count() != n {
		t.Errorf("%d connections of %d are counted", s.CxActive.Value(), n)
	}
	for _, c := range r.clients {
		_ = c.Close()
	}
	r.served.Wait()
	if s := &r.m.Stats; s.CxActive.Value() != 0 || s.CxDestroy.Value() != n || r.tr.Count() != 0 {
		t.Errorf("at the end %d are active, %d have ended, %d are known", s.CxActive.Value(), s.CxDestroy.Value(), r.tr.Count())
	}
}

// TestRenewFewStacks: a few are left alone.
func TestRenewFewStacks(t *testing.T) {
	r := newIdleRig(t, fewStacks-1, false)
	r.renew()
	if n := r.moves.Load(); n != 0 {
		t.Errorf("%d have moved", n)
	}
}

// TestRenewUnderLoad: whatever comes while stacks are renewed, no request is lost.
func TestRenewUnderLoad(t *testing.T) {
	t.Run("HTTP/1", func(t *testing.T) { testRenewUnderLoad(t, false) })
	t.Run("HTTP/2", func(t *testing.T) { testRenewUnderLoad(t, true) })
}

func testRenewUnderLoad(t *testing.T, overHTTP2 bool) {
	r := newIdleRig(t, 2*fewStacks, overHTTP2)
	var asking sync.WaitGroup
	for _, c := range r.clients {
		asking.Go(func() {
			for range 50 {
				if err := c.ask(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	over := make(chan struct{})
	go func() {
		asking.Wait()
		close(over)
	}()
	for {
		r.tr.each(func(c *conn) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.hasGrownLocked(http.Now() + int64(2*sweepEvery)) {
				c.leaveStackLocked()
			}
		})
		select {
		case <-over:
			if r.moves.Load() == 0 {
				t.Error("none has moved")
			}
			return
		default:
			runtime.Gosched()
		}
	}
}

// TestRenewAndEnd: a connection that is asked to leave its stack and then to end, ends.
func TestRenewAndEnd(t *testing.T) {
	t.Run("HTTP/1", func(t *testing.T) { testRenewAndEnd(t, false) })
	t.Run("HTTP/2", func(t *testing.T) { testRenewAndEnd(t, true) })
}

func testRenewAndEnd(t *testing.T, overHTTP2 bool) {
	r := newIdleRig(t, 2*fewStacks, overHTTP2)
	var locked []*conn
	r.tr.each(func(c *conn) { locked = append(locked, c) })
	for i, c := range locked {
		c.mu.Lock()
		c.leaveStackLocked()
		switch {
		case i%2 == 0:
			c.abortLocked()
		case overHTTP2:
			c.drainMultiLocked(http.Now())
		default:
			c.closeIdleLocked()
		}
		c.mu.Unlock()
	}
	r.tr.Drain(t.Context())
	r.served.Wait()
	if n := r.tr.Count(); n != 0 {
		t.Errorf("%d are left", n)
	}
}
