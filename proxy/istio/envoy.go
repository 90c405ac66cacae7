// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	dfpclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/dynamic_forward_proxy/v3"
	dfpfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_forward_proxy/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

const filterForwardProxy = "envoy.filters.http.dynamic_forward_proxy"

// EnvoyBootstrap makes a configuration that an unmodified Envoy runs by itself: what
// the resources say, with routes and endpoints put in place, and without the filters
// that only Istio's build of Envoy has (metrics, ALPN and the exchange of metadata).
//
// A cluster that sends to the address that the client connected to can't do so here,
// where clients connect to the proxy itself. It becomes one that resolves the request's
// authority, so that requests reach the host that they name. The admin interface
// listens on admin, "127.0.0.1:15000"; empty is none. Secrets are put in place too, with
// their private keys; those in files are named by path, and the proxy's own certificate,
// unless that is in files, is asked of Istio's agent. The resources stay as they are.
func EnvoyBootstrap(r *Resources, admin string) (*bootstrapv3.Bootstrap, error) {
	out := &bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: "pillion-translate", Cluster: cmp.Or(r.ServiceCluster, "pillion")},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{},
	}
	if admin != "" {
		address, err := netip.ParseAddrPort(admin)
		if err != nil {
			return nil, fmt.Errorf("admin address %q is not an IP address and port, such as 127.0.0.1:15000", admin)
		}
		out.Admin = &bootstrapv3.Admin{Address: newAddress(address.Addr().String(), uint32(address.Port()))}
	}
	secrets := &staticSecrets{resources: r, names: make(map[string]bool)}
	endpoints := make(map[string]*endpointv3.ClusterLoadAssignment, len(r.Endpoints))
	for _, e := range r.Endpoints {
		endpoints[e.ClusterName] = e
	}
	for _, c := range r.Clusters {
		standalone := standaloneCluster(c, endpoints)
		if err := secrets.ofCluster(standalone); err != nil {
			return nil, fmt.Errorf("cluster %s: %w", c.Name, err)
		}
		out.StaticResources.Clusters = append(out.StaticResources.Clusters, standalone)
	}
	routes := make(map[string]*routev3.RouteConfiguration, len(r.Routes))
	for _, rc := range r.Routes {
		routes[rc.Name] = rc
	}
	for _, l := range r.Listeners {
		standalone, err := standaloneListener(l, routes)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		if err := secrets.ofListener(standalone); err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		out.StaticResources.Listeners = append(out.StaticResources.Listeners, standalone)
	}
	out.StaticResources.Secrets = secrets.all
	if secrets.agent {
		out.StaticResources.Clusters = append(out.StaticResources.Clusters, agentCluster())
	}
	return out, nil
}

// agentCluster is the cluster from which secrets come, as Istio's bootstrap has it: the
// agent listens on a Unix socket below the directory in which Envoy runs.
func agentCluster() *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 sdsCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(time.Second),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpOptionsKey: pack(&httpv3.HttpProtocolOptions{
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
				ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
					ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
				},
			},
		})},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: sdsCluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: newAddress("unix://./var/run/secrets/workload-spiffe-uds/socket", 0)},
			}}},
		}}},
	}
}

// istioOnly: no filter of that name is in Envoy as it is published.
func istioOnly(name string) bool {
	return name == filterMetadataExchange || name == filterALPN || name == filterStats
}

// standaloneCluster is a cluster that needs no control plane.
func standaloneCluster(in *clusterv3.Cluster, endpoints map[string]*endpointv3.ClusterLoadAssignment) *clusterv3.Cluster {
	c := proto.Clone(in).(*clusterv3.Cluster)
	c.Filters = slices.DeleteFunc(c.Filters, func(f *clusterv3.Filter) bool { return istioOnly(f.Name) })
	switch c.GetType() {
	case clusterv3.Cluster_EDS:
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.Name}
		if e := endpoints[c.EdsClusterConfig.GetServiceName()]; e != nil {
			c.LoadAssignment = e
		}
		c.EdsClusterConfig = nil
	case clusterv3.Cluster_ORIGINAL_DST:
		c.LbConfig = nil
		c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name: "envoy.clusters.dynamic_forward_proxy",
			TypedConfig: pack(&dfpclusterv3.ClusterConfig{
				ClusterImplementationSpecifier: &dfpclusterv3.ClusterConfig_DnsCacheConfig{DnsCacheConfig: dnsCache()},
				// Envoy otherwise insists on settings for TLS, which isn't used.
				AllowInsecureClusterOptions: true,
			}),
		}}
	}
	return c
}

// dnsCache is the one cache of all clusters and filters that resolve authorities.
func dnsCache() *dfpv3.DnsCacheConfig {
	return &dfpv3.DnsCacheConfig{Name: "authorities", DnsLookupFamily: clusterv3.Cluster_V4_PREFERRED}
}

// standaloneListener is a listener that needs no control plane.
func standaloneListener(in *listenerv3.Listener, routes map[string]*routev3.RouteConfiguration) (*listenerv3.Listener, error) {
	l := proto.Clone(in).(*listenerv3.Listener)
	chains := l.FilterChains
	if l.DefaultFilterChain != nil {
		chains = append(slices.Clip(chains), l.DefaultFilterChain)
	}
	for _, chain := range chains {
		chain.Filters = slices.DeleteFunc(chain.Filters, func(f *listenerv3.Filter) bool { return istioOnly(f.Name) })
		for _, f := range chain.Filters {
			if f.Name != filterHCM {
				continue
			}
			m := &hcmv3.HttpConnectionManager{}
			if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
				return nil, err
			}
			if err := makeStandalone(m, routes); err != nil {
				return nil, err
			}
			f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(m)}
		}
	}
	return l, nil
}

// makeStandalone puts a connection manager's routes in place and fits its filters.
func makeStandalone(m *hcmv3.HttpConnectionManager, routes map[string]*routev3.RouteConfiguration) error {
	if rds := m.GetRds(); rds != nil {
		rc := routes[rds.RouteConfigName]
		if rc == nil {
			return fmt.Errorf("there is no route configuration %s", rds.RouteConfigName)
		}
		m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
	}
	var filters []*hcmv3.HttpFilter
	for _, f := range m.HttpFilters {
		if istioOnly(f.Name) {
			continue
		}
		if f.Name == filterRouter { // it has to be the last
			filters = append(filters, &hcmv3.HttpFilter{
				Name: filterForwardProxy,
				ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&dfpfilterv3.FilterConfig{
					ImplementationSpecifier: &dfpfilterv3.FilterConfig_DnsCacheConfig{DnsCacheConfig: dnsCache()},
				})},
			})
		}
		filters = append(filters, f)
	}
	m.HttpFilters = filters
	return nil
}
