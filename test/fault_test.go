// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pillion/test/rig"
	"pillion/test/wire"
)

// faulted is how many of faultRequests requests a fault of 10 % may hit: the
// tolerance of one percent is more than four standard deviations.
const faultRequests = 20000

func wantTenPercent(t *testing.T, what string, n int) {
	t.Helper()
	if n < faultRequests*9/100 || n > faultRequests*11/100 {
		t.Errorf("%s: %d of %d requests, want 10 %% ± 1", what, n, faultRequests)
	}
}

// TestFaultDelay sends many requests at a time, because a tenth of them wait
// for five seconds.
func TestFaultDelay(t *testing.T) {
	t.Parallel()
	p, _ := startReference(t, "10 40 70")
	var slow atomic.Int64
	tally := wire.Load{
		Addr: p.HTTP, Request: get("ratings:9080", "/ratings/1"), Conns: 1500, Count: faultRequests, Patience: 3 * rig.Patience,
		Each: func(_ *wire.Response, took time.Duration) {
			if took >= 5*time.Second {
				slow.Add(1)
			}
		},
	}.Run()
	if tally.Failed > 0 || tally.Status[200] != faultRequests {
		t.Errorf("statuses %v, %d failed (%v)", tally.Status, tally.Failed, tally.Failure)
	}
	wantTenPercent(t, "waited 5 s", int(slow.Load()))
	// That both agree says that none of those that the fault hit waited for less. A
	// request is counted once its answer has been sent, so the last may still have to be.
	rig.Until(t, "the proxy counts what waited", func() error {
		if n := p.Scrape(t).Sum("istio_requests_total", "response_flags=DI", "response_code=200"); int64(n) != slow.Load() {
			return fmt.Errorf("istio_requests_total has %v requests with flag DI, and %d waited", n, slow.Load())
		}
		return nil
	})
}

// TestFaultAbort compares three witnesses: the client, the metrics and the
// access log.
func TestFaultAbort(t *testing.T) {
	t.Parallel()
	p, _ := startReference(t, "10 41 70")
	tally := wire.Load{
		Addr: p.HTTP, Request: get("ratings:9080", "/ratings/1"), Conns: 8, Count: faultRequests, Patience: rig.Patience,
		Each: func(r *wire.Response, _ time.Duration) {
			if r.Status == 503 && string(r.Body) != "fault filter abort" {
				t.Errorf("the body of an injected 503 is %q", r.Body)
			}
		},
	}.Run()
	if tally.Failed > 0 || tally.Status[200]+tally.Status[503] != faultRequests {
		t.Errorf("statuses %v, %d failed (%v)", tally.Status, tally.Failed, tally.Failure)
	}
	aborted := tally.Status[503]
	wantTenPercent(t, "got 503", aborted)
	metrics := p.Scrape(t)
	if n := metrics.Sum("istio_requests_total", "response_flags=FI", "response_code=503"); int(n) != aborted {
		t.Errorf("istio_requests_total has %v requests with 503 and flag FI, and %d clients got 503", n, aborted)
	}
	rig.Until(t, "the access log has a line with FI for each injected 503", func() error {
		return wantCount(len(p.Stdout.Lines(`"GET /ratings/1 HTTP/1.1" 503 FI fault_filter_abort `)), aborted)
	})
	rig.Until(t, "the access log has a line for each answer of the upstream", func() error {
		return wantCount(len(p.Stdout.Lines(`"GET /ratings/1 HTTP/1.1" 200 - via_upstream - `)), tally.Status[200])
	})
	for _, line := range p.Stdout.Lines(" FI ") {
		if !strings.HasPrefix(line, "[20") {
			t.Fatalf("an access log line begins with no time: %q", line)
		}
	}
}
