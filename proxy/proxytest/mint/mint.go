// SPDX-License-Identifier: Apache-2.0

// Package mint makes JSON Web Tokens for tests, good ones and forged ones. It
// signs with the standard library alone, so that it shares no mistake with
// what checks them.
package mint

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // registers the hashes
	_ "crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

// Keys are one key of each kind. The id of a key in Set is its name here.
type Keys struct {
	t      testing.TB
	RSA    *rsa.PrivateKey
	Other  *rsa.PrivateKey // that no Set has unless it is asked for
	EC     map[string]*ecdsa.PrivateKey
	Ed     ed25519.PrivateKey
	Secret []byte
}

// New makes keys.
func New(t testing.TB) *Keys {
	t.Helper()
	k := &Keys{t: t, EC: map[string]*ecdsa.PrivateKey{}, Secret: []byte(strings.Repeat("0123456789abcdef", 4))}
	var err error
	try := func() {
		if err != nil {
			t.Fatal(err)
		}
	}
	k.RSA, err = rsa.GenerateKey(rand.Reader, 2048)
	try()
	k.Other, err = rsa.GenerateKey(rand.Reader, 2048)
	try()
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		k.EC[name], err = ecdsa.GenerateKey(curve, rand.Reader)
		try()
	}
	_, k.Ed, err = ed25519.GenerateKey(rand.Reader)
	try()
	return k
}

// B64 is base64url without padding.
func B64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func number(n *big.Int, size int) string { return B64(n.FillBytes(make([]byte, size))) }

// JWK is the public form of a key by its name: rsa, other, p256, p384, p521,
// ed or secret. more are further members, each `"name":value`.
func (k *Keys) JWK(name string, more ...string) string {
	k.t.Helper()
	var s string
	switch name {
	case "rsa", "other":
		key := k.RSA
		if name == "other" {
			key = k.Other
		}
		s = fmt.Sprintf(`"kty":"RSA","n":%q,"e":"AQAB"`, B64(key.N.Bytes()))
	case "p256", "p384", "p521":
		key := k.EC[name]
		size := (key.Curve.Params().BitSize + 7) / 8
		s = fmt.Sprintf(`"kty":"EC","crv":"P-%s","x":%q,"y":%q`, name[1:], number(key.X, size), number(key.Y, size))
	case "ed":
		s = fmt.Sprintf(`"kty":"OKP","crv":"Ed25519","x":%q`, B64(k.Ed.Public().(ed25519.PublicKey)))
	case "secret":
		s = fmt.Sprintf(`"kty":"oct","k":%q`, B64(k.Secret))
	default:
		k.t.Fatalf("there is no key %s", name)
	}
	return "{" + strings.Join(append([]string{s}, more...), ",") + "}"
}

// Set is a key set of the named keys, each with its name as its id.
func (k *Keys) Set(names ...string) string {
	var list []string
	for _, n := range names {
		list = append(list, k.JWK(n, fmt.Sprintf(`"kid":%q`, n)))
	}
	return `{"keys":[` + strings.Join(list, ",") + `]}`
}

// Sign makes a token of the two JSON texts, signed with the named key by alg.
func (k *Keys) Sign(alg, name, header, payload string) string {
	k.t.Helper()
	input := B64([]byte(header)) + "." + B64([]byte(payload))
	return input + "." + B64(k.Signature(alg, name, input))
}

// Token is Sign with the plainest header.
func (k *Keys) Token(alg, name, payload string) string {
	return k.Sign(alg, name, fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, alg, name), payload)
}

// Signature signs the first two parts of a token.
func (k *Keys) Signature(alg, name, input string) []byte {
	k.t.Helper()
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[len(alg)-3:]]
	var sum []byte
	if hash != 0 {
		h := hash.New()
		h.Write([]byte(input))
		sum = h.Sum(nil)
	}
	var out []byte
	var err error
	key := k.RSA
	if name == "other" {
		key = k.Other
	}
	switch alg[:2] {
	case "RS":
		out, err = rsa.SignPKCS1v15(rand.Reader, key, hash, sum)
	case "PS":
		out, err = rsa.SignPSS(rand.Reader, key, hash, sum, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	case "ES":
		ec := k.EC[name]
		r, s, failed := ecdsa.Sign(rand.Reader, ec, sum)
		size := (ec.Curve.Params().BitSize + 7) / 8
		if err = failed; err == nil {
			out = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
		}
	case "HS":
		m := hmac.New(hash.New, k.Secret)
		m.Write([]byte(input))
		out = m.Sum(nil)
	case "Ed":
		out = ed25519.Sign(k.Ed, []byte(input))
	default:
		k.t.Fatalf("there is no algorithm %s", alg)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

// Claims are the claims of iss, sub and a distant exp with more members, each
// `"name":value`.
func Claims(iss, sub string, more ...string) string {
	parts := []string{}
	if iss != "" {
		parts = append(parts, fmt.Sprintf(`"iss":%q`, iss))
	}
	if sub != "" {
		parts = append(parts, fmt.Sprintf(`"sub":%q`, sub))
	}
	if !strings.Contains(strings.Join(more, ","), `"exp":`) {
		parts = append(parts, `"exp":4102444800`)
	}
	return "{" + strings.Join(append(parts, more...), ",") + "}"
}

// Quote is a JSON string.
func Quote(s string) string {
	b, _ := json.Marshal(s) // strings always can
	return string(b)
}
