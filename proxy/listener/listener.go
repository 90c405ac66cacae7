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
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/stats"
	"pillion/proxy/tls"
)

// Handler serves one accepted connection until it is closed, or until it returns what
// is to go on with it. It owns nc from the call on, and must close it.
type Handler interface {
	Serve(nc net.Conn, info *http.ConnInfo) http.Rest
}

// acceptPause is how long accepting rests when the process has run out of
// file descriptors or memory, doubled up to the maximum while it lasts.
const (
	acceptPause    = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// Listener is what a listener resource is served by: bound sockets, or an address
// by which connections are handed to it, and the handler of its connections.
type Listener struct {
	name      string           // immutable
	direction http.Direction   // immutable
	addrs     []string         // that are bound, or by which it is found; never empty; immutable
	keys      []netip.AddrPort // addrs, as a Table has them; immutable
	asked     []string         // the configured form of addrs, if they are bound; immutable
	lns       []net.Listener   // none if nothing is bound; immutable
	log       *slog.Logger     // immutable

	handler  atomic.Pointer[Handler]
	original atomic.Pointer[Original]
	closed   chan struct{} // closed by Close, once
	once     sync.Once
	served   sync.WaitGroup // the accept loops

	// Stats are what a Switch counts.
	Stats SwitchStats
	// handshakes is what the TLS of the chains counts; nil without.
	handshakes atomic.Pointer[tls.Stats]

	cxTotal, cxOverflow, cxPanics stats.Counter
	cxActive                      stats.Gauge
}

// Listen binds addr ("ip:port"; port 0 takes a free one; no ip is every address of
// both families) and more, which are of the same form. Connections wait in the
// kernel's queue until Start.
func Listen(name, addr string, d http.Direction, log *slog.Logger, more ...string) (*Listener, error) {
	return ListenAfter(nil, name, addr, d, log, more...)
}

// ListenAfter is Listen for what takes the place of other listeners: it shares their
// sockets of the same addresses, which can't be bound twice. What waits in a socket's
// queue goes to whichever accepts, so that nothing is lost when old ones are closed.
func ListenAfter(old []*Listener, name, addr string, d http.Direction, log *slog.Logger, more ...string) (*Listener, error) {
	l := NewUnbound(name, addr, d, log, more...)
	l.asked, l.keys = slices.Clone(l.addrs), nil
	for i, a := range l.addrs {
		ln, err := share(old, a)
		if ln == nil && err == nil {
			ln, err = bind(a)
		}
		if err != nil {
			l.Close()
			var errno syscall.Errno
			if errors.As(err, &errno) && errno == syscall.EADDRINUSE {
				return nil, fmt.Errorf("listener %s: %s is in use by another program; stop it or choose another port", name, a)
			}
			return nil, fmt.Errorf("listener %s: %w", name, err)
		}
		l.lns, l.addrs[i] = append(l.lns, ln), ln.Addr().String()
		if strings.HasPrefix(a, ":") {
			_, port, _ := net.SplitHostPort(l.addrs[i])
			a = ":" + port
		} else {
			a = l.addrs[i]
		}
		l.keys = append(l.keys, keysOf(a)...)
	}
	return l, nil
}

// NewUnbound returns a listener without a socket: connections come to it from
// another one, through a Table (xDS: bind_to_port false).
func NewUnbound(name, addr string, d http.Direction, log *slog.Logger, more ...string) *Listener {
	l := &Listener{name: name, direction: d, addrs: append([]string{addr}, more...), log: log, closed: make(chan struct{})}
	for _, a := range l.addrs {
		l.keys = append(l.keys, keysOf(a)...)
	}
	return l
}

// share returns another handle of the socket that one of the listeners has for an
// address; nil if none has.
func share(old []*Listener, addr string) (net.Listener, error) {
	if strings.HasSuffix(addr, ":0") {
		return nil, nil // a free port is another one each time
	}
	for _, o := range old {
		i := slices.Index(o.asked, addr)
		if i < 0 || i >= len(o.lns) {
			continue
		}
		socket, ok := o.lns[i].(*net.TCPListener)
		if !ok {
			continue
		}
		f, err := socket.File()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return net.FileListener(f)
	}
	return nil, nil
}

func bind(addr string) (net.Listener, error) {
	// Keep-alive probes are configuration's to ask for; Go's default would
	// cost four system calls a connection.
	lc := net.ListenConfig{KeepAlive: -1}
	return lc.Listen(context.Background(), network(addr), addr)
}

// network is the family of an address. Left to itself Go would bind [::] for
// 0.0.0.0, which then isn't free for a listener of IPv6.
func network(addr string) string {
	a, err := netip.ParseAddrPort(addr)
	switch {
	case err != nil:
		return "tcp"
	case a.Addr().Is4():
		return "tcp4"
	}
	return "tcp6"
}

// Name returns the name of the resource that the listener was made for.
func (l *Listener) Name() string { return l.name }

// Bound reports whether the listener has sockets of its own.
func (l *Listener) Bound() bool { return len(l.lns) > 0 }

// Addr returns the address that is really bound, as text; of several the first
// one. That of a listener without a socket is the one by which it is found.
func (l *Listener) Addr() string { return l.addrs[0] }

// Addrs returns all addresses, in the form of Addr. They must not be changed.
func (l *Listener) Addrs() []string { return l.addrs }

// Open returns the number of its open connections.
func (l *Listener) Open() int64 { return l.cxActive.Value() }

// SetHandler makes h serve the connections that come from now on.
func (l *Listener) SetHandler(h Handler) { l.handler.Store(&h) }

// SetOriginal says how connections that come from now on are found to be
// redirected; nil doesn't ask.
func (l *Listener) SetOriginal(o *Original) { l.original.Store(o) }

// ReportTLS has the listener report what the TLS of its chains counts.
func (l *Listener) ReportTLS(s *tls.Stats) { l.handshakes.Store(s) }

// Start begins to accept. SetHandler must have been called.
func (l *Listener) Start() {
	for _, ln := range l.lns {
		l.served.Add(1)
		go l.accept(ln)
	}
}

func (l *Listener) accept(ln net.Listener) {
	defer l.served.Done()
	pause := time.Duration(0)
	for {
		nc, err := ln.Accept()
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

// serve gives an accepted connection to the listener that is to serve it.
func (l *Listener) serve(nc net.Conn) {
	to, info := l.find(nc)
	to.take(nc, info)
}

// find returns that listener.
func (l *Listener) find(nc net.Conn) (*Listener, *http.ConnInfo) {
	info := &http.ConnInfo{Local: nc.LocalAddr().String(), Remote: nc.RemoteAddr().String()}
	if o := l.original.Load(); o != nil {
		return o.find(nc, info, l), info
	}
	return l, info
}

// take serves a connection.
func (l *Listener) take(nc net.Conn, info *http.ConnInfo) {
	l.cxTotal.Inc()
	l.cxActive.Inc()
	info.Direction = l.direction
	var rest http.Rest
	defer l.leave(nc, &rest)
	if rest = (*l.handler.Load()).Serve(nc, info); rest != nil {
		rest = rest()
	}
}

// goOn goes on with serving a connection on another goroutine.
func (l *Listener) goOn(nc net.Conn, serve http.Rest) {
	var rest http.Rest
	defer l.leave(nc, &rest)
	rest = serve()
}

// leave ends a connection, or has another goroutine go on with it. It keeps a defect
// that the connection met from ending the process: the connection is closed, and the
// defect is logged and counted.
func (l *Listener) leave(nc net.Conn, rest *http.Rest) {
	if r := recover(); r != nil {
		defer nc.Close()
		l.cxPanics.Inc()
		l.log.Error("a connection was closed because of a defect in the proxy; please report it",
			"listener", l.name, "panic", r, "stack", string(debug.Stack()))
		*rest = nil
	}
	if *rest != nil {
		go l.goOn(nc, *rest)
		return
	}
	l.cxActive.Dec()
}

// Close stops accepting and frees the address. Connections stay open.
func (l *Listener) Close() {
	l.once.Do(func() { close(l.closed) })
	for _, ln := range l.lns {
		_ = ln.Close()
	}
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
