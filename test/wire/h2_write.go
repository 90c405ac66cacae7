// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// maxFrame is the payload of the frames that are sent: what every peer takes
// (RFC 9113 section 4.2).
const maxFrame = 16384

// Frames writes frames of any kind, with no other frame between them.
func (c *H2) Frames(write func(f *http2.Framer) error) error {
	c.write.Lock()
	defer c.write.Unlock()
	return write(c.framer)
}

// Bytes writes bytes as they are.
func (c *H2) Bytes(b []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	_, err := c.conn.Write(b)
	return err
}

// Credit gives the peer window, on a stream and on the connection.
func (c *H2) Credit(id, n uint32) error {
	return c.Frames(func(f *http2.Framer) error {
		if err := f.WriteWindowUpdate(0, n); err != nil {
			return err
		}
		return f.WriteWindowUpdate(id, n)
	})
}

// encode returns the header block of fields; c.write is held. The peer has to
// decode every block, so what is encoded has to be sent, in order.
func (c *H2) encode(fields Fields) []byte {
	c.block.Reset()
	for _, f := range fields {
		// Writing to a bytes.Buffer doesn't fail.
		_ = c.encoder.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value})
	}
	return c.block.Bytes()
}

// Head sends a header block: a head, an interim one, or trailers.
func (c *H2) Head(id uint32, end bool, fields Fields) error {
	c.write.Lock()
	defer c.write.Unlock()
	return c.Block(id, end, c.encode(fields))
}

// Block sends an encoded header block in as many frames as it takes; it is
// called with the writing to itself, from within Frames.
func (c *H2) Block(id uint32, end bool, block []byte) error {
	first := block[:min(len(block), maxFrame)]
	block = block[len(first):]
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndStream: end, EndHeaders: len(block) == 0})
	for err == nil && len(block) > 0 {
		part := block[:min(len(block), maxFrame)]
		block = block[len(part):]
		err = c.framer.WriteContinuation(id, len(block) == 0, part)
	}
	return err
}

// Open opens a stream with a request and returns its number.
func (c *H2) Open(end bool, fields Fields) (uint32, error) {
	// The numbers have to be on the wire in order.
	c.write.Lock()
	defer c.write.Unlock()
	id := c.NewStream()
	return id, c.Block(id, end, c.encode(fields))
}

// Data sends a part of a body as the peer's windows allow, and waits where
// they don't.
func (c *H2) Data(id uint32, end bool, data []byte) error {
	for {
		n := 0
		err := c.Wait(func() bool {
			s := c.stream(id)
			if s.Reset != nil {
				n = -1
				return true
			}
			n = int(min(int64(len(data)), maxFrame, c.window, s.window))
			if n <= 0 && len(data) > 0 {
				return false
			}
			c.window -= int64(n)
			s.window -= int64(n)
			return true
		})
		if err != nil {
			return err
		}
		if n < 0 {
			return ErrStreamReset
		}
		last := n == len(data)
		if err := c.Frames(func(f *http2.Framer) error { return f.WriteData(id, end && last, data[:n]) }); err != nil {
			return err
		}
		if data = data[n:]; last {
			return nil
		}
	}
}

// Reset resets a stream.
func (c *H2) Reset(id uint32, code http2.ErrCode) error {
	return c.Frames(func(f *http2.Framer) error { return f.WriteRSTStream(id, code) })
}

// RequestHead makes the fields of a request's head.
func RequestHead(method, authority, path string, more ...Field) Fields {
	return append(Fields{{":method", method}, {":scheme", "http"}, {":authority", authority}, {":path", path}}, more...)
}

// Get makes a request without a body and waits for the whole answer.
func (c *H2) Get(authority, path string, more ...Field) (H2Stream, error) {
	id, err := c.Open(true, RequestHead("GET", authority, path, more...))
	if err != nil {
		return H2Stream{}, err
	}
	return c.Await(id)
}
