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

	pool     *Pool // immutable
	created  int64  // http.Now; immutable
	epoch    uint32 // of Group.epoch, when it was dialled; immutable
	requests uint32
	active   uint32 // requests that have it now
	leaving  bool   // takes no more requests; guarded by Pool.mu, as those above
	drained  bool   // and was told so
}

// Pool returns the pool that the connection belongs to.
func (c *StreamConn) Pool() *Pool { return c.pool }

// multi is the HTTP/2 side of a pool, guarded by Pool.mu.
type multi struct {
	conns   []*StreamConn
	dialing *dialing      // nil when no connection is being made
	changed chan struct{} // closed at the next change; nil when nobody waits
	waiting int           // requests that wait
}

// dialing is the making of one connection, for which any number of requests
// wait.
type dialing struct {
	done chan struct{} // closed when it has ended
	err  *http.Error   // nil: there is a connection now; read after done
}

// TryStream returns a connection that has room for a request, nil if there is
// none. It doesn't wait and doesn't allocate.
func (p *Pool) TryStream() *StreamConn {
	s := p.group.settings.Load()
	p.mu.Lock()
	c := p.roomLocked(s)
	p.mu.Unlock()
	if c != nil {
		p.Stats.RqActive.Inc()
		p.Stats.RqTotal.Inc()
	}
	return c
}

// roomLocked finds a connection with room, and takes one of its requests. mu
// is held.
func (p *Pool) roomLocked(s *Settings) *StreamConn {
	for _, c := range p.multi.conns {
		if c.leaving || !c.room(s) {
			continue
		}
		c.requests++
		c.active++
		if s.MaxRequestsPerConnection != 0 && c.requests >= s.MaxRequestsPerConnection {
			p.group.stats.CxMaxRequests.Inc()
			c.leaving = true
		}
		return c
	}
	return nil
}

// room reports whether another request may go on c. It counts those that have
// the connection, for they may not have opened their streams yet. Pool.mu is
// held.
func (c *StreamConn) room(s *Settings) bool {
	most := c.H2.MaxOpen()
	if s.MaxStreams != 0 {
		most = min(most, s.MaxStreams)
	}
	return c.active < most
}

// AcquireStream returns a connection for one request, to be given back with
// PutStream. It waits until deadline (http.Now; 0 for no bound) or until
// cancel is closed.
func (p *Pool) AcquireStream(deadline int64, cancel <-chan struct{}) (*StreamConn, *http.Error) {
	if c := p.TryStream(); c != nil {
		return c, nil
	}
	p.Stats.RqActive.Inc()
	c, err := p.pendStream(deadline, cancel)
	if err != nil {
		p.Stats.RqActive.Dec()
		return nil, err
	}
	p.Stats.RqTotal.Inc()
	return c, nil
}

// PutStream gives a connection back after a request, whose stream is over. It
// writes nothing, since callers may hold what a receiver of the connection
// waits for.
func (p *Pool) PutStream(c *StreamConn) {
	p.Stats.RqActive.Dec()
	p.mu.Lock()
	c.active--
	c.leaving = c.leaving || p.stale(c)
	drain := c.drainLocked()
	p.wakeLocked()
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
	p.waits(1)
	defer p.waits(-1)
	g.stats.RqPendingTotal.Inc()
	var expired <-chan time.Time
	if deadline != 0 {
		t := time.NewTimer(time.Duration(deadline - http.Now()))
		defer t.Stop()
		expired = t.C
	}
	for {
		c, changed, d := p.roomOrDial()
		if c != nil {
			return c, nil
		}
		var done chan struct{}
		if d != nil {
			done = d.done
		}
		select {
		case <-changed:
		case <-done:
			if d.err != nil {
				return nil, d.err
			}
		case <-cancel:
			return nil, errCancelled
		case <-expired:
			return nil, errLate
		}
	}
}

// waits counts those that wait. The last one leaves no connection behind that
// was made for it alone.
func (p *Pool) waits(n int) {
	p.mu.Lock()
	p.multi.waiting += n
	last := p.multi.waiting == 0
	var stale []*StreamConn
	for _, c := range p.multi.conns {
		if last && !c.leaving && p.stale(c) {
			stale = append(stale, c)
		}
	}
	p.mu.Unlock()
	for _, c := range stale {
		p.retireStreams(c)
	}
}

// roomOrDial finds room for a request. Without any it sees to it that a
// connection is being made, where one may be, and returns what to wait for.
func (p *Pool) roomOrDial() (c *StreamConn, changed chan struct{}, d *dialing) {
	g := p.group
	s := g.settings.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	if c = p.roomLocked(s); c != nil {
		return c, nil, nil
	}
	m := &p.multi
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	if m.dialing == nil {
		if !g.reserve() {
			g.stats.CxOverflow.Inc()
			if len(m.conns) > 0 {
				return nil, m.changed, nil
			}
			// A host always gets one connection, since those of other hosts may
			// live as long as they like (Envoy: ConnPoolImplBase::tryCreateNewConnection).
			g.open.Add(1)
		}
		m.dialing = &dialing{done: make(chan struct{})}
		go p.dialStreams(m.dialing, s)
	}
	return nil, m.changed, m.dialing
}

// dialStreams makes a connection in a place that is reserved.
func (p *Pool) dialStreams(d *dialing, s *Settings) {
	g := p.group
	p.countConnect(g)
	g.stats.CxHTTP2Total.Inc()
	epoch := g.epoch.Load()
	start := http.Now()
	nc, err := p.dial(s, start, 0, nil)
	if err != nil {
		p.countFailure(err)
		p.mu.Lock()
		p.multi.dialing = nil
		p.mu.Unlock()
		g.release()
		d.err = err
		close(d.done)
		return
	}
	now := http.Now()
	g.stats.connectTime.get().Record(now - start)
	c := &StreamConn{pool: p, created: now, epoch: epoch}
	c.H2 = h2.NewClient(nc, &s.HTTP2, g.stats.http2.get(), p)
	p.mu.Lock()
	p.multi.dialing = nil
	// Those that wait may still have it: PutStream sees that it is the last.
	leave := p.stale(c) && p.multi.waiting == 0
	p.multi.conns = append(p.multi.conns, c)
	p.mu.Unlock()
	close(d.done)
	p.StreamsFreed(c.H2)
	if leave {
		p.retireStreams(c)
	}
	c.H2.Run()
	p.lost(c)
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
	p.StreamsFreed(c.H2)
}

// forgetLocked takes c off the list. mu is held.
func (p *Pool) forgetLocked(c *StreamConn) {
	if i := slices.Index(p.multi.conns, c); i >= 0 {
		p.multi.conns = slices.Delete(p.multi.conns, i, i+1)
	}
}

// StreamsFreed wakes the requests that wait for room. It implements
// h2.Observer.
func (p *Pool) StreamsFreed(*h2.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeLocked()
}

// wakeLocked has the requests that wait look again. mu is held.
func (p *Pool) wakeLocked() {
	if p.multi.changed != nil {
		close(p.multi.changed)
		p.multi.changed = nil
	}
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

// retireStreams has c end with the last request that has it, which may have
// to open its stream yet.
func (p *Pool) retireStreams(c *StreamConn) {
	p.mu.Lock()
	c.leaving = true
	drain := c.drainLocked()
	p.mu.Unlock()
	if drain {
		c.H2.Drain()
	}
}

// drainLocked reports whether it is time to tell the host that c takes no more
// requests, once. Pool.mu is held.
func (c *StreamConn) drainLocked() bool {
	drain := c.leaving && !c.drained && c.active == 0
	c.drained = c.drained || drain
	return drain
}

// stale reports whether c is not to be used by further requests.
func (p *Pool) stale(c *StreamConn) bool {
	return p.gone.Load() || p.group.closed.Load() || c.epoch != p.group.epoch.Load()
}

// sweepStreams ends connections whose time is up, and looks whether quiet ones
// are alive.
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

// timeUp reports whether c is to take no more requests, and counts why.
func (p *Pool) timeUp(c *StreamConn, s *Settings, now int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := c.H2.IdleSince()
	switch {
	case c.leaving:
		return false // it is known already
	case c.active == 0 && since != 0 && s.IdleTimeout > 0 && now-since >= int64(s.IdleTimeout):
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
	defer p.mu.Unlock()
	for _, c := range p.multi.conns {
		n += c.H2.Active()
	}
	return n
}
