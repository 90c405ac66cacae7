// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/http/h2"
	"pillion/proxy/netio"
	"pillion/proxy/stats"
)

// sweepEvery is how often idle and waiting connections are looked at.
const sweepEvery = time.Second

// Tracker knows every open downstream connection, so that idle ones are
// closed in time, clients that broke off are noticed and a drain finds its
// end. One goroutine looks after all of them: a timer per connection would
// cost more memory than the connection.
type Tracker struct {
	mu       sync.Mutex
	head     conn // sentinel of a ring; guarded by mu, as are the links
	count    int  // guarded by mu
	over     bool // a drain has broken off what was left; guarded by mu
	draining atomic.Bool
	inbound  atomic.Bool   // the inbound ones are to end
	empty    chan struct{} // closed when draining and count is 0; guarded by mu

	// HTTP2 is what connections of HTTP/2 count by themselves.
	HTTP2 h2.Stats

	// DrainTime is how long connections of retired generations may take; 0 for no
	// bound. Set it before Run.
	DrainTime time.Duration

	// OnQuiet, unless nil, is called when it is the time to give memory back: when
	// nothing has moved on any connection for a second, once after each busy time and
	// after many connections have come or gone; or when most of many are gone, be the
	// others busy or not. It is called at most every quietEvery, or sooner if many have
	// come or gone and all are quiet. Set it before Run.
	OnQuiet   func()
	worked    atomic.Bool // since the last call
	busy      bool        // likewise; owned by Run
	lastQuiet int64       // of http.Now, 0 never; owned by Run
	peak      int         // of count since the last call; guarded by mu
	settled   int         // count at the last call; guarded by mu
}

const (
	// quietEvery bounds how often OnQuiet is called.
	quietEvery = 30 * time.Second
	// many is how many connections hold memory that is worth a call.
	many = 500
)

// NewTracker returns an empty tracker. Run must be running for timeouts to
// work.
func NewTracker() *Tracker {
	t := &Tracker{}
	t.head.next, t.head.prev = &t.head, &t.head
	return t
}

// Worked notes work that is none of connections, as reading a configuration is: OnQuiet
// is due after it, too. It may be called from any goroutine.
func (t *Tracker) Worked() { t.worked.Store(true) }

// Run sweeps until ctx is done.
func (t *Tracker) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := http.Now()
			moving := t.sweep(now)
			t.noteQuiet(ctx, moving, t.noteChanges(), now)
		}
	}
}

func (t *Tracker) add(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.prev, c.next = t.head.prev, &t.head
	c.prev.next, c.next.prev = c, c
	t.count++
	t.peak = max(t.peak, t.count)
	if t.over { // it was accepted before the drain
		c.mu.Lock()
		defer c.mu.Unlock()
		c.abortLocked()
	}
}

func (t *Tracker) remove(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.prev.next, c.next.prev = c.next, c.prev
	c.prev, c.next = nil, nil
	t.count--
	if t.draining.Load() && t.count == 0 && t.empty != nil {
		close(t.empty)
		t.empty = nil
	}
}

// Count returns the number of open connections.
func (t *Tracker) Count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// each calls f for every connection, under mu: f must not block.
func (t *Tracker) each(f func(c *conn)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := t.head.next; c != &t.head; c = c.next {
		f(c)
	}
}

// changes are what has become of the connections.
type changes struct {
	fewer  bool // most of many have closed since OnQuiet was called
	others bool // many have come or gone since
}

// noteChanges finds them.
func (t *Tracker) noteChanges() changes {
	t.mu.Lock()
	defer t.mu.Unlock()
	gone := t.peak - t.count
	return changes{fewer: gone >= many && gone >= t.peak/2, others: gone >= many || t.count-t.settled >= many}
}

// noteQuiet calls OnQuiet when a busy time has ended, or there is less to do.
func (t *Tracker) noteQuiet(ctx context.Context, moving bool, c changes, now int64) {
	t.busy = t.worked.Swap(false) || t.busy || moving
	quiet := !moving && (t.busy || c.others)
	soon := t.lastQuiet != 0 && now-t.lastQuiet < int64(quietEvery)
	if t.OnQuiet == nil || !quiet && !c.fewer || soon && !(quiet && c.others) {
		return
	}
	t.busy, t.lastQuiet = moving, now
	t.mu.Lock()
	t.peak, t.settled = t.count, t.count
	t.mu.Unlock()
	t.renewStacks(ctx, now)
	t.OnQuiet()
}

// sweep closes and cancels what is due, and reports whether anything has
// moved lately.
func (t *Tracker) sweep(now int64) (moving bool) {
	t.each(func(c *conn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ending() {
			moving = true
			c.sweepEndingLocked(now)
			return
		}
		if c.multi != nil {
			moving = c.sweepMultiLocked(now) || moving
			return
		}
		age := time.Duration(now - c.since)
		if c.state == stateActive || age < sweepEvery {
			moving = true
		}
		switch c.state {
		case stateIdle:
			if limit := c.m.config().IdleTimeout; limit > 0 && age > limit {
				c.m.Stats.CxIdleTimeout.Inc()
				c.closeIdleLocked()
			}
		case stateAsking:
			if age > sweepEvery && c.sc.Watch() == netio.PeerReset {
				c.giveUpLocked()
			}
		case stateActive:
			if age > sweepEvery && c.sc.Watch() == netio.PeerReset {
				c.cancelLocked()
			}
		}
	})
	return moving
}

// Rules of a drain: how often idle connections are looked at, and for how
// long one must have been quiet to be closed. Closing one that is only between
// two requests would lose the request that is on its way.
const (
	drainEvery = 50 * time.Millisecond
	drainQuiet = 250 * time.Millisecond
)

// Drain lets every connection finish its exchange, tells its client that it
// was the last, and closes quiet ones. It returns when all are closed; when
// ctx is done first, it breaks off the rest.
func (t *Tracker) Drain(ctx context.Context) {
	empty := t.startDrain()
	if empty == nil {
		return
	}
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for {
		t.closeQuiet(http.Now())
		select {
		case <-empty:
			return
		case <-tick.C:
		case <-ctx.Done():
			t.abortAll()
			<-empty
			return
		}
	}
}

func (t *Tracker) closeQuiet(now int64) {
	t.each(func(c *conn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.endQuietLocked(now)
	})
}

func (t *Tracker) abortAll() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.each(func(c *conn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.abortLocked()
	})
}

// DrainInbound has inbound connections end as Drain does, for as long as they
// take, and returns. It holds for those that are still to come, too.
func (t *Tracker) DrainInbound() { t.inbound.Store(true) }

// ending reports whether the connection is to be closed after its current exchange.
func (c *conn) ending() bool {
	t := c.m.tracker
	return t.draining.Load() || c.generation != c.m.generation.Load() || t.inbound.Load() && c.info.Direction == http.Inbound
}

// sweepEndingLocked brings a connection that is to end nearer to it; mu is held.
func (c *conn) sweepEndingLocked(now int64) {
	limit := c.m.tracker.DrainTime
	if limit > 0 && c.generation != c.m.generation.Load() && time.Duration(now-c.m.retired.Load()) > limit {
		c.abortLocked()
		return
	}
	c.endQuietLocked(now)
}

// endQuietLocked ends the connection if nothing is under way; mu is held.
func (c *conn) endQuietLocked(now int64) {
	if c.multi != nil {
		c.drainMultiLocked(now)
		return
	}
	if c.state == stateIdle && now-c.since > int64(drainQuiet) {
		c.m.Stats.CxDrainClose.Inc()
		c.closeIdleLocked()
	}
}

// abortLocked breaks the connection off; mu is held.
func (c *conn) abortLocked() {
	if c.multi != nil {
		c.multi.Abort()
		return
	}
	c.giveUpLocked()
	c.cancelLocked()
	c.stackStaysLocked()
	c.sc.Abort()
}

// startDrain marks the tracker and returns the channel that tells the end,
// nil when there is nothing to wait for.
func (t *Tracker) startDrain() chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining.Store(true)
	if t.count == 0 {
		return nil
	}
	if t.empty == nil {
		t.empty = make(chan struct{})
	}
	return t.empty
}

// Draining reports whether connections are to be closed after their current
// exchange.
func (t *Tracker) Draining() bool { return t.draining.Load() }

// CollectStats reports what HTTP/2 connections count, under the names that
// Envoy gives its codec.
func (t *Tracker) CollectStats(e *stats.Emitter) {
	t.HTTP2.Counters(func(name string, v uint64) { e.Counter("http2."+name, "", v) })
	t.HTTP2.Gauges(func(name string, v int64) { e.Gauge("http2."+name, "", v) })
}

// sweepMultiLocked is sweep for an HTTP/2 connection; mu is held.
func (c *conn) sweepMultiLocked(now int64) (moving bool) {
	idle := c.multi.IdleSince()
	if idle == 0 || time.Duration(now-idle) < sweepEvery {
		moving = true
	}
	limit := c.m.config().IdleTimeout
	if idle != 0 && limit > 0 && time.Duration(now-idle) > limit && c.state != stateClosing {
		c.m.Stats.CxIdleTimeout.Inc()
		c.state, c.since = stateClosing, now
		go c.multi.FinishDrain() // it writes, and the tracker is locked
		return moving
	}
	c.multi.Keepalive(now)
	return moving
}

// drainMultiLocked ends an HTTP/2 connection in two steps: the streams that
// are on their way when the client is told are still served. mu is held.
func (c *conn) drainMultiLocked(now int64) {
	switch {
	case c.state != stateClosing:
		c.m.Stats.CxDrainClose.Inc()
		c.state, c.since = stateClosing, now
		go c.multi.Drain()
	case now-c.since > int64(drainQuiet):
		go c.multi.FinishDrain()
	}
}
