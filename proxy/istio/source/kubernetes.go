// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Service is what a proxy needs of a Kubernetes v1 Service.
type Service struct {
	Type         string            // ClusterIP (also when not given), NodePort, LoadBalancer or ExternalName
	ClusterIPs   []string          // clusterIPs, or clusterIP alone; "None" is left out and sets Headless
	Headless     bool              // clusterIP is None
	ExternalName string            // the DNS name when Type is ExternalName
	Selector     map[string]string // labels of the pods; nil when endpoints are made by hand
	Ports        []ServicePort

	PublishNotReadyAddresses bool // endpoints count even when they aren't ready
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name        string // may be empty when the service has one port
	Port        uint32
	TargetPort  uint32 // port of the pod by number; 0 when TargetName is set
	TargetName  string // port of the pod by name; empty when TargetPort is set
	Protocol    string // TCP (also when not given), UDP or SCTP
	AppProtocol string // e.g. "http", "kubernetes.io/h2c"; may be empty
}

// EndpointSlice is what a proxy needs of a Kubernetes discovery.k8s.io/v1 EndpointSlice.
type EndpointSlice struct {
	ServiceName string // label kubernetes.io/service-name; empty when the slice belongs to none
	AddressType string // IPv4, IPv6 or FQDN
	Endpoints   []Endpoint
	Ports       []EndpointPort
}

// Endpoint is one endpoint of a slice: addresses that are one and the same workload.
type Endpoint struct {
	Addresses   []string // never empty
	Ready       bool     // true when not given
	Serving     bool     // as Ready when not given
	Terminating bool
	Hostname    string
	NodeName    string
	Zone        string
	TargetKind  string // targetRef, e.g. kind Pod; may be empty
	TargetName  string
	Labels      map[string]string // deprecatedTopology; nil in what Kubernetes writes today
}

// EndpointPort is one port of all endpoints of a slice.
type EndpointPort struct {
	Name        string // name of the service's port
	Port        uint32
	Protocol    string // TCP (also when not given), UDP or SCTP
	AppProtocol string
}

// Keys of the Kubernetes types, also those that a proxy has no use for, so that only
// keys unknown to Kubernetes are named. From the API reference of Kubernetes 1.33.

func serviceKeys() []string {
	return []string{
		"allocateLoadBalancerNodePorts", "clusterIP", "clusterIPs", "externalIPs", "externalName", "externalTrafficPolicy",
		"healthCheckNodePort", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy", "loadBalancerClass", "loadBalancerIP",
		"loadBalancerSourceRanges", "ports", "publishNotReadyAddresses", "selector", "sessionAffinity",
		"sessionAffinityConfig", "trafficDistribution", "type",
	}
}

func servicePortKeys() []string {
	return []string{"appProtocol", "name", "nodePort", "port", "protocol", "targetPort"}
}

func endpointSliceKeys() []string {
	return []string{"addressType", "apiVersion", "endpoints", "kind", "metadata", "ports"}
}

func endpointKeys() []string {
	return []string{"addresses", "conditions", "deprecatedTopology", "hints", "hostname", "nodeName", "targetRef", "zone"}
}

func endpointPortKeys() []string { return []string{"appProtocol", "name", "port", "protocol"} }

func targetRefKeys() []string {
	return []string{"apiVersion", "fieldPath", "kind", "name", "namespace", "resourceVersion", "uid"}
}

// readService reads and validates a v1 Service.
func (s *subject) readService() *Service {
	svc := &Service{Type: "ClusterIP"}
	at := s.top.key("spec")
	_, spec := lookup(s.root, "spec")
	if spec == nil || isNull(target(spec)) {
		s.failAt(at, "", "is required")
		return svc
	}
	s.eachEntry(spec, at, serviceKeys(), func(key string, val *yaml.Node, at *place) {
		switch key {
		case "type":
			svc.Type = s.word(val, at, "ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
		case "clusterIP":
			if !hasKey(spec, "clusterIPs") { // which begins with the same address
				s.clusterIP(val, at, svc)
			}
		case "clusterIPs":
			s.eachItem(val, at, func(item *yaml.Node, at *place) { s.clusterIP(item, at, svc) })
		case "externalName":
			svc.ExternalName, _ = s.text(val, at)
		case "selector":
			svc.Selector = s.strings(val, at)
		case "publishNotReadyAddresses":
			svc.PublishNotReadyAddresses, _ = s.boolean(val, at)
		case "ports":
			s.eachItem(val, at, func(item *yaml.Node, at *place) {
				svc.Ports = append(svc.Ports, s.servicePort(item, at))
			})
		}
	})
	s.checkService(at, svc)
	return svc
}

func (s *subject) clusterIP(n *yaml.Node, at *place, svc *Service) {
	ip, ok := s.text(n, at)
	switch {
	case !ok, ip == "": // not assigned yet
	case ip == "None":
		svc.Headless = true
	case !isIP(ip):
		s.fail(n, at, `%q is neither an IP address nor "None"`, clip(ip))
	default:
		svc.ClusterIPs = append(svc.ClusterIPs, ip)
	}
}

func (s *subject) checkService(at *place, svc *Service) {
	if svc.Type == "ExternalName" {
		if reason := badFQDN(svc.ExternalName); reason != "" {
			s.failAt(at, "externalName", "%q %s", clip(svc.ExternalName), reason)
		}
	} else if len(svc.Ports) == 0 && !svc.Headless {
		s.failAt(at, "ports", "at least one port is required")
	}
	names, numbers := map[string]int{}, map[string]int{}
	for i, p := range svc.Ports {
		here := at.key("ports").item(i)
		if p.Name == "" && len(svc.Ports) > 1 {
			s.failAt(here, "name", "is required when there is more than one port")
		} else if first, ok := names[p.Name]; ok {
			s.failAt(here, "name", "%q is the name of ports[%d] too", clip(p.Name), first)
		}
		names[p.Name] = i
		key := fmt.Sprint(p.Port, "/", p.Protocol)
		if first, ok := numbers[key]; ok && p.Port != 0 {
			s.failAt(here, "port", "%s is the port of ports[%d] too", key, first)
		}
		numbers[key] = i
	}
}

func (s *subject) servicePort(n *yaml.Node, at *place) ServicePort {
	p := ServicePort{Protocol: "TCP"}
	given := false
	s.eachEntry(n, at, servicePortKeys(), func(key string, val *yaml.Node, at *place) {
		switch key {
		case "name":
			p.Name = s.portName(val, at)
		case "port":
			p.Port, given = s.port(val, at), true
		case "targetPort":
			if _, number := wholeNumber(val); number {
				p.TargetPort = s.port(val, at)
			} else {
				p.TargetName = s.portName(val, at)
			}
		case "protocol":
			p.Protocol = s.word(val, at, "TCP", "UDP", "SCTP")
		case "appProtocol":
			p.AppProtocol, _ = s.text(val, at)
		}
	})
	if !given {
		s.failAt(at, "port", "is required")
	}
	if p.TargetPort == 0 && p.TargetName == "" {
		p.TargetPort = p.Port
	}
	return p
}

// readEndpointSlice reads and validates a discovery.k8s.io/v1 EndpointSlice.
func (s *subject) readEndpointSlice() *EndpointSlice {
	slice := &EndpointSlice{ServiceName: s.Labels["kubernetes.io/service-name"]}
	if slice.ServiceName == "" {
		s.warnAt(s.top.key("metadata"), "labels", `no label "kubernetes.io/service-name", so the slice belongs to no service`)
	}
	var typeAt *place
	s.eachEntry(s.root, s.top, endpointSliceKeys(), func(key string, val *yaml.Node, at *place) {
		switch key {
		case "addressType":
			typeAt = at
			slice.AddressType = s.word(val, at, "IPv4", "IPv6", "FQDN")
		case "endpoints":
			s.eachItem(val, at, func(item *yaml.Node, at *place) {
				slice.Endpoints = append(slice.Endpoints, s.endpoint(item, at))
			})
		case "ports":
			s.eachItem(val, at, func(item *yaml.Node, at *place) {
				slice.Ports = append(slice.Ports, s.endpointPort(item, at))
			})
		}
	})
	if typeAt == nil {
		s.failAt(s.top, "addressType", "is required: IPv4, IPv6 or FQDN")
	}
	for i, e := range slice.Endpoints {
		for j, a := range e.Addresses {
			if reason := badAddress(slice.AddressType, a); reason != "" {
				s.failAt(s.top.key("endpoints").item(i).key("addresses").item(j), "", "%q %s", clip(a), reason)
			}
		}
	}
	return slice
}

func (s *subject) endpoint(n *yaml.Node, at *place) Endpoint {
	e := Endpoint{Ready: true}
	serving := false
	s.eachEntry(n, at, endpointKeys(), func(key string, val *yaml.Node, at *place) {
		switch key {
		case "addresses":
			e.Addresses = s.texts(val, at)
		case "conditions":
			s.eachEntry(val, at, []string{"ready", "serving", "terminating"}, func(key string, val *yaml.Node, at *place) {
				v, _ := s.boolean(val, at)
				switch key {
				case "ready":
					e.Ready = v
				case "serving":
					e.Serving, serving = v, true
				case "terminating":
					e.Terminating = v
				}
			})
		case "deprecatedTopology":
			e.Labels = s.strings(val, at)
		case "hostname":
			e.Hostname, _ = s.text(val, at)
		case "nodeName":
			e.NodeName, _ = s.text(val, at)
		case "zone":
			e.Zone, _ = s.text(val, at)
		case "targetRef":
			s.eachEntry(val, at, targetRefKeys(), func(key string, val *yaml.Node, at *place) {
				switch key {
				case "kind":
					e.TargetKind, _ = s.text(val, at)
				case "name":
					e.TargetName, _ = s.text(val, at)
				}
			})
		}
	})
	if !serving {
		e.Serving = e.Ready
	}
	if len(e.Addresses) == 0 {
		s.failAt(at, "addresses", "at least one address is required")
	}
	return e
}

func (s *subject) endpointPort(n *yaml.Node, at *place) EndpointPort {
	p := EndpointPort{Protocol: "TCP"}
	given := false
	s.eachEntry(n, at, endpointPortKeys(), func(key string, val *yaml.Node, at *place) {
		switch key {
		case "name":
			p.Name, _ = s.text(val, at)
		case "port":
			p.Port, given = s.port(val, at), true
		case "protocol":
			p.Protocol = s.word(val, at, "TCP", "UDP", "SCTP")
		case "appProtocol":
			p.AppProtocol, _ = s.text(val, at)
		}
	})
	if !given {
		s.failAt(at, "port", "is required: a proxy can't reach an endpoint on any port")
	}
	return p
}

// word reads one word of a list.
func (s *subject) word(n *yaml.Node, at *place, words ...string) string {
	v, ok := s.text(n, at)
	if ok && !slices.Contains(words, v) {
		s.fail(n, at, "wants one of %s, not %q%s", strings.Join(words, ", "), clip(v), didYouMean(v, words))
	}
	return v
}

// texts reads a list of strings.
func (s *subject) texts(n *yaml.Node, at *place) []string {
	var all []string
	s.eachItem(n, at, func(item *yaml.Node, at *place) {
		if v, ok := s.text(item, at); ok {
			all = append(all, v)
		}
	})
	return all
}

// port reads a port's number; 0 when there is none.
func (s *subject) port(n *yaml.Node, at *place) uint32 {
	v, _ := s.integer(n, at, 1, 65535)
	return uint32(v)
}

func (s *subject) portName(n *yaml.Node, at *place) string {
	v, ok := s.text(n, at)
	if ok && v != "" {
		if reason := badLabel(v); reason != "" {
			s.fail(n, at, "%q %s", clip(v), reason)
		}
	}
	return v
}

// badAddress says why an address isn't of a slice's type; empty when it is.
func badAddress(addressType, a string) string {
	ip, err := netip.ParseAddr(a)
	switch {
	case addressType == "IPv4" && (err != nil || !ip.Is4()):
		return "isn't an IPv4 address"
	case addressType == "IPv6" && (err != nil || !ip.Is6()):
		return "isn't an IPv6 address"
	case addressType == "FQDN":
		return badFQDN(a)
	}
	return ""
}
