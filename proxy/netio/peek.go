// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Peek waits until more than have bytes wait in the socket of nc, copies the
// first of them into p and leaves them all where they are. It returns how many
// it copied, and io.EOF with them when no more will come. p must be longer
// than have. nc's read deadline bounds the wait.
func Peek(nc *net.TCPConn, p []byte, have int) (n int, err error) {
	raw, err := nc.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, failed = receive(fd, p, syscall.MSG_PEEK)
		switch {
		case failed == syscall.EAGAIN:
			n, failed = 0, nil
			return false
		case failed != nil:
			return true
		case n > have:
			return true
		case n == 0 || halfClosed(fd):
			// What came between the look and the FIN is there by now.
			if n, failed = receive(fd, p, syscall.MSG_PEEK); failed == nil {
				failed = io.EOF
			}
			return true
		}
		return false
	})
	if err == nil {
		err = failed
	}
	return n, err
}

// halfClosed reports whether the peer has sent FIN, which a look at the bytes
// before it can't tell.
func halfClosed(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

// Gone reports whether the connection is closed in both directions, as it is
// when the peer has reset it. After its FIN a look by Watch doesn't find that.
// It may be called from any goroutine.
func (c *Conn) Gone() bool {
	raw := c.socket()
	if raw == nil {
		return false
	}
	gone := true
	_ = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}} // errors and hang-ups are always told
		_, err := unix.Poll(p, 0)
		gone = err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone
}
