// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"io"
	"net"
)

// serveGoTCP is the naive baseline for TCP: two copies for a connection, which
// the standard library makes by splice(2). It serves until ctx ends.
func serveGoTCP(ctx context.Context, ln net.Listener, to string) error {
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go relay(ctx, c.(*net.TCPConn), to)
	}
}

// relay copies both directions, each up to its end.
func relay(ctx context.Context, down *net.TCPConn, to string) {
	defer down.Close()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", to)
	if err != nil {
		return
	}
	up := c.(*net.TCPConn)
	defer up.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(up, down)
		sent <- errors.Join(err, up.CloseWrite())
	}()
	_, err = io.Copy(down, up)
	if errors.Join(err, down.CloseWrite()) != nil {
		return // what is left of the other direction ends with the connections
	}
	<-sent
}
