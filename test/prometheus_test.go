// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
	"pillion/test/wire"
)

// The query that a canary controller asks, as it stands in documentation.
const canaryQuery = `rate(istio_requests_total{destination_service="reviews.default.svc.cluster.local",` +
	`destination_version="v2",response_code!~"5.*"}[1m])`

// TestPrometheus lets a real Prometheus scrape the proxy and asks it.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	program := need.Program(t, "prometheus")
	p, _ := startReference(t, "10 20 31")
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	write(t, config, fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: pillion
  metrics_path: /stats/prometheus
  static_configs: [{targets: ["%s"]}]
`, p.Metrics))
	addr := rig.FreeAddr(t)
	rig.StartProcess(t, exec.Command(program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--log.level=warn"))

	running := wire.Load{Addr: p.HTTP, Request: get("reviews:9080", "/reviews/1", "end-user: jason"), Conns: 1, Patience: rig.Patience}.Start()
	defer running.Stop()
	rig.UntilWithin(t, 3*rig.Patience, "Prometheus answers the query", func() error {
		series, err := query(addr, canaryQuery)
		if err != nil {
			return err
		}
		if len(series) == 0 {
			return errors.New("the answer is empty")
		}
		for _, s := range series {
			if s.Value <= 0 {
				return fmt.Errorf("the answer is %v, want no rate of 0", series)
			}
		}
		return nil
	})
	for expr, want := range map[string]float64{
		`up{job="pillion"}`: 1,
		`sum(rate(istio_requests_total{destination_service="reviews.default.svc.cluster.local",destination_version="v1"}[1m])) or vector(0)`: 0,
	} {
		series, err := query(addr, expr)
		if err != nil || len(series) != 1 || series[0].Value != want {
			t.Errorf("%s is %v (%v), want %v", expr, series, err, want)
		}
	}
	// The other query of a canary: how long requests take.
	series, err := query(addr, `histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket{destination_service="reviews.default.svc.cluster.local"}[1m])) by (le))`)
	if err != nil || len(series) != 1 || !(series[0].Value > 0) {
		t.Errorf("the 99th percentile of the duration is %v (%v), want one number above 0", series, err)
	}
	if labels := mustQuery(t, addr, canaryQuery)[0].Labels; labels["reporter"] != "source" || labels["response_code"] != "200" ||
		labels["destination_workload_namespace"] != "default" || labels["request_protocol"] != "http" || labels["response_flags"] != "-" {
		t.Errorf("the series has labels %v", labels)
	}
}

func mustQuery(t *testing.T, addr, expr string) []rig.Sample {
	t.Helper()
	series, err := query(addr, expr)
	if err != nil || len(series) == 0 {
		t.Fatalf("%s: %v, %v", expr, series, err)
	}
	return series
}

// query asks Prometheus for an expression's value now.
func query(addr, expr string) ([]rig.Sample, error) {
	body, err := rig.Fetch("GET", rig.QueryURL(addr, expr))
	if err != nil {
		return nil, err
	}
	return rig.ParseSamples(body)
}

// allowedLint are remarks of promtool on names that aren't ours to choose.
var allowedLint = []struct{ remark, why string }{
	{`^istio_request_duration_milliseconds(_bucket)? use base unit "seconds" instead of "milliseconds"$`,
		"the name is Istio's, and dashboards and canary controllers ask for it"},
	{`^istio_build .*`,
		"Istio's name for its build information"},
	{`^envoy_\S+ counter metrics should have "_total" suffix$`,
		"Envoy's counters have no suffix, and dashboards name them without"},
	{`^envoy_\S+ non-counter metrics should not have "_total" suffix$`,
		"Envoy has gauges whose names end in _total"},
	{`^envoy_\S+ non-histogram and non-summary metrics should not have "_count" suffix$`,
		"Envoy has gauges whose names end in _count"},
	{`^envoy_\S+ metric names should not contain abbreviated units$`,
		"Envoy writes _ms"},
	{`^envoy_\S+ use base unit "seconds" instead of "milliseconds"$`,
		"Envoy measures in milliseconds"},
	{`^envoy_server_days_until_first_cert_expiring use base unit "seconds" instead of "days"$`,
		"Envoy's name; pillion_secret_expiration_timestamp_seconds is exact"},
}

func TestPromtoolFindsNoError(t *testing.T) {
	t.Parallel()
	promtool := need.Program(t, "promtool")
	p, _ := startReference(t, "10 20 31 41")
	for _, raw := range []string{
		get("reviews:9080", "/"), get("reviews:9080", "/", "end-user: jason"), get("reviews:9080", "/", "x-fail: v1-a,v1-b"),
		get("ratings:9080", "/"), get("nowhere.invalid", "/"),
	} {
		do(t, p.HTTP, raw)
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(p.Exposition(t))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		err = nil // remarks, no error
	}
	if err != nil {
		t.Fatalf("promtool check metrics: %v\n%s", err, out)
	}
remark:
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		for _, allowed := range allowedLint {
			if regexp.MustCompile(allowed.remark).MatchString(line) {
				continue remark
			}
		}
		if line != "" {
			t.Errorf("promtool: %s", line)
		}
	}
}
