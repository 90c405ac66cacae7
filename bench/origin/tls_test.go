// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"bufio"
	stdtls "crypto/tls"
	"os"
	"testing"

	"pillion/bench/pki"
	"pillion/bench/proc"
)

// TestSealed: both versions answer over mutual TLS, and nobody without a certificate.
func TestSealed(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g := proc.NewGroup()
	t.Cleanup(g.Close)
	certs, err := pki.Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o, err := StartSealed(g, self, nil, certs)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := certs.ClientConfig(pki.X25519)
	if err != nil {
		t.Fatal(err)
	}
	for v, addr := range o.Addrs {
		c := stdtls.Client(dial(t, addr), cfg)
		r := bufio.NewReader(c)
		for range 2 {
			if _, err := c.Write([]byte("GET / HTTP/1.1\r\nhost: x\r\n\r\n")); err != nil {
				t.Fatal(err)
			}
			answered(t, r, 200, Versions[v])
		}
	}
	cfg.Certificates = nil
	c := stdtls.Client(dial(t, o.Addrs[0]), cfg)
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nhost: x\r\n\r\n")); err == nil {
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes for a client without a certificate", n)
		}
	}
}
