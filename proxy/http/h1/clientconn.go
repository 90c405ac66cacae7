// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"io"
	"net"
	"time"

	"pillion/proxy/buf"
	"pillion/proxy/http"
	"pillion/proxy/netio"
)

// maxInterim bounds the 1xx responses before a final one.
const maxInterim = 10

// ClientConn is one HTTP/1 connection to an upstream host. It implements
// http.ClientStream for one request after the other: Begin, the stream's
// calls, then End. It is owned by the exchange that runs on it; between two,
// by the pool. Close and Interrupt may be called from anywhere.
type ClientConn struct {
	io  netio.Conn
	rd  reader
	out outbox // empty between requests
	lim *Limits

	local, remote string // addresses as text, immutable

	sent      Sent // what the response answers
	chunked   bool // the request's body goes out in chunks
	reused    bool // a request was answered on this connection before
	split     bool // another goroutine writes the request's body
	gotBytes  bool // a byte of the current response came
	keepAlive bool // of the current response
	wroteAll  bool // the request is completely written, or held back whole
	interim   int  // how many 1xx responses the current request got
	tunnel    bool // the host has switched the protocol: what follows is octets

	// written counts the bytes sent on the connection. Owned by the goroutine that
	// writes.
	written uint64
	// sealed counts those below TLS; nil on a plain connection. Immutable.
	sealed interface{ Sent() uint64 }
	// sentBefore are the bytes of the socket that belong to earlier requests.
	sentBefore uint64
}

// NewClientConn takes ownership of nc.
func NewClientConn(nc net.Conn) *ClientConn {
	c := &ClientConn{lim: &Limits{}, local: nc.LocalAddr().String(), remote: nc.RemoteAddr().String()}
	c.io.Init(nc)
	if _, ok := nc.(netio.Sealed); ok {
		c.sealed, _ = nc.(interface{ Sent() uint64 })
	}
	c.rd.io = &c.io
	return c
}

// LocalAddr returns our address as text.
func (c *ClientConn) LocalAddr() string { return c.local }

// RemoteAddr returns the host's address as text.
func (c *ClientConn) RemoteAddr() string { return c.remote }

// Alive looks at an idle connection without waiting: false when the host has
// closed it or has sent bytes that nobody asked for.
func (c *ClientConn) Alive() bool {
	return !c.rd.eofSeen && c.rd.in.Len() == 0 && c.io.Look() == netio.PeerQuiet
}

// Close closes the connection. Storage is given back by End, or dropped.
func (c *ClientConn) Close() error { return c.io.Close() }

// Interrupt makes calls in progress and to come fail as timed out.
func (c *ClientConn) Interrupt() { _ = c.io.SetDeadline(netio.Past) }

// SetReadDeadline bounds the wait for the response; zero: no bound.
func (c *ClientConn) SetReadDeadline(t time.Time) { _ = c.io.SetReadDeadline(t) }

// SetDeadline bounds reads and writes; zero: no bound.
func (c *ClientConn) SetDeadline(t time.Time) { _ = c.io.SetDeadline(t) }

// Begin starts a request. It must precede WriteHead.
func (c *ClientConn) Begin() {
	c.sentBefore = c.onSocket()
	c.split, c.gotBytes, c.keepAlive, c.wroteAll = false, false, false, false
	c.interim = 0
}

// onSocket returns how many bytes the socket was given.
func (c *ClientConn) onSocket() uint64 {
	if c.sealed != nil {
		return c.sealed.Sent()
	}
	return c.written
}

// End finishes the request, complete or not. It reports whether the
// connection can take another one, and hands over the storage that the
// response head's fields point into: the caller releases it when it is done
// with them.
func (c *ClientConn) End() (reusable bool, head buf.Buffer) {
	reusable = c.wroteAll && c.rd.ended && c.keepAlive && !c.rd.eofSeen && c.rd.kind != http.BodyClose
	if c.sent.Upgrade != nil {
		reusable = false // whatever it answered, the host may take what follows for the other protocol
	}
	if c.tunnel && !c.wroteAll {
		c.io.ResetOnClose() // or the host would take what it got for all of it
	}
	head = c.rd.takeHead()
	reusable = reusable && c.out.len() == 0
	c.out.drop()
	if c.rd.in.Len() > 0 { // bytes behind the response: nobody asked for them
		reusable = false
	}
	if !reusable {
		c.rd.release()
	}
	c.reused = true
	return reusable, head
}

// WriteHead holds back the head; h.Framing says how the body will follow.
func (c *ClientConn) WriteHead(h *http.RequestHead, end bool) error {
	c.sent = Sent{Method: h.Method, Upgrade: h.Upgrade}
	end = end || h.Upgrade != nil // what follows waits for the host's answer
	f := RequestFraming(h, end)
	c.chunked = f.Kind == http.BodyChunked
	out := c.out.storage()
	*out = AppendRequest(*out, h, f, PersistDefault)
	c.wroteAll = end
	return nil
}

// WriteBody sends a piece of the body. Small pieces are held back.
func (c *ClientConn) WriteBody(p []byte, end bool) error {
	if c.tunnel {
		return c.writeTunnel(p, end)
	}
	held := c.out.len()
	if err := c.out.body(&c.io, p, c.chunked, end); err != nil {
		return c.writeError(err)
	}
	if c.out.len() < held+len(p) { // sent: at least these, the framing not counted
		c.written += uint64(held + len(p))
	}
	c.wroteAll = end
	return nil
}

// WriteTrailers ends a chunked body with trailer fields.
func (c *ClientConn) WriteTrailers(f *http.Fields) error {
	if c.tunnel {
		return c.writeTunnel(nil, true) // octets have no trailers
	}
	if c.chunked {
		out := c.out.storage()
		*out = AppendLastChunk(*out, f)
	}
	c.wroteAll = true
	return nil
}

// Flush sends what is held back.
func (c *ClientConn) Flush() error {
	n, err := c.out.flush(&c.io)
	c.written += uint64(n)
	if err != nil {
		return c.writeError(err)
	}
	return nil
}

// SplitWriter sends what is held back and hands the writing half to another
// goroutine until End.
func (c *ClientConn) SplitWriter() error {
	c.split = true
	return c.Flush()
}

// writeError maps a failed write. The host may have answered before it
// closed, so the caller should look for a response all the same.
func (c *ClientConn) writeError(err error) *http.Error {
	if isTimeout(err) {
		return errUpstreamLate
	}
	return c.closedError()
}

func (c *ClientConn) closedError() *http.Error {
	if c.reused && !c.gotBytes {
		return ErrUpstreamUnused
	}
	return errUpstreamClosed
}

// ReadHead sends what is held back and waits for a head: that of the final
// response, or of an interim one with status 100 or 103. Other interim
// responses are dropped, as Envoy does.
func (c *ClientConn) ReadHead(h *http.ResponseHead) error {
	for {
		if err := c.readOneHead(h); err != nil {
			return err
		}
		if h.Status >= 200 || h.Status == 101 {
			return nil
		}
		if c.interim++; c.interim > maxInterim {
			return errInterimFlood
		}
		if h.Status == 100 || h.Status == 103 {
			return nil
		}
		c.rd.pin = false
		c.rd.parser = Parser{}
	}
}

func (c *ClientConn) readOneHead(h *http.ResponseHead) error {
	for {
		if c.rd.in.Len() > 0 {
			n, perr := c.rd.parser.Response(c.rd.in.Bytes(), c.sent, h, c.lim)
			if perr != nil {
				return perr
			}
			if n > 0 {
				c.rd.parser = Parser{}
				c.keepAlive = h.KeepAlive
				c.rd.begin(n, h.Framing, http.SideUpstream, c.lim)
				if h.Status == 101 {
					c.tunnel, c.wroteAll = true, false
					c.rd.tunnel()
				}
				return nil
			}
		}
		if err := c.fillHead(); err != nil {
			return err
		}
		c.gotBytes = true
	}
}

// held is how many bytes are held back that no other goroutine will send.
func (c *ClientConn) held() int {
	if c.split {
		return 0
	}
	return c.out.len()
}

func (c *ClientConn) fillHead() error {
	var err error
	if size := c.held(); size > 0 {
		var wrote int
		wrote, err = c.rd.moreAfter(c.out.take())
		c.written += uint64(wrote)
		if err != nil && wrote < size {
			// The write failed; what the host said before it closed is lost with it.
			return c.writeError(err)
		}
	} else {
		err = c.rd.more()
	}
	switch {
	case err == nil:
		return nil
	case isTimeout(err):
		return errUpstreamLate
	case err == io.ErrShortBuffer:
		return errInterimFlood
	case isEOF(err) && c.rd.in.Len() > 0:
		return errUpstreamHeadCut
	}
	return c.closedError()
}

// Buffered reports whether ReadBody would return without waiting.
func (c *ClientConn) Buffered() bool { return c.rd.buffered() }

// ReadBody returns the next piece of the response's body, valid until the
// next call, and io.EOF after the last.
func (c *ClientConn) ReadBody() ([]byte, error) {
	p, err := c.rd.next()
	if err == nil || err == io.EOF {
		return p, err
	}
	return nil, bodyError(err)
}

// bodyError maps what broke a response's body off.
func bodyError(err error) *http.Error {
	if _, ok := err.(*http.Error); ok {
		return errUpstreamBody
	}
	if isTimeout(err) {
		return errUpstreamLate
	}
	return errUpstreamCut
}

// BodyEnded reports whether the response is completely read.
func (c *ClientConn) BodyEnded() bool { return c.rd.ended && c.rd.adv == 0 }

// ResponseTrailers returns the trailers after ReadBody returned io.EOF.
func (c *ClientConn) ResponseTrailers() *http.Fields { return c.rd.trailers() }
