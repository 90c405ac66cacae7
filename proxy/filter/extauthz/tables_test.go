// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"pillion/proxy/http"
)

func status(code int32) *rpcstatus.Status { return &rpcstatus.Status{Code: code} }

// TestRefused: a field that isn't understood refuses the configuration, by its
// name.
func TestRefused(t *testing.T) {
	const web = `"httpService": {"serverUri": {"uri": "http://a", "cluster": "az", "timeout": "1s"}`
	const grpc = `"grpcService": {"envoyGrpc": {"clusterName": "az"}`
	for text, want := range map[string]string{
		`{}`: "services: one of",
		`{"grpcService": {"googleGrpc": {"targetUri": "a", "statPrefix": "b"}}}`:                      "grpc_service.envoy_grpc.cluster_name: is needed",
		`{` + grpc + `}, "transportApiVersion": "V2"}`:                                                "transport_api_version: V2 is not supported",
		`{` + grpc + `}, "shadowMode": true}`:                                                         "shadow_mode: is not supported",
		`{` + grpc + `}, "decoderHeaderMutationRules": {"disallowAll": true}}`:                        "decoder_header_mutation_rules: is not supported",
		`{` + grpc + `}, "filterMetadata": {}}`:                                                       "filter_metadata: is not supported",
		`{` + grpc + `}, "emitFilterStateStats": true}`:                                               "emit_filter_state_stats: is not supported",
		`{` + grpc + `}, "enforceResponseHeaderLimits": true}`:                                        "enforce_response_header_limits: is not supported",
		`{` + grpc + `}, "typedMetadataContextNamespaces": ["a"]}`:                                    "typed_metadata_context_namespaces: is not supported",
		`{` + grpc + `}, "routeMetadataContextNamespaces": ["a"]}`:                                    "route_metadata_context_namespaces: is not supported",
		`{` + grpc + `}, "statusOnError": {"code": "Continue"}}`:                                      "status_on_error.code: 100 is no final status",
		`{` + grpc + `}, "withRequestBody": {}}`:                                                      "with_request_body.max_request_bytes: must not be 0",
		`{` + grpc + `}, "allowedHeaders": {"patterns": [{}]}}`:                                       "allowed_headers.patterns[0]: matcher: is empty",
		`{` + grpc + `}, "disallowedHeaders": {"patterns": [{}]}}`:                                    "disallowed_headers.patterns[0]: matcher: is empty",
		`{` + grpc + `}, "filterEnabledMetadata": {"filter": "a"}}`:                                   "filter_enabled_metadata.path: is needed",
		`{"httpService": {"serverUri": {"uri": "http://a", "timeout": "1s"}}}`:                        "http_service.server_uri.cluster: is needed",
		`{"httpService": {"serverUri": {"uri": "http://a", "cluster": "a"}}}`:                         "http_service.server_uri.timeout: ",
		`{` + web + `, "retryPolicy": {}}}`:                                                           "http_service.retry_policy: is not supported",
		`{` + web + `, "pathPrefix": "/a", "pathOverride": "/b"}}`:                                    "http_service.path_override: can't be combined",
		`{` + web + `, "pathPrefix": "a"}}`:                                                           `http_service.path_prefix: "a" is no path`,
		`{` + web + `, "authorizationRequest": {"headersToAdd": [{"key": "", "value": "a"}]}}}`:       "http_service.authorization_request.headers_to_add[0].key: ",
		`{` + web + `, "authorizationResponse": {"allowedClientHeaders": {"patterns": [{}]}}}}`:       "http_service.authorization_response.allowed_client_headers.patterns[0]: ",
		`{` + web + `, "authorizationRequest": {"allowedHeaders": {}}}, "allowedHeaders": {}}`:        "http_service.authorization_request.allowed_headers: can't be combined",
		`{` + web + `, "authorizationResponse": {"dynamicMetadataFromHeaders": {"patterns": [{}]}}}}`: "http_service.authorization_response.dynamic_metadata_from_headers.patterns[0]: ",
	} {
		cfg := &extauthzv3.ExtAuthz{}
		if err := protojson.Unmarshal([]byte(text), cfg); err != nil {
			t.Fatal(text, err)
		}
		e, _ := env(&server{})
		if _, err := New(cfg, nil, e); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestPerRoute(t *testing.T) {
	route := func(text string) *extauthzv3.ExtAuthzPerRoute {
		m := &extauthzv3.ExtAuthzPerRoute{}
		if err := protojson.Unmarshal([]byte(text), m); err != nil {
			t.Fatal(text, err)
		}
		return m
	}
	s := &server{}
	e, _ := env(s)
	if f, err := New(overGRPC(), route(`{"disabled": true}`), e); f != nil || err != nil {
		t.Errorf("disabled: %v, %v", f, err)
	}
	cfg := overGRPC()
	cfg.WithRequestBody = &extauthzv3.BufferSettings{MaxRequestBytes: 5}
	for text, want := range map[string]int{
		`{"checkSettings": {}}`: 6,
		`{"checkSettings": {"withRequestBody": {"maxRequestBytes": 7}}}`:                              8,
		`{"checkSettings": {"withRequestBody": {"maxRequestBytes": 7, "allowPartialMessage": true}}}`: 7,
		`{"checkSettings": {"disableRequestBodyBuffering": true}}`:                                    0,
	} {
		f, err := New(cfg, route(text), e)
		if err != nil || f.BodyLimit(nil) != want {
			t.Errorf("%s: %v, limit %d, want %d", text, err, f.BodyLimit(nil), want)
		}
	}
	if _, err := New(cfg, route(`{"checkSettings": {"grpcService": {"envoyGrpc": {"clusterName": "other"}}}}`), e); err != nil || s.cluster != "other" {
		t.Errorf("%v, the server is %s", err, s.cluster)
	}
	if _, err := New(cfg, route(`{"checkSettings": {"httpService": {}}}`), e); err == nil || !strings.HasPrefix(err.Error(), "check_settings.http_service.server_uri.cluster") {
		t.Errorf("%v", err)
	}
	if _, err := New(cfg, route(`{}`), e); err == nil {
		t.Error("an empty override is taken")
	}
}

// TestDefaultTimeout is Envoy's.
func TestDefaultTimeout(t *testing.T) {
	for d, want := range map[*durationpb.Duration]time.Duration{nil: 200 * time.Millisecond, durationpb.New(0): 0, durationpb.New(time.Second): time.Second} {
		s := &server{answer: grpcAnswer(frame(nil))}
		cfg := overGRPC()
		cfg.GetGrpcService().Timeout = d
		f, _ := build(t, cfg, s)
		f.OnRequest(exchange())
		if got := s.calls[0].Timeout; got != want {
			t.Errorf("%v becomes %v", d, got)
		}
	}
}

func TestChangeQuery(t *testing.T) {
	for _, c := range []struct {
		target, set, remove, want string
	}{
		{"/p", "a=b", "", "/p?a=b"},
		{"/p?", "a=b", "", "/p?a=b"},
		{"/p?a=1&b=2&a=3", "a=x", "", "/p?a=x&b=2"},
		{"/p?a=1&b=2", "", "a", "/p?b=2"},
		{"/p?a=1", "", "a", "/p"},
		{"/p?a=1", "a=2", "a", "/p"},
		{"/p?a", "", "none", "/p?a="},
		{"/p?a=b=c&&d", "e=", "", "/p?a=b=c&d=&e="},
		{"/p?%61=1", "", "a", "/p?%61=1"},
		{"/p?a=1?2", "b=3", "", "/p?a=1?2&b=3"},
	} {
		var set []parameter
		var remove [][]byte
		if c.set != "" {
			k, v, _ := strings.Cut(c.set, "=")
			set = append(set, parameter{k, v})
		}
		if c.remove != "" {
			remove = append(remove, []byte(c.remove))
		}
		target := []byte(c.target)
		if got := changeQuery(target, set, remove); string(got) != c.want || string(target) != c.target {
			t.Errorf("%s with %q without %q: %s, want %s", c.target, c.set, c.remove, got, c.want)
		}
	}
}

func TestMetadataMatcher(t *testing.T) {
	const md = `{"s": "text", "n": 5, "b": true, "z": null, "l": ["a", 1], "o": {"s": "deep"}}`
	for _, c := range []struct {
		path, value string
		invert      bool
		want        bool
	}{
		{"s", `{"stringMatch": {"exact": "text"}}`, false, true},
		{"s", `{"stringMatch": {"exact": "text"}}`, true, false},
		{"s", `{"stringMatch": {"prefix": "tex"}}`, false, true},
		{"n", `{"stringMatch": {"exact": "5"}}`, false, false},
		{"none", `{"stringMatch": {"exact": "text"}}`, false, false},
		{"none", `{"stringMatch": {"exact": "text"}}`, true, true},
		{"o.s", `{"stringMatch": {"exact": "deep"}}`, false, true},
		{"o", `{"presentMatch": true}`, false, true},
		{"o.none", `{"presentMatch": true}`, false, false},
		{"b", `{"boolMatch": true}`, false, true},
		{"b", `{"boolMatch": false}`, false, false},
		{"n", `{"doubleMatch": {"exact": 5}}`, false, true},
		{"n", `{"doubleMatch": {"range": {"start": 5, "end": 6}}}`, false, true},
		{"n", `{"doubleMatch": {"range": {"start": 4, "end": 5}}}`, false, false},
		{"z", `{"nullMatch": {}}`, false, true},
		{"none", `{"nullMatch": {}}`, false, false},
		{"l", `{"listMatch": {"oneOf": {"stringMatch": {"exact": "a"}}}}`, false, true},
		{"l", `{"listMatch": {"oneOf": {"stringMatch": {"exact": "b"}}}}`, false, false},
		{"s", `{"orMatch": {"valueMatchers": [{"boolMatch": true}, {"stringMatch": {"exact": "text"}}]}}`, false, true},
	} {
		var all map[string]any
		if err := json.Unmarshal([]byte(md), &all); err != nil {
			t.Fatal(err)
		}
		var m http.Metadata
		m.Set("f", all)
		cfg := &matcherv3.MetadataMatcher{Filter: "f", Invert: c.invert, Value: &matcherv3.ValueMatcher{}}
		for key := range strings.SplitSeq(c.path, ".") {
			cfg.Path = append(cfg.Path, &matcherv3.MetadataMatcher_PathSegment{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}})
		}
		if err := protojson.Unmarshal([]byte(c.value), cfg.Value); err != nil {
			t.Fatal(err)
		}
		e, _ := env(&server{})
		matcher, err := compileMetadata(cfg, e.String)
		if err != nil {
			t.Fatal(err)
		}
		if got := matcher.match(&m); got != c.want {
			t.Errorf("%s %s, inverted %t: %t", c.path, c.value, c.invert, got)
		}
	}
	for _, bad := range []*matcherv3.ValueMatcher{nil, {}, {MatchPattern: &matcherv3.ValueMatcher_OrMatch{OrMatch: &matcherv3.OrMatcher{}}},
		{MatchPattern: &matcherv3.ValueMatcher_DoubleMatch{DoubleMatch: &matcherv3.DoubleMatcher{}}}} {
		if _, err := compileValue(bad, nil, 0); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{"10.0.0.1:80": "10.0.0.1 80", "[::1]:8080": "::1 8080"} {
		a := address(in).GetSocketAddress()
		if got := a.GetAddress() + " " + json.Number(jsonInt(a)).String(); got != want {
			t.Errorf("%s becomes %s", in, got)
		}
	}
	if got := address("/run/x.sock").GetPipe().GetPath(); got != "/run/x.sock" {
		t.Errorf("the socket becomes %s", got)
	}
}

func jsonInt(a *corev3.SocketAddress) string {
	b, _ := json.Marshal(a.GetPortValue())
	return string(b)
}
