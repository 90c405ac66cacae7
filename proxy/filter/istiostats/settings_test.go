// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	statsapi "istio.io/api/envoy/extensions/stats"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/proxytest"
	"pillion/proxy/stats"
)

var testNode = Node{
	Own: http.Peer{Workload: "web-1", Namespace: "shop", ClusterID: "c1", Detail: &http.PeerDetail{Name: "web-1-abc"}},
	ID:  "sidecar~10.0.0.1~web.shop~x", Labels: map[string]string{"team": "green"},
}

// subjectOf is a request as expressions see it.
func subjectOf() *subject {
	ex := finished(func(ex *http.Exchange) {
		ex.Req.Authority, ex.Req.RawMethod, ex.Req.Path = []byte("api.example:8080"), []byte("POST"), []byte("/a/b?c=d")
		ex.Req.Scheme, ex.Req.Protocol = []byte("https"), http.HTTP2
		ex.Req.Fields.Add([]byte("X-Team"), []byte("blue"))
		ex.Req.Fields.Add([]byte("User-Agent"), []byte("curl"))
		ex.Conn = &http.ConnInfo{Remote: "10.0.0.9:4000", Local: "10.0.0.1:80", SNI: "sni", PeerPrincipal: "spiffe://td/ns/a/sa/b", TLS: &http.TLSInfo{Version: "TLSv1.3"}}
		ex.DownstreamPeer = &http.Peer{Workload: "c-1", Namespace: "ns", App: "c", Detail: &http.PeerDetail{Name: "c-1-x",
			Owner: "kubernetes://apis/apps/v1/namespaces/ns/deployments/c-1", Labels: map[string]string{"tier": "gold"}}}
		ex.Upstream = host(reviewsV2)
		ex.RouteName = "r"
	})
	s := &subject{}
	s.be(ex, nil)
	return s
}

func TestExpressions(t *testing.T) {
	s := subjectOf()
	for text, want := range map[string]string{
		`"text"`:                         "text",
		`'it''`:                          "!", // two tokens
		`"a\"b"`:                         `a"b`,
		`""`:                             "",
		`42`:                             "42",
		`-1`:                             "-1",
		`true`:                           "true",
		`request.host`:                   "api.example:8080",
		`request.method`:                 "POST",
		`request.path`:                   "/a/b?c=d",
		`request.url_path`:               "/a/b",
		`request.query`:                  "c=d",
		`request.protocol`:               "HTTP/2",
		`request.scheme`:                 "https",
		`request.useragent`:              "curl",
		`request.headers['x-team']`:      "blue",
		`request.headers["X-Team"]`:      "blue",
		`request.headers['x-none']`:      "unknown",
		`request.total_size`:             "120",
		`response.code`:                  "200",
		`response.grpc_status`:           "unknown",
		`source.address`:                 "10.0.0.9:4000",
		`destination.port`:               "80",
		`upstream.address`:               "10.0.0.1:9080",
		`connection.mtls`:                "true",
		`connection.tls_version`:         "TLSv1.3",
		`xds.route_name`:                 "r",
		`xds.cluster_name`:               reviewsCluster,
		`downstream_peer.namespace`:      "ns",
		`downstream_peer.name`:           "c-1-x",
		`downstream_peer.type`:           "deployment",
		`downstream_peer.region`:         "unknown",
		`upstream_peer.workload`:         "reviews-v2",
		`filter_state.upstream_peer.app`: "reviews",
		`filter_state["downstream_peer"].labels["tier"].value`:             "gold",
		`downstream_peer.labels['tier']`:                                   "gold",
		`upstream_peer.labels['tier']`:                                     "unknown",
		`node.metadata["NAMESPACE"]`:                                       "shop",
		`node.metadata.LABELS.team`:                                        "green",
		`xds.node.id`:                                                      "sidecar~10.0.0.1~web.shop~x",
		`xds.node.metadata['WORKLOAD_NAME']`:                               "web-1",
		`has(request.headers['x-team']) ? request.headers['x-team'] : "-"`: "blue",
		`has(request.headers.other) ? "yes" : "no"`:                        "no",
		`response.code >= 200 && response.code < 300 ? '2xx' : 'other'`:    "2xx",
		`request.path.startsWith('/a') || request.path == "x"`:             "true",
		`!(request.path.endsWith('d')) ? 1 : 2`:                            "2",
		`request.path.contains("b") && has(request.host)`:                  "true",
		`request.path.matches('^/[a-z]/')`:                                 "true",
		`request.method + " " + request.url_path`:                          "POST /a/b",
		`string(response.code) + "!"`:                                      "200!",
		`1 + 2`:                                                            "3",
		`request.headers.none == "x" || true`:                              "true",
		`request.headers.none == "x"`:                                      "unknown",
		`request.headers.none ? 1 : 2`:                                     "unknown",
		`"a" < 1`:                                                          "unknown",
		`"a" != "b"`:                                                       "true",
		// What isn't understood.
		``: "!", `request.`: "!", `request.nothing`: "!", `request.headers`: "!", `request.headers[x]`: "!", `f(x)`: "!", `1 +`: "!",
		`"open`: "!", `(1`: "!", `1 1`: "!", `a ? 1`: "!", `$`: "!", `"\q"`: "!", `request.host.size()`: "!", `request.path.matches("(")`: "!",
		`request.path.matches(request.host)`: "!", `99999999999999999999`: "!", `upstream_peer.nothing`: "!", `node.metadata.OTHER`: "!", `xds.listener`: "!",
		strings.Repeat("(", 100) + "1": "!", strings.Repeat("!", 100) + "true": "!",
	} {
		e, err := parseExpression(text, &testNode)
		if err != nil {
			if want != "!" {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		v := e.eval(s)
		if got := v.label(); got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
}

// FuzzExpression: whoever may write a Telemetry resource can't make more of an
// expression than an error, and what is taken can be evaluated.
func FuzzExpression(f *testing.F) {
	for _, s := range []string{`request.host`, `has(a.b) ? "x" : 'y'`, `request.headers["x"] + "\n"`, `1 < 2 && !true`, `((("`, `a.b.c.matches("x")`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := parseExpression(text, &testNode)
		if (e == nil) == (err == nil) {
			t.Fatalf("%v, %v", e, err)
		}
		if e == nil {
			return
		}
		v := e.eval(subjectOf())
		if l := v.label(); len(l) > 3*maxLabel {
			t.Fatalf("a label of %d octets", len(l))
		}
		raw := &subject{}
		raw.be(nil, &filter.Connection{})
		v = e.eval(raw)
		_ = v.label()
	})
}

// configured returns a filter with the overrides, and what it was warned about.
func configured(t *testing.T, r *stats.Registry, families *Families, cfg *statsapi.PluginConfig) (*Filter, []string) {
	t.Helper()
	o, err := Parse(cfg, testNode)
	if err != nil {
		t.Fatal(err)
	}
	if families == nil {
		families = NewFamilies(r)
	}
	return NewWith(o, productpage, http.Outbound, families), o.Warnings
}

func toReviews(ex *http.Exchange) {
	ex.Upstream, ex.Req.RawMethod, ex.Req.Authority = host(reviewsV2), []byte("GET"), []byte("reviews:9080")
}

// TestTelemetry is what a Telemetry resource commonly asks for.
func TestTelemetry(t *testing.T) {
	r := stats.NewRegistry()
	f, warnings := configured(t, r, nil, &statsapi.PluginConfig{Metrics: []*statsapi.MetricConfig{
		{Name: "requests_total", Dimensions: map[string]string{"request_host": "request.host", "request_method": "request.method", "mesh": `"prod"`,
			"source_workload": `"hidden"`, "a-b": "1"}},
		{TagsToRemove: []string{"response_flags", "nothing_such"}},
		{Name: "request_bytes", Drop: true},
	}})
	if len(warnings) > 0 {
		t.Errorf("warnings: %q", warnings)
	}
	for _, method := range []string{"GET", "PUT", "GET"} {
		f.OnFinish(finished(func(ex *http.Exchange) { toReviews(ex); ex.Req.RawMethod = []byte(method) }))
	}
	got := scrape(t, r)
	if _, there := got["istio_request_bytes"]; there {
		t.Error("a dropped metric is there")
	}
	counts := map[string]float64{}
	for _, m := range got["istio_requests_total"].GetMetric() {
		l := labelsOf(m)
		counts[l["request_method"]] = m.GetCounter().GetValue()
		if l["request_host"] != "reviews:9080" || l["mesh"] != "prod" || l["source_workload"] != "hidden" || l["_"] != "" || l["a_b"] != "1" || l["destination_workload"] != "reviews-v2" {
			t.Errorf("labels are %v", l)
		}
		if _, there := l["response_flags"]; there || len(l) != 25-1+4 {
			t.Errorf("%d labels: %v", len(l), l)
		}
	}
	if !maps.Equal(counts, map[string]float64{"GET": 2, "PUT": 1}) {
		t.Errorf("counted %v", counts)
	}
	for _, name := range []string{"istio_request_duration_milliseconds", "istio_response_bytes"} {
		ms := got[name].GetMetric()
		if len(ms) != 1 || ms[0].GetHistogram().GetSampleCount() != 3 || len(labelsOf(ms[0])) != 24 {
			t.Errorf("%s: %v", name, ms)
		}
	}
}

// TestTelemetryChanges: what was counted before a change of labels stays, under its
// own, and no label set is shown twice.
func TestTelemetryChanges(t *testing.T) {
	r := stats.NewRegistry()
	families := NewFamilies(r)
	before, _ := configured(t, r, families, &statsapi.PluginConfig{})
	after, _ := configured(t, r, families, &statsapi.PluginConfig{Metrics: []*statsapi.MetricConfig{
		{Name: "requests_total", Dimensions: map[string]string{"x": `"y"`}}, {Name: "response_bytes", Drop: true}}})
	again, _ := configured(t, r, families, &statsapi.PluginConfig{Metrics: []*statsapi.MetricConfig{{Drop: true}}})
	for _, f := range []*Filter{before, after, again} {
		f.OnFinish(finished(toReviews))
	}
	got := scrape(t, r)
	if n := len(got["istio_requests_total"].GetMetric()); n != 2 {
		t.Errorf("%d series of requests, want 2", n)
	}
	if ms := got["istio_request_duration_milliseconds"].GetMetric(); len(ms) != 1 || ms[0].GetHistogram().GetSampleCount() != 2 {
		t.Errorf("durations: %v", ms)
	}
	if ms := got["istio_response_bytes"].GetMetric(); len(ms) != 1 || ms[0].GetHistogram().GetSampleCount() != 1 {
		t.Errorf("bytes: %v", ms)
	}
}

func TestTelemetryOfStreamsAndConnections(t *testing.T) {
	r := stats.NewRegistry()
	f, _ := configured(t, r, nil, &statsapi.PluginConfig{Metrics: []*statsapi.MetricConfig{
		{Name: "istio_request_messages_total", Dimensions: map[string]string{"path": "request.path"}},
		{Name: "tcp_sent_bytes_total", Dimensions: map[string]string{"port": "destination.port", "path": "request.path"}},
		{Name: "tcp_received_bytes_total", Drop: true},
	}})
	ex := stream(host(reviewsV2))
	ex.Req.Path = []byte("/s/m")
	ex.RequestMessages.Add(oneMessage)
	ex.ResponseMessages.Add(oneMessage)
	f.OnResponse(ex)
	f.OnFinish(ex)
	for range 2 {
		f.OnConnection(&filter.Connection{Conn: &http.ConnInfo{Local: "10.0.0.1:3306"}, Host: host(reviewsV2), Opened: true, Closed: true, Sent: 7, Received: 9})
	}
	got := scrape(t, r)
	if ms := got["istio_request_messages_total"].GetMetric(); len(ms) != 1 || labelsOf(ms[0])["path"] != "/s/m" || ms[0].GetCounter().GetValue() != 1 {
		t.Errorf("%v", ms)
	}
	if ms := got["istio_response_messages_total"].GetMetric(); len(ms) != 1 || len(labelsOf(ms[0])) != numPeerLabels {
		t.Errorf("%v", ms)
	}
	if ms := got["istio_tcp_sent_bytes_total"].GetMetric(); len(ms) != 1 || labelsOf(ms[0])["port"] != "3306" || labelsOf(ms[0])["path"] != unknown || ms[0].GetCounter().GetValue() != 14 {
		t.Errorf("%v", ms)
	}
	if ms := got["istio_tcp_connections_opened_total"].GetMetric(); len(ms) != 1 || len(labelsOf(ms[0])) != 23 {
		t.Errorf("%v", ms)
	}
	if _, there := got["istio_tcp_received_bytes_total"]; there {
		t.Error("a dropped metric is there")
	}
}

func TestTelemetryWarnings(t *testing.T) {
	r := stats.NewRegistry()
	f, warnings := configured(t, r, nil, &statsapi.PluginConfig{
		Definitions: []*statsapi.MetricDefinition{{Name: "x"}},
		Metrics: []*statsapi.MetricConfig{{Name: "nothing_such"},
			{Name: "requests_total", Dimensions: map[string]string{"x": "request.nothing", "y": ""}, Match: "true"}},
	})
	want := []string{"definitions: metrics beside Istio's own are not supported", `metrics[0].name: there is no metric "nothing_such"`,
		"metrics[1].match: has no effect",
		`metrics: dimensions[x] "request.nothing": at 15: the attribute request.nothing is not supported; its value is "unknown"`}
	if !slices.Equal(warnings, want) {
		t.Errorf("%q", warnings)
	}
	f.OnFinish(finished(toReviews))
	if l := labelsOf(scrape(t, r)["istio_requests_total"].GetMetric()[0]); l["x"] != unknown || l["y"] != "" {
		t.Errorf("%v", l)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		cfg  *statsapi.PluginConfig
		want time.Duration
		err  string
	}{
		{&statsapi.PluginConfig{DisableHostHeaderFallback: true, Debug: true}, 0, ""},
		{&statsapi.PluginConfig{TcpReportingDuration: durationpb.New(15 * time.Second)}, 15 * time.Second, ""},
		{&statsapi.PluginConfig{TcpReportingDuration: durationpb.New(time.Millisecond)}, time.Second, ""},
		{&statsapi.PluginConfig{TcpReportingDuration: durationpb.New(-1)}, 0, "tcp_reporting_duration"},
		{&statsapi.PluginConfig{Reporter: statsapi.Reporter_SERVER_GATEWAY}, 0, "reporter: SERVER_GATEWAY"},
	} {
		o, err := Parse(c.cfg, testNode)
		if c.err == "" && (err != nil || o.TellEvery != c.want) || c.err != "" && (err == nil || !strings.HasPrefix(err.Error(), c.err)) {
			t.Errorf("%v: %v %v", c.cfg, o, err)
		}
	}
}

// TestUpstreamPeer: what the host says of itself goes before its endpoint's metadata.
func TestUpstreamPeer(t *testing.T) {
	r := stats.NewRegistry()
	f := New(productpage, http.Outbound, NewFamilies(r))
	h := host(reviewsV2)
	one := &http.Peer{Workload: "reviews-v3", Namespace: "shop", App: "r", Version: "v3"}
	for _, name := range []string{"a", "b"} {
		f.OnFinish(finished(func(ex *http.Exchange) {
			ex.Upstream = h
			ex.UpstreamPeer = &http.Peer{Workload: "reviews-v3", Namespace: "shop", App: "r", Version: "v3", Detail: &http.PeerDetail{Name: name, Workload: one}}
		}))
	}
	ms := scrape(t, r)["istio_requests_total"].GetMetric()
	if len(ms) != 1 || ms[0].GetCounter().GetValue() != 2 {
		t.Fatalf("%v", ms)
	}
	if l := labelsOf(ms[0]); l["destination_workload"] != "reviews-v3" || l["destination_app"] != "r" || l["destination_service"] != reviewsV2.ServiceHost {
		t.Errorf("%v", l)
	}
	if n := len(*h.Attached(f.reporter.requests[0]).(*handles[*stats.Series[cells]]).list.Load()); n != 1 {
		t.Errorf("%d handles for pods that are alike", n)
	}
}

// TestTelemetryAllocatesNothing for a request that was seen before.
func TestTelemetryAllocatesNothing(t *testing.T) {
	f, _ := configured(t, stats.NewRegistry(), nil, &statsapi.PluginConfig{Metrics: []*statsapi.MetricConfig{
		{Name: "requests_total", Dimensions: map[string]string{"request_host": "request.host", "class": `response.code < 300 ? "2xx" : "x"`,
			"who": "downstream_peer.namespace", "c": `"constant"`}}}})
	ex := finished(toReviews)
	proxytest.NoAllocs(t, "a request with labels of its own", func() { f.OnFinish(ex) })
}

// TestLateFamilyExpires: labels that came with a change are forgotten as others are.
func TestLateFamilyExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := stats.NewRegistry()
		families := NewFamilies(r, WithLimits(time.Minute, 0))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go families.Run(ctx)
		synctest.Wait()
		f, _ := configured(t, r, families, &statsapi.PluginConfig{Metrics: []*statsapi.MetricConfig{{Dimensions: map[string]string{"x": `"y"`}}}})
		f.OnFinish(finished(toReviews))
		if families.Len() != 1 {
			t.Fatalf("%d label sets", families.Len())
		}
		<-time.NewTimer(10 * time.Minute).C
		synctest.Wait()
		if families.Len() != 0 {
			t.Error("an unused label set is still there after its TTL")
		}
	})
}
