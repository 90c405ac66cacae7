// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/anypb"
	capb "istio.io/api/security/v1alpha1"

	"pillion/test/rig"
	"pillion/test/wire"
)

// issuer signs with the CA that `proxy certs init` has made.
type issuer struct {
	t      testing.TB
	root   *x509.Certificate
	key    *ecdsa.PrivateKey
	life   time.Duration // of what it issues
	every  time.Duration // between two certificates
	issued atomic.Int64
}

func newIssuer(t testing.TB, dir string, every time.Duration) *issuer {
	t.Helper()
	i := &issuer{t: t, every: every, life: max(2*every, 4*time.Second)}
	for name, use := range map[string]func(der []byte) error{
		"root-cert.pem": func(der []byte) (err error) {
			i.root, err = x509.ParseCertificate(der)
			return err
		},
		"root-key.pem": func(der []byte) error {
			key, err := x509.ParsePKCS8PrivateKey(der)
			if err == nil {
				i.key = key.(*ecdsa.PrivateKey)
			}
			return err
		},
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		if block == nil {
			t.Fatalf("%s holds no PEM", name)
		}
		if err := use(block.Bytes); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return i
}

// sign makes a certificate for a public key, and returns it in DER.
func (i *issuer) sign(public any, edit func(*x509.Certificate)) ([]byte, error) {
	now := time.Now()
	id, _ := url.Parse(webID)
	template := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Second), NotAfter: now.Add(i.life), URIs: []*url.URL{id},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if edit != nil {
		edit(template)
	}
	i.issued.Add(1)
	return x509.CreateCertificate(rand.Reader, template, i.root, public, i.key)
}

// pair makes a key and a certificate for web, in DER.
func (i *issuer) pair() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if cert, err = i.sign(&private.PublicKey, nil); err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(private)
	return cert, key, err
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// each calls send with a new pair now and whenever it is time for one, until ctx ends.
func (i *issuer) each(ctx context.Context, send func(cert, key []byte) error) error {
	tick := time.NewTicker(i.every)
	defer tick.Stop()
	for {
		cert, key, err := i.pair()
		if err == nil {
			err = send(cert, key)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// workloadAPI is a SPIFFE Workload API.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	*issuer
}

func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, s grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return w.each(s.Context(), func(cert, key []byte) error {
		return s.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{SpiffeId: webID, X509Svid: cert, X509SvidKey: key, Bundle: w.root.Raw}}})
	})
}

// secretServer is a server of Envoy's SDS.
type secretServer struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	*issuer
}

func (d *secretServer) StreamSecrets(s grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	go func() { // take the ACKs
		for r, err := s.Recv(); err == nil; r, err = s.Recv() {
			if r.GetErrorDetail() != nil {
				d.t.Errorf("SDS: refused: %s", r.GetErrorDetail().GetMessage())
			}
		}
	}()
	version := 0
	send := func(secret *tlsv3.Secret) error {
		a, err := anypb.New(secret)
		if err != nil {
			return err
		}
		version++
		return s.Send(&discoveryv3.DiscoveryResponse{VersionInfo: fmt.Sprint(version), Nonce: fmt.Sprint(version), TypeUrl: a.GetTypeUrl(), Resources: []*anypb.Any{a}})
	}
	text := func(p []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: p}}
	}
	if name := first.GetResourceNames()[0]; name == "ROOTCA" {
		err := send(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: text(pemOf("CERTIFICATE", d.root.Raw))}}})
		<-s.Context().Done()
		return err
	}
	return d.each(s.Context(), func(cert, key []byte) error {
		return send(&tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: text(pemOf("CERTIFICATE", cert)), PrivateKey: text(pemOf("PRIVATE KEY", key))}}})
	})
}

// istioCA signs as istiod does.
type istioCA struct {
	capb.UnimplementedIstioCertificateServiceServer
	*issuer
}

func (c *istioCA) CreateCertificate(_ context.Context, r *capb.IstioCertificateRequest) (*capb.IstioCertificateResponse, error) {
	block, _ := pem.Decode([]byte(r.GetCsr()))
	if block == nil {
		return nil, fmt.Errorf("no CSR")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	der, err := c.sign(csr.PublicKey, nil)
	if err != nil {
		return nil, err
	}
	return &capb.IstioCertificateResponse{CertChain: []string{string(pemOf("CERTIFICATE", der)), string(pemOf("CERTIFICATE", c.root.Raw))}}, nil
}

// serveGRPC serves until the test ends.
func serveGRPC(t testing.TB, ln net.Listener, register func(*grpc.Server), options ...grpc.ServerOption) {
	t.Helper()
	s := grpc.NewServer(options...)
	register(s)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
}

// certSources are the four sources of web's certificates. Each starts a server if it
// needs one, and returns the flags that name it.
var certSources = []struct {
	name  string
	start func(t *testing.T, dir string, i *issuer) []string
}{
	{"files", func(t *testing.T, dir string, i *issuer) []string {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		web := filepath.Join(dir, "shop", "web")
		go func() {
			defer close(done)
			if err := i.each(ctx, func(cert, key []byte) error { return replacePair(web, cert, key) }); err != nil {
				t.Error(err)
			}
		}()
		t.Cleanup(func() {
			cancel()
			<-done
		})
		return []string{"--certs", web}
	}},
	{"Workload API", func(t *testing.T, _ string, i *issuer) []string {
		return []string{"--workload-api", socket(t, func(s *grpc.Server) { workload.RegisterSpiffeWorkloadAPIServer(s, &workloadAPI{issuer: i}) })}
	}},
	{"SDS", func(t *testing.T, _ string, i *issuer) []string {
		return []string{"--sds", socket(t, func(s *grpc.Server) { secretv3.RegisterSecretDiscoveryServiceServer(s, &secretServer{issuer: i}) })}
	}},
	{"Istio CA", func(t *testing.T, dir string, i *issuer) []string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := i.sign(&key.PublicKey, func(c *x509.Certificate) {
			c.URIs, c.IPAddresses, c.NotAfter = nil, []net.IP{net.IPv4(127, 0, 0, 1)}, time.Now().Add(time.Hour)
		})
		if err != nil {
			t.Fatal(err)
		}
		own := stdtls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		serveGRPC(t, ln, func(s *grpc.Server) { capb.RegisterIstioCertificateServiceServer(s, &istioCA{issuer: i}) }, grpc.Creds(credentials.NewServerTLSFromCert(&own)))
		token := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(token, []byte("token\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"--ca", ln.Addr().String(), "--ca-root", filepath.Join(dir, "root-cert.pem"), "--token", token}
	}},
}

// socket serves gRPC on a Unix socket, and returns its address as flags have it.
func socket(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") // short: a path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveGRPC(t, ln, register)
	return "unix:" + path
}

// replacePair writes both files of a pair, each at once.
func replacePair(dir string, cert, key []byte) error {
	for name, text := range map[string][]byte{"cert-chain.pem": pemOf("CERTIFICATE", cert), "key.pem": pemOf("PRIVATE KEY", key)} {
		next := filepath.Join(dir, "."+name)
		if err := os.WriteFile(next, text, 0o600); err != nil {
			return err
		}
		if err := os.Rename(next, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// TestRotation: certificates that change all the time, from each of the four sources,
// cost no request. With -soak they change every five seconds for so long.
func TestRotation(t *testing.T) {
	t.Parallel()
	every, length := 500*time.Millisecond, 8*time.Second
	if *soakTime >= time.Minute {
		every, length = 5*time.Second, *soakTime
	}
	for _, source := range certSources {
		t.Run(source.name, func(t *testing.T) {
			t.Parallel()
			var i *issuer
			m := startSealedWith(t, "STRICT", "", startOurs, func(t testing.TB, flags []string, paths ...string) *rig.Proxy {
				dir := filepath.Dir(filepath.Dir(flags[len(flags)-3])) // --certs DIR/shop/web --listen …
				i = newIssuer(t, dir, every)
				own := source.start(t.(*testing.T), dir, i)
				return startOurs(t, append(append(flags[:len(flags)-4:len(flags)-4], own...), flags[len(flags)-2:]...), paths...)
			})
			running := wire.Load{Addr: m.web.HTTP, Conns: 4, Patience: rig.Patience,
				Request: "GET /x HTTP/1.1\r\nHost: db.shop.svc.cluster.local:80\r\n\r\n"}.Start()
			over := time.After(length)
			serials := map[string]bool{}
			for end := false; !end; {
				select {
				case <-over:
					end = true
				case <-time.After(every / 2):
					serials[m.web.Get(t, "/certs")] = true
				}
			}
			tally := running.Stop()
			if tally.Failed != 0 || tally.Status[200] != tally.Total || tally.Total < 100 {
				t.Errorf("%+v", tally)
			}
			if i.issued.Load() < 3 || len(serials) < 3 {
				t.Errorf("%d certificates were issued and %d states of /certs seen: nothing rotated", i.issued.Load(), len(serials))
			}
			if n := m.db.Scrape(t).Sum("envoy_listener_ssl_handshake"); n < 10 {
				t.Errorf("%v handshakes: nobody looked at the certificates", n)
			} else {
				t.Logf("%d requests, %v handshakes, %d certificates", tally.Total, n, i.issued.Load())
			}
		})
	}
}
