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
	req   Request
	wire  []byte
	conns []net.Conn
	buf   []byte
	in    answer
}

// Hold opens n connections one after the other and has each answer one
// request, so that they are in the state of a client that thinks.
func Hold(ctx context.Context, req Request, n int) (*Held, error) {
	h := &Held{req: req, wire: req.Wire(), buf: make([]byte, 64<<10)}
	for i := range n {
		if ctx.Err() != nil {
			h.Close()
			return nil, context.Cause(ctx)
		}
		c, err := net.DialTimeout("tcp4", req.Addr, answerTimeout)
		if err != nil {
			h.Close()
			return nil, fmt.Errorf("connection %d of %d: %w", i+1, n, err)
		}
		h.conns = append(h.conns, c)
		if err := h.exchange(c); err != nil {
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
	for _, c := range h.conns {
		if ctx.Err() != nil {
			return failed, context.Cause(ctx)
		}
		if h.exchange(c) != nil {
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

func (h *Held) exchange(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	if _, err := c.Write(h.wire); err != nil {
		return err
	}
	h.in.reset()
	for {
		n, err := c.Read(h.buf)
		if err != nil {
			return err
		}
		done, err := h.in.feed(h.buf[:n])
		if err != nil {
			return err
		}
		if !done {
			continue
		}
		switch {
		case !h.in.ok():
			return fmt.Errorf("status %d", h.in.status)
		case h.in.close:
			return errors.New("the peer closes the connection after the answer")
		}
		return nil
	}
}
