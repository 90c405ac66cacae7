// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto/sha256"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pillion/proxy/http"
)

// Bounds of what is read as a secret.
const (
	maxPEM     = 16 << 20 // bytes of one PEM text
	maxAnchors = 4096     // certificates of one set of anchors
	maxChain   = 16       // certificates of a chain, ours or a peer's
)

// keyPair is a certificate with its key, ready for use. Immutable.
type keyPair struct {
	cert   stdtls.Certificate
	own    *http.Certificate // the leaf, described
	leaf   *x509.Certificate
	issuer []*x509.Certificate // the rest of the chain
	sum    digest              // of chain and key as they were given
	source string
	loaded time.Time
}

// anchorSet is what chains may lead to. Immutable.
type anchorSet struct {
	given   Anchors
	pool    *x509.CertPool            // nil if there are only trust domains
	domains map[string]*x509.CertPool // nil if pool holds for all
	certs   []*x509.Certificate       // all of them, for /certs
	crls    *revocations              // nil without a CRL
	source  string
	loaded  time.Time
}

func parseKeyPair(kp KeyPair, want string, now time.Time) (*keyPair, error) {
	if len(kp.Chain) > maxPEM || len(kp.Key) > maxPEM {
		return nil, fmt.Errorf("certificate or key is longer than %d bytes", maxPEM)
	}
	if len(kp.Chain) == 0 {
		return nil, errors.New("there is no certificate")
	}
	if len(kp.Key) == 0 {
		return nil, errors.New("there is no private key")
	}
	cert, err := stdtls.X509KeyPair(kp.Chain, kp.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %s", strings.TrimPrefix(err.Error(), "tls: "))
	}
	if n := len(cert.Certificate); n > maxChain {
		return nil, fmt.Errorf("the chain has %d certificates, more than %d", n, maxChain)
	}
	p := &keyPair{cert: cert, leaf: cert.Leaf, loaded: now}
	chain := []*x509.Certificate{cert.Leaf}
	for i, der := range cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w", i+2, err)
		}
		chain = append(chain, c)
	}
	p.issuer = chain[1:]
	if now.After(p.leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate has expired at %s", p.leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if want != "" {
		if uris := p.leaf.URIs; len(uris) != 1 || uris[0].String() != want {
			return nil, &IdentityError{Got: fmt.Sprint(uris), Want: want}
		}
	}
	h := sha256.New()
	h.Write(kp.Chain)
	h.Write([]byte{0})
	h.Write(kp.Key)
	h.Sum(p.sum[:0])
	p.own = newCertificate(chain)
	return p, nil
}

func parseAnchors(a Anchors) (*anchorSet, error) {
	out := &anchorSet{given: a, loaded: time.Now()}
	if len(a.CA) == 0 && len(a.TrustDomains) == 0 {
		return nil, errors.New("there is no trust anchor")
	}
	if len(a.CA) > 0 {
		certs, err := parseCertificates(a.CA)
		if err != nil {
			return nil, fmt.Errorf("trust anchors: %w", err)
		}
		out.pool, out.certs = newPool(certs), certs
	}
	if a.TrustDomains != nil {
		out.domains = map[string]*x509.CertPool{}
	}
	for domain, text := range a.TrustDomains {
		if err := checkTrustDomain(domain); err != nil {
			return nil, fmt.Errorf("trust domain %q: %w", domain, err)
		}
		certs, err := parseCertificates(text)
		if err != nil {
			return nil, fmt.Errorf("trust anchors of %s: %w", domain, err)
		}
		out.domains[domain] = newPool(certs)
		out.certs = append(out.certs, certs...)
	}
	if len(a.CRL) > 0 {
		var err error
		if out.crls, err = parseCRLs(a.CRL); err != nil {
			return nil, fmt.Errorf("CRL: %w", err)
		}
	}
	return out, nil
}

func newPool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// parseCertificates parses all the certificates of a PEM text. Other blocks
// are passed over; text that holds no certificate is an error.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("longer than %d bytes", maxPEM)
	}
	var certs []*x509.Certificate
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		if !slices.ContainsFunc(certs, c.Equal) {
			certs = append(certs, c)
		}
		if len(certs) > maxAnchors {
			return nil, fmt.Errorf("more than %d certificates", maxAnchors)
		}
	}
	if len(certs) == 0 {
		return nil, errors.New("the text holds no PEM block of type CERTIFICATE")
	}
	return certs, nil
}
