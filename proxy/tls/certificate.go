// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"

	"pillion/proxy/http"
)

// digest is the SHA-256 of a certificate or of a chain.
type digest [sha256.Size]byte

// maxInterned bounds how many peers' certificates are remembered.
const maxInterned = 4096

// certCache holds one http.Certificate for each leaf that connections have
// shown, so that a peer's thousand connections share it.
type certCache struct {
	mu    sync.Mutex
	certs map[digest]*http.Certificate // guarded by mu
}

// intern returns the certificate whose chain has the digest.
func (c *certCache) intern(d digest, chain []*x509.Certificate) *http.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := c.certs[d]; got != nil {
		return got
	}
	if len(c.certs) >= maxInterned {
		// Which one goes doesn't matter: whoever needs it makes it again.
		for k := range c.certs {
			delete(c.certs, k)
			break
		}
	}
	if c.certs == nil {
		c.certs = map[digest]*http.Certificate{}
	}
	made := newCertificate(chain)
	c.certs[d] = made
	return made
}

// chainDigest tells chains apart.
func chainDigest(chain []*x509.Certificate) (d digest) {
	if len(chain) == 1 {
		return sha256.Sum256(chain[0].Raw)
	}
	h := sha256.New()
	for _, c := range chain {
		h.Write(c.Raw)
	}
	h.Sum(d[:0])
	return d
}

// newCertificate describes the first certificate of a chain. It copies what
// it keeps: x509.Certificate holds on to the whole handshake message.
func newCertificate(chain []*x509.Certificate) *http.Certificate {
	leaf := chain[0]
	sum := sha256.Sum256(leaf.Raw)
	c := &http.Certificate{
		Subject:   distinguishedName(leaf.RawSubject),
		Issuer:    distinguishedName(leaf.RawIssuer),
		Serial:    http.SerialText(leaf.SerialNumber),
		Digest:    hex.EncodeToString(sum[:]),
		NotBefore: leaf.NotBefore,
		NotAfter:  leaf.NotAfter,
	}
	for _, u := range leaf.URIs {
		c.URIs = append(c.URIs, u.String())
	}
	for _, d := range leaf.DNSNames {
		c.DNS = append(c.DNS, strings.Clone(d))
	}
	for _, ip := range leaf.IPAddresses {
		c.IPs = append(c.IPs, ip.String())
	}
	for _, e := range leaf.EmailAddresses {
		c.Emails = append(c.Emails, strings.Clone(e))
	}
	for _, x := range chain {
		c.Chain = append(c.Chain, append([]byte(nil), x.Raw...))
	}
	return c
}

// attributeNames are the names that OpenSSL gives the attributes of
// distinguished names (crypto/obj: short names).
var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
	"2.5.4.9": "street", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title", "2.5.4.17": "postalCode",
	"2.5.4.41": "name", "2.5.4.42": "GN", "2.5.4.43": "initials", "2.5.4.46": "dnQualifier",
	"1.2.840.113549.1.9.1": "emailAddress", "0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC",
}

// distinguishedName prints a name as OpenSSL's XN_FLAG_RFC2253 does, which is
// what Envoy shows: the last part first, no spaces.
func distinguishedName(der []byte) string {
	var seq pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &seq); err != nil || len(rest) > 0 {
		return ""
	}
	var b strings.Builder
	for i := len(seq) - 1; i >= 0; i-- {
		for j := len(seq[i]) - 1; j >= 0; j-- {
			if b.Len() > 0 {
				if j == len(seq[i])-1 {
					b.WriteByte(',')
				} else {
					b.WriteByte('+')
				}
			}
			attribute(&b, seq[i][j])
		}
	}
	return b.String()
}

func attribute(b *strings.Builder, a pkix.AttributeTypeAndValue) {
	oid := a.Type.String()
	if name, ok := attributeNames[oid]; ok {
		b.WriteString(name)
		b.WriteByte('=')
		if s, ok := a.Value.(string); ok {
			escapeValue(b, s)
			return
		}
	} else {
		b.WriteString(oid)
		b.WriteByte('=')
	}
	// RFC 2253 section 2.4: an unknown type's value is shown as its encoding.
	raw, err := asn1.Marshal(a.Value)
	if err == nil {
		b.WriteByte('#')
		b.WriteString(strings.ToUpper(hex.EncodeToString(raw)))
	}
}

// escapeValue writes a value with the escapes of RFC 2253 section 2.4, and
// control and non-ASCII characters as \XX, as OpenSSL does.
func escapeValue(b *strings.Builder, s string) {
	for i := range len(s) {
		c := s[i]
		switch {
		case c < 0x20, c >= 0x7f:
			fmt.Fprintf(b, `\%02X`, c)
			continue
		case strings.IndexByte(`,+"\<>;`, c) >= 0, c == '#' && i == 0, c == ' ' && (i == 0 || i == len(s)-1):
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
}
