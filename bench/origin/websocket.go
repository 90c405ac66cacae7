// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
)

const (
	// webSocketGUID goes into the proof that a server understood the request
	// for an upgrade (RFC 6455, section 1.3).
	webSocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	// maxMessage bounds a frame.
	maxMessage = 1 << 20

	webSocketClose = 8
	webSocketPing  = 9
	webSocketPong  = 10
)

// appendUpgrade appends the response that makes a connection a WebSocket.
func appendUpgrade(b []byte, version string, key []byte) []byte {
	sum := sha1.Sum(append(bytes.Clone(key), webSocketGUID...))
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"+VersionField+": "+version+"\r\nsec-websocket-accept: "...)
	b = base64.StdEncoding.AppendEncode(b, sum[:])
	return append(b, "\r\n\r\n"...)
}

// webSocket echoes each frame (RFC 6455, section 5).
type webSocket struct {
	in []byte // an unfinished frame
}

func (w *webSocket) take(l *loop, b []byte) bool {
	if len(w.in) > 0 {
		w.in = append(w.in, b...)
		b = w.in
	}
	for len(b) > 0 {
		head, mask, size := webSocketHead(b)
		if size < 0 {
			return false // unmasked, or too large
		}
		if mask == nil || len(b) < head+size {
			break
		}
		opcode := b[0] & 0xf
		first := b[0]
		if opcode == webSocketPing {
			first = first&^0xf | webSocketPong
		}
		l.out = appendWebSocketHead(l.out, first, size)
		at := len(l.out)
		l.out = append(l.out, b[head:head+size]...)
		for i := range l.out[at:] {
			l.out[at+i] ^= mask[i%4]
		}
		if opcode == webSocketClose {
			return false
		}
		b = b[head+size:]
	}
	w.in = append(w.in[:0], b...)
	return true
}

// webSocketHead returns the size of a client's frame's header, its mask and the
// size of its payload. The mask is nil if the header is unfinished; the size is
// -1 for a frame that isn't taken.
func webSocketHead(b []byte) (head int, mask []byte, size int) {
	if len(b) < 2 {
		return 0, nil, 0
	}
	if b[1]&0x80 == 0 {
		return 0, nil, -1
	}
	head, size = 2, int(b[1]&0x7f)
	switch {
	case size == 126 && len(b) >= 4:
		head, size = 4, int(binary.BigEndian.Uint16(b[2:]))
	case size == 127 && len(b) >= 10:
		n := binary.BigEndian.Uint64(b[2:])
		if n > maxMessage {
			return 0, nil, -1
		}
		head, size = 10, int(n)
	case size >= 126:
		return 0, nil, 0
	}
	if len(b) < head+4 {
		return 0, nil, 0
	}
	return head + 4, b[head : head+4], size
}

// appendWebSocketHead appends a server's frame header.
func appendWebSocketHead(b []byte, first byte, size int) []byte {
	switch {
	case size < 126:
		return append(b, first, byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, first, 126), uint16(size))
	}
	return binary.BigEndian.AppendUint64(append(b, first, 127), uint64(size))
}
