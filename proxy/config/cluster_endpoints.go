// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"pillion/proxy/cluster"
	"pillion/proxy/http"
)

// maxPriority is Envoy's bound.
const maxPriority = 128

// endpoints compiles the hosts or names of the cluster.
func (b *clusterBuilder) endpoints(cla *endpointv3.ClusterLoadAssignment) error {
	path := "endpoints"
	if inline := b.in.GetLoadAssignment(); inline != nil && b.out.Discovery != cluster.EDS {
		cla, path = inline, "load_assignment.endpoints"
	}
	if b.out.Discovery == cluster.OriginalDst {
		if len(cla.GetEndpoints()) > 0 {
			return fmt.Errorf("load_assignment: an ORIGINAL_DST cluster has no endpoints of its own")
		}
		return nil
	}
	if cla == nil {
		return nil
	}
	if err := b.assignmentPolicy(cla.GetPolicy()); err != nil {
		return err
	}
	n := 0
	for _, l := range cla.GetEndpoints() {
		n += len(l.GetLbEndpoints())
	}
	b.out.Endpoints = make([]cluster.Endpoint, 0, n)
	for i, l := range cla.GetEndpoints() {
		if err := b.locality(l); err != nil {
			return fmt.Errorf("%s[%d].%w", path, i, err)
		}
	}
	if b.out.Discovery == cluster.LogicalDNS && n != 1 {
		return fmt.Errorf("%s: a LOGICAL_DNS cluster has one endpoint, not %d", path, n)
	}
	b.warnUnusable()
	return nil
}

var assignmentFields = fieldSet("overprovisioning_factor", "endpoint_stale_after")

func (b *clusterBuilder) assignmentPolicy(p *endpointv3.ClusterLoadAssignment_Policy) error {
	if p == nil {
		return nil
	}
	if err := onlyFields(p, assignmentFields); err != nil {
		return at("load_assignment.policy", err)
	}
	b.out.Balance.OverprovisioningFactor = p.GetOverprovisioningFactor().GetValue()
	return nil
}

var localityFields = fieldSet("locality", "lb_endpoints", "load_balancing_weight", "priority", "metadata", "proximity")

func (b *clusterBuilder) locality(l *endpointv3.LocalityLbEndpoints) error {
	if err := onlyFields(l, localityFields); err != nil {
		return err
	}
	if l.GetPriority() > maxPriority {
		return fmt.Errorf("priority: %d is more than %d", l.GetPriority(), maxPriority)
	}
	var place *cluster.Locality
	in := l.GetLocality()
	if in.GetRegion() != "" || in.GetZone() != "" || in.GetSubZone() != "" || b.out.Balance.LocalityWeighted {
		place = &cluster.Locality{Region: shared(in.GetRegion()), Zone: shared(in.GetZone()), SubZone: shared(in.GetSubZone()),
			Weight: l.GetLoadBalancingWeight().GetValue()}
	}
	for i, e := range l.GetLbEndpoints() {
		out, err := b.endpoint(e)
		if err != nil {
			return fmt.Errorf("lb_endpoints[%d].%w", i, err)
		}
		out.Locality, out.Priority = place, uint8(l.GetPriority())
		b.out.Endpoints = append(b.out.Endpoints, out)
	}
	return nil
}

var lbEndpointFields = fieldSet("endpoint", "health_status", "metadata", "load_balancing_weight")

// endpointFields: there are no active health checks, whose settings
// health_check_config would be.
var endpointFields = fieldSet("address", "hostname", "health_check_config", "additional_addresses", "observability_name")

func (b *clusterBuilder) endpoint(e *endpointv3.LbEndpoint) (out cluster.Endpoint, err error) {
	if err := onlyFields(e, lbEndpointFields); err != nil {
		return out, err
	}
	if err := onlyFields(e.GetEndpoint(), endpointFields); err != nil {
		return out, at("endpoint", err)
	}
	metadata := e.GetMetadata().GetFilterMetadata()
	socket := b.socketFor(metadata["envoy.transport_socket_match"].GetFields())
	out.TLS, out.Unusable = socket.tls, socket.unusable
	if out.Address, err = b.address(e.GetEndpoint().GetAddress()); err != nil {
		return out, at("endpoint.address", err)
	}
	out.Hostname = shared(e.GetEndpoint().GetHostname())
	if len(e.GetEndpoint().GetAdditionalAddresses()) > 0 {
		b.warn("endpoint %s: additional_addresses are not used", out.Address)
	}
	if w := e.GetLoadBalancingWeight(); w != nil && w.GetValue() == 0 {
		return out, fmt.Errorf("load_balancing_weight: must be at least 1")
	}
	out.Weight = max(e.GetLoadBalancingWeight().GetValue(), 1)
	out.Peer = workloadPeer(metadata["istio"].GetFields()["workload"].GetStringValue())
	out.Health, err = health(e.GetHealthStatus())
	return out, err
}

func health(s corev3.HealthStatus) (cluster.Health, error) {
	switch s {
	case corev3.HealthStatus_UNKNOWN:
		return cluster.HealthUnknown, nil
	case corev3.HealthStatus_HEALTHY:
		return cluster.HealthHealthy, nil
	case corev3.HealthStatus_UNHEALTHY:
		return cluster.HealthUnhealthy, nil
	case corev3.HealthStatus_DRAINING:
		return cluster.HealthDraining, nil
	case corev3.HealthStatus_TIMEOUT:
		return cluster.HealthTimeout, nil
	case corev3.HealthStatus_DEGRADED:
		return cluster.HealthDegraded, nil
	}
	return 0, fmt.Errorf("health_status: %d is not known", s)
}

// address returns an endpoint's address in the form of cluster.Endpoint.
func (b *clusterBuilder) address(a *corev3.Address) (string, error) {
	switch a := a.GetAddress().(type) {
	case *corev3.Address_SocketAddress:
		return b.socketAddress(a.SocketAddress)
	case *corev3.Address_Pipe:
		if p := a.Pipe.GetPath(); len(p) > 1 && (p[0] == '/' || p[0] == '@') {
			return p, nil
		}
		return "", fmt.Errorf("pipe.path: %q is not absolute", a.Pipe.GetPath())
	case nil:
		return "", fmt.Errorf("socket_address: is missing")
	}
	return "", fmt.Errorf("envoy_internal_address: is not supported")
}

func (b *clusterBuilder) socketAddress(a *corev3.SocketAddress) (string, error) {
	if a.GetProtocol() != corev3.SocketAddress_TCP {
		return "", fmt.Errorf("socket_address.protocol: %s is not supported", a.GetProtocol())
	}
	if a.GetNetworkNamespaceFilepath() != "" {
		return "", fmt.Errorf("socket_address.network_namespace_filepath: is not supported")
	}
	port := a.GetPortValue()
	if port == 0 || port > 65535 {
		return "", fmt.Errorf("socket_address.port_value: %d is no port", port)
	}
	if ip, err := netip.ParseAddr(a.GetAddress()); err == nil {
		return shared(netip.AddrPortFrom(ip, uint16(port)).String()), nil
	}
	if b.out.Discovery != cluster.StrictDNS && b.out.Discovery != cluster.LogicalDNS {
		return "", fmt.Errorf("socket_address.address: %q is no IP address, which %s needs", a.GetAddress(), b.out.Discovery)
	}
	if a.GetAddress() == "" {
		return "", fmt.Errorf("socket_address.address: is empty")
	}
	return net.JoinHostPort(a.GetAddress(), strconv.Itoa(int(port))), nil
}

// workloadPeer reads Istio's short form of a workload in the metadata of an
// endpoint: name;namespace;canonical name;canonical revision;cluster. The
// canonical names stand for the labels app and version, which it leaves out.
func workloadPeer(s string) http.Peer {
	if s == "" {
		return http.Peer{}
	}
	parts := strings.Split(shared(s), ";")
	for len(parts) < 5 {
		parts = append(parts, "")
	}
	p := http.Peer{Workload: parts[0], Namespace: parts[1], CanonicalService: parts[2], CanonicalRevision: parts[3], ClusterID: parts[4],
		App: parts[2], Version: parts[3]}
	if p.CanonicalRevision == "" {
		p.CanonicalRevision = "latest" // which Istio leaves out
	}
	return p
}

// warnUnusable says once for each reason how many endpoints can't be used.
func (b *clusterBuilder) warnUnusable() {
	counts := map[string]int{}
	var reasons []string
	for i := range b.out.Endpoints {
		if why := b.out.Endpoints[i].Unusable; why != "" {
			if counts[why]++; counts[why] == 1 {
				reasons = append(reasons, why)
			}
		}
	}
	for _, why := range reasons {
		b.warn("%d of %d endpoints get no requests: %s", counts[why], len(b.out.Endpoints), why)
	}
}
