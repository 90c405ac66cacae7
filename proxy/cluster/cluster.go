// SPDX-License-Identifier: Apache-2.0

// Package cluster holds the upstream side of routing: clusters with their
// hosts, the choice of a host, limits, discovery and what outlives a change
// of configuration.
package cluster

import (
	"log/slog"
	"net/netip"

	"pillion/proxy/http"
	"pillion/proxy/pool"
	"pillion/proxy/stats"
)

// Options are what a Manager needs from its surroundings.
type Options struct {
	Logger *slog.Logger
	// SelfAddr reports whether an address is one of the proxy's own
	// listeners; ORIGINAL_DST clusters refuse those.
	SelfAddr func(netip.AddrPort) bool
}

// Manager owns all clusters.
type Manager struct{}

// NewManager returns a manager without clusters.
func NewManager(o Options) *Manager { panic("skeleton") }

// Slot returns the stable handle of a name, made on demand.
func (m *Manager) Slot(name string) *Slot { panic("skeleton") }

// Apply makes cfgs the set of clusters.
func (m *Manager) Apply(cfgs []*Config) error { panic("skeleton") }

// SetEndpoints replaces the hosts of an EDS cluster.
func (m *Manager) SetEndpoints(cluster string, eps []Endpoint) { panic("skeleton") }

// Clusters returns all clusters, sorted by name.
func (m *Manager) Clusters() []*Cluster { panic("skeleton") }

// Close drains all clusters and ends all work in the background.
func (m *Manager) Close() { panic("skeleton") }

// Slot is the stable handle of a cluster's name.
type Slot struct{}

// Name returns the cluster's name.
func (s *Slot) Name() string { panic("skeleton") }

// Load returns the cluster, nil if there is none now.
func (s *Slot) Load() *Cluster { panic("skeleton") }

// Cluster is a set of hosts that serve the same.
type Cluster struct {
	Stats *Stats
}

// Stats are a cluster's counters.
type Stats struct {
	UpstreamRqTotal, UpstreamRqCompleted stats.Counter
}

// PickArgs is what the choice of a host depends on.
type PickArgs struct {
	Hash        uint64
	HasHash     bool
	Avoid       []*Host
	Authority   []byte
	OriginalDst string
	Random      uint64
}

// Host is one host of a cluster.
type Host struct {
	Facts *http.HostFacts
	*hostState
}

type hostState struct{ Stats HostStats }

// HostStats are a host's counters.
type HostStats struct{ CxConnectFail, CxTotal, RqError, RqSuccess, RqTimeout, RqTotal stats.Counter }

// ReportStatus reports an answer of the host.
func (h *Host) ReportStatus(code int) { panic("skeleton") }

// ReportFailure reports an attempt that got no answer.
func (h *Host) ReportFailure(kind http.Kind) { panic("skeleton") }

// Pick chooses a host; nil if no healthy one exists.
func (c *Cluster) Pick(a *PickArgs) *Host { panic("skeleton") }

// AdmitRequest takes one of max_requests; ReleaseRequest gives it back.
func (c *Cluster) AdmitRequest() bool { panic("skeleton") }

// ReleaseRequest gives back what AdmitRequest took.
func (c *Cluster) ReleaseRequest() { panic("skeleton") }

// AdmitRetry takes one retry of max_retries or the budget.
func (c *Cluster) AdmitRetry() bool { panic("skeleton") }

// ReleaseRetry gives back what AdmitRetry took.
func (c *Cluster) ReleaseRetry() { panic("skeleton") }

// Acquire returns a connection to h for one request.
func (c *Cluster) Acquire(h *Host, deadline int64, cancel <-chan struct{}, method http.Method) (*pool.Conn, *http.Error) {
	panic("skeleton")
}

// Put gives a connection back, or closes it.
func (c *Cluster) Put(pc *pool.Conn, reusable bool) { panic("skeleton") }
