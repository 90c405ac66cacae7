// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pillion/proxy/match"
	"pillion/proxy/stats"
)

// mesh is a pair of contexts that trust each other.
func mesh(t testing.TB, ca *testCA) (c *Client, s *Server, cs, ss side) {
	t.Helper()
	ckp, skp := ca.issue(clientID, nil), ca.issue(serverID, nil)
	cs, ss = newSide(t, &ckp, ca), newSide(t, &skp, ca)
	c = mustClient(t, ClientConfig{Certificates: []*Secret{cs.cert}, ServerName: "db.shop", ALPN: []string{"istio", "h2"},
		Validation: &Validation{Anchors: cs.root, SANs: []SANMatcher{exactSAN(serverID)}}}, cs.Secrets)
	s = mustServer(t, ServerConfig{Certificates: []*Secret{ss.cert}, RequireClientCertificate: true, ALPN: []string{"h2", "http/1.1"},
		Validation: &Validation{Anchors: ss.root, SANs: []SANMatcher{{Match: match.NewString(match.Prefix, "spiffe://cluster.local/", false)}}}})
	return c, s, cs, ss
}

func exactSAN(v string) SANMatcher {
	return SANMatcher{Match: match.NewString(match.Exact, v, false), Exact: v}
}

func TestMutual(t *testing.T) {
	c, s, _, _ := mesh(t, newTestCA(t, "root"))
	for i := range 3 {
		o := meet(t, c, s, ClientOptions{})
		// Each connection comes from another port but goes to another, too, so
		// none is resumed here; TestResumption has that.
		if o.clientErr != nil || o.serverErr != nil {
			t.Fatalf("%d: client %v, server %v", i, o.clientErr, o.serverErr)
		}
		ci, si := o.client.Info(), o.server.Info()
		if ci.ALPN != "h2" || si.ALPN != "h2" || ci.Version != "TLSv1.3" || !ci.PeerVerified || !si.PeerVerified {
			t.Errorf("client %+v, server %+v", ci, si)
		}
		if ci.Peer.URIs[0] != serverID || si.Peer.URIs[0] != clientID || ci.Own.URIs[0] != clientID || si.Own.URIs[0] != serverID {
			t.Errorf("client sees %v as %v, server %v as %v", ci.Peer.URIs, ci.Own.URIs, si.Peer.URIs, si.Own.URIs)
		}
		if o.server.ServerName() != "db.shop" || curveName(o.server.curve) != "X25519MLKEM768" {
			t.Errorf("SNI %q, curve %s", o.server.ServerName(), curveName(o.server.curve))
		}
	}
	if n := s.Stats().handshake.Value(); n != 3 {
		t.Errorf("%d handshakes counted", n)
	}
}

// TestStatNames: Envoy's names, and one series for each secret.
func TestStatNames(t *testing.T) {
	ca := newTestCA(t, "root")
	c, s, _, ss := mesh(t, ca)
	if o := meet(t, c, s, ClientOptions{}); o.serverErr != nil {
		t.Fatal(o.serverErr)
	}
	err := ss.cert.SetKeyPair(KeyPair{}, "", "test")
	if err == nil {
		t.Fatal("nothing is a certificate")
	}
	ss.cert.Fail("test", fmt.Errorf("a source failed: %w", err)) // which it was told, and has counted
	other := ss.NewSecret("other")
	other.Fail("test", err)
	other.Fail("test", errors.New("its own"))
	if st := other.Status(); st.Failures != 2 {
		t.Errorf("another secret has %+v", st)
	}
	r := stats.NewRegistry()
	r.Add(ss.Secrets)
	r.Add(stats.SourceFunc(func(e *stats.Emitter) { s.Stats().Report(e.Listener("127.0.0.1:1")) }))
	var out strings.Builder
	if err := r.Write(&out, false, stats.Query{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`envoy_listener_ssl_handshake{envoy_listener_address="127.0.0.1_1"} 1`,
		`envoy_listener_ssl_fail_verify_san{envoy_listener_address="127.0.0.1_1"} 0`,
		`ssl_ciphers_TLS_AES_128_GCM_SHA256{`, `ssl_versions_TLSv1_3{`, `ssl_curves_X25519MLKEM768{`,
		`envoy_server_days_until_first_cert_expiring 0`,
		`pillion_secret_updates_total{secret="default",source="test"} 1`,
		`pillion_secret_failures_total{secret="default",source="test"} 1`,
		`pillion_secret_expiration_timestamp_seconds{secret="ROOTCA",source="test"} `,
		`pillion_secret_updated_timestamp_seconds{secret="default",source="test"} `,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
}
