// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	nethttp "net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pillion/test/need"
	"pillion/test/rig"
)

// prometheusAddr is where Prometheus listens, on the node.
const prometheusAddr = "127.0.0.1:9090"

// startPrometheus has a real Prometheus scrape the pods' merged pages, and
// istiod, with the labels that Istio's own configuration of it gives.
func (m *mesh) startPrometheus(t *testing.T) {
	t.Helper()
	program := need.Program(t, "prometheus")
	var config strings.Builder
	config.WriteString("global: {scrape_interval: 2s, scrape_timeout: 2s}\nscrape_configs:\n- job_name: kubernetes-pods\n  metrics_path: /stats/prometheus\n  static_configs:\n")
	for _, name := range proxied {
		spec := m.n.Pod(name).Spec
		fmt.Fprintf(&config, "  - {targets: ['%s:15020'], labels: {namespace: %s, pod: %s}}\n", spec.Addr, spec.Namespace, name)
	}
	fmt.Fprintf(&config, "- job_name: istiod\n  static_configs: [{targets: ['%s'], labels: {app: istiod, namespace: istio-system}}]\n", m.l.Ports.Monitoring)
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	p, err := start(command{host: m.n.Node, path: program, dir: dir, log: log, env: []string{"PATH=" + os.Getenv("PATH")},
		args: []string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + prometheusAddr, "--log.level=warn"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("prometheus printed:\n%s", tail(log))
		}
	})
}

// query returns what Prometheus has for an expression: the values that are
// numbers, as text, with their labels.
func (m *mesh) query(expr string) ([]string, error) {
	tr := &nethttp.Transport{DialContext: m.n.Node.DialContext, DisableKeepAlives: true}
	r, err := askThrough(m.t.Context(), tr, call{url: rig.QueryURL(prometheusAddr, expr)})
	if err != nil {
		return nil, err
	}
	samples, err := rig.ParseSamples(r.body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	var values []string
	for _, s := range samples {
		if !math.IsNaN(s.Value) {
			values = append(values, fmt.Sprint(s.Labels, " ", s.Value))
		}
	}
	return values, nil
}

// silence is why queries that hold some words have no answer.
type silence struct {
	words []string // all of them are in the query
	why   string
}

// silent are the queries that no mesh of Envoys would answer here either.
var silent = []silence{
	{[]string{"container_"}, "what a container takes is measured by the kubelet"},
	{[]string{`reporter="source"`, `connection_security_policy="mutual_tls"`}, "Istio's client side says unknown: it can't tell which policy the server has"},
}

func isSilent(query string) bool {
	return slices.ContainsFunc(silent, func(s silence) bool {
		return !slices.ContainsFunc(s.words, func(w string) bool { return !strings.Contains(query, w) })
	})
}

// filledIn are a query of a dashboard with Grafana's variables filled in, once
// for each service that may be chosen: HTTP and TCP, with mutual TLS and
// without. Of all else everything is chosen.
func filledIn(query string) []string {
	var all []string
	for _, service := range []string{"productpage", "open", "db", "db2"} {
		all = append(all, strings.NewReplacer("$__rate_interval", "1m", "$qrep", "source|destination", "$service", service+".default.svc.cluster.local",
			"$srcwl", ".*", "$srcns", ".*", "$dstwl", ".*", "$dstns", ".*", "$namespace", ".*", "$workload", ".*", "$dstsvc", ".*").Replace(query))
		if !strings.Contains(query, "$service") {
			break
		}
	}
	return all
}

// answers returns what Prometheus has for a query of a dashboard.
func (m *mesh) answers(query string) ([]string, error) {
	var all []string
	for _, expr := range filledIn(query) {
		values, err := m.query(expr)
		if err != nil {
			return nil, err
		}
		all = append(all, values...)
	}
	return all, nil
}

// TestDashboards: Istio's own dashboards, on a real Prometheus that scrapes our
// pods, show what they are for: none of their queries is without an answer.
// (There is no Envoy to compare with: Istio's metrics are in its own build
// alone.)
func TestDashboards(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(need.Queries(t))
	if err != nil {
		t.Fatal(err)
	}
	m := startMesh(t, Full, func(string) bool { return true })
	// TCP in the clear has to get in somewhere.
	m.l.Apply(`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: half, namespace: default},
  spec: {selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}, portLevelMtls: {"9000": {mode: PERMISSIVE}}}}`)
	rig.Until(t, "TCP in the clear gets in", func() error {
		_, err := m.talk("legacy", "10.244.0.11:9000")
		return err
	})
	m.startPrometheus(t)
	for _, c := range []call{
		{from: "legacy", url: "http://10.244.0.14:8080/productpage"},
		{from: "legacy", url: "http://10.244.0.13:9082/"},
		{from: "productpage-v1", url: "http://old:9080/"},
	} {
		l := m.startLoad(t, c, 1, 100*time.Millisecond)
		defer l.end(t)
	}
	defer m.startTalks(t)()

	asked := 0
	for line := range strings.Lines(string(text)) {
		query := strings.TrimSpace(line)
		if query == "" || strings.HasPrefix(query, "#") || isSilent(query) {
			continue
		}
		asked++
		err := rig.Await(func() error {
			values, err := m.answers(query)
			if err == nil && len(values) == 0 {
				err = errors.New("no answer")
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", query, err)
		}
	}
	if asked < 150 {
		t.Errorf("the dashboards have %d queries", asked)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") && isSilent(line) {
			if values, err := m.answers(line); err != nil || len(values) > 0 {
				t.Errorf("no mesh should answer %s: %v %v", line, values, err)
			}
		}
	}
	testPanels(t, m)
}

// testPanels looks at the content of some panels.
func testPanels(t *testing.T, m *mesh) {
	for _, tc := range []struct{ name, query, want string }{
		{"versions", `sum by (component) (istio_build{component="proxy"})`, fmt.Sprintf("map[component:proxy] %d", len(proxied))},
		{"success rate", `round(sum (rate(istio_requests_total{reporter=~"source|waypoint",response_code!~"5.."}[1m])) / sum (rate(istio_requests_total{reporter=~"source|waypoint"}[1m])), 0.001)`, "map[] 1"},
		{"workloads", `count by (destination_workload_var) (label_join(sum by (destination_workload,destination_workload_namespace,destination_service) (rate(istio_requests_total{reporter=~"source|waypoint"}[1m])), "destination_workload_var", ".", "destination_workload", "destination_workload_namespace"))`,
			"map[destination_workload_var:productpage-v1.default] 1"},
		{"incoming, by source", `count by (source_workload, source_workload_namespace) (istio_requests_total{connection_security_policy="mutual_tls",destination_service="productpage.default.svc.cluster.local",reporter="destination"})`,
			"map[source_workload:istio-ingressgateway source_workload_namespace:istio-system] 1"},
	} {
		values, err := m.query(tc.query)
		if err != nil || !slices.Contains(values, tc.want) {
			t.Errorf("%s: no %s in %v (%v)", tc.name, tc.want, values, err)
		}
	}
}

// startTalks has connections without HTTP come one after the other, with
// mutual TLS and in the clear, until the function that it returns is called.
func (m *mesh) startTalks(t *testing.T) (end func()) {
	ctx, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	for _, c := range []struct{ from, to string }{{"productpage-v1", "db:9000"}, {"legacy", "10.244.0.11:9000"}} {
		done.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				if _, err := m.talk(c.from, c.to); err != nil {
					t.Errorf("%s to %s: %v", c.from, c.to, err)
					return
				}
				<-tick.C
			}
		})
	}
	return func() {
		stop()
		done.Wait()
	}
}
