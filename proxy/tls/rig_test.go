// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"
)

// testCA signs what a real one would not.
type testCA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	next int64
}

func newTestCA(t testing.TB, name string) *testCA {
	t.Helper()
	key := newTestKey(t)
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(480 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{t: t, cert: cert, key: key, pem: certPEM(der), next: 100}
}

func newTestKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// issue signs a leaf for a SPIFFE ID; edit may change it before that.
func (ca *testCA) issue(id string, edit func(*x509.Certificate)) KeyPair {
	ca.t.Helper()
	key := newTestKey(ca.t)
	ca.next++
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(ca.next), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if id != "" {
		tmpl.URIs = []*url.URL{mustURL(ca.t, id)}
	}
	if edit != nil {
		edit(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return KeyPair{Chain: certPEM(der), Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}
}

// crl revokes serials.
func (ca *testCA) crl(next time.Time, serials ...*big.Int) []byte {
	ca.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: next}
	for _, s := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now().Add(-time.Hour)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

const (
	clientID = "spiffe://cluster.local/ns/shop/sa/web"
	serverID = "spiffe://cluster.local/ns/shop/sa/db"
)

// side is the secrets of one end.
type side struct {
	*Secrets
	cert, root *Secret
}

func newSide(t testing.TB, kp *KeyPair, ca *testCA) side {
	t.Helper()
	s := NewSecrets()
	out := side{s, s.Secret("default"), s.Secret("ROOTCA")}
	if kp != nil {
		if err := out.cert.SetKeyPair(*kp, "", "test"); err != nil {
			t.Fatal(err)
		}
	}
	if ca != nil {
		out.anchor(t, Anchors{CA: ca.pem})
	}
	return out
}

func (s side) anchor(t testing.TB, a Anchors) {
	t.Helper()
	if err := s.root.SetAnchors(a, "test"); err != nil {
		t.Fatal(err)
	}
}

func mustServer(t testing.TB, cfg ServerConfig) *Server {
	t.Helper()
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClient(t testing.TB, cfg ClientConfig, s *Secrets) *Client {
	t.Helper()
	c, err := NewClient(cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// socketPair returns both ends of a loopback connection.
func socketPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := ln.Accept()
		accepted <- c
	}()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server = <-accepted
	if server == nil {
		t.Fatal("nothing was accepted")
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// outcome is what the two ends of a handshake got.
type outcome struct {
	client, server       *Conn
	clientErr, serverErr error
}

// meet makes a connection and has both ends handshake on it. TLS 1.3 tells a
// client of the server's verdict only by its first read, so both ends
// exchange an octet.
func meet(t testing.TB, c *Client, s *Server, o ClientOptions) outcome {
	t.Helper()
	nc, ns := socketPair(t)
	return meetOver(t, c, s, o, nc, ns)
}

func meetOver(t testing.TB, c *Client, s *Server, o ClientOptions, nc, ns net.Conn) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out outcome
	done := make(chan struct{})
	go func() {
		defer close(done)
		if out.server, out.serverErr = s.Handshake(ctx, ns); out.serverErr != nil {
			ns.Close()
			return
		}
		if _, out.serverErr = out.server.Write([]byte{'s'}); out.serverErr == nil {
			_, out.serverErr = out.server.Read(make([]byte, 1))
		}
	}()
	if out.client, out.clientErr = c.Handshake(ctx, nc, o); out.clientErr != nil {
		nc.Close()
	} else if _, out.clientErr = out.client.Read(make([]byte, 1)); out.clientErr == nil {
		_, out.clientErr = out.client.Write([]byte{'c'})
	}
	<-done
	return out
}
