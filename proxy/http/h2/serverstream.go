// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"io"
	"time"

	"golang.org/x/net/http2"

	"pillion/proxy/http"
)

// ServerStream is a client's request, for an exchange that runs on a goroutine
// of its own: it implements http.ServerStream by waiting. An exchange that is
// relayed on the reading goroutines uses its sending half only.
type ServerStream struct {
	Stream Stream
	box    inbox

	conn *Conn
	id   uint32
	// Owned by the goroutine that runs the exchange.
	inline  bool // it is the connection's reader, which must not wait
	started bool // the final head was sent
	ended   bool // the response is complete
	noBody  bool // no body follows the head, whatever is written (HEAD)
	head    bool // the request's method is HEAD
}

// Begin makes the stream ready for the request that e brought. Until it is told
// that it may Wait, nothing that it does waits.
func (s *ServerStream) Begin(e Event, head bool, end bool) {
	s.conn, s.id = e.Conn, e.ID
	s.inline, s.started, s.ended, s.noBody, s.head = true, false, false, false, head
	s.box.reset()
	s.box.ended = end
}

// Conn returns the connection of the stream, nil when it has ended.
func (s *ServerStream) Conn() *Conn { return s.conn }

// Wait tells that the exchange runs on a goroutine of its own from now on.
func (s *ServerStream) Wait() { s.inline = false }

// Is reports whether an event is about this stream. The caller's lock guards it.
func (s *ServerStream) Is(e Event) bool { return s.conn == e.Conn && s.id == e.ID }

// End gives the stream up: no event is its own any more. An unfinished
// response is reset, an unread request is not waited for. It reports whether
// the connection is done with the stream as well, so that it may be used again;
// and whether the connection is to be flushed, which must not happen under a
// lock that receivers take.
func (s *ServerStream) End() (done, flush bool) {
	switch {
	case !s.ended:
		flush = s.Stream.Reset(http2.ErrCodeInternal)
	case !s.Stream.Closed() && !s.RequestEnded():
		// The response is complete without all of the request (RFC 9113 section 8.1).
		s.Stream.ResetWhenSent(http2.ErrCodeNo)
		flush = true
	}
	s.conn, s.id = nil, 0
	s.box.release()
	return s.Stream.Closed(), flush
}

// RequestEnded reports whether the request has come to its end.
func (s *ServerStream) RequestEnded() bool {
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	return s.box.ended
}

// Deliver hands a piece of the body on to the goroutine that waits.
func (s *ServerStream) Deliver(p []byte, end bool) { s.box.put(p, end) }

// DeliverTrailers hands trailers on.
func (s *ServerStream) DeliverTrailers(b *Block) Verdict {
	return s.box.putTrailers(b, errDownProtocol)
}

// Fail hands the end of the stream on.
func (s *ServerStream) Fail(err *http.Error) { s.box.fail(err) }

// Taken hands on that queued octets were taken.
func (s *ServerStream) Taken(n int) { s.box.taken(n) }

// Started reports whether the response's head was sent.
func (s *ServerStream) Started() bool { return s.started }

// SetClosing has no meaning on a stream: the others go on.
func (s *ServerStream) SetClosing() {}

// Buffered reports whether ReadBody would return without waiting.
func (s *ServerStream) Buffered() bool { return s.box.buffered() }

// Poll is Buffered: what arrives is taken as it comes.
func (s *ServerStream) Poll() bool { return s.box.buffered() }

// ReadBody returns the next piece of the request's body.
func (s *ServerStream) ReadBody() ([]byte, error) {
	if taken := s.box.done(); taken > 0 && s.Stream.Credit(taken) {
		s.conn.Flush()
	}
	p, err := s.box.get()
	switch {
	case err == nil || err == io.EOF:
		return p, err
	case err == errUpLate:
		return nil, errDownLate
	}
	return nil, err
}

// RequestTrailers returns the trailers after ReadBody returned io.EOF.
func (s *ServerStream) RequestTrailers() *http.Fields {
	if !s.box.hasTrail {
		return nil
	}
	return &s.box.trailers
}

// StopReading makes reads fail until ResumeReading.
func (s *ServerStream) StopReading() { s.box.stop(true) }

// ResumeReading ends StopReading.
func (s *ServerStream) ResumeReading() { s.box.stop(false) }

// Abort makes calls in progress and to come fail, from any goroutine.
func (s *ServerStream) Abort() { s.box.fail(errStopped) }

// SetReadDeadline bounds the wait for the request's body; zero: no bound.
func (s *ServerStream) SetReadDeadline(t time.Time) { s.box.setDeadline(t) }

// Continue sends 100 Continue.
func (s *ServerStream) Continue() error {
	return s.WriteInterim(&http.ResponseHead{Status: 100})
}

// WriteInterim sends an interim response.
func (s *ServerStream) WriteInterim(h *http.ResponseHead) error {
	if !s.started {
		s.Stream.Head(h, false)
		return s.Flush()
	}
	return nil
}

// WriteHead sends the response's head.
func (s *ServerStream) WriteHead(h *http.ResponseHead, end bool) error {
	s.noBody = s.head || h.Status == 204 || h.Status == 304
	s.started, s.ended = true, end || s.noBody
	s.Stream.Head(h, s.ended)
	return nil
}

// WriteBody sends a piece of the body.
func (s *ServerStream) WriteBody(p []byte, end bool) error {
	if s.noBody || s.ended {
		return nil
	}
	s.ended = end
	if s.inline {
		s.Stream.Data(p, end)
		return nil
	}
	if err := s.box.send(&s.Stream, s.conn, p, end); err != nil {
		return err
	}
	return nil
}

// WriteTrailers ends the body with trailer fields.
func (s *ServerStream) WriteTrailers(f *http.Fields) error {
	if s.noBody || s.ended {
		return nil
	}
	s.ended = true
	s.Stream.Trailers(f)
	return nil
}

// Flush sends what is held back.
func (s *ServerStream) Flush() error {
	if s.inline {
		return nil // the reader does it when it has run dry
	}
	s.conn.FlushSoon()
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	if s.box.err != nil && !s.ended {
		return s.box.err
	}
	return nil
}
