// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"net"
	"slices"
	"strings"
	"testing"

	"pillion/test/lab"
	"pillion/test/rig"
)

// TestSealedByIstiod: both proxies have their certificates from a real istiod, each by the
// token of its own service account, and meet under STRICT.
func TestSealedByIstiod(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, lab.Options{})
	_, port, err := net.SplitHostPort(l.Ports.Secure)
	if err != nil {
		t.Fatal(err)
	}
	byToken := func(t testing.TB, flags []string, paths ...string) *rig.Proxy {
		t.Helper()
		account := flags[slices.Index(flags, "--service-account")+1]
		certs := slices.Index(flags, "--certs")
		flags = slices.Replace(slices.Clone(flags), certs, certs+2,
			"--ca", "localhost:"+port, "--ca-root", l.RootCert(), "--token", l.Token("shop", account))
		return startOurs(t, flags, paths...)
	}
	m := startSealedWith(t, "STRICT", "", byToken, byToken)
	for _, port := range []int{80, 84} {
		r := m.get(t, port, "")
		if r.Status != 200 || !strings.Contains(string(r.Body), "URI="+webID) || !strings.Contains(string(r.Body), "By="+dbID) {
			t.Errorf("port %d: %d %q", port, r.Status, r.Body)
		}
	}
	if name, err := meet(m.tcp, nil); err != nil || name != "db" {
		t.Errorf("TCP: %q, %v", name, err)
	}
	var page struct {
		Certificates []struct {
			Chain []struct {
				Names []struct{ URI string } `json:"subject_alt_names"`
			} `json:"cert_chain"`
		}
	}
	if err := json.Unmarshal([]byte(m.db.Get(t, "/certs")), &page); err != nil {
		t.Fatal(err)
	}
	shown := false
	for _, c := range page.Certificates {
		// The leaf comes with istiod's intermediate.
		shown = shown || len(c.Chain) == 2 && len(c.Chain[0].Names) == 1 && c.Chain[0].Names[0].URI == dbID
	}
	if !shown {
		t.Errorf("/certs: %+v", page)
	}
}
