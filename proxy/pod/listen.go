// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	nethttp "net/http"
	"slices"
	"sync"
	"time"
)

// The limits of the status ports, which the whole network can reach.
const (
	maxWaiting     = 64  // connections without a request
	maxConns       = 256 // all connections
	maxHeaderBytes = 32 << 10
	maxBodyBytes   = 64 << 10
	headTime       = 5 * time.Second
	idleTime       = 30 * time.Second
)

// Server serves one of the status ports over HTTP/1.
type Server struct {
	http *nethttp.Server
	addr string
	done chan struct{} // closed when the serving goroutine has ended

	mu   sync.Mutex
	open []*conn // in the order in which they came into their state; guarded by mu
}

// conn is a connection, and whether a request is being read or served on it.
type conn struct {
	net.Conn
	busy bool
}

// Listen binds address and serves h in the background. There are no more than
// a few connections: where one more comes, that which has waited longest for
// its request is closed, so that nobody who holds connections open can keep the
// kubelet out.
func Listen(address string, h nethttp.Handler, log *slog.Logger) (*Server, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("the status port %s can't be opened: %w; is another sidecar in the pod?", address, err)
	}
	protocols := new(nethttp.Protocols)
	protocols.SetHTTP1(true)
	s := &Server{addr: ln.Addr().String(), done: make(chan struct{})}
	s.http = &nethttp.Server{
		Handler:           nethttp.MaxBytesHandler(h, maxBodyBytes),
		Protocols:         protocols,
		ReadHeaderTimeout: headTime,
		ReadTimeout:       2 * headTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         s.note,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(ln); !errors.Is(err, nethttp.ErrServerClosed) {
			log.Error("the status port isn't served any more", "address", s.addr, "reason", err)
		}
	}()
	return s, nil
}

// note keeps the list of connections.
func (s *Server) note(c net.Conn, state nethttp.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = slices.DeleteFunc(s.open, func(o *conn) bool { return o.Conn == c })
	if state == nethttp.StateClosed || state == nethttp.StateHijacked {
		return
	}
	s.open = append(s.open, &conn{c, state == nethttp.StateActive})
	wait := 0
	for _, o := range s.open {
		if !o.busy {
			wait++
		}
	}
	if wait > maxWaiting {
		s.closeLocked(slices.IndexFunc(s.open, func(o *conn) bool { return !o.busy }))
	}
	if len(s.open) > maxConns {
		s.closeLocked(0)
	}
}

// closeLocked closes one of the connections; mu is held.
func (s *Server) closeLocked(i int) {
	_ = s.open[i].Close() // what the client thinks of it doesn't matter
	s.open = slices.Delete(s.open, i, i+1)
}

// Addr returns the address that is bound.
func (s *Server) Addr() string { return s.addr }

// Close closes the port when the answers under way are sent, or ctx ends.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.done
	return err
}
