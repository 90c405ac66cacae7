// SPDX-License-Identifier: Apache-2.0

// Package jwt is the filter envoy.filters.http.jwt_authn: it checks the JSON
// Web Tokens (RFC 7519) that requests bring against the keys of their issuers,
// refuses requests without the tokens that a rule asks for, and hands on what
// tokens say, to services in fields and to other filters in metadata.
//
// An Engine is what one filter of a chain is made of, with its providers, keys
// and verified tokens; a Filter is that engine for one route.
package jwt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
)

// Matcher says whether a rule is for a request.
type Matcher interface {
	Match(h *http.RequestHead) bool
}

// Env is what an engine is wired to.
type Env struct {
	StatPrefix string // tells apart who counts fetches
	Stats      *Stats
	Remotes    *Remotes
	// Match and String compile the matchers of configuration; errors name the
	// field.
	Match  func(*routev3.RouteMatch) (Matcher, error)
	String func(*matcherv3.StringMatcher) (match.String, error)
}

// Engine is one configuration of the filter. Immutable but for what hangs on
// its providers.
type Engine struct {
	stats     *Stats
	providers []*Provider // by name
	byName    map[string]*Provider
	byIssuer  map[string]*Provider
	single    *Provider // the only provider, nil if there are more
	remote    bool      // a provider's keys are remote
	own       []header  // that only the filter may set

	rules     []rule
	named     map[string]requirement
	preflight bool // lets CORS preflights pass
	strip     bool // leaves the reason out of replies
}

type rule struct {
	match       Matcher
	requirement requirement // nil: none
}

// builder compiles an engine.
type builder struct {
	engine *Engine
	env    *Env
	own    []header
}

// NewEngine compiles a configuration. Errors name the field.
func NewEngine(cfg *jwtv3.JwtAuthentication, env *Env) (*Engine, error) {
	if cfg.GetFilterStateRules() != nil {
		return nil, errors.New("filter_state_rules: is not supported: no filter here sets such state")
	}
	if err := onlyFields(cfg, "providers", "rules", "bypass_cors_preflight", "requirement_map", "strip_failure_response", "stat_prefix"); err != nil {
		return nil, err
	}
	e := &Engine{stats: env.Stats, byName: map[string]*Provider{}, byIssuer: map[string]*Provider{}, named: map[string]requirement{},
		preflight: cfg.GetBypassCorsPreflight(), strip: cfg.GetStripFailureResponse()}
	b := &builder{engine: e, env: env}
	for _, name := range slices.Sorted(maps.Keys(cfg.GetProviders())) {
		p, err := b.newProvider(name, cfg.GetProviders()[name])
		if err != nil {
			return nil, fmt.Errorf("providers[%s].%w", name, err)
		}
		e.add(p)
	}
	e.own = b.own
	for _, name := range slices.Sorted(maps.Keys(cfg.GetRequirementMap())) {
		r, err := b.requirement(cfg.GetRequirementMap()[name], 0)
		if err != nil {
			return nil, fmt.Errorf("requirement_map[%s].%w", name, err)
		}
		e.named[name] = r
	}
	for i, r := range cfg.GetRules() {
		one, err := b.rule(r)
		if err != nil {
			return nil, fmt.Errorf("rules[%d].%w", i, err)
		}
		e.rules = append(e.rules, one)
	}
	return e, nil
}

func (e *Engine) add(p *Provider) {
	e.providers = append(e.providers, p)
	e.byName[p.name] = p
	if e.byIssuer[p.issuer] == nil {
		e.byIssuer[p.issuer] = p
	}
	e.remote = e.remote || p.remote != nil
	if e.single = p; len(e.providers) > 1 {
		e.single = nil
	}
}

func (b *builder) rule(r *jwtv3.RequirementRule) (out rule, err error) {
	if err := onlyFields(r, "match", "requires", "requirement_name"); err != nil {
		return out, err
	}
	if r.GetMatch() == nil {
		return out, errors.New("match: is needed")
	}
	if out.match, err = b.env.Match(r.GetMatch()); err != nil {
		return out, fmt.Errorf("match: %w", err)
	}
	switch k := r.GetRequirementType().(type) {
	case *jwtv3.RequirementRule_Requires:
		if out.requirement, err = b.requirement(k.Requires, 0); err != nil {
			return out, fmt.Errorf("requires.%w", err)
		}
	case *jwtv3.RequirementRule_RequirementName:
		if out.requirement = b.engine.named[k.RequirementName]; out.requirement == nil {
			return out, fmt.Errorf("requirement_name: requirement_map has no %q", k.RequirementName)
		}
	}
	return out, nil
}

// issuedBy returns the provider of an issuer: the first one with that name,
// else the first one without.
func (e *Engine) issuedBy(issuer string) *Provider {
	if p := e.byIssuer[issuer]; p != nil {
		return p
	}
	return e.byIssuer[""]
}

// Filter is an engine on one route. Immutable.
type Filter struct {
	engine *Engine
	// The route's own requirement, instead of the rules, if overridden is set;
	// nil is none.
	requirement requirement
	overridden  bool
}

// New returns the filter of a route with its override, nil if it has none.
func (e *Engine) New(route *jwtv3.PerRouteConfig) (*Filter, error) {
	f := &Filter{engine: e}
	if route == nil {
		return f, nil
	}
	if err := onlyFields(route, "disabled", "requirement_name"); err != nil {
		return nil, err
	}
	f.overridden = true
	if route.GetDisabled() {
		return f, nil
	}
	// Envoy answers each such request with a 403.
	name := route.GetRequirementName()
	if f.requirement = e.named[name]; f.requirement == nil {
		return nil, fmt.Errorf("requirement_name: requirement_map has no %q", name)
	}
	return f, nil
}

// choose returns the requirement for a request, nil if there is none.
func (f *Filter) choose(ex *http.Exchange) requirement {
	if f.overridden {
		return f.requirement
	}
	for i := range f.engine.rules {
		if f.engine.rules[i].match.Match(&ex.Req) {
			return f.engine.rules[i].requirement
		}
	}
	return nil
}

// Waits reports whether the request may have to wait for keys. It implements
// filter.Waiter.
func (f *Filter) Waits(ex *http.Exchange) bool {
	if !f.engine.remote || f.engine.preflight && isPreflight(&ex.Req) {
		return false
	}
	r := f.choose(ex)
	return r != nil && r.waits(ex)
}

// OnRequest lets a request pass or refuses it. Fields that only tokens may set
// are taken off in any case.
func (f *Filter) OnRequest(ex *http.Exchange) filter.Status {
	e := f.engine
	for i := range e.own {
		ex.Req.Fields.Del(e.own[i].id, e.own[i].name)
	}
	if e.preflight && isPreflight(&ex.Req) {
		e.stats.Preflight.Inc()
		e.stats.Allowed.Inc()
		return filter.Continue
	}
	r := f.choose(ex)
	if r == nil {
		e.stats.Allowed.Inc()
		return filter.Continue
	}
	// The request as it came is what the client is told about.
	scheme, authority, path := ex.Req.Scheme, ex.Req.Authority, ex.Req.Path
	s := r.verify(ex)
	if s == OK {
		e.stats.Allowed.Inc()
		return filter.Continue
	}
	e.stats.Denied.Inc()
	err := s.refusal()
	ex.LocalReply = http.LocalReply{Status: err.Status, Err: err}
	if !e.strip {
		ex.LocalReply.Body = s.String()
		ex.LocalReply.Headers = challenge(s, scheme, authority, path)
	}
	return filter.Reply
}

// maxRealm bounds the path in a challenge (Envoy: MaximumUriLength).
const maxRealm = 256

// challenge is the WWW-Authenticate field of a refusal (RFC 6750 section 3).
func challenge(s Status, scheme, authority, path []byte) []http.Field {
	if len(path) > maxRealm {
		path = path[:maxRealm]
	}
	var b strings.Builder
	b.WriteString(`Bearer realm="`)
	b.Write(scheme)
	b.WriteString("://")
	b.Write(authority)
	b.Write(path)
	b.WriteByte('"')
	if s != Missing {
		b.WriteString(`, error="invalid_token"`)
	}
	return []http.Field{{Name: []byte("www-authenticate"), Value: []byte(b.String())}}
}

// isPreflight reports whether a browser asks what it may send, which it does
// without credentials (Fetch standard, section 3.2.2).
func isPreflight(h *http.RequestHead) bool {
	if h.Method != http.MethodOptions {
		return false
	}
	o, _ := h.Fields.Get(http.HeaderOrigin)
	m, _ := h.Fields.Lookup(http.HeaderOther, nameRequestMethod)
	return len(o) > 0 && len(m) > 0
}

var nameRequestMethod = []byte("access-control-request-method")
