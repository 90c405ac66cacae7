// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// inboundPort is one port of the workload that the proxy stands before.
type inboundPort struct {
	listen netip.AddrPort // where clients come to
	app    string         // the workload's IP address, or unix://PATH
	to     uint32         // the workload's port; 0 with a Unix socket
	// port is the port by which policies and names know it: to, or the one that the proxy
	// listens on where the workload has a Unix socket.
	port     uint32
	protocol protocol
	mode     mtlsMode
	// services are those of whose this is a port. The first gives the names.
	services []inboundService
}

// inboundService is a port of a service behind which the workload is.
type inboundService struct {
	s *service
	p *servicePort
}

// name is the one by which the mesh knows the port: istiod's virtualInbound has it for
// chains and statistics, whatever address is bound.
func (p *inboundPort) name() string { return "0.0.0.0_" + strconv.FormatUint(uint64(p.port), 10) }

func (p *inboundPort) cluster() string {
	return "inbound|" + strconv.FormatUint(uint64(p.port), 10) + "||"
}

// inbound makes the listeners before the workload.
func (t *translator) inbound(objs []*source.Object) {
	if len(t.o.Inbound) == 0 {
		return
	}
	w := protected{namespace: t.o.Namespace, labels: t.o.Labels}
	modes := t.policies.inboundModes(w)
	for _, text := range t.o.Inbound {
		p, err := parseInbound(text)
		if err == nil {
			err = t.vacant(p)
		}
		if err != nil {
			t.rep.add(source.Problem{Field: "--inbound", Reason: err.Error()})
			continue
		}
		p.mode = modes.of(p.port)
		t.findServices(p, objs)
		t.inboundPorts = append(t.inboundPorts, p)
		t.out.Listeners = append(t.out.Listeners, t.inboundListener(p, w))
	}
}

// parseInbound reads ADDRESS:PORT=ADDRESS:PORT or ADDRESS:PORT=unix://PATH.
func parseInbound(text string) (*inboundPort, error) {
	listen, app, ok := strings.Cut(text, "=")
	if !ok {
		return nil, fmt.Errorf("%q is not ADDRESS:PORT=APPADDRESS:APPPORT, such as 127.0.0.1:18080=127.0.0.1:8080", text)
	}
	p := &inboundPort{}
	var err error
	if p.listen, err = parseListenAddress(listen); err != nil {
		return nil, err
	}
	p.port = uint32(p.listen.Port())
	if file, ok := strings.CutPrefix(app, unixPrefix); ok {
		if !path.IsAbs(file) || p.port == 0 {
			return nil, fmt.Errorf("%q: before a Unix socket, unix:///PATH, there has to be a port", text)
		}
		p.app = app
		return p, nil
	}
	address, err := parseListenAddress(app)
	if err != nil {
		return nil, err
	}
	if address.Port() == 0 {
		return nil, fmt.Errorf("%q: the workload's port can't be 0", text)
	}
	if address.Addr().IsUnspecified() {
		address = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), address.Port())
	}
	if overlapping(p.listen, address) {
		return nil, fmt.Errorf("%q: the proxy can't listen where the workload does", text)
	}
	p.app, p.to = address.Addr().String(), uint32(address.Port())
	p.port = p.to
	return p, nil
}

// vacant reports who has the address, or the workload's port, already.
func (t *translator) vacant(p *inboundPort) error {
	for _, other := range t.inboundPorts {
		if other.port == p.port {
			return fmt.Errorf("%s: port %d of the workload is at %s already", p.listen, p.port, other.listen)
		}
	}
	for _, l := range t.out.Listeners {
		at := l.Address.GetSocketAddress()
		ip, err := netip.ParseAddr(at.GetAddress())
		if err == nil && overlapping(p.listen, netip.AddrPortFrom(ip, uint16(at.GetPortValue()))) {
			return fmt.Errorf("%s: listener %s is there already", p.listen, l.Name)
		}
	}
	return nil
}

// findServices finds the services whose port this is: those that select the workload and
// send to this port of it. What none declares is looked at byte by byte.
func (t *translator) findServices(p *inboundPort, objs []*source.Object) {
	for _, s := range t.scope.registry.services {
		if s.namespace != t.o.Namespace || !s.selects(t.o.Labels) {
			continue
		}
		for i := range s.ports {
			port := &s.ports[i]
			if port.protocol != protoUDP && s.targetsOf(port, objs) == p.port {
				p.services = append(p.services, inboundService{s, port})
				break
			}
		}
	}
	if len(p.services) > 0 {
		p.protocol = p.services[0].p.protocol
	}
}

// selects: the service finds workloads by labels, and these are among them.
func (s *service) selects(labels map[string]string) bool {
	var selector map[string]string
	switch spec := s.obj.Spec.(type) {
	case *source.Service:
		selector = spec.Selector
	case *networking.ServiceEntry:
		selector = spec.WorkloadSelector.GetLabels()
	}
	return len(selector) > 0 && isSubset(selector, labels)
}

// targetsOf is the port of a workload to which a port of the service goes; 0 is not
// known. A port by name is found where an EndpointSlice of the service has it.
func (s *service) targetsOf(p *servicePort, objs []*source.Object) uint32 {
	switch spec := s.obj.Spec.(type) {
	case *networking.ServiceEntry:
		for _, q := range spec.Ports {
			if q.GetNumber() == p.number && q.GetTargetPort() != 0 {
				return q.GetTargetPort()
			}
		}
	case *source.Service:
		i := slices.IndexFunc(spec.Ports, func(q source.ServicePort) bool { return q.Port == p.number && q.Name == p.name })
		switch {
		case i < 0:
		case spec.Ports[i].TargetPort != 0:
			return spec.Ports[i].TargetPort
		case spec.Ports[i].TargetName != "":
			return namedTarget(s, p.name, objs)
		}
	}
	return p.number
}

func namedTarget(s *service, port string, objs []*source.Object) uint32 {
	for _, obj := range objs {
		es, ok := obj.Spec.(*source.EndpointSlice)
		if !ok || obj.Namespace != s.namespace || es.ServiceName != s.name {
			continue
		}
		if i := slices.IndexFunc(es.Ports, func(q source.EndpointPort) bool { return q.Name == port }); i >= 0 {
			return es.Ports[i].Port
		}
	}
	return 0
}
