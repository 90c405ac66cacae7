// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"bytes"
	"errors"

	"golang.org/x/sys/unix"
)

// What the first byte of a TCP connection asks the origin for.
const (
	// Echo has all that follows sent back.
	Echo = 'e'
	// Source has bytes sent without end.
	Source = 's'
)

// chunk is what a source sends, over and over.
var chunk = bytes.Repeat([]byte("pillion\n"), (256<<10)/8)

// tcp is a connection of bytes; mode is 0 before its first.
type tcp struct {
	mode byte
	// at is how much of the current chunk a source has sent.
	at int
}

// take echoes, or notes that a source is wanted.
func (c *tcp) take(l *loop, b []byte) bool {
	if c.mode == 0 {
		c.mode, b = b[0], b[1:]
	}
	if c.mode == Echo {
		l.out = append(l.out, b...)
	}
	return c.mode == Echo || c.mode == Source
}

// pour sends as much of the source as the socket takes at once. It reports
// whether the connection stays: until the client ends it.
func (c *tcp) pour(l *loop, fd int, events uint32) bool {
	if events&^unix.EPOLLOUT != 0 {
		n, err := unix.Read(fd, l.buf)
		if n == 0 && err == nil || err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
	n, err := unix.Write(fd, chunk[c.at:])
	if err != nil {
		return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
	}
	c.at = (c.at + n) % len(chunk)
	return true
}
