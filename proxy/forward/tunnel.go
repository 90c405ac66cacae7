// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/http/h2"
)

// tunnel carries octets both ways once the protocol was switched. Each
// direction has a goroutine and ends by itself: the end of what one side sends
// is handed on, and the other side may go on. What breaks one direction breaks
// both.
//
// A side that takes no more is not broken at once: what it said before it left
// is still read, up to its end. So the last words of a host that closes while
// the client is still sending come through.
type tunnel struct {
	c    *Call
	done chan struct{} // closed when the client's direction has ended

	idle  time.Duration // 0: none
	moved atomic.Int64  // when an octet last moved, of http.Now

	mu     sync.Mutex
	broken *http.Error // why both directions were broken; guarded by mu
	over   bool        // the Call may be another exchange's by now; guarded by mu
}

// errIdleTunnel: nothing moved for the route's idle_timeout.
var errIdleTunnel = &http.Error{Side: http.SideLocal, Kind: http.KindIdleTimeout, Retry: http.RetryNever,
	Flag: http.FlagStreamIdleTimeout, Detail: "stream_idle_timeout", Close: true}

// tunnel tells the client that the protocol is switched, and carries on until
// both sides have ended. The bounds on the response's time hold no longer, but
// for that of the whole exchange: as in Envoy, the route's timeout is that of
// the handshake.
func (c *Call) tunnel() *http.Error {
	ex := c.ex
	ex.Details = "via_upstream"
	c.timed.Store(false)
	c.bound(time.Time{})
	c.decorate()
	c.down.ResponseReady()
	if c.down.WriteHead(&ex.Resp, false) != nil || c.down.Flush() != nil {
		return errCancelled
	}
	if err := c.up.SplitWriter(); err != nil {
		return asError(err)
	}
	t := &tunnel{c: c, done: make(chan struct{})}
	defer t.watch()()
	go t.upward()
	cut := t.downward()
	<-t.done
	return t.outcome(cut)
}

// outcome is how the tunnel ended. cut is why the client took no more of what
// the host sent.
func (t *tunnel) outcome(cut *http.Error) *http.Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.broken == nil:
	case t.c.cancelled.Load(), t.broken.Side == http.SideDownstream:
		return errCancelled
	case t.broken.Side == http.SideUpstream:
		return h2.AfterResponse(t.broken)
	default:
		return t.broken
	}
	// A host that has said all and then takes no more has simply closed.
	return cut
}

// snap breaks both directions.
func (t *tunnel) snap(err *http.Error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken != nil || t.over {
		return
	}
	t.broken = err
	t.c.up.Interrupt()
	t.c.down.Abort()
}

// upward carries what the client sends.
func (t *tunnel) upward() {
	defer close(t.done)
	c := t.c
	for {
		if !c.down.Buffered() {
			if c.up.Flush() != nil {
				return
			}
		}
		p, err := c.down.ReadBody()
		if err != nil && err != io.EOF {
			t.snap(asError(err))
			return
		}
		c.ex.RequestBodyBytes += int64(len(p))
		t.touch()
		if c.up.WriteBody(p, err == io.EOF) != nil {
			return
		}
		if err == io.EOF {
			_ = c.up.Flush()
			return
		}
	}
}

// downward carries what the host sends, and returns why the client took no
// more of it.
func (t *tunnel) downward() *http.Error {
	c := t.c
	for {
		if !c.up.Buffered() {
			if err := c.down.Flush(); err != nil {
				return errCancelled
			}
		}
		p, err := c.up.ReadBody()
		if err != nil && err != io.EOF {
			t.snap(asError(err))
			return nil
		}
		c.ex.ResponseBodyBytes += int64(len(p))
		t.touch()
		if c.down.WriteBody(p, err == io.EOF) != nil {
			return errCancelled
		}
		if err == io.EOF {
			_ = c.down.Flush()
			return nil
		}
	}
}

// touch notes that octets move.
func (t *tunnel) touch() {
	if t.idle > 0 {
		t.moved.Store(http.Now())
	}
}

// watch breaks the tunnel when its time is up or nothing has moved for too
// long, until the returned function is called.
func (t *tunnel) watch() (stop func()) {
	c := t.c
	var timers []*time.Timer
	if c.streamEnd != 0 {
		left := time.Duration(c.streamEnd - http.Now())
		timers = append(timers, time.AfterFunc(left, func() { t.snap(errMaxDuration) }))
	}
	if m := c.route.More; m != nil && m.HasIdleTimeout && m.IdleTimeout > 0 {
		t.idle = m.IdleTimeout
		t.touch()
		timers = append(timers, t.watchIdle())
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.over = true
		for _, tm := range timers {
			tm.Stop()
		}
	}
}

// watchIdle looks when the tunnel could have become idle, and again when it
// could next if it has not.
func (t *tunnel) watchIdle() *time.Timer {
	var timer *time.Timer
	armed := make(chan struct{})
	timer = time.AfterFunc(t.idle, func() {
		<-armed
		quiet := time.Duration(http.Now() - t.moved.Load())
		if quiet >= t.idle {
			t.snap(errIdleTunnel)
			return
		}
		timer.Reset(t.idle - quiet)
	})
	close(armed)
	return timer
}
