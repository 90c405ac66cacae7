// SPDX-License-Identifier: Apache-2.0

package live

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/config"
	"pillion/proxy/xds"
)

// Listeners serves compiled listeners. Its methods are called one after the
// other.
type Listeners interface {
	// Update serves put, each in the place of what has its name, and ends those that
	// remove names. It returns why some of put can't be served, by name; what
	// had those names before is served on.
	Update(put []*config.Listener, remove []string) map[string]error
}

// Options are what a Sink needs. Env and Listeners have to be given.
type Options struct {
	// Env is what compiled resources are wired to. Its parts must outlive the Sink.
	Env       config.Env
	Listeners Listeners
	Logger    *slog.Logger // nil drops the log

	// WarmFor bounds the wait for what a cluster or a listener needs: 15 s if 0,
	// Envoy's initial_fetch_timeout. KeepFor bounds how long a cluster that the
	// server has removed is kept for what still names it: 10 s if 0.
	WarmFor, KeepFor time.Duration

	// Static are the names of clusters that the proxy has by itself. What the server sends
	// under them is passed over, as Envoy does (ClusterManagerImpl::addOrUpdateCluster).
	Static []string

	// Cache is a folder for the last good configuration; empty: none is kept.
	// Node names whose it is: what another one left there is not served.
	Cache, Node string
	// QuietFor is how long nothing must have come before the cache is written: 5 s
	// if 0.
	QuietFor time.Duration
	// ReadyAfter is how long the server is given to answer before a configuration from
	// the cache counts as complete: 5 s if 0.
	ReadyAfter time.Duration
	// Changed, unless nil, is called after each change of what is served.
	Changed func()
}

// Sink serves what a control plane sends. It is an xds.Sink. All methods are
// safe for concurrent use.
type Sink struct {
	o        Options          // immutable, complete
	compiler *config.Compiler // guarded by mu

	mu         sync.Mutex
	clusters   table[clusterRun]   // guarded by mu, as is all below
	endpoints  table[struct{}]     //
	listeners  table[listenerRun]  //
	routes     table[struct{}]     //
	secrets    table[struct{}]     //
	extensions table[extensionRun] //
	names      table[struct{}]     //

	byEDS map[string][]*entry[clusterRun] // clusters by the names of their assignments
	// warmClusters and warmListeners are those that wait, lacking listeners that are
	// served without all that they name, leaving clusters that are kept although the
	// server has removed them.
	warmClusters  map[*entry[clusterRun]]bool
	warmListeners map[*entry[listenerRun]]bool
	lacking       map[*entry[listenerRun]]bool
	leaving       map[*entry[clusterRun]]bool
	// trial are configurations of filters by name that go before those that are held, nil
	// for none: listeners are compiled with them, to see whether they can be.
	trial map[string]*anypb.Any

	unbound bool            // a listener is refused because its address can't be had
	warned  map[string]bool // warnings that were logged
	pending pending
	stale   uint8  // of which types the names to ask for may have changed
	asks    uint64 // how often they did
	ready   bool   // everything of the first push was there once
	closed  bool
	timer   *time.Timer // of the next deadline
	cache   cache

	// wantMu is held while the subscriber is told, so that it hears of the newest
	// names last. It is taken before mu.
	wantMu     sync.Mutex
	subscriber xds.Subscriber      // guarded by wantMu
	told       map[string][]string // by type; guarded by wantMu
	toldAsks   uint64              // asks as it was told; guarded by wantMu
}

var _ xds.Sink = (*Sink)(nil)

// New returns a Sink that serves nothing. It must be closed.
func New(o Options) *Sink {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.WarmFor = cmp.Or(o.WarmFor, 15*time.Second)
	o.KeepFor = cmp.Or(o.KeepFor, 10*time.Second)
	o.QuietFor = cmp.Or(o.QuietFor, 5*time.Second)
	o.ReadyAfter = cmp.Or(o.ReadyAfter, 5*time.Second)
	s := &Sink{
		o: o, compiler: config.NewCompiler(o.Env),
		clusters:      newTable[clusterRun](ClusterType, "cluster"),
		endpoints:     newTable[struct{}](EndpointType, "endpoints of"),
		listeners:     newTable[listenerRun](ListenerType, "listener"),
		routes:        newTable[struct{}](RouteType, "route configuration"),
		secrets:       newTable[struct{}](SecretType, "secret"),
		extensions:    newTable[extensionRun](ExtensionType, "extension configuration"),
		names:         newTable[struct{}](NameTableType, "name table"),
		byEDS:         map[string][]*entry[clusterRun]{},
		warmClusters:  map[*entry[clusterRun]]bool{},
		warmListeners: map[*entry[listenerRun]]bool{},
		lacking:       map[*entry[listenerRun]]bool{},
		leaving:       map[*entry[clusterRun]]bool{},
		warned:        map[string]bool{},
		told:          map[string][]string{},
	}
	s.secrets.sums = true
	s.endpoints.asked, s.routes.asked, s.secrets.asked, s.extensions.asked = map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	s.compiler.SetExtensions(s.extension)
	return s
}

// Close ends all that the Sink does by itself. What is served stays.
func (s *Sink) Close() {
	s.mu.Lock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.cache.stop()
	s.mu.Unlock()
	s.cache.wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compiler.Close()
}

// Apply takes one response. It implements xds.Sink.
func (s *Sink) Apply(u *xds.Update) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.New("the proxy is ending")
	}
	err := s.apply(u, true)
	s.cache.touch(s)
	s.mu.Unlock()
	s.tellSubscriber()
	if s.o.Changed != nil {
		s.o.Changed()
	}
	return err
}

// apply takes one response, of the server or of the cache. mu is held.
func (s *Sink) apply(u *xds.Update, server bool) (err error) {
	defer s.arm()
	switch u.TypeURL {
	case ClusterType:
		s.clusters.answered = s.clusters.answered || server
		err = s.clusters.update(u, (*clusterTaker)(s))
	case EndpointType:
		err = s.endpoints.update(u, (*endpointTaker)(s))
	case ListenerType:
		s.listeners.answered = s.listeners.answered || server
		err = s.listeners.update(u, (*listenerTaker)(s))
		s.routes.retry((*routeTaker)(s))
		s.extensions.retry((*extensionTaker)(s))
	case RouteType:
		err = s.routes.update(u, (*routeTaker)(s))
		s.listeners.retry((*listenerTaker)(s))
	case SecretType:
		err = s.secrets.update(u, (*secretTaker)(s))
	case ExtensionType:
		err = s.updateExtensions(u)
		s.listeners.retry((*listenerTaker)(s))
		s.routes.retry((*routeTaker)(s))
	case NameTableType:
		err = s.names.update(u, (*nameTaker)(s))
	default:
		return fmt.Errorf("%s: this type was not asked for", u.TypeURL)
	}
	return errors.Join(err, s.commit(u.TypeURL))
}

// pending is what a response has changed and is not served yet.
type pending struct {
	clusters []clusterChange
	hosts    []hostChange
	tables   []*config.Built
	gone     []string       // listeners
	free     []*config.Unit // that are not served any more
}

// commit serves what one response has changed, make before break: clusters, then
// hosts, routes and listeners, and last the removal of clusters that nothing
// names any more. mu is held.
func (s *Sink) commit(typeURL string) error {
	s.commitClusters()
	s.warmUp()
	s.commitClusters() // those that have become warm
	s.commitTables()
	err := s.commitListeners()
	s.offerALPN()
	s.askFor()
	if typeURL != EndpointType {
		s.dropClusters(time.Now())
	}
	s.noteReady()
	return err
}

// bindAgain is how often an address that could not be had is tried again.
const bindAgain = time.Second

// arm sets the timer to the next deadline. mu is held.
func (s *Sink) arm() {
	var next time.Time
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for e := range s.warmClusters {
		sooner(e.since.Add(s.o.WarmFor))
	}
	for e := range s.warmListeners {
		if e.run.unit == nil {
			sooner(e.since.Add(s.o.WarmFor))
		}
	}
	for e := range s.leaving {
		sooner(e.left.Add(s.o.KeepFor))
	}
	if s.unbound {
		sooner(time.Now().Add(bindAgain))
	}
	if at := s.cache.loaded; !s.ready && !at.IsZero() && time.Since(at) < s.o.ReadyAfter {
		sooner(at.Add(s.o.ReadyAfter))
	}
	switch {
	case next.IsZero() || s.closed:
		if s.timer != nil {
			s.timer.Stop()
		}
	case s.timer == nil:
		s.timer = time.AfterFunc(time.Until(next), s.due)
	default:
		s.timer.Reset(time.Until(next))
	}
}

// due does what a deadline asks for.
func (s *Sink) due() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	if s.unbound {
		s.unbound = false
		s.listeners.retry((*listenerTaker)(s))
	}
	if err := s.commit(""); err != nil {
		s.o.Logger.Error("configuration that was accepted can't be served", "reason", err)
	}
	s.arm()
	s.mu.Unlock()
	s.tellSubscriber()
	if s.o.Changed != nil {
		s.o.Changed()
	}
}

// Have returns the names and versions of what is held. It implements xds.Sink.
func (s *Sink) Have(typeURL string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch typeURL {
	case ClusterType:
		return s.clusters.have()
	case EndpointType:
		return s.endpoints.have()
	case ListenerType:
		return s.listeners.have()
	case RouteType:
		return s.routes.have()
	case SecretType:
		return s.secrets.have()
	case ExtensionType:
		return s.extensions.have()
	}
	return nil // a name table has neither name nor version
}

// Status returns what is known of every type, in the order in which a push
// comes.
func (s *Sink) Status() []TypeStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []TypeStatus{s.clusters.status(), s.endpoints.status(), s.listeners.status(), s.routes.status(), s.secrets.status(), s.extensions.status(), s.names.status()}
}

// Answers returns of how many responses of a type something was taken, and of how many
// something was refused: a bad resource doesn't keep the good ones from being served.
func (s *Sink) Answers(typeURL string) (taken, refused uint64) {
	for _, t := range []struct {
		url string
		*counts
	}{{ClusterType, &s.clusters.counts}, {EndpointType, &s.endpoints.counts}, {ListenerType, &s.listeners.counts},
		{RouteType, &s.routes.counts}, {SecretType, &s.secrets.counts}, {ExtensionType, &s.extensions.counts}, {NameTableType, &s.names.counts}} {
		if t.url == typeURL {
			return t.taken.Value(), t.rejected.Value()
		}
	}
	return 0, 0
}

// Subscribe has to told what to ask for, now and whenever that changes.
func (s *Sink) Subscribe(to xds.Subscriber) {
	s.wantMu.Lock()
	s.subscriber = to
	clear(s.told)
	s.toldAsks = 0
	s.wantMu.Unlock()
	s.tellSubscriber()
}

// tellSubscriber tells what to ask for, as far as that has changed.
func (s *Sink) tellSubscriber() {
	s.wantMu.Lock()
	defer s.wantMu.Unlock()
	if s.subscriber == nil {
		return
	}
	s.mu.Lock()
	if s.asks == s.toldAsks {
		s.mu.Unlock()
		return
	}
	s.toldAsks = s.asks
	types := []string{EndpointType, RouteType, SecretType, ExtensionType}
	names := [][]string{sorted(s.endpoints.asked), sorted(s.routes.asked), sorted(s.secrets.asked), sorted(s.extensions.asked)}
	s.mu.Unlock()
	for i, typ := range types {
		if before, was := s.told[typ]; was && slices.Equal(before, names[i]) || !was && len(names[i]) == 0 {
			continue
		}
		s.told[typ] = names[i]
		s.subscriber.Want(typ, names[i])
	}
}

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }
