// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"pillion/proxy/http"
)

// grpcServiceOf reads a service in YAML, with a second for a time that it doesn't say.
func grpcServiceOf(t *testing.T, text string) (authority string, fields map[string]string, timeout time.Duration, err error) {
	t.Helper()
	json, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	in := &corev3.GrpcService{}
	if err := protojson.Unmarshal(json, in); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	c := NewCompiler(Env{})
	defer c.Close()
	s, err := c.grpcService(in, time.Second)
	if err != nil {
		return "", nil, 0, err
	}
	call := s.Call("/a.B/C", make([]byte, 5), &http.Exchange{Conn: &http.ConnInfo{}})
	fields = map[string]string{}
	for _, f := range call.Fields.All() {
		fields[string(f.Name)] = string(f.Value)
	}
	return call.Authority, fields, call.Timeout, nil
}

func TestGRPCService(t *testing.T) {
	for text, want := range map[string]struct {
		authority string
		timeout   time.Duration
		fields    map[string]string // "" is none
	}{
		"envoy_grpc: {cluster_name: az}": {"az", time.Second, map[string]string{"te": "trailers", "content-type": "application/grpc", "grpc-timeout": "1000m",
			"x-envoy-internal": "true", "x-envoy-expected-rq-timeout-ms": "1000"}},
		"{envoy_grpc: {cluster_name: az, authority: az.example, skip_envoy_headers: true}, timeout: 2s}":              {"az.example", 2 * time.Second, map[string]string{"grpc-timeout": "2000m", "x-envoy-internal": ""}},
		"{envoy_grpc: {cluster_name: az}, timeout: 0s}":                                                               {"az", 0, map[string]string{"grpc-timeout": "", "x-envoy-expected-rq-timeout-ms": ""}},
		`{envoy_grpc: {cluster_name: az}, initial_metadata: [{key: X-A, value: b}, {key: x-c, value: "%PROTOCOL%"}]}`: {"az", time.Second, map[string]string{"x-a": "b"}},
	} {
		authority, fields, timeout, err := grpcServiceOf(t, text)
		if err != nil || authority != want.authority || timeout != want.timeout {
			t.Errorf("%s: authority %s, timeout %v, %v", text, authority, timeout, err)
		}
		for name, value := range want.fields {
			if fields[name] != value {
				t.Errorf("%s: %s is %q, want %q", text, name, fields[name], value)
			}
		}
	}
}

func TestGRPCServiceRefused(t *testing.T) {
	const more = "{envoy_grpc: {cluster_name: az}, "
	for text, want := range map[string]string{
		"google_grpc: {target_uri: a, stat_prefix: b}": "google_grpc: is not supported",
		"{}":             "envoy_grpc.cluster_name: is needed",
		"envoy_grpc: {}": "envoy_grpc.cluster_name: is needed",
		"envoy_grpc: {cluster_name: a, retry_policy: {}}":             "envoy_grpc.retry_policy: is not supported",
		`envoy_grpc: {cluster_name: a, authority: "a\rb"}`:            "envoy_grpc.authority: ",
		more + "retry_policy: {}}":                                    "retry_policy: is not supported",
		more + "timeout: -1s}":                                        "timeout: -1s is no time to wait",
		more + "initial_metadata: [{key: a b, value: c}]}":            "initial_metadata[0].key: ",
		more + `initial_metadata: [{key: a}, {key: a, value: "%X"}]}`: "initial_metadata[1].value: ",
	} {
		if _, _, _, err := grpcServiceOf(t, text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
}
