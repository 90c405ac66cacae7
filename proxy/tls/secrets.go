// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Secrets are the live certificates and trust anchors of a proxy by name
// ("default", "ROOTCA", "file-cert:…", "kubernetes://…"). Sources put them in,
// contexts hold on to their Secret and see each change at the next handshake.
type Secrets struct {
	certs certCache // of peers, for all contexts

	mu     sync.Mutex
	all    map[string]*Secret  // guarded by mu
	wanted []func(name string) // guarded by mu
}

// NewSecrets returns an empty set.
func NewSecrets() *Secrets { return &Secrets{all: map[string]*Secret{}} }

// Secret returns the place of a secret, which may not have come yet.
func (s *Secrets) Secret(name string) *Secret {
	s.mu.Lock()
	got := s.all[name]
	if got != nil {
		s.mu.Unlock()
		return got
	}
	got = newSecret(name, &s.certs)
	s.all[name] = got
	wanted := slices.Clone(s.wanted)
	s.mu.Unlock()
	for _, f := range wanted {
		f(name)
	}
	return got
}

// OnWanted calls f with the name of every secret that anybody has asked for,
// and of each one from now on, so that a source can go and get it. f must not
// block; it may be called from several goroutines, and twice with one name.
func (s *Secrets) OnWanted(f func(name string)) {
	s.mu.Lock()
	s.wanted = append(s.wanted, f)
	names := slices.Sorted(maps.Keys(s.all))
	s.mu.Unlock()
	for _, name := range names {
		f(name)
	}
}

// All returns the secrets in the order of their names.
func (s *Secrets) All() []*Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.all), func(a, b *Secret) int { return cmp.Compare(a.name, b.name) })
}

// NewSecret returns a secret that has no name in the set: one that stands in
// the configuration itself.
func (s *Secrets) NewSecret(name string) *Secret { return newSecret(name, &s.certs) }

// Secret is the place of one certificate with its key, or of trust anchors,
// or of both (a Workload API gives both at once).
type Secret struct {
	name  string     // immutable
	certs *certCache // shared
	ready chan struct{}

	// now is what contexts see; nil before the secret has come. Each material
	// is immutable.
	now atomic.Pointer[material]

	mu       sync.Mutex
	updates  uint64    // changes that were taken; guarded by mu
	failures uint64    // guarded by mu
	lastErr  string    // of the last failure, empty since the last success; guarded by mu
	failedAt time.Time // guarded by mu
}

// material is what a secret holds at one time. Immutable.
type material struct {
	pair    *keyPair
	anchors *anchorSet
}

func newSecret(name string, certs *certCache) *Secret {
	return &Secret{name: name, certs: certs, ready: make(chan struct{})}
}

// Name returns the name under which the secret is asked for.
func (s *Secret) Name() string { return s.name }

// Ready is closed when the secret has come for the first time.
func (s *Secret) Ready() <-chan struct{} { return s.ready }

// KeyPair is a certificate with its key, PEM, the leaf first.
type KeyPair struct {
	Chain, Key []byte
}

// Anchors is what a peer's certificate must lead to.
type Anchors struct {
	CA  []byte // PEM
	CRL []byte // PEM, may be nil
	// TrustDomains holds anchors for each trust domain by itself (PEM), as a
	// SPIFFE bundle map does; nil: CA holds for all.
	TrustDomains map[string][]byte
}

// SetKeyPair validates a new key pair (it parses, key and leaf belong together,
// now is within its time, its identity is want's unless that is empty) and only then puts it in
// the place of the old one. source names where it came from, for metrics and /certs.
func (s *Secret) SetKeyPair(kp KeyPair, want, source string) error {
	p, err := parseKeyPair(kp, want, time.Now())
	if err != nil {
		return s.refuse(source, err)
	}
	p.source = source
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.now.Load(); old != nil && old.pair != nil && old.pair.sum == p.sum {
		s.lastErr = ""
		return nil // nothing has changed: sessions and caches stay
	}
	s.replace(func(m *material) { m.pair = p })
	return nil
}

// SetAnchors does the same for trust anchors.
func (s *Secret) SetAnchors(a Anchors, source string) error {
	p, err := parseAnchors(a)
	if err != nil {
		return s.refuse(source, err)
	}
	p.source = source
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.now.Load(); old != nil && old.anchors != nil && sameAnchors(&old.anchors.given, &a) {
		s.lastErr = ""
		return nil
	}
	s.replace(func(m *material) { m.anchors = p })
	return nil
}

// replace publishes a copy of the material with a change. s.mu is held.
func (s *Secret) replace(change func(*material)) {
	old := s.now.Load()
	m := &material{}
	if old != nil {
		*m = *old
	}
	change(m)
	s.now.Store(m)
	s.updates++
	s.lastErr = ""
	if old == nil {
		close(s.ready)
	}
}

func (s *Secret) refuse(source string, err error) error {
	refused := &refusal{s, source, err}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failedLocked(source, refused)
	return refused
}

// refusal is what a secret refused, and has recorded.
type refusal struct {
	secret *Secret
	source string
	err    error
}

func (r *refusal) Error() string {
	return fmt.Sprintf("secret %s from %s: %v", r.secret.name, r.source, r.err)
}
func (r *refusal) Unwrap() error { return r.err }

// Fail records why a source could not renew the secret; the old one serves on.
// What the secret itself refused is recorded already.
func (s *Secret) Fail(source string, err error) {
	if r, ok := errors.AsType[*refusal](err); ok && r.secret == s {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failedLocked(source, err)
}

// failedLocked records a failure; s.mu is held.
func (s *Secret) failedLocked(source string, err error) {
	s.failures++
	s.lastErr, s.failedAt = source+": "+err.Error(), time.Now()
}

func sameAnchors(a, b *Anchors) bool {
	return bytes.Equal(a.CA, b.CA) && bytes.Equal(a.CRL, b.CRL) && (a.TrustDomains == nil) == (b.TrustDomains == nil) &&
		maps.EqualFunc(a.TrustDomains, b.TrustDomains, bytes.Equal)
}

// Source keeps secrets renewed until ctx ends. It never returns before that
// but for an error that can't heal.
type Source interface {
	Run(ctx context.Context) error
}
