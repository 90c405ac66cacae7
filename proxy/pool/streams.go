// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"slices"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/http/h2"
)

// StreamConn is an HTTP/2 connection of a pool, which carries many requests at
// once. It belongs to its pool; requests use it between TryStream or
// AcquireStream and PutStream.
type StreamConn struct {
	H2 *h2.Conn
	// TLS is what the handshake settled, nil on a plain connection. Immutable.
	TLS *http.TLSInfo

	pool    *Pool // immutable
	created int64 // http.Now; immutable

	// Guarded by Pool.mu.
	requests uint32 // carried, those in progress included
	inUse    int    // requests in progress
	leaving  bool   // takes no more requests
	drained  bool   // and its host was told
}

// Pool returns the pool that the connection belongs to.
func (c *StreamConn) Pool() *Pool { return c.pool }

// multi is the HTTP/2 side of a pool, guarded by Pool.mu.
type multi struct {
	conns   []*StreamConn
	dialing bool            // a connection is being made
	queue   []*streamWaiter // requests that wait for room, the first come first
}

// streamWaiter is a request that waits for room on a connection.
type streamWaiter struct {
	ready chan struct{} // closed when one of the two below is set
	conn  *StreamConn
	err   *http.Error // why there can be none
}

// carries reports whether a connection takes requests, now or when others are
// done. Pool.mu is held.
func (m *multi) carries() bool {
	return slices.ContainsFunc(m.conns, func(c *StreamConn) bool { return !c.leaving && c.H2.Capacity() > 0 })
}

// TryStream returns a connection that has room for a request, nil if there is
// none or others wait for it. It doesn't wait and doesn't allocate.
func (p *Pool) TryStream() *StreamConn {
	s := p.group.settings.Load()
	p.mu.Lock()
	var c *StreamConn
	if len(p.multi.queue) == 0 {
		c = p.roomLocked(s)
	}
	p.mu.Unlock()
	if c != nil {
		p.owner().Stats.RqActive.Inc()
		p.owner().Stats.RqTotal.Inc()
	}
	return c
}

// roomLocked finds a connection with room, and takes a place on it. mu is held.
func (p *Pool) roomLocked(s *Settings) *StreamConn {
	for _, c := range p.multi.conns {
		if c.leaving {
			continue
		}
		limit := c.H2.Capacity()
		if s.MaxStreams > 0 {
			limit = min(limit, int(s.MaxStreams))
		}
		if c.inUse >= limit {
			continue
		}
		c.inUse++
		c.requests++
		if s.MaxRequestsPerConnection != 0 && c.requests >= s.MaxRequestsPerConnection {
			p.group.stats.CxMaxRequests.Inc()
			c.leaving = true
		}
		return c
	}
	return nil
}

// AcquireStream returns a connection for one request, to be given back with
// PutStream. It waits until deadline (http.Now; 0 for no bound) or until
// cancel is closed.
func (p *Pool) AcquireStream(deadline int64, cancel <-chan struct{}) (*StreamConn, *http.Error) {
	if c := p.TryStream(); c != nil {
		return c, nil
	}
	p.owner().Stats.RqActive.Inc()
	c, err := p.pendStream(deadline, cancel)
	if err != nil {
		p.owner().Stats.RqActive.Dec()
		return nil, err
	}
	p.owner().Stats.RqTotal.Inc()
	return c, nil
}

// PutStream gives a connection back after a request, whose stream is over. It
// writes nothing, since callers may hold a lock that receivers of the connection
// wait for.
func (p *Pool) PutStream(c *StreamConn) {
	p.owner().Stats.RqActive.Dec()
	p.freeStream(c)
}

// freeStream gives back the place that a request had on c.
func (p *Pool) freeStream(c *StreamConn) {
	s := p.group.settings.Load()
	p.mu.Lock()
	c.inUse--
	drain := c.drainLocked()
	p.serveLocked(s)
	p.mu.Unlock()
	if drain {
		go c.H2.Drain()
	}
}

// pendStream counts the request as pending until it has a connection.
func (p *Pool) pendStream(deadline int64, cancel <-chan struct{}) (*StreamConn, *http.Error) {
	g := p.group
	s := g.settings.Load()
	if !addBelow(&g.pending, s.MaxPending) {
		g.stats.RqPendingOverflow.Inc()
		return nil, errOverflow
	}
	defer g.pending.Add(-1)
	g.stats.RqPendingTotal.Inc()
	w := &streamWaiter{ready: make(chan struct{})}
	p.mu.Lock()
	p.multi.queue = append(p.multi.queue, w)
	p.serveLocked(s)
	p.mu.Unlock()

	var expired <-chan time.Time
	if deadline != 0 {
		t := time.NewTimer(time.Duration(deadline - http.Now()))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-w.ready:
		return w.conn, w.err
	case <-cancel:
		return nil, p.abandonStream(w, errCancelled)
	case <-expired:
		return nil, p.abandonStream(w, errLate)
	}
}

// abandonStream takes w out of line, and gives back what it may have got
// meanwhile.
func (p *Pool) abandonStream(w *streamWaiter, err *http.Error) *http.Error {
	p.mu.Lock()
	i := slices.Index(p.multi.queue, w)
	if i >= 0 {
		p.multi.queue = slices.Delete(p.multi.queue, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 && w.conn != nil {
		p.freeStream(w.conn)
	}
	return err
}

// serveLocked gives the requests in line what room there is. Where some go
// without it sees to it that a connection is being made, if one may be. mu is
// held.
func (p *Pool) serveLocked(s *Settings) {
	m, g := &p.multi, p.group
	n := 0
	for n < len(m.queue) {
		c := p.roomLocked(s)
		if c == nil {
			break
		}
		m.queue[n].conn = c
		close(m.queue[n].ready)
		n++
	}
	m.queue = slices.Delete(m.queue, 0, n)
	if len(m.queue) == 0 || m.dialing {
		return
	}
	if !g.reserve() {
		if m.carries() {
			return
		}
		// A host always gets one connection, since those of other hosts may
		// live as long as they like (Envoy: ConnPoolImplBase::tryCreateNewConnection).
		g.stats.CxOverflow.Inc()
		g.open.Add(1)
	}
	m.dialing = true
	go p.dialStreams(s)
}

// dialStreams makes a connection in a place that is reserved, and serves it
// until it ends.
func (p *Pool) dialStreams(s *Settings) {
	g := p.group
	p.countConnect(g)
	g.stats.CxHTTP2Total.Inc()
	epoch := p.age()
	start := http.Now()
	nc, err := p.dial(s, s.ALPN.http2(), start, 0, nil)
	if err != nil {
		p.countFailure(err)
		p.failStreams(err)
		g.release()
		return
	}
	now := http.Now()
	g.stats.connectTime.get().Record(now - start)
	c := &StreamConn{TLS: settled(nc), pool: p, created: now}
	c.H2 = h2.NewClient(nc, &s.HTTP2, g.stats.http2.get(), p)
	p.mu.Lock()
	p.multi.dialing = false
	p.multi.conns = append(p.multi.conns, c)
	p.serveLocked(g.settings.Load())
	p.mu.Unlock()
	if p.gone.Load() || g.closed.Load() || epoch != p.age() {
		p.drainStreams() // what was made while others were closed
	}
	c.H2.Run()
	p.lost(c)
}

// failStreams tells those who wait that no connection could be made.
func (p *Pool) failStreams(err *http.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.multi.dialing = false
	for _, w := range p.multi.queue {
		w.err = err
		close(w.ready)
	}
	clear(p.multi.queue)
	p.multi.queue = p.multi.queue[:0]
}

// lost forgets a connection that has ended.
func (p *Pool) lost(c *StreamConn) {
	p.mu.Lock()
	how := closedByHost
	if c.leaving {
		how = closedByUs
	}
	p.forgetLocked(c)
	requests := c.requests
	p.mu.Unlock()
	p.countClose(how, c.created, requests)
	p.group.release()
	p.CapacityChanged(c.H2)
}

// forgetLocked takes c off the list. mu is held.
func (p *Pool) forgetLocked(c *StreamConn) {
	if i := slices.Index(p.multi.conns, c); i >= 0 {
		p.multi.conns = slices.Delete(p.multi.conns, i, i+1)
	}
}

// CapacityChanged serves the requests in line. It implements h2.Observer.
func (p *Pool) CapacityChanged(*h2.Conn) {
	s := p.group.settings.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serveLocked(s)
}

// drainStreams lets the connections end with the requests that are on them.
func (p *Pool) drainStreams() {
	p.mu.Lock()
	all := slices.Clone(p.multi.conns)
	p.mu.Unlock()
	for _, c := range all {
		p.retireStreams(c)
	}
}

// retireStreams has c end with the last request that has it.
func (p *Pool) retireStreams(c *StreamConn) {
	p.mu.Lock()
	c.leaving = true
	drain := c.drainLocked()
	p.mu.Unlock()
	if drain {
		c.H2.Drain()
	}
}

// drainLocked reports, once, that it is time to tell the host that c takes no
// more requests: those that have it may have to open their streams yet.
// Pool.mu is held.
func (c *StreamConn) drainLocked() bool {
	drain := c.leaving && !c.drained && c.inUse == 0
	c.drained = c.drained || drain
	return drain
}

// sweepStreams ends connections whose time is up, and looks whether others are
// alive.
func (p *Pool) sweepStreams(s *Settings, now int64) {
	p.mu.Lock()
	all := slices.Clone(p.multi.conns)
	p.mu.Unlock()
	for _, c := range all {
		if p.timeUp(c, s, now) {
			p.retireStreams(c)
		} else {
			c.H2.Keepalive(now)
		}
	}
}

// timeUp reports whether c is to take no more requests from now on, and counts
// why.
func (p *Pool) timeUp(c *StreamConn, s *Settings, now int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := c.H2.IdleSince()
	switch {
	case c.leaving:
		return false // it is known already
	case c.inUse == 0 && since != 0 && s.IdleTimeout > 0 && now-since >= int64(s.IdleTimeout):
		p.group.stats.CxIdleTimeout.Inc()
	case s.MaxConnectionAge > 0 && now-c.created >= int64(s.MaxConnectionAge):
		p.group.stats.CxMaxDuration.Inc()
	default:
		return false
	}
	c.leaving = true
	return true
}

// OpenStreams returns the number of requests on HTTP/2 connections, for display.
func (p *Pool) OpenStreams() (n int) {
	p.mu.Lock()
	for _, c := range p.multi.conns {
		n += c.H2.Active()
	}
	p.mu.Unlock()
	p.eachName(func(q *Pool) { n += q.OpenStreams() })
	return n
}
