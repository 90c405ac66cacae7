// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"math/rand/v2"
	"time"

	"pillion/proxy/http"
)

// errRetryStatus stands for a response that policy wants another try for. It
// never leaves the forwarder.
var errRetryStatus = &http.Error{Side: http.SideUpstream, Kind: http.KindNone, Retry: http.RetryByPolicy}

// again decides whether another try is made after err, and waits out the
// back-off. It leaves the exchange as it was before the first try.
func (c *Call) again(err *http.Error) bool {
	if c.cancelled.Load() || c.down.Started() {
		return false
	}
	if c.reissue(err) {
		return true
	}
	if err == errRetryStatus {
		return c.backOff()
	}
	p := c.route.Retry
	if p == nil || err.Retry == http.RetryNever || !c.replayable() || !p.RetryError(err) {
		return false
	}
	if !c.admitRetry() {
		return false
	}
	return c.backOff()
}

// reissue repeats, whatever the policy says, a request that no application
// saw: because it met a pooled connection which the host had already closed,
// or because the host said so (RFC 9113 section 8.7). For a closed connection
// and methods that are not idempotent the kernel must vouch for it (RFC 9110
// section 9.2.2).
func (c *Call) reissue(err *http.Error) bool {
	if err.Retry != http.RetryAlways && err.Kind != http.KindPoolReset || c.reissues == maxReissues || !c.replayable() {
		return false
	}
	if err.Kind == http.KindPoolReset && !c.ex.Req.Method.Idempotent() && !c.unseen {
		return false
	}
	c.reissues++
	c.ex.Attempts--
	c.tried = c.tried[:len(c.tried)-1]
	return true
}

// replayable reports whether the request can be sent again from its start.
func (c *Call) replayable() bool {
	return c.ex.Req.Framing.Kind == http.BodyNone || c.body.on || c.ex.RequestBodyBytes == 0
}

// retryStatus reports whether the response just read is to be dropped for
// another try.
func (c *Call) retryStatus() bool {
	p := c.route.Retry
	if p == nil || !p.RetryResponse(&c.ex.Resp) || !c.replayable() {
		return false
	}
	c.releaseRetry()
	return c.admitRetry()
}

// admitRetry asks the policy's count and the cluster's breaker.
func (c *Call) admitRetry() bool {
	if c.retries >= c.route.Retry.NumRetries {
		c.ex.Flags |= http.FlagUpstreamRetryLimitExceeded
		c.cl.Stats.RqRetryLimitExceeded.Inc()
		return false
	}
	if !c.cl.AdmitRetry() {
		c.cl.Stats.RqRetryOverflow.Inc()
		return false
	}
	c.holdsRetry = true
	c.retries++
	c.cl.Stats.RqRetry.Inc()
	return true
}

// releaseRetry gives back what admitRetry took of the breaker, once the
// repeated try is over.
func (c *Call) releaseRetry() {
	if c.holdsRetry {
		c.holdsRetry = false
		c.cl.ReleaseRetry()
	}
}

// backOff waits before the next try: a random time up to base × (2ⁿ − 1), as
// Envoy's JitteredExponentialBackOffStrategy.
func (c *Call) backOff() bool {
	base, limit := c.route.Retry.BackOff()
	span := min(base*time.Duration(1<<min(c.retries, 16)-1), limit)
	wait := time.Duration(rand.Int64N(int64(span) + 1))
	if d := c.deadline.Load(); d != 0 && http.Now()+int64(wait) >= d {
		return false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.Cancelled():
		return false
	}
}

// countResponse counts the host's response, which has ended. Its time is counted from the
// request's end, over all tries; of a response that came before there is none (Envoy:
// Filter::onUpstreamComplete).
func (c *Call) countResponse() {
	ex, took := c.ex, int64(-1)
	ex.End = http.Now()
	if c.came.Load() {
		took = ex.End - ex.RequestEnd
	}
	c.cl.Stats.Response(ex.Resp.Status, false, took)
}

// end makes the outcome of the last try that of the exchange.
func (c *Call) end(err *http.Error) *http.Error {
	ex, st := c.ex, c.cl.Stats
	if err == errRetryStatus {
		// The response was given up for a try that there is no time for.
		if err = errTimeout; c.cancelled.Load() {
			err = errCancelled
		} else if c.times.ByClient {
			err = errDeadline
		}
	}
	if err == nil {
		if c.retries > 0 {
			st.RqRetrySuccess.Inc()
		}
		c.countResponse()
		return nil
	}
	if c.down.Started() {
		c.countResponse()
	} else {
		c.dropArrived()
		if err.Status != 0 {
			st.Response(err.Status, false, -1)
		}
	}
	ex.UpstreamFailure = err.Transport
	ex.LocalReply.Body, ex.Details = err.Body, err.Detail
	if reason := resetReason(err); reason != "" && !c.down.Started() {
		ex.LocalReply.Body, ex.Details = resetReply(reason, err.Transport, c.retries > 0)
	}
	return err
}
