// SPDX-License-Identifier: Apache-2.0

// Package frame has as much of HTTP/2's framing layer as a load and an origin
// need that work on bytes: cheaper than any library, as they must be to leave
// the machine to the peer under test.
package frame

import "encoding/binary"

// What HTTP/2 looks like on the wire (RFC 9113, sections 3.4, 4.1, 6 and 11.2).
const (
	// Preface is what a client sends first.
	Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// HeaderSize is the size of a frame's header, MaxSize of a payload unless
	// more was agreed.
	HeaderSize = 9
	MaxSize    = 16384

	// DefaultWindow, DefaultTable and MaxWindow are the windows' and the HPACK
	// table's size before any setting, and the largest window.
	DefaultWindow = 65535
	DefaultTable  = 4096
	MaxWindow     = 1<<31 - 1
)

// Types of frames.
const (
	Data         = 0
	Headers      = 1
	RSTStream    = 3
	Settings     = 4
	Ping         = 6
	GoAway       = 7
	WindowUpdate = 8
	Continuation = 9
)

// Flags.
const (
	EndStream  = 0x1
	Ack        = 0x1
	EndHeaders = 0x4
	Padded     = 0x8
	Priority   = 0x20
)

// Settings.
const (
	SettingHeaderTableSize   = 1
	SettingMaxStreams        = 3
	SettingInitialWindowSize = 4
)

// Frame is one frame; Payload points into what was read.
type Frame struct {
	Kind, Flags byte
	Stream      uint32
	Payload     []byte
}

// Has reports whether a flag is set.
func (f Frame) Has(flag byte) bool { return f.Flags&flag != 0 }

// Next returns the first frame of b and what follows it. Without a whole frame
// size is -1, or the size of one that is too large.
func Next(b []byte) (f Frame, rest []byte, size int) {
	if len(b) < HeaderSize {
		return f, b, -1
	}
	size = int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	if size > MaxSize {
		return f, b, size
	}
	if len(b) < HeaderSize+size {
		return f, b, -1
	}
	end := HeaderSize + size
	return Frame{
		Kind: b[3], Flags: b[4], Stream: binary.BigEndian.Uint32(b[5:]) & MaxWindow, Payload: b[HeaderSize:end:end],
	}, b[end:], size
}

// Content returns the payload of a Data or Headers frame without padding and
// priority. It reports false if they are longer than the payload.
func (f Frame) Content() ([]byte, bool) {
	p, pad := f.Payload, 0
	if f.Has(Padded) {
		if len(p) == 0 {
			return nil, false
		}
		p, pad = p[1:], int(p[0])
	}
	if f.Kind == Headers && f.Has(Priority) {
		const priority = 5
		if len(p) < priority {
			return nil, false
		}
		p = p[priority:]
	}
	if len(p) < pad {
		return nil, false
	}
	return p[:len(p)-pad], true
}

// Append appends a frame's header.
func Append(b []byte, size int, kind, flags byte, stream uint32) []byte {
	b = append(b, byte(size>>16), byte(size>>8), byte(size), kind, flags)
	return binary.BigEndian.AppendUint32(b, stream)
}

// AppendWindowUpdate appends a WINDOW_UPDATE frame.
func AppendWindowUpdate(b []byte, stream uint32, n int) []byte {
	return binary.BigEndian.AppendUint32(Append(b, 4, WindowUpdate, 0, stream), uint32(n))
}

// AppendSettings appends a SETTINGS frame with pairs of a setting and its value.
func AppendSettings(b []byte, pairs ...uint32) []byte {
	b = Append(b, 3*len(pairs), Settings, 0, 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		b = binary.BigEndian.AppendUint16(b, uint16(pairs[i]))
		b = binary.BigEndian.AppendUint32(b, pairs[i+1])
	}
	return b
}

// EachSetting calls do for each setting of a SETTINGS frame's payload. It
// reports whether the payload is well formed.
func EachSetting(p []byte, do func(setting uint16, value uint32)) bool {
	const pair = 6
	for ; len(p) >= pair; p = p[pair:] {
		do(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:]))
	}
	return len(p) == 0
}

// Increment returns the value of a WINDOW_UPDATE frame, 0 for a malformed one.
func (f Frame) Increment() int64 {
	if len(f.Payload) != 4 {
		return 0
	}
	return int64(binary.BigEndian.Uint32(f.Payload) & MaxWindow)
}
