// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"pillion/proxy/istio/source"
)

// kubernetesService turns a Service and its EndpointSlices into a service. Endpoints
// are those of the slices and, as istiod does, the WorkloadEntries that the Service's
// selector matches. A headless Service is balanced over them like any other: a sidecar
// sends to the very pod that the client connected to, of which the http listener knows
// nothing.
func (b *registryBuilder) kubernetesService(obj *source.Object, spec *source.Service) *service {
	s := &service{
		host:       strings.ToLower(obj.Name + "." + obj.Namespace + ".svc." + b.domainSuffix),
		name:       obj.Name,
		namespace:  obj.Namespace,
		obj:        obj,
		kubernetes: true,
		addresses:  spec.ClusterIPs,
		exportTo:   annotationList(obj.Annotations["networking.istio.io/exportTo"]),
		ports:      make([]servicePort, 0, len(spec.Ports)),
	}
	s.metadata = newServiceMetadata(s.host, s.name, s.namespace)
	if spec.Type == "ExternalName" {
		s.external, s.resolution = true, resolveDNS
	}
	for _, p := range spec.Ports {
		port := servicePort{
			name:     p.Name,
			number:   p.Port,
			protocol: kubernetesProtocol(p.Port, p.Name, p.Protocol, p.AppProtocol),
		}
		if s.external {
			w := &workload{name: obj.Name, namespace: obj.Namespace, labels: obj.Labels, obj: obj}
			port.endpoints = []*endpoint{newEndpoint(w, strings.ToLower(spec.ExternalName), p.Port, b.clusterID)}
		} else {
			port.endpoints = b.sliceEndpoints(obj, spec, p)
			port.endpoints = append(port.endpoints, b.selectedEndpoints(obj, spec, p)...)
		}
		s.ports = append(s.ports, port)
	}
	return s
}

// annotationList splits an annotation at its commas.
func annotationList(value string) []string {
	if value == "" {
		return nil
	}
	out := strings.Split(value, ",")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

// sliceEndpoints collects a port's endpoints from the Service's slices. An endpoint
// that is shutting down is left out; one that isn't ready goes in as unhealthy, so
// that the proxy knows of it and sends it nothing.
func (b *registryBuilder) sliceEndpoints(obj *source.Object, spec *source.Service, p source.ServicePort) []*endpoint {
	var out []*endpoint
	for _, slice := range b.slices[namespacedName{obj.Namespace, obj.Name}] {
		es := slice.Spec.(*source.EndpointSlice)
		i := slices.IndexFunc(es.Ports, func(q source.EndpointPort) bool { return q.Name == p.Name })
		if i < 0 || es.AddressType == "FQDN" {
			continue
		}
		for _, e := range es.Endpoints {
			ready := e.Ready || spec.PublishNotReadyAddresses
			if !ready && e.Terminating {
				continue
			}
			w := &workload{namespace: slice.Namespace, labels: e.Labels, locality: e.Labels["istio-locality"], obj: slice}
			if e.Zone != "" {
				w.locality = "/" + e.Zone
			}
			for _, address := range e.Addresses {
				ep := newEndpoint(w, address, es.Ports[i].Port, b.clusterID)
				ep.setHealth(ready)
				out = append(out, ep)
			}
		}
	}
	return out
}

// setHealth records what Kubernetes says of a pod.
func (e *endpoint) setHealth(ready bool) {
	e.unhealthy = !ready
	e.lb.HealthStatus = corev3.HealthStatus_HEALTHY
	if !ready {
		e.lb.HealthStatus = corev3.HealthStatus_UNHEALTHY
	}
}

// selectedEndpoints makes endpoints of the WorkloadEntries that a Service selects.
// Only entries with an IP address count (pkg/serviceregistry of Istio).
func (b *registryBuilder) selectedEndpoints(obj *source.Object, spec *source.Service, p source.ServicePort) []*endpoint {
	if len(spec.Selector) == 0 {
		return nil
	}
	var out []*endpoint
	for _, e := range b.workloads.selected(obj.Namespace, spec.Selector) {
		if _, err := netip.ParseAddr(e.spec.Address); err != nil {
			continue
		}
		port := p.TargetPort
		if n := e.spec.Ports[p.TargetName]; p.TargetName != "" && n > 0 {
			port = n
		}
		if n := e.spec.Ports[p.Name]; n > 0 {
			port = n
		}
		if port == 0 {
			port = p.Port
		}
		out = append(out, newEndpoint(&e.workload, e.spec.Address, port, b.clusterID))
	}
	return out
}
