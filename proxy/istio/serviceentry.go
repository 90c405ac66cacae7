// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// workloadEntries is the WorkloadEntries of all namespaces, found by label.
type workloadEntries struct {
	byNamespace map[string][]*workloadEntry
	byLabel     map[namespacedLabel][]*workloadEntry
}

type namespacedLabel struct{ namespace, key, value string }

type workloadEntry struct {
	workload
	spec *networking.WorkloadEntry
}

func newWorkloadEntries(objs []*source.Object) *workloadEntries {
	idx := &workloadEntries{
		byNamespace: make(map[string][]*workloadEntry),
		byLabel:     make(map[namespacedLabel][]*workloadEntry),
	}
	for _, obj := range objs {
		spec, ok := obj.Spec.(*networking.WorkloadEntry)
		if !ok {
			continue
		}
		e := &workloadEntry{spec: spec, workload: newWorkload(obj, "", spec)}
		idx.byNamespace[obj.Namespace] = append(idx.byNamespace[obj.Namespace], e)
		for k, v := range e.labels {
			l := namespacedLabel{obj.Namespace, k, v}
			idx.byLabel[l] = append(idx.byLabel[l], e)
		}
	}
	return idx
}

// selected returns the entries of a namespace that have all the labels, in the order
// in which they were read. Without labels it is all of them.
func (idx *workloadEntries) selected(namespace string, labels map[string]string) []*workloadEntry {
	if len(labels) == 0 {
		return idx.byNamespace[namespace]
	}
	// The rarest pair of the selector leaves the fewest entries to look at.
	var rarest []*workloadEntry
	first := true
	for k, v := range labels {
		have := idx.byLabel[namespacedLabel{namespace, k, v}]
		if first || len(have) < len(rarest) {
			rarest, first = have, false
		}
	}
	var out []*workloadEntry
	for _, e := range rarest {
		if isSubset(labels, e.labels) {
			out = append(out, e)
		}
	}
	return out
}

// newWorkload reads what a WorkloadEntry says of a workload. Labels of the metadata
// go before those of the spec, and locality may also come as a label with dots
// instead of slashes, as Istio has it.
func newWorkload(obj *source.Object, field string, spec *networking.WorkloadEntry) workload {
	w := workload{
		name:      obj.Name,
		namespace: obj.Namespace,
		labels:    spec.Labels,
		weight:    spec.Weight,
		locality:  spec.Locality,
		account:   spec.ServiceAccount,
		obj:       obj,
		field:     field,
	}
	if field == "" { // an object of its own, not an endpoint within a ServiceEntry
		if group := obj.Annotations["istio.io/autoRegistrationGroup"]; group != "" {
			w.name = group
		} else if name := obj.Labels["service.istio.io/workload-name"]; name != "" {
			w.name = name
		}
		if len(obj.Labels) > 0 {
			w.labels = maps.Clone(obj.Labels)
			for k, v := range spec.Labels {
				if _, ok := w.labels[k]; !ok {
					w.labels[k] = v
				}
			}
		}
	}
	if l := w.labels["istio-locality"]; w.locality == "" && l != "" {
		w.locality = strings.ReplaceAll(l, ".", "/")
	}
	return w
}

// serviceEntry turns a ServiceEntry into one service per host.
func (b *registryBuilder) serviceEntry(obj *source.Object, se *networking.ServiceEntry) []*service {
	members := b.members(obj, se)
	addresses := serviceAddresses(se.Addresses)
	out := make([]*service, 0, len(se.Hosts))
	for _, host := range se.Hosts {
		host = strings.ToLower(host)
		s := &service{
			host:       host,
			name:       host,
			namespace:  obj.Namespace,
			obj:        obj,
			external:   se.Location == networking.ServiceEntry_MESH_EXTERNAL,
			resolution: entryResolution(se.Resolution),
			addresses:  addresses,
			exportTo:   se.ExportTo,
			sans:       se.SubjectAltNames,
			metadata:   newServiceMetadata(host, host, obj.Namespace),
			ports:      make([]servicePort, 0, len(se.Ports)),
		}
		for _, p := range se.Ports {
			port := servicePort{name: p.Name, number: p.Number, protocol: parseProtocol(p.Protocol)}
			if s.resolution == resolveNone {
				port.override = p.TargetPort
			} else {
				port.endpoints = b.entryEndpoints(s, p, members)
			}
			s.ports = append(s.ports, port)
		}
		out = append(out, s)
	}
	return out
}

func entryResolution(r networking.ServiceEntry_Resolution) resolution {
	switch r {
	case networking.ServiceEntry_STATIC:
		return resolveStatic
	case networking.ServiceEntry_DNS:
		return resolveDNS
	case networking.ServiceEntry_DNS_ROUND_ROBIN:
		return resolveLogicalDNS
	default:
		return resolveNone
	}
}

// member is a workload of a ServiceEntry, whether selected or written into it.
type member struct {
	*workload
	address string
	ports   map[string]uint32 // by name of the service's port
}

// members lists a ServiceEntry's workloads once, for all its hosts.
func (b *registryBuilder) members(obj *source.Object, se *networking.ServiceEntry) []member {
	if se.WorkloadSelector != nil {
		entries := b.workloads.selected(obj.Namespace, se.WorkloadSelector.Labels)
		out := make([]member, 0, len(entries))
		for _, e := range entries {
			out = append(out, member{&e.workload, e.spec.Address, e.spec.Ports})
		}
		return out
	}
	out := make([]member, 0, len(se.Endpoints))
	for i, e := range se.Endpoints {
		w := newWorkload(obj, fmt.Sprintf("spec.endpoints[%d]", i), e)
		w.name = obj.Name + "-" + strconv.Itoa(i)
		out = append(out, member{&w, e.Address, e.Ports})
	}
	return out
}

// entryEndpoints makes the endpoints of one port. A DNS service that lists none is
// resolved by its own host.
func (b *registryBuilder) entryEndpoints(s *service, p *networking.ServicePort, members []member) []*endpoint {
	target := p.TargetPort
	if target == 0 {
		target = p.Number
	}
	se := s.obj.Spec.(*networking.ServiceEntry)
	if s.resolution != resolveStatic && len(se.Endpoints) == 0 && se.WorkloadSelector == nil {
		w := &workload{name: s.obj.Name, namespace: s.namespace, obj: s.obj}
		return []*endpoint{newEndpoint(w, s.host, target, b.clusterID)}
	}
	out := make([]*endpoint, 0, len(members))
	for _, m := range members {
		if !usable(m.address, s.resolution) {
			continue
		}
		port := target
		if n := m.ports[p.Name]; n > 0 {
			port = n
		}
		out = append(out, newEndpoint(m.workload, m.address, port, b.clusterID))
	}
	return out
}

// usable: an address of the kind that the resolution takes. A selected WorkloadEntry
// may have any, or none when it is in another network.
func usable(address string, r resolution) bool {
	unix := strings.HasPrefix(address, unixPrefix)
	if r != resolveStatic {
		return address != "" && !unix
	}
	_, err := netip.ParseAddr(address)
	return unix || err == nil
}

// serviceAddresses keeps the addresses by which a client may name a service: IP
// addresses, and networks of one address. A wider network says nothing to a router.
func serviceAddresses(addresses []string) []string {
	var out []string
	for _, a := range addresses {
		if prefix, err := netip.ParsePrefix(a); err == nil {
			if prefix.IsSingleIP() {
				out = append(out, prefix.Addr().String())
			}
		} else if addr, err := netip.ParseAddr(a); err == nil {
			out = append(out, addr.String())
		}
	}
	return out
}
