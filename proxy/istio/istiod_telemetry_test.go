// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	fileaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/istio/source"
	"pillion/test/lab"
)

// telemetryFile is what a real istiod sends for telemetryGroups, by group and case.
// TestIstiodTelemetry makes it anew with -update.
const telemetryFile = "testdata/istiod/telemetry.json"

// observed is what a listener is told of traces, metrics and access logs.
type observed struct {
	Tracing   any   `json:"tracing,omitempty"`
	RequestID any   `json:"requestIdExtension,omitempty"`
	Stats     []any `json:"stats,omitempty"`
	// NetworkStats are those of connections that aren't HTTP, of the inbound side alone.
	NetworkStats []any `json:"networkStats,omitempty"`
	// Logs are the access logs of requests, ListenerLogs those of the listener itself.
	Logs         []string `json:"logs,omitempty"`
	ListenerLogs []string `json:"listenerLogs,omitempty"`
}

// told is what a proxy is: its listeners by "outbound", "inbound" and "gateway", and the
// operations of a gateway's routes.
type told struct {
	Listeners  map[string]observed `json:"listeners"`
	Operations []string            `json:"operations,omitempty"`
}

// telemetryGroup is cases that share a MeshConfig and a Telemetry of the root namespace.
type telemetryGroup struct {
	name, mesh, root string
	cases            []telemetryCase
}

// telemetryCase has the Telemetry resources of a proxy's namespace, which is the case's
// own. The proxy has the labels of telemetryLabels.
type telemetryCase struct{ name, general, workload string }

var telemetryLabels = map[string]string{
	"app": "shop", "istio": "ingressgateway", "service.istio.io/canonical-name": "shop", "service.istio.io/canonical-revision": "v1", "app.kubernetes.io/instance": "shop-eu",
}

// collectors are the services that spans go to.
const collectors = `
apiVersion: v1
kind: Service
metadata: {name: zipkin, namespace: tracing}
spec: {clusterIP: 10.96.9.1, ports: [{name: http-zipkin, port: 9411}]}
---
apiVersion: v1
kind: Service
metadata: {name: otel, namespace: tracing}
spec: {clusterIP: 10.96.9.2, ports: [{name: grpc-otlp, port: 4317}, {name: http-otlp, port: 4318}]}
`

// shopGateway is a gateway with routes of all kinds.
const shopGateway = `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop, namespace: NAMESPACE}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: [NAMESPACE.example.com]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: NAMESPACE}
spec:
  hosts: [NAMESPACE.example.com]
  gateways: [shop]
  http:
  - match: [{uri: {prefix: /two}}]
    route: [{destination: {host: zipkin.tracing.svc.cluster.local}, weight: 50}, {destination: {host: otel.tracing.svc.cluster.local, port: {number: 4318}}, weight: 50}]
  - match: [{uri: {exact: /moved}}]
    redirect: {uri: /}
  - match: [{uri: {regex: "/a.*"}}]
    directResponse: {status: 200}
  - route: [{destination: {host: zipkin.tracing.svc.cluster.local}}]
`

// objects are the YAML of a case in a namespace.
func (c *telemetryCase) objects(namespace string) string {
	out := strings.ReplaceAll(shopGateway, "NAMESPACE", namespace)
	if c.general != "" {
		out += telemetryYAML(namespace, "general", c.general)
	}
	if c.workload != "" {
		out += telemetryYAML(namespace, "workload", c.workload)
	}
	return out
}

func (g *telemetryGroup) common() string {
	if g.root == "" {
		return collectors
	}
	return collectors + telemetryYAML("istio-system", "root", g.root)
}

// caseNamespace is the namespace of a group's case.
func caseNamespace(i int) string { return fmt.Sprintf("case-%02d", i) }

// observe reads what a listener and its connection manager are told.
func observe(t *testing.T, l *listenerv3.Listener) observed {
	t.Helper()
	m := managersOf(t, l)[0]
	out := observed{RequestID: generic(t, m.RequestIdExtension), Logs: describeLogs(t, m.AccessLog), ListenerLogs: describeLogs(t, l.AccessLog)}
	if m.Tracing != nil {
		out.Tracing = generic(t, m.Tracing)
	}
	for _, f := range m.HttpFilters {
		if f.Name == filterStats {
			out.Stats = append(out.Stats, generic(t, f.GetTypedConfig()))
		}
	}
	return out
}

// observeInbound reads what an inbound listener is told, for requests and for bytes.
func observeInbound(t *testing.T, l *listenerv3.Listener) observed {
	t.Helper()
	out := observe(t, l)
	for _, c := range l.FilterChains {
		if c.FilterChainMatch.GetTransportProtocol() != "raw_buffer" || len(c.FilterChainMatch.GetApplicationProtocols()) > 0 ||
			!slices.ContainsFunc(c.Filters, func(f *listenerv3.Filter) bool { return f.Name == filterMetadataExchange }) {
			continue
		}
		for _, f := range c.Filters {
			if f.Name == filterStats {
				out.NetworkStats = append(out.NetworkStats, generic(t, f.GetTypedConfig()))
			}
		}
		return out
	}
	t.Errorf("%s takes no bytes", l.Name)
	return out
}

// describeLogs are access logs as a person would write them: where they go, and for what.
func describeLogs(t *testing.T, logs []*accesslogv3.AccessLog) (out []string) {
	t.Helper()
	for _, l := range logs {
		file := &fileaccesslogv3.FileAccessLog{}
		if err := l.GetTypedConfig().UnmarshalTo(file); err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.TrimSpace(file.Path+" "+describeLogFilter(t, l.Filter)))
	}
	return out
}

// describeLogFilter writes a filter in CEL, in which istiod leaves it.
func describeLogFilter(t *testing.T, f *accesslogv3.AccessLogFilter) string {
	t.Helper()
	switch f := f.GetFilterSpecifier().(type) {
	case nil:
		return ""
	case *accesslogv3.AccessLogFilter_ResponseFlagFilter:
		return strings.Join(f.ResponseFlagFilter.Flags, ",")
	case *accesslogv3.AccessLogFilter_AndFilter:
		var parts []string
		for _, part := range f.AndFilter.Filters {
			parts = append(parts, describeLogFilter(t, part))
		}
		return strings.Join(parts, " && ")
	case *accesslogv3.AccessLogFilter_StatusCodeFilter:
		c := f.StatusCodeFilter.Comparison
		op := map[accesslogv3.ComparisonFilter_Op]string{accesslogv3.ComparisonFilter_GE: ">=", accesslogv3.ComparisonFilter_LE: "<=", accesslogv3.ComparisonFilter_EQ: "==", accesslogv3.ComparisonFilter_NE: "!="}[c.Op]
		return fmt.Sprintf("response.code %s %d", op, c.Value.DefaultValue)
	case *accesslogv3.AccessLogFilter_ExtensionFilter:
		cel := &celv3.ExpressionFilter{}
		if err := f.ExtensionFilter.GetTypedConfig().UnmarshalTo(cel); err != nil {
			t.Fatal(err)
		}
		return cel.Expression
	}
	t.Fatalf("unknown filter %v", f)
	return ""
}

// operations lists what the spans of the routes for a case's host are of. A gateway of
// istiod's serves all namespaces.
func operations(config *routev3.RouteConfiguration, namespace string) []string {
	var out []string
	for _, vh := range config.VirtualHosts {
		if vh.Name != namespace+".example.com:8080" {
			continue
		}
		for _, r := range vh.Routes {
			out = append(out, r.GetDecorator().GetOperation())
		}
	}
	return out
}

// TestTelemetryLikeIstiod compares what listeners are told with what a real istiod told
// them for the same resources.
func TestTelemetryLikeIstiod(t *testing.T) {
	text, err := os.ReadFile(telemetryFile)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]told
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	for _, g := range telemetryGroups {
		for i, c := range g.cases {
			name := g.name + "/" + c.name
			t.Run(name, func(t *testing.T) {
				w, ok := want[name]
				if !ok || len(w.Listeners) != 3 {
					t.Fatalf("%s doesn't have it", telemetryFile)
				}
				got := tellOurs(t, &g, &c, caseNamespace(i))
				for listener, want := range w.Listeners {
					have := got.Listeners[listener]
					if m, ok := want.Tracing.(map[string]any); ok && m["provider"] == nil {
						// It is the bootstrap's, which there is none of here.
						if ours, ok := have.Tracing.(map[string]any); ok {
							delete(ours, "provider")
						} else if !strings.HasPrefix(g.name, "bootstrap") {
							want.Tracing = nil // there is no tracer
						}
					}
					same(t, listener, anyOf(t, want), anyOf(t, have))
				}
				if !slices.Equal(w.Operations, got.Operations) {
					t.Errorf("operations %q, istiod's are %q", got.Operations, w.Operations)
				}
			})
		}
	}
}

func anyOf(t *testing.T, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// loadMesh reads a MeshConfig from text.
func loadMesh(t testing.TB, text string) *source.Object {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	obj, problems := source.LoadMeshConfig(path)
	if obj == nil {
		t.Fatalf("the MeshConfig is refused:\n%s", describe(problems))
	}
	return obj
}

// logFile is the accessLogFile of a group, for which the lab's mesh has one.
func logFile(g *telemetryGroup) string {
	if strings.Contains(g.mesh, "accessLogFile") {
		return ""
	}
	return stdout
}

// tellOurs is what the translation tells.
func tellOurs(t *testing.T, g *telemetryGroup, c *telemetryCase, namespace string) told {
	t.Helper()
	r, problems := Translate(load(t, g.common()+"\n---\n"+c.objects(namespace)), Options{
		Namespace: namespace, Labels: telemetryLabels, ClusterID: lab.ClusterID, MeshConfig: loadMesh(t, g.mesh), Identity: true, AccessLogFile: logFile(g),
		HTTPAddr: "127.0.0.1:15007", Inbound: []string{"127.0.0.1:18080=127.0.0.1:8081"},
	})
	if r == nil {
		t.Fatalf("refused:\n%s", describe(problems))
	}
	out := told{Listeners: make(map[string]observed)}
	for _, l := range r.Listeners {
		switch l.Name {
		case "127.0.0.1_15007":
			out.Listeners["outbound"] = observe(t, l)
		case "0.0.0.0_8080":
			out.Listeners["gateway"] = observe(t, l)
		case "127.0.0.1_18080":
			out.Listeners["inbound"] = observeInbound(t, l)
		}
	}
	for _, rc := range r.Routes {
		if rc.Name == "http.8080" {
			out.Operations = operations(rc, namespace)
		}
	}
	checkCollectors(t, r)
	return out
}

// checkCollectors: the clusters that spans are sent to are there.
func checkCollectors(t *testing.T, r *Resources) {
	t.Helper()
	for _, l := range r.Listeners {
		for _, m := range managersOf(t, l) {
			p := m.GetTracing().GetProvider()
			if p == nil {
				continue
			}
			text := fmt.Sprint(generic(t, p))
			if !slices.ContainsFunc(r.Clusters, func(c *clusterv3.Cluster) bool {
				return strings.Contains(text, ":"+c.GetName()+" ") || strings.Contains(text, ":"+c.GetName()+"]")
			}) {
				t.Errorf("%s: no cluster for %s", l.Name, text)
			}
		}
	}
}

// managersOf are the connection managers of a listener.
func managersOf(t *testing.T, l *listenerv3.Listener) []*hcmv3.HttpConnectionManager {
	t.Helper()
	var out []*hcmv3.HttpConnectionManager
	for _, c := range l.FilterChains {
		for _, f := range c.Filters {
			if f.Name != filterHCM {
				continue
			}
			m := &hcmv3.HttpConnectionManager{}
			if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
				t.Fatal(err)
			}
			out = append(out, m)
		}
	}
	return out
}

// TestIstiodTelemetry asks a real istiod, one for each group: what it sends is what
// telemetryFile has.
func TestIstiodTelemetry(t *testing.T) {
	all := make(map[string]told)
	for _, g := range telemetryGroups {
		objects := []string{g.common()}
		for i, c := range g.cases {
			objects = append(objects, c.objects(caseNamespace(i)))
		}
		l := lab.Start(t, lab.Options{Mesh: g.mesh, Objects: objects})
		for i, c := range g.cases {
			all[g.name+"/"+c.name] = tellTheirs(t, l.Ports.XDS, caseNamespace(i))
		}
		l.Close()
	}
	compare(t, strings.TrimPrefix(telemetryFile, "testdata/"), byLine(t, all))
}

// byLine writes a line for each case: whole, the file would be long.
func byLine(t *testing.T, all map[string]told) []byte {
	t.Helper()
	out := []byte("{\n")
	for i, name := range sortedKeys(all) {
		text, err := json.Marshal(all[name])
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			out = append(out, ",\n"...)
		}
		out = append(out, fmt.Sprintf("%q: %s", name, text)...)
	}
	return append(out, "\n}\n"...)
}

// tellTheirs is what istiod tells a sidecar and a gateway of a namespace.
func tellTheirs(t *testing.T, xds, namespace string) told {
	t.Helper()
	out := told{Listeners: make(map[string]observed)}
	sidecar := dialIstiod(t, xds, "sidecar", namespace)
	for _, body := range sidecar.ask(t, "envoy.config.listener.v3.Listener") {
		l := &listenerv3.Listener{}
		if err := proto.Unmarshal(body, l); err != nil {
			t.Fatal(err)
		}
		switch l.Name {
		case "127.0.0.1_15007":
			out.Listeners["outbound"] = observe(t, l)
		case "virtualInbound":
			out.Listeners["inbound"] = observeInbound(t, l)
		}
	}
	gateway := dialIstiod(t, xds, "router", namespace)
	for _, body := range gateway.ask(t, "envoy.config.listener.v3.Listener") {
		l := &listenerv3.Listener{}
		if err := proto.Unmarshal(body, l); err != nil {
			t.Fatal(err)
		}
		out.Listeners["gateway"] = observe(t, l)
	}
	for _, body := range gateway.ask(t, "envoy.config.route.v3.RouteConfiguration", "http.8080") {
		rc := &routev3.RouteConfiguration{}
		if err := proto.Unmarshal(body, rc); err != nil {
			t.Fatal(err)
		}
		out.Operations = operations(rc, namespace)
	}
	return out
}

// istiodStream is a proxy's connection to istiod.
type istiodStream struct {
	stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	node   *corev3.Node
}

// dialIstiod connects a proxy of a kind, with the labels of telemetryLabels.
func dialIstiod(t *testing.T, address, kind, namespace string) *istiodStream {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	labels := make(map[string]any)
	for k, v := range telemetryLabels {
		labels[k] = v
	}
	metadata, err := structpb.NewStruct(map[string]any{
		"NAMESPACE": namespace, "LABELS": labels, "CLUSTER_ID": lab.ClusterID, "MESH_ID": lab.TrustDomain, "ISTIO_VERSION": "1.31.0",
		"HTTP_PROXY_PORT": "15007", "INSTANCE_IPS": "10.1.0.1", "INTERCEPTION_MODE": "REDIRECT",
	})
	if err != nil {
		t.Fatal(err)
	}
	return &istiodStream{stream, &corev3.Node{
		Id: kind + "~10.1.0.1~shop." + namespace + "~" + namespace + ".svc.cluster.local", Cluster: "shop." + namespace, Metadata: metadata,
	}}
}

// ask returns the bodies of the first answer about a type.
func (s *istiodStream) ask(t *testing.T, typeName string, names ...string) [][]byte {
	t.Helper()
	typeURL := "type.googleapis.com/" + typeName
	if err := s.stream.Send(&discoveryv3.DiscoveryRequest{Node: s.node, TypeUrl: typeURL, ResourceNames: names}); err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := s.stream.Recv()
		if err != nil {
			t.Fatalf("waiting for %s: %v", typeName, err)
		}
		if resp.TypeUrl != typeURL {
			continue
		}
		var out [][]byte
		for _, r := range resp.Resources {
			out = append(out, r.Value)
		}
		return out
	}
}
