// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	stdtls "crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	nethttp "net/http"
	"strings"
	"testing"

	"pillion/proxy/proxytest/inproc"
	"pillion/proxy/tls/localca"
)

func issue(t *testing.T, ca *localca.CA, account string) (localca.Leaf, stdtls.Certificate) {
	t.Helper()
	leaf, err := ca.Issue("shop", account)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := stdtls.X509KeyPair(leaf.Chain, leaf.Key)
	if err != nil {
		t.Fatal(err)
	}
	return leaf, pair
}

func secretFile(cert, key, ca []byte) string {
	enc := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: edge, namespace: default}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s, ca.crt: %s}\n", enc(cert), enc(key), enc(ca))
}

// TestGatewaySecret: a Gateway ends TLS with a Secret of the configuration, takes a new
// one without a restart and a broken one not at all, and shows its key to nobody.
func TestGatewaySecret(t *testing.T) {
	ca := newCA(t)
	first, firstPair := issue(t, ca, "first")
	second, secondPair := issue(t, ca, "second")
	_, client := issue(t, ca, "client")
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(_ string, fields map[string]string, _ string) string {
			return inproc.OK(fields["x-forwarded-client-cert"] + " " + fields["x-forwarded-proto"])
		})
	})
	port := freePort(t)
	p := inproc.Start(t, map[string]string{
		"edge.yaml": fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b, namespace: default}
spec:
  hosts: [b.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: %d}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec: {servers: [{port: {number: %d, name: https, protocol: HTTPS}, bind: 127.0.0.1, hosts: [b.example.com], tls: {mode: MUTUAL, credentialName: edge}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: default}
spec: {hosts: [b.example.com], gateways: [edge], http: [{route: [{destination: {host: b.example.com}}]}]}
`, b.Port, port),
		"secret.yaml": secretFile(first.Chain, first.Key, ca.Root()),
	})
	ask := func(cert *stdtls.Certificate) (serial, body string, err error) {
		cfg := &stdtls.Config{InsecureSkipVerify: true, ServerName: "b.example.com"} //nolint:gosec // workloads have no DNS names
		if cert != nil {
			cfg.Certificates = []stdtls.Certificate{*cert}
		}
		transport := &nethttp.Transport{TLSClientConfig: cfg}
		defer transport.CloseIdleConnections()
		req, err := nethttp.NewRequestWithContext(t.Context(), nethttp.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/", port), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "b.example.com"
		req.Header.Set("x-forwarded-client-cert", "By=spoof")
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return "", "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return resp.TLS.PeerCertificates[0].SerialNumber.String(), string(text), err
	}
	serialOf := func(pair stdtls.Certificate) string { return pair.Leaf.SerialNumber.String() }
	if _, _, err := ask(nil); err == nil {
		t.Error("a client without a certificate is served")
	}
	serial, body, err := ask(&client)
	if err != nil || serial != serialOf(firstPair) {
		t.Fatalf("the server is %s: %v", serial, err)
	}
	if !strings.HasPrefix(body, "By=spiffe://cluster.local/ns/shop/sa/first;Hash=") || !strings.Contains(body, ";URI=spiffe://cluster.local/ns/shop/sa/client") ||
		!strings.HasSuffix(body, " https") || strings.Contains(body, "spoof") {
		t.Errorf("the service is told %q", body)
	}
	p.Edit("secret.yaml", secretFile(second.Chain, second.Key, ca.Root()))
	if serial, _, err := ask(&client); err != nil || serial != serialOf(secondPair) {
		t.Errorf("after the change the server is %s: %v", serial, err)
	}
	p.Edit("secret.yaml", secretFile(first.Chain, second.Key, ca.Root()))
	if serial, _, err := ask(&client); err != nil || serial != serialOf(secondPair) {
		t.Errorf("after a broken change the server is %s: %v", serial, err)
	}
	if log := p.Log(); !strings.Contains(log, "its key is not that of its certificate") {
		t.Error("nothing is said of the broken secret")
	}
	dump := inproc.Dial(t, p.Addr("admin")).Do("GET /config_dump HTTP/1.1\nHost: a\n\n").Body
	if !strings.Contains(dump, "kubernetes://edge") || strings.Contains(dump, base64.StdEncoding.EncodeToString(second.Key)[:40]) || strings.Contains(dump, "PRIVATE KEY") {
		t.Errorf("the dump is %.2000s", dump)
	}
}

// TestMisdirectedRequest: a connection that asked for one server of a Gateway finds
// the hosts of no other, as with Istio: 404, not 421. Within a server it finds all.
func TestMisdirectedRequest(t *testing.T) {
	ca := newCA(t)
	leaf, _ := issue(t, ca, "edge")
	port := freePort(t)
	routes := ""
	for _, h := range []string{"a", "b", "c"} {
		routes += fmt.Sprintf("---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: %s, namespace: default}\nspec: {hosts: [%s.example.com], gateways: [edge], http: [{directResponse: {status: 200, body: {string: %s}}}]}\n", h, h, h)
	}
	inproc.Start(t, map[string]string{
		"edge.yaml": fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  servers:
  - {port: {number: %[1]d, name: https, protocol: HTTPS}, bind: 127.0.0.1, hosts: [a.example.com, c.example.com], tls: {mode: SIMPLE, credentialName: edge}}
  - {port: {number: %[1]d, name: https-b, protocol: HTTPS}, bind: 127.0.0.1, hosts: [b.example.com], tls: {mode: SIMPLE, credentialName: edge}}
`, port) + routes,
		"secret.yaml": secretFile(leaf.Chain, leaf.Key, ca.Root()),
	})
	for _, h2 := range []bool{false, true} {
		for _, sni := range []string{"a", "b", "c"} {
			transport := &nethttp.Transport{ForceAttemptHTTP2: h2, TLSClientConfig: &stdtls.Config{InsecureSkipVerify: true, ServerName: sni + ".example.com"}} //nolint:gosec // workloads have no DNS names
			for _, host := range []string{"a", "b", "c"} {
				req, err := nethttp.NewRequestWithContext(t.Context(), nethttp.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/", port), nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Host = host + ".example.com"
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				text, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				got := fmt.Sprint(resp.StatusCode, " ", string(text))
				want := "200 " + host
				if (sni == "b") != (host == "b") {
					want = "404 "
				}
				if got != want || resp.ProtoMajor == 2 != h2 {
					t.Errorf("%s over a connection for %s (%s): %q, want %q", host, sni, resp.Proto, got, want)
				}
			}
			transport.CloseIdleConnections()
		}
	}
}
