// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"pillion/proxy/filter"
	"pillion/proxy/forward"
	"pillion/proxy/http"
	"pillion/proxy/http/h1"
	"pillion/proxy/http/h2"
	"pillion/proxy/router"
	"pillion/proxy/trace"
)

// connState is what a connection is doing.
type connState uint8

const (
	stateIdle    connState = iota // waiting for a request; owns no buffer
	stateActive                   // an exchange is under way
	stateClosing                  // was idle and is being closed
	stateAsking                   // filters are asked whether it may be served
)

// conn is one downstream connection. It belongs to the goroutine that serves
// it, but for the fields guarded by mu, through which the tracker reaches it.
type conn struct {
	m    *Manager
	sc   *h1.ServerConn // until it turns out to speak HTTP/2
	info *http.ConnInfo
	cert atomic.Pointer[certElement] // of x-forwarded-client-cert, made when first asked for

	requests   uint32 // that have begun; owned by the goroutine that reads
	generation uint32 // of m; immutable
	next, prev *conn  // guarded by Tracker.mu

	// What Take leaves to be done, owned by the goroutine that serves.
	left leaves
	st   *stream // of the exchange that Take has begun, with its head if left says so

	mu    sync.Mutex
	state connState  // guarded by mu
	stack stackState // guarded by mu
	// leftAt is IdleSince of multi when its goroutine was last asked to leave. Guarded by mu.
	leftAt int64
	since  int64         // when state changed, of http.Now; guarded by mu
	call   *forward.Call // of the exchange under way; guarded by mu
	multi  *h2.Conn      // when it speaks HTTP/2; set once, guarded by mu
	// giveUp is closed when nobody wants to know any more whether the connection may
	// be served; nil when that isn't asked. Guarded by mu.
	giveUp chan struct{}
}

// stream is what one exchange needs; an idle connection has none.
type stream struct {
	codec     // during the exchange
	c         *conn
	cfg       *Config
	ex        http.Exchange
	call      forward.Call
	trace     trace.Request
	bodyTimed bool           // the request's body has a deadline
	upgrading bool           // it counts in Stats.UpgradesActive
	chain     *filter.Chain  // nil before routing
	at        int            // the next filter of the chain's request phase
	route     *router.Route  // nil when none was found
	target    *router.Target // nil unless the route forwards
}

// codec is the downstream side of an exchange, as h1.ServerConn and
// h2.ServerStream offer it.
type codec interface {
	http.ServerStream
	// Started reports whether the response's head was written.
	Started() bool
	// RequestEnded reports whether the request is completely read, on HTTP/2
	// whether it has come.
	RequestEnded() bool
	// StopReading makes a ReadBody in progress, and those to come, fail until
	// ResumeReading.
	StopReading()
	ResumeReading()
	// Abort makes calls in progress and to come fail, from any goroutine.
	Abort()
	// SetReadDeadline bounds ReadBody; zero: no bound.
	SetReadDeadline(time.Time)
	// SetClosing ends an HTTP/1 connection with this exchange.
	SetClosing()
}

var streamPool = sync.Pool{New: func() any { return new(stream) }}

// Serve is Handler.Serve for the current generation.
func (m *Manager) Serve(nc net.Conn, info *http.ConnInfo) http.Rest {
	return m.serve(nc, info, m.generation.Load())
}

func (m *Manager) serve(nc net.Conn, info *http.ConnInfo, generation uint32) (rest http.Rest) {
	cfg := m.config()
	c, giveUp := m.open(nc, info, generation, cfg)
	defer c.leave(&rest)
	if c.admit(cfg.Admit, giveUp) {
		rest = c.goOn
	}
	return rest
}

// open makes a conn, which the tracker knows from then on. giveUp is nil where nobody
// is asked whether it may be served.
func (m *Manager) open(nc net.Conn, info *http.ConnInfo, generation uint32, cfg *Config) (c *conn, giveUp <-chan struct{}) {
	c = &conn{m: m, info: info, since: http.Now(), generation: generation}
	c.sc = h1.NewServerConn(nc, cfg.Limits)
	if len(cfg.Admit) > 0 {
		c.state, c.giveUp = stateAsking, make(chan struct{})
	}
	giveUp = c.giveUp
	m.tracker.add(c)
	m.Stats.CxTotal.Inc()
	m.Stats.CxActive.Inc()
	return c, giveUp
}

// goOn serves a connection that may be served until it ends, or another goroutine is
// to go on.
func (c *conn) goOn() (rest http.Rest) {
	defer c.leave(&rest)
	if c.multi != nil {
		return c.runHTTP2()
	}
	return c.serveRequests()
}

// leave ends the connection unless there is a rest.
func (c *conn) leave(rest *http.Rest) {
	if *rest != nil {
		return
	}
	if c.multi == nil {
		c.sc.Close()
	} else {
		c.m.Stats.Cx2Active.Dec()
		c.ended()
	}
	c.m.Stats.CxActive.Dec()
	c.m.Stats.CxDestroy.Inc()
	c.m.tracker.remove(c)
}

// serveRequests serves what comes until the connection ends, or another goroutine is to
// wait for more. Requests that come whole are served by Take, between two reads of the
// codec's loop; for the others that loop is left, because something has to be read for
// them.
func (c *conn) serveRequests() http.Rest {
	for {
		c.left = leavesNothing
		_ = c.sc.Each(c) // that it failed shows in what Take has left
		switch {
		case c.left == leavesEnd:
			return nil
		case c.left == leavesNothing && c.leavesStack():
			return c.waitOn
		case c.left == leavesNothing: // a read has failed
			c.ended()
			return nil
		case c.left == leavesProtocol && c.speaksHTTP2():
			return c.serveHTTP2()
		}
		if !c.serveOne() {
			return nil
		}
	}
}

// leaves is what is to be done when the codec's loop is left.
type leaves uint8

const (
	leavesNothing  leaves = iota
	leavesEnd             // the connection ends
	leavesProtocol        // the protocol has to be found out
	leavesRequest         // a request has begun
	leavesBody            // ... and its head was read
)

// Take serves the requests that have come whole. It implements netio.Taker.
func (c *conn) Take() (more bool) {
	for {
		now := c.begun()
		if c.requests == 0 && c.mayBeHTTP2() {
			c.left = leavesProtocol
			return false
		}
		if !c.serveWhole(now) {
			return false
		}
		if !c.sc.Pipelined() {
			return true
		}
	}
}

// serveWhole serves one exchange that needs no more reading, since now. false: the loop
// has to be left.
func (c *conn) serveWhole(now int64) bool {
	st := c.newStream()
	read, whole, err := c.sc.WholeHead(&st.ex.Req)
	if !whole {
		c.st, c.left = st, leavesRequest
		if read {
			c.left = leavesBody
		}
		return false
	}
	if st.headRead(err, now) {
		st.handle()
		st.finish()
	}
	if c.endExchange(st) {
		return true
	}
	c.left = leavesEnd
	return false
}

// admit asks the chain's filters whether the connection may be served. The tracker
// knows it meanwhile: a client that breaks off and a drain that is over end the wait.
func (c *conn) admit(list []filter.Admitter, giveUp <-chan struct{}) bool {
	if len(list) == 0 {
		return true
	}
	a := filter.Admission{Conn: c.info, Cancelled: giveUp}
	admitted := filter.Admit(list, &a)
	a.Report(admitted)
	c.mu.Lock()
	defer c.mu.Unlock()
	given := c.giveUp == nil
	c.giveUp, c.state, c.since = nil, stateIdle, http.Now()
	if admitted && !given {
		return true
	}
	c.m.Stats.CxDestroyLocal.Inc()
	return false
}

// giveUpLocked ends the question whether the connection may be served; mu is held.
func (c *conn) giveUpLocked() {
	if c.giveUp != nil {
		close(c.giveUp)
		c.giveUp = nil
	}
}

// mayBeHTTP2 reports whether speaksHTTP2 has to tell.
func (c *conn) mayBeHTTP2() bool {
	if t := c.info.TLS; t != nil && t.ALPN != "" {
		return t.ALPN == "h2"
	}
	match, _ := h2.MatchPreface(c.sc.Peek())
	return match
}

// speaksHTTP2 reports whether the protocol that TLS agreed on is HTTP/2. Where
// there is none it looks whether the connection begins as one of HTTP/2 does,
// which no request of HTTP/1 does (codec_type AUTO; Envoy:
// ConnectionManagerUtility::determineNextProtocol).
func (c *conn) speaksHTTP2() bool {
	if t := c.info.TLS; t != nil && t.ALPN != "" {
		return t.ALPN == "h2"
	}
	for {
		match, _ := h2.MatchPreface(c.sc.Peek())
		if !match {
			return false
		}
		if len(c.sc.Peek()) >= len("PRI ") {
			return true
		}
		if d := c.m.config().HeadersTimeout; d > 0 {
			c.sc.SetReadDeadline(time.Now().Add(d))
		}
		err := c.sc.More()
		c.sc.SetReadDeadline(time.Time{})
		if err != nil {
			return false
		}
	}
}

// begun notes that a request has begun to come, now.
func (c *conn) begun() (now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateClosing {
		// A request came in while the connection was being closed for its
		// idleness. It is served, as the last one.
		c.sc.SetReadDeadline(time.Time{})
		c.sc.SetLast()
	}
	c.stackUsedLocked()
	c.state = stateActive
	c.since = http.Now()
	return c.since
}

// ended notes who has ended the connection.
func (c *conn) ended() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateClosing {
		c.m.Stats.CxDestroyLocal.Inc()
	} else {
		c.m.Stats.CxDestroyRemote.Inc()
	}
}

// closeIdleLocked closes an idle connection; mu is held.
func (c *conn) closeIdleLocked() {
	c.state = stateClosing
	c.stackStaysLocked()
	c.sc.StopReading()
}

// cancelLocked gives the exchange under way up; mu is held.
func (c *conn) cancelLocked() {
	if c.call != nil {
		c.call.Cancel()
	}
}

// serveOne serves one exchange, which Take may have begun, and reports whether another
// may follow.
func (c *conn) serveOne() (keep bool) {
	st := c.st
	c.st = nil
	if st == nil {
		st = c.newStream()
	}
	var there bool
	if c.left == leavesBody {
		there = st.headRead(nil, http.Now())
	} else {
		there = st.readHead(c.sc)
	}
	if there {
		st.handle()
		st.finish()
	}
	return c.endExchange(st)
}

// newStream begins an exchange.
func (c *conn) newStream() *stream {
	st := streamPool.Get().(*stream)
	st.codec, st.c, st.cfg = c.sc, c, c.m.config()
	st.ex.Conn = c.info
	if c.isLast(st.cfg) {
		c.sc.SetLast()
	}
	return st
}

// endExchange gives st back and reports whether another exchange may follow.
func (c *conn) endExchange(st *stream) (keep bool) {
	if st.bodyTimed {
		st.SetReadDeadline(time.Time{})
	}
	since := st.ex.End
	if since == 0 { // there was no exchange
		since = http.Now()
	}
	c.setIdle(since)
	keep = c.sc.End()
	st.release()
	streamPool.Put(st)
	return keep
}

// isLast counts a request, and reports whether it is the last one that the connection
// may carry (max_requests_per_connection).
func (c *conn) isLast(cfg *Config) bool {
	c.requests++
	if cfg.MaxRequests == 0 || c.requests != cfg.MaxRequests {
		return false
	}
	c.m.Stats.CxMaxRequests.Inc()
	return true
}

func (c *conn) setActive(call *forward.Call) {
	c.mu.Lock()
	c.call = call
	c.mu.Unlock()
}

// setIdle notes that the connection has been idle since then, of http.Now.
func (c *conn) setIdle(since int64) {
	c.mu.Lock()
	c.call = nil
	c.state = stateIdle
	c.since = since
	c.mu.Unlock()
}

// readHead reads the request's head. false: there is no exchange, since the
// client left before it sent one.
func (st *stream) readHead(sc *h1.ServerConn) bool {
	timed := false
	err := sc.ReadHead(&st.ex.Req, func() {
		if d := st.cfg.HeadersTimeout; d > 0 {
			timed = true
			st.SetReadDeadline(time.Now().Add(d))
		}
	})
	if timed {
		st.SetReadDeadline(time.Time{})
	}
	return st.headRead(err, http.Now())
}

// headRead begins the exchange of a head that was read by now, or couldn't be. false:
// there is no exchange.
func (st *stream) headRead(err *http.Error, now int64) bool {
	st.ex.Start = now
	st.ex.RequestHeadBytes = int64(st.c.sc.HeadLen())
	if d := st.cfg.RequestTimeout; d > 0 && err == nil && st.ex.Req.Framing.Kind != http.BodyNone {
		st.bodyTimed = true
		st.SetReadDeadline(time.Now().Add(d))
	}
	if err != nil && err.Status == 0 {
		st.c.m.Stats.CxDestroyRemote.Inc()
		return false
	}
	st.c.m.Stats.RqTotal.Inc()
	st.c.m.Stats.RqActive.Inc()
	if err != nil {
		st.refuse(err)
		st.finish()
		return false
	}
	return true
}

// refuse answers a request that could not be read.
func (st *stream) refuse(err *http.Error) {
	s := &st.c.m.Stats
	switch err.Kind {
	case http.KindTimeout:
		s.RqHeaderTimeout.Inc()
	case http.KindTooLarge:
		s.RqTooLarge.Inc()
		s.CxProtocolError.Inc()
	default:
		s.CxProtocolError.Inc()
	}
	st.ex.Details = err.Detail
	st.ex.LocalReply.Body = err.Body
	st.fail(err)
}

// release makes the stream ready for another exchange.
func (st *stream) release() {
	st.call.Release()
	st.ex.Reset()
	st.chain, st.at, st.route, st.target, st.bodyTimed, st.upgrading = nil, 0, nil, nil, false, false
	st.codec, st.c, st.cfg = nil, nil, nil
	if st.trace.On() {
		st.trace = trace.Request{}
	}
}
