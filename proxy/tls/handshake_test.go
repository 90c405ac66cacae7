// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"testing"

	"pillion/proxy/match"
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
