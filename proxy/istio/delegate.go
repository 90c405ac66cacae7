// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// qualifyRoute returns a copy of a route in which every host and gateway has its full
// name, so that it means the same in a resource of another namespace.
func qualifyRoute(r *networking.HTTPRoute, namespace, domainSuffix string) *networking.HTTPRoute {
	out := proto.Clone(r).(*networking.HTTPRoute)
	full := func(d *networking.Destination) {
		if d != nil {
			d.Host = qualify(d.Host, namespace, domainSuffix)
		}
	}
	for _, d := range out.Route {
		full(d.GetDestination())
	}
	full(out.Mirror)
	for _, m := range out.Mirrors {
		full(m.GetDestination())
	}
	for _, m := range out.Match {
		for i, g := range m.GetGateways() {
			m.Gateways[i] = qualifyGateway(g, namespace)
		}
	}
	return out
}

// mergeRoute makes one route of a delegating route and one it delegates to. What the
// delegate leaves out it takes from the root; matches are combined. It returns nil
// when the delegate asks for requests that the root doesn't have.
func mergeRoute(root, delegate *networking.HTTPRoute) *networking.HTTPRoute {
	match, ok := mergeMatches(root.Match, delegate.Match)
	if !ok {
		return nil
	}
	out := proto.Clone(delegate).(*networking.HTTPRoute)
	out.Match = match
	out.Name = joinName(root.Name, delegate.Name)
	orElse(&out.Rewrite, root.Rewrite)
	orElse(&out.DirectResponse, root.DirectResponse)
	orElse(&out.Timeout, root.Timeout)
	orElse(&out.Retries, root.Retries)
	orElse(&out.Fault, root.Fault)
	orElse(&out.Mirror, root.Mirror)
	//lint:ignore SA1019 deprecated, and still part of the API
	orElse(&out.MirrorPercent, root.MirrorPercent)
	orElse(&out.MirrorPercentage, root.MirrorPercentage)
	orElse(&out.CorsPolicy, root.CorsPolicy)
	orElse(&out.Headers, root.Headers)
	if out.Mirrors == nil {
		out.Mirrors = root.Mirrors
	}
	return out
}

func orElse[T any](field **T, other *T) {
	if *field == nil {
		*field = other
	}
}

func joinName(root, own string) string {
	if root == "" || own == "" {
		return root + own
	}
	return root + "-" + own
}

// mergeMatches combines every match of the delegate with every match of the root that
// it can lie within. It reports false when one lies within none.
func mergeMatches(root, delegate []*networking.HTTPMatchRequest) ([]*networking.HTTPMatchRequest, bool) {
	if len(root) == 0 {
		return delegate, true
	}
	if len(delegate) == 0 {
		return root, true
	}
	var out []*networking.HTTPMatchRequest
	for _, d := range delegate {
		found := false
		for _, r := range root {
			if liesWithin(d, r) {
				out = append(out, mergeMatch(r, d))
				found = true
			}
		}
		if !found {
			return nil, false
		}
	}
	return out, true
}

// mergeMatch asks for what both ask for; where both set a field the delegate's is the
// narrower one.
func mergeMatch(root, delegate *networking.HTTPMatchRequest) *networking.HTTPMatchRequest {
	out := proto.Clone(delegate).(*networking.HTTPMatchRequest)
	out.Name = joinName(root.Name, delegate.Name)
	orElse(&out.Uri, root.Uri)
	orElse(&out.Scheme, root.Scheme)
	orElse(&out.Method, root.Method)
	orElse(&out.Authority, root.Authority)
	out.Headers = mergeMaps(root.Headers, delegate.Headers)
	out.WithoutHeaders = mergeMaps(root.WithoutHeaders, delegate.WithoutHeaders)
	out.QueryParams = mergeMaps(root.QueryParams, delegate.QueryParams)
	out.SourceLabels = mergeMaps(root.SourceLabels, delegate.SourceLabels)
	if out.Port == 0 {
		out.Port = root.Port
	}
	if out.SourceNamespace == "" {
		out.SourceNamespace = root.SourceNamespace
	}
	if len(out.Gateways) == 0 {
		out.Gateways = root.Gateways
	}
	if out.StatPrefix == "" {
		out.StatPrefix = root.StatPrefix
	}
	return out
}

func mergeMaps[V any](base, over map[string]V) map[string]V {
	if len(base) == 0 {
		return over
	}
	out := maps.Clone(base)
	maps.Copy(out, over)
	return out
}

// liesWithin reports whether the leaf's match can be a part of the root's, by Istio's
// rules for delegation. They compare prefixes and exact values and give up on regular
// expressions.
func liesWithin(leaf, root *networking.HTTPMatchRequest) bool {
	if !within(leaf.Uri, root.Uri) || !within(leaf.Scheme, root.Scheme) ||
		!within(leaf.Method, root.Method) || !within(leaf.Authority, root.Authority) ||
		!allWithin(leaf.Headers, root.Headers) || !allWithin(leaf.WithoutHeaders, root.WithoutHeaders) ||
		!allWithin(leaf.QueryParams, root.QueryParams) {
		return false
	}
	if root.IgnoreUriCase != leaf.IgnoreUriCase {
		return false
	}
	if root.Port > 0 && leaf.Port > 0 && root.Port != leaf.Port {
		return false
	}
	if root.SourceNamespace != "" && leaf.SourceNamespace != root.SourceNamespace {
		return false
	}
	for k, v := range leaf.SourceLabels {
		if want, ok := root.SourceLabels[k]; ok && want != v {
			return false
		}
	}
	if len(root.Gateways) > 0 {
		for _, g := range leaf.Gateways {
			if !slices.Contains(root.Gateways, g) {
				return false
			}
		}
	}
	return true
}

func allWithin(leaf, root map[string]*networking.StringMatch) bool {
	for k, m := range leaf {
		if !within(m, root[k]) {
			return false
		}
	}
	return true
}

func within(leaf, root *networking.StringMatch) bool {
	if root == nil || leaf == nil {
		return true
	}
	switch r := root.MatchType.(type) {
	case *networking.StringMatch_Exact:
		return leaf.GetExact() == r.Exact && leaf.GetExact() != ""
	case *networking.StringMatch_Prefix:
		if p := leaf.GetPrefix(); p != "" {
			return strings.HasPrefix(p, r.Prefix)
		}
		return leaf.GetExact() != "" && strings.HasPrefix(leaf.GetExact(), r.Prefix)
	default:
		return false
	}
}
