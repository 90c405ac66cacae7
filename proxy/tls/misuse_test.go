// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/fips140"
	"crypto/sha256"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"pillion/proxy/match"
	"pillion/test/need"
)

// counts are the counters of failures, in the order of their names.
type counts struct{ connectionError, noCert, verify, san, hash uint64 }

func (s *Stats) counts() counts {
	return counts{s.connectionError.Value(), s.failNoCert.Value(), s.failError.Value(), s.failSAN.Value(), s.failHash.Value()}
}

// TestClientCertificates: what a client may show a server that is strict. The
// reference is what a server of crypto/tls, or BoringSSL, says to the same.
func TestClientCertificates(t *testing.T) {
	ca, other := newTestCA(t, "root"), newTestCA(t, "other")
	skp := ca.issue(serverID, nil)
	_, pinned := ca.issue(clientID, nil), ca.issue(clientID, nil)
	revoked := ca.issue(clientID, nil)
	revokedSerial := leafOf(t, revoked).SerialNumber
	pin := sha256.Sum256(leafOf(t, pinned).Raw)
	spkiPin := sha256.Sum256(leafOf(t, pinned).RawSubjectPublicKeyInfo)
	long := ca.issue(clientID, nil)
	for range 200 {
		long.Chain = append(long.Chain, other.issue("", nil).Chain...)
	}

	mesh := func(*Validation) {} // as Istio has it
	tests := []struct {
		name   string
		kp     *KeyPair
		valid  func(*Validation)
		reason string // in the server's error; empty: it succeeds
		want   counts
		alert  string // what the client is told
	}{
		{name: "good", kp: at(ca.issue(clientID, nil)), valid: mesh},
		{name: "none", valid: mesh, reason: "PEER_DID_NOT_RETURN_A_CERTIFICATE", want: counts{connectionError: 1, noCert: 1}, alert: "certificate required"},
		{name: "foreign CA", kp: at(other.issue(clientID, nil)), valid: mesh, reason: "unable to get local issuer certificate", want: counts{connectionError: 1, verify: 1}, alert: "bad certificate"},
		{name: "expired", kp: at(ca.issue(clientID, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), valid: mesh,
			reason: "certificate has expired", want: counts{connectionError: 1, verify: 1}, alert: "bad certificate"},
		{name: "not yet valid", kp: at(ca.issue(clientID, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })), valid: mesh,
			reason: "certificate is not yet valid", want: counts{connectionError: 1, verify: 1}, alert: "bad certificate"},
		{name: "other trust domain", kp: at(ca.issue("spiffe://evil.local/ns/shop/sa/web", nil)), valid: mesh, reason: "verify SAN list", want: counts{connectionError: 1, san: 1}, alert: "bad certificate"},
		{name: "prefix of the trust domain", kp: at(ca.issue("spiffe://cluster.local.evil/ns/shop/sa/web", nil)), valid: mesh, reason: "verify SAN list", want: counts{connectionError: 1, san: 1}, alert: "bad certificate"},
		{name: "two URIs", kp: at(ca.issue(clientID, func(c *x509.Certificate) {
			c.URIs = append(c.URIs, mustURL(t, "spiffe://cluster.local/ns/kube-system/sa/admin"))
		})),
			valid: mesh, reason: "exactly one URI", want: counts{connectionError: 1, san: 1}, alert: "bad certificate"},
		{name: "another URI first", kp: at(ca.issue(clientID, func(c *x509.Certificate) { c.URIs = []*url.URL{mustURL(t, "https://x.example"), c.URIs[0]} })),
			valid: mesh, reason: "exactly one URI", want: counts{connectionError: 1, san: 1}, alert: "bad certificate"},
		{name: "dots in the path", kp: at(ca.issue("spiffe://cluster.local/ns/shop/../sa/web", nil)), valid: mesh, reason: "verify SAN list", want: counts{connectionError: 1, san: 1}, alert: "bad certificate"},
		{name: "escapes in the path", kp: at(ca.issue("spiffe://cluster.local/ns/shop%2fsa%2fweb", nil)), valid: mesh, reason: "verify SAN list", want: counts{connectionError: 1, san: 1}, alert: "bad certificate"},
		{name: "NUL in a name", kp: at(ca.issue("", func(c *x509.Certificate) { c.DNSNames = []string{"db.shop\x00.evil.example"} })), reason: "control character",
			valid: func(v *Validation) {
				v.SANs = []SANMatcher{{Type: SANDNS, Match: match.NewString(match.Prefix, "db.shop", false)}}
			}, want: counts{connectionError: 1, san: 1}, alert: "bad certificate"},
		{name: "NUL in a URI", kp: at(ca.issue("", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{sanExtension("spiffe://cluster.local/ns/shop\x00/sa/web")}
		})), valid: mesh, reason: "CANNOT_PARSE_LEAF_CERT", want: counts{connectionError: 1, verify: 1}, alert: "error decoding message"},
		{name: "common name only", kp: at(ca.issue("", func(c *x509.Certificate) { c.Subject.CommonName = clientID })), valid: mesh, reason: "verify SAN list", want: counts{connectionError: 1, san: 1}, alert: "bad certificate"},
		{name: "for servers only", kp: at(ca.issue(clientID, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), valid: mesh,
			reason: "unsupported certificate purpose", want: counts{connectionError: 1, verify: 1}, alert: "bad certificate"},
		{name: "a CA's", kp: at(ca.issue(clientID, func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		})), valid: mesh,
			reason: "that of a CA", want: counts{connectionError: 1, verify: 1}, alert: "bad certificate"},
		{name: "200 certificates", kp: &long, valid: mesh, reason: "certificate chain too long", want: counts{connectionError: 1, verify: 1}, alert: "bad certificate"},
		{name: "revoked", kp: &revoked, valid: func(v *Validation) { v.CRL = ca.crl(time.Now().Add(time.Hour), revokedSerial) },
			reason: "certificate revoked", want: counts{connectionError: 1, verify: 1}, alert: "bad certificate"},
		{name: "not revoked", kp: at(ca.issue(clientID, nil)), valid: func(v *Validation) { v.CRL = ca.crl(time.Now().Add(time.Hour), revokedSerial) }},
		{name: "CRL out of date", kp: at(ca.issue(clientID, nil)), valid: func(v *Validation) { v.CRL = ca.crl(time.Now().Add(-time.Hour)) },
			reason: "CRL has expired", want: counts{connectionError: 1, verify: 1}, alert: "bad certificate"},
		{name: "CRL of another CA", kp: at(ca.issue(clientID, nil)), valid: func(v *Validation) { v.CRL = other.crl(time.Now().Add(time.Hour)) },
			reason: "unable to get certificate CRL", want: counts{connectionError: 1, verify: 1}, alert: "bad certificate"},
		{name: "hash pinned", kp: &pinned, valid: func(v *Validation) { v.Hashes = append(v.Hashes, pin) }},
		{name: "hash of another", kp: at(ca.issue(clientID, nil)), valid: func(v *Validation) { v.Hashes = append(v.Hashes, pin) },
			reason: "cert hash and spki", want: counts{connectionError: 1, hash: 1}, alert: "bad certificate"},
		{name: "key pinned", kp: &pinned, valid: func(v *Validation) { v.SPKIs = append(v.SPKIs, spkiPin) }},
		{name: "too deep", kp: at(ca.issue(clientID, nil)), valid: func(v *Validation) { v.MaxDepth = new(int) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ss := newSide(t, &skp, ca)
			v := &Validation{Anchors: ss.root, SANs: []SANMatcher{{Match: match.NewString(match.Prefix, "spiffe://cluster.local/", false)}}}
			tt.valid(v)
			s := mustServer(t, ServerConfig{Certificates: []*Secret{ss.cert}, RequireClientCertificate: true, Validation: v})
			cfg := &stdtls.Config{InsecureSkipVerify: true}
			if tt.kp != nil {
				cfg = shows(rawPair(t, *tt.kp))
			}
			conn, serverErr, clientErr := strictMeet(t, s, cfg)
			if tt.reason == "" {
				if serverErr != nil || clientErr != nil || !conn.Info().PeerVerified {
					t.Fatalf("server %v, client %v", serverErr, clientErr)
				}
				return
			}
			if serverErr == nil || !strings.Contains(serverErr.Error(), tt.reason) {
				t.Errorf("server: %v", serverErr)
			}
			if clientErr == nil || !strings.Contains(clientErr.Error(), tt.alert) {
				t.Errorf("client: %v, want the alert %q", clientErr, tt.alert)
			}
			if got := s.Stats().counts(); got != tt.want {
				t.Errorf("counted %+v, want %+v", got, tt.want)
			}
		})
	}
}

func at(kp KeyPair) *KeyPair { return &kp }

func leafOf(t testing.TB, kp KeyPair) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(kp.Chain)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rawPair is what a client that checks nothing of its own would send.
func rawPair(t testing.TB, kp KeyPair) stdtls.Certificate {
	t.Helper()
	var c stdtls.Certificate
	for rest := kp.Chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c.Certificate = append(c.Certificate, block.Bytes)
	}
	block, _ := pem.Decode(kp.Key)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	c.PrivateKey = key.(*ecdsa.PrivateKey)
	return c
}

// shows makes a client that sends the certificate whatever the server asks for.
func shows(c stdtls.Certificate) *stdtls.Config {
	return &stdtls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*stdtls.CertificateRequestInfo) (*stdtls.Certificate, error) { return &c, nil }}
}

// sanExtension is a subjectAltName of one URI that no library would write.
func sanExtension(uri string) pkix.Extension {
	value := append([]byte{0x30, byte(len(uri) + 2), 0x86, byte(len(uri))}, uri...)
	return pkix.Extension{Id: []int{2, 5, 29, 17}, Value: value}
}

// strictMeet has a client of crypto/tls connect, and returns what it is told.
func strictMeet(t testing.TB, s *Server, cfg *stdtls.Config) (*Conn, error, error) {
	t.Helper()
	nc, ns := socketPair(t)
	type result struct {
		conn *Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := s.Handshake(t.Context(), ns)
		if err == nil {
			_, err = conn.Write([]byte{'s'})
		} else {
			// The client may still be writing: a close would reset the alert away.
			_ = ns.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, ns)
		}
		done <- result{conn, err}
	}()
	c := stdtls.Client(nc, cfg)
	clientErr := c.Handshake()
	if clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	}
	nc.Close()
	r := <-done
	return r.conn, r.err, clientErr
}

// TestServerCertificates: a server that is somebody else is refused before a
// byte is sent to it.
func TestServerCertificates(t *testing.T) {
	ca, other := newTestCA(t, "root"), newTestCA(t, "other")
	ckp := ca.issue(clientID, nil)
	spiffeSAN := []SANMatcher{exactSAN(serverID)}
	tests := []struct {
		name   string
		kp     KeyPair
		opts   ClientOptions
		valid  func(*Validation)
		cfg    func(*ClientConfig)
		reason string
	}{
		{name: "good", kp: ca.issue(serverID, nil), valid: func(v *Validation) { v.SANs = spiffeSAN }},
		{name: "another service", kp: ca.issue("spiffe://cluster.local/ns/shop/sa/other", nil), valid: func(v *Validation) { v.SANs = spiffeSAN }, reason: "verify SAN list"},
		{name: "a DNS name instead", kp: ca.issue("", func(c *x509.Certificate) { c.DNSNames = []string{"db.shop"} }), valid: func(v *Validation) { v.SANs = spiffeSAN }, reason: "verify SAN list"},
		{name: "foreign CA", kp: other.issue(serverID, nil), reason: "unable to get local issuer"},
		{name: "foreign CA accepted", kp: other.issue(serverID, nil), valid: func(v *Validation) { v.AcceptUntrusted = true }},
		{name: "for clients only", kp: ca.issue(serverID, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), reason: "purpose"},
		{name: "wildcard", kp: ca.issue("", func(c *x509.Certificate) { c.DNSNames = []string{"*.shop"} }), valid: func(v *Validation) { v.SANs = []SANMatcher{exactSAN("db.shop")} }},
		{name: "wildcard of two labels", kp: ca.issue("", func(c *x509.Certificate) { c.DNSNames = []string{"*.shop"} }), valid: func(v *Validation) { v.SANs = []SANMatcher{exactSAN("a.db.shop")} }, reason: "verify SAN list"},
		{name: "host of the request", kp: ca.issue("", func(c *x509.Certificate) { c.DNSNames = []string{"api.example.com"} }), opts: ClientOptions{ServerName: "api.example.com", VerifySAN: "api.example.com"}},
		{name: "host of another", kp: ca.issue("", func(c *x509.Certificate) { c.DNSNames = []string{"api.example.com"} }), opts: ClientOptions{ServerName: "api.example.com", VerifySAN: "evil.example.com"}, reason: "no name of the certificate"},
		{name: "SNI as SAN", kp: ca.issue("", func(c *x509.Certificate) { c.DNSNames = []string{"db.example.com"} }), cfg: func(c *ClientConfig) { c.AutoSNISAN, c.ServerName = true, "db.example.com" }},
		{name: "SNI not as SAN", kp: ca.issue("", func(c *x509.Certificate) { c.DNSNames = []string{"db.example.com"} }), cfg: func(c *ClientConfig) { c.AutoSNISAN, c.ServerName = true, "x.example.com" }, reason: "no name of the certificate"},
		{name: "address", kp: ca.issue("", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }), opts: ClientOptions{VerifySAN: "10.0.0.1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cs, ss := newSide(t, &ckp, ca), newSide(t, &tt.kp, ca)
			v := &Validation{Anchors: cs.root}
			if tt.valid != nil {
				tt.valid(v)
			}
			cfg := ClientConfig{Certificates: []*Secret{cs.cert}, Validation: v}
			if tt.cfg != nil {
				tt.cfg(&cfg)
			}
			c := mustClient(t, cfg, cs.Secrets)
			s := mustServer(t, ServerConfig{Certificates: []*Secret{ss.cert}})
			for range 2 { // the second time the verdict is remembered
				o := meet(t, c, s, tt.opts)
				switch {
				case tt.reason == "" && o.clientErr != nil:
					t.Fatal(o.clientErr)
				case tt.reason != "" && (o.clientErr == nil || !strings.Contains(o.clientErr.Error(), tt.reason)):
					t.Fatalf("client: %v", o.clientErr)
				case tt.reason == "" && o.client.Info().PeerVerified == v.AcceptUntrusted:
					t.Errorf("verified: %v", o.client.Info().PeerVerified)
				}
			}
		})
	}
}

// TestTrustDomains: each trust domain has anchors of its own, so that one CA
// can't sign for another's workloads.
func TestTrustDomains(t *testing.T) {
	a, b := newTestCA(t, "a"), newTestCA(t, "b")
	skp := a.issue("spiffe://a.example/server", nil)
	for _, tt := range []struct {
		name   string
		kp     KeyPair
		reason string
	}{
		{"own domain", a.issue("spiffe://a.example/x", nil), ""},
		{"federated domain", b.issue("spiffe://b.example/x", nil), ""},
		{"another's domain", b.issue("spiffe://a.example/x", nil), "unable to get local issuer"},
		{"unknown domain", b.issue("spiffe://c.example/x", nil), "no trust bundle for the trust domain c.example"},
		{"no ID", a.issue("", nil), "exactly one URI"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ss := newSide(t, &skp, nil)
			ss.anchor(t, Anchors{TrustDomains: map[string][]byte{"a.example": a.pem, "b.example": b.pem}})
			s := mustServer(t, ServerConfig{Certificates: []*Secret{ss.cert}, RequireClientCertificate: true, Validation: &Validation{Anchors: ss.root}})
			_, err, _ := strictMeet(t, s, shows(rawPair(t, tt.kp)))
			if (err == nil) != (tt.reason == "") || err != nil && !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestProtocolMisuse: whatever isn't TLS 1.2 or 1.3 by the book ends with an
// alert or with the connection.
func TestProtocolMisuse(t *testing.T) {
	ca := newTestCA(t, "root")
	skp := ca.issue(serverID, nil)
	ss := newSide(t, &skp, ca)
	newServer := func(edit func(*ServerConfig)) *Server {
		cfg := ServerConfig{Certificates: []*Secret{ss.cert}, ALPN: []string{"h2", "http/1.1"}}
		if edit != nil {
			edit(&cfg)
		}
		return mustServer(t, cfg)
	}
	t.Run("TLS 1.1", func(t *testing.T) {
		if fips140.Enabled() {
			return // this client couldn't speak it either
		}
		s := newServer(nil)
		_, err, told := strictMeet(t, s, &stdtls.Config{InsecureSkipVerify: true, MinVersion: stdtls.VersionTLS10, MaxVersion: stdtls.VersionTLS11})
		if err == nil || !strings.Contains(err.Error(), "UNSUPPORTED_PROTOCOL") || told == nil || !strings.Contains(told.Error(), "protocol version") {
			t.Errorf("server %v, client %v", err, told)
		}
		if s.Stats().connectionError.Value() != 1 {
			t.Error("not counted")
		}
	})
	t.Run("no common suite", func(t *testing.T) {
		s := newServer(func(c *ServerConfig) { c.CipherSuites, c.Max = []string{"ECDHE-ECDSA-AES256-GCM-SHA384"}, Version12 })
		_, err, told := strictMeet(t, s, &stdtls.Config{InsecureSkipVerify: true, CipherSuites: []uint16{stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}})
		if err == nil || !strings.Contains(err.Error(), "NO_SHARED_CIPHER") || told == nil || !strings.Contains(told.Error(), "handshake failure") {
			t.Errorf("server %v, client %v", err, told)
		}
	})
	t.Run("no common ALPN", func(t *testing.T) {
		// Envoy goes on without a protocol; Istio relies on that.
		conn, err, told := strictMeet(t, newServer(nil), &stdtls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}})
		if err != nil || told != nil || conn.Info().ALPN != "" {
			t.Errorf("server %v, client %v", err, told)
		}
	})
	t.Run("no SNI", func(t *testing.T) {
		s := newServer(func(c *ServerConfig) { c.RequireSNI = true })
		if _, err, _ := strictMeet(t, s, &stdtls.Config{InsecureSkipVerify: true}); err == nil || !strings.Contains(err.Error(), "MISSING_SNI") {
			t.Errorf("server %v", err)
		}
	})
	for name, text := range map[string]string{
		"HTTP":             "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"SSLv2":            "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80" + strings.Repeat("\x00", 40),
		"truncated record": "\x16\x03\x01\x02\x00\x01\x00\x01",
		"oversized record": "\x16\x03\x01\xff\xff" + strings.Repeat("\x00", 1024),
		"empty records":    strings.Repeat("\x16\x03\x01\x00\x00", 100),
		"only an alert":    "\x15\x03\x01\x00\x02\x02\x28",
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(nil)
			nc, ns := socketPair(t)
			if _, err := nc.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			_ = nc.(*net.TCPConn).CloseWrite()
			if _, err := s.Handshake(t.Context(), ns); err == nil {
				t.Error("taken for a handshake")
			} else if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("%T %v", err, err)
			}
		})
	}
}

// TestHalfOpen: clients that never finish cost nothing once their time is up.
func TestHalfOpen(t *testing.T) {
	ca := newTestCA(t, "root")
	skp := ca.issue(serverID, nil)
	ss := newSide(t, &skp, ca)
	s := mustServer(t, ServerConfig{Certificates: []*Secret{ss.cert}})
	ctx, cancel := context.WithCancel(t.Context())
	const n = 200
	var wg sync.WaitGroup
	for i := range n {
		nc, ns := socketPair(t)
		if i%2 == 0 { // half of a record
			if _, err := nc.Write([]byte("\x16\x03\x01\x02\x00\x01\x00")); err != nil {
				t.Fatal(err)
			}
		}
		wg.Go(func() {
			_, err := s.Handshake(ctx, ns)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Kind != KindTimeout || !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		})
	}
	cancel()
	wg.Wait()
	if got := s.Stats().unfinished.Value(); got != n {
		t.Errorf("%d of %d counted", got, n)
	}
}

// TestRenegotiationRefused: a TLS 1.2 client that asks for another handshake
// is told no and loses the connection.
func TestRenegotiationRefused(t *testing.T) {
	openssl := need.Program(t, "openssl")
	ca := newTestCA(t, "root")
	skp := ca.issue(serverID, nil)
	ss := newSide(t, &skp, ca)
	s := mustServer(t, ServerConfig{Certificates: []*Secret{ss.cert}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := exec.CommandContext(t.Context(), openssl, "s_client", "-connect", ln.Addr().String(), "-tls1_2", "-msg")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	conn, err := s.Handshake(t.Context(), nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write([]byte("R\n")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 10)); err == nil {
		t.Errorf("%d bytes read", n)
	}
	conn.Close()
	_ = cmd.Wait() // it fails, as it should
	if !strings.Contains(out.String(), "RENEGOTIATING") || !strings.Contains(strings.ToLower(out.String()), "alert") {
		t.Errorf("openssl printed\n%s", out.String())
	}
	if c := mustClient(t, ClientConfig{}, ss.Secrets); c.base.Renegotiation != stdtls.RenegotiateNever {
		t.Error("a client would do it")
	}
}

func TestBadSecretsRefused(t *testing.T) {
	ca := newTestCA(t, "root")
	good, other := ca.issue(serverID, nil), ca.issue(serverID, nil)
	for name, tt := range map[string]struct {
		kp   KeyPair
		want string
		err  string
	}{
		"mixed":        {KeyPair{good.Chain, other.Key}, "", "private key does not match"},
		"garbage":      {KeyPair{[]byte("x"), good.Key}, "", "certificate and key"},
		"nothing":      {KeyPair{}, "", "there is no certificate"},
		"no key":       {KeyPair{Chain: good.Chain}, "", "there is no private key"},
		"expired":      {ca.issue(serverID, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "", "has expired"},
		"too early":    {ca.issue(serverID, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "", "not valid before"},
		"another's":    {good, clientID, "not for"},
		"one too many": {ca.issue(serverID, func(c *x509.Certificate) { c.URIs = append(c.URIs, mustURL(t, clientID)) }), serverID, "not for"},
	} {
		s := NewSecrets().Secret("default")
		if err := s.SetKeyPair(good, serverID, "test"); err != nil {
			t.Fatal(err)
		}
		before := s.now.Load()
		if err := s.SetKeyPair(tt.kp, tt.want, "test"); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v", name, err)
		}
		if st := s.Status(); s.now.Load() != before || st.Failures != 1 || !strings.Contains(st.LastError, tt.err) {
			t.Errorf("%s: %+v", name, st)
		}
	}
	for name, a := range map[string]Anchors{
		"nothing":     {},
		"garbage":     {CA: []byte("x")},
		"a key":       {CA: good.Key},
		"bad CRL":     {CA: ca.pem, CRL: []byte("x")},
		"bad domain":  {TrustDomains: map[string][]byte{"A b": ca.pem}},
		"bad anchors": {TrustDomains: map[string][]byte{"a": nil}},
	} {
		if err := NewSecrets().Secret("ROOTCA").SetAnchors(a, "test"); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
