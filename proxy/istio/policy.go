// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"

	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// setting is one part of a traffic policy and where it was written.
type setting[T any] struct {
	value      T
	obj        *source.Object
	base, part string // e.g. "spec.trafficPolicy" and ".outlierDetection"
}

// field names the part, or a field in it, in messages.
func (s *setting[T]) field(of string) string { return s.base + s.part + of }

// policy is the traffic policy of one cluster, put together from a DestinationRule's
// levels. Parts that no level sets are zero.
type policy struct {
	pool          setting[*networking.ConnectionPoolSettings]
	outlier       setting[*networking.OutlierDetection]
	lb            setting[*networking.LoadBalancerSettings]
	tls           setting[*networking.ClientTLSSettings]
	proxyProtocol setting[*networking.TrafficPolicy_ProxyProtocol]
	tunnel        setting[*networking.TrafficPolicy_TunnelSettings]
	retryBudget   setting[*networking.TrafficPolicy_RetryBudget]
}

// policyOf returns the policy of a service's port as a whole.
func (d *destinationRule) policyOf(port uint32) policy {
	var p policy
	if d != nil {
		p.take(d.policy, d.policyObj, "", port)
	}
	return p
}

// subsetPolicy returns the policy of a subset at a port: what the subset says, and the
// rule's own policy for parts that it doesn't mention.
func (d *destinationRule) subsetPolicy(s *subset, port uint32) policy {
	p := d.policyOf(port)
	if s.TrafficPolicy != nil {
		p.take(s.TrafficPolicy, s.obj, s.field(), port)
	}
	return p
}

// take lays a level over what is there. Settings of the very port replace those of the
// level and of the levels below altogether: what they leave out has its default, as
// Istio's API says of portLevelSettings. below is the field that holds the
// trafficPolicy, "" for the rule's own.
func (p *policy) take(from *networking.TrafficPolicy, obj *source.Object, below string, port uint32) {
	if from == nil {
		return
	}
	base := "spec.trafficPolicy"
	if below != "" {
		base = below + ".trafficPolicy"
	}
	for i, s := range from.PortLevelSettings {
		if s.GetPort().GetNumber() == port {
			base = fmt.Sprintf("%s.portLevelSettings[%d]", base, i)
			p.pool = at(s.ConnectionPool, obj, base, ".connectionPool")
			p.outlier = at(s.OutlierDetection, obj, base, ".outlierDetection")
			p.lb = at(s.LoadBalancer, obj, base, ".loadBalancer")
			p.tls = at(s.Tls, obj, base, ".tls")
			return
		}
	}
	if from.ConnectionPool != nil {
		p.pool = at(from.ConnectionPool, obj, base, ".connectionPool")
	}
	if from.OutlierDetection != nil {
		p.outlier = at(from.OutlierDetection, obj, base, ".outlierDetection")
	}
	if from.LoadBalancer != nil {
		p.lb = at(from.LoadBalancer, obj, base, ".loadBalancer")
	}
	if from.Tls != nil {
		p.tls = at(from.Tls, obj, base, ".tls")
	}
	if from.ProxyProtocol != nil {
		p.proxyProtocol = at(from.ProxyProtocol, obj, base, ".proxyProtocol")
	}
	if from.Tunnel != nil {
		p.tunnel = at(from.Tunnel, obj, base, ".tunnel")
	}
	if from.RetryBudget != nil {
		p.retryBudget = at(from.RetryBudget, obj, base, ".retryBudget")
	}
}

func at[T any](value T, obj *source.Object, base, part string) setting[T] {
	return setting[T]{value, obj, base, part}
}
