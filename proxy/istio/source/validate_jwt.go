// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/json"
	"net/url"
	"strconv"

	security "istio.io/api/security/v1beta1"
)

// maxInlineJWKS bounds the keys that a resource may carry.
const maxInlineJWKS = 256 << 10

func (s *subject) requestAuthentication(at *place, r *security.RequestAuthentication) {
	s.policyTargets(at, r.Selector, r.TargetRef, r.TargetRefs)
	for i, rule := range r.JwtRules {
		s.jwtRule(at.key("jwtRules").item(i), rule)
	}
}

func (s *subject) jwtRule(at *place, r *security.JWTRule) {
	if r.Issuer == "" && r.JwksUri == "" {
		s.failAt(at, "issuer", "is required where there is no jwksUri")
	}
	switch {
	case r.Jwks != "" && r.JwksUri != "":
		s.warnAt(at, "jwks", "has no effect beside jwksUri")
	case r.Jwks == "" && r.JwksUri == "":
		s.failAt(at, "jwksUri", "needs jwksUri or jwks; finding keys through the issuer's OpenID configuration is not supported")
	}
	if r.JwksUri != "" {
		if why := badJWKSURI(r.JwksUri); why != "" {
			s.failAt(at, "jwksUri", "%q %s", clip(r.JwksUri), why)
		}
	}
	if r.Jwks != "" {
		if why := badJWKS(r.Jwks); why != "" {
			s.failAt(at, "jwks", "%s", why)
		}
	}
	s.policyValues(at.key("audiences"), r.Audiences, nil)
	for i, h := range r.FromHeaders {
		if why := badHeaderName(h.Name); why != "" {
			s.failAt(at.key("fromHeaders").item(i), "name", "%q %s", clip(h.Name), why)
		}
	}
	s.policyValues(at.key("fromParams"), r.FromParams, nil)
	s.policyValues(at.key("fromCookies"), r.FromCookies, nil)
	for i, c := range r.OutputClaimToHeaders {
		here := at.key("outputClaimToHeaders").item(i)
		if c.Claim == "" {
			s.failAt(here, "claim", "is required")
		}
		if why := badHeaderName(c.Header); why != "" {
			s.failAt(here, "header", "%q %s", clip(c.Header), why)
		}
	}
	if h := r.OutputPayloadToHeader; h != "" {
		if why := badHeaderName(h); why != "" {
			s.failAt(at, "outputPayloadToHeader", "%q %s", clip(h), why)
		}
	}
	s.checkDuration(at, "timeout", r.Timeout)
}

func badJWKSURI(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "is not a URI"
	case u.Scheme != "http" && u.Scheme != "https":
		return "has to begin with http:// or https://"
	case u.Hostname() == "":
		return "names no host"
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return "has a port that is none"
		}
	}
	return ""
}

// badJWKS checks the form of a key set. Which of its keys can be used is for who reads
// them (RFC 7517 section 5: unknown ones are passed over).
func badJWKS(text string) string {
	if len(text) > maxInlineJWKS {
		return "is larger than 256 KiB"
	}
	var set struct {
		Keys []map[string]json.RawMessage `json:"keys"`
	}
	switch err := json.Unmarshal([]byte(text), &set); {
	case err != nil:
		return "is not a JSON Web Key Set: " + err.Error()
	case len(set.Keys) == 0:
		return `is not a JSON Web Key Set: it has no "keys"`
	}
	return ""
}
