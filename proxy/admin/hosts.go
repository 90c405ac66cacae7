// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"cmp"
	"fmt"
	"net"
	nethttp "net/http"
	"net/url"
	"strconv"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func (h *handler) serveClusters(w nethttp.ResponseWriter, _ *nethttp.Request, q url.Values) {
	re, err := compileRegex(q.Get("filter"))
	if err != nil {
		fail(w, nethttp.StatusBadRequest, err.Error()+"\n")
		return
	}
	var list []ClusterStatus
	for _, c := range h.Clusters.Clusters() {
		if re == nil || re.MatchString(c.Name) {
			list = append(list, c)
		}
	}
	out := bufio.NewWriter(w)
	defer out.Flush()
	if q.Get("format") != "json" {
		for i := range list {
			writeCluster(out, &list[i])
		}
		return
	}
	w.Header().Set("Content-Type", "application/json")
	j := newJSON(out)
	j.open('{')
	j.key("cluster_statuses")
	j.open('[')
	for i := range list {
		j.message(clusterMessage(&list[i]))
	}
	j.close(']')
	j.end('}')
}

// writeCluster writes a cluster's lines in the order of Envoy's.
func writeCluster(out *bufio.Writer, c *ClusterStatus) {
	line := func(name string, value any) { fmt.Fprintf(out, "%s::%s::%v\n", c.Name, name, value) }
	line("observability_name", cmp.Or(c.ObservabilityName, c.Name))
	if c.OutlierDetection {
		// Ejection by success rate is not done, which Envoy shows as -1.
		line("outlier::success_rate_average", -1)
		line("outlier::success_rate_ejection_threshold", -1)
		line("outlier::local_origin_success_rate_average", -1)
		line("outlier::local_origin_success_rate_ejection_threshold", -1)
	}
	limits := func(priority string, l Limits) {
		line(priority+"::max_connections", l.MaxConnections)
		line(priority+"::max_pending_requests", l.MaxPendingRequests)
		line(priority+"::max_requests", l.MaxRequests)
		line(priority+"::max_retries", l.MaxRetries)
	}
	limits("default_priority", c.Default)
	if c.High != nil {
		limits("high_priority", *c.High)
	}
	line("added_via_api", c.AddedViaAPI)
	if c.EDSServiceName != "" {
		line("eds_service_name", c.EDSServiceName)
	}
	for i := range c.Hosts {
		h := &c.Hosts[i]
		host := func(name string, value any) {
			fmt.Fprintf(out, "%s::%s::%s::%v\n", c.Name, h.Address, name, value)
		}
		for _, s := range h.counts() {
			host(s.name, s.value)
		}
		host("hostname", h.Hostname)
		host("health_flags", h.flags())
		host("weight", h.Weight)
		host("region", h.Region)
		host("zone", h.Zone)
		host("sub_zone", h.SubZone)
		host("canary", h.Canary)
		host("priority", h.Priority)
		host("success_rate", -1)
		host("local_origin_success_rate", -1)
	}
}

type hostCount struct {
	name  string
	gauge bool
	value uint64
}

// counts returns the host's numbers in the order of Envoy's text.
func (h *HostStatus) counts() []hostCount {
	return []hostCount{
		{"cx_active", true, h.CxActive},
		{"cx_connect_fail", false, h.CxConnectFail},
		{"cx_total", false, h.CxTotal},
		{"rq_active", true, h.RqActive},
		{"rq_error", false, h.RqError},
		{"rq_pending_active", true, h.RqPendingActive},
		{"rq_success", false, h.RqSuccess},
		{"rq_timeout", false, h.RqTimeout},
		{"rq_total", false, h.RqTotal},
	}
}

// flags returns why the host gets no traffic, in Envoy's words
// (source/common/upstream/host_utility.cc), or "healthy".
func (h *HostStatus) flags() string {
	s := ""
	if h.FailedActiveHealthCheck {
		s += "/failed_active_hc"
	}
	if h.FailedOutlierCheck {
		s += "/failed_outlier_check"
	}
	switch h.Health {
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_TIMEOUT:
		s += "/failed_eds_health"
	case corev3.HealthStatus_DEGRADED:
		s += "/degraded_eds_health"
	}
	if h.PendingDynamicRemoval {
		s += "/pending_dynamic_removal"
	}
	if h.Health == corev3.HealthStatus_DRAINING {
		s += "/eds_status_draining"
	}
	return cmp.Or(s, "healthy")
}

func clusterMessage(c *ClusterStatus) *adminv3.ClusterStatus {
	m := &adminv3.ClusterStatus{
		Name:              c.Name,
		AddedViaApi:       c.AddedViaAPI,
		EdsServiceName:    c.EDSServiceName,
		ObservabilityName: cmp.Or(c.ObservabilityName, c.Name),
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
			c.Default.message(corev3.RoutingPriority_DEFAULT)}},
	}
	if c.High != nil {
		m.CircuitBreakers.Thresholds = append(m.CircuitBreakers.Thresholds, c.High.message(corev3.RoutingPriority_HIGH))
	}
	for i := range c.Hosts {
		m.HostStatuses = append(m.HostStatuses, c.Hosts[i].message())
	}
	return m
}

func (l Limits) message(p corev3.RoutingPriority) *clusterv3.CircuitBreakers_Thresholds {
	return &clusterv3.CircuitBreakers_Thresholds{
		Priority:           p,
		MaxConnections:     wrapperspb.UInt32(l.MaxConnections),
		MaxPendingRequests: wrapperspb.UInt32(l.MaxPendingRequests),
		MaxRequests:        wrapperspb.UInt32(l.MaxRequests),
		MaxRetries:         wrapperspb.UInt32(l.MaxRetries),
	}
}

func (h *HostStatus) message() *adminv3.HostStatus {
	m := &adminv3.HostStatus{
		Address:  address(h.Address),
		Hostname: h.Hostname,
		Weight:   h.Weight,
		Priority: h.Priority,
		Locality: &corev3.Locality{Region: h.Region, Zone: h.Zone, SubZone: h.SubZone},
		HealthStatus: &adminv3.HostHealthStatus{
			FailedOutlierCheck:      h.FailedOutlierCheck,
			FailedActiveHealthCheck: h.FailedActiveHealthCheck,
			PendingDynamicRemoval:   h.PendingDynamicRemoval,
			EdsHealthStatus:         shownHealth(h.Health),
		},
	}
	// Counters come before gauges here.
	for _, gauge := range []bool{false, true} {
		for _, s := range h.counts() {
			if s.gauge != gauge {
				continue
			}
			kind := adminv3.SimpleMetric_COUNTER
			if gauge {
				kind = adminv3.SimpleMetric_GAUGE
			}
			m.Stats = append(m.Stats, &adminv3.SimpleMetric{Name: s.name, Type: kind, Value: s.value})
		}
	}
	return m
}

// shownHealth returns the status that Envoy shows for one that came.
func shownHealth(s corev3.HealthStatus) corev3.HealthStatus {
	switch s {
	case corev3.HealthStatus_UNKNOWN:
		return corev3.HealthStatus_HEALTHY
	case corev3.HealthStatus_TIMEOUT:
		return corev3.HealthStatus_UNHEALTHY
	}
	return s
}

// address makes a message of an address as text.
func address(s string) *corev3.Address {
	host, port, err := net.SplitHostPort(s)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: s}}}
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(n)},
	}}}
}

func (h *handler) serveListeners(w nethttp.ResponseWriter, _ *nethttp.Request, q url.Values) {
	list := h.Listeners.Listeners()
	out := bufio.NewWriter(w)
	defer out.Flush()
	if q.Get("format") != "json" {
		for _, l := range list {
			for _, a := range l.Addresses {
				fmt.Fprintf(out, "%s::%s\n", l.Name, a)
			}
		}
		return
	}
	w.Header().Set("Content-Type", "application/json")
	m := &adminv3.Listeners{}
	for _, l := range list {
		s := &adminv3.ListenerStatus{Name: l.Name}
		for i, a := range l.Addresses {
			if i == 0 {
				s.LocalAddress = address(a)
			} else {
				s.AdditionalLocalAddresses = append(s.AdditionalLocalAddresses, address(a))
			}
		}
		m.ListenerStatuses = append(m.ListenerStatuses, s)
	}
	j := newJSON(out)
	j.message(m)
	j.line()
}
