// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// send starts a request on the slot that has been idle for longest, so that all
// connections have their share.
func (l *http2Loop) send(due time.Time) {
	s := l.idle[0]
	l.idle = l.idle[1:]
	c := &l.conns[s.conn]
	if s.stream != nil {
		c.again(s.stream, due)
	} else {
		c.start(due)
	}
	l.touch(s.conn)
}

// touch notes that a connection may have something to send.
func (l *http2Loop) touch(i int) {
	if c := &l.conns[i]; !c.touched {
		c.touched = true
		l.touched = append(l.touched, i)
	}
}

// flushAll sends what the touched connections have.
func (l *http2Loop) flushAll() error {
	touched := l.touched
	l.touched = l.touched[:0]
	for _, i := range touched {
		l.conns[i].touched = false
	}
	for _, i := range touched {
		if l.flush(i) != nil {
			l.result.Errors.Write += l.underWay(i)
			if err := l.renew(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush sends what a connection has and asks for writability if some is left.
func (l *http2Loop) flush(i int) error {
	c := &l.conns[i]
	if len(c.unsent) > 0 {
		return nil // its turn comes
	}
	rest, err := writeSome(c.fd, c.out)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		c.unsent = append(c.unsent, rest...)
		err = l.poll.want(i, c.fd, unix.EPOLLIN|unix.EPOLLOUT)
	}
	c.out = c.out[:0]
	return err
}

// writable sends what a full buffer had left.
func (l *http2Loop) writable(i int) error {
	c := &l.conns[i]
	rest, err := writeSome(c.fd, c.unsent)
	if err != nil {
		return err
	}
	c.unsent = c.unsent[:copy(c.unsent, rest)]
	if len(rest) > 0 {
		return nil
	}
	l.touch(i)
	return l.poll.want(i, c.fd, unix.EPOLLIN)
}

// writeSome writes as much as a socket takes and returns the rest.
func writeSome(fd int, b []byte) ([]byte, error) {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return b, nil
		case err != nil:
			return b, err
		default:
			b = b[n:]
		}
	}
	return nil, nil
}

// wait sleeps until something can be read or written, at most d, and handles it.
func (l *http2Loop) wait(d time.Duration) error {
	events, err := l.poll.wait(d)
	if err != nil {
		return fmt.Errorf("HTTP/2 load: %w", err)
	}
	l.now = time.Now()
	for _, e := range events {
		i := int(e.Fd)
		if e.Events&unix.EPOLLOUT != 0 && len(l.conns[i].unsent) > 0 {
			if l.writable(i) != nil {
				l.result.Errors.Write += l.underWay(i)
				if err := l.renew(i); err != nil {
					return err
				}
				continue
			}
		}
		if e.Events&^unix.EPOLLOUT != 0 {
			if err := l.readable(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// readable takes what has come on connection i.
func (l *http2Loop) readable(i int) error {
	c := &l.conns[i]
	n, err := unix.Read(c.fd, l.read)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil
	}
	broken := err != nil || n == 0
	if !broken {
		l.now = time.Now()
		broken = c.feed(l.read[:n]) != nil || c.goingAway
	}
	if broken {
		// A peer may close an idle connection; only requests make it an error.
		l.result.Errors.Read += l.underWay(i)
		return l.renew(i)
	}
	l.touch(i)
	return nil
}

// underWay is the number of requests that a connection owes an answer.
func (l *http2Loop) underWay(i int) int64 {
	n := int64(0)
	for _, s := range l.conns[i].calls {
		if !s.quiet {
			n++
		}
	}
	return n
}

// renew replaces a connection. A peer that accepts none any more ends the run.
func (l *http2Loop) renew(i int) error {
	l.idle = slices.DeleteFunc(l.idle, func(s slot) bool { return s.conn == i })
	if err := l.connect(i); err != nil {
		return fmt.Errorf("HTTP/2 load: the peer broke a connection and takes no new one: %w", err)
	}
	return nil
}

// done notes how a request of connection i ended, and that its slot is idle.
func (l *http2Loop) done(i int, s *call2, r outcome) {
	c := &l.conns[i]
	if s.stalled {
		l.fail(reset) // it has no reason to end
		return
	}
	free := slot{conn: i}
	if c.calls[s.id] == s {
		free.stream = s // it stays open for the next message
	} else if l.spec.Mode == Messages {
		if l.ending {
			l.fail(r)
			return
		}
		if r == answered {
			r = refused // nobody asked for the end
		}
		if s.quiet {
			l.fail(r)
			for k := range l.idle {
				if l.idle[k].stream == s {
					l.idle[k].stream = nil
				}
			}
			return
		}
	}
	l.fail(r)
	if r != reset {
		l.record(s.due, l.now)
		l.result.Requests++
	}
	l.idle = append(l.idle, free)
}

// fail counts an outcome other than an answer.
func (l *http2Loop) fail(r outcome) {
	switch r {
	case refused:
		l.result.Errors.Status++
	case reset:
		l.result.Errors.Read++
	}
}

// endStreams ends the open streams: each has to close with the status 0.
func (l *http2Loop) endStreams() error {
	l.ending = true
	open := 0
	for i := range l.conns {
		for _, s := range l.conns[i].calls {
			if s.quiet {
				l.conns[i].finish(s)
				l.touch(i)
				open++
			}
		}
	}
	deadline := l.now.Add(drainTime)
	for open > 0 && l.now.Before(deadline) {
		if err := l.flushAll(); err != nil {
			return err
		}
		if err := l.wait(time.Until(deadline)); err != nil {
			return err
		}
		open = 0
		for i := range l.conns {
			open += len(l.conns[i].calls)
		}
	}
	l.result.Errors.Timeout += int64(open)
	return nil
}
