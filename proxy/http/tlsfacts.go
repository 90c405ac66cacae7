// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"time"
)

// TLSFact is one thing that a handshake showed, by the name of the operator under
// which access logs and header formats have it.
type TLSFact uint8

// The facts of either side, then those of the client's certificate alone.
const (
	TLSNoFact TLSFact = iota
	TLSVersion
	TLSCipher
	TLSPeerSubject
	TLSPeerIssuer
	TLSPeerSerial
	TLSPeerFingerprint
	TLSPeerURIs
	TLSPeerDNS
	TLSPeerIPs
	TLSPeerEmails
	TLSPeerCert
	TLSPeerChainFingerprints
	TLSPeerChainSerials
	TLSPeerNotBefore
	TLSPeerNotAfter
	TLSLocalSubject
	TLSLocalURIs
	TLSLocalDNS
	TLSLocalIPs
	TLSLocalEmails
)

// tlsFacts are the names. Not there are those that crypto/tls has nothing for
// (session ids, JA3) and fingerprints of SHA-1.
var tlsFacts = map[string]TLSFact{
	"DOWNSTREAM_TLS_VERSION":                 TLSVersion,
	"DOWNSTREAM_TLS_CIPHER":                  TLSCipher,
	"DOWNSTREAM_PEER_SUBJECT":                TLSPeerSubject,
	"DOWNSTREAM_PEER_ISSUER":                 TLSPeerIssuer,
	"DOWNSTREAM_PEER_SERIAL":                 TLSPeerSerial,
	"DOWNSTREAM_PEER_FINGERPRINT_256":        TLSPeerFingerprint,
	"DOWNSTREAM_PEER_URI_SAN":                TLSPeerURIs,
	"DOWNSTREAM_PEER_DNS_SAN":                TLSPeerDNS,
	"DOWNSTREAM_PEER_IP_SAN":                 TLSPeerIPs,
	"DOWNSTREAM_PEER_EMAIL_SAN":              TLSPeerEmails,
	"DOWNSTREAM_PEER_CERT":                   TLSPeerCert,
	"DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256": TLSPeerChainFingerprints,
	"DOWNSTREAM_PEER_CHAIN_SERIALS":          TLSPeerChainSerials,
	"DOWNSTREAM_PEER_CERT_V_START":           TLSPeerNotBefore,
	"DOWNSTREAM_PEER_CERT_V_END":             TLSPeerNotAfter,
	"DOWNSTREAM_LOCAL_SUBJECT":               TLSLocalSubject,
	"DOWNSTREAM_LOCAL_URI_SAN":               TLSLocalURIs,
	"DOWNSTREAM_LOCAL_DNS_SAN":               TLSLocalDNS,
	"DOWNSTREAM_LOCAL_IP_SAN":                TLSLocalIPs,
	"DOWNSTREAM_LOCAL_EMAIL_SAN":             TLSLocalEmails,
}

// LookupTLSFact finds the fact that an operator stands for; TLSNoFact if none.
func LookupTLSFact(operator string) TLSFact { return tlsFacts[operator] }

// Fact returns a fact as Envoy writes it; empty if there is nothing to tell, or
// if it is a time, for which see TimeFact. Several names are parted by commas.
func (c *ConnInfo) Fact(f TLSFact) string {
	if c == nil || c.TLS == nil {
		return ""
	}
	t := c.TLS
	switch f {
	case TLSVersion:
		return t.Version
	case TLSCipher:
		return t.CipherSuite
	}
	if f >= TLSLocalSubject {
		return t.Own.fact(ofLocal[f-TLSLocalSubject])
	}
	return t.Peer.fact(f)
}

// ofLocal maps the facts of our own certificate to those of a peer's.
var ofLocal = [...]TLSFact{TLSPeerSubject, TLSPeerURIs, TLSPeerDNS, TLSPeerIPs, TLSPeerEmails}

func (c *Certificate) fact(f TLSFact) string {
	if c == nil {
		return ""
	}
	switch f {
	case TLSPeerSubject:
		return c.Subject
	case TLSPeerIssuer:
		return c.Issuer
	case TLSPeerSerial:
		return c.Serial
	case TLSPeerFingerprint:
		return c.Digest
	case TLSPeerURIs:
		return strings.Join(c.URIs, ",")
	case TLSPeerDNS:
		return strings.Join(c.DNS, ",")
	case TLSPeerIPs:
		return strings.Join(c.IPs, ",")
	case TLSPeerEmails:
		return strings.Join(c.Emails, ",")
	case TLSPeerCert:
		if len(c.Chain) > 0 {
			return string(AppendPEM(nil, c.Chain[:1]))
		}
	case TLSPeerChainFingerprints:
		return c.overChain(func(der []byte) string {
			sum := sha256.Sum256(der)
			return hex.EncodeToString(sum[:])
		})
	case TLSPeerChainSerials:
		return c.overChain(func(der []byte) string {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return ""
			}
			return SerialText(cert.SerialNumber)
		})
	}
	return ""
}

func (c *Certificate) overChain(of func(der []byte) string) string {
	var all []string
	for _, der := range c.Chain {
		all = append(all, of(der))
	}
	return strings.Join(all, ",")
}

// SerialText is a serial number as Envoy writes it: whole octets in hex.
func SerialText(n *big.Int) string {
	if n.Sign() == 0 {
		return "0"
	}
	text := hex.EncodeToString(n.Bytes())
	if n.Sign() < 0 {
		text = "-" + text
	}
	return text
}

// TimeFact returns a fact that is a time, false for others and without a
// certificate.
func (c *ConnInfo) TimeFact(f TLSFact) (time.Time, bool) {
	if c == nil || c.TLS == nil || c.TLS.Peer == nil {
		return time.Time{}, false
	}
	switch f {
	case TLSPeerNotBefore:
		return c.TLS.Peer.NotBefore, true
	case TLSPeerNotAfter:
		return c.TLS.Peer.NotAfter, true
	}
	return time.Time{}, false
}

// AppendPEM appends certificates as PEM in which what isn't allowed in a URL is
// encoded (Envoy: urlEncodedPemEncodedPeerCertificate).
func AppendPEM(dst []byte, chain [][]byte) []byte {
	const digits = "0123456789ABCDEF"
	for _, der := range chain {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		for len(text) > 0 {
			i := bytes.IndexAny(text, "\n +/=")
			if i < 0 {
				dst = append(dst, text...)
				break
			}
			dst = append(dst, text[:i]...)
			dst = append(dst, '%', digits[text[i]>>4], digits[text[i]&15])
			text = text[i+1:]
		}
	}
	return dst
}

// AppendServerName appends the server name that a client asked for, with '_' for
// what can't stand in a host name. It is the one value that a peer sends past every
// parser of ours.
func AppendServerName(dst []byte, name string) []byte {
	for i := range len(name) {
		c := name[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-') {
			c = '_'
		}
		dst = append(dst, c)
	}
	return dst
}
