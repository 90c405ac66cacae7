// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"encoding/binary"
	"strconv"
)

// What HTTP/2 looks like on the wire (RFC 9113, sections 3.4, 4.1, 6 and 11.2).
const (
	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeader = 9
	maxFrame    = 16384

	frameData         = 0
	frameHeaders      = 1
	frameRSTStream    = 3
	frameSettings     = 4
	framePing         = 6
	frameWindowUpdate = 8
	frameContinuation = 9

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8

	settingHeaderTableSize   = 1
	settingInitialWindowSize = 4

	defaultWindow      = 65535
	defaultHeaderTable = 4096
	maxWindow          = 1<<31 - 1
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

// http2 is a connection that speaks HTTP/2. It doesn't look into request
// fields: what it answers is the same for all.
type http2 struct {
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

func newHTTP2(a *answers2, grpc bool) *http2 {
	return &http2{answers: a, grpc: grpc, window: defaultWindow, initial: defaultWindow, streams: map[uint32]*stream{}}
}

// take handles each frame that is complete.
func (h *http2) take(l *loop, b []byte) bool {
	if len(h.in) > 0 {
		h.in = append(h.in, b...)
		b = h.in
	}
	if !h.greeted {
		n := min(len(b), len(preface))
		if string(b[:n]) != preface[:n] {
			return false
		}
		if n < len(preface) {
			h.in = append(h.in[:0], b...)
			return true
		}
		b, h.greeted = b[n:], true
		l.out = appendFrame(l.out, 6, frameSettings, 0, 0)
		l.out = binary.BigEndian.AppendUint16(l.out, settingInitialWindowSize)
		l.out = binary.BigEndian.AppendUint32(l.out, ownStreamWindow)
		l.out = appendWindowUpdate(l.out, 0, ownConnWindow-defaultWindow)
	}
	for len(b) >= frameHeader {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if n > maxFrame {
			return false
		}
		if len(b) < frameHeader+n {
			break
		}
		id := binary.BigEndian.Uint32(b[5:]) & maxWindow
		if !h.frame(l, b[3], b[4], id, b[frameHeader:frameHeader+n]) {
			return false
		}
		b = b[frameHeader+n:]
	}
	h.in = append(h.in[:0], b...)
	return true
}

// frame handles one frame. It reports whether the connection stays.
func (h *http2) frame(l *loop, kind, flags byte, id uint32, p []byte) bool {
	switch kind {
	case frameHeaders:
		h.block, h.blockEnds = id, flags&flagEndStream != 0
		if flags&flagEndHeaders != 0 {
			h.fields(l)
		}
	case frameContinuation:
		if id == 0 || id != h.block {
			return false
		}
		if flags&flagEndHeaders != 0 {
			h.fields(l)
		}
	case frameData:
		return h.data(l, flags, id, p)
	case frameSettings:
		return flags&flagAck != 0 || h.settings(l, p)
	case framePing:
		if len(p) != 8 {
			return false
		}
		if flags&flagAck == 0 {
			l.out = append(appendFrame(l.out, 8, framePing, flagAck, 0), p...)
		}
	case frameWindowUpdate:
		if len(p) != 4 {
			return false
		}
		h.windowUpdate(l, id, int64(binary.BigEndian.Uint32(p)&maxWindow))
	case frameRSTStream:
		if s := h.streams[id]; s != nil {
			h.forget(s)
		}
	}
	return true
}

// fields handles the end of a header block: a request's fields or trailers.
func (h *http2) fields(l *loop) {
	id := h.block
	h.block = 0
	switch {
	case h.grpc && h.streams[id] == nil:
		h.open(id)
		fallthrough
	case h.grpc:
		if h.blockEnds {
			h.end(l, h.streams[id])
		}
	case h.blockEnds:
		h.answer(l, id)
	}
}

// data handles a piece of a request's body.
func (h *http2) data(l *loop, flags byte, id uint32, p []byte) bool {
	if h.credit += len(p); h.credit >= creditStep {
		l.out = appendWindowUpdate(l.out, 0, h.credit)
		h.credit = 0
	}
	ends := flags&flagEndStream != 0
	if !h.grpc {
		// An upload within the stream's window needs no state; one beyond gets
		// its credit piece by piece.
		if ends {
			h.answer(l, id)
		} else if len(p) > 0 {
			l.out = appendWindowUpdate(l.out, id, len(p))
		}
		return true
	}
	s := h.streams[id]
	if s == nil {
		return true // it was reset
	}
	if s.credit += len(p); s.credit >= creditStep && !ends {
		l.out = appendWindowUpdate(l.out, id, s.credit)
		s.credit = 0
	}
	if flags&flagPadded != 0 {
		if len(p) == 0 || int(p[0]) >= len(p) {
			return false
		}
		p = p[1 : len(p)-int(p[0])]
	}
	s.pending = append(s.pending, p...)
	if ends {
		h.end(l, s)
	} else {
		h.push(l, s)
	}
	return true
}

// settings takes over the peer's settings and acknowledges them.
func (h *http2) settings(l *loop, p []byte) bool {
	for ; len(p) >= 6; p = p[6:] {
		v := binary.BigEndian.Uint32(p[2:])
		switch binary.BigEndian.Uint16(p) {
		case settingInitialWindowSize:
			grown := int64(v) - h.initial
			h.initial = int64(v)
			for _, s := range h.streams {
				s.window += grown
			}
		case settingHeaderTableSize:
			if v < defaultHeaderTable {
				h.literal, h.shrink = true, true
			}
		}
	}
	l.out = appendFrame(l.out, 0, frameSettings, flagAck, 0)
	h.pushBlocked(l)
	return len(p) == 0
}

func (h *http2) windowUpdate(l *loop, id uint32, n int64) {
	if id == 0 {
		h.window += n
		h.pushBlocked(l)
	} else if s := h.streams[id]; s != nil {
		s.window += n
		h.push(l, s)
	}
}
