// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"io"
	"maps"
	nethttp "net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	// The types of extensions in configurations.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/samplers/v3"
)

// Providers of tracing in YAML. They send to the clusters collector1 and collector2,
// which speak HTTP/1 and HTTP/2.
const (
	otlpOverGRPC = `{name: otel, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, service_name: web.shop,
      grpc_service: {envoy_grpc: {cluster_name: collector2}, timeout: 5s}}}`
	otlpOverHTTP = `{name: otel, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, service_name: web.shop,
      http_service: {http_uri: {uri: "http://otel/v1/traces", cluster: collector1, timeout: 5s}}}}`
	otlpAlways = `{name: otel, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, service_name: web.shop,
      grpc_service: {envoy_grpc: {cluster_name: collector2}, timeout: 5s},
      sampler: {name: s, typed_config: {"@type": type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3.AlwaysOnSamplerConfig}}}}`
	zipkinJSON = `{name: zipkin, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: collector1,
      collector_endpoint: /api/v2/spans, collector_endpoint_version: HTTP_JSON, trace_id_128bit: true, shared_span_context: false}}`
	zipkinShared = `{name: zipkin, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: collector1,
      collector_endpoint: /api/v2/spans, collector_endpoint_version: HTTP_JSON}}`
	zipkinBoth = `{name: zipkin, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: collector1,
      collector_endpoint: /api/v2/spans, collector_endpoint_version: HTTP_JSON, trace_id_128bit: true, trace_context_option: USE_B3_WITH_W3C_PROPAGATION}}`
)

// IDs that requests come with.
const (
	inTrace  = "0af7651916cd43dd8448eb211c80319c"
	inShort  = "a3ce929d0e0e4736"
	inSpan   = "b7ad6b7169203331"
	inParent = "05e3ac9a4f6e3b90"
)

// overHTTP2 has a cluster's hosts speak HTTP/2.
const overHTTP2 = `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}`

// tracedRequest is a request of the table.
type tracedRequest struct {
	path   string
	fields []string
	spans  int  // how many there have to be, without those of tries
	tries  int  // how many of tries, where those have spans
	b3     bool // its IDs are B3's; not for a provider of W3C
	w3c    bool // the other way round
	// unless: the sampler AlwaysOn records it.
	unless bool
	alone  bool // not where both are read
	// decided: Envoy doesn't read the decision that it comes with, x-b3-flags, and makes its
	// own.
	decided bool
	// anyway: somebody else has decided, so that our shares don't matter.
	anyway bool
}

var tracedRequests = map[string]tracedRequest{
	"plain":        {path: "/", spans: 1, tries: 1},
	"agent":        {path: "/a?b=c", fields: []string{"user-agent", "curl/8", "x-envoy-downstream-service-cluster", "front"}, spans: 1, tries: 1},
	"operation":    {path: "/operation?x=y", spans: 1, tries: 1},
	"kept":         {path: "/kept", spans: 1, tries: 1},
	"renamed":      {path: "/operation", fields: []string{"x-envoy-decorator-operation", "other:90/*"}, spans: 1, tries: 1},
	"answered":     {path: "/answered", spans: 1, tries: 1}, // the host names an operation of its own
	"direct":       {path: "/direct", spans: 1},
	"nowhere":      {path: "/nowhere", spans: 1}, // there is no such route
	"retried":      {path: "/retried", spans: 1, tries: 2},
	"refused":      {path: "/refused", spans: 1, tries: 1}, // nobody listens
	"rewritten":    {path: "/rewritten/a", spans: 1, tries: 1},
	"long":         {path: "/" + strings.Repeat("long", 100), spans: 1, tries: 1},
	"never":        {path: "/never", tries: 0}, // the route's share is none
	"tagged":       {path: "/tagged", fields: []string{"x-tag", "of the request"}, spans: 1, tries: 1},
	"grpc":         {path: "/pkg.Service/Method", fields: []string{"content-type", "application/grpc", "te", "trailers", "grpc-timeout", "5S"}, spans: 1, tries: 1},
	"grpc-failed":  {path: "/pkg.Service/Fails", fields: []string{"content-type", "application/grpc", "te", "trailers"}, spans: 1, tries: 1},
	"id-sampled":   {path: "/", fields: []string{"x-request-id", "12345678-1234-9234-9234-123456789012"}, spans: 1, tries: 1, anyway: true},
	"id-forced":    {path: "/never", fields: []string{"x-request-id", "12345678-1234-a234-9234-123456789012"}, spans: 1, tries: 1, anyway: true},
	"id-client":    {path: "/never", fields: []string{"x-request-id", "12345678-1234-b234-9234-123456789012"}, spans: 1, tries: 1, anyway: true},
	"id-new":       {path: "/", fields: []string{"x-request-id", "12345678-1234-4234-9234-123456789012"}, spans: 1, tries: 1},
	"id-no-uuid":   {path: "/", fields: []string{"x-request-id", "12345678hello"}, spans: 1, tries: 1},
	"id-no-number": {path: "/", fields: []string{"x-request-id", "hello"}},
	"client-trace": {path: "/never", fields: []string{"x-client-trace-id", "abc"}, spans: 1, tries: 1, anyway: true},
	"force":        {path: "/never", fields: []string{"x-envoy-force-trace", "true"}}, // which isn't the client's to say

	"w3c":       {path: "/", fields: []string{"traceparent", "00-" + inTrace + "-" + inSpan + "-01", "tracestate", "a=b,c=d"}, spans: 1, tries: 1, w3c: true},
	"w3c-not":   {path: "/", fields: []string{"traceparent", "00-" + inTrace + "-" + inSpan + "-00"}, w3c: true, unless: true},
	"w3c-other": {path: "/", fields: []string{"b3", "0"}, spans: 1, tries: 1, w3c: true, alone: true},

	"b3":           {path: "/", fields: []string{"x-b3-traceid", inTrace, "x-b3-spanid", inSpan, "x-b3-parentspanid", inParent, "x-b3-sampled", "1"}, spans: 1, tries: 1, b3: true, anyway: true},
	"b3-not":       {path: "/", fields: []string{"x-b3-traceid", inTrace, "x-b3-spanid", inSpan, "x-b3-sampled", "0"}, b3: true},
	"b3-short":     {path: "/", fields: []string{"x-b3-traceid", inShort, "x-b3-spanid", inSpan, "x-b3-sampled", "1"}, spans: 1, tries: 1, b3: true, anyway: true},
	"b3-undecided": {path: "/", fields: []string{"x-b3-traceid", inTrace, "x-b3-spanid", inSpan}, spans: 1, tries: 1, b3: true},
	"b3-debug":     {path: "/", fields: []string{"x-b3-traceid", inTrace, "x-b3-spanid", inSpan, "x-b3-flags", "1"}, spans: 1, tries: 1, b3: true, decided: true},
	"b3-only":      {path: "/", fields: []string{"x-b3-sampled", "0"}, b3: true},
	"b3-broken":    {path: "/", fields: []string{"x-b3-traceid", "zz", "x-b3-spanid", inSpan, "x-b3-sampled", "1"}, b3: true},
	"b3-1":         {path: "/", fields: []string{"b3", inTrace + "-" + inSpan + "-1-" + inParent}, spans: 1, tries: 1, b3: true, anyway: true},
	"b3-1-short":   {path: "/", fields: []string{"b3", inShort + "-" + inSpan + "-d"}, spans: 1, tries: 1, b3: true, anyway: true},
	"b3-1-not":     {path: "/", fields: []string{"b3", "0"}, b3: true},
	"b3-1-yes":     {path: "/never", fields: []string{"b3", "1"}, spans: 1, tries: 1, b3: true, anyway: true},
	"b3-1-broken":  {path: "/", fields: []string{"b3", "zz"}, b3: true},
}

// chosen reports whether the request is recorded though its ID isn't read.
func (r tracedRequest) chosen() bool {
	return r.path != "/never" || slices.Contains(r.fields, "x-client-trace-id")
}

const tracedRoutes = `
  {match: {path: /operation}, decorator: {operation: "op:80/*"}, route: {cluster: up}},
  {match: {path: /kept}, decorator: {operation: "op:80/*", propagate: false}, route: {cluster: up}},
  {match: {path: /direct}, direct_response: {status: 200}},
  {match: {path: /retried}, route: {cluster: up, retry_policy: {retry_on: 5xx, num_retries: 1}}},
  {match: {path: /refused}, route: {cluster: down}},
  {match: {prefix: /rewritten}, route: {cluster: up, prefix_rewrite: /}},
  {match: {path: /never}, tracing: {random_sampling: {numerator: 0}}, route: {cluster: up}},
  {match: {path: /tagged}, tracing: {random_sampling: {numerator: 1000000, denominator: MILLION}, custom_tags: [{tag: of-route, literal: {value: r}}, {tag: lit, literal: {value: over}}]}, route: {cluster: up}},
  {match: {prefix: /nowhere}, redirect: {response_code: FOUND, path_redirect: /}},
  {match: {prefix: /}, route: {cluster: up}}`

const tracedTags = `[{tag: mark, request_header: {name: mark}}, {tag: lit, literal: {value: x}}, {tag: none, request_header: {name: none}},
      {tag: default, request_header: {name: none, default_value: d}}, {tag: env, environment: {name: PILLION_NO_SUCH, default_value: e}},
      {tag: text, value: "%REQ(x-tag)% %RESPONSE_CODE%"}, {tag: empty, value: "%REQ(none)%"}, {tag: meta, metadata: {kind: {request: {}}, metadata_key: {key: a.b, path: [{key: c}]}, default_value: m}}]`

// TestTracingLikeEnvoy sends every request through a real Envoy and through us, with each
// provider in each direction: hosts have to be told the same of the trace, and collectors
// have to get the same spans.
func TestTracingLikeEnvoy(t *testing.T) {
	for name, c := range map[string]struct {
		provider, direction, more string
		b3, w3c, tries            bool
		none                      bool   // of those that nobody else decides about
		all                       bool   // are recorded, whatever the shares
		id                        string // how request IDs are made
	}{
		"ids are kept":        {provider: otlpOverGRPC, direction: "OUTBOUND", w3c: true, id: "pack_trace_reason: false"},
		"ids don't decide":    {provider: otlpOverGRPC, direction: "OUTBOUND", w3c: true, none: true, all: true, id: "use_request_id_for_trace_sampling: false"},
		"always on":           {provider: otlpAlways, direction: "OUTBOUND", w3c: true},
		"otlp of none":        {provider: otlpOverGRPC, direction: "OUTBOUND", w3c: true, none: true},
		"zipkin of none":      {provider: zipkinJSON, direction: "OUTBOUND", b3: true, none: true},
		"otlp over grpc":      {provider: otlpOverGRPC, direction: "OUTBOUND", w3c: true},
		"otlp over http in":   {provider: otlpOverHTTP, direction: "INBOUND", w3c: true},
		"otlp with tries":     {provider: otlpOverGRPC, direction: "OUTBOUND", more: "spawn_upstream_span: true, verbose: true, ", w3c: true, tries: true},
		"zipkin":              {provider: zipkinJSON, direction: "OUTBOUND", more: "verbose: true, max_path_tag_length: 100, ", b3: true},
		"zipkin in":           {provider: zipkinJSON, direction: "INBOUND", b3: true},
		"zipkin shared in":    {provider: zipkinShared, direction: "INBOUND", b3: true},
		"zipkin with tries":   {provider: zipkinJSON, direction: "OUTBOUND", more: "spawn_upstream_span: true, ", b3: true, tries: true},
		"zipkin with w3c":     {provider: zipkinBoth, direction: "OUTBOUND", b3: true, w3c: true},
		"without propagation": {provider: otlpOverGRPC, direction: "OUTBOUND", more: "no_context_propagation: true, ", w3c: true},
		"tries without it":    {provider: otlpOverGRPC, direction: "OUTBOUND", more: "no_context_propagation: true, spawn_upstream_span: true, ", w3c: true, tries: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			share := "100"
			if c.none {
				share = "0"
			}
			id := `request_id_extension: {typed_config: {"@type": type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig, ` + c.id + "}}"
			lab := newTracingLab(t, "traffic_direction: "+c.direction+"\n"+httpListener(id+"\n      tracing: {random_sampling: {value: "+share+"}, "+
				c.more+"custom_tags: "+tracedTags+", provider: "+c.provider+"}", "", tracedRoutes))
			var marks []string
			for mark, r := range tracedRequests {
				if (!r.b3 || c.b3) && (!r.w3c || c.w3c) && (!r.alone || !c.b3 || !c.w3c) && (!r.decided || !c.none) {
					marks = append(marks, mark)
				}
			}
			slices.Sort(marks)
			for _, mark := range marks {
				for _, side := range lab.sides {
					side.send(t, mark, tracedRequests[mark])
				}
			}
			for _, mark := range marks {
				r := tracedRequests[mark]
				n := r.spans
				switch {
				case c.none && !r.anyway && !c.all:
					n = 0
				case c.all && !r.unless, c.provider == otlpAlways && r.unless:
					n = 1
				case c.id != "" && !r.chosen():
					n = 0
				}
				if c.tries && n > 0 {
					n += r.tries
				}
				got := [2]string{}
				for i, side := range lab.sides {
					story := side.story(t, mark, n)
					got[i] = side.told(mark) + "\n" + story
				}
				if got[0] != got[1] {
					t.Errorf("%s: Envoy\n%s\nwe\n%s", mark, got[0], got[1])
				}
			}
		})
	}
}

// tracingLab is a listener that both serve, each with a collector and a host of its own.
type tracingLab struct{ sides []*tracingSide }

type tracingSide struct {
	judge
	collector *collector
	client    nethttp.RoundTripper // nil for that of HTTP/1

	mu     sync.Mutex
	seen   map[string]nethttp.Header // guarded by mu: what the host was sent, by mark
	answer map[string]nethttp.Header // guarded by mu: what the client was answered
}

func newTracingLab(t *testing.T, listen string) *tracingLab {
	t.Helper()
	lab := &tracingLab{}
	ends := map[string]*tracingSide{}
	var collectors, hosts []string
	for _, who := range []string{"Envoy", "ours"} {
		side := &tracingSide{collector: newCollector(t), seen: map[string]nethttp.Header{}, answer: map[string]nethttp.Header{}}
		collectors = append(collectors, side.collector.addr)
		hosts = append(hosts, origin(t, side.host))
		ends[who] = side
	}
	down := refusing(t)
	for i, who := range []string{"Envoy", "ours"} {
		both := bothJudges(t, listen, tcpCluster("up", overHTTP2, hosts[i]), tcpCluster("down", "", down),
			tcpCluster("collector1", "", collectors[i]), tcpCluster("collector2", overHTTP2, collectors[i]))
		ends[who].judge = both[i]
		lab.sides = append(lab.sides, ends[who])
	}
	return lab
}

// host answers as the path asks for.
func (s *tracingSide) host(w nethttp.ResponseWriter, r *nethttp.Request) {
	s.mu.Lock()
	s.seen[r.Header.Get("mark")] = r.Header.Clone()
	s.mu.Unlock()
	switch r.URL.Path {
	case "/retried":
		w.WriteHeader(503)
	case "/answered":
		w.Header().Set("x-envoy-decorator-operation", "the host's")
	case "/pkg.Service/Method":
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("trailer", "grpc-status")
		w.WriteHeader(200)
		w.Header().Set("grpc-status", "0")
	case "/pkg.Service/Fails":
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("grpc-status", "13")
		w.Header().Set("grpc-message", "broken")
	}
}

func (s *tracingSide) send(t *testing.T, mark string, r tracedRequest) {
	t.Helper()
	method := "GET"
	if strings.HasPrefix(mark, "grpc") {
		method = "POST"
	}
	req, err := nethttp.NewRequest(method, "http://"+s.addr+r.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "reviews.test"
	req.Header.Set("user-agent", "test")
	req.Header.Set("mark", mark)
	for i := 0; i < len(r.fields); i += 2 {
		req.Header.Set(r.fields[i], r.fields[i+1])
	}
	client := s.client
	if client == nil {
		client = nethttp.DefaultTransport
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s: %s: %v", s.name, mark, err)
	}
	_, _ = io.Copy(io.Discard, resp.Body) // a client that closes it before resets the stream
	_ = resp.Body.Close()
	s.mu.Lock()
	s.answer[mark] = resp.Header
	s.mu.Unlock()
}

// told is what the host was told of the trace, and the client of the operation.
func (s *tracingSide) told(mark string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, name := range []string{"Traceparent", "Tracestate", "B3", "X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags",
		"X-Request-Id", "X-Envoy-Decorator-Operation", "X-Client-Trace-Id", "X-Envoy-Force-Trace"} {
		for _, v := range s.seen[mark][name] {
			if name == "X-Request-Id" && len(v) == 36 {
				v = "reason " + v[14:15]
			}
			if v != "" { // Envoy sends an empty tracestate
				out = append(out, name+": "+v)
			}
		}
	}
	if v := s.answer[mark].Get("X-Envoy-Decorator-Operation"); v != "" {
		out = append(out, "the client is told "+v)
	}
	text := strings.Join(out, "\n")
	if strings.Contains(text, "Sampled: 0") || strings.Contains(text, "-0-") {
		// Envoy makes up tries for what nobody will see.
		text = unseenParent.ReplaceAllString(text, "")
	}
	return s.named(text, mark)
}

var unseenParent = regexp.MustCompile(`(?m)^X-B3-Parentspanid: \w+\n|-\w{16}$`)

var hexID = regexp.MustCompile(`\b[0-9a-f]{16}([0-9a-f]{16})?\b`)

// named puts names into the places of IDs.
func (s *tracingSide) named(text, mark string) string {
	names := map[string]string{inTrace: "(client's trace)", inShort: "(client's short trace)", inSpan: "(client's span)", inParent: "(client's parent)"}
	for _, sp := range s.collector.marked(mark) {
		if names[sp.Trace] == "" {
			names[sp.Trace] = "(new trace)"
		}
		who := "(our span)"
		if sp.Tags["http.method"] == "" {
			who = "(try " + sp.Tags["retry.count"] + ")"
		}
		if names[sp.ID] == "" {
			names[sp.ID] = who
		}
		if strings.HasSuffix(sp.Trace, sp.ID) && len(sp.Trace) > len(sp.ID) {
			names[sp.ID] = "(end of the trace)"
		}
	}
	return hexID.ReplaceAllStringFunc(text, func(id string) string {
		if n := names[id]; n != "" {
			return n
		}
		return fmt.Sprintf("(unknown %d)", len(id))
	})
}

// story is what the collector got of a request, but for what differs on purpose.
func (s *tracingSide) story(t *testing.T, mark string, n int) string {
	t.Helper()
	var out []string
	for _, sp := range s.collector.of(t, s.name, mark, n) {
		// There may be no zone and no id of a node, which Envoy's tracer of OpenTelemetry tells
		// as empty ones.
		delete(sp.Tags, "zone")
		delete(sp.Tags, "node_id")
		if v := sp.Tags["guid:x-request-id"]; len(v) == 36 {
			sp.Tags["guid:x-request-id"] = "reason " + v[14:15]
		}
		if a := sp.Tags["upstream_address"]; a != "" {
			sp.Tags["upstream_address"], sp.Tags["peer.address"] = "(host)", strings.ReplaceAll(sp.Tags["peer.address"], a, "(host)")
		}
		if sp.Tags["http.method"] == "" {
			delete(sp.Tags, "text") // of the exchange, which has no answer yet with Envoy
		}
		// Envoy's status is that of HTTP's code alone, and a span that begins a trace is shared
		// with nobody.
		sp.Failed = sp.Tags["error"] == "true"
		sp.Shared = sp.Shared && sp.ID == inSpan
		line := fmt.Sprintf("%s %q trace %s id %s parent %q state %q failed %t shared %t flags %#x service %q\n", sp.Kind, sp.Name, sp.Trace, sp.ID, sp.Parent, sp.State,
			sp.Failed, sp.Shared, sp.Flags, sp.Service)
		for _, key := range slices.Sorted(maps.Keys(sp.Tags)) {
			line += "    " + key + "=" + sp.Tags[key] + "\n"
		}
		for _, e := range sp.Events {
			if slices.Contains([]string{"last_downstream_rx_byte_received", "first_upstream_tx_byte_sent", "first_upstream_rx_byte_received", "last_downstream_tx_byte_sent"}, e) {
				line += "    " + e + "\n"
			}
		}
		out = append(out, line)
	}
	return s.named(strings.Join(out, ""), mark)
}
