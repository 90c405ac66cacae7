// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net"
	nethttp "net/http"
	"os"
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/proxytest"
)

// TestTracingErrors: what can't be served as it says is refused with its place, and what
// only makes spans say less is warned of.
func TestTracingErrors(t *testing.T) {
	compile := func(tracing, route string) (*Snapshot, error) {
		l := &listenerv3.Listener{}
		fromYAML(t, strings.ReplaceAll(httpListener("tracing: {"+tracing+"}", "", `{match: {prefix: /}, `+route+` route: {cluster: up}}`), "path: LOG", "path: "+os.DevNull), l)
		c := NewCompiler(Env{})
		defer c.Close()
		return c.Compile(&Resources{Listeners: []*listenerv3.Listener{l}})
	}
	const provider = `provider: {typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.`
	const web = provider + `OpenTelemetryConfig, http_service: {http_uri: {cluster: c, timeout: 1s, `
	for _, c := range []struct{ tracing, route, want string }{
		{`custom_tags: [{tag: a}]`, "", "custom_tags[0].type: one is needed"},
		{`custom_tags: [{tag: a, literal: {value: b}}, {tag: c, value: "%NO%"}]`, "", "custom_tags[1].value: offset 0: unknown operator"},
		{`custom_tags: [{tag: "", literal: {value: b}}]`, "", "custom_tags[0].tag: is needed"},
		{`custom_tags: [{tag: a, request_header: {}}]`, "", "custom_tags[0].request_header.name: is needed"},
		{`custom_tags: [{tag: a, environment: {}}]`, "", "custom_tags[0].environment.name: is needed"},
		{`custom_tags: [{tag: a, metadata: {metadata_key: {path: [{key: a}]}}}]`, "", "custom_tags[0].metadata.metadata_key.key: is needed"},
		{`operation: "%REQ(%"`, "", "operation: offset 0: "},
		{`upstream_operation: "%"`, "", "upstream_operation: offset 0: "},
		{provider + `OpenTelemetryConfig}}`, "", "provider.typed_config.grpc_service: is needed"},
		{web + `uri: ""}}}}`, "", `provider.typed_config.http_service.http_uri.uri: "" has no host`},
		{web + `uri: a}, request_headers_to_add: [{header: {key: "a b", value: c}}]}}}`, "", `provider.typed_config.http_service.request_headers_to_add[0].header.key: "a b" is no header name`},
		{web + `uri: a}, request_headers_to_add: [{header: {key: a, value: "%NO%"}}]}}}`, "", `provider.typed_config.http_service.request_headers_to_add[0].header.value: offset 0`},
		{web + `uri: a}, request_headers_to_add: [{header: {key: a, value: "b\n"}}]}}}`, "", `provider.typed_config.http_service.request_headers_to_add[0].header.value: holds a control`},
		{web + `uri: a}, formatters: [{name: x}]}}}`, "", `provider.typed_config.http_service.formatters: is not supported`},
		{provider + `ZipkinConfig, collector_cluster: c, collector_endpoint: a, collector_endpoint_version: HTTP_JSON}}`, "", `provider.typed_config.collector_endpoint: "a" is no path`},
		{provider + `ZipkinConfig, timestamp_trace_ids: true}}`, "", `provider.typed_config.timestamp_trace_ids: is not supported`},
		{"", `tracing: {custom_tags: [{tag: a}]},`, "custom_tags[0].type: one is needed"},
		{"", `tracing: {operation: "%NO%"},`, "operation: offset 0"},
	} {
		_, err := compile(c.tracing, c.route)
		place := "filter_chains[0].filters[0].tracing."
		if c.route != "" {
			place = "virtual_hosts[0].routes[0].tracing: "
		}
		if err == nil || !strings.Contains(err.Error(), place+c.want) {
			t.Errorf("%s %s\n\tgave %v, want %s", c.tracing, c.route, err, place+c.want)
		}
	}
	for tracing, want := range map[string]string{
		provider + `SkyWalkingConfig, grpc_service: {envoy_grpc: {cluster_name: a}}}}`:                                                                                                "tracing: envoy.config.trace.v3.SkyWalkingConfig is not supported, no spans are sent",
		`custom_tags: [{tag: a, metadata: {kind: {host: {}}, metadata_key: {key: k, path: [{key: p}]}}}]`:                                                                             "tracing: the tag a is of metadata of hosts, which isn't kept; it has its default value",
		provider + `OpenTelemetryConfig, grpc_service: {envoy_grpc: {cluster_name: a}}, sampler: {typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig}}}}`: "tracing: sampler: envoy.config.trace.v3.ZipkinConfig is not supported, the connection manager's shares decide",
	} {
		snap, err := compile(tracing, "")
		if err != nil || !slices.Contains(snap.Warnings, want) {
			t.Errorf("%s: %v, warnings %q, want %q", tracing, err, snap.Warnings, want)
		}
	}
}

// TestReportersAreShared: connection managers that have the same provider share its
// batches, also over a change of configuration.
func TestReportersAreShared(t *testing.T) {
	c := NewCompiler(Env{})
	defer c.Close()
	any, err := anypb.New(&tracev3.ZipkinConfig{CollectorCluster: "c", CollectorEndpoint: "/", CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_JSON})
	if err != nil {
		t.Fatal(err)
	}
	a := c.reporter(any, &c.env.Reporters.Zipkin, 0, nil)
	if b := c.reporter(any, &c.env.Reporters.Zipkin, 0, nil); b != a {
		t.Error("a reporter of its own")
	}
}

// ownTracing serves a listener by us alone.
func ownTracing(t *testing.T, more string) *tracingSide {
	t.Helper()
	side := &tracingSide{collector: newCollector(t), seen: map[string]nethttp.Header{}, answer: map[string]nethttp.Header{}}
	r := serveTCP(t, "traffic_direction: OUTBOUND\n"+httpListener("tracing: {"+more+"custom_tags: "+tracedTags+", provider: "+otlpOverGRPC+"}", "", tracedRoutes),
		tcpCluster("up", overHTTP2, origin(t, side.host)), tcpCluster("down", "", refusing(t)),
		tcpCluster("collector1", "", side.collector.addr), tcpCluster("collector2", overHTTP2, side.collector.addr))
	side.judge = judge{name: "ours", addr: r.addr}
	return side
}

// TestTracingIsTheSameOverHTTP2: requests that are relayed between two HTTP/2 connections
// leave the spans that the same requests over HTTP/1 leave.
func TestTracingIsTheSameOverHTTP2(t *testing.T) {
	for name, more := range map[string]string{"plain": "verbose: true, ", "with tries": "spawn_upstream_span: true, "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := ownTracing(t, more), ownTracing(t, more)
			two.client = &nethttp.Transport{Protocols: onlyHTTP2()}
			marks := []string{"plain", "operation", "answered", "direct", "retried", "refused", "grpc", "grpc-failed", "w3c", "w3c-not", "never"}
			for _, mark := range marks {
				one.send(t, mark, tracedRequests[mark])
				two.send(t, mark, tracedRequests[mark])
			}
			for _, mark := range marks {
				r := tracedRequests[mark]
				n := r.spans
				if name != "plain" && n > 0 {
					n += r.tries
				}
				want, got := one.story(t, mark, n), two.story(t, mark, n)
				want, got = one.told(mark)+"\n"+want, two.told(mark)+"\n"+got
				want = strings.ReplaceAll(want, "http.protocol=HTTP/1.1", "http.protocol=HTTP/2")
				got = strings.ReplaceAll(got, "http.protocol=HTTP/1.1", "http.protocol=HTTP/2")
				if got != want {
					t.Errorf("%s: over HTTP/1\n%s\nover HTTP/2\n%s", mark, want, got)
				}
			}
		})
	}
}

// TestBrokenTraceparent: a trace that can't be told from others begins anew, and what
// belongs to it is forgotten (W3C Trace Context section 4.3). Envoy passes it on, and
// records nothing.
func TestBrokenTraceparent(t *testing.T) {
	t.Parallel()
	side := ownTracing(t, "")
	for mark, parent := range map[string]string{
		"short": "00-xx", "version": "ff-" + inTrace + "-" + inSpan + "-01", "zero": "00-00000000000000000000000000000000-" + inSpan + "-01",
	} {
		side.send(t, mark, tracedRequest{path: "/", fields: []string{"traceparent", parent, "tracestate", "a=b"}})
		story := side.story(t, mark, 1)
		if got, want := side.told(mark), "Traceparent: 00-(new trace)-(our span)-01\nX-Request-Id: reason 9"; got != want {
			t.Errorf("%s: the host is told\n%s\nwant\n%s", mark, got, want)
		}
		if !strings.Contains(story, `id (our span) parent "" state ""`) {
			t.Errorf("%s: %s", mark, story)
		}
	}
}

// TestRouterAsksForSpans: Istio's gateways ask by the terminal filter, too.
func TestRouterAsksForSpans(t *testing.T) {
	for fields, want := range map[string]bool{"": false, ", start_child_span: true": true} {
		l := &listenerv3.Listener{}
		text := httpListener("tracing: {provider: "+zipkinJSON+"}", "", `{match: {prefix: /}, route: {cluster: up}}`)
		fromYAML(t, strings.NewReplacer("path: LOG", "path: "+os.DevNull, "http.router.v3.Router", "http.router.v3.Router"+fields).Replace(text), l)
		c := NewCompiler(Env{})
		defer c.Close()
		snap, err := c.Compile(&Resources{Listeners: []*listenerv3.Listener{l}})
		if err != nil {
			t.Fatal(err)
		}
		if got := snap.Listeners["l"].Chains[0].HCM.Tracing.Upstream; got != want {
			t.Errorf("%q: spans of tries %t", fields, got)
		}
	}
}

// TestNobodyCollects: what no collector gets costs no request anything.
func TestNobodyCollects(t *testing.T) {
	l := &listenerv3.Listener{}
	fromYAML(t, strings.ReplaceAll(httpListener("tracing: {random_sampling: {value: 100}}", "", `{match: {prefix: /}, route: {cluster: up}}`), "path: LOG", "path: "+os.DevNull), l)
	c := NewCompiler(Env{})
	defer c.Close()
	snap, err := c.Compile(&Resources{Listeners: []*listenerv3.Listener{l}})
	if err != nil || len(snap.Warnings) > 0 {
		t.Fatal(err, snap.Warnings)
	}
	if got := snap.Listeners["l"].Chains[0].HCM.Tracing; got != nil {
		t.Errorf("requests are traced: %+v", got)
	}
}

// answering is a host that answers whatever it reads, and allocates nothing.
func answering(nc *net.TCPConn) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
	p := make([]byte, 64<<10)
	for {
		if _, err := nc.Read(p); err != nil {
			return
		}
		if _, err := nc.Write(answer); err != nil {
			return
		}
	}
}

// tracedExchange returns a function that carries one traced request.
func tracedExchange(t testing.TB, tracing string) func() {
	t.Helper()
	r := serveTCP(t, "traffic_direction: OUTBOUND\n"+strings.Replace(httpListener("tracing: {"+tracing+", provider: "+otlpOverHTTP+"}", "",
		`{match: {prefix: /}, decorator: {operation: "reviews:9080/*"}, route: {cluster: up}}`), "path: LOG", "path: "+os.DevNull, 1),
		tcpCluster("up", "", tcpOrigin(t, answering)), tcpCluster("collector1", "", tcpOrigin(t, answering)))
	nc, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	request := []byte("GET /x HTTP/1.1\r\nHost: reviews\r\nUser-Agent: test\r\ntraceparent: 00-" + inTrace + "-" + inSpan + "-01\r\n\r\n")
	in := make([]byte, 4096)
	return func() {
		if _, err := nc.Write(request); err != nil {
			t.Fatal(err)
		}
		if n, err := nc.Read(in); err != nil || string(in[:15]) != "HTTP/1.1 200 OK" {
			t.Fatalf("%q %v", in[:n], err)
		}
	}
}

// TestTracingAllocatesNothing: neither a request that isn't recorded nor one that is.
func TestTracingAllocatesNothing(t *testing.T) {
	for _, tracing := range []string{"random_sampling: {value: 0}", "random_sampling: {value: 100}", "spawn_upstream_span: true"} {
		exchange := tracedExchange(t, tracing)
		for range 300 { // batches have memory
			exchange()
		}
		proxytest.NoAllocs(t, tracing, exchange)
	}
}

func BenchmarkTraced(b *testing.B) {
	for _, tracing := range []string{"random_sampling: {value: 0}", "random_sampling: {value: 100}", "spawn_upstream_span: true"} {
		b.Run(tracing, func(b *testing.B) {
			exchange := tracedExchange(b, tracing)
			b.ReportAllocs()
			for b.Loop() {
				exchange()
			}
		})
	}
}
