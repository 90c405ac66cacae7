// SPDX-License-Identifier: Apache-2.0

package istio

import (
	security "istio.io/api/security/v1beta1"
	api "istio.io/api/type/v1beta1"

	"pillion/proxy/istio/source"
)

// protected is a workload that policies are for: the one beside the proxy, or the
// gateway that the proxy is.
type protected struct {
	namespace string
	labels    map[string]string
}

// policies are the security policies of a configuration, in the order in which they
// count: the root namespace's first, then as they were declared, as
// ListAuthorizationPolicies of Istio has it.
type policies struct {
	o     *Options
	rep   *report
	authz []*source.Object
	jwt   []*source.Object
	peer  []*source.Object

	used map[*source.Object]bool // is enforced by some listener
}

func newPolicies(objs []*source.Object, o *Options, rep *report) *policies {
	p := &policies{o: o, rep: rep, used: make(map[*source.Object]bool)}
	for _, root := range [...]bool{true, false} {
		for _, obj := range objs {
			if (obj.Namespace == o.RootNamespace) != root {
				continue
			}
			switch spec := obj.Spec.(type) {
			case *security.AuthorizationPolicy:
				if !p.forElsewhere(obj, spec) {
					p.authz = append(p.authz, obj)
				}
			case *security.RequestAuthentication:
				if !p.forElsewhere(obj, spec) {
					p.jwt = append(p.jwt, obj)
				}
			case *security.PeerAuthentication:
				p.peer = append(p.peer, obj)
			}
		}
	}
	return p
}

// targeted is a policy that may name what it is for.
type targeted interface {
	GetSelector() *api.WorkloadSelector
	GetTargetRef() *api.PolicyTargetReference
	GetTargetRefs() []*api.PolicyTargetReference
}

// forElsewhere: the policy is for a gateway of the Gateway API or for a waypoint, which
// enforce it themselves. A proxy beside a workload doesn't, in a mesh neither.
func (p *policies) forElsewhere(obj *source.Object, spec targeted) bool {
	field := "spec.targetRefs"
	switch {
	case spec.GetTargetRef() != nil:
		field = "spec.targetRef"
	case len(spec.GetTargetRefs()) == 0:
		return false
	}
	p.rep.warnf(obj, field, "is for gateways of the Gateway API and for waypoints, which this proxy isn't: it is not enforced here")
	p.used[obj] = true // said
	return true
}

// of picks the policies that are for a workload: those of its namespace and of the root
// namespace, without a selector or with one that fits.
func (p *policies) of(all []*source.Object, w protected) []*source.Object {
	var out []*source.Object
	for _, obj := range all {
		if obj.Namespace != p.o.RootNamespace && obj.Namespace != w.namespace {
			continue
		}
		spec := obj.Spec.(interface {
			GetSelector() *api.WorkloadSelector
		})
		if isSubset(spec.GetSelector().GetMatchLabels(), w.labels) {
			p.used[obj] = true
			out = append(out, obj)
		}
	}
	return out
}

// warnUnused tells of policies that the proxy enforces nowhere because it was not told
// to: who runs it before no workload, or doesn't say before which, may think that they
// hold.
func (p *policies) warnUnused(inbound bool) {
	for _, all := range [...][]*source.Object{p.authz, p.jwt} {
		for _, obj := range all {
			switch {
			case p.used[obj]:
			case !inbound:
				p.rep.warnf(obj, "", "is not enforced here: the proxy stands before no workload that it is for; --inbound puts it there")
			case len(p.o.Labels) == 0 && obj.Spec.(targeted).GetSelector() != nil && obj.Namespace == p.o.Namespace:
				p.rep.warnf(obj, "spec.selector", "is not enforced here: the proxy doesn't know the workload's labels; give them with --labels")
			}
		}
	}
}
