// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	// The types of extensions in configurations.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/samplers/v3"

	"pillion/proxy/filter"
	"pillion/proxy/filter/filtertest"
	"pillion/proxy/http"
	"pillion/proxy/proxytest"
	"pillion/proxy/trace"
)

// built builds a collector of a configuration in YAML.
func built(t *testing.T, text string) (*Collector, *filtertest.Client, []string, error) {
	t.Helper()
	json, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tracev3.OpenTelemetryConfig{}
	if err := protojson.Unmarshal(json, cfg); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	client := &filtertest.Client{Answer: &filter.ClientAnswer{Status: 200}}
	var warnings []string
	c, err := New(cfg, &Env{
		Version: "1.2.3",
		Getenv: func(name string) string {
			return map[string]string{"OTEL_RESOURCE_ATTRIBUTES": "a=b, c=d%2Ce ,bad,=x"}[name]
		},
		GRPC: func(s *corev3.GrpcService, unsaid time.Duration) (*filter.GRPCService, error) {
			if s.GetEnvoyGrpc() == nil {
				return nil, errors.New("envoy_grpc.cluster_name: is needed")
			}
			out := &filter.GRPCService{Client: client.Of(s.GetEnvoyGrpc().GetClusterName()), Authority: s.GetEnvoyGrpc().GetAuthority(), Timeout: unsaid}
			if s.GetTimeout() != nil {
				out.Timeout = s.GetTimeout().AsDuration()
			}
			return out, nil
		},
		HTTP: func(s *corev3.HttpService) (*filter.HTTPService, error) {
			if s.GetHttpUri().GetCluster() == "" {
				return nil, errors.New("http_uri.cluster: is needed")
			}
			out := &filter.HTTPService{Client: client.Of(s.GetHttpUri().GetCluster()), Authority: s.GetHttpUri().GetUri(), Path: "/v1/traces", Timeout: s.GetHttpUri().GetTimeout().AsDuration()}
			for _, h := range s.GetRequestHeadersToAdd() {
				out.Fields.Add([]byte(h.GetHeader().GetKey()), []byte(h.GetHeader().GetValue()))
			}
			return out, nil
		},
		Warn: func(text string) { warnings = append(warnings, text) },
	})
	return c, client, warnings, err
}

const overGRPC = `grpc_service: {envoy_grpc: {cluster_name: otel}}`

func mustBuild(t *testing.T, text string) (*Collector, *filtertest.Client) {
	t.Helper()
	c, client, warnings, err := built(t, text)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v, warnings %q", err, warnings)
	}
	return c, client
}

// richSpan is a span that has everything.
func richSpan() *trace.Span {
	return &trace.Span{
		TraceID: trace.TraceID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, ID: trace.SpanID{1, 2, 3, 4, 5, 6, 7, 8},
		Parent: trace.SpanID{8, 7, 6, 5, 4, 3, 2, 1}, Remote: true, State: []byte("a=b"), Kind: trace.Client, Name: []byte("reviews:9080/*"),
		Start: 1_700_000_000_000_000_001, End: 1_700_000_000_123_456_789, Failed: true, Local: "10.0.0.1:15001",
		Attributes: []trace.Attribute{{Key: "http.url", Value: []byte("http://a/" + strings.Repeat("x", 300))}, {Key: "empty", Value: nil}},
		Events:     []trace.Event{{At: 1_700_000_000_100_000_000, Name: "first_upstream_tx_byte_sent"}},
	}
}

func attributeOf(key, value string) *commonv1.KeyValue {
	return &commonv1.KeyValue{Key: key, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: value}}}
}

// official is the span as OpenTelemetry's own message.
func official(s *trace.Span) *tracev1.Span {
	out := &tracev1.Span{TraceId: s.TraceID[:], SpanId: s.ID[:], TraceState: string(s.State), Name: string(s.Name), Flags: 0x101,
		Kind: tracev1.Span_SPAN_KIND_SERVER, StartTimeUnixNano: uint64(s.Start), EndTimeUnixNano: uint64(s.End)}
	if s.Remote {
		out.Flags = 0x301
	}
	if s.Kind == trace.Client {
		out.Kind = tracev1.Span_SPAN_KIND_CLIENT
	}
	if s.Parent.IsValid() {
		out.ParentSpanId = s.Parent[:]
	}
	for _, a := range s.Attributes {
		out.Attributes = append(out.Attributes, attributeOf(a.Key, string(a.Value)))
	}
	for _, e := range s.Events {
		out.Events = append(out.Events, &tracev1.Span_Event{TimeUnixNano: uint64(e.At), Name: e.Name})
	}
	if s.Failed {
		out.Status = &tracev1.Status{Code: tracev1.Status_STATUS_CODE_ERROR}
	}
	return out
}

func TestSendOverGRPC(t *testing.T) {
	c, client := mustBuild(t, `{grpc_service: {envoy_grpc: {cluster_name: "outbound|4317||otel", authority: otel.obs}, timeout: 2s}, service_name: web.shop}`)
	client.Answer.Trailers.AddID(http.HeaderGRPCStatus, []byte("0"))
	client.Answer.Body = make([]byte, 5)
	rich, plain := richSpan(), &trace.Span{TraceID: trace.TraceID{15: 1}, ID: trace.SpanID{7: 1}, Name: []byte("ingress"), Start: 5, End: 6}
	cancel := make(chan struct{})
	if err := c.Send(c.Append(c.Append(nil, rich), plain), 2, cancel); err != nil {
		t.Fatal(err)
	}
	call := client.Call
	if client.Cluster != "outbound|4317||otel" || call.Authority != "otel.obs" || call.Path != exportPath || !call.Multi || call.Timeout != 2*time.Second ||
		call.Cancel != (<-chan struct{})(cancel) || call.MaxBody == 0 {
		t.Errorf("cluster %q, call %+v", client.Cluster, call)
	}
	for id, want := range map[http.HeaderID]string{http.HeaderContentType: "application/grpc", http.HeaderTE: "trailers", http.HeaderGRPCTimeout: "2000m"} {
		if v, _ := call.Fields.Get(id); string(v) != want {
			t.Errorf("field %d is %q, want %q", id, v, want)
		}
	}
	if n := binary.BigEndian.Uint32(call.Body[1:]); call.Body[0] != 0 || int(n) != len(call.Body)-5 {
		t.Fatalf("the frame says %d octets, there are %d", n, len(call.Body)-5)
	}
	got := &collectorv1.ExportTraceServiceRequest{}
	if err := proto.Unmarshal(call.Body[5:], got); err != nil {
		t.Fatal(err)
	}
	want := &collectorv1.ExportTraceServiceRequest{ResourceSpans: []*tracev1.ResourceSpans{{
		Resource: &resourcev1.Resource{Attributes: []*commonv1.KeyValue{attributeOf("service.name", "web.shop"), attributeOf("telemetry.sdk.language", "go"),
			attributeOf("telemetry.sdk.name", "pillion"), attributeOf("telemetry.sdk.version", "1.2.3")}},
		ScopeSpans: []*tracev1.ScopeSpans{{Scope: &commonv1.InstrumentationScope{Name: "pillion", Version: "1.2.3"},
			Spans: []*tracev1.Span{official(rich), official(plain)}}},
	}}}
	if !proto.Equal(got, want) {
		t.Errorf("sent\n%v\nwant\n%v", got, want)
	}
	// Not one octet is other than the official encoder's.
	if b, err := proto.Marshal(want); err != nil || !bytes.Equal(b, call.Body[5:]) {
		t.Errorf("%d octets were sent, the official encoder makes %d (%v)", len(call.Body)-5, len(b), err)
	}
}

func TestSendOverHTTP(t *testing.T) {
	c, client := mustBuild(t, `{http_service: {http_uri: {uri: "otel.obs:4318", cluster: otel, timeout: 0.5s},
  request_headers_to_add: [{header: {key: Api-Token, value: abc}}]},
  set_instrumentation_scope: false, set_telemetry_sdk_resource_attributes: false, set_service_name_resource_attribute: false}`)
	if err := c.Send(c.Append(nil, richSpan()), 1, nil); err != nil {
		t.Fatal(err)
	}
	call := client.Call
	if client.Cluster != "otel" || call.Authority != "otel.obs:4318" || call.Path != "/v1/traces" || call.Multi || call.Timeout != 500*time.Millisecond ||
		call.Method != "POST" || !call.HasBody {
		t.Errorf("call %+v", call)
	}
	if v, _ := call.Fields.Get(http.HeaderContentType); string(v) != "application/x-protobuf" {
		t.Errorf("content-type %q", v)
	}
	if v, _ := call.Fields.Lookup(http.HeaderOther, []byte("api-token")); string(v) != "abc" {
		t.Errorf("api-token %q", v)
	}
	got := &collectorv1.ExportTraceServiceRequest{}
	if err := proto.Unmarshal(call.Body, got); err != nil {
		t.Fatal(err)
	}
	rs := got.GetResourceSpans()[0]
	if len(rs.GetResource().GetAttributes()) != 0 || rs.GetScopeSpans()[0].GetScope() != nil || len(rs.GetScopeSpans()[0].GetSpans()) != 1 {
		t.Errorf("sent %v", got)
	}
}

// TestAnswers: what a collector says decides whether spans count as sent.
func TestAnswers(t *testing.T) {
	partial := func(n int64, why string) []byte {
		b, err := proto.Marshal(&collectorv1.ExportTraceServiceResponse{PartialSuccess: &collectorv1.ExportTracePartialSuccess{RejectedSpans: n, ErrorMessage: why}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	framed := func(message []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	}
	const web = `http_service: {http_uri: {uri: otel, cluster: otel, timeout: 1s}}`
	for name, x := range map[string]struct {
		config  string
		status  int
		grpc    string
		message string
		body    []byte
		failure *http.Error
		want    string // of the error; empty for none
	}{
		"grpc well":             {config: overGRPC, status: 200, grpc: "0", body: framed(nil)},
		"grpc partly":           {config: overGRPC, status: 200, grpc: "0", body: framed(partial(3, "too \"big\"")), want: `3 spans were refused: "too \"big\""`},
		"grpc a warning":        {config: overGRPC, status: 200, grpc: "0", body: framed(partial(0, "careful"))},
		"grpc unavailable":      {config: overGRPC, status: 200, grpc: "14", message: "away", want: "grpc-status 14 away"},
		"grpc without a status": {config: overGRPC, status: 200, body: framed(nil), want: "no grpc-status"},
		"grpc no frame":         {config: overGRPC, status: 200, grpc: "0", body: []byte{1, 2}, want: "isn't one message"},
		"grpc 503":              {config: overGRPC, status: 503, want: "status 503"},
		"no connection":         {config: overGRPC, failure: &http.Error{Detail: "upstream_reset", Status: 503}, want: "upstream_reset"},
		"http well":             {config: web, status: 200},
		"http accepted":         {config: web, status: 202},
		"http partly":           {config: web, status: 200, body: partial(2, ""), want: "2 spans were refused"},
		"http json":             {config: web, status: 200, body: []byte(`{"partialSuccess":{}}`)},
		"http 429":              {config: web, status: 429, want: "status 429"},
	} {
		t.Run(name, func(t *testing.T) {
			c, client := mustBuild(t, x.config)
			client.Failure = x.failure
			client.Answer = &filter.ClientAnswer{Status: x.status, Body: x.body}
			if x.grpc != "" {
				client.Answer.Trailers.AddID(http.HeaderGRPCStatus, []byte(x.grpc))
				client.Answer.Trailers.AddID(http.HeaderGRPCMessage, []byte(x.message))
			}
			err := c.Send(c.Append(nil, richSpan()), 1, nil)
			if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
				t.Errorf("error %v, want %q", err, x.want)
			}
		})
	}
}

func TestConfigErrors(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "grpc_service: is needed",
		`{grpc_service: {envoy_grpc: {cluster_name: a}}, http_service: {http_uri: {uri: a, cluster: b, timeout: 1s}}}`: "http_service: can't be combined",
		`{exporter: {name: x}}`: "exporter: is not supported",
		`{grpc_service: {google_grpc: {target_uri: a, stat_prefix: b}}}`: "grpc_service.envoy_grpc.cluster_name: is needed",
		`{http_service: {}}`: "http_service.http_uri.cluster: is needed",
	} {
		if _, _, _, err := built(t, text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

func TestResourceAndSampler(t *testing.T) {
	const detectors = `grpc_service: {envoy_grpc: {cluster_name: otel}}
resource_detectors:
- {name: env, typed_config: {"@type": type.googleapis.com/envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig}}
- {name: static, typed_config: {"@type": type.googleapis.com/envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig, attributes: {a: over, service.name: other}}}
- {name: dt, typed_config: {"@type": type.googleapis.com/envoy.extensions.tracers.opentelemetry.resource_detectors.v3.DynatraceResourceDetectorConfig}}
sampler: {name: s, typed_config: {"@type": type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3.`
	c, client, warnings, err := built(t, detectors+"AlwaysOnSamplerConfig}}")
	if err != nil || c.Sampler() != AlwaysOn {
		t.Fatalf("sampler %d, %v", c.Sampler(), err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "resource_detectors[2]: ") || !strings.Contains(warnings[0], "DynatraceResourceDetectorConfig is not supported") {
		t.Errorf("warnings %q", warnings)
	}
	_ = c.Send(c.Append(nil, richSpan()), 1, nil)
	got := &collectorv1.ExportTraceServiceRequest{}
	if err := proto.Unmarshal(client.Call.Body[5:], got); err != nil {
		t.Fatal(err)
	}
	var pairs []string
	for _, a := range got.GetResourceSpans()[0].GetResource().GetAttributes() {
		pairs = append(pairs, a.GetKey()+"="+a.GetValue().GetStringValue())
	}
	if want := []string{"a=over", "c=d,e", "service.name=other", "telemetry.sdk.language=go", "telemetry.sdk.name=pillion", "telemetry.sdk.version=1.2.3"}; !slices.Equal(pairs, want) {
		t.Errorf("resource %q, want %q", pairs, want)
	}
	if c, _, warnings, err := built(t, detectors+"DynatraceSamplerConfig}}"); err != nil || c.Sampler() != NoSampler || len(warnings) != 2 {
		t.Errorf("sampler %d, warnings %q, %v", c.Sampler(), warnings, err)
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	c, _ := mustBuild(t, overGRPC)
	span, batch := richSpan(), make([]byte, 0, 4<<10)
	proxytest.NoAllocs(t, "a span", func() { batch = c.Append(batch[:0], span) })
}

func BenchmarkAppend(b *testing.B) {
	span, batch := richSpan(), make([]byte, 0, 4<<10)
	b.ReportAllocs()
	for b.Loop() {
		batch = appendSpan(batch[:0], span)
	}
}

// FuzzAppend: whatever a span holds, the official decoder reads it, and reads what it
// is.
func FuzzAppend(f *testing.F) {
	f.Add([]byte("a=b"), []byte("name"), "key", []byte("value"), "event", int64(1), uint64(7), true)
	f.Add([]byte{0xff}, []byte{0xc3, 0x28}, "k", []byte{0x80}, "e", int64(-1), uint64(0), false)
	f.Fuzz(func(t *testing.T, state, name []byte, key string, value []byte, event string, at int64, parent uint64, client bool) {
		s := &trace.Span{TraceID: trace.TraceID{15: 1}, ID: trace.SpanID{7: 1}, State: state, Name: name, Start: at, End: at, Failed: client,
			Attributes: []trace.Attribute{{Key: strings.ToValidUTF8(key, ""), Value: value}}, Events: []trace.Event{{At: at, Name: strings.ToValidUTF8(event, "")}}}
		binary.BigEndian.PutUint64(s.Parent[:], parent)
		if client {
			s.Kind = trace.Client
		}
		got := &tracev1.ScopeSpans{}
		if err := proto.Unmarshal(appendSpan(nil, s), got); err != nil {
			t.Fatal(err)
		}
		if want := official(s); !proto.Equal(got.GetSpans()[0], want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}
