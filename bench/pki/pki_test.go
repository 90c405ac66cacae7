// SPDX-License-Identifier: Apache-2.0

package pki

import (
	stdtls "crypto/tls"
	"net"
	"strings"
	"testing"
)

// handshake has a client and a server meet, on a socket, which takes an alert that
// nobody reads.
func handshake(t *testing.T, client, server *stdtls.Config) (cs stdtls.ConnectionState, err, serr error) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 1)
	go func() {
		errs <- stdtls.Server(b, server).HandshakeContext(t.Context())
		_ = b.Close()
	}()
	c := stdtls.Client(a, client)
	err = c.HandshakeContext(t.Context())
	cs = c.ConnectionState()
	_ = a.Close()
	return cs, err, <-errs
}

func configs(t *testing.T, s Set, g Group) (client, server *stdtls.Config) {
	t.Helper()
	client, err := s.ClientConfig(g)
	if err != nil {
		t.Fatal(err)
	}
	if server, err = s.ServerConfig(g); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestBothEndsAgree(t *testing.T) {
	s, err := Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range []Group{X25519, X25519MLKEM768} {
		client, server := configs(t, s, g)
		cs, err, serr := handshake(t, client, server)
		if err != nil || serr != nil {
			t.Fatalf("%s: %v, %v", g, err, serr)
		}
		leaf := cs.PeerCertificates[0]
		if leaf.URIs[0].String() != "spiffe://cluster.local/ns/bench/sa/server" || cs.CurveID != g.curve() {
			t.Errorf("%s: %v by %v", g, leaf.URIs, cs.CurveID)
		}
	}
}

// TestTheWrongPeerIsRefused: another CA's client, and a server of another key exchange.
func TestTheWrongPeerIsRefused(t *testing.T) {
	a, err := Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	stranger, _ := configs(t, b, X25519)
	client, server := configs(t, a, X25519)
	stranger.RootCAs = client.RootCAs
	if _, _, err := handshake(t, stranger, server); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("the server says %v to a client of another CA", err)
	}
	// It would do another key exchange than the one that is to be measured.
	lax := client.Clone()
	lax.CurvePreferences = nil
	_, pq := configs(t, a, X25519MLKEM768)
	if _, err, _ := handshake(t, lax, pq); err == nil || !strings.Contains(err.Error(), "key exchange is X25519MLKEM768") {
		t.Errorf("the client says %v to another key exchange", err)
	}
}

func TestMissingFiles(t *testing.T) {
	s := Set{Client: Workload{Name: "client", Dir: t.TempDir()}}
	if _, err := s.ClientConfig(X25519); err == nil || !strings.Contains(err.Error(), "cert-chain.pem") {
		t.Errorf("error %v, want one that names the file", err)
	}
}
