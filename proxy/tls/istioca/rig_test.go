// SPDX-License-Identifier: Apache-2.0

package istioca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	capb "istio.io/api/security/v1alpha1"

	"pillion/proxy/tls"
	"pillion/proxy/tls/localca"
	"pillion/proxy/tls/renew/renewtest"
)

// call is one request as the CA sees it.
type call struct {
	csr *x509.CertificateRequest
	req *capb.IstioCertificateRequest
	md  metadata.MD
}

// testCA is a CA whose answers the test may change.
type testCA struct {
	capb.UnimplementedIstioCertificateServiceServer
	t     testing.TB
	local *localca.CA
	root  *x509.Certificate
	key   *ecdsa.PrivateKey

	mu    sync.Mutex
	calls []call
	life  time.Duration                                               // of leaves
	edit  func(*x509.Certificate)                                     // of leaves, before they are signed; may be nil
	turn  func(ctx context.Context, chain []string) ([]string, error) // changes the answer; may be nil
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	dir := t.TempDir()
	local, _, err := localca.Open(dir, renewtest.TrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := stdtls.LoadX509KeyPair(filepath.Join(dir, localca.RootFile), filepath.Join(dir, "root-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{t: t, local: local, root: pair.Leaf, key: pair.PrivateKey.(*ecdsa.PrivateKey), life: 10 * time.Second}
}

// set changes the CA's behaviour.
func (ca *testCA) set(change func()) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	change()
}

func (ca *testCA) asked() []call {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return append([]call(nil), ca.calls...)
}

// CreateCertificate signs as istiod does: the answer is for the caller's own
// identity, leaf first and root last.
func (ca *testCA) CreateCertificate(ctx context.Context, req *capb.IstioCertificateRequest) (*capb.IstioCertificateResponse, error) {
	ca.mu.Lock()
	life, edit, turn := ca.life, ca.edit, ca.turn
	c := call{req: req}
	c.md, _ = metadata.FromIncomingContext(ctx)
	if block, _ := pem.Decode([]byte(req.GetCsr())); block != nil {
		c.csr, _ = x509.ParseCertificateRequest(block.Bytes)
	}
	ca.calls = append(ca.calls, c)
	ca.mu.Unlock()
	if c.csr == nil {
		ca.t.Errorf("no CSR: %q", req.GetCsr())
		return nil, nil
	}
	if err := c.csr.CheckSignature(); err != nil {
		ca.t.Error(err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-2 * time.Minute), NotAfter: now.Add(life), URIs: c.csr.URIs,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if edit != nil {
		edit(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.root, c.csr.PublicKey, ca.key)
	if err != nil {
		return nil, err
	}
	chain := []string{string(encode("CERTIFICATE", der)), string(ca.local.Root())}
	if turn != nil {
		if chain, err = turn(ctx, chain); err != nil {
			return nil, err
		}
	}
	return &capb.IstioCertificateResponse{CertChain: chain}, nil
}

// serverCreds makes the certificate that the CA itself shows, for a name of DNS.
func (ca *testCA) serverCreds(name string) credentials.TransportCredentials {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.root, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return credentials.NewTLS(&stdtls.Config{Certificates: []stdtls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
}

// rig is a CA and a source that runs, maybe in a bubble of virtual time.
type rig struct {
	ca      *testCA
	log     renewtest.Log
	secrets *tls.Secrets
	source  *Source
}

// newRig starts a CA, and a source by o. The source runs from start.
func newRig(t *testing.T, o Options, creds credentials.TransportCredentials, ca *testCA) *rig {
	t.Helper()
	r := &rig{ca: ca, secrets: tls.NewSecrets()}
	if creds == nil {
		creds = insecure.NewCredentials()
		o.Plaintext = true
	}
	ln := bufconn.Listen(1 << 16)
	g := grpc.NewServer(grpc.Creds(creds))
	capb.RegisterIstioCertificateServiceServer(g, ca)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-served })
	if o.Dial == nil {
		o.Dial = dialer(ln)
	}
	if o.Addr == "" {
		o.Addr = "istiod.istio-system.svc:15012"
	}
	if o.ID == "" {
		o.ID = renewtest.Own
	}
	if o.Key == RSA2048 {
		o.Key = P256 // quick; TestKeys has the others
	}
	o.Certificate, o.Roots, o.Logger = r.secrets.Secret("default"), r.secrets.Secret("ROOTCA"), r.log.Logger()
	var err error
	if r.source, err = New(o); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) start(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func file(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// sign answers a request without a network.
func (ca *testCA) sign(t testing.TB, req *request) []string {
	t.Helper()
	resp, err := ca.CreateCertificate(t.Context(), &capb.IstioCertificateRequest{Csr: string(req.csr)})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetCertChain()
}
