// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
)

// tracingMesh names two collectors, and an access log with the trace of each request.
const tracingMesh = `
extensionProviders:
- {name: otel, opentelemetry: {service: collector.default.svc.cluster.local, port: 4317}}
- {name: zipkin, zipkin: {service: collector.default.svc.cluster.local, port: 9411, traceContextOption: USE_B3_WITH_W3C_PROPAGATION}}
- name: log
  envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: "[trace] %TRACE_ID% %REQ(:PATH)%\n"}}
`

// tracingObjects are the collectors and who sends spans to which. What is sent to
// /retries by the gateway is tried again.
var tracingObjects = service("collector", "10.96.7.1", "legacy", "{name: grpc, port: 4317, targetPort: 4317}, {name: http, port: 9411, targetPort: 9411}") + "---" +
	slice("collector", "{name: grpc, port: 4317}, {name: http, port: 9411}", "legacy") + `---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec:
  tracing:
  - providers: [{name: otel}]
    randomSamplingPercentage: 100
    customTags: {user: {header: {name: end-user, defaultValue: nobody}}, place: {literal: {value: lab}}}
  accessLogging: [{providers: [{name: log}]}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: ratings, namespace: default}
spec:
  selector: {matchLabels: {app: ratings}}
  tracing: [{providers: [{name: zipkin}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: retries, namespace: default}
spec:
  hosts: [retries.example.com]
  gateways: [bookinfo]
  http: [{route: [{destination: {host: ratings, port: {number: 9080}}}], retries: {attempts: 2, retryOn: 5xx}}]
`

// pageTelemetry is what productpage has of the mesh's, but for a share.
func pageTelemetry(percent int) string {
	return fmt.Sprintf(`
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: productpage, namespace: default}
spec:
  selector: {matchLabels: {app: productpage}}
  tracing: [{randomSamplingPercentage: %d}]
`, percent)
}

// tracingRig is the mesh with who collects its spans.
type tracingRig struct {
	*mesh
	collector *rig.SpanCollector
}

// TestTracing: spans of a mesh whose istiod has collectors and Telemetry.
func TestTracing(t *testing.T) {
	t.Parallel()
	testTracing(t, Full, true)
}

// TestTracingOfEnvoy: what is expected of us is what a real Envoy does.
func TestTracingOfEnvoy(t *testing.T) {
	t.Parallel()
	testTracing(t, Safe, false)
}

func testTracing(t *testing.T, flavour Flavour, ours bool) {
	m := &tracingRig{startMeshOf(t, Options{Flavour: flavour, Mesh: tracingMesh, Objects: []string{tracingObjects}}, ownConfig, func(string) bool { return ours }), &rig.SpanCollector{}}
	m.serve("legacy", ":4317", m.collector.ServeHTTP)
	m.serve("legacy", ":9411", m.collector.ServeHTTP)
	// All is asked for before anything is looked at: spans wait for others.
	hops := m.enter(t)
	retried := m.try(t, call{from: "legacy", url: "http://10.244.0.14:8080/retries?until-attempt=3", host: "retries.example.com"}, 200)
	silent := m.withoutShare(t)
	t.Run("one request, one trace", func(t *testing.T) { m.testOneTrace(t, hops) })
	t.Run("tries of the gateway", func(t *testing.T) { m.testTries(t, &retried.page) })
	t.Run("access log", func(t *testing.T) { m.testTraceLogged(t, hops[0]) })
	t.Run("statistics", m.testTracingStatistics)
	t.Run("no share", func(t *testing.T) { m.testUnsampled(t, silent) })
	m.checkLogs(t)
}

// enter sends a request through the gateway to all three applications, and returns their
// pages.
func (m *tracingRig) enter(t *testing.T) []*Page {
	t.Helper()
	var hops []*Page
	rig.Until(t, "the gateway answers", func() error {
		r, err := m.ask(call{from: "legacy", url: "http://10.244.0.14:8080/traced", header: []string{"end-user: tester"}})
		if err != nil {
			return err
		}
		hops = []*Page{&r.page}
		for len(hops) < 3 {
			next, err := hops[len(hops)-1].Next()
			if err != nil {
				return fmt.Errorf("%w: %d %s", err, r.code, r.body)
			}
			hops = append(hops, next)
		}
		return nil
	})
	return hops
}

var traceparent = regexp.MustCompile(`^00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])$`)

// parentOf reads the traceparent that an application got.
func parentOf(t *testing.T, p *Page) (trace, span, flags string) {
	t.Helper()
	got := strings.Join(p.Headers["Traceparent"], ",")
	parts := traceparent.FindStringSubmatch(got)
	if parts == nil {
		t.Fatalf("%s got traceparent %q", p.App, got)
	}
	return parts[1], parts[2], parts[3]
}

// spans waits for n spans of a trace, and for no more.
func (m *tracingRig) spans(t *testing.T, trace string, n int) []rig.Span {
	t.Helper()
	var all []rig.Span
	rig.Until(t, fmt.Sprintf("there are %d spans of %s", n, trace), func() error {
		spans, wrong := m.collector.Trace(trace)
		if all = spans; len(wrong) > 0 {
			t.Fatalf("the collector got %q", wrong)
		}
		if len(all) < n {
			return fmt.Errorf("there are %d: %+v", len(all), all)
		}
		return nil
	})
	if len(all) > n {
		t.Errorf("there are %d spans, not %d", len(all), n)
	}
	return all
}

// wantedSpan is a span that there has to be.
type wantedSpan struct {
	kind, name, service, peer string
	by                        string // OTLP if empty
	tags                      map[string]string
}

// spanBelow takes the span with a parent, and compares it.
func spanBelow(t *testing.T, all []rig.Span, parent string, want wantedSpan) rig.Span {
	t.Helper()
	i := slices.IndexFunc(all, func(s rig.Span) bool { return s.Parent == parent && s.Kind == want.kind })
	if i < 0 {
		t.Fatalf("no %s of %s is below %q in %+v", want.kind, want.service, parent, all)
	}
	s := all[i]
	if want.by == "" {
		want.by = "OTLP"
	}
	if s.Name != want.name || s.Service != want.service || s.By != want.by || !strings.HasPrefix(s.Peer, want.peer+":") {
		t.Errorf("%s %q of %q came by %s from %s, not %+v", s.Kind, s.Name, s.Service, s.By, s.Peer, want)
	}
	for key, value := range want.tags {
		if got, there := s.Tags[key]; got != value {
			t.Errorf("%s %q of %s: %s=%q (%v), not %q", s.Kind, s.Name, s.Service, key, got, there, value)
		}
	}
	return s
}

// spanTags are the tags that istiod has every span of a workload have, and those of the
// mesh's Telemetry.
func spanTags(app, version, ns string, more map[string]string) map[string]string {
	return with(map[string]string{"istio.canonical_service": app, "istio.canonical_revision": version, "istio.mesh_id": TrustDomain, "istio.namespace": ns,
		"istio.cluster_id": ClusterID, "component": "proxy", "http.status_code": "200", "response_flags": "-"}, more)
}

// testOneTrace: from the gateway to ratings there is a span of each client and each
// server, each below the one before it, and applications are told the span of their server.
func (m *tracingRig) testOneTrace(t *testing.T, hops []*Page) {
	trace, _, _ := parentOf(t, hops[0])
	all := m.spans(t, trace, 7)
	own := map[string]string{"user": "tester", "place": "lab"}
	gateway, page, reviews := spanTags("istio-ingressgateway", "v1", "istio-system", own), spanTags("productpage", "v1", "default", own), spanTags("reviews", "v2", "default", own)
	const suffix = ".default.svc.cluster.local:9080/*"
	parent := ""
	for i, want := range []wantedSpan{
		{"SERVER", "productpage" + suffix, "istio-ingressgateway.istio-system", "10.244.0.14", "", with(gateway, map[string]string{"http.method": "GET", "http.url": "http://10.244.0.14:8080/traced"})},
		{"CLIENT", "router outbound|9080||productpage.default.svc.cluster.local; egress", "istio-ingressgateway.istio-system", "10.244.0.14", "", with(gateway, map[string]string{"upstream_address": "10.244.0.10:9080"})},
		{"SERVER", "productpage" + suffix, "productpage.default", "10.244.0.10", "", page},
		{"CLIENT", "reviews" + suffix, "productpage.default", "10.244.0.10", "", page},
		{"SERVER", "reviews" + suffix, "reviews.default", "10.244.0.12", "", reviews},
		{"CLIENT", "ratings" + suffix, "reviews.default", "10.244.0.12", "", reviews},
		{"SERVER", "ratings" + suffix, "ratings.default", "10.244.0.13", "Zipkin", spanTags("ratings", "v1", "default", nil)},
	} {
		parent = spanBelow(t, all, parent, want).ID
		if i%2 == 0 && i > 0 {
			hop := hops[i/2-1]
			if in, span, flags := parentOf(t, hop); in != trace || span != parent || flags != "01" {
				t.Errorf("%s was told %q, in span %s", hop.App, hop.Headers["Traceparent"], parent)
			}
		}
	}
}

// testTries: a request that the gateway sends three times has a span for each.
func (m *tracingRig) testTries(t *testing.T, p *Page) {
	trace, span, _ := parentOf(t, p)
	all := m.spans(t, trace, 7)
	server := spanBelow(t, all, "", wantedSpan{"SERVER", "ratings.default.svc.cluster.local:9080/*", "istio-ingressgateway.istio-system", "10.244.0.14", "",
		map[string]string{"http.status_code": "200", "user": "nobody"}})
	told := false
	var tries []string
	for _, s := range all {
		if s.Parent != server.ID {
			continue
		}
		tries = append(tries, s.Tags["retry.count"]+":"+s.Tags["http.status_code"]+":"+s.Tags["error"])
		below := spanBelow(t, all, s.ID, wantedSpan{"SERVER", "ratings.default.svc.cluster.local:9080/*", "ratings.default", "10.244.0.13", "Zipkin",
			map[string]string{"http.status_code": s.Tags["http.status_code"]}})
		told = told || below.ID == span
	}
	slices.Sort(tries)
	if got := strings.Join(tries, " "); got != "1:503:true 2:200: :503:true" && got != ":503:true 1:503:true 2:200:" {
		t.Errorf("tries: %s", got)
	}
	if !told {
		t.Errorf("the application was told span %s, which is of no server", span)
	}
}

// testTraceLogged: the access log of each proxy names the trace.
func (m *tracingRig) testTraceLogged(t *testing.T, p *Page) {
	trace, _, _ := parentOf(t, p)
	for pod, path := range map[string]string{"istio-ingressgateway": "/traced", "productpage-v1": "/reviews/0", "reviews-v2": "/ratings/0", "ratings-v1": "/ratings/0"} {
		line := "[trace] " + trace + " " + path + "\n"
		if err := rig.Await(func() error {
			if !strings.Contains(m.proxies[pod].Log(), line) {
				return errors.New("it isn't there")
			}
			return nil
		}); err != nil {
			t.Errorf("%s didn't log %q", pod, line)
		}
	}
}

// testTracingStatistics: what the proxy counts of spans, and of requests by why they are
// traced; spans go by the cluster that istiod has of the collector.
func (m *tracingRig) testTracingStatistics(t *testing.T) {
	r := m.try(t, call{url: "http://127.0.0.1:15000/stats"}, 200)
	for _, want := range []string{
		`tracing\.opentelemetry\.spans_sent: [1-9]`,
		`http\.inbound_0\.0\.0\.0_9080;\.tracing\.random_sampling: [1-9]`,
		`http\.outbound_0\.0\.0\.0_9080;\.tracing\.random_sampling: [1-9]`,
		`cluster\.outbound\|4317\|\|collector\.default\.svc\.cluster\.local;\.upstream_rq_2xx: [1-9]`,
	} {
		if !regexp.MustCompile(`(?m)^` + want).MatchString(r.body) {
			var near []string
			for line := range strings.Lines(r.body) {
				if strings.Contains(line, "tracing") || strings.Contains(line, "4317") {
					near = append(near, line)
				}
			}
			t.Errorf("there is no %s, but\n%s", want, strings.Join(near, ""))
		}
	}
}

// forcedTrace is the trace of a request that asks to be traced.
const forcedTrace, forcedSpan = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

// withoutShare has no request of productpage traced for a while, and then all again.
// Those behind are told so, and no request is lost by the changes. It returns the trace of
// a request that nothing is to be sent of; one asked to be traced after it.
func (m *tracingRig) withoutShare(t *testing.T) (silent string) {
	l := m.startLoad(t, call{from: "productpage-v1", url: "http://ratings:9080/load"}, 2, 5*time.Millisecond)
	defer l.end(t)
	const url = "http://ratings:9080/unsampled"
	change := func(percent int, flags string) (trace string) {
		m.l.Apply(pageTelemetry(percent))
		rig.Until(t, fmt.Sprintf("%d %% of requests are traced", percent), func() error {
			in, _, got := parentOf(t, &m.try(t, call{url: url}, 200).page)
			if trace = in; got != flags {
				return fmt.Errorf("the flags are %s", got)
			}
			return nil
		})
		return trace
	}
	silent = change(0, "00")
	m.try(t, call{url: url, header: []string{"x-client-trace-id: 1", "traceparent: 00-" + forcedTrace + "-" + forcedSpan + "-01"}}, 200)
	change(100, "01")
	return silent
}

// testUnsampled: of a request that isn't traced nothing is sent, unlike of one after it.
func (m *tracingRig) testUnsampled(t *testing.T, silent string) {
	all := m.spans(t, forcedTrace, 2)
	spanBelow(t, all, forcedSpan, wantedSpan{"CLIENT", "ratings.default.svc.cluster.local:9080/*", "productpage.default", "10.244.0.10", "", nil})
	if spans, _ := m.collector.Trace(silent); len(spans) > 0 {
		t.Errorf("spans of a request that isn't traced: %+v", spans)
	}
}

// bootstrapTracing has Istio's agent put a tracer into the bootstrap.
const bootstrapTracing = `{"tracing": {"zipkin": {"address": "10.244.0.20:9411"}, "sampling": 100, "customTags": {"place": {"literal": {"value": "lab"}}}}}`

// TestTracingOfBootstrap: where istiod names no collector, spans go to the Zipkin of
// ProxyConfig.
func TestTracingOfBootstrap(t *testing.T) {
	t.Parallel()
	testTracingOfBootstrap(t, Full, true)
}

// TestTracingOfEnvoysBootstrap: so does a real Envoy.
func TestTracingOfEnvoysBootstrap(t *testing.T) {
	t.Parallel()
	testTracingOfBootstrap(t, Safe, false)
}

func testTracingOfBootstrap(t *testing.T, flavour Flavour, ours bool) {
	config := func(string) string { return bootstrapTracing }
	m := &tracingRig{startMeshOf(t, Options{Flavour: flavour, Mesh: "enableTracing: true"}, config, func(string) bool { return ours }), &rig.SpanCollector{}}
	m.serve("legacy", ":9411", m.collector.ServeHTTP)
	r := m.try(t, call{url: "http://ratings:9080/bootstrap"}, 200)
	trace := strings.Join(r.page.Headers["X-B3-Traceid"], ",")
	all := m.spans(t, trace, 2)
	const name = "ratings.default.svc.cluster.local:9080/*"
	own := map[string]string{"place": "lab"}
	client := spanBelow(t, all, "", wantedSpan{"CLIENT", name, "productpage.default", "10.244.0.10", "Zipkin", spanTags("productpage", "v1", "default", own)})
	server := spanBelow(t, all, client.ID, wantedSpan{"SERVER", name, "ratings.default", "10.244.0.13", "Zipkin", spanTags("ratings", "v1", "default", own)})
	if got := strings.Join(r.page.Headers["X-B3-Spanid"], ","); got != server.ID {
		t.Errorf("the application was told span %s, not %s", got, server.ID)
	}
	for _, page := range []string{"clusters", "config_dump"} {
		want := map[string]string{"clusters": "zipkin::10.244.0.20:9411::", "config_dump": `"static_clusters"`}[page]
		if r := m.try(t, call{url: "http://127.0.0.1:15000/" + page}, 200); !strings.Contains(r.body, want) {
			t.Errorf("/%s has no %s", page, want)
		}
	}
	m.checkLogs(t)
}
