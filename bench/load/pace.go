// SPDX-License-Identifier: Apache-2.0

package load

import (
	"math"
	"time"

	"pillion/bench/hist"
)

// pace says when requests are to be sent, and gathers what became of them. With
// a rate they fall due one by one, whether or not earlier ones were answered:
// an open loop. Without, each may be sent as soon as there is room: a closed one.
type pace struct {
	rate           float64
	warmup, length time.Duration

	start time.Time
	// due is the number of the next request of an open loop, total how many
	// there are.
	due, total int
	result     Result
	h          hist.Histogram
}

// begin sets the clock to zero.
func (p *pace) begin(rate float64, warmup, duration time.Duration) {
	p.rate, p.warmup, p.length = rate, warmup, warmup+duration
	p.total = int(math.Round(rate * p.length.Seconds()))
	p.start = time.Now()
}

// dueAt is when request n of an open loop should be sent.
func (p *pace) dueAt(n int) time.Time {
	return p.start.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
}

// next reports whether a request is to be sent now, and when it fell due.
func (p *pace) next(now time.Time) (due time.Time, ok bool) {
	if p.rate == 0 {
		return now, now.Before(p.start.Add(p.length))
	}
	if p.due == p.total {
		return now, false
	}
	if due = p.dueAt(p.due); now.Before(due) {
		return due, false
	}
	p.due++
	return due, true
}

// over reports whether no request will be sent any more.
func (p *pace) over(now time.Time) bool {
	if p.rate == 0 {
		return !now.Before(p.start.Add(p.length))
	}
	return p.due == p.total
}

// expired reports whether answers were waited for long enough.
func (p *pace) expired(now time.Time) bool {
	return !now.Before(p.start.Add(p.length + drainTime))
}

// wait is how long there is nothing to send, given whether there is room for a
// request. It is short enough to look at a context now and then.
func (p *pace) wait(now time.Time, room bool) time.Duration {
	const most = 100 * time.Millisecond
	d := min(most, p.start.Add(p.length+drainTime).Sub(now))
	if p.rate > 0 && room && p.due < p.total {
		d = min(d, time.Until(p.dueAt(p.due)))
	}
	return d
}

// record notes the latency of a request that was due after the warm-up.
func (p *pace) record(due, now time.Time) {
	if due.Sub(p.start) >= p.warmup {
		p.h.Record(now.Sub(due))
	}
}

// unanswered counts a request that was sent and got no answer in time, with the
// time that it has waited.
func (p *pace) unanswered(due, now time.Time) {
	p.result.Errors.Timeout++
	p.record(due, now)
}

// finish counts what wasn't even sent and sums up.
func (p *pace) finish(now time.Time) {
	for ; p.due < p.total; p.due++ {
		p.unanswered(p.dueAt(p.due), now)
	}
	p.result.Duration = now.Sub(p.start)
	p.result.Latency = latencyOf(&p.h)
}
