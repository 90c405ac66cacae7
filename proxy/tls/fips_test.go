// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto/fips140"
	"os"
	"strings"
	"testing"
)

// TestFIPS: `make fips` builds with Go's FIPS 140-3 module and says so by
// PILLION_FIPS; the module has then to be in force, and what isn't approved
// must not be negotiated.
func TestFIPS(t *testing.T) {
	want := os.Getenv("PILLION_FIPS") == "on"
	if fips140.Enabled() != want {
		t.Fatalf("FIPS 140-3 mode: %v, want %v", fips140.Enabled(), want)
	}
	ca := newTestCA(t, "root")
	c, s, cs, ss := mesh(t, ca)
	if o := meet(t, c, s, ClientOptions{}); o.clientErr != nil || o.serverErr != nil || !strings.Contains(o.client.Info().CipherSuite, "AES") {
		t.Errorf("client %v, server %v", o.clientErr, o.serverErr)
	}
	chacha := Params{Max: Version12, CipherSuites: []string{"ECDHE-ECDSA-CHACHA20-POLY1305"}}
	c = mustClient(t, ClientConfig{Params: chacha}, cs.Secrets)
	s = mustServer(t, ServerConfig{Params: chacha, Certificates: []*Secret{ss.cert}})
	if o := meet(t, c, s, ClientOptions{}); (o.clientErr != nil) != want {
		t.Errorf("ChaCha20-Poly1305 in FIPS mode %v: client %v, server %v", want, o.clientErr, o.serverErr)
	}
}
