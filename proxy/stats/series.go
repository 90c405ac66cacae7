// SPDX-License-Identifier: Apache-2.0

package stats

// SeriesScope is one label set of a Family within an Emitter.
type SeriesScope struct {
	e      *Emitter
	labels labels
	set    int32 // number of labels, when collecting for Prometheus
	// uses, when not nil, makes this the overflow series: it is shown once
	// something overflowed, and the value of its first counter is put there.
	uses *uint64
}

// series begins the metrics of one label set, which no other series has.
func (e *Emitter) series(names, values []string) SeriesScope {
	s := SeriesScope{e: e, labels: labels{names, values}}
	if e.expo != nil {
		s.set = e.expo.newSet(s.labels)
	}
	return s
}

// Counter reports a counter under its exposition name. In /stats it has the
// name that Istio's filter gives it: its labels as parts of a dotted name.
func (s SeriesScope) Counter(name, help string, v uint64) {
	if s.uses != nil && *s.uses == 0 {
		*s.uses = v
	}
	s.report(name, help, sample{kind: KindCounter, value: float64(v)})
}

// Gauge reports a gauge; names as in Counter.
func (s SeriesScope) Gauge(name, help string, v int64) {
	s.report(name, help, sample{kind: KindGauge, value: float64(v)})
}

// Histogram reports a histogram; names as in Counter. d is read later.
func (s SeriesScope) Histogram(name, help string, d Distribution) {
	s.report(name, help, sample{kind: KindHistogram, dist: d})
}

func (s *SeriesScope) report(name, help string, m sample) {
	e := s.e
	if s.uses != nil && unused(&m) {
		return
	}
	if e.needsName() {
		e.name = append(append(e.name[:0], "istiocustom."...), name...)
		for i, l := range s.labels.names {
			e.name = append(append(append(append(e.name, '.'), l...), '.'), s.labels.values[i]...)
		}
		if !e.wanted(&m, false) {
			return
		}
	}
	if e.query.UsedOnly && unused(&m) {
		return
	}
	if e.expo != nil {
		e.expo.add(e.expo.family(name, help, m.kind), s.set, &m)
		return
	}
	e.listNamed(&m)
}
