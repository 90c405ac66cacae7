// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"net/netip"
	"time"

	"pillion/proxy/http/h2"
)

// NoLimit is the value of a limit that is not set.
const NoLimit = ^uint32(0)

// Settings are the limits and socket options of one cluster's connections.
// Immutable once handed over.
type Settings struct {
	// MaxConnections bounds the connections of all hosts together, idle ones
	// included.
	MaxConnections uint32
	// MaxPending bounds the requests that have a host but no connection yet,
	// those that are just connecting included.
	MaxPending uint32
	// MaxRequestsPerConnection ends a connection after that many requests; 0
	// for no bound.
	MaxRequestsPerConnection uint32
	// ConnectTimeout bounds the making of one connection, resolution of the
	// host's name included.
	ConnectTimeout time.Duration
	// IdleTimeout is how long a connection may wait for its next request; 0
	// for no bound.
	IdleTimeout time.Duration
	// MaxConnectionAge is when a connection takes no further request; 0 for
	// no bound.
	MaxConnectionAge time.Duration
	// Speaks says which pool a request goes to. HTTP/2 is spoken with prior
	// knowledge.
	Speaks Speaks
	// HTTP2 is what HTTP/2 connections are set to, and MaxStreams bounds the
	// requests on one of them at a time; 0 leaves that to the host.
	HTTP2      h2.Config
	MaxStreams uint32
	// ALPN is what connections to hosts with TLS offer instead of what the context
	// of their TLS says; nil, as a nil list, leaves it that.
	ALPN *ALPN
	// AutoSNI makes the host of each request the SNI of the connection that it goes on,
	// in the place of what the context of TLS says; AutoSAN has the host's
	// certificate be one for it. ServerName is the name where a request has none
	// that anybody but its client knows, and for streams of bytes; it may be empty.
	AutoSNI, AutoSAN bool
	ServerName       string
	// Socket options. A change of these drains the connections that have the
	// old ones.
	Socket Socket
}

// ALPN are protocol names by the version of HTTP that a connection is for.
// Immutable.
type ALPN struct{ HTTP1, HTTP2 []string }

func (a *ALPN) http1() []string {
	if a == nil {
		return nil
	}
	return a.HTTP1
}

func (a *ALPN) http2() []string {
	if a == nil {
		return nil
	}
	return a.HTTP2
}

// Socket is what is set on each new connection. It is comparable.
type Socket struct {
	// Keepalive turns TCP keep-alive probes on. Zero durations and counts
	// leave the kernel's values.
	Keepalive         bool
	KeepaliveTime     time.Duration
	KeepaliveInterval time.Duration
	KeepaliveProbes   int
	// Bind is the local address, not valid to let the kernel choose; port 0
	// for any.
	Bind netip.AddrPort
	// BindOther is that for hosts of the other family than Bind's; not valid to
	// take Bind for all.
	BindOther netip.AddrPort
}

// bind returns the local address for a connection to address.
func (s *Socket) bind(address string) netip.AddrPort {
	if s.BindOther.IsValid() {
		if to, err := netip.ParseAddrPort(address); err == nil && to.Addr().Unmap().Is4() == s.BindOther.Addr().Is4() {
			return s.BindOther
		}
	}
	return s.Bind
}

// Speaks says which version of HTTP the hosts are spoken to.
type Speaks uint8

// The versions; SpeaksClients is that of each request's client
// (HttpProtocolOptions.use_downstream_protocol_config).
const (
	SpeaksHTTP1 Speaks = iota
	SpeaksHTTP2
	SpeaksClients
)

// Defaults returns what Envoy assumes for fields that are not set
// (envoy.config.cluster.v3.CircuitBreakers, HttpProtocolOptions.idle_timeout,
// Cluster.connect_timeout).
func Defaults() Settings {
	return Settings{MaxConnections: 1024, MaxPending: 1024, ConnectTimeout: 5 * time.Second, IdleTimeout: time.Hour}
}
