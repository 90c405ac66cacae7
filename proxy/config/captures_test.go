// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/http"
	"pillion/proxy/router"
	"pillion/test/captures"
	"pillion/test/need"
)

// captured returns a node's resources.
func captured(n *captures.Node) *Resources {
	return &Resources{Listeners: n.Listeners, Routes: n.Routes, Clusters: n.Clusters, Endpoints: n.Endpoints}
}

// each calls f for each resource alone, with those that it can't be understood without: a
// listener with the routes that it asks for, a cluster with its endpoints.
func each(c *captures.Node, f func(kind, name string, r *Resources)) {
	for _, l := range c.Listeners {
		f("listener", l.GetName(), &Resources{Listeners: []*listenerv3.Listener{l}, Routes: c.Routes})
	}
	assignments := map[string]*endpointv3.ClusterLoadAssignment{}
	for _, a := range c.Endpoints {
		assignments[a.GetClusterName()] = a
	}
	for _, cl := range c.Clusters {
		r := &Resources{Clusters: []*clusterv3.Cluster{cl}}
		if a := assignments[edsName(cl)]; a != nil {
			r.Endpoints = append(r.Endpoints, a)
		}
		f("cluster", cl.GetName(), r)
	}
	for _, rc := range c.Routes {
		f("route configuration", rc.GetName(), &Resources{Routes: []*routev3.RouteConfiguration{rc}})
	}
}

// compileAlone compiles in a compiler of its own. Route configurations that no
// listener names are compiled too.
func compileAlone(r *Resources) (*Snapshot, error) {
	c := NewCompiler(Env{})
	defer c.Close()
	if len(r.Listeners) > 0 || len(r.Routes) == 0 {
		return c.Compile(r)
	}
	s := &Snapshot{}
	for _, rc := range r.Routes {
		ch, err := c.newChains(&Snapshot{}, &hcmv3.HttpConnectionManager{StatPrefix: "alone", HttpFilters: []*hcmv3.HttpFilter{
			{Name: "envoy.filters.http.fault", ConfigType: typed(&faultv3.HTTPFault{})},
			{Name: "envoy.filters.http.cors", ConfigType: typed(&corsv3.Cors{})},
			{Name: "envoy.filters.http.router", ConfigType: typed(&routerv3.Router{})},
		}}, http.Outbound, s.warnOnce)
		if err != nil {
			return nil, err
		}
		if _, err := CompileRoutes(rc, RouteEnv{Chain: ch.build, Warn: s.warnOnce,
			Cluster: func(name string) router.Cluster { return c.env.Clusters.Slot(name) }}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func typed(m proto.Message) *hcmv3.HttpFilter_TypedConfig {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return &hcmv3.HttpFilter_TypedConfig{TypedConfig: a}
}

// absent are the parts of the responses with everything turned on ("kitchen") that
// aren't served: the type, and the row of docs/missing.md that says so.
var absent = []struct {
	typ, doc string
	filter   bool // of requests or connections: without it the resource is taken
	warned   bool // and the resource is taken
}{
	{typ: "envoy.extensions.filters.http.lua.v3.Lua", doc: "filters of Lua", filter: true},
	{typ: "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", doc: "rate limits", filter: true},
	{typ: "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig", doc: "dynamic forward proxy", filter: true},
	{typ: "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig", doc: "dynamic forward proxy", filter: true},
	{typ: "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy", doc: "protocol filters of MONGO", filter: true},
	{typ: "cluster_type", doc: "dynamic forward proxy"},
	{typ: "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport", doc: "the PROXY header"},
	{typ: "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig", doc: "access logs over gRPC", warned: true},
	{typ: "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig", doc: "access logs over gRPC", warned: true},
	{typ: "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig", doc: "access logs over gRPC", warned: true},
}

// absentIn returns the index of what a text is about, -1 for nothing that is known
// to be absent.
func absentIn(text string) int {
	for i := range absent {
		if strings.Contains(text, absent[i].typ) {
			return i
		}
	}
	return -1
}

// without takes all filters of a type out of a listener, and reports whether there
// was one.
func without(t testing.TB, l *listenerv3.Listener, typ string) (found bool) {
	t.Helper()
	for _, fc := range chainsOf(l) {
		n := len(fc.Filters)
		fc.Filters = slices.DeleteFunc(fc.Filters, func(f *listenerv3.Filter) bool { return messageType(f.GetTypedConfig()) == typ })
		found = found || len(fc.Filters) < n
		last := fc.Filters[len(fc.Filters)-1].GetTypedConfig()
		m := &hcmv3.HttpConnectionManager{}
		if messageType(last) != hcmType {
			continue
		}
		if err := last.UnmarshalTo(m); err != nil {
			t.Fatal(err)
		}
		n = len(m.HttpFilters)
		m.HttpFilters = slices.DeleteFunc(m.HttpFilters, func(f *hcmv3.HttpFilter) bool { return messageType(f.GetTypedConfig()) == typ })
		found = found || len(m.HttpFilters) < n
		if err := last.MarshalFrom(m); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func chainsOf(l *listenerv3.Listener) []*listenerv3.FilterChain {
	chains := slices.Clone(l.GetFilterChains())
	if d := l.GetDefaultFilterChain(); d != nil {
		chains = append(chains, d)
	}
	return chains
}

// TestCaptures: each resource that istiod sends in production settings is taken,
// without a warning, alone and with the others. Of those with everything turned on
// what isn't taken is named in absent, and in the docs.
func TestCaptures(t *testing.T) {
	docs, err := os.ReadFile(filepath.Join(need.Root(t), "docs", "missing.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := make([]bool, len(absent))
	for _, c := range captures.All(t) {
		kitchen := strings.HasPrefix(c.Name, "kitchen-")
		refused := map[string]bool{}
		each(c, func(kind, name string, r *Resources) {
			what := c.Name + ": " + kind + " " + name
			snap, err := compileAlone(r)
			for err != nil {
				i := absentIn(err.Error())
				if !kitchen || i < 0 || absent[i].warned {
					t.Errorf("%s is refused: %v", what, err)
					return
				}
				seen[i] = true
				if !absent[i].filter {
					refused[name] = true
					return
				}
				if !without(t, r.Listeners[0], absent[i].typ) {
					t.Errorf("%s: %v: there is no such filter", what, err)
					return
				}
				snap, err = compileAlone(r)
			}
			for _, w := range snap.Warnings {
				i := absentIn(w)
				if !kitchen || i < 0 || !absent[i].warned {
					t.Errorf("%s: warning %q", what, w)
					continue
				}
				seen[i] = true
			}
		})
		c.Clusters = slices.DeleteFunc(c.Clusters, func(cl *clusterv3.Cluster) bool { return refused[cl.GetName()] })
		snap, err := compileAlone(captured(c))
		if err != nil {
			t.Errorf("%s as a whole: %v", c.Name, err)
			continue
		}
		if len(snap.Listeners) != len(c.Listeners) || len(snap.Clusters) != len(c.Clusters) {
			t.Errorf("%s: %d of %d listeners, %d of %d clusters", c.Name, len(snap.Listeners), len(c.Listeners), len(snap.Clusters), len(c.Clusters))
		}
	}
	for i, a := range absent {
		if !seen[i] {
			t.Errorf("%s: no response has it any more, or it is served", a.typ)
		}
		if !strings.Contains(string(docs), a.doc) {
			t.Errorf("%s: docs/missing.md says nothing of %q", a.typ, a.doc)
		}
	}
}
