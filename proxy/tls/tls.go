// SPDX-License-Identifier: Apache-2.0

// Package tls is the encryption and the identity of connections: what a
// handshake demands of the other side and shows it, and the live certificates
// that it is made with. It alone makes configurations of crypto/tls, so that
// no check of an identity can be forgotten elsewhere.
package tls

import (
	"context"
	"net"

	"pillion/proxy/http"
)

// Server is the TLS of one filter chain towards clients
// (envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext). It is safe
// for concurrent use, and its certificates are those of the time of each
// handshake.
type Server struct {
	// owned by the tls package
}

// Handshake makes nc a TLS connection. It ends with ctx. On an error nc is as
// good as lost, but not closed. The error's text is fit for %UPSTREAM_/DOWNSTREAM_TRANSPORT_FAILURE_REASON%.
func (s *Server) Handshake(ctx context.Context, nc net.Conn) (*Conn, error) { panic("to do") }

// Client is the TLS of a cluster's connections
// (envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext).
type Client struct {
}

// ClientOptions are what one connection wants otherwise than its context says.
type ClientOptions struct {
	ServerName string   // SNI; empty: the context's
	ALPN       []string // nil: the context's
}

// Handshake is Server.Handshake from the other end.
func (c *Client) Handshake(ctx context.Context, nc net.Conn, o ClientOptions) (*Conn, error) {
	panic("to do")
}

// Conn is an encrypted connection.
type Conn struct {
	net.Conn
}

// Info tells what the handshake settled.
func (c *Conn) Info() *http.TLSInfo { panic("to do") }

// NetConn returns the connection below.
func (c *Conn) NetConn() net.Conn { panic("to do") }

// Buffered reports whether decrypted bytes, or bytes to decrypt, wait in
// memory, so that a Read need not wait for the socket. Owned by the reader.
func (c *Conn) Buffered() bool { panic("to do") }

// CloseWrite sends close_notify and leaves reading open.
func (c *Conn) CloseWrite() error { panic("to do") }
