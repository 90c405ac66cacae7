// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"io"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// encoder writes families in the text or the OpenMetrics form with the
// encoders of client_golang's own handler. It makes protobuf messages for a
// chunk of metrics at a time and uses them again for the next, so that the
// memory for a scrape doesn't grow with the number of messages. Counters and gauges,
// which are nearly all of a scrape, have lines that are easily written, without the
// garbage that those encoders make for each (lines.go); of them they write the first.
type encoder struct {
	out         io.Writer
	openMetrics bool
	lines       lines
	buf         bytes.Buffer
	family      dto.MetricFamily
	kind        dto.MetricType
	chunk       [chunkSize]message
	metrics     [chunkSize]*dto.Metric
}

const chunkSize = 32

// message is one metric with all that it points to.
type message struct {
	metric    dto.Metric
	counter   dto.Counter
	gauge     dto.Gauge
	value     float64
	histogram *histogramMessage // nil until needed
	pairs     []dto.LabelPair
	pairRefs  []*dto.LabelPair
}

type histogramMessage struct {
	histogram dto.Histogram
	count     uint64
	buckets   [numBounds]dto.Bucket
	refs      [numBounds]*dto.Bucket
	counts    [numBounds]uint64
	limits    [numBounds]float64
}

func newEncoder(out io.Writer, openMetrics bool) *encoder {
	return &encoder{out: out, openMetrics: openMetrics, lines: lines{out: out, openMetrics: openMetrics}}
}

// encode writes all metrics of f.
func (n *encoder) encode(f *family, sets []labels) error {
	n.family = dto.MetricFamily{Name: &f.name, Help: &f.help}
	total := len(f.values) + len(f.dists)
	if len(f.values) > 0 {
		n.metrics[0] = n.chunk[0].fill(f, 0, sets)
		if err := n.write(f.kind, 1, false); err != nil {
			return err
		}
		if err := n.lines.write(f.name, f.values[1:], sets); err != nil {
			return err
		}
	}
	for start := len(f.values); start < total; start += chunkSize {
		end := min(start+chunkSize, total)
		for i := start; i < end; i++ {
			n.metrics[i-start] = n.chunk[i-start].fill(f, i, sets)
		}
		if err := n.write(f.kind, end-start, start > 0); err != nil {
			return err
		}
	}
	return nil
}

// write writes the first count metrics. The encoders begin each family with
// its HELP and TYPE lines, which are dropped for all but the first chunk.
func (n *encoder) write(kind Kind, count int, headless bool) error {
	n.kind = protoKind(kind)
	n.family.Type, n.family.Metric = &n.kind, n.metrics[:count]
	n.buf.Reset()
	if err := n.one(&n.buf, &n.family); err != nil {
		return err
	}
	b := n.buf.Bytes()
	for headless && len(b) > 0 && b[0] == '#' {
		b = b[bytes.IndexByte(b, '\n')+1:]
	}
	_, err := n.out.Write(b)
	return err
}

// one writes a family as it is.
func (n *encoder) one(w io.Writer, f *dto.MetricFamily) error {
	var err error
	if n.openMetrics {
		_, err = expfmt.MetricFamilyToOpenMetrics(w, f)
	} else {
		_, err = expfmt.MetricFamilyToText(w, f)
	}
	return err
}

// end writes what the form wants after the last family.
func (n *encoder) end() error {
	if !n.openMetrics {
		return nil
	}
	_, err := expfmt.FinalizeOpenMetrics(n.out)
	return err
}

// fill makes m the message of metric i of f, which it points into.
func (m *message) fill(f *family, i int, sets []labels) *dto.Metric {
	m.metric.Reset()
	if i < len(f.values) {
		m.value = f.values[i].value
		m.label(sets[f.values[i].set])
		if f.kind == KindCounter {
			m.counter.Value = &m.value
			m.metric.Counter = &m.counter
		} else {
			m.gauge.Value = &m.value
			m.metric.Gauge = &m.gauge
		}
		return &m.metric
	}
	d := f.dists[i-len(f.values)]
	m.label(sets[d.set])
	m.distribution(d.value.Snapshot())
	return &m.metric
}

func (m *message) distribution(s HistogramSnapshot) {
	if m.histogram == nil {
		m.histogram = &histogramMessage{limits: bounds}
	}
	h := m.histogram
	var sum uint64
	for i := range numBounds {
		sum += s.Counts[i]
		h.counts[i] = sum
		h.buckets[i].CumulativeCount, h.buckets[i].UpperBound = &h.counts[i], &h.limits[i]
		h.refs[i] = &h.buckets[i]
	}
	m.value, h.count = s.Sum, sum+s.Counts[numBounds]
	h.histogram.SampleSum, h.histogram.SampleCount = &m.value, &h.count
	h.histogram.Bucket = h.refs[:]
	m.metric.Histogram = &h.histogram
}

func (m *message) label(l labels) {
	if len(l.names) > len(m.pairs) {
		m.pairs = make([]dto.LabelPair, len(l.names))
		m.pairRefs = make([]*dto.LabelPair, len(l.names))
	}
	for i := range l.names {
		m.pairs[i].Name, m.pairs[i].Value = &l.names[i], &l.values[i]
		m.pairRefs[i] = &m.pairs[i]
	}
	m.metric.Label = m.pairRefs[:len(l.names)]
}

// proto makes one message of a whole family, for prometheus.Gatherer.
func (f *family) proto(sets []labels) *dto.MetricFamily {
	kind := protoKind(f.kind)
	out := &dto.MetricFamily{Name: &f.name, Help: &f.help, Type: &kind}
	for i := range len(f.values) + len(f.dists) {
		out.Metric = append(out.Metric, new(message).fill(f, i, sets))
	}
	return out
}

func protoKind(k Kind) dto.MetricType {
	switch k {
	case KindCounter:
		return dto.MetricType_COUNTER
	case KindGauge:
		return dto.MetricType_GAUGE
	}
	return dto.MetricType_HISTOGRAM
}
