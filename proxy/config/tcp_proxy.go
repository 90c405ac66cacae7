// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"math"
	"time"

	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"pillion/proxy/filter"
	"pillion/proxy/stats"
	"pillion/proxy/tcp"
)

// tcpFields are the fields of a TcpProxy that mean something here.
var tcpFields = fieldSet("stat_prefix", "cluster", "weighted_clusters", "idle_timeout", "access_log", "max_connect_attempts", "hash_policy",
	"max_downstream_connection_duration")

func (c *Compiler) compileTCP(s *Snapshot, m *tcpv3.TcpProxy, filters []filter.ConnectionFilter) (*tcp.Config, error) {
	if err := onlyFields(m, tcpFields); err != nil {
		return nil, err
	}
	if m.GetStatPrefix() == "" {
		return nil, fmt.Errorf("stat_prefix: is required")
	}
	cfg := &tcp.Config{
		StatPrefix:         m.GetStatPrefix(),
		IdleTimeout:        tcp.DefaultIdleTimeout,
		MaxConnectAttempts: 1,
		Filters:            filters,
		Stats:              c.filters.tcpStats(m.GetStatPrefix()),
	}
	if d := m.GetIdleTimeout(); d != nil {
		cfg.IdleTimeout = d.AsDuration()
	}
	if d := m.GetMaxDownstreamConnectionDuration(); d != nil {
		if d.AsDuration() < time.Millisecond { // Envoy's bound
			return nil, fmt.Errorf("max_downstream_connection_duration: must be at least 1ms")
		}
		cfg.MaxDuration = d.AsDuration()
	}
	if n := m.GetMaxConnectAttempts(); n != nil {
		if n.GetValue() == 0 || n.GetValue() > math.MaxInt32 {
			return nil, fmt.Errorf("max_connect_attempts: must be at least 1")
		}
		cfg.MaxConnectAttempts = int(n.GetValue())
	}
	var err error
	if cfg.Targets, err = c.tcpTargets(m); err != nil {
		return nil, err
	}
	if cfg.HashSourceIP, err = hashesSource(m.GetHashPolicy()); err != nil {
		return nil, err
	}
	if cfg.AccessLogs, err = c.accessLogs(s, m.GetAccessLog()); err != nil {
		return nil, fmt.Errorf("access_log%w", err)
	}
	return cfg, nil
}

func (c *Compiler) tcpTargets(m *tcpv3.TcpProxy) ([]tcp.Target, error) {
	if name := m.GetCluster(); name != "" {
		return []tcp.Target{{Cluster: c.env.Clusters.Slot(name), Weight: 1}}, nil
	}
	var out []tcp.Target
	total := uint64(0)
	for i, w := range m.GetWeightedClusters().GetClusters() {
		if w.GetMetadataMatch() != nil {
			return nil, fmt.Errorf("weighted_clusters.clusters[%d].metadata_match: is not supported", i)
		}
		if w.GetName() == "" {
			return nil, fmt.Errorf("weighted_clusters.clusters[%d].name: is required", i)
		}
		total += uint64(w.GetWeight())
		out = append(out, tcp.Target{Cluster: c.env.Clusters.Slot(w.GetName()), Weight: w.GetWeight()})
	}
	switch {
	case len(out) == 0:
		return nil, fmt.Errorf("cluster: or weighted_clusters is required")
	case total == 0:
		return nil, fmt.Errorf("weighted_clusters: no cluster has a weight")
	case total > math.MaxUint32:
		return nil, fmt.Errorf("weighted_clusters: the weights are more than %d together", uint32(math.MaxUint32))
	}
	return out, nil
}

// hashesSource reports whether the client's address chooses the host. As with
// Envoy one policy may be given.
func hashesSource(list []*typev3.HashPolicy) (bool, error) {
	for i, p := range list {
		if p.GetSourceIp() == nil || i > 0 {
			return false, fmt.Errorf("hash_policy[%d]: only one policy, source_ip, is supported", i)
		}
	}
	return len(list) > 0, nil
}

// tcpStats returns the counters of a stat_prefix.
func (f *filterState) tcpStats(prefix string) *tcp.Stats {
	s := f.tcp[prefix]
	if s == nil {
		s = &tcp.Stats{}
		f.tcp[prefix] = s
		f.registry.Add(stats.SourceFunc(func(e *stats.Emitter) { s.Collect(e, prefix) }))
	}
	return s
}
