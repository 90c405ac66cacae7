// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pillion/test/rig"
	"pillion/test/wire"
)

// spanSink is a collector that wants a token, and can refuse what it is sent.
type spanSink struct {
	rig.SpanCollector
	addr  string
	fails bool // immutable once requests are made
}

func newSpanSink(t *testing.T) *spanSink {
	t.Helper()
	s := &spanSink{}
	server := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if r.URL.Path != "/v1/traces" || r.Header.Get("api-token") != "abc" {
			t.Errorf("%s, fields %v", r.URL, r.Header)
		}
		if s.fails {
			w.WriteHeader(nethttp.StatusServiceUnavailable)
			return
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.Close()
		if _, wrong := s.Trace(""); len(wrong) > 0 {
			t.Errorf("messages that weren't taken: %q", wrong)
		}
	})
	s.addr = server.Listener.Addr().String()
	return s
}

// of returns the spans of a service.
func (s *spanSink) of(service string) []rig.Span {
	spans, _ := s.Spans(func(span *rig.Span) bool { return span.Service == service })
	return spans
}

// tracedMesh writes the configuration of a workload that is called and of one that calls
// it, and of the collector.
func tracedMesh(t *testing.T, sink *spanSink, app *wire.Origin, inbound string, percent int) (dir, meshConfig string) {
	t.Helper()
	host, port, err := net.SplitHostPort(sink.addr)
	if err != nil {
		t.Fatal(err)
	}
	_, inPort, _ := net.SplitHostPort(inbound)
	dir = t.TempDir()
	write(t, filepath.Join(dir, "mesh.yaml"), fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: collector, namespace: obs}
spec: {hosts: [collector.obs], ports: [{number: 4318, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: %s, ports: {http: %s}}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: shop}
spec:
  hosts: [db.shop.svc.cluster.local]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: %s}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: %s}, labels: {app: db}}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: all, namespace: istio-system}
spec: {tracing: [{providers: [{name: otel}], randomSamplingPercentage: %d, customTags: {tier: {literal: {value: gold}}, user: {header: {name: end-user}}}}]}
`, host, port, app.Port(), inPort, percent))
	meshConfig = filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, meshConfig, `
extensionProviders:
- {name: otel, opentelemetry: {service: obs/collector.obs, port: 4318, http: {path: /v1/traces, timeout: 5s, headers: [{name: api-token, value: abc}]}}}
`)
	return dir, meshConfig
}

// TestTracing follows one request through the proxies of both workloads: its spans make one
// trace, and each proxy sends what it has when it ends.
func TestTracing(t *testing.T) {
	t.Parallel()
	sink := newSpanSink(t)
	app := wire.NewOrigin(t, "db", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		return wire.Text(w, r, r.Fields.Get("traceparent"))
	})
	inbound := rig.FreeAddr(t)
	dir, mesh := tracedMesh(t, sink, app, inbound, 100)
	flags := func(app string, more ...string) []string {
		return append([]string{"--namespace", "shop", "--labels", "app=" + app, "--mesh-config", mesh}, more...)
	}
	_, appPort, _ := net.SplitHostPort(app.Addr)
	db := startOurs(t, flags("db", "--inbound", inbound+"=127.0.0.1:"+appPort), dir)
	web := startOurs(t, flags("web"), dir)
	reply := string(do(t, web.HTTP, get("db.shop.svc.cluster.local", "/orders", "end-user: jason", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")).Body)
	for _, p := range []*rig.Proxy{db, web} {
		p.Signal(t, syscall.SIGTERM)
		if code := p.WaitExit(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	client, server := sink.of("web.shop"), sink.of("db.shop")
	if len(client) != 1 || len(server) != 1 {
		t.Fatalf("spans of web %v, of db %v", client, server)
	}
	c, s := client[0], server[0]
	if c.Kind != "CLIENT" || s.Kind != "SERVER" || c.Trace != "0af7651916cd43dd8448eb211c80319c" || c.Parent != "b7ad6b7169203331" ||
		s.Trace != c.Trace || s.Parent != c.ID {
		t.Errorf("the spans are no line:\n%+v\n%+v", c, s)
	}
	if want := "00-" + s.Trace + "-" + s.ID + "-01"; reply != want {
		t.Errorf("the application is told %q, want %q", reply, want)
	}
	if c.Name != "db.shop.svc.cluster.local:80/*" || s.Name != c.Name {
		t.Errorf("the spans are called %q and %q", c.Name, s.Name)
	}
	for _, span := range []rig.Span{c, s} {
		for key, want := range map[string]string{"tier": "gold", "user": "jason", "http.status_code": "200", "http.url": "http://db.shop.svc.cluster.local/orders",
			"istio.namespace": "shop", "response_flags": "-"} {
			if span.Tags[key] != want {
				t.Errorf("%s: the tag %s is %q, want %q", span.Kind, key, span.Tags[key], want)
			}
		}
	}
}

// TestTracingWithoutCollector: a collector that refuses spans, or that there isn't, costs
// no request, and the log and the metrics say how many spans are lost.
func TestTracingWithoutCollector(t *testing.T) {
	t.Parallel()
	sink := newSpanSink(t)
	sink.fails = true
	app := wire.NewOrigin(t, "db", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error { return wire.Text(w, r, "well") })
	dir, mesh := tracedMesh(t, sink, app, app.Addr, 100)
	p := startOurs(t, []string{"--namespace", "shop", "--labels", "app=web", "--mesh-config", mesh}, dir)
	const requests = 600 // more than a batch
	for range requests {
		if got := string(do(t, p.HTTP, get("db.shop.svc.cluster.local", "/")).Body); got != "well" {
			t.Fatalf("the answer is %q", got)
		}
	}
	rig.Until(t, "spans are counted as lost", func() error {
		lost, err := p.Ask("GET", "/stats?filter=spans_lost")
		if err == nil && !strings.Contains(lost, "tracing.opentelemetry.spans_lost: 512") && !strings.Contains(lost, fmt.Sprintf("spans_lost: %d", requests)) {
			err = fmt.Errorf("the counters are %q", lost)
		}
		return err
	})
	if log := p.Stderr.String(); strings.Count(log, "spans are lost") != 1 || !strings.Contains(log, "status 503") {
		t.Errorf("the log says:\n%s", log)
	}
}
