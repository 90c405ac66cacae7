// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"io"
	"sync"
	"time"

	"pillion/proxy/buf"
	"pillion/proxy/http"
)

// inbox holds what came on a stream for a goroutine that fetches it, and what
// that goroutine waits for when it sends. The reader of the connection fills
// it, never beyond the credit of the stream.
type inbox struct {
	mu   sync.Mutex
	wake sync.Cond // of mu

	body     *[]byte // pieces not fetched yet; nil when there are none; guarded by mu, as all below
	ended    bool    // no more will come
	trailers http.Fields
	hasTrail bool
	err      *http.Error // why the stream is over
	unsent   int         // octets of ours that the stream has queued
	stopped  bool        // reading is to fail
	deadline time.Time   // of reading; zero: none
	timer    *time.Timer // wakes at deadline; nil until one is set

	// Owned by the goroutine that fetches.
	given *[]byte // the piece that was fetched last
}

// reset makes b ready for another stream.
func (b *inbox) reset() {
	b.wake.L = &b.mu
	b.body, b.given = nil, nil
	b.ended, b.hasTrail, b.err, b.unsent, b.stopped = false, false, nil, 0, false
	b.deadline = time.Time{}
	b.trailers.Reset()
}

// release gives storage back.
func (b *inbox) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	buf.PutBytes(b.body)
	buf.PutBytes(b.given)
	b.body, b.given = nil, nil
	if b.timer != nil {
		b.timer.Stop()
	}
}

func (b *inbox) put(p []byte, end bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(p) > 0 {
		if b.body == nil {
			b.body = buf.GetBytes()
		}
		*b.body = append(*b.body, p...)
	}
	b.ended = b.ended || end
	b.wake.Broadcast()
}

// putTrailers ends the body, or fails with bad if the trailers are not as they
// should be: a message that breaks off must not pass for a whole one.
func (b *inbox) putTrailers(blk *Block, bad *http.Error) Verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := blk.Trailers(&b.trailers, cloneBytes)
	if v == Good {
		b.hasTrail, b.ended = b.trailers.Len() > 0, true
	} else if b.err == nil {
		b.err = bad
	}
	b.wake.Broadcast()
	return v
}

func cloneBytes(p []byte) []byte { return append(make([]byte, 0, len(p)), p...) }

// fail ends the stream for whoever waits.
func (b *inbox) fail(err *http.Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.wake.Broadcast()
}

func (b *inbox) taken(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unsent -= n
	b.wake.Broadcast()
}

// buffered reports whether get would return without waiting.
func (b *inbox) buffered() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.body != nil || b.ended || b.err != nil || b.stopped
}

// errStopped stands for a read that was told to end.
var errStopped = &http.Error{Side: http.SideDownstream, Kind: http.KindTimeout, Detail: "read_stopped"}

// done gives up the piece that was fetched last and returns its size, which is
// to be credited before the next one is waited for: the peer may have nothing
// left to send it with.
func (b *inbox) done() (taken int) {
	if b.given == nil {
		return 0
	}
	taken = len(*b.given)
	buf.PutBytes(b.given)
	b.given = nil
	return taken
}

// get waits for a piece of the body. It returns io.EOF behind the last one.
func (b *inbox) get() (p []byte, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.body != nil:
			b.given, b.body = b.body, nil
			return *b.given, nil
		case b.ended:
			return nil, io.EOF
		case b.err != nil:
			return nil, b.err
		case b.stopped:
			return nil, errStopped
		case b.late():
			return nil, errUpLate
		}
		b.wake.Wait()
	}
}

// late reports whether the deadline has passed. mu is held.
func (b *inbox) late() bool { return !b.deadline.IsZero() && !time.Now().Before(b.deadline) }

// setDeadline bounds waits in progress and to come.
func (b *inbox) setDeadline(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deadline = t
	switch {
	case t.IsZero():
		if b.timer != nil {
			b.timer.Stop()
		}
	case b.timer == nil:
		b.timer = time.AfterFunc(time.Until(t), b.broadcast)
	default:
		b.timer.Reset(time.Until(t))
	}
	b.wake.Broadcast()
}

func (b *inbox) broadcast() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wake.Broadcast()
}

func (b *inbox) stop(yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = yes
	b.wake.Broadcast()
}

// send sends a piece and waits until little of it is queued: sending is held
// back by the peer's credit, and memory is bounded.
func (b *inbox) send(s *Stream, c *Conn, p []byte, end bool) *http.Error {
	b.mu.Lock()
	err := b.err
	b.mu.Unlock()
	if err != nil {
		return err
	}
	rest := len(p) - s.Data(p, end)
	if rest == 0 {
		return nil
	}
	c.Flush()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unsent += rest
	for b.unsent > 0 && b.err == nil && !b.interrupted() {
		b.wake.Wait()
	}
	return b.err
}

// interrupted reports whether the deadline is one that Interrupt has set. mu
// is held.
func (b *inbox) interrupted() bool { return b.late() && b.deadline.Unix() == 1 }
