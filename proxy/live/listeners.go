// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"pillion/proxy/config"
	"pillion/proxy/pool"
)

// listenerRun is what runs of a listener.
type listenerRun struct {
	unit *config.Unit // what is served, nil if nothing is
	next *config.Unit // what waits to be, nil if nothing does
	// again says that next is the listener that unit is, with other configurations of
	// filters.
	again bool
	// older is the listener that unit is, with such, while next waits on: it is served
	// with the next commit. nil if there is none.
	older *config.Unit
}

// listenerTaker is the Sink as a taker of listeners.
type listenerTaker Sink

// take implements taker. It is all or nothing: a listener with a policy that isn't
// understood is never served without it.
func (t *listenerTaker) take(e *entry[listenerRun], body []byte) error {
	s := (*Sink)(t)
	unit, err := s.compileListener(e.name, body)
	if err != nil {
		return err
	}
	s.warn(s.listeners.word, e.name, unit.Warnings)
	s.forgo(&e.run.next)
	e.run.next, e.run.again = unit, false
	s.stale |= staleListener
	e.wait("")
	s.warmListeners[e] = true
	return nil
}

// compileListener compiles a listener with the routes that have come already.
func (s *Sink) compileListener(name string, body []byte) (*config.Unit, error) {
	in := &listenerv3.Listener{}
	if err := decode(body, in, name, in.GetName); err != nil {
		return nil, err
	}
	u, err := s.compiler.Listener(in)
	if err != nil {
		return nil, err
	}
	if err := s.routeUnit(u); err != nil {
		s.compiler.Release(u)
		return nil, err
	}
	return u, nil
}

// routeUnit gives the unit's connection managers the routes that have come already.
func (s *Sink) routeUnit(u *config.Unit) error {
	for _, p := range u.Places {
		r := s.routes.all[p.Name]
		if p.Name == "" || p.Published() || r == nil || !r.good.is() {
			continue
		}
		b, err := s.compiler.Table(p, r.good.body)
		if err != nil {
			return fmt.Errorf("route configuration %s: %w", p.Name, err)
		}
		b.Publish() // nobody reads the place yet
	}
	return nil
}

// drop implements taker.
func (t *listenerTaker) drop(e *entry[listenerRun]) {
	s := (*Sink)(t)
	s.forgo(&e.run.next)
	s.forgo(&e.run.older)
	if e.run.unit != nil {
		s.pending.gone = append(s.pending.gone, e.name)
		s.pending.free = append(s.pending.free, e.run.unit)
	}
	delete(s.warmListeners, e)
	delete(s.lacking, e)
	delete(s.listeners.all, e.name)
	s.stale |= staleListener
}

// forgo forgets a unit that is not to be served, if there is one.
func (s *Sink) forgo(u **config.Unit) {
	if *u != nil {
		s.compiler.Release(*u)
		*u = nil
	}
}

// missing says what a unit lacks of what it names; empty if it lacks nothing.
func (s *Sink) missing(u *config.Unit) string {
	var parts []string
	for _, p := range u.Places {
		if p.Name != "" && !p.Published() && !slices.Contains(parts, "route configuration "+p.Name) {
			parts = append(parts, "route configuration "+p.Name)
		}
	}
	for _, name := range served(u.Secrets) {
		select {
		case <-s.o.Env.Secrets.Secret(name).Ready():
		default:
			parts = append(parts, "secret "+name)
		}
	}
	for _, x := range u.Extensions {
		if s.lacksExtension(x) {
			parts = append(parts, "extension configuration "+x.Name)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "no " + strings.Join(parts, ", ") + " yet"
}

// commitListeners serves the listeners that wait for nothing any more, and those that
// have waited for long enough and have no older version.
func (s *Sink) commitListeners() error {
	for e := range s.lacking {
		if s.missing(e.run.unit) == "" {
			delete(s.lacking, e)
			if !e.warm {
				e.waits = ""
			}
		}
	}
	ready := s.readyListeners()
	if len(ready)+len(s.pending.gone) == 0 {
		return nil
	}
	put := make([]*config.Listener, len(ready))
	for i, e := range ready {
		u := e.run.due()
		u.Publish()
		put[i] = u.Listener
	}
	failed := s.o.Listeners.Update(put, s.pending.gone)
	var errs []error
	for _, e := range ready {
		if err := failed[e.name]; err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", s.listeners.word, e.name, err))
			s.unserved(e, err)
			continue
		}
		s.serveListener(e)
	}
	for _, u := range s.pending.free {
		s.compiler.Release(u)
	}
	s.pending.gone, s.pending.free = nil, nil
	if err := s.compiler.Settled(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// readyListeners returns those of which something is to be served now, in the order of
// their names.
func (s *Sink) readyListeners() (ready []*entry[listenerRun]) {
	for e := range s.warmListeners {
		what := s.missing(e.run.next)
		e.wait(what)
		waits := what != "" && !e.run.again && (e.run.unit != nil || time.Since(e.since) < s.o.WarmFor)
		if !waits {
			s.forgo(&e.run.older)
		} else if e.run.older == nil {
			continue
		}
		ready = append(ready, e)
	}
	slices.SortFunc(ready, func(a, b *entry[listenerRun]) int { return strings.Compare(a.name, b.name) })
	return ready
}

// due is what of a listener is to be served now.
func (r *listenerRun) due() *config.Unit {
	if r.older != nil {
		return r.older
	}
	return r.next
}

// serveListener notes that what was due is served.
func (s *Sink) serveListener(e *entry[listenerRun]) {
	if e.run.older != nil { // next waits on
		s.pending.free = append(s.pending.free, e.run.unit)
		e.run.unit, e.run.older = e.run.older, nil
		return
	}
	waits, since := e.waits, e.since
	if e.run.unit != nil {
		s.pending.free = append(s.pending.free, e.run.unit)
	}
	e.run.unit, e.run.next, e.run.again = e.run.next, nil, false
	delete(s.warmListeners, e)
	e.serve()
	s.stale |= staleListener
	delete(s.lacking, e)
	if waits != "" {
		e.waits, e.since = waits+", served without", since
		s.lacking[e] = true
		s.o.Logger.Warn("a listener is served without all that it names", "listener", e.name, "reason", waits, "waited", s.o.WarmFor)
	}
}

// unserved goes back to what was served before a listener that can't be bound.
func (s *Sink) unserved(e *entry[listenerRun], why error) {
	if e.run.older != nil {
		s.forgo(&e.run.older)
		return
	}
	bad := e.good
	e.good = e.served
	s.compiler.Release(e.run.next)
	e.run.next, e.run.again = nil, false
	delete(s.warmListeners, e)
	e.serve()
	s.stale |= staleListener
	s.listeners.refuse(e, bad, why)
	s.unbound = true
}

// wantedALPN is what the listeners have connections to hosts offer. Istio gives
// all of them the same; the first one by name decides, so that the order in which they
// come does not.
func (s *Sink) wantedALPN() *pool.ALPN {
	first, out := "", (*pool.ALPN)(nil)
	for name, e := range s.listeners.all {
		if u := e.run.unit; u != nil && u.ALPN != nil && (out == nil || name < first) {
			first, out = name, u.ALPN
		}
	}
	return out
}
