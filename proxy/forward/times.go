// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"time"

	"pillion/proxy/http"
)

// setTimes takes the exchange's bounds in time from its route and its request.
func (c *Call) setTimes() {
	ex := c.ex
	c.times = c.route.TimesFor(ex)
	begin := ex.Start
	if ex.Held { // by filters, which in Envoy stand before the router, where this time begins
		begin = http.Now()
	}
	if ex.Req.Framing.Kind == http.BodyNone {
		c.requestCame(begin)
	}
	if c.times.Response > 0 {
		c.deadline.Store(begin + int64(c.times.Response))
	}
	if c.times.HasStream && c.times.Stream > 0 {
		c.streamEnd = ex.Start + int64(c.times.Stream)
	}
	c.times.Tell(ex, 0, !c.opt.SuppressEnvoyHeaders)
}

// tellAgain corrects what a repeated request says of the time that is left.
func (c *Call) tellAgain() {
	elapsed := time.Duration(0)
	if end := c.ex.RequestEnd; end != 0 {
		elapsed = time.Duration(http.Now() - end)
	}
	c.times.Tell(c.ex, elapsed, !c.opt.SuppressEnvoyHeaders)
}

// earlier returns the earlier of two times of http.Now, of which 0 is never.
func earlier(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// tryDeadline is when the current try must have ended, of http.Now; 0 never.
// It is asked for when a connection is wanted, and when the request's end has
// been sent.
func (c *Call) tryDeadline() int64 {
	d := c.responseDeadline()
	if c.times.Try > 0 {
		d = earlier(d, http.Now()+int64(c.times.Try))
	}
	return d
}

// responseDeadline is when the response must have ended.
func (c *Call) responseDeadline() int64 { return earlier(c.deadline.Load(), c.streamEnd) }

// bodyDeadline is when it must have ended once its head is there: the time of
// one try is over then, and that of the response begins with the request's end.
func (c *Call) bodyDeadline() int64 {
	if !c.sent.Load() {
		return c.streamEnd
	}
	return c.responseDeadline()
}

// timeUp returns the failure of a time that is up, which is the one of the try
// if all others have time left.
func (c *Call) timeUp() *http.Error {
	now := http.Now()
	switch d := c.deadline.Load(); {
	case c.streamEnd != 0 && now >= c.streamEnd && !c.sent.Load():
		return errMaxUpload
	case c.streamEnd != 0 && now >= c.streamEnd:
		return errMaxDuration
	case d == 0 || now < d:
		return errTryTimeout
	case c.times.ByClient:
		return errDeadline
	}
	return errTimeout
}

// hostReset returns what the host's reset of the stream comes down to. A gRPC
// server was told of the client's deadline and resets the call when it passes
// (grpc-go: http2_server.go, operateHeaders), which may come before our own
// timer does: then the time is up, and the host is not unavailable. Both clocks
// began no sooner than the exchange did.
func (c *Call) hostReset(err *http.Error) *http.Error {
	if err.Kind != http.KindStreamReset || !c.times.ByClient {
		return err
	}
	now := http.Now()
	switch {
	case c.streamEnd != 0 && now >= c.streamEnd:
		return c.timeUp()
	case c.times.Response > 0 && now >= c.ex.Start+int64(c.times.Response):
		return errDeadline
	}
	return err
}

// judge tells outlier detection how the host answered: with the response's
// head, or where that doesn't say it, as with gRPC, when the response has ended.
func (c *Call) judge(ended bool) {
	if c.judged {
		return
	}
	if status, known := c.ex.HostStatus(ended); known {
		c.judged = true
		c.host.ReportStatus(status)
	}
}
