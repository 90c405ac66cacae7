// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"regexp"
	"strconv"
	"strings"
)

// Query says which metrics are wanted.
type Query struct {
	// Filter selects by the dotted name, anywhere in it; nil selects all.
	Filter *regexp.Regexp
	// UsedOnly leaves out what was never written: counters at zero, empty
	// histograms, and gauges at zero of a Scope. A gauge without a scope is a
	// fact of the process and always counts as written (Istio's agent reads
	// server.state with usedonly, and 0 is the answer it hopes for).
	UsedOnly bool
}

// Emitter takes the metrics that sources report in one reading. A source uses
// it within its CollectStats call, in that goroutine, and doesn't keep it.
//
// The names of Envoy follow a pattern, so a source gives only the last part:
//
//	s := e.Cluster("outbound|80||a.b")
//	s.Counter("upstream_rq_total", c.total.Value())
//	s.Code("upstream_rq", 200, c.ok.Value())
//	s.Class("upstream_rq", 2, c.ok.Value())
//
// is cluster.outbound|80||a.b.upstream_rq_total, …_200 and …_2xx in /stats, and
// envoy_cluster_upstream_rq_total, envoy_cluster_upstream_rq{envoy_response_code="200"}
// and envoy_cluster_upstream_rq_xx{envoy_response_code_class="2"} in the
// exposition, all with the label envoy_cluster_name.
type Emitter struct {
	query    Query
	include  *Matcher       // nil: all
	baseline baseline       // immutable; nil unless counters were reset
	seen     map[string]int // how many counters of a name came; used with baseline
	expo     *exposition    // collects for Prometheus, or nil
	list     []Metric       // collects by dotted name, when expo is nil
	name     []byte         // scratch: the dotted name of the metric at hand
}

// scopeKind is one family of owners: how its names are built. Constant.
type scopeKind struct{ dotted, prom, label string }

var (
	clusterKind  = &scopeKind{"cluster.", "cluster_", "envoy_cluster_name"}
	httpKind     = &scopeKind{"http.", "http_", "envoy_http_conn_manager_prefix"}
	listenerKind = &scopeKind{"listener.", "listener_", "envoy_listener_address"}
	tcpKind      = &scopeKind{"tcp.", "tcp_", "envoy_tcp_prefix"}
)

// Scope is one owner of metrics within an Emitter.
type Scope struct {
	e            *Emitter
	kind, inner  *scopeKind // inner is nil but for a scope within a scope
	name, within string     // as in the dotted name
}

// Expect tells that so many scopes will report one kind of metrics, so that room for
// them is made at once. Unless there are many it needn't be told; 0 ends it.
func (e *Emitter) Expect(scopes int) {
	if e.expo != nil && !e.query.UsedOnly && e.query.Filter == nil && e.include == nil {
		e.expo.expect(scopes)
	}
}

// Cluster begins the metrics of a cluster. A ';' at the end, as Istio's
// alt_stat_name has it, stays in the dotted name and is cut from the label.
func (e *Emitter) Cluster(name string) Scope { return e.scope(clusterKind, name) }

// HTTP begins the metrics of HTTP connection managers that share a stat_prefix.
func (e *Emitter) HTTP(prefix string) Scope { return e.scope(httpKind, prefix) }

// TCP begins the metrics of TCP proxies that share a stat_prefix.
func (e *Emitter) TCP(prefix string) Scope { return e.scope(tcpKind, prefix) }

// Listener begins the metrics of the listener bound to addr, in which Envoy
// writes '_' for ':'.
func (e *Emitter) Listener(addr string) Scope {
	return e.scope(listenerKind, strings.ReplaceAll(addr, ":", "_"))
}

// HTTP begins the metrics of connection managers on one listener:
// listener.<addr>.http.<prefix>.downstream_rq_2xx.
func (s Scope) HTTP(prefix string) Scope {
	s.inner, s.within = httpKind, prefix
	return s
}

func (e *Emitter) scope(k *scopeKind, name string) Scope { return Scope{e: e, kind: k, name: name} }

// Counter reports a counter by the last part of its dotted name.
func (s Scope) Counter(name string, v uint64) {
	s.emit(sample{name: name, kind: KindCounter, value: float64(v)})
}

// Gauge reports a gauge by the last part of its dotted name.
func (s Scope) Gauge(name string, v int64) {
	s.emit(sample{name: name, kind: KindGauge, value: float64(v)})
}

// Histogram reports a histogram by the last part of its dotted name. d is
// read later, while the answer is written.
func (s Scope) Histogram(name string, d Distribution) {
	s.emit(sample{name: name, kind: KindHistogram, dist: d})
}

// Code reports how often a response code was seen: name_200.
func (s Scope) Code(name string, code int, v uint64) {
	s.emit(sample{name: name, part: partCode, number: code, kind: KindCounter, value: float64(v)})
}

// Class reports how often a class of response codes was seen: name_2xx.
func (s Scope) Class(name string, class int, v uint64) {
	s.emit(sample{name: name, part: partClass, number: class, kind: KindCounter, value: float64(v)})
}

// part is a piece of a dotted name that is a label in the exposition.
type part uint8

const (
	partNone  part = iota
	partCode       // "_200"
	partClass      // "_2xx"
)

// sample is one value on its way through an Emitter.
type sample struct {
	name   string // last part of the dotted name
	part   part
	number int
	kind   Kind
	value  float64
	dist   Distribution
}

func (s *Scope) emit(m sample) {
	e := s.e
	if e.needsName() {
		e.name = s.appendName(e.name[:0], &m)
		if !e.wanted(&m, false) {
			return
		}
	}
	if e.query.UsedOnly && unused(&m) {
		return
	}
	if e.expo != nil {
		e.expo.addScoped(s, &m)
		return
	}
	e.listNamed(&m)
}

// appendOwner appends the dotted name but for its last part.
func (s *Scope) appendOwner(b []byte) []byte {
	b = append(append(b, s.kind.dotted...), s.name...)
	if s.inner != nil {
		b = append(append(append(b, '.'), s.inner.dotted...), s.within...)
	}
	return append(b, '.')
}

func (s *Scope) appendName(b []byte, m *sample) []byte { return m.appendLast(s.appendOwner(b)) }

// appendLast appends the last part of the dotted name.
func (m *sample) appendLast(b []byte) []byte {
	b = append(b, m.name...)
	switch m.part {
	case partCode:
		b = strconv.AppendInt(append(b, '_'), int64(m.number), 10)
	case partClass:
		b = append(strconv.AppendInt(append(b, '_'), int64(m.number), 10), "xx"...)
	}
	return b
}

// Counter reports a counter that belongs to no scope. name is dotted; prom is
// the exposition name without "envoy_", or empty for name with '_' for '.'.
func (e *Emitter) Counter(name, prom string, v uint64, labels ...Label) {
	e.Emit(Metric{Name: name, Prom: prom, Labels: labels, Kind: KindCounter, Value: float64(v)})
}

// Gauge reports a gauge that belongs to no scope; names as in Counter.
func (e *Emitter) Gauge(name, prom string, v int64, labels ...Label) {
	e.Emit(Metric{Name: name, Prom: prom, Labels: labels, Kind: KindGauge, Value: float64(v)})
}

// Histogram reports a histogram that belongs to no scope; names as in Counter.
func (e *Emitter) Histogram(name, prom string, d Distribution, labels ...Label) {
	s := d.Snapshot()
	e.Emit(Metric{Name: name, Prom: prom, Labels: labels, Kind: KindHistogram, Hist: &s})
}

// Emit reports a metric that none of the shorter calls can express.
func (e *Emitter) Emit(m Metric) {
	v := sample{kind: m.Kind, value: m.Value}
	if m.Kind == KindHistogram {
		if m.Hist == nil {
			m.Hist = &HistogramSnapshot{}
		}
		v.dist = m.Hist
	}
	if e.needsName() {
		e.name = append(e.name[:0], m.Name...)
		if !e.wanted(&v, m.Raw) {
			return
		}
	}
	if e.query.UsedOnly && m.Kind != KindGauge && unused(&v) {
		return
	}
	if e.expo == nil {
		m.Value = v.value
		e.list = append(e.list, m)
		return
	}
	e.expo.addNamed(&m, &v)
}

// unused reports whether a metric still has the value it started with.
func unused(m *sample) bool {
	if m.dist != nil {
		s := m.dist.Snapshot()
		return s.Count() == 0
	}
	return m.value == 0
}

// needsName reports whether the dotted name has to be built. A scrape of all
// does without.
func (e *Emitter) needsName() bool {
	return e.expo == nil || e.query.Filter != nil || e.include != nil || e.baseline != nil
}

// wanted looks the name in e.name up in the list of what is shown, unless it is
// raw, and in the filter, and takes off a counter what it had when the counters
// were reset.
func (e *Emitter) wanted(m *sample, raw bool) bool {
	if e.include != nil && !raw && !e.include.includes(e.name) {
		return false
	}
	if e.query.Filter != nil && !e.query.Filter.Match(e.name) {
		return false
	}
	if e.baseline != nil && m.kind == KindCounter {
		base := e.baseline[string(e.name)]
		i := e.seen[string(e.name)]
		e.seen[string(e.name)]++
		// A smaller value belongs to an owner that was added since.
		if i < len(base) && m.value >= base[i] {
			m.value -= base[i]
		}
	}
	return true
}

func (e *Emitter) listNamed(m *sample) {
	out := Metric{Name: string(e.name), Kind: m.kind, Value: m.value}
	if m.dist != nil {
		s := m.dist.Snapshot()
		out.Hist = &s
	}
	e.list = append(e.list, out)
}
