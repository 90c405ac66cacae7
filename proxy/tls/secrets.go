// SPDX-License-Identifier: Apache-2.0

package tls

import "context"

// Secrets are the live certificates and trust anchors of a proxy by name
// ("default", "ROOTCA", "file-cert:…", "kubernetes://…"). Sources put them in,
// contexts hold on to their Secret and see each change at the next handshake.
type Secrets struct {
}

// NewSecrets returns an empty set.
func NewSecrets() *Secrets { return &Secrets{} }

// Secret returns the place of a secret, which may not have come yet.
func (s *Secrets) Secret(name string) *Secret { panic("to do") }

// Secret is the place of one certificate with its key, or of trust anchors,
// or of both (a Workload API gives both at once).
type Secret struct {
}

// Ready is closed when the secret has come for the first time.
func (s *Secret) Ready() <-chan struct{} { panic("to do") }

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
// it is not expired, its identity is want's unless that is empty) and only then puts it in
// the place of the old one. source names where it came from, for metrics and /certs.
func (s *Secret) SetKeyPair(kp KeyPair, want, source string) error { panic("to do") }

// SetAnchors does the same for trust anchors.
func (s *Secret) SetAnchors(a Anchors, source string) error { panic("to do") }

// Fail records why a source could not renew the secret; the old one serves on.
func (s *Secret) Fail(source string, err error) { panic("to do") }

// Source keeps secrets renewed until ctx ends. It never returns before that
// but for an error that can't heal.
type Source interface {
	Run(ctx context.Context) error
}
