// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"golang.org/x/net/http2"

	"pillion/proxy/http"
)

// headerBlock is a block that spreads over several frames (RFC 9113 section
// 4.3). It is owned by the reader.
type headerBlock struct {
	open   bool
	id     uint32
	end    bool // END_STREAM was on its first frame
	frames int
	text   []byte
}

// headers handles HEADERS (RFC 9113 section 6.2).
func (c *Conn) headers(h *frameHeader, p []byte) *connError {
	if h.id == 0 {
		return errStreamZero
	}
	if !c.client && h.id&1 == 0 {
		return errStreamID
	}
	p, ok := unpad(h, p)
	if !ok {
		return errPadding
	}
	if h.has(http2.FlagHeadersPriority) {
		if len(p) < 5 {
			return errFrameSize
		}
		p = p[5:] // priorities have no effect (RFC 9113 section 5.3.2)
	}
	end := h.has(http2.FlagHeadersEndStream)
	if h.has(http2.FlagHeadersEndHeaders) {
		return c.wholeBlock(h, end, p)
	}
	c.block.open, c.block.id, c.block.end, c.block.frames = true, h.id, end, 1
	c.block.text = append(c.block.text[:0], p...)
	return nil
}

// continuation handles CONTINUATION (RFC 9113 section 6.10). Blocks are
// bounded in octets and in frames, of which none may be empty without end.
func (c *Conn) continuation(h *frameHeader, p []byte) *connError {
	b := &c.block
	if !b.open {
		return errContinuation
	}
	b.frames++
	b.text = append(b.text, p...)
	if len(b.text) > c.cfg.headBytes() || b.frames > continuationLimit {
		c.stats.HeaderOverflow.Inc()
		return errBlockSize
	}
	if !h.has(http2.FlagContinuationEndHeaders) {
		return nil
	}
	b.open = false
	err := c.wholeBlock(h, b.end, b.text)
	if cap(b.text) > minFrameSize {
		b.text = nil
	}
	return err
}

// wholeBlock decodes a block and hands it to its stream. Every block is
// decoded, whatever becomes of it, since the tables of both sides must agree.
func (c *Conn) wholeBlock(h *frameHeader, end bool, p []byte) *connError {
	b, err := c.dec.decode(p)
	if err != nil {
		return err
	}
	if err := c.budget.content(len(p), &c.stats.InboundEmptyFramesFlood); err != nil {
		return err
	}
	c.mu.Lock()
	s := c.streams[h.id]
	switch {
	case s == nil && !c.client && c.idleLocked(h.id):
		return c.request(h.id, b, end)
	case s == nil, s.remoteEnd:
		defer c.mu.Unlock()
		return c.strayLocked(h, s)
	case !s.headDone:
		return c.response(s, b, end)
	}
	return c.trailerBlock(s, b, end)
}

// request begins a stream. mu is held, and let go.
func (c *Conn) request(id uint32, b *Block, end bool) *connError {
	c.lastPeer = id
	if c.goneAway {
		c.mu.Unlock()
		c.stats.HeadersAfterGoAway.Inc()
		return nil // the last GOAWAY said that it won't be served
	}
	c.budget.streams++
	if len(c.streams) >= int(c.cfg.maxStreams()) {
		defer c.mu.Unlock()
		c.outbox()
		*c.out = appendReset(*c.out, id, http2.ErrCodeRefusedStream)
		c.stats.TxReset.Inc()
		c.resets.add(id)
		return c.budget.reset(&c.stats.ResetFlood)
	}
	c.mu.Unlock()
	s, recv := c.accept.Accept(c)
	c.mu.Lock()
	s.reset(c, id, recv)
	s.remoteEnd, s.headDone = end, true
	s.left = b.length()
	c.add(s)
	c.mu.Unlock()
	return c.judge(recv.OnHead(Event{c, id, &c.batch}, b, end), id)
}

// length returns the content-length that a block names, -1 for none. Whether
// it is well-formed is for the head to say.
func (b *Block) length() int64 {
	for i := range b.fields {
		if b.fields[i].ID == http.HeaderContentLength {
			if n, ok := parseLength(b.fields[i].Value); ok {
				return n
			}
		}
	}
	return -1
}

// response handles the head of a response, or an interim one. mu is held, and
// let go.
func (c *Conn) response(s *Stream, b *Block, end bool) *connError {
	interim, recv, id := b.interim(), s.recv, s.id
	c.answered = true
	if interim {
		s.interim++
	} else {
		s.headDone = true
		c.budget.streams++
		if !s.toHead && !b.noBody() {
			s.left = b.length()
		}
	}
	// A length that nothing follows would have an HTTP/1 client wait for it.
	bad := interim && (end || s.interim > maxInterim) || end && s.left > 0
	if end && !bad {
		c.endRemote(s)
	}
	c.mu.Unlock()
	if bad {
		c.stats.RxMessagingError.Inc()
		return c.streamError(id, http2.ErrCodeProtocol)
	}
	return c.judge(recv.OnHead(Event{c, id, &c.batch}, b, end), id)
}

// maxInterim bounds the 1xx responses before a final one.
const maxInterim = 10

// interim reports whether the block is the head of an interim response.
func (b *Block) interim() bool {
	s := b.status()
	return len(s) == 3 && s[0] == '1'
}

func (b *Block) status() []byte {
	if len(b.fields) > 0 && b.fields[0].pseudo == pseudoStatus {
		return b.fields[0].Value
	}
	return nil
}

// noBody reports whether a response has a content-length that tells of a body
// which doesn't come, whatever the request was.
func (b *Block) noBody() bool {
	s := string(b.status())
	return s == "304" || s == "204"
}

// trailerBlock handles trailers, which have to end the stream (RFC 9113
// section 8.1). mu is held, and let go.
func (c *Conn) trailerBlock(s *Stream, b *Block, end bool) *connError {
	recv, id := s.recv, s.id
	if !end || s.left > 0 {
		c.mu.Unlock()
		c.stats.RxMessagingError.Inc()
		return c.streamError(id, http2.ErrCodeProtocol)
	}
	c.endRemote(s)
	c.mu.Unlock()
	return c.judge(recv.OnTrailers(Event{c, id, &c.batch}, b), id)
}

// judge acts on a receiver's verdict.
func (c *Conn) judge(v Verdict, id uint32) *connError {
	if v == Good {
		return nil
	}
	code := http2.ErrCodeProtocol
	if v == TooLarge {
		c.stats.HeaderOverflow.Inc()
		code = http2.ErrCodeEnhanceYourCalm
	} else {
		c.stats.RxMessagingError.Inc()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		c.resetLocked(s, code)
	}
	return c.budget.reset(&c.stats.ResetFlood)
}
