// SPDX-License-Identifier: Apache-2.0

package tls

import (
	stdtls "crypto/tls"
	"fmt"
	"time"
)

// Params are what both sides of a context can choose
// (envoy.extensions.transport_sockets.tls.v3.TlsParameters). The zero value is
// TLS 1.2 and 1.3, authenticated encryption, and the post-quantum key exchange
// X25519MLKEM768 first.
type Params struct {
	Min, Max     Version
	CipherSuites []string // of TLS 1.2, as OpenSSL names them
	Curves       []string // as BoringSSL names them
}

// Version is a version of TLS.
type Version uint16

// The versions that are served. TLS 1.0 and 1.1 are not (RFC 8996).
const (
	VersionAny Version = 0
	Version12  Version = stdtls.VersionTLS12
	Version13  Version = stdtls.VersionTLS13
)

// ServerConfig is what a filter chain's TLS is made of.
type ServerConfig struct {
	Params
	// Certificates are what clients are shown, each a Secret with a key pair:
	// the first one that fits the client's SNI and algorithms, else the first.
	Certificates []*Secret
	// Validation of clients' certificates; nil: none is asked for, unless
	// RequireClientCertificate is set, and then any will do, unverified.
	Validation               *Validation
	RequireClientCertificate bool
	// RequireSNI refuses clients that name no server.
	RequireSNI bool
	ALPN       []string
	// NoTickets turns session resumption off.
	NoTickets bool
	// SessionTimeout is how long after a handshake its session may be resumed;
	// 0: a week.
	SessionTimeout time.Duration
	Stats          *Stats // nil: counted for nobody
}

// ClientConfig is what a cluster's TLS is made of.
type ClientConfig struct {
	Params
	Certificates []*Secret   // what servers are shown if they ask; the first counts
	Validation   *Validation // of servers' certificates; nil: any will do, unverified
	ServerName   string      // SNI
	// AutoSNISAN asks for a certificate that is one for the SNI, in the place
	// of the names of Validation.
	AutoSNISAN bool
	ALPN       []string
	// EnforceKeyUsage refuses RSA certificates that aren't for signatures.
	EnforceKeyUsage bool
	NoSessions      bool   // turns session resumption off
	Stats           *Stats // nil: counted for nobody
}

// base makes what both sides have in common.
func (p *Params) base() (*stdtls.Config, error) {
	c := &stdtls.Config{
		MinVersion: uint16(max(p.Min, Version12)),
		MaxVersion: stdtls.VersionTLS13,
		// Records of full size cost fewer system calls; BoringSSL makes them too.
		DynamicRecordSizingDisabled: true,
	}
	if p.Max != VersionAny {
		c.MaxVersion = uint16(p.Max)
	}
	if c.MaxVersion < c.MinVersion {
		return nil, fmt.Errorf("tls_maximum_protocol_version: %s is below the minimum, %s; versions before TLSv1.2 are not served",
			versionName(c.MaxVersion), versionName(c.MinVersion))
	}
	var err error
	if c.CipherSuites, err = parseSuites(p.CipherSuites); err != nil {
		return nil, fmt.Errorf("cipher_suites: %w", err)
	}
	if c.CurvePreferences, err = parseCurves(p.Curves); err != nil {
		return nil, fmt.Errorf("ecdh_curves: %w", err)
	}
	return c, nil
}

// validate refuses a validation that would be no check at all.
func (v *Validation) validate() error {
	if v == nil {
		return nil
	}
	if v.Anchors == nil && len(v.SANs) > 0 {
		// As Envoy: a name in a certificate that anybody may have signed says nothing.
		return fmt.Errorf("SAN-based verification of peer certificates without trusted CA is insecure and not allowed")
	}
	if v.Anchors == nil && len(v.CRL) > 0 {
		return fmt.Errorf("crl: there is no trusted CA that it could belong to")
	}
	if len(v.CRL) > 0 {
		if _, err := parseCRLs(v.CRL); err != nil {
			return fmt.Errorf("crl: %w", err)
		}
	}
	return nil
}

// inputs is the state of a context's secrets at one time: while it is equal,
// what was made of it holds.
type inputs struct {
	pairs   []*keyPair
	anchors *anchorSet
}

// load reads the secrets. It names the one that has not come yet.
func load(certs []*Secret, v *Validation, into []*keyPair) (inputs, *Error) {
	in := inputs{pairs: into[:0]}
	for _, s := range certs {
		m := s.now.Load()
		if m == nil || m.pair == nil {
			return in, errNotReady(s.name)
		}
		in.pairs = append(in.pairs, m.pair)
	}
	if v != nil && v.Anchors != nil {
		m := v.Anchors.now.Load()
		if m == nil || m.anchors == nil {
			return in, errNotReady(v.Anchors.name)
		}
		in.anchors = m.anchors
	}
	return in, nil
}

func (in *inputs) equal(o *inputs) bool {
	if in.anchors != o.anchors || len(in.pairs) != len(o.pairs) {
		return false
	}
	for i := range in.pairs {
		if in.pairs[i] != o.pairs[i] {
			return false
		}
	}
	return true
}

// crlsFor returns the lists that hold for the validation.
func crlsFor(v *Validation, a *anchorSet) *revocations {
	if len(v.CRL) > 0 {
		if own, err := parseCRLs(v.CRL); err == nil { // validate has parsed it
			return own
		}
	}
	return a.crls
}
