// SPDX-License-Identifier: Apache-2.0

package stats

// Label is one label of the Prometheus form.
type Label struct{ Name, Value string }

// Source is an owner of metrics. CollectStats is called on each scrape, from
// any goroutine, and reports every metric of the owner once.
type Source interface {
	CollectStats(e *Emitter)
}

// SourceFunc makes a Source of a function.
type SourceFunc func(e *Emitter)

// CollectStats calls f.
func (f SourceFunc) CollectStats(e *Emitter) { f(e) }

// Metric is one reported value. Name is Envoy's dotted name as /stats prints
// it ("cluster.outbound|80||a.b.upstream_rq_total"); Prom the exposition name
// without the prefix envoy_ ("cluster_upstream_rq_total"), or with Raw the
// whole name ("istio_requests_total").
type Metric struct {
	Name, Prom string
	Raw        bool
	Labels     []Label
	Kind       Kind
	Value      float64
	Hist       *HistogramSnapshot // for KindHistogram
}

// Kind is the type of a metric.
type Kind uint8

// The kinds.
const (
	KindCounter Kind = iota
	KindGauge
	KindHistogram
)

// String returns the name of the kind as the exposition's TYPE line has it.
func (k Kind) String() string {
	switch k {
	case KindCounter:
		return "counter"
	case KindGauge:
		return "gauge"
	}
	return "histogram"
}
