// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"container/list"
	"context"
	"sync"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// HalfOpen bounds the TLS handshakes that are in progress, each of which holds
// some tens of KiB. One that finds no place waits for it; a client that has held
// one for long without going on loses it, so that clients that never go on
// can't keep others out.
type HalfOpen struct {
	places chan struct{} // one in it for each that is taken

	mu     sync.Mutex
	oldest list.List // of *place, in order of their coming; guarded by mu

	// Evicted counts the handshakes that lost their place.
	Evicted stats.Counter
}

const (
	// MaxHalfOpen is the number of places.
	MaxHalfOpen = 1024
	// patience is how long a place is a client's own.
	patience = time.Second
	// lookEvery is how often those that wait look for such a client.
	lookEvery = 50 * time.Millisecond
)

// place is one handshake in progress.
type place struct {
	since  int64 // http.Now
	cancel context.CancelFunc
	in     *list.Element // nil when the place was lost; guarded by HalfOpen.mu
}

// NewHalfOpen returns a bound of so many handshakes.
func NewHalfOpen(places int) *HalfOpen { return &HalfOpen{places: make(chan struct{}, places)} }

// enter takes a place, nil if there is none before ctx ends. cancel is called if
// the place is lost.
func (h *HalfOpen) enter(ctx context.Context, cancel context.CancelFunc) *place {
	select {
	case h.places <- struct{}{}:
		return h.add(cancel)
	default:
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		h.evict(http.Now())
		select {
		case h.places <- struct{}{}:
			return h.add(cancel)
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (h *HalfOpen) add(cancel context.CancelFunc) *place {
	p := &place{since: http.Now(), cancel: cancel}
	h.mu.Lock()
	p.in = h.oldest.PushBack(p)
	h.mu.Unlock()
	return p
}

// leave gives a place back, once its handshake holds nothing any more.
func (h *HalfOpen) leave(p *place) {
	h.mu.Lock()
	if p.in != nil {
		h.oldest.Remove(p.in)
		p.in = nil
	}
	h.mu.Unlock()
	<-h.places
}

// evict cancels the oldest handshake, if it is old enough; its place is free when
// it has ended.
func (h *HalfOpen) evict(now int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := h.oldest.Front()
	if first == nil {
		return
	}
	p := first.Value.(*place)
	if now-p.since < int64(patience) {
		return
	}
	h.oldest.Remove(first)
	p.in = nil
	p.cancel()
	h.Evicted.Inc()
}

// CollectStats implements stats.Collector.
func (h *HalfOpen) CollectStats(e *stats.Emitter) {
	e.Emit(stats.Metric{Name: "pillion.tls.handshakes_active", Prom: "pillion_tls_handshakes_active", Raw: true,
		Kind: stats.KindGauge, Value: float64(len(h.places))})
	e.Emit(stats.Metric{Name: "pillion.tls.handshakes_evicted", Prom: "pillion_tls_handshakes_evicted_total", Raw: true,
		Value: float64(h.Evicted.Value())})
}
