// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	nethttp "net/http"
	"time"

	"golang.org/x/net/netutil"
)

// The limits of a Server.
const (
	maxConns        = 64
	maxHeaderBytes  = 16 << 10
	maxRequestBytes = 64 << 10
	readTime        = 10 * time.Second
	idleTime        = 2 * time.Minute // longer than anybody's scrape interval
)

// Server serves a handler of this package over HTTP/1, with limits that keep
// a client from holding more than a little of the process.
type Server struct {
	http *nethttp.Server
	addr string
	done chan struct{} // closed when the serving goroutine has ended
}

// Listen binds address, such as "127.0.0.1:15000", and serves h there in the
// background. An address that begins with / is the path of a Unix socket. A nil
// log means slog.Default.
func Listen(address string, h nethttp.Handler, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.Default()
	}
	network := "tcp"
	if address != "" && address[0] == '/' {
		network = "unix"
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("admin: can't listen on %s: %w; is another process there?", address, err)
	}
	// No HTTP/2: what is on a port of the proxy's own is kept small.
	protocols := new(nethttp.Protocols)
	protocols.SetHTTP1(true)
	s := &Server{
		addr: ln.Addr().String(),
		done: make(chan struct{}),
		http: &nethttp.Server{
			Handler:        nethttp.MaxBytesHandler(h, maxRequestBytes),
			Protocols:      protocols,
			ReadTimeout:    readTime,
			IdleTimeout:    idleTime,
			MaxHeaderBytes: maxHeaderBytes,
			ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(netutil.LimitListener(ln, maxConns)); !errors.Is(err, nethttp.ErrServerClosed) {
			log.Error("admin: serving ended", "address", s.addr, "error", err)
		}
	}()
	return s, nil
}

// Addr returns the address that is bound, with the port that was chosen when
// 0 was asked for.
func (s *Server) Addr() string { return s.addr }

// Shutdown stops accepting and waits until the answers under way are sent, or
// ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	<-s.done
	return err
}

// Close closes the address and all connections.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}
