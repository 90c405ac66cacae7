// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// grpcPrefix is the size of what precedes a gRPC message.
const grpcPrefix = 5

// GRPCMessage returns a message of so many bytes with gRPC's prefix: no
// compression, and the length.
func GRPCMessage(n int) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 1, grpcPrefix+n), uint32(n)), bytes.Repeat([]byte(bodyByte), n)...)
}

// maxShortFrame is the largest payload of a WebSocket frame with the short header.
const maxShortFrame = 125

// WebSocketMessage returns a binary message of so many bytes, at most 125, as a
// client sends it, masked, and the size of its echo (RFC 6455, section 5.2).
func WebSocketMessage(n int) (message []byte, echo int) {
	n = min(n, maxShortFrame)
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	message = append([]byte{0x82, 0x80 | byte(n)}, mask[:]...)
	for i := range n {
		message = append(message, bodyByte[0]^mask[i%4])
	}
	return message, 2 + n
}

// WebSocketHello returns the request that asks for a WebSocket.
func WebSocketHello(r Request) []byte {
	var b strings.Builder
	b.WriteString("GET " + r.Path + " HTTP/1.1\r\nHost: " + r.Host + "\r\n" +
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	for _, f := range r.Fields {
		b.WriteString(f[0] + ": " + f[1] + "\r\n")
	}
	b.WriteString("\r\n")
	return []byte(b.String())
}
