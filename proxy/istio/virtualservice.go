// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"fmt"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// virtualService is a VirtualService with its names resolved and its delegates put in.
type virtualService struct {
	obj      *source.Object
	hosts    []string // full names, lower case
	gateways []string // "mesh" or "namespace/name"
	exportTo []string
	http     []httpRoute
	metadata *corev3.Metadata // of all its routes
}

// httpRoute is one entry of spec.http and where it was written, which for a delegate's
// route is another object than the VirtualService it is part of.
type httpRoute struct {
	*networking.HTTPRoute
	obj   *source.Object
	index int
	list  string // "tcp" or "tls" for an entry of that; empty for one of http
}

// field names the route in messages.
func (r *httpRoute) field(part string) string {
	return fmt.Sprintf("spec.%s[%d]%s", cmp.Or(r.list, "http"), r.index, part)
}

// bound reports whether the VirtualService is for a gateway, or for the mesh.
func (v *virtualService) bound(gateway string) bool { return slices.Contains(v.gateways, gateway) }

// newVirtualServices resolves all VirtualServices that have hosts. Those without are
// delegates, and are part of the ones that name them.
func newVirtualServices(objs []*source.Object, o *Options, rep *report) []*virtualService {
	delegates := make(map[namespacedName]*source.Object)
	used := make(map[namespacedName]bool)
	for _, obj := range objs {
		if spec, ok := obj.Spec.(*networking.VirtualService); ok && len(spec.Hosts) == 0 {
			delegates[namespacedName{obj.Namespace, obj.Name}] = obj
		}
	}
	var out []*virtualService
	for _, obj := range objs {
		spec, ok := obj.Spec.(*networking.VirtualService)
		if !ok || len(spec.Hosts) == 0 {
			continue
		}
		v := &virtualService{obj: obj, exportTo: spec.ExportTo, gateways: []string{meshGateway}}
		v.metadata = istioMetadata(map[string]*structpb.Value{
			"config": structpb.NewStringValue(configPath(groupNetworking, kindVirtualService, obj)),
		})
		for _, h := range spec.Hosts {
			v.hosts = append(v.hosts, qualify(h, obj.Namespace, o.DomainSuffix))
		}
		if len(spec.Gateways) > 0 {
			v.gateways = nil
			for _, g := range spec.Gateways {
				v.gateways = append(v.gateways, qualifyGateway(g, obj.Namespace))
			}
		}
		v.http = make([]httpRoute, 0, len(spec.Http))
		for i, r := range spec.Http {
			route := httpRoute{HTTPRoute: r, obj: obj, index: i}
			if r.Delegate == nil {
				v.http = append(v.http, route)
				continue
			}
			v.http = append(v.http, delegated(&route, o.DomainSuffix, delegates, used, rep)...)
		}
		out = append(out, v)
	}
	for name, obj := range delegates {
		if !used[name] {
			rep.warnf(obj, "spec.hosts", "has no hosts, and no other VirtualService delegates to it: it has no effect")
		}
	}
	return out
}

// delegated returns the routes that stand in for one that delegates.
func delegated(root *httpRoute, domainSuffix string, delegates map[namespacedName]*source.Object, used map[namespacedName]bool, rep *report) []httpRoute {
	name := namespacedName{root.Delegate.Namespace, root.Delegate.Name}
	if name.namespace == "" {
		name.namespace = root.obj.Namespace
	}
	obj := delegates[name]
	if obj == nil {
		rep.warnf(root.obj, root.field(".delegate"),
			"there is no VirtualService %s/%s without hosts: the route is left out", name.namespace, name.name)
		return nil
	}
	used[name] = true
	spec := obj.Spec.(*networking.VirtualService)
	if !exported(spec.ExportTo, obj.Namespace, root.obj.Namespace) {
		rep.warnf(root.obj, root.field(".delegate"),
			"%s does not export to namespace %s: the route is left out", place(obj), root.obj.Namespace)
		return nil
	}
	resolved := qualifyRoute(root.HTTPRoute, root.obj.Namespace, domainSuffix)
	out := make([]httpRoute, 0, len(spec.Http))
	for i, r := range spec.Http {
		route := httpRoute{HTTPRoute: r, obj: obj, index: i}
		merged := mergeRoute(resolved, qualifyRoute(r, obj.Namespace, domainSuffix))
		if merged == nil {
			rep.warnf(obj, route.field(".match"),
				"does not lie within the match of the delegating route in %s: the route is left out", place(root.obj))
			continue
		}
		route.HTTPRoute = merged
		out = append(out, route)
	}
	return out
}
