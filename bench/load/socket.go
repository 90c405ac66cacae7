// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"pillion/bench/proc"
)

// SocketSpec describes a load of bytes on connections that stay open: messages
// to and fro, or one way as many bytes as will go.
type SocketSpec struct {
	Addr string `json:"addr"`
	// Hello is sent first on each connection. Upgrade: it asks for one over
	// HTTP/1.1 and has to be answered with the status 101 (RFC 9110, section 7.8).
	Hello   []byte `json:"hello,omitempty"`
	Upgrade bool   `json:"upgrade,omitempty"`
	// Message is what is sent again and again, Answer the size of what comes for
	// it. Without a message, all that comes is taken and counted.
	Message []byte `json:"message,omitempty"`
	Answer  int    `json:"answer,omitempty"`

	Connections int `json:"connections"`
	// Rate, Warmup and Duration are as in HTTP2Spec.
	Rate     float64       `json:"rate,omitempty"`
	Warmup   time.Duration `json:"warmup"`
	Duration time.Duration `json:"duration"`
}

// SocketRole is the sub-command of the benchmark's own program that runs
// ServeSocket.
const SocketRole = "role-socket-load"

// SocketChild runs a load in a process of its own, as OpenChild does.
func SocketChild(ctx context.Context, g *proc.Group, self string, cpus []int, spec SocketSpec) (Result, error) {
	return child(ctx, g, self, SocketRole, cpus, spec)
}

// ServeSocket reads a SocketSpec as JSON, runs it and writes the Result as JSON.
func ServeSocket(ctx context.Context, in io.Reader, out io.Writer) error {
	var spec SocketSpec
	if err := json.NewDecoder(in).Decode(&spec); err != nil {
		return fmt.Errorf("read the load's description: %w", err)
	}
	r, err := RunSocket(ctx, spec)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// socketLoop is the state of one load: one thread, one epoll instance.
type socketLoop struct {
	pace
	spec  SocketSpec
	poll  *poller
	conns []socketConn
	idle  []int
	read  []byte
	now   time.Time
}

// socketConn is one connection.
type socketConn struct {
	fd int
	// due is when the message under way should have been sent, got what came of
	// its answer.
	due  time.Time
	got  int
	busy bool
}

// RunSocket runs a load in the calling goroutine.
func RunSocket(ctx context.Context, spec SocketSpec) (Result, error) {
	if spec.Connections < 1 || spec.Rate < 0 || math.IsInf(spec.Rate, 0) || math.IsNaN(spec.Rate) || spec.Duration <= 0 || spec.Warmup < 0 || (spec.Answer > 0) != (len(spec.Message) > 0) {
		return Result{}, fmt.Errorf("socket load: %d connections, %v messages/s, %v, answers of %d bytes for messages of %d: makes no sense",
			spec.Connections, spec.Rate, spec.Duration, spec.Answer, len(spec.Message))
	}
	p, err := newPoller(spec.Addr)
	if err != nil {
		return Result{}, fmt.Errorf("socket load: %w", err)
	}
	l := &socketLoop{spec: spec, poll: p, conns: make([]socketConn, spec.Connections), read: make([]byte, 1<<20)}
	defer l.close()
	for i := range l.conns {
		l.conns[i].fd = -1
	}
	for i := range l.conns {
		if err := l.connect(i); err != nil {
			return Result{}, fmt.Errorf("socket load: %w", err)
		}
	}
	if len(spec.Message) > 0 {
		err = l.exchange(ctx)
	} else {
		err = l.drain(ctx)
	}
	return l.result, err
}

// connect opens connection i anew and says hello.
func (l *socketLoop) connect(i int) error {
	c := &l.conns[i]
	if c.fd >= 0 {
		_ = unix.Close(c.fd) // also leaves the epoll set
	}
	fd, err := l.poll.dial(i)
	*c = socketConn{fd: fd}
	if err != nil {
		return fmt.Errorf("connect to %s: %w", l.spec.Addr, err)
	}
	if rest, err := writeSome(fd, l.spec.Hello); err != nil || len(rest) > 0 {
		return fmt.Errorf("%s takes no hello: %w", l.spec.Addr, errors.Join(err, io.ErrShortWrite))
	}
	if l.spec.Upgrade {
		if err := l.upgraded(fd); err != nil {
			return fmt.Errorf("%s upgrades no connection: %w", l.spec.Addr, err)
		}
	}
	if len(l.spec.Message) > 0 {
		l.idle = append(l.idle, i)
	}
	return nil
}

// upgraded waits for the answer to a request for an upgrade.
func (l *socketLoop) upgraded(fd int) error {
	var head []byte
	for deadline := time.Now().Add(answerTimeout); ; {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		ts := unix.NsecToTimespec(int64(max(time.Until(deadline), 0)))
		if n, err := unix.Ppoll(fds[:], &ts, nil); n == 0 && err == nil {
			return fmt.Errorf("no answer within %v", answerTimeout)
		}
		n, err := unix.Read(fd, l.read)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil || n == 0:
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
		head = append(head, l.read[:n]...)
		end := bytes.Index(head, []byte("\r\n\r\n"))
		switch {
		case end < 0 && len(head) < maxAnswerHead:
		case !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")):
			return fmt.Errorf("it answered %.40q", head)
		case end+4 != len(head):
			return errors.New("it speaks before it was spoken to")
		default:
			return nil
		}
	}
}

func (l *socketLoop) close() {
	for i := range l.conns {
		if fd := l.conns[i].fd; fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	l.poll.close()
}

// exchange sends messages and awaits their answers.
func (l *socketLoop) exchange(ctx context.Context) error {
	l.begin(l.spec.Rate, l.spec.Warmup, l.spec.Duration)
	l.now = l.start
	for !l.over(l.now) || len(l.idle) < len(l.conns) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if l.expired(l.now) {
			break
		}
		for len(l.idle) > 0 {
			due, ok := l.next(l.now)
			if !ok {
				break
			}
			if err := l.send(due); err != nil {
				return err
			}
		}
		events, err := l.poll.wait(l.pace.wait(l.now, len(l.idle) > 0))
		if err != nil {
			return fmt.Errorf("socket load: %w", err)
		}
		l.now = time.Now()
		for _, e := range events {
			if err := l.readable(int(e.Fd)); err != nil {
				return err
			}
		}
	}
	for i := range l.conns {
		if c := &l.conns[i]; c.busy {
			l.unanswered(c.due, l.now)
		}
	}
	l.finish(l.now)
	return nil
}

// send sends a message on the connection that has been idle for longest.
func (l *socketLoop) send(due time.Time) error {
	i := l.idle[0]
	l.idle = l.idle[1:]
	c := &l.conns[i]
	c.due, c.busy, c.got = due, true, 0
	// One message fits an empty socket's buffer.
	if rest, err := writeSome(c.fd, l.spec.Message); err != nil || len(rest) > 0 {
		l.result.Errors.Write++
		return l.renew(i)
	}
	return nil
}

// readable takes what has come of an answer.
func (l *socketLoop) readable(i int) error {
	c := &l.conns[i]
	n, err := unix.Read(c.fd, l.read)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil
	}
	c.got += max(n, 0)
	if err != nil || n == 0 || !c.busy || c.got > l.spec.Answer {
		l.result.Errors.Read++
		return l.renew(i)
	}
	if c.got == l.spec.Answer {
		l.now = time.Now()
		l.record(c.due, l.now)
		l.result.Requests++
		c.busy = false
		l.idle = append(l.idle, i)
	}
	return nil
}

// renew replaces a connection. A peer that accepts none any more ends the run.
func (l *socketLoop) renew(i int) error {
	for k, other := range l.idle {
		if other == i {
			l.idle = append(l.idle[:k], l.idle[k+1:]...)
			break
		}
	}
	if err := l.connect(i); err != nil {
		return fmt.Errorf("socket load: the peer broke a connection and takes no new one: %w", err)
	}
	return nil
}

// drain takes all that comes, and leaves it to the kernel to throw it away:
// MSG_TRUNC discards without a copy (tcp(7)).
func (l *socketLoop) drain(ctx context.Context) error {
	l.begin(0, l.spec.Warmup, l.spec.Duration)
	for now := l.start; !l.over(now); now = time.Now() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		events, err := l.poll.wait(l.pace.wait(now, false))
		if err != nil {
			return fmt.Errorf("socket load: %w", err)
		}
		for _, e := range events {
			c := &l.conns[e.Fd]
			n, _, err := unix.Recvfrom(c.fd, l.read, unix.MSG_TRUNC)
			switch {
			case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			case err != nil || n == 0:
				l.result.Errors.Read++
				if err := l.renew(int(e.Fd)); err != nil {
					return err
				}
			default:
				l.result.Bytes += int64(n)
			}
		}
	}
	l.finish(time.Now())
	return nil
}
