// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/proxytest"
	"pillion/proxy/proxytest/mint"
)

// oneProvider is a configuration with one provider of more settings.
func oneProvider(set, more string) string {
	return "providers: {p: {issuer: iss, local_jwks: {inline_string: '" + set + "'}" + more + "}}\nrules: [{match: {prefix: /}, requires: {provider_name: p}}]\n"
}

func TestTokens(t *testing.T) {
	k := mint.New(t)
	f, _ := build(t, oneProvider(k.Set("rsa", "p256", "p384", "p521", "ed", "secret"), ", audiences: [me]"), nil)
	now := time.Now().Unix()
	me := `"aud":["you","me"]`
	ok := mint.Claims("iss", "s", me)
	header := func(h string) string { return k.Sign("RS256", "rsa", h, ok) }
	payload := func(p string) string { return k.Token("RS256", "rsa", p) }
	claim := func(more ...string) string { return payload(mint.Claims("iss", "s", append(more, me)...)) }
	rs := k.Token("RS256", "rsa", ok)
	parts := strings.Split(rs, ".")
	sig := func(s string) string { return parts[0] + "." + parts[1] + "." + s }
	head := func(h, s string) string { return mint.B64([]byte(h)) + "." + parts[1] + "." + s }
	nested := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	secretIsKey := *k
	secretIsKey.Secret = k.RSA.N.Bytes()
	in := mint.B64([]byte(`{"alg":"HS256","kid":"rsa"}`)) + "." + parts[1]
	cases := []struct {
		name, token string
		want        Status
	}{
		{"RS256", rs, OK}, {"RS384", k.Token("RS384", "rsa", ok), OK}, {"RS512", k.Token("RS512", "rsa", ok), OK},
		{"PS256", k.Token("PS256", "rsa", ok), OK}, {"PS384", k.Token("PS384", "rsa", ok), OK}, {"PS512", k.Token("PS512", "rsa", ok), OK},
		{"ES256", k.Token("ES256", "p256", ok), OK}, {"ES384", k.Token("ES384", "p384", ok), OK}, {"ES512", k.Token("ES512", "p521", ok), OK},
		{"EdDSA", k.Token("EdDSA", "ed", ok), OK}, {"HS256", k.Token("HS256", "secret", ok), OK}, {"HS384", k.Token("HS384", "secret", ok), OK}, {"HS512", k.Token("HS512", "secret", ok), OK},
		{"no kid", header(`{"alg":"RS256"}`), OK}, {"unknown header members", header(`{"alg":"RS256","x":[{}],"jku":"http://x/","x5u":"y"}`), OK},

		{"empty", "", BadFormat}, {"one part", "abc", BadFormat}, {"two parts", "a.b", BadFormat}, {"four parts", rs + ".x", BadFormat}, {"dots", "..", BadFormat},
		{"empty signature", sig(""), BadFormat}, {"empty header", "." + parts[1] + "." + parts[2], BadFormat}, {"empty payload", parts[0] + ".." + parts[2], BadFormat},
		{"16 KiB and one", strings.Repeat("a", maxToken-3) + ".b.c", BadFormat},
		{"header in other base64", "A+/+." + parts[1] + "." + parts[2], HeaderBadBase64}, {"header with padding", parts[0] + "=." + parts[1] + "." + parts[2], HeaderBadBase64},
		{"header with a line end", parts[0][:4] + "\n" + parts[0][4:] + "." + parts[1] + "." + parts[2], HeaderBadBase64},
		{"header is nonsense", header(`nonsense`), HeaderBadJSON}, {"header is a list", header(`[]`), HeaderBadJSON}, {"header is null", header(`null`), HeaderBadJSON},
		{"two headers", header(`{"alg":"RS256"}{}`), HeaderBadJSON}, {"duplicate alg", header(`{"alg":"RS256","alg":"RS256"}`), HeaderBadJSON},
		{"duplicate alg, escaped", header(`{"alg":"none","\u0061lg":"RS256"}`), HeaderBadJSON}, {"duplicate kid", header(`{"alg":"RS256","kid":"rsa","kid":"rsa"}`), HeaderBadJSON},
		{"header not UTF-8", header("{\"alg\":\"RS256\",\"x\":\"\xc3\"}"), HeaderBadJSON}, {"header too deep", header(`{"alg":"RS256","d":` + nested(64) + `}`), HeaderBadJSON},
		{"no alg", header(`{}`), HeaderBadAlg}, {"alg null", header(`{"alg":null}`), HeaderBadAlg}, {"alg a number", header(`{"alg":1}`), HeaderBadAlg}, {"Alg", header(`{"Alg":"RS256"}`), HeaderBadAlg},
		{"none", head(`{"alg":"none"}`, "AA"), HeaderUnknownAlg}, {"NONE", head(`{"alg":"NONE"}`, "AA"), HeaderUnknownAlg}, {"nOnE", head(`{"alg":"nOnE"}`, "AA"), HeaderUnknownAlg},
		{"HS1", header(`{"alg":"HS1"}`), HeaderUnknownAlg}, {"RS256 and a space", header(`{"alg":"RS256 "}`), HeaderUnknownAlg}, {"dir", header(`{"alg":"dir","enc":"A128GCM"}`), HeaderUnknownAlg},
		{"kid a number", header(`{"alg":"RS256","kid":1}`), HeaderBadKid}, {"kid null", header(`{"alg":"RS256","kid":null}`), HeaderBadKid},
		{"payload in other base64", parts[0] + ".+/+/." + parts[2], PayloadBadBase64}, {"payload is a list", payload(`[]`), PayloadBadJSON}, {"payload is nonsense", payload(`{"iss"}`), PayloadBadJSON},
		{"duplicate iss", payload(`{"iss":"evil","iss":"iss"}`), PayloadBadJSON}, {"duplicate deep inside", claim(`"a":[{"b":{"c":1,"c":2}}]`), PayloadBadJSON},
		{"payload too deep", claim(`"d":` + nested(64)), PayloadBadJSON}, {"payload not UTF-8", claim("\"d\":\"\xff\""), PayloadBadJSON}, {"number too large", claim(`"d":1e999`), PayloadBadJSON},
		{"deep enough", claim(`"d":` + nested(63)), OK},
		{"iss a number", payload(`{"iss":1}`), IssNotString}, {"sub a list", payload(`{"iss":"iss","sub":[]}`), SubNotString}, {"iat text", claim(`"iat":"1"`), IatNotInteger}, {"iat negative", claim(`"iat":-1`), IatOutOfRange},
		{"nbf text", claim(`"nbf":"1"`), NbfNotInteger}, {"nbf negative", claim(`"nbf":-1`), NbfOutOfRange}, {"exp true", claim(`"exp":true`), ExpNotInteger}, {"exp huge", claim(`"exp":1e20`), ExpOutOfRange},
		{"exp null", claim(`"exp":null`), ExpNotInteger}, {"jti a number", claim(`"jti":1`), JtiNotString}, {"aud an object", payload(`{"iss":"iss","aud":{}}`), AudNotString}, {"aud with null", payload(`{"iss":"iss","aud":["me",null]}`), AudNotString},
		{"signature in other base64", sig("+/+/"), SignatureBadBase64}, {"signature with padding", sig(parts[2] + "=="), SignatureBadBase64}, {"signature of one letter", sig("A"), SignatureBadBase64},
		{"expired", claim(fmt.Sprintf(`"exp":%d`, now-61-5)), Expired}, {"just expired", claim(fmt.Sprintf(`"exp":%d`, now-50)), OK}, {"exp of 0", claim(`"exp":0`), Expired},
		{"not yet", claim(fmt.Sprintf(`"nbf":%d`, now+70)), NotYetValid}, {"nearly", claim(fmt.Sprintf(`"nbf":%d`, now+50)), OK}, {"no exp", payload(`{"iss":"iss","aud":"me"}`), OK},
		{"other issuer", payload(mint.Claims("evil", "s", me)), UnknownIssuer}, {"no issuer", payload(mint.Claims("", "s", me)), UnknownIssuer}, {"issuer and a slash", payload(mint.Claims("iss/", "s", me)), UnknownIssuer},
		{"other audience", payload(mint.Claims("iss", "s", `"aud":"you"`)), AudienceNotAllowed}, {"no audience", payload(mint.Claims("iss", "s")), AudienceNotAllowed},
		{"audience as a URL", payload(mint.Claims("iss", "s", `"aud":"https://me/"`)), OK},
		{"HMAC with the public key", in + "." + mint.B64(secretIsKey.Signature("HS256", "secret", in)), VerificationFail},
		{"RSA key for ES256", k.Sign("RS256", "rsa", `{"alg":"ES256","kid":"rsa"}`, ok), VerificationFail},
		{"other key", k.Sign("RS256", "other", `{"alg":"RS256","kid":"rsa"}`, ok), VerificationFail},
		{"embedded key", k.Sign("RS256", "other", `{"alg":"RS256","kid":"rsa","jwk":`+k.JWK("other")+`}`, ok), VerificationFail},
		{"embedded broken key", k.Sign("RS256", "other", `{"alg":"RS256","kid":"rsa","jwk":7}`, ok), VerificationFail},
		{"kid injection", header(`{"alg":"RS256","kid":"rsa\u0000"}`), JwksKidAlgMismatch}, {"kid a path", header(`{"alg":"RS256","kid":"/dev/null"}`), JwksKidAlgMismatch},
		{"kid of the other kind", header(`{"alg":"RS256","kid":"secret"}`), VerificationFail},
		{"ES256, r and s of 0", head(`{"alg":"ES256","kid":"p256"}`, mint.B64(make([]byte, 64))), VerificationFail}, {"ES256 in DER", head(`{"alg":"ES256","kid":"p256"}`, mint.B64([]byte{0x30, 6, 2, 1, 1, 2, 1, 1})), VerificationFail},
		{"EdDSA too short", head(`{"alg":"EdDSA","kid":"ed"}`, mint.B64(make([]byte, 63))), Ed25519WrongLength}, {"EdDSA of zeros", head(`{"alg":"EdDSA","kid":"ed"}`, mint.B64(make([]byte, 64))), VerificationFail},
		{"crit", header(`{"alg":"RS256","kid":"rsa","crit":["x"],"x":1}`), VerificationFail}, {"b64", header(`{"alg":"RS256","kid":"rsa","b64":false}`), VerificationFail},
		{"header changed", mint.B64([]byte(`{"alg":"RS256","kid":"rsa","typ":"jwt"}`)) + "." + parts[1] + "." + parts[2], VerificationFail},
		{"payload changed", parts[0] + "." + mint.B64([]byte(mint.Claims("iss", "root", me))) + "." + parts[2], VerificationFail},
	}
	if len(cases) < 80 {
		t.Errorf("there are %d tokens, want at least 80", len(cases))
	}
	for _, c := range cases {
		ex := request("/", bearer(c.token))
		status := f.OnRequest(ex)
		if (status == filter.Continue) != (c.want == OK) || c.want != OK && ex.LocalReply.Body != c.want.String() {
			t.Errorf("%s: %v %q, want %q", c.name, status, ex.LocalReply.Body, c.want)
		}
	}
}

func TestRefusal(t *testing.T) {
	k := mint.New(t)
	f, s := build(t, oneProvider(k.Set("rsa"), ", audiences: [me]"), nil)
	ex := request("/a?b")
	f.OnRequest(ex)
	r := ex.LocalReply
	if r.Status != 401 || r.Err.Detail != "jwt_authn_access_denied{Jwt_is_missing}" || r.Err.Flag != 0 || len(r.Headers) != 1 ||
		string(r.Headers[0].Value) != `Bearer realm="http://api.test/a?b"` {
		t.Errorf("%+v %+v", r, r.Err)
	}
	ex = request("/", bearer(k.Token("RS256", "rsa", mint.Claims("iss", "s"))))
	f.OnRequest(ex)
	if ex.LocalReply.Status != 403 {
		t.Errorf("status %d for another audience", ex.LocalReply.Status)
	}
	if s.Denied.Value() != 2 || s.Allowed.Value() != 0 {
		t.Errorf("%d denied, %d allowed", s.Denied.Value(), s.Allowed.Value())
	}
}

// TestMetadata: other filters read it, and get no claims of a refused token.
func TestMetadata(t *testing.T) {
	k := mint.New(t)
	f, _ := build(t, oneProvider(k.Set("rsa"), `, payload_in_metadata: payload, header_in_metadata: header, failed_status_in_metadata: failed,
  normalize_payload_in_metadata: {space_delimited_claims: [scope, permission, sub2]}`), nil)
	token := bearer(k.Token("RS256", "rsa", mint.Claims("iss", "s", `"scope":"read  write ","permission":7,"realm":{"roles":["x"]}`)))
	for range 2 { // the second one comes from the cache
		ex := request("/", token)
		if why := ask(f, ex); why != "" {
			t.Fatal(why)
		}
		for _, c := range []struct {
			path []string
			want any
		}{
			{[]string{"payload", "iss"}, "iss"}, {[]string{"payload", "scope"}, []any{"read", "write"}}, {[]string{"payload", "permission"}, 7.0},
			{[]string{"payload", "realm", "roles"}, []any{"x"}}, {[]string{"header", "kid"}, "rsa"}, {[]string{"failed"}, nil},
		} {
			if got, _ := ex.Metadata.Get(metadataName, c.path...); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%q = %v, want %v", c.path, got, c.want)
			}
		}
	}
	ex := request("/", bearer(k.Sign("RS256", "other", `{"alg":"RS256","kid":"rsa"}`, mint.Claims("iss", "root"))))
	ask(f, ex)
	if v, ok := ex.Metadata.Get(metadataName, "payload"); ok {
		t.Errorf("a forged token says %v", v)
	}
	if v, _ := ex.Metadata.Get(metadataName, "failed"); !reflect.DeepEqual(v, map[string]any{"code": float64(VerificationFail), "message": "Jwt verification fails"}) {
		t.Errorf("failed: %v", v)
	}
}

func TestClaimsThatMakeNoField(t *testing.T) {
	k := mint.New(t)
	f, _ := build(t, oneProvider(k.Set("rsa"), `, claim_to_headers: [{header_name: X-Sub, claim_name: sub}]`), nil)
	for _, sub := range []string{"a\r\nx-admin: true", "a\nb", "a\x00b", " a", "a\x7f"} {
		ex := request("/", bearer(k.Token("RS256", "rsa", `{"iss":"iss","sub":`+mint.Quote(sub)+`}`)), "x-sub: mine")
		if why := ask(f, ex); why != "" || get(ex, "x-sub") != "" {
			t.Errorf("sub %q: %q, x-sub %q", sub, why, get(ex, "x-sub"))
		}
	}
}

func TestCacheOfTokens(t *testing.T) {
	k := mint.New(t)
	synctest.Test(t, func(t *testing.T) {
		f, s := build(t, oneProvider(k.Set("rsa"), `, jwt_cache_config: {jwt_cache_size: 2, jwt_max_token_size: 1000}`), nil)
		token := func(sub string, more ...string) string {
			return bearer(k.Token("RS256", "rsa", mint.Claims("iss", sub, more...)))
		}
		want := func(name, token string, hits, misses uint64, why string) {
			t.Helper()
			h, m := s.CacheHit.Value(), s.CacheMiss.Value()
			if got := ask(f, request("/", token)); got != why {
				t.Errorf("%s: %q, want %q", name, got, why)
			}
			if h, m = s.CacheHit.Value()-h, s.CacheMiss.Value()-m; h != hits || m != misses {
				t.Errorf("%s: %d hits, %d misses", name, h, m)
			}
		}
		short := token("a", fmt.Sprintf(`"exp":%d`, time.Now().Unix()+10))
		want("a", short, 0, 1, "")
		want("a again", short, 1, 0, "")
		time.Sleep(70 * time.Second)
		want("a within the skew", short, 1, 0, "")
		time.Sleep(time.Second)
		want("a expired", short, 1, 0, Expired.String())
		want("a forgotten", short, 0, 1, Expired.String())
		big := token(strings.Repeat("x", 1000))
		want("big", big, 0, 1, "")
		want("big again", big, 0, 1, "")
		for n := range 10 {
			want("fill", token(fmt.Sprint(n)), 0, 1, "")
		}
		want("the last one", token("9"), 1, 0, "")
		want("the first one", token("0"), 0, 1, "")
		c := f.engine.providers[0].cache
		if len(c.byID) > 2 || len(c.ring) > 2 {
			t.Errorf("%d tokens in %d places", len(c.byID), len(c.ring))
		}
		forged := bearer(k.Sign("RS256", "other", `{"alg":"RS256"}`, mint.Claims("iss", "a")))
		want("forged", forged, 0, 1, VerificationFail.String())
		want("forged again", forged, 0, 1, VerificationFail.String())
	})
}

func TestCacheIsShared(t *testing.T) {
	c := newCache(50, 100)
	keys := &keySet{}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := range 2000 {
				id := digest{byte(n % 120), byte(w % 2)}
				if c.get(&id, keys) == nil {
					c.put(&id, &token{}, keys)
				}
				if n%7 == 0 {
					c.drop(&id)
				}
			}
		})
	}
	wg.Wait()
	if len(c.byID) > 50 || len(c.ring) > 50 {
		t.Errorf("%d tokens in %d places", len(c.byID), len(c.ring))
	}
	for id, e := range c.byID {
		if e.id != id || c.ring[e.at] != e {
			t.Error("the ring doesn't hold what the map has")
		}
	}
}

func TestVerifiedTokenAllocatesNothing(t *testing.T) {
	k := mint.New(t)
	f, _ := build(t, `
providers:
  a: {issuer: other, local_jwks: {inline_string: '`+k.Set("p256")+`'}, from_headers: [{name: x-a}]}
  p: {issuer: iss, local_jwks: {inline_string: '`+k.Set("rsa")+`'}, payload_in_metadata: payload, forward_payload_header: x-payload,
      claim_to_headers: [{header_name: x-sub, claim_name: sub}], normalize_payload_in_metadata: {space_delimited_claims: [scope]}}
rules: [{match: {prefix: /}, requires: {requires_any: {requirements: [{provider_name: a}, {provider_name: p}, {allow_missing: {}}]}}}]
`, nil)
	token := []byte("Bearer " + k.Token("RS256", "rsa", mint.Claims("iss", "s", `"scope":"a b"`)))
	name, mine := []byte("x-sub"), []byte("mine")
	ex := request("/?a=b")
	req := ex.Req
	use := func() {
		ex.Reset()
		fields := ex.Req.Fields
		ex.Req = req
		ex.Req.Fields = fields
		ex.Req.Fields.AddID(http.HeaderAuthorization, token)
		ex.Req.Fields.Add(name, mine)
		if f.Waits(ex) || f.OnRequest(ex) != filter.Continue {
			t.Fatalf("%+v", ex.LocalReply)
		}
		if v, _ := ex.Req.Fields.Lookup(http.HeaderOther, name); string(v) != "s" || ex.Req.Fields.Has(http.HeaderAuthorization) {
			t.Fatalf("%+v", ex.LocalReply)
		}
	}
	use()
	proxytest.NoAllocs(t, "a token that was verified before", use)
}

func BenchmarkVerifiedToken(b *testing.B) {
	k := mint.New(b)
	f, _ := build(b, oneProvider(k.Set("rsa"), ", forward: true, payload_in_metadata: payload"), nil)
	ex := request("/", bearer(k.Token("RS256", "rsa", mint.Claims("iss", "s"))))
	req := ex.Req
	b.ReportAllocs()
	for b.Loop() {
		ex.Metadata = http.Metadata{}
		ex.Req = req
		if f.OnRequest(ex) != filter.Continue {
			b.Fatal(ex.LocalReply.Body)
		}
	}
}

func TestConfigurationIsRefused(t *testing.T) {
	k := mint.New(t)
	provider := func(text string) string { return "providers: {p: {" + text + "}}" }
	local := "local_jwks: {inline_string: '" + k.Set("rsa") + "'}"
	remote := func(text string) string { return provider("remote_jwks: {" + text + "}") }
	uri := "http_uri: {uri: 'http://a/', cluster: c, timeout: 1s}"
	rule := func(text string) string {
		return provider(local) + "\nrules: [{match: {prefix: /}, requires: {" + text + "}}]"
	}
	for _, c := range []struct{ text, want string }{
		{"filter_state_rules: {name: x}", "filter_state_rules: is not supported"},
		{provider(""), "providers[p].jwks_source_specifier: it needs"},
		{provider("local_jwks: {inline_string: nonsense}"), "providers[p].local_jwks: the key set is no valid JSON"},
		{provider("local_jwks: {filename: /nowhere/at/all}"), "providers[p].local_jwks.filename: "},
		{provider("local_jwks: {}"), "providers[p].local_jwks.specifier: is needed"},
		{provider(local + ", max_lifetime: 0s"), "providers[p].max_lifetime: 0s is not above 0"},
		{provider(local + ", from_headers: [{name: 'a b'}]"), `providers[p].from_headers[0].name: "a b" is no name`},
		{provider(local + ", from_params: ['']"), "providers[p].from_params[0]: is empty"}, {provider(local + ", from_cookies: ['']"), "providers[p].from_cookies[0]: is empty"},
		{provider(local + ", forward_payload_header: Host"), `providers[p].forward_payload_header: "Host" is no field`},
		{provider(local + ", claim_to_headers: [{header_name: ':path', claim_name: a}]"), `providers[p].claim_to_headers[0].header_name: ":path"`},
		{provider(local + ", claim_to_headers: [{header_name: content-length, claim_name: a}]"), `providers[p].claim_to_headers[0].header_name: "content-length"`},
		{provider(local + ", claim_to_headers: [{header_name: a}]"), "providers[p].claim_to_headers[0].claim_name: either"},
		{provider(local + ", claim_to_headers: [{header_name: a, claim_name: b, claim_path: [{key: c}]}]"), "providers[p].claim_to_headers[0].claim_name: either"},
		{provider(local + ", claim_to_headers: [{header_name: a, claim_path: [{}]}]"), "providers[p].claim_to_headers[0].claim_path[0].key: is needed"},
		{remote(""), "providers[p].remote_jwks.http_uri.uri: "}, {remote("http_uri: {uri: 'ftp://a/', cluster: c, timeout: 1s}"), "providers[p].remote_jwks.http_uri.uri: "},
		{remote("http_uri: {uri: 'http://u:p@a/', cluster: c, timeout: 1s}"), "providers[p].remote_jwks.http_uri.uri: "},
		{remote("http_uri: {uri: 'http://a/', timeout: 1s}"), "providers[p].remote_jwks.http_uri.cluster: "}, {remote("http_uri: {uri: 'http://a/', cluster: c}"), "providers[p].remote_jwks.http_uri.timeout: "},
		{remote(uri + ", cache_duration: -1s"), "providers[p].remote_jwks.cache_duration: "}, {remote(uri + ", async_fetch: {failed_refetch_duration: 0s}"), "providers[p].remote_jwks.async_fetch.failed_refetch_duration: "},
		{remote(uri + ", retry_policy: {retry_on: x}"), "providers[p].remote_jwks.retry_policy.retry_on: is not supported"},
		{remote(uri + ", retry_policy: {retry_back_off: {base_interval: 0.0001s}}"), "providers[p].remote_jwks.retry_policy.retry_back_off.base_interval: "},
		{remote(uri + ", retry_policy: {retry_back_off: {base_interval: 1s, max_interval: 0.5s}}"), "providers[p].remote_jwks.retry_policy.retry_back_off.max_interval: "},
		{rule("provider_name: q"), `rules[0].requires.provider_name: there is no provider "q"`}, {rule("provider_and_audiences: {provider_name: q}"), "rules[0].requires.provider_and_audiences.provider_name: "},
		{rule("requires_any: {}"), "rules[0].requires.requires_any.requirements: there must be two"}, {rule("requires_all: {requirements: [{}, {provider_name: q}]}"), "rules[0].requires.requires_all.requirements[1].provider_name: "},
		{rule("extract_only_without_validation: {}"), "rules[0].requires.extract_only_without_validation: is not supported"},
		{"rules: [{}]", "rules[0].match: is needed"}, {"rules: [{match: {prefix: /}, requirement_name: x}]", "rules[0].requirement_name: "},
		{"requirement_map: {x: {provider_name: q}}", "requirement_map[x].provider_name: "},
	} {
		if _, _, _, err := compile(t, c.text, nil); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
	e, _, _, err := compile(t, provider(local), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.New(&jwtv3.PerRouteConfig{RequirementSpecifier: &jwtv3.PerRouteConfig_RequirementName{RequirementName: "x"}}); err == nil {
		t.Error("a route asks for a requirement that isn't there")
	}
}
