// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pillion/test/need"
	"pillion/test/rig"
)

// zipkinSpan is what of a span a test looks at.
type zipkinSpan struct {
	Name, Kind    string
	TraceID       string `json:"traceId"`
	LocalEndpoint struct {
		ServiceName string `json:"serviceName"`
	} `json:"localEndpoint"`
	Tags map[string]string
}

// collected is what a collector was sent: the path, the Host, a header, and the body.
type collected struct {
	path, host, tenant string
	body               []byte
}

// startCollector starts a server that takes spans and returns its port.
func startCollector(t *testing.T) (string, <-chan collected) {
	t.Helper()
	got := make(chan collected, 16)
	s := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(nethttp.StatusAccepted)
		select {
		case got <- collected{r.URL.Path, r.Host, r.Header.Get("X-Tenant"), body}:
		default: // more than the test looks at
		}
	}))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, got
}

// TestEnvoyTraces runs a real Envoy on a translated mesh: the spans of a request reach the
// collector that Telemetry names, with its tags.
func TestEnvoyTraces(t *testing.T) {
	need.Envoy(t)
	zipkin, spans := startCollector(t)
	otlp, exports := startCollector(t)
	reviews, proxy, edge := backend(t, "v1"), freePort(t), freePort(t)
	entry := func(host, port, at string) string {
		return fmt.Sprintf(`
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %s, namespace: default}
spec: {hosts: [%s], ports: [{number: %s, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 127.0.0.1, ports: {http: %s}}]}
`, strings.ReplaceAll(host, ".", "-"), host, port, at)
	}
	yaml := entry("reviews.example.com", "80", fmt.Sprint(reviews)) + entry("zipkin.example.com", "9411", zipkin) + entry("otel.example.com", "4318", otlp) +
		telemetryYAML("istio-system", "mesh", "{tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100, customTags: {zone: {literal: {value: eu}}, user: {header: {name: end-user}}, path: {formatter: {value: \"%REQ(:path)%\"}}}}]}") +
		telemetryYAML("default", "inbound", "{tracing: [{match: {mode: SERVER}, providers: [{name: otel}]}]}")
	r, problems := Translate(load(t, yaml), Options{
		HTTPAddr: fmt.Sprintf("127.0.0.1:%d", proxy), Labels: map[string]string{"app": "shop"},
		Inbound: []string{fmt.Sprintf("127.0.0.1:%d=127.0.0.1:%d", edge, reviews)},
		MeshConfig: loadMesh(t, `extensionProviders:
- {name: zipkin, zipkin: {service: zipkin.example.com, port: 9411, headers: [{name: x-tenant, value: shop}]}}
- {name: otel, opentelemetry: {service: otel.example.com, port: 4318, http: {path: /v1/traces, headers: [{name: x-tenant, value: shop}]}}}`),
	})
	if r == nil {
		t.Fatalf("refused:\n%s", describe(problems))
	}
	runEnvoy(t, writeBootstrap(t, r, ""))
	ask := func(port int) {
		req, err := nethttp.NewRequestWithContext(t.Context(), nethttp.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/a", port), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "reviews.example.com"
		req.Header.Set("end-user", "jason")
		resp, err := nethttp.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	await := func(from <-chan collected) collected {
		select {
		case c := <-from:
			return c
		case <-time.After(rig.Patience):
			t.Fatal("no span came")
		}
		return collected{}
	}

	ask(proxy)
	sent := await(spans)
	var got []zipkinSpan
	if err := json.Unmarshal(sent.body, &got); err != nil || len(got) != 1 {
		t.Fatalf("%v: %s", err, sent.body)
	}
	if sent.path != "/api/v2/spans" || sent.host != "zipkin.example.com" || sent.tenant != "shop" {
		t.Errorf("sent to %s of %s for %q", sent.path, sent.host, sent.tenant)
	}
	if s := got[0]; s.Name != "reviews.example.com:80/*" || s.Kind != "CLIENT" || len(s.TraceID) != 32 || s.LocalEndpoint.ServiceName != "shop.default" {
		t.Errorf("span %+v", s)
	}
	for name, want := range map[string]string{"zone": "eu", "user": "jason", "path": "/a", "istio.canonical_service": "shop", "istio.namespace": "default", "upstream_cluster": "outbound|80||reviews.example.com"} {
		if got[0].Tags[name] != want {
			t.Errorf("tag %s is %q, want %q", name, got[0].Tags[name], want)
		}
	}

	ask(edge)
	sent = await(exports)
	if sent.path != "/v1/traces" || sent.tenant != "shop" || !strings.Contains(string(sent.body), "shop.default") {
		t.Errorf("sent to %s for %q: %q", sent.path, sent.tenant, sent.body)
	}
}

// TestEnvoyTakesTelemetry has a real Envoy check what is translated for each provider.
func TestEnvoyTakesTelemetry(t *testing.T) {
	envoy := need.Envoy(t)
	for _, g := range telemetryGroups {
		if g.name != "providers" && g.name != "bootstrap" {
			continue
		}
		for _, c := range g.cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				r, problems := Translate(load(t, g.common()+"\n---\n"+c.objects("default")), Options{
					Labels: telemetryLabels, MeshConfig: loadMesh(t, g.mesh), HTTPAddr: "127.0.0.1:15007", Inbound: []string{"127.0.0.1:18080=127.0.0.1:8081"},
				})
				if r == nil {
					t.Fatalf("refused:\n%s", describe(problems))
				}
				out, err := exec.Command(envoy, "--mode", "validate", "--concurrency", "1", "-l", "error", "-c", writeBootstrap(t, r, "127.0.0.1:0")).CombinedOutput()
				if err != nil {
					t.Errorf("Envoy refuses the configuration: %v\n%s", err, out)
				}
			})
		}
	}
}
