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
)

// extensionRun is what is served of an extension configuration: nil if nothing is.
type extensionRun struct {
	config *anypb.Any
	// reloads counts how often it was taken, fails how often not.
	reloads, fails uint64
}

// extension returns the configuration of a filter; nil if none has come. mu is held.
func (s *Sink) extension(name string) *anypb.Any {
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

// take implements taker. All listeners with the filter are compiled again: what one of
// them can't be served with is refused, and nothing has changed.
func (t *extensionTaker) take(e *entry[extensionRun], body []byte) error {
	s := (*Sink)(t)
	in := &corev3.TypedExtensionConfig{}
	err := decode(body, in, e.name, in.GetName)
	if err == nil {
		err = config.CheckExtension(in)
	}
	if err == nil {
		err = s.tryExtension(e, in.GetTypedConfig())
	}
	if err != nil {
		if !bytes.Equal(e.bad.body, body) { // else it is tried again
			e.run.fails++
		}
		return err
	}
	e.run.reloads++
	return nil
}

// drop implements taker. Its listeners go back to the default, or to answering with
// errors (Envoy: FilterConfigSubscription::onConfigUpdate of removed resources).
func (t *extensionTaker) drop(e *entry[extensionRun]) {
	s := (*Sink)(t)
	if err := s.tryExtension(e, nil); err != nil { // it serves on
		s.o.Logger.Error("an extension configuration can't be removed", "name", e.name, "reason", err)
		return
	}
	delete(s.extensions.all, e.name)
}

// tryExtension compiles all listeners that have a filter with another configuration of it.
// It is all or nothing.
func (s *Sink) tryExtension(e *entry[extensionRun], to *anypb.Any) error {
	before, known := e.run.config, s.extensions.all[e.name]
	e.run.config, s.extensions.all[e.name] = to, e
	var made []remade
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.listeners.all)) {
		l := s.listeners.all[name]
		if units := l.run.units(); len(units) == 0 || find(units[len(units)-1], e.name) == nil {
			continue
		}
		u, err := s.compileListener(name, l.good.body)
		if err == nil && to != nil && !find(u, e.name).Came {
			s.compiler.Release(u)
			err = fmt.Errorf("typed_config: type %s is not among the filter's type_urls", to.GetTypeUrl())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("for listener %s: %w", l.name, err))
			continue
		}
		made = append(made, remade{l, u})
	}
	if len(errs) == 0 {
		for _, m := range made {
			s.replace(m.of, m.unit)
		}
		return nil
	}
	for _, m := range made {
		s.compiler.Release(m.unit)
	}
	e.run.config = before
	if known == nil {
		delete(s.extensions.all, e.name)
	}
	return errors.Join(errs...)
}

// find returns a filter of a listener, nil if it has none of that name.
func find(u *config.Unit, name string) *config.Extension {
	for i := range u.Extensions {
		if u.Extensions[i].Name == name {
			return &u.Extensions[i]
		}
	}
	return nil
}

// remade is a listener that was compiled again.
type remade struct {
	of   *entry[listenerRun]
	unit *config.Unit
}

// replace has a listener served, or wait, as it was compiled again. How long it has waited
// counts on, and what is served already waits for nothing more.
func (s *Sink) replace(l *entry[listenerRun], u *config.Unit) {
	s.warn(s.listeners.word, l.name, u.Warnings)
	s.stale |= staleListener
	if l.run.next != nil {
		s.compiler.Release(l.run.next)
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
