// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"math"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// selectEndpoints returns the endpoints that a cluster is to know of: those with the
// subset's labels, and of those that aren't ready all or none. With a panic threshold
// Envoy might send requests to endpoints that aren't ready, so istiod then leaves
// them out (PILOT_AUTO_SEND_UNHEALTHY_ENDPOINTS).
func selectEndpoints(all []*endpoint, labels map[string]string, p *policy) []*endpoint {
	panics := p.outlier.value.GetMinHealthPercent() > 0
	if len(labels) == 0 && !panics {
		return all
	}
	out := make([]*endpoint, 0, len(all))
	for _, e := range all {
		if isSubset(labels, e.workload.labels) && !(panics && e.unhealthy) {
			out = append(out, e)
		}
	}
	return out
}

// localityOf splits region/zone/subzone.
func localityOf(label string) *corev3.Locality {
	if label == "" {
		return &corev3.Locality{}
	}
	var part [3]string
	copy(part[:], strings.Split(label, "/"))
	return &corev3.Locality{Region: part[0], Zone: part[1], SubZone: part[2]}
}

// groupByLocality makes the locality groups of a load assignment, ordered by name;
// within a group endpoints keep their order. A group weighs what its endpoints weigh.
func groupByLocality(endpoints []*endpoint) []*endpointv3.LocalityLbEndpoints {
	sorted := slices.Clone(endpoints)
	slices.SortStableFunc(sorted, func(a, b *endpoint) int {
		return strings.Compare(a.workload.locality, b.workload.locality)
	})
	var out []*endpointv3.LocalityLbEndpoints
	for rest := sorted; len(rest) > 0; {
		locality := rest[0].workload.locality
		n := slices.IndexFunc(rest, func(e *endpoint) bool { return e.workload.locality != locality })
		if n < 0 {
			n = len(rest)
		}
		group := make([]*endpointv3.LbEndpoint, n)
		for i, e := range rest[:n] {
			group[i] = e.lb
		}
		out = append(out, &endpointv3.LocalityLbEndpoints{
			Locality:            localityOf(locality),
			LbEndpoints:         group,
			LoadBalancingWeight: wrapperspb.UInt32(sumOfWeights(group)),
		})
		rest = rest[n:]
	}
	return out
}

// sumOfWeights adds up weights; Envoy takes no sum above 2^32-1.
func sumOfWeights(endpoints []*endpointv3.LbEndpoint) uint32 {
	var sum uint64
	for _, e := range endpoints {
		sum += uint64(e.LoadBalancingWeight.GetValue())
	}
	return uint32(min(sum, math.MaxUint32))
}

// applyLocality sets the weights or priorities of locality groups relative to where
// the proxy is. Without a setting the mesh's own holds: failover to other regions,
// and that only with outlier detection, since nothing else would make it happen.
func applyLocality(groups []*endpointv3.LocalityLbEndpoints, own *corev3.Locality, p *policy) {
	setting := p.lb.value.GetLocalityLbSetting()
	if enabled := setting.GetEnabled(); enabled != nil && !enabled.Value {
		return
	}
	switch {
	case setting.GetDistribute() != nil:
		distribute(groups, own, setting.Distribute)
	case p.outlier.value != nil:
		failOver(groups, own, setting.GetFailover())
	}
}

// matchesLocality compares a locality with a pattern in which "*" and missing parts
// stand for anything.
func matchesLocality(l *corev3.Locality, pattern string) bool {
	want := localityOf(pattern)
	part := func(want, got string) bool { return want == "*" || want == got }
	return part(want.Region, l.GetRegion()) &&
		(want.Zone == "" || part(want.Zone, l.GetZone())) &&
		(want.SubZone == "" || part(want.SubZone, l.GetSubZone()))
}

// distribute gives each locality its share by the first rule that is about the
// proxy's own locality. Localities that the rule doesn't name get nothing.
func distribute(groups []*endpointv3.LocalityLbEndpoints, own *corev3.Locality,
	rules []*networking.LocalityLoadBalancerSetting_Distribute,
) {
	i := slices.IndexFunc(rules, func(r *networking.LocalityLoadBalancerSetting_Distribute) bool {
		return matchesLocality(own, r.From)
	})
	if i < 0 {
		return
	}
	patterns := make([]string, 0, len(rules[i].To))
	for pattern := range rules[i].To {
		patterns = append(patterns, pattern)
	}
	// Overlapping patterns share no locality: the more exact one has it.
	slices.SortFunc(patterns, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
	})
	named := make([]bool, len(groups))
	for _, pattern := range patterns {
		share := rules[i].To[pattern]
		var hit []int
		var total uint64
		for j, g := range groups {
			if !named[j] && matchesLocality(g.Locality, pattern) {
				named[j] = true
				hit = append(hit, j)
				total += uint64(g.LoadBalancingWeight.GetValue())
			}
		}
		for _, j := range hit {
			own := float64(groups[j].LoadBalancingWeight.GetValue())
			if w := math.Ceil(own * float64(share) / float64(total)); w > 0 {
				groups[j].LoadBalancingWeight = wrapperspb.UInt32(uint32(w))
			}
		}
	}
	for j, ok := range named {
		if !ok {
			groups[j].LbEndpoints = nil
		}
	}
}

// failOver sets priorities by nearness: the same sub-zone, zone, region, then the
// region that the rules name for ours, then the rest. Envoy wants priorities without
// gaps, so the steps that occur are numbered from 0.
func failOver(groups []*endpointv3.LocalityLbEndpoints, own *corev3.Locality,
	rules []*networking.LocalityLoadBalancerSetting_Failover,
) {
	steps := make([]uint32, len(groups))
	var used []uint32
	for i, g := range groups {
		steps[i] = nearness(own, g.Locality, rules)
		if !slices.Contains(used, steps[i]) {
			used = append(used, steps[i])
		}
	}
	slices.Sort(used)
	for i, g := range groups {
		g.Priority = uint32(slices.Index(used, steps[i]))
	}
}

func nearness(own, other *corev3.Locality, rules []*networking.LocalityLoadBalancerSetting_Failover) uint32 {
	switch {
	case own.Region != other.Region:
	case own.Zone != other.Zone:
		return 2
	case own.SubZone != other.SubZone:
		return 1
	default:
		return 0
	}
	for _, r := range rules {
		if r.From == own.Region {
			if r.To != other.Region {
				return 4
			}
			break
		}
	}
	return 3
}
