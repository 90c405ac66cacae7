// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	nethttp "net/http"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
)

// edgeObjects are what the gateway lets in, beside bookinfo itself.
var edgeObjects = strings.Join([]string{
	service("sealed", "10.96.4.1", "ratings", "{name: tls, port: 9443, targetPort: 9443}"), slice("sealed", "{name: tls, port: 9443}", "ratings-v1"),
	service("gamma", "10.96.4.2", "ratings", "{name: http, port: 9080, targetPort: 9080}"), slice("gamma", "{name: http, port: 9080}", "ratings-v1"), `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [policy.example.com]}
  - {port: {number: 80, name: http-moved, protocol: HTTP}, hosts: [moved.example.com], tls: {httpsRedirect: true}}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [simple.example.com], tls: {mode: SIMPLE, credentialName: edge}}
  - {port: {number: 443, name: https-mutual, protocol: HTTPS}, hosts: [mutual.example.com], tls: {mode: MUTUAL, credentialName: edge-mutual}}
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: [sealed.example.com], tls: {mode: PASSTHROUGH}}
  - {port: {number: 31400, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: default}
spec:
  hosts: [policy.example.com, simple.example.com, mutual.example.com]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /allow}}]
    route: [{destination: {host: shop, port: {number: 9080}, subset: v1}}]
  - match: [{uri: {prefix: /open}}]
    route: [{destination: {host: open, port: {number: 9082}}}]
  - route: [{destination: {host: ratings, port: {number: 9080}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: sealed, namespace: default}
spec:
  hosts: [sealed.example.com]
  gateways: [edge]
  tls: [{match: [{port: 443, sniHosts: [sealed.example.com]}], route: [{destination: {host: sealed, port: {number: 9443}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tcp, namespace: default}
spec:
  hosts: ["*"]
  gateways: [edge]
  tcp: [{match: [{port: 31400}], route: [{destination: {host: db, port: {number: 9000}}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: gamma, namespace: default}
spec:
  parentRefs: [{kind: Service, group: "", name: gamma, port: 9080}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /v2}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-gamma, value: "yes"}]}}]
    backendRefs: [{name: productpage, port: 9080}]
  - backendRefs: [{name: ratings, port: 9080}]
`}, "---")

// authority is a CA of the world outside of the mesh.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "World"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.pem, a.key = a.sign(t, tmpl, tmpl)
	block, _ := pem.Decode(a.pem)
	var err error
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) sign(t testing.TB, tmpl, parent *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	by := a.key
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key
}

// issue returns the certificate and the key of a name, as PEM.
func (a *authority) issue(t testing.TB, name string) (cert, key []byte) {
	t.Helper()
	cert, private := a.sign(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a.cert)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// secrets are the YAML of the gateway's Secrets.
func (a *authority) secrets(t testing.TB) string {
	t.Helper()
	var docs []string
	for name, host := range map[string]string{"edge": "simple.example.com", "edge-mutual": "mutual.example.com"} {
		cert, key := a.issue(t, host)
		data := map[string][]byte{"tls.crt": cert, "tls.key": key}
		if name == "edge-mutual" {
			data["ca.crt"] = a.pem
		}
		doc := "apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + ", namespace: istio-system}\ntype: kubernetes.io/tls\ndata:\n"
		for field, text := range data {
			doc += "  " + field + ": " + base64.StdEncoding.EncodeToString(text) + "\n"
		}
		docs = append(docs, doc)
	}
	return strings.Join(docs, "---\n")
}

// startSealed starts a server of TLS behind the mesh.
func (m *mesh) startSealed() {
	m.sealedBy = m.world
	cert, key := m.sealedBy.issue(m.t, "sealed.example.com")
	pair, err := stdtls.X509KeyPair(cert, key)
	if err != nil {
		m.t.Fatal(err)
	}
	m.accept("ratings-v1", ":9443", func(c net.Conn) {
		sealed := stdtls.Server(c, &stdtls.Config{Certificates: []stdtls.Certificate{pair}})
		if _, err := nethttp.ReadRequest(bufio.NewReader(sealed)); err == nil {
			_, _ = fmt.Fprint(sealed, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsealed")
		}
		_ = sealed.Close()
	})
}

// secure makes a request of the world to the gateway over TLS.
func (m *mesh) secure(host, path string, http2 bool, client *stdtls.Certificate) (*reply, error) {
	roots := x509.NewCertPool()
	roots.AddCert(m.world.cert)
	if host == "sealed.example.com" {
		roots.AddCert(m.sealedBy.cert)
	}
	tr := m.transport("legacy")
	tr.TLSClientConfig = &stdtls.Config{RootCAs: roots, ServerName: host}
	if client != nil {
		tr.TLSClientConfig.Certificates = []stdtls.Certificate{*client}
	}
	tr.ForceAttemptHTTP2, tr.DisableKeepAlives = http2, false
	tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return m.dial(ctx, "legacy", "10.244.0.14:8443")
	}
	defer tr.CloseIdleConnections()
	return askThrough(m.t.Context(), tr, call{url: "https://" + host + path})
}

// testGateway: the ways from the world into the mesh.
func testGateway(t *testing.T, m *mesh) {
	cert, key := m.world.issue(t, "client.example.com")
	pair, err := stdtls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	stranger := stdtls.Certificate{}
	if c, k := newAuthority(t).issue(t, "client.example.com"); true {
		if stranger, err = stdtls.X509KeyPair(c, k); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, host string
		http2      bool
		client     *stdtls.Certificate
		want       string // in the body; nothing is answered if it is empty
	}{
		{"SIMPLE", "simple.example.com", false, nil, `"app":"ratings-v1"`},
		{"SIMPLE over HTTP/2", "simple.example.com", true, nil, `"X-Forwarded-Proto":["https"]`},
		{"MUTUAL", "mutual.example.com", false, &pair, `"app":"ratings-v1"`},
		{"MUTUAL over HTTP/2", "mutual.example.com", true, &pair, `"app":"ratings-v1"`},
		{"MUTUAL without a certificate", "mutual.example.com", false, nil, ""},
		{"MUTUAL with a stranger's", "mutual.example.com", false, &stranger, ""},
		{"PASSTHROUGH", "sealed.example.com", false, nil, "sealed"},
		{"a name that isn't served", "nobody.example.com", false, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := m.secure(tc.host, "/edge", tc.http2, tc.client)
			switch {
			case tc.want == "":
				if err == nil {
					t.Errorf("%d %s", r.code, r.body)
				}
			case err != nil:
				t.Error(err)
			case r.code != 200 || !strings.Contains(r.body, tc.want) || tc.http2 != (r.proto == "HTTP/2.0"):
				t.Errorf("%s %d %s", r.proto, r.code, r.body)
			}
		})
	}
	t.Run("redirect to HTTPS", func(t *testing.T) {
		r := m.try(t, call{from: "legacy", url: "http://10.244.0.14:8080/a?b=c", host: "moved.example.com"}, 301)
		if got := r.header.Get("Location"); got != "https://moved.example.com/a?b=c" {
			t.Errorf("to %s", got)
		}
	})
	t.Run("TCP", func(t *testing.T) {
		if got, err := m.talk("legacy", "10.244.0.14:31400"); got != "ratings-v1 greets 127.0.0.6\na word\n" || err != nil {
			t.Errorf("%q %v", got, err)
		}
	})
	t.Run("a Secret that is renewed", func(t *testing.T) { testRenewal(t, m) })
	for _, tc := range []struct{ path, app, want string }{{"/v2/x", "productpage-v1", `"X-Gamma":["yes"]`}, {"/x", "ratings-v1", ""}} {
		t.Run("HTTPRoute of a service, "+tc.path, func(t *testing.T) {
			if r := m.try(t, call{from: "reviews-v2", url: "http://gamma:9080" + tc.path}, 200); r.page.App != tc.app || !strings.Contains(r.body, tc.want) {
				t.Errorf("%s", r.body)
			}
		})
	}
}

// testRenewal: connections that come get the certificate of the Secret as it
// is now.
func testRenewal(t *testing.T, m *mesh) {
	m.world = newAuthority(t)
	m.l.Apply(m.world.secrets(t))
	rig.Until(t, "the new certificate is shown", func() error {
		_, err := m.secure("simple.example.com", "/", false, nil)
		return err
	})
}
