// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"pillion/proxy/accesslog"
	"pillion/proxy/config"
	"pillion/proxy/hcm"
	"pillion/proxy/http"
	"pillion/proxy/listener"
	"pillion/proxy/stats"
	"pillion/proxy/tcp"
)

// boundListener is a listener with the managers that serve its connections.
type boundListener struct {
	where   string // addressKey of its configuration
	addr    string // as configured
	inbound bool
	ln      *listener.Listener
	serves  *config.Listener         // what it was told last
	hcms    map[string]*boundManager // by the name of their chain
	tcps    map[string]*boundTCP     // the same
	remove  func()                   // takes its metrics out
}

// boundManager is the connection manager of one filter chain.
type boundManager struct {
	*hcm.Manager
	gate   [16]byte // of the chain
	remove func()   // takes its metrics out
}

// boundTCP is what serves the raw connections of one filter chain.
type boundTCP struct {
	*tcp.Proxy
	gate [16]byte // of the chain
}

// listenerSet owns all bound listeners by the name of their resource.
type listenerSet struct {
	log      *slog.Logger
	connLog  *slog.Logger // of handshakes
	registry *stats.Registry
	trackers trackers
	sniffed  listener.InspectorStats
	counts   listenerCounts
	halfOpen *listener.HalfOpen

	// dispatch is where redirected connections find the listener that they are for.
	dispatch listener.Dispatch
	// lookup is as listener.Original has it. Immutable.
	lookup func(nc net.Conn) (netip.AddrPort, bool)

	mu    sync.Mutex
	bound map[string]*boundListener // guarded by mu
	// draining are those that are gone and had connections then; guarded by mu.
	draining []*listener.Listener
	// closed is set when no connection is to be accepted any more, whatever
	// configuration says; noInbound when no inbound one is. Guarded by mu.
	closed, noInbound bool
}

// mayOpen reports whether a listener may accept; mu is held.
func (s *listenerSet) mayOpen(w *config.Listener) bool {
	return !s.closed && !(s.noInbound && w.Direction == http.Inbound)
}

// trackers know the open connections, by what serves them.
type trackers struct {
	http *hcm.Tracker
	tcp  *tcp.Tracker
}

// drain lets all connections end until ctx is done.
func (t *trackers) drain(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { t.tcp.Drain(ctx) })
	t.http.Drain(ctx)
	both.Wait()
}

func newListenerSet(log, connLog *slog.Logger, r *stats.Registry, t trackers) *listenerSet {
	s := &listenerSet{log: log, connLog: connLog, registry: r, trackers: t, bound: map[string]*boundListener{}, halfOpen: listener.NewHalfOpen(listener.MaxHalfOpen)}
	r.Add(s)
	r.Add(&s.sniffed)
	r.Add(s.halfOpen)
	return s
}

// staged is a change of listeners that are bound but not yet served.
type staged struct {
	want  map[string]*config.Listener
	gone  []string
	fresh map[string]*listener.Listener // made for this change
	had   map[string]bool               // which of want and gone there were before
	table *listener.Table               // of all, when it is done
}

// addressKey tells where a listener is found, and how: another one has to be made
// when it changes.
func addressKey(w *config.Listener) string {
	return fmt.Sprint(w.Unbound, w.Direction, w.Address, w.Additional)
}

// stage binds what is new in want. On an error everything is as before.
func (s *listenerSet) stage(want map[string]*config.Listener) (*staged, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	want = maps.Clone(want) // a snapshot doesn't change
	st := &staged{want: want, fresh: map[string]*listener.Listener{}}
	maps.DeleteFunc(want, func(_ string, w *config.Listener) bool { return !s.mayOpen(w) })
	all := make([]*listener.Listener, 0, len(want))
	for _, name := range slices.Sorted(maps.Keys(want)) {
		w := want[name]
		if b := s.bound[name]; b != nil && b.where == addressKey(w) {
			all = append(all, b.ln)
			continue
		}
		ln, err := s.open(name, w)
		if err != nil {
			s.counts.failed.Inc()
			st.discard()
			return nil, err
		}
		st.fresh[name] = ln
		all = append(all, ln)
	}
	for name := range s.bound {
		if want[name] == nil {
			st.gone = append(st.gone, name)
		}
	}
	var err error
	if st.table, err = listener.NewTable(all); err != nil {
		st.discard()
		return nil, err
	}
	st.had = s.boundOf(slices.Concat(slices.Collect(maps.Keys(want)), st.gone))
	return st, nil
}

// boundOf returns which of names are bound; mu is held.
func (s *listenerSet) boundOf(names []string) map[string]bool {
	had := make(map[string]bool, len(names))
	for _, name := range names {
		had[name] = s.bound[name] != nil
	}
	return had
}

// open makes a listener, and binds it unless it is to be found by hand-off alone; mu
// is held.
func (s *listenerSet) open(name string, w *config.Listener) (*listener.Listener, error) {
	if w.Unbound {
		return listener.NewUnbound(name, w.Address, w.Direction, s.log, w.Additional...), nil
	}
	var old []*listener.Listener
	for _, b := range s.bound {
		old = append(old, b.ln)
	}
	return listener.ListenAfter(old, name, w.Address, w.Direction, s.log, w.Additional...)
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
	s.commitLocked(st)
}

func (s *listenerSet) commitLocked(st *staged) {
	maps.DeleteFunc(st.want, func(name string, w *config.Listener) bool {
		stays := s.mayOpen(w)
		if ln := st.fresh[name]; ln != nil && !stays {
			ln.Close()
		}
		return !stays
	})
	// Those that are found by hand-off serve before the table names them, and are
	// named until they don't.
	for _, unbound := range []bool{true, false} {
		for name, w := range st.want {
			if w.Unbound != unbound {
				continue
			}
			if ln := st.fresh[name]; ln != nil {
				s.replaceLocked(name, w, ln)
				s.counts.count(st.had[name], false)
				continue
			}
			if s.bound[name].serves != w {
				s.counts.count(true, true)
			}
			s.serveLocked(s.bound[name], w)
		}
		s.dispatch.Store(st.table)
	}
	for _, name := range st.gone {
		s.removeLocked(name)
		if st.had[name] {
			s.counts.removed.Inc()
		}
	}
}

// replaceLocked serves w on ln instead of what had its name; mu is held.
func (s *listenerSet) replaceLocked(name string, w *config.Listener, ln *listener.Listener) {
	s.removeLocked(name)
	b := &boundListener{where: addressKey(w), addr: w.Address, inbound: w.Direction == http.Inbound, ln: ln, hcms: map[string]*boundManager{}, tcps: map[string]*boundTCP{}}
	b.remove = s.registry.Add(ln)
	s.bound[name] = b
	s.serveLocked(b, w)
	ln.Start()
}

// serveLocked has b's connections served as w says; mu is held. Managers are
// found again by the name of their chain, so that connections which are open
// get what is new. Those of raw bytes go on as they were begun. Connections of
// chains that are gone, or that now let in others or otherwise, are drained.
func (s *listenerSet) serveLocked(b *boundListener, w *config.Listener) {
	b.serves = w
	hcms, tcps := b.hcms, b.tcps
	b.hcms, b.tcps = map[string]*boundManager{}, map[string]*boundTCP{}
	handler := func(c *config.Chain) listener.Handler {
		if c.TCP != nil {
			t := &boundTCP{gate: c.Gate}
			if old := tcps[c.Name]; old != nil && old.gate == c.Gate {
				t.Proxy = old.Next(c.TCP)
				delete(tcps, c.Name)
			} else {
				t.Proxy = tcp.New(c.TCP, s.trackers.tcp)
			}
			b.tcps[c.Name] = t
			return s.secure(b, c, t.Proxy)
		}
		m := hcms[c.Name]
		if m == nil {
			m = &boundManager{Manager: hcm.New(c.HCM, s.trackers.http), gate: c.Gate}
			m.remove = s.registry.Add(m.Manager)
		}
		delete(hcms, c.Name)
		b.hcms[c.Name] = m
		if m.gate != c.Gate {
			m.gate = c.Gate
			m.Retire()
		}
		m.Update(c.HCM)
		return s.secure(b, c, m.Handler())
	}
	sw := &listener.Switch{
		Matcher: w.Matcher, TLS: w.SniffTLS, HTTP: w.SniffHTTP, Timeout: w.SniffTimeout, Continue: w.SniffContinue,
		Stats: &b.ln.Stats, Inspectors: &s.sniffed,
	}
	for _, c := range w.Chains {
		sw.Chains = append(sw.Chains, handler(c))
	}
	if w.Default != nil {
		sw.Default = handler(w.Default)
	}
	var h listener.Handler = sw
	if len(w.AccessLogs) > 0 {
		h = &accesslog.Connections{Logs: w.AccessLogs, Next: sw}
	}
	b.ln.SetHandler(h)
	b.ln.SetOriginal(s.original(w))
	retire(hcms, tcps)
}

// retire drains the connections of chains that are gone.
func retire(hcms map[string]*boundManager, tcps map[string]*boundTCP) {
	for _, m := range hcms {
		m.Retire()
		m.remove()
	}
	for _, t := range tcps {
		t.Retire()
	}
}

// original says how connections of a listener are found to be redirected; nil for
// not at all.
func (s *listenerSet) original(w *config.Listener) *listener.Original {
	if !w.Redirected {
		return nil
	}
	o := &listener.Original{Lookup: s.lookup}
	if w.HandOff {
		o.HandOff = &s.dispatch
	}
	return o
}

// secure puts a chain's TLS, if it has some, before what serves it.
func (s *listenerSet) secure(b *boundListener, c *config.Chain, next listener.Handler) listener.Handler {
	if c.TLS == nil {
		return next
	}
	b.ln.ReportTLS(c.TLS.Stats()) // the same for all chains
	return &listener.Secure{TLS: c.TLS, Timeout: c.HandshakeTimeout, Next: next, Stats: &b.ln.Stats, HalfOpen: s.halfOpen, Log: s.connLog}
}

func (s *listenerSet) removeLocked(name string) {
	if b := s.bound[name]; b != nil {
		b.ln.Close()
		b.remove()
		retire(b.hcms, b.tcps)
		delete(s.bound, name)
		s.pruneLocked()
		if b.ln.Open() > 0 {
			s.draining = append(s.draining, b.ln)
		}
	}
}

// closeAll stops accepting everywhere. Connections stay open.
func (s *listenerSet) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for name := range s.bound {
		s.removeLocked(name)
		s.counts.stopped.Inc()
	}
}

// closeInbound stops accepting inbound connections. Those that are open stay.
func (s *listenerSet) closeInbound() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noInbound = true
	for name, b := range s.bound {
		if b.inbound {
			s.removeLocked(name)
			s.counts.stopped.Inc()
		}
	}
}

// addresses returns the bound addresses by listener name. Those that are found by
// hand-off have none: theirs are the addresses of others.
func (s *listenerSet) addresses() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]string, len(s.bound))
	for name, b := range s.bound {
		if b.ln.Bound() {
			out[name] = b.ln.Addr()
		}
	}
	return out
}

// allAddresses returns all addresses that are bound.
func (s *listenerSet) allAddresses() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.bound {
		if b.ln.Bound() {
			out = append(out, b.ln.Addrs()...)
		}
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
