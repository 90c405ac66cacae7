// SPDX-License-Identifier: Apache-2.0

package istio

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/api/networking/v1alpha3"
)

// inbound adds the cluster of a port of the workload. Of a DestinationRule for its
// service it takes the connection pool, since the server has to take what clients may
// send; what a Sidecar says goes before (buildInboundCluster of Istio).
func (b *clusterBuilder) inbound(p *inboundPort) {
	var pol policy
	fields := make(map[string]*structpb.Value, 2)
	if len(p.services) > 0 {
		first := p.services[0]
		if rule := b.rules.of(first.s); rule != nil {
			all := rule.policyOf(first.p.number)
			pol.pool = all.pool
			if rule.policy != nil {
				fields["config"] = structpb.NewStringValue(configPath(groupNetworking, kindDestinationRule, rule.obj))
			}
		}
		var list []*structpb.Value
		for _, s := range p.services {
			list = append(list, s.s.metadata)
		}
		fields["services"] = structpb.NewListValue(&structpb.ListValue{Values: list})
	}
	c := &clusterv3.Cluster{
		Name:                 p.cluster(),
		AltStatName:          statPrefix(p.cluster()),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       b.connectTimeout,
		CommonLbConfig:       &clusterv3.Cluster_CommonLbConfig{},
		Metadata:             istioMetadata(fields),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: p.cluster(), Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: newAddress(p.app, p.to)},
			}}},
		}}},
	}
	if p.pool != nil {
		pol.pool.value = p.pool
	}
	if http := pol.pool.value.GetHttp(); http != nil {
		// Which version of HTTP is spoken here is for the workload to say.
		pool := proto.Clone(pol.pool.value).(*networking.ConnectionPoolSettings)
		pool.Http.H2UpgradePolicy, pool.Http.UseClientProtocol = networking.ConnectionPoolSettings_HTTPSettings_DEFAULT, false
		pol.pool.value = pool
	}
	b.applyPool(c, &servicePort{protocol: p.protocol}, &pol)
	b.out.Clusters = append(b.out.Clusters, c)
}

// jwks adds the clusters from which keys are fetched.
func (b *clusterBuilder) jwks(made map[string]*clusterv3.Cluster) {
	for _, name := range sortedKeys(made) {
		c := made[name]
		c.ConnectTimeout, c.CircuitBreakers = b.connectTimeout, b.noLimits
		b.applyDNS(c)
		b.out.Clusters = append(b.out.Clusters, c)
	}
}
