// SPDX-License-Identifier: Apache-2.0

// Package istioca gets the workload's certificate from a CA that speaks
// Istio's protocol (istio.v1.auth.IstioCertificateService), as istiod does. It
// does in the proxy what Istio's agent does beside Envoy
// (istio.io/istio/security/pkg/nodeagent).
package istioca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pillion/proxy/tls"
	"pillion/proxy/tls/controlplane"
	"pillion/proxy/tls/renew"
)

// Name is what the source is called in metrics and /certs.
const Name = "istio-ca"

// Options say where the CA is and what is asked of it.
type Options struct {
	// Addr is the CA's HOST:PORT. Port 15010 is spoken to in the clear, as in
	// Istio; Plaintext does so with any.
	Addr      string
	Plaintext bool
	// ServerName is what the CA's certificate must be for; empty: the host of
	// Addr, or istiod's name in a cluster if that is localhost.
	ServerName string
	// RootFile holds what the CA's certificate must lead to; empty: the
	// machine's own anchors. It is read anew for each connection, and so is
	// TokenFile, the bearer token, for each request.
	RootFile, TokenFile string
	// ClusterID and Headers are metadata of each request.
	ClusterID string
	Headers   map[string]string

	ID         string // the workload's SPIFFE ID
	Key        KeyKind
	PKCS8      bool // the key's form in OutputDir
	TTL        time.Duration
	CertSigner string // a Kubernetes signer that the CA shall use; empty: its own

	// A certificate is renewed when GraceRatio of its life, give or take
	// GraceJitter, is left.
	GraceRatio, GraceJitter float64

	// OutputDir is where key.pem, cert-chain.pem and root-cert.pem are written
	// for others; empty: nowhere.
	OutputDir string

	// Certificate and Roots are the places to fill.
	Certificate, Roots *tls.Secret
	Logger             *slog.Logger
	// Dial reaches the CA; nil: a TCP connection.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// The times of Istio's agent.
const (
	defaultTTL    = 24 * time.Hour
	defaultGrace  = 0.5
	defaultJitter = 0.01
	callTimeout   = 10 * time.Second
	retries       = 5
	retryBase     = 100 * time.Millisecond
	retryMax      = 5 * time.Second
	roundBase     = 500 * time.Millisecond
	roundMax      = time.Minute
	// shortest is the least time between two renewals, however short the life
	// that the CA gives.
	shortest = 100 * time.Millisecond
)

// Source is a tls.Source.
type Source struct {
	o      Options
	server controlplane.Server
	status *renew.Status

	mu       sync.Mutex
	requests Requests // guarded by mu
}

// New checks the options.
func New(o Options) (*Source, error) {
	host, port, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("the CA's address %q is not HOST:PORT", o.Addr)
	}
	o.Plaintext = o.Plaintext || port == "15010"
	if o.ServerName == "" {
		o.ServerName = host
		if host == "localhost" {
			o.ServerName = "istiod.istio-system.svc"
		}
	}
	if _, err := tls.ParseID(o.ID); err != nil {
		return nil, fmt.Errorf("the identity to ask for: %w", err)
	}
	if o.Certificate == nil || o.Roots == nil {
		return nil, errors.New("there is no place for the certificate or for the roots")
	}
	if o.TTL <= 0 {
		o.TTL = defaultTTL
	}
	if o.GraceRatio <= 0 || o.GraceRatio >= 1 {
		o.GraceRatio = defaultGrace
	}
	if o.GraceJitter <= 0 || o.GraceJitter >= 1 {
		o.GraceJitter = defaultJitter
	}
	server := controlplane.Server{Address: o.Addr, Plaintext: o.Plaintext, ServerName: o.ServerName, RootFile: o.RootFile,
		TokenFile: o.TokenFile, ClusterID: o.ClusterID, Headers: o.Headers, Dial: o.Dial}
	if err := server.Check(); err != nil {
		return nil, fmt.Errorf("the CA: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Source{o: o, server: server, status: renew.NewStatus(Name, o.Logger)}, nil
}

// Status tells how renewals fare.
func (s *Source) Status() *renew.Status { return s.status }

// Run gets a certificate and renews it until ctx ends. One that was left in
// OutputDir serves until then.
func (s *Source) Run(ctx context.Context) error {
	s.recall()
	round := renew.Backoff{Base: roundBase, Max: roundMax}
	for ctx.Err() == nil {
		expires, err := s.renew(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.o.Certificate.Fail(Name, err)
			s.status.Failed("", err)
			renew.Wait(ctx, round.Next())
			continue
		}
		round.Reset()
		renew.WaitUntil(ctx, s.renewAt(time.Now(), expires))
	}
	return nil
}

// renewAt returns when a certificate that was got now is to be renewed.
func (s *Source) renewAt(now, expires time.Time) time.Time {
	life := expires.Sub(now)
	grace := s.o.GraceRatio + s.o.GraceJitter*(2*rand.Float64()-1)
	at := expires.Add(-time.Duration(float64(life) * min(max(grace, 0), 1)))
	if soonest := now.Add(shortest); at.Before(soonest) {
		return soonest
	}
	return at
}

// renew gets one certificate with a new key, and puts it in its place if it
// is good. It asks again at once, a few times, if that may help.
func (s *Source) renew(ctx context.Context) (expires time.Time, err error) {
	again := renew.Backoff{Base: retryBase, Max: retryMax}
	for i := 0; ; i++ {
		var got *answer
		if got, err = s.ask(ctx); err == nil {
			return s.take(got)
		}
		if i == retries || !mayHeal(err) || !renew.Wait(ctx, again.Next()) {
			return time.Time{}, err
		}
	}
}

// mayHeal reports whether the same request may succeed a moment later. One that was waited
// for in vain has had its moments: that is told at once, and tried in the next round.
func mayHeal(err error) bool {
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch s.Code() {
	case codes.Canceled, codes.ResourceExhausted, codes.Aborted, codes.Internal, codes.Unavailable:
		return true
	}
	return false
}

// take puts a checked answer in the place of the old certificate. It is written for
// others first: whoever waits for the proxy's certificate finds the files there
// (istio: SecretManagerClient.GenerateSecret).
func (s *Source) take(got *answer) (expires time.Time, err error) {
	var unwritten error
	if s.o.OutputDir != "" {
		unwritten = s.write(got)
	}
	// The roots go first: a peer's certificate of a new root may come at once.
	if err := s.o.Roots.SetAnchors(tls.Anchors{CA: got.roots}, Name); err != nil {
		return expires, renew.Because(renew.Invalid, err)
	}
	if err := s.o.Certificate.SetKeyPair(tls.KeyPair{Chain: got.chain, Key: got.key}, s.o.ID, Name); err != nil {
		return expires, err
	}
	s.status.Succeeded("")
	if unwritten != nil {
		s.status.Failed("", renew.Because(renew.Local, fmt.Errorf("writing certificates for others: %w", unwritten)))
	}
	return got.expires, nil
}
