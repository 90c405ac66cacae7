// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// policyObjects say who may what at reviews. Paths that begin otherwise are
// everybody's, as are the ports that aren't HTTP.
var policyObjects = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  action: ALLOW
  rules:
  - to: [{operation: {notPaths: ["/allow/*"], ports: ["9080"]}}]
  - to: [{operation: {ports: ["9000"]}}]
  - from: [{source: {principals: ["cluster.local/ns/default/sa/bookinfo-productpage"]}}]
    to: [{operation: {paths: ["/allow/principal"], methods: [GET]}}]
  - from: [{source: {namespaces: [istio-system]}}]
    to: [{operation: {paths: ["/allow/namespace"]}}]
  - from: [{source: {serviceAccounts: [default/bookinfo-ratings]}}]
    to: [{operation: {paths: ["/allow/account"]}}]
  - to: [{operation: {paths: ["/allow/header"], ports: ["9080"]}}]
    when: [{key: "request.headers[x-key]", values: ["open*"]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  action: DENY
  rules:
  - to: [{operation: {paths: ["/deny", "/deny/*"], ports: ["9080"]}}]
  - from: [{source: {principals: ["*/sa/bookinfo-ratings"]}}]
    to: [{operation: {paths: ["/no-ratings"], ports: ["9080"]}}]
  - from: [{source: {notRequestPrincipals: ["*"]}}]
    to: [{operation: {paths: ["/jwt/*"], ports: ["9080"]}}]
  - to: [{operation: {paths: ["/jwt/admin"], ports: ["9080"]}}]
    when: [{key: "request.auth.claims[group]", notValues: [admin]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: db2, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  action: DENY
  rules:
  - from: [{source: {principals: ["cluster.local/ns/default/sa/bookinfo-ratings"]}}]
    to: [{operation: {ports: ["9000"]}}]
`

// issuer signs tokens that reviews takes.
type issuer struct {
	signer jose.Signer
	yaml   string // the RequestAuthentication
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "one"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "one", Algorithm: string(jose.ES256), Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{signer, `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: reviews, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  jwtRules:
  - issuer: https://issuer.example.com
    audiences: [shop]
    jwks: ` + strconv.Quote(string(keys)) + `
    outputClaimToHeaders: [{header: x-group, claim: group}]
`}
}

// token is the field of a request with a token.
func (i *issuer) token(t testing.TB, group, audience string, ttl time.Duration) string {
	t.Helper()
	now := time.Now()
	text, err := jwt.Signed(i.signer).Claims(jwt.Claims{Issuer: "https://issuer.example.com", Subject: "jason", Audience: jwt.Audience{audience},
		Expiry: jwt.NewNumericDate(now.Add(ttl)), IssuedAt: jwt.NewNumericDate(now.Add(-2 * time.Hour))}).Claims(map[string]any{"group": group}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return "authorization: Bearer " + text
}

// testPolicy: who may, by certificate, by token, and by what is asked for.
func testPolicy(t *testing.T, m *mesh) {
	admin, guest := m.issuer.token(t, "admin", "shop", time.Hour), m.issuer.token(t, "guest", "shop", time.Hour)
	stale, astray := m.issuer.token(t, "admin", "shop", -time.Hour), m.issuer.token(t, "admin", "bank", time.Hour)
	forged := newIssuer(t).token(t, "admin", "shop", time.Hour)
	for _, tc := range []struct {
		name, from, method, path string
		header                   []string
		code                     int
		want                     string
	}{
		{name: "ALLOW a principal", path: "/allow/principal", code: 200},
		{name: "by another method", method: "POST", path: "/allow/principal", code: 403, want: "RBAC: access denied"},
		{name: "not another principal", from: "ratings-v1", path: "/allow/principal", code: 403, want: "RBAC: access denied"},
		{name: "not another path", path: "/allow/principals", code: 403},
		{name: "not by a path that is written otherwise", path: "/x/../allow/%6eamespace", code: 403},
		{name: "not another namespace", path: "/allow/namespace", code: 403},
		{name: "ALLOW a service account", from: "ratings-v1", path: "/allow/account", code: 200},
		{name: "not another account", path: "/allow/account", code: 403},
		{name: "ALLOW a header", path: "/allow/header", header: []string{"x-key: open sesame"}, code: 200},
		{name: "not another value", path: "/allow/header", header: []string{"x-key: sesame"}, code: 403},
		{name: "DENY a path", path: "/deny", code: 403},
		{name: "DENY a path with a query", path: "/deny?x=/allow", code: 403},
		{name: "DENY what is below", path: "/deny/a/b", code: 403},
		{name: "DENY a principal", from: "ratings-v1", path: "/no-ratings", code: 403},
		{name: "not another one", path: "/no-ratings", code: 200},
		{name: "no token", path: "/jwt/x", code: 403},
		{name: "a token", path: "/jwt/x", header: []string{guest}, code: 200, want: `"X-Group":["guest"]`},
		{name: "the token goes no further", path: "/jwt/x", header: []string{guest, "x-group: admin"}, code: 200, want: `"X-Group":["guest"]`},
		{name: "without the claim", path: "/jwt/admin", header: []string{guest}, code: 403},
		{name: "with the claim", path: "/jwt/admin", header: []string{admin}, code: 200},
		{name: "a token that has expired", path: "/any", header: []string{stale}, code: 401, want: "Jwt is expired"},
		{name: "a token for somebody else", path: "/any", header: []string{astray}, code: 403, want: "Audiences in Jwt are not allowed"},
		{name: "a token of somebody else", path: "/any", header: []string{forged}, code: 401, want: "Jwt verification fails"},
		{name: "what is no token", path: "/any", header: []string{"authorization: Bearer a.b.c"}, code: 401},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := m.try(t, call{from: tc.from, method: tc.method, url: "http://reviews:9080" + tc.path, header: tc.header}, tc.code)
			if !strings.Contains(r.body, tc.want) {
				t.Errorf("%q isn't in %s", tc.want, r.body)
			}
			if strings.Contains(r.body, "Bearer") {
				t.Errorf("the application has the token: %s", r.body)
			}
		})
	}
	t.Run("ALLOW a namespace", func(t *testing.T) {
		m.try(t, call{from: "legacy", url: "http://10.244.0.14:8080/allow/namespace", host: "policy.example.com"}, 200)
	})
	t.Run("DENY a principal of TCP", func(t *testing.T) {
		const answer = "reviews-v1 greets 127.0.0.6\na word\n"
		if got, err := m.talk("", "db2:9000"); got != answer {
			t.Errorf("for another one: %q %v", got, err)
		}
		if got, err := m.talk("ratings-v1", "db2:9000"); strings.Contains(got, "a word") {
			t.Errorf("%q %v", got, err)
		}
	})
}
