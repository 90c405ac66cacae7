// SPDX-License-Identifier: Apache-2.0

// Package renewtest is what the tests of the sources of certificates share:
// a log that counts lines, and handshakes with a peer while certificates
// rotate. Only tests import it.
package renewtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"pillion/proxy/match"
	"pillion/proxy/tls"
	"pillion/proxy/tls/localca"
)

// TrustDomain, and the identities of the tests: Own is the one that sources
// ask for, Peer is on the other end of handshakes.
const (
	TrustDomain = "cluster.local"
	Own         = "spiffe://cluster.local/ns/shop/sa/web"
	Peer        = "spiffe://cluster.local/ns/shop/sa/db"
)

// Log keeps the lines that are logged.
type Log struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

// Write takes one line.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

// Logger returns a logger that writes here.
func (l *Log) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Count returns how many lines hold all the texts.
func (l *Log) Count(texts ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		all := true
		for _, t := range texts {
			all = all && strings.Contains(line, t)
		}
		if all {
			n++
		}
	}
	return n
}

// String returns all lines.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "")
}

// NewCA makes a CA of TrustDomain.
func NewCA(t testing.TB) *localca.CA {
	t.Helper()
	ca, err := localca.New(TrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// Issue makes a certificate for a workload of the namespace shop.
func Issue(t testing.TB, ca *localca.CA, account string) localca.Leaf {
	t.Helper()
	l, err := ca.Issue("shop", account)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Pair is two ends of a mesh: one with the secrets of a source, one with a
// certificate of Peer. Each can be client and server.
type Pair struct{ own, peer end }

type end struct {
	client *tls.Client
	server *tls.Server
}

// NewPair makes both ends. own are the secrets default and ROOTCA of a source.
func NewPair(t testing.TB, own *tls.Secrets, ca *localca.CA) *Pair {
	t.Helper()
	leaf := Issue(t, ca, "db")
	peer := tls.NewSecrets()
	if err := errors.Join(peer.Secret("default").SetKeyPair(tls.KeyPair{Chain: leaf.Chain, Key: leaf.Key}, Peer, "test"),
		peer.Secret("ROOTCA").SetAnchors(tls.Anchors{CA: ca.Root()}, "test")); err != nil {
		t.Fatal(err)
	}
	return &Pair{own: newEnd(t, own, Peer), peer: newEnd(t, peer, Own)}
}

func newEnd(t testing.TB, s *tls.Secrets, other string) end {
	t.Helper()
	v := &tls.Validation{Anchors: s.Secret("ROOTCA"), SANs: []tls.SANMatcher{{Type: tls.SANURI, Match: match.NewString(match.Exact, other, false), Exact: other}}}
	certs := []*tls.Secret{s.Secret("default")}
	client, cerr := tls.NewClient(tls.ClientConfig{Certificates: certs, Validation: v, ServerName: "shop"}, s)
	server, serr := tls.NewServer(tls.ServerConfig{Certificates: certs, Validation: v, RequireClientCertificate: true})
	if err := errors.Join(cerr, serr); err != nil {
		t.Fatal(err)
	}
	return end{client, server}
}

// Shake makes a connection in each direction; each end has to prove itself to
// the other.
func (p *Pair) Shake(ctx context.Context) error {
	if err := meet(ctx, p.own.client, p.peer.server); err != nil {
		return fmt.Errorf("outbound: %w", err)
	}
	if err := meet(ctx, p.peer.client, p.own.server); err != nil {
		return fmt.Errorf("inbound: %w", err)
	}
	return nil
}

// Load makes connections in both directions beside what a test does.
type Load struct {
	next   chan struct{}
	result chan error
	n      int // how many were made; for the test once result has come
}

// StartLoad starts a load that makes a connection each time Next is called.
//
// It doesn't make them without end: one handshake after another over net.Pipe leaves a
// single processor something to run at all times, and Go's scheduler then looks at the
// network, over which certificates come, so seldom that a test takes minutes.
func (p *Pair) StartLoad(ctx context.Context) *Load {
	l := &Load{next: make(chan struct{}, 1), result: make(chan error, 1)}
	go func() {
		for range l.next {
			if err := p.Shake(ctx); err != nil {
				l.result <- err
				return
			}
			l.n++
		}
		l.result <- nil
	}()
	return l
}

// Next has one more connection made from now on, unless one waits already to be.
func (l *Load) Next() {
	select {
	case l.next <- struct{}{}:
	default:
	}
}

// End returns how many connections were made in each direction, and why one failed.
func (l *Load) End() (n int, err error) {
	close(l.next)
	err = <-l.result
	return l.n, err
}

// meet makes one connection and sends an octet each way.
func meet(ctx context.Context, c *tls.Client, s *tls.Server) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	nc, ns := net.Pipe()
	defer func() { _, _ = nc.Close(), ns.Close() }()
	served := make(chan error, 1)
	go func() {
		conn, err := s.Handshake(ctx, ns)
		if err == nil {
			if _, err = conn.Write([]byte{'s'}); err == nil {
				_, err = conn.Read(make([]byte, 1))
			}
		}
		if err != nil {
			_ = ns.Close()
		}
		served <- err
	}()
	conn, err := c.Handshake(ctx, nc, tls.ClientOptions{})
	if err == nil {
		if _, err = conn.Read(make([]byte, 1)); err == nil {
			_, err = conn.Write([]byte{'c'})
		}
	}
	if err != nil {
		_ = nc.Close()
	}
	return errors.Join(err, <-served)
}
