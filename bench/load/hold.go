// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// answerTimeout bounds one exchange on a held connection.
const answerTimeout = 5 * time.Second

// Held is a number of open keep-alive connections, each of which has served
// at least one request. Close it.
type Held struct {
	conns []heldConn
	buf   []byte
}

// heldConn is one connection with the way to have one request answered on it.
type heldConn struct {
	net.Conn
	exchange func(buf []byte) error
}

// Hold opens n connections one after the other and has each answer one
// request, so that they are in the state of a client that thinks.
func Hold(ctx context.Context, req Request, n int) (*Held, error) {
	wire, in := req.Wire(), &answer{}
	return hold(ctx, req.Addr, n, func(c net.Conn) func([]byte) error {
		return func(buf []byte) error { return exchange1(c, wire, in, buf) }
	})
}

// HoldHTTP2 does it over HTTP/2.
func HoldHTTP2(ctx context.Context, req Request, n int) (*Held, error) {
	spec := &HTTP2Spec{Request: req, Connections: n, Streams: 1}
	return hold(ctx, req.Addr, n, func(c net.Conn) func([]byte) error {
		h := &held2{Conn: c}
		h.client2 = newClient2(spec, func(_ *call2, r outcome) { h.answered, h.outcome = true, r })
		return h.exchange
	})
}

func hold(ctx context.Context, addr string, n int, exchanges func(net.Conn) func([]byte) error) (*Held, error) {
	h := &Held{buf: make([]byte, 64<<10)}
	for i := range n {
		if ctx.Err() != nil {
			h.Close()
			return nil, context.Cause(ctx)
		}
		c, err := net.DialTimeout("tcp4", addr, answerTimeout)
		if err != nil {
			h.Close()
			return nil, fmt.Errorf("connection %d of %d: %w", i+1, n, err)
		}
		h.conns = append(h.conns, heldConn{c, exchanges(c)})
		if err := h.exchange(i); err != nil {
			h.Close()
			return nil, fmt.Errorf("connection %d of %d: %w", i+1, n, err)
		}
	}
	return h, nil
}

// Check sends one more request on every connection and returns how many
// failed: those that the peer had closed take none of its memory, and a figure
// per connection that counts them would flatter.
func (h *Held) Check(ctx context.Context) (failed int, err error) {
	for i := range h.conns {
		if ctx.Err() != nil {
			return failed, context.Cause(ctx)
		}
		if h.exchange(i) != nil {
			failed++
		}
	}
	return failed, nil
}

// Len is the number of connections.
func (h *Held) Len() int { return len(h.conns) }

// Close closes all connections.
func (h *Held) Close() {
	for _, c := range h.conns {
		_ = c.Close()
	}
}

func (h *Held) exchange(i int) error {
	c := h.conns[i]
	if err := c.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	return c.exchange(h.buf)
}

// exchange1 has an HTTP/1.1 connection answer one request.
func exchange1(c net.Conn, wire []byte, in *answer, buf []byte) error {
	if _, err := c.Write(wire); err != nil {
		return err
	}
	in.reset()
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		done, err := in.feed(buf[:n])
		if err != nil {
			return err
		}
		if !done {
			continue
		}
		switch {
		case !in.ok():
			return fmt.Errorf("status %d", in.status)
		case in.close:
			return errors.New("the peer closes the connection after the answer")
		}
		return nil
	}
}

// held2 is a held connection that speaks HTTP/2.
type held2 struct {
	net.Conn
	*client2
	// answered and outcome are those of the request under way.
	answered bool
	outcome  outcome
	started  bool
}

func (h *held2) exchange(buf []byte) error {
	h.answered, h.started = false, false
	for {
		if h.greeted && !h.started {
			h.started = true
			h.start(time.Now())
		}
		if _, err := h.Write(h.out); err != nil {
			return err
		}
		h.out = h.out[:0]
		switch {
		case h.answered && h.outcome != answered:
			return errors.New("the request failed")
		case h.goingAway:
			return errors.New("the peer ends the connection after the answer")
		case h.answered:
			return nil
		}
		n, err := h.Read(buf)
		if err != nil {
			return err
		}
		if err := h.feed(buf[:n]); err != nil {
			return err
		}
	}
}
