// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"bytes"
	"encoding/base64"
	"math"

	"github.com/go-jose/go-jose/v4"
)

// maxToken bounds a token in octets.
const maxToken = 16 << 10

// token is a parsed JSON Web Token in compact form (RFC 7519, RFC 7515 section
// 3.1). Parsing proves nothing: see keySet.verify. It is immutable and shares no
// memory with the request, since verified ones are kept.
type token struct {
	compact    string
	alg, kid   string
	iss, sub   string
	aud        []string
	nbf, exp   uint64 // seconds since 1970; 0 is none
	hasExp     bool
	header     map[string]any
	claims     map[string]any
	payload    string // as it was sent, base64url
	sigBytes   int
	normalized map[string]any // claims as the provider puts them into metadata
	fields     []claimField   // claims as the provider puts them into fields
	// claimFields says that a field holds a single claim.
	claimFields bool
}

// strictBase64 refuses bits that are set behind the last octet, so that no two
// texts are the same signature.
var strictBase64 = base64.RawURLEncoding.Strict()

// decodeBase64 decodes base64url without padding (RFC 7515 section 2). Go's
// decoder passes over line ends, which are as wrong here as any other octet.
func decodeBase64(text []byte) ([]byte, bool) {
	if bytes.ContainsAny(text, "\r\n") {
		return nil, false
	}
	out := make([]byte, strictBase64.DecodedLen(len(text)))
	n, err := strictBase64.Decode(out, text)
	return out[:n], err == nil
}

// algorithms are those that a token may name. Which of them its key allows is
// the key's matter.
var algorithms = map[string]jose.SignatureAlgorithm{
	"RS256": jose.RS256, "RS384": jose.RS384, "RS512": jose.RS512,
	"PS256": jose.PS256, "PS384": jose.PS384, "PS512": jose.PS512,
	"ES256": jose.ES256, "ES384": jose.ES384, "ES512": jose.ES512,
	"HS256": jose.HS256, "HS384": jose.HS384, "HS512": jose.HS512,
	"EdDSA": jose.EdDSA,
}

// parseToken parses a token in the order in which Envoy does
// (source/common/jwt/jwt.cc), so that the first fault gives the answer.
func parseToken(text []byte) (*token, Status) {
	if len(text) > maxToken || bytes.Count(text, dot) != 2 {
		return nil, BadFormat
	}
	header, rest, _ := bytes.Cut(text, dot)
	payload, signature, _ := bytes.Cut(rest, dot)
	if len(header) == 0 || len(payload) == 0 || len(signature) == 0 {
		return nil, BadFormat
	}
	t := &token{}
	if s := t.parseHeader(header); s != OK {
		return nil, s
	}
	if s := t.parsePayload(payload); s != OK {
		return nil, s
	}
	raw, ok := decodeBase64(signature)
	if !ok {
		return nil, SignatureBadBase64
	}
	t.sigBytes = len(raw)
	t.compact = string(text)
	t.payload = t.compact[len(header)+1 : len(header)+1+len(payload)]
	return t, OK
}

var dot = []byte(".")

func (t *token) parseHeader(text []byte) Status {
	raw, ok := decodeBase64(text)
	if !ok {
		return HeaderBadBase64
	}
	h, err := parseObject(raw)
	if err != nil {
		return HeaderBadJSON
	}
	if t.alg, ok = h["alg"].(string); !ok {
		return HeaderBadAlg
	}
	if _, ok := algorithms[t.alg]; !ok {
		return HeaderUnknownAlg
	}
	if t.kid, ok = textOf(h, "kid"); !ok {
		return HeaderBadKid
	}
	t.header = h
	return OK
}

// textOf returns a member that is a string or isn't there.
func textOf(object map[string]any, name string) (value string, ok bool) {
	v, there := object[name]
	if !there {
		return "", true
	}
	value, ok = v.(string)
	return value, ok
}

func (t *token) parsePayload(text []byte) Status {
	raw, ok := decodeBase64(text)
	if !ok {
		return PayloadBadBase64
	}
	c, err := parseObject(raw)
	if err != nil {
		return PayloadBadJSON
	}
	t.claims = c
	if t.iss, ok = textOf(c, "iss"); !ok {
		return IssNotString
	}
	if t.sub, ok = textOf(c, "sub"); !ok {
		return SubNotString
	}
	if _, _, s := seconds(c, "iat", IatNotInteger); s != OK {
		return s
	}
	var s Status
	if t.nbf, _, s = seconds(c, "nbf", NbfNotInteger); s != OK {
		return s
	}
	if t.exp, t.hasExp, s = seconds(c, "exp", ExpNotInteger); s != OK {
		return s
	}
	if _, ok = textOf(c, "jti"); !ok {
		return JtiNotString
	}
	return t.parseAudiences(c["aud"])
}

// seconds returns a NumericDate (RFC 7519 section 2), of which fractions are
// cut off. notInteger is the status of one that is no number; the next status
// is that of one out of range.
func seconds(claims map[string]any, name string, notInteger Status) (value uint64, there bool, s Status) {
	v, there := claims[name]
	if !there {
		return 0, false, OK
	}
	n, ok := v.(float64)
	if !ok {
		return 0, true, notInteger
	}
	if n < 0 || n >= math.MaxUint64 {
		return 0, true, notInteger + 1
	}
	return uint64(n), true, OK
}

// parseAudiences reads a string or a list of them.
func (t *token) parseAudiences(v any) Status {
	switch aud := v.(type) {
	case nil:
		if _, there := t.claims["aud"]; there {
			return AudNotString
		}
	case string:
		t.aud = []string{aud}
	case []any:
		for _, a := range aud {
			s, ok := a.(string)
			if !ok {
				return AudNotString
			}
			t.aud = append(t.aud, s)
		}
	default:
		return AudNotString
	}
	return OK
}

// timely checks nbf and exp at a time in seconds since 1970.
func (t *token) timely(now, skew uint64) Status {
	if now+skew < t.nbf {
		return NotYetValid
	}
	if t.hasExp && now > addSaturated(t.exp, skew) {
		return Expired
	}
	return OK
}

func addSaturated(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}
