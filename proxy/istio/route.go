// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// routeBuilder makes routes. One serves a whole translation.
type routeBuilder struct {
	o       *Options
	rep     *report
	rules   *destinationRules
	find    func(host string) *service // the service that the proxy knows by a full host
	retries *retryPolicies

	ruleOf    map[*service]*destinationRule // what rules.of has answered
	noTimeout *durationpb.Duration
}

// rule is rules.of with a memory: many routes lead to one service.
func (b *routeBuilder) rule(s *service) *destinationRule {
	if s == nil {
		return nil
	}
	d, ok := b.ruleOf[s]
	if !ok {
		d = b.rules.of(s)
		b.ruleOf[s] = d
	}
	return d
}

// target is where a set of routes is for.
type target struct {
	port    uint32 // the port that clients name
	gateway string // meshGateway, or "namespace/name" of a Gateway
}

// among reports whether a list in an object of a namespace names the gateway.
func (at target) among(gateways []string, namespace string) bool {
	return slices.ContainsFunc(gateways, func(g string) bool { return qualifyGateway(g, namespace) == at.gateway })
}

// routes makes the routes of a VirtualService for one port. There are none when no
// match is about this port, gateway and proxy.
func (b *routeBuilder) routes(v *virtualService, at target) []*routev3.Route {
	out := make([]*routev3.Route, 0, len(v.http))
	for i := range v.http {
		r := &v.http[i]
		if len(r.Match) == 0 {
			return append(out, b.route(v, r, nil, at))
		}
		for _, m := range r.Match {
			if !b.concerns(r, m, at) {
				continue
			}
			route := b.route(v, r, m, at)
			out = append(out, route)
			if catchesAll(route) {
				return out
			}
		}
	}
	return out
}

// concerns decides what of a match does not depend on the request. Gateways, when
// given, stand in for the source's labels and namespace, as in istiod.
func (b *routeBuilder) concerns(r *httpRoute, m *networking.HTTPMatchRequest, at target) bool {
	if m.Port != 0 && m.Port != at.port {
		return false
	}
	if len(m.Gateways) > 0 {
		return at.among(m.Gateways, r.obj.Namespace)
	}
	return isSubset(m.SourceLabels, b.o.Labels) &&
		(m.SourceNamespace == "" || m.SourceNamespace == b.o.Namespace)
}

// route makes one route of one match; a nil match is every request.
func (b *routeBuilder) route(v *virtualService, r *httpRoute, m *networking.HTTPMatchRequest, at target) *routev3.Route {
	out := &routev3.Route{
		Name:       r.Name,
		Match:      routeMatch(m),
		StatPrefix: m.GetStatPrefix(),
		Metadata:   v.metadata,
	}
	if m.GetName() != "" {
		out.Name += "." + m.Name
	}
	ops := newHeaderOps(r.Headers)
	out.RequestHeadersToAdd, out.RequestHeadersToRemove = ops.requestAdd, ops.requestRemove
	out.ResponseHeadersToAdd, out.ResponseHeadersToRemove = ops.responseAdd, ops.responseRemove
	switch {
	case r.Redirect != nil:
		out.Action = redirect(r.Redirect, at.port)
	case r.DirectResponse != nil:
		out.Action = directResponse(r.DirectResponse)
	default:
		b.forward(out, r, ops.authority, at)
	}
	out.Decorator = &routev3.Decorator{Operation: operation(out, v.obj, at.port)}
	if f := faultOf(r.Fault); f != nil {
		setFilterConfig(out, filterFault, pack(f))
	}
	if r.CorsPolicy != nil {
		setFilterConfig(out, filterCORS, pack(corsOf(r.CorsPolicy)))
	}
	return out
}

func setFilterConfig(r *routev3.Route, filter string, config *anypb.Any) {
	if r.TypedPerFilterConfig == nil {
		r.TypedPerFilterConfig = make(map[string]*anypb.Any, 1)
	}
	r.TypedPerFilterConfig[filter] = config
}

// operation names what a trace's span is of: host, port and path. With several
// destinations the VirtualService stands for the host.
func operation(r *routev3.Route, obj *source.Object, port uint32) string {
	if h, p, ok := parseClusterName(r.GetRoute().GetCluster()); ok {
		return h + ":" + p + pathOf(r.Match)
	}
	return obj.Name + ":" + strconv.FormatUint(uint64(port), 10) + pathOf(r.Match)
}

// forward sends requests to the route's destinations.
func (b *routeBuilder) forward(out *routev3.Route, r *httpRoute, authority string, at target) {
	action := &routev3.RouteAction{}
	b.setTimeout(action, r.Timeout)
	if rw := r.Rewrite; rw != nil {
		if re := rw.UriRegexRewrite; re != nil {
			action.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{
				Pattern:      &matcherv3.RegexMatcher{Regex: re.Match},
				Substitution: re.Rewrite,
			}
		} else {
			action.PrefixRewrite = rw.Uri
		}
		if rw.Authority != "" {
			authority = rw.Authority
		}
	}
	if authority != "" {
		action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: authority}
	}
	b.mirrors(action, r, at)
	hashed := false
	if len(r.Route) == 1 {
		hashed = b.single(out, action, r, at)
	} else {
		b.weighted(action, r, at)
	}
	action.RetryPolicy = b.retries.of(r.Retries, hashed)
	out.Action = &routev3.Route_Route{Route: action}
}

// setTimeout sets how long a whole request may take; without one there is no limit,
// while Envoy's own default is 15 s. A grpc-timeout header may ask for as much.
func (b *routeBuilder) setTimeout(action *routev3.RouteAction, timeout *durationpb.Duration) {
	if timeout == nil {
		timeout = b.noTimeout
	}
	action.Timeout = timeout
	//lint:ignore SA1019 istiod sets it
	action.MaxGrpcTimeout = timeout
}

// single sets the only destination of a route, whose header operations come after the
// route's. It reports whether the host is chosen by a hash of the request.
func (b *routeBuilder) single(out *routev3.Route, action *routev3.RouteAction, r *httpRoute, at target) bool {
	d := r.Route[0]
	name, hash := b.destination(d.Destination, r, ".route[0].destination", at)
	action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: name}
	ops := newHeaderOps(d.Headers)
	out.RequestHeadersToAdd = append(out.RequestHeadersToAdd, ops.requestAdd...)
	out.RequestHeadersToRemove = append(out.RequestHeadersToRemove, ops.requestRemove...)
	out.ResponseHeadersToAdd = append(out.ResponseHeadersToAdd, ops.responseAdd...)
	out.ResponseHeadersToRemove = append(out.ResponseHeadersToRemove, ops.responseRemove...)
	if ops.authority != "" && action.HostRewriteSpecifier == nil {
		action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: ops.authority}
	}
	if p := hashPolicy(hash); p != nil {
		action.HashPolicy = append(action.HashPolicy, p)
	}
	return hash != nil
}

// weighted sets several destinations. Those of weight 0 get nothing and are left out.
func (b *routeBuilder) weighted(action *routev3.RouteAction, r *httpRoute, at target) {
	clusters := make([]*routev3.WeightedCluster_ClusterWeight, 0, len(r.Route))
	for i, d := range r.Route {
		if d.Weight == 0 {
			continue
		}
		name, hash := b.destination(d.Destination, r, ".route["+strconv.Itoa(i)+"].destination", at)
		ops := newHeaderOps(d.Headers)
		c := &routev3.WeightedCluster_ClusterWeight{
			Name:                    name,
			Weight:                  wrapperspb.UInt32(uint32(d.Weight)),
			RequestHeadersToAdd:     ops.requestAdd,
			RequestHeadersToRemove:  ops.requestRemove,
			ResponseHeadersToAdd:    ops.responseAdd,
			ResponseHeadersToRemove: ops.responseRemove,
		}
		if ops.authority != "" {
			c.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: ops.authority}
		}
		if p := hashPolicy(hash); p != nil {
			action.HashPolicy = append(action.HashPolicy, p)
		}
		clusters = append(clusters, c)
	}
	action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{
		WeightedClusters: &routev3.WeightedCluster{Clusters: clusters},
	}
}

// mirrors sends copies of requests elsewhere.
func (b *routeBuilder) mirrors(action *routev3.RouteAction, r *httpRoute, at target) {
	add := func(d *networking.Destination, share *networking.Percent, whole *wrapperspb.UInt32Value, field string) {
		fraction := wholePercent(100)
		switch {
		case share != nil:
			fraction = percent(share)
		case whole != nil:
			fraction = wholePercent(whole.Value)
		}
		if fraction.Numerator == 0 {
			return
		}
		name, _ := b.destination(d, r, field, at)
		action.RequestMirrorPolicies = append(action.RequestMirrorPolicies, &routev3.RouteAction_RequestMirrorPolicy{
			Cluster:                       name,
			RuntimeFraction:               &corev3.RuntimeFractionalPercent{DefaultValue: fraction},
			TraceSampled:                  wrapperspb.Bool(false),
			DisableShadowHostSuffixAppend: true,
		})
	}
	if r.Mirror != nil {
		//lint:ignore SA1019 deprecated, and still part of the API
		add(r.Mirror, r.MirrorPercentage, r.MirrorPercent, ".mirror")
	}
	for i, m := range r.Mirrors {
		add(m.Destination, m.Percentage, nil, ".mirrors["+strconv.Itoa(i)+"].destination")
	}
}

// destination names the cluster of a destination and finds the hash that its rule
// asks for. A destination that doesn't exist is reported; its cluster name leads
// nowhere, and Envoy answers 503, as with istiod.
func (b *routeBuilder) destination(d *networking.Destination, r *httpRoute, field string, at target) (string, *networking.LoadBalancerSettings_ConsistentHashLB) {
	name, own := b.destinationPolicy(d, r, field, at)
	return name, own.lb.value.GetConsistentHash()
}

// destinationPolicy is destination with the whole policy of the cluster.
func (b *routeBuilder) destinationPolicy(d *networking.Destination, r *httpRoute, field string, at target) (string, policy) {
	host := qualify(d.GetHost(), r.obj.Namespace, b.o.DomainSuffix)
	s := b.find(host)
	port := at.port
	switch {
	case d.GetPort().GetNumber() != 0:
		port = d.Port.Number
	case s != nil && len(s.ports) == 1:
		port = s.ports[0].number
	}
	if s == nil {
		b.rep.warnf(r.obj, r.field(field+".host"), "there is no service %s that this proxy may use: requests get 503", host)
		return clusterName(host, d.GetSubset(), port), policy{}
	}
	rule := b.rule(s)
	name := clusterName(s.host, d.Subset, port)
	switch {
	case s.port(port) == nil:
		b.rep.warnf(r.obj, r.field(field+".port"), "%s has no port %d: requests get 503", s.host, port)
		return name, policy{}
	case d.Subset == "":
		return name, rule.policyOf(port)
	}
	sub := rule.subset(d.Subset)
	if sub == nil {
		b.rep.warnf(r.obj, r.field(field+".subset"), "no DestinationRule gives %s a subset %s: requests get 503", s.host, d.Subset)
		return name, policy{}
	}
	return name, rule.subsetPolicy(sub, port)
}

// defaultRoute is the route of a service that no VirtualService is about.
func (b *routeBuilder) defaultRoute(s *service, p *servicePort) *routev3.Route {
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: clusterName(s.host, "", p.number)},
		// Without a VirtualService istiod keeps the predicate that asks for another
		// host, even beside a hash.
		RetryPolicy: b.retries.of(nil, false),
	}
	b.setTimeout(action, nil)
	own := b.rule(s).policyOf(p.number)
	if h := hashPolicy(own.lb.value.GetConsistentHash()); h != nil {
		action.HashPolicy = []*routev3.RouteAction_HashPolicy{h}
	}
	return &routev3.Route{
		Name:      "default",
		Match:     routeMatch(nil),
		Decorator: &routev3.Decorator{Operation: hostPort(s.host, p.number) + "/*"},
		Action:    &routev3.Route_Route{Route: action},
	}
}
