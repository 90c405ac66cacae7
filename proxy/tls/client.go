// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Client is the TLS of a cluster's connections
// (envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext). It is safe
// for concurrent use.
type Client struct {
	cfg   ClientConfig   // immutable
	base  *stdtls.Config // immutable; what needs no secret
	certs *certCache     // shared

	now atomic.Pointer[clientBuild]
	mu  sync.Mutex // one build at a time
}

// clientBuild is what was made of one state of the secrets.
type clientBuild struct {
	in     inputs         // immutable
	verify *verifier      // immutable
	base   *stdtls.Config // immutable

	mu      sync.Mutex
	configs map[clientKey]*stdtls.Config // guarded by mu
}

// clientKey tells apart what connections to different hosts are made with.
// Each host has a session of its own: another one couldn't read its ticket.
type clientKey struct{ sni, alpn, san, remote string }

// maxClientConfigs bounds how many of them are kept.
const maxClientConfigs = 512

// ClientOptions are what one connection wants otherwise than its context says.
type ClientOptions struct {
	ServerName string   // SNI; empty: the context's
	ALPN       []string // nil: the context's
	// VerifySAN, if not empty, is the host name or address that the server's
	// certificate has to be one for, in the place of the context's names
	// (auto_san_validation).
	VerifySAN string
}

// NewClient makes a context. Its error begins with the field that is wrong.
func NewClient(cfg ClientConfig, secrets *Secrets) (*Client, error) {
	if err := cfg.Validation.validate(); err != nil {
		return nil, fmt.Errorf("validation_context: %w", err)
	}
	base, err := cfg.base()
	if err != nil {
		return nil, fmt.Errorf("tls_params.%w", err)
	}
	// Go's own check wants a DNS name, and knows no SPIFFE. Every connection
	// goes through VerifyConnection instead.
	base.InsecureSkipVerify = true
	base.SessionTicketsDisabled = cfg.NoSessions
	if cfg.Stats == nil {
		cfg.Stats = new(Stats)
	}
	cfg.Stats.client.Store(true)
	return &Client{cfg: cfg, base: base, certs: &secrets.certs}, nil
}

// Stats returns the counters of the context.
func (c *Client) Stats() *Stats { return c.cfg.Stats }

// Secrets returns what the context waits for before it can connect.
func (c *Client) Secrets() []*Secret { return contextSecrets(c.cfg.Certificates, c.cfg.Validation) }

// ALPN returns what connections offer unless their options say otherwise.
func (c *Client) ALPN() []string { return c.cfg.ALPN }

// Handshake is Server.Handshake from the other end.
func (c *Client) Handshake(ctx context.Context, nc net.Conn, o ClientOptions) (*Conn, error) {
	b, err := c.build()
	if err != nil {
		c.cfg.Stats.failed(err)
		return nil, err
	}
	conn, key := newConn(nc), c.key(nc, &o)
	conn.std = stdtls.Client(&conn.tap, b.config(key, c.alpn(&o)))
	err = conn.handshake(ctx)
	if err == nil {
		err = conn.settle(b.verify, key.san, b.pair())
	}
	if err != nil {
		c.cfg.Stats.failed(err)
		return nil, err
	}
	c.cfg.Stats.settled(conn)
	return conn, nil
}

func (c *Client) alpn(o *ClientOptions) []string {
	if o.ALPN != nil {
		return o.ALPN
	}
	return c.cfg.ALPN
}

func (c *Client) key(nc net.Conn, o *ClientOptions) clientKey {
	k := clientKey{sni: o.ServerName, san: o.VerifySAN, alpn: strings.Join(c.alpn(o), ",")}
	if k.sni == "" {
		k.sni = c.cfg.ServerName
	}
	if k.san == "" && c.cfg.AutoSNISAN {
		k.san = k.sni
	}
	if a := nc.RemoteAddr(); a != nil {
		k.remote = a.String()
	}
	return k
}

// build returns what holds for the secrets of this moment.
func (c *Client) build() (*clientBuild, *Error) {
	var room [4]*keyPair
	in, err := load(c.cfg.Certificates, c.cfg.Validation, room[:])
	if err != nil {
		return nil, err
	}
	if b := c.now.Load(); b != nil && b.in.equal(&in) {
		return b, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.now.Load()
	if old != nil && old.in.equal(&in) {
		return old, nil
	}
	b := c.make(in, old)
	c.now.Store(b)
	return b, nil
}

// make starts with no session: one that was opened with an old certificate
// would go on showing it.
func (c *Client) make(in inputs, old *clientBuild) *clientBuild {
	b := &clientBuild{in: inputs{pairs: slices.Clone(in.pairs), anchors: in.anchors}, configs: map[clientKey]*stdtls.Config{}}
	if old != nil && old.in.anchors == in.anchors {
		b.verify = old.verify
	} else {
		b.verify = newVerifier(c.cfg.Validation, in.anchors, x509.ExtKeyUsageServerAuth, c.certs)
		b.verify.enforce = c.cfg.EnforceKeyUsage
	}
	b.base = c.base.Clone()
	if p := b.pair(); p != nil {
		// Whatever authorities the server names: as OpenSSL, it gets what we have.
		b.base.GetClientCertificate = func(*stdtls.CertificateRequestInfo) (*stdtls.Certificate, error) { return &p.cert, nil }
	}
	return b
}

// pair is what servers are shown, nil for nothing.
func (b *clientBuild) pair() *keyPair {
	if len(b.in.pairs) == 0 {
		return nil
	}
	return b.in.pairs[0]
}

// config returns the configuration for a connection, with the session of the
// last one of its kind.
func (b *clientBuild) config(k clientKey, alpn []string) *stdtls.Config {
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := b.configs[k]; got != nil {
		return got
	}
	for old := range b.configs {
		if len(b.configs) < maxClientConfigs {
			break
		}
		delete(b.configs, old)
	}
	cfg := b.base.Clone()
	cfg.ServerName, cfg.NextProtos = k.sni, alpn
	last := new(session)
	cfg.ClientSessionCache = last
	cfg.VerifyConnection = func(cs stdtls.ConnectionState) error {
		if _, err := b.verify.verify(cs.PeerCertificates, k.san, time.Now()); err != nil {
			last.Put("", nil) // a session with this server would fail again and again
			return err
		}
		return nil
	}
	b.configs[k] = cfg
	return cfg
}

// session keeps the newest session of one kind of connection
// (stdtls.ClientSessionCache; Envoy: max_session_keys is 1).
type session struct {
	last atomic.Pointer[stdtls.ClientSessionState]
}

// Get implements stdtls.ClientSessionCache.
func (s *session) Get(string) (*stdtls.ClientSessionState, bool) {
	got := s.last.Load()
	return got, got != nil
}

// Put implements stdtls.ClientSessionCache.
func (s *session) Put(_ string, cs *stdtls.ClientSessionState) { s.last.Store(cs) }
