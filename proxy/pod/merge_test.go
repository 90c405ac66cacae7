// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"pillion/proxy/stats"
)

// app serves metrics at an address that localhost leads to, and returns its
// target.
func app(t *testing.T, path string, h nethttp.HandlerFunc) Target {
	t.Helper()
	mux := nethttp.NewServeMux()
	mux.HandleFunc(path, h)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	n, _ := strconv.Atoi(port)
	return Target{n, path}
}

func page(contentType, body string) nethttp.HandlerFunc {
	return func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	}
}

func scrapePod(targets ...Target) *Pod { return &Pod{MergeStats: true, Scrape: &Scrape{targets}} }

const om = "application/openmetrics-text; version=1.0.0; charset=utf-8"

func TestMergedMetrics(t *testing.T) {
	one := page("text/plain; version=0.0.4", "# TYPE app_up gauge\napp_up 1")
	for _, c := range []struct {
		name    string
		pages   []nethttp.HandlerFunc
		format  string
		end     string // of the body
		missing int    // failures of the application
	}{
		{"no application", nil, textFormat, "envoy_server_live 1\n", 0},
		{"text", []nethttp.HandlerFunc{one}, textFormat, "envoy_server_live 1\n# TYPE app_up gauge\napp_up 1\n", 0},
		{"OpenMetrics", []nethttp.HandlerFunc{page(om, "x 1\n# EOF\n")}, om, "envoy_server_live 1\nx 1\n# EOF\n", 0},
		{"OpenMetrics without a version", []nethttp.HandlerFunc{page("application/openmetrics-text", "x 1\n# EOF\n")},
			"application/openmetrics-text; version=0.0.1; charset=utf-8", "x 1\n# EOF\n", 0},
		{"OpenMetrics of a version to come", []nethttp.HandlerFunc{page("application/openmetrics-text; version=7", "x 1\n")}, textFormat, "x 1\n", 0},
		{"fails", []nethttp.HandlerFunc{func(w nethttp.ResponseWriter, _ *nethttp.Request) { w.WriteHeader(500) }}, textFormat, "envoy_server_live 1\n", 1},
		{"several", []nethttp.HandlerFunc{one, page("text/plain", "app_two 2\n")}, textFormat, "envoy_server_live 1\n# TYPE app_up gauge\napp_up 1\napp_two 2\n", 0},
		{"several in OpenMetrics", []nethttp.HandlerFunc{page(om, "x 1\n# EOF\n"), page(om, "y 1\n# EOF")}, om, "x 1\ny 1\n# EOF\n", 0},
		{"several that don't agree", []nethttp.HandlerFunc{page(om, "x 1\n# EOF\n"), one}, textFormat, "x 1\n# TYPE app_up gauge\napp_up 1\n", 0},
		{"one of several fails", []nethttp.HandlerFunc{one, func(w nethttp.ResponseWriter, _ *nethttp.Request) { w.WriteHeader(404) }, page("text/plain", "app_two 2\n")},
			textFormat, "app_up 1\napp_two 2\n", 1},
		{"one of several is too big", []nethttp.HandlerFunc{one, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
			_, _ = io.Copy(w, io.LimitReader(zeros{}, maxTargetBody+1))
		}}, textFormat, "app_up 1\n", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var targets []Target
			for i, h := range c.pages {
				targets = append(targets, app(t, fmt.Sprintf("/m%d", i), h))
			}
			p := &Pod{MergeStats: true}
			if targets != nil {
				p = scrapePod(targets...)
			}
			s := newTestStatus(t, p, &fakeProxy{health: healthy()})
			code, body, h := request(s.Handler(), kubelet, "GET", "/stats/prometheus?usedonly")
			if code != 200 || h.Get("Content-Type") != c.format || !strings.HasSuffix(body, c.end) {
				t.Errorf("%d, %s, …%q", code, h.Get("Content-Type"), body[max(0, len(body)-120):])
			}
			if agent, proxy := strings.Index(body, "istio_agent_scrapes_total 1"), strings.Index(body, "envoy_server_live 1"); agent < 0 || proxy < agent {
				t.Errorf("the agent's metrics are at %d, the proxy's at %d", agent, proxy)
			}
			if got := s.metrics.appFailed.Value(); got != uint64(c.missing) {
				t.Errorf("%d failures, want %d", got, c.missing)
			}
			parser := expfmt.NewTextParser(model.LegacyValidation)
			if _, err := parser.TextToMetricFamilies(strings.NewReader(body)); c.format == textFormat && err != nil && !strings.Contains(c.name, "too big") {
				t.Errorf("the page doesn't parse: %v", err)
			}
		})
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

// TestTenTargets: they are asked at the same time.
func TestTenTargets(t *testing.T) {
	const n = 10
	all := make(chan struct{})
	arrived := make(chan struct{}, n)
	go func() {
		for range n {
			<-arrived
		}
		close(all)
	}()
	var targets []Target
	for i := range n {
		targets = append(targets, app(t, "/metrics", func(w nethttp.ResponseWriter, r *nethttp.Request) {
			arrived <- struct{}{}
			select {
			case <-all:
			case <-r.Context().Done():
			}
			fmt.Fprintf(w, "app_%d 1\n", i)
		}))
	}
	s := newTestStatus(t, scrapePod(targets...), &fakeProxy{health: healthy()})
	_, body, _ := request(s.Handler(), kubelet, "GET", "/metrics")
	at := 0
	for i := range n {
		next := strings.Index(body, fmt.Sprintf("\napp_%d 1\n", i))
		if next < at {
			t.Fatalf("target %d is at %d, behind %d", i, next, at)
		}
		at = next
	}
}

// TestScrapeHeaders: what Prometheus says is handed on, cut to what can be
// merged.
func TestScrapeHeaders(t *testing.T) {
	var got nethttp.Header
	s := newTestStatus(t, scrapePod(app(t, "/metrics", func(_ nethttp.ResponseWriter, r *nethttp.Request) { got = r.Header.Clone() })), &fakeProxy{health: healthy()})
	request(s.Handler(), kubelet, "GET", "/metrics", "User-Agent", "Prometheus/3", "X-Prometheus-Scrape-Timeout-Seconds", "7.5", "Cookie", "a=b",
		"Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3")
	for name, want := range map[string]string{
		"User-Agent": "Prometheus/3", "X-Prometheus-Scrape-Timeout-Seconds": "7.5", "Cookie": "",
		"Accept": "application/openmetrics-text; version=1.0.0;q=1.000,text/plain; version=0.0.4;q=0.667",
	} {
		if got.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.Get(name), want)
		}
	}
	for in, want := range map[string]string{
		"": "text/plain; version=0.0.4", "application/json": "text/plain; version=0.0.4", "*/*": "text/plain; version=0.0.4;q=1.000",
		"application/*": "application/openmetrics-text; version=0.0.1;q=1.000", "//;,,text/plain": "text/plain;q=1.000",
	} {
		if got := acceptable(in); got != want {
			t.Errorf("Accept %q becomes %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]time.Duration{"": scrapeTime, "x": scrapeTime, "-1": scrapeTime, "NaN": scrapeTime, "2.5": 2500 * time.Millisecond, "1e9": maxScrapeTime, "Inf": maxScrapeTime} {
		if got := timeout(nethttp.Header{"X-Prometheus-Scrape-Timeout-Seconds": {in}}); got != want {
			t.Errorf("timeout %q is %v, want %v", in, got, want)
		}
	}
}

// TestFailingParts: whatever fails, the rest is there.
func TestFailingParts(t *testing.T) {
	proxy := &fakeProxy{health: healthy(), statsErr: errors.New("no metrics")}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	s := newTestStatus(t, scrapePod(Target{closed, "/metrics"}), proxy)
	for _, query := range []string{"", "?filter=%zz", "?filter=("} {
		if code, body, _ := request(s.Handler(), kubelet, "GET", "/stats/prometheus"+query); code != 200 || !strings.Contains(body, "istio_agent_process_") {
			t.Errorf("%q: %d", query, code)
		}
	}
	_, body, _ := request(s.Handler(), kubelet, "GET", "/stats/prometheus?filter=a%3Bb")
	for _, want := range []string{`istio_agent_scrape_failures_total{type="envoy"} 3`, `istio_agent_scrape_failures_total{type="application"} 4`, "istio_agent_scrapes_total 4"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if got := proxy.queries[len(proxy.queries)-1]; got != "a;b" {
		t.Errorf("the filter is %q", got)
	}
	if code, _, _ := request(s.Handler(), kubelet, "POST", "/stats/prometheus"); code != 405 {
		t.Errorf("POST: %d", code)
	}
}

func TestMetricsForThePodAlone(t *testing.T) {
	s := newTestStatus(t, &Pod{Ports: Ports{LocalMetrics: true}}, &fakeProxy{})
	for from, want := range map[string]int{itself: 200, kubelet: 403} {
		if code, body, _ := request(s.Handler(), from, "GET", "/metrics"); code != want || strings.Contains(body, "envoy_") {
			t.Errorf("%s: %d", from, code)
		}
	}
}

func TestCompressedMetrics(t *testing.T) {
	s := newTestStatus(t, &Pod{MergeStats: true}, &fakeProxy{health: healthy()})
	_, body, h := request(s.Handler(), kubelet, "GET", "/metrics", "Accept-Encoding", "br, gzip;q=0.5")
	z, err := gzip.NewReader(strings.NewReader(body))
	if err != nil || h.Get("Content-Encoding") != "gzip" {
		t.Fatalf("%v, %s", err, h)
	}
	plain, err := io.ReadAll(z)
	if err != nil || !strings.Contains(string(plain), "envoy_server_live 1") {
		t.Errorf("%v, %s", err, plain)
	}
	for accept, want := range map[string]bool{"": false, "gzip;q=0": false, "identity": false, "*": true, "GZIP": true, "gzip;q=x": false} {
		if got := acceptsGzip(nethttp.Header{"Accept-Encoding": {accept}}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

// TestAgentMetrics: names and labels are those of Istio's agent, 1.31.
func TestAgentMetrics(t *testing.T) {
	proxy := &fakeProxy{}
	s := newTestStatus(t, &Pod{}, proxy)
	_, body, _ := request(s.Handler(), itself, "GET", "/metrics")
	for _, absent := range []string{"cert_expiry", "outgoing"} {
		if strings.Contains(body, absent) {
			t.Errorf("%s is told of what there isn't", absent)
		}
	}
	if !strings.Contains(body, "# TYPE istio_agent_istiod_connection_terminations counter\n") || !strings.Contains(body, "\n"+`istio_agent_istiod_connection_terminations{type="error"} 0`+"\n") {
		t.Errorf("before anything has failed:\n%s", body)
	}
	proxy.agent = AgentCounts{Requests: 1, Responses: 2, Unopened: 3, Ended: 4, Failed: 5, CA: &CACounts{All: 6, Failed: 1, Took: 1500 * time.Microsecond},
		FileFailures: 7, WatchFailures: 8, Expires: time.Now().Add(time.Hour)}
	_, body, _ = request(s.Handler(), itself, "GET", "/metrics")
	for _, want := range []string{
		"istio_agent_xds_proxy_requests 1", "istio_agent_xds_proxy_responses 2", "istio_agent_istiod_connection_failures 3",
		`istio_agent_istiod_connection_terminations{type="cancelled"} 4`, `istio_agent_istiod_connection_terminations{type="error"} 5`,
		`istio_agent_num_outgoing_requests{request_type="csr"} 6`, `istio_agent_num_failed_outgoing_requests{request_type="csr"} 1`,
		`istio_agent_outgoing_latency{request_type="csr"} 1.5`, "istio_agent_num_file_secret_failures_total 7", "istio_agent_num_file_watcher_failures_total 8",
		"# TYPE istio_agent_cert_expiry_seconds gauge",
	} {
		if !strings.Contains(body, "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	_, after, _ := strings.Cut(body, `istio_agent_cert_expiry_seconds{resource_name="default"} `)
	line, _, _ := strings.Cut(after, "\n")
	if left, err := strconv.ParseFloat(line, 64); err != nil || left < 3500 || left > 3600 {
		t.Errorf("the certificate has %q seconds left, %v", line, err)
	}
}

// TestStartupDuration is told once the proxy was ready.
func TestStartupDuration(t *testing.T) {
	proxy := &fakeProxy{}
	s := newTestStatus(t, &Pod{}, proxy)
	const name = "istio_agent_startup_duration_seconds"
	if _, body, _ := request(s.Handler(), itself, "GET", "/metrics"); strings.Contains(body, name) {
		t.Error("it is told before the proxy was ready")
	}
	proxy.health = healthy()
	request(s.Handler(), itself, "GET", "/healthz/ready")
	proxy.health = Health{State: stats.StateDraining}
	if _, body, _ := request(s.Handler(), itself, "GET", "/metrics"); !strings.Contains(body, name+" ") {
		t.Error("it isn't told")
	}
}

func TestParseScrape(t *testing.T) {
	own := Ports{Admin: 15000, Status: 20020, Probe: 15021, Metrics: 15090}
	for text, want := range map[string]string{
		`{}`: "80/metrics", `{"scrape":"true","port":"8080"}`: "8080/metrics", `{"port":"1","path":"a"}`: "1/a",
		`{"targets":[{"port":"1","path":"/a"},{"port":"02"}],"port":"15020"}`: "1/a 2/metrics", `{"scrape":"false","port":"x"}`: "nil",
		`{"port":"20020"}`: "the merged metrics themselves", `{"port":"015020"}`: "the merged metrics themselves", `{"targets":[{"port":"15090"}]}`: "the proxy's metrics",
		`{"port":"x"}`: `the target port "x"`, `{"targets":[{"port":""}]}`: "which is none", `{"port":80}`: "is no JSON object of texts", `[]`: "is no JSON object", "": "is no JSON object",
		`{"targets":[` + strings.TrimSuffix(strings.Repeat(`{"port":"1"},`, 65), ",") + `]}`: "more than 64",
	} {
		s, err := parseScrape(text, own)
		got := "nil"
		switch {
		case err != nil:
			got = err.Error()
		case s != nil:
			var all []string
			for _, t := range s.Targets {
				all = append(all, strconv.Itoa(t.Port)+t.Path)
			}
			got = strings.Join(all, " ")
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%.60s: %s, want %s", text, got, want)
		}
	}
}
