// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"io"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"pillion/proxy/buf"
	"pillion/proxy/http"
)

// ClientStream is a request to a host, for an exchange that runs on a goroutine
// of its own: it implements http.ClientStream by waiting. It is for one
// request.
type ClientStream struct {
	Stream
	box inbox

	// conn and id are the stream's identity; guarded by box.mu, as are heads,
	// which came and were not read, and first, the storage of one of them.
	conn  *Conn
	id    uint32
	heads []*http.Exchange
	first http.Exchange
	taken bool // first is in use

	// Owned by the exchange's goroutine.
	sent     bool // the head was sent
	bodyDone bool // the response was read to its end
}

var clientStreams = sync.Pool{New: func() any { return new(ClientStream) }}

// NewClientStream returns the stream of one request on c. It may be given back
// by Recycle.
func NewClientStream(c *Conn) *ClientStream {
	s := clientStreams.Get().(*ClientStream)
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.conn, s.id = c, 0
	s.sent, s.bodyDone = false, false
	s.box.reset()
	return s
}

// Recycle gives the stream back after End. Nothing may point any more to the
// heads and trailers that came on it.
func (s *ClientStream) Recycle() {
	s.box.mu.Lock()
	clear(s.heads)
	s.heads, s.taken, s.conn = s.heads[:0], false, nil
	s.first.Reset()
	s.box.mu.Unlock()
	clientStreams.Put(s)
}

// Begin starts the request.
func (s *ClientStream) Begin() {}

// LocalAddr returns our address as text.
func (s *ClientStream) LocalAddr() string { return s.conn.local }

// WriteHead sends the request's head.
func (s *ClientStream) WriteHead(h *http.RequestHead, end bool) error {
	s.box.mu.Lock()
	id, err := s.conn.Open(&s.Stream, s, h, end)
	s.id = id
	s.box.mu.Unlock()
	if err != nil {
		return err
	}
	s.sent = true
	return nil
}

// WriteBody sends a piece of the body.
func (s *ClientStream) WriteBody(p []byte, end bool) error {
	if err := s.box.send(&s.Stream, s.conn, p, end); err != nil {
		return err
	}
	return nil
}

// WriteTrailers ends the body with trailers.
func (s *ClientStream) WriteTrailers(f *http.Fields) error {
	s.Stream.Trailers(f)
	return nil
}

// Flush sends what is held back.
func (s *ClientStream) Flush() error {
	s.conn.Flush()
	return nil
}

// SplitWriter hands the writing half to another goroutine.
func (s *ClientStream) SplitWriter() error { return s.Flush() }

// ReadHead sends what is held back, soon, and waits for a head.
func (s *ClientStream) ReadHead(h *http.ResponseHead) error {
	s.conn.FlushSoon()
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	for len(s.heads) == 0 {
		switch {
		case s.box.err != nil:
			return s.box.err
		case s.box.late():
			return errUpLate
		}
		s.box.wake.Wait()
	}
	x := s.heads[0]
	s.heads = s.heads[:copy(s.heads, s.heads[1:])]
	f := h.Fields
	*h = x.Resp
	h.Fields = f
	h.Fields.CopyFrom(&x.Resp.Fields)
	return nil
}

// Buffered reports whether ReadBody would return without waiting.
func (s *ClientStream) Buffered() bool { return s.box.buffered() }

// ReadBody returns the next piece of the response's body.
func (s *ClientStream) ReadBody() ([]byte, error) {
	if taken := s.box.done(); taken > 0 && s.Stream.Credit(taken) {
		s.conn.Flush()
	}
	p, err := s.box.get()
	if err == io.EOF {
		s.bodyDone = true
	}
	if he, ok := err.(*http.Error); ok && he != errUpLate {
		return nil, AfterResponse(he)
	}
	return p, err
}

// BodyEnded reports whether the response has no body and no trailers, or
// ReadBody has told of its end.
func (s *ClientStream) BodyEnded() bool {
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	return s.bodyDone || s.box.ended && s.box.body == nil && s.box.given == nil && !s.box.hasTrail
}

// ResponseTrailers returns the trailers after ReadBody returned io.EOF.
func (s *ClientStream) ResponseTrailers() *http.Fields {
	if !s.box.hasTrail {
		return nil
	}
	return &s.box.trailers
}

// SetReadDeadline bounds the wait for the response; zero: no bound.
func (s *ClientStream) SetReadDeadline(t time.Time) { s.box.setDeadline(t) }

// Interrupt makes calls in progress and to come fail as timed out.
func (s *ClientStream) Interrupt() { s.box.setDeadline(time.Unix(1, 0)) }

// Unseen reports false: what the host has processed of the streams of a
// connection that broke can't be known.
func (s *ClientStream) Unseen() bool { return false }

// End finishes the request, complete or not. What the heads point into stays
// valid as long as it is referred to.
func (s *ClientStream) End() (reusable bool, head buf.Buffer) {
	if s.sent && s.Stream.Reset(http2.ErrCodeCancel) { // else both sides are done
		s.conn.Flush()
	}
	s.box.mu.Lock()
	s.id = 0
	s.box.mu.Unlock()
	s.box.release()
	return true, buf.Buffer{}
}

// mine reports whether an event is about this stream.
func (s *ClientStream) mine(e Event) bool {
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	return s.id == e.ID && s.conn == e.Conn
}

// OnHead implements Receiver.
func (s *ClientStream) OnHead(e Event, b *Block, end bool) Verdict {
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	if s.id != e.ID || s.conn != e.Conn {
		return Good
	}
	x := &s.first
	if s.taken {
		x = &http.Exchange{}
	}
	s.taken = true
	v := b.Response(x, end)
	if v != Good {
		s.box.err = errUpProtocol
	} else {
		s.heads = append(s.heads, x)
		s.box.ended = s.box.ended || end
	}
	s.box.wake.Broadcast()
	return v
}

// OnData implements Receiver.
func (s *ClientStream) OnData(e Event, p []byte, end bool) {
	if s.mine(e) {
		s.box.put(p, end)
	}
}

// OnTrailers implements Receiver.
func (s *ClientStream) OnTrailers(e Event, b *Block) Verdict {
	if !s.mine(e) {
		return Good
	}
	return s.box.putTrailers(b, errUpProtocol)
}

// OnReset implements Receiver.
func (s *ClientStream) OnReset(e Event, err *http.Error) {
	if s.mine(e) {
		s.box.fail(err)
	}
}

// OnTaken implements Receiver.
func (s *ClientStream) OnTaken(e Event, n int, _ bool) {
	if s.mine(e) {
		s.box.taken(n)
	}
}

// AfterResponse is what a failure means once the response has begun: all that
// is left is to break the downstream off.
func AfterResponse(err *http.Error) *http.Error {
	switch err.Kind {
	case http.KindUpstreamProtocol:
		return errCutProtocol
	case http.KindStreamReset, http.KindRefused:
		return errCutReset
	case http.KindReset, http.KindPoolReset:
		return errCutClosed
	}
	return err
}

// Failures after the response has begun, in Envoy's words.
var (
	errCutReset = &http.Error{Side: http.SideUpstream, Kind: http.KindStreamReset, Flag: http.FlagUpstreamRemoteReset,
		Detail: "upstream_reset_after_response_started{remote_reset}", Close: true, GRPC: 14}
	errCutClosed = &http.Error{Side: http.SideUpstream, Kind: http.KindReset, Flag: http.FlagUpstreamConnTermination,
		Detail: "upstream_reset_after_response_started{connection_termination}", Close: true, GRPC: 14}
	errCutProtocol = &http.Error{Side: http.SideUpstream, Kind: http.KindUpstreamProtocol, Flag: http.FlagUpstreamProtocolError,
		Detail: "upstream_reset_after_response_started{protocol_error}", Close: true, GRPC: 14}
)
