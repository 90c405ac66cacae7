// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"slices"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/admin"
	"pillion/proxy/live"
)

// liveDump is the configuration of a control plane as /config_dump shows it.
func (s *Server) liveDump() admin.Dump {
	d := admin.Dump{Bootstrap: s.bootstrap(), Secrets: secretResources(s.secrets)}
	for _, t := range s.live.Status() {
		list := liveResources(&t)
		switch t.TypeURL {
		case live.ClusterType:
			own := s.staticClusters()
			d.Clusters, d.ClustersVersion = append(own, unshadowed(list, own)...), t.Version
		case live.ListenerType:
			d.Listeners, d.ListenersVersion = list, t.Version
			d.Routes = append(d.Routes, inlineRoutes(list)...)
		case live.RouteType:
			d.Routes = append(d.Routes, list...)
		case live.ExtensionType:
			d.Extensions = list
		case live.EndpointType:
			d.Endpoints = list
		}
	}
	return d
}

// bootstrap is what a person and istioctl look for in a bootstrap: who the proxy is, and
// its own tracer. There is no other one, since all else is an option or comes from the
// control plane.
func (s *Server) bootstrap() *admin.Resource {
	b := &bootstrapv3.Bootstrap{Node: s.node()}
	if s.static != nil {
		proto.Merge(b, s.static)
	}
	a, err := anypb.New(b)
	if err != nil {
		return nil
	}
	return &admin.Resource{Updated: s.started, Static: true, Message: a}
}

// staticClusters are the clusters of the proxy's own.
func (s *Server) staticClusters() (out []admin.Resource) {
	for _, c := range s.static.GetStaticResources().GetClusters() {
		if a, err := anypb.New(c); err == nil { // it was compiled
			out = append(out, admin.Resource{Name: c.GetName(), Updated: s.started, Static: true, Message: a})
		}
	}
	return out
}

// unshadowed are the clusters of a list but those that the proxy has one of its own in the
// place of: they are taken, and neither served nor shown (Envoy:
// ClusterManagerImpl::addOrUpdateCluster).
func unshadowed(list, own []admin.Resource) []admin.Resource {
	return slices.DeleteFunc(list, func(r admin.Resource) bool {
		return slices.ContainsFunc(own, func(o admin.Resource) bool { return o.Name == r.Name })
	})
}

// liveResources are the resources of a type, those of one name behind each other.
func liveResources(t *live.TypeStatus) []admin.Resource {
	var out []admin.Resource
	for i := range t.Resources {
		r := &t.Resources[i]
		var failure *admin.Failure
		if f := r.Refused; f != nil {
			failure = &admin.Failure{Details: f.Reason, Version: f.Version, At: f.Updated, Message: packed(t.TypeURL, &f.Held)}
		}
		add := func(h *live.Held, warming bool) {
			if h != nil {
				out = append(out, admin.Resource{Name: r.Name, Version: h.Version, Updated: h.Updated,
					Warming: warming, Draining: r.Draining && !warming, Message: packed(t.TypeURL, h), Failure: failure})
			}
		}
		add(r.Active, false)
		add(r.Warming, true)
		if r.Active == nil && r.Warming == nil && failure != nil {
			out = append(out, admin.Resource{Name: r.Name, Failure: failure})
		}
	}
	return out
}

// packed is a resource as it was received; nil if its octets weren't kept.
func packed(typeURL string, h *live.Held) *anypb.Any {
	if h.Body == nil {
		return nil
	}
	return &anypb.Any{TypeUrl: typeURL, Value: h.Body}
}

// inlineRoutes are the route configurations that stand in listeners, which Envoy
// calls static. That of a workload's own ports is such a one. As in Envoy there is
// one for each connection manager, though the chains with and without TLS of a port
// have the same.
func inlineRoutes(listeners []admin.Resource) []admin.Resource {
	var out []admin.Resource
	for i := range listeners {
		r := &listeners[i]
		l := &listenerv3.Listener{}
		if r.Message == nil || r.Warming || r.Message.UnmarshalTo(l) != nil {
			continue
		}
		for _, rc := range routesOf(l) {
			a, err := anypb.New(rc)
			if err != nil {
				continue // can't be: it was just decoded
			}
			out = append(out, admin.Resource{Name: rc.GetName(), Updated: r.Updated, Static: true, Message: a})
		}
	}
	slices.SortStableFunc(out, func(a, b admin.Resource) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func routesOf(l *listenerv3.Listener) []*routev3.RouteConfiguration {
	var out []*routev3.RouteConfiguration
	chains := l.GetFilterChains()
	if d := l.GetDefaultFilterChain(); d != nil {
		chains = append(slices.Clip(chains), d)
	}
	for _, c := range chains {
		for _, f := range c.GetFilters() {
			m := &hcmv3.HttpConnectionManager{}
			if f.GetTypedConfig().MessageIs(m) && proto.Unmarshal(f.GetTypedConfig().GetValue(), m) == nil && m.GetRouteConfig() != nil {
				out = append(out, m.GetRouteConfig())
			}
		}
	}
	return out
}
