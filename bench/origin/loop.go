// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"pillion/bench/frame"
)

// conn is one connection of a client.
type conn struct {
	fd    int
	speak protocol
	// source is speak where it only sends; else nil.
	source *tcp
	// out is what a full socket buffer left unsent, in the storage kept. Nothing is read
	// meanwhile, so a client that doesn't read takes no more memory than one read's answers.
	out, kept []byte
	// closing: the connection ends once out is sent.
	closing bool
	// watched are the events that epoll looks for.
	watched uint32
}

// protocol is what a connection speaks.
type protocol interface {
	// take handles what has come, which is its own only during the call, and
	// appends what there is to answer to l.out. It reports whether the connection
	// stays after that.
	take(l *loop, b []byte) bool
}

// listener is one listening socket.
type listener struct {
	fd      int
	kind    Kind
	version int
}

// loop is the server's state; all of it belongs to the one goroutine.
type loop struct {
	ep        int
	listeners []listener
	conns     map[int]*conn
	// http1 and http2 are the answers by version.
	http1 [2]answers1
	http2 [2]answers2
	// buf is what is read into, out what the current read's answers are gathered in.
	buf, out []byte
}

// serve accepts and answers on listening sockets until ctx ends.
func serve(ctx context.Context, listeners []listener) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("origin: epoll: %w", err)
	}
	l := &loop{ep: ep, listeners: listeners, conns: map[int]*conn{}, buf: make([]byte, 256<<10)}
	defer l.close()
	for i, v := range Versions {
		l.http1[i], l.http2[i] = newAnswers1(v), newAnswers2(v)
	}
	for i, x := range listeners {
		if err := errors.Join(unix.SetNonblock(x.fd, true), l.watch(x.fd)); err != nil {
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
			if c := l.conns[fd]; c != nil {
				if !l.ready(c, e.Events) {
					l.drop(c)
				}
			} else if x := l.listenerOf(fd); x != nil {
				l.accept(x)
			}
		}
	}
	return nil
}

func (l *loop) watch(fd int) error {
	return unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// want changes the events that a connection waits for; it reports success.
func (l *loop) want(c *conn, events uint32) bool {
	if c.watched == events {
		return true
	}
	c.watched = events
	return unix.EpollCtl(l.ep, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.fd)}) == nil
}

// listenerOf returns the listener of a socket, or nil.
func (l *loop) listenerOf(fd int) *listener {
	for i := range l.listeners {
		if l.listeners[i].fd == fd {
			return &l.listeners[i]
		}
	}
	return nil
}

func (l *loop) accept(x *listener) {
	for {
		fd, _, err := unix.Accept4(x.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // EAGAIN, or a connection that is gone already
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if l.watch(fd) != nil {
			_ = unix.Close(fd)
			continue
		}
		l.conns[fd] = &conn{fd: fd, speak: l.protocolOf(x), watched: unix.EPOLLIN}
	}
}

// protocolOf returns what a new connection of a listener speaks.
func (l *loop) protocolOf(x *listener) protocol {
	switch x.kind {
	case GRPC:
		return newHTTP2(&l.http2[x.version], true)
	case TCP:
		return &tcp{}
	}
	return &sniffed{l: l, version: x.version}
}

func (l *loop) drop(c *conn) {
	delete(l.conns, c.fd)
	_ = unix.Close(c.fd)
}

func (l *loop) close() {
	for _, c := range l.conns {
		l.drop(c)
	}
	for _, x := range l.listeners {
		_ = unix.Close(x.fd)
	}
	_ = unix.Close(l.ep)
}

// ready handles a connection's events. It reports whether the connection stays.
func (l *loop) ready(c *conn, events uint32) bool {
	if c.source != nil {
		return c.source.pour(l, c.fd, events)
	}
	if len(c.out) > 0 {
		if events&unix.EPOLLOUT == 0 {
			return false // an error: nothing else was waited for
		}
		rest := l.write(c, c.out)
		if rest < 0 {
			return false
		}
		c.out = c.out[len(c.out)-rest:]
		if rest > 0 {
			return true
		}
		return !c.closing && l.want(c, unix.EPOLLIN)
	}
	n, err := unix.Read(c.fd, l.buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return true
	}
	if err != nil || n == 0 {
		return false
	}
	l.out = l.out[:0]
	stays := c.speak.take(l, l.buf[:n])
	if t, ok := c.speak.(*tcp); ok && t.mode == Source {
		c.source = t
		return l.want(c, unix.EPOLLIN|unix.EPOLLOUT)
	}
	rest := l.write(c, l.out)
	switch {
	case rest < 0:
		return false
	case rest == 0:
		return stays
	}
	c.kept = append(c.kept[:0], l.out[len(l.out)-rest:]...)
	c.out, c.closing = c.kept, !stays
	return l.want(c, unix.EPOLLOUT)
}

// write sends as much of b as the socket takes and returns how much is left,
// or -1 for a broken connection.
func (l *loop) write(c *conn, b []byte) int {
	for len(b) > 0 {
		n, err := unix.Write(c.fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return len(b)
		case err != nil:
			return -1
		default:
			b = b[n:]
		}
	}
	return 0
}

// sniffed is a connection on which nothing has come yet: HTTP/1.1 or HTTP/2 by
// prior knowledge (RFC 9113, section 3.3).
type sniffed struct {
	l       *loop
	version int
	// chosen is what it turned out to be; in what came before that was clear.
	chosen protocol
	in     []byte
}

func (s *sniffed) take(l *loop, b []byte) bool {
	if s.chosen == nil {
		s.in = append(s.in, b...)
		b = s.in
		const telling = len("PRI") // no other method begins so
		switch {
		case len(b) < telling:
			return true
		case string(b[:telling]) == frame.Preface[:telling]:
			s.chosen = newHTTP2(&l.http2[s.version], false)
		default:
			s.chosen = &h1conn{version: s.version}
		}
		s.in = nil
	}
	return s.chosen.take(l, b)
}
