// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	faultcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
	"pillion/proxy/proxytest"
)

func percent(n uint32) *typev3.FractionalPercent { return &typev3.FractionalPercent{Numerator: n} }

func delay(d time.Duration, p *typev3.FractionalPercent) *faultcommonv3.FaultDelay {
	return &faultcommonv3.FaultDelay{
		FaultDelaySecifier: &faultcommonv3.FaultDelay_FixedDelay{FixedDelay: durationpb.New(d)}, Percentage: p}
}

func abort(status uint32, p *typev3.FractionalPercent) *faultv3.FaultAbort {
	return &faultv3.FaultAbort{ErrorType: &faultv3.FaultAbort_HttpStatus{HttpStatus: status}, Percentage: p}
}

func build(t *testing.T, cfg *faultv3.HTTPFault) (*Filter, *Stats) {
	t.Helper()
	s := &Stats{}
	f, err := New(cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	return f, s
}

func TestDelayThenAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := build(t, &faultv3.HTTPFault{Delay: delay(5*time.Second, percent(100)), Abort: abort(503, percent(100))})
		var ex http.Exchange
		begun := time.Now()
		if !f.Waits(&ex) || f.OnRequest(&ex) != filter.Reply {
			t.Fatal("the request passes")
		}
		if got := time.Since(begun); got != 5*time.Second {
			t.Errorf("it waits %v, want 5 s", got)
		}
		if ex.LocalReply.Status != 503 || ex.LocalReply.Body != "fault filter abort" || ex.LocalReply.Err.Flag != http.FlagFaultInjected {
			t.Errorf("the reply is %+v", ex.LocalReply)
		}
		if ex.Flags != http.FlagDelayInjected || ex.LocalReply.Err.Detail != "fault_filter_abort" {
			t.Errorf("flags %v, details %q", ex.Flags, ex.LocalReply.Err.Detail)
		}
		if s.Delays.Value() != 1 || s.Aborts.Value() != 1 || s.Active.Value() != 0 {
			t.Errorf("delays %d, aborts %d, active %d", s.Delays.Value(), s.Aborts.Value(), s.Active.Value())
		}
	})
}

func TestCancelEndsTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := build(t, &faultv3.HTTPFault{Delay: delay(time.Hour, percent(100))})
		gone := make(chan struct{})
		ex := http.Exchange{Cancelled: gone}
		begun := time.Now()
		time.AfterFunc(time.Second, func() { close(gone) })
		if f.OnRequest(&ex) != filter.Continue || time.Since(begun) != time.Second {
			t.Errorf("it went on after %v", time.Since(begun))
		}
		if s.Active.Value() != 0 {
			t.Error("the fault stays active")
		}
	})
}

func TestMaxActiveFaults(t *testing.T) {
	f, s := build(t, &faultv3.HTTPFault{Abort: abort(500, percent(100)), MaxActiveFaults: wrapperspb.UInt32(1)})
	s.Active.Inc() // another one is under way
	var ex http.Exchange
	if f.OnRequest(&ex) != filter.Continue || s.Overflow.Value() != 1 || s.Aborts.Value() != 0 {
		t.Errorf("overflow %d, aborts %d", s.Overflow.Value(), s.Aborts.Value())
	}
}

// TestGRPCAbort: the reply is made by the connection manager, which knows what
// the client speaks.
func TestGRPCAbort(t *testing.T) {
	for _, code := range []uint32{0, 14, 99} {
		f, _ := build(t, &faultv3.HTTPFault{Abort: &faultv3.FaultAbort{
			ErrorType: &faultv3.FaultAbort_GrpcStatus{GrpcStatus: code}, Percentage: percent(100)}})
		var ex http.Exchange
		if f.OnRequest(&ex) != filter.Reply {
			t.Fatal("the request passes")
		}
		r := ex.LocalReply
		if r.Status != 200 || r.Body != "fault filter abort" || r.Headers != nil {
			t.Errorf("the reply is %+v", r)
		}
		if got := r.Err.GRPCStatus(r.Status); got != http.GRPCCode(code) {
			t.Errorf("grpc-status %d becomes %d", code, got)
		}
	}
}

// TestShares counts over many requests, within three standard deviations, and
// holds that the two decisions are independent.
func TestShares(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 200_000
	within := func(t *testing.T, what string, got int, p float64) {
		t.Helper()
		want, sigma := n*p, math.Sqrt(n*p*(1-p))
		if math.Abs(float64(got)-want) > 3*sigma {
			t.Errorf("%s: %d of %d, want %.0f ± %.0f", what, got, n, want, 3*sigma)
		}
	}
	for _, p := range []*typev3.FractionalPercent{
		percent(0), percent(1), percent(10), percent(50), percent(100),
		{Numerator: 25, Denominator: typev3.FractionalPercent_TEN_THOUSAND},
		{Numerator: 100, Denominator: typev3.FractionalPercent_MILLION},
	} {
		s := newShare(p)
		hits := 0
		for range n {
			if s.Takes(match.Mix(rng.Uint64(), abortSalt)) {
				hits++
			}
		}
		per := map[typev3.FractionalPercent_DenominatorType]float64{0: 100, 1: 1e4, 2: 1e6}[p.GetDenominator()]
		within(t, p.String(), hits, float64(p.GetNumerator())/per)
	}
	half := newShare(percent(50))
	both := 0
	for range n {
		r := rng.Uint64()
		if half.Takes(match.Mix(r, delaySalt)) && half.Takes(match.Mix(r, abortSalt)) {
			both++
		}
	}
	within(t, "both of two halves", both, 0.25)
}

func TestNothingToDo(t *testing.T) {
	for _, cfg := range []*faultv3.HTTPFault{
		{},
		{Delay: delay(time.Second, percent(0))},
		{Abort: abort(503, nil)},
	} {
		if f, err := New(cfg, &Stats{}); f != nil || err != nil {
			t.Errorf("%v: a filter that does nothing is built (%v)", cfg, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		cfg  *faultv3.HTTPFault
		want string
	}{
		{&faultv3.HTTPFault{UpstreamCluster: "x"}, "upstream_cluster: is not supported"},
		{&faultv3.HTTPFault{Abort: abort(99, percent(1))}, "abort.http_status: 99 is no final status"},
		{&faultv3.HTTPFault{Abort: &faultv3.FaultAbort{}}, "abort.error_type: only"},
		{&faultv3.HTTPFault{Delay: delay(-time.Second, percent(1))}, "delay.fixed_delay: -1s is negative"},
	} {
		if _, err := New(c.cfg, &Stats{}); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.cfg, err, c.want)
		}
	}
}

func TestPassingAllocatesNothing(t *testing.T) {
	f, _ := build(t, &faultv3.HTTPFault{Abort: abort(503, &typev3.FractionalPercent{Numerator: 1, Denominator: typev3.FractionalPercent_MILLION})})
	ex := http.Exchange{Random: 7}
	proxytest.NoAllocs(t, "a request that passes", func() { f.OnRequest(&ex) })
}
