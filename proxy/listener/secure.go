// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"pillion/proxy/http"
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
	Log     *slog.Logger
}

// Serve does the handshake and hands the connection on. info tells from then on who
// is at the other end.
func (s *Secure) Serve(nc net.Conn, info *http.ConnInfo) {
	s.Stats.PreCxActive.Inc()
	sealed, err := s.handshake(nc)
	s.Stats.PreCxActive.Dec()
	if err != nil {
		s.refused(err, info)
		_ = nc.Close()
		return
	}
	info.TLS, info.SNI = sealed.Info(), sealed.ServerName()
	if own := info.TLS.Own; own != nil && len(own.URIs) > 0 {
		info.OwnPrincipal = own.URIs[0]
	}
	if peer := info.TLS.Peer; peer != nil && info.TLS.PeerVerified && len(peer.URIs) > 0 {
		info.PeerPrincipal = peer.URIs[0]
	}
	s.Next.Serve(sealed, info)
}

func (s *Secure) handshake(nc net.Conn) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.Timeout)
	defer cancel()
	return s.TLS.Handshake(ctx, nc)
}

// refused counts and logs a handshake that failed.
func (s *Secure) refused(err error, info *http.ConnInfo) {
	var why *tls.Error
	if errors.As(err, &why) && why.Kind == tls.KindTimeout {
		s.Stats.HandshakeTimeout.Inc()
	}
	s.Log.Debug("a TLS handshake with a client failed", "client", info.Remote, "listener", info.Local, "reason", err)
}
