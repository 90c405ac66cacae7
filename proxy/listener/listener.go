// SPDX-License-Identifier: Apache-2.0

// Package listener binds sockets and accepts connections. What becomes of a
// connection is a Handler's business: the listener hands it over exactly once.
package listener

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/stats"
	"pillion/proxy/tls"
)

// Handler serves one accepted connection until it is closed. It owns nc from
// the call on, and must close it.
type Handler interface {
	Serve(nc net.Conn, info *http.ConnInfo)
}

// acceptPause is how long accepting rests when the process has run out of
// file descriptors or memory, doubled up to the maximum while it lasts.
const (
	acceptPause    = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// Listener is one bound socket with the handler of its connections.
type Listener struct {
	name      string         // immutable
	direction http.Direction // immutable
	ln        net.Listener   // immutable
	log       *slog.Logger   // immutable

	handler atomic.Pointer[Handler]
	closed  chan struct{} // closed by Close, once
	once    sync.Once
	served  sync.WaitGroup // the accept loop

	// Stats are what a Switch counts.
	Stats SwitchStats
	// handshakes is what the TLS of the chains counts; nil without.
	handshakes atomic.Pointer[tls.Stats]

	cxTotal, cxOverflow, cxPanics stats.Counter
	cxActive                      stats.Gauge
}

// Listen binds addr ("ip:port"; port 0 takes a free one). Connections wait in
// the kernel's queue until Start.
func Listen(name, addr string, d http.Direction, log *slog.Logger) (*Listener, error) {
	// Keep-alive probes are configuration's to ask for; Go's default would
	// cost four system calls a connection.
	lc := net.ListenConfig{KeepAlive: -1}
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) && errno == syscall.EADDRINUSE {
			return nil, fmt.Errorf("listener %s: %s is in use by another program; stop it or choose another port", name, addr)
		}
		return nil, fmt.Errorf("listener %s: %w", name, err)
	}
	return &Listener{name: name, direction: d, ln: ln, log: log, closed: make(chan struct{})}, nil
}

// Name returns the name of the resource that the listener was made for.
func (l *Listener) Name() string { return l.name }

// Addr returns the address that is really bound, as text.
func (l *Listener) Addr() string { return l.ln.Addr().String() }

// SetHandler makes h serve the connections accepted from now on.
func (l *Listener) SetHandler(h Handler) { l.handler.Store(&h) }

// ReportTLS has the listener report what the TLS of its chains counts.
func (l *Listener) ReportTLS(s *tls.Stats) { l.handshakes.Store(s) }

// Start begins to accept. SetHandler must have been called.
func (l *Listener) Start() {
	l.served.Add(1)
	go l.accept()
}

func (l *Listener) accept() {
	defer l.served.Done()
	pause := time.Duration(0)
	for {
		nc, err := l.ln.Accept()
		if err == nil {
			pause = 0
			go l.serve(nc)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		l.cxOverflow.Inc()
		if pause = min(max(2*pause, acceptPause), acceptPauseMax); pause == acceptPause {
			l.log.Warn("connections can't be accepted; existing ones go on", "listener", l.name, "reason", err)
		}
		select {
		case <-time.After(pause):
		case <-l.closed:
			return
		}
	}
}

func (l *Listener) serve(nc net.Conn) {
	l.cxTotal.Inc()
	l.cxActive.Inc()
	defer l.cxActive.Dec()
	defer l.contain(nc)
	info := &http.ConnInfo{
		Local:     nc.LocalAddr().String(),
		Remote:    nc.RemoteAddr().String(),
		Direction: l.direction,
	}
	(*l.handler.Load()).Serve(nc, info)
}

// contain keeps a defect that one connection met from ending the process: the
// connection is closed, and the defect is logged and counted.
func (l *Listener) contain(nc net.Conn) {
	if r := recover(); r != nil {
		defer nc.Close()
		l.cxPanics.Inc()
		l.log.Error("a connection was closed because of a defect in the proxy; please report it",
			"listener", l.name, "panic", r, "stack", string(debug.Stack()))
	}
}

// Close stops accepting and frees the address. Connections stay open.
func (l *Listener) Close() {
	l.once.Do(func() { close(l.closed) })
	_ = l.ln.Close()
	l.served.Wait()
}

// CollectStats reports Envoy's listener.<address>.* counters.
func (l *Listener) CollectStats(e *stats.Emitter) {
	s := e.Listener(l.Addr())
	s.Counter("downstream_cx_total", l.cxTotal.Value())
	s.Gauge("downstream_cx_active", l.cxActive.Value())
	s.Counter("downstream_cx_overflow", l.cxOverflow.Value())
	s.Counter("downstream_cx_defects", l.cxPanics.Value())
	s.Counter("downstream_pre_cx_timeout", l.Stats.PreCxTimeout.Value())
	s.Counter("downstream_cx_transport_socket_connect_timeout", l.Stats.HandshakeTimeout.Value())
	s.Gauge("downstream_pre_cx_active", l.Stats.PreCxActive.Value())
	s.Counter("no_filter_chain_match", l.Stats.NoFilterChainMatch.Value())
	if h := l.handshakes.Load(); h != nil {
		h.Report(s)
	}
}
