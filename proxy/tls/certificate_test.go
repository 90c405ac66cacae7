// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pillion/test/need"
)

// TestDistinguishedNames compares with OpenSSL, whose form Envoy shows.
func TestDistinguishedNames(t *testing.T) {
	openssl := need.Program(t, "openssl")
	ca := newTestCA(t, "root")
	oid := func(n ...int) asn1.ObjectIdentifier { return n }
	for _, name := range []pkix.Name{
		{CommonName: "web", Organization: []string{"Acme, Inc."}, Country: []string{"DE"}, OrganizationalUnit: []string{"a+b", " c "}},
		{CommonName: `#"<>;\ =`, SerialNumber: "7", Locality: []string{"Köln"}, Province: []string{"NW"}, StreetAddress: []string{"x 1"}, PostalCode: []string{"1"}},
		{ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: oid(1, 2, 840, 113549, 1, 9, 1), Value: "a@b.example"}, {Type: oid(0, 9, 2342, 19200300, 100, 1, 1), Value: "u"},
			{Type: oid(0, 9, 2342, 19200300, 100, 1, 25), Value: "shop"}, {Type: oid(2, 5, 4, 3), Value: "last"}}},
		{ExtraNames: []pkix.AttributeTypeAndValue{{Type: oid(1, 3, 6, 1, 4, 1, 99999, 1), Value: "unknown"}}},
		{},
	} {
		kp := ca.issue("", func(c *x509.Certificate) { c.Subject = name })
		dir := t.TempDir()
		writeFiles(t, dir, map[string][]byte{"c.pem": kp.Chain})
		out, err := exec.Command(openssl, "x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", filepath.Join(dir, "c.pem")).Output()
		if err != nil {
			t.Fatal(err)
		}
		want := strings.TrimPrefix(strings.TrimSuffix(string(out), "\n"), "subject=")
		got := newCertificate([]*x509.Certificate{leafOf(t, kp)})
		if got.Subject != want || got.Issuer != "CN=root" {
			t.Errorf("subject %s\nOpenSSL %s", got.Subject, want)
		}
	}
}

func TestCertificate(t *testing.T) {
	ca := newTestCA(t, "root")
	kp := ca.issue(clientID, func(c *x509.Certificate) {
		c.DNSNames, c.EmailAddresses, c.IPAddresses = []string{"a.example"}, []string{"a@b"}, []net.IP{net.ParseIP("::1"), net.IPv4(1, 2, 3, 4)}
	})
	leaf := leafOf(t, kp)
	c := newCertificate([]*x509.Certificate{leaf, ca.cert})
	if !slices.Equal(c.URIs, []string{clientID}) || !slices.Equal(c.DNS, []string{"a.example"}) || !slices.Equal(c.IPs, []string{"::1", "1.2.3.4"}) ||
		!slices.Equal(c.Emails, []string{"a@b"}) || len(c.Chain) != 2 || len(c.Digest) != 64 || c.Serial != leaf.SerialNumber.Text(16) {
		t.Errorf("%+v", c)
	}
	var cache certCache
	first := cache.intern(chainDigest([]*x509.Certificate{leaf}), []*x509.Certificate{leaf})
	if cache.intern(chainDigest([]*x509.Certificate{leaf}), []*x509.Certificate{leaf}) != first {
		t.Error("one certificate is described twice")
	}
	for i := range maxInterned + 10 {
		cache.intern(digest{1, byte(i), byte(i >> 8)}, []*x509.Certificate{leaf})
	}
	if len(cache.certs) > maxInterned {
		t.Errorf("%d certificates are kept", len(cache.certs))
	}
}
