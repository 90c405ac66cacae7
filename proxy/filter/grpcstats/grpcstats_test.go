// SPDX-License-Identifier: Apache-2.0

package grpcstats

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/proxytest"
	"pillion/proxy/stats"
)

var (
	_ filter.RequestFilter  = (*Filter)(nil)
	_ filter.ResponseFilter = (*Filter)(nil)
	_ filter.FinishFilter   = (*Filter)(nil)
)

func build(t *testing.T) (*Filter, *Stats) {
	t.Helper()
	s := &Stats{}
	f, warnings := New(&grpcstatsv3.FilterConfig{EmitFilterState: true,
		PerMethodStatSpecifier: &grpcstatsv3.FilterConfig_StatsForAllMethods{StatsForAllMethods: wrapperspb.Bool(false)}}, s)
	if len(warnings) > 0 {
		t.Fatal(warnings)
	}
	return f, s
}

// list returns the counters as name value lines, in order.
func list(t *testing.T, s *Stats) string {
	t.Helper()
	r := stats.NewRegistry()
	r.Add(stats.SourceFunc(func(e *stats.Emitter) {
		s.Collect(e, func(cluster string) (string, bool) { return cluster, true })
	}))
	var lines []string
	for _, m := range r.List(stats.Query{}) {
		lines = append(lines, fmt.Sprintf("%s %v", m.Name, m.Value))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// call is one exchange with body messages of 1 octet.
type call struct {
	path, original, cluster string
	plain                   bool
	requests, responses     int
	status                  int
	head, trailer           string // grpc-status
}

func (c call) run(f *Filter, host *http.HostFacts) {
	ex := &http.Exchange{GRPC: !c.plain, ClusterName: c.cluster, Upstream: host}
	ex.Req.Path = []byte(c.path)
	if c.original != "" {
		ex.OriginalPath = []byte(c.original)
	}
	f.OnRequest(ex)
	ex.RequestMessages.Add(bytes.Repeat([]byte{0, 0, 0, 0, 1, 1}, c.requests))
	ex.Resp.Status = c.status
	ex.Resp.Fields.AddID(http.HeaderContentType, []byte("application/grpc"))
	if c.head != "" {
		ex.Resp.Fields.AddID(http.HeaderGRPCStatus, []byte(c.head))
	}
	f.OnResponse(ex)
	ex.ResponseMessages.Add(bytes.Repeat([]byte{0, 0, 0, 0, 1, 1}, c.responses))
	if c.trailer != "" {
		ex.RespTrailers = &http.Fields{}
		ex.RespTrailers.AddID(http.HeaderGRPCStatus, []byte(c.trailer))
	}
	f.OnFinish(ex)
}

// TestCounts holds what Envoy 1.40 counts; only a code that is none has the
// name that it was sent with there.
func TestCounts(t *testing.T) {
	f, s := build(t)
	host := &http.HostFacts{}
	for _, c := range []call{
		{path: "/pkg.S/M?x=/y/z", requests: 2, responses: 3, status: 200, trailer: "0"},
		{path: "//pkg.S/M", requests: 1, status: 200, head: "14"},
		{path: "/rewritten", original: "/pkg.S/M", requests: 1, status: 200, trailer: "99"},
		{path: "/pkg.S/M", requests: 1, responses: 1, status: 200},             // no status
		{path: "/pkg.S/M", requests: 1, responses: 7, status: 503, head: "14"}, // not gRPC's body
		{path: "/x", requests: 1, status: 200, trailer: "0"},                   // no method
		{path: "/a/b/c", requests: 1, status: 200, trailer: "0"},
		{path: "/pkg.S/M", plain: true, requests: 1, responses: 1, status: 200, trailer: "0"},
	} {
		c.cluster = "c"
		c.run(f, host)
	}
	call{path: "/pkg.S/M", status: 200, head: "14", cluster: "nobody"}.run(f, nil)
	call{path: "/pkg.S/M", status: 200, head: "14"}.run(f, nil) // went nowhere
	want := `cluster.c.grpc.-1 1
cluster.c.grpc.0 1
cluster.c.grpc.14 2
cluster.c.grpc.failure 3
cluster.c.grpc.request_message_count 6
cluster.c.grpc.response_message_count 4
cluster.c.grpc.success 1
cluster.c.grpc.total 4
cluster.nobody.grpc.14 1
cluster.nobody.grpc.failure 1
cluster.nobody.grpc.request_message_count 0
cluster.nobody.grpc.response_message_count 0
cluster.nobody.grpc.success 0
cluster.nobody.grpc.total 1`
	if got := list(t, s); got != want {
		t.Errorf("counted is\n%s\nwant\n%s", got, want)
	}
}

func TestWarnings(t *testing.T) {
	for want, cfg := range map[string]*grpcstatsv3.FilterConfig{
		"stats_for_all_methods": {PerMethodStatSpecifier: &grpcstatsv3.FilterConfig_StatsForAllMethods{StatsForAllMethods: wrapperspb.Bool(true)}},
		"individual_method_stats_allowlist": {PerMethodStatSpecifier: &grpcstatsv3.FilterConfig_IndividualMethodStatsAllowlist{
			IndividualMethodStatsAllowlist: &corev3.GrpcMethodList{}}},
		"enable_upstream_stats": {EnableUpstreamStats: true},
	} {
		f, warnings := New(cfg, &Stats{})
		if f == nil || len(warnings) != 1 || !strings.HasPrefix(warnings[0], want+": ") {
			t.Errorf("%s: %v, %q", want, f, warnings)
		}
	}
}

func TestOtherRequestsAllocateNothing(t *testing.T) {
	f, _ := build(t)
	ex := &http.Exchange{ClusterName: "c"}
	proxytest.NoAllocs(t, "plain HTTP", func() { f.OnRequest(ex); f.OnResponse(ex); f.OnFinish(ex) })
	ex.GRPC, ex.Upstream = true, &http.HostFacts{}
	ex.Req.Path = []byte("/a/b")
	proxytest.NoAllocs(t, "gRPC", func() { f.OnRequest(ex); f.OnResponse(ex); f.OnFinish(ex) })
}

// TestNamesInMetrics: counters have the name that a cluster has in metrics, and go with
// it.
func TestNamesInMetrics(t *testing.T) {
	f, s := build(t)
	for _, name := range []string{"a", "gone"} {
		call{path: "/s/m", cluster: name, status: 200, head: "0"}.run(f, nil)
	}
	r := stats.NewRegistry()
	r.Add(stats.SourceFunc(func(e *stats.Emitter) {
		s.Collect(e, func(cluster string) (string, bool) { return cluster + ";", cluster == "a" })
	}))
	for _, m := range r.List(stats.Query{}) {
		if !strings.HasPrefix(m.Name, "cluster.a;.grpc.") {
			t.Errorf("there is %s", m.Name)
		}
	}
	if len(r.List(stats.Query{UsedOnly: true})) < 3 {
		t.Error("nothing was counted")
	}
}
