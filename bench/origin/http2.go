// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"strconv"

	"pillion/bench/frame"
)

// What the origin announces: windows that no load here fills, given back in
// large steps.
const (
	ownStreamWindow = 1 << 20
	ownConnWindow   = 16 << 20
	creditStep      = 256 << 10
)

// The response fields that an origin sends, in the order in which HPACK's
// dynamic table gets them.
const (
	fieldDate = iota
	fieldType
	fieldVersion
	fieldLength
	fieldGRPCType
	fieldGRPCStatus
	fields
)

// answers2 are a version's response fields, each as a literal with and without
// incremental indexing (RFC 7541, section 6.2). Immutable.
type answers2 struct {
	indexing, plain [fields][]byte
}

func newAnswers2(version string) answers2 {
	var a answers2
	for i, f := range [fields]struct {
		static      byte // index of the name in HPACK's static table; 0 for none
		name, value string
	}{
		fieldDate:       {static: 33, value: today()},
		fieldType:       {static: 31, value: "text/plain"},
		fieldVersion:    {name: VersionField, value: version},
		fieldLength:     {static: 28, value: strconv.Itoa(BodySize)},
		fieldGRPCType:   {static: 31, value: "application/grpc"},
		fieldGRPCStatus: {name: "grpc-status", value: "0"},
	} {
		name := f.name
		text := append([]byte{byte(len(f.value))}, f.value...)
		if f.static == 0 {
			text = append(append([]byte{byte(len(name))}, name...), text...)
		}
		a.indexing[i] = append([]byte{0x40 | f.static}, text...)
		a.plain[i] = append(plainIndex(f.static), text...)
	}
	return a
}

// plainIndex is the start of a literal without indexing: an integer with a
// prefix of 4 bits (RFC 7541, sections 5.1 and 6.2.2).
func plainIndex(i byte) []byte {
	if i < 15 {
		return []byte{i}
	}
	return []byte{15, i - 15}
}

// h2conn is a connection that speaks HTTP/2. It doesn't look into request
// fields: what it answers is the same for all.
type h2conn struct {
	answers *answers2
	// grpc: each message is echoed, and the status comes in trailers.
	grpc bool
	// in is an unfinished frame, or the start of the preface.
	in      []byte
	greeted bool

	// window is what may be sent on the connection, initial what may be on a
	// new stream.
	window, initial int64
	// streams are those that need state: all of gRPC, of the others those whose
	// answer waits for a window. blocked are those that wait, in order.
	streams map[uint32]*stream
	blocked []*stream
	free    []*stream
	// credit is what was received and not yet given back.
	credit int

	// block is the stream whose header block is unfinished, 0 for none;
	// blockEnds says whether the stream ends with it.
	block     uint32
	blockEnds bool

	// literal: the peer keeps no table for us; shrink: it hasn't been told yet
	// that we use none. Else inserted counts the entries made and entry has, by
	// field, its number from 1 on.
	literal, shrink bool
	inserted        byte
	entry           [fields]byte
}

// stream is the state of one stream.
type stream struct {
	id uint32
	// window is what may be sent on it.
	window int64
	// pending waits for a window; ended says that nothing will be added to it.
	pending        []byte
	ended, waiting bool
	// answered: the response's fields are sent.
	answered bool
	// credit is what was received on it and not yet given back.
	credit int
}

func newHTTP2(a *answers2, grpc bool) *h2conn {
	return &h2conn{answers: a, grpc: grpc, window: frame.DefaultWindow, initial: frame.DefaultWindow, streams: map[uint32]*stream{}}
}

// take handles each frame that is complete.
func (h *h2conn) take(l *loop, b []byte) bool {
	if len(h.in) > 0 {
		h.in = append(h.in, b...)
		b = h.in
	}
	if !h.greeted {
		n := min(len(b), len(frame.Preface))
		if string(b[:n]) != frame.Preface[:n] {
			return false
		}
		if n < len(frame.Preface) {
			h.in = append(h.in[:0], b...)
			return true
		}
		b, h.greeted = b[n:], true
		l.out = frame.AppendSettings(l.out, frame.SettingInitialWindowSize, ownStreamWindow)
		l.out = frame.AppendWindowUpdate(l.out, 0, ownConnWindow-frame.DefaultWindow)
	}
	for {
		f, rest, size := frame.Next(b)
		if size > frame.MaxSize {
			return false
		}
		if size < 0 {
			break
		}
		if !h.frame(l, f) {
			return false
		}
		b = rest
	}
	h.in = append(h.in[:0], b...)
	return true
}

// frame handles one frame. It reports whether the connection stays.
func (h *h2conn) frame(l *loop, f frame.Frame) bool {
	switch f.Kind {
	case frame.Headers:
		h.block, h.blockEnds = f.Stream, f.Has(frame.EndStream)
		if f.Has(frame.EndHeaders) {
			h.fields(l)
		}
	case frame.Continuation:
		if f.Stream == 0 || f.Stream != h.block {
			return false
		}
		if f.Has(frame.EndHeaders) {
			h.fields(l)
		}
	case frame.Data:
		return h.data(l, f)
	case frame.Settings:
		return f.Has(frame.Ack) || h.settings(l, f.Payload)
	case frame.Ping:
		if !f.Has(frame.Ack) {
			l.out = append(frame.Append(l.out, len(f.Payload), frame.Ping, frame.Ack, 0), f.Payload...)
		}
	case frame.WindowUpdate:
		h.windowUpdate(l, f.Stream, f.Increment())
	case frame.RSTStream:
		if s := h.streams[f.Stream]; s != nil {
			h.forget(s)
		}
	}
	return true
}

// fields handles the end of a header block: a request's fields or trailers.
func (h *h2conn) fields(l *loop) {
	id := h.block
	h.block = 0
	switch {
	case h.grpc && h.streams[id] == nil:
		h.open(id)
		fallthrough
	case h.grpc:
		if s := h.streams[id]; h.blockEnds {
			s.ended = true
			h.push(l, s)
		}
	case h.blockEnds:
		h.answer(l, id)
	}
}

// data handles a piece of a request's body.
func (h *h2conn) data(l *loop, f frame.Frame) bool {
	size, ends := len(f.Payload), f.Has(frame.EndStream)
	if h.credit += size; h.credit >= creditStep {
		l.out = frame.AppendWindowUpdate(l.out, 0, h.credit)
		h.credit = 0
	}
	if !h.grpc {
		// Without state of the stream, each piece is given back at once.
		if ends {
			h.answer(l, f.Stream)
		} else if size > 0 {
			l.out = frame.AppendWindowUpdate(l.out, f.Stream, size)
		}
		return true
	}
	s := h.streams[f.Stream]
	if s == nil {
		return true // it was reset
	}
	if s.credit += size; s.credit >= creditStep && !ends {
		l.out = frame.AppendWindowUpdate(l.out, f.Stream, s.credit)
		s.credit = 0
	}
	p, ok := f.Content()
	s.pending, s.ended = append(s.pending, p...), ends
	h.push(l, s)
	return ok
}

// settings takes over the peer's settings and acknowledges them.
func (h *h2conn) settings(l *loop, p []byte) bool {
	ok := frame.EachSetting(p, func(setting uint16, v uint32) {
		switch setting {
		case frame.SettingInitialWindowSize:
			grown := int64(v) - h.initial
			h.initial = int64(v)
			for _, s := range h.streams {
				s.window += grown
			}
		case frame.SettingHeaderTableSize:
			if v < frame.DefaultTable {
				h.literal, h.shrink = true, true
			}
		}
	})
	l.out = frame.Append(l.out, 0, frame.Settings, frame.Ack, 0)
	h.pushBlocked(l)
	return ok
}

func (h *h2conn) windowUpdate(l *loop, id uint32, n int64) {
	if id == 0 {
		h.window += n
		h.pushBlocked(l)
	} else if s := h.streams[id]; s != nil {
		s.window += n
		h.push(l, s)
	}
}
