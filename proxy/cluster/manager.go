// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"pillion/proxy/pool"
	"pillion/proxy/stats"
)

// Options are what a Manager needs from its surroundings. The zero value is
// complete.
type Options struct {
	Logger *slog.Logger    // nil drops the log
	Stats  *stats.Registry // nil keeps the counters to the Manager
	// SelfAddr reports whether an address is one of the proxy's own
	// listeners; ORIGINAL_DST clusters refuse those. Safe for concurrent use.
	SelfAddr func(netip.AddrPort) bool
	// Resolver finds addresses; nil for Go's own.
	Resolver Resolver
	// Dial makes connections; nil for pool.Dial.
	Dial pool.DialFunc
	// SweepInterval is how often idle connections are looked at; 1 s if 0.
	SweepInterval time.Duration
	// Random returns the place at which ROUND_ROBIN begins; nil for a random
	// one.
	Random func() uint64
}

// Manager owns all clusters. All methods are safe for concurrent use.
type Manager struct {
	opts    Options // immutable, complete
	sweeper *pool.Sweeper
	dns     *dnsTable
	remove  func() // takes the manager out of the registry

	mu       sync.Mutex
	clusters map[string]*Cluster           // guarded by mu
	slots    map[string]weak.Pointer[Slot] // guarded by mu
	counts   managerStats
	warming  atomic.Int64 // clusters that wait to be given to the manager; for metrics
}

// SetWarming tells how many clusters there are that the manager doesn't have yet, because
// what they need has not come.
func (m *Manager) SetWarming(n int) { m.warming.Store(int64(n)) }

// managerStats are the counters below "cluster_manager.".
type managerStats struct{ added, modified, removed, updated stats.Counter }

// NewManager returns a manager without clusters. It must be closed.
func NewManager(o Options) *Manager {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.Random == nil {
		o.Random = rand.Uint64
	}
	o.SweepInterval = cmp.Or(o.SweepInterval, time.Second)
	m := &Manager{opts: o, sweeper: pool.NewSweeper(o.SweepInterval), dns: newDNSTable(o.Resolver, o.Logger),
		clusters: map[string]*Cluster{}, slots: map[string]weak.Pointer[Slot]{}, remove: func() {}}
	if o.Stats != nil {
		m.remove = o.Stats.Add(m)
	}
	return m
}

// Slot is the stable handle of a cluster's name. A route keeps it.
type Slot struct {
	name    string
	cluster atomic.Pointer[Cluster]
}

// Name returns the cluster's name.
func (s *Slot) Name() string { return s.name }

// StatName is what the cluster is called in statistics. Without one it is the name.
func (s *Slot) StatName() string {
	if c := s.Load(); c != nil {
		return c.StatName()
	}
	return s.name
}

// Load returns the cluster, nil if there is none of that name now.
func (s *Slot) Load() *Cluster { return s.cluster.Load() }

// Slot returns the handle of a name, whether such a cluster exists or not.
// The manager forgets handles that nobody keeps.
func (m *Manager) Slot(name string) *Slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.slots[name].Value(); s != nil {
		return s
	}
	s := &Slot{name: name}
	s.cluster.Store(m.clusters[name])
	m.slots[name] = weak.Make(s)
	return s
}

// fill points the handle of a name to c. mu is held.
func (m *Manager) fill(name string, c *Cluster) {
	if s := m.slots[name].Value(); s != nil {
		s.cluster.Store(c)
	}
}

// Get returns the cluster of that name, nil if there is none.
func (m *Manager) Get(name string) *Cluster {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clusters[name]
}

// StatName returns what a cluster is called in metrics, and whether there is one of
// that name.
func (m *Manager) StatName(name string) (string, bool) {
	c := m.Get(name)
	if c == nil {
		return name, false
	}
	return c.statName(c.config.Load()), true
}

// Clusters returns all clusters, sorted by name.
func (m *Manager) Clusters() []*Cluster {
	m.mu.Lock()
	out := make([]*Cluster, 0, len(m.clusters))
	for _, c := range m.clusters {
		out = append(out, c)
	}
	m.mu.Unlock()
	slices.SortFunc(out, func(a, b *Cluster) int { return cmp.Compare(a.name, b.name) })
	return out
}

// Apply makes cfgs the set of clusters. A cluster with an equal Hash is left
// alone; a changed one keeps its hosts' connections, tallies and counters;
// one that is no longer there is drained. It doesn't wait for names to be
// resolved. With an error nothing has changed.
func (m *Manager) Apply(cfgs []*Config) error {
	wanted := make(map[string]bool, len(cfgs))
	for _, cfg := range cfgs {
		if err := cfg.Validate(); err != nil {
			return inCluster(cfg, err)
		}
		if wanted[cfg.Name] {
			return fmt.Errorf("cluster %q is there twice: give each cluster a name of its own", cfg.Name)
		}
		wanted[cfg.Name] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, cfg := range cfgs {
		m.put(cfg)
	}
	for name, c := range m.clusters {
		if !wanted[name] {
			m.drop(name, c)
		}
	}
	m.prune()
	return nil
}

// prune forgets handles that nobody keeps. mu is held.
func (m *Manager) prune() {
	for name, p := range m.slots {
		if p.Value() == nil {
			delete(m.slots, name)
		}
	}
}

// Update adds or changes some clusters and removes others by name, as Apply
// does for all.
func (m *Manager) Update(put []*Config, remove []string) error {
	for _, cfg := range put {
		if err := cfg.Validate(); err != nil {
			return inCluster(cfg, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, cfg := range put {
		m.put(cfg)
	}
	for _, name := range remove {
		if c := m.clusters[name]; c != nil {
			m.drop(name, c)
		}
	}
	if len(remove) > 0 {
		m.prune()
	}
	return nil
}

func inCluster(cfg *Config, err error) error {
	if cfg == nil || cfg.Name == "" {
		return err
	}
	return fmt.Errorf("cluster %q: %w", cfg.Name, err)
}

// put adds or changes one cluster. mu is held.
func (m *Manager) put(cfg *Config) {
	c := m.clusters[cfg.Name]
	switch {
	case c == nil:
		m.counts.added.Inc()
	case cfg.Hash != [16]byte{} && c.config.Load().Hash == cfg.Hash:
		return
	default:
		m.counts.modified.Inc()
		if (c.original != nil) == (cfg.Discovery == OriginalDst) {
			c.update(cfg)
			return
		}
		c.close()
	}
	c = newCluster(m, cfg)
	c.update(cfg)
	m.clusters[cfg.Name] = c
	m.fill(cfg.Name, c)
}

// drop removes one cluster. mu is held.
func (m *Manager) drop(name string, c *Cluster) {
	delete(m.clusters, name)
	m.fill(name, nil)
	c.close()
	m.counts.removed.Inc()
}

// SetEndpoints replaces the hosts of an EDS cluster. Those of other types, and
// unknown clusters, are left alone.
func (m *Manager) SetEndpoints(cluster string, eps []Endpoint) {
	c := m.Get(cluster)
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cfg := c.config.Load()
	if cfg.Discovery != EDS || c.closed {
		return
	}
	c.Stats.UpdateAttempt.Inc()
	c.Stats.UpdateSuccess.Inc()
	if len(eps) == 0 {
		c.Stats.UpdateEmpty.Inc()
	}
	m.counts.updated.Inc()
	c.setEndpoints(cfg, eps)
}

// Warm waits until every name of a DNS cluster was looked up once, with or
// without success. Its error names one that wasn't when ctx ended.
func (m *Manager) Warm(ctx context.Context) error { return m.dns.warm(ctx) }

// Close drains all clusters and ends all work in the background.
func (m *Manager) Close() {
	m.remove()
	m.mu.Lock()
	for name, c := range m.clusters {
		m.drop(name, c)
	}
	m.mu.Unlock()
	m.dns.close()
	m.sweeper.Close()
}

// Validate finds what the rest of the package relies on not to happen. Apply
// refuses what it refuses.
func (cfg *Config) Validate() error {
	if cfg == nil || cfg.Name == "" {
		return errors.New("a cluster has no name")
	}
	if cfg.Balance.Policy == Maglev && cfg.Balance.TableSize != 0 && !isPrime(cfg.Balance.TableSize) {
		return fmt.Errorf("the size of a MAGLEV table must be prime, and %d is not", cfg.Balance.TableSize)
	}
	for i := range cfg.Endpoints {
		if err := cfg.Endpoints[i].validate(cfg.Discovery); err != nil {
			return fmt.Errorf("endpoint %d: %w", i, err)
		}
	}
	return nil
}

func (e *Endpoint) validate(d Discovery) error {
	if d != StrictDNS && d != LogicalDNS {
		if len(e.Address) > 1 && (e.Address[0] == '/' || e.Address[0] == '@') {
			return nil
		}
		if ap, err := netip.ParseAddrPort(e.Address); err != nil || ap.Port() == 0 {
			return fmt.Errorf("address %q is neither ip:port nor the path of a Unix socket", e.Address)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(e.Address)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || host == "" || n == 0 {
		return fmt.Errorf("address %q is not name:port", e.Address)
	}
	return nil
}

func isPrime(n uint64) bool {
	if n < 3 {
		return n == 2
	}
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}
