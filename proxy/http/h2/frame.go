// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

const (
	frameHeaderLen = 9
	// minFrameSize is the SETTINGS_MAX_FRAME_SIZE that everybody starts with
	// and that we don't raise (RFC 9113 section 6.5.2).
	minFrameSize = 16 << 10
	maxFrameSize = 1<<24 - 1
	// defaultWindow is the initial flow-control window of streams and of the
	// connection (RFC 9113 section 6.9.2); maxWindow is the largest.
	defaultWindow = 65535
	maxWindow     = 1<<31 - 1
	maxStreamID   = 1<<31 - 1
)

// The codes with which exchanges end their streams (RFC 9113 section 7).
const (
	CodeNone     = http2.ErrCodeNo
	CodeCancel   = http2.ErrCodeCancel
	CodeInternal = http2.ErrCodeInternal
)

// preface is what a client says first (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// PrefaceLen is the length of the connection preface, in bytes.
const PrefaceLen = len(preface)

// MatchPreface compares the first bytes of a connection with the preface:
// match is set when all that there are of p agree, whole when all of the
// preface is there.
func MatchPreface(p []byte) (match, whole bool) {
	n := min(len(p), len(preface))
	match = string(p[:n]) == preface[:n]
	return match, match && n == len(preface)
}

type frameHeader struct {
	length int
	typ    http2.FrameType
	flags  http2.Flags
	id     uint32
}

func (h *frameHeader) has(f http2.Flags) bool { return h.flags&f != 0 }

// parseFrameHeader reads the first nine octets of b (RFC 9113 section 4.1).
func parseFrameHeader(b []byte) frameHeader {
	_ = b[8]
	return frameHeader{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		typ:    http2.FrameType(b[3]),
		flags:  http2.Flags(b[4]),
		id:     binary.BigEndian.Uint32(b[5:]) & maxStreamID,
	}
}

func appendFrameHeader(dst []byte, length int, typ http2.FrameType, flags http2.Flags, id uint32) []byte {
	return append(dst, byte(length>>16), byte(length>>8), byte(length), byte(typ), byte(flags),
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func appendSettings(dst []byte, settings ...http2.Setting) []byte {
	dst = appendFrameHeader(dst, 6*len(settings), http2.FrameSettings, 0, 0)
	for _, s := range settings {
		dst = binary.BigEndian.AppendUint16(dst, uint16(s.ID))
		dst = binary.BigEndian.AppendUint32(dst, s.Val)
	}
	return dst
}

func appendSettingsAck(dst []byte) []byte {
	return appendFrameHeader(dst, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
}

func appendPing(dst []byte, ack bool, data []byte) []byte {
	var flags http2.Flags
	if ack {
		flags = http2.FlagPingAck
	}
	return append(appendFrameHeader(dst, 8, http2.FramePing, flags, 0), data[:8]...)
}

func appendGoAway(dst []byte, last uint32, code http2.ErrCode, debug string) []byte {
	dst = appendFrameHeader(dst, 8+len(debug), http2.FrameGoAway, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, last)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, debug...)
}

func appendReset(dst []byte, id uint32, code http2.ErrCode) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(dst, 4, http2.FrameRSTStream, 0, id), uint32(code))
}

func appendWindowUpdate(dst []byte, id, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(dst, 4, http2.FrameWindowUpdate, 0, id), n)
}

// unpad takes the padding off a DATA or HEADERS payload (RFC 9113 section
// 6.1). false: there is more padding than payload.
func unpad(h *frameHeader, p []byte) ([]byte, bool) {
	if !h.has(http2.FlagDataPadded) {
		return p, true
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}
