// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxHead bounds a request head that came in pieces.
const maxHead = 16 << 10

// refusal answers what the origin doesn't take; it shows as an error in the
// load's count.
const refusal = "HTTP/1.1 501 Not Implemented\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

// client is one connection.
type client struct {
	version int
	// head is an unfinished request head; skip is what an unfinished request
	// body lacks. Never both.
	head []byte
	skip int64
	// closing: the request whose body is being skipped is the last.
	closing bool
}

// loop is the server's state; all of it belongs to the one goroutine.
type loop struct {
	ep        int
	listeners [2]int
	clients   map[int]*client
	// answers by version: kept alive, closing.
	answers [2][2][]byte
	buf     []byte
}

// serve accepts and answers on two listening sockets until ctx ends.
func serve(ctx context.Context, listeners [2]int) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("origin: epoll: %w", err)
	}
	l := &loop{ep: ep, listeners: listeners, clients: map[int]*client{}, buf: make([]byte, 256<<10)}
	defer l.close()
	for i, fd := range listeners {
		l.answers[i] = [2][]byte{response(Versions[i], false), response(Versions[i], true)}
		if err := errors.Join(unix.SetNonblock(fd, true), l.watch(fd)); err != nil {
			return fmt.Errorf("origin: listener %d: %w", i, err)
		}
	}
	events := make([]unix.EpollEvent, 512)
	for ctx.Err() == nil {
		// The timeout is for ctx alone.
		n, err := unix.EpollWait(ep, events, 250)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("origin: epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			fd := int(e.Fd)
			if v := l.listenerOf(fd); v >= 0 {
				l.accept(fd, v)
			} else if c := l.clients[fd]; c != nil && !l.serveClient(fd, c) {
				l.drop(fd)
			}
		}
	}
	return nil
}

func (l *loop) watch(fd int) error {
	return unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// listenerOf returns the version that a listening socket serves, or -1.
func (l *loop) listenerOf(fd int) int {
	for i, x := range l.listeners {
		if x == fd {
			return i
		}
	}
	return -1
}

func (l *loop) accept(fd, version int) {
	for {
		c, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // EAGAIN, or a connection that is gone already
		}
		_ = unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if l.watch(c) != nil {
			_ = unix.Close(c)
			continue
		}
		l.clients[c] = &client{version: version}
	}
}

func (l *loop) drop(fd int) {
	delete(l.clients, fd)
	_ = unix.Close(fd)
}

func (l *loop) close() {
	for fd := range l.clients {
		l.drop(fd)
	}
	for _, fd := range l.listeners {
		_ = unix.Close(fd)
	}
	_ = unix.Close(l.ep)
}

// serveClient takes what has come and answers each request that is complete.
// It reports whether the connection stays.
func (l *loop) serveClient(fd int, c *client) bool {
	n, err := unix.Read(fd, l.buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return true
	}
	if err != nil || n == 0 {
		return false
	}
	b := l.buf[:n]
	if len(c.head) > 0 {
		b = append(c.head, b...)
		c.head = nil
	}
	for len(b) > 0 {
		if c.skip > 0 {
			k := min(c.skip, int64(len(b)))
			c.skip -= k
			b = b[k:]
		} else {
			end := bytes.Index(b, []byte("\r\n\r\n"))
			if end < 0 {
				if len(b) > maxHead {
					return false
				}
				c.head = bytes.Clone(b)
				return true
			}
			if !c.begin(b[:end]) {
				_, _ = unix.Write(fd, []byte(refusal))
				return false
			}
			b = b[end+4:]
		}
		if c.skip == 0 && !l.answer(fd, c) {
			return false
		}
	}
	return true
}

// begin reads a request head without its closing empty line. It reports
// whether the request is one that the origin takes.
func (c *client) begin(head []byte) bool {
	c.skip, c.closing = 0, false
	_, rest, _ := bytes.Cut(head, []byte("\r\n"))
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		// The lengths of the three names that matter; most fields end here.
		switch len(name) {
		case len("connection"):
			if bytes.EqualFold(name, []byte("connection")) && bytes.EqualFold(bytes.TrimSpace(value), []byte("close")) {
				c.closing = true
			}
		case len("content-length"):
			if bytes.EqualFold(name, []byte("content-length")) {
				n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
				if err != nil || n < 0 {
					return false
				}
				c.skip = n
			}
		case len("transfer-encoding"):
			if bytes.EqualFold(name, []byte("transfer-encoding")) {
				return false
			}
		}
	}
	return true
}

// answer writes the constant answer. It fits the socket's buffer many times
// over; a client that doesn't read loses the connection.
func (l *loop) answer(fd int, c *client) bool {
	closing := 0
	if c.closing {
		closing = 1
	}
	a := l.answers[c.version][closing]
	n, err := unix.Write(fd, a)
	return err == nil && n == len(a) && !c.closing
}
