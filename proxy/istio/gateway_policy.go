// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"slices"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// protectGateways lays the policies over the listeners that the Gateways open.
//
// The workload that a policy has to select is the proxy, by its namespace and labels. A
// proxy without labels is taken for every gateway: for each Gateway it is in that one's
// namespace and has the labels that it selects.
func (t *translator) protectGateways(objs []*source.Object, listeners []*listenerv3.Listener) {
	if len(t.policies.authz)+len(t.policies.jwt) == 0 {
		return
	}
	for _, l := range listeners {
		gateways := t.gatewaysAt(objs, l)
		if len(gateways) == 0 {
			continue
		}
		w := t.gatewayWorkload(gateways[0])
		for _, other := range gateways[1:] {
			if !t.alike(w, t.gatewayWorkload(other)) {
				t.rep.errorf(other, "spec.selector", "shares a port with %s, and other policies are for it; say with --labels which gateway this proxy is", place(gateways[0]))
			}
		}
		t.protectListener(l, w)
	}
}

// gatewaysAt lists the Gateways of which a listener is.
func (t *translator) gatewaysAt(objs []*source.Object, l *listenerv3.Listener) []*source.Object {
	at := l.Address.GetSocketAddress()
	var out []*source.Object
	for _, obj := range objs {
		spec, ok := obj.Spec.(*networking.Gateway)
		if !ok || len(t.o.Labels) > 0 && !isSubset(spec.Selector, t.o.Labels) {
			continue
		}
		if slices.ContainsFunc(spec.Servers, func(s *networking.Server) bool {
			return s.Port.GetNumber() == at.GetPortValue() && cmp.Or(s.Bind, "0.0.0.0") == at.GetAddress()
		}) {
			out = append(out, obj)
		}
	}
	return out
}

func (t *translator) gatewayWorkload(obj *source.Object) protected {
	if len(t.o.Labels) > 0 {
		return protected{namespace: t.o.Namespace, labels: t.o.Labels}
	}
	return protected{namespace: obj.Namespace, labels: obj.Spec.(*networking.Gateway).Selector}
}

// alike: the same policies are for both.
func (t *translator) alike(a, b protected) bool {
	p := t.policies
	return slices.Equal(p.of(p.authz, a), p.of(p.authz, b)) && slices.Equal(p.of(p.jwt, a), p.of(p.jwt, b))
}

// protectListener puts what decides into each chain of a listener.
func (t *translator) protectListener(l *listenerv3.Listener, w protected) {
	auth := t.authorizer(w, nil)
	chains := l.FilterChains
	if l.DefaultFilterChain != nil {
		chains = append(slices.Clip(chains), l.DefaultFilterChain)
	}
	for _, c := range chains {
		i := slices.IndexFunc(c.Filters, func(f *listenerv3.Filter) bool { return f.Name == filterHCM })
		if i < 0 {
			c.Filters = append(auth.network(), c.Filters...)
			continue
		}
		m := &hcmv3.HttpConnectionManager{}
		if err := c.Filters[i].GetTypedConfig().UnmarshalTo(m); err != nil {
			// What pack made can be read; if not, nothing may pass.
			t.rep.add(source.Problem{Object: l.Name, Reason: err.Error()})
			continue
		}
		t.protect(m, w, auth, true)
		c.Filters[i] = networkFilter(filterHCM, m)
	}
}
