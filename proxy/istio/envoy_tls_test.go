// SPDX-License-Identifier: Apache-2.0

package istio

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pillion/test/need"
)

func pool(t *testing.T, ca *authority) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM([]byte(ca.pem)) {
		t.Fatal("no certificate")
	}
	return p
}

func keyPairOf(t *testing.T, cert, key string) stdtls.Certificate {
	t.Helper()
	p, err := stdtls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// secureBackend is a server with TLS that tells which server name it was called by and
// who calls. It wants a certificate if roots is given.
func secureBackend(t *testing.T, pair stdtls.Certificate, roots *x509.CertPool) (port int) {
	t.Helper()
	s := httptest.NewUnstartedServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		who := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			who = fmt.Sprint(r.TLS.PeerCertificates[0].URIs, r.TLS.PeerCertificates[0].DNSNames)
		}
		fmt.Fprintf(w, "%s called by %s", r.TLS.ServerName, who)
	}))
	s.Config.ErrorLog = quiet()
	s.TLS = &stdtls.Config{Certificates: []stdtls.Certificate{pair}, ClientCAs: roots}
	if roots != nil {
		s.TLS.ClientAuth = stdtls.RequireAndVerifyClientCert
	}
	// The mesh's protocol names stand for HTTP/1, of which Go's server doesn't know.
	own := s.TLS.Clone()
	s.TLS.GetConfigForClient = func(*stdtls.ClientHelloInfo) (*stdtls.Config, error) { return own, nil }
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).Port
}

// TestEnvoyTLS runs a real Envoy on translated TLS: servers of a Gateway in each mode,
// and DestinationRules towards servers that want TLS.
func TestEnvoyTLS(t *testing.T) {
	need.Envoy(t)
	ca, mesh, foreign := newAuthority(t), newAuthority(t), newAuthority(t)
	dir := mesh.certsDir("spiffe://cluster.local/ns/default/sa/edge")
	edgeCert, edgeKey := ca.leaf("", "one.example.com", "two.example.com")
	appCert, appKey := mesh.leaf("spiffe://cluster.local/ns/default/sa/app")
	outCert, outKey := ca.leaf("", "simple.example.com", "mutual.example.com")
	clientCert, clientKey := ca.leaf("", "client.example.com")
	meshClientCert, meshClientKey := mesh.leaf("spiffe://cluster.local/ns/x/sa/y")
	files := t.TempDir()
	for name, text := range map[string]string{"ca.pem": ca.pem, "cert.pem": clientCert, "key.pem": clientKey} {
		if err := os.WriteFile(filepath.Join(files, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	app := secureBackend(t, keyPairOf(t, appCert, appKey), pool(t, mesh))
	simple := secureBackend(t, keyPairOf(t, outCert, outKey), nil)
	mutual := secureBackend(t, keyPairOf(t, outCert, outKey), pool(t, ca))
	edge := freePort(t)
	entry := func(name, host, location string, port int, labels string) string {
		return fmt.Sprintf(`
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %s, namespace: default}
spec:
  hosts: [%s]
  ports: [{number: 80, name: http, protocol: HTTP}]
  location: %s
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: %d}%s}]
`, name, host, location, port, labels)
	}
	rule := func(host, tls string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: " + strings.ReplaceAll(host, ".", "-") + ", namespace: default}\nspec: {host: " + host + ", trafficPolicy: {tls: {" + tls + "}}}\n"
	}
	const spiffe = ", serviceAccount: app, labels: {security.istio.io/tlsMode: istio}"
	yaml := entry("app", "app.default.svc.cluster.local", "MESH_INTERNAL", app, spiffe) +
		entry("wrong", "wrong.default.svc.cluster.local", "MESH_INTERNAL", app, strings.Replace(spiffe, "app", "another", 1)) +
		entry("simple", "simple.example.com", "MESH_EXTERNAL", simple, "") + rule("simple.example.com", "mode: SIMPLE, caCertificates: "+files+"/ca.pem, sni: simple.example.com, subjectAltNames: [simple.example.com]") +
		entry("mutual", "mutual.example.com", "MESH_EXTERNAL", mutual, "") + rule("mutual.example.com", "mode: MUTUAL, credentialName: out, sni: mutual.example.com") +
		entry("files", "files.example.com", "MESH_EXTERNAL", mutual, "") + rule("files.example.com", fmt.Sprintf("mode: MUTUAL, clientCertificate: %s/cert.pem, privateKey: %s/key.pem, caCertificates: %s/ca.pem, sni: mutual.example.com", files, files, files)) +
		secretYAML("default", "out", "tls.crt", clientCert, "tls.key", clientKey, "ca.crt", ca.pem) +
		secretYAML("default", "edge", "tls.crt", edgeCert, "tls.key", edgeKey, "ca.crt", ca.pem) +
		fmt.Sprintf(`
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  servers:
  - {port: {number: %[1]d, name: one, protocol: HTTPS}, bind: 127.0.0.1, hosts: [one.example.com], tls: {mode: SIMPLE, credentialName: edge, minProtocolVersion: TLSV1_3}}
  - {port: {number: %[1]d, name: two, protocol: HTTPS}, bind: 127.0.0.1, hosts: [two.example.com], tls: {mode: MUTUAL, credentialName: edge}}
  - {port: {number: %[1]d, name: three, protocol: HTTPS}, bind: 127.0.0.1, hosts: [three.example.com], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: %[1]d, name: cross, protocol: TLS}, bind: 127.0.0.1, hosts: ["*.local"], tls: {mode: AUTO_PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: default}
spec:
  hosts: [one.example.com, two.example.com, three.example.com]
  gateways: [edge]
  http:
  - {match: [{uri: {prefix: /simple}}], route: [{destination: {host: simple.example.com}}]}
  - {match: [{uri: {prefix: /mutual}}], route: [{destination: {host: mutual.example.com}}]}
  - {match: [{uri: {prefix: /files}}], route: [{destination: {host: files.example.com}}]}
  - {match: [{uri: {prefix: /wrong}}], route: [{destination: {host: wrong.default.svc.cluster.local}}]}
  - {route: [{destination: {host: app.default.svc.cluster.local}}]}
`, edge)
	r, problems := Translate(load(t, yaml), Options{CertsDir: dir})
	if r == nil {
		t.Fatalf("refused:\n%s", describe(problems))
	}
	runEnvoy(t, writeBootstrap(t, r, ""))

	client, meshClient := keyPairOf(t, clientCert, clientKey), keyPairOf(t, meshClientCert, meshClientKey)
	foreignCert, foreignKey := foreign.leaf("", "client.example.com")
	stranger := keyPairOf(t, foreignCert, foreignKey)
	const edgeID = "called by [spiffe://cluster.local/ns/default/sa/edge] [localhost]"
	for _, c := range []struct {
		name, sni, path string
		roots           *authority
		cert            *stdtls.Certificate
		maxVersion      uint16
		status          int // 0: no connection
		body            string
	}{
		{"simple to mTLS", "one.example.com", "/", ca, nil, 0, 200, "outbound_.80_._.app.default.svc.cluster.local " + edgeID},
		{"simple to SIMPLE", "one.example.com", "/simple", ca, nil, 0, 200, "simple.example.com called by nobody"},
		{"simple to MUTUAL", "one.example.com", "/mutual", ca, nil, 0, 200, "mutual.example.com called by [] [client.example.com]"},
		{"simple to MUTUAL by files", "one.example.com", "/files", ca, nil, 0, 200, "mutual.example.com called by [] [client.example.com]"},
		{"another identity", "one.example.com", "/wrong", ca, nil, 0, 503, ""},
		{"too old", "one.example.com", "/", ca, nil, stdtls.VersionTLS12, 0, ""},
		{"mutual", "two.example.com", "/", ca, &client, 0, 200, "outbound_.80_._.app.default.svc.cluster.local " + edgeID},
		{"mutual of TLS 1.2", "two.example.com", "/", ca, &client, stdtls.VersionTLS12, 200, "outbound_.80_._.app.default.svc.cluster.local " + edgeID},
		{"mutual without certificate", "two.example.com", "/", ca, nil, 0, 0, ""},
		{"mutual of a stranger", "two.example.com", "/", ca, &stranger, 0, 0, ""},
		{"mesh", "three.example.com", "/", mesh, &meshClient, 0, 200, "outbound_.80_._.app.default.svc.cluster.local " + edgeID},
		{"mesh without certificate", "three.example.com", "/", mesh, nil, 0, 0, ""},
		{"unknown name", "four.example.com", "/", ca, nil, 0, 0, ""},
		{"through by cluster name", "outbound_.80_._.app.default.svc.cluster.local", "/", mesh, &meshClient, 0, 200, "outbound_.80_._.app.default.svc.cluster.local called by [spiffe://cluster.local/ns/x/sa/y] []"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := &stdtls.Config{ServerName: c.sni, RootCAs: pool(t, c.roots), MaxVersion: c.maxVersion, InsecureSkipVerify: c.roots == mesh} //nolint:gosec // workloads have no DNS names
			if c.cert != nil {
				config.Certificates = []stdtls.Certificate{*c.cert}
			}
			if strings.HasPrefix(c.sni, "outbound_") {
				config.NextProtos = []string{"istio", "http/1.1"}
			}
			transport := &nethttp.Transport{TLSClientConfig: config}
			defer transport.CloseIdleConnections()
			req, err := nethttp.NewRequestWithContext(t.Context(), nethttp.MethodGet, fmt.Sprintf("https://127.0.0.1:%d%s", edge, c.path), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = c.sni
			resp, err := transport.RoundTrip(req)
			if c.status == 0 {
				if err == nil {
					resp.Body.Close()
					t.Errorf("got %d", resp.StatusCode)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status || c.body != "" && string(body) != c.body {
				t.Errorf("%d %q, want %d %q", resp.StatusCode, body, c.status, c.body)
			}
		})
	}
}
