// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Server is the TLS of one filter chain towards clients
// (envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext). It is safe
// for concurrent use, and its certificates are those of the time of each
// handshake.
type Server struct {
	cfg  ServerConfig   // immutable
	base *stdtls.Config // immutable; what needs no secret

	now atomic.Pointer[serverBuild]
	mu  sync.Mutex // one build at a time
}

// serverBuild is what was made of one state of the secrets. Immutable.
type serverBuild struct {
	in       inputs
	verify   *verifier // nil if no certificate is asked for
	config   *stdtls.Config
	variants []variant // one for each certificate
	// tickets holds the keys of session tickets. They go with the anchors, so
	// that no session that was opened under old ones is resumed.
	tickets *stdtls.Config
}

// variant is a configuration for one certificate; without is the same with no
// ALPN.
type variant struct {
	pair          *keyPair
	with, without *stdtls.Config
}

// NewServer makes a context. Its error begins with the field that is wrong.
func NewServer(cfg ServerConfig) (*Server, error) {
	if len(cfg.Certificates) == 0 {
		return nil, fmt.Errorf("tls_certificates: a server needs one")
	}
	if err := cfg.Validation.validate(); err != nil {
		return nil, fmt.Errorf("validation_context: %w", err)
	}
	base, err := cfg.base()
	if err != nil {
		return nil, fmt.Errorf("tls_params.%w", err)
	}
	switch {
	case cfg.RequireClientCertificate:
		base.ClientAuth = stdtls.RequireAnyClientCert
	case cfg.Validation != nil:
		base.ClientAuth = stdtls.RequestClientCert
	}
	base.SessionTicketsDisabled = cfg.NoTickets
	if cfg.Stats == nil {
		cfg.Stats = new(Stats)
	}
	return &Server{cfg: cfg, base: base}, nil
}

// Stats returns the counters of the context.
func (s *Server) Stats() *Stats { return s.cfg.Stats }

// Secrets returns what the context waits for before it can serve.
func (s *Server) Secrets() []*Secret { return contextSecrets(s.cfg.Certificates, s.cfg.Validation) }

func contextSecrets(certs []*Secret, v *Validation) []*Secret {
	all := slices.Clone(certs)
	if v != nil && v.Anchors != nil && !slices.Contains(all, v.Anchors) {
		all = append(all, v.Anchors)
	}
	return all
}

// Handshake makes nc a TLS connection. It ends with ctx. On an error nc is as
// good as lost, but not closed. The error's text is fit for %UPSTREAM_/DOWNSTREAM_TRANSPORT_FAILURE_REASON%.
func (s *Server) Handshake(ctx context.Context, nc net.Conn) (*Conn, error) {
	b, err := s.build()
	if err != nil {
		s.cfg.Stats.failed(err)
		return nil, err
	}
	c := newConn(nc)
	c.std, c.serves = stdtls.Server(&c.tap, b.config), true
	err = c.handshake(ctx)
	if err == nil {
		err = c.settle(b.verify, "", c.tap.pair)
	}
	if err != nil {
		s.cfg.Stats.failed(err)
		return nil, err
	}
	c.tap.pair = nil
	s.cfg.Stats.settled(c)
	return c, nil
}

// build returns the configuration for the secrets of this moment, made anew
// only if one has changed.
func (s *Server) build() (*serverBuild, *Error) {
	var room [4]*keyPair
	in, err := load(s.cfg.Certificates, s.cfg.Validation, room[:])
	if err != nil {
		return nil, err
	}
	if b := s.now.Load(); b != nil && b.in.equal(&in) {
		return b, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.now.Load()
	if old != nil && old.in.equal(&in) {
		return old, nil
	}
	b := s.make(in, old)
	s.now.Store(b)
	return b, nil
}

func (s *Server) make(in inputs, old *serverBuild) *serverBuild {
	b := &serverBuild{in: inputs{pairs: slices.Clone(in.pairs), anchors: in.anchors}}
	sameAnchors := old != nil && old.in.anchors == in.anchors
	switch {
	case sameAnchors:
		b.verify, b.tickets = old.verify, old.tickets
	default:
		b.tickets = &stdtls.Config{}
		if s.base.ClientAuth != stdtls.NoClientCert {
			b.verify = newVerifier(s.cfg.Validation, in.anchors, x509.ExtKeyUsageClientAuth, s.cfg.Certificates[0].certs)
		}
	}
	for _, p := range b.in.pairs {
		with := s.base.Clone()
		with.Certificates = []stdtls.Certificate{p.cert}
		with.NextProtos = s.cfg.ALPN
		if b.verify != nil {
			with.VerifyConnection = b.verifyClient
			if in.anchors != nil && !s.cfg.Validation.NoCAList {
				with.ClientCAs = in.anchors.pool // tells clients which certificate to send
			}
		}
		with.WrapSession, with.UnwrapSession = b.wrap, b.unwrap(s.cfg.SessionTimeout)
		without := with.Clone()
		without.NextProtos = nil
		b.variants = append(b.variants, variant{pair: p, with: with, without: without})
	}
	b.config = b.variants[0].with.Clone()
	b.config.GetConfigForClient = func(h *stdtls.ClientHelloInfo) (*stdtls.Config, error) { return s.choose(b, h) }
	return b
}

// choose picks the certificate, and drops ALPN if no protocol is shared: Envoy
// then goes on without, where Go would refuse (ContextImpl::alpnSelectCallback).
func (s *Server) choose(b *serverBuild, h *stdtls.ClientHelloInfo) (*stdtls.Config, error) {
	if s.cfg.RequireSNI && h.ServerName == "" {
		return nil, &Error{Kind: KindProtocol, Reason: "SSL routines:OPENSSL_internal:MISSING_SNI: require_sni is set"}
	}
	v := &b.variants[0]
	if len(b.variants) > 1 {
		for i := range b.variants {
			if h.SupportsCertificate(&b.variants[i].pair.cert) == nil {
				v = &b.variants[i]
				break
			}
		}
	}
	if t, ok := h.Conn.(*tap); ok {
		t.pair = v.pair
	}
	for _, p := range h.SupportedProtos {
		if slices.Contains(s.cfg.ALPN, p) {
			return v.with, nil
		}
	}
	return v.without, nil
}

// verifyClient is called at the end of every handshake, resumed ones included:
// what a session remembers of a peer is checked against the anchors of today.
func (b *serverBuild) verifyClient(cs stdtls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return nil // only where none is required
	}
	if _, err := b.verify.verify(cs.PeerCertificates, "", time.Now()); err != nil {
		return err
	}
	return nil
}

// sealedTime is the length of the first of two things that we put into a session beside what crypto/tls does:
// when it was sealed, and the digest of the client's chain, if it showed one.
const sealedTime = 8

// wrap seals a ticket.
func (b *serverBuild) wrap(cs stdtls.ConnectionState, ss *stdtls.SessionState) ([]byte, error) {
	extra := binary.BigEndian.AppendUint64(nil, uint64(time.Now().Unix()))
	if len(cs.PeerCertificates) > 0 {
		d := chainDigest(cs.PeerCertificates)
		extra = append(extra, d[:]...)
	}
	ss.Extra = [][]byte{extra}
	return b.tickets.EncryptTicket(cs, ss)
}

// unwrap opens tickets. It is no error if the session can't be resumed: the
// handshake then goes on in full. That is so for a ticket of other keys, for
// one that is too old, and for one of a client whose chain would have to be
// checked again, which only a full handshake can fail without taking the
// client's session for good.
func (b *serverBuild) unwrap(timeout time.Duration) func([]byte, stdtls.ConnectionState) (*stdtls.SessionState, error) {
	return func(identity []byte, cs stdtls.ConnectionState) (*stdtls.SessionState, error) {
		ss, err := b.tickets.DecryptTicket(identity, cs)
		if err != nil || ss == nil || len(ss.Extra) != 1 || len(ss.Extra[0]) < sealedTime {
			return nil, err
		}
		now, extra := time.Now(), ss.Extra[0]
		if timeout > 0 && now.Sub(time.Unix(int64(binary.BigEndian.Uint64(extra)), 0)) > timeout {
			return nil, nil
		}
		if chain := extra[sealedTime:]; len(chain) == len(digest{}) && (b.verify == nil || !b.verify.holds(digest(chain), now)) {
			return nil, nil
		}
		return ss, nil
	}
}

func newVerifier(v *Validation, a *anchorSet, usage x509.ExtKeyUsage, certs *certCache) *verifier {
	f := &verifier{v: v, anchors: a, usage: usage, certs: certs}
	if a != nil {
		f.crls = crlsFor(v, a)
	}
	return f
}
