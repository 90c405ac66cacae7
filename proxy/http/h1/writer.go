// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"net"

	"pillion/proxy/buf"
	"pillion/proxy/netio"
)

// holdBack is up to how many bytes the pieces of a message are gathered, in
// bytes, so that they go out in one system call.
const holdBack = 16 << 10

// outbox is what a connection holds back. It owns storage only while something is in
// it: what was written for one exchange serves the next, which finds it in the
// processor's cache.
type outbox struct{ b *[]byte }

// len is how many bytes are held back.
func (o *outbox) len() int {
	if o.b == nil {
		return 0
	}
	return len(*o.b)
}

// storage is what to append to.
func (o *outbox) storage() *[]byte {
	if o.b == nil {
		o.b = buf.GetBytes()
	}
	return o.b
}

// take hands over what is held back, to be given back by buf.PutBytes.
func (o *outbox) take() *[]byte {
	b := o.b
	o.b = nil
	return b
}

// drop gives up what is held back.
func (o *outbox) drop() { buf.PutBytes(o.take()) }

// flush writes what is held back, which is given up with an error. It returns how many
// bytes were taken.
func (o *outbox) flush(io *netio.Conn) (n int, err error) {
	if o.len() > 0 {
		n, err = io.Write(*o.b)
	}
	o.drop()
	return n, err
}

// body appends a piece of a body as appendBody does.
func (o *outbox) body(io *netio.Conn, p []byte, chunked, end bool) (err error) {
	if len(p) == 0 && !(chunked && end) {
		return nil
	}
	b := o.storage()
	if *b, err = appendBody(io, *b, p, chunked, end); len(*b) == 0 {
		o.drop()
	}
	return err
}

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
