// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"pillion/proxy/http"
)

// Validation is what a peer's certificate has to satisfy
// (envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext).
type Validation struct {
	// Anchors is where chains have to lead; nil: nowhere, which only pins may
	// go with.
	Anchors *Secret
	// SANs: one of them has to match one of the names of the certificate;
	// empty: any name will do.
	SANs []SANMatcher
	// Hashes and SPKIs are pinned certificates and keys (SHA-256); one of
	// either has to be met if there are any.
	Hashes, SPKIs [][sha256.Size]byte
	// AllowExpired takes certificates that are out of their time.
	AllowExpired bool
	// AcceptUntrusted lets a peer in whose certificate fails; it is not
	// verified then, and policy trusts nothing of it.
	AcceptUntrusted bool
	// CRL holds beside that of the anchors; CRLLeafOnly asks it for the leaf
	// only.
	CRL         []byte
	CRLLeafOnly bool
	// MaxDepth bounds the issuers between leaf and anchor; nil: only by what is
	// read of a chain at all.
	MaxDepth *int
	// NoCAList leaves the anchors' names out of what clients are told.
	NoCAList bool
	// RequireSPIFFE asks for a workload's certificate (X509-SVID).
	RequireSPIFFE bool
}

// verifier checks peers against one state of the anchors. What it found good
// it remembers: the certificates of a mesh are shown again and again, and an
// ECDSA signature costs more than the rest of a resumed handshake.
type verifier struct {
	v       *Validation // nil: peers aren't checked
	anchors *anchorSet  // nil if v demands no chain
	crls    *revocations
	usage   x509.ExtKeyUsage
	certs   *certCache
	// enforce refuses RSA keys that aren't for signatures (enforce_rsa_key_usage).
	enforce bool

	mu   sync.Mutex
	good map[verdictKey]*verdict // guarded by mu
}

// verdictKey names a chain, and whether the configured names were left out.
type verdictKey struct {
	chain  digest
	ownSAN bool
}

// verdict says that a chain is good from one time to another. Immutable.
type verdict struct {
	from, until time.Time
	cert        *http.Certificate
	chain       []*x509.Certificate // as it was seen first
	verified    bool
}

// maxVerdicts bounds what a verifier remembers.
const maxVerdicts = 1024

// verify checks a chain as the peer sent it. san, if it isn't empty, is a
// name that the certificate has to have, whatever the validation says.
func (f *verifier) verify(chain []*x509.Certificate, san string, now time.Time) (*verdict, *Error) {
	if len(chain) > maxChain {
		return nil, chainError("certificate chain too long")
	}
	key := verdictKey{chainDigest(chain), san != ""}
	f.mu.Lock()
	got := f.good[key]
	f.mu.Unlock()
	if got == nil || now.Before(got.from) || now.After(got.until) {
		var err *Error
		if got, err = f.judge(key, chain, now); err != nil {
			return nil, err
		}
		f.remember(key, got)
	}
	if san == "" || matchesHost(chain[0], san) {
		return got, nil
	}
	if f.v != nil && f.v.AcceptUntrusted {
		return &verdict{cert: got.cert}, nil
	}
	if f.v != nil {
		return nil, verifyError(KindSAN, fmt.Sprintf("verify SAN list: no name of the certificate is %q", san))
	}
	return got, nil // without a validation nothing is asked of the peer
}

// holds reports whether what was found of a chain is remembered and still true.
func (f *verifier) holds(d digest, now time.Time) bool {
	f.mu.Lock()
	got := f.good[verdictKey{chain: d}]
	f.mu.Unlock()
	return got != nil && !now.Before(got.from) && !now.After(got.until)
}

func (f *verifier) remember(key verdictKey, v *verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.good == nil {
		f.good = map[verdictKey]*verdict{}
	}
	for k := range f.good {
		if len(f.good) < maxVerdicts {
			break
		}
		delete(f.good, k)
	}
	f.good[key] = v
}

// judge makes all the checks.
func (f *verifier) judge(key verdictKey, chain []*x509.Certificate, now time.Time) (*verdict, *Error) {
	out := &verdict{from: chain[0].NotBefore, until: chain[0].NotAfter, chain: slices.Clone(chain)}
	if f.v != nil {
		verified, err := f.check(out, chain, key.ownSAN, now)
		if err != nil && !f.v.AcceptUntrusted {
			return nil, err
		}
		out.verified = verified && err == nil
	}
	if !out.verified || f.v.AllowExpired || f.anchors == nil {
		// The time of the certificate plays no part; it is looked at again all the
		// same, so that what can expire beside it does.
		out.from, out.until = time.Time{}, now.Add(time.Hour)
	}
	out.cert = f.certs.intern(key.chain, chain)
	return out, nil
}

// check makes the checks of the validation. ownSAN says that the caller brings
// the name to check, in the place of the configured ones.
func (f *verifier) check(out *verdict, chain []*x509.Certificate, ownSAN bool, now time.Time) (verified bool, err *Error) {
	leaf := chain[0]
	if err := checkNames(leaf, f.v.RequireSPIFFE); err != nil {
		return false, err
	}
	if f.enforce && leaf.PublicKeyAlgorithm == x509.RSA && leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return false, verifyError(KindVerify, "KEY_USAGE_BIT_INCORRECT")
	}
	if f.anchors != nil {
		if err := f.checkChain(out, chain, now); err != nil {
			return false, err
		}
		verified = true
	}
	if !ownSAN && len(f.v.SANs) > 0 && !matchesAny(f.v.SANs, leaf) {
		return false, verifyError(KindSAN, "verify SAN list")
	}
	if len(f.v.Hashes)+len(f.v.SPKIs) > 0 {
		if !slices.Contains(f.v.Hashes, sha256.Sum256(leaf.Raw)) && !slices.Contains(f.v.SPKIs, sha256.Sum256(leaf.RawSubjectPublicKeyInfo)) {
			return false, verifyError(KindHash, "cert hash and spki")
		}
		verified = true
	}
	return verified, nil
}

// checkChain finds a way from the leaf to an anchor.
func (f *verifier) checkChain(out *verdict, chain []*x509.Certificate, now time.Time) *Error {
	roots, bad := f.roots(chain[0])
	if bad != nil {
		return bad
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{f.usage}}
	if f.v.AllowExpired {
		opts.CurrentTime = within(chain, now)
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	ways, err := chain[0].Verify(opts)
	if err != nil {
		return explainChain(err, chain[0], now)
	}
	var last *Error
	for _, way := range ways {
		// OpenSSL counts the certificates between leaf and anchor.
		if between := len(way) - 2; f.v.MaxDepth != nil && between > *f.v.MaxDepth {
			last = chainError("certificate chain too long")
			continue
		}
		until := time.Time{}
		if f.crls != nil {
			if until, last = f.crls.check(way, f.v.CRLLeafOnly, now); last != nil {
				continue
			}
		}
		out.narrow(way, until)
		return nil
	}
	return last
}

// narrow bounds the verdict by the time of all that it rests on.
func (v *verdict) narrow(way []*x509.Certificate, until time.Time) {
	for _, c := range way {
		if c.NotBefore.After(v.from) {
			v.from = c.NotBefore
		}
		if c.NotAfter.Before(v.until) {
			v.until = c.NotAfter
		}
	}
	if !until.IsZero() && until.Before(v.until) {
		v.until = until
	}
}

// roots returns the anchors for the peer's trust domain.
func (f *verifier) roots(leaf *x509.Certificate) (*x509.CertPool, *Error) {
	if f.anchors.domains == nil {
		return f.anchors.pool, nil
	}
	if err := checkNames(leaf, true); err != nil {
		return nil, err
	}
	id, err := ParseID(leaf.URIs[0].String())
	if err != nil {
		return nil, verifyError(KindVerify, "SPIFFE validator: "+err.Error())
	}
	pool := f.anchors.domains[id.TrustDomain]
	if pool == nil {
		return nil, verifyError(KindVerify, "SPIFFE validator: no trust bundle for the trust domain "+id.TrustDomain)
	}
	return pool, nil
}

// checkNames refuses names that could be read in two ways: control
// characters, and a SPIFFE ID beside other URIs (X509-SVID section 2).
func checkNames(leaf *x509.Certificate, requireSPIFFE bool) *Error {
	for _, list := range [][]string{leaf.DNSNames, leaf.EmailAddresses} {
		for _, name := range list {
			if hasControl(name) {
				return verifyError(KindSAN, "verify SAN list: a name holds a control character")
			}
		}
	}
	spiffe := 0
	for _, u := range leaf.URIs {
		if u.Scheme == "spiffe" {
			spiffe++
		}
	}
	if spiffe == 0 && !requireSPIFFE {
		return nil
	}
	if len(leaf.URIs) != 1 || spiffe != 1 {
		return verifyError(KindSAN, fmt.Sprintf("verify SAN list: a workload's certificate has exactly one URI, a SPIFFE ID; this one has %d", len(leaf.URIs)))
	}
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return verifyError(KindVerify, "SPIFFE validator: the certificate is that of a CA, not of a workload")
	}
	if _, err := ParseID(leaf.URIs[0].String()); err != nil {
		return verifyError(KindSAN, "verify SAN list: "+err.Error())
	}
	return nil
}

func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// within returns a time at which as many certificates of the chain are valid
// as can be: the leaf's last second, if that is past.
func within(chain []*x509.Certificate, now time.Time) time.Time {
	leaf := chain[0]
	switch {
	case now.After(leaf.NotAfter):
		return leaf.NotAfter
	case now.Before(leaf.NotBefore):
		return leaf.NotBefore
	}
	return now
}

// explainChain puts an error of x509 into OpenSSL's words.
func explainChain(err error, leaf *x509.Certificate, now time.Time) *Error {
	var out *Error
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		depth := 0
		if invalid.Cert != nil && !invalid.Cert.Equal(leaf) {
			depth = 1
		}
		switch {
		case invalid.Reason == x509.Expired && invalid.Cert != nil && now.Before(invalid.Cert.NotBefore):
			out = chainError(fmt.Sprintf("at depth %d: certificate is not yet valid", depth))
		case invalid.Reason == x509.Expired:
			out = chainError(fmt.Sprintf("at depth %d: certificate has expired", depth))
		case invalid.Reason == x509.IncompatibleUsage:
			out = chainError("unsupported certificate purpose")
		case invalid.Reason == x509.TooManyIntermediates:
			out = chainError("path length constraint exceeded")
		}
	} else if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		out = chainError("at depth 0: unable to get local issuer certificate")
	}
	if out == nil {
		out = chainError(err.Error())
	}
	out.Err = err
	return out
}
