// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"pillion/proxy/stats"
)

// shownOf returns which of some statistics a pod's proxy has.
func shownOf(p *Pod, names ...string) (out []string) {
	r := stats.NewRegistryOf(p.Stats)
	r.Add(stats.SourceFunc(func(e *stats.Emitter) {
		for _, name := range names {
			e.Gauge(name, "", 1)
		}
	}))
	for _, m := range r.List(stats.Query{}) {
		out = append(out, m.Name)
	}
	return out
}

// always are statistics that there are in each pod, seldom are those that have to
// be asked for.
var (
	always = []string{"cluster.xds-grpc.upstream_cx_total", "cluster_manager.active_clusters", "http.inbound_0.0.0.0_9080;.rbac.denied",
		"istiocustom.istio_requests_total.reporter.source", "listener_manager.lds.update_success", "server.state", "tcp.rbac.shadow_denied",
		"vhost.a.route.b.upstream_rq_200", "wasm.x"}
	seldom = []string{"cluster.outbound|9080||a;.upstream_rq_200", "control_plane.connected_state", "http.10.244.1.23_9080.downstream_rq_2xx",
		"http.fd00:10:244::17_9080.downstream_rq_2xx", "http.inbound_0.0.0.0_9080;.downstream_rq_2xx", "listener.0.0.0.0_15006.downstream_cx_active"}
)

// TestShownStatistics: lists of ProxyConfig and annotations add to what Istio's
// bootstrap shows in any case.
func TestShownStatistics(t *testing.T) {
	const matcher = `PROXY_CONFIG={proxyStatsMatcher: {inclusionPrefixes: ["cluster.outbound"], inclusionSuffixes: [connected_state], inclusionRegexps: ["http.*2xx"]}}`
	for name, c := range map[string]struct {
		vars        []string
		annotations string
		want        []string // of seldom
	}{
		"as it is":        {},
		"ProxyConfig":     {vars: []string{matcher}, want: []string{seldom[0], seldom[1], seldom[2], seldom[3], seldom[4]}},
		"end at zero":     {vars: []string{"EXIT_ON_ZERO_ACTIVE_CONNECTIONS=true"}, want: []string{seldom[5]}},
		"prefixes":        {annotations: annotationStatsPrefixes + `="control_plane,listener.0"`, want: []string{seldom[1], seldom[5]}},
		"suffixes":        {annotations: annotationStatsSuffixes + `="_200"`, want: []string{seldom[0]}},
		"an expression":   {annotations: annotationStatsRegexps + `="listener\\..*_active"`, want: []string{seldom[5]}},
		"part of a name":  {annotations: annotationStatsRegexps + `="downstream"`},
		"everything":      {annotations: annotationStatsRegexps + `=".*"`, want: seldom},
		"one is replaced": {vars: []string{matcher}, annotations: annotationStatsPrefixes + `="control_plane"` + "\n" + annotationStatsRegexps + `="x"`, want: []string{seldom[1]}},
		"addresses":       {annotations: annotationStatsPrefixes + `="http.{pod_ip}_"`, want: []string{seldom[2], seldom[3]}},
		"blanks are kept": {annotations: annotationStatsPrefixes + `="x, control_plane"`},
		"by annotation":   {annotations: annotationProxyConfig + `="proxyStatsMatcher: {inclusionPrefixes: [listener.]}"`, want: []string{seldom[5]}},
	} {
		in := injected(t)
		in.Environ = with(in.Environ, c.vars...)
		in.Root = podRoot(t, "etc/istio/pod/annotations", c.annotations)
		p, err := Read(in)
		if err != nil {
			t.Fatal(err)
		}
		want := slices.Concat(always, c.want)
		slices.Sort(want)
		if got := shownOf(p, slices.Concat(always, seldom)...); !slices.Equal(got, want) {
			t.Errorf("%s: there are\n%q, want\n%q", name, got, want)
		}
	}
}

// TestStatTags: labels are those of Istio's bootstrap, with further ones.
func TestStatTags(t *testing.T) {
	in := injected(t)
	in.Environ = with(in.Environ, `PROXY_CONFIG={extraStatTags: ["one", ""]}`)
	in.Root = podRoot(t, "etc/istio/pod/annotations", annotationStatTags+`="two,one"`)
	p, err := Read(in)
	if err != nil {
		t.Fatal(err)
	}
	r := stats.NewRegistryOf(p.Stats)
	r.Add(stats.SourceFunc(func(e *stats.Emitter) {
		e.Counter("istio_x.one=.=1;.;two=.=2;.;three=.=3;.;total", "", 7)
		e.Cluster("xds-grpc").Counter("upstream_cx_total", 8)
	}))
	var page bytes.Buffer
	if err := r.Write(&page, false, stats.Query{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`envoy_istio_x_three___3___total{one="1",two="2"} 7`, "envoy_cluster_xds_grpc_upstream_cx_total 8"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %s:\n%s", want, page.String())
		}
	}
}

// TestStatisticsRefused: what Envoy wouldn't start with is refused by its place.
func TestStatisticsRefused(t *testing.T) {
	for annotations, want := range map[string]string{
		annotationStatsPrefixes + `="a,,b"`:                                         "annotation " + annotationStatsPrefixes + `: "a,,b": has an empty item`,
		annotationStatsRegexps + `="("`:                                             "missing closing )",
		annotationStatTags + `="a("`:                                                `tag "a("`,
		annotationProxyConfig + `="proxyStatsMatcher: {inclusionSuffixes: [\"\"]}"`: "proxyStatsMatcher.inclusionSuffixes",
	} {
		in := injected(t)
		in.Root = podRoot(t, "etc/istio/pod/annotations", annotations)
		if _, err := Read(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", annotations, err)
		}
	}
	in := injected(t)
	in.Root = podRoot(t, "etc/istio/pod/annotations", annotationStatBuckets+`="{}"`)
	if p, err := Read(in); err != nil || !strings.Contains(strings.Join(p.Warnings, "\n"), annotationStatBuckets) {
		t.Errorf("buckets: %v", err)
	}
}
