// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"log/slog"
	"maps"
	"slices"
	"sync"

	"pillion/proxy/config"
	"pillion/proxy/hcm"
	"pillion/proxy/listener"
	"pillion/proxy/stats"
)

// boundListener is a listener with the manager that serves its connections.
type boundListener struct {
	addr   string // as configured
	ln     *listener.Listener
	hcm    *hcm.Manager
	remove func() // takes its metrics out
}

// listenerSet owns all bound listeners by the name of their resource.
type listenerSet struct {
	log      *slog.Logger
	registry *stats.Registry
	tracker  *hcm.Tracker

	mu    sync.Mutex
	bound map[string]*boundListener // guarded by mu
}

func newListenerSet(log *slog.Logger, r *stats.Registry, t *hcm.Tracker) *listenerSet {
	return &listenerSet{log: log, registry: r, tracker: t, bound: map[string]*boundListener{}}
}

// staged is a set of listeners that are bound but not yet served.
type staged struct {
	want  map[string]*config.Listener
	fresh map[string]*listener.Listener // bound for this change
}

// stage binds what is new in want. On an error everything is as before.
func (s *listenerSet) stage(want map[string]*config.Listener) (*staged, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &staged{want: want, fresh: map[string]*listener.Listener{}}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		w := want[name]
		if b := s.bound[name]; b != nil && b.addr == w.Address {
			continue
		}
		ln, err := listener.Listen(name, w.Address, w.Direction, s.log)
		if err != nil {
			st.discard()
			return nil, err
		}
		st.fresh[name] = ln
	}
	return st, nil
}

// discard closes what was bound.
func (st *staged) discard() {
	for _, ln := range st.fresh {
		ln.Close()
	}
}

// commit makes st the set of listeners. It can't fail.
func (s *listenerSet) commit(st *staged) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, w := range st.want {
		b := s.bound[name]
		if ln := st.fresh[name]; ln != nil {
			s.replaceLocked(name, w, ln)
			continue
		}
		b.hcm.Update(w.HCM)
	}
	for name := range s.bound {
		if st.want[name] == nil {
			s.removeLocked(name)
		}
	}
}

// replaceLocked serves w on ln instead of what had its name; mu is held.
func (s *listenerSet) replaceLocked(name string, w *config.Listener, ln *listener.Listener) {
	s.removeLocked(name)
	b := &boundListener{addr: w.Address, ln: ln, hcm: hcm.New(w.HCM, s.tracker)}
	removeListener, removeHCM := s.registry.Add(ln), s.registry.Add(b.hcm)
	b.remove = func() { removeListener(); removeHCM() }
	s.bound[name] = b
	ln.SetHandler(b.hcm)
	ln.Start()
}

func (s *listenerSet) removeLocked(name string) {
	if b := s.bound[name]; b != nil {
		b.ln.Close()
		b.remove()
		delete(s.bound, name)
	}
}

// closeAll stops accepting everywhere. Connections stay open.
func (s *listenerSet) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.bound {
		s.removeLocked(name)
	}
}

// addresses returns the bound addresses by listener name.
func (s *listenerSet) addresses() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]string, len(s.bound))
	for name, b := range s.bound {
		out[name] = b.ln.Addr()
	}
	return out
}

// configured returns the address that a listener was configured with.
func (s *listenerSet) configured(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.bound[name]; b != nil {
		return b.addr
	}
	return ""
}
