// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/netio"
	"pillion/proxy/tls"
)

// DefaultHandshakeTimeout bounds a TLS handshake where configuration sets no other
// bound: a client that doesn't go on with it holds memory.
const DefaultHandshakeTimeout = 15 * time.Second

// Secure makes connections TLS before their chain serves them. It is a Handler,
// immutable, and safe for concurrent use.
type Secure struct {
	TLS *tls.Server
	// Timeout bounds the handshake; it must be above 0.
	Timeout time.Duration
	Next    Handler
	Stats   *SwitchStats
	// HalfOpen bounds the handshakes of all listeners together; nil doesn't.
	HalfOpen *HalfOpen
	Log      *slog.Logger
}

// Serve does the handshake and hands the connection on. info tells from then on who
// is at the other end.
func (s *Secure) Serve(nc net.Conn, info *http.ConnInfo) http.Rest {
	s.Stats.PreCxActive.Inc()
	sealed, err := s.handshake(nc)
	s.Stats.PreCxActive.Dec()
	if err != nil {
		s.refused(err, info)
		_ = nc.Close()
		return nil
	}
	info.TLS, info.SNI = sealed.Info(), sealed.ServerName()
	info.PeerPrincipal, info.OwnPrincipal = info.TLS.Principals()
	return s.Next.Serve(sealed, info)
}

// handshake waits for the client to begin, which takes no memory, then for a
// place among those that are half open, and then does its part.
func (s *Secure) handshake(nc net.Conn) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.Timeout)
	defer cancel()
	if err := s.begun(nc); err != nil {
		return nil, err
	}
	if s.HalfOpen != nil {
		place := s.HalfOpen.enter(ctx, cancel)
		if place == nil {
			return nil, errNoPlace
		}
		defer s.HalfOpen.leave(place)
	}
	return s.apart(ctx, nc)
}

// errNoPlace is the failure of a handshake that found no place in time.
var errNoPlace = &tls.Error{Kind: tls.KindTimeout, Reason: "too many handshakes are half open"}

// begun waits for the first byte. An error other than the expiry of time is left
// to the handshake to find again.
func (s *Secure) begun(nc net.Conn) error {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	var first [1]byte
	_ = tcp.SetReadDeadline(time.Now().Add(s.Timeout))
	_, err := netio.Peek(tcp, first[:], 0)
	_ = tcp.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errSilent
	}
	return nil
}

// errSilent is the failure of a client that never began.
var errSilent = &tls.Error{Kind: tls.KindTimeout, Reason: "the client sent nothing"}

// apart does the handshake on a goroutine of its own. Verifying signatures takes
// tens of KiB of stack, which the one that serves the connection would keep
// until garbage is collected.
func (s *Secure) apart(ctx context.Context, nc net.Conn) (sealed *tls.Conn, err error) {
	var defect any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { defect = recover() }()
		sealed, err = s.TLS.Handshake(ctx, nc)
	}()
	<-done
	if defect != nil {
		panic(defect) // where the listener contains it
	}
	return sealed, err
}

// refused counts and logs a handshake that failed.
func (s *Secure) refused(err error, info *http.ConnInfo) {
	var why *tls.Error
	if errors.As(err, &why) && why.Kind == tls.KindTimeout {
		s.Stats.HandshakeTimeout.Inc()
	}
	if o := info.Outcome(); o != nil {
		o.TransportFailure = err.Error()
	}
	s.Log.Debug("a TLS handshake with a client failed", "client", info.Remote, "listener", info.Local, "reason", err)
}
