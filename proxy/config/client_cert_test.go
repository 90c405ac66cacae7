// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	nethttp "net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pillion/test/need"
)

// certMaker makes the certificates of a test.
type certMaker struct {
	t    *testing.T
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
	next int64
}

func newCertMaker(t *testing.T) *certMaker {
	m := &certMaker{t: t}
	m.root = &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "root"}}
	pair := m.make(m.root)
	m.root, m.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	m.pem = pemOf(pair)
	return m
}

func (m *certMaker) make(c *x509.Certificate) stdtls.Certificate {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	m.next++
	c.SerialNumber = big.NewInt(0x10fedcba98765 + m.next)
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour).Truncate(time.Second), time.Now().Add(time.Hour).Truncate(time.Second)
	parent, signer := m.root, m.key
	if signer == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		m.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		m.t.Fatal(err)
	}
	return stdtls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func pemOf(pair stdtls.Certificate) string {
	var out strings.Builder
	for _, der := range pair.Certificate {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return out.String()
}

func keyOf(t *testing.T, pair stdtls.Certificate) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func uris(t *testing.T, texts ...string) (out []*url.URL) {
	t.Helper()
	for _, s := range texts {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

// certManagers are connection managers that differ in what they tell of clients.
var certManagers = []string{
	"forward_client_cert_details: SANITIZE",
	"forward_client_cert_details: FORWARD_ONLY, set_current_client_cert_details: {subject: true, uri: true}",
	"forward_client_cert_details: APPEND_FORWARD, set_current_client_cert_details: {subject: true, uri: true, dns: true}",
	"forward_client_cert_details: APPEND_FORWARD",
	"forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {subject: true, cert: true, uri: true, dns: true}",
	"forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {cert: true, chain: true}",
	"forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {subject: true}",
	"forward_client_cert_details: ALWAYS_FORWARD_ONLY, use_remote_address: true",
}

// certOperators are the operators of access logs that tell of a handshake, but for
// those that differ from one connection to the next.
var certOperators = []string{
	"DOWNSTREAM_TLS_VERSION", "DOWNSTREAM_TLS_CIPHER", "DOWNSTREAM_PEER_SUBJECT", "DOWNSTREAM_PEER_ISSUER", "DOWNSTREAM_PEER_SERIAL", "DOWNSTREAM_PEER_FINGERPRINT_256",
	"DOWNSTREAM_PEER_URI_SAN", "DOWNSTREAM_PEER_DNS_SAN", "DOWNSTREAM_PEER_IP_SAN", "DOWNSTREAM_PEER_EMAIL_SAN", "DOWNSTREAM_PEER_CERT_V_START",
	"DOWNSTREAM_PEER_CERT_V_END", "DOWNSTREAM_PEER_CERT_V_END(%Y-%m-%d)", "DOWNSTREAM_PEER_CERT", "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256", "DOWNSTREAM_PEER_CHAIN_SERIALS",
	"DOWNSTREAM_LOCAL_SUBJECT", "DOWNSTREAM_LOCAL_URI_SAN", "DOWNSTREAM_LOCAL_DNS_SAN", "DOWNSTREAM_LOCAL_IP_SAN", "DOWNSTREAM_LOCAL_EMAIL_SAN",
}

// TestClientCertLikeEnvoy shows certificates of all kinds to a real Envoy and to ours,
// and compares what the service is told of them and what is logged.
func TestClientCertLikeEnvoy(t *testing.T) {
	need.Envoy(t)
	ca := newCertMaker(t)
	server := ca.make(&x509.Certificate{Subject: pkix.Name{Organization: []string{"srv"}}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		EmailAddresses: []string{"s@example.com"}, URIs: uris(t, "spiffe://td/ns/a/sa/server", "spiffe://td/second")})
	clients := map[string]*stdtls.Certificate{"none": nil}
	for name, c := range map[string]*x509.Certificate{
		"workload": {URIs: uris(t, "spiffe://td/ns/a/sa/client")},
		"names": {DNSNames: []string{"a.example.com", "b.example.com"}, EmailAddresses: []string{"e@example.com"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1), net.ParseIP("fd00::1")},
			Subject: pkix.Name{Country: []string{"DE"}, Organization: []string{"Acme, Inc"}, OrganizationalUnit: []string{"a+b", "c"}, CommonName: "x"}},
		"odd subject": {Subject: pkix.Name{CommonName: `cli;x=1 <y> #`, Locality: []string{" a "}, StreetAddress: []string{"#1"}, SerialNumber: "7",
			ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, Value: "a@b"}, {Type: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: "own"}}}},
		"not ASCII": {Subject: pkix.Name{CommonName: "Grüße"}},
		"bare":      {},
	} {
		pair := ca.make(c)
		if name == "names" { // the authority's own may be sent along
			pair.Certificate = append(pair.Certificate, ca.root.Raw)
		}
		clients[name] = &pair
	}
	origin := echoFields(t)
	socket := fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
      common_tls_context: {tls_params: {tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}, alpn_protocols: [http/1.1], tls_certificates: [{certificate_chain: {inline_string: %s}, private_key: {inline_string: %s}}],
      validation_context: {trusted_ca: {inline_string: %s}}}}}`, strconv.Quote(pemOf(server)), strconv.Quote(keyOf(t, server)), strconv.Quote(ca.pem))
	dir := t.TempDir()
	logTo := func(name string) string {
		return fmt.Sprintf(`, access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: %s,
        log_format: {text_format_source: {inline_string: %s}}}}]`, filepath.Join(dir, name), strconv.Quote("%REQ(x-case)%|%"+strings.Join(certOperators, "%|%")+"%\n"))
	}
	var managers []string
	for _, m := range certManagers {
		managers = append(managers, m+logTo("envoy.log"))
	}
	envoy := runEnvoy(t, origin, managers, socket)
	var cases []string
	for i, m := range certManagers {
		ours := serve(t, origin, "", `{match: {prefix: /}, route: {cluster: c}}`, "{"+m+logTo("ours.log")+"}", socket).addr
		for _, name := range []string{"none", "workload", "names", "odd subject", "not ASCII", "bare"} {
			for _, came := range []string{"", `By=spoof;Hash=1;Subject="a,b"`} {
				id := strconv.Itoa(len(cases))
				want, got := certSeen(t, envoy[i], clients[name], came, id), certSeen(t, ours, clients[name], came, id)
				if want != got {
					t.Errorf("%s, %s, %q:\nEnvoy %s\nours  %s", m, name, came, want, got)
				}
				cases = append(cases, m+", "+name)
			}
		}
	}
	compareLogs(t, dir, cases)
	t.Logf("%d cases", len(cases))
}

// compareLogs compares both logs when they have a line for every case.
func compareLogs(t *testing.T, dir string, cases []string) {
	t.Helper()
	read := func(name string) map[string][]string {
		byCase := make(map[string][]string)
		for len(byCase) < len(cases) {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				if strings.HasSuffix(line, "\n") {
					values := strings.Split(strings.TrimSuffix(line, "\n"), "|")
					byCase[values[0]] = values[1:]
				}
			}
			select {
			case <-t.Context().Done():
				t.Fatalf("%s has %d lines of %d", name, len(byCase), len(cases))
			case <-time.After(5 * time.Millisecond):
			}
		}
		return byCase
	}
	want, got := read("envoy.log"), read("ours.log")
	for n, what := range cases {
		id := strconv.Itoa(n)
		for i, operator := range certOperators {
			// A backslash, as a name's escapes have it, is escaped in our lines.
			if g := strings.ReplaceAll(got[id][i], `\x5c`, `\`); g != want[id][i] {
				t.Errorf("%s: %s is %q, Envoy's %q", what, operator, g, want[id][i])
			}
		}
	}
}

// certSeen sends a request over TLS and returns what the origin is told of the client.
func certSeen(t *testing.T, addr string, pair *stdtls.Certificate, came, id string) string {
	t.Helper()
	cfg := &stdtls.Config{InsecureSkipVerify: true, CipherSuites: []uint16{stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, MaxVersion: stdtls.VersionTLS12} //nolint:gosec // one suite on both sides
	if pair != nil {
		cfg.Certificates = []stdtls.Certificate{*pair}
	}
	transport := &nethttp.Transport{TLSClientConfig: cfg}
	defer transport.CloseIdleConnections()
	req, err := nethttp.NewRequestWithContext(t.Context(), nethttp.MethodGet, "https://"+addr+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-case", id)
	if came != "" {
		req.Header.Set("x-forwarded-client-cert", came)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out []string
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(body), "\n") {
		if strings.HasPrefix(line, "x-forwarded-client-cert:") || strings.HasPrefix(line, "x-forwarded-proto:") {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
