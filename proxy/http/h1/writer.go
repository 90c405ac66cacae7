// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"net"

	"pillion/proxy/netio"
)

// holdBack is up to how many bytes the pieces of a message are gathered, in
// bytes, so that they go out in one system call.
const holdBack = 16 << 10

// appendBody appends a piece of a body, framed as a chunk if chunked, to what
// is held back in out, or sends both when together they are too big to hold.
// It returns what is now held back.
func appendBody(io *netio.Conn, out, p []byte, chunked, end bool) ([]byte, error) {
	if len(p) > 0 {
		if chunked {
			out = AppendChunkHeader(out, len(p))
		}
		if len(out)+len(p) <= holdBack {
			out = append(out, p...)
		} else {
			if err := send(io, out, p); err != nil {
				return out[:0], err
			}
			out = out[:0]
		}
		if chunked {
			out = AppendChunkEnd(out)
		}
	}
	if chunked && end {
		out = AppendLastChunk(out, nil)
	}
	return out, nil
}

func send(io *netio.Conn, out, p []byte) error {
	if len(out) == 0 {
		_, err := io.Write(p)
		return err
	}
	bufs := net.Buffers{out, p}
	return io.WriteBuffers(&bufs)
}
