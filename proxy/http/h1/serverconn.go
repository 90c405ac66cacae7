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

// Bounds of the reading that goes on after a connection was given up, so
// that the client gets to see the answer before a reset (RFC 9112 section
// 9.6).
const (
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// ServerConn is one HTTP/1 connection from a client. It implements
// http.ServerStream for one exchange after the other: Wait, ReadHead, the
// stream's calls, then End. It is owned by the connection's goroutine; while
// a request body is streamed, ReadBody, RequestTrailers and Buffered belong
// to another one.
type ServerConn struct {
	io  netio.Conn
	rd  reader
	out outbox  // empty between exchanges
	lim *Limits // immutable

	begun    bool // an exchange is under way
	headLen  int  // of the current request
	method   http.Method
	proto    http.Protocol
	expect   bool // the client waits for 100 Continue
	headSent bool // the final response's head is written or held back
	ended    bool // the response is complete
	chunked  bool // the response's body goes out in chunks
	noBody   bool // the response has no body, whatever is written (HEAD)
	closing  bool // the connection ends with this exchange
	last     bool // ... and so does every other one
	tunnel   bool // the protocol was switched: what follows is octets
}

// NewServerConn takes ownership of nc. lim is shared and immutable.
func NewServerConn(nc net.Conn, lim *Limits) *ServerConn {
	c := &ServerConn{lim: lim}
	c.io.Init(nc)
	c.rd.io = &c.io
	return c
}

// Peek returns the bytes that have arrived and were not read.
func (c *ServerConn) Peek() []byte { return c.rd.in.Bytes() }

// More waits for further bytes behind those that Peek returns.
func (c *ServerConn) More() error { return c.rd.more() }

// Detach gives up the connection with the bytes that Peek returns: it turned
// out to speak another protocol. c must not be used any more.
func (c *ServerConn) Detach() (net.Conn, buf.Buffer) { return c.io.NetConn(), c.rd.in.Detach() }

// Each waits for requests and calls t.Take for what has come, which is the
// beginning of one at least, until that returns false; see netio.Conn.Each. Meanwhile
// t may serve requests that WholeHead reads. The connection owns no buffer while
// it waits. It is for the time between exchanges.
func (c *ServerConn) Each(t netio.Taker) error { return c.rd.each(t) }

// Await waits, between exchanges, until there is something for Each to read, which takes
// less of the stack than Each does.
func (c *ServerConn) Await() {
	if c.rd.in.Len() == 0 && !c.rd.eofSeen {
		c.io.AwaitAny()
	}
}

// Pipelined reports, between exchanges, whether bytes of another request have come.
func (c *ServerConn) Pipelined() bool { return c.rd.in.Len() > 0 }

// WholeHead reads, without waiting, a request's head and begins an exchange.
// read: the head was all there, or is broken. whole: nothing will have to be
// read for the exchange any more, neither a body nor octets of another protocol.
// Where read is false, ReadHead has to go on.
func (c *ServerConn) WholeHead(h *http.RequestHead) (read, whole bool, err *http.Error) {
	c.begin()
	read, err = c.parseHead(h)
	whole = read && (err != nil || c.rd.ended && h.Upgrade == nil && h.Method != http.MethodConnect)
	return read, whole, err
}

// ReadHead reads a request's head and begins an exchange. incomplete is
// called once if not all of the head is there yet, so that the caller can
// bound the wait; it may be nil.
func (c *ServerConn) ReadHead(h *http.RequestHead, incomplete func()) *http.Error {
	c.begin()
	for {
		if read, err := c.parseHead(h); read {
			return err
		}
		if incomplete != nil {
			incomplete()
			incomplete = nil
		}
		if err := c.rd.more(); err != nil {
			c.closing = true
			return c.headError(err)
		}
	}
}

// parseHead looks whether a head has come, or can't any more since it is broken.
func (c *ServerConn) parseHead(h *http.RequestHead) (bool, *http.Error) {
	n, err := c.rd.parser.Request(c.rd.in.Bytes(), h, c.lim)
	switch {
	case err != nil:
		c.closing = true
		return true, err
	case n == 0:
		return false, nil
	}
	c.method, c.proto = h.Method, h.Protocol
	c.expect = h.Expect100 && h.Framing.Kind != http.BodyNone
	c.closing = c.last || !h.KeepAlive
	c.headLen = n
	c.rd.begin(n, h.Framing, http.SideDownstream, c.lim)
	return true, nil
}

// begin begins an exchange, unless that was done.
func (c *ServerConn) begin() {
	if c.begun {
		return
	}
	c.begun = true
	c.method, c.proto = http.MethodOther, http.HTTP11
	c.expect, c.headSent, c.ended, c.chunked, c.noBody, c.closing = false, false, false, false, false, c.last
}

func (c *ServerConn) headError(err error) *http.Error {
	switch {
	case isTimeout(err):
		return errClientTimeout
	case err == io.ErrShortBuffer:
		return errHeadTooLarge
	}
	return errClientGone
}

// HeadLen is the size of the request's head on the wire, in bytes.
func (c *ServerConn) HeadLen() int { return c.headLen }

// SetClosing makes this exchange the connection's last one. It must come
// before WriteHead to be announced to the client.
func (c *ServerConn) SetClosing() { c.closing = true }

// SetLast makes the next exchange the connection's last one.
func (c *ServerConn) SetLast() { c.last = true }

// Closing reports whether this exchange is the connection's last one.
func (c *ServerConn) Closing() bool { return c.closing }

// Started reports whether the final response's head was written.
func (c *ServerConn) Started() bool { return c.headSent }

// RequestEnded reports whether the request is completely read.
func (c *ServerConn) RequestEnded() bool { return c.rd.ended }

// Poll takes what has arrived of the request's body and reports whether
// ReadBody would return without waiting.
func (c *ServerConn) Poll() bool { return c.rd.poll() }

// Buffered reports whether ReadBody would return without waiting.
func (c *ServerConn) Buffered() bool { return c.rd.buffered() }

// ReadBody returns the next piece of the request's body.
func (c *ServerConn) ReadBody() ([]byte, error) {
	p, err := c.rd.next()
	if err == nil || err == io.EOF {
		return p, err
	}
	return nil, requestError(err)
}

// requestError maps what broke a request's body off.
func requestError(err error) *http.Error {
	if he, ok := err.(*http.Error); ok {
		return he
	}
	if isTimeout(err) {
		return errRequestTimeout
	}
	return errClientGone
}

// RequestTrailers returns the trailers after ReadBody returned io.EOF.
func (c *ServerConn) RequestTrailers() *http.Fields { return c.rd.trailers() }

// Continue sends 100 Continue if the client still waits for it.
func (c *ServerConn) Continue() error {
	if !c.expect || c.headSent {
		return nil
	}
	c.expect = false
	out := c.out.storage()
	*out = AppendContinue(*out)
	return c.Flush()
}

// WriteHead holds back the response's head.
func (c *ServerConn) WriteHead(h *http.ResponseHead, end bool) error {
	f := ResponseFraming(c.method, c.proto, h, end)
	switch {
	case h.Status == 101:
		c.closing, c.tunnel = true, true
		c.rd.tunnel()
	case f.Kind == http.BodyClose, c.proto == http.HTTP10 && f.Kind == http.BodyChunked:
		c.closing = true
	case c.expect:
		// The client may or may not send the body it announced (RFC 9110
		// section 10.1.1), so what follows on the connection can't be framed.
		c.closing = true
	}
	persist := PersistDefault
	switch {
	case c.closing:
		persist = PersistClose
	case c.proto == http.HTTP10:
		persist = PersistKeepAlive
	}
	c.headSent, c.ended = true, end
	c.chunked, c.noBody = f.Kind == http.BodyChunked, f.Kind == http.BodyNone && !c.tunnel
	out := c.out.storage()
	*out = AppendResponse(*out, h, f, persist)
	return nil
}

// WriteBody sends a piece of the body. Small pieces are held back.
func (c *ServerConn) WriteBody(p []byte, end bool) error {
	c.ended = end
	switch {
	case c.tunnel:
		return c.writeTunnel(p, end)
	case c.noBody:
		return nil
	}
	if c.out.body(&c.io, p, c.chunked, end) != nil {
		c.closing = true
		return errClientGone
	}
	return nil
}

// WriteTrailers ends the body with trailer fields, where the framing has a
// place for them.
func (c *ServerConn) WriteTrailers(f *http.Fields) error {
	c.ended = true
	if c.tunnel {
		return c.writeTunnel(nil, true) // octets have no trailers
	}
	if c.chunked && !c.noBody {
		out := c.out.storage()
		*out = AppendLastChunk(*out, f)
	}
	return nil
}

// Flush sends what is held back.
func (c *ServerConn) Flush() error {
	if _, err := c.out.flush(&c.io); err != nil {
		c.closing = true
		return errClientGone
	}
	return nil
}

// End finishes the exchange and reports whether another one may follow. Heads
// and pieces read so far become invalid.
func (c *ServerConn) End() (keep bool) {
	keep = !c.closing && c.ended && c.rd.ended && !c.rd.eofSeen
	// A half-closed client has sent all it ever will; what is pipelined is
	// still answered.
	if c.rd.eofSeen && !c.closing && c.ended && c.rd.ended && c.rd.in.Len() > c.rd.adv {
		keep = true
	}
	c.rd.finish()
	c.out.drop()
	c.begun = false
	return keep
}

// Close closes the connection. If the client may still be sending, it first
// lets it read what it was answered.
func (c *ServerConn) Close() {
	if c.tunnel && !c.ended {
		c.io.ResetOnClose() // or the client would take what it got for all of it
	} else if c.headSent && !c.rd.eofSeen && (!c.rd.ended || c.rd.in.Len() > 0) {
		c.linger()
	}
	c.rd.release()
	_ = c.io.Close()
}

func (c *ServerConn) linger() {
	if c.io.CloseWrite() != nil {
		return
	}
	_ = c.io.SetReadDeadline(time.Now().Add(lingerTime))
	c.rd.finish()
	for total := 0; total < lingerBytes; {
		c.rd.in.Release()
		if c.io.Fill(&c.rd.in) != nil {
			return
		}
		total += c.rd.in.Len()
	}
}

// Abort breaks the connection off at once, from any goroutine: reads and
// writes in progress fail.
func (c *ServerConn) Abort() { _ = c.io.SetDeadline(netio.Past) }

// StopReading makes a read in progress, and those to come, fail as timed out;
// ResumeReading ends that.
func (c *ServerConn) StopReading() { _ = c.io.SetReadDeadline(netio.Past) }

// ResumeReading lets reads wait again.
func (c *ServerConn) ResumeReading() { _ = c.io.SetReadDeadline(time.Time{}) }

// WriteInterim sends an interim response (1xx) at once, to clients that know
// of such.
func (c *ServerConn) WriteInterim(h *http.ResponseHead) error {
	if c.proto == http.HTTP10 || c.headSent {
		return nil
	}
	out := c.out.storage()
	*out = AppendResponse(*out, h, http.Framing{}, PersistDefault)
	return c.Flush()
}

// SetReadDeadline bounds reads; zero: no bound.
func (c *ServerConn) SetReadDeadline(t time.Time) { _ = c.io.SetReadDeadline(t) }

// Watch looks, from any goroutine, whether the client broke the connection.
func (c *ServerConn) Watch() netio.Peer { return c.io.Watch() }
