// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/proxytest"
	"pillion/proxy/stats"
)

var _ filter.ResponseFilter = (*Filter)(nil)

var oneMessage = []byte{0, 0, 0, 0, 1, 'x'}

// stream returns a gRPC exchange with a host, whose messages are counted.
func stream(h *http.HostFacts) *http.Exchange {
	ex := finished(func(ex *http.Exchange) { ex.GRPC, ex.Upstream = true, h })
	ex.RequestMessages.Start()
	ex.ResponseMessages.Start()
	return ex
}

// counted returns the series of both metrics and the sum of each.
func counted(t *testing.T, r *stats.Registry) (series []*dto.Metric, requests, responses float64) {
	t.Helper()
	families := scrape(t, r)
	series = families["istio_request_messages_total"].GetMetric()
	for _, m := range series {
		requests += m.GetCounter().GetValue()
	}
	for _, m := range families["istio_response_messages_total"].GetMetric() {
		responses += m.GetCounter().GetValue()
	}
	return series, requests, responses
}

func TestMessages(t *testing.T) {
	r := stats.NewRegistry()
	f := New(productpage, http.Outbound, NewFamilies(r))
	ex := stream(host(reviewsV2))
	ex.RequestMessages.Add(oneMessage)
	f.OnResponse(ex)
	for range 4 {
		ex.ResponseMessages.Add(oneMessage)
	}
	if _, requests, responses := counted(t, r); requests != 0 || responses != 4 {
		t.Errorf("while it goes on: %v and %v messages, want 0 and 4", requests, responses)
	}
	f.OnFinish(ex)
	series, requests, responses := counted(t, r)
	if requests != 1 || responses != 4 || len(series) != 1 {
		t.Fatalf("at the end: %v and %v messages in %d series, want 1 and 4 in 1", requests, responses, len(series))
	}
	var names []string
	for _, l := range series[0].GetLabel() {
		names = append(names, l.GetName())
	}
	if !slices.Equal(names, labelNames()[:numPeerLabels]) || names[numPeerLabels-1] != "destination_cluster" {
		t.Errorf("labels are %q", names)
	}
	if l := labelsOf(series[0]); l["reporter"] != "source" || l["destination_workload"] != "reviews-v2" {
		t.Errorf("labels are %v", l)
	}
}

func TestMessagesAreOfBothEnds(t *testing.T) {
	r := stats.NewRegistry()
	f := New(productpage, http.Inbound, NewFamilies(r))
	h := host(http.Peer{})
	peers := []*http.Peer{{Workload: "a"}, {Workload: "b"}}
	for i := range 6 {
		ex := stream(h)
		ex.DownstreamPeer = peers[i%2]
		ex.RequestMessages.Add(oneMessage)
		f.OnResponse(ex)
		f.OnFinish(ex)
	}
	noHost := stream(nil)
	noHost.RequestMessages.Add(oneMessage)
	f.OnFinish(noHost)
	if series, requests, _ := counted(t, r); len(series) != 3 || requests != 7 {
		t.Errorf("%v messages in %d series, want 7 in 3", requests, len(series))
	}
}

func TestNoMessagesNoSeries(t *testing.T) {
	r := stats.NewRegistry()
	f := New(productpage, http.Outbound, NewFamilies(r))
	silent, plain := stream(host(reviewsV2)), finished(nil)
	for _, ex := range []*http.Exchange{silent, plain} {
		f.OnResponse(ex)
		f.OnFinish(ex)
	}
	if series, _, _ := counted(t, r); len(series) != 0 {
		t.Errorf("there is %v", series)
	}
}

// TestQuietStream: a stream that sends nothing for longer than series are kept
// counts on.
func TestQuietStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := stats.NewRegistry()
		families := NewFamilies(r, WithLimits(time.Minute, 0))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go families.Run(ctx)
		f := New(productpage, http.Outbound, families)
		ex := stream(host(reviewsV2))
		f.OnResponse(ex)
		ex.ResponseMessages.Add(oneMessage)
		<-time.NewTimer(10 * time.Minute).C
		synctest.Wait()
		if series, _, _ := counted(t, r); len(series) != 0 {
			t.Fatal("an unused label set is still there after its TTL")
		}
		ex.ResponseMessages.Add(oneMessage)
		if _, _, responses := counted(t, r); responses != 1 {
			t.Errorf("%v messages are counted after the pause, want 1", responses)
		}
	})
}

func TestMessagesAllocateNothing(t *testing.T) {
	f := New(productpage, http.Outbound, NewFamilies(stats.NewRegistry()))
	h := host(reviewsV2)
	ex := stream(h)
	proxytest.NoAllocs(t, "counting", func() {
		ex.RequestMessages, ex.ResponseMessages = http.GRPCMessages{}, http.GRPCMessages{}
		ex.RequestMessages.Start()
		ex.RequestMessages.Add(oneMessage)
		f.OnResponse(ex)
		f.OnFinish(ex)
	})
}
