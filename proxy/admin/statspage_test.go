// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"compress/gzip"
	"encoding/json"
	"io"
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"pillion/proxy/stats"
)

func TestStatsText(t *testing.T) {
	f, h := newFake()
	f.requests.Add(3)
	const (
		active    = "cluster.outbound|80||a.b;.upstream_cx_active: 0\n"
		requests  = "cluster.outbound|80||a.b;.upstream_rq_total: 3\n"
		state     = "server.state: 0\n"
		length    = "cluster.outbound|80||a.b;.upstream_cx_length_ms:"
		quantile  = length + " P0(nan,50) P25(nan,62.5) P50(nan,75) P75(nan,87.5) P90(nan,95) P95(nan,97.5) P99(nan,99.5) P99.5(nan,99.75) P99.9(nan,99.95) P100(nan,100)\n"
		emptyTime = "cluster.outbound|80||a.b;.upstream_rq_time: No recorded values\n"
	)
	for _, c := range []struct {
		query  string
		status int
		body   string
	}{
		{"", 200, active + requests + state + quantile + emptyTime},
		{"?format=text&type=All", 200, active + requests + state + quantile + emptyTime},
		{"?usedonly", 200, requests + state + quantile},
		{"?usedonly&filter=^(server.state|nothing)$", 200, state},
		{"?filter=a.b;.upstream_rq_to", 200, requests},
		{"?type=Counters", 200, requests},
		{"?type=Gauges", 200, active + state},
		{"?type=Histograms&filter=length", 200, quantile},
		{"?type=TextReadouts", 200, ""},
		{"?filter=length&histogram_buckets=cumulative", 200,
			length + " B0.5(0,0) B1(0,0) B5(0,0) B10(0,0) B25(0,0) B50(0,0) B100(0,1) B250(0,1) B500(0,1) B1000(0,1) B2500(0,1) B5000(0,1)" +
				" B10000(0,1) B30000(0,1) B60000(0,1) B300000(0,1) B600000(0,1) B1800000(0,1) B3600000(0,1)\n"},
		{"?filter=length&histogram_buckets=disjoint", 200,
			length + " B0.5(0,0) B1(0,0) B5(0,0) B10(0,0) B25(0,0) B50(0,0) B100(0,1) B250(0,0) B500(0,0) B1000(0,0) B2500(0,0) B5000(0,0)" +
				" B10000(0,0) B30000(0,0) B60000(0,0) B300000(0,0) B600000(0,0) B1800000(0,0) B3600000(0,0)\n"},
		{"?filter=[", 400, "invalid regular expression: error parsing regexp: missing closing ]: `[`\n"},
		{"?filter=" + strings.Repeat("a", maxRegex+1), 400, "the regular expression has 1025 bytes, more than 1024\n"},
		{"?type=Numbers", 400, "invalid type: use All, Counters, Gauges or Histograms\n"},
		{"?format=html", 400, "invalid format: use text, json or prometheus\n"},
		{"?histogram_buckets=some", 400, "invalid histogram_buckets: use summary, cumulative or disjoint\n"},
	} {
		res, body := ask(t, h, "GET", "/stats"+c.query)
		if res.StatusCode != c.status || body != c.body {
			t.Errorf("%.60s: %d\n%s\nwant %d\n%s", c.query, res.StatusCode, body, c.status, c.body)
		}
	}
}

func TestStatsJSON(t *testing.T) {
	_, h := newFake()
	for query, want := range map[string]string{
		"&filter=zzz":    `{"stats":[]}`,
		"&type=Counters": `{"stats":[{"name":"cluster.outbound|80||a.b;.upstream_rq_total","value":0}]}`,
		"&filter=rq_time": `{"stats":[{"histograms":{"supported_quantiles":[0,25,50,75,90,95,99,99.5,99.9,100],` +
			`"computed_quantiles":[{"name":"cluster.outbound|80||a.b;.upstream_rq_time","values":[` +
			strings.TrimSuffix(strings.Repeat(`{"cumulative":null,"interval":null},`, 10), ",") + `]}]}}]}`,
	} {
		res, body := ask(t, h, "GET", "/stats?format=json"+query)
		if body != want || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s, want %s", query, body, want)
		}
	}
	for _, query := range []string{"", "&histogram_buckets=cumulative", "&histogram_buckets=disjoint"} {
		_, body := ask(t, h, "GET", "/stats?format=json"+query)
		var parsed struct {
			Stats []map[string]any `json:"stats"`
		}
		if err := json.Unmarshal([]byte(body), &parsed); err != nil || len(parsed.Stats) != 4 {
			t.Errorf("%s: %v, %d elements:\n%s", query, err, len(parsed.Stats), body)
		}
	}
}

// TestNamesAreNeverMarkup: a name from the network stays text, whatever it is.
func TestNamesAreNeverMarkup(t *testing.T) {
	f, h := newFake()
	const evil = "<script>alert('\"&')</script>\x01"
	f.registry.Add(stats.SourceFunc(func(e *stats.Emitter) { e.Cluster(evil).Counter("upstream_rq_total", 1) }))
	f.clusters = []ClusterStatus{{Name: evil, Hosts: []HostStatus{{Address: evil, Hostname: evil}}}}
	f.listeners = []ListenerStatus{{evil, []string{evil}}}
	for _, target := range []string{"/stats", "/stats?format=json", "/stats/prometheus", "/clusters", "/clusters?format=json", "/listeners", "/listeners?format=json"} {
		res, body := ask(t, h, "GET", target)
		kind := res.Header.Get("Content-Type")
		if !strings.HasPrefix(kind, "text/plain") && kind != "application/json" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s is sent as %q, %q", target, kind, res.Header.Get("X-Content-Type-Options"))
		}
		if kind == "application/json" && !json.Valid([]byte(body)) {
			t.Errorf("%s is no JSON:\n%s", target, body)
		}
	}
}

func parseText(t *testing.T, body string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	return families
}

func TestPrometheus(t *testing.T) {
	f, h := newFake()
	f.requests.Add(2)
	handlers := map[string]struct {
		h    nethttp.Handler
		path string
	}{
		"admin":       {h, "/stats/prometheus"},
		"admin stats": {h, "/stats?format=prometheus"},
		"metrics":     {NewMetricsHandler(f.registry, quiet()), "/stats/prometheus"},
		"default":     {NewMetricsHandler(f.registry, quiet()), "/metrics"},
	}
	for name, c := range handlers {
		res, body := ask(t, c.h, "GET", c.path)
		if got := res.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
			t.Errorf("%s: Content-Type %q", name, got)
		}
		families := parseText(t, body)
		if got := families["envoy_cluster_upstream_rq_total"].GetMetric()[0].GetCounter().GetValue(); got != 2 {
			t.Errorf("%s: %v requests, want 2", name, got)
		}
		res, body = ask(t, c.h, "GET", c.path, "Accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
		if got := res.Header.Get("Content-Type"); !strings.HasPrefix(got, "application/openmetrics-text; version=1.0.0") || !strings.HasSuffix(body, "# EOF\n") {
			t.Errorf("%s: OpenMetrics has Content-Type %q and ends in %q", name, got, body[max(0, len(body)-20):])
		}
		res, body = ask(t, c.h, "GET", c.path, "Accept-Encoding", "br, gzip")
		if res.Header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s: Content-Encoding %q", name, res.Header.Get("Content-Encoding"))
		}
		z, err := gzip.NewReader(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		if len(parseText(t, string(plain))) != len(families) {
			t.Errorf("%s: compressed it has other families", name)
		}
		sep := "?"
		if strings.Contains(c.path, "?") {
			sep = "&"
		}
		if _, body = ask(t, c.h, "GET", c.path+sep+"usedonly&filter=rq_"); len(parseText(t, body)) != 1 {
			t.Errorf("%s: filtered:\n%s", name, body)
		}
		if res, _ = ask(t, c.h, "GET", c.path+sep+"filter=("); res.StatusCode != 400 {
			t.Errorf("%s: a bad filter gives %d", name, res.StatusCode)
		}
	}
}

func TestMetricsPortHasNothingElse(t *testing.T) {
	h := NewMetricsHandler(stats.NewRegistry(), quiet())
	for target, want := range map[string]int{"/": 404, "/stats": 404, "/quitquitquit": 404, "/config_dump": 404, "/metrics?a=%z": 400} {
		if res, _ := ask(t, h, "GET", target); res.StatusCode != want {
			t.Errorf("%s: %d, want %d", target, res.StatusCode, want)
		}
	}
	if res, _ := ask(t, h, "DELETE", "/metrics"); res.StatusCode != 405 {
		t.Errorf("DELETE: %d", res.StatusCode)
	}
}

func TestAcceptsGzip(t *testing.T) {
	for v, want := range map[string]bool{
		"": false, "gzip": true, "GZIP": true, "br, gzip;q=0.5": true, "gzip;q=0": false, "gzip; q=0.0": false, "*": true,
		"identity": false, "gzip;q=x": true, "xgzip": false,
	} {
		if got := acceptsGzip(nethttp.Header{"Accept-Encoding": {v}}); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
}

// TestScrapesAreBounded: readers that don't read hold a few scrapes, and the
// next one is told to come back.
func TestScrapesAreBounded(t *testing.T) {
	reg := stats.NewRegistry()
	entered, release := make(chan struct{}), make(chan struct{})
	reg.Add(stats.SourceFunc(func(*stats.Emitter) { entered <- struct{}{}; <-release }))
	h := NewMetricsHandler(reg, quiet())
	var wg sync.WaitGroup
	for range cap(newSlots()) {
		wg.Go(func() { ask(t, h, "GET", "/metrics") })
		<-entered
	}
	if res, _ := ask(t, h, "GET", "/metrics"); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("one scrape too many: %d", res.StatusCode)
	}
	close(release)
	wg.Wait()
	go func() { <-entered }()
	if res, _ := ask(t, h, "GET", "/metrics"); res.StatusCode != 200 {
		t.Errorf("after the others are done: %d", res.StatusCode)
	}
}

// FuzzQuery: no query makes the handler panic or answer with a server error.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"usedonly&filter=^cluster", "filter=(a+)+$", "filter=[", "filter=%5c", "format=json&type=Gauges", "format=prometheus&filter=.",
		"histogram_buckets=disjoint", "resource=dynamic_active_clusters&mask=cluster.name", "mask=bootstrap.node.id&name_regex=a",
		"mask=a..b,,c", "filter=(?i)\x00", "level=debug", "paths=http:off", "a=%", ";;&=", "filter=a{1000}{1000}",
	} {
		f.Add(seed)
	}
	_, h := newFake()
	f.Fuzz(func(t *testing.T, query string) {
		for path, method := range map[string]string{
			"/stats": "GET", "/stats/prometheus": "GET", "/clusters": "GET", "/config_dump": "GET", "/listeners": "GET", "/logging": "POST",
		} {
			r := httptest.NewRequest(method, path, nil)
			r.URL.RawQuery = query
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != 200 && w.Code != 400 && w.Code != 404 {
				t.Errorf("%s?%s: %d %s", path, query, w.Code, w.Body)
			}
			if w.Code == 200 && w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s?%s: no JSON:\n%s", path, query, w.Body)
			}
		}
	})
}
