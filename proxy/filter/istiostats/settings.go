// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	statsapi "istio.io/api/envoy/extensions/stats"

	"pillion/proxy/http"
)

// Node is the proxy's workload as expressions of labels know it. Immutable.
type Node struct {
	Own    http.Peer
	Labels map[string]string
	ID     string
}

// Options are what a configuration asks for.
type Options struct {
	// TellEvery is how often raw connections that go on are counted; 0 leaves it to
	// the proxy.
	TellEvery time.Duration
	// Warnings name what is asked for in vain.
	Warnings []string

	labels *labelling // nil for Istio's own labels
}

// labelling is how a configuration changes metrics and their labels. Immutable.
type labelling struct {
	key  string // stands for all of it
	node Node
	// drop and tags are by the metric's name without istio_; tags hold the
	// expression of each label, or nothing for one that is left out.
	drop map[string]bool
	tags map[string]map[string]string
}

// metricNames are the metrics that may be changed, in groups that share their labels,
// in the order of their bits.
var (
	requestMetrics = []string{"requests_total", "request_duration_milliseconds", "request_bytes", "response_bytes"}
	messageMetrics = []string{"request_messages_total", "response_messages_total"}
	tcpMetrics     = []string{"tcp_connections_opened_total", "tcp_connections_closed_total", "tcp_sent_bytes_total", "tcp_received_bytes_total"}
	metricNames    = slices.Concat(requestMetrics, messageMetrics, tcpMetrics)
)

// minTellEvery is how often the proxy looks at raw connections.
const minTellEvery = time.Second

// Parse compiles a configuration. A label that isn't understood is no reason to serve
// nothing: it is warned about, and its value is unknown.
//
// disable_host_header_fallback is always on: a Host header never is a label.
func Parse(cfg *statsapi.PluginConfig, node Node) (o Options, err error) {
	if cfg.GetReporter() != statsapi.Reporter_UNSPECIFIED {
		return o, fmt.Errorf("reporter: %s is for waypoints, which this proxy isn't", cfg.GetReporter())
	}
	if d := cfg.GetTcpReportingDuration(); d != nil {
		if err := d.CheckValid(); err != nil || d.AsDuration() < 0 {
			return o, fmt.Errorf("tcp_reporting_duration: %v is no duration", d)
		}
		o.TellEvery = max(d.AsDuration(), minTellEvery)
	}
	if len(cfg.GetDefinitions()) > 0 {
		o.warn("definitions: metrics beside Istio's own are not supported")
	}
	if cfg.GetRotationInterval().AsDuration() > 0 {
		o.warn("rotation_interval: series that nobody uses are forgotten one by one instead")
	}
	l := &labelling{node: node, drop: map[string]bool{}, tags: map[string]map[string]string{}}
	for i, m := range cfg.GetMetrics() {
		l.add(m, i, &o)
	}
	if len(l.drop)+len(l.tags) > 0 {
		l.check(&o)
		l.key = l.text()
		o.labels = l
	}
	return o, nil
}

func (o *Options) warn(format string, args ...any) {
	o.Warnings = append(o.Warnings, fmt.Sprintf(format, args...))
}

// add takes one change in: as with Istio it is of one metric or of all, and of two
// changes of a label the later one holds.
func (l *labelling) add(m *statsapi.MetricConfig, i int, o *Options) {
	names := metricNames
	if n := m.GetName(); n != "" {
		n = strings.TrimPrefix(n, "istio_")
		if !slices.Contains(metricNames, n) {
			o.warn("metrics[%d].name: there is no metric %q", i, m.GetName())
			return
		}
		names = []string{n}
	}
	for _, n := range names {
		if m.GetDrop() {
			l.drop[n] = true
			continue
		}
		for _, tag := range m.GetTagsToRemove() {
			l.tag(n, tag, "")
		}
		for tag, expression := range m.GetDimensions() {
			if expression == "" {
				expression = `""`
			}
			l.tag(n, labelName(tag), expression)
		}
	}
	if m.GetMatch() != "" {
		o.warn("metrics[%d].match: has no effect", i)
	}
}

func (l *labelling) tag(metric, tag, expression string) {
	if l.tags[metric] == nil {
		l.tags[metric] = map[string]string{}
	}
	l.tags[metric][tag] = expression
}

// check warns once of each expression that isn't understood.
func (l *labelling) check(o *Options) {
	bad := map[string]string{}
	for _, tags := range l.tags {
		for tag, text := range tags {
			if text == "" {
				continue
			}
			if _, err := parseExpression(text, &l.node); err != nil {
				bad[fmt.Sprintf("dimensions[%s] %q", tag, text)] = err.Error()
			}
		}
	}
	for _, at := range slices.Sorted(maps.Keys(bad)) {
		o.warn("metrics: %s: %s; its value is %q", at, bad[at], unknown)
	}
}

// text stands for what is changed.
func (l *labelling) text() string {
	var b strings.Builder
	for _, n := range metricNames {
		fmt.Fprintf(&b, "%s %v", n, l.drop[n])
		for _, tag := range slices.Sorted(maps.Keys(l.tags[n])) {
			fmt.Fprintf(&b, " %q=%q", tag, l.tags[n][tag])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// labelName makes a name that Prometheus takes.
func labelName(tag string) string {
	ok := func(c rune) rune {
		if c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' {
			return c
		}
		return '_'
	}
	tag = strings.Map(ok, tag)
	if tag == "" || tag[0] >= '0' && tag[0] <= '9' {
		tag = "_" + tag
	}
	return tag
}
