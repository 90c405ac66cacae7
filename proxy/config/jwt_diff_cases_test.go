// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"pillion/proxy/proxytest/mint"
)

// jwtConfigs are the configurations that are compared, by listener.
func jwtConfigs(k *mint.Keys) map[string]string {
	all := k.Set("rsa", "p256", "p384", "p521", "ed", "secret")
	jwks := func(set string) string { return "local_jwks: {inline_string: '" + set + "'}" }
	one := func(provider string) string {
		return "providers: {p: {issuer: iss, " + jwks(all) + ", " + provider + "}}\nrules: [{match: {prefix: /}, requires: {provider_name: p}}]\n"
	}
	two := "providers:\n  a: {issuer: a, " + jwks(k.Set("rsa")) + ", claim_to_headers: [{header_name: x-from-a, claim_name: sub}]}\n" +
		"  b: {issuer: b, " + jwks(k.Set("p256")) + ", from_headers: [{name: x-b}, {name: authorization, value_prefix: 'Bearer '}], claim_to_headers: [{header_name: x-from-b, claim_name: sub}]}\n"
	rules := func(requires string) string { return "rules: [{match: {prefix: /}, requires: " + requires + "}]\n" }
	remote := func(path, cluster, more string) string {
		return "providers: {p: {issuer: iss, remote_jwks: {http_uri: {uri: 'http://issuer.test" + path + "', cluster: " + cluster + ", timeout: 2s}" + more + "}}}\n" + rules("{provider_name: p}")
	}
	return map[string]string{
		"remote": remote("/good?x=y", "issuer", ""), "ahead": remote("/good?x=y", "issuer", ", async_fetch: {}"), "html": remote("/html", "issuer", ""),
		"empty": remote("/empty", "issuer", ""), "none": remote("/none", "issuer", ""), "500": remote("/500", "issuer", ""), "302": remote("/302", "issuer", ""),
		"201": remote("/201", "issuer", ""), "big": remote("/big", "issuer", ""), "slow": remote("/slow", "issuer", ""), "refused": remote("/good", "gone", ""),
		"unknown": remote("/good", "nowhere", ""), "retried": remote("/500", "issuer", ", retry_policy: {num_retries: 2, retry_back_off: {base_interval: 0.01s}}"),
		"one":     one("forward: true"),
		"removed": one("audiences: [me, 'https://aud.test/']"),
		"claims": one(`forward: true, forward_payload_header: x-payload, pad_forward_payload_header: true, claim_to_headers: [
  {header_name: x-sub, claim_name: sub}, {header_name: x-nested, claim_name: a.b.c}, {header_name: x-number, claim_name: "n"},
  {header_name: x-path, claim_path: [{key: a.dot}, {key: c}]}]`),
		"unpadded":  one("forward_payload_header: x-payload"),
		"places":    one(`from_headers: [{name: x-jwt}, {name: x-pre, value_prefix: "tok="}], from_params: [q, access_token], from_cookies: [session]`),
		"kept":      one(`forward: true, from_headers: [{name: x-jwt}], from_params: [q]`),
		"subject":   one(`subjects: {prefix: "spiffe://"}`),
		"needs exp": one("require_expiration: true"),
		"lifetime":  one("max_lifetime: 3600s"),
		"skew":      one("clock_skew_seconds: 5"),
		"strip":     one("forward: true") + "strip_failure_response: true\n",
		"prefixed":  one("forward: true") + "stat_prefix: own\n",
		"cors":      one("claim_to_headers: [{header_name: x-sub, claim_name: sub}]") + "bypass_cors_preflight: true\n",
		"no issuer": "providers: {p: {" + jwks(all) + "}}\n" + rules("{provider_name: p}"),
		"algs": "providers: {p: {issuer: iss, " + jwks(`{"keys":[`+k.JWK("rsa", `"kid":"rsa"`, `"alg":"RS256"`)+`,`+k.JWK("p256", `"kid":"p256"`, `"alg":"ES256"`)+`,`+
			k.JWK("other", `"kid":"enc"`, `"use":"enc"`)+`,{"kty":"??"}]}`) + "}}\n" + rules("{provider_name: p}"),
		"no kid":  "providers: {p: {issuer: iss, " + jwks(`{"keys":[`+k.JWK("other")+`,`+k.JWK("rsa")+`,`+k.JWK("p256")+`]}`) + "}}\n" + rules("{provider_name: p}"),
		"any":     two + rules("{requires_any: {requirements: [{provider_name: a}, {provider_name: b}]}}"),
		"istio":   two + rules("{requires_any: {requirements: [{provider_name: a}, {provider_name: b}, {allow_missing: {}}]}}"),
		"lax":     two + rules("{requires_any: {requirements: [{provider_name: a}, {allow_missing_or_failed: {}}]}}"),
		"all":     two + rules("{requires_all: {requirements: [{provider_name: a}, {provider_name: b}]}}"),
		"missing": two + rules("{allow_missing: {}}"), "failed": two + rules("{allow_missing_or_failed: {}}"),
		"rerouted": strings.Replace(two, "a: {", "a: {clear_route_cache: true, ", 1) + rules("{requires_any: {requirements: [{provider_name: a}, {provider_name: b}, {allow_missing: {}}]}}") + `---
[{match: {prefix: /, headers: [{name: x-from-a, string_match: {exact: anna}}]}, route: {cluster: app}, request_headers_to_add: [{header: {key: x-route, value: annas}}]},
 {match: {prefix: /, headers: [{name: x-from-b, present_match: true}]}, route: {cluster: app}, request_headers_to_add: [{header: {key: x-route, value: somebodys}}]},
 {match: {prefix: /, headers: [{name: x-from-a, present_match: true}]}, direct_response: {status: 410, body: {inline_string: gone}}},
 {match: {path: /nowhere, headers: [{name: authorization, present_match: true}]}, route: {cluster: app}},
 {match: {prefix: /else}, route: {cluster: app}, request_headers_to_add: [{header: {key: x-route, value: nobodys}}]}]
`,
		"audience": two + rules("{provider_and_audiences: {provider_name: a, audiences: [x, z2]}}"),
		"rules": two + `requirement_map: {ra: {provider_name: a}, rb: {provider_name: b}}
rules:
- {match: {path: /open}}
- {match: {prefix: /h, headers: [{name: x-go, string_match: {exact: "yes"}}]}, requires: {provider_name: b}}
- {match: {prefix: /q, query_parameters: [{name: k, string_match: {exact: v}}]}, requires: {provider_name: b}}
- {match: {safe_regex: {regex: "/r[0-9]+"}}, requirement_name: rb}
- {match: {path_separated_prefix: /seg}, requires: {provider_name: a}}
- {match: {path: /CASE, case_sensitive: false}, requires: {provider_name: a}}
- {match: {prefix: /api}, requires: {}}
- {match: {prefix: /}, requirement_name: ra}
---
[{match: {prefix: /off}, route: {cluster: app}, typed_per_filter_config: {envoy.filters.http.jwt_authn: {"@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig, disabled: true}}},
 {match: {prefix: /own}, route: {cluster: app}, typed_per_filter_config: {envoy.filters.http.jwt_authn: {"@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig, requirement_name: rb}}},
 {match: {prefix: /}, route: {cluster: app}}]
`,
	}
}

// bearer makes the field in which clients send a token.
func bearer(token string) []string { return []string{"Authorization: Bearer " + token} }

// badTokens are what mustn't pass where a token of issuer iss with any key of
// the set is good: each with why ours differs, if it does.
func badTokens(k *mint.Keys) []struct{ name, token, stricter string } {
	const strict = "base64url that isn't canonical lets one signature have many texts (RFC 4648 section 3.5)"
	good := mint.Claims("iss", "s")
	rs := k.Token("RS256", "rsa", good)
	parts := strings.Split(rs, ".")
	pub := k.JWK("other")
	now := time.Now().Unix()
	payload := func(text string) string { return k.Token("RS256", "rsa", text) }
	header := func(text string) string { return k.Sign("RS256", "rsa", text, good) }
	claim := func(more ...string) string { return payload(mint.Claims("iss", "s", more...)) }
	unsigned := func(h string) string { return mint.B64([]byte(h)) + "." + parts[1] + "." }
	hmacOfPublic := func() string {
		in := mint.B64([]byte(`{"alg":"HS256","kid":"rsa"}`)) + "." + parts[1]
		forger := *k
		forger.Secret = []byte(k.JWK("rsa"))
		return in + "." + mint.B64(forger.Signature("HS256", "secret", in))
	}
	zeros := func(kid, alg string, n int) string {
		return mint.B64([]byte(fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, kid))) + "." + parts[1] + "." + mint.B64(make([]byte, n))
	}
	flip := func(s string, i int) string {
		c := byte('A')
		if s[i] == 'A' {
			c = 'B'
		}
		return s[:i] + string(c) + s[i+1:]
	}
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	return []struct{ name, token, stricter string }{
		{"empty", "", ""}, {"no dots", "abc", ""}, {"one dot", "a.b", ""}, {"three dots", "a.b.c.d", ""}, {"only dots", "..", ""},
		{"empty signature", parts[0] + "." + parts[1] + ".", ""}, {"empty header", "." + parts[1] + "." + parts[2], ""}, {"empty payload", parts[0] + ".." + parts[2], ""},
		{"alg none", unsigned(`{"alg":"none"}`), ""}, {"alg none with a signature", unsigned(`{"alg":"none"}`) + parts[2], ""},
		{"alg None", unsigned(`{"alg":"None"}`) + "AA", ""}, {"alg is missing", header(`{"kid":"rsa"}`), ""}, {"alg is a number", header(`{"alg":256}`), ""},
		{"alg is a list", header(`{"alg":["RS256"]}`), ""}, {"alg in lower case", header(`{"alg":"rs256"}`), ""}, {"alg unknown", header(`{"alg":"RS999"}`), ""},
		{"alg ES256K", header(`{"alg":"ES256K"}`), ""}, {"alg empty", header(`{"alg":""}`), ""},
		{"duplicate alg", header(`{"alg":"none","alg":"RS256","kid":"rsa"}`), ""},
		{"duplicate claim", payload(`{"iss":"evil","iss":"iss","exp":4102444800}`), ""},
		{"duplicate nested claim", payload(`{"iss":"iss","exp":4102444800,"a":{"b":1,"b":2}}`), ""},
		{"header of two values", header(`{"alg":"RS256"}{"x":1}`), ""}, {"header is a list", header(`[]`), ""}, {"header is text", header(`"RS256"`), ""},
		{"header is no JSON", header(`{alg}`), ""}, {"header is empty JSON", header(` `), ""},
		{"kid is a number", header(`{"alg":"RS256","kid":7}`), ""}, {"kid of no key", header(`{"alg":"RS256","kid":"../../dev/null"}`), ""},
		{"kid with SQL", header(`{"alg":"RS256","kid":"x' UNION SELECT 'k"}`), ""}, {"kid of another kind", k.Sign("RS256", "rsa", `{"alg":"RS256","kid":"p256"}`, good), ""},
		{"HMAC with the public key", hmacOfPublic(), ""}, {"HMAC with another secret", zeros("secret", "HS256", 32), ""},
		{"RS256 with another key", k.Sign("RS256", "other", `{"alg":"RS256","kid":"rsa"}`, good), ""},
		{"embedded jwk", k.Sign("RS256", "other", `{"alg":"RS256","jwk":`+pub+`}`, good), ""},
		{"embedded jwk with a kid", k.Sign("RS256", "other", `{"alg":"RS256","kid":"rsa","jwk":`+pub+`}`, good), ""},
		{"jku", k.Sign("RS256", "other", `{"alg":"RS256","jku":"http://127.0.0.1:1/jwks"}`, good), ""},
		{"x5u", k.Sign("RS256", "other", `{"alg":"RS256","x5u":"http://127.0.0.1:1/cert"}`, good), ""},
		{"x5c", k.Sign("RS256", "other", `{"alg":"RS256","x5c":["AAAA"]}`, good), ""},
		{"ES256 of zeros", zeros("p256", "ES256", 64), ""}, {"ES384 of zeros", zeros("p384", "ES384", 96), ""}, {"ES512 of zeros", zeros("p521", "ES512", 132), ""},
		{"ES256 of one octet", zeros("p256", "ES256", 1), ""}, {"EdDSA of zeros", zeros("ed", "EdDSA", 64), ""}, {"EdDSA too short", zeros("ed", "EdDSA", 63), ""},
		{"RS256 of zeros", zeros("rsa", "RS256", 256), ""}, {"PS256 header, RS256 signature", k.Sign("RS256", "rsa", `{"alg":"PS256","kid":"rsa"}`, good), ""},
		{"RS512 header, RS256 signature", k.Sign("RS256", "rsa", `{"alg":"RS512","kid":"rsa"}`, good), ""},
		{"ES256 by the key of P-384", k.Sign("ES384", "p384", `{"alg":"ES256","kid":"p384"}`, good), ""},
		{"signature changed", parts[0] + "." + parts[1] + "." + flip(parts[2], 5), ""}, {"payload changed", parts[0] + "." + mint.B64([]byte(mint.Claims("iss", "root"))) + "." + parts[2], ""},
		{"signature cut", rs[:len(rs)-6], ""}, {"signature with padding", rs + "==", "base64url of a token has no padding (RFC 7515 section 2)"},
		{"signature in plain base64", parts[0] + "." + parts[1] + "." + base64.StdEncoding.EncodeToString(k.Signature("RS256", "rsa", parts[0]+"."+parts[1])), ""},
		{"signature with stray bits", parts[0] + "." + parts[1] + "." + strayBits(parts[2]), strict},
		{"signature is no base64", parts[0] + "." + parts[1] + ".!!!!", ""}, {"header is no base64", "!!!!." + parts[1] + "." + parts[2], ""}, {"payload is no base64", parts[0] + ".!!!!." + parts[2], ""},
		{"payload is no JSON", payload(`{`), ""}, {"payload is a list", payload(`[]`), ""}, {"payload is no UTF-8", payload("{\"iss\":\"iss\",\"a\":\"\xff\"}"), ""},
		{"payload with a comma too many", payload(`{"iss":"iss",}`), "it is no JSON (RFC 8259)"}, {"payload in single quotes", payload(`{'iss':'iss'}`), "it is no JSON (RFC 8259)"},
		{"deep payload", claim(`"d":` + deep(200)), ""}, {"deep header", header(`{"alg":"RS256","kid":"rsa","d":` + deep(200) + `}`), ""},
		{"a payload of depth 80", claim(`"d":` + deep(80)), "JSON deeper than 64 is refused"},
		{"too long", claim(`"pad":"` + strings.Repeat("x", 17<<10) + `"`), "a token of more than 16 KiB is refused"},
		{"another issuer", payload(mint.Claims("evil", "s")), ""}, {"no issuer", payload(mint.Claims("", "s")), ""}, {"issuer in other case", payload(mint.Claims("ISS", "s")), ""},
		{"issuer is a number", payload(`{"iss":7}`), ""}, {"issuer is null", payload(`{"iss":null}`), ""}, {"sub is a number", claim(`"sub":7`), ""},
		{"jti is a number", claim(`"jti":7`), ""}, {"aud is a number", claim(`"aud":7`), ""}, {"aud holds a number", claim(`"aud":["me",7]`), ""}, {"aud is null", claim(`"aud":null`), ""},
		{"iat is text", claim(`"iat":"1"`), ""}, {"nbf is text", claim(`"nbf":"1"`), ""}, {"exp is text", claim(`"exp":"4102444800"`), ""}, {"exp is negative", claim(`"exp":-1`), ""},
		{"iat is negative", claim(`"iat":-1`), ""}, {"nbf is negative", claim(`"nbf":-5`), ""}, {"exp is too large", claim(`"exp":1e30`), ""}, {"exp is no number of JSON", claim(`"exp":1e999`), ""},
		{"expired", claim(fmt.Sprintf(`"exp":%d`, now-120)), ""}, {"expired long ago", claim(`"exp":1`), ""},
		{"not yet valid", claim(fmt.Sprintf(`"nbf":%d`, now+600)), ""}, {"exp of 0", claim(`"exp":0`), "a token whose exp is 0 has expired in 1970; Envoy takes it for one without"},
		{"crit", k.Sign("RS256", "rsa", `{"alg":"RS256","kid":"rsa","crit":["exp"],"exp":1}`, good), "RFC 7515 section 4.1.11: extensions that aren't understood refuse the token"},
		{"b64", k.Sign("RS256", "rsa", `{"alg":"RS256","kid":"rsa","b64":false}`, good), "RFC 7797: b64 changes what is signed"},
	}
}

// strayBits sets a bit behind the last octet of base64url text.
func strayBits(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + string(alphabet[i|1])
}

func jwtCases(k *mint.Keys) (all []jwtCase) {
	add := func(c ...jwtCase) { all = append(all, c...) }
	for _, b := range badTokens(k) {
		c := jwtCase{name: "bad: " + b.name, on: "one", fields: bearer(b.token), status: 401, stricter: b.stricter}
		if b.stricter != "" {
			c.status = 200
		}
		add(c)
	}
	claims := mint.Claims("iss", "s", `"aud":"me"`)
	for _, g := range [][2]string{{"RS256", "rsa"}, {"RS384", "rsa"}, {"RS512", "rsa"}, {"PS256", "rsa"}, {"PS384", "rsa"}, {"PS512", "rsa"},
		{"ES256", "p256"}, {"ES384", "p384"}, {"ES512", "p521"}, {"HS256", "secret"}, {"HS384", "secret"}, {"HS512", "secret"}, {"EdDSA", "ed"}} {
		add(jwtCase{name: "good " + g[0], on: "one", fields: bearer(k.Token(g[0], g[1], claims)), status: 200})
	}
	rs := k.Token("RS256", "rsa", claims)
	parts := strings.Split(rs, ".")
	good := func(name, on string, fields ...string) jwtCase {
		return jwtCase{name: name, on: on, fields: fields, status: 200}
	}
	bad := func(name, on string, fields ...string) jwtCase {
		return jwtCase{name: name, on: on, fields: fields, status: 401}
	}
	rsa := func(payload string) string { return k.Token("RS256", "rsa", payload) }
	now := time.Now().Unix()
	add(
		bad("no token", "one"), bad("no token", "prefixed"), good("token", "prefixed", bearer(rs)...),
		bad("no token, strip", "strip"), bad("bad token, strip", "strip", bearer("a.b.c")...),
		jwtCase{name: "long path", on: "one", target: "/" + strings.Repeat("p", 400) + "?q=1", status: 401},
		jwtCase{name: "query in the realm", on: "one", target: "/a?b=c", status: 401, fields: bearer("x")},
		jwtCase{name: "HEAD", on: "one", method: "HEAD", status: 401},
		bad("other scheme", "one", "Authorization: Basic dXNlcjpwYXNz"), bad("bearer in lower case", "one", "Authorization: bearer "+rs),
		good("Bearer in the middle", "one", "Authorization: xx Bearer "+rs), good("two spaces", "one", "Authorization: Bearer  "+rs),
		bad("something behind the token", "one", "Authorization: Bearer "+rs+", x"), jwtCase{name: "a space in the token", on: "one", fields: bearer(parts[0] + " ." + parts[1] + "." + parts[2]), status: 401, stricter: "a space is none of base64url"},
		good("quotes before the token", "one", `Authorization: Bearer "`+rs), bad("quotes around the token", "one", `Authorization: Bearer "`+rs+`"`),
		jwtCase{name: "parameter", on: "one", target: "/p?access_token=" + rs, status: 200},
		good("no kid", "one", bearer(k.Sign("RS256", "rsa", `{"alg":"RS256"}`, claims))...),
		good("spaces in the JSON", "one", bearer(k.Sign("RS256", "rsa", " {\n\"alg\" : \"RS256\" }\t", " "+claims+"\n"))...),
		good("typ and cty", "one", bearer(k.Sign("RS256", "rsa", `{"alg":"RS256","typ":"at+jwt","cty":"JWT","x":{"y":[1]}}`, claims))...),
		good("no exp", "one", bearer(rsa(`{"iss":"iss"}`))...), good("fractional exp", "one", bearer(rsa(`{"iss":"iss","exp":4102444800.75}`))...),
		good("exp in exponents", "one", bearer(rsa(`{"iss":"iss","exp":4.1024448e9}`))...),
		good("within the skew", "one", bearer(rsa(mint.Claims("iss", "s", fmt.Sprintf(`"exp":%d`, now-30))))...),
		good("nbf within the skew", "one", bearer(rsa(mint.Claims("iss", "s", fmt.Sprintf(`"nbf":%d`, now+30))))...),
		bad("outside of a smaller skew", "skew", bearer(rsa(mint.Claims("iss", "s", fmt.Sprintf(`"exp":%d`, now-30))))...),
		bad("two good ones", "one", bearer(rs)[0], "Authorization: Bearer "+k.Token("ES256", "p256", claims)),
		bad("a good one, then a bad one", "one", bearer(rs)[0], "Authorization: Bearer a.b.c"),
		bad("a bad one, then a good one", "one", "Authorization: Bearer a.b.c", bearer(rs)[0]),
		jwtCase{name: "good field, bad parameter", on: "one", target: "/?access_token=a.b.c", fields: bearer(rs), status: 401},
		jwtCase{name: "bad field, good parameter", on: "one", target: "/?access_token=" + rs, fields: bearer("a.b.c"), status: 401},

		good("token removed", "removed", bearer(rs)...), good("audience with scheme and slash", "removed", bearer(rsa(mint.Claims("iss", "s", `"aud":["x","http://aud.test"]`)))...),
		jwtCase{name: "wrong audience", on: "removed", fields: bearer(rsa(mint.Claims("iss", "s", `"aud":["you"]`))), status: 403},
		jwtCase{name: "no audience", on: "removed", fields: bearer(rsa(mint.Claims("iss", "s"))), status: 403},
		jwtCase{name: "empty audiences", on: "removed", fields: bearer(rsa(mint.Claims("iss", "s", `"aud":[]`))), status: 403},
		jwtCase{name: "parameter removed", on: "removed", target: "/p?b=2&access_token=" + rs + "&a=1", status: 200, better: "the other parameters stay as they were sent"},
		jwtCase{name: "only parameter removed", on: "removed", target: "/p?access_token=" + rs, status: 200},
		jwtCase{name: "parameter twice", on: "removed", target: "/p?access_token=" + rs + "&access_token=zzz&c", status: 200, better: "the other parameters stay as they were sent"},
		jwtCase{name: "escaped parameters stay", on: "removed", target: "/p?x=%20%2F&access_token=" + rs + "&y=a+b&z", status: 400, better: "Envoy decodes the other parameters, and so sends a target that isn't one"},
		jwtCase{name: "escaped parameter", on: "removed", target: "/p?access_token=" + strings.ReplaceAll(rs, ".", "%2E"), status: 200},

		good("claims", "claims", bearer(rsa(mint.Claims("iss", "me", `"a":{"b":{"c":"deep"}}`, `"a.dot":{"c":"dotted"}`, `"n":12`)))...),
		good("claims that aren't there", "claims", bearer(rsa(mint.Claims("iss", "")))...),
		good("claims of the client", "claims", append(bearer(rsa(mint.Claims("iss", ""))), "x-sub: admin", "X-Payload: e30", "x-path: p")...),
		good("claims of the client beside ours", "claims", append(bearer(rsa(mint.Claims("iss", "me"))), "x-sub: admin", "x-sub: root", "X-Payload: e30")...),
		bad("claims of the client without a token", "claims", "x-sub: admin"),
		good("empty text", "claims", bearer(rsa(mint.Claims("iss", "me", `"a":{"b":{"c":""}}`)))...),
		good("number with a fraction", "claims", bearer(rsa(mint.Claims("iss", "me", `"n":1.5`)))...), good("negative number", "claims", bearer(rsa(mint.Claims("iss", "me", `"n":-3`)))...),
		good("large number", "claims", bearer(rsa(mint.Claims("iss", "me", `"n":12345678901234567000`)))...), good("huge number", "claims", bearer(rsa(mint.Claims("iss", "me", `"n":1e20`)))...),
		good("true", "claims", bearer(rsa(mint.Claims("iss", "me", `"n":true`)))...), good("null", "claims", bearer(rsa(mint.Claims("iss", "me", `"n":null`)))...),
		good("list", "claims", bearer(rsa(mint.Claims("iss", "me", `"n":["a","<b>",1,true,null,1.5]`)))...), good("object", "claims", bearer(rsa(mint.Claims("iss", "me", `"n":{"k":["v"]}`)))...),
		good("empty list", "claims", bearer(rsa(mint.Claims("iss", "me", `"n":[]`)))...),
		good("path through text", "claims", bearer(rsa(mint.Claims("iss", "me", `"a":{"b":"c"}`)))...), good("not ASCII", "claims", bearer(rsa(mint.Claims("iss", "J\u00fcrgen")))...),
		good("unpadded payload", "unpadded", bearer(rsa(mint.Claims("iss", "four")))...),

		good("own field", "places", "x-jwt: "+rs), good("prefix", "places", "x-pre: tok="+rs), bad("without the prefix", "places", "x-pre: "+rs),
		good("cookie", "places", "cookie: a=b; session="+rs+"; c=d"), good("cookie in quotes", "places", `cookie: session="`+rs+`"`), good("second cookie line", "places", "cookie: a=b", "cookie: session="+rs),
		good("first of two cookies", "places", "cookie: session="+rs+"; session=zzz"), bad("bad cookie", "places", "cookie: session=zzz"), bad("not where it is looked for", "places", bearer(rs)...),
		jwtCase{name: "own parameter", on: "places", target: "/?q=" + rs + "&x=y", status: 200}, bad("empty field", "places", "x-jwt:"),
		jwtCase{name: "fragment of the path", on: "places", target: "/?Q=" + rs, status: 401},
		jwtCase{name: "everything good", on: "places", target: "/?q=" + rs + "&access_token=" + rs, fields: []string{"x-jwt: " + rs, "cookie: session=" + rs}, status: 200},
		jwtCase{name: "everything but the cookie", on: "places", target: "/?q=" + rs, fields: []string{"x-jwt: " + rs, "cookie: session=x"}, status: 401},
		jwtCase{name: "kept", on: "kept", target: "/?q=" + rs + "&x=y", fields: []string{"x-jwt: " + rs}, status: 200},

		good("subject", "subject", bearer(rsa(mint.Claims("iss", "spiffe://td/x")))...), bad("other subject", "subject", bearer(rsa(mint.Claims("iss", "http://td/x")))...), bad("no subject", "subject", bearer(rsa(mint.Claims("iss", "")))...),
		good("exp", "needs exp", bearer(rs)...), bad("exp missing", "needs exp", bearer(rsa(`{"iss":"iss"}`))...),
		good("short life", "lifetime", bearer(rsa(mint.Claims("iss", "s", fmt.Sprintf(`"exp":%d`, now+600))))...), bad("long life", "lifetime", bearer(rs)...),
		bad("no end of life", "lifetime", bearer(rsa(`{"iss":"iss"}`))...), bad("life over", "lifetime", bearer(rsa(mint.Claims("iss", "s", fmt.Sprintf(`"exp":%d`, now-600))))...),

		jwtCase{name: "preflight", on: "cors", method: "OPTIONS", fields: []string{"Origin: http://a", "Access-Control-Request-Method: GET", "x-sub: admin"}, status: 200},
		jwtCase{name: "no preflight", on: "cors", method: "OPTIONS", fields: []string{"Origin: http://a"}, status: 401},
		jwtCase{name: "preflight by GET", on: "cors", fields: []string{"Origin: http://a", "Access-Control-Request-Method: GET"}, status: 401},
		good("any issuer", "no issuer", bearer(rsa(mint.Claims("whoever", "s")))...), good("without an issuer", "no issuer", bearer(rsa(mint.Claims("", "s")))...),

		good("alg of the key", "algs", bearer(rs)...), bad("another alg than the key's", "algs", bearer(k.Token("RS384", "rsa", claims))...), bad("PS256 by a key for RS256", "algs", bearer(k.Token("PS256", "rsa", claims))...),
		good("ES256 of the key", "algs", bearer(k.Token("ES256", "p256", claims))...), bad("HS256 where no key is for it", "algs", bearer(k.Token("HS256", "secret", claims))...),
		jwtCase{name: "key for encryption", on: "algs", fields: bearer(k.Sign("RS256", "other", `{"alg":"RS256","kid":"enc"}`, claims)), status: 200, stricter: "a key whose use is enc signs nothing (RFC 7517 section 4.2)"},
		good("second key", "no kid", bearer(rs)...), good("third key", "no kid", bearer(k.Sign("ES256", "p256", `{"alg":"ES256"}`, claims))...), bad("no key", "no kid", bearer(k.Sign("ES384", "p384", `{"alg":"ES384"}`, claims))...),
		bad("HS256 with keys of RSA and EC", "no kid", bearer(k.Sign("HS256", "secret", `{"alg":"HS256"}`, claims))...),
	)
	for _, on := range []string{"html", "empty", "none", "500", "302", "201", "slow", "refused", "unknown", "retried"} {
		add(bad("token", on, bearer(rs)...), bad("no token", on), bad("expired", on, bearer(rsa(mint.Claims("iss", "s", `"exp":1`)))...))
	}
	add(good("token", "remote", bearer(rs)...), good("token again", "remote", bearer(rs)...), bad("forged", "remote", bearer(k.Sign("RS256", "other", `{"alg":"RS256"}`, claims))...),
		bad("unknown kid", "remote", bearer(k.Token("ES256", "p256", claims))...), good("token", "ahead", bearer(rs)...),
		jwtCase{name: "token", on: "big", fields: bearer(rs), status: 200, stricter: "a key set of more than 1 MiB is refused"})
	all = append(all, groupCases(k)...)
	return all
}

// groupCases are those of several providers.
func groupCases(k *mint.Keys) (all []jwtCase) {
	a, b := k.Token("RS256", "rsa", mint.Claims("a", "anna", `"aud":"x"`)), k.Token("ES256", "p256", mint.Claims("b", "ben"))
	wrongA, wrongB := k.Sign("RS256", "other", `{"alg":"RS256","kid":"rsa"}`, mint.Claims("a", "eve")), k.Token("RS256", "rsa", mint.Claims("b", "eve"))
	expired := k.Token("RS256", "rsa", mint.Claims("a", "anna", `"exp":1`))
	stranger := k.Token("RS256", "rsa", mint.Claims("c", "carl"))
	type set map[string]int // status by listener
	cases := []struct {
		name   string
		fields []string
		want   set
	}{
		{"none", nil, set{"any": 401, "istio": 200, "lax": 200, "all": 401, "missing": 200, "failed": 200, "audience": 401}},
		{"none, with claims of the client", []string{"x-from-a: admin", "x-from-b: admin"}, set{"any": 401, "istio": 200, "lax": 200, "missing": 200, "failed": 200}},
		{"a", bearer(a), set{"any": 200, "istio": 200, "lax": 200, "all": 401, "missing": 200, "failed": 200, "audience": 200}},
		{"b", bearer(b), set{"any": 200, "istio": 200, "lax": 200, "all": 401, "missing": 200, "failed": 200, "audience": 401}},
		{"b in its own field", []string{"x-b: " + b}, set{"any": 200, "istio": 200, "lax": 200, "all": 401, "missing": 200, "failed": 200, "audience": 401}},
		{"a in b's field", []string{"x-b: " + a}, set{"any": 401, "istio": 401, "lax": 200, "all": 401, "missing": 401, "failed": 200}},
		{"a and b", append(bearer(a), "x-b: "+b), set{"any": 200, "istio": 200, "lax": 200, "all": 200, "missing": 200, "failed": 200}},
		{"a and a bad b", append(bearer(a), "x-b: zzz"), set{"any": 200, "istio": 200, "lax": 200, "all": 401, "failed": 200}},
		{"forged a", bearer(wrongA), set{"any": 401, "istio": 401, "lax": 200, "all": 401, "missing": 401, "failed": 200, "audience": 403}},
		{"forged b", bearer(wrongB), set{"any": 401, "istio": 401, "lax": 200, "missing": 401, "failed": 200}},
		{"forged a, good b", append(bearer(wrongA), "x-b: "+b), set{"any": 401, "istio": 401, "lax": 200, "all": 401, "missing": 401, "failed": 200}},
		{"expired a", bearer(expired), set{"any": 401, "istio": 401, "lax": 200, "missing": 401, "failed": 200}},
		{"stranger", bearer(stranger), set{"any": 401, "istio": 401, "lax": 200, "missing": 401, "failed": 200}},
		{"nonsense", bearer("nonsense"), set{"any": 401, "istio": 401, "lax": 200, "missing": 401, "failed": 200}},
		{"nonsense with claims of the client", append(bearer("nonsense"), "x-from-a: admin"), set{"lax": 200, "failed": 200}},
		{"basic", []string{"Authorization: Basic abc"}, set{"any": 401, "istio": 200, "missing": 200}},
		{"good and bad in one field", []string{"Authorization: Bearer " + a, "Authorization: Bearer " + wrongA}, set{"any": 401, "istio": 401, "lax": 200, "missing": 401, "failed": 200}},
	}
	for _, c := range cases {
		for _, on := range []string{"any", "istio", "lax", "all", "missing", "failed", "audience"} {
			if status, ok := c.want[on]; ok {
				all = append(all, jwtCase{name: c.name, on: on, fields: c.fields, status: status})
			}
		}
	}
	aud := k.Token("RS256", "rsa", mint.Claims("a", "anna", `"aud":"z"`))
	all = append(all, jwtCase{name: "other audience", on: "audience", fields: bearer(aud), status: 403},
		jwtCase{name: "a bad one, then a good one", on: "missing", fields: []string{"Authorization: Bearer " + a, "x-b: zzz"}, status: 200, stricter: "all tokens have to be valid, else a service may take the other one"})
	all = append(all,
		jwtCase{name: "to another route", on: "rerouted", target: "/else", fields: bearer(a), status: 200},
		jwtCase{name: "without a claim", on: "rerouted", target: "/else", status: 200},
		jwtCase{name: "by the client's own field", on: "rerouted", target: "/else", fields: []string{"x-from-a: anna"}, status: 200},
		jwtCase{name: "to a direct response", on: "rerouted", target: "/else", fields: bearer(k.Token("RS256", "rsa", mint.Claims("a", "otto"))), status: 410},
		jwtCase{name: "a provider that doesn't ask for it", on: "rerouted", target: "/else", fields: []string{"x-b: " + b}, status: 200},
		jwtCase{name: "to no route", on: "rerouted", target: "/nowhere", fields: bearer(k.Token("RS256", "rsa", mint.Claims("a", "anna"))), status: 200},
		jwtCase{name: "refused", on: "rerouted", target: "/else", fields: bearer(wrongA), status: 401})
	paths := []struct {
		target string
		fields []string
		token  string // "", "a" or "b"
		status int
	}{
		{"/open", nil, "", 200}, {"/open?x", nil, "", 200}, {"/open/", nil, "", 401}, {"/h", []string{"x-go: yes"}, "b", 200}, {"/h", []string{"x-go: yes"}, "a", 401},
		{"/h", []string{"x-go: no"}, "a", 200}, {"/q?k=v", nil, "b", 200}, {"/q?k=w", nil, "a", 200}, {"/r12", nil, "b", 200}, {"/r12/x", nil, "a", 200}, {"/r12?x", nil, "b", 200},
		{"/seg/x", nil, "a", 200}, {"/segment", nil, "a", 200}, {"/case", nil, "a", 200}, {"/case", nil, "", 401}, {"/api/x", nil, "", 200}, {"/apix", nil, "", 200}, {"/", nil, "", 401},
		{"/off/x", []string{"x-from-a: admin"}, "", 200}, {"/off/x", nil, "a", 200}, {"/own", nil, "b", 200}, {"/own", nil, "a", 401}, {"/own", nil, "", 401}, {"/open", []string{"x-from-b: admin"}, "", 200},
	}
	for i, p := range paths {
		c := jwtCase{name: fmt.Sprintf("%d %s %s", i, p.target, p.token), on: "rules", target: p.target, fields: p.fields, status: p.status}
		switch p.token {
		case "a":
			c.fields = append(bearer(a), c.fields...)
		case "b":
			c.fields = append(bearer(b), c.fields...)
		}
		all = append(all, c)
	}
	return all
}

func TestJWTDifferential(t *testing.T) {
	t.Parallel()
	keys := mint.New(t)
	lab := newJWTLab(t, keys, jwtConfigs(keys))
	cases := jwtCases(keys)
	if len(cases) < 250 {
		t.Errorf("there are %d cases, want at least 250", len(cases))
	}
	lab.run(cases)
	// What was asked of a listener was asked of both alike.
	lab.mu.Lock()
	if lab.fetched["/trap"] > 0 || lab.fetched["/302"] == 0 {
		t.Errorf("a redirect was followed: %v", lab.fetched)
	}
	lab.mu.Unlock()
	for _, on := range []string{"istio", "cors", "prefixed"} {
		envoy, ours := lab.counters(t, on)
		if envoy != ours || envoy == "" {
			t.Errorf("Envoy counts\n%sours\n%s", envoy, ours)
		}
	}
}
