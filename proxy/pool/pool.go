// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/http/h1"
	"pillion/proxy/tls"
)

// Target is where a pool's connections go.
type Target struct {
	// Address is ip:port, or the path of a Unix socket (beginning with / or @).
	Address string
	// Resolve, when it is not nil, is asked for the addresses of each new
	// connection; Address is for display then. It returns *ResolveError when
	// there are none.
	Resolve func(ctx context.Context) ([]netip.AddrPort, error)
}

// Pool is the connections to one host, or those of them that were made under one
// name. It must be set up by Init and not be
// copied. All methods are safe for concurrent use.
type Pool struct {
	Stats HostStats

	group   *Group // immutable after Init
	target  Target // immutable after Init
	learned keepalive
	open    atomic.Int32               // connections that exist or are being made
	gone    atomic.Bool                // the host has left the cluster
	tls     atomic.Pointer[tls.Client] // nil for plain connections; of the host's own
	epoch   atomic.Uint32              // counts changes of tls; of the host's own
	namesPart
	// wary is set when the host has closed a connection right after an answer:
	// for a while, none is reused without a look.
	wary   atomic.Bool
	listed bool // in group.pools; guarded by group.mu

	mu   sync.Mutex
	idle list // guarded by mu
	// checked are idle connections that the sweep in progress has looked at;
	// all were used less recently than those in idle. Guarded by mu.
	checked list
	multi   multi
}

// Init prepares p for the connections to t.
func (p *Pool) Init(g *Group, t Target) { p.group, p.target = g, t }

// Secure has connections from now on made with c; nil leaves them plain.
// Others are closed: idle ones now, those in use when their request is done.
func (p *Pool) Secure(c *tls.Client) {
	if p.tls.Swap(c) != c {
		p.epoch.Add(1)
		p.drainIdle()
		p.eachName((*Pool).drainIdle)
	}
}

// age stands for the settings that a connection is made with.
func (p *Pool) age() uint32 { return p.group.epoch.Load() + p.owner().epoch.Load() }

// Open returns the number of connections that exist or are being made.
func (p *Pool) Open() int {
	n := int(p.open.Load())
	p.eachName(func(q *Pool) { n += q.Open() })
	return n
}

// Idle returns the number of connections that wait for a request.
func (p *Pool) Idle() int {
	p.mu.Lock()
	n := p.idle.n + p.checked.n
	p.mu.Unlock()
	p.eachName(func(q *Pool) { n += q.Idle() })
	return n
}

// Close closes idle connections now and others when their request is done.
// Acquire still works, for requests that are on their way.
func (p *Pool) Close() {
	p.gone.Store(true)
	p.drainIdle()
	p.eachName((*Pool).Close)
}

// surelyOpen is how long after an answer a connection counts as open without
// a look, for requests that the forwarder repeats when it was not. The look
// also finds bytes that nobody asked for, which the next client would take for
// its answer; so this is short, although a look costs 2 % of a small request.
const surelyOpen = int64(time.Millisecond)

// care says which idle connections a request may get.
type care uint8

const (
	anyOpen  care = iota // one that was open a moment ago
	sureOpen             // one that is seen to be open, and that stays so for a while
	fresh                // none
)

// careFor returns the care that a method needs: the forwarder may send a
// request again when it got no octet of an answer, if the method is
// idempotent (RFC 9110 section 9.2.2), but for PUT, whose body it may not
// have any more.
func careFor(m http.Method) care {
	if m.Idempotent() && m != http.MethodPut {
		return anyOpen
	}
	return sureOpen
}

// Acquire returns a connection for one request, to be given back with Put.
// It waits until deadline (http.Now; 0 for no bound) or until cancel is
// closed. It doesn't allocate when an idle connection is reused.
func (p *Pool) Acquire(deadline int64, cancel <-chan struct{}, m http.Method) (*Conn, *http.Error) {
	g := p.group
	s := g.settings.Load()
	with := careFor(m)
	p.owner().Stats.RqActive.Inc()
	// Whoever comes while others wait goes behind them.
	if g.waiting.Load() == 0 {
		now := http.Now()
		for {
			c := p.take(now, with)
			if c == nil {
				break
			}
			if p.usable(c, s, now, with) {
				return c.begin(), nil
			}
			g.release()
		}
	}
	return p.acquireSlowly(s, deadline, cancel, with)
}

// begin starts the next request on c.
func (c *Conn) begin() *Conn {
	c.requests++
	c.pool.Stats.RqTotal.Inc()
	return c
}

// AcquireFresh is Acquire for a request that is sent again because a reused
// connection turned out to be closed: it always makes a connection, so that
// there can't be another such surprise.
func (p *Pool) AcquireFresh(deadline int64, cancel <-chan struct{}) (*Conn, *http.Error) {
	p.owner().Stats.RqActive.Inc()
	return p.acquireSlowly(p.group.settings.Load(), deadline, cancel, fresh)
}

// take removes the idle connection that was used last. With sureOpen it gives
// none that the host may be about to close; as that is the youngest one, all
// others are too old as well.
func (p *Pool) take(now int64, with care) *Conn {
	p.mu.Lock()
	l := &p.idle
	if l.head == nil {
		l = &p.checked
	}
	if l.head == nil || with != anyOpen && p.learned.expired(now-l.head.idleSince) {
		p.mu.Unlock()
		return nil
	}
	c := l.popHead()
	p.mu.Unlock()
	return c
}

// takeHead is take for a waiter.
func (p *Pool) takeHead() *Conn { return p.take(0, anyOpen) }

// takeTail removes the idle connection that was used least recently.
func (p *Pool) takeTail() *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.checked.popTail(); c != nil {
		return c
	}
	return p.idle.popTail()
}

// coldest returns since when the connection that takeTail returns is idle.
func (p *Pool) coldest() (since int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.checked.tail != nil:
		return p.checked.tail.idleSince, true
	case p.idle.tail != nil:
		return p.idle.tail.idleSince, true
	}
	return 0, false
}

func (p *Pool) hasIdle() bool {
	_, ok := p.coldest()
	return ok
}

// usable looks whether c can take a request and closes it if not; its place
// then still has to be released.
func (p *Pool) usable(c *Conn, s *Settings, now int64, with care) bool {
	idle := now - c.idleSince
	switch {
	case p.retire(c, s, now):
		return false
	case with == fresh, with == sureOpen && p.learned.expired(idle):
		p.close(c, closedByUs)
		return false
	case with == anyOpen && idle < surelyOpen && !p.wary.Load():
		return true
	}
	return p.alive(c, idle)
}

// alive looks whether the host has closed an idle connection, and closes it
// then.
func (p *Pool) alive(c *Conn, idle int64) bool {
	if c.H1.Alive() {
		p.learned.open(idle)
		return true
	}
	if idle < surelyOpen {
		p.wary.Store(true)
	}
	p.learned.closed(idle)
	p.close(c, closedByHost)
	return false
}

// retire closes an idle connection whose time is up, or that has other socket
// options than a new one would get.
func (p *Pool) retire(c *Conn, s *Settings, now int64) bool {
	switch {
	case c.epoch != p.age():
	case s.IdleTimeout > 0 && now-c.idleSince >= int64(s.IdleTimeout):
		p.group.stats.CxIdleTimeout.Inc()
	case s.MaxConnectionAge > 0 && now-c.created >= int64(s.MaxConnectionAge):
		p.group.stats.CxMaxDuration.Inc()
	default:
		return false
	}
	p.close(c, closedByUs)
	return true
}

// acquireSlowly makes a connection, or waits for one where no more may be
// made.
func (p *Pool) acquireSlowly(s *Settings, deadline int64, cancel <-chan struct{}, with care) (*Conn, *http.Error) {
	c, err := p.pend(s, deadline, cancel, with)
	if err != nil {
		p.owner().Stats.RqActive.Dec()
		return nil, err
	}
	return c.begin(), nil
}

// pend counts the request as pending until it has a connection.
func (p *Pool) pend(s *Settings, deadline int64, cancel <-chan struct{}, with care) (*Conn, *http.Error) {
	g := p.group
	if !addBelow(&g.pending, s.MaxPending) {
		g.stats.RqPendingOverflow.Inc()
		return nil, errOverflow
	}
	defer g.pending.Add(-1)
	g.stats.RqPendingTotal.Inc()
	if g.waiting.Load() > 0 || !g.reserve() {
		g.stats.CxOverflow.Inc()
		w, err := g.wait(p, deadline, cancel)
		switch {
		case err != nil:
			return nil, err
		case w.victim != nil:
			w.victim.pool.close(w.victim, closedByUs)
		case w.conn != nil && p.usable(w.conn, s, http.Now(), with):
			return w.conn, nil
		}
	}
	return p.connect(s, deadline, cancel)
}

// connect makes a connection in a place that the caller holds.
func (p *Pool) connect(s *Settings, deadline int64, cancel <-chan struct{}) (*Conn, *http.Error) {
	g := p.group
	p.countConnect(g)
	g.stats.CxHTTP1Total.Inc()
	epoch := p.age()
	start := http.Now()
	nc, err := p.dial(s, s.ALPN.http1(), start, deadline, cancel)
	if err != nil {
		p.countFailure(err)
		g.release()
		return nil, err
	}
	now := http.Now()
	g.stats.connectTime.get().Record(now - start)
	return &Conn{H1: h1.NewClientConn(nc), TLS: settled(nc), pool: p, epoch: epoch, created: now}, nil
}

// countConnect counts a connection that is about to be made.
func (p *Pool) countConnect(g *Group) {
	p.open.Add(1)
	p.owner().Stats.CxActive.Inc()
	p.owner().Stats.CxTotal.Inc()
	g.stats.CxTotal.Inc()
	g.list(p)
}

func (p *Pool) countFailure(err *http.Error) {
	st := p.group.stats
	p.open.Add(-1)
	p.owner().Stats.CxActive.Dec()
	st.CxDestroy.Inc()
	if err.Kind == http.KindConnectFailure {
		st.CxDestroyRemote.Inc()
	} else {
		st.CxDestroyLocal.Inc()
	}
	switch err.Kind {
	case http.KindConnectTimeout:
		st.CxConnectTimeout.Inc()
	case http.KindConnectFailure, http.KindResolve:
	default:
		return // the request ended, not the attempt to connect
	}
	st.CxConnectFail.Inc()
	p.owner().Stats.CxConnectFail.Inc()
	st.RqPendingFailure.Inc()
}

// Put gives a connection back after its request. It is closed unless it is
// reusable and its limits allow another request.
func (p *Pool) Put(c *Conn, reusable bool) {
	g := p.group
	s := g.settings.Load()
	p.owner().Stats.RqActive.Dec()
	switch {
	case !reusable:
		how := closedByUs
		if !c.H1.Alive() {
			how = closedByHost
			if c.Reused() {
				p.wary.Store(true)
			}
		}
		if !c.H1.BodyEnded() {
			how |= withRequest
		}
		p.drop(c, how)
	case s.MaxRequestsPerConnection != 0 && c.requests >= s.MaxRequestsPerConnection:
		g.stats.CxMaxRequests.Inc()
		p.drop(c, closedByUs)
	case s.MaxConnections != NoLimit && g.open.Load() > int64(s.MaxConnections): // the limit was lowered
		p.drop(c, closedByUs)
	default:
		c.idleSince = http.Now()
		if s.MaxConnectionAge == 0 || !p.retire(c, s, c.idleSince) {
			p.giveBack(c)
			return
		}
		g.release()
	}
}

// giveBack makes c idle and offers it to those who wait.
func (p *Pool) giveBack(c *Conn) {
	g := p.group
	p.mu.Lock()
	// Under mu, because whoever sets one of these then closes what is idle.
	if p.gone.Load() || g.closed.Load() || c.epoch != p.age() {
		p.mu.Unlock()
		p.drop(c, closedByUs)
		return
	}
	p.idle.pushHead(c)
	p.mu.Unlock()
	if g.waiting.Load() > 0 {
		g.dispatch(p)
	}
}

// drop closes c and releases its place.
func (p *Pool) drop(c *Conn, how closing) {
	p.close(c, how)
	p.group.release()
}

// closing says who closed a connection, and whether a request was on it.
type closing uint8

const (
	closedByUs   closing = 0
	closedByHost closing = 1
	withRequest  closing = 2
)

// close closes c. Its place still has to be released or used.
func (p *Pool) close(c *Conn, how closing) {
	_ = c.H1.Close() // what an upstream says to a close helps nobody
	p.countClose(how, c.created, c.requests)
}

func (p *Pool) countClose(how closing, created int64, requests uint32) {
	st := p.group.stats
	p.open.Add(-1)
	p.owner().Stats.CxActive.Dec()
	st.CxDestroy.Inc()
	bySide, active := &st.CxDestroyLocal, &st.CxDestroyLocalActive
	if how&closedByHost != 0 {
		bySide, active = &st.CxDestroyRemote, &st.CxDestroyRemoteActive
	}
	bySide.Inc()
	if how&withRequest != 0 {
		st.CxDestroyActive.Inc()
		active.Inc()
	}
	st.length.get().Record(http.Now() - created)
	st.requestsPerConn.get().Record(int64(requests))
}

// drainIdle closes what is idle.
func (p *Pool) drainIdle() {
	p.mu.Lock()
	all := p.idle
	p.idle = list{}
	all.appendList(&p.checked)
	p.mu.Unlock()
	for c := all.popHead(); c != nil; c = all.popHead() {
		p.drop(c, closedByUs)
	}
	p.drainStreams()
}

// LearnedIdle returns the time after which the host was seen to close idle
// connections, 0 if it wasn't.
func (p *Pool) LearnedIdle() time.Duration { return time.Duration(p.learned.ns.Load()) }
