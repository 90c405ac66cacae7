// SPDX-License-Identifier: Apache-2.0

// Package buf holds the read and write buffers of connections. They are
// pooled by size class, bounded, and given back whenever they are empty, so
// that an idle connection owns none.
package buf

import "sync"

// Sizes of the classes, in bytes. Small fits most messages; Large bounds a
// message head and is the unit of body transfer.
const (
	Small = 8 << 10
	Large = 64 << 10
)

var (
	smallPool = sync.Pool{New: func() any { return new([Small]byte) }}
	largePool = sync.Pool{New: func() any { return new([Large]byte) }}
)

// get returns storage of one of the two classes.
func get(size int) []byte {
	if size <= Small {
		return smallPool.Get().(*[Small]byte)[:]
	}
	return largePool.Get().(*[Large]byte)[:]
}

func put(b []byte) {
	switch cap(b) {
	case Small:
		smallPool.Put((*[Small]byte)(b[:Small]))
	case Large:
		largePool.Put((*[Large]byte)(b[:Large]))
	}
}

// Buffer is a window of unread bytes over pooled storage. The zero value
// owns no storage. It is not safe for concurrent use.
type Buffer struct {
	store []byte
	r, w  int
}

// Bytes returns the unread bytes, valid until the next call that changes b.
func (b *Buffer) Bytes() []byte { return b.store[b.r:b.w] }

// Len returns the number of unread bytes.
func (b *Buffer) Len() int { return b.w - b.r }

// Advance drops the first n unread bytes.
func (b *Buffer) Advance(n int) {
	b.r += n
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
}

// Free returns writable space behind the unread bytes, taking storage if b
// has none. It is empty when the storage is full; see Grow.
func (b *Buffer) Free() []byte {
	if b.store == nil {
		b.store = get(Small)
	}
	return b.store[b.w:]
}

// Commit says that n bytes were written to the slice from Free.
func (b *Buffer) Commit(n int) { b.w += n }

// Grow makes room behind the unread bytes: it moves them to the front, or
// into storage of the larger class. It reports false when neither helps.
// Slices from Bytes become invalid.
func (b *Buffer) Grow() bool {
	if b.r > 0 {
		copy(b.store, b.store[b.r:b.w])
		b.w -= b.r
		b.r = 0
		return true
	}
	if len(b.store) >= Large {
		return false
	}
	s := get(Large)
	copy(s, b.store[:b.w])
	put(b.store)
	b.store = s
	return true
}

// UseLarge makes an empty buffer read in units of Large from now on.
func (b *Buffer) UseLarge() {
	if b.r == b.w && len(b.store) < Large {
		b.Release()
		b.store = get(Large)
	}
}

// Detach gives the storage with its unread bytes to a new Buffer and leaves
// b empty: what was parsed from it stays valid while b reads on.
func (b *Buffer) Detach() Buffer {
	d := *b
	*b = Buffer{}
	return d
}

// Write appends p, growing to Large at most; it returns how many bytes fit.
func (b *Buffer) Write(p []byte) int {
	n := copy(b.Free(), p)
	b.w += n
	for n < len(p) && b.Grow() {
		m := copy(b.store[b.w:], p[n:])
		b.w += m
		n += m
	}
	return n
}

// ReleaseIfEmpty gives the storage back to the pool when nothing is unread.
func (b *Buffer) ReleaseIfEmpty() {
	if b.r == b.w {
		b.Release()
	}
}

// Release gives the storage back, with what is unread.
func (b *Buffer) Release() {
	if b.store != nil {
		put(b.store)
	}
	*b = Buffer{}
}
