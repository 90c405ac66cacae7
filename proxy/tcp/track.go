// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"context"
	"sync"
	"time"

	"pillion/proxy/http"
)

// sweepEvery is how often connections are looked at.
const sweepEvery = time.Second

// Tracker knows every open connection: it ends those that are idle or open for
// too long, notices peers that broke off where nothing is read any more, adds to
// counters what has moved, and ends the rest when a drain is over. One
// goroutine looks after all of them.
type Tracker struct {
	// DrainTime is how long connections of a retired Proxy may take; 0 for no bound. Set
	// it before Run.
	DrainTime time.Duration

	mu    sync.Mutex
	head  conn          // sentinel of a ring; guarded by mu, as are the links
	count int           // guarded by mu
	over  bool          // Close was called; guarded by mu
	empty chan struct{} // closed when count is 0; nil unless draining; guarded by mu
}

// NewTracker returns an empty tracker. Run must be running for timeouts to
// work.
func NewTracker() *Tracker {
	t := &Tracker{}
	t.head.next, t.head.prev = &t.head, &t.head
	return t
}

// Run sweeps until ctx is done.
func (t *Tracker) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.sweep(http.Now())
		}
	}
}

func (t *Tracker) add(c *conn) {
	t.mu.Lock()
	c.prev, c.next = t.head.prev, &t.head
	c.prev.next, c.next.prev = c, c
	t.count++
	over := t.over
	t.mu.Unlock()
	if over { // it was accepted before, and only now is its protocol known
		c.kill(drainOver)
	}
}

func (t *Tracker) remove(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.prev.next, c.next.prev = c.next, c.prev
	c.prev, c.next = nil, nil
	t.count--
	if t.count == 0 && t.empty != nil {
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

// due is a connection that is to end.
type due struct {
	c   *conn
	why cause
}

// sweep looks at every connection. Those that are due are closed after that,
// so that none waits for the closing of another.
func (t *Tracker) sweep(now int64) {
	var end []due
	t.mu.Lock()
	for c := t.head.next; c != &t.head; c = c.next {
		if why := c.look(now); why != running {
			end = append(end, due{c, why})
		}
	}
	t.mu.Unlock()
	for _, d := range end {
		switch d.why {
		case idleTooLong:
			d.c.p.cfg.Stats.IdleTimeout.Inc()
		case openTooLong:
			d.c.p.cfg.Stats.MaxDuration.Inc()
			d.c.fail(http.FlagDurationTimeout)
		}
		d.c.kill(d.why)
	}
}

// look counts what has moved and returns why the connection is to end, if it
// is.
func (c *conn) look(now int64) cause {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != running {
		return running
	}
	if c.countLocked() {
		c.moved = now
	}
	if at, limit := c.p.retired.Load(), c.p.tracker.DrainTime; at != 0 && limit > 0 && now-at > int64(limit) {
		return drainOver
	}
	if limit := c.p.cfg.MaxDuration; limit > 0 && now-c.start >= int64(limit) {
		return openTooLong
	}
	if !c.connected {
		if c.down.Gone() {
			return clientReset
		}
		return running
	}
	if now >= c.tellAt {
		c.tellLocked(now, false)
	}
	switch idle := c.p.cfg.IdleTimeout; {
	case idle > 0 && now-c.moved >= int64(idle):
		return idleTooLong
	case c.downEnded.Load() && c.down.Gone():
		return clientReset
	case c.upEnded.Load() && c.up.Gone():
		return upstreamReset
	}
	return running
}

// Drain lets connections end by themselves until ctx is done, and then ends
// the rest. It returns when all are closed.
func (t *Tracker) Drain(ctx context.Context) {
	t.mu.Lock()
	if t.count == 0 {
		t.mu.Unlock()
		return
	}
	if t.empty == nil {
		t.empty = make(chan struct{})
	}
	empty := t.empty
	t.mu.Unlock()
	select {
	case <-empty:
		return
	case <-ctx.Done():
	}
	t.abort()
	<-empty
}

// Close ends all connections, and those that come after it.
func (t *Tracker) Close() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.abort()
}

func (t *Tracker) abort() {
	t.mu.Lock()
	var all []*conn
	for c := t.head.next; c != &t.head; c = c.next {
		all = append(all, c)
	}
	t.mu.Unlock()
	for _, c := range all {
		c.kill(drainOver)
	}
}
