// SPDX-License-Identifier: Apache-2.0

package grpcweb

import (
	"io"

	"pillion/proxy/http"
)

// Stream is the client of a gRPC-Web exchange as the forwarder sees it: one
// that speaks gRPC. It implements http.ServerStream.
type Stream struct {
	http.ServerStream
	t    *Translator
	held *http.ResponseHead // waits for the body that becomes its message
}

// ReadBody returns the next piece of the request's body, decoded.
func (s *Stream) ReadBody() ([]byte, error) {
	p, err := s.ServerStream.ReadBody()
	switch {
	case err == io.EOF:
		if bad := s.t.RequestEnd(); bad != nil {
			return nil, bad
		}
		return nil, io.EOF
	case err != nil:
		return nil, err
	}
	out, bad := s.t.Request(p)
	if bad != nil {
		return nil, bad
	}
	return out, nil
}

// WriteHead sends the head of a response, or holds it back.
func (s *Stream) WriteHead(h *http.ResponseHead, end bool) error {
	s.held = nil
	if s.t.ResponseHead(h, end) {
		s.held = h
		return nil
	}
	return s.ServerStream.WriteHead(h, end)
}

// WriteBody sends a piece of the body.
func (s *Stream) WriteBody(p []byte, end bool) error {
	p = s.t.Response(p)
	switch {
	case s.held != nil && !end:
		return nil
	case s.held != nil:
		return s.writeHeld()
	case !end:
		if len(p) == 0 {
			return nil
		}
		return s.ServerStream.WriteBody(p, false)
	}
	if len(p) > 0 {
		if err := s.ServerStream.WriteBody(p, false); err != nil {
			return err
		}
	}
	return s.ServerStream.WriteBody(s.t.ResponseEnd(), true)
}

// WriteTrailers ends the body with a frame of trailers.
func (s *Stream) WriteTrailers(f *http.Fields) error {
	if s.held != nil {
		return s.writeHeld()
	}
	return s.ServerStream.WriteBody(s.t.Trailers(f), true)
}

func (s *Stream) writeHeld() error {
	h := s.held
	s.held = nil
	s.t.EndOpaque(h)
	return s.ServerStream.WriteHead(h, true)
}
