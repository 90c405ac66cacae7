// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"log/slog"
	"sync"
	"time"
)

// How spans are gathered. Envoy sends whenever five have come
// (tracing.opentelemetry.min_flush_spans, tracing.zipkin.min_flush_spans), so that
// under load every fifth request costs a request; we fill a message first.
const (
	// FlushInterval is how long a span waits at most for others. It is Envoy's.
	FlushInterval = 5 * time.Second
	// flushSpans or flushBytes are a full message.
	flushSpans = 512
	flushBytes = 256 << 10
	// maxSpans and maxBytes bound what waits for a slow collector. Spans beyond are
	// dropped.
	maxSpans = 4 * flushSpans
	maxBytes = 4 * flushBytes
	// keptBatch bounds the memory that is kept for the next batch.
	keptBatch = flushBytes + flushBytes/2
	// complainEvery bounds how often a collector that fails is logged.
	complainEvery = time.Minute
)

// Reporter gathers spans and has a Collector send them, from a goroutine that there is
// as long as spans come. It is a Sink, and safe for concurrent use.
type Reporter struct {
	to     Collector    // immutable
	counts *Counts      // immutable
	log    *slog.Logger // immutable
	most   int          // spans that may wait; immutable

	mu      sync.Mutex
	batch   []byte // guarded by mu, as all below
	spans   int
	full    bool // the goroutine was told that a message is full
	running bool
	closed  bool
	ended   chan struct{} // closed when the goroutine ends; nil while there is none

	wake chan struct{} // tells the goroutine that a message is full
	quit chan struct{} // closed by Close: send and end
	give chan struct{} // closed by Close: end

	complained time.Time // of the goroutine
	failures   int       // of the goroutine: spans lost since then
}

// NewReporter returns a reporter that nothing has to be done for until spans come. most
// bounds how many wait for a slow collector; 0 is the default.
func NewReporter(to Collector, counts *Counts, most int, log *slog.Logger) *Reporter {
	if most == 0 {
		most = maxSpans
	}
	return &Reporter{to: to, counts: counts, most: most, log: log,
		wake: make(chan struct{}, 1), quit: make(chan struct{}), give: make(chan struct{})}
}

// Report takes a span. It implements Sink.
func (r *Reporter) Report(s *Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.spans >= r.most || len(r.batch) >= maxBytes {
		r.counts.Dropped.Inc()
		return
	}
	r.batch = r.to.Append(r.batch, s)
	r.spans++
	if !r.running {
		r.running, r.ended = true, make(chan struct{})
		go r.run(r.ended)
	}
	if !r.full && (r.spans >= min(flushSpans, r.most) || len(r.batch) >= flushBytes) {
		r.full = true
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// run sends batches until none came for FlushInterval.
func (r *Reporter) run(ended chan<- struct{}) {
	defer close(ended)
	timer := time.NewTimer(FlushInterval)
	defer timer.Stop()
	var spare []byte
	for {
		timed := false
		select {
		case <-timer.C:
			timed = true
		case <-r.wake:
		case <-r.quit:
		}
		batch, spans := r.take(spare)
		if spans == 0 {
			return
		}
		if timed {
			r.counts.Timed.Inc()
		}
		r.send(batch, spans)
		if spare = batch[:0]; cap(spare) > keptBatch {
			spare = nil
		}
		timer.Reset(FlushInterval)
	}
}

// take takes the batch, and leaves other memory for the next one. Of an empty one the
// goroutine has to end.
func (r *Reporter) take(spare []byte) (batch []byte, spans int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	batch, spans = r.batch, r.spans
	r.batch, r.spans, r.full = spare, 0, false
	if spans == 0 {
		r.batch, r.running = nil, false
	}
	return batch, spans
}

// send sends a batch and tells how that went.
func (r *Reporter) send(batch []byte, spans int) {
	err := r.to.Send(batch, spans, r.give)
	if err == nil {
		r.counts.Sent.Add(uint64(spans))
		r.counts.Batches.Inc()
		return
	}
	r.counts.Failed.Inc()
	r.counts.Lost.Add(uint64(spans))
	r.failures += spans
	if now := time.Now(); now.Sub(r.complained) >= complainEvery {
		r.log.Warn("spans are lost: the collector didn't take them", "spans", r.failures, "error", err)
		r.complained, r.failures = now, 0
	}
}

// Close sends what is there, for as long as wait at most, and drops what comes later.
func (r *Reporter) Close(wait time.Duration) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	ended, running := r.ended, r.running
	r.mu.Unlock()
	close(r.quit)
	if !running {
		return
	}
	timer := time.AfterFunc(wait, func() { close(r.give) })
	<-ended
	timer.Stop()
}
