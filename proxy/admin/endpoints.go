// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"cmp"
	"net"
	"slices"
	"strconv"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// assignments are the hosts of all clusters, as /config_dump shows them.
//
// Envoy makes them of the hosts that its clusters have, whoever named them:
// discovery, DNS, or the clients of the original destination. So do we, but
// what discovery has sent is shown as it came, with its metadata and its
// version, and only the health of its hosts is that of now.
type assignments struct {
	list  []Resource                // in the order of names
	hosts map[string]*ClusterStatus // by the names of assignments
}

func newAssignments(sent []Resource, clusters []ClusterStatus) *assignments {
	a := &assignments{list: slices.Clone(sent), hosts: make(map[string]*ClusterStatus, len(clusters))}
	known := make(map[string]bool, len(sent))
	for i := range sent {
		known[sent[i].Name] = sent[i].Message != nil
	}
	for i := range clusters {
		c := &clusters[i]
		name := cmp.Or(c.EDSServiceName, c.Name)
		a.hosts[name] = c
		if !known[name] {
			known[name] = true
			a.list = append(a.list, Resource{Name: name, Static: !c.AddedViaAPI, Message: made(c, name)})
		}
	}
	slices.SortStableFunc(a.list, func(x, y Resource) int { return cmp.Compare(x.Name, y.Name) })
	return a
}

func (a *assignments) section() dumpSection {
	return dumpSection{message: &adminv3.EndpointsConfigDump{}, fields: []dumpField{
		{name: "static_endpoint_configs", element: &adminv3.EndpointsConfigDump_StaticEndpointConfig{}, items: a.list, wanted: isStatic,
			wrap: func(r *Resource) proto.Message {
				return &adminv3.EndpointsConfigDump_StaticEndpointConfig{EndpointConfig: a.body(r), LastUpdated: r.updated()}
			}},
		{name: "dynamic_endpoint_configs", element: &adminv3.EndpointsConfigDump_DynamicEndpointConfig{}, items: a.list, wanted: isDynamic,
			wrap: func(r *Resource) proto.Message {
				return &adminv3.EndpointsConfigDump_DynamicEndpointConfig{VersionInfo: r.Version, EndpointConfig: a.body(r), LastUpdated: r.updated(), ErrorState: r.failure()}
			}},
	}}
}

// body is an assignment with the health of its hosts.
func (a *assignments) body(r *Resource) *anypb.Any {
	body := r.body()
	c := a.hosts[r.Name]
	m := &endpointv3.ClusterLoadAssignment{}
	if c == nil || body.UnmarshalTo(m) != nil {
		return body // shown as it is
	}
	health := make(map[string]corev3.HealthStatus, len(c.Hosts))
	for i := range c.Hosts {
		health[c.Hosts[i].Address] = c.Hosts[i].coarseHealth()
	}
	for _, l := range m.GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			if h, there := health[addressText(e.GetEndpoint().GetAddress())]; there {
				e.HealthStatus = h
			}
		}
	}
	setAny(body, m)
	return body
}

// addressText is the reverse of address.
func addressText(a *corev3.Address) string {
	if s := a.GetSocketAddress(); s != nil {
		return net.JoinHostPort(s.GetAddress(), strconv.FormatUint(uint64(s.GetPortValue()), 10))
	}
	return a.GetPipe().GetPath()
}

// coarseHealth is what Envoy makes of all that it knows of a host
// (source/common/upstream/upstream_impl.h): one that is draining is unhealthy.
func (h *HostStatus) coarseHealth() corev3.HealthStatus {
	if h.FailedActiveHealthCheck || h.FailedOutlierCheck {
		return corev3.HealthStatus_UNHEALTHY
	}
	switch h.Health {
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_TIMEOUT, corev3.HealthStatus_DRAINING:
		return corev3.HealthStatus_UNHEALTHY
	case corev3.HealthStatus_DEGRADED:
		return corev3.HealthStatus_DEGRADED
	}
	return corev3.HealthStatus_HEALTHY
}

// overprovisioning is Envoy's default factor: a share of unhealthy hosts up to
// which a priority still takes all requests, as a percentage.
const overprovisioning = 140

// made is the assignment of a cluster whose hosts discovery hasn't sent.
func made(c *ClusterStatus, name string) *anypb.Any {
	m := &endpointv3.ClusterLoadAssignment{ClusterName: name,
		Policy: &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(overprovisioning)}}
	var last *endpointv3.LocalityLbEndpoints
	for i := range c.Hosts {
		h := &c.Hosts[i]
		where := &corev3.Locality{Region: h.Region, Zone: h.Zone, SubZone: h.SubZone}
		if last == nil || last.Priority != h.Priority || !proto.Equal(last.Locality, where) {
			last = &endpointv3.LocalityLbEndpoints{Priority: h.Priority, Locality: where}
			m.Endpoints = append(m.Endpoints, last)
		}
		last.LbEndpoints = append(last.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: address(h.Address), Hostname: h.Hostname, HealthCheckConfig: &endpointv3.Endpoint_HealthCheckConfig{}}},
			HealthStatus:        h.coarseHealth(),
			LoadBalancingWeight: wrapperspb.UInt32(h.Weight),
		})
	}
	a := &anypb.Any{TypeUrl: typePrefix + string(m.ProtoReflect().Descriptor().FullName())}
	setAny(a, m)
	return a
}
