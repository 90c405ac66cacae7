// SPDX-License-Identifier: Apache-2.0

// Package forward is the terminal step of an exchange: it takes a chosen
// route to a cluster, a host and a connection, sends the request, repeats it
// where policy and safety allow, and streams the response back.
//
// Everything runs on the goroutine that runs the exchange. A second one
// exists only while a request body is streamed in parallel with the response.
package forward

import (
	"sync"
	"sync/atomic"

	"pillion/proxy/buf"
	"pillion/proxy/cluster"
	"pillion/proxy/http"
	"pillion/proxy/http/h1"
	"pillion/proxy/http/h2"
	"pillion/proxy/pool"
	"pillion/proxy/router"
)

// Downstream is what the forwarder needs of the connection manager.
type Downstream interface {
	http.ServerStream
	// ResponseReady lets the manager and the filters edit the exchange's
	// response before its head is written.
	ResponseReady()
	// CutShort tells, before ResponseReady, that the response comes before all of
	// the request has.
	CutShort()
	// Started reports whether the response's head was written.
	Started() bool
	// Socket is the client's HTTP/1 connection where what the methods above read and
	// write of bodies is what it carries; nil otherwise.
	Socket() *h1.ServerConn
	// StopReading makes a ReadBody in progress, and those to come, fail until
	// ResumeReading.
	StopReading()
	ResumeReading()
	// Abort makes calls in progress and to come fail, from any goroutine.
	Abort()
}

// Options are settings of all exchanges of one connection manager. Immutable.
type Options struct {
	// SuppressEnvoyHeaders leaves out the x-envoy-* fields that the router
	// adds (router.v3.Router.suppress_envoy_headers).
	SuppressEnvoyHeaders bool
}

// Call is the forwarding of one exchange. The zero value is ready, and may be
// used again after Release. It is owned by the exchange's goroutine but for
// Cancel, which may come from any.
type Call struct {
	opt    *Options
	ex     *http.Exchange
	down   Downstream
	vh     *router.VirtualHost
	route  *router.Route
	target *router.Target
	cl     *cluster.Cluster

	times     router.Times
	streamEnd int64 // of the whole exchange by times.Stream, of http.Now; 0 none

	// The current try.
	host   *cluster.Host
	picked bool // host was chosen before the try began
	up     upstream
	conn   *pool.Conn       // that up is on; nil if it is on an HTTP/2 one
	stream *pool.StreamConn // that up is on; nil if it is on an HTTP/1 one
	// timed says that the connection has a deadline set, came that all of the
	// request has come from downstream, sent that it was sent to its end, begun
	// that the response's head is there. came is set behind Exchange.RequestEnd
	// and before what makes the request whole is written upstream, sent after
	// that. timed, came, sent, deadline and RequestEnd may be set by the pump.
	timed, came, sent, begun atomic.Bool
	unseen                   bool // the last try's request can't have reached the application
	madeKey                  bool // the Sec-WebSocket-Key is ours
	judged                   bool // outlier detection knows how the host answered

	tried   []*cluster.Host // hosts of earlier tries
	retries uint32          // repeats made by policy
	// holdsRetry says that the current try counts in the retry breaker.
	holdsRetry bool
	reissues   uint32       // repeats made because a reused connection was dead
	deadline   atomic.Int64 // of the whole exchange, of http.Now; 0 none

	body replay
	pump pump

	relay relay

	heads []buf.Buffer       // storage of response heads, until Release
	used  []*h2.ClientStream // likewise

	mu        sync.Mutex
	cancelled atomic.Bool
	live      upstream      // to interrupt; guarded by mu
	done      chan struct{} // closed by Cancel; guarded by mu, made on demand
}

// maxReissues bounds the repeats of a request that met dead connections.
const maxReissues = 3

// Run carries the exchange out. A nil error means that the whole response was
// sent. If the error comes before down's head was written, the caller sends
// the local reply that ex.LocalReply and the error describe.
func (c *Call) Run(opt *Options, ex *http.Exchange, down Downstream, route *router.Route, target *router.Target) *http.Error {
	if err := c.setUp(opt, ex, down, route, target); err != nil {
		return err
	}
	return c.Proceed()
}

// setUp prepares the exchange for its first try.
func (c *Call) setUp(opt *Options, ex *http.Exchange, down Downstream, route *router.Route, target *router.Target) *http.Error {
	c.opt, c.ex, c.down, c.vh, c.route, c.target = opt, ex, down, route.VirtualHost(), route, target
	ex.ClusterName, ex.Cluster = c.target.Cluster.Name(), c.target.Cluster
	slot, _ := c.target.Cluster.(*cluster.Slot)
	if slot != nil {
		c.cl = slot.Load()
	}
	if c.cl == nil {
		return noCluster(route.NotFoundStatus)
	}
	if cfg := c.cl.Config(); cfg.NoPeerMetadata || cfg.External && ex.MeshOnly {
		ex.Req.Fields.DelID(http.HeaderXEnvoyPeerMetadata)
		ex.Req.Fields.DelID(http.HeaderXEnvoyPeerMetadataID)
	}
	route.ApplyRequest(ex, c.target)
	c.prepare()
	return nil
}

// Proceed makes the tries of an exchange that is set up.
func (c *Call) Proceed() *http.Error {
	if c.ex.Req.Framing.Kind == http.BodyNone {
		c.sendMirrors()
	} else {
		defer c.sendMirrors()
	}
	return c.tries(c.try())
}

// tries repeats what failed with err as long as it may be repeated.
func (c *Call) tries(err *http.Error) *http.Error {
	for {
		if err != errRetryStatus {
			c.releaseRetry()
		}
		if err == nil || !c.again(err) {
			c.releaseRetry()
			return c.end(err)
		}
		c.tellAgain()
		err = c.try()
	}
}

// prepare sets what holds for all tries.
func (c *Call) prepare() {
	c.body.init(c.ex.Req.Framing)
	c.setTimes()
}

// Cancel gives the exchange up: waits and transfers in progress end.
func (c *Call) Cancel() {
	c.cancelled.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live != nil {
		c.live.Interrupt()
	}
	if c.done != nil {
		close(c.done)
		c.done = nil
	}
}

// Cancelled returns a channel that Cancel closes.
func (c *Call) Cancelled() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.cancelled.Load() {
			done := c.done
			c.done = nil
			close(done)
			return done
		}
	}
	return c.done
}

// Release gives up what the exchange's heads point to. The exchange is over.
func (c *Call) Release() {
	for i := range c.heads {
		c.heads[i].Release()
	}
	for _, s := range c.used {
		s.Recycle()
	}
	clear(c.used)
	c.used = c.used[:0]
	c.body.release()
	clear(c.tried)
	c.mu.Lock()
	defer c.mu.Unlock()
	heads, tried := c.heads[:0], c.tried[:0]
	c.opt, c.ex, c.down, c.vh, c.route, c.target, c.cl = nil, nil, nil, nil, nil, nil, nil
	c.host, c.conn, c.stream, c.up, c.unseen, c.picked = nil, nil, nil, nil, false, false
	c.retries, c.reissues, c.holdsRetry = 0, 0, false
	c.timed.Store(false)
	c.deadline.Store(0)
	c.came.Store(false)
	c.sent.Store(false)
	c.begun.Store(false)
	c.streamEnd, c.judged, c.madeKey = 0, false, false
	c.heads, c.tried = heads, tried
	c.live, c.done = nil, nil
	c.relay.down, c.relay.downConn = nil, nil
	c.relay.requestTrailers.Reset()
	c.relay.responseTrailers.Reset()
	c.cancelled.Store(false)
}

// setLive names the connection that Cancel interrupts.
func (c *Call) setLive(up upstream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = up
	if up != nil && c.cancelled.Load() {
		up.Interrupt()
	}
}

// decimal writes n into the exchange's scratch space.
func (c *Call) decimal(n int64) []byte {
	s := c.ex.Scratch(20)
	i := len(s)
	for {
		i--
		s[i] = byte('0' + n%10)
		n /= 10
		if n == 0 {
			return s[i:]
		}
	}
}
