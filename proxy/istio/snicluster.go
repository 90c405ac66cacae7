// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// passedThrough adds the clusters by which AUTO_PASSTHROUGH servers reach services: the
// same as the others, but that connections stay encrypted as the client sent them, and
// that only endpoints that take mutual TLS are in them. names are those that servers use.
func (b *clusterBuilder) passedThrough(names map[string]bool) {
	if len(names) == 0 {
		return
	}
	assignments := make(map[string]*endpointv3.ClusterLoadAssignment, len(b.out.Endpoints))
	for _, a := range b.out.Endpoints {
		assignments[a.ClusterName] = a
	}
	for _, c := range b.out.Clusters { // the slice as it is now
		name := sniNameOf(c.Name)
		if !names[name] || c.GetType() == clusterv3.Cluster_ORIGINAL_DST {
			continue
		}
		own := proto.Clone(c).(*clusterv3.Cluster)
		own.Name, own.AltStatName = name, statPrefix(name)
		own.TransportSocket, own.TransportSocketMatches = nil, nil
		if own.LoadAssignment != nil {
			own.LoadAssignment = encrypted(name, own.LoadAssignment)
			if len(own.LoadAssignment.Endpoints) == 0 {
				// Envoy takes no DNS cluster without a name to resolve.
				own.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
				clearDNS(own)
			}
		} else {
			own.EdsClusterConfig.ServiceName = name
			b.out.Endpoints = append(b.out.Endpoints, encrypted(name, assignments[c.Name]))
		}
		b.out.Clusters = append(b.out.Clusters, own)
	}
}

// clearDNS drops what only clusters that resolve names may have.
func clearDNS(c *clusterv3.Cluster) {
	c.DnsLookupFamily, c.TypedDnsResolverConfig = clusterv3.Cluster_AUTO, nil
	//lint:ignore SA1019 applyDNS sets them
	c.DnsJitter, c.DnsRefreshRate, c.RespectDnsTtl = nil, nil, false
}

// sniNameOf makes a cluster's name as a server name; "" for other clusters.
func sniNameOf(cluster string) string {
	part := strings.SplitN(cluster, "|", 4)
	if len(part) != 4 {
		return ""
	}
	port, err := strconv.ParseUint(part[1], 10, 32)
	if err != nil {
		return ""
	}
	return sniName(part[3], part[2], uint32(port))
}

// encrypted is an assignment with the endpoints alone that take mutual TLS.
func encrypted(name string, in *endpointv3.ClusterLoadAssignment) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	for _, group := range in.GetEndpoints() {
		own := &endpointv3.LocalityLbEndpoints{Locality: group.Locality, Priority: group.Priority, LoadBalancingWeight: group.LoadBalancingWeight}
		for _, e := range group.LbEndpoints {
			if e.GetMetadata().GetFilterMetadata()[metadataSocketMatch].GetFields()["tlsMode"].GetStringValue() == tlsModeIstio {
				own.LbEndpoints = append(own.LbEndpoints, e)
			}
		}
		if len(own.LbEndpoints) == 0 {
			continue
		}
		if len(own.LbEndpoints) < len(group.LbEndpoints) {
			own.LoadBalancingWeight = wrapperspb.UInt32(sumOfWeights(own.LbEndpoints))
		}
		out.Endpoints = append(out.Endpoints, own)
	}
	return out
}
