// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/prometheus/common/expfmt"

	"pillion/proxy/proxytest"
)

// bigRegistry has n clusters of sixty counters and three histograms each.
func bigRegistry(n int) *Registry {
	var metric [60]string
	for i := range metric {
		metric[i] = fmt.Sprint("upstream_something_", i, "_total")
	}
	r := NewRegistry()
	hists := make([]Timing, n)
	for c := range n {
		name := fmt.Sprintf("outbound|9080||service-%d.default.svc.cluster.local", c)
		r.Add(SourceFunc(func(e *Emitter) {
			s := e.Cluster(name)
			for i, m := range metric {
				s.Counter(m, uint64(i))
			}
			for _, m := range metric[:3] {
				s.Histogram(m+"_ms", &hists[c])
			}
		}))
	}
	return r
}

// BenchmarkWrite and BenchmarkGather compare one scrape of 1,000 clusters
// by Write with one through the protobuf messages of the whole.
func BenchmarkWrite(b *testing.B) {
	r := bigRegistry(1000)
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Write(io.Discard, false, Query{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGather(b *testing.B) {
	r := bigRegistry(1000)
	b.ReportAllocs()
	for b.Loop() {
		families, err := r.Gather()
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range families {
			if _, err := expfmt.MetricFamilyToText(io.Discard, f); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// TestScrapeIsCheap bounds what one metric costs in a scrape, so that the
// scrape of a big mesh doesn't become the process's peak of memory. Half of
// the bound is garbage that expfmt makes line by line.
func TestScrapeIsCheap(t *testing.T) {
	const clusters, metrics = 1000, 63
	r := bigRegistry(clusters)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := r.Write(io.Discard, false, Query{}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if per := (after.TotalAlloc - before.TotalAlloc) / (clusters * metrics); per > 200 {
		t.Errorf("%d bytes are allocated per metric, want at most 200", per)
	}
}

// TestLinesDontAllocate: nearly all of a scrape are counters that have their place.
func TestLinesDontAllocate(t *testing.T) {
	if proxytest.Race {
		t.Skip("the race detector's bookkeeping allocates")
	}
	const clusters = 1000
	r := NewRegistry()
	r.Add(SourceFunc(func(e *Emitter) {
		e.Expect(clusters)
		for i := range clusters {
			s := e.Cluster(fmt.Sprintf("outbound|80||%d", i))
			for _, name := range [...]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"} {
				s.Counter(name, uint64(i))
			}
		}
		e.Expect(0)
	}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := r.Write(io.Discard, false, Query{}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	// 16 values of 16 bytes, and what a cluster's name and labels take.
	if per := (after.TotalAlloc - before.TotalAlloc) / clusters; per > 16*16+600 {
		t.Errorf("%d bytes are allocated for a cluster of 16 counters", per)
	}
}

// BenchmarkWriteOfList is a scrape of 1,000 clusters none of which is on Istio's
// list of what is shown.
func BenchmarkWriteOfList(b *testing.B) {
	m, err := NewMatcher([]string{"reporter=", "cluster_manager", "listener_manager", "server", "cluster.xds-grpc", "wasm", "component", "istio"},
		[]string{"rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied"}, []string{`vhost\..*\.route\..*`})
	if err != nil {
		b.Fatal(err)
	}
	r := bigRegistry(1000)
	r.view.Include = m
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Write(io.Discard, false, Query{}); err != nil {
			b.Fatal(err)
		}
	}
}
