// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"pillion/test/rig"
)

// servedCertificates returns path → serial number from /certs.
func servedCertificates(t *testing.T, p *rig.Proxy) map[string]string {
	t.Helper()
	type details struct {
		Path   string `json:"path"`
		Serial string `json:"serial_number"`
	}
	var page struct {
		Certificates []struct {
			CA    []details `json:"ca_cert"`
			Chain []details `json:"cert_chain"`
		}
	}
	if err := json.Unmarshal([]byte(p.Get(t, "/certs")), &page); err != nil {
		t.Fatalf("/certs: %v", err)
	}
	serials := map[string]string{}
	for _, c := range page.Certificates {
		for _, d := range append(c.CA, c.Chain...) {
			serials[d.Path] = d.Serial
		}
	}
	return serials
}

// TestCertsInit: what `certs init` makes is what `run --certs` takes, and a
// renewal is served while the proxy runs.
func TestCertsInit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "certs")
	init := func(want string) {
		t.Helper()
		out, stderr, code := command(t, "", "certs", "init", dir, "--workload", "shop/web")
		if code != 0 || !strings.Contains(out, want) {
			t.Fatalf("exit code %d, %s%s", code, out, stderr)
		}
	}
	init("new CA for the trust domain cluster.local")
	own := filepath.Join(dir, "shop", "web")
	p := rig.Start(t, binaries.Static(t), rig.Options{Args: []string{"--certs", own}}, referenceFiles(t, "10"))
	chain, root := filepath.Join(own, "cert-chain.pem"), filepath.Join(own, "root-cert.pem")
	first := servedCertificates(t, p)
	if len(first) != 2 || first[chain] == "" || first[root] == "" {
		t.Fatalf("served: %v", first)
	}
	init("spiffe://cluster.local/ns/shop/sa/web")
	rig.Until(t, "the renewed certificate is served", func() error {
		switch now := servedCertificates(t, p); {
		case now[chain] == first[chain]:
			return fmt.Errorf("it is still the first one, %s", first[chain])
		case now[root] != first[root]:
			return fmt.Errorf("the root is another one, %v", now)
		}
		return nil
	})
	dump := p.Get(t, "/config_dump?resource=dynamic_active_secrets")
	if !strings.Contains(dump, `"name": "default"`) || strings.Contains(dump, "PRIVATE KEY") {
		t.Errorf("/config_dump: %s", dump)
	}
	if got := p.Scrape(t).Sum("pillion_secret_updates_total", "secret=default"); got != 2 {
		t.Errorf("%v updates of the certificate, want 2", got)
	}
}
