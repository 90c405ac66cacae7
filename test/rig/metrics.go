// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metrics is one scrape.
type Metrics struct {
	families map[string]*dto.MetricFamily
}

// Exposition returns the page that Prometheus scrapes.
func (p *Proxy) Exposition(t testing.TB) string {
	t.Helper()
	body, err := Fetch("GET", "http://"+p.Metrics+"/stats/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// Scrape reads the metrics.
func (p *Proxy) Scrape(t testing.TB) Metrics {
	t.Helper()
	m, err := ParseMetrics(p.Exposition(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// ParseMetrics reads a page that Prometheus scrapes.
func ParseMetrics(page string) (Metrics, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		return Metrics{}, fmt.Errorf("the metrics don't parse: %w", err)
	}
	return Metrics{families}, nil
}

// Names returns the names of all families.
func (m Metrics) Names() []string {
	var names []string
	for name := range maps.Keys(m.families) {
		names = append(names, name)
	}
	return names
}

// Series returns the label sets of a family's series.
func (m Metrics) Series(name string) []map[string]string {
	var all []map[string]string
	for _, metric := range m.families[name].GetMetric() {
		labels := map[string]string{}
		for _, pair := range metric.GetLabel() {
			labels[pair.GetName()] = pair.GetValue()
		}
		all = append(all, labels)
	}
	return all
}

// Sum adds up the series of a family that have all the given labels, each
// written name=value: the value of a counter or gauge, the count of a
// histogram.
func (m Metrics) Sum(name string, labels ...string) float64 {
	var sum float64
	for _, metric := range m.families[name].GetMetric() {
		if !hasLabels(metric, labels) {
			continue
		}
		switch {
		case metric.Counter != nil:
			sum += metric.Counter.GetValue()
		case metric.Gauge != nil:
			sum += metric.Gauge.GetValue()
		case metric.Untyped != nil:
			sum += metric.Untyped.GetValue()
		case metric.Histogram != nil:
			sum += float64(metric.Histogram.GetSampleCount())
		}
	}
	return sum
}

func hasLabels(metric *dto.Metric, want []string) bool {
	for _, w := range want {
		name, value, _ := strings.Cut(w, "=")
		found := false
		for _, pair := range metric.GetLabel() {
			found = found || pair.GetName() == name && pair.GetValue() == value
		}
		if !found {
			return false
		}
	}
	return true
}

// HostStatus is one upstream host in /clusters?format=json, as
// envoy.admin.v3.HostStatus has it.
type HostStatus struct {
	Address struct {
		SocketAddress struct {
			Address   string `json:"address"`
			PortValue int    `json:"port_value"`
		} `json:"socket_address"`
	} `json:"address"`
	HealthStatus struct {
		FailedOutlierCheck bool   `json:"failed_outlier_check"`
		EDSHealthStatus    string `json:"eds_health_status"`
	} `json:"health_status"`
}

// Hosts returns the hosts of a cluster by their port.
func (p *Proxy) Hosts(t testing.TB, cluster string) map[int]HostStatus {
	t.Helper()
	var page struct {
		ClusterStatuses []struct {
			Name         string       `json:"name"`
			HostStatuses []HostStatus `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal([]byte(p.Get(t, "/clusters?format=json")), &page); err != nil {
		t.Fatalf("/clusters?format=json: %v", err)
	}
	for _, c := range page.ClusterStatuses {
		if c.Name != cluster {
			continue
		}
		hosts := map[int]HostStatus{}
		for _, h := range c.HostStatuses {
			hosts[h.Address.SocketAddress.PortValue] = h
		}
		return hosts
	}
	t.Fatalf("/clusters?format=json has no cluster %s", cluster)
	return nil
}
