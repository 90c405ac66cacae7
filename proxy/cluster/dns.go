// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Resolver finds the addresses of names. *net.Resolver is one.
type Resolver interface {
	// LookupNetIP is net.Resolver's: network is "ip", "ip4" or "ip6".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	// lookupTimeout bounds one look-up in the background.
	lookupTimeout = 10 * time.Second
	// maxLookups bounds look-ups at a time: a mesh may have thousands of
	// names, all to be resolved at the start.
	maxLookups = 32
	// maxNotFound is how often in a row a name has to be unknown until its
	// last good addresses are given up. Servers that restart say "no such
	// name" of names that they will know again.
	maxNotFound = 3
)

// dnsTable resolves names for all clusters, each name once. The last good
// answer is kept while look-ups fail.
type dnsTable struct {
	resolver Resolver     // immutable
	logger   *slog.Logger // immutable
	ctx      context.Context
	stop     context.CancelFunc

	mu      sync.Mutex
	names   map[dnsKey]*dnsName // guarded by mu; those with subscribers
	workers int                 // guarded by mu; look-ups in progress
	queue   []*dnsName          // guarded by mu; those that wait for a worker
}

type dnsKey struct {
	host   string
	family Family
}

// dnsName is one name with those who want to know its addresses.
type dnsName struct {
	table *dnsTable     // immutable
	key   dnsKey        // immutable
	first chan struct{} // closed when the first look-up has ended

	// Guarded by table.mu.
	addrs    []netip.Addr // sorted, replaced as a whole
	answered bool         // first is closed
	failures int          // in a row
	unknown  int          // answers "no such name" in a row
	subs     []*dnsSub
	timer    *time.Timer // nil before the first look-up has ended
}

// dnsSub is a cluster's interest in a name.
type dnsSub struct {
	name    *dnsName
	dns     *DNS
	stats   *Stats
	changed func() // called without a lock held
}

func newDNSTable(r Resolver, logger *slog.Logger) *dnsTable {
	t := &dnsTable{resolver: r, logger: logger, names: map[dnsKey]*dnsName{}}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t
}

// close ends all look-ups.
func (t *dnsTable) close() {
	t.stop()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.names {
		if n.timer != nil {
			n.timer.Stop()
		}
	}
	clear(t.names)
}

// subscribe has a name resolved from now on. changed is called after each
// change of the addresses, not for those that are known already.
func (t *dnsTable) subscribe(host string, dns *DNS, stats *Stats, changed func()) *dnsSub {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := dnsKey{host, dns.Family}
	n := t.names[key]
	if n == nil {
		n = &dnsName{table: t, key: key, first: make(chan struct{})}
		t.names[key] = n
		t.start(n)
	}
	s := &dnsSub{name: n, dns: dns, stats: stats, changed: changed}
	n.subs = append(n.subs, s)
	return s
}

// unsubscribe ends a subscription; a name without any is forgotten.
func (s *dnsSub) unsubscribe() {
	n, t := s.name, s.name.table
	t.mu.Lock()
	defer t.mu.Unlock()
	n.subs = slices.DeleteFunc(n.subs, func(o *dnsSub) bool { return o == s })
	if len(n.subs) == 0 && t.names[n.key] == n {
		delete(t.names, n.key)
		if n.timer != nil {
			n.timer.Stop()
		}
	}
}

// addresses returns what the name resolves to, sorted. The slice must not be
// changed.
func (s *dnsSub) addresses() []netip.Addr {
	s.name.table.mu.Lock()
	defer s.name.table.mu.Unlock()
	return s.name.addrs
}

// start has a name looked up, now or when a worker is free. mu is held.
func (t *dnsTable) start(n *dnsName) {
	if t.workers >= maxLookups {
		t.queue = append(t.queue, n)
		return
	}
	t.workers++
	go t.work(n)
}

// work looks names up until none waits.
func (t *dnsTable) work(n *dnsName) {
	for {
		n.lookup()
		t.mu.Lock()
		if len(t.queue) == 0 || t.ctx.Err() != nil {
			t.workers--
			t.queue = nil
			t.mu.Unlock()
			return
		}
		n, t.queue = t.queue[0], t.queue[1:]
		t.mu.Unlock()
	}
}

// lookup resolves the name once and sets the time of the next look-up.
func (n *dnsName) lookup() {
	t := n.table
	t.mu.Lock()
	wanted := len(n.subs) > 0 // or it was given up while it waited for a worker
	t.mu.Unlock()
	if !wanted {
		return
	}
	ctx, stop := context.WithTimeout(t.ctx, lookupTimeout)
	addrs, err := resolve(ctx, t.resolver, n.key.host, n.key.family)
	stop()
	if t.ctx.Err() != nil {
		return
	}
	t.mu.Lock()
	subs := slices.Clone(n.subs)
	before := len(n.addrs)
	event := n.accept(addrs, err)
	if len(subs) > 0 {
		n.again()
	}
	t.mu.Unlock()
	switch event { // logged without the lock, because a log may block
	case dnsFails:
		t.logger.Warn("dns: name does not resolve, the last good answer is kept", "name", n.key.host, "addresses", before, "error", reason(err))
	case dnsGone:
		t.logger.Warn("dns: name is gone, its addresses are given up", "name", n.key.host, "addresses", before)
	case dnsWorksAgain, dnsWorksAnew:
		t.logger.Info("dns: name resolves again", "name", n.key.host, "addresses", len(addrs))
	}
	changed := event == dnsChanged || event == dnsWorksAnew || event == dnsGone
	for _, s := range subs {
		s.count(changed, len(addrs), err)
		if changed {
			s.changed()
		}
	}
}

// dnsEvent is what a look-up means.
type dnsEvent uint8

const (
	dnsNothing    dnsEvent = iota
	dnsChanged             // other addresses
	dnsFails               // the first failure after a success
	dnsWorksAgain          // the first success after a failure, with the old addresses
	dnsWorksAnew           // likewise, with others
	dnsGone                // the addresses were given up
)

func (s *dnsSub) count(changed bool, addrs int, err error) {
	s.stats.UpdateAttempt.Inc()
	switch {
	case err != nil && !notFound(err):
		s.stats.UpdateFailure.Inc()
		return
	case addrs == 0:
		s.stats.UpdateEmpty.Inc()
	}
	s.stats.UpdateSuccess.Inc()
	if !changed {
		s.stats.UpdateNoRebuild.Inc()
	}
}

// accept takes the result of a look-up. table.mu is held.
func (n *dnsName) accept(addrs []netip.Addr, err error) dnsEvent {
	if !n.answered {
		n.answered = true
		close(n.first)
	}
	if err == nil && len(addrs) > 0 {
		failed, changed := n.failures > 0, !slices.Equal(n.addrs, addrs)
		n.failures, n.unknown, n.addrs = 0, 0, addrs
		switch {
		case failed && changed:
			return dnsWorksAnew
		case failed:
			return dnsWorksAgain
		case changed:
			return dnsChanged
		}
		return dnsNothing
	}
	n.failures++
	n.unknown++
	if !notFound(err) {
		n.unknown = 0
	}
	if n.unknown >= maxNotFound && n.addrs != nil {
		n.addrs = nil
		return dnsGone
	}
	if n.failures == 1 {
		return dnsFails
	}
	return dnsNothing
}

// again sets the timer for the next look-up by the most demanding of the
// subscribers. table.mu is held.
func (n *dnsName) again() {
	wait, jitter := time.Duration(0), time.Duration(0)
	for _, s := range n.subs {
		w := s.dns.Refresh
		if n.failures > 0 {
			w = s.dns.FailureMax
			// Doubled for each failure; few doublings reach any maximum.
			if shift := min(n.failures-1, 20); s.dns.FailureBase<<shift < w {
				w = s.dns.FailureBase << shift
			}
		}
		if wait == 0 || w < wait {
			wait, jitter = w, s.dns.Jitter
		}
	}
	wait = max(wait, time.Second)
	// Names that were first resolved together should not stay together.
	wait += rand.N(max(jitter, wait/20))
	if n.timer == nil {
		n.timer = time.AfterFunc(wait, func() {
			n.table.mu.Lock()
			defer n.table.mu.Unlock()
			n.table.start(n)
		})
		return
	}
	n.timer.Reset(wait)
}

// warm waits until each name was looked up at least once.
func (t *dnsTable) warm(ctx context.Context) error {
	t.mu.Lock()
	names := make([]*dnsName, 0, len(t.names))
	for _, n := range t.names {
		names = append(names, n)
	}
	t.mu.Unlock()
	for _, n := range names {
		select {
		case <-n.first:
		case <-ctx.Done():
			return errors.New("dns: still waiting for the addresses of " + n.key.host)
		}
	}
	return nil
}

// resolve returns the addresses of a family, sorted.
func resolve(ctx context.Context, r Resolver, host string, f Family) ([]netip.Addr, error) {
	network := "ip"
	switch f {
	case FamilyV4Only:
		network = "ip4"
	case FamilyV6Only:
		network = "ip6"
	}
	addrs, err := r.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, err
	}
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	addrs = append(v6, v4...)
	switch {
	case f == FamilyAuto && len(v6) > 0, f == FamilyV6Only:
		addrs = v6
	case f == FamilyV4Preferred && len(v4) > 0, f == FamilyV4Only:
		addrs = v4
	}
	slices.SortFunc(addrs, func(a, b netip.Addr) int { return cmp.Or(cmp.Compare(a.BitLen(), b.BitLen()), a.Compare(b)) })
	return slices.Compact(addrs), nil
}

func notFound(err error) bool {
	var de *net.DNSError
	return err == nil || errors.As(err, &de) && de.IsNotFound
}

func reason(err error) string {
	if err == nil {
		return "no address of the wanted family"
	}
	return err.Error()
}
