// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// httpOptionsKey is the key and the type under which clusters carry HTTP options.
const httpOptionsKey = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// clusterBuilder makes the clusters and load assignments of services.
type clusterBuilder struct {
	o       *Options
	rep     *report
	rules   *destinationRules
	own     *corev3.Locality
	out     *Resources
	modes   *peerModes
	secrets *secretStore
	// accounts are the identities of the service that is being made.
	accounts []string

	// Messages that many clusters have alike. They are shared, not copied.
	ads            *corev3.ConfigSource
	connectTimeout *durationpb.Duration
	filters        []*clusterv3.Filter
	dnsResolver    *corev3.TypedExtensionConfig
	noPanic        *clusterv3.Cluster_CommonLbConfig
	noLimits       *clusterv3.CircuitBreakers
}

func newClusterBuilder(o *Options, rules *destinationRules, modes *peerModes, secrets *secretStore, rep *report, out *Resources) *clusterBuilder {
	return &clusterBuilder{
		o: o, rep: rep, rules: rules, out: out, modes: modes, secrets: secrets,
		own:            localityOf(o.Locality),
		ads:            adsSource(),
		connectTimeout: durationpb.New(o.ConnectTimeout),
		filters:        []*clusterv3.Filter{{Name: filterMetadataExchange, TypedConfig: tcpMetadataExchange()}},
		dnsResolver: &corev3.TypedExtensionConfig{
			Name:        "envoy.network.dns_resolver.cares",
			TypedConfig: pack(&caresv3.CaresDnsResolverConfig{UdpMaxQueries: wrapperspb.UInt32(100)}),
		},
		noPanic:  lbConfig(0),
		noLimits: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{noThresholds()}},
	}
}

// adsSource names the stream that resources come from.
func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		InitialFetchTimeout:   durationpb.New(0),
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// service adds the clusters of every port: the service's own, then one per subset.
func (b *clusterBuilder) service(s *service) {
	rule := b.rules.of(s)
	b.accounts = s.identities(b.o.TrustDomain)
	if s.resolution == resolveStatic && !slices.ContainsFunc(s.ports, func(p servicePort) bool { return len(p.endpoints) > 0 }) {
		b.rep.warnf(s.obj, "", "%s has no endpoints: requests to it get 503. They come from WorkloadEntries, EndpointSlices or spec.endpoints", s.host)
	}
	for i := range s.ports {
		p := &s.ports[i]
		if p.protocol == protoUDP {
			continue
		}
		own := rule.policyOf(p.number)
		base := &clusterv3.Cluster{}
		b.applyPolicy(base, p, &own)
		b.add(s, p, rule, nil, &own, base)
		if rule == nil {
			continue
		}
		for j := range rule.subsets {
			sub := &rule.subsets[j]
			if sub.TrafficPolicy == nil {
				b.add(s, p, rule, sub, &own, base)
				continue
			}
			merged := rule.subsetPolicy(sub, p.number)
			policed := &clusterv3.Cluster{}
			b.applyPolicy(policed, p, &merged)
			b.add(s, p, rule, sub, &merged, policed)
		}
	}
}

// applyPolicy sets all fields of a cluster that its policy is about.
func (b *clusterBuilder) applyPolicy(c *clusterv3.Cluster, p *servicePort, pol *policy) {
	b.checkPolicy(pol)
	c.ConnectTimeout = b.connectTimeout
	c.CommonLbConfig = b.noPanic
	b.applyPool(c, p, pol)
	applyOutlier(c, pol)
	applyLoadBalancer(c, pol)
}

// add makes one cluster, with the parts of base, a cluster of the same policy. A
// cluster of DNS endpoints that has none is left out, as istiod does: Envoy takes no
// DNS cluster without a name to resolve.
func (b *clusterBuilder) add(s *service, p *servicePort, rule *destinationRule, sub *subset, pol *policy, base *clusterv3.Cluster) {
	var subsetName string
	var labels map[string]string
	if sub != nil {
		subsetName, labels = sub.Name, sub.Labels
	}
	c := &clusterv3.Cluster{
		Name:                          clusterName(s.host, subsetName, p.number),
		ConnectTimeout:                base.ConnectTimeout,
		LbPolicy:                      base.LbPolicy,
		LbConfig:                      base.LbConfig,
		CommonLbConfig:                base.CommonLbConfig,
		CircuitBreakers:               base.CircuitBreakers,
		OutlierDetection:              base.OutlierDetection,
		UpstreamConnectionOptions:     base.UpstreamConnectionOptions,
		TypedExtensionProtocolOptions: base.TypedExtensionProtocolOptions,
		Filters:                       b.filters,
		Metadata:                      b.metadata(s, rule, sub, pol),
	}
	c.AltStatName = statPrefix(c.Name)
	endpoints := b.forCluster(selectEndpoints(p.endpoints, labels, pol), pol)
	if sub != nil && len(labels) > 0 && len(endpoints) == 0 && len(p.endpoints) > 0 {
		b.rep.warnf(sub.obj, sub.field()+".labels", "no endpoint of %s has these labels: requests to subset %s get 503", s.host, sub.Name)
	}
	if !b.discover(c, s, p, pol, endpoints) {
		b.rep.warnf(s.obj, "spec", "port %d of %s has no endpoint: requests to it get 503", p.number, s.host)
		return
	}
	b.secure(c, s, p, subsetName, pol)
	b.warnPlain(s, endpoints, pol)
	b.out.Clusters = append(b.out.Clusters, c)
}

// discover sets how the cluster finds its hosts. It reports false when there is
// nothing from which to find them.
func (b *clusterBuilder) discover(c *clusterv3.Cluster, s *service, p *servicePort, pol *policy, endpoints []*endpoint) bool {
	if s.resolution == resolveNone || pol.lb.value.GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}
		c.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
		c.LbConfig = nil
		if p.override != 0 {
			c.LbConfig = &clusterv3.Cluster_OriginalDstLbConfig_{
				OriginalDstLbConfig: &clusterv3.Cluster_OriginalDstLbConfig{UpstreamPortOverride: wrapperspb.UInt32(p.override)},
			}
		}
		return true
	}
	if s.resolution == resolveLogicalDNS && len(endpoints) > 1 {
		b.rep.warnf(s.obj, "spec.resolution", "DNS_ROUND_ROBIN takes one endpoint; only the first of %d is used", len(endpoints))
		endpoints = endpoints[:1] // Envoy refuses more
	}
	groups := groupByLocality(endpoints)
	applyLocality(groups, b.own, pol)
	assignment := &endpointv3.ClusterLoadAssignment{ClusterName: c.Name, Endpoints: groups}
	if s.resolution == resolveStatic {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{ServiceName: c.Name, EdsConfig: b.ads}
		b.out.Endpoints = append(b.out.Endpoints, assignment)
		return true
	}
	if len(endpoints) == 0 {
		return false
	}
	kind := clusterv3.Cluster_STRICT_DNS
	if s.resolution == resolveLogicalDNS {
		kind = clusterv3.Cluster_LOGICAL_DNS
	}
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: kind}
	c.LoadAssignment = assignment
	b.applyDNS(c)
	return true
}

// applyDNS sets how names are resolved. istiod still uses these fields, which Envoy
// has deprecated in favour of a DNS cluster extension.
func (b *clusterBuilder) applyDNS(c *clusterv3.Cluster) {
	c.DnsLookupFamily = clusterv3.Cluster_V4_ONLY
	c.TypedDnsResolverConfig = b.dnsResolver
	//lint:ignore SA1019 istiod sets it
	c.DnsJitter = durationpb.New(100 * time.Millisecond)
	//lint:ignore SA1019 istiod sets it
	c.DnsRefreshRate = durationpb.New(b.o.DNSRefreshRate)
	//lint:ignore SA1019 istiod sets it
	c.RespectDnsTtl = true
}

// metadata says which service, subset and rule a cluster is made of.
func (b *clusterBuilder) metadata(s *service, rule *destinationRule, sub *subset, pol *policy) *corev3.Metadata {
	fields := make(map[string]*structpb.Value, 5)
	fields["services"] = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{s.metadata}})
	if rule != nil {
		fields["config"] = structpb.NewStringValue(configPath(groupNetworking, kindDestinationRule, rule.obj))
	}
	if sub != nil {
		fields["subset"] = structpb.NewStringValue(sub.Name)
	} else if s.external {
		fields["external"] = structpb.NewBoolValue(true)
	}
	switch pol.tls.value.GetMode() {
	case networking.ClientTLSSettings_SIMPLE, networking.ClientTLSSettings_MUTUAL:
		if pol.tls.value != nil {
			// Servers outside of the mesh know none of its protocol names.
			fields["alpn_override"] = structpb.NewStringValue("false")
		}
	}
	return istioMetadata(fields)
}

// common adds the clusters that don't belong to a service.
func (b *clusterBuilder) common() {
	passthrough := &clusterv3.Cluster{
		Name:                 passthroughCluster,
		AltStatName:          statPrefix(passthroughCluster),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		ConnectTimeout:       b.connectTimeout,
		LbPolicy:             clusterv3.Cluster_CLUSTER_PROVIDED,
		CircuitBreakers:      b.noLimits,
		Filters:              b.filters,
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpOptionsKey: pack(&httpv3.HttpProtocolOptions{
			CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(5 * time.Minute)},
			UpstreamProtocolOptions:   asDownstream(),
		})},
	}
	blackHole := &clusterv3.Cluster{
		Name:                 blackHoleCluster,
		AltStatName:          statPrefix(blackHoleCluster),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       b.connectTimeout,
	}
	b.out.Clusters = append(b.out.Clusters, blackHole, passthrough)
}
