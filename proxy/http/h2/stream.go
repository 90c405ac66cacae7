// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"runtime"

	"golang.org/x/net/http2"

	"pillion/proxy/buf"
	"pillion/proxy/http"
)

// Event tells a Receiver which stream is meant. Streams are reused, so a
// receiver that shares its state between goroutines first compares Conn and
// ID with what it knows, under its own lock.
type Event struct {
	Conn  *Conn
	ID    uint32
	batch *Batch
}

// Touch has what was appended to c written soon: when the reader whose event
// this is has run dry.
func (e Event) Touch(c *Conn) { e.batch.touch(c) }

// Background returns the event of nobody's stream, for work that no connection
// brought about. b is to be flushed when it is done.
func Background(b *Batch) Event { return Event{batch: b} }

// Batch is the connections that wait to be written.
type Batch struct{ dirty []*Conn }

func (b *Batch) touch(c *Conn) {
	for _, d := range b.dirty {
		if d == c {
			return
		}
	}
	b.dirty = append(b.dirty, c)
}

// Flush writes what has gathered on the connections that were touched.
func (b *Batch) Flush() {
	// Writing may touch further ones: credit goes back where data came from.
	for i := 0; i < len(b.dirty); i++ {
		b.dirty[i].flush(b)
	}
	clear(b.dirty)
	b.dirty = b.dirty[:0]
}

// flushSoon writes to hosts what many clients' readers may have at the same
// time: one of them waits its turn and writes for all.
func (b *Batch) flushSoon() {
	mine := b.dirty[:0]
	for _, c := range b.dirty {
		if !c.client || c.promise() {
			mine = append(mine, c)
		}
	}
	yield := false
	for _, c := range mine {
		yield = yield || c.client
	}
	clear(b.dirty[len(mine):])
	b.dirty = mine
	if yield {
		runtime.Gosched()
	}
}

// Receiver gets what comes on a stream. Calls come from the goroutine that
// reads the connection, but for OnTaken and OnReset, which may come from any.
// No lock of the connection is held, and pieces and blocks are valid during
// the call only.
type Receiver interface {
	// OnHead brings the head of a request or response, interim ones included. A
	// verdict that isn't Good resets the stream without a further call.
	OnHead(e Event, b *Block, end bool) Verdict
	// OnData brings a piece of the body, maybe empty; with end it is the last.
	OnData(e Event, p []byte, end bool)
	// OnTrailers brings trailers, which end the body.
	OnTrailers(e Event, b *Block) Verdict
	// OnReset tells that the stream is over before its time.
	OnReset(e Event, err *http.Error)
	// OnTaken tells that n octets which had been queued were taken; done, that
	// nothing is left of what was to be sent.
	OnTaken(e Event, n int, done bool)
}

// Stream is the sending half of one stream, and its state. It must not be
// copied. It is used by one receiver at a time, and may be reused when it is
// Closed. All fields are guarded by the connection's mu, but for those that
// its reader owns.
type Stream struct {
	c    *Conn
	id   uint32
	recv Receiver

	open      bool // in the connection's map
	localEnd  bool // we have sent END_STREAM
	remoteEnd bool // the peer has
	waiting   bool // in the connection's list of those that wait for it
	sentHead  bool // a response's final head was sent

	// sendAdj is the send window less the peer's initial one, so that a change
	// of that costs nothing per stream; recvWin is what the peer may still
	// send, credit what it is to get back.
	sendAdj int64
	recvWin int64
	credit  uint32

	queue    *[]byte // what can't be sent yet; nil when there is none
	queued   int     // how much of queue was sent already
	queueEnd bool    // the stream ends with the queue
	trailers []http.Field
	// lastWord is a reset that follows the queue.
	lastWord    http2.ErrCode
	hasLastWord bool

	started uint32 // of Conn.reads when the stream was opened
	toHead  bool   // the request's method is HEAD: the response has no body

	// Owned by the reader.
	headDone bool
	left     int64 // of a content-length; -1 without one
	interim  int
}

// reset makes s ready for a new life. Conn.mu is held.
func (s *Stream) reset(c *Conn, id uint32, r Receiver) {
	*s = Stream{c: c, id: id, recv: r, open: true, left: -1}
	s.recvWin = int64(c.cfg.streamWindow())
}

// Head sends the head of a response; with end no body follows.
func (s *Stream) Head(h *http.ResponseHead, end bool) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.open || s.localEnd {
		return
	}
	s.sentHead = h.Status >= 200 || h.Status == 101
	from := c.beginHeaders()
	*c.out = c.enc.response(*c.out, h)
	c.endHeaders(from, s.id, end)
	if end {
		s.endLocal()
	}
}

// Data sends a piece of the body; with end it is the last one. It returns how
// much was taken at once; the rest is queued, and OnTaken will tell.
func (s *Stream) Data(p []byte, end bool) (taken int) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.open || s.localEnd || s.queueEnd {
		return len(p) // nobody will miss it
	}
	if s.queue == nil {
		taken = min(len(p), c.room(s))
		if taken > 0 || len(p) == 0 && end {
			c.appendData(s, p[:taken], end && taken == len(p))
		}
		p = p[taken:]
		if len(p) == 0 {
			return taken
		}
		s.queue = buf.GetBytes()
		c.queues++
	}
	if s.queued > len(*s.queue)/2 {
		// A queue that never runs empty must not grow with all that went through it.
		*s.queue = (*s.queue)[:copy(*s.queue, (*s.queue)[s.queued:])]
		s.queued = 0
	}
	*s.queue = append(*s.queue, p...)
	s.queueEnd = end
	c.stats.PendingSend.Add(int64(len(p)))
	c.wait(s)
	return taken
}

// Trailers ends the body with trailer fields. It reports whether they went out
// at once; otherwise they follow what is queued, and OnTaken will tell.
func (s *Stream) Trailers(f *http.Fields) (sent bool) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.open || s.localEnd || s.queueEnd {
		return true
	}
	if s.queue == nil {
		c.appendTrailers(s, f)
		return true
	}
	s.queueEnd = true
	for _, fl := range f.All() {
		fl.Name, fl.Value = bytes.Clone(fl.Name), bytes.Clone(fl.Value)
		s.trailers = append(s.trailers, fl)
	}
	return false
}

// Reset ends the stream at once. No further event comes, but for those that
// are under way. It reports whether there was something to end.
func (s *Stream) Reset(code http2.ErrCode) bool {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.open {
		return false
	}
	c.resetLocked(s, code)
	return true
}

// ResetWhenSent resets the stream once all that is queued was sent.
func (s *Stream) ResetWhenSent(code http2.ErrCode) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !s.open:
	case s.queue == nil:
		c.resetLocked(s, code)
	default:
		s.lastWord, s.hasLastWord = code, true
	}
}

// Credit lets the peer send n octets more: those that came are taken. It
// reports whether there is something to write now, as credit is gathered.
func (s *Stream) Credit(n int) bool {
	if n == 0 {
		return false
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.creditLocked(s, n)
}

// creditLocked is Stream.Credit. mu is held.
func (c *Conn) creditLocked(s *Stream, n int) bool {
	s.credit += uint32(n)
	if !s.open || s.remoteEnd || s.credit < c.cfg.streamWindow()/2 {
		return false
	}
	s.recvWin += int64(s.credit)
	c.outbox()
	*c.out = appendWindowUpdate(*c.out, s.id, s.credit)
	s.credit = 0
	return true
}

// Closed reports whether both directions are done and all was sent.
func (s *Stream) Closed() bool {
	if s.c == nil {
		return true
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return !s.open
}

// endLocal notes that END_STREAM was sent. Conn.mu is held.
func (s *Stream) endLocal() {
	s.localEnd = true
	switch {
	case s.remoteEnd:
		s.c.remove(s)
	case s.hasLastWord:
		s.c.resetLocked(s, s.lastWord)
	}
}

// drop gives up what is queued. Conn.mu is held.
func (s *Stream) drop() {
	if s.queue != nil {
		s.c.stats.PendingSend.Add(-int64(len(*s.queue) - s.queued))
		buf.PutBytes(s.queue)
		s.queue, s.queued = nil, 0
		s.c.queues--
	}
	s.trailers = nil
}

// unused reports whether no octet came on the connection since the stream was
// opened. Conn.mu is held.
func (s *Stream) unused() bool { return s.started == s.c.reads && s.c.answered }
