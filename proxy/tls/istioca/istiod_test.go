// SPDX-License-Identifier: Apache-2.0

package istioca_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pillion/proxy/tls"
	"pillion/proxy/tls/istioca"
	"pillion/proxy/tls/renew"
	"pillion/proxy/tls/renew/renewtest"
	"pillion/test/lab"
	"pillion/test/lab/kube"
	"pillion/test/rig"
)

const webID = "spiffe://cluster.local/ns/shop/sa/web"

// client is a source at a real istiod, and what it has filled.
type client struct {
	*istioca.Source
	certificate, roots *tls.Secret
	log                renewtest.Log
}

// ask runs a source until the test ends.
func ask(t *testing.T, l *lab.Rig, o istioca.Options) *client {
	t.Helper()
	secrets := tls.NewSecrets()
	c := &client{certificate: secrets.Secret("default"), roots: secrets.Secret("ROOTCA")}
	_, port, err := net.SplitHostPort(l.Ports.Secure)
	if err != nil {
		t.Fatal(err)
	}
	// "localhost" is where a proxy finds an istiod that shows istiod's name.
	o.Addr, o.RootFile, o.ClusterID = "localhost:"+port, l.RootCert(), lab.ClusterID
	if o.ID == "" {
		o.ID = webID
	}
	o.Certificate, o.Roots, o.Logger = c.certificate, c.roots, c.log.Logger()
	if c.Source, err = istioca.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

// leaf waits for the n-th certificate.
func (c *client) leaf(t *testing.T, n uint64) *x509.Certificate {
	t.Helper()
	rig.Until(t, fmt.Sprintf("certificate %d has come", n), func() error {
		if st := c.Status().Snapshot(); st.Updates < n {
			return fmt.Errorf("%d came; the last error is %v", st.Updates, st.LastError)
		}
		return nil
	})
	return c.certificate.Status().Chain[0]
}

// rootsOf reads the mesh's root where the operator has it.
func rootsOf(t *testing.T, path string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatalf("%s holds no certificate", path)
	}
	return pool
}

// TestIstiodSignsCSR asks a real istiod, which signs with an intermediate.
func TestIstiodSignsCSR(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, lab.Options{})
	roots := rootsOf(t, l.RootCert())
	for _, tc := range []struct {
		name string
		kind istioca.KeyKind
		good func(public any) bool
	}{
		{"RSA-2048", istioca.RSA2048, func(public any) bool { k, ok := public.(*rsa.PublicKey); return ok && k.N.BitLen() == 2048 }},
		{"ECDSA P-256", istioca.P256, func(public any) bool { k, ok := public.(*ecdsa.PublicKey); return ok && k.Params().BitSize == 256 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out := t.TempDir()
			c := ask(t, l, istioca.Options{Key: tc.kind, TokenFile: l.Token("shop", "web"), TTL: time.Hour, OutputDir: out})
			leaf := c.leaf(t, 1)
			if !tc.good(leaf.PublicKey) {
				t.Errorf("the key is a %T", leaf.PublicKey)
			}
			if len(leaf.URIs) != 1 || leaf.URIs[0].String() != webID {
				t.Errorf("the identity is %v", leaf.URIs)
			}
			if left := time.Until(leaf.NotAfter); left > time.Hour || left < 50*time.Minute {
				t.Errorf("it is over in %s", left)
			}
			between := x509.NewCertPool()
			chain := c.certificate.Status().Chain
			for _, issuer := range chain[1:] {
				between.AddCert(issuer)
			}
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}); err != nil {
				t.Errorf("%d certificates don't lead to the root: %v", len(chain), err)
			}
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
				t.Error("no intermediate is needed, so that this test says nothing of them")
			}
			if anchors := c.roots.Status().Anchors; len(anchors) != 1 || anchors[0].Subject.CommonName != "Root CA" {
				t.Errorf("the roots are %v", anchors)
			}
			if !roots.Equal(rootsOf(t, filepath.Join(out, "root-cert.pem"))) {
				t.Error("the root that was written for others is another one")
			}
		})
	}
	t.Run("rotation", func(t *testing.T) { testRotation(t, l) })
	t.Run("refusals", func(t *testing.T) { testRefusals(t, l) })
}

// testRotation has certificates of some seconds, and an istiod that goes away.
// It comes last but one, since the others want istiod to be there.
func testRotation(t *testing.T, l *lab.Rig) {
	const ttl = 10 * time.Second
	c := ask(t, l, istioca.Options{Key: istioca.P256, TokenFile: l.Token("shop", "web"), TTL: ttl})
	first := c.leaf(t, 1)
	second := c.leaf(t, 2)
	if first.SerialNumber.Cmp(second.SerialNumber) == 0 || first.PublicKey.(*ecdsa.PublicKey).Equal(second.PublicKey) {
		t.Error("the second certificate has the serial number or the key of the first")
	}
	// Half of the life is left, give or take the jitter and whole seconds.
	if between := second.NotAfter.Sub(first.NotAfter); between < ttl/4 || between > ttl {
		t.Errorf("%s between two certificates of %s", between, ttl)
	}
	l.Kill()
	rig.Until(t, "a renewal fails", func() error {
		if st := c.Status().Snapshot(); st.Failures[renew.Unavailable] == 0 {
			return fmt.Errorf("failures: %v", st.Failures)
		}
		return nil
	})
	now := c.Status().Snapshot()
	if len(c.certificate.Status().Chain) == 0 || len(now.Failures) != 1 {
		t.Errorf("without istiod: %+v", now)
	}
	l.Restart()
	c.leaf(t, now.Updates+1)
}

// testRefusals: whom istiod doesn't know, and whom we don't want to be.
func testRefusals(t *testing.T, l *lab.Rig) {
	other, err := kube.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}"); err != nil {
		t.Fatal(err)
	}
	ca := kube.TokenOptions{Audiences: []string{"istio-ca"}}
	for _, tc := range []struct {
		name   string
		token  func() (string, error)
		reason renew.Reason
		want   string
	}{
		{"another audience", func() (string, error) { return l.Mint("shop", "web", kube.TokenOptions{}) }, renew.Denied, "Unauthenticated"},
		{"expired", func() (string, error) {
			return l.Mint("shop", "web", kube.TokenOptions{Audiences: ca.Audiences, TTL: -time.Second})
		}, renew.Denied, "Unauthenticated"},
		{"of another cluster", func() (string, error) { return other.Token("shop", "web", ca) }, renew.Denied, "Unauthenticated"},
		{"no token", nil, renew.Denied, "no token was sent"},
		{"somebody else's", func() (string, error) { return l.Mint("shop", "thief", ca) }, renew.Identity, "spiffe://cluster.local/ns/shop/sa/thief"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "token")
			if tc.token != nil {
				text, err := tc.token()
				if err := errors.Join(err, os.WriteFile(file, []byte(text), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			c := ask(t, l, istioca.Options{Key: istioca.P256, TokenFile: file})
			rig.Until(t, "it is refused", func() error {
				if c.Status().Snapshot().LastError == nil {
					return errors.New("there is no error")
				}
				return nil
			})
			st := c.Status().Snapshot()
			if st.Updates != 0 || st.Failures[tc.reason] == 0 || len(st.Failures) != 1 || !strings.Contains(st.LastError.Error(), tc.want) {
				t.Errorf("%+v", st)
			}
			if c.log.Count("ERROR", "reason="+string(tc.reason)) != 1 {
				t.Errorf("the log:\n%s", c.log.String())
			}
		})
	}
}
