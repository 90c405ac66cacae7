// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	mesh "istio.io/api/mesh/v1alpha1"
)

// zipkinCluster is the cluster of Istio's bootstrap to which spans go.
const zipkinCluster = "zipkin"

// bootstrapTracer is the tracer of defaultConfig.tracing: in a cluster Istio's agent
// puts it into the bootstrap, and istiod sends connection managers without a provider,
// which means that one. Here there is no bootstrap, so that they are told; nil is none.
func (t *tracing) bootstrapTracer() *tracev3.Tracing_Http {
	own := t.proxyTracing()
	if own.GetTracer() == nil {
		return nil
	}
	zipkin, ok := own.Tracer.(*mesh.Tracing_Zipkin_)
	if !ok {
		t.rep.unsupportedf(t.o.MeshConfig, "defaultConfig.tracing", "of the tracers only zipkin is served; name another collector as a zipkin or opentelemetry provider in extensionProviders and in defaultProviders.tracing")
		return nil
	}
	if own.TlsSettings != nil {
		t.rep.errorf(t.o.MeshConfig, "defaultConfig.tracing.tlsSettings",
			"not supported yet by this build: name the collector in extensionProviders and in defaultProviders.tracing, and give its service a DestinationRule with tls")
		return nil
	}
	cluster, ok := t.zipkinAddress(zipkin.Zipkin.GetAddress())
	if !ok {
		return nil
	}
	return zipkinOf(cluster)
}

// BootstrapTracer is the tracer that Istio's agent puts into the bootstrap of a pod whose
// ProxyConfig has the address of a Zipkin, and the cluster of that address. ipv6 says that
// the pod has no other addresses.
func BootstrapTracer(host string, port uint32, ipv6 bool) (*tracev3.Tracing_Http, *clusterv3.Cluster) {
	c := zipkinAt(host, port)
	if ipv6 {
		c.DnsLookupFamily = clusterv3.Cluster_V6_ONLY
	}
	return zipkinOf(c.GetName()), c
}

// zipkinOf is the bootstrap's tracer, with the cluster that spans go to.
func zipkinOf(cluster string) *tracev3.Tracing_Http {
	return tracer(tracerZipkin, &tracev3.ZipkinConfig{
		CollectorCluster:         cluster,
		CollectorEndpoint:        zipkinPath,
		CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_JSON,
		TraceId_128Bit:           true,
		SharedSpanContext:        wrapperspb.Bool(false),
	})
}

// zipkinAt is the bootstrap's cluster of an address.
func zipkinAt(host string, port uint32) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 zipkinCluster,
		AltStatName:          statPrefix(zipkinCluster),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS},
		ConnectTimeout:       durationpb.New(time.Second),
		DnsLookupFamily:      clusterv3.Cluster_V4_ONLY,
		//lint:ignore SA1019 Istio's bootstrap sets it
		DnsRefreshRate: durationpb.New(30 * time.Second),
		//lint:ignore SA1019 Istio's bootstrap sets it
		RespectDnsTtl: true,
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: zipkinCluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: newAddress(host, port)},
			}}},
		}}},
	}
}

// serviceNamed finds a service by any of the names that clients may use, also one that the
// Sidecar doesn't name: nor does it bind the bootstrap.
func (t *tracing) serviceNamed(host string) *service {
	if s := t.scope.serviceNamed(host, t.o); s != nil {
		return s
	}
	host = strings.ToLower(host)
	i := slices.IndexFunc(t.scope.registry.services, func(s *service) bool {
		return s.visibleTo(t.o.Namespace) && t.scope.byHost[s.host] == nil && slices.Contains(domainForms(s.host, t.o.Namespace, t.o.DomainSuffix), host)
	})
	if i < 0 {
		return nil
	}
	return t.scope.registry.services[i]
}

// zipkinAddress finds or makes the cluster of an address: that of the service which has
// the name, since there may be no DNS here that knows services, or else one of DNS.
func (t *tracing) zipkinAddress(address string) (cluster string, ok bool) {
	const field = "defaultConfig.tracing.zipkin.address"
	host, portText, err := net.SplitHostPort(address)
	port, err2 := strconv.ParseUint(portText, 10, 16)
	if err != nil || err2 != nil || host == "" || port == 0 {
		t.rep.errorf(t.o.MeshConfig, field, "%q is not HOST:PORT, such as zipkin.istio-system:9411", address)
		return "", false
	}
	if host == "$(HOST_IP)" {
		if host, ok = t.o.LookupEnv("HOST_IP"); !ok || host == "" {
			t.rep.errorf(t.o.MeshConfig, field, "$(HOST_IP) stands for the environment variable HOST_IP, which isn't set")
			return "", false
		}
	}
	if s := t.serviceNamed(host); s != nil && s.port(uint32(port)) != nil {
		t.services = append(t.services, s)
		return clusterName(s.host, "", uint32(port)), true
	}
	t.clusters = append(t.clusters, zipkinAt(host, uint32(port)))
	return zipkinCluster, true
}
