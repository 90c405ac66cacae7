// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"

	"pillion/proxy/match"
)

// Provider is one issuer, with where its tokens stand, what they must say and
// what becomes of what they say. Immutable.
type Provider struct {
	name, issuer string
	audiences    audiences
	subjects     *match.String // nil: any
	skew         uint64        // seconds
	// maxLife bounds what is left of a token's life if it isn't 0; then, and
	// with requireExp, a token without exp is refused.
	maxLife    time.Duration
	requireExp bool

	local  *keySet // nil if the keys are remote
	remote *Remote
	cache  *cache

	locations []location
	forward   bool // leave the token in the request

	payloadHeader  *header
	padPayload     bool
	claimHeaders   []claimHeader
	spaceDelimited []string

	headerMetadata, payloadMetadata, failedMetadata string
	clearRoute                                      bool
}

// audiences is a set of audiences in the form in which they are compared; nil
// allows all.
type audiences map[string]bool

func newAudiences(list []string) audiences {
	if len(list) == 0 {
		return nil
	}
	a := audiences{}
	for _, s := range list {
		a[plainAudience(s)] = true
	}
	return a
}

// plainAudience cuts off the scheme and a slash at the end, which people get
// wrong (Envoy: CheckAudience).
func plainAudience(s string) string {
	if rest, ok := strings.CutPrefix(s, "http://"); ok {
		s = rest
	} else {
		s = strings.TrimPrefix(s, "https://")
	}
	return strings.TrimSuffix(s, "/")
}

func (a audiences) allow(list []string) bool {
	return a == nil || slices.ContainsFunc(list, func(s string) bool { return a[plainAudience(s)] })
}

// newProvider compiles a provider. Errors name the field.
func (b *builder) newProvider(name string, cfg *jwtv3.JwtProvider) (*Provider, error) {
	if err := onlyFields(cfg, "issuer", "audiences", "subjects", "require_expiration", "max_lifetime", "remote_jwks",
		"local_jwks", "forward", "from_headers", "from_params", "from_cookies", "forward_payload_header",
		"pad_forward_payload_header", "payload_in_metadata", "normalize_payload_in_metadata", "header_in_metadata",
		"failed_status_in_metadata", "clock_skew_seconds", "jwt_cache_config", "claim_to_headers", "clear_route_cache"); err != nil {
		return nil, err
	}
	p := &Provider{name: name, issuer: cfg.GetIssuer(), audiences: newAudiences(cfg.GetAudiences()), skew: 60,
		requireExp: cfg.GetRequireExpiration(), forward: cfg.GetForward(), padPayload: cfg.GetPadForwardPayloadHeader(),
		spaceDelimited: cfg.GetNormalizePayloadInMetadata().GetSpaceDelimitedClaims(),
		headerMetadata: cfg.GetHeaderInMetadata(), payloadMetadata: cfg.GetPayloadInMetadata(),
		failedMetadata: cfg.GetFailedStatusInMetadata(), clearRoute: cfg.GetClearRouteCache()}
	if s := cfg.GetClockSkewSeconds(); s > 0 {
		p.skew = uint64(s)
	}
	if d := cfg.GetMaxLifetime(); d != nil {
		if p.maxLife = d.AsDuration(); p.maxLife <= 0 {
			return nil, fmt.Errorf("max_lifetime: %v is not above 0", p.maxLife)
		}
	}
	for _, step := range []func(*Provider, *jwtv3.JwtProvider) error{b.setSubjects, b.setKeys, b.setLocations, b.setHeaders} {
		if err := step(p, cfg); err != nil {
			return nil, err
		}
	}
	size, most := defaultCacheTokens, defaultCacheTokenSize
	if c := cfg.GetJwtCacheConfig(); c != nil {
		if err := onlyFields(c, "jwt_cache_size", "jwt_max_token_size"); err != nil {
			return nil, fmt.Errorf("jwt_cache_config.%w", err)
		}
		size = 100
		if n := c.GetJwtCacheSize(); n > 0 {
			size = int(min(n, maxCacheTokens))
		}
		if n := c.GetJwtMaxTokenSize(); n > 0 {
			most = int(min(n, math.MaxInt32))
		}
	}
	p.cache = newCache(size, most)
	return p, nil
}

// maxCacheTokens bounds jwt_cache_size.
const maxCacheTokens = 1 << 20

func (b *builder) setSubjects(p *Provider, cfg *jwtv3.JwtProvider) error {
	if cfg.GetSubjects() == nil {
		return nil
	}
	m, err := b.env.String(cfg.GetSubjects())
	if err != nil {
		return fmt.Errorf("subjects: %w", err)
	}
	p.subjects = &m
	return nil
}

// setKeys sets where the keys come from.
func (b *builder) setKeys(p *Provider, cfg *jwtv3.JwtProvider) error {
	switch s := cfg.GetJwksSourceSpecifier().(type) {
	case *jwtv3.JwtProvider_RemoteJwks:
		r, err := b.env.Remotes.get(b.env.StatPrefix, s.RemoteJwks, b.env.Stats)
		if err != nil {
			return fmt.Errorf("remote_jwks.%w", err)
		}
		p.remote = r
	case *jwtv3.JwtProvider_LocalJwks:
		text, err := readSource(s.LocalJwks)
		if err != nil {
			return fmt.Errorf("local_jwks.%w", err)
		}
		if p.local, err = parseKeySet(text); err != nil {
			return fmt.Errorf("local_jwks: %w", err)
		}
	default:
		return errors.New("jwks_source_specifier: it needs remote_jwks or local_jwks")
	}
	return nil
}

// readSource reads a data source.
func readSource(s *corev3.DataSource) ([]byte, error) {
	if err := onlyFields(s, "filename", "inline_bytes", "inline_string", "environment_variable"); err != nil {
		return nil, err
	}
	switch s := s.GetSpecifier().(type) {
	case *corev3.DataSource_Filename:
		info, err := os.Stat(s.Filename)
		if err != nil {
			return nil, fmt.Errorf("filename: %w", err)
		}
		if info.Size() > maxJWKS {
			return nil, fmt.Errorf("filename: %s has more than %d octets", s.Filename, maxJWKS)
		}
		text, err := os.ReadFile(s.Filename)
		if err != nil {
			return nil, fmt.Errorf("filename: %w", err)
		}
		return text, nil
	case *corev3.DataSource_InlineBytes:
		return s.InlineBytes, nil
	case *corev3.DataSource_InlineString:
		return []byte(s.InlineString), nil
	case *corev3.DataSource_EnvironmentVariable:
		return []byte(os.Getenv(s.EnvironmentVariable)), nil
	}
	return nil, errors.New("specifier: is needed")
}

func (b *builder) setLocations(p *Provider, cfg *jwtv3.JwtProvider) error {
	for i, h := range cfg.GetFromHeaders() {
		if err := onlyFields(h, "name", "value_prefix"); err != nil {
			return fmt.Errorf("from_headers[%d].%w", i, err)
		}
		if !validName(h.GetName()) {
			return fmt.Errorf("from_headers[%d].name: %q is no name of a field", i, h.GetName())
		}
		p.locations = append(p.locations, location{place: inHeader, header: newHeader(h.GetName()), prefix: []byte(h.GetValuePrefix())})
	}
	for i, name := range cfg.GetFromParams() {
		if name == "" {
			return fmt.Errorf("from_params[%d]: is empty", i)
		}
		p.locations = append(p.locations, location{place: inParam, name: name})
	}
	for i, name := range cfg.GetFromCookies() {
		if name == "" {
			return fmt.Errorf("from_cookies[%d]: is empty", i)
		}
		p.locations = append(p.locations, location{place: inCookie, name: name})
	}
	if len(p.locations) == 0 {
		p.locations = []location{
			{place: inHeader, header: newHeader("authorization"), prefix: []byte("Bearer ")},
			{place: inParam, name: "access_token"},
		}
	}
	return nil
}

// reserved are the fields that frame or route a message, which no claim may
// become.
var reserved = map[string]bool{"host": true, "connection": true, "content-length": true, "transfer-encoding": true,
	"te": true, "trailer": true, "upgrade": true, "keep-alive": true, "proxy-connection": true, "expect": true}

func (b *builder) setHeaders(p *Provider, cfg *jwtv3.JwtProvider) error {
	if name := cfg.GetForwardPayloadHeader(); name != "" {
		h, err := b.ownHeader(name)
		if err != nil {
			return fmt.Errorf("forward_payload_header: %w", err)
		}
		p.payloadHeader = &h
	}
	for i, c := range cfg.GetClaimToHeaders() {
		if err := b.addClaim(p, c); err != nil {
			return fmt.Errorf("claim_to_headers[%d].%w", i, err)
		}
	}
	return nil
}

func (b *builder) addClaim(p *Provider, c *jwtv3.JwtClaimToHeader) error {
	if err := onlyFields(c, "header_name", "claim_name", "claim_path"); err != nil {
		return err
	}
	h, err := b.ownHeader(c.GetHeaderName())
	if err != nil {
		return fmt.Errorf("header_name: %w", err)
	}
	out := claimHeader{header: h}
	for i, s := range c.GetClaimPath() {
		if s.GetKey() == "" {
			return fmt.Errorf("claim_path[%d].key: is needed", i)
		}
		out.path = append(out.path, s.GetKey())
	}
	switch name := c.GetClaimName(); {
	case (name == "") == (len(out.path) == 0):
		return errors.New("claim_name: either this or claim_path is needed")
	case name != "":
		out.path = strings.Split(name, ".")
	}
	p.claimHeaders = append(p.claimHeaders, out)
	return nil
}

// ownHeader is a field that only the filter may set: what a client sends of
// that name is taken off every request.
func (b *builder) ownHeader(name string) (header, error) {
	if !validName(name) || reserved[strings.ToLower(name)] {
		return header{}, fmt.Errorf("%q is no field that a token may set", name)
	}
	h := newHeader(name)
	if !slices.ContainsFunc(b.own, func(o header) bool { return string(o.name) == string(h.name) }) {
		b.own = append(b.own, h)
	}
	return h, nil
}
