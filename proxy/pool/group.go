// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"pillion/proxy/http"
)

// DialFunc makes a connection to an address of the form of Target.Address.
type DialFunc func(ctx context.Context, address string, s *Socket) (net.Conn, error)

// Group is what the pools of one cluster share. It must be set up by Init and
// not be copied. All methods are safe for concurrent use.
type Group struct {
	stats   *Stats   // immutable after Init
	dial    DialFunc // immutable after Init
	sweeper *Sweeper // immutable after Init

	settings atomic.Pointer[Settings]
	epoch    atomic.Uint32 // counts changes of Settings.Socket
	closed   atomic.Bool

	open    atomic.Int64 // connections that exist or are being made
	pending atomic.Int64 // requests without a connection
	waiting atomic.Int32 // length of queue; changed with mu held

	mu     sync.Mutex // taken before any Pool.mu
	queue  waiterList // guarded by mu
	pools  []*Pool    // guarded by mu; those that may have connections
	listed bool       // guarded by mu; in the sweeper's list
}

// Init prepares g. st may be read by others at any time. dial nil is Dial.
func (g *Group) Init(s *Settings, st *Stats, sw *Sweeper, dial DialFunc) {
	if dial == nil {
		dial = Dial
	}
	g.stats, g.dial, g.sweeper = st, dial, sw
	g.settings.Store(s)
}

// Open returns the number of connections that exist or are being made
// (upstream_cx_active).
func (g *Group) Open() int64 { return g.open.Load() }

// Pending returns the number of requests that have no connection yet
// (upstream_rq_pending_active).
func (g *Group) Pending() int64 { return g.pending.Load() }

// Settings returns the current settings.
func (g *Group) Settings() *Settings { return g.settings.Load() }

// Update replaces the settings. Connections with other socket options are
// closed: idle ones now, those in use when their request is done.
func (g *Group) Update(s *Settings) {
	old := g.settings.Swap(s)
	if old.Socket != s.Socket || old.HTTP2 != s.HTTP2 || old.ALPN != s.ALPN ||
		old.ServerName != s.ServerName || old.AutoSNI != s.AutoSNI || old.AutoSAN != s.AutoSAN || old.Speaks != s.Speaks {
		g.epoch.Add(1)
		g.drainIdle()
	}
	g.dispatch(nil)
	for _, p := range g.listedPools() {
		p.CapacityChanged(nil)
	}
}

// Close closes idle connections now and others when their request is done.
// Acquire still works, for requests that are on their way.
func (g *Group) Close() {
	g.closed.Store(true)
	g.drainIdle()
}

func (g *Group) drainIdle() {
	for _, p := range g.listedPools() {
		p.drainIdle()
	}
}

func (g *Group) listedPools() []*Pool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*Pool(nil), g.pools...)
}

// reserve takes one of MaxConnections.
func (g *Group) reserve() bool { return addBelow(&g.open, g.settings.Load().MaxConnections) }

// release gives back what reserve took.
func (g *Group) release() {
	g.open.Add(-1)
	if g.waiting.Load() > 0 {
		g.dispatch(nil)
	}
}

// addBelow adds one unless the limit is reached. It never goes above, not
// even for a moment, so that a limit is exact for everyone who reads it.
func addBelow(v *atomic.Int64, limit uint32) bool {
	if limit == NoLimit {
		v.Add(1)
		return true
	}
	for {
		n := v.Load()
		if n >= int64(limit) {
			return false
		}
		if v.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// list makes sure that p is among the pools that sweeps and evictions look
// at.
func (g *Group) list(p *Pool) {
	g.mu.Lock()
	if !p.listed {
		p.listed = true
		g.pools = append(g.pools, p)
	}
	enlist := !g.listed
	g.listed = true
	g.mu.Unlock()
	if enlist {
		g.sweeper.add(g)
	}
}

// waiter is a request in line for a connection.
type waiter struct {
	pool   *Pool
	ready  chan struct{} // closed when granted
	passed int           // how often another host's waiter went first

	// Guarded by Group.mu until ready is closed, then the waiter's. One place
	// is always granted: that of conn, which is to be used, that of victim,
	// which is to be closed, or an empty one.
	granted      bool
	conn, victim *Conn

	next, prev *waiter // in Group.queue
}

// waiterList is the queue, in order of arrival.
type waiterList struct{ head, tail *waiter }

func (l *waiterList) push(w *waiter) {
	w.prev = l.tail
	if l.tail != nil {
		l.tail.next = w
	} else {
		l.head = w
	}
	l.tail = w
}

func (l *waiterList) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.tail = w.prev
	}
	w.next, w.prev = nil, nil
}

// maxPassed bounds how often the longest-waiting request is passed over by
// one for whose host a connection has just become free. Without that, two
// hosts under one limit would close each other's connections all the time.
const maxPassed = 16

// dispatch serves waiters while there is something to give. freed is a pool
// that has just got an idle connection, or nil.
func (g *Group) dispatch(freed *Pool) {
	g.mu.Lock()
	for g.queue.head != nil {
		w := g.nextWaiter(freed)
		if !g.grant(w) {
			break
		}
		g.queue.remove(w)
		g.waiting.Add(-1)
		w.granted = true
		close(w.ready)
	}
	g.mu.Unlock()
}

// nextWaiter chooses who is served next. mu is held.
func (g *Group) nextWaiter(freed *Pool) *waiter {
	oldest := g.queue.head
	if freed == nil || oldest.pool == freed || oldest.passed >= maxPassed || !freed.hasIdle() {
		return oldest
	}
	for w := oldest.next; w != nil; w = w.next {
		if w.pool == freed {
			oldest.passed++
			return w
		}
	}
	return oldest
}

// grant finds a place for w: an idle connection of its host, an unused
// place, or that of another host's idle connection. mu is held.
func (g *Group) grant(w *waiter) bool {
	if w.conn = w.pool.takeHead(); w.conn != nil {
		return true
	}
	if g.reserve() {
		return true
	}
	w.victim = g.takeVictim()
	return w.victim != nil
}

// takeVictim removes the idle connection that was used least recently. mu is
// held.
func (g *Group) takeVictim() *Conn {
	for {
		var coldest *Pool
		var since int64
		for _, p := range g.pools {
			if at, ok := p.coldest(); ok && (coldest == nil || at < since) {
				coldest, since = p, at
			}
		}
		if coldest == nil {
			return nil
		}
		if c := coldest.takeTail(); c != nil { // else it was taken meanwhile
			return c
		}
	}
}

// wait stands in line. It returns with one place granted, or an error.
func (g *Group) wait(p *Pool, deadline int64, cancel <-chan struct{}) (*waiter, *http.Error) {
	w := &waiter{pool: p, ready: make(chan struct{})}
	g.mu.Lock()
	g.queue.push(w)
	g.waiting.Add(1)
	g.mu.Unlock()
	// What became free before the line above was seen by nobody.
	g.dispatch(nil)

	var expired <-chan time.Time
	if deadline != 0 {
		t := time.NewTimer(time.Duration(deadline - http.Now()))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-w.ready:
		return w, nil
	case <-cancel:
		return nil, g.abandon(w, errCancelled)
	case <-expired:
		return nil, g.abandon(w, errLate)
	}
}

// abandon takes w out of line and passes on what it may have got meanwhile.
func (g *Group) abandon(w *waiter, err *http.Error) *http.Error {
	g.mu.Lock()
	granted := w.granted
	if !granted {
		g.queue.remove(w)
		g.waiting.Add(-1)
	}
	g.mu.Unlock()
	switch {
	case !granted:
	case w.conn != nil:
		w.pool.giveBack(w.conn)
	case w.victim != nil:
		w.victim.pool.giveBack(w.victim)
	default:
		g.release()
	}
	return err
}
