// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"sync"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/http/h2"
	"pillion/proxy/pool"
	"pillion/proxy/router"
)

// Owner is the connection manager's side of an exchange that is relayed. All
// calls are made with the relay locked.
type Owner interface {
	Downstream
	// Relayed tells that the exchange is over. nil: the whole response was
	// sent. The owner may release the Call.
	Relayed(e h2.Event, err *http.Error)
	// Unrelayed tells that the exchange has to go on where it can wait: the
	// owner runs Resume(err) on a goroutine, and has what still comes of the
	// request delivered to Downstream.ReadBody.
	Unrelayed(err *http.Error)
}

// relay carries an exchange between two HTTP/2 streams on the goroutines that
// read their connections: each appends to the other connection what came on
// its own, and neither waits. It serves the first try; whatever has to wait
// goes on with Call.Resume.
//
// The lock guards the exchange and all of the Call while on is set. It is
// taken before that of a connection, never while one is held.
type relay struct {
	mu    sync.Mutex
	owner Owner
	on    bool

	down     *h2.Stream
	downConn *h2.Conn

	up     h2.Stream
	upConn *h2.Conn
	upID   uint32
	stream *pool.StreamConn

	begun        bool // the final response's head was sent
	requestEnded bool // the request came to its end
	answered     bool // the response came to its end; what is left is queued

	// trailers of each direction: those of the request may still be coming when
	// the response has ended.
	requestTrailers, responseTrailers http.Fields

	timer  *time.Timer // fires at the try's deadline; nil until one was needed
	serial uint64      // of the try that the timer is for
}

// Lock locks the exchange against the other connection's reader.
func (c *Call) Lock() { c.relay.mu.Lock() }

// Unlock ends Lock.
func (c *Call) Unlock() { c.relay.mu.Unlock() }

// Relaying reports whether the exchange is relayed. The Call is locked.
func (c *Call) Relaying() bool { return c.relay.on }

// Relay begins the exchange that e brought; with end the request has no body.
// The Call is locked. false: it can't be relayed, and the caller has to run
// Proceed where it can wait. true: it is, or it is over already.
func (c *Call) Relay(opt *Options, ex *http.Exchange, owner Owner, down *h2.Stream, e h2.Event, route *router.Route, target *router.Target, end bool) bool {
	if err := c.setUp(opt, ex, owner, route, target); err != nil {
		owner.Relayed(e, err)
		return true
	}
	if !c.cl.SpeaksHTTP2(http.HTTP2) || ex.Req.Expect100 || ex.Wrapped || ex.Req.Upgrade != nil || len(route.Mirrors()) > 0 {
		return false
	}
	if err := c.pick(); err != nil {
		owner.Relayed(e, c.end(err))
		return true
	}
	c.picked = true
	if !c.cl.AdmitRequest() {
		owner.Relayed(e, c.end(errOverflow))
		return true
	}
	sc := c.cl.TryStream(c.host, ex.Req.Authority)
	if sc == nil {
		c.cl.ReleaseRequest()
		return false
	}
	r := &c.relay
	if c.vh.IncludeAttemptCount {
		ex.Req.Fields.SetID(http.HeaderXEnvoyAttemptCount, c.decimal(int64(ex.Attempts)))
	}
	c.tryBegins()
	id, err := sc.H2.Open(&r.up, (*upSide)(c), &ex.Req, end)
	if err != nil {
		c.cl.PutStream(sc)
		c.cl.ReleaseRequest()
		return false
	}
	c.picked, c.judged = false, false
	r.owner, r.down, r.downConn, r.stream, r.upConn, r.upID = owner, down, e.Conn, sc, sc.H2, id
	r.on, r.begun, r.answered, r.requestEnded = true, false, false, end
	ex.UpstreamProtocol, ex.UpstreamLocal, ex.UpstreamTLS = http.HTTP2, sc.H2.LocalAddr(), sc.TLS
	ex.UpstreamStart = http.Now()
	c.cl.Stats.RqTotal.Inc()
	if end {
		c.relaySent()
	} else {
		c.startTimer(c.streamEnd)
	}
	e.Touch(sc.H2)
	return true
}

// relaySent starts the clock of the response.
func (c *Call) relaySent() {
	ex := c.ex
	if !c.came.Load() {
		c.requestCame(http.Now())
	}
	if c.times.Response > 0 {
		c.deadline.Store(ex.RequestEnd + int64(c.times.Response))
	}
	c.sent.Store(true)
	if c.relay.begun {
		c.startTimer(c.bodyDeadline())
	} else {
		c.startTimer(c.tryDeadline())
	}
}

// RequestData carries a piece of the request on. The Call is locked.
func (c *Call) RequestData(e h2.Event, p []byte, end bool) {
	r := &c.relay
	c.took(p)
	r.down.Credit(r.up.Data(p, end))
	if end {
		r.requestEnded, c.body.ended = true, true
		c.relaySent()
	}
	e.Touch(r.upConn)
}

// RequestTrailers ends the request with trailers. The Call is locked.
func (c *Call) RequestTrailers(e h2.Event, b *h2.Block) h2.Verdict {
	r := &c.relay
	v := b.Trailers(&r.requestTrailers, c.ex.KeepBytes)
	if v != h2.Good {
		c.Abandon(e, errCancelled)
		return v
	}
	r.requestEnded, c.body.ended = true, true
	if r.requestTrailers.Len() > 0 {
		c.body.trailers = &r.requestTrailers
	}
	c.relaySent()
	r.up.Trailers(&r.requestTrailers)
	e.Touch(r.upConn)
	return v
}

// ResponseTaken tells that octets which the downstream had queued were sent.
// The Call is locked.
func (c *Call) ResponseTaken(e h2.Event, n int, done bool) {
	r := &c.relay
	r.up.Credit(n)
	e.Touch(r.upConn)
	if done && r.answered {
		c.relayed(e, nil)
	}
}

// Abandon ends the exchange because of its client. The Call is locked.
func (c *Call) Abandon(e h2.Event, err *http.Error) {
	c.relayed(e, err)
}

// upSide is the Call as the receiver of what the host sends.
type upSide Call

// enter locks the exchange and reports whether the event is still about it.
func (u *upSide) enter(e h2.Event) bool {
	r := &u.relay
	r.mu.Lock()
	if r.on && r.upConn == e.Conn && r.upID == e.ID {
		return true
	}
	r.mu.Unlock()
	return false
}

// OnHead implements h2.Receiver.
func (u *upSide) OnHead(e h2.Event, b *h2.Block, end bool) h2.Verdict {
	c := (*Call)(u)
	if !u.enter(e) {
		return h2.Good
	}
	defer c.relay.mu.Unlock()
	r, ex := &c.relay, c.ex
	if v := b.Response(ex, end); v != h2.Good {
		c.leave(e, errUpstreamBroken)
		return v
	}
	e.Touch(r.downConn)
	if ex.Resp.Status < 200 {
		c.relayInterim()
		return h2.Good
	}
	ex.UpstreamFirst = http.Now()
	c.judge(false)
	if c.retryStatus() {
		c.leave(e, errRetryStatus)
		return h2.Good
	}
	ex.Details = "via_upstream"
	c.decorate()
	r.owner.ResponseReady()
	r.begun = true
	_ = r.owner.WriteHead(&ex.Resp, end)
	switch {
	case end:
		c.judge(true)
		c.relayed(e, nil)
	case c.times.Try > 0:
		c.startTimer(c.bodyDeadline())
	}
	return h2.Good
}

func (c *Call) relayInterim() {
	switch c.ex.Resp.Status {
	case 100:
		_ = c.relay.owner.Continue()
	case 103:
		_ = c.relay.owner.WriteInterim(&c.ex.Resp)
	}
	c.ex.Resp.Reset()
}

// OnData implements h2.Receiver.
func (u *upSide) OnData(e h2.Event, p []byte, end bool) {
	c := (*Call)(u)
	if !u.enter(e) {
		return
	}
	defer c.relay.mu.Unlock()
	r := &c.relay
	c.passed(p)
	taken := r.down.Data(p, end)
	e.Touch(r.downConn)
	if !end {
		r.up.Credit(taken)
		return
	}
	c.judge(true)
	if r.answered = true; taken == len(p) {
		c.relayed(e, nil)
	}
}

// OnTrailers implements h2.Receiver.
func (u *upSide) OnTrailers(e h2.Event, b *h2.Block) h2.Verdict {
	c := (*Call)(u)
	if !u.enter(e) {
		return h2.Good
	}
	defer c.relay.mu.Unlock()
	r := &c.relay
	e.Touch(r.downConn)
	v := b.Trailers(&r.responseTrailers, c.ex.KeepBytes)
	if v != h2.Good {
		c.relayed(e, h2.AfterResponse(errUpstreamBroken))
		return v
	}
	c.ex.RespTrailers = &r.responseTrailers
	c.judge(true)
	r.answered = true
	if r.down.Trailers(&r.responseTrailers) {
		c.relayed(e, nil)
	}
	return h2.Good
}

// OnReset implements h2.Receiver.
func (u *upSide) OnReset(e h2.Event, err *http.Error) {
	c := (*Call)(u)
	if !u.enter(e) {
		return
	}
	defer c.relay.mu.Unlock()
	e.Touch(c.relay.downConn)
	switch {
	case c.relay.answered:
		// All came that was to come; what is queued is still sent.
	case c.relay.begun:
		c.relayed(e, h2.AfterResponse(err))
	default:
		c.leave(e, c.hostReset(err))
	}
}

// OnTaken implements h2.Receiver.
func (u *upSide) OnTaken(e h2.Event, n int, _ bool) {
	c := (*Call)(u)
	if !u.enter(e) {
		return
	}
	defer c.relay.mu.Unlock()
	c.relay.down.Credit(n)
	e.Touch(c.relay.downConn)
}

// leave ends the try without a response that was passed on: what is to become
// of the exchange is decided where it can wait.
func (c *Call) leave(e h2.Event, err *http.Error) {
	owner := c.relay.owner
	c.hangUpRelay(e, err)
	owner.Unrelayed(err)
}

// relayed ends the exchange.
func (c *Call) relayed(e h2.Event, err *http.Error) {
	r := &c.relay
	if err == nil && !r.requestEnded {
		// The response is complete without all of the request (RFC 9113
		// section 8.1).
		r.down.ResetWhenSent(h2.CodeNone)
	}
	owner := r.owner
	c.hangUpRelay(e, err)
	c.releaseRetry()
	e.Touch(r.downConn)
	owner.Relayed(e, c.end(err))
}

// hangUpRelay gives up the upstream stream.
func (c *Call) hangUpRelay(e h2.Event, err *http.Error) {
	r := &c.relay
	r.on = false
	r.serial++
	if r.timer != nil {
		r.timer.Stop()
	}
	c.blame(err)
	c.tryEnded(err)
	r.up.Reset(h2.CodeCancel) // nothing, if both sides are done
	e.Touch(r.upConn)
	c.cl.PutStream(r.stream)
	c.cl.ReleaseRequest()
	r.upConn, r.upID, r.stream, r.owner = nil, 0, nil, nil
}

// startTimer replaces the bound of the try, a time of http.Now; 0 is none.
func (c *Call) startTimer(d int64) {
	r := &c.relay
	r.serial++
	serial := r.serial
	if r.timer != nil {
		r.timer.Stop()
	}
	if d == 0 {
		return
	}
	r.timer = time.AfterFunc(time.Duration(d-http.Now()), func() { c.expire(serial) })
}

// expire ends a try whose time is up.
func (c *Call) expire(serial uint64) {
	var b h2.Batch
	c.relay.mu.Lock()
	if c.relay.on && c.relay.serial == serial {
		e := h2.Background(&b)
		if c.relay.begun {
			c.relayed(e, c.late())
		} else {
			c.leave(e, c.timeUp())
		}
	}
	c.relay.mu.Unlock()
	b.Flush()
}

// Resume goes on with an exchange whose relayed try ended with err.
func (c *Call) Resume(err *http.Error) *http.Error { return c.tries(err) }
