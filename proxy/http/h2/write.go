// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"golang.org/x/net/http2"

	"pillion/proxy/buf"
	"pillion/proxy/http"
)

// highWater bounds the DATA that waits to be written on a connection, in
// octets. What streams send beyond it waits in their queues.
const highWater = 64 << 10

// maxControl bounds the frames in answer to the peer's that wait because it
// doesn't read (Envoy: max_outbound_control_frames).
const maxControl = 1000

// outbox makes sure that there is a write buffer. mu is held.
func (c *Conn) outbox() {
	if c.out == nil {
		c.out = buf.GetBytes()
	}
}

// beginHeaders makes room for the header of a HEADERS frame and returns its
// place. mu is held.
func (c *Conn) beginHeaders() (from int) {
	c.outbox()
	from = len(*c.out)
	*c.out = append(*c.out, make([]byte, frameHeaderLen)...)
	return from
}

// endHeaders writes the frame header at from; a block that is too large for
// one frame is cut up. mu is held.
func (c *Conn) endHeaders(from int, id uint32, end bool) {
	out := *c.out
	size := len(out) - from - frameHeaderLen
	flags := http2.FlagHeadersEndHeaders
	if end {
		flags |= http2.FlagHeadersEndStream
	}
	if size <= int(c.peerFrameSize) {
		appendFrameHeader(out[:from], size, http2.FrameHeaders, flags, id)
		return
	}
	block := append([]byte(nil), out[from+frameHeaderLen:]...)
	out = out[:from]
	typ := http2.FrameHeaders
	flags &^= http2.FlagHeadersEndHeaders
	for len(block) > 0 {
		n := min(len(block), int(c.peerFrameSize))
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		out = append(appendFrameHeader(out, n, typ, flags, id), block[:n]...)
		block = block[n:]
		typ, flags = http2.FrameContinuation, 0
	}
	*c.out = out
}

// room returns how many octets of DATA a stream may send now. mu is held.
func (c *Conn) room(s *Stream) int {
	w := min(c.sendWin, c.peerWindow+s.sendAdj, int64(highWater-c.buffered()))
	return int(max(0, w))
}

func (c *Conn) buffered() int {
	if c.out == nil {
		return 0
	}
	return len(*c.out)
}

// appendData appends DATA frames for which there is room. mu is held.
func (c *Conn) appendData(s *Stream, p []byte, end bool) {
	c.outbox()
	out := *c.out
	c.sendWin -= int64(len(p))
	s.sendAdj -= int64(len(p))
	for {
		n := min(len(p), int(c.peerFrameSize))
		var flags http2.Flags
		if end && n == len(p) {
			flags = http2.FlagDataEndStream
		}
		out = append(appendFrameHeader(out, n, http2.FrameData, flags, s.id), p[:n]...)
		c.sentData.Add(1)
		p = p[n:]
		if len(p) == 0 {
			break
		}
	}
	*c.out = out
	if end {
		s.endLocal()
	}
}

// appendTrailers ends the stream with fields. mu is held.
func (c *Conn) appendTrailers(s *Stream, f *http.Fields) {
	if f.Len() == 0 {
		c.appendData(s, nil, true)
		return
	}
	from := c.beginHeaders()
	*c.out = c.enc.fields(c.enc.begin(*c.out), f)
	c.endHeaders(from, s.id, true)
	c.stats.Trailers.Inc()
	s.endLocal()
}

// wait puts a stream into the list of those that can go on when the connection
// can. mu is held.
func (c *Conn) wait(s *Stream) {
	if !s.waiting {
		s.waiting = true
		c.waiters = append(c.waiters, s)
	}
}

// pumpAll lets the streams that wait send, in turns. mu is held.
func (c *Conn) pumpAll() {
	n := len(c.waiters)
	for i := 0; i < n && c.sendWin > 0 && c.buffered() < highWater; i++ {
		s := c.waiters[0]
		copy(c.waiters, c.waiters[1:])
		c.waiters[len(c.waiters)-1] = nil
		c.waiters = c.waiters[:len(c.waiters)-1]
		s.waiting = false
		if s.open && s.queue != nil && c.pump(s) {
			n++ // it has its turn again after the others
		}
	}
}

// pump sends a frame of a stream's queue, and reports whether it waits for
// another turn. mu is held.
func (c *Conn) pump(s *Stream) (more bool) {
	rest := (*s.queue)[s.queued:]
	n := min(len(rest), c.room(s), int(c.peerFrameSize))
	if n == 0 {
		if c.peerWindow+s.sendAdj > 0 {
			c.wait(s) // for the connection
		}
		return false
	}
	c.stats.PendingSend.Add(-int64(n))
	s.queued += n
	last := n == len(rest)
	ends := last && s.queueEnd
	c.appendData(s, rest[:n], ends && s.trailers == nil)
	if last {
		trailers := s.trailers
		s.drop()
		if ends && trailers != nil {
			var f http.Fields
			for _, fl := range trailers {
				f.Append(fl)
			}
			c.appendTrailers(s, &f)
		}
	} else {
		c.wait(s)
	}
	c.taken = append(c.taken, taken{s.recv, s.id, n, ends})
	return !last
}

// taken is an OnTaken to be delivered when mu is not held.
type taken struct {
	recv Receiver
	id   uint32
	n    int
	done bool
}

// deliver calls OnTaken for what was pumped. mu is not held.
func (c *Conn) deliver(list []taken, b *Batch) {
	for _, t := range list {
		t.recv.OnTaken(Event{c, t.id, b}, t.n, t.done)
	}
}

// flush writes what has gathered, without blocking: if the socket takes no
// more, a goroutine waits for it. While one goroutine writes, others leave
// what they have to it.
func (c *Conn) flush(b *Batch) {
	c.mu.Lock()
	c.promised = false
	if c.writing {
		c.mu.Unlock()
		return
	}
	c.writing = true
	for {
		if len(c.waiters) > 0 {
			c.pumpAll()
		}
		if c.out == nil || len(*c.out) == 0 || c.broken {
			break
		}
		out := c.out
		c.out, c.control = nil, 0
		c.mu.Unlock()
		n, done, err := c.io.TryWrite(*out)
		if err == nil && !done {
			go c.writeOn(out, n)
			return
		}
		buf.PutBytes(out)
		c.mu.Lock()
		if err != nil {
			c.breakLocked()
		}
	}
	c.finishWriting(b)
}

// writeOn is flush for a socket that is full: it blocks.
func (c *Conn) writeOn(out *[]byte, from int) {
	var b Batch
	for {
		_, err := c.io.Write((*out)[from:])
		buf.PutBytes(out)
		c.mu.Lock()
		if err != nil {
			c.breakLocked()
		}
		c.pumpAll()
		if c.out == nil || len(*c.out) == 0 || c.broken {
			c.finishWriting(&b)
			b.Flush()
			return
		}
		list := c.taken
		c.taken = nil
		out, from = c.out, 0
		c.out, c.control = nil, 0
		c.mu.Unlock()
		c.deliver(list, &b)
		b.Flush()
	}
}

// finishWriting ends a flush. mu is held, and let go.
func (c *Conn) finishWriting(b *Batch) {
	c.writing = false
	if c.out != nil && len(*c.out) == 0 {
		buf.PutBytes(c.out)
		c.out = nil
	}
	list := c.taken
	c.taken = nil
	ended := c.closeWhenFlushed && !c.hungUp
	c.hungUp = c.hungUp || ended
	c.mu.Unlock()
	if ended {
		c.hangUp()
	}
	c.deliver(list, b)
}

// breakLocked gives the connection up after a failed write: the reader will
// find it closed. mu is held.
func (c *Conn) breakLocked() {
	c.broken = true
	if c.out != nil {
		buf.PutBytes(c.out)
		c.out = nil
	}
	_ = c.io.Close()
}
