// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto/x509"
	"strings"

	"pillion/proxy/match"
)

// SANType is the kind of name that a SANMatcher looks at.
type SANType uint8

// The types, as envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher.SanType.
const (
	SANAny SANType = iota // all of the following, as the deprecated untyped field
	SANURI
	SANDNS
	SANIP
	SANEmail
)

// SANMatcher is a predicate over the names of a certificate. Immutable.
type SANMatcher struct {
	Type  SANType
	Match match.String
	// Exact is the value of an exact matcher, else empty: an exact DNS name
	// is also met by a wildcard of the certificate (Envoy: dnsNameMatch).
	Exact string
}

// matchesAny reports whether one matcher matches one name.
func matchesAny(ms []SANMatcher, leaf *x509.Certificate) bool {
	for i := range ms {
		if ms[i].matches(leaf) {
			return true
		}
	}
	return false
}

func (m *SANMatcher) matches(leaf *x509.Certificate) bool {
	wants := func(t SANType) bool { return m.Type == t || m.Type == SANAny }
	if wants(SANURI) {
		for _, u := range leaf.URIs {
			if m.Match.Match([]byte(u.String())) {
				return true
			}
		}
	}
	if wants(SANDNS) {
		for _, name := range leaf.DNSNames {
			if m.Exact != "" && dnsNameMatches(name, m.Exact) || m.Match.Match([]byte(name)) {
				return true
			}
		}
	}
	if wants(SANIP) {
		for _, ip := range leaf.IPAddresses {
			if m.Match.Match([]byte(ip.String())) {
				return true
			}
		}
	}
	if wants(SANEmail) {
		for _, e := range leaf.EmailAddresses {
			if m.Match.Match([]byte(e)) {
				return true
			}
		}
	}
	return false
}

// dnsNameMatches compares a name of a certificate, which may begin with a
// wildcard label, with the name that is wanted (RFC 6125 section 6.4.3: the
// wildcard is a whole first label and stands for exactly one).
func dnsNameMatches(pattern, name string) bool {
	if strings.EqualFold(pattern, name) {
		return true
	}
	rest, ok := strings.CutPrefix(pattern, "*.")
	if !ok || rest == "" {
		return false
	}
	_, tail, ok := strings.Cut(name, ".")
	return ok && len(name) > len(tail)+1 && strings.EqualFold(rest, tail)
}

// matchesHost reports whether the certificate is one for a host name or an IP
// address.
func matchesHost(leaf *x509.Certificate, host string) bool {
	for _, ip := range leaf.IPAddresses {
		if ip.String() == host {
			return true
		}
	}
	for _, name := range leaf.DNSNames {
		if dnsNameMatches(name, host) {
			return true
		}
	}
	return false
}
