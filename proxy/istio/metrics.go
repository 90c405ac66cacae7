// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"istio.io/api/envoy/extensions/stats"
	mesh "istio.io/api/mesh/v1alpha1"
	telemetry "istio.io/api/telemetry/v1alpha1"

	"pillion/proxy/istio/source"
)

// providerPrometheus is the one provider of metrics that every mesh has.
const providerPrometheus = "prometheus"

// prometheusNames are the names of Istio's metrics for Prometheus, less the prefix
// "istio_", by those of Telemetry.
func prometheusNames() map[string]string {
	return map[string]string{
		"REQUEST_COUNT":          "requests_total",
		"REQUEST_DURATION":       "request_duration_milliseconds",
		"REQUEST_SIZE":           "request_bytes",
		"RESPONSE_SIZE":          "response_bytes",
		"TCP_OPENED_CONNECTIONS": "tcp_connections_opened_total",
		"TCP_CLOSED_CONNECTIONS": "tcp_connections_closed_total",
		"TCP_SENT_BYTES":         "tcp_sent_bytes_total",
		"TCP_RECEIVED_BYTES":     "tcp_received_bytes_total",
		"GRPC_REQUEST_MESSAGES":  "request_messages_total",
		"GRPC_RESPONSE_MESSAGES": "response_messages_total",
	}
}

// metrics are the filters that count, by the class of the listener that has them: one
// for each provider. Its facts are those of pilot/pkg/model/telemetry.go.
type metrics struct {
	byClass [classGateway + 1][]*stats.PluginConfig
}

// metricChange is what overrides say of one metric.
type metricChange struct {
	drop bool
	tags map[string]*telemetry.MetricsOverrides_TagOverride
}

// providerMetrics is what is in force for one provider.
type providerMetrics struct {
	interval       *durationpb.Duration
	client, server directionMetrics
}

// directionMetrics is the same for the listeners of one direction.
type directionMetrics struct {
	off     bool
	changes map[string]*metricChange // by the name in Telemetry
}

// metricsEntry is one entry of a Telemetry's metrics.
type metricsEntry struct {
	at   spot
	spec *telemetry.Metrics
}

// newMetrics lays the Telemetry resources in force over the mesh's default providers:
// Prometheus, as Istio's chart has it, unless the MeshConfig names others.
func newMetrics(inForce []*source.Object, o *Options, rep *report) *metrics {
	defaults := o.mesh().GetDefaultProviders().GetMetrics()
	if len(defaults) == 0 {
		defaults = []string{providerPrometheus}
	}
	var entries []metricsEntry
	for _, obj := range inForce {
		for i, m := range obj.Spec.(*telemetry.Telemetry).Metrics {
			entries = append(entries, metricsEntry{spot{obj, fmt.Sprintf("spec.metrics[%d]", i)}, m})
		}
	}
	out := &metrics{}
	counted := mergeMetrics(entries, defaults)
	for _, name := range sortedKeys(counted) {
		if !countable(name, entries, o, rep) {
			continue
		}
		p := counted[name]
		out.add(classOutbound, &p.client, p.interval)
		out.add(classGateway, &p.client, p.interval)
		out.add(classInbound, &p.server, p.interval)
	}
	return out
}

// mergeMetrics lays entries over each other. The last one that names providers says
// which there are; what others say of those still holds.
func mergeMetrics(entries []metricsEntry, defaults []string) map[string]*providerMetrics {
	inForce := defaults
	for _, e := range entries {
		if len(e.spec.Providers) > 0 {
			inForce = providerNames(e.spec.Providers)
		}
	}
	out := make(map[string]*providerMetrics)
	of := func(name string) *providerMetrics {
		if out[name] == nil {
			out[name] = &providerMetrics{}
		}
		return out[name]
	}
	if len(entries) == 0 {
		for _, name := range defaults {
			of(name)
		}
	}
	names := defaults
	for _, e := range entries {
		if len(e.spec.Providers) > 0 {
			names = providerNames(e.spec.Providers)
		}
		for _, name := range names {
			if slices.Contains(inForce, name) {
				of(name).add(e.spec)
			}
		}
	}
	return out
}

func providerNames(refs []*telemetry.ProviderRef) []string {
	out := make([]string, len(refs))
	for i, r := range refs {
		out[i] = r.GetName()
	}
	return out
}

// add lays an entry over what holds for a provider.
func (p *providerMetrics) add(m *telemetry.Metrics) {
	if m.ReportingInterval != nil {
		p.interval = m.ReportingInterval
	}
	for _, o := range m.Overrides {
		mode := o.GetMatch().GetMode()
		if mode != telemetry.WorkloadMode_SERVER {
			p.client.add(o)
		}
		if mode != telemetry.WorkloadMode_CLIENT {
			p.server.add(o)
		}
	}
}

// add lays an override over what holds in a direction. To disable all metrics takes the
// filter away; any override behind that brings it back.
func (d *directionMetrics) add(o *telemetry.MetricsOverrides) {
	names, all := overridden(o.GetMatch())
	if d.off = all && o.GetDisabled().GetValue(); d.off {
		return
	}
	for _, name := range names {
		c := d.changes[name]
		if c == nil {
			c = &metricChange{tags: make(map[string]*telemetry.MetricsOverrides_TagOverride)}
			if d.changes == nil {
				d.changes = make(map[string]*metricChange)
			}
			d.changes[name] = c
		}
		if o.Disabled != nil {
			c.drop = o.Disabled.Value
		}
		for tag, change := range o.TagOverrides {
			c.tags[tag] = change
		}
	}
}

// overridden lists the metrics that a match is about, and whether it is about all.
func overridden(m *telemetry.MetricSelector) (names []string, all bool) {
	switch by := m.GetMetricMatch().(type) {
	case *telemetry.MetricSelector_CustomMetric:
		return []string{by.CustomMetric}, false
	case *telemetry.MetricSelector_Metric:
		if by.Metric != telemetry.MetricSelector_ALL_METRICS {
			return []string{by.Metric.String()}, false
		}
	}
	return sortedKeys(prometheusNames()), true
}

// http are the HTTP filters of a class.
func (m *metrics) http(class listenerClass) []*hcmv3.HttpFilter {
	var out []*hcmv3.HttpFilter
	for _, config := range m.byClass[class] {
		out = append(out, &hcmv3.HttpFilter{Name: filterStats, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(config)}})
	}
	return out
}

// network are the filters of connections that aren't HTTP.
func (m *metrics) network(class listenerClass) []*listenerv3.Filter {
	var out []*listenerv3.Filter
	for _, config := range m.byClass[class] {
		out = append(out, networkFilter(filterStats, config))
	}
	return out
}

// add makes the filter of a provider for a class.
func (m *metrics) add(class listenerClass, d *directionMetrics, interval *durationpb.Duration) {
	if d.off {
		return
	}
	config := &stats.PluginConfig{
		TcpReportingDuration: interval,
		// Whom a gateway or a workload is asked for, anybody may choose.
		DisableHostHeaderFallback: class != classOutbound,
	}
	known := prometheusNames()
	for _, name := range sortedKeys(d.changes) {
		c := d.changes[name]
		metric := &stats.MetricConfig{Name: name, Drop: c.drop, Dimensions: make(map[string]string)}
		if prometheus, ok := known[name]; ok {
			metric.Name = prometheus
		}
		for _, tag := range sortedKeys(c.tags) {
			if c.tags[tag].GetOperation() == telemetry.MetricsOverrides_TagOverride_REMOVE {
				metric.TagsToRemove = append(metric.TagsToRemove, tag)
			} else {
				metric.Dimensions[tag] = c.tags[tag].GetValue()
			}
		}
		config.Metrics = append(config.Metrics, metric)
	}
	m.byClass[class] = append(m.byClass[class], config)
}

// countable reports whether a provider counts for Prometheus, and tells who named one
// that doesn't.
func countable(name string, entries []metricsEntry, o *Options, rep *report) bool {
	if strings.EqualFold(name, providerPrometheus) {
		return true
	}
	kind, _, ok := extensionProvider(o.MeshConfig, name, rep)
	if _, prometheus := kind.GetProvider().(*mesh.MeshConfig_ExtensionProvider_Prometheus); prometheus {
		return true
	}
	where := spot{o.MeshConfig, "defaultProviders.metrics"}
	for _, e := range entries {
		if i := slices.Index(providerNames(e.spec.Providers), name); i >= 0 {
			where = spot{e.at.obj, fmt.Sprintf("%s.providers[%d].name", e.at.field, i)}
		}
	}
	if ok || name == "stackdriver" { // which every mesh has
		rep.unsupportedf(where.obj, where.field, "metrics are for Prometheus only, and %s is another provider", name)
	} else {
		rep.warnf(where.obj, where.field, "there is no extension provider %s", name)
	}
	return false
}
