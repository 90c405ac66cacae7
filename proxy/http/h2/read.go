// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"encoding/binary"
	"errors"
	"os"
	"time"

	"golang.org/x/net/http2"

	"pillion/proxy/http"
	"pillion/proxy/netio"
)

// Run reads the connection until it ends, and ends all its streams then; or until
// Leave: then left is true, and Run is to be called again.
func (c *Conn) Run() (left bool) {
	if c.handle() {
		err := c.io.Each(&c.in, c) // an end and a failure are the same to the streams
		if c.leaves.Swap(false) && errors.Is(err, os.ErrDeadlineExceeded) && c.goesOn() {
			return true
		}
	}
	c.end()
	return false
}

// goesOn lets reads wait again, unless the connection is about to end.
func (c *Conn) goesOn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hungUp || c.broken {
		return false
	}
	_ = c.io.SetReadDeadline(time.Time{})
	return true
}

// Leave has Run return for another goroutine to go on with it. It may be called from
// any goroutine.
func (c *Conn) Leave() {
	c.leaves.Store(true)
	_ = c.io.SetReadDeadline(netio.Past)
}

// Await waits until there is something for Run to read, which takes less of the stack
// than Run does. It is for the goroutine that runs Run.
func (c *Conn) Await() {
	if c.in.Len() == 0 {
		c.io.AwaitAny()
	}
}

// Take handles what was read. It implements netio.Taker.
func (c *Conn) Take() (more bool) {
	c.mu.Lock()
	c.reads++
	c.mu.Unlock()
	return c.handle()
}

// handle handles what has arrived, and writes what that comes to. false: the
// connection ends.
func (c *Conn) handle() bool {
	now := http.Now()
	c.lastRead.Store(now)
	if err := c.frames(now); err != nil {
		c.fail(err)
		return false
	}
	if !c.client {
		c.batch.flushSoon()
	}
	c.batch.touch(c)
	c.batch.Flush()
	c.in.ReleaseIfEmpty()
	// No frame that we take is larger than what the buffer can grow to.
	return c.in.Len() == 0 || len(c.in.Free()) > 0 || c.in.Grow()
}

// frames handles what has arrived.
func (c *Conn) frames(now int64) *connError {
	for {
		p := c.in.Bytes()
		if !c.greeted {
			if n, err := c.preface(p); n == 0 || err != nil {
				return err
			} else if n > 0 {
				c.in.Advance(n)
				p = c.in.Bytes()
			}
		}
		if len(p) < frameHeaderLen {
			return nil
		}
		h := parseFrameHeader(p)
		if h.length > minFrameSize {
			return errFrameSize
		}
		if len(p) < frameHeaderLen+h.length {
			return nil
		}
		if err := c.frame(&h, p[frameHeaderLen:frameHeaderLen+h.length], now); err != nil {
			return err
		}
		c.in.Advance(frameHeaderLen + h.length)
	}
}

// preface looks for what has to come first. It returns how much of p it took:
// -1 when there is nothing to take, 0 when more has to come.
func (c *Conn) preface(p []byte) (int, *connError) {
	n := -1
	if !c.client {
		match, whole := MatchPreface(p)
		switch {
		case !match:
			return 0, errPreface
		case !whole:
			return 0, nil
		}
		n = PrefaceLen
	}
	rest := p[max(n, 0):]
	if len(rest) < frameHeaderLen {
		return 0, nil
	}
	if h := parseFrameHeader(rest); h.typ != http2.FrameSettings || h.has(http2.FlagSettingsAck) {
		return 0, errNoSettings
	}
	c.greeted = true
	return n, nil
}

// frame handles one frame.
func (c *Conn) frame(h *frameHeader, p []byte, now int64) *connError {
	if c.block.open && (h.typ != http2.FrameContinuation || h.id != c.block.id) {
		return errContinuation
	}
	switch h.typ {
	case http2.FrameData:
		return c.data(h, p)
	case http2.FrameHeaders:
		return c.headers(h, p)
	case http2.FrameContinuation:
		return c.continuation(h, p)
	case http2.FrameWindowUpdate:
		return c.windowUpdate(h, p, now)
	case http2.FrameRSTStream:
		return c.rstStream(h, p, now)
	case http2.FrameSettings:
		return c.settings(h, p, now)
	case http2.FramePing:
		return c.ping(h, p, now)
	case http2.FrameGoAway:
		return c.goAway(h, p, now)
	case http2.FramePriority:
		return c.priority(h, p, now)
	case http2.FramePushPromise:
		return errPush
	}
	// Others are ignored (RFC 9113 section 5.5).
	return c.charge(now, &c.stats.InboundControlFlood)
}

// data handles DATA (RFC 9113 section 6.1).
func (c *Conn) data(h *frameHeader, p []byte) *connError {
	if h.id == 0 {
		return errStreamZero
	}
	body, ok := unpad(h, p)
	if !ok {
		return errPadding
	}
	end := h.has(http2.FlagDataEndStream)
	if err := c.budget.content(len(body)+btoi(end), &c.stats.InboundEmptyFramesFlood); err != nil {
		return err
	}
	if err := c.received(len(p)); err != nil {
		return err
	}
	c.mu.Lock()
	s := c.streams[h.id]
	if s == nil || s.remoteEnd {
		defer c.mu.Unlock()
		return c.strayLocked(h, s)
	}
	if int64(len(p)) > s.recvWin {
		c.mu.Unlock()
		return c.streamError(h.id, http2.ErrCodeFlowControl)
	}
	s.recvWin -= int64(len(p))
	if pad := len(p) - len(body); pad > 0 {
		c.creditLocked(s, pad) // padding is nobody's to take
	}
	if !s.headDone || s.left >= 0 && (int64(len(body)) > s.left || end && int64(len(body)) != s.left) {
		c.mu.Unlock()
		c.stats.RxMessagingError.Inc()
		return c.streamError(h.id, http2.ErrCodeProtocol)
	}
	if s.left >= 0 {
		s.left -= int64(len(body))
	}
	recv := s.recv
	if end {
		c.endRemote(s)
	}
	c.mu.Unlock()
	recv.OnData(Event{c, h.id, &c.batch}, body, end)
	return nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// endRemote notes that END_STREAM came. mu is held.
func (c *Conn) endRemote(s *Stream) {
	s.remoteEnd = true
	if s.localEnd {
		c.remove(s)
	}
}

// received accounts for octets under the connection's flow control, and gives
// their credit back.
func (c *Conn) received(n int) *connError {
	if int64(n) > c.recvWin {
		return errWindowSize
	}
	c.recvWin -= int64(n)
	if c.credit += uint32(n); c.credit >= c.cfg.connWindow()/2 {
		c.mu.Lock()
		c.outbox()
		*c.out = appendWindowUpdate(*c.out, 0, c.credit)
		c.mu.Unlock()
		c.recvWin += int64(c.credit)
		c.credit = 0
	}
	return nil
}

// strayLocked judges a frame of a message on a stream that isn't open for it
// (RFC 9113 section 5.1). mu is held.
func (c *Conn) strayLocked(h *frameHeader, s *Stream) *connError {
	switch {
	case s == nil && c.idleLocked(h.id):
		return errStreamID
	case s == nil && (c.client || c.goneAway || c.resets.has(h.id)):
		return nil // the peer may not have heard of it
	case s == nil && c.resets.n > recentResets:
		c.outbox()
		*c.out = appendReset(*c.out, h.id, http2.ErrCodeStreamClosed)
		return c.budget.reset(&c.stats.ResetFlood)
	case s == nil:
		return errStreamClosed
	}
	c.resetLocked(s, http2.ErrCodeStreamClosed)
	return c.abandon(s, h.id)
}

// idleLocked reports whether a stream was never opened. mu is held.
func (c *Conn) idleLocked(id uint32) bool {
	if id&1 == 0 {
		return true // nobody opens these: we accept no pushes
	}
	if c.client {
		return id >= c.nextID
	}
	return id > c.lastPeer
}

// abandon tells the receiver of a stream that we have reset, and charges the
// peer for it. mu is held, and is so again.
func (c *Conn) abandon(s *Stream, id uint32) *connError {
	recv, err := s.recv, errDownProtocol
	if c.client {
		err = errUpProtocol
	}
	c.mu.Unlock()
	recv.OnReset(Event{c, id, &c.batch}, err)
	flood := c.budget.reset(&c.stats.ResetFlood)
	c.mu.Lock()
	return flood
}

// streamError resets a stream for what the peer did on it.
func (c *Conn) streamError(id uint32, code http2.ErrCode) *connError {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id] // a receiver may have ended it meanwhile
	if s == nil {
		return nil
	}
	c.resetLocked(s, code)
	return c.abandon(s, id)
}

// windowUpdate handles WINDOW_UPDATE (RFC 9113 section 6.9).
func (c *Conn) windowUpdate(h *frameHeader, p []byte, now int64) *connError {
	if len(p) != 4 {
		return errFrameSize
	}
	if err := c.charge(now, &c.stats.InboundWindowUpdateFlood); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(p) & maxStreamID)
	if h.id == 0 {
		return c.connWindowUpdate(n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[h.id]
	if s == nil {
		if c.idleLocked(h.id) {
			return errStreamID
		}
		return nil
	}
	code := http2.ErrCodeProtocol
	if n > 0 {
		if s.sendAdj+n+c.peerWindow <= maxWindow {
			s.sendAdj += n
			if s.queue != nil {
				c.wait(s) // the flush that follows lets it send
			}
			return nil
		}
		code = http2.ErrCodeFlowControl
	}
	c.resetLocked(s, code)
	return c.abandon(s, h.id)
}

func (c *Conn) connWindowUpdate(n int64) *connError {
	if n == 0 {
		return errZeroIncrement
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sendWin += n; c.sendWin > maxWindow {
		return errWindowSize
	}
	return nil
}

// rstStream handles RST_STREAM (RFC 9113 section 6.4).
func (c *Conn) rstStream(h *frameHeader, p []byte, now int64) *connError {
	switch {
	case len(p) != 4:
		return errFrameSize
	case h.id == 0:
		return errStreamZero
	}
	c.stats.RxReset.Inc()
	code := http2.ErrCode(binary.BigEndian.Uint32(p))
	c.mu.Lock()
	s := c.streams[h.id]
	if s == nil {
		defer c.mu.Unlock()
		if c.idleLocked(h.id) {
			return errStreamID
		}
		return c.charge(now, &c.stats.InboundControlFlood)
	}
	recv, whole, young := s.recv, s.remoteEnd && c.client, !s.sentHead
	c.remove(s)
	c.mu.Unlock()
	if whole && code == http2.ErrCodeNo {
		return nil // the response was complete; the server doesn't want the rest (section 8.1)
	}
	recv.OnReset(Event{c, h.id, &c.batch}, c.resetError(code))
	if c.client || !young {
		return nil
	}
	return c.budget.reset(&c.stats.ResetFlood)
}

// resetError is what RST_STREAM means to an exchange.
func (c *Conn) resetError(code http2.ErrCode) *http.Error {
	switch {
	case !c.client:
		return errDownReset
	case code == http2.ErrCodeRefusedStream:
		return errUpRefused
	}
	return errUpReset
}

// priority handles PRIORITY, which has no effect (RFC 9113 section 5.3.2).
func (c *Conn) priority(h *frameHeader, p []byte, now int64) *connError {
	switch {
	case h.id == 0:
		return errStreamZero
	case len(p) != 5:
		c.mu.Lock()
		s := c.streams[h.id]
		c.mu.Unlock()
		if s != nil {
			return c.streamError(h.id, http2.ErrCodeFrameSize)
		}
		return errFrameSize
	}
	return c.charge(now, &c.stats.InboundPriorityFramesFlood)
}

// fail ends the connection with a GOAWAY (RFC 9113 section 5.4.1).
func (c *Conn) fail(err *connError) {
	c.mu.Lock()
	c.outbox()
	*c.out = appendGoAway(*c.out, c.lastPeer, err.code, err.reason)
	c.stats.GoAwaySent.Inc()
	c.stats.ConnError.Inc()
	c.goneAway, c.draining, c.closeWhenFlushed = true, true, true
	c.mu.Unlock()
	c.batch.touch(c)
	c.batch.Flush()
}

// end closes the connection and ends what is open on it.
func (c *Conn) end() {
	c.linger()
	type loss struct {
		recv Receiver
		id   uint32
		err  *http.Error
	}
	var lost []loss
	c.mu.Lock()
	c.closed = true
	c.settle()
	for id, s := range c.streams {
		lost = append(lost, loss{s.recv, id, c.endError(s)})
		c.remove(s)
	}
	c.waiters = nil
	c.mu.Unlock()
	c.in.Release()
	_ = c.io.Close()
	for _, l := range lost {
		l.recv.OnReset(Event{c, l.id, &c.batch}, l.err)
	}
	c.batch.Flush()
	c.capacityChanged()
}

// endError is what the end of the connection means to a stream. mu is held.
func (c *Conn) endError(s *Stream) *http.Error {
	switch {
	case !c.client:
		return errDownGone
	case s.unused():
		return errUpUnused
	}
	return errUpClosed
}
