// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	mesh "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
)

// Names of tracers.
const (
	tracerZipkin        = "envoy.tracers.zipkin"
	tracerOpenTelemetry = "envoy.tracers.opentelemetry"
)

// How long a collector may take to answer when nobody says it. istiod writes the first;
// the second is what Istio's API documents, and istiod leaves out, whereupon Envoy
// refuses the listener.
const (
	zipkinTimeout = 5 * time.Second
	otlpTimeout   = 3 * time.Second
)

// zipkinPath is where Zipkin's API takes spans.
const zipkinPath = "/api/v2/spans"

// provider finds the provider of a spec; nil when no spans can be sent to it, which
// has been reported then. One that nobody names may be wrong.
func (t *tracing) provider(s *traceSpec) *traceProvider {
	key := strings.ToLower(s.provider)
	if p := t.made[key]; p != nil {
		return p
	}
	kind, field, ok := extensionProvider(t.o.MeshConfig, s.provider, t.rep)
	if !ok {
		where := "there is no MeshConfig; give one with --mesh-config"
		if t.o.MeshConfig != nil {
			where = place(t.o.MeshConfig) + " has none of that name"
		}
		t.rep.warnf(s.named.obj, s.named.field, "there is no extension provider %s, so no spans are sent: %s", s.provider, where)
		return nil
	}
	var made *traceProvider
	switch p := kind.Provider.(type) {
	case *mesh.MeshConfig_ExtensionProvider_Zipkin:
		made = t.zipkin(p.Zipkin, field+".zipkin")
	case *mesh.MeshConfig_ExtensionProvider_Opentelemetry:
		made = t.openTelemetry(p.Opentelemetry, field+".opentelemetry")
	case *mesh.MeshConfig_ExtensionProvider_Lightstep, *mesh.MeshConfig_ExtensionProvider_Datadog, *mesh.MeshConfig_ExtensionProvider_Stackdriver,
		*mesh.MeshConfig_ExtensionProvider_Opencensus, *mesh.MeshConfig_ExtensionProvider_Skywalking:
		t.rep.unsupportedf(s.named.obj, s.named.field, "spans are sent to zipkin and opentelemetry providers only, and %s is another", s.provider)
	default:
		t.rep.warnf(s.named.obj, s.named.field, "extension provider %s takes no spans: it is neither zipkin nor opentelemetry", s.provider)
	}
	t.made[key] = made
	return made
}

// collector finds the service of a provider and the cluster that leads to it. A
// collector that isn't there is no reason to refuse the configuration.
func (t *tracing) collector(name string, port uint32, field string) (host, cluster string, ok bool) {
	s, part, err := t.scope.providerService(name, port)
	if err != nil {
		t.rep.warnf(t.o.MeshConfig, field+part, "%v: no spans are sent", err)
		return "", "", false
	}
	t.services = append(t.services, s)
	return s.host, clusterName(s.host, "", port), true
}

// zipkin makes the tracer of a Zipkin provider.
func (t *tracing) zipkin(p *mesh.MeshConfig_ExtensionProvider_ZipkinTracingProvider, field string) *traceProvider {
	host, cluster, ok := t.collector(p.Service, p.Port, field)
	if !ok || !t.soundTimeout(p.Timeout, field) {
		return nil
	}
	path := p.Path
	if path == "" {
		path = zipkinPath
	}
	if !strings.HasPrefix(path, "/") {
		t.rep.errorf(t.o.MeshConfig, field+".path", "%q doesn't begin with a slash", path)
		return nil
	}
	config := &tracev3.ZipkinConfig{
		CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_JSON,
		TraceId_128Bit:           !p.Enable_64BitTraceId,
		SharedSpanContext:        wrapperspb.Bool(false),
		CollectorService: &corev3.HttpService{
			HttpUri:             httpURI("http://"+host+path, cluster, p.Timeout, zipkinTimeout),
			RequestHeadersToAdd: headerOptions(t.headers(p.Headers, field+".headers")),
		},
	}
	if p.TraceContextOption == mesh.MeshConfig_ExtensionProvider_ZipkinTracingProvider_USE_B3_WITH_W3C_PROPAGATION {
		config.TraceContextOption = tracev3.ZipkinConfig_USE_B3_WITH_W3C_PROPAGATION
	}
	return &traceProvider{config: tracer(tracerZipkin, config), maxTagLength: p.MaxTagLength}
}

// openTelemetry makes the tracer of an OpenTelemetry provider, over HTTP or gRPC.
func (t *tracing) openTelemetry(p *mesh.MeshConfig_ExtensionProvider_OpenTelemetryTracingProvider, field string) *traceProvider {
	if p.Http != nil && p.Grpc != nil {
		t.rep.errorf(t.o.MeshConfig, field, "has both http and grpc; one provider is asked in one way")
		return nil
	}
	host, cluster, ok := t.collector(p.Service, p.Port, field)
	if !ok || !t.soundTimeout(p.Http.GetTimeout(), field+".http") || !t.soundTimeout(p.Grpc.GetTimeout(), field+".grpc") {
		return nil
	}
	otel := p.ServiceAttributeEnrichment == mesh.MeshConfig_ExtensionProvider_OTEL_SEMANTIC_CONVENTIONS
	config := &tracev3.OpenTelemetryConfig{ServiceName: t.o.serviceCluster(), ResourceDetectors: resourceDetectors(p.ResourceDetectors, otel)}
	if otel {
		config.ServiceName = t.o.otelServiceName()
	}
	if p.Http != nil {
		uri, ok := t.uri(host, p.Http.Path, field+".http.path")
		if !ok {
			return nil
		}
		config.HttpService = &corev3.HttpService{
			HttpUri:             httpURI(uri, cluster, p.Http.Timeout, otlpTimeout),
			RequestHeadersToAdd: headerOptions(t.headers(p.Http.Headers, field+".http.headers")),
		}
	} else {
		t.warnHTTP1(p.Port, field)
		config.GrpcService = &corev3.GrpcService{
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster, Authority: host}},
			Timeout:         p.Grpc.GetTimeout(),
			InitialMetadata: t.headers(p.Grpc.GetInitialMetadata(), field+".grpc.initialMetadata"),
		}
	}
	out := &traceProvider{maxTagLength: p.MaxTagLength}
	if sampler := p.GetDynatraceSampler(); sampler != nil {
		config.Sampler = t.dynatraceSampler(sampler, p.Http, host, cluster, field+".dynatraceSampler")
		if config.Sampler == nil {
			return nil
		}
		out.sampler = true
	}
	out.config = tracer(tracerOpenTelemetry, config)
	return out
}

// warnHTTP1 tells of a collector that is to be asked over gRPC, at a port that nothing
// says speaks HTTP/2.
func (t *tracing) warnHTTP1(port uint32, field string) {
	s := t.services[len(t.services)-1]
	own := t.rules.of(s).policyOf(port)
	upgraded := own.pool.value.GetHttp().GetH2UpgradePolicy() == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE
	if p := s.port(port); !p.protocol.isHTTP2() && !upgraded {
		t.rep.warnf(t.o.MeshConfig, field+".port", "spans are sent over gRPC, and port %d of %s doesn't say that it speaks HTTP/2: begin its name with grpc", port, s.host)
	}
}

// uri joins a host and a path.
func (t *tracing) uri(host, path, field string) (string, bool) {
	uri, err := url.JoinPath(host, path)
	if err != nil {
		t.rep.errorf(t.o.MeshConfig, field, "%q is no path: %v", path, err)
	}
	return uri, err == nil
}

func (t *tracing) soundTimeout(d *durationpb.Duration, field string) bool {
	if d == nil || d.AsDuration() >= time.Millisecond {
		return true
	}
	t.rep.errorf(t.o.MeshConfig, field+".timeout", "%s is too short; wants at least 1ms", d.AsDuration())
	return false
}

// headers are what a collector is sent besides spans. Those of the environment are the
// translating program's, as they are istiod's in a cluster.
func (t *tracing) headers(list []*mesh.MeshConfig_ExtensionProvider_HttpHeader, field string) []*corev3.HeaderValue {
	var out []*corev3.HeaderValue
	for i, h := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if reason := badHeaderName(h.Name); reason != "" {
			t.rep.errorf(t.o.MeshConfig, at+".name", "%s", reason)
			continue
		}
		value := h.GetValue()
		if name := h.GetEnvName(); name != "" {
			var ok bool
			if value, ok = t.o.LookupEnv(name); !ok {
				t.rep.warnf(t.o.MeshConfig, at+".envName", "there is no environment variable %s: the header is sent without a value", name)
			}
		}
		if max(len(h.Name), len(value)) > maxHeader || strings.ContainsAny(value, "\x00\r\n") {
			t.rep.errorf(t.o.MeshConfig, at, "the name or the value is longer than %d bytes, or the value has more than one line", maxHeader)
			continue
		}
		out = append(out, &corev3.HeaderValue{Key: h.Name, Value: value})
	}
	return out
}

// maxHeader is the longest name or value of a header that Envoy takes in its
// configuration, in bytes.
const maxHeader = 16384

func headerOptions(list []*corev3.HeaderValue) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	for _, h := range list {
		out = append(out, &corev3.HeaderValueOption{Header: h, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD})
	}
	return out
}

func httpURI(uri, cluster string, timeout *durationpb.Duration, or time.Duration) *corev3.HttpUri {
	if timeout == nil {
		timeout = durationpb.New(or)
	}
	return &corev3.HttpUri{Uri: uri, HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: cluster}, Timeout: timeout}
}

func tracer(name string, config proto.Message) *tracev3.Tracing_Http {
	return &tracev3.Tracing_Http{Name: name, ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: pack(config)}}
}
