// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// ErrStreamReset is what sending on a stream ends with that the peer reset.
var ErrStreamReset = errors.New("the peer reset the stream")

// NewH2Origin serves HTTP/2 with prior knowledge until the test ends. Each
// request is handed to handler, on a goroutine of its own, when its head is
// there.
func NewH2Origin(t testing.TB, patience time.Duration, options H2Options, handler func(c *H2, id uint32)) *Origin {
	t.Helper()
	return NewRawOrigin(t, func(conn *Conn) { ServeH2(conn, patience, options, handler) })
}

// ServeH2 serves one connection as an HTTP/2 server until it ends.
func ServeH2(conn *Conn, patience time.Duration, options H2Options, handler func(c *H2, id uint32)) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn.Reader, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	c := newH2(conn, conn.Reader, patience, options)
	if !options.NoPreface {
		if err := c.framer.WriteSettings(options.Settings...); err != nil {
			return
		}
	}
	c.read(func(id uint32) { handler(c, id) })
}
