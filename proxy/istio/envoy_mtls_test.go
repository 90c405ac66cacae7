// SPDX-License-Identifier: Apache-2.0

package istio

import (
	stdtls "crypto/tls"
	"fmt"
	"io"
	nethttp "net/http"
	"testing"

	"pillion/test/need"
)

// TestEnvoyKnowsCallers runs a real Envoy before a workload that takes mutual TLS and
// plaintext, and before one that takes mutual TLS alone: policies see who calls.
func TestEnvoyKnowsCallers(t *testing.T) {
	need.Envoy(t)
	mesh, foreign := newAuthority(t), newAuthority(t)
	app := backend(t, "app")
	permissive, strict := freePort(t), freePort(t)
	r, problems := Translate(load(t, inboundMesh(fmt.Sprintf("{name: http, port: 80, targetPort: %d}, {name: http-2, port: 81, targetPort: %d}", app, app+1), fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: app, namespace: default}
spec: {selector: {matchLabels: {app: app}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {%d: {mode: STRICT}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: default}
spec:
  rules:
  - {from: [{source: {principals: [cluster.local/ns/default/sa/web]}}], to: [{operation: {paths: [/principal]}}]}
  - {from: [{source: {namespaces: [default]}}], to: [{operation: {paths: [/namespace]}}]}
  - {from: [{source: {serviceAccounts: [web]}}], to: [{operation: {paths: [/account]}}]}
  - {from: [{source: {notPrincipals: ["*"]}}], to: [{operation: {paths: [/nobody]}}]}
  - {to: [{operation: {paths: [/any]}}]}
`, app+1))), Options{
		CertsDir: mesh.certsDir("spiffe://cluster.local/ns/default/sa/app"), Labels: map[string]string{"app": "app"},
		Inbound: []string{fmt.Sprintf("127.0.0.1:%d=127.0.0.1:%d", permissive, app), fmt.Sprintf("127.0.0.1:%d=127.0.0.1:%d", strict, app+1)},
	})
	if r == nil {
		t.Fatalf("refused:\n%s", describe(problems))
	}
	r.clusterOf(fmt.Sprintf("inbound|%d||", app+1)).LoadAssignment.Endpoints[0].LbEndpoints[0].GetEndpoint().Address = newAddress("127.0.0.1", uint32(app))
	runEnvoy(t, writeBootstrap(t, r, ""))

	const refused = 0
	caller := func(ca *authority, uri string) *nethttp.Client {
		config := &stdtls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio-http/1.1", "istio", "http/1.1"}}
		if ca != nil {
			cert, key := ca.leaf(uri)
			config.Certificates = []stdtls.Certificate{keyPairOf(t, cert, key)}
		}
		c := &nethttp.Client{Transport: &nethttp.Transport{TLSClientConfig: config}}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	web, batch := caller(mesh, "spiffe://cluster.local/ns/default/sa/web"), caller(mesh, "spiffe://cluster.local/ns/batch/sa/web")
	stranger, alien, nobody := caller(foreign, "spiffe://cluster.local/ns/default/sa/web"), caller(mesh, "spiffe://other.example/ns/default/sa/web"), caller(nil, "")
	for _, c := range []struct {
		who    string
		client *nethttp.Client
		scheme string
		port   int
		path   string
		want   int
	}{
		{"web", web, "https", permissive, "/principal", 200}, {"web", web, "https", strict, "/principal", 200},
		{"web", web, "https", strict, "/namespace", 200}, {"web", web, "https", strict, "/account", 200},
		{"web", web, "https", strict, "/nobody", 403}, {"web", web, "https", strict, "/other", 403},
		{"batch", batch, "https", strict, "/principal", 403}, {"batch", batch, "https", strict, "/namespace", 403},
		{"batch", batch, "https", strict, "/account", 403}, {"batch", batch, "https", permissive, "/any", 200},
		{"plaintext", web, "http", permissive, "/principal", 403}, {"plaintext", web, "http", permissive, "/nobody", 200},
		{"plaintext", web, "http", strict, "/any", refused},
		{"a stranger's certificate", stranger, "https", strict, "/any", refused},
		{"another trust domain", alien, "https", strict, "/any", refused},
		{"no certificate", nobody, "https", strict, "/any", refused}, {"no certificate", nobody, "https", permissive, "/any", refused},
	} {
		req, err := nethttp.NewRequestWithContext(t.Context(), nethttp.MethodGet, fmt.Sprintf("%s://127.0.0.1:%d%s", c.scheme, c.port, c.path), nil)
		if err != nil {
			t.Fatal(err)
		}
		got := refused
		if resp, err := c.client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			got = resp.StatusCode
		}
		if got != c.want {
			t.Errorf("%s, %s at port %d: %d, want %d", c.who, c.path, c.port, got, c.want)
		}
	}
}
