// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// write returns the exposition in the text form.
func write(t testing.TB, r *Registry, q Query) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b, false, q); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func parse(t testing.TB, text string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("exposition doesn't parse: %v\n%s", err, text)
	}
	return families
}

// names returns what /stats would print.
func names(ms []Metric) []string {
	var out []string
	for _, m := range ms {
		out = append(out, fmt.Sprintf("%s: %v", m.Name, m.Value))
	}
	return out
}

func TestNames(t *testing.T) {
	var rq Histogram
	rq.Record(3)
	cases := []struct {
		name   string
		source SourceFunc
		list   string // dotted name
		text   string // a line of the exposition
	}{
		{"cluster counter",
			func(e *Emitter) { e.Cluster("outbound|80||a.b").Counter("upstream_rq_total", 3) },
			`cluster.outbound|80||a.b.upstream_rq_total: 3`,
			`envoy_cluster_upstream_rq_total{envoy_cluster_name="outbound|80||a.b"} 3`},
		{"delimiter of Istio's stat names",
			func(e *Emitter) { e.Cluster("outbound|80||a.b;").Gauge("upstream_cx_active", -1) },
			`cluster.outbound|80||a.b;.upstream_cx_active: -1`,
			`envoy_cluster_upstream_cx_active{envoy_cluster_name="outbound|80||a.b"} -1`},
		{"nested name",
			func(e *Emitter) { e.Cluster("x").Gauge("circuit_breakers.default.cx_open", 1) },
			`cluster.x.circuit_breakers.default.cx_open: 1`,
			`envoy_cluster_circuit_breakers_default_cx_open{envoy_cluster_name="x"} 1`},
		{"response code",
			func(e *Emitter) { e.Cluster("x").Code("upstream_rq", 200, 7) },
			`cluster.x.upstream_rq_200: 7`,
			`envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="x"} 7`},
		{"response code class",
			func(e *Emitter) { e.Cluster("x").Class("upstream_rq", 2, 7) },
			`cluster.x.upstream_rq_2xx: 7`,
			`envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="x"} 7`},
		{"connection manager",
			func(e *Emitter) { e.HTTP("outbound_0.0.0.0_80;").Counter("downstream_rq_total", 1) },
			`http.outbound_0.0.0.0_80;.downstream_rq_total: 1`,
			`envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix="outbound_0.0.0.0_80"} 1`},
		{"TCP proxy",
			func(e *Emitter) { e.TCP("p").Counter("downstream_cx_total", 1) },
			`tcp.p.downstream_cx_total: 1`,
			`envoy_tcp_downstream_cx_total{envoy_tcp_prefix="p"} 1`},
		{"listener",
			func(e *Emitter) { e.Listener("[::1]:80").Counter("downstream_cx_total", 1) },
			`listener.[__1]_80.downstream_cx_total: 1`,
			`envoy_listener_downstream_cx_total{envoy_listener_address="[__1]_80"} 1`},
		{"connection manager of a listener",
			func(e *Emitter) { e.Listener("0.0.0.0:80").HTTP("p").Class("downstream_rq", 5, 2) },
			`listener.0.0.0.0_80.http.p.downstream_rq_5xx: 2`,
			`envoy_listener_http_downstream_rq_xx{envoy_response_code_class="5",envoy_http_conn_manager_prefix="p",envoy_listener_address="0.0.0.0_80"} 2`},
		{"process",
			func(e *Emitter) { e.Gauge("server.live", "", 1) },
			`server.live: 1`,
			`envoy_server_live 1`},
		{"process with its own name and label",
			func(e *Emitter) { e.Counter("a.b.c", "a_c", 4, Label{"b", "b"}) },
			`a.b.c: 4`,
			`envoy_a_c{b="b"} 4`},
		{"raw",
			func(e *Emitter) { e.Emit(Metric{Name: "x.y", Prom: "x_total", Raw: true, Kind: KindCounter, Value: 2}) },
			`x.y: 2`,
			`x_total 2`},
		{"characters that no exposition takes",
			func(e *Emitter) { e.Counter("1-ä", "", 1, Label{"a-b", "\"\n\\"}) },
			`1-ä: 1`,
			`envoy_1___{a_b="\"\n\\"} 1`},
		{"histogram",
			func(e *Emitter) { e.Cluster("x").Histogram("upstream_rq_time", &rq) },
			`cluster.x.upstream_rq_time: 0`,
			`envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="x",le="5"} 1`},
		{"histogram of the process",
			func(e *Emitter) { e.Histogram("server.initialization_time_ms", "", &rq) },
			`server.initialization_time_ms: 0`,
			`envoy_server_initialization_time_ms_sum 3`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := NewRegistry()
			r.Add(c.source)
			if got := names(r.List(Query{})); !slices.Equal(got, []string{c.list}) {
				t.Errorf("List = %q, want %q", got, c.list)
			}
			text := write(t, r, Query{})
			if !slices.Contains(strings.Split(text, "\n"), c.text) {
				t.Errorf("the exposition lacks %s:\n%s", c.text, text)
			}
			parse(t, text)
			// The filter sees the dotted name in both forms.
			only := Query{Filter: regexp.MustCompile("^" + regexp.QuoteMeta(strings.SplitN(c.list, ": ", 2)[0]) + "$")}
			if got := write(t, r, only); got != text {
				t.Errorf("filtered by its own name it is\n%s", got)
			}
			none := Query{Filter: regexp.MustCompile("no such name")}
			if got := write(t, r, none); got != "" {
				t.Errorf("filtered by another name it is\n%s", got)
			}
		})
	}
}

func TestHelpAndType(t *testing.T) {
	r := NewRegistry()
	r.Add(SourceFunc(func(e *Emitter) {
		s := e.Cluster("x")
		s.Counter("upstream_rq_total", 1)
		s.Class("upstream_rq", 2, 1)
	}))
	want := `# HELP envoy_cluster_upstream_rq_total Envoy statistic cluster.<envoy_cluster_name>.upstream_rq_total.
# TYPE envoy_cluster_upstream_rq_total counter
envoy_cluster_upstream_rq_total{envoy_cluster_name="x"} 1
# HELP envoy_cluster_upstream_rq_xx Envoy statistic cluster.<envoy_cluster_name>.upstream_rq_<envoy_response_code_class>xx.
# TYPE envoy_cluster_upstream_rq_xx counter
envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="x"} 1
`
	if got := write(t, r, Query{}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestChunks: a family of more metrics than fit a chunk has one header, and
// every metric once, in both forms.
func TestChunks(t *testing.T) {
	const n = 3*chunkSize + 1
	r := NewRegistry()
	hists := make([]Histogram, n)
	r.Add(SourceFunc(func(e *Emitter) {
		for i := range n {
			s := e.Cluster(fmt.Sprint("c", i))
			s.Counter("upstream_rq_total", uint64(i))
			s.Histogram("upstream_rq_per_cx", &hists[i])
		}
	}))
	for i := range hists {
		hists[i].Record(int64(i))
	}
	families := parse(t, write(t, r, Query{}))
	counters := families["envoy_cluster_upstream_rq_total"].GetMetric()
	per := families["envoy_cluster_upstream_rq_per_cx"].GetMetric()
	if len(counters) != n || len(per) != n {
		t.Fatalf("%d counters and %d histograms, want %d", len(counters), len(per), n)
	}
	for i := range n {
		if got := counters[i].GetCounter().GetValue(); got != float64(i) {
			t.Errorf("counter %d = %v", i, got)
		}
		if got := per[i].GetHistogram().GetSampleSum(); got != float64(i) {
			t.Errorf("sum of histogram %d = %v", i, got)
		}
	}
	var b bytes.Buffer
	if err := r.Write(&b, true, Query{}); err != nil {
		t.Fatal(err)
	}
	open := b.String()
	if got := strings.Count(open, "# TYPE"); got != 2 {
		t.Errorf("OpenMetrics has %d TYPE lines, want 2", got)
	}
	if got := strings.Count(open, "upstream_rq_total{"); got != n {
		t.Errorf("OpenMetrics has %d counters, want %d", got, n)
	}
	if !strings.HasSuffix(open, "\n# EOF\n") {
		t.Error("OpenMetrics has no end mark")
	}
}

// TestGatherAgrees: what client_golang's interface gives is what Write writes.
func TestGatherAgrees(t *testing.T) {
	r := NewRegistry()
	var h Timing
	h.Record(1e7)
	r.Add(SourceFunc(func(e *Emitter) {
		e.Gauge("server.live", "", 1)
		e.Cluster("x").Counter("upstream_rq_total", 1)
		e.Cluster("x").Histogram("upstream_rq_time", &h)
	}))
	if err := r.AddCollector(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "envoy_d", Help: "Between ours."},
		func() float64 { return 3 })); err != nil {
		t.Fatal(err)
	}
	families, err := prometheus.Gatherers{r}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	if got := write(t, r, Query{}); got != b.String() {
		t.Errorf("Write gives\n%s\nGather gives\n%s", got, b.String())
	}
}

func TestAddAndRemove(t *testing.T) {
	r := NewRegistry()
	add := func(name string) func() {
		return r.Add(SourceFunc(func(e *Emitter) { e.Cluster(name).Counter("n", 1) }))
	}
	removeA := add("a")
	add("b")
	removeA()
	removeA()
	add("c")
	want := []string{"cluster.b.n: 1", "cluster.c.n: 1"}
	if got := names(r.List(Query{})); !slices.Equal(got, want) {
		t.Errorf("List = %q, want %q", got, want)
	}
}

// TestSameNameIsAddedUp: two listeners with one stat_prefix are one metric.
func TestSameNameIsAddedUp(t *testing.T) {
	r := NewRegistry()
	var h Histogram
	h.Record(2)
	for range 2 {
		r.Add(SourceFunc(func(e *Emitter) {
			e.HTTP("z").Counter("downstream_rq_total", 1)
			e.HTTP("p").Counter("downstream_rq_total", 20)
			e.HTTP("p").Code("downstream_rq", 200, 5)
			e.HTTP("p").Histogram("downstream_rq_time", &h)
			e.Counter("a", "", 3, Label{"l", "v"})
		}))
	}
	text := write(t, r, Query{})
	for _, line := range []string{
		`envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix="p"} 40`,
		`envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix="z"} 2`,
		`envoy_http_downstream_rq{envoy_response_code="200",envoy_http_conn_manager_prefix="p"} 10`,
		`envoy_http_downstream_rq_time_count{envoy_http_conn_manager_prefix="p"} 2`,
		`envoy_a{l="v"} 6`,
	} {
		if strings.Count(text, line+"\n") != 1 {
			t.Errorf("the exposition should have one line %s:\n%s", line, text)
		}
	}
	list := r.List(Query{Filter: regexp.MustCompile(`http\.p\.`)})
	if got := names(list); !slices.Equal(got, []string{"http.p.downstream_rq_200: 10", "http.p.downstream_rq_time: 0", "http.p.downstream_rq_total: 40"}) {
		t.Errorf("List = %q", got)
	}
	if got := list[1].Hist.Count(); got != 2 {
		t.Errorf("histograms of one name count %d values, want 2", got)
	}
}

func TestKindConflict(t *testing.T) {
	r := NewRegistry()
	r.Add(SourceFunc(func(e *Emitter) {
		e.Counter("a", "", 1)
		e.Gauge("a", "", 2)
		e.Gauge("b", "", 3)
	}))
	var b bytes.Buffer
	err := r.Write(&b, false, Query{})
	if err == nil || !strings.Contains(err.Error(), "envoy_a") {
		t.Errorf("error = %v, want one that names envoy_a", err)
	}
	families := parse(t, b.String())
	if len(families) != 2 || families["envoy_a"].GetType() != dto.MetricType_COUNTER {
		t.Errorf("the rest should be shown:\n%s", b.String())
	}
	if _, err := r.Gather(); err == nil {
		t.Error("Gather has no error")
	}
}

func TestUsedOnly(t *testing.T) {
	r := NewRegistry()
	var empty, full Histogram
	full.Record(0)
	r.Add(SourceFunc(func(e *Emitter) {
		s := e.Cluster("x")
		s.Counter("zero", 0)
		s.Counter("one", 1)
		s.Gauge("gauge_zero", 0)
		s.Gauge("gauge_one", -1)
		s.Histogram("empty", &empty)
		s.Histogram("full", &full)
		e.Gauge("server.state", "", 0)
		e.Counter("server.zero", "", 0)
	}))
	want := []string{"cluster.x.full: 0", "cluster.x.gauge_one: -1", "cluster.x.one: 1", "server.state: 0"}
	if got := names(r.List(Query{UsedOnly: true})); !slices.Equal(got, want) {
		t.Errorf("List = %q, want %q", got, want)
	}
	if got := len(parse(t, write(t, r, Query{UsedOnly: true}))); got != len(want) {
		t.Errorf("the exposition has %d families, want %d", got, len(want))
	}
}

func TestResetCounters(t *testing.T) {
	r := NewRegistry()
	var a, b Counter
	var g Gauge
	source := func(c *Counter) SourceFunc {
		return func(e *Emitter) {
			e.HTTP("p").Counter("n", c.Value())
			e.HTTP("p").Gauge("g", g.Value())
		}
	}
	r.Add(source(&a))
	remove := r.Add(source(&b))
	a.Add(10)
	b.Add(100)
	g.Set(5)
	read := func() string { return strings.Join(names(r.List(Query{})), " ") }
	check := func(want string) {
		t.Helper()
		if got := read(); got != want {
			t.Errorf("List = %q, want %q", got, want)
		}
	}
	check("http.p.g: 10 http.p.n: 110")
	r.ResetCounters()
	check("http.p.g: 10 http.p.n: 0")
	a.Inc()
	b.Add(2)
	check("http.p.g: 10 http.p.n: 3")
	if got := write(t, r, Query{}); !strings.Contains(got, "envoy_http_n{envoy_http_conn_manager_prefix=\"p\"} 3\n") {
		t.Errorf("exposition after a reset:\n%s", got)
	}
	r.ResetCounters()
	check("http.p.g: 10 http.p.n: 0")
	// A new owner of the same name counts from its own beginning.
	remove()
	var c Counter
	c.Add(7)
	r.Add(source(&c))
	check("http.p.g: 10 http.p.n: 7")
	if got := names(r.List(Query{UsedOnly: true, Filter: regexp.MustCompile("n$")})); len(got) != 1 {
		t.Errorf("used counters = %q", got)
	}
}

func TestNativeCollectors(t *testing.T) {
	r := NewRegistry()
	if err := r.AddRuntime(); err != nil {
		t.Fatal(err)
	}
	if err := r.AddRuntime(); err == nil {
		t.Error("adding the same collectors twice gives no error")
	}
	r.Add(SourceFunc(func(e *Emitter) {
		e.Emit(Metric{Name: "h", Prom: "h", Raw: true, Kind: KindGauge})
		e.Emit(Metric{Name: "z", Prom: "z", Raw: true, Kind: KindGauge})
	}))
	text := write(t, r, Query{})
	var order []string
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			order = append(order, strings.Fields(name)[0])
		}
	}
	if !slices.IsSorted(order) {
		t.Errorf("families are not in order: %q", order)
	}
	for _, name := range []string{"go_goroutines", "h", "process_resident_memory_bytes", "z"} {
		if !slices.Contains(order, name) {
			t.Errorf("%s is missing", name)
		}
	}
	parse(t, text)
	got := parse(t, write(t, r, Query{Filter: regexp.MustCompile("^(process_start|h)")}))
	if len(got) != 2 {
		t.Errorf("the filter let %d families through, want 2", len(got))
	}
}

// failing is a writer whose disk is full.
type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errors.New("full")
	}
	return len(p), nil
}

func TestWriteErrorEndsTheWriting(t *testing.T) {
	r := NewRegistry()
	r.Add(SourceFunc(func(e *Emitter) {
		e.Counter("a", "", 1)
		e.Counter("z", "", 1)
	}))
	if err := r.AddCollector(prometheus.NewGauge(prometheus.GaugeOpts{Name: "m", Help: "M."})); err != nil {
		t.Fatal(err)
	}
	whole := len(write(t, r, Query{}))
	for n := range whole {
		if err := r.Write(&failing{n}, false, Query{}); err == nil {
			t.Fatalf("no error from a writer that fails after %d bytes", n)
		}
	}
}

// TestReadDuringWork is for the race detector.
func TestReadDuringWork(t *testing.T) {
	r := NewRegistry()
	var c Counter
	var h Timing
	f := NewFamily(FamilyConfig{Name: "f", Labels: []string{"l"}, MaxSeries: 50},
		func(n *Counter, s SeriesScope) { s.Counter("uses_total", "Uses.", n.Value()) })
	r.Add(f)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	work := func(do func(i int)) {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					do(i)
				}
			}
		})
	}
	work(func(i int) { c.Inc(); h.Record(int64(i)) })
	work(func(i int) { f.With(fmt.Sprint(i % 100)).Cells.Inc() })
	work(func(int) { f.sweep() })
	work(func(i int) {
		remove := r.Add(SourceFunc(func(e *Emitter) {
			e.Cluster(fmt.Sprint(i%7)).Counter("n", c.Value())
			e.Cluster("x").Histogram("h", &h)
		}))
		r.List(Query{})
		remove()
	})
	work(func(i int) {
		if i%10 == 0 {
			r.ResetCounters()
		}
	})
	for range 25 {
		parse(t, write(t, r, Query{}))
		if _, err := r.Gather(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}
