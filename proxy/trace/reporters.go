// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"log/slog"
	"sync"
	"time"
	"weak"

	"pillion/proxy/stats"
)

// Counts are the metrics of all reporters of one kind.
type Counts struct {
	// Sent, Lost and Dropped are spans that a collector took, that were sent in vain,
	// and that found no room.
	Sent, Lost, Dropped stats.Counter
	// Batches and Failed are messages; Timed are those that were sent because their
	// first span had waited for long enough.
	Batches, Failed, Timed stats.Counter
}

// Reporters shares reporters between connection managers that have the same collector,
// and over changes of configuration. One that nobody has any more sends what it has
// and is forgotten.
type Reporters struct {
	log *slog.Logger

	// OpenTelemetry and Zipkin are counted apart.
	OpenTelemetry, Zipkin Counts

	mu    sync.Mutex
	byKey map[string]weak.Pointer[Reporter] // guarded by mu; nil after Close
}

// NewReporters returns an empty registry. log hears of collectors that fail.
func NewReporters(log *slog.Logger) *Reporters {
	return &Reporters{log: log, byKey: map[string]weak.Pointer[Reporter]{}}
}

// Get returns the reporter of a key, which stands for all that its collector is made of:
// an earlier one's, or a new one that sends to this collector. most is as for NewReporter.
func (rs *Reporters) Get(key string, counts *Counts, most int, to Collector) *Reporter {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r := rs.byKey[key].Value(); r != nil {
		return r
	}
	r := NewReporter(to, counts, most, rs.log)
	if rs.byKey == nil {
		r.Close(0) // the proxy is ending
		return r
	}
	for k, p := range rs.byKey {
		if p.Value() == nil {
			delete(rs.byKey, k)
		}
	}
	rs.byKey[key] = weak.Make(r)
	return r
}

// Close has all reporters send what they have, for as long as wait at most, and drop
// what comes later.
func (rs *Reporters) Close(wait time.Duration) {
	rs.mu.Lock()
	all := rs.byKey
	rs.byKey = nil
	rs.mu.Unlock()
	var work sync.WaitGroup
	for _, p := range all {
		if r := p.Value(); r != nil {
			work.Go(func() { r.Close(wait) })
		}
	}
	work.Wait()
}

// CollectStats reports the metrics under Envoy's names; spans_lost is ours, as Envoy
// counts them as sent. A kind without spans has none, as with Envoy.
func (rs *Reporters) CollectStats(e *stats.Emitter) {
	if c := &rs.OpenTelemetry; c.any() {
		e.Counter("tracing.opentelemetry.spans_sent", "", c.Sent.Value())
		e.Counter("tracing.opentelemetry.spans_dropped", "", c.Dropped.Value())
		e.Counter("tracing.opentelemetry.spans_lost", "", c.Lost.Value())
		e.Counter("tracing.opentelemetry.timer_flushed", "", c.Timed.Value())
	}
	if c := &rs.Zipkin; c.any() {
		e.Counter("tracing.zipkin.spans_sent", "", c.Sent.Value())
		e.Counter("tracing.zipkin.spans_dropped", "", c.Dropped.Value())
		e.Counter("tracing.zipkin.spans_lost", "", c.Lost.Value())
		e.Counter("tracing.zipkin.timer_flushed", "", c.Timed.Value())
		e.Counter("tracing.zipkin.reports_sent", "", c.Batches.Value())
		e.Counter("tracing.zipkin.reports_failed", "", c.Failed.Value())
	}
}

// any reports whether anything was counted.
func (c *Counts) any() bool {
	return c.Sent.Value()+c.Lost.Value()+c.Dropped.Value()+c.Batches.Value()+c.Failed.Value() > 0
}
