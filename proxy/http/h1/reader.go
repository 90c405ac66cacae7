// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"io"

	"pillion/proxy/buf"
	"pillion/proxy/http"
	"pillion/proxy/netio"
)

// reader is the receiving half of a connection: it frames one message after
// the other out of the byte stream. It is owned by one goroutine at a time.
type reader struct {
	io *netio.Conn
	in buf.Buffer
	// pinned is the storage that the current head's fields point into, once
	// reading has moved on to other storage; pin says that they still point
	// into in.
	pinned buf.Buffer
	pin    bool
	parser Parser

	kind    http.BodyKind
	left    int64 // octets of a BodyLength body not yet returned
	chunk   ChunkDecoder
	adv     int  // bytes of in that the last piece of the body covers
	ended   bool // the message is completely read
	eofSeen bool // the stream has ended
	foreign bool // the body is another protocol's stream
	carried bool // the kernel has moved, or tried to move, some of the body
}

// more waits for bytes behind those unread. It keeps what the head's fields
// point to, and returns io.ErrShortBuffer when the buffer may grow no more.
func (r *reader) more() error {
	if r.eofSeen {
		return io.EOF
	}
	if err := r.room(); err != nil {
		return err
	}
	return r.noteEOF(r.io.Fill(&r.in))
}

// moreAfter writes out and then does as more. out is given back, see
// netio.Conn.WriteFill.
func (r *reader) moreAfter(out *[]byte) (wrote int, err error) {
	if r.eofSeen {
		err = io.EOF
	} else {
		err = r.room()
	}
	if err != nil {
		buf.PutBytes(out)
		return 0, err
	}
	wrote, err = r.io.WriteFill(out, &r.in)
	return wrote, r.noteEOF(err)
}

// each has t take what is there and what comes, without a read that finds
// nothing; see netio.Conn.Each. It is for the time between messages.
func (r *reader) each(t netio.Taker) error {
	if r.in.Len() > 0 && !t.Take() {
		return nil
	}
	if r.eofSeen {
		return io.EOF
	}
	if err := r.room(); err != nil {
		return err
	}
	return r.noteEOF(r.io.Each(&r.in, t))
}

func (r *reader) noteEOF(err error) error {
	if err == io.EOF {
		r.eofSeen = true
	}
	return err
}

func (r *reader) room() error {
	if r.pin {
		r.unpin()
	}
	if len(r.in.Free()) == 0 && !r.in.Grow() {
		return io.ErrShortBuffer
	}
	return nil
}

// unpin moves the head's storage aside and the unread bytes to new storage.
func (r *reader) unpin() {
	r.pin = false
	r.pinned = r.in.Detach()
	if rest := r.pinned.Bytes(); len(rest) > 0 {
		r.in.Write(rest)
	}
}

// begin starts on a message whose head took n bytes.
func (r *reader) begin(n int, f http.Framing, from http.Side, lim *Limits) {
	r.in.Advance(n)
	r.pin = true
	r.kind, r.left = f.Kind, f.Length
	r.adv, r.carried = 0, false
	r.ended = f.Kind == http.BodyNone || f.Kind == http.BodyLength && f.Length == 0
	if f.Kind == http.BodyChunked {
		r.chunk.Reset(from, lim)
	}
}

// drop gives up the last piece of the body.
func (r *reader) drop() {
	if r.adv > 0 {
		r.in.Advance(r.adv)
		r.adv = 0
	}
}

// finish ends the message: what its head and body pointed to is given up.
func (r *reader) finish() {
	r.drop()
	r.pin = false
	r.pinned.Release()
	r.in.ReleaseIfEmpty()
	r.parser = Parser{}
}

// takeHead ends the message as finish does, but hands over the storage of
// the head.
func (r *reader) takeHead() buf.Buffer {
	r.drop()
	if r.pin {
		r.unpin()
	}
	head := r.pinned
	r.pinned = buf.Buffer{}
	r.finish()
	return head
}

// release gives all storage back; the connection is over.
func (r *reader) release() {
	r.in.Release()
	r.pinned.Release()
	r.pin = false
}

// buffered reports whether a piece of the body can be had without waiting.
func (r *reader) buffered() bool { return r.ended || r.in.Len() > r.adv }

// next returns the next piece of the body, which may be empty, valid until the
// following call, and io.EOF after the last. Errors are *http.Error for broken framing
// and those of the connection otherwise; io.ErrUnexpectedEOF for a body that
// the end of the stream cut off.
func (r *reader) next() ([]byte, error) {
	r.drop()
	if r.ended {
		return nil, io.EOF
	}
	switch r.kind {
	case http.BodyLength:
		return r.nextLength()
	case http.BodyChunked:
		return r.nextChunk()
	}
	return r.nextUntilClose()
}

// bodyRoom makes room for more of a body, in large units when much is to come.
func (r *reader) bodyRoom() {
	if r.pin {
		r.unpin()
	}
	if r.in.Len() == 0 && (r.kind != http.BodyLength || r.left > buf.Small) {
		r.in.UseLarge()
	}
}

func (r *reader) fillBody() error {
	r.bodyRoom()
	return cut(r.more())
}

// cut is the error of a read in the middle of a body.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// poll takes what has arrived of the body and reports whether next has
// anything to do without waiting. An error shows when next is called.
func (r *reader) poll() bool {
	if r.buffered() {
		return true
	}
	r.drop()
	r.bodyRoom()
	if len(r.in.Free()) == 0 {
		return true
	}
	ok, err := r.io.TryFill(&r.in)
	return ok || err != nil
}

func (r *reader) nextLength() ([]byte, error) {
	if r.in.Len() == 0 {
		if err := r.fillBody(); err != nil {
			return nil, err
		}
	}
	p := r.in.Bytes()
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	r.left -= int64(len(p))
	r.adv = len(p)
	r.ended = r.left == 0
	return p, nil
}

// nextChunk returns an empty piece after bytes that were only framing, so that
// the caller looks whether more are there, and sends what it has gathered,
// before it waits.
func (r *reader) nextChunk() ([]byte, error) {
	if r.in.Len() == 0 {
		if err := r.fillBody(); err != nil {
			return nil, err
		}
	}
	data, n, done, err := r.chunk.Next(r.in.Bytes())
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		r.adv = n
		return data, nil
	}
	r.in.Advance(n)
	if done {
		r.ended = true
		return nil, io.EOF
	}
	return nil, nil
}

func (r *reader) nextUntilClose() ([]byte, error) {
	if r.in.Len() == 0 {
		r.bodyRoom()
		if err := r.more(); err == io.EOF && !r.foreign && r.io.Truncated() {
			// Anybody on the way can end a connection. RFC 9112 section 9.8: only
			// what TLS itself has ended is complete.
			return nil, io.ErrUnexpectedEOF
		} else if err == io.EOF {
			r.ended = true
			return nil, io.EOF
		} else if err != nil {
			return nil, err
		}
	}
	p := r.in.Bytes()
	r.adv = len(p)
	return p, nil
}

// trailers returns the trailer fields of a chunked body that has ended.
func (r *reader) trailers() *http.Fields {
	if r.kind != http.BodyChunked || !r.ended {
		return nil
	}
	return r.chunk.Trailers()
}
