// SPDX-License-Identifier: Apache-2.0

package origin

import "pillion/bench/frame"

// answer sends the constant response, or what the windows allow of it.
func (h *h2conn) answer(l *loop, id uint32) {
	h.sendFields(l, id, frame.EndHeaders, true, fieldDate, fieldType, fieldVersion, fieldLength)
	if s := h.streams[id]; s == nil && h.window >= BodySize && h.initial >= BodySize {
		h.window -= BodySize
		l.out = append(frame.Append(l.out, BodySize, frame.Data, frame.EndStream, id), body...)
		return
	}
	s := h.open(id)
	s.answered, s.ended = true, true
	s.pending = append(s.pending, body...)
	h.push(l, s)
}

// sendFields sends a header block: with the status 200, or trailers.
func (h *h2conn) sendFields(l *loop, id uint32, flags byte, status bool, fields ...int) {
	at := len(l.out)
	l.out = frame.Append(l.out, 0, frame.Headers, flags, id)
	if h.shrink {
		h.shrink = false
		l.out = append(l.out, 0x20) // the table's size is 0 (RFC 7541, section 6.3)
	}
	if status {
		l.out = append(l.out, 0x80|8) // ":status: 200" of the static table
	}
	for _, f := range fields {
		const first = 62 // the newest entry of the dynamic table
		switch {
		case h.literal:
			l.out = append(l.out, h.answers.plain[f]...)
		case h.entry[f] > 0:
			l.out = append(l.out, 0x80|(first+h.inserted-h.entry[f]))
		default:
			h.inserted++
			h.entry[f] = h.inserted
			l.out = append(l.out, h.answers.indexing[f]...)
		}
	}
	length := len(l.out) - at - frame.HeaderSize
	l.out[at+1], l.out[at+2] = byte(length>>8), byte(length)
}

// open makes the state of a stream.
func (h *h2conn) open(id uint32) *stream {
	var s *stream
	if n := len(h.free); n > 0 {
		s, h.free = h.free[n-1], h.free[:n-1]
	} else {
		s = &stream{}
	}
	*s = stream{id: id, window: h.initial, pending: s.pending[:0]}
	h.streams[id] = s
	return s
}

// forget drops a stream. One that waits stays in the queue until its turn.
func (h *h2conn) forget(s *stream) {
	delete(h.streams, s.id)
	s.pending, s.ended = s.pending[:0], false
	if !s.waiting {
		h.free = append(h.free, s)
	}
}

// push sends what the windows allow of a stream's response, and its end.
func (h *h2conn) push(l *loop, s *stream) {
	if !s.answered {
		s.answered = true
		h.sendFields(l, s.id, frame.EndHeaders, true, fieldGRPCType, fieldVersion)
	}
	for len(s.pending) > 0 {
		n := min(int64(len(s.pending)), h.window, s.window, frame.MaxSize)
		if n <= 0 {
			if !s.waiting {
				s.waiting = true
				h.blocked = append(h.blocked, s)
			}
			return
		}
		h.window -= n
		s.window -= n
		flags := byte(0)
		if !h.grpc && s.ended && n == int64(len(s.pending)) {
			flags = frame.EndStream
		}
		l.out = append(frame.Append(l.out, int(n), frame.Data, flags, s.id), s.pending[:n]...)
		s.pending = s.pending[:copy(s.pending, s.pending[n:])]
	}
	if !s.ended {
		return
	}
	if h.grpc {
		h.sendFields(l, s.id, frame.EndHeaders|frame.EndStream, false, fieldGRPCStatus)
	}
	h.forget(s)
}

// pushBlocked gives each stream that waits another try.
func (h *h2conn) pushBlocked(l *loop) {
	waited := h.blocked
	h.blocked = nil
	for _, s := range waited {
		s.waiting = false
		if h.streams[s.id] != s {
			h.free = append(h.free, s) // it was reset meanwhile
			continue
		}
		h.push(l, s)
	}
}
