// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	nethttp "net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/prometheus/common/expfmt"

	"pillion/proxy/stats"
)

// maxRegex bounds a regular expression of a client's. Go's take time in
// proportion to the input, whatever they are; their size is what costs memory.
const maxRegex = 1024

// compileRegex compiles an expression, nil for none.
func compileRegex(expr string) (*regexp.Regexp, error) {
	if expr == "" {
		return nil, nil
	}
	if len(expr) > maxRegex {
		return nil, fmt.Errorf("the regular expression has %d bytes, more than %d", len(expr), maxRegex)
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("invalid regular expression: %w", err)
	}
	return re, nil
}

// statsQuery reads what the pages of statistics have in common. On an error
// the client has its answer.
func statsQuery(w nethttp.ResponseWriter, q url.Values) (stats.Query, bool) {
	re, err := compileRegex(q.Get("filter"))
	if err != nil {
		fail(w, nethttp.StatusBadRequest, err.Error()+"\n")
		return stats.Query{}, false
	}
	return stats.Query{Filter: re, UsedOnly: q.Has("usedonly")}, true
}

func (h *handler) serveStats(w nethttp.ResponseWriter, r *nethttp.Request, q url.Values) {
	wanted, ok := kinds(q.Get("type"))
	if !ok {
		fail(w, nethttp.StatusBadRequest, "invalid type: use All, Counters, Gauges or Histograms\n")
		return
	}
	buckets, ok := bucketModes()[q.Get("histogram_buckets")]
	if !ok {
		fail(w, nethttp.StatusBadRequest, "invalid histogram_buckets: use summary, cumulative or disjoint\n")
		return
	}
	query, ok := statsQuery(w, q)
	if !ok {
		return
	}
	switch q.Get("format") {
	case "prometheus":
		h.servePrometheus(w, r, q)
	case "", "text":
		out := bufio.NewWriter(w)
		scalars, histograms := h.list(query, wanted)
		writeStatsText(out, scalars, histograms, buckets)
		_ = out.Flush() // the client is gone
	case "json":
		w.Header().Set("Content-Type", "application/json")
		out := bufio.NewWriter(w)
		scalars, histograms := h.list(query, wanted)
		writeStatsJSON(out, scalars, histograms, buckets)
		_ = out.Flush() // as above
	default:
		fail(w, nethttp.StatusBadRequest, "invalid format: use text, json or prometheus\n")
	}
}

// list returns the metrics wanted, histograms apart as Envoy shows them.
func (h *handler) list(q stats.Query, wanted func(stats.Kind) bool) (scalars, histograms []stats.Metric) {
	for _, m := range h.Stats.List(q) {
		switch {
		case !wanted(m.Kind):
		case m.Kind == stats.KindHistogram:
			histograms = append(histograms, m)
		default:
			scalars = append(scalars, m)
		}
	}
	return scalars, histograms
}

// kinds reads Envoy's parameter type. Text readouts there are none.
func kinds(name string) (wanted func(stats.Kind) bool, ok bool) {
	only := func(k stats.Kind) func(stats.Kind) bool { return func(have stats.Kind) bool { return have == k } }
	switch name {
	case "", "All":
		return func(stats.Kind) bool { return true }, true
	case "Counters":
		return only(stats.KindCounter), true
	case "Gauges":
		return only(stats.KindGauge), true
	case "Histograms":
		return only(stats.KindHistogram), true
	case "TextReadouts":
		return func(stats.Kind) bool { return false }, true
	}
	return nil, false
}

// bucketMode is how /stats shows a histogram.
type bucketMode uint8

const (
	bucketSummary bucketMode = iota
	bucketCumulative
	bucketDisjoint
)

func bucketModes() map[string]bucketMode {
	return map[string]bucketMode{
		"": bucketSummary, "summary": bucketSummary, "cumulative": bucketCumulative, "disjoint": bucketDisjoint}
}

// quantiles are those that Envoy shows, in percent.
func quantiles() []float64 { return []float64{0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100} }

func writeStatsText(out *bufio.Writer, scalars, histograms []stats.Metric, mode bucketMode) {
	for _, m := range scalars {
		fmt.Fprintf(out, "%s: %s\n", m.Name, number(m.Value))
	}
	for _, m := range histograms {
		out.WriteString(m.Name + ":")
		switch {
		case m.Hist.Count() == 0:
			out.WriteString(" No recorded values")
		case mode == bucketSummary:
			// Envoy's first number is of the last interval, which we keep none of.
			for _, p := range quantiles() {
				fmt.Fprintf(out, " P%s(nan,%s)", number(p), number(m.Hist.Quantile(p/100)))
			}
		default:
			for i, n := range bucketCounts(m.Hist, mode) {
				fmt.Fprintf(out, " B%s(0,%d)", number(stats.Bounds()[i]), n)
			}
		}
		out.WriteByte('\n')
	}
}

// bucketCounts returns the counts of the finite buckets.
func bucketCounts(h *stats.HistogramSnapshot, mode bucketMode) []uint64 {
	var sum uint64
	out := make([]uint64, len(h.Counts)-1)
	for i := range out {
		sum += h.Counts[i]
		out[i] = sum
		if mode == bucketDisjoint {
			out[i] = h.Counts[i]
		}
	}
	return out
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// writeStatsJSON writes {"stats":[{"name":…,"value":…},…]}, and histograms in
// one element at the end, in the two shapes that Envoy has for them.
func writeStatsJSON(out *bufio.Writer, scalars, histograms []stats.Metric, mode bucketMode) {
	out.WriteString(`{"stats":[`)
	separate := separator(out)
	for _, m := range scalars {
		separate()
		fmt.Fprintf(out, `{"name":%s,"value":%s}`, quoted(m.Name), number(m.Value))
	}
	if len(histograms) > 0 {
		separate()
		if mode == bucketSummary {
			writeQuantilesJSON(out, histograms)
		} else {
			writeBucketsJSON(out, histograms, mode)
		}
	}
	out.WriteString("]}")
}

func writeQuantilesJSON(out *bufio.Writer, histograms []stats.Metric) {
	out.WriteString(`{"histograms":{"supported_quantiles":[`)
	separate := separator(out)
	for _, p := range quantiles() {
		separate()
		out.WriteString(number(p))
	}
	out.WriteString(`],"computed_quantiles":[`)
	separate = separator(out)
	for _, m := range histograms {
		separate()
		fmt.Fprintf(out, `{"name":%s,"values":[`, quoted(m.Name))
		inner := separator(out)
		for _, p := range quantiles() {
			inner()
			value := "null"
			if v := m.Hist.Quantile(p / 100); !math.IsNaN(v) {
				value = number(v)
			}
			fmt.Fprintf(out, `{"cumulative":%s,"interval":null}`, value)
		}
		out.WriteString("]}")
	}
	out.WriteString("]}}")
}

func writeBucketsJSON(out *bufio.Writer, histograms []stats.Metric, mode bucketMode) {
	out.WriteString(`{"histograms":[`)
	separate := separator(out)
	for _, m := range histograms {
		separate()
		fmt.Fprintf(out, `{"name":%s,"buckets":[`, quoted(m.Name))
		inner := separator(out)
		for i, n := range bucketCounts(m.Hist, mode) {
			inner()
			fmt.Fprintf(out, `{"upper_bound":%s,"interval":0,"cumulative":%d}`, number(stats.Bounds()[i]), n)
		}
		out.WriteString("]}")
	}
	out.WriteString("]}")
}

// separator returns a function that writes a comma at each call but the first.
func separator(out *bufio.Writer) func() {
	first := true
	return func() {
		if !first {
			out.WriteByte(',')
		}
		first = false
	}
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""` // a string is always written
	}
	return string(b)
}

// slots bounds how many scrapes are answered at a time, since each gathers
// all metrics before it writes any.
type slots chan struct{}

func newSlots() slots { return make(slots, 4) }

func (h *handler) servePrometheus(w nethttp.ResponseWriter, r *nethttp.Request, q url.Values) {
	query, ok := statsQuery(w, q)
	if !ok {
		return
	}
	servePrometheus(w, r, h.Stats, query, h.scrapes, h.Logger)
}

// servePrometheus answers a scrape: in the form of OpenMetrics or Prometheus's
// text by Accept, and compressed by Accept-Encoding.
func servePrometheus(w nethttp.ResponseWriter, r *nethttp.Request, reg *stats.Registry, q stats.Query, s slots, log *slog.Logger) {
	select {
	case s <- struct{}{}:
		defer func() { <-s }()
	default:
		w.Header().Set("Retry-After", "1")
		fail(w, nethttp.StatusServiceUnavailable, fmt.Sprintf("%d scrapes are being answered; come back in a second\n", cap(s)))
		return
	}
	format := expfmt.NegotiateAccept(r.Header,
		expfmt.NewFormat(expfmt.TypeTextPlain), expfmt.NewFormat(expfmt.TypeOpenMetrics))
	w.Header().Set("Content-Type", string(format))
	w.Header().Add("Vary", "Accept, Accept-Encoding")
	var out io.Writer = w
	if acceptsGzip(r.Header) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		out = z
	}
	buffered := bufio.NewWriterSize(out, 16<<10)
	err := reg.Write(buffered, format.FormatType() == expfmt.TypeOpenMetrics, q)
	if flushErr := buffered.Flush(); flushErr != nil {
		return // the client is gone
	}
	if err != nil {
		log.Warn("admin: a scrape lacks metrics", "error", err)
	}
}

// acceptsGzip reports whether gzip is among the accepted codings
// (RFC 9110 section 12.5.3).
func acceptsGzip(h nethttp.Header) bool {
	for _, line := range h.Values("Accept-Encoding") {
		for item := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(item, ";")
			name = strings.TrimSpace(name)
			if strings.EqualFold(name, "gzip") || name == "*" {
				_, weight, found := strings.Cut(params, "=")
				q, err := strconv.ParseFloat(strings.TrimSpace(weight), 64)
				return !found || err != nil || q > 0
			}
		}
	}
	return false
}

// metricsHandler answers the requests to the metrics port.
type metricsHandler struct {
	registry *stats.Registry
	scrapes  slots
	log      *slog.Logger
}

// NewMetricsHandler returns the handler of the port that Prometheus scrapes:
// /stats/prometheus, and /metrics where Prometheus looks by default. That
// port is open to the network, so it has nothing else. A nil log means
// slog.Default.
func NewMetricsHandler(reg *stats.Registry, log *slog.Logger) nethttp.Handler {
	if log == nil {
		log = slog.Default()
	}
	return &metricsHandler{registry: reg, scrapes: newSlots(), log: log}
}

// ServeHTTP answers one request.
func (h *metricsHandler) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	setCommonHeaders(w, answerTime)
	if r.URL.Path != "/stats/prometheus" && r.URL.Path != "/metrics" {
		fail(w, nethttp.StatusNotFound, "metrics are at /stats/prometheus\n")
		return
	}
	if !allowed(w, r, false) {
		return
	}
	q, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, nethttp.StatusBadRequest, err.Error()+"\n")
		return
	}
	if query, ok := statsQuery(w, q); ok {
		servePrometheus(w, r, h.registry, query, h.scrapes, h.log)
	}
}
