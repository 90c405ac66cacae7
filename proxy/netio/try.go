// SPDX-License-Identifier: Apache-2.0

package netio

import "syscall"

// TryWrite writes as much of p as the socket takes without waiting; n < len(p)
// without an error says that it is full. On connections that are no sockets it
// writes nothing.
func (c *Conn) TryWrite(p []byte) (n int, err error) {
	if c.raw == nil || len(p) == 0 {
		return 0, nil
	}
	c.rest, c.writeErr = p, nil
	err = c.raw.Write(c.tryFn)
	n = len(p) - len(c.rest)
	c.rest = nil
	if err == nil {
		err = c.writeErr
	}
	return n, err
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
