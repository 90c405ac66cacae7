// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"pillion/proxy/admin"
	"pillion/proxy/cluster"
)

// clusterView shows the clusters to /clusters.
type clusterView struct{ m *cluster.Manager }

func (v clusterView) Clusters() []admin.ClusterStatus {
	all := v.m.Clusters()
	out := make([]admin.ClusterStatus, len(all))
	for i, c := range all {
		out[i] = clusterStatus(c.Status())
	}
	return out
}

// clusterStatus shows one cluster. No request has the priority HIGH, and no breaker is
// there for it, so that no limits are shown, where Envoy shows those of the
// configuration or its defaults.
func clusterStatus(s cluster.Status) admin.ClusterStatus {
	out := admin.ClusterStatus{
		Name:              s.Name,
		ObservabilityName: s.ObservabilityName,
		AddedViaAPI:       s.AddedViaAPI,
		EDSServiceName:    s.EDSServiceName,
		OutlierDetection:  s.Outlier,
		Default: admin.Limits{
			MaxConnections:     s.Breakers.MaxConnections,
			MaxPendingRequests: s.Breakers.MaxPendingRequests,
			MaxRequests:        s.Breakers.MaxRequests,
			MaxRetries:         s.Breakers.MaxRetries,
		},
		Hosts: make([]admin.HostStatus, len(s.Hosts)),
	}
	for i := range s.Hosts {
		out.Hosts[i] = hostStatus(&s.Hosts[i])
	}
	return out
}

func hostStatus(h *cluster.HostStatus) admin.HostStatus {
	count := func(n int64) uint64 { return uint64(max(n, 0)) }
	return admin.HostStatus{
		Address:            h.Address,
		Hostname:           h.Hostname,
		CxActive:           count(h.CxActive),
		RqActive:           count(h.RqActive),
		CxConnectFail:      h.CxConnectFail,
		CxTotal:            h.CxTotal,
		RqError:            h.RqError,
		RqSuccess:          h.RqSuccess,
		RqTimeout:          h.RqTimeout,
		RqTotal:            h.RqTotal,
		FailedOutlierCheck: h.Outlier.Ejected,
		Health:             healthStatus(h),
		Weight:             h.Weight,
		Priority:           uint32(h.Priority),
		Region:             h.Locality.Region,
		Zone:               h.Locality.Zone,
		SubZone:            h.Locality.SubZone,
	}
}

// healthStatus is what discovery says of a host; one that this build can't
// use is shown as unhealthy.
func healthStatus(h *cluster.HostStatus) corev3.HealthStatus {
	if h.Unusable != "" {
		return corev3.HealthStatus_UNHEALTHY
	}
	switch h.EDSHealth {
	case cluster.HealthHealthy:
		return corev3.HealthStatus_HEALTHY
	case cluster.HealthUnhealthy:
		return corev3.HealthStatus_UNHEALTHY
	case cluster.HealthDraining:
		return corev3.HealthStatus_DRAINING
	case cluster.HealthTimeout:
		return corev3.HealthStatus_TIMEOUT
	case cluster.HealthDegraded:
		return corev3.HealthStatus_DEGRADED
	}
	return corev3.HealthStatus_HEALTHY
}
