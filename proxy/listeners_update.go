// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"pillion/proxy/config"
	"pillion/proxy/listener"
)

// Update serves some listeners and ends others. What can't be bound is left as it was, and
// named with the reason. It implements live.Listeners.
func (s *listenerSet) Update(put []*config.Listener, remove []string) map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &staged{want: make(map[string]*config.Listener, len(put)), fresh: map[string]*listener.Listener{}, gone: remove}
	failed := map[string]error{}
	touched := slices.Clone(remove)
	for _, w := range put {
		touched = append(touched, w.Name)
	}
	st.had = s.boundOf(touched)
	for _, w := range put {
		if !s.mayOpen(w) {
			continue
		}
		ln, err := s.openLocked(w, remove)
		if err != nil {
			s.counts.failed.Inc()
			failed[w.Name] = errors.New(strings.TrimPrefix(err.Error(), "listener "+w.Name+": "))
			continue
		}
		st.want[w.Name] = w
		if ln != nil {
			st.fresh[w.Name] = ln
		}
	}
	s.tabulateLocked(st, failed)
	s.commitLocked(st)
	return failed
}

// openLocked returns a new listener for w, nil if the one that has its name can serve it.
// One that is to go and has the address goes now. mu is held.
func (s *listenerSet) openLocked(w *config.Listener, remove []string) (*listener.Listener, error) {
	old := s.bound[w.Name]
	if old != nil && old.where == addressKey(w) {
		return nil, nil
	}
	ln, err := s.open(w.Name, w)
	if err == nil || w.Unbound {
		return ln, err
	}
	freed := false
	for name, b := range s.bound {
		if b.addr == w.Address && b.ln.Bound() && (b == old || slices.Contains(remove, name)) {
			s.removeLocked(name)
			freed = true
		}
	}
	if freed {
		return s.open(w.Name, w)
	}
	return nil, err
}

// tabulateLocked makes the table of all listeners after a change. Of two that have the same
// address the one that is new is left out of the change. mu is held.
func (s *listenerSet) tabulateLocked(st *staged, failed map[string]error) {
	var all []*listener.Listener
	for name, b := range s.bound {
		if st.fresh[name] == nil && !slices.Contains(st.gone, name) {
			all = append(all, b.ln)
		}
	}
	kept := len(all)
	for _, ln := range st.fresh {
		all = append(all, ln)
	}
	var err error
	if st.table, err = listener.NewTable(all); err == nil {
		return
	}
	all = all[:kept]
	for name, ln := range st.fresh {
		table, err := listener.NewTable(append(all, ln))
		if err == nil {
			all, st.table = append(all, ln), table
			continue
		}
		s.counts.failed.Inc()
		failed[name] = fmt.Errorf("address: %w", err)
		ln.Close()
		delete(st.fresh, name)
		delete(st.want, name)
		if b := s.bound[name]; b != nil {
			all = append(all, b.ln)
		}
	}
	if table, err := listener.NewTable(all); err == nil {
		st.table = table
	}
}
