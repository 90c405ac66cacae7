// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"strings"

	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	// Istio's own filters come in these envelopes, which must be known to be
	// decoded.
	_ "github.com/cncf/xds/go/udpa/type/v1"
	_ "github.com/cncf/xds/go/xds/type/v3"

	"pillion/proxy/cluster"
	"pillion/proxy/filter"
	"pillion/proxy/filter/cors"
	"pillion/proxy/filter/extauthz"
	"pillion/proxy/filter/fault"
	"pillion/proxy/filter/grpcstats"
	"pillion/proxy/filter/grpcweb"
	"pillion/proxy/filter/peermeta"
	"pillion/proxy/filter/rbac"
	"pillion/proxy/forward"
	"pillion/proxy/http"
	"pillion/proxy/stats"
	"pillion/proxy/tcp"
)

// This file is the one list of HTTP filters. To add one: a folder below
// proxy/filter, an entry in httpFilters, a row in the documentation.

// httpFilter is one filter type.
type httpFilter struct {
	// build makes the filter from its configuration in the chain and the most
	// specific one of the route, each nil if there is none. A nil result does
	// nothing on such routes, and is left out of their chains.
	build func(c *chains, base, route *anypb.Any) (any, error)
	// merge makes one override of two, of which the second one is the more
	// specific. nil: that one holds alone.
	merge func(less, more *anypb.Any) (*anypb.Any, error)
}

// httpFilters are the known filters by the last part of their type URL's
// message name. A filter with a nil build is served elsewhere: istio.alpn says what
// connections to hosts offer (alpn.go).
var httpFilters = map[string]httpFilter{
	"envoy.extensions.filters.http.fault.v3.HTTPFault": {build: buildFault},
	"envoy.extensions.filters.http.cors.v3.Cors":       {build: buildCORS},
	istioStatsType: {build: buildIstioStats},
	"istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig": {},
	"envoy.extensions.filters.http.grpc_stats.v3.FilterConfig":  {build: buildGRPCStats},
	"envoy.extensions.filters.http.grpc_web.v3.GrpcWeb":         {build: buildGRPCWeb},
	peerMetadataType: {build: buildPeerMetadata},
	httpRBACType:     {build: buildRBAC},
	extAuthzType:     {build: buildExtAuthz, merge: mergeExtAuthz},
	jwtType:          {build: buildJWT},
}

const routerType = "envoy.extensions.filters.http.router.v3.Router"

// chains builds the filter chains of one connection manager.
type chains struct {
	c         *Compiler
	direction http.Direction
	prefix    string // stat_prefix
	filters   []chainFilter
	terminal  *forward.Options
	spans     bool   // the terminal filter asks for spans of tries
	signature string // tells lists of filters apart
	built     map[string]*filter.Chain
	// warn takes what a filter is asked for in vain.
	warn func(string)
}

type chainFilter struct {
	name string // under which routes override it
	kind httpFilter
	base *anypb.Any
}

func (c *Compiler) newChains(s *Snapshot, m *hcmv3.HttpConnectionManager, d http.Direction, warn func(string)) (*chains, error) {
	ch := &chains{c: c, direction: d, prefix: m.GetStatPrefix(), built: map[string]*filter.Chain{}, warn: warn}
	var sig strings.Builder
	fmt.Fprintf(&sig, "%d %s", d, m.GetStatPrefix())
	list := m.GetHttpFilters()
	for i, f := range list {
		if f.GetConfigDiscovery() != nil {
			part, err := c.discover(s, f)
			if err != nil {
				return nil, fmt.Errorf("http_filters[%d] (%s): %w", i, f.GetName(), err)
			}
			fmt.Fprintf(&sig, " %s:%s=%x", f.GetName(), part.base.GetTypeUrl(), part.base.GetValue())
			if !f.GetDisabled() {
				ch.filters = append(ch.filters, part)
			}
			continue
		}
		typ := messageType(f.GetTypedConfig())
		fmt.Fprintf(&sig, " %s=%x", f.GetName(), f.GetTypedConfig().GetValue())
		if typ == routerType {
			if i != len(list)-1 {
				return nil, fmt.Errorf("http_filters[%d]: the router must be the last filter", i)
			}
			opt, spans, err := routerOptions(f)
			if err != nil {
				return nil, fmt.Errorf("http_filters[%d]: %w", i, err)
			}
			ch.terminal, ch.spans = opt, spans
			continue
		}
		kind, known := httpFilters[typ]
		if !known {
			if f.GetIsOptional() {
				continue
			}
			return nil, fmt.Errorf("http_filters[%d] (%s): type %s is not supported", i, f.GetName(), typ)
		}
		if kind.build != nil && !f.GetDisabled() {
			ch.filters = append(ch.filters, chainFilter{f.GetName(), kind, f.GetTypedConfig()})
		}
	}
	if ch.terminal == nil {
		return nil, fmt.Errorf("http_filters: the last filter must be the router")
	}
	ch.signature = sig.String()
	return ch, nil
}

// messageType is the message name of a typed config; that of a TypedStruct's
// content, for Istio's own filters.
func messageType(a *anypb.Any) string {
	url := a.GetTypeUrl()
	if strings.HasSuffix(url, "/udpa.type.v1.TypedStruct") || strings.HasSuffix(url, "/xds.type.v3.TypedStruct") {
		if inner, ok := typedStructURL(a); ok {
			url = inner
		}
	}
	return url[strings.LastIndexByte(url, '/')+1:]
}

// build returns the chain for routes with the given overrides, from the least
// specific to the most. Equal overrides share one chain.
func (ch *chains) build(overrides ...map[string]*anypb.Any) (*filter.Chain, error) {
	merged, err := ch.merge(overrides)
	if err != nil {
		return nil, err
	}
	var key strings.Builder
	parts := make([]*anypb.Any, len(ch.filters))
	for i, f := range ch.filters {
		if cfg, ok := merged[f.name]; ok {
			parts[i] = cfg
			delete(merged, f.name)
			fmt.Fprintf(&key, "%d %s %x;", i, cfg.GetTypeUrl(), cfg.GetValue())
		}
	}
	if c := ch.built[key.String()]; c != nil {
		return c, nil
	}
	list := make([]any, 0, len(ch.filters))
	for i, f := range ch.filters {
		built, err := f.kind.build(ch, f.base, parts[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		list = append(list, built) // also nil: each filter keeps its place
	}
	chain := filter.NewChain(list...)
	ch.built[key.String()] = chain
	return chain, nil
}

// merge returns what holds of the overrides of each filter, by its name.
func (ch *chains) merge(overrides []map[string]*anypb.Any) (map[string]*anypb.Any, error) {
	merged := map[string]*anypb.Any{}
	for _, o := range overrides {
		for name, cfg := range o {
			less := merged[name]
			merged[name] = cfg
			i := slices.IndexFunc(ch.filters, func(f chainFilter) bool { return f.name == name && f.kind.merge != nil })
			if less == nil || i < 0 {
				continue
			}
			both, err := ch.filters[i].kind.merge(less, cfg)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			merged[name] = both
		}
	}
	return merged, nil
}

// filterState is what filters keep between compilations.
type filterState struct {
	registry *stats.Registry
	clusters *cluster.Manager
	faults   map[string]*fault.Stats // by stat_prefix
	grpc     *grpcstats.Stats
	tcp      map[string]*tcp.Stats // by stat_prefix
	rbac     map[rbacScope]*rbac.Stats
	extAuthz map[extAuthzKey]*extauthz.Stats
	// networkExtAuthz are by stat_prefix.
	networkExtAuthz map[string]*extauthz.NetworkStats
	jwt             *jwtState
	peers           *peermeta.Exchanger // nil until it is asked for
}

func newFilterState(r *stats.Registry, clusters *cluster.Manager) *filterState {
	f := &filterState{registry: r, clusters: clusters, faults: map[string]*fault.Stats{}, tcp: map[string]*tcp.Stats{}, grpc: &grpcstats.Stats{},
		rbac: map[rbacScope]*rbac.Stats{}, extAuthz: map[extAuthzKey]*extauthz.Stats{},
		networkExtAuthz: map[string]*extauthz.NetworkStats{}}
	r.Add(stats.SourceFunc(func(e *stats.Emitter) { f.grpc.Collect(e, clusters.StatName) }))
	return f
}

// faultStats returns the counters of a connection manager.
func (f *filterState) faultStats(prefix string) *fault.Stats {
	s := f.faults[prefix]
	if s == nil {
		s = &fault.Stats{}
		f.faults[prefix] = s
		f.registry.Add(stats.SourceFunc(func(e *stats.Emitter) { s.Collect(e, prefix) }))
	}
	return s
}

func buildFault(ch *chains, base, route *anypb.Any) (any, error) {
	cfg := &faultv3.HTTPFault{}
	if err := mostSpecific(base, route, cfg); err != nil {
		return nil, err
	}
	f, err := fault.New(cfg, ch.c.filters.faultStats(ch.prefix))
	if f == nil {
		return nil, err
	}
	return f, nil
}

func buildGRPCStats(ch *chains, base, route *anypb.Any) (any, error) {
	cfg := &grpcstatsv3.FilterConfig{}
	if err := mostSpecific(base, route, cfg); err != nil {
		return nil, err
	}
	f, warnings := grpcstats.New(cfg, ch.c.filters.grpc)
	for _, w := range warnings {
		ch.warn("http_filters: grpc_stats: " + w)
	}
	return f, nil
}

func buildGRPCWeb(_ *chains, base, _ *anypb.Any) (any, error) {
	cfg := &grpcwebv3.GrpcWeb{} // which has no fields
	if err := mostSpecific(base, nil, cfg); err != nil {
		return nil, err
	}
	return grpcweb.New(), nil
}

// buildCORS builds from the route alone: the filter's own configuration is
// empty by definition.
func buildCORS(_ *chains, _, route *anypb.Any) (any, error) {
	if route == nil {
		return nil, nil
	}
	cfg := &corsv3.CorsPolicy{}
	if err := route.UnmarshalTo(cfg); err != nil {
		return nil, err
	}
	origins := make([]cors.Matcher, len(cfg.GetAllowOriginStringMatch()))
	for i, m := range cfg.GetAllowOriginStringMatch() {
		t, err := compileString(m)
		if err != nil {
			return nil, fmt.Errorf("allow_origin_string_match[%d]: %w", i, err)
		}
		origins[i] = &t
		if m.GetExact() == "*" {
			origins[i] = cors.Any{}
		}
	}
	f, err := cors.New(cfg, origins)
	if f == nil {
		return nil, err
	}
	return f, nil
}

// mostSpecific decodes the route's configuration if there is one, else the
// chain's, if there is one.
func mostSpecific(base, route *anypb.Any, m proto.Message) error {
	a := route
	if a == nil {
		a = base
	}
	if a == nil {
		return nil
	}
	return a.UnmarshalTo(m)
}

// typedStructURL returns the type that a TypedStruct carries.
func typedStructURL(a *anypb.Any) (string, bool) {
	m, err := a.UnmarshalNew()
	if err != nil {
		return "", false
	}
	ts, ok := m.(interface{ GetTypeUrl() string })
	if !ok {
		return "", false
	}
	return ts.GetTypeUrl(), true
}
