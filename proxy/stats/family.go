// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of FamilyConfig.
const (
	DefaultSeriesTTL = 30 * time.Minute
	DefaultMaxSeries = 10_000
)

// OverflowLabel is the value of every label of the series that stands for all
// series above a family's cap.
const OverflowLabel = "_overflow"

// FamilyConfig describes a Family.
type FamilyConfig struct {
	// Name names the family in the metrics about itself.
	Name string
	// Labels are the label names, in the order in which they are shown.
	Labels []string
	// TTL is how long a series lives untouched, to within an eighth of it.
	// 0 means DefaultSeriesTTL; below 0, series live forever.
	TTL time.Duration
	// MaxSeries caps the label sets. 0 means DefaultMaxSeries.
	MaxSeries int
}

// Family is a group of metrics with the same labels, such as Istio's four of
// a request. T holds their cells: a struct of Counter, Gauge, Histogram and
// Timing.
//
// Label values come from outside, so their number has a cap, and a label set
// that nobody uses is forgotten. A user resolves a label set with With once,
// keeps the Series, and asks it with Touch before each use.
type Family[T any] struct {
	cfg  FamilyConfig          // immutable
	emit func(*T, SeriesScope) // immutable
	now  atomic.Uint64         // counts sweeps
	over *Series[T]            // immutable pointer; never forgotten

	mu      sync.Mutex
	byKey   map[string]*Series[T] // guarded by mu
	order   []*Series[T]          // the same, oldest first; guarded by mu
	key     []byte                // scratch; guarded by mu
	expired Counter
}

// Series is the metrics of one label set.
type Series[T any] struct {
	// Cells are the metrics' values, safe for concurrent use as they are.
	Cells  T
	values []string       // immutable
	clock  *atomic.Uint64 // the family's now
	used   atomic.Uint64  // sweep at the last Touch, or gone
}

// gone marks a series that was forgotten. No count of sweeps gets there.
const gone = ^uint64(0)

// sweepsPerTTL is how often a family looks for unused series within a TTL.
const sweepsPerTTL = 8

// NewFamily returns a family whose metrics emit reports, one label set at a
// call; the first counter that it reports has to count the uses of a series.
// Add the family to one Registry, and run its Run. No two families may report
// the same name.
func NewFamily[T any](cfg FamilyConfig, emit func(cells *T, s SeriesScope)) *Family[T] {
	if cfg.TTL == 0 {
		cfg.TTL = DefaultSeriesTTL
	}
	if cfg.MaxSeries <= 0 {
		cfg.MaxSeries = DefaultMaxSeries
	}
	f := &Family[T]{cfg: cfg, emit: emit, byKey: map[string]*Series[T]{}}
	f.over = f.newSeries(slices.Repeat([]string{OverflowLabel}, len(cfg.Labels)))
	f.over.used.Store(gone)
	return f
}

func (f *Family[T]) newSeries(values []string) *Series[T] {
	s := &Series[T]{values: values, clock: &f.now}
	s.used.Store(f.now.Load())
	return s
}

// With returns the series of these label values, one for each label in order;
// another number of them is a mistake in the program and panics. Above the
// cap it is the overflow series. values and its strings are kept.
func (f *Family[T]) With(values ...string) *Series[T] {
	if len(values) != len(f.cfg.Labels) {
		panic(fmt.Sprintf("stats: family %s has %d labels, got %d values", f.cfg.Name, len(f.cfg.Labels), len(values)))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.key = f.key[:0]
	for _, v := range values {
		f.key = append(append(f.key, v...), 0xff) // in no UTF-8 text
	}
	if s := f.byKey[string(f.key)]; s != nil {
		s.Touch() // can't fail: what was forgotten is not in the map
		return s
	}
	if len(f.order) >= f.cfg.MaxSeries {
		f.over.used.Store(f.now.Load())
		return f.over
	}
	s := f.newSeries(values)
	f.byKey[string(f.key)] = s
	f.order = append(f.order, s)
	return s
}

// Touch keeps the series alive. It returns false when the series was
// forgotten: what is recorded in it is then lost, and the user asks With for
// another. A series that Touch returned true for stays for at least most of a
// TTL, so nothing recorded right after is lost.
func (s *Series[T]) Touch() bool {
	now := s.clock.Load()
	for {
		used := s.used.Load()
		if used == now {
			return true // all but one request between two sweeps end here
		}
		if used == gone {
			return false
		}
		if s.used.CompareAndSwap(used, now) {
			return true
		}
	}
}

// Alive reports whether the series was not yet forgotten, and doesn't keep it
// from being so.
func (s *Series[T]) Alive() bool { return s.used.Load() != gone }

// Run forgets unused series until ctx ends.
func (f *Family[T]) Run(ctx context.Context) {
	if f.cfg.TTL < 0 {
		<-ctx.Done()
		return
	}
	t := time.NewTicker(max(f.cfg.TTL/sweepsPerTTL, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f.sweep()
		}
	}
}

// sweep forgets the series that nobody touched for a TTL.
func (f *Family[T]) sweep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now.Add(1)
	kept := f.order[:0]
	for _, s := range f.order {
		used := s.used.Load()
		// The exchange fails when somebody has touched it just now.
		if now-used > sweepsPerTTL && s.used.CompareAndSwap(used, gone) {
			f.expired.Inc()
			continue
		}
		kept = append(kept, s)
	}
	if len(kept) == len(f.order) {
		return
	}
	clear(f.order[len(kept):])
	f.order = kept
	for k, s := range f.byKey {
		if s.used.Load() == gone {
			delete(f.byKey, k)
		}
	}
	// There is room again, so those that were sent to the overflow series
	// have to ask anew.
	f.over.used.Store(gone)
}

// Len returns the number of series, without that for the overflow.
func (f *Family[T]) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.order)
}

// CollectStats reports every series, and the metrics about the family itself.
func (f *Family[T]) CollectStats(e *Emitter) {
	f.mu.Lock()
	series := slices.Clone(f.order)
	f.mu.Unlock()
	for _, s := range series {
		f.emit(&s.Cells, e.series(f.cfg.Labels, s.values))
	}
	over := e.series(f.cfg.Labels, f.over.values)
	over.uses = new(uint64)
	f.emit(&f.over.Cells, over)
	f.emitOwn(e, len(series), *over.uses)
}

// emitOwn reports the metrics about the family itself.
func (f *Family[T]) emitOwn(e *Emitter, series int, overflowed uint64) {
	own := []Label{{Name: "family", Value: f.cfg.Name}}
	report := func(name string, kind Kind, v float64) {
		e.Emit(Metric{Name: "stats." + f.cfg.Name + "." + name, Prom: "pillion_stats_" + name, Raw: true,
			Labels: own, Kind: kind, Value: v})
	}
	report("series", KindGauge, float64(series))
	report("series_expired_total", KindCounter, float64(f.expired.Value()))
	report("series_overflowed_uses_total", KindCounter, float64(overflowed))
}
