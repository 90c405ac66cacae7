// SPDX-License-Identifier: Apache-2.0

// Package fault is the filter envoy.filters.http.fault: it delays a share of
// the requests, or answers a share of them with an error, so that one can see
// how clients take it.
package fault

import (
	"fmt"
	"math"
	"time"

	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
	"pillion/proxy/stats"
)

// Stats count faults under Envoy's names (http.<stat_prefix>.fault.*). They
// are shared by the filters of one connection manager.
type Stats struct {
	Aborts, Delays, Overflow stats.Counter
	Active                   stats.Gauge
}

// Collect reports the counters of the connection manager prefix.
func (s *Stats) Collect(e *stats.Emitter, prefix string) {
	sc := e.HTTP(prefix)
	sc.Counter("fault.aborts_injected", s.Aborts.Value())
	sc.Counter("fault.delays_injected", s.Delays.Value())
	sc.Counter("fault.faults_overflow", s.Overflow.Value())
	sc.Gauge("fault.active_faults", s.Active.Value())
}

func newShare(p *typev3.FractionalPercent) match.Share {
	return match.NewShare(p.GetNumerator(), int32(p.GetDenominator()))
}

// Filter injects the faults of one configuration. Immutable.
type Filter struct {
	stats *Stats

	delay      time.Duration // 0: none
	delayShare match.Share
	abort      *http.Error // nil: none
	abortShare match.Share
	maxActive  int64 // 0: no bound
}

// New compiles a configuration. It returns nil for one that injects nothing.
// Errors name the field.
func New(cfg *faultv3.HTTPFault, s *Stats) (*Filter, error) {
	if err := supported(cfg); err != nil {
		return nil, err
	}
	f := &Filter{stats: s, maxActive: int64(cfg.GetMaxActiveFaults().GetValue())}
	if d := cfg.GetDelay(); d != nil {
		if d.GetHeaderDelay() != nil {
			return nil, fmt.Errorf("delay.header_delay: is not supported")
		}
		f.delay, f.delayShare = d.GetFixedDelay().AsDuration(), newShare(d.GetPercentage())
		if f.delay < 0 {
			return nil, fmt.Errorf("delay.fixed_delay: %v is negative", f.delay)
		}
	}
	if a := cfg.GetAbort(); a != nil {
		if err := f.setAbort(a); err != nil {
			return nil, fmt.Errorf("abort.%w", err)
		}
	}
	if (f.delay == 0 || f.delayShare.Empty()) && (f.abort == nil || f.abortShare.Empty()) {
		return nil, nil
	}
	return f, nil
}

// supported refuses what would otherwise be ignored.
func supported(cfg *faultv3.HTTPFault) (err error) {
	cfg.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		switch fd.Name() {
		case "delay", "abort", "max_active_faults", "disable_downstream_cluster_stats":
			return true
		}
		err = fmt.Errorf("%s: is not supported", fd.Name())
		return false
	})
	return err
}

func (f *Filter) setAbort(a *faultv3.FaultAbort) error {
	if a.GetResponseBody() != "" {
		return fmt.Errorf("response_body: is not supported")
	}
	f.abortShare = newShare(a.GetPercentage())
	f.abort = &http.Error{Side: http.SideLocal, Kind: http.KindInjected, Flag: http.FlagFaultInjected,
		Detail: "fault_filter_abort", Body: "fault filter abort"}
	switch e := a.GetErrorType().(type) {
	case *faultv3.FaultAbort_HttpStatus:
		f.abort.Status = int(e.HttpStatus)
		if e.HttpStatus < 200 || e.HttpStatus > 599 {
			return fmt.Errorf("http_status: %d is no final status", e.HttpStatus)
		}
	case *faultv3.FaultAbort_GrpcStatus:
		// Whoever doesn't speak gRPC gets the 200 that its failures come in
		// (Envoy: FaultFilter::abortStatus).
		f.abort.Status, f.abort.GRPC = 200, int(min(e.GrpcStatus, math.MaxInt32))
	default:
		return fmt.Errorf("error_type: only http_status and grpc_status are supported")
	}
	return nil
}

// Salts make independent decisions of the one random number of an exchange,
// also of those that the router makes of it with salts of its own.
const (
	delaySalt = 0xd6e8feb86659fd93
	abortSalt = 0xa0761d6478bd642f
)

// Waits reports whether the exchange is to be delayed. It implements
// filter.Waiter.
func (f *Filter) Waits(ex *http.Exchange) bool {
	return f.delay > 0 && f.delayShare.Takes(match.Mix(ex.Random, delaySalt))
}

// OnRequest delays the exchange, aborts it, or does the one after the other.
func (f *Filter) OnRequest(ex *http.Exchange) filter.Status {
	wait := f.Waits(ex)
	abort := f.abort != nil && f.abortShare.Takes(match.Mix(ex.Random, abortSalt))
	if !wait && !abort {
		return filter.Continue
	}
	if n := f.stats.Active.Add(1); f.maxActive > 0 && n > f.maxActive {
		f.stats.Active.Dec()
		f.stats.Overflow.Inc()
		return filter.Continue
	}
	defer f.stats.Active.Dec()
	if wait {
		f.stats.Delays.Inc()
		ex.Flags |= http.FlagDelayInjected
		if !sleep(f.delay, ex.Cancelled) {
			return filter.Continue // the forwarder notices that the client is gone
		}
	}
	if !abort {
		return filter.Continue
	}
	f.stats.Aborts.Inc()
	ex.LocalReply = http.LocalReply{Status: f.abort.Status, Body: f.abort.Body, Err: f.abort}
	return filter.Reply
}

// sleep waits for d. It returns false if cancelled was closed before.
func sleep(d time.Duration, cancelled <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-cancelled:
		return false
	}
}
