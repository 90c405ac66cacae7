// SPDX-License-Identifier: Apache-2.0

package source

import (
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

func (s *subject) serviceEntry(at *place, e *networking.ServiceEntry) {
	s.serviceEntryHosts(at, e)
	if e.WorkloadSelector != nil {
		s.checkSelector(at.key("workloadSelector").key("labels"), e.WorkloadSelector.Labels)
		if e.Endpoints != nil {
			s.failAt(at, "endpoints", `can't be given together with "workloadSelector"`)
		}
	}
	for i, a := range e.Addresses {
		here := at.key("addresses").item(i)
		if reason := badSubnet(a); reason != "" {
			s.failAt(here, "", "%q %s", clip(a), reason)
		} else if strings.Contains(a, "/") && e.Resolution != networking.ServiceEntry_NONE && e.Resolution != networking.ServiceEntry_STATIC {
			s.failAt(here, "", "a CIDR block needs resolution NONE or STATIC, not %s", e.Resolution)
		}
	}
	ports := s.serviceEntryPorts(at, e)
	s.resolution(at, e, ports)
	s.checkExportTo(at, e.ExportTo, true)
}

func (s *subject) serviceEntryHosts(at *place, e *networking.ServiceEntry) {
	if len(e.Hosts) == 0 {
		s.failAt(at, "hosts", "is required")
	}
	for i, h := range e.Hosts {
		here := at.key("hosts").item(i)
		if h == "*" {
			s.failAt(here, "", `"*" can't be a host of a ServiceEntry`)
		} else if reason := badHost(h); reason != "" {
			s.failAt(here, "", "%q %s", clip(h), reason)
		} else if reason := partialWildcard(h); reason != "" && e.Resolution != networking.ServiceEntry_DYNAMIC_DNS {
			s.warnAt(here, "", "%q %s", clip(h), reason)
		}
	}
	if e.Resolution == networking.ServiceEntry_NONE || len(e.Hosts) < 2 {
		return
	}
	// Requests name their host and TLS has SNI; by TCP alone hosts can't be told apart.
	for i, p := range e.Ports {
		if proto := parseProtocol(p.Protocol); !proto.http && !proto.tls {
			s.failAt(at.key("ports").item(i), "protocol", "several hosts can't be told apart on a port of %q; give one host, or HTTP or TLS", clip(p.Protocol))
			return
		}
	}
}

// serviceEntryPorts checks the ports and returns the set of their names.
func (s *subject) serviceEntryPorts(at *place, e *networking.ServiceEntry) map[string]bool {
	names, numbers := map[string]bool{}, map[uint32]int{}
	for i, p := range e.Ports {
		here := at.key("ports").item(i)
		if p.Name == "" {
			s.failAt(here, "name", "is required")
		} else if names[p.Name] {
			s.failAt(here, "name", "%q is the name of another port too", clip(p.Name))
		} else {
			s.checkPortName(here, "name", p.Name)
		}
		names[p.Name] = true
		if s.checkPort(here, "number", p.Number) {
			if first, ok := numbers[p.Number]; ok {
				s.failAt(here, "number", "%d is the number of ports[%d] too", p.Number, first)
			} else {
				numbers[p.Number] = i
			}
		}
		if p.TargetPort != 0 {
			s.checkPort(here, "targetPort", p.TargetPort)
		}
		s.checkProtocol(here, "protocol", p.Protocol, true)
	}
	return names
}

// resolution checks what each way to find endpoints allows.
func (s *subject) resolution(at *place, e *networking.ServiceEntry, ports map[string]bool) {
	endpoints := at.key("endpoints")
	switch e.Resolution {
	case networking.ServiceEntry_NONE:
		if len(e.Endpoints) > 0 {
			s.failAt(endpoints, "", "resolution NONE takes no endpoints; use STATIC or DNS")
		}
		if e.WorkloadSelector != nil {
			s.warnAt(at, "workloadSelector", "has no effect with resolution NONE; use STATIC")
		}
	case networking.ServiceEntry_STATIC:
		for i, w := range e.Endpoints {
			s.workload(endpoints.item(i), w, ports, false)
		}
	case networking.ServiceEntry_DNS, networking.ServiceEntry_DNS_ROUND_ROBIN:
		for i, h := range e.Hosts {
			if len(e.Endpoints) == 0 && strings.HasPrefix(h, "*") {
				s.failAt(at.key("hosts").item(i), "", "%q can't be looked up in DNS; give endpoints, or hosts without wildcards", clip(h))
			}
		}
		if e.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN && len(e.Endpoints) > 1 {
			s.failAt(endpoints.item(1), "", "resolution DNS_ROUND_ROBIN takes at most one endpoint")
		}
		for i, w := range e.Endpoints {
			if strings.HasPrefix(w.Address, unixPrefix) {
				s.failAt(endpoints.item(i), "address", "a socket needs resolution STATIC")
				continue
			}
			s.workload(endpoints.item(i), w, ports, true)
		}
	case networking.ServiceEntry_DYNAMIC_DNS:
		s.dynamicDNS(at, e)
	}
}

func (s *subject) dynamicDNS(at *place, e *networking.ServiceEntry) {
	for i, h := range e.Hosts {
		if !strings.HasPrefix(h, "*") {
			s.failAt(at.key("hosts").item(i), "", "resolution DYNAMIC_DNS is for wildcards; use DNS for %q", clip(h))
		}
	}
	if len(e.Addresses) > 0 {
		s.failAt(at, "addresses", "resolution DYNAMIC_DNS takes no addresses")
	}
	if len(e.Endpoints) > 0 {
		s.failAt(at, "endpoints", "resolution DYNAMIC_DNS takes no endpoints")
	}
	for i, p := range e.Ports {
		if !oneOf(strings.ToUpper(p.Protocol), "HTTP", "HTTP2", "GRPC", "TLS") {
			s.failAt(at.key("ports").item(i), "protocol", "resolution DYNAMIC_DNS needs HTTP, HTTP2, GRPC or TLS, not %q", clip(p.Protocol))
		}
	}
}

func (s *subject) workloadEntry(at *place, w *networking.WorkloadEntry) {
	s.workload(at, w, nil, true)
}

// workload checks an endpoint. ports holds the names of the service's ports, nil when
// they aren't known; names says that the address may be a host's name.
func (s *subject) workload(at *place, w *networking.WorkloadEntry, ports map[string]bool, names bool) {
	path, unix := strings.CutPrefix(w.Address, unixPrefix)
	switch {
	case w.Address == "" && w.Network == "":
		s.failAt(at, "address", "is required")
	case w.Address == "":
		s.warnAt(at, "", "no address, so the workload is reached through the gateways of network %q", clip(w.Network))
	case unix:
		if reason := badUnixPath(path); reason != "" {
			s.failAt(at, "address", "%q %s", clip(path), reason)
		}
		if len(w.Ports) > 0 {
			s.failAt(at, "ports", "a socket has no ports")
		}
		if ports != nil && len(ports) != 1 {
			s.failAt(at, "address", "a socket serves one port, and the service has %d", len(ports))
		}
	case isIP(w.Address):
	case !names:
		s.failAt(at, "address", "%q isn't an IP address; for a name use resolution DNS", clip(w.Address))
	case badFQDN(w.Address) != "":
		s.failAt(at, "address", "%q is neither an IP address nor a host name", clip(w.Address))
	}
	for _, name := range keysOf(w.Ports) {
		here := at.key("ports").key(name)
		if ports != nil && !ports[name] {
			s.failAt(here, "", "the service has no port of the name %q%s", clip(name), didYouMean(name, keysOf(ports)))
		}
		s.checkPortName(here, "", name)
		s.checkPort(here, "", w.Ports[name])
	}
	s.checkLabels(at.key("labels"), w.Labels)
}
