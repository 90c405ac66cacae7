// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"sync"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/http/h2"
	"pillion/proxy/router"
)

// multiStream is one exchange on an HTTP/2 connection, and the receiver of its
// stream. It is relayed on the goroutines that read the connections of both
// sides; where something has to be waited for, it moves to a goroutine of its
// own. The Call's lock guards all of it, but for what that goroutine does.
type multiStream struct {
	stream
	ss h2.ServerStream
}

var multiPool = sync.Pool{New: func() any { return new(multiStream) }}

// serveHTTP2 serves the connection, which turned out to speak HTTP/2, as runHTTP2 does.
func (c *conn) serveHTTP2() http.Rest {
	nc, in := c.sc.Detach()
	s := &c.m.Stats
	s.Cx2Total.Inc()
	s.Cx2Active.Inc()
	multi := h2.NewServer(nc, in, c.m.config().http2(), &c.m.tracker.HTTP2, c)
	c.mu.Lock()
	c.multi, c.sc = multi, nil
	c.mu.Unlock()
	return c.runHTTP2()
}

// runHTTP2 serves such a connection until it ends, or another goroutine is to go on.
func (c *conn) runHTTP2() http.Rest {
	if c.multi.Run() {
		return c.waitOn
	}
	return nil
}

var defaultHTTP2 h2.Config

func (cfg *Config) http2() *h2.Config {
	if cfg.HTTP2 == nil {
		return &defaultHTTP2
	}
	return cfg.HTTP2
}

// Accept implements h2.Acceptor.
func (c *conn) Accept(*h2.Conn) (*h2.Stream, h2.Receiver) {
	st := multiPool.Get().(*multiStream)
	st.c = c
	return &st.ss.Stream, st
}

// OnHead begins the exchange. It implements h2.Receiver, as the methods below.
func (st *multiStream) OnHead(e h2.Event, b *h2.Block, end bool) h2.Verdict {
	st.call.Lock()
	defer st.call.Unlock()
	ex, s := &st.ex, &st.c.m.Stats
	v := b.Request(ex, end)
	if v == h2.Malformed {
		s.CxProtocolError.Inc()
		return v
	}
	st.codec, st.cfg = &st.ss, st.c.m.config()
	ex.Conn = st.c.info
	ex.Start = http.Now()
	ex.RequestHeadBytes = int64(b.Wire())
	st.ss.Begin(e, ex.Req.Method == http.MethodHead, end)
	if st.c.isLast(st.cfg) {
		go e.Conn.Drain() // not here, where the connection may be locked
	}
	s.RqTotal.Inc()
	s.Rq2Total.Inc()
	s.RqActive.Inc()
	if v == h2.TooLarge {
		st.refuse(errHeadTooLarge)
		st.over(e)
		return h2.Good
	}
	if len(ex.Req.Authority) == 0 {
		st.localError(errNoHost)
		st.over(e)
		return h2.Good
	}
	st.start(e, end)
	return h2.Good
}

// errNoHost is what the HTTP/1 codec says of a request that names no host.
var errNoHost = &http.Error{Side: http.SideDownstream, Kind: http.KindProtocol, Status: 400, Detail: "missing_host_header"}

// errHeadTooLarge answers a head beyond the limits, which is known for what it
// is: the stream is whole, only the head isn't taken.
var errHeadTooLarge = &http.Error{Side: http.SideDownstream, Kind: http.KindTooLarge, Status: 431,
	Flag: http.FlagDownstreamProtocolError, Detail: "http2.too_many_headers", Body: "Request Header Fields Too Large"}

// start routes the request and sees to it that it is answered.
func (st *multiStream) start(e h2.Event, end bool) {
	if !st.choose() {
		st.over(e)
		return
	}
	switch passed := st.filterRequest(false); {
	case passed == filterWaits:
		st.spawn(func() *http.Error {
			if st.filterRequest(true) == filterPassed {
				st.answer()
			}
			return nil
		})
	case passed == filterReplied:
		st.over(e)
	case st.route.Kind != router.Forward:
		st.answer()
		st.over(e)
	case !st.call.Relay(st.cfg.Forward, &st.ex, st, &st.ss.Stream, e, st.route, st.target, end):
		st.spawn(st.call.Proceed)
	}
}

// spawn goes on with the exchange where it can wait. The Call is locked.
func (st *multiStream) spawn(run func() *http.Error) {
	st.ss.Wait()
	if d := st.cfg.RequestTimeout; d > 0 && st.ex.Req.Framing.Kind != http.BodyNone {
		st.ss.SetReadDeadline(time.Now().Add(d))
	}
	go func() {
		if err := run(); err != nil {
			st.fail(err)
		}
		st.finish()
		st.call.Lock()
		st.recycle()
	}()
}

// over ends an exchange that has no goroutine. The Call is locked.
func (st *multiStream) over(e h2.Event) {
	st.finish()
	e.Touch(st.ss.Conn())
	if done, _ := st.ss.End(); done { // e's batch has the connection
		st.release()
		multiPool.Put(st)
	}
}

// recycle ends an exchange that had a goroutine. The Call is locked, and let
// go.
func (st *multiStream) recycle() {
	multi := st.ss.Conn()
	done, flush := st.ss.End()
	if done {
		st.release()
	}
	st.call.Unlock()
	if flush {
		multi.Flush() // calls receivers, whose locks may be held by who waits for ours
	}
	if done {
		multiPool.Put(st)
	}
}

// Relayed implements forward.Owner.
func (st *multiStream) Relayed(e h2.Event, err *http.Error) {
	if err != nil {
		st.fail(err)
	}
	st.over(e)
}

// Unrelayed implements forward.Owner.
func (st *multiStream) Unrelayed(err *http.Error) {
	st.spawn(func() *http.Error { return st.call.Resume(err) })
}

// OnData carries a piece of the request's body on.
func (st *multiStream) OnData(e h2.Event, p []byte, end bool) {
	st.call.Lock()
	defer st.call.Unlock()
	switch {
	case !st.ss.Is(e):
	case st.call.Relaying():
		st.call.RequestData(e, p, end)
	default:
		st.ss.Deliver(p, end)
	}
}

// OnTrailers carries the request's trailers on.
func (st *multiStream) OnTrailers(e h2.Event, b *h2.Block) h2.Verdict {
	st.call.Lock()
	defer st.call.Unlock()
	switch {
	case !st.ss.Is(e):
		return h2.Good
	case st.call.Relaying():
		return st.call.RequestTrailers(e, b)
	}
	return st.ss.DeliverTrailers(b)
}

// OnReset ends the exchange, whose client has gone.
func (st *multiStream) OnReset(e h2.Event, err *http.Error) {
	st.call.Lock()
	defer st.call.Unlock()
	switch {
	case !st.ss.Is(e):
	case st.call.Relaying():
		st.call.Abandon(e, err)
	default:
		st.ss.Fail(err)
		st.call.Cancel()
	}
}

// OnTaken lets the response go on.
func (st *multiStream) OnTaken(e h2.Event, n int, done bool) {
	st.call.Lock()
	defer st.call.Unlock()
	switch {
	case !st.ss.Is(e):
	case st.call.Relaying():
		st.call.ResponseTaken(e, n, done)
	default:
		st.ss.Taken(n)
	}
}
