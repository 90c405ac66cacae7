// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Limits on key sets: a token that names no key is tried with each.
const (
	maxKeys    = 256
	maxRSABits = 8192
)

// keySet is a JSON Web Key Set (RFC 7517 section 5). Immutable.
type keySet struct {
	keys []key
	text string // what it was made of
}

// key is one key with the algorithms that it may be used with.
type key struct {
	kid  string
	alg  string // as the key names it, or empty
	algs []jose.SignatureAlgorithm
	key  any
}

// parseKeySet reads a key set. Keys of kinds that aren't supported are left
// out, as Envoy does; one without any usable key is an error.
func parseKeySet(text []byte) (*keySet, error) {
	object, err := parseObject(text)
	if err != nil {
		return nil, fmt.Errorf("the key set is no valid JSON: %w", err)
	}
	k := &keySet{text: string(text)}
	list, there := object["keys"]
	if !there {
		if err := k.addCertificates(object); err != nil {
			return nil, err
		}
		return k, nil
	}
	if _, ok := list.([]any); !ok {
		return nil, errors.New("[keys] of the key set is no list")
	}
	// Each key is decoded by the library from its own text, whose names were
	// just seen to be unique.
	var raw struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, err
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("the key set has %d keys, more than %d", len(raw.Keys), maxKeys)
	}
	var last error
	for _, r := range raw.Keys {
		one, err := parseKey(r)
		if err != nil {
			last = err
			continue
		}
		k.keys = append(k.keys, one)
	}
	if len(k.keys) == 0 {
		return nil, errors.Join(errors.New("the key set has no usable key"), last)
	}
	return k, nil
}

// parseKey reads one JSON Web Key.
func parseKey(text json.RawMessage) (key, error) {
	var j jose.JSONWebKey
	if err := j.UnmarshalJSON(text); err != nil {
		return key{}, err
	}
	if !j.IsPublic() {
		if _, symmetric := j.Key.([]byte); !symmetric {
			j = j.Public()
		}
	}
	if j.Use != "" && j.Use != "sig" {
		return key{}, fmt.Errorf("[use] is %q", j.Use)
	}
	algs, err := algorithmsOf(j.Key)
	if err != nil {
		return key{}, err
	}
	if j.Algorithm != "" {
		alg := jose.SignatureAlgorithm(j.Algorithm)
		if !slices.Contains(algs, alg) {
			return key{}, fmt.Errorf("[alg] %q is not one for this kind of key", j.Algorithm)
		}
		algs = []jose.SignatureAlgorithm{alg}
	}
	return key{kid: j.KeyID, alg: j.Algorithm, algs: algs, key: j.Key}, nil
}

var (
	rsaAlgs  = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	hmacAlgs = []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512}
)

// algorithmsOf returns the algorithms that a key may be used with: they come
// from the key and never from a token, so that no public key can become the
// secret of an HMAC (RFC 8725 section 3.1).
func algorithmsOf(k any) ([]jose.SignatureAlgorithm, error) {
	switch k := k.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n > maxRSABits {
			return nil, fmt.Errorf("an RSA key of %d bits is above the bound of %d", n, maxRSABits)
		}
		return rsaAlgs, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []jose.SignatureAlgorithm{jose.ES256}, nil
		case elliptic.P384():
			return []jose.SignatureAlgorithm{jose.ES384}, nil
		case elliptic.P521():
			return []jose.SignatureAlgorithm{jose.ES512}, nil
		}
		return nil, errors.New("the curve is not supported")
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}, nil
	case []byte:
		return hmacAlgs, nil
	}
	return nil, fmt.Errorf("a key of kind %T is not supported", k)
}

const pemBegin = "-----BEGIN CERTIFICATE-----"

// addCertificates reads the other form that Envoy knows: an object of
// certificates by the ids of their keys, as Google publishes them.
func (k *keySet) addCertificates(object map[string]any) error {
	errNone := errors.New("the key set does not have [keys]")
	if len(object) == 0 || len(object) > maxKeys {
		return errNone
	}
	for kid, v := range object {
		text, ok := v.(string)
		if !ok || kid == "" || !strings.HasPrefix(text, pemBegin) {
			return errNone
		}
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return fmt.Errorf("[%s] is no certificate", kid)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("[%s]: %w", kid, err)
		}
		if _, ok := cert.PublicKey.(*rsa.PublicKey); !ok {
			return fmt.Errorf("[%s]: only certificates with RSA keys are supported", kid)
		}
		algs, err := algorithmsOf(cert.PublicKey)
		if err != nil {
			return fmt.Errorf("[%s]: %w", kid, err)
		}
		k.keys = append(k.keys, key{kid: kid, algs: algs, key: cert.PublicKey})
	}
	return nil
}

// has reports whether a key of that id is there.
func (k *keySet) has(kid string) bool {
	return slices.ContainsFunc(k.keys, func(one key) bool { return one.kid == kid })
}

// verify checks the token's signature. A token that names a key is checked
// with the keys of that name and those without one, any other with all (Envoy:
// verifyJwtWithoutTimeChecking).
func (k *keySet) verify(t *token) Status {
	// RFC 7515 section 4.1.11: extensions that aren't understood refuse the
	// token. b64 (RFC 7797) would change what is signed.
	if t.header["crit"] != nil || t.header["b64"] != nil {
		return VerificationFail
	}
	alg := algorithms[t.alg]
	status := JwksKidAlgMismatch
	var parsed *jose.JSONWebSignature
	for i := range k.keys {
		one := &k.keys[i]
		if t.kid != "" && one.kid != "" && one.kid != t.kid || one.alg != "" && one.alg != t.alg {
			continue
		}
		if status != Ed25519WrongLength {
			status = VerificationFail
		}
		if _, ok := one.key.(ed25519.PublicKey); ok && t.sigBytes != ed25519.SignatureSize {
			status = Ed25519WrongLength // whatever the algorithm, as Envoy says it
			continue
		}
		if !slices.Contains(one.algs, alg) {
			continue
		}
		if parsed == nil {
			var err error
			if parsed, err = jose.ParseSignedCompact(t.compact, []jose.SignatureAlgorithm{alg}); err != nil {
				continue // the library reads parts of the header that mean nothing here
			}
		}
		if _, err := parsed.Verify(one.key); err == nil {
			return OK
		}
	}
	return status
}
