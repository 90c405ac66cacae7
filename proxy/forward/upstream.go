// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"runtime"
	"sync"
	"time"

	"pillion/proxy/buf"
	"pillion/proxy/cluster"
	"pillion/proxy/http"
	"pillion/proxy/http/h2"
	"pillion/proxy/pool"
)

// upstream is the request of one try on a connection of either protocol, as
// h1.ClientConn and h2.ClientStream offer it.
type upstream interface {
	http.ClientStream
	// Begin precedes everything else, End follows it: it reports whether an
	// HTTP/1 connection can be used again, and hands over what the response's
	// head points into.
	Begin()
	End() (reusable bool, head buf.Buffer)
	LocalAddr() string
	// SplitWriter sends what is held back, and leaves writing to another
	// goroutine.
	SplitWriter() error
	// BodyEnded reports whether the response is read to its end, trailers
	// included.
	BodyEnded() bool
	SetReadDeadline(t time.Time)
	// Interrupt makes calls in progress and to come fail, from any goroutine.
	Interrupt()
	// Unseen reports whether it is certain that the application saw nothing of
	// the request.
	Unseen() bool
}

// pick chooses the host of a try.
func (c *Call) pick() *http.Error {
	if c.picked {
		c.picked = false
		return nil
	}
	ex := c.ex
	args := cluster.PickArgs{Authority: ex.Req.Authority}
	if ex.Conn != nil {
		args.OriginalDst = ex.Conn.OriginalDst
	}
	args.Hash, args.HasHash = c.route.Hash(ex)
	if c.route.Retry != nil && c.route.Retry.AvoidPreviousHosts {
		args.Avoid = c.tried
	}
	c.host = c.cl.Pick(&args)
	if c.host == nil {
		return errNoHealthy
	}
	ex.Upstream, ex.UpstreamTLS = c.host.Facts, nil
	ex.Attempts++
	c.tried = append(c.tried, c.host)
	return nil
}

// acquire gets a connection to the host, for HTTP/1 a new one if an old one
// turned out to be closed.
func (c *Call) acquire() (err *http.Error) {
	ex := c.ex
	if c.cl.SpeaksHTTP2(ex.Req.Protocol) {
		sc := c.cl.TryStream(c.host, ex.Req.Authority)
		if sc == nil {
			if sc, err = c.cl.AcquireStream(c.host, ex.Req.Authority, c.tryDeadline(), c.Cancelled()); err != nil {
				return err
			}
		}
		up := h2.NewClientStream(sc.H2)
		c.stream, c.up = sc, up
		c.used = append(c.used, up)
		ex.UpstreamProtocol, ex.UpstreamTLS = http.HTTP2, sc.TLS
		return nil
	}
	gather()
	var conn *pool.Conn
	if c.reissues > 0 {
		conn, err = c.cl.AcquireFresh(c.host, ex.Req.Authority, c.tryDeadline(), nil)
	} else {
		conn, err = c.cl.Acquire(c.host, ex.Req.Authority, c.tryDeadline(), nil, ex.Req.Method)
	}
	if err != nil {
		return err
	}
	c.conn, c.up = conn, conn.H1
	ex.UpstreamProtocol, ex.UpstreamTLS = http.HTTP11, conn.TLS
	return nil
}

// oneProcessor says that goroutines don't run side by side. A later change of that
// changes only what gather gives.
var oneProcessor = sync.OnceValue(func() bool { return runtime.GOMAXPROCS(0) == 1 })

// gather lets goroutines that can run go first: they read the requests and pass on the
// answers that have come, so that what is sent to hosts is sent at once, by one after
// the other. A host that sleeps is woken once for all of it, and we are pushed aside less
// often by those whom we wake. With more processors it gave nothing, and an idle
// processor would be woken for each request.
func gather() {
	if oneProcessor() {
		runtime.Gosched()
	}
}

// put gives the connection back.
func (c *Call) put(reusable bool) {
	if c.stream != nil {
		c.cl.PutStream(c.stream)
	} else {
		c.cl.Put(c.conn, reusable)
	}
	c.conn, c.stream, c.up = nil, nil, nil
}
