// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"time"

	"pillion/proxy/http"
	"pillion/proxy/outlier"
)

// Status is what the admin endpoint shows of a cluster.
type Status struct {
	Name, ObservabilityName string
	AddedViaAPI             bool
	EDSServiceName          string
	Breakers                BreakerStatus
	// Outlier tells whether outlier detection is on.
	Outlier bool
	Hosts   []HostStatus
}

// BreakerStatus are the limits of the DEFAULT priority. MaxUint32 is no limit.
type BreakerStatus struct {
	MaxConnections, MaxPendingRequests, MaxRequests, MaxRetries uint32
}

// HostStatus is what the admin endpoint shows of a host.
type HostStatus struct {
	// Address is ip:port or the path of a Unix socket.
	Address, Hostname string
	Peer              http.Peer
	Locality          Locality
	Weight            uint32
	Priority          uint8
	// EDSHealth is the configured state, Unusable why the host can't be used
	// although that may be good.
	EDSHealth Health
	Unusable  string
	Healthy   bool
	Outlier   outlier.State

	CxActive, CxIdle, RqActive                                     int64
	CxTotal, CxConnectFail, RqTotal, RqError, RqSuccess, RqTimeout uint64
	// LearnedIdle is the time after which the host was seen to close idle
	// connections; 0 if it wasn't.
	LearnedIdle time.Duration
}

// Status returns the state of now.
func (c *Cluster) Status() Status {
	cfg := c.config.Load()
	s := Status{Name: c.name, ObservabilityName: cfg.StatName, AddedViaAPI: cfg.AddedViaAPI, EDSServiceName: cfg.EDSServiceName,
		Breakers: BreakerStatus{MaxConnections: cfg.Conn.MaxConnections, MaxPendingRequests: cfg.Conn.MaxPending,
			MaxRequests: cfg.Breakers.MaxRequests, MaxRetries: cfg.Breakers.MaxRetries}}
	if s.ObservabilityName == "" {
		s.ObservabilityName = c.name
	}
	d := c.detector.Load()
	s.Outlier = d != nil && cfg.Outlier != nil
	for _, h := range c.Hosts() {
		s.Hosts = append(s.Hosts, h.status(d))
	}
	return s
}

// Hosts returns the hosts in the order of configuration. The slice must not
// be changed.
func (c *Cluster) Hosts() []*Host {
	if c.original != nil {
		return c.original.hosts()
	}
	return c.hosts.Load().all
}

func (h *Host) status(d *outlier.Detector) HostStatus {
	p := &h.pool.Stats
	s := HostStatus{
		Address: h.Facts.Address, Hostname: h.hostname, Peer: h.Facts.Peer, Weight: h.weight, Priority: h.priority,
		EDSHealth: h.health, Unusable: h.unusable, Healthy: h.Healthy(),
		CxActive: p.CxActive.Value(), CxIdle: int64(h.pool.Idle()), RqActive: p.RqActive.Value(),
		CxTotal: p.CxTotal.Value(), CxConnectFail: p.CxConnectFail.Value(), RqTotal: p.RqTotal.Value(),
		RqError: h.Stats.RqError.Value(), RqSuccess: h.Stats.RqSuccess.Value(), RqTimeout: h.Stats.RqTimeout.Value(),
		LearnedIdle: h.pool.LearnedIdle(),
	}
	if h.locality != nil {
		s.Locality = *h.locality
	}
	if d != nil {
		s.Outlier = d.State(&h.outlier)
	}
	return s
}
