// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"testing"

	"pillion/test/need"
)

// jwtKey is the key of the issuer in these tests.
var jwtKey = []byte("0123456789abcdef0123456789abcdef")

// token signs claims by HMAC.
func token(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode([]byte(claims))
	mac := hmac.New(sha256.New, jwtKey)
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

// TestEnvoyDecides runs a real Envoy on translated policies: it lets through and refuses
// what Istio's resources say, over HTTP and over TCP.
func TestEnvoyDecides(t *testing.T) {
	need.Envoy(t)
	app := backend(t, "app")
	http, tcp, closed := freePort(t), freePort(t), freePort(t)
	yaml := inboundMesh(fmt.Sprintf("{name: http, port: 80, targetPort: %d}", app), fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: DISABLE}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: default}
spec:
  selector: {matchLabels: {app: app}}
  jwtRules:
  - {issuer: "https://i.example", jwks: '{"keys":[{"kty":"oct","alg":"HS256","k":"%s"}]}'}
  - {issuer: other, jwks: '{"keys":[{"kty":"oct","alg":"HS256","k":"AAAA"}]}', fromHeaders: [{name: x-other}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: istio-system}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: ["/admin*"], ports: ["%[2]d"]}}]
  - to: [{operation: {ports: ["%[2]d"]}}]
    when: [{key: "request.headers[x-evil]", values: ["*"]}]
  - from: [{source: {notIpBlocks: [127.0.0.0/8]}}]
  - from: [{source: {principals: ["*"]}}]
  - to: [{operation: {ports: ["%[4]d"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: default}
spec:
  selector: {matchLabels: {app: app}}
  rules:
  - to: [{operation: {paths: ["/open/{*}/x", "*.css"], methods: [GET]}}]
  - to: [{operation: {hosts: ["*.Example"]}}]
  - from: [{source: {requestPrincipals: ["https://i.example/bob"]}}]
  - when: [{key: "request.auth.claims[realm][roles]", values: [ops]}]
  - to: [{operation: {ports: ["%[3]d"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: trial, namespace: default, annotations: {istio.io/dry-run: "true"}}
spec: {selector: {matchLabels: {app: app}}, action: DENY, rules: [{}]}
`, base64.RawURLEncoding.EncodeToString(jwtKey), app, app+1, app+2))
	r, problems := Translate(load(t, yaml), Options{
		Labels: map[string]string{"app": "app"},
		Inbound: []string{
			fmt.Sprintf("127.0.0.1:%d=127.0.0.1:%d", http, app),
			fmt.Sprintf("127.0.0.1:%d=127.0.0.1:%d", tcp, app+1),
			fmt.Sprintf("127.0.0.1:%d=127.0.0.1:%d", closed, app+2),
		},
	})
	if r == nil {
		t.Fatalf("refused:\n%s", describe(problems))
	}
	// What no workload is there for is sent to the one that is.
	for _, c := range r.Clusters {
		if strings.HasPrefix(c.Name, "inbound|") {
			c.LoadAssignment.Endpoints[0].LbEndpoints[0].GetEndpoint().Address = newAddress("127.0.0.1", uint32(app))
		}
	}
	runEnvoy(t, writeBootstrap(t, r, ""))

	client := &nethttp.Client{Transport: &nethttp.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	for _, c := range []struct {
		method, host, path, header string
		status                     int
	}{
		{"GET", "app", "/open/a/x", "", 200},
		{"GET", "app", "/open/a/b/x", "", 403},
		{"POST", "app", "/open/a/x", "", 403},
		{"GET", "app", "/s/y.css", "", 200},
		{"GET", "app", "/s/y.css?q", "", 200},
		{"GET", "app", "/s/y.css/", "", 403},
		{"GET", "x.EXAMPLE", "/", "", 200},
		{"GET", "example", "/", "", 403},
		{"GET", "x.example", "/admin", "", 403},
		{"GET", "x.example", "/a/../admin", "", 403},
		{"GET", "x.example", "/%61dmin", "", 403},
		{"GET", "x.example", "/", "x-evil: ", 403},
		{"GET", "app", "/", "authorization: Bearer " + token(`{"iss":"https://i.example","sub":"bob"}`), 200},
		{"GET", "app", "/", "authorization: Bearer " + token(`{"iss":"https://i.example","sub":"eve"}`), 403},
		{"GET", "app", "/", "authorization: Bearer " + token(`{"iss":"https://i.example","sub":"eve","realm":{"roles":["dev","ops"]}}`), 200},
		{"GET", "app", "/", "authorization: Bearer " + token(`{"iss":"https://i.example","sub":"eve","realm":{"roles":["dev"]}}`), 403},
		{"GET", "app", "/", "authorization: Bearer " + token(`{"iss":"https://i.example","sub":"bob","exp":1}`), 401},
		{"GET", "x.example", "/", "authorization: Bearer " + token(`{"iss":"https://evil.example","sub":"bob"}`), 401},
		{"GET", "x.example", "/", "authorization: Bearer garbage", 401},
	} {
		req, err := nethttp.NewRequestWithContext(t.Context(), c.method, fmt.Sprintf("http://127.0.0.1:%d/", http), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.URL.Opaque = c.host, c.path
		if name, value, ok := strings.Cut(c.header, ": "); ok {
			req.Header.Set(name, value)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s %s%s: %v", c.method, c.host, c.path, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status {
			t.Errorf("%s %s%s %s: %d %q (%v), want %d", c.method, c.host, c.path, c.header, resp.StatusCode, body, err, c.status)
		}
	}

	// What speaks neither HTTP nor TLS is judged by what is known of a connection.
	speaks := func(port int) bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "\x00\x01\x02 not a request\r\n\r\n"); err != nil {
			return false
		}
		answer, _ := io.ReadAll(conn)
		return len(answer) > 0
	}
	if !speaks(tcp) {
		t.Error("a connection that a rule allows by its port is refused")
	}
	if speaks(closed) {
		t.Error("a connection that a rule denies by its port is let through")
	}
}
