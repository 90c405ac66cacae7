// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	networkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

var _ filter.Admitter = (*Network)(nil)

func network(t *testing.T, s *server, set func(*networkv3.ExtAuthz)) (*Network, *NetworkStats) {
	t.Helper()
	cfg := &networkv3.ExtAuthz{StatPrefix: "tcp.", GrpcService: grpcService5s()}
	if set != nil {
		set(cfg)
	}
	e, _ := env(s)
	counters := &NetworkStats{}
	n, err := NewNetwork(cfg, counters, e)
	if err != nil {
		t.Fatal(err)
	}
	return n, counters
}

func TestNetwork(t *testing.T) {
	metadata, _ := structpb.NewStruct(map[string]any{"a": "b"})
	for name, c := range map[string]struct {
		answer  *filter.ClientAnswer
		allow   bool // failure_mode_allow
		admit   bool
		details string
	}{
		"allowed": {checkResponse(t, &authv3.CheckResponse{Status: status(0), DynamicMetadata: metadata}), false, true, ""},
		"allowed, with what is of no use": {checkResponse(t, &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{
			OkResponse: &authv3.OkHttpResponse{ResponseHeadersToAdd: options("a\n", "b")}}}), false, true, ""},
		"denied":          {checkResponse(t, &authv3.CheckResponse{Status: status(7)}), false, false, "ext_authz_denied"},
		"denied, lenient": {checkResponse(t, &authv3.CheckResponse{Status: status(7)}), true, false, "ext_authz_denied"},
		"denied with a status that is none": {checkResponse(t, &authv3.CheckResponse{Status: status(7), HttpResponse: &authv3.CheckResponse_DeniedResponse{
			DeniedResponse: &authv3.DeniedHttpResponse{Headers: options("a", "b")}}}), true, false, "ext_authz_denied"},
		"failed":          {&filter.ClientAnswer{Status: 503}, false, false, "ext_authz_error"},
		"failed, lenient": {&filter.ClientAnswer{Status: 503}, true, true, ""},
		"garbage":         {grpcAnswer([]byte{0, 0, 0, 0, 1, 0xff}), false, false, "ext_authz_error"},
	} {
		s := &server{answer: c.answer}
		n, counters := network(t, s, func(cfg *networkv3.ExtAuthz) { cfg.FailureModeAllow = c.allow })
		a := &filter.Admission{Conn: &http.ConnInfo{Local: "10.0.0.1:80", Remote: "10.0.0.2:1234", SNI: "a.b"}}
		if n.Admit(a) != c.admit || a.CodeDetails != c.details || (a.Flags == http.FlagUnauthorizedExternal) == c.admit {
			t.Errorf("%s: %+v", name, a)
		}
		if counters.Total.Value() != 1 || counters.Active.Value() != 0 || counters.Closed.Value() == 1 == c.admit {
			t.Errorf("%s: total %d, active %d, closed %d", name, counters.Total.Value(), counters.Active.Value(), counters.Closed.Value())
		}
		var m authv3.CheckRequest
		if err := proto.Unmarshal(s.calls[0].Body[5:], &m); err != nil {
			t.Fatal(err)
		}
		if at := m.GetAttributes(); at.GetSource().GetAddress().GetSocketAddress().GetAddress() != "10.0.0.2" || at.GetDestination().GetService() != "a.b" || at.GetRequest() != nil {
			t.Errorf("%s: the server is told %v", name, at)
		}
		if v, _ := a.Metadata.Get(networkNamespace, "a"); name == "allowed" && v != "b" {
			t.Errorf("the metadata is %v", v)
		}
	}
}

func TestNetworkDisabled(t *testing.T) {
	s := &server{}
	n, counters := network(t, s, func(cfg *networkv3.ExtAuthz) {
		cfg.FilterEnabledMetadata = &matcherv3.MetadataMatcher{Filter: "f", Path: []*matcherv3.MetadataMatcher_PathSegment{
			{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: "k"}}},
			Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_BoolMatch{BoolMatch: true}}}
	})
	if !n.Admit(&filter.Admission{}) || len(s.calls) != 0 || counters.Disabled.Value() != 1 {
		t.Error("it asks about what it isn't for")
	}
	a := &filter.Admission{}
	a.Metadata.SetField("f", "k", true)
	s.err = &http.Error{Kind: http.KindTimeout}
	if n.Admit(a) || len(s.calls) != 1 {
		t.Error("it doesn't ask")
	}
}

// TestNetworkCancelled: who has gone isn't waited for.
func TestNetworkCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := network(t, &server{wait: true}, nil)
		gone := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(gone) })
		begun := time.Now()
		if n.Admit(&filter.Admission{Cancelled: gone}) || time.Since(begun) != time.Second {
			t.Errorf("it ends after %v", time.Since(begun))
		}
	})
}

func TestNetworkRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                  "stat_prefix: is needed",
		`{"statPrefix": "a"}`: "grpc_service: is needed",
		`{"statPrefix": "a", "grpcService": {"googleGrpc": {"targetUri": "a", "statPrefix": "b"}}}`:                        "grpc_service.envoy_grpc.cluster_name: is needed",
		`{"statPrefix": "a", "grpcService": {"envoyGrpc": {"clusterName": "a"}}, "sendTlsAlertOnDenial": true}`:            "send_tls_alert_on_denial: is not supported",
		`{"statPrefix": "a", "grpcService": {"envoyGrpc": {"clusterName": "a"}}, "shadowMode": true}`:                      "shadow_mode: is not supported",
		`{"statPrefix": "a", "grpcService": {"envoyGrpc": {"clusterName": "a"}}, "transportApiVersion": "V2"}`:             "transport_api_version: V2 is not supported",
		`{"statPrefix": "a", "grpcService": {"envoyGrpc": {"clusterName": "a"}}, "filterEnabledMetadata": {}}`:             "filter_enabled_metadata.filter: is needed",
		`{"statPrefix": "a", "grpcService": {"envoyGrpc": {"clusterName": "a"}}, "typedMetadataContextNamespaces": ["a"]}`: "typed_metadata_context_namespaces: is not supported",
	} {
		cfg := &networkv3.ExtAuthz{}
		if err := protojson.Unmarshal([]byte(text), cfg); err != nil {
			t.Fatal(text, err)
		}
		e, _ := env(&server{})
		if _, err := NewNetwork(cfg, &NetworkStats{}, e); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
