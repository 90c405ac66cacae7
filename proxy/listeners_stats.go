// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"slices"

	"pillion/proxy/listener"
	"pillion/proxy/stats"
)

// listenerCounts are Envoy's counters of listener_manager.
type listenerCounts struct {
	added, modified, inPlace, removed, stopped stats.Counter
	// created and failed count listeners that were to be opened. Envoy counts them
	// for each of its threads.
	created, failed stats.Counter
}

// count notes what a change did to the listener of a name.
func (c *listenerCounts) count(had, inPlace bool) {
	switch {
	case !had:
		c.added.Inc()
	case inPlace:
		c.modified.Inc()
		c.inPlace.Inc()
	default:
		c.modified.Inc()
	}
	if !inPlace {
		c.created.Inc()
	}
}

// CollectStats reports listener_manager.*, but for what is about resources that
// wait to be served.
func (s *listenerSet) CollectStats(e *stats.Emitter) {
	s.mu.Lock()
	s.pruneLocked()
	active, draining := len(s.bound), len(s.draining)
	s.mu.Unlock()
	for _, c := range []struct {
		name string
		of   *stats.Counter
	}{
		{"listener_added", &s.counts.added}, {"listener_modified", &s.counts.modified}, {"listener_in_place_updated", &s.counts.inPlace},
		{"listener_removed", &s.counts.removed}, {"listener_stopped", &s.counts.stopped},
		{"listener_create_success", &s.counts.created}, {"listener_create_failure", &s.counts.failed},
	} {
		e.Counter("listener_manager."+c.name, "", c.of.Value())
	}
	e.Gauge("listener_manager.total_listeners_active", "", int64(active))
	e.Gauge("listener_manager.total_listeners_draining", "", int64(draining))
}

// connections counts the connections of all listeners, also of those that are gone.
func (s *listenerSet) connections() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.bound {
		n += b.ln.Open()
	}
	for _, ln := range s.draining {
		n += ln.Open()
	}
	return n
}

// pruneLocked forgets the listeners that are gone and whose connections have ended;
// mu is held.
func (s *listenerSet) pruneLocked() {
	s.draining = slices.DeleteFunc(s.draining, func(ln *listener.Listener) bool { return ln.Open() == 0 })
}
