// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"io"
	nethttp "net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"pillion/proxy/proxytest/mint"
)

const jwtFilter = `{name: envoy.filters.http.jwt_authn, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication, %s}}, `

// TestJWTRemoteKeys fetches keys by a cluster of HTTP/2 for requests of both
// versions that come while there are none.
func TestJWTRemoteKeys(t *testing.T) {
	k := mint.New(t)
	var fetched atomic.Int32
	app := origin(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if r.URL.Path == "/keys" {
			if fetched.Add(1); r.Host != "issuer.test" || r.Method != "GET" {
				w.WriteHeader(400)
			}
			_, _ = io.WriteString(w, k.Set("rsa"))
			return
		}
		_, _ = fmt.Fprintf(w, "sub %q token %q", r.Header["X-Sub"], r.Header["Authorization"])
	})
	s := serve(t, app, fmt.Sprintf(jwtFilter, `
  providers: {p: {issuer: iss, remote_jwks: {http_uri: {uri: "http://issuer.test/keys", cluster: c, timeout: 5s}}, claim_to_headers: [{header_name: x-sub, claim_name: sub}], clear_route_cache: true}},
  rules: [{match: {prefix: /}, requires: {provider_name: p}}]`), `{match: {prefix: /}, route: {cluster: c}}`)
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			sub := fmt.Sprintf("user%d", n)
			resp, body := ask(t, s.addr, 1+n%2, strings.NewReader("body"), "Authorization: Bearer "+k.Token("RS256", "rsa", mint.Claims("iss", sub)), "X-Sub: admin")
			if want := fmt.Sprintf("sub [%q] token []", sub); resp.StatusCode != 200 || body != want {
				t.Errorf("HTTP/%d: %d %s, want %s", 1+n%2, resp.StatusCode, body, want)
			}
			forged := k.Sign("RS256", "other", `{"alg":"RS256","kid":"rsa"}`, mint.Claims("iss", sub))
			if resp, body := ask(t, s.addr, 1+n%2, strings.NewReader("body"), "Authorization: Bearer "+forged); resp.StatusCode != 401 || body != "Jwt verification fails" {
				t.Errorf("HTTP/%d, forged: %d %s", 1+n%2, resp.StatusCode, body)
			}
		})
	}
	wg.Wait()
	if fetched.Load() != 1 {
		t.Errorf("%d fetches", fetched.Load())
	}
}

// TestJWTRefused: what isn't understood refuses the listener, by its field.
func TestJWTRefused(t *testing.T) {
	k := mint.New(t)
	provider := "providers: {p: {local_jwks: {inline_string: '" + k.Set("rsa") + "'}}}"
	rule := func(match string) string {
		return provider + ", rules: [{match: {" + match + "}, requires: {provider_name: p}}]"
	}
	for _, c := range []struct{ text, route, want string }{
		{rule("prefix: /, grpc: {}"), "", "rules[0].match: grpc: is not supported"},
		{rule("prefix: /, runtime_fraction: {default_value: {numerator: 5}}"), "", "rules[0].match: runtime_fraction: is not supported"},
		{rule("connect_matcher: {}"), "", "rules[0].match: connect_matcher: is not supported"},
		{rule("safe_regex: {regex: '['}"), "", "rules[0].match: safe_regex.regex: "},
		{rule("headers: [{name: x}]"), "", "rules[0].match: "},
		{"providers: {p: {}}", "", "providers[p].jwks_source_specifier: "},
		{provider, `requirement_name: x`, `requirement_name: requirement_map has no "x"`},
		{provider, ``, `requirement_name: requirement_map has no ""`},
	} {
		l := &listenerv3.Listener{}
		routes := `[{match: {prefix: /}, direct_response: {status: 200}`
		if c.text == provider {
			routes += `, typed_per_filter_config: {envoy.filters.http.jwt_authn: {"@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig, ` + c.route + `}}`
		}
		fromYAML(t, jwtListener("l", "1", strings.ReplaceAll(c.text, ", rules:", "\nrules:"), routes+"}]"), l)
		comp := NewCompiler(Env{})
		_, err := comp.Compile(&Resources{Listeners: []*listenerv3.Listener{l}})
		comp.Close()
		if err == nil || !strings.Contains(err.Error(), "envoy.filters.http.jwt_authn: "+c.want) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
}
