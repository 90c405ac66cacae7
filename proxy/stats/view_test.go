// SPDX-License-Identifier: Apache-2.0

package stats_test

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pillion/proxy/proxytest"
	"pillion/proxy/stats"
)

// view returns a registry of a few metrics that shows what v says.
func view(v stats.View) *stats.Registry {
	r := stats.NewRegistryOf(v)
	r.Add(stats.SourceFunc(func(e *stats.Emitter) {
		c := e.Cluster("outbound|80||a.b;")
		c.Counter("upstream_rq_total", 1)
		c.Code("upstream_rq", 200, 2)
		c.Class("upstream_rq", 2, 2)
		c.Histogram("upstream_rq_time", stats.HistogramSnapshot{})
		e.HTTP("inbound_0.0.0.0_80;").Counter("rbac.denied", 3)
		e.Gauge("server.live", "", 1)
		e.Emit(stats.Metric{Name: "pillion.own", Prom: "pillion_own", Raw: true, Value: 4})
	}))
	return r
}

func names(r *stats.Registry, q stats.Query) (out []string) {
	for _, m := range r.List(q) {
		out = append(out, m.Name)
	}
	return out
}

// TestMatcher: what isn't on the list is on no page, but for metrics with names of
// their own.
func TestMatcher(t *testing.T) {
	for name, c := range map[string]struct {
		prefixes, suffixes, regexes []string
		want                        []string // without pillion.own
	}{
		"nothing":          {},
		"prefix":           {prefixes: []string{"xds", "server"}, want: []string{"server.live"}},
		"part of a prefix": {prefixes: []string{"server.live."}},
		"suffix":           {suffixes: []string{"rbac.allowed", "rbac.denied"}, want: []string{"http.inbound_0.0.0.0_80;.rbac.denied"}},
		"prefix of a name": {prefixes: []string{"cluster.outbound|80||a.b;.upstream_rq_t"},
			want: []string{"cluster.outbound|80||a.b;.upstream_rq_time", "cluster.outbound|80||a.b;.upstream_rq_total"}},
		"a code":             {suffixes: []string{"_200"}, want: []string{"cluster.outbound|80||a.b;.upstream_rq_200"}},
		"regex":              {regexes: []string{`cluster\..*_\dxx`}, want: []string{"cluster.outbound|80||a.b;.upstream_rq_2xx"}},
		"regex not as whole": {regexes: []string{`upstream_rq`}},
		"anchored":           {regexes: []string{`^server\.live$`}, want: []string{"server.live"}},
		"without case":       {regexes: []string{`(?i)SERVER\..*`}, want: []string{"server.live"}},
		"alternatives":       {regexes: []string{`server.*|x`}, want: []string{"server.live"}},
	} {
		m, err := stats.NewMatcher(c.prefixes, c.suffixes, c.regexes)
		if err != nil {
			t.Fatal(err)
		}
		r := view(stats.View{Include: m})
		want := append(slices.Clone(c.want), "pillion.own")
		slices.Sort(want)
		if got := names(r, stats.Query{}); !slices.Equal(got, want) {
			t.Errorf("%s: %q is listed, want %q", name, got, want)
		}
		var b bytes.Buffer
		if err := r.Write(&b, false, stats.Query{}); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(b.String(), "# TYPE"); n != len(want) {
			t.Errorf("%s: %d families are exposed, want %d:\n%s", name, n, len(want), b.String())
		}
		// A client's filter selects among what is there.
		if got := names(r, stats.Query{Filter: regexp.MustCompile("upstream_rq_total")}); len(got) > 0 && !slices.Contains(want, got[0]) {
			t.Errorf("%s: a filter finds %q", name, got)
		}
		r.ResetCounters()
		if got := names(r, stats.Query{}); !slices.Equal(got, want) {
			t.Errorf("%s: %q is listed after a reset, want %q", name, got, want)
		}
	}
	for _, bad := range []string{"[", "a)|(b", "*"} {
		if _, err := stats.NewMatcher(nil, nil, []string{bad}); err == nil || !strings.Contains(err.Error(), "`"+bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestTags: cases beside those of the golden file.
func TestTags(t *testing.T) {
	istio, err := stats.IstioTags([]string{"region"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		report func(e *stats.Emitter)
		want   string
	}{
		"a name without its end":  {func(e *stats.Emitter) { e.Cluster("xds-grpc").Gauge("upstream_cx_active", 1) }, `envoy_cluster_xds_grpc_upstream_cx_active 1`},
		"a manager without one":   {func(e *stats.Emitter) { e.HTTP("agent").Class("downstream_rq", 2, 1) }, `envoy_http_agent_downstream_rq{response_code_class="2xx"} 1`},
		"an extra tag":            {func(e *stats.Emitter) { e.Counter("x.region=.=eu;.;y", "", 1) }, `envoy_x_y{region="eu"} 1`},
		"a name that is given":    {func(e *stats.Emitter) { e.Counter("cluster.a;.b", "c", 1, stats.Label{Name: "l", Value: "v"}) }, `envoy_c{l="v"} 1`},
		"an IPv6 address":         {func(e *stats.Emitter) { e.Listener("[::]:15006").Counter("downstream_cx_total", 1) }, `envoy_listener_downstream_cx_total{listener_address="[__]_15006"} 1`},
		"a Unix socket":           {func(e *stats.Emitter) { e.Listener("/s").Counter("downstream_cx_total", 1) }, `envoy_listener__s_downstream_cx_total 1`},
		"a cipher, no label here": {func(e *stats.Emitter) { e.Listener("0.0.0.0:1").Counter("ssl.ciphers.TLS_X", 1) }, `envoy_listener_ssl_ciphers_TLS_X{listener_address="0.0.0.0_1"} 1`},
		"a label given twice": {func(e *stats.Emitter) { e.HTTP("x.rbac.allowed").Counter("rbac.denied", 1) },
			`envoy_http_x_rbac_rbac{authz_enforce_result="denied"} 1`},
	} {
		r := stats.NewRegistryOf(stats.View{Tags: istio})
		r.Add(stats.SourceFunc(c.report))
		var b bytes.Buffer
		if err := r.Write(&b, false, stats.Query{}); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(b.String(), "\n"+c.want+"\n") {
			t.Errorf("%s: want %s\n%s", name, c.want, b.String())
		}
	}
	for _, bad := range []stats.TagRule{{"a", "("}, {"a", "no group"}} {
		if _, err := stats.NewTags([]stats.TagRule{bad}); err == nil || !strings.Contains(err.Error(), `tag "a"`) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// TestCodesShareAFamily: with Istio's tags the counters of codes and of classes
// have one name.
func TestCodesShareAFamily(t *testing.T) {
	tags, err := stats.IstioTags(nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := view(stats.View{Tags: tags}).Write(&b, false, stats.Query{Filter: regexp.MustCompile(`rq_2`)}); err != nil {
		t.Fatal(err)
	}
	const want = `# HELP envoy_cluster_upstream_rq Envoy statistic cluster.upstream_rq.
# TYPE envoy_cluster_upstream_rq counter
envoy_cluster_upstream_rq{response_code="200",cluster_name="outbound|80||a.b"} 2
envoy_cluster_upstream_rq{response_code_class="2xx",cluster_name="outbound|80||a.b"} 2
`
	if b.String() != want {
		t.Errorf("%s\nwant %s", b.String(), want)
	}
}

// TestLeftOutIsCheap: a scrape allocates nothing for metrics that aren't on the
// list, so that the size of a mesh isn't seen in it.
func TestLeftOutIsCheap(t *testing.T) {
	m, err := stats.NewMatcher([]string{"server", "istio"}, []string{"rbac.denied"}, []string{`vhost\..*\.route\..*`})
	if err != nil {
		t.Fatal(err)
	}
	const clusters, metrics = 1000, 60
	r := stats.NewRegistryOf(stats.View{Include: m})
	clusterNames := make([]string, clusters)
	for i := range clusterNames {
		clusterNames[i] = fmt.Sprintf("outbound|9080||service-%d.default.svc.cluster.local;", i)
	}
	r.Add(stats.SourceFunc(func(e *stats.Emitter) {
		for _, name := range clusterNames {
			s := e.Cluster(name)
			for range metrics {
				s.Counter("upstream_rq_total", 1)
			}
		}
	}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := r.Write(io.Discard, false, stats.Query{}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 256<<10 && !proxytest.Race {
		t.Errorf("%d bytes are allocated for %d metrics of which none is shown", n, clusters*metrics)
	}
}
