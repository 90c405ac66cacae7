// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	telemetryapi "istio.io/api/telemetry/v1alpha1"
)

// traced translates collectors and a Telemetry of namespace default, and returns what the
// http listener is told. A nil result is a configuration that is refused.
func traced(t testing.TB, mesh, spec string, o Options) (*Resources, *hcmv3.HttpConnectionManager_Tracing, string) {
	t.Helper()
	yaml := collectors
	if spec != "" {
		yaml += telemetryYAML("default", "a", spec)
	}
	o.HTTPAddr = "127.0.0.1:15080"
	if mesh != "" {
		o.MeshConfig = loadMesh(t, mesh)
		o.MeshConfig.File = "mesh.yaml"
	}
	r, problems := Translate(load(t, yaml), o)
	if r == nil {
		return nil, nil, describe(problems)
	}
	m := &hcmv3.HttpConnectionManager{}
	if err := r.Listeners[0].FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return r, m.Tracing, describe(problems)
}

// TestTracingProblems: what is wrong is named with its place, and refused where Envoy
// would refuse it.
func TestTracingProblems(t *testing.T) {
	provider := func(text string) string { return "extensionProviders:\n- name: p\n  " + text }
	const use = "{tracing: [{providers: [{name: p}]}]}"
	const mesh = "mesh.yaml:3: MeshConfig/istio-system/istio: extensionProviders[0]"
	for _, c := range []struct {
		name, mesh, spec string
		refused          bool
		want             string
	}{
		{"no MeshConfig", "", use, false, "warning: -:16: Telemetry/default/a: spec.tracing[0].providers[0].name: there is no extension provider p, so no spans are sent: there is no MeshConfig"},
		{"unknown", "enableTracing: true", use, false, "warning: -:16: Telemetry/default/a: spec.tracing[0].providers[0].name: there is no extension provider p, so no spans are sent: MeshConfig/istio-system/istio (mesh.yaml:1) has none of that name"},
		{"unknown default", "defaultProviders: {tracing: [q]}", "", false, "warning: mesh.yaml:1: MeshConfig/istio-system/istio: defaultProviders.tracing[0]: there is no extension provider q"},
		{"none at all", "", "{tracing: [{randomSamplingPercentage: 5}]}", false, "warning: -:16: Telemetry/default/a: spec.tracing[0]: names no provider"},
		{"no service", provider("zipkin: {service: gone.example.com, port: 9411}"), use, false, "warning: " + mesh + ".zipkin.service: there is no service gone.example.com"},
		{"a short name", provider("zipkin: {service: zipkin, port: 9411}"), use, false, "warning: " + mesh + ".zipkin.service: there is no service zipkin; it is named by its full host"},
		{"no port", provider("opentelemetry: {service: otel.tracing.svc.cluster.local, port: 1}"), use, false, "warning: " + mesh + ".opentelemetry.port: otel.tracing.svc.cluster.local has no port 1"},
		{"gRPC to HTTP/1", provider("opentelemetry: {service: otel.tracing.svc.cluster.local, port: 4318}"), use, false, "warning: " + mesh + ".opentelemetry.port: spans are sent over gRPC, and port 4318"},
		{"Datadog", provider("datadog: {service: zipkin.tracing.svc.cluster.local, port: 9411}"), use, false, "warning: -:16: Telemetry/default/a: spec.tracing[0].providers[0].name: not supported yet by this build"},
		{"SkyWalking", provider("skywalking: {service: zipkin.tracing.svc.cluster.local, port: 9411}"), use, false, "not supported yet by this build"},
		{"Lightstep", provider("lightstep: {service: zipkin.tracing.svc.cluster.local, port: 9411}"), use, false, "not supported yet by this build"},
		{"OpenCensus", provider("opencensus: {service: zipkin.tracing.svc.cluster.local, port: 9411}"), use, false, "not supported yet by this build"},
		{"Stackdriver", provider("stackdriver: {}"), use, false, "not supported yet by this build"},
		{"access logs", provider("envoyFileAccessLog: {path: /dev/stdout}"), use, false, "takes no spans"},
		{"twice", provider("zipkin: {" + zipkinService + "}\n- {name: P, zipkin: {" + zipkinService + "}}"), use, true, "mesh.yaml:2: MeshConfig/istio-system/istio: extensionProviders[0].name: there are two"},
		{"both ways", provider("opentelemetry: {" + otelService + ", http: {path: /}, grpc: {}}"), use, true, mesh + ".opentelemetry: has both http and grpc"},
		{"a timeout", provider("zipkin: {" + zipkinService + ", timeout: 10us}"), use, true, mesh + ".zipkin.timeout: 10µs is too short"},
		{"a timeout of gRPC", provider("opentelemetry: {" + otelService + ", grpc: {timeout: 0s}}"), use, true, mesh + ".opentelemetry.grpc.timeout: 0s is too short"},
		{"a path", provider("zipkin: {" + zipkinService + ", path: spans}"), use, true, mesh + `.zipkin.path: "spans" doesn't begin with a slash`},
		{"a path that is none", provider("opentelemetry: {" + otelService + ", http: {path: \"/%zz\"}}"), use, true, mesh + ".opentelemetry.http.path"},
		{"a header", provider("zipkin: {" + zipkinService + ", headers: [{name: \"a b\", value: x}]}"), use, true, mesh + ".zipkin.headers[0].name: isn't a header's name"},
		{"a header's value", provider(`opentelemetry: {` + otelService + `, grpc: {initialMetadata: [{name: a, value: "x\ny"}]}}`), use, true, mesh + ".opentelemetry.grpc.initialMetadata[0]: the name or the value is longer"},
		{"a header of the environment", provider("zipkin: {" + zipkinService + ", headers: [{name: a, envName: UNSET}]}"), use, false, "warning: " + mesh + ".zipkin.headers[0].envName: there is no environment variable UNSET"},
		{"Dynatrace over gRPC", provider("opentelemetry: {" + otelService + ", dynatraceSampler: {tenant: a}}"), use, true, mesh + ".opentelemetry.dynatraceSampler.httpService: is required"},
		{"Dynatrace elsewhere", provider("opentelemetry: {" + otelService + ", dynatraceSampler: {tenant: a, httpService: {service: gone, port: 1}}}"), use, false, "warning: " + mesh + ".opentelemetry.dynatraceSampler.httpService.service: there is no service gone"},
		{"a tag's header", provider("zipkin: {" + zipkinService + "}"), "{tracing: [{providers: [{name: p}], customTags: {a.b: {header: {name: \"x y\"}}}}]}", true, `-:16: Telemetry/default/a: spec.tracing[0].customTags["a.b"].header.name: isn't a header's name`},
		{"a tag without a value", provider("zipkin: {" + zipkinService + "}"), "{tracing: [{providers: [{name: p}], customTags: {a: {}}}]}", true, "-:16: Telemetry/default/a: spec.tracing[0].customTags.a: has no value"},
		{"a tag of the mesh", "defaultConfig: {tracing: {customTags: {a: {literal: {}}}}}", "", true, "mesh.yaml:1: MeshConfig/istio-system/istio: defaultConfig.tracing.customTags.a.literal.value: is required"},
		{"sampling", "defaultConfig: {tracing: {sampling: -1}}", "", true, "mesh.yaml:1: MeshConfig/istio-system/istio: defaultConfig.tracing.sampling: -1 isn't a percentage"},
		{"sampling above 100", "defaultConfig: {tracing: {sampling: 101}}", "", false, "defaultConfig.tracing.sampling: 101 is more than 100 percent: Istio takes it for 1"},
		{"a bootstrap's address", "defaultConfig: {tracing: {zipkin: {address: zipkin}}}", "", true, `mesh.yaml:1: MeshConfig/istio-system/istio: defaultConfig.tracing.zipkin.address: "zipkin" is not HOST:PORT`},
		{"a bootstrap's TLS", "defaultConfig: {tracing: {zipkin: {address: a.example:9411}, tlsSettings: {mode: SIMPLE}}}", "", true, "defaultConfig.tracing.tlsSettings: not supported yet by this build"},
		{"a bootstrap's Datadog", "defaultConfig: {tracing: {datadog: {address: a.example:8126}}}", "", false, "warning: mesh.yaml:1: MeshConfig/istio-system/istio: defaultConfig.tracing: not supported yet by this build"},
		{"HOST_IP", `defaultConfig: {tracing: {zipkin: {address: "$(HOST_IP):9411"}}}`, "", true, "the environment variable HOST_IP, which isn't set"},
		{"other fields", "defaultConfig: {concurrency: 2, tracing: {sampling: 5}}\ndefaultProviders: {accessLogging: [envoy]}", "", false, "mesh.yaml:1: MeshConfig/istio-system/istio: defaultConfig.concurrency: not supported yet"},
		{"other default providers", "defaultProviders: {accessLogging: [envoy, loki], metrics: [prometheus]}", "", false, `defaultProviders.accessLogging[1]: there is no access log provider "loki"`},
		{"other metrics", "defaultProviders: {metrics: [q]}", "", false, "warning: mesh.yaml:1: MeshConfig/istio-system/istio: defaultProviders.metrics: there is no extension provider q"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, m, said := traced(t, c.mesh, c.spec, Options{LookupEnv: func(string) (string, bool) { return "", false }})
			if refused := r == nil; refused != c.refused {
				t.Errorf("refused: %v", refused)
			}
			if !strings.Contains(said, c.want) || strings.Contains(said, "warning: "+c.want) && c.refused {
				t.Errorf("said:\n%swant:\n%s", said, c.want)
			}
			if c.refused {
				return
			}
			if lost := strings.Contains(said, "no spans are sent"); lost && m != nil {
				t.Errorf("spans are sent: %v", m)
			}
			if err := m.ValidateAll(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTracingQuiet: nothing is said of what works, of providers that nobody names, and of
// a direction that nobody traces.
func TestTracingQuiet(t *testing.T) {
	unused := traceProviders + "- {name: bad, zipkin: {service: nowhere, port: 1, timeout: 0s}}\n"
	for _, c := range []struct{ mesh, spec string }{
		{"", ""},
		{"enableTracing: false", ""},
		{"defaultConfig: {tracing: {sampling: 50}}", ""},
		{unused, byProvider("zipkin-all")},
		{unused, byProvider("otel-grpc")},
		{unused, byProvider("otel-http")},
		{unused, byProvider("dynatrace-other")},
		{unused, "{tracing: [{match: {mode: CLIENT}, providers: [{name: zipkin}]}, {match: {mode: SERVER}, providers: [{name: bad}], disableSpanReporting: true}]}"},
		{"defaultProviders: {tracing: [zipkin], metrics: [prometheus]}" + traceProviders, "{tracing: [{randomSamplingPercentage: 5}]}"},
	} {
		_, m, said := traced(t, c.mesh, c.spec, Options{})
		if tracer := c.spec != "" || strings.Contains(c.mesh, "defaultProviders"); tracer != (m != nil) {
			t.Errorf("%s of %s: told %v", c.spec, c.mesh, m)
		}
		for line := range strings.Lines(said) {
			if !strings.Contains(line, "has no endpoints") && !strings.Contains(line, "--listen") {
				t.Errorf("%s of %s: %s", c.spec, c.mesh, line)
			}
		}
	}
}

// TestTracingDefaults: what istiod leaves to others, and what only a proxy by itself needs.
func TestTracingDefaults(t *testing.T) {
	otlp := &tracev3.OpenTelemetryConfig{}
	_, m, _ := traced(t, "extensionProviders: [{name: p, opentelemetry: {service: otel.tracing.svc.cluster.local, port: 4318, http: {path: /v1/traces}}}]", byProvider("p"), Options{})
	if err := m.GetProvider().GetTypedConfig().UnmarshalTo(otlp); err != nil {
		t.Fatal(err)
	}
	if d := otlp.GetHttpService().GetHttpUri().GetTimeout(); d.AsDuration() != 3*time.Second {
		t.Errorf("a collector has %v to answer", d)
	}

	zipkin := &tracev3.ZipkinConfig{}
	_, m, _ = traced(t, "extensionProviders: [{name: p, zipkin: {"+zipkinService+", headers: [{name: authorization, envName: TOKEN}]}}]", byProvider("p"),
		Options{LookupEnv: func(name string) (string, bool) { return "secret of " + name, true }})
	if err := m.GetProvider().GetTypedConfig().UnmarshalTo(zipkin); err != nil {
		t.Fatal(err)
	}
	if h := zipkin.GetCollectorService().GetRequestHeadersToAdd(); len(h) != 1 || h[0].Header.Value != "secret of TOKEN" {
		t.Errorf("headers: %v", h)
	}
}

// TestTracingBootstrap: the tracer that Istio's agent would put into the bootstrap.
func TestTracingBootstrap(t *testing.T) {
	env := func(name string) (string, bool) { return "10.1.2.3", name == "HOST_IP" }
	for _, c := range []struct {
		address, cluster, host string // host is the cluster's, when it is one of DNS
	}{
		{"zipkin.tracing:9411", "outbound|9411||zipkin.tracing.svc.cluster.local", ""},
		{"zipkin.tracing.svc.cluster.local:9411", "outbound|9411||zipkin.tracing.svc.cluster.local", ""},
		{"zipkin.tracing:9412", "zipkin", "zipkin.tracing"}, // a port that the service doesn't have
		{"zipkin.example.com:80", "zipkin", "zipkin.example.com"},
		{"127.0.0.1:9411", "zipkin", "127.0.0.1"},
		{"$(HOST_IP):9411", "zipkin", "10.1.2.3"},
	} {
		t.Run(c.address, func(t *testing.T) {
			r, m, said := traced(t, `defaultConfig: {tracing: {zipkin: {address: "`+c.address+`"}}}`, "", Options{LookupEnv: env})
			if r == nil {
				t.Fatal(said)
			}
			config := &tracev3.ZipkinConfig{}
			if err := m.GetProvider().GetTypedConfig().UnmarshalTo(config); err != nil {
				t.Fatal(err)
			}
			if config.CollectorCluster != c.cluster || config.CollectorEndpoint != "/api/v2/spans" || !config.TraceId_128Bit || config.SharedSpanContext.GetValue() {
				t.Errorf("tracer %v", config)
			}
			cluster := r.clusterOf(c.cluster)
			if cluster == nil {
				t.Fatal("there is no such cluster")
			}
			if c.host == "" {
				return
			}
			at := cluster.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress()
			if at.GetAddress() != c.host || cluster.GetType() != clusterv3.Cluster_STRICT_DNS {
				t.Errorf("the cluster is %v", cluster)
			}
		})
	}
	// A Sidecar that doesn't name the service doesn't hide it.
	r, problems := Translate(load(t, collectors+`
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: a, namespace: default}
spec: {egress: [{hosts: ["./*"]}]}
`), Options{HTTPAddr: "127.0.0.1:15080", MeshConfig: loadMesh(t, `defaultConfig: {tracing: {zipkin: {address: "zipkin.tracing:9411"}}}`)})
	if r == nil || r.clusterOf("outbound|9411||zipkin.tracing.svc.cluster.local") == nil || r.clusterOf("zipkin") != nil {
		t.Errorf("no cluster of the service:\n%s", describe(problems))
	}
	// A Telemetry takes its place, as in istiod.
	_, m, _ := traced(t, `defaultConfig: {tracing: {zipkin: {address: "127.0.0.1:9411"}}}`, "{tracing: [{disableSpanReporting: true}]}", Options{})
	if m != nil {
		t.Errorf("traced: %v", m)
	}
}

// TestIdentity: how the proxy is named, by labels, workload and MeshConfig.
func TestIdentity(t *testing.T) {
	l := func(pairs ...string) map[string]string {
		out := make(map[string]string)
		for i := 0; i < len(pairs); i += 2 {
			out[pairs[i]] = pairs[i+1]
		}
		return out
	}
	for _, c := range []struct {
		name                             string
		labels                           map[string]string
		workload, mesh                   string
		cluster, service, revision, otel string
	}{
		{"nothing", nil, "", "", "istio-proxy.shop", "unknown", "latest", "unknown_service"},
		{"app", l("app", "cart", "version", "v2"), "w", "", "cart.shop", "cart", "v2", "w"},
		{"workload", nil, "w", "", "w.shop", "w", "latest", "w"},
		{"all labels", l("app", "a", "app.kubernetes.io/name", "n", "service.istio.io/canonical-name", "c", "app.kubernetes.io/instance", "i",
			"version", "1", "app.kubernetes.io/version", "2", "service.istio.io/canonical-revision", "3"), "w", "", "a.shop", "c", "3", "i"},
		{"recommended labels", l("app.kubernetes.io/name", "n", "app.kubernetes.io/version", "2"), "", "", "n.shop", "n", "2", "n"},
		{"service cluster", l("app", "cart"), "", "serviceCluster: mine", "mine", "cart", "latest", "unknown_service"},
		{"the default one", l("app", "cart"), "", "serviceCluster: istio-proxy", "cart.shop", "cart", "latest", "unknown_service"},
		{"by label", l("app", "cart"), "", "tracingServiceName: APP_LABEL_AND_NAMESPACE", "cart.shop", "cart", "latest", "unknown_service"},
		{"canonical", l("app", "cart"), "", "tracingServiceName: CANONICAL_NAME_ONLY", "cart", "cart", "latest", "unknown_service"},
		{"canonical, unnamed", nil, "", "tracingServiceName: CANONICAL_NAME_ONLY", "istio-proxy.shop", "unknown", "latest", "unknown_service"},
		{"canonical and namespace", nil, "w", "tracingServiceName: CANONICAL_NAME_AND_NAMESPACE", "w.shop", "w", "latest", "w"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mesh := `defaultConfig: {tracing: {zipkin: {address: "zipkin.tracing:9411"}}`
			if c.mesh != "" {
				mesh += ", " + c.mesh
			}
			mesh += "}"
			o := Options{Namespace: "shop", Labels: c.labels, WorkloadName: c.workload}
			r, m, _ := traced(t, mesh, "", o)
			if r.ServiceCluster != c.cluster {
				t.Errorf("ServiceCluster %q", r.ServiceCluster)
			}
			for _, tag := range m.CustomTags {
				want, ok := map[string]string{"istio.canonical_service": c.service, "istio.canonical_revision": c.revision, "istio.namespace": "shop", "istio.mesh_id": "cluster.local"}[tag.Tag]
				if ok && tag.GetLiteral().GetValue() != want {
					t.Errorf("%s is %q, want %q", tag.Tag, tag.GetLiteral().GetValue(), want)
				}
			}
			if got := o.otelServiceName(); got != c.otel {
				t.Errorf("otelServiceName %q", got)
			}
		})
	}
}

// TestPrometheusNames: Telemetry has no metric that isn't known by its name.
func TestPrometheusNames(t *testing.T) {
	known := prometheusNames()
	for name := range telemetryapi.MetricSelector_IstioMetric_value {
		if _, ok := known[name]; !ok && name != "ALL_METRICS" {
			t.Errorf("%s is missing", name)
		}
	}
	if len(known) != len(telemetryapi.MetricSelector_IstioMetric_value)-1 {
		t.Error("there are others")
	}
}
