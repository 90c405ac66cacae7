// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"maps"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// routeMatch turns a match into Envoy's. What depends on the proxy rather than the
// request — port, gateways, source labels and namespace — has been decided before.
func routeMatch(in *networking.HTTPMatchRequest) *routev3.RouteMatch {
	out := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	if in == nil {
		return out
	}
	for _, name := range sortedKeys(in.Headers) {
		out.Headers = append(out.Headers, headerMatch(name, in.Headers[name]))
	}
	for _, name := range sortedKeys(in.WithoutHeaders) {
		m := headerMatch(name, in.WithoutHeaders[name])
		m.InvertMatch = true
		// Without this a request that lacks the header would not match, though it
		// doesn't have the value. Envoy refuses it beside present_match.
		m.TreatMissingHeaderAsEmpty = !matchesPresence(in.WithoutHeaders[name])
		out.Headers = append(out.Headers, m)
	}
	slices.SortStableFunc(out.Headers, func(a, b *routev3.HeaderMatcher) int { return cmp.Compare(a.Name, b.Name) })

	switch m := in.Uri.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: m.Exact}
	case *networking.StringMatch_Prefix:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: m.Prefix}
	case *networking.StringMatch_Regex:
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: m.Regex}}
	}
	out.CaseSensitive = wrapperspb.Bool(!in.IgnoreUriCase)
	for _, pseudo := range [...]struct {
		name  string
		match *networking.StringMatch
	}{{":method", in.Method}, {":authority", in.Authority}, {":scheme", in.Scheme}} {
		if pseudo.match != nil {
			out.Headers = append(out.Headers, headerMatch(pseudo.name, pseudo.match))
		}
	}
	for _, name := range sortedKeys(in.QueryParams) {
		out.QueryParameters = append(out.QueryParameters, queryMatch(name, in.QueryParams[name]))
	}
	return out
}

// sortedKeys makes an order for what a map has none of.
func sortedKeys[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(m))
}

// matchesPresence: the match asks only that there is a value. Istio takes the regular
// expression "*", which isn't one, for this.
func matchesPresence(m *networking.StringMatch) bool {
	return m.GetMatchType() == nil || m.GetRegex() == "*"
}

func headerMatch(name string, m *networking.StringMatch) *routev3.HeaderMatcher {
	out := &routev3.HeaderMatcher{Name: name}
	if matchesPresence(m) {
		out.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
	} else {
		out.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: stringMatch(m)}
	}
	return out
}

func queryMatch(name string, m *networking.StringMatch) *routev3.QueryParameterMatcher {
	out := &routev3.QueryParameterMatcher{Name: name}
	if matchesPresence(m) {
		out.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}
	} else {
		out.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: stringMatch(m)}
	}
	return out
}

// stringMatch converts a match that has a value; nil has none.
func stringMatch(m *networking.StringMatch) *matcherv3.StringMatcher {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: t.Exact}}
	case *networking.StringMatch_Prefix:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: t.Prefix}}
	case *networking.StringMatch_Regex:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
			SafeRegex: &matcherv3.RegexMatcher{Regex: t.Regex},
		}}
	}
	return nil
}

// catchesAll: no request that gets here goes past the route. Later routes are left
// out, as istiod does.
func catchesAll(r *routev3.Route) bool {
	var everything bool
	switch p := r.Match.PathSpecifier.(type) {
	case *routev3.RouteMatch_Prefix:
		everything = p.Prefix == "/"
	case *routev3.RouteMatch_SafeRegex:
		everything = p.SafeRegex.GetRegex() == ".*"
	}
	return everything && len(r.Match.Headers) == 0 && len(r.Match.QueryParameters) == 0
}

// pathOf describes a match's path for the name of a trace's operation.
func pathOf(m *routev3.RouteMatch) string {
	switch p := m.PathSpecifier.(type) {
	case *routev3.RouteMatch_Prefix:
		return p.Prefix + "*"
	case *routev3.RouteMatch_Path:
		return p.Path
	case *routev3.RouteMatch_SafeRegex:
		return p.SafeRegex.GetRegex()
	}
	return "/*"
}
