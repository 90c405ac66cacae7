// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"time"

	"pillion/proxy/buf"
	"pillion/proxy/http"
)

// replayLimit bounds how much of a request's body is remembered for another
// try, in bytes. A request with a longer body is sent once.
const replayLimit = buf.Large

// inlineLimit is up to how much of a body, in bytes, the exchange's own
// goroutine sends before it looks for the response, as long as it arrives
// without waiting. That much fits into the sockets' buffers, so that a host
// which answers before it reads can't bring both sides to a halt.
const inlineLimit = 64 << 10

// replay remembers what of the request's body was taken from downstream.
type replay struct {
	on    bool // still complete
	ended bool // holds the body to its end
	kept  buf.Buffer
	// trailers of an ended body; nil when none came.
	trailers *http.Fields
}

func (r *replay) init(f http.Framing) {
	r.on = f.Kind != http.BodyNone && f.Length <= replayLimit
	r.ended, r.trailers = false, nil
}

func (r *replay) record(p []byte) {
	if r.on && r.kept.Write(p) < len(p) {
		r.on = false
		r.kept.Release()
	}
}

func (r *replay) release() {
	r.kept.Release()
	r.on, r.ended, r.trailers = false, false, nil
}

// sendHead sends or holds back the head; of a request without a body that is
// all there is to send.
func (c *Call) sendHead() *http.Error {
	req := &c.ex.Req
	if c.vh.IncludeAttemptCount {
		req.Fields.SetID(http.HeaderXEnvoyAttemptCount, c.decimal(int64(c.ex.Attempts)))
	}
	none := req.Framing.Kind == http.BodyNone
	if err := c.upgrade(); err != nil {
		return err
	}
	if err := c.up.WriteHead(req, none && req.Upgrade == nil); err != nil {
		return asError(err)
	}
	if none {
		c.requestSent()
	}
	return nil
}

// sendBody sends as much of the body as is there, and starts the pump for the
// rest.
func (c *Call) sendBody() *http.Error {
	if c.ex.Req.Framing.Kind == http.BodyNone {
		return nil
	}
	if err := c.sendRemembered(); err != nil {
		return err
	}
	if c.body.ended {
		return c.endRequest(c.body.trailers)
	}
	if done, err := c.sendArrived(); done || err != nil {
		return err
	}
	if err := c.up.SplitWriter(); err != nil {
		return asError(err)
	}
	c.pump.start(c)
	return nil
}

// sendRemembered sends what an earlier try took from downstream.
func (c *Call) sendRemembered() *http.Error {
	if c.body.kept.Len() == 0 {
		return nil
	}
	if err := c.up.WriteBody(c.body.kept.Bytes(), false); err != nil {
		return asError(err)
	}
	return nil
}

// sendArrived sends what comes of the body without waiting, and reports
// whether that was all.
func (c *Call) sendArrived() (done bool, err *http.Error) {
	for sent := 0; sent < inlineLimit && c.down.Poll(); {
		p, err := c.down.ReadBody()
		if err == io.EOF {
			c.body.ended = true
			c.body.trailers = c.down.RequestTrailers()
			return true, c.endRequest(c.body.trailers)
		}
		if err != nil {
			return false, asError(err)
		}
		c.took(p)
		sent += len(p)
		if err := c.up.WriteBody(p, false); err != nil {
			return false, asError(err)
		}
	}
	return false, nil
}

// took accounts for a piece of the body that came from downstream. It comes
// before the piece is written upstream: the host may answer the last octet at
// once, before anybody has looked for the end behind it.
func (c *Call) took(p []byte) {
	c.ex.RequestBodyBytes += int64(len(p))
	if f := &c.ex.Req.Framing; f.Kind == http.BodyLength && c.ex.RequestBodyBytes == f.Length {
		c.requestCame(http.Now())
	}
	c.ex.RequestMessages.Add(p)
	c.body.record(p)
}

// dropArrived takes what has come by now of a request that no host is to get, so
// that a client of HTTP/1 which has sent all of it keeps its connection. Envoy
// reads it while a host is connected to, and not for what it answers at once.
func (c *Call) dropArrived() {
	if c.host == nil || c.ex.Req.Protocol == http.HTTP2 || c.ex.Req.Framing.Kind == http.BodyNone {
		return
	}
	for n := 0; n < inlineLimit && c.down.Poll(); {
		p, err := c.down.ReadBody()
		if err != nil {
			return // io.EOF, or the connection can't go on anyway
		}
		c.ex.RequestBodyBytes += int64(len(p))
		n += len(p)
	}
}

// requestCame notes that all of the request has come, and when it did first: a repeat
// doesn't change that.
func (c *Call) requestCame(at int64) {
	if c.ex.RequestEnd == 0 {
		c.ex.RequestEnd = at
	}
	c.came.Store(true)
}

// endRequest ends the body.
func (c *Call) endRequest(trailers *http.Fields) *http.Error {
	if !c.came.Load() {
		c.requestCame(http.Now())
	}
	var err error
	if trailers != nil {
		err = c.up.WriteTrailers(trailers)
	} else {
		err = c.up.WriteBody(nil, true)
	}
	if err != nil {
		return asError(err)
	}
	c.requestSent()
	return nil
}

// requestSent starts the clock of the response (Envoy's router counts its
// timeouts from the request's end).
func (c *Call) requestSent() {
	if c.times.Response > 0 {
		c.deadline.Store(c.ex.RequestEnd + int64(c.times.Response))
	}
	c.sent.Store(true)
	c.armDeadline()
	if c.begun.Load() {
		c.rearm()
	}
}

// asError turns an error of a codec, which is always an *http.Error, back
// into one.
func asError(err error) *http.Error {
	if he, ok := err.(*http.Error); ok {
		return he
	}
	return errCancelled
}

// pump is the second goroutine of an exchange, which carries the request's
// body upstream while the first waits for the response. It owns the reading
// half of the downstream and the writing half of the upstream while it runs.
type pump struct {
	running bool          // owned by the exchange's goroutine
	done    chan struct{} // buffered, one token when the pump has ended
	// err and whole are the result: written before the token, read after it.
	err   *http.Error
	whole bool
}

func (p *pump) start(c *Call) {
	if p.done == nil {
		p.done = make(chan struct{}, 1)
	}
	p.running, p.err, p.whole = true, nil, false
	go p.run(c)
}

func (p *pump) run(c *Call) {
	up := c.up
	err := p.copy(c)
	p.err, p.whole = err, err == nil
	// The token first: whoever the interruption wakes wants to know why. The
	// connection is not used again, since the request is not whole.
	p.done <- struct{}{}
	if err != nil && err.Side == http.SideDownstream {
		up.Interrupt() // nobody will finish this request
	}
}

func (p *pump) copy(c *Call) *http.Error {
	for {
		if !c.down.Buffered() {
			if err := c.up.Flush(); err != nil {
				return asError(err)
			}
		}
		piece, err := c.down.ReadBody()
		if err == io.EOF {
			c.body.ended = true
			c.body.trailers = c.down.RequestTrailers()
			if err := c.endRequest(c.body.trailers); err != nil {
				return err
			}
			if err := c.up.Flush(); err != nil {
				return asError(err)
			}
			return nil
		}
		if err != nil {
			return asError(err)
		}
		c.took(piece)
		if err := c.up.WriteBody(piece, false); err != nil {
			return asError(err)
		}
		if err := c.carryRequest(); err != nil {
			return err
		}
	}
}

// failed returns why the pump ended, if it has, and if it was the client's
// doing.
func (p *pump) failed() *http.Error {
	if !p.running {
		return nil
	}
	select {
	case <-p.done:
		p.running = false
		if p.err != nil && p.err.Side == http.SideDownstream {
			return p.err
		}
	default:
	}
	return nil
}

// bodyGrace is how long a body that has come may take to be sent to its end once
// the response is complete.
const bodyGrace = time.Second

// stop ends the pump, waiting for it, and reports whether the request was
// sent to its end. A body that is still under way when the response is
// complete is given up, and the downstream connection with it (RFC 9112
// section 9.3: what is left of it can't be told from a next request), which the
// client was told with the response's head. A body that has come and only has to
// be seen to its end, as after an answer to its last byte, is waited for.
func (p *pump) stop(c *Call, answered bool) (whole bool) {
	if !p.running {
		return true
	}
	p.running = false
	if p.ended(c, answered) {
		return p.whole
	}
	c.down.StopReading()
	c.up.Interrupt()
	<-p.done
	// It may have come to the end all the same. The upstream connection is
	// spoilt by the interruption, the downstream one need not be.
	c.down.ResumeReading()
	return false
}

// ended reports whether the pump has ended, if need be after a wait.
func (p *pump) ended(c *Call, wait bool) bool {
	select {
	case <-p.done:
		return true
	default:
	}
	if !wait || !c.came.Load() || c.down.Flush() != nil {
		return false
	}
	late := time.NewTimer(bodyGrace)
	defer late.Stop()
	select {
	case <-p.done:
		return true
	case <-late.C:
		return false
	}
}
