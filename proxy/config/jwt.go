// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"log/slog"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/cluster"
	"pillion/proxy/filter"
	"pillion/proxy/filter/jwt"
	"pillion/proxy/forward"
	"pillion/proxy/http"
	"pillion/proxy/match"
	"pillion/proxy/router"
	"pillion/proxy/stats"
)

const jwtType = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"

// jwtState is what JWT filters keep: counters and remote key sets for good,
// engines for the routes of one compilation.
type jwtState struct {
	remotes *jwt.Remotes
	stats   map[string]*jwt.Stats  // by both stat_prefixes
	engines map[string]*jwt.Engine // by stat_prefix and configuration
}

// newJWTState returns the state. Where configuration is only checked, nothing
// is fetched.
func newJWTState(clusters *cluster.Manager, checks bool, log *slog.Logger) *jwtState {
	var f jwt.Fetcher
	if !checks {
		f = fetcher{clusters}
	}
	return &jwtState{remotes: jwt.NewRemotes(f, log), stats: map[string]*jwt.Stats{}, engines: map[string]*jwt.Engine{}}
}

// begin begins a compilation.
func (s *jwtState) begin() {
	clear(s.engines)
	s.remotes.Begin()
}

// fetcher gets documents by the proxy's clusters.
type fetcher struct{ clusters *cluster.Manager }

// Fetch implements jwt.Fetcher.
func (f fetcher) Fetch(ctx context.Context, r *jwt.Request) (status int, body []byte, err error) {
	a, failed := forward.NewClient(f.clusters.Slot(r.Cluster)).Do(&filter.ClientCall{Method: "GET", Scheme: r.Scheme, Authority: r.Authority,
		Path: r.Path, Timeout: r.Timeout, MaxBody: r.MaxBody, Cancel: ctx.Done(), AnyOnce: true})
	if failed != nil {
		return 0, nil, failed
	}
	return a.Status, a.Body, nil
}

func buildJWT(ch *chains, base, route *anypb.Any) (any, error) {
	e, err := ch.jwtEngine(base)
	if err != nil {
		return nil, err
	}
	var own *jwtv3.PerRouteConfig
	if route != nil {
		own = &jwtv3.PerRouteConfig{}
		if err := route.UnmarshalTo(own); err != nil {
			return nil, err
		}
	}
	f, err := e.New(own)
	if err != nil {
		return nil, err // and no typed nil
	}
	return f, nil
}

// jwtEngine returns the one engine of a configuration, which all its routes
// share with its verified tokens.
func (ch *chains) jwtEngine(base *anypb.Any) (*jwt.Engine, error) {
	st := ch.c.filters.jwt
	name := ch.prefix + "\x00" + string(base.GetValue())
	if e := st.engines[name]; e != nil {
		return e, nil
	}
	cfg := &jwtv3.JwtAuthentication{}
	if err := base.UnmarshalTo(cfg); err != nil {
		return nil, err
	}
	e, err := jwt.NewEngine(cfg, &jwt.Env{
		StatPrefix: ch.prefix + "\x00" + cfg.GetStatPrefix(),
		Stats:      ch.c.filters.jwtStats(ch.prefix, cfg.GetStatPrefix()),
		Remotes:    st.remotes,
		Match:      compileRuleMatch,
		String:     compileString,
	})
	if err != nil {
		return nil, err
	}
	st.engines[name] = e
	return e, nil
}

// jwtStats returns the counters of a connection manager's filters with one
// stat_prefix of their own.
func (f *filterState) jwtStats(prefix, own string) *jwt.Stats {
	if own != "" && !strings.HasSuffix(own, ".") {
		own += "."
	}
	name := prefix + "\x00" + own
	s := f.jwt.stats[name]
	if s == nil {
		s = &jwt.Stats{}
		f.jwt.stats[name] = s
		f.registry.Add(stats.SourceFunc(func(e *stats.Emitter) { s.Collect(e, prefix, own) }))
	}
	return s
}

// ruleMatch is what a rule of a policy is for.
type ruleMatch struct{ criteria router.Criteria }

// Match implements jwt.Matcher.
func (m *ruleMatch) Match(h *http.RequestHead) bool { return m.criteria.Match(h, 0) }

// ruleMatchFields are the fields of a RouteMatch that a rule may have: a
// policy isn't left to chance.
var ruleMatchFields = fieldSet("prefix", "path", "safe_regex", "path_separated_prefix", "case_sensitive", "headers", "query_parameters")

func compileRuleMatch(m *routev3.RouteMatch) (jwt.Matcher, error) {
	if err := onlyFields(m, ruleMatchFields); err != nil {
		return nil, err
	}
	c := &routeCompiler{texts: map[string]string{}, regexes: map[string]*match.Regex{}}
	out, err := c.criteria(&place{name: "rule"}, m)
	if err != nil {
		return nil, err
	}
	return &ruleMatch{out}, nil
}
