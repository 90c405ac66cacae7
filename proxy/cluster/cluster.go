// SPDX-License-Identifier: Apache-2.0

// Package cluster holds the upstream side of routing: clusters with their
// hosts, the choice of a host, limits, discovery, and what outlives a change
// of configuration.
//
// # What is shared and what is replaced
//
// A Manager finds clusters by name. A route keeps a Slot, the stable handle
// of a name, and loads the Cluster through it for each request. A Cluster
// lives as long as its name is configured, and so do its limits, counters
// and connections; its Config is replaced. Hosts are found by address in the
// same way: a Host describes an address as configured, and shares its
// connections, outlier tallies and counters with all earlier and later
// descriptions of it.
//
// The request path reads a cluster's hosts through one atomic pointer to an
// immutable set, and changes nothing but atomics.
package cluster

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/outlier"
	"pillion/proxy/pool"
)

// Cluster is a set of hosts that serve the same.
type Cluster struct {
	// Stats are the counters. Immutable pointer.
	Stats *Stats

	manager *Manager // immutable
	name    string   // immutable
	// original makes the hosts of an ORIGINAL_DST cluster; nil for all others.
	// Immutable: a cluster whose type changes from or to it is a new one.
	original *originalDst

	config   atomic.Pointer[Config] // without Endpoints
	hosts    atomic.Pointer[hostSet]
	detector atomic.Pointer[outlier.Detector] // nil without outlier detection
	group    pool.Group
	requests breaker
	retries  breaker
	turn     atomic.Uint64 // of ROUND_ROBIN

	mu     sync.Mutex  // held while hosts or settings change
	list   []*Host     // guarded by mu; as in hosts
	dns    *discovery  // guarded by mu; nil unless names are resolved
	slow   *time.Timer // guarded by mu; rebuilds while hosts are in slow start
	closed bool        // guarded by mu
}

// newCluster returns a cluster without hosts; update gives it some.
func newCluster(m *Manager, cfg *Config) *Cluster {
	c := &Cluster{Stats: &Stats{}, manager: m, name: cfg.Name}
	if cfg.Discovery == OriginalDst {
		c.original = &originalDst{}
	}
	c.group.Init(&cfg.Conn, &c.Stats.Stats, m.sweeper, m.opts.Dial)
	// Not all proxies of a mesh should begin with the same host.
	c.turn.Store(m.opts.Random())
	c.config.Store(cfg)
	c.hosts.Store(newHostSet(&cfg.Balance, nil, 0))
	return c
}

// Name returns the cluster's name.
func (c *Cluster) Name() string { return c.name }

// Config returns the current configuration, without Endpoints.
func (c *Cluster) Config() *Config { return c.config.Load() }

// Acquire returns a connection to h for one request to authority, to be given back
// by Put. It waits until deadline (a time of http.Now, 0 for no bound) or until
// cancel is closed. It doesn't allocate when an idle connection is reused.
func (c *Cluster) Acquire(h *Host, authority []byte, deadline int64, cancel <-chan struct{}, method http.Method) (*pool.Conn, *http.Error) {
	return h.pool.For(authority).Acquire(deadline, cancel, method)
}

// AcquireFresh is Acquire for a request that is sent again because the
// connection that it was sent on had been closed by the host: it makes a new
// connection, so that this can't happen twice.
func (c *Cluster) AcquireFresh(h *Host, authority []byte, deadline int64, cancel <-chan struct{}) (*pool.Conn, *http.Error) {
	return h.pool.For(authority).AcquireFresh(deadline, cancel)
}

// Put gives a connection back after its request. With reusable false it is
// closed.
func (c *Cluster) Put(pc *pool.Conn, reusable bool) { pc.Pool().Put(pc, reusable) }

// update makes cfg the cluster's configuration. What it says of hosts and
// limits holds from now on, also for hosts and connections that stay.
func (c *Cluster) update(cfg *Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := *cfg
	kept.Endpoints = nil
	was := c.config.Swap(&kept)
	if was.Discovery != cfg.Discovery && (was.Discovery == LogicalDNS || cfg.Discovery == LogicalDNS) {
		// The connections of a logical host go where its name says, so that
		// its state can't be that of an address.
		c.stopDiscovery()
		c.setHosts(&kept, nil)
	}
	c.group.Update(&kept.Conn)
	c.updateOutlier(&kept)
	switch cfg.Discovery {
	case StrictDNS, LogicalDNS:
		c.discover(cfg)
		return
	case OriginalDst:
		if was.Original.port() != cfg.Original.port() {
			c.original.reset()
		}
		return
	}
	c.stopDiscovery()
	if cfg.Discovery == EDS && cfg.Endpoints == nil {
		c.describeAgain(&kept)
		return
	}
	c.setEndpoints(&kept, cfg.Endpoints)
}

// updateOutlier makes, changes or turns off outlier detection. mu is held.
func (c *Cluster) updateOutlier(cfg *Config) {
	d := c.detector.Load()
	switch {
	case d != nil:
		d.Update(cfg.Outlier)
	case cfg.Outlier != nil && c.original == nil:
		c.detector.Store(outlier.New(cfg.Outlier, outlier.Options{Cluster: c.name, Logger: c.manager.opts.Logger, Changed: c.rebuild}))
		c.setMembers()
	}
}

// setMembers tells outlier detection which hosts there are. mu is held.
func (c *Cluster) setMembers() {
	d := c.detector.Load()
	if d == nil {
		return
	}
	members := make([]outlier.Member, len(c.list))
	for i, h := range c.list {
		members[i] = outlier.Member{Host: &h.outlier, Address: h.Facts.Address}
	}
	d.SetMembers(members)
}

// setEndpoints replaces the hosts of a cluster whose endpoints have
// addresses. mu is held.
func (c *Cluster) setEndpoints(cfg *Config, eps []Endpoint) {
	old, list := newIndex(c.list, 0), newIndex(nil, len(eps))
	for i := range eps {
		e := &eps[i]
		// An address that is listed twice counts once, as in Envoy.
		if list.find(e.Address) == nil {
			list.add(c.newHost(cfg, old.find(e.Address), e, pool.Target{Address: e.Address}))
		}
	}
	c.setHosts(cfg, list.hosts)
}

// index finds hosts by address: most lists are so short that a map would
// cost more than it saves.
type index struct {
	hosts     []*Host
	byAddress map[string]*Host // nil for a short list
}

func newIndex(hosts []*Host, room int) *index {
	x := &index{hosts: hosts}
	if n := max(len(hosts), room); n > 8 {
		x.byAddress = make(map[string]*Host, n)
		for _, h := range hosts {
			x.byAddress[h.Facts.Address] = h
		}
	}
	return x
}

func (x *index) find(address string) *Host {
	if x.byAddress != nil {
		return x.byAddress[address]
	}
	for _, h := range x.hosts {
		if h.Facts.Address == address {
			return h
		}
	}
	return nil
}

func (x *index) add(h *Host) {
	x.hosts = append(x.hosts, h)
	if x.byAddress != nil {
		x.byAddress[h.Facts.Address] = h
	}
}

// describeAgain renews the descriptions of hosts that stay after a change of
// what they have from the cluster. mu is held.
func (c *Cluster) describeAgain(cfg *Config) {
	list := make([]*Host, len(c.list))
	for i, h := range c.list {
		list[i] = c.newHost(cfg, h, h.endpoint(), pool.Target{Address: h.Facts.Address})
	}
	c.setHosts(cfg, list)
}

// endpoint returns what h was made of.
func (h *Host) endpoint() *Endpoint {
	return &Endpoint{Address: h.Facts.Address, Hostname: h.hostname, Peer: h.Facts.Peer, Locality: h.locality,
		Weight: h.weight, Priority: h.priority, Health: h.health, TLS: h.tls, Unusable: h.unusable}
}

// setHosts replaces the hosts. The pools of those that go are drained. mu is
// held.
func (c *Cluster) setHosts(cfg *Config, list []*Host) {
	if slices.Equal(c.list, list) {
		c.rebuildLocked(cfg)
		return
	}
	if retireHosts(c.list, list) {
		c.Stats.MembershipChange.Inc()
	}
	c.list = list
	c.setMembers()
	c.rebuildLocked(cfg)
}

// retireHosts drains the hosts of old that list doesn't have, and reports
// whether the two differ in more than descriptions.
func retireHosts(old, list []*Host) (changed bool) {
	changed = len(old) != len(list)
	if len(old) == 0 {
		return changed
	}
	stays := make(map[*hostState]bool, len(list))
	for _, h := range list {
		stays[h.hostState] = true
	}
	for _, h := range old {
		if !stays[h.hostState] {
			changed = true
			h.pool.Close()
		}
	}
	return changed
}

// rebuild makes a new set of the current hosts, after the health of some has
// changed.
func (c *Cluster) rebuild() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rebuildLocked(c.config.Load())
}

// rebuildLocked publishes a new set. mu is held.
func (c *Cluster) rebuildLocked(cfg *Config) {
	if c.closed {
		return
	}
	now := http.Now()
	c.hosts.Store(newHostSet(&cfg.Balance, c.list, now))
	if cfg.Balance.SlowStart.starting(c.list, now) {
		c.rebuildSoon(cfg.Balance.SlowStart.Window / slowStartSteps)
	}
}

// slowStartSteps is how often weights are renewed within a slow start.
const slowStartSteps = 20

// rebuildSoon has the set rebuilt after a while. mu is held.
func (c *Cluster) rebuildSoon(wait time.Duration) {
	wait = max(wait, 100*time.Millisecond)
	if c.slow == nil {
		c.slow = time.AfterFunc(wait, c.rebuild)
		return
	}
	c.slow.Reset(wait)
}

// close drains the cluster: requests in progress are finished, idle
// connections are closed. Callers that still have the cluster may go on
// using it.
func (c *Cluster) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.dns != nil {
		c.dns.unsubscribe()
	}
	if c.slow != nil {
		c.slow.Stop()
	}
	if d := c.detector.Load(); d != nil {
		d.Close()
	}
	if c.original != nil {
		c.original.close()
	}
	c.group.Close()
}
