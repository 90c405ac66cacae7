// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"pillion/proxy/proxytest/mint"
)

// FuzzToken: no text makes the parser fail in another way than by a status, and
// what it takes is a token to the library, too. Nothing but what was signed
// verifies.
func FuzzToken(f *testing.F) {
	k := mint.New(f)
	good := k.Token("ES256", "p256", mint.Claims("iss", "s", `"aud":["a"]`))
	keys, err := parseKeySet([]byte(k.Set("rsa", "p256", "ed", "secret")))
	if err != nil {
		f.Fatal(err)
	}
	parts := strings.Split(good, ".")
	for _, s := range []string{good, "", "..", "a.b.c", good + "=", parts[0] + "." + parts[1] + ".AA", mint.B64([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".AA",
		mint.B64([]byte(`{"alg":"HS256","kid":"secret","jwk":{}}`)) + "." + mint.B64([]byte(`{"exp":1e5,"aud":"x","a":[{"b":null}]}`)) + "." + parts[2]} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		tok, s := parseToken(text)
		if (tok == nil) == (s == OK) {
			t.Fatalf("%v with %v", tok, s)
		}
		if tok == nil {
			return
		}
		if tok.compact != string(text) || strings.Split(tok.compact, ".")[1] != tok.payload {
			t.Errorf("%q became %q with payload %q", text, tok.compact, tok.payload)
		}
		if len(text) > maxToken {
			t.Error("it is too long")
		}
		verified := keys.verify(tok) == OK
		if verified && string(text) != good {
			t.Errorf("%q is forged and passes", text)
		}
	})
}

// FuzzKeySet: a key set that is taken has keys, each with algorithms that suit
// it, and means the same to the library.
func FuzzKeySet(f *testing.F) {
	k := mint.New(f)
	for _, s := range []string{k.Set("rsa", "p256", "p384", "p521", "ed", "secret"), `{"keys":[]}`, `{}`, `{"keys":{}}`, `{"keys":[{"kty":"RSA","n":"AQ","e":"AQ"}]}`,
		`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`, `{"a":"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"}`, `{"keys":[{"kty":"oct","k":"","alg":"RS256"}],"keys":[]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := parseKeySet(text)
		if (set == nil) == (err == nil) {
			t.Fatalf("%v with %v", set, err)
		}
		if set == nil {
			return
		}
		if len(set.keys) == 0 || len(set.keys) > maxKeys {
			t.Errorf("%d keys", len(set.keys))
		}
		for _, one := range set.keys {
			suits, err := algorithmsOf(one.key)
			if err != nil || len(one.algs) == 0 {
				t.Errorf("%v: %v", one, err)
			}
			for _, a := range one.algs {
				if !slices.Contains(suits, a) || a == jose.SignatureAlgorithm("none") {
					t.Errorf("a key of %T is used with %s", one.key, a)
				}
			}
		}
		if !json.Valid(text) {
			t.Errorf("%q is no JSON", text)
		}
	})
}

// FuzzObject: what is taken is what encoding/json makes of it, less deep than
// the bound.
func FuzzObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,"b",null,true,{"c":1.5e3}]}`, `{"a":1,"a":2}`, `[`, `{"a":1}x`, "{\"\xff\":1}", strings.Repeat("[", 100), `{"\ud800":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parseObject(text)
		if err != nil {
			return
		}
		var want map[string]any
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if !bytes.Equal(a, b) {
			t.Errorf("%s and %s", a, b)
		}
	})
}

// FuzzExtract: tokens are found in any request without harm, and taking a
// parameter out takes nothing else.
func FuzzExtract(f *testing.F) {
	f.Add("/p?access_token=a.b.c&x=y#f", "Bearer a.b.c", `session="a.b.c"; x`)
	f.Add("/?%61ccess_token=%2e&&=", "bearer", "session=")
	e := newExtractor(&Provider{locations: []location{{place: inHeader, header: newHeader("authorization"), prefix: []byte("Bearer ")},
		{place: inParam, name: "access_token"}, {place: inCookie, name: "session"}}})
	f.Fuzz(func(t *testing.T, target, authorization, cookies string) {
		ex := request(target, "authorization: "+authorization, "cookie: "+cookies)
		for _, c := range e.extract(nil, &ex.Req) {
			c.remove(ex)
		}
		if _, ok := param(ex.Req.Path, "access_token"); ok {
			t.Errorf("%q keeps the parameter", ex.Req.Path)
		}
		if len(ex.Req.Path) > len(target) {
			t.Errorf("%q became %q", target, ex.Req.Path)
		}
		if !strings.Contains(target, "access_token") && !strings.Contains(target, "%") && string(ex.Req.Path) != target {
			t.Errorf("%q became %q", target, ex.Req.Path)
		}
	})
}
