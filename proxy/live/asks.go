// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"pillion/proxy/config"
)

// Types whose names to ask for may have changed.
const (
	staleEndpoints = 1 << iota
	staleRoutes
	staleSecrets
	staleExtensions
	// staleListener are those that a listener may name.
	staleListener = staleRoutes | staleSecrets | staleExtensions
)

// askFor finds out what is to be asked for. What isn't any more is forgotten: the server
// will not tell of it again.
func (s *Sink) askFor() {
	if s.stale&staleEndpoints != 0 {
		names := make(map[string]bool, len(s.byEDS))
		for n := range s.byEDS {
			names[n] = true
		}
		ask(s, &s.endpoints, names)
	}
	if s.stale&staleRoutes != 0 {
		names := map[string]bool{}
		for _, e := range s.listeners.all {
			for _, u := range e.run.units() {
				for _, p := range u.Places {
					names[p.Name] = true
				}
			}
		}
		delete(names, "")
		ask(s, &s.routes, names)
	}
	if s.stale&staleSecrets != 0 {
		names := map[string]bool{}
		for _, e := range s.listeners.all {
			for _, u := range e.run.units() {
				for _, n := range served(u.Secrets) {
					names[n] = true
				}
			}
		}
		for _, e := range s.clusters.all {
			for _, n := range e.run.secrets {
				names[n] = true
			}
		}
		ask(s, &s.secrets, names)
	}
	if s.stale&staleExtensions != 0 {
		names := map[string]bool{}
		for _, e := range s.listeners.all {
			for _, u := range e.run.units() {
				for _, x := range u.Extensions {
					names[x.Name] = true
				}
			}
		}
		ask(s, &s.extensions, names)
	}
	s.stale = 0
}

func ask[R any](s *Sink, t *table[R], names map[string]bool) {
	if !maps.Equal(t.asked, names) {
		t.forget(names)
		s.asks++
	}
}

// WaitingFor names what keeps the first configuration from being complete, in words
// for a person. It is empty from the time on when everything was there once.
func (s *Sink) WaitingFor() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready {
		return nil
	}
	return s.waits()
}

// ClustersServed reports whether clusters have come, and wait for nothing any more.
func (s *Sink) ClustersServed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return (s.clusters.answered || !s.cache.served.IsZero()) && len(s.warmClusters) == 0
}

// Problems lists what is not as the control plane wants it, in words for a person: what is
// refused, what waits, what is served from the cache.
func (s *Sink) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.waits()
	out = append(out, refused(&s.clusters)...)
	out = append(out, refused(&s.endpoints)...)
	out = append(out, refused(&s.listeners)...)
	out = append(out, refused(&s.extensions)...)
	out = append(out, refused(&s.routes)...)
	return append(out, refused(&s.secrets)...)
}

// maxReasons bounds a list that a person reads.
const maxReasons = 10

// waits says what is waited for.
func (s *Sink) waits() []string {
	var out []string
	switch from := s.cache.served; {
	case s.clusters.answered && s.listeners.answered:
	case !from.IsZero():
		out = append(out, "the control plane has not answered: the configuration of "+from.UTC().Format(time.RFC3339)+" is served from disk")
	case !s.clusters.answered:
		out = append(out, "waiting for clusters from the control plane")
	default:
		out = append(out, "waiting for listeners from the control plane")
	}
	out = append(out, waiting(&s.clusters)...)
	return append(out, waiting(&s.listeners)...)
}

func waiting[R any](t *table[R]) []string {
	var out []string
	for name, e := range t.all {
		if e.waits != "" {
			verb := ""
			if e.warm {
				verb = "warming "
			}
			out = append(out, fmt.Sprintf("%s%s %s: %s since %s", verb, t.word, name, e.waits, time.Since(e.since).Round(time.Second)))
		}
	}
	return few(out)
}

func refused[R any](t *table[R]) []string {
	var out []string
	for name, e := range t.all {
		if e.bad.is() {
			out = append(out, fmt.Sprintf("refused %s %s: %s", t.word, name, e.why))
		}
	}
	return few(out)
}

// few sorts a list and cuts it to what can be read.
func few(list []string) []string {
	slices.Sort(list)
	if n := len(list) - maxReasons; n > 0 {
		list = append(list[:maxReasons], fmt.Sprintf("and %d more", n))
	}
	return list
}

// noteReady notes when the first configuration is complete: when the server has said all,
// or has said nothing for a while and all of the cache is served.
func (s *Sink) noteReady() {
	if s.ready || len(s.warmClusters)+len(s.warmListeners) > 0 {
		return
	}
	if s.clusters.answered && s.listeners.answered {
		s.ready = true
		return
	}
	c := &s.cache
	if c.served.IsZero() || c.lacks || len(s.lacking) > 0 || time.Since(c.loaded) < s.o.ReadyAfter {
		return
	}
	s.ready = true
	s.o.Logger.Warn("ready with the last good configuration on disk: the control plane doesn't answer, and policies may have changed since",
		"of", c.served, "waited", s.o.ReadyAfter)
}

// warn logs what was left out of a resource because it serves all the same.
func (s *Sink) warn(word, name string, warnings []string) {
	for _, w := range warnings {
		text := w
		if !strings.HasPrefix(w, word) {
			text = word + " " + name + ": " + w
		}
		if s.warned[text] || len(s.warned) >= maxWarned {
			continue
		}
		s.warned[text] = true
		s.o.Logger.Warn("configuration", "problem", text)
	}
}

// maxWarned bounds the warnings that are remembered so as not to be repeated.
const maxWarned = 1000

// units returns the listener's versions that are served or are to be.
func (r *listenerRun) units() []*config.Unit {
	return slices.DeleteFunc([]*config.Unit{r.unit, r.next}, func(u *config.Unit) bool { return u == nil })
}
