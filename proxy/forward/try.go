// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/http/h1"
)

// try makes one attempt. nil: the response was sent downstream completely.
func (c *Call) try() *http.Error {
	if c.cancelled.Load() {
		return errCancelled
	}
	if !c.cl.AdmitRequest() {
		return errOverflow
	}
	defer c.cl.ReleaseRequest()
	if err := c.connect(); err != nil {
		return c.tryEnded(err)
	}
	err := c.exchange()
	c.hangUp(err)
	return c.tryEnded(err)
}

// tryBegins tells who wants to know that a try begins.
func (c *Call) tryBegins() {
	if c.ex.Tries != nil {
		c.ex.Tries.TryBegins(c.ex)
	}
}

// tryEnded tells who wants to know how a try ended. It returns err.
func (c *Call) tryEnded(err *http.Error) *http.Error {
	if c.ex.Tries != nil {
		c.ex.Tries.TryEnds(c.ex, err, err == errRetryStatus)
	}
	return err
}

// connect chooses a host and gets a connection to it.
func (c *Call) connect() *http.Error {
	ex := c.ex
	if err := c.pick(); err != nil {
		return err
	}
	c.tryBegins()
	if err := c.acquire(); err != nil {
		c.host.ReportFailure(err.Kind)
		return c.noticeCancel(err)
	}
	ex.UpstreamLocal = c.up.LocalAddr()
	ex.UpstreamStart = http.Now()
	c.cl.Stats.RqTotal.Inc()
	c.setLive(c.up)
	return nil
}

// exchange sends the request on the connection and streams the response.
func (c *Call) exchange() *http.Error {
	c.up.Begin()
	c.judged = false
	c.begun.Store(false)
	if c.streamEnd != 0 {
		c.arm(c.streamEnd) // which holds while the request is coming, too
	}
	if err := c.sendHead(); err != nil {
		return c.noticeCancel(err)
	}
	final, err := c.awaitContinue()
	if err == nil && !final {
		if err = c.sendBody(); err == nil {
			err = c.readFinal()
		}
	}
	if err != nil {
		return c.noticeCancel(err)
	}
	c.ex.UpstreamFirst = http.Now()
	switched, err := c.switched()
	if err != nil {
		return err
	}
	c.judge(false)
	if switched {
		c.releaseRetry() // the repeat has succeeded, however long the tunnel lasts
		return c.tunnel()
	}
	if c.retryStatus() {
		return errRetryStatus
	}
	c.releaseRetry()
	if c.times.Try > 0 {
		c.begun.Store(true)
		c.rearm()
	}
	return c.sendResponse()
}

// readFinal waits for the final response's head and hands interim ones on.
func (c *Call) readFinal() *http.Error {
	for {
		if err := c.up.ReadHead(&c.ex.Resp); err != nil {
			return c.headFailed(err)
		}
		if c.ex.Resp.Status >= 200 || c.ex.Resp.Status == 101 {
			return nil
		}
		if err := c.passInterim(); err != nil {
			return errCancelled
		}
	}
}

// continueWait is how long a host may take to say whether it wants the body
// of a request with "Expect: 100-continue" before it gets it unasked, since it
// may not know of such (RFC 9110 section 10.1.1).
const continueWait = time.Second

// awaitContinue holds the body of such a request back until the host asks for
// it, and reports whether the host gave its final answer instead: the body is
// then never sent, so that no host can take it for a request.
func (c *Call) awaitContinue() (final bool, err *http.Error) {
	if !c.ex.Req.Expect100 || c.ex.Req.Framing.Kind == http.BodyNone {
		return false, nil
	}
	c.bound(time.Now().Add(continueWait))
	defer c.bound(time.Time{})
	for {
		failed := c.up.ReadHead(&c.ex.Resp)
		if he, ok := failed.(*http.Error); ok && he.Kind == http.KindTimeout && !c.cancelled.Load() {
			return false, nil
		}
		if failed != nil {
			return false, c.headFailed(failed)
		}
		if c.ex.Resp.Status >= 200 || c.ex.Resp.Status == 101 {
			return true, nil
		}
		if c.passInterim() != nil {
			return false, errCancelled
		}
		if c.ex.Resp.Status == 100 {
			return false, nil
		}
	}
}

// passInterim hands an interim response on.
func (c *Call) passInterim() error {
	if c.ex.Resp.Status == 100 {
		return c.down.Continue()
	}
	h1.StripResponseHop(&c.ex.Resp)
	return c.down.WriteInterim(&c.ex.Resp)
}

// armDeadline bounds the wait for the response.
func (c *Call) armDeadline() {
	if d := c.tryDeadline(); d != 0 {
		c.arm(d)
	}
}

// arm bounds the reading of the response by a time of http.Now.
func (c *Call) arm(d int64) {
	c.timed.Store(true)
	c.bound(time.Now().Add(time.Duration(d - http.Now())))
}

// bound sets the deadline of reading, which is also how Cancel interrupts it:
// a Cancel that came just before has the last word.
func (c *Call) bound(t time.Time) {
	c.up.SetReadDeadline(t)
	if c.cancelled.Load() {
		c.up.Interrupt()
	}
}

// rearm takes the bound of one try away once the response has begun. The pump
// may set it at the same time, and calls this too if it was late.
func (c *Call) rearm() {
	if d := c.bodyDeadline(); d != 0 {
		c.arm(d)
		return
	}
	c.timed.Store(false)
	c.bound(time.Time{})
}

// headFailed maps an error of ReadHead: a client that went away in mid-body
// is the cause of what looks like the upstream's failure.
func (c *Call) headFailed(err error) *http.Error {
	he, ok := err.(*http.Error)
	if !ok {
		return errNoHealthy
	}
	if p := c.pump.failed(); p != nil {
		return p
	}
	if he.Kind == http.KindTimeout {
		return c.timeUp()
	}
	return c.hostReset(he)
}

func (c *Call) noticeCancel(err *http.Error) *http.Error {
	if c.cancelled.Load() {
		return errCancelled
	}
	return err
}

// sendResponse streams the response downstream.
func (c *Call) sendResponse() *http.Error {
	ex := c.ex
	ex.Details = "via_upstream"
	c.decorate()
	c.down.ResponseReady()
	if err := c.down.WriteHead(&ex.Resp, c.up.BodyEnded()); err != nil {
		return errCancelled
	}
	for !c.up.BodyEnded() {
		if !c.up.Buffered() {
			if err := c.down.Flush(); err != nil {
				return errCancelled
			}
		}
		p, err := c.up.ReadBody()
		if err == io.EOF {
			if err := c.endResponse(); err != nil {
				return errCancelled
			}
			break
		}
		if err != nil {
			return c.bodyFailed(err)
		}
		c.passed(p)
		if err := c.down.WriteBody(p, false); err != nil {
			return errCancelled
		}
		if err := c.carryResponse(); err != nil {
			return err
		}
	}
	c.judge(true)
	return nil
}

// passed accounts for a piece of the response's body.
func (c *Call) passed(p []byte) {
	c.ex.ResponseBodyBytes += int64(len(p))
	c.ex.ResponseMessages.Add(p)
}

func (c *Call) endResponse() error {
	if t := c.up.ResponseTrailers(); t != nil {
		c.ex.RespTrailers = t
		return c.down.WriteTrailers(t)
	}
	return c.down.WriteBody(nil, true)
}

// bodyFailed maps an error in the middle of a response: all that is left is
// to break the downstream off.
func (c *Call) bodyFailed(err error) *http.Error {
	he, ok := err.(*http.Error)
	if c.cancelled.Load() || !ok {
		return errCancelled
	}
	if he.Kind == http.KindTimeout {
		return c.late()
	}
	return he
}

// late returns the failure of a response that took too long after its head.
func (c *Call) late() *http.Error {
	if c.streamEnd != 0 && http.Now() >= c.streamEnd {
		return errMaxDuration
	}
	return errLateResponse
}

// decorate makes the router's own edits of the response.
func (c *Call) decorate() {
	ex := c.ex
	// It is counted from the request's end, over all tries, and an answer to an
	// unfinished request says nothing of it (Envoy: Filter::onUpstreamHeaders); that of
	// an upgrade never ends before.
	if !c.opt.SuppressEnvoyHeaders && ex.Req.Upgrade == nil && c.came.Load() {
		ms := max(ex.UpstreamFirst-ex.RequestEnd, 0) / int64(time.Millisecond)
		ex.Resp.Fields.SetID(http.HeaderXEnvoyUpstreamServiceTime, c.decimal(ms))
	}
	if !c.came.Load() {
		c.down.CutShort()
	}
	c.route.ApplyResponse(ex, c.target)
}

// blame counts how the try failed, if it was the host that failed.
func (c *Call) blame(err *http.Error) {
	if err == nil || err == errRetryStatus || err.Side != http.SideUpstream {
		if err != nil && err.Side == http.SideDownstream {
			c.cl.Stats.RqCancelled.Inc()
		}
		return
	}
	st := c.cl.Stats
	switch err.Kind {
	case http.KindPoolReset:
		// The connection was closed between two requests: nobody's failure.
		c.unseen = c.up != nil && c.up.Unseen()
		return
	case http.KindTimeout:
		if err == errTryTimeout {
			st.RqPerTryTimeout.Inc()
		} else {
			st.RqTimeout.Inc()
		}
		st.RqTxReset.Inc()
	case http.KindReset, http.KindStreamReset, http.KindRefused:
		st.RqRxReset.Inc()
	case http.KindUpstreamProtocol:
		st.CxProtocolError.Inc()
		st.RqTxReset.Inc()
	}
	c.host.ReportFailure(err.Kind)
}

// hangUp ends the try: the writer of the request's body is waited for, and
// the connection goes back to its pool or is closed.
func (c *Call) hangUp(err *http.Error) {
	c.setLive(nil)
	c.blame(err)
	whole := c.pump.stop(c, err == nil)
	if c.timed.Swap(false) {
		c.up.SetReadDeadline(time.Time{})
	}
	reusable, head := c.up.End()
	if err == errRetryStatus {
		head.Release()
	} else {
		c.heads = append(c.heads, head)
	}
	c.put(reusable && whole && !c.cancelled.Load())
}
