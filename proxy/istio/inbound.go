// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"errors"
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
	declared bool // the Sidecar says the protocol
	mode     mtlsMode
	// services are those of whose this is a port. The first gives the names.
	services []inboundService
	// pool is what the Sidecar says of connections to the workload; nil leaves it to the
	// service's DestinationRule.
	pool *networking.ConnectionPoolSettings
}

// inboundService is a port of a service behind which the workload is.
type inboundService struct {
	s *service
	p *servicePort
}

// name is the one by which the mesh knows the port: istiod's virtualInbound has it for
// chains and statistics, whatever address is bound.
func (p *inboundPort) name() string { return "0.0.0.0_" + strconv.FormatUint(uint64(p.port), 10) }

// listenerName is that of a bound listener. One whose port the system chooses is told
// from others by the workload's.
func (p *inboundPort) listenerName() string {
	name := p.listen.Addr().String() + "_" + strconv.FormatUint(uint64(p.listen.Port()), 10)
	if p.listen.Port() == 0 {
		name += "_" + strconv.FormatUint(uint64(p.port), 10)
	}
	return name
}

func (p *inboundPort) cluster() string {
	return "inbound|" + strconv.FormatUint(uint64(p.port), 10) + "||"
}

// inbound makes the listeners before the workload: those of --inbound, then those that
// the Sidecar binds.
func (t *translator) inbound(objs []*source.Object) {
	w := protected{namespace: t.o.Namespace, labels: t.o.Labels}
	modes := t.policies.inboundModes(w)
	add := func(p *inboundPort, bad func(error)) {
		if err := t.vacant(p); err != nil {
			bad(err)
			return
		}
		var err error
		if p.mode, err = t.attainable(modes.of(p.port)); err != nil {
			bad(fmt.Errorf("%s: %w", p.listen, err))
			return
		}
		t.findServices(p, objs)
		t.inboundPorts = append(t.inboundPorts, p)
		l := t.inboundListener(p, w)
		t.out.Opens[l.Name] = p.cluster()
		t.out.Listeners = append(t.out.Listeners, l)
	}
	for _, text := range t.o.Inbound {
		bad := func(err error) { t.rep.add(source.Problem{Field: "--inbound", Reason: err.Error()}) }
		p, err := parseInbound(text)
		if err != nil {
			bad(err)
			continue
		}
		if sidecar := t.scope.sidecar; sidecar != nil {
			p.pool = sidecar.Spec.(*networking.Sidecar).InboundConnectionPool
		}
		add(p, bad)
	}
	t.sidecarIngress(add)
}

// attainable is the mode that the proxy can serve: mutual TLS takes a certificate.
func (t *translator) attainable(mode mtlsMode) (mtlsMode, error) {
	switch {
	case t.o.identified():
	case mode == mtlsStrict:
		return mode, errors.New("PeerAuthentication demands mutual TLS, which takes a certificate of the mesh, and the proxy has none: name its directory with --certs")
	case mode == mtlsPermissive:
		t.rep.add(source.Problem{Warning: true, Field: "--inbound", Reason: "the proxy has no certificate of the mesh, so it takes plaintext only; name its directory with --certs"})
		return mtlsDisable, nil
	}
	return mode, nil
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
	if len(p.services) > 0 && !p.declared {
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
