// SPDX-License-Identifier: Apache-2.0

package localca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func parseOne(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("no PEM: %q", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOpenAndWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	ca, made, err := Open(dir, "")
	if err != nil || !made || ca.TrustDomain() != "cluster.local" {
		t.Fatal(ca, made, err)
	}
	out, err := ca.Write(dir, "shop", "web")
	if err != nil || out != filepath.Join(dir, "shop", "web") {
		t.Fatal(out, err)
	}
	read := func(name string) []byte {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	first := read(ChainFile)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(read(RootFile))
	leaf := parseOne(t, first)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://cluster.local/ns/shop/sa/web" || ca.ID("shop", "web") != leaf.URIs[0].String() {
		t.Errorf("%v", leaf.URIs)
	}
	if st, err := os.Stat(filepath.Join(out, KeyFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode: %v, %v", st.Mode(), err)
	}
	// The CA is found again, and signs anew.
	again, made, err := Open(dir, "cluster.local")
	if err != nil || made || !bytes.Equal(again.Root(), ca.Root()) {
		t.Fatal(made, err)
	}
	if _, err := again.Write(dir, "shop", "web"); err != nil || bytes.Equal(read(ChainFile), first) {
		t.Errorf("not renewed: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(out, "*.tmp")); len(left) > 0 {
		t.Errorf("%v were left", left)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := Open(dir, "a.example"); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if _, _, err := Open(other, "a.example"); err != nil {
		t.Fatal(err)
	}
	refused := func(what, domain, want string) {
		t.Helper()
		if _, _, err := Open(dir, domain); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("another trust domain", "b.example", "holds a CA for the trust domain a.example")
	key, err := os.ReadFile(filepath.Join(other, rootKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, rootKeyFile)
	for _, step := range []struct {
		what string
		text []byte
		want string
	}{{"another CA's key", key, "is not the key of"}, {"garbage", []byte("x"), "is not PEM"}} {
		if err := os.WriteFile(path, step.text, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(step.what, "", step.want)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	refused("no key", "", "was not made by this command")
	for _, domain := range []string{"a b", "a/b", "a:80", "u@a", "a?b", "a\n"} {
		if _, err := New(domain); err == nil {
			t.Errorf("%q is a trust domain", domain)
		}
	}
}
