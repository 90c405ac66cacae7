// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/config"
	"pillion/proxy/stats"
	"pillion/proxy/xds"
)

// extensionRun is what is served of an extension configuration: nil if nothing is.
type extensionRun struct {
	config *anypb.Any
	// reloads counts how often it was taken, fails how often not.
	reloads, fails uint64
}

// extension returns the configuration of a filter; nil if none has come. mu is held.
func (s *Sink) extension(name string) *anypb.Any {
	if to, is := s.trial[name]; is {
		return to
	}
	if e := s.extensions.all[name]; e != nil {
		return e.run.config
	}
	return nil
}

// lacksExtension reports whether a listener has to wait for the configuration of a filter. One
// that was refused is not waited for if there is another one to serve in its place.
func (s *Sink) lacksExtension(x config.Extension) bool {
	if x.Came || x.AtOnce {
		return false
	}
	e := s.extensions.all[x.Name]
	return e == nil || !e.bad.is() || !x.Default
}

// extensionTaker is the Sink as a taker of extension configurations.
type extensionTaker Sink

// updateExtensions takes one response of extension configurations. Listeners that have
// several of them are compiled once, unless something is refused: which of them it is has
// to be found out one by one then.
func (s *Sink) updateExtensions(u *xds.Update) error {
	defer func() { s.trial = nil }()
	if to := s.changedExtensions(u); len(to) > 1 {
		if made, err := s.remake(to); err == nil {
			s.replaceAll(made)
			s.trial = to // take and drop have no more to do than to note it
		}
	}
	return s.extensions.update(u, (*extensionTaker)(s))
}

// changedExtensions returns what a response changes, nil for what it removes; none if
// some of it can't be read.
func (s *Sink) changedExtensions(u *xds.Update) map[string]*anypb.Any {
	to := map[string]*anypb.Any{}
	for i := range u.Resources {
		r := &u.Resources[i]
		if _, twice := to[r.Name]; twice || s.extensions.holds(s.extensions.all[r.Name], r.Body) {
			continue
		}
		a, err := readExtension(r.Name, r.Body)
		if err != nil {
			return nil
		}
		to[r.Name] = a
	}
	for _, name := range u.Removed {
		if _, both := to[name]; !both && s.extensions.all[name] != nil {
			to[name] = nil
		}
	}
	return to
}

func readExtension(name string, body []byte) (*anypb.Any, error) {
	in := &corev3.TypedExtensionConfig{}
	if err := decode(body, in, name, in.GetName); err != nil {
		return nil, err
	}
	return in.GetTypedConfig(), config.CheckExtension(in)
}

// take implements taker. All listeners with the filter are compiled again: what one of
// them can't be served with is refused, and nothing has changed.
func (t *extensionTaker) take(e *entry[extensionRun], body []byte) error {
	s := (*Sink)(t)
	a, err := readExtension(e.name, body)
	if err == nil {
		err = s.tryExtension(e.name, a)
	}
	if err != nil {
		if !bytes.Equal(e.bad.body, body) { // else it is tried again
			e.run.fails++
		}
		return err
	}
	e.run.config = a
	e.run.reloads++
	return nil
}

// drop implements taker. Its listeners go back to the default, or to answering with
// errors (Envoy: FilterConfigSubscription::onConfigUpdate of removed resources).
func (t *extensionTaker) drop(e *entry[extensionRun]) {
	s := (*Sink)(t)
	if err := s.tryExtension(e.name, nil); err != nil { // it serves on
		s.o.Logger.Error("an extension configuration can't be removed", "name", e.name, "reason", err)
		return
	}
	delete(s.extensions.all, e.name)
}

// tryExtension compiles all listeners that have a filter with another configuration of it.
// It is all or nothing.
func (s *Sink) tryExtension(name string, to *anypb.Any) error {
	if _, done := s.trial[name]; done {
		return nil
	}
	made, err := s.remake(map[string]*anypb.Any{name: to})
	s.replaceAll(made)
	return err
}

// remake compiles all listeners that have one of some filters with other configurations of
// those. It is all or nothing.
func (s *Sink) remake(to map[string]*anypb.Any) ([]remade, error) {
	before := s.trial
	s.trial = to
	defer func() { s.trial = before }()
	var made []remade
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.listeners.all)) {
		l := s.listeners.all[name]
		if u := s.remakeOlder(l, to); u != nil {
			made = append(made, remade{l, u, true})
		}
		if units := l.run.units(); len(units) == 0 || !hasAny(units[len(units)-1], to) {
			continue
		}
		u, err := s.compileListener(name, l.good.body)
		if err == nil {
			if err = checkCame(u, to); err != nil {
				s.compiler.Release(u)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("for listener %s: %w", l.name, err))
			continue
		}
		made = append(made, remade{l, u, false})
	}
	if len(errs) == 0 {
		return made, nil
	}
	for _, m := range made {
		s.compiler.Release(m.unit)
	}
	return nil, errors.Join(errs...)
}

// remakeOlder compiles the version of a listener that is served while a newer one waits. It
// returns nil where there is none, or none to which the configurations are: what is meant for
// the newer one, or is taken away with it, leaves the older one as it is.
func (s *Sink) remakeOlder(l *entry[listenerRun], to map[string]*anypb.Any) *config.Unit {
	now := l.run.unit
	if now == nil || l.run.next == nil || l.run.again || !hasAny(now, to) {
		return nil
	}
	u, err := s.compileListener(l.name, l.served.body)
	if err != nil {
		return nil
	}
	lost := slices.ContainsFunc(now.Extensions, func(x config.Extension) bool {
		return x.Came && !slices.ContainsFunc(u.Extensions, func(o config.Extension) bool { return o.Name == x.Name && o.Came })
	})
	if lost || s.missing(u) != "" {
		s.compiler.Release(u)
		return nil
	}
	return u
}

// hasAny reports whether a listener has one of some filters.
func hasAny(u *config.Unit, of map[string]*anypb.Any) bool {
	return slices.ContainsFunc(u.Extensions, func(x config.Extension) bool { _, is := of[x.Name]; return is })
}

// checkCame refuses a configuration that a listener's filter doesn't take.
func checkCame(u *config.Unit, to map[string]*anypb.Any) error {
	for _, x := range u.Extensions {
		if a := to[x.Name]; a != nil && !x.Came {
			return fmt.Errorf("typed_config: type %s is not among the filter's type_urls", a.GetTypeUrl())
		}
	}
	return nil
}

// remade is a listener that was compiled again.
type remade struct {
	of    *entry[listenerRun]
	unit  *config.Unit
	older bool // it is the version that is served while a newer one waits
}

func (s *Sink) replaceAll(made []remade) {
	for _, m := range made {
		if m.older {
			s.forgo(&m.of.run.older)
			m.of.run.older = m.unit
			continue
		}
		s.replace(m.of, m.unit)
	}
}

// replace has a listener served, or wait, as it was compiled again. How long it has waited
// counts on, and what is served already waits for nothing more.
func (s *Sink) replace(l *entry[listenerRun], u *config.Unit) {
	s.warn(s.listeners.word, l.name, u.Warnings)
	s.stale |= staleListener
	if l.run.next != nil {
		s.forgo(&l.run.next)
		l.run.next = u
		return
	}
	l.run.next, l.run.again = u, true
	l.served = l.good
	since := l.since
	l.wait(l.waits)
	if l.waits != "" {
		l.since = since
	}
	s.warmListeners[l] = true
}

// collectExtensions reports on extension configurations as Envoy does.
func (s *Sink) collectExtensions(e *stats.Emitter) {
	for _, name := range slices.Sorted(maps.Keys(s.extensions.all)) {
		x := s.extensions.all[name]
		prefix := "extension_config_discovery.http_filter." + name + "."
		e.Counter(prefix+"config_reload", "", x.run.reloads)
		e.Counter(prefix+"config_fail", "", x.run.fails)
	}
}
