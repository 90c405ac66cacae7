// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"sync"

	"golang.org/x/sys/unix"
)

// pipe is what splice(2) moves bytes through. It is empty whenever it is in
// the pool.
type pipe struct{ r, w int }

// pipeSize is what a pipe is asked to hold. The kernel lets a user have 64 MiB
// of pipes above the usual size (pipe(7)); one that gets less still works.
const pipeSize = 256 << 10

// maxPipes bounds the pipes that are kept for later. One is in use only while
// bytes are on their way through it.
const maxPipes = 32

var pipes pipePool

type pipePool struct {
	mu   sync.Mutex
	free []*pipe // guarded by mu
}

// get returns an empty pipe, nil if there are no more file descriptors.
func (p *pipePool) get() *pipe {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		got := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return got
	}
	p.mu.Unlock()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // 64 KiB without
	return &pipe{r: fds[0], w: fds[1]}
}

// put takes a pipe back, which must be empty.
func (p *pipePool) put(got *pipe) {
	p.mu.Lock()
	if len(p.free) < maxPipes {
		p.free = append(p.free, got)
		got = nil
	}
	p.mu.Unlock()
	if got != nil {
		got.close()
	}
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}

// splice moves up to n bytes without waiting and without copying them.
func splice(from, to, n int) (int, error) {
	for {
		moved, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		return int(moved), nil
	}
}
