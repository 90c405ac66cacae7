// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"pillion/proxy/http"
	"pillion/proxy/outlier"
	"pillion/proxy/pool"
	"pillion/proxy/stats"
	"pillion/proxy/tls"
)

// Host is one upstream host as a cluster's configuration describes it at one
// time. It is immutable. What changes while the proxy runs (connections,
// tallies, counters) is shared by all Hosts of the same address, so that it
// outlives updates.
type Host struct {
	// Facts is what the layers above know of the host.
	Facts *http.HostFacts
	*hostState

	locality *Locality // nil for none
	hostname string
	tls      *tls.Client // nil for plain connections
	unusable string      // why no request can be sent; empty if it can
	weight   uint32      // at least 1
	priority uint8
	health   Health
}

// hostState is the part of a host that lives on through updates.
type hostState struct {
	// Stats are the counters of the host's results.
	Stats HostStats

	cluster *Cluster // immutable
	added   int64    // http.Now when the host came; immutable
	pool    pool.Pool
	outlier outlier.Host
}

// HostStats are the counters of a host's results, under the names that
// Envoy's admin endpoint gives them. Those of connections are the pool's.
type HostStats struct {
	RqError, RqSuccess, RqTimeout stats.Counter
}

// Same reports whether both are the same host, maybe as seen at different
// times.
func (h *Host) Same(o *Host) bool { return h.hostState == o.hostState }

// Healthy reports whether the host gets requests when the cluster isn't in
// panic.
func (h *Host) Healthy() bool {
	return h.unusable == "" && !h.outlier.Ejected() && (h.health <= HealthHealthy || h.health == HealthDegraded)
}

// ReportStatus reports the status of an answer of the host. It is called
// once for each attempt that got one.
func (h *Host) ReportStatus(code int) {
	if code >= 500 {
		h.Stats.RqError.Inc()
	} else {
		h.Stats.RqSuccess.Inc()
	}
	if d := h.cluster.detector.Load(); d != nil {
		d.Answer(&h.outlier, code)
	}
}

// ReportFailure reports an attempt on the host that got no answer, with the
// kind of its error. Failures that aren't the host's don't count against it.
func (h *Host) ReportFailure(kind http.Kind) {
	switch kind {
	case http.KindTimeout, http.KindIdleTimeout, http.KindMaxDuration:
		h.Stats.RqTimeout.Inc()
	case http.KindConnectFailure, http.KindConnectTimeout, http.KindReset, http.KindStreamReset, http.KindRefused, http.KindPoolReset,
		http.KindUpstreamProtocol, http.KindResolve:
	default:
		return
	}
	h.Stats.RqError.Inc()
	if d := h.cluster.detector.Load(); d != nil {
		// A connect timeout is a failed connection to Envoy, not a late answer.
		d.LocalFailure(&h.outlier, kind == http.KindTimeout || kind == http.KindIdleTimeout || kind == http.KindMaxDuration)
	}
}

// sameWorkload reports whether two endpoints of one address stand for the
// same workload. Addresses of pods are given to other pods later; those must
// not inherit an ejection.
func sameWorkload(a, b *http.Peer) bool {
	return a.Workload == b.Workload && a.Namespace == b.Namespace
}

// describes reports whether h is what e says.
func (h *Host) describes(e *Endpoint, peer *http.Peer) bool {
	return h.Facts.Address == e.Address && h.hostname == e.Hostname && h.unusable == e.Unusable && h.tls == e.TLS && h.weight == max(e.Weight, 1) &&
		h.priority == e.Priority && h.health == e.Health && sameLocality(h.locality, e.Locality) && h.Facts.Peer == *peer
}

func sameLocality(a, b *Locality) bool { return a == b || a != nil && b != nil && *a == *b }

// newHost returns the host that e describes. It is old itself if nothing has
// changed, and shares old's state if it is the same workload.
func (c *Cluster) newHost(cfg *Config, old *Host, e *Endpoint, target pool.Target) *Host {
	peer := e.Peer
	peer.ServiceHost, peer.ServiceName, peer.ServiceNS = cfg.ServiceHost, cfg.ServiceName, cfg.ServiceNamespace
	if old != nil && old.describes(e, &peer) {
		return old
	}
	h := &Host{
		Facts:    &http.HostFacts{ClusterName: cfg.Name, Address: e.Address, Peer: peer},
		locality: e.Locality, hostname: e.Hostname, unusable: e.Unusable, tls: e.TLS,
		weight: max(e.Weight, 1), priority: e.Priority, health: e.Health,
	}
	if old != nil && sameWorkload(&old.Facts.Peer, &peer) {
		h.hostState = old.hostState
		h.pool.Secure(e.TLS)
		return h
	}
	h.hostState = &hostState{cluster: c, added: http.Now()}
	h.pool.Init(&c.group, target)
	h.pool.Secure(e.TLS)
	return h
}
