// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	nethttp "net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	capb "istio.io/api/security/v1alpha1"

	"pillion/proxy"
	"pillion/proxy/tls/localca"
	"pillion/proxy/tls/renew/renewtest"
	"pillion/test/rig"
)

func TestChooseIdentity(t *testing.T) {
	dir := t.TempDir()
	make := func(names ...string) {
		t.Helper()
		for _, n := range names {
			path := filepath.Join(dir, n)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	at := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	make("alive/socket", "alive/spire.sock", "dead/socket", "istio/cert-chain.pem", "istio/key.pem", "istio/root-cert.pem",
		"gke/certificates.pem", "gke/private_key.pem", "gke/ca_certificates.pem", "half/cert-chain.pem", "half/key.pem")
	answers := func(_ context.Context, socket string) bool { return strings.HasPrefix(socket, at("alive")) }
	istio := proxy.IdentityChoice{Chain: at("istio/cert-chain.pem"), Key: at("istio/key.pem"), Root: at("istio/root-cert.pem")}
	for _, tc := range []struct {
		name string
		p    proxy.IdentityPlaces
		want proxy.IdentityChoice
		err  string
	}{
		{"a server that answers is first", proxy.IdentityPlaces{SocketDir: at("alive"), CredentialDirs: []string{at("istio")}, CA: "ca:15012"}, proxy.IdentityChoice{SDS: at("alive/socket")}, ""},
		{"by its name", proxy.IdentityPlaces{SocketDir: at("alive"), SocketFile: "spire.sock"}, proxy.IdentityChoice{SDS: at("alive/spire.sock")}, ""},
		{"one that is named and isn't there", proxy.IdentityPlaces{SocketDir: at("alive"), SocketFile: "other.sock", CA: "ca:15012"}, proxy.IdentityChoice{}, "asked for by name"},
		{"a path for a name", proxy.IdentityPlaces{SocketDir: at("alive"), SocketFile: "../dead/socket", CA: "ca:15012"}, proxy.IdentityChoice{}, "name of a file"},
		{"a socket without a server", proxy.IdentityPlaces{SocketDir: at("dead"), CredentialDirs: []string{at("none"), at("istio")}, CA: "ca:15012"}, istio, ""},
		{"files in their order", proxy.IdentityPlaces{CredentialDirs: []string{at("gke"), at("istio")}},
			proxy.IdentityChoice{Chain: at("gke/certificates.pem"), Key: at("gke/private_key.pem"), Root: at("gke/ca_certificates.pem")}, ""},
		{"half of the files", proxy.IdentityPlaces{CredentialDirs: []string{at("half")}, CA: "ca:15012"}, proxy.IdentityChoice{CA: "ca:15012"}, ""},
		{"the CA is last", proxy.IdentityPlaces{SocketDir: at("none"), CredentialDirs: []string{at("none")}, CA: "ca:15012"}, proxy.IdentityChoice{CA: "ca:15012"}, ""},
		{"nothing", proxy.IdentityPlaces{SocketDir: at("none")}, proxy.IdentityChoice{}, "no identity"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := proxy.ChooseIdentity(t.Context(), tc.p, answers)
			if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// signer is a CA on a port of this machine.
type signer struct {
	capb.UnimplementedIstioCertificateServiceServer
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
	seen func(ctx context.Context, req *capb.IstioCertificateRequest, csr *x509.CertificateRequest)
}

func (s *signer) CreateCertificate(ctx context.Context, req *capb.IstioCertificateRequest) (*capb.IstioCertificateResponse, error) {
	block, _ := pem.Decode([]byte(req.GetCsr()))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if s.seen != nil {
		s.seen(ctx, req, csr)
	}
	leaf, err := s.sign(&x509.Certificate{URIs: csr.URIs}, csr.PublicKey)
	return &capb.IstioCertificateResponse{CertChain: []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})), s.pem}}, err
}

func (s *signer) sign(tmpl *x509.Certificate, key any) ([]byte, error) {
	now := time.Now()
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(now.UnixNano()), now.Add(-time.Minute), now.Add(time.Hour)
	tmpl.KeyUsage, tmpl.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return x509.CreateCertificate(rand.Reader, tmpl, s.root, key, s.key)
}

// startSigner serves a CA over TLS, and returns its address and the file of
// its root.
func startSigner(t *testing.T) (addr, root string) {
	t.Helper()
	return startSeenSigner(t, nil)
}

// startSeenSigner is startSigner that shows what it is asked.
func startSeenSigner(t *testing.T, seen func(context.Context, *capb.IstioCertificateRequest, *x509.CertificateRequest)) (addr, root string) {
	t.Helper()
	dir := t.TempDir()
	local, _, err := localca.Open(dir, renewtest.TrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	root = filepath.Join(dir, localca.RootFile)
	pair, err := stdtls.LoadX509KeyPair(root, filepath.Join(dir, "root-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{seen: seen, root: pair.Leaf, key: pair.PrivateKey.(*ecdsa.PrivateKey), pem: string(local.Root())}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own, err := s.sign(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&stdtls.Config{Certificates: []stdtls.Certificate{{Certificate: [][]byte{own}, PrivateKey: key}}})))
	capb.RegisterIstioCertificateServiceServer(g, s)
	go func() { _ = g.Serve(ln) }()
	t.Cleanup(g.Stop)
	return ln.Addr().String(), root
}

// serveIdentity starts a proxy that serves nothing but its own endpoints, and
// returns a getter of their pages.
func serveIdentity(t *testing.T, o proxy.Options) (get func(endpoint, path string) string) {
	t.Helper()
	o.Paths, o.Stdin = []string{"-"}, strings.NewReader("")
	o.AdminAddr, o.MetricsAddr = "127.0.0.1:0", "127.0.0.1:0"
	s, err := proxy.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	return func(endpoint, path string) string {
		t.Helper()
		for _, e := range s.Endpoints() {
			if e.Name != endpoint {
				continue
			}
			resp, err := nethttp.Get("http://" + e.Addr + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		t.Fatalf("no endpoint %s", endpoint)
		return ""
	}
}

// TestIdentityFromCA: when the proxy has started it has its certificate, and
// says so.
func TestIdentityFromCA(t *testing.T) {
	addr, root := startSigner(t)
	var log renewtest.Log
	get := serveIdentity(t, proxy.Options{Namespace: "shop", ServiceAccount: "web", Identity: proxy.Identity{CA: addr, CARoot: root}, Logger: log.Logger()})
	if certs := get("admin", "/certs"); !strings.Contains(certs, renewtest.Own) {
		t.Errorf("/certs: %s", certs)
	}
	// It is counted when it is in its place already.
	rig.Until(t, "the certificate is counted", func() error {
		metrics := get("metrics", "/stats/prometheus")
		for _, want := range []string{`pillion_certificate_source_updates_total{source="istio-ca"} 1`, `pillion_certificate_source_last_success_timestamp_seconds{source="istio-ca"}`} {
			if !strings.Contains(metrics, want) {
				return fmt.Errorf("no %s in the metrics", want)
			}
		}
		return nil
	})
	if log.Count("ERROR") != 0 {
		t.Errorf("the log:\n%s", log.String())
	}
}

// TestCARequest: the CA is told and asked for what the options say.
func TestCARequest(t *testing.T) {
	type asked struct {
		curve   string
		ttl     int64
		signer  string
		headers metadata.MD
	}
	all := make(chan asked, 1)
	addr, root := startSeenSigner(t, func(ctx context.Context, req *capb.IstioCertificateRequest, csr *x509.CertificateRequest) {
		a := asked{ttl: req.GetValidityDuration(), signer: req.GetMetadata().GetFields()["CertSigner"].GetStringValue()}
		if k, ok := csr.PublicKey.(*ecdsa.PublicKey); ok {
			a.curve = k.Curve.Params().Name
		}
		a.headers, _ = metadata.FromIncomingContext(ctx)
		select {
		case all <- a:
		default:
		}
	})
	out := t.TempDir()
	get := serveIdentity(t, proxy.Options{Identity: proxy.Identity{CA: addr, CARoot: root, ID: "spiffe://td/ns/a/sa/b", Request: proxy.CARequest{
		ClusterID: "c1", Headers: map[string]string{"X-Tenant": "t"}, ECDSA: "P384", PKCS8: true, TTL: time.Hour, OutputDir: out, CertSigner: "acme.io/ca"}}})
	got := <-all
	if got.curve != "P-384" || got.ttl != 3600 || got.signer != "acme.io/ca" || strings.Join(got.headers.Get("clusterid"), "") != "c1" || strings.Join(got.headers.Get("x-tenant"), "") != "t" {
		t.Errorf("the CA was asked %+v", got)
	}
	if certs := get("admin", "/certs"); !strings.Contains(certs, "spiffe://td/ns/a/sa/b") {
		t.Errorf("/certs: %s", certs)
	}
	key, err := os.ReadFile(filepath.Join(out, "key.pem"))
	if err != nil || !strings.Contains(string(key), "BEGIN PRIVATE KEY") {
		t.Errorf("the key that was written: %.40q, %v", key, err)
	}
	// What was written is an identity from files, under names of one's own.
	for _, n := range []string{"cert-chain.pem", "key.pem", "root-cert.pem"} {
		if err := os.Rename(filepath.Join(out, n), filepath.Join(out, "own-"+n)); err != nil {
			t.Fatal(err)
		}
	}
	get = serveIdentity(t, proxy.Options{Identity: proxy.Identity{Files: proxy.CertFiles{Chain: filepath.Join(out, "own-cert-chain.pem"),
		Key: filepath.Join(out, "own-key.pem"), Root: filepath.Join(out, "own-root-cert.pem")}}})
	if certs := get("admin", "/certs"); !strings.Contains(certs, "spiffe://td/ns/a/sa/b") {
		t.Errorf("/certs of files: %s", certs)
	}
}

// TestIdentityNotThere: without its source the proxy serves all the same, and
// says why a certificate is missing.
func TestIdentityNotThere(t *testing.T) {
	for name, id := range map[string]proxy.Identity{
		"workload-api": {WorkloadAPI: "/nonexistent/socket"},
		"sds":          {SDS: "/nonexistent/socket"},
		"istio-ca":     {CA: "127.0.0.1:1", CARoot: "/nonexistent/root.pem", Request: proxy.CARequest{ECDSA: "P256"}}, // a key of RSA may take longer than the test waits
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log renewtest.Log
			id.Timeout = time.Second // that the source has asked once by then
			get := serveIdentity(t, proxy.Options{Identity: id, Logger: log.Logger()})
			if log.Count("starting without a certificate", "no such file") != 1 || log.Count("can't be renewed", "source="+name) != 1 {
				t.Errorf("the log:\n%s", log.String())
			}
			if metrics := get("metrics", "/stats/prometheus"); !strings.Contains(metrics, "\npillion_certificate_source_failures_total{source=\""+name) && !strings.Contains(metrics, "\npillion_certificate_source_failures_total{reason=") {
				t.Errorf("no failure in the metrics")
			}
		})
	}
}

// TestIdentityOfTheMesh: the mesh's settings name the trust domain.
func TestIdentityOfTheMesh(t *testing.T) {
	addr, root := startSigner(t)
	mesh := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(mesh, []byte("trustDomain: prod.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	get := serveIdentity(t, proxy.Options{Namespace: "shop", ServiceAccount: "web", MeshConfig: mesh, Identity: proxy.Identity{CA: addr, CARoot: root}})
	if certs := get("admin", "/certs"); !strings.Contains(certs, "spiffe://prod.example/ns/shop/sa/web") {
		t.Errorf("/certs: %s", certs)
	}
}

func TestIdentityOptions(t *testing.T) {
	for name, o := range map[string]proxy.Options{
		"not from two":            {CertsDir: "certs", Identity: proxy.Identity{SDS: "/socket"}},
		"the workload's identity": {Identity: proxy.Identity{SDS: "/socket", ID: "web"}},
		"is not HOST:PORT":        {Identity: proxy.Identity{CA: "istiod"}},
		"P256 or P384":            {Identity: proxy.Identity{CA: "istiod:15012", Request: proxy.CARequest{ECDSA: "P521"}}},
		"2048, 3072 or 4096":      {Identity: proxy.Identity{CA: "istiod:15012", Request: proxy.CARequest{RSABits: 512}}},
		"from files, from a":      {Identity: proxy.Identity{CA: "istiod:15012", Files: proxy.CertFiles{Chain: "c", Key: "k", Root: "r"}}},
	} {
		if _, err := proxy.New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
