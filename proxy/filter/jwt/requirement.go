// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"

	"pillion/proxy/http"
)

// requirement is what a request has to bring. Immutable.
type requirement interface {
	// verify judges the request and hands on what its tokens say. It may wait
	// if waits reports true.
	verify(ex *http.Exchange) Status
	waits(ex *http.Exchange) bool
}

// requireProvider asks for tokens of one provider, all of them valid.
type requireProvider struct{ *tokens }

// requireNone takes requests without a token, and with failed also those with
// a bad one. Tokens of all providers are looked at.
type requireNone struct {
	*tokens
	failed bool
}

// requireAll asks for all of its parts, requireAny for one of them.
type requireAll struct{ parts []requirement }

type requireAny struct {
	parts []requirement
	// missing and failed let requests pass without a token, or with a bad one.
	missing, failed bool
}

// requireNothing is a requirement without content.
type requireNothing struct{}

func (requireNothing) verify(*http.Exchange) Status { return OK }
func (requireNothing) waits(*http.Exchange) bool    { return false }

func (r *requireProvider) verify(ex *http.Exchange) Status {
	return r.check(ex)
}

func (r *requireNone) verify(ex *http.Exchange) Status {
	s := r.check(ex)
	if s == Missing || r.failed {
		return OK
	}
	return s
}

func (r *requireAll) verify(ex *http.Exchange) Status {
	for _, p := range r.parts {
		if s := p.verify(ex); s != OK {
			return s
		}
	}
	return OK
}

func (r *requireAll) waits(ex *http.Exchange) bool { return anyWaits(r.parts, ex) }
func (r *requireAny) waits(ex *http.Exchange) bool { return anyWaits(r.parts, ex) }

func anyWaits(parts []requirement, ex *http.Exchange) bool {
	for _, p := range parts {
		if p.waits(ex) {
			return true
		}
	}
	return false
}

// verify tries one part after the other. That a part found no token, or one of
// another issuer, says less than another part's reason (Envoy:
// AnyVerifierImpl::onComplete).
func (r *requireAny) verify(ex *http.Exchange) Status {
	final := Missing
	for _, p := range r.parts {
		s := p.verify(ex)
		if s == OK {
			return OK
		}
		if s != Missing && s != UnknownIssuer || final == Missing {
			final = s
		}
	}
	if r.failed || r.missing && final == Missing {
		return OK
	}
	return final
}

// tokens looks for tokens of some providers and checks them. Immutable.
type tokens struct {
	engine    *Engine
	extractor *extractor
	provider  *Provider // nil: a token's issuer tells
	audiences audiences // instead of the provider's, unless nil
}

// check checks all tokens in the request's locations, the last one first. Each
// has to be valid: else a service may take a forged one for the good one that
// let the request pass. Envoy lets some pass where allow_missing stands alone.
func (t *tokens) check(ex *http.Exchange) Status {
	var room [8]candidate
	list := t.extractor.extract(room[:0], &ex.Req)
	if len(list) == 0 {
		return t.failed(ex, t.provider, Missing)
	}
	s := OK
	for i := len(list) - 1; i >= 0; i-- {
		if one := t.checkOne(ex, &list[i]); one != OK {
			if s = one; !t.goesOn() {
				break
			}
		}
	}
	return s
}

// goesOn reports whether the other tokens are looked at when one has failed:
// where all providers' are, as what they say may be wanted all the same.
func (t *tokens) goesOn() bool { return t.provider == nil }

func (t *tokens) failed(ex *http.Exchange, p *Provider, s Status) Status {
	if p == nil {
		p = t.engine.single
	}
	if p != nil {
		p.tellFailure(ex, s)
	}
	return s
}

// checkOne checks one token and hands on what it says.
func (t *tokens) checkOne(ex *http.Exchange, c *candidate) Status {
	id := digest(sha256.Sum256(c.text))
	p, tok := t.cached(&id)
	hit := tok != nil
	if hit {
		t.engine.stats.CacheHit.Inc()
	} else {
		t.engine.stats.CacheMiss.Inc()
		var s Status
		if tok, s = parseToken(c.text); s != OK {
			return t.failed(ex, p, s)
		}
	}
	if !c.at.allows(tok.iss) {
		return t.failed(ex, p, UnknownIssuer)
	}
	if p == nil {
		if p = t.engine.issuedBy(tok.iss); p == nil {
			return t.failed(ex, p, UnknownIssuer)
		}
	}
	if s := p.permits(tok, t.audiences, time.Now()); s != OK {
		if hit && s == Expired {
			p.cache.drop(&id)
		}
		return t.failed(ex, p, s)
	}
	if !hit {
		keys, s := p.verify(tok, ex.Cancelled)
		if s != OK {
			return t.failed(ex, p, s)
		}
		p.finish(tok)
		p.cache.put(&id, tok, keys)
	}
	p.handOn(ex, c, tok)
	return OK
}

// cached finds a verified token. The provider is nil while it isn't known.
func (t *tokens) cached(id *digest) (*Provider, *token) {
	if p := t.provider; p != nil {
		return p, p.cached(id)
	}
	for _, p := range t.engine.providers {
		if tok := p.cached(id); tok != nil && t.engine.issuedBy(tok.iss) == p {
			return p, tok
		}
	}
	return nil, nil
}

// waits reports whether a check may have to wait for keys: there are none that
// are ready, or a token is new and may name a key that isn't there.
func (t *tokens) waits(ex *http.Exchange) bool {
	if t.provider != nil && t.provider.remote == nil || t.provider == nil && !t.engine.remote {
		return false
	}
	var room [8]candidate
	for _, c := range t.extractor.extract(room[:0], &ex.Req) {
		id := digest(sha256.Sum256(c.text))
		if _, tok := t.cached(&id); tok == nil {
			return true
		}
	}
	return false
}

// cached returns a token that was verified with the keys of now.
func (p *Provider) cached(id *digest) *token {
	keys := p.local
	if p.remote != nil {
		keys = p.remote.ready(http.Now())
	}
	if keys == nil {
		return nil
	}
	return p.cache.get(id, keys)
}

// permits checks what a token says, its signature aside.
func (p *Provider) permits(t *token, instead audiences, now time.Time) Status {
	// The wall clock is asked, since exp is a time of the world's and follows
	// the clock when that is set right.
	unix := uint64(max(now.Unix(), 0))
	if p.subjects != nil && !p.subjects.Match([]byte(t.sub)) {
		return VerificationFail
	}
	if (p.requireExp || p.maxLife > 0) && !t.hasExp {
		return VerificationFail
	}
	if s := t.timely(unix, p.skew); s != OK {
		return s
	}
	if p.maxLife > 0 && t.exp > unix && t.exp-unix >= uint64(p.maxLife/time.Second) {
		return VerificationFail
	}
	if instead == nil {
		instead = p.audiences
	}
	if !instead.allow(t.aud) {
		return AudienceNotAllowed
	}
	return OK
}

// verify checks a token's signature and returns the keys that it was checked
// with.
func (p *Provider) verify(t *token, cancelled <-chan struct{}) (*keySet, Status) {
	if p.remote == nil {
		return p.local, p.local.verify(t)
	}
	keys := p.remote.get(cancelled)
	if keys == nil {
		return nil, JwksFetchFail
	}
	s := keys.verify(t)
	if s != OK && t.kid != "" && !keys.has(t.kid) {
		if newer := p.remote.again(keys, cancelled); newer != keys {
			keys = newer
			s = keys.verify(t)
		}
	}
	return keys, s
}

// requirement compiles a requirement. Errors name the field.
func (b *builder) requirement(r *jwtv3.JwtRequirement, depth int) (requirement, error) {
	if depth > maxDepth {
		return nil, errors.New("is nested too deeply")
	}
	if err := onlyFields(r, "provider_name", "provider_and_audiences", "requires_any", "requires_all",
		"allow_missing", "allow_missing_or_failed"); err != nil {
		return nil, err
	}
	switch k := r.GetRequiresType().(type) {
	case nil:
		return requireNothing{}, nil
	case *jwtv3.JwtRequirement_ProviderName:
		p, err := b.provider(k.ProviderName)
		if err != nil {
			return nil, fmt.Errorf("provider_name: %w", err)
		}
		return b.ofProvider(p, nil), nil
	case *jwtv3.JwtRequirement_ProviderAndAudiences:
		p, err := b.provider(k.ProviderAndAudiences.GetProviderName())
		if err != nil {
			return nil, fmt.Errorf("provider_and_audiences.provider_name: %w", err)
		}
		return b.ofProvider(p, newAudiences(k.ProviderAndAudiences.GetAudiences())), nil
	case *jwtv3.JwtRequirement_RequiresAll:
		parts, err := b.parts("requires_all", k.RequiresAll.GetRequirements(), depth)
		return &requireAll{parts}, err
	case *jwtv3.JwtRequirement_RequiresAny:
		return b.anyOf(k.RequiresAny.GetRequirements(), depth)
	case *jwtv3.JwtRequirement_AllowMissing:
		return b.none(false), nil
	case *jwtv3.JwtRequirement_AllowMissingOrFailed:
		return b.none(true), nil
	}
	return nil, errors.New("requires_type: is not supported")
}

func (b *builder) provider(name string) (*Provider, error) {
	if p := b.engine.byName[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("there is no provider %q", name)
}

func (b *builder) ofProvider(p *Provider, a audiences) requirement {
	return &requireProvider{&tokens{engine: b.engine, extractor: newExtractor(p), provider: p, audiences: a}}
}

func (b *builder) none(failed bool) requirement {
	return &requireNone{tokens: &tokens{engine: b.engine, extractor: newExtractor(b.engine.providers...)}, failed: failed}
}

func (b *builder) parts(field string, list []*jwtv3.JwtRequirement, depth int) (out []requirement, err error) {
	if len(list) < 2 {
		return nil, fmt.Errorf("%s.requirements: there must be two or more", field)
	}
	for i, r := range list {
		one, err := b.requirement(r, depth+1)
		if err != nil {
			return nil, fmt.Errorf("%s.requirements[%d].%w", field, i, err)
		}
		out = append(out, one)
	}
	return out, nil
}

// anyOf leaves parts that let everything pass out of those that are tried:
// they only matter when no other one is satisfied.
func (b *builder) anyOf(list []*jwtv3.JwtRequirement, depth int) (requirement, error) {
	all, err := b.parts("requires_any", list, depth)
	if err != nil {
		return nil, err
	}
	out := &requireAny{}
	for _, r := range all {
		if n, ok := r.(*requireNone); ok {
			out.failed = out.failed || n.failed
			out.missing = true
			continue
		}
		out.parts = append(out.parts, r)
	}
	if len(out.parts) == 0 {
		return b.none(out.failed), nil
	}
	return out, nil
}
