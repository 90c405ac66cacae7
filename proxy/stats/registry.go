// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"cmp"
	"container/list"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
)

// Registry knows all sources of metrics. Sources come and go while traffic
// runs. It is a prometheus.Gatherer; Write says the same and needs less
// memory.
type Registry struct {
	mu      sync.Mutex
	sources *list.List // of Source, guarded by mu

	// view is how metrics are shown. Immutable.
	view View

	// native holds collectors written against client_golang. Safe for
	// concurrent use.
	native *prometheus.Registry

	// baseline is what counters had when they were last reset; nil when they
	// never were. Each one is immutable.
	baseline atomic.Pointer[baseline]
}

// NewRegistry returns an empty registry that shows all as Envoy does by default.
func NewRegistry() *Registry { return NewRegistryOf(View{}) }

// NewRegistryOf returns an empty registry that shows what v says.
func NewRegistryOf(v View) *Registry {
	return &Registry{view: v, sources: list.New(), native: prometheus.NewRegistry()}
}

// Add makes s part of every reading from now on, after all that were added
// before. remove takes it out again and may be called more than once; a
// reading that is under way may still call s shortly after.
func (r *Registry) Add(s Source) (remove func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	el := r.sources.PushBack(s)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sources.Remove(el)
	}
}

// AddCollector adds metrics written against client_golang. Its error names a
// collector whose metrics are already there.
func (r *Registry) AddCollector(c prometheus.Collector) error { return r.native.Register(c) }

// AddRuntime adds client_golang's metrics of the process and of the Go runtime.
func (r *Registry) AddRuntime() error { return r.AddRuntimeAs("") }

// AddRuntimeAs adds them under names that begin with prefix.
func (r *Registry) AddRuntimeAs(prefix string) error {
	var err error
	for _, c := range []prometheus.Collector{collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector()} {
		if prefix != "" {
			c = prometheus.WrapCollectorWithPrefix(prefix, c)
		}
		err = errors.Join(err, r.AddCollector(c))
	}
	return err
}

// baseline holds, by dotted name, the values of the counters of that name in
// the order in which they are reported.
type baseline map[string][]float64

// read has every source report into an Emitter that collects what q selects,
// in x if there is one, else as a list.
func (r *Registry) read(q Query, x *exposition) *Emitter {
	e := &Emitter{query: q, include: r.view.Include, expo: x}
	if base := r.baseline.Load(); base != nil {
		e.baseline, e.seen = *base, map[string]int{}
	}
	r.collect(e)
	return e
}

// collect has every source report into e.
func (r *Registry) collect(e *Emitter) {
	r.mu.Lock()
	sources := make([]Source, 0, r.sources.Len())
	for el := r.sources.Front(); el != nil; el = el.Next() {
		sources = append(sources, el.Value.(Source))
	}
	r.mu.Unlock()
	for _, s := range sources {
		s.CollectStats(e)
	}
}

// Gather returns every metric, families in the order of their names. It
// implements prometheus.Gatherer, so families are also returned when there is
// an error.
func (r *Registry) Gather() ([]*dto.MetricFamily, error) {
	x := newExposition(r.view.Tags)
	r.read(Query{}, x)
	out, err := r.native.Gather()
	for _, f := range x.sorted() {
		out = append(out, f.proto(x.sets))
	}
	slices.SortStableFunc(out, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out, errors.Join(err, x.err)
}

// Write writes the metrics that q selects in the text form of Prometheus, or
// in that of OpenMetrics, families in the order of their names. Metrics of
// AddCollector have no dotted name: their exposition name is matched. An error
// of w ends the writing; a metric that can't be shown is left out and named in
// the error.
func (r *Registry) Write(w io.Writer, openMetrics bool, q Query) error {
	x := newExposition(r.view.Tags)
	r.read(q, x)
	own := x.sorted()
	native, gatherErr := r.native.Gather()
	enc := newEncoder(w, openMetrics)
	for _, f := range native {
		if q.Filter != nil && !q.Filter.MatchString(f.GetName()) {
			continue
		}
		for len(own) > 0 && own[0].name < f.GetName() {
			if err := enc.encode(own[0], x.sets); err != nil {
				return err
			}
			own = own[1:]
		}
		if err := enc.one(w, f); err != nil {
			return err
		}
	}
	for _, f := range own {
		if err := enc.encode(f, x.sets); err != nil {
			return err
		}
	}
	return errors.Join(enc.end(), gatherErr, x.err)
}

// List returns the metrics that q selects by their dotted names, in order.
// Metrics of AddCollector have no such name and are left out.
func (r *Registry) List(q Query) []Metric {
	return mergeNames(r.read(q, nil).list)
}

// ResetCounters makes every counter read as zero. The counters themselves go
// on, so that nothing on the data path has to know; histograms and gauges
// stay as they are (Envoy's /reset_counters).
func (r *Registry) ResetCounters() {
	e := &Emitter{include: r.view.Include}
	r.collect(e)
	base := baseline{}
	for _, m := range e.list {
		if m.Kind == KindCounter {
			base[m.Name] = append(base[m.Name], m.Value)
		}
	}
	r.baseline.Store(&base)
}

// mergeNames sorts metrics by name and adds up those of one name and kind, as
// merge does for the exposition.
func mergeNames(ms []Metric) []Metric {
	slices.SortStableFunc(ms, func(a, b Metric) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
	w := 0
	for _, m := range ms {
		if w == 0 || ms[w-1].Name != m.Name || ms[w-1].Kind != m.Kind {
			ms[w] = m
			w++
			continue
		}
		ms[w-1].Value += m.Value
		if m.Hist != nil {
			sum := *ms[w-1].Hist
			sum.Add(m.Hist)
			ms[w-1].Hist = &sum
		}
	}
	return ms[:w]
}
