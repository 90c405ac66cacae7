// SPDX-License-Identifier: Apache-2.0

package netio

import "syscall"

// TryWrite writes as much of p as the socket takes without waiting. Unless done
// is true, or there is an error, it is full: a Write of the rest, which may be
// empty, has to follow. On connections that are neither sockets nor TLS it
// writes nothing.
func (c *Conn) TryWrite(p []byte) (n int, done bool, err error) {
	switch {
	case c.sealed != nil:
		return c.sealed.TryWrite(p)
	case c.raw == nil || len(p) == 0:
		return 0, len(p) == 0, nil
	}
	c.rest, c.writeErr = p, nil
	err = c.raw.Write(c.tryFn)
	n = len(p) - len(c.rest)
	c.rest = nil
	if err == nil {
		err = c.writeErr
	}
	return n, n == len(p), err
}

// sendOnce is writable without the wait.
func (c *Conn) sendOnce(fd uintptr) bool {
	n, err := send(fd, c.rest)
	c.rest = c.rest[n:]
	if err != syscall.EAGAIN {
		c.writeErr = err
	}
	return true
}
