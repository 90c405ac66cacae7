// SPDX-License-Identifier: Apache-2.0

// Package istio turns Istio's and Kubernetes' resources into the xDS resources that a
// real istiod would send for them, under the same names, so that one compiler serves
// configuration from files and from a control plane. Translation is a pure function of
// its arguments, Options.LookupEnv among them.
//
// The facts are those of istio.io/istio of August 2026, pilot/pkg/networking/core. What
// a proxy without a cluster around it needs differently:
//
//   - One proxy is a sidecar with an HTTP proxy port and a gateway at once. Clients come
//     to these listeners; nothing is captured. What is before the workload has addresses
//     of its own (translator.inbound), and a policy's ports are the workload's.
//   - The http listener tells services apart by the port in the request's authority
//     (translator.httpProxyRoutes), and without a port where only one can be meant.
//   - A cluster of type ORIGINAL_DST, PassthroughCluster among them, has no original
//     destination there: whoever runs the resources sends to the request's authority.
//   - A proxy without labels serves every Gateway (translator.gatewayPorts).
//   - Headless Services are balanced over their endpoints (kubernetesService), and an
//     ExternalName that no service has is resolved by DNS (registryBuilder.addAliases).
//   - Mutual TLS takes a certificate of the mesh (Options.CertsDir). Without one,
//     workloads that take it get plaintext with a warning, and what demands it is refused.
//   - There is no bootstrap. Its tracer is in the connection managers, and where there is
//     none they are told nothing of traces (tracing.withoutTelemetry).
//   - Secrets come with the configuration. One that is named and missing, or broken,
//     refuses it, where a cluster leaves the listener without a certificate.
package istio

import (
	"os"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"pillion/proxy/istio/source"
)

// OutboundPolicy says what becomes of requests to hosts that the mesh doesn't know.
type OutboundPolicy uint8

const (
	// AllowAny sends them to the address that they name. It is a mesh's default.
	AllowAny OutboundPolicy = iota
	// RegistryOnly answers them with 502.
	RegistryOnly
)

// Options says who the proxy is, how it listens, and what the mesh's defaults are. The
// zero value of a field is its default.
type Options struct {
	// Namespace is the proxy's own, "default" by default. Short host names resolve in
	// it, and exportTo, Sidecar, DestinationRule and Telemetry go by it.
	Namespace string
	// Labels are the proxy's, for selectors and for sourceLabels.
	Labels map[string]string
	// ServiceAccount, WorkloadName and TrustDomain ("cluster.local" by default) are how
	// metrics and traces name the proxy.
	ServiceAccount, WorkloadName, TrustDomain string
	// CertsDir holds the proxy's own certificate of the mesh, as cert-chain.pem, key.pem
	// and root-cert.pem; empty is none, and no mutual TLS between workloads. Translation
	// doesn't read it. Identity says that there is one although it comes from elsewhere.
	CertsDir string
	Identity bool
	// ClusterID is how endpoints name the cluster they are in: "Kubernetes" by default.
	ClusterID string
	// DomainSuffix is that of services' names: "cluster.local" by default.
	DomainSuffix string
	// RootNamespace holds the resources that are for all namespaces: "istio-system" by
	// default.
	RootNamespace string
	// Locality is where the proxy is, as region/zone/subzone. Without one no endpoint is
	// nearer than another.
	Locality string

	// HTTPAddr is where the http listener binds, "127.0.0.1:15080"; empty is no such
	// listener.
	HTTPAddr string
	// Listen opens ports of services at addresses of this machine, each as
	// HOST:PORT=ADDRESS:PORT. Services with a virtual address in 127.0.0.0/8 have
	// theirs opened there without, and a Sidecar may bind ports. "all" opens what else
	// the http listener can't serve at 127.0.0.1.
	Listen []string
	// Inbound puts the proxy before ports of its workload, each as
	// ADDRESS:PORT=APPADDRESS:APPPORT or ADDRESS:PORT=unix://PATH.
	Inbound []string
	// MeshConfig is an object of source.LoadMeshConfig; nil is a mesh with all defaults.
	// Other options that are set go before it. It alone can restrict the OutboundPolicy.
	MeshConfig *source.Object
	// ProtocolDetectionTimeout bounds the wait for the first bytes of a connection where
	// they decide what becomes of it: 5 s by default.
	ProtocolDetectionTimeout time.Duration
	// OutboundPolicy is what holds when no Sidecar has an outboundTrafficPolicy.
	OutboundPolicy OutboundPolicy

	// ConnectTimeout is that of upstream connections without one of their own: 10 s by
	// default.
	ConnectTimeout time.Duration
	// DNSRefreshRate is how often DNS services are resolved when the answers name no
	// shorter time: 60 s by default.
	DNSRefreshRate time.Duration
	// AccessLogFile is where access logs go when no Telemetry resource says; empty is
	// no log.
	AccessLogFile string
	// LookupEnv reads the environment variables that a MeshConfig names: headers for
	// collectors of spans, and HOST_IP. It is os.LookupEnv by default.
	LookupEnv func(name string) (value string, ok bool)
}

// identified: the proxy has a certificate of the mesh.
func (o *Options) identified() bool { return o.Identity || o.CertsDir != "" }

// withDefaults fills in a mesh's defaults (pkg/config/mesh of Istio).
func (o Options) withDefaults() Options {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&o.Namespace, "default")
	set(&o.ClusterID, "Kubernetes")
	set(&o.TrustDomain, "cluster.local")
	set(&o.DomainSuffix, "cluster.local")
	set(&o.RootNamespace, "istio-system")
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.ProtocolDetectionTimeout <= 0 {
		o.ProtocolDetectionTimeout = 5 * time.Second
	}
	if o.DNSRefreshRate <= 0 {
		o.DNSRefreshRate = time.Minute
	}
	if o.LookupEnv == nil {
		o.LookupEnv = os.LookupEnv
	}
	return o
}

// Resources is a whole configuration. Messages in it share parts with each other and
// with the objects they were made of; they are to be read only.
type Resources struct {
	Listeners []*listenerv3.Listener
	Routes    []*routev3.RouteConfiguration
	Clusters  []*clusterv3.Cluster
	Endpoints []*endpointv3.ClusterLoadAssignment // of the clusters of type EDS
	// Secrets are those of Kubernetes that the others name. They hold private keys:
	// JSON leaves these out.
	Secrets []*tlsv3.Secret
	// CertsDir is Options.CertsDir.
	CertsDir string
	// ServiceCluster is the proxy's name in traces: the cluster of its node.
	ServiceCluster string

	// Opens names the service ports, as host:port, that listeners were made for, by the
	// listener's name.
	Opens map[string]string
}

// translator is one translation.
type translator struct {
	o               *Options
	rep             *report
	out             *Resources
	scope           *scope
	virtualServices []*virtualService
	routeBuilder    *routeBuilder
	logs            *accessLogs
	tracing         *tracing
	metrics         *metrics
	policies        *policies
	extAuthz        *extAuthz
	inboundPorts    []*inboundPort
	jwks            map[string]*clusterv3.Cluster // where keys are fetched that no service has
	secrets         *secretStore
	// sniClusters are the clusters that clients of AUTO_PASSTHROUGH servers may name.
	sniClusters map[string]bool
	bound       *boundPorts  // addresses of service ports
	ownRoutes   []*boundPort // those that have a route configuration of their own
}

// Translate makes the resources for one proxy. The objects are those of a source.Set:
// valid, each ID once. Problems that aren't warnings refuse
// the configuration: the result is nil then. Objects count in their order: of several
// that claim one thing the first has it, as in a cluster the oldest.
func Translate(objs []*source.Object, o Options) (*Resources, []source.Problem) {
	o = o.withMesh().withDefaults()
	t := &translator{o: &o, jwks: make(map[string]*clusterv3.Cluster), rep: &report{}, out: &Resources{Opens: make(map[string]string)}}
	checkMesh(&o, t.rep)
	for _, obj := range objs {
		checkSupport(obj, t.rep)
	}
	if t.rep.failed {
		return nil, t.rep.problems
	}
	t.translate(objs)
	if t.rep.failed {
		return nil, t.rep.problems
	}
	return t.out, t.rep.problems
}

func (t *translator) translate(objs []*source.Object) {
	reg := newRegistry(objs, t.o, t.rep)
	rules := newDestinationRules(objs, t.o)
	t.virtualServices = newVirtualServices(objs, t.o, t.rep)
	t.scope = newScope(objs, reg, t.virtualServices, t.o)
	t.routeBuilder = &routeBuilder{
		o: t.o, rep: t.rep, rules: rules, find: t.scope.find,
		retries:   newRetryPolicies(),
		ruleOf:    make(map[*service]*destinationRule),
		noTimeout: durationpb.New(0),
	}
	inForce := telemetryFor(objs, t.o, t.rep)
	t.logs = newAccessLogs(inForce, t.o, t.rep)
	t.metrics = newMetrics(inForce, t.o, t.rep)
	t.tracing = newTracing(inForce, t.o, t.scope, rules, t.rep)
	t.secrets = newSecretStore(objs, t.o, t.rep)
	t.sniClusters = make(map[string]bool)
	t.out.CertsDir = t.o.CertsDir
	t.out.ServiceCluster = t.o.serviceCluster()

	httpListener := false
	if t.o.HTTPAddr != "" {
		address, err := parseListenAddress(t.o.HTTPAddr)
		if err != nil {
			t.rep.add(source.Problem{Field: "http listener", Reason: err.Error()})
		} else {
			t.out.Listeners = append(t.out.Listeners, t.httpListener(address))
			httpListener = true
		}
	}
	own := len(t.out.Listeners)
	t.loopback()
	slices.SortFunc(t.out.Listeners[own:], byPort)
	t.httpRoutes(httpListener)
	for _, s := range t.tracing.services { // whatever the Sidecar names
		t.scope.add(s)
	}
	t.policies = newPolicies(objs, t.o, t.rep)
	t.extAuthz = &extAuthz{config: t.o.MeshConfig, rep: t.rep, scope: t.scope, made: make(map[string]*extAuthzProvider)}
	own = len(t.out.Listeners)
	t.gateways(objs)
	t.protectGateways(objs, t.out.Listeners[own:])
	t.inbound(objs)
	t.policies.warnUnused(len(t.inboundPorts) > 0)

	clusters := newClusterBuilder(t.o, rules, newPeerModes(objs, t.o.RootNamespace), t.secrets, t.rep, t.out)
	for _, s := range t.scope.services {
		clusters.service(s)
	}
	for _, p := range t.inboundPorts {
		clusters.inbound(p)
	}
	clusters.jwks(t.jwks)
	t.out.Clusters = append(t.out.Clusters, t.tracing.clusters...)
	clusters.passedThrough(t.sniClusters)
	clusters.common()
	t.out.Secrets = t.secrets.used()
}
