// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/stats"
	"pillion/test/need"
)

var _ filter.FinishFilter = (*Filter)(nil)

var (
	productpage = http.Peer{Workload: "productpage-v1", Namespace: "default", CanonicalService: "productpage", CanonicalRevision: "v1",
		App: "productpage", Version: "v1", ClusterID: "Kubernetes", Principal: "spiffe://cluster.local/ns/default/sa/productpage"}
	reviewsV2 = http.Peer{Workload: "reviews-v2", Namespace: "shop", CanonicalService: "reviews", CanonicalRevision: "v2",
		App: "reviews", Version: "v2", ClusterID: "Kubernetes",
		ServiceHost: "reviews.shop.svc.cluster.local", ServiceName: "reviews", ServiceNS: "shop"}
)

const reviewsCluster = "outbound|9080|v2|reviews.shop.svc.cluster.local"

func host(p http.Peer) *http.HostFacts {
	return &http.HostFacts{ClusterName: reviewsCluster, Address: "10.0.0.1:9080", Peer: p}
}

// finished returns an exchange that took 3 ms; edit changes it.
func finished(edit func(*http.Exchange)) *http.Exchange {
	ex := &http.Exchange{
		Conn: &http.ConnInfo{}, ClusterName: reviewsCluster,
		Start: 1, End: 1 + int64(3*time.Millisecond),
		RequestHeadBytes: 100, RequestBodyBytes: 20, ResponseHeadBytes: 200, ResponseBodyBytes: 1000,
	}
	ex.Resp.Status = 200
	if edit != nil {
		edit(ex)
	}
	return ex
}

// scrape returns the families of a registry.
func scrape(t testing.TB, r *stats.Registry) map[string]*dto.MetricFamily {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b, false, stats.Query{}); err != nil {
		t.Fatal(err)
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(&b)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func labelsOf(m *dto.Metric) map[string]string {
	l := map[string]string{}
	for _, p := range m.GetLabel() {
		l[p.GetName()] = p.GetValue()
	}
	return l
}

// TestLabels runs one exchange through a filter and compares those labels
// that a case names; "*" stands for all that it doesn't.
func TestLabels(t *testing.T) {
	outbound := map[string]string{
		"reporter":        "source",
		"source_workload": "productpage-v1", "source_workload_namespace": "default", "source_canonical_service": "productpage",
		"source_canonical_revision": "v1", "source_app": "productpage", "source_version": "v1", "source_cluster": "Kubernetes",
		"source_principal":     "unknown",
		"destination_workload": "reviews-v2", "destination_workload_namespace": "shop", "destination_canonical_service": "reviews",
		"destination_canonical_revision": "v2", "destination_app": "reviews", "destination_version": "v2",
		"destination_cluster": "Kubernetes", "destination_principal": "unknown",
		"destination_service": "reviews.shop.svc.cluster.local", "destination_service_name": "reviews",
		"destination_service_namespace": "shop",
		"request_protocol":              "http", "response_code": "200", "grpc_response_status": "", "response_flags": "-",
		"connection_security_policy": "unknown",
	}
	inbound := map[string]string{
		"reporter":        "destination",
		"source_workload": "unknown", "source_workload_namespace": "unknown", "source_canonical_service": "unknown",
		"source_canonical_revision": "latest", "source_app": "unknown", "source_version": "unknown", "source_cluster": "unknown",
		"source_principal":     "unknown",
		"destination_workload": "productpage-v1", "destination_workload_namespace": "default",
		"destination_canonical_service": "productpage", "destination_canonical_revision": "v1",
		"destination_app": "productpage", "destination_version": "v1", "destination_cluster": "Kubernetes",
		"destination_principal": "unknown",
		"destination_service":   "productpage", "destination_service_name": "productpage", "destination_service_namespace": "default",
		"request_protocol": "http", "response_code": "200", "grpc_response_status": "", "response_flags": "-",
		"connection_security_policy": "none",
	}
	toReviews := func(ex *http.Exchange) { ex.Upstream = host(reviewsV2) }

	cases := []struct {
		name      string
		direction http.Direction
		edit      func(*http.Exchange)
		base      map[string]string
		differ    map[string]string
	}{
		{"outbound", http.Outbound, toReviews, outbound, nil},
		{"gateway", http.DirectionUnspecified, toReviews, outbound, nil},
		{"mTLS upstream", http.Outbound, func(ex *http.Exchange) {
			ex.Upstream = host(reviewsV2)
			ex.UpstreamTLS = &http.TLSInfo{PeerVerified: true,
				Peer: &http.Certificate{URIs: []string{"spiffe://cluster.local/ns/other/sa/reviews", "spiffe://x"}},
				Own:  &http.Certificate{URIs: []string{"spiffe://cluster.local/ns/default/sa/productpage"}}}
		}, outbound, map[string]string{
			"source_principal":               "spiffe://cluster.local/ns/default/sa/productpage",
			"destination_principal":          "spiffe://cluster.local/ns/other/sa/reviews",
			"destination_workload_namespace": "other",
		}},
		{"failed", http.Outbound, func(ex *http.Exchange) {
			toReviews(ex)
			ex.Resp.Status = 503
			ex.Flags = http.FlagUpstreamConnFailure | http.FlagUpstreamRetryLimitExceeded
		}, outbound, map[string]string{"response_code": "503", "response_flags": "UF,URX"}},
		{"no response", http.Outbound, func(ex *http.Exchange) {
			toReviews(ex)
			ex.Resp.Status, ex.End, ex.Flags = 0, 0, http.FlagDownstreamConnTermination
		}, outbound, map[string]string{"response_code": "0", "response_flags": "DC"}},
		{"no host", http.Outbound, func(ex *http.Exchange) {
			ex.Resp.Status, ex.Flags = 503, http.FlagNoHealthyUpstream
		}, outbound, map[string]string{
			"response_code": "503", "response_flags": "UH", "destination_workload": "unknown",
			"destination_workload_namespace": "unknown", "destination_canonical_service": "unknown",
			"destination_canonical_revision": "latest", "destination_app": "unknown", "destination_version": "unknown",
			"destination_cluster": "unknown",
		}},
		{"no route", http.Outbound, func(ex *http.Exchange) {
			ex.Upstream, ex.ClusterName = nil, ""
			ex.Resp.Status, ex.Flags = 404, http.FlagNoRoute
			ex.Req.Authority = []byte("surprise.example")
		}, outbound, map[string]string{
			"response_code": "404", "response_flags": "NR", "destination_workload": "unknown",
			"destination_workload_namespace": "unknown", "destination_canonical_service": "unknown",
			"destination_canonical_revision": "latest", "destination_app": "unknown", "destination_version": "unknown",
			"destination_cluster": "unknown", "destination_service": "unknown", "destination_service_name": "unknown",
			"destination_service_namespace": "unknown",
		}},
		{"host without metadata of the service", http.Outbound, func(ex *http.Exchange) {
			p := reviewsV2
			p.ServiceHost, p.ServiceName, p.ServiceNS = "", "", ""
			ex.Upstream = host(p)
		}, outbound, nil},
		{"service without a name", http.Outbound, func(ex *http.Exchange) {
			p := reviewsV2
			p.ServiceHost, p.ServiceName, p.ServiceNS = "api.example.com", "", ""
			ex.Upstream = host(p)
		}, outbound, map[string]string{"destination_service": "api.example.com", "destination_service_name": "api"}},
		{"outside service by name of the cluster", http.Outbound, func(ex *http.Exchange) {
			ex.Upstream = host(http.Peer{Namespace: "egress"})
			ex.ClusterName = "outbound|443||api.example.com"
		}, outbound, map[string]string{
			"destination_workload": "unknown", "destination_workload_namespace": "egress",
			"destination_canonical_service": "unknown", "destination_canonical_revision": "latest",
			"destination_app": "unknown", "destination_version": "unknown", "destination_cluster": "unknown",
			"destination_service": "api.example.com", "destination_service_name": "api.example.com",
			"destination_service_namespace": "egress",
		}},
		{"passthrough by route", http.Outbound, func(ex *http.Exchange) {
			ex.Upstream, ex.RouteName = host(reviewsV2), "allow_any"
		}, outbound, map[string]string{"destination_service": "unknown", "destination_service_name": "PassthroughCluster"}},
		{"black hole by route", http.Outbound, func(ex *http.Exchange) {
			ex.Upstream, ex.RouteName, ex.Resp.Status = host(reviewsV2), "block_all", 502
		}, outbound, map[string]string{"destination_service": "unknown", "destination_service_name": "BlackHoleCluster", "response_code": "502"}},
		{"passthrough by cluster", http.Outbound, func(ex *http.Exchange) {
			ex.Upstream, ex.ClusterName = host(reviewsV2), "PassthroughCluster"
		}, outbound, map[string]string{"destination_service": "unknown", "destination_service_name": "PassthroughCluster"}},
		{"cluster only known from the host", http.Outbound, func(ex *http.Exchange) {
			ex.Upstream, ex.ClusterName = host(http.Peer{}), ""
		}, outbound, map[string]string{
			"destination_workload": "unknown", "destination_workload_namespace": "unknown",
			"destination_canonical_service": "unknown", "destination_canonical_revision": "latest",
			"destination_app": "unknown", "destination_version": "unknown", "destination_cluster": "unknown",
		}},
		{"gRPC", http.Outbound, func(ex *http.Exchange) {
			toReviews(ex)
			ex.GRPC = true
			ex.RespTrailers = &http.Fields{}
			ex.RespTrailers.AddID(http.HeaderGRPCStatus, []byte("5"))
		}, outbound, map[string]string{"request_protocol": "grpc", "grpc_response_status": "5"}},
		{"gRPC without a status", http.Outbound, func(ex *http.Exchange) {
			toReviews(ex)
			ex.GRPC = true
		}, outbound, map[string]string{"request_protocol": "grpc", "grpc_response_status": "2"}},
		{"gRPC without an answer", http.Outbound, func(ex *http.Exchange) {
			toReviews(ex)
			ex.GRPC, ex.Resp.Status = true, 0
		}, outbound, map[string]string{"request_protocol": "grpc", "response_code": "0"}},
		{"inbound", http.Inbound, func(ex *http.Exchange) {
			ex.Upstream, ex.ClusterName = host(http.Peer{}), "inbound|9080||"
		}, inbound, nil},
		{"inbound, mTLS", http.Inbound, func(ex *http.Exchange) {
			ex.ClusterName = "inbound|9080||"
			ex.Conn = &http.ConnInfo{PeerPrincipal: "spiffe://cluster.local/ns/shop/sa/a", OwnPrincipal: "spiffe://cluster.local/ns/default/sa/b"}
			ex.DownstreamPeer = &http.Peer{Workload: "a-v1", Namespace: "claimed", App: "a", Version: "v1", ClusterID: "c2",
				CanonicalService: "a", CanonicalRevision: "v1"}
		}, inbound, map[string]string{
			"source_workload": "a-v1", "source_workload_namespace": "shop", "source_app": "a", "source_version": "v1",
			"source_cluster": "c2", "source_canonical_service": "a", "source_canonical_revision": "v1",
			"source_principal":           "spiffe://cluster.local/ns/shop/sa/a",
			"destination_principal":      "spiffe://cluster.local/ns/default/sa/b",
			"connection_security_policy": "mutual_tls",
		}},
		{"inbound, our certificate only", http.Inbound, func(ex *http.Exchange) {
			ex.ClusterName = "InboundPassthroughCluster"
			ex.Conn = &http.ConnInfo{OwnPrincipal: "spiffe://cluster.local/ns/default/sa/b"}
		}, inbound, map[string]string{
			"destination_principal":    "spiffe://cluster.local/ns/default/sa/b",
			"destination_service_name": "InboundPassthroughCluster",
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := stats.NewRegistry()
			New(productpage, c.direction, NewFamilies(r)).OnFinish(finished(c.edit))
			want := maps.Clone(c.base)
			maps.Copy(want, c.differ)
			for _, name := range []string{"istio_requests_total", "istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"} {
				ms := scrape(t, r)[name].GetMetric()
				if len(ms) != 1 {
					t.Fatalf("%d series of %s, want 1", len(ms), name)
				}
				got := labelsOf(ms[0])
				for _, l := range slices.Sorted(maps.Keys(want)) {
					if got[l] != want[l] {
						t.Errorf("%s: %s = %q, want %q", name, l, got[l], want[l])
					}
				}
				if len(got) != len(want) {
					t.Errorf("%s has %d labels, want %d", name, len(got), len(want))
				}
			}
		})
	}
}

func TestLabelOrder(t *testing.T) {
	r := stats.NewRegistry()
	New(productpage, http.Outbound, NewFamilies(r)).OnFinish(finished(nil))
	var order []string
	for _, p := range scrape(t, r)["istio_requests_total"].GetMetric()[0].GetLabel() {
		order = append(order, p.GetName())
	}
	if !slices.Equal(order, labelNames()) {
		t.Errorf("labels are %q, want %q", order, labelNames())
	}
	if len(order) != 25 {
		t.Errorf("%d labels, Istio has 25", len(order))
	}
}

func TestValues(t *testing.T) {
	r := stats.NewRegistry()
	f := New(productpage, http.Outbound, NewFamilies(r))
	h := host(reviewsV2)
	for range 3 {
		f.OnFinish(finished(func(ex *http.Exchange) { ex.Upstream = h }))
	}
	m := scrape(t, r)
	if got := m["istio_requests_total"].GetMetric()[0].GetCounter().GetValue(); got != 3 {
		t.Errorf("requests = %v, want 3", got)
	}
	for name, sum := range map[string]float64{
		"istio_request_duration_milliseconds": 9, "istio_request_bytes": 360, "istio_response_bytes": 3600,
	} {
		got := m[name].GetMetric()[0].GetHistogram()
		if got.GetSampleCount() != 3 || got.GetSampleSum() != sum {
			t.Errorf("%s: count %d, sum %v, want 3 and %v", name, got.GetSampleCount(), got.GetSampleSum(), sum)
		}
	}
}

func TestServiceLookup(t *testing.T) {
	r := stats.NewRegistry()
	f := New(productpage, http.Outbound, NewFamilies(r, WithServices(func(cluster string) (Service, bool) {
		if cluster != "custom" {
			return Service{}, false
		}
		return Service{Host: "h", Name: "n", Namespace: "ns"}, true
	})))
	f.OnFinish(finished(func(ex *http.Exchange) { ex.ClusterName = "custom" }))
	f.OnFinish(finished(nil))
	var got []string
	for _, m := range scrape(t, r)["istio_requests_total"].GetMetric() {
		l := labelsOf(m)
		got = append(got, l["destination_service"]+" "+l["destination_service_name"]+" "+l["destination_service_namespace"])
	}
	if want := []string{"h n ns", "reviews.shop.svc.cluster.local reviews shop"}; !slices.Equal(got, want) {
		t.Errorf("services = %q, want %q", got, want)
	}
}

func TestBuild(t *testing.T) {
	r := stats.NewRegistry()
	NewFamilies(r, WithVersion("1.2.3"))
	ms := scrape(t, r)["istio_build"].GetMetric()
	if len(ms) != 1 || ms[0].GetGauge().GetValue() != 1 ||
		!maps.Equal(labelsOf(ms[0]), map[string]string{"component": "proxy", "tag": "1.2.3"}) {
		t.Errorf("istio_build = %v", ms)
	}
}

// TestRandomHostsMakeNoSeries is the abuse that Istio's fall-back to the Host
// header allows.
func TestRandomHostsMakeNoSeries(t *testing.T) {
	r := stats.NewRegistry()
	families := NewFamilies(r)
	f := New(productpage, http.Outbound, families)
	h := host(http.Peer{})
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 10000 {
		f.OnFinish(finished(func(ex *http.Exchange) {
			ex.Req.Authority = fmt.Appendf(nil, "h%d.example", rng.Uint64())
			ex.Req.Path = fmt.Appendf(nil, "/%d", rng.Uint64())
			switch i % 3 {
			case 0: // no route
				ex.ClusterName, ex.Resp.Status, ex.Flags = "", 404, http.FlagNoRoute
			case 1: // passed through to where the client wants
				ex.ClusterName, ex.RouteName, ex.Upstream = passthrough, "allow_any", h
			case 2: // refused
				ex.ClusterName, ex.RouteName, ex.Resp.Status = blackHole, "block_all", 502
			}
		}))
	}
	if n := families.Len(); n >= 5 {
		t.Errorf("10,000 random hosts made %d label sets, want fewer than 5", n)
	}
}

// TestHostileUpstream: an upstream that answers with ever new status codes
// stays within the cap, and the cache beside the host within its bound.
func TestHostileUpstream(t *testing.T) {
	r := stats.NewRegistry()
	families := NewFamilies(r, WithLimits(0, 100))
	f := New(productpage, http.Outbound, families)
	h := host(reviewsV2)
	for i := range 1000 {
		f.OnFinish(finished(func(ex *http.Exchange) { ex.Upstream, ex.Resp.Status = h, i }))
	}
	if n := families.Len(); n != 100 {
		t.Errorf("%d label sets, want 100", n)
	}
	if n := len(*h.Attached(f.reporter.requests[0]).(*handles[*stats.Series[cells]]).list.Load()); n > maxHandles {
		t.Errorf("%d handles beside the host, want at most %d", n, maxHandles)
	}
	total, over := 0.0, 0.0
	for _, m := range scrape(t, r)["istio_requests_total"].GetMetric() {
		total += m.GetCounter().GetValue()
		if labelsOf(m)["response_code"] == stats.OverflowLabel {
			over = m.GetCounter().GetValue()
		}
	}
	if total != 1000 || over != 900 {
		t.Errorf("%v requests are counted, %v of them as overflow; want 1000 and 900", total, over)
	}
}

func TestManyClustersWithoutHosts(t *testing.T) {
	families := NewFamilies(stats.NewRegistry())
	f := New(productpage, http.Outbound, families)
	for i := range 3 * maxClusters {
		f.OnFinish(finished(func(ex *http.Exchange) { ex.ClusterName = fmt.Sprint("c", i) }))
	}
	if n := len(*f.reporter.requests[0].noHost.byName.Load()); n > maxClusters {
		t.Errorf("%d clusters are cached, want at most %d", n, maxClusters)
	}
}

// TestUpdateKeepsHandles: the filter of a new configuration finds what the
// old one attached, so hosts don't gather attachments.
func TestUpdateKeepsHandles(t *testing.T) {
	families := NewFamilies(stats.NewRegistry())
	a, b := New(productpage, http.Outbound, families), New(productpage, http.DirectionUnspecified, families)
	if a.reporter != b.reporter {
		t.Error("two filters that report alike have two caches")
	}
	if in := New(productpage, http.Inbound, families); in.reporter == a.reporter {
		t.Error("both sides share a cache")
	}
}

// TestHandleExpires: a cached handle whose series was forgotten is noticed.
func TestHandleExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := stats.NewRegistry()
		families := NewFamilies(r, WithLimits(time.Minute, 0))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go families.Run(ctx)
		f := New(productpage, http.Outbound, families)
		h := host(reviewsV2)
		finish := func() { f.OnFinish(finished(func(ex *http.Exchange) { ex.Upstream = h })) }
		finish()
		<-time.NewTimer(10 * time.Minute).C
		synctest.Wait()
		if families.Len() != 0 {
			t.Fatal("an unused label set is still there after its TTL")
		}
		finish()
		finish()
		ms := scrape(t, r)["istio_requests_total"].GetMetric()
		if len(ms) != 1 || ms[0].GetCounter().GetValue() != 2 {
			t.Errorf("after the expiry there is %v, want one series that counts 2", ms)
		}
		if n := len(*h.Attached(f.reporter.requests[0]).(*handles[*stats.Series[cells]]).list.Load()); n != 1 {
			t.Errorf("%d handles, want the stale one replaced", n)
		}
	})
}

func TestConcurrentFinish(t *testing.T) {
	r := stats.NewRegistry()
	families := NewFamilies(r)
	f := New(productpage, http.Outbound, families)
	h := host(reviewsV2)
	var wg sync.WaitGroup
	const workers, each = 4, 2000
	for range workers {
		wg.Go(func() {
			for i := range each {
				f.OnFinish(finished(func(ex *http.Exchange) {
					ex.Resp.Status = 200 + i%7
					if i%3 > 0 {
						ex.Upstream = h
					}
				}))
			}
		})
	}
	for range 5 {
		r.List(stats.Query{})
	}
	wg.Wait()
	total := 0.0
	for _, m := range scrape(t, r)["istio_requests_total"].GetMetric() {
		total += m.GetCounter().GetValue()
	}
	if total != workers*each {
		t.Errorf("%v requests are counted, want %d", total, workers*each)
	}
}

// TestPromtool: besides what promtool thinks of Istio's fixed names, there is
// nothing to complain of.
func TestPromtool(t *testing.T) {
	promtool := need.Program(t, "promtool")
	r := stats.NewRegistry()
	New(productpage, http.Outbound, NewFamilies(r)).OnFinish(finished(nil))
	var b, out bytes.Buffer
	if err := r.Write(&b, false, stats.Query{}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &b, &out, &out
	_ = cmd.Run() // its exit code tells opinions from errors no better than its words do
	want := "istio_request_duration_milliseconds use base unit \"seconds\" instead of \"milliseconds\"\n"
	if out.String() != want {
		t.Errorf("promtool says\n%swant\n%s", out.String(), want)
	}
}
