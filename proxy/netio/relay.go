// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"io"
	"math"
	"sync/atomic"
	"syscall"

	"pillion/proxy/buf"
)

// Relay carries what comes from src to dst until src ends, and adds each piece
// to moved when dst has taken it. It returns at src's end with no error, or
// with that of the side that failed. It reads src and writes dst; two of them
// may carry both directions of a pair of connections.
//
// Small pieces go through a pooled buffer, which is owned only while it is
// full. When a piece fills the buffer more is to be expected, and the kernel
// moves the rest by itself (splice(2)). While nothing comes, nothing is held.
func Relay(dst, src *Conn, moved *atomic.Uint64) (srcErr, dstErr error) {
	r := relay{dst: dst, src: src, moved: moved, bound: unbound}
	r.bind()
	for {
		full, srcErr, dstErr := r.copyOne()
		if srcErr != nil || dstErr != nil {
			return noEOF(srcErr), dstErr
		}
		if full && r.pullFn != nil {
			if srcErr, dstErr = r.spliceAll(); srcErr != nil || dstErr != nil {
				return noEOF(srcErr), dstErr
			}
		}
	}
}

// Carry is Relay for the next n bytes, as long as many come at a time and both sides
// are sockets. It returns how many bytes dst has taken, and io.EOF as srcErr where src
// has ended. What it leaves without an error is for the caller to copy.
func Carry(dst, src *Conn, n int64) (moved int64, srcErr, dstErr error) {
	var count atomic.Uint64
	r := relay{dst: dst, src: src, moved: &count, bound: n}
	if r.bind(); r.pullFn != nil {
		srcErr, dstErr = r.spliceAll()
	}
	return int64(count.Load()), srcErr, dstErr
}

func noEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// relay is one direction. It belongs to the goroutine that runs Relay.
type relay struct {
	dst, src *Conn
	moved    *atomic.Uint64
	bound    int64 // how many bytes are still to be pulled, or unbound
	// pullFn and pushFn are pull and push, bound once; nil where one side is
	// no socket.
	pullFn, pushFn func(fd uintptr) bool

	pipe   *pipe // nil unless bytes are in it or about to be
	pulled int
	failed error // of the last pull or push
	left   int   // bytes in the pipe
}

// unbound is the bound of a relay that ends with src.
const unbound = math.MaxInt64

// bind makes splicing possible where both sides are sockets.
func (r *relay) bind() {
	if r.dst.raw != nil && r.src.raw != nil {
		r.pullFn, r.pushFn = r.pull, r.push
	}
}

// copyOne waits for bytes and carries one piece. full tells that more of them
// may wait.
func (r *relay) copyOne() (full bool, srcErr, dstErr error) {
	var in buf.Buffer
	defer in.Release()
	if err := r.src.Fill(&in); err != nil {
		return false, err, nil
	}
	full = len(in.Free()) == 0
	n, err := r.dst.Write(in.Bytes())
	r.moved.Add(uint64(n))
	return full, nil, err
}

// lean is a piece so small that copying it is cheaper than splicing, and
// leanRun after how many of them in a row copying begins again.
const (
	lean    = 4 << 10
	leanRun = 4
)

// spliceAll moves bytes through a pipe while many come at a time.
func (r *relay) spliceAll() (srcErr, dstErr error) {
	defer r.release()
	for small := 0; small < leanRun && r.bound > 0; {
		r.failed = nil
		if err := r.src.raw.Read(r.pullFn); err != nil {
			return err, nil
		}
		switch {
		case r.failed == syscall.EMFILE:
			return nil, nil // by copying, then
		case r.failed != nil:
			return r.failed, nil
		case r.pulled == 0:
			return io.EOF, nil
		case r.pulled <= lean:
			small++
		default:
			small = 0
		}
		r.left = r.pulled
		r.bound -= int64(r.pulled)
		if err := r.dst.raw.Write(r.pushFn); err != nil {
			return nil, err
		}
		if r.failed != nil {
			return nil, r.failed
		}
	}
	return nil, nil
}

// pull is called by the poller as Conn.ready is: it moves what waits in src
// into the pipe, and gives the pipe back when nothing does.
func (r *relay) pull(fd uintptr) bool {
	if r.pipe == nil {
		if r.pipe = pipes.get(); r.pipe == nil {
			r.failed = syscall.EMFILE
			return true
		}
	}
	n, err := splice(int(fd), r.pipe.w, int(min(pipeSize, r.bound)))
	if err == syscall.EAGAIN {
		pipes.put(r.pipe)
		r.pipe = nil
		return false
	}
	r.pulled, r.failed = n, err
	return true
}

// push is called by the poller to move the pipe's bytes into dst.
func (r *relay) push(fd uintptr) bool {
	for r.left > 0 {
		n, err := splice(r.pipe.r, int(fd), r.left)
		if err == syscall.EAGAIN {
			return false
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			r.failed = err
			return true
		}
		r.left -= n
		r.moved.Add(uint64(n))
	}
	return true
}

// release gives the pipe back, or closes one that still holds bytes.
func (r *relay) release() {
	switch {
	case r.pipe == nil:
	case r.left == 0:
		pipes.put(r.pipe)
	default:
		r.pipe.close()
	}
	r.pipe, r.left = nil, 0
}
