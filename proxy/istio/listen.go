// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// listenAll is the value of --listen that opens every port which the http listener
// doesn't serve.
const listenAll = "all"

// boundPort is a port of a service that has an address of this machine, at which it
// can be reached where no traffic is captured.
type boundPort struct {
	address netip.AddrPort
	s       *service
	p       *servicePort
	guessed bool // the address is from --listen all
}

func (b *boundPort) name() string { return hostPort(b.s.host, b.p.number) }

// boundPorts are the addresses to listen at, in order, and who is to be reached there.
type boundPorts struct {
	order     []netip.AddrPort
	byAddress map[netip.AddrPort][]boundPort
	reachable map[*servicePort]bool
}

func (l *boundPorts) add(b boundPort) {
	have := l.byAddress[b.address]
	if slices.ContainsFunc(have, func(h boundPort) bool { return h.p == b.p }) {
		return
	}
	if have == nil {
		l.order = append(l.order, b.address)
	}
	l.byAddress[b.address] = append(have, b)
	l.reachable[b.p] = true
}

// boundPorts collects what is to be listened at: what Options.Listen says; for ports
// that it doesn't name, what the Sidecar binds and the service's own address, if that
// is a loopback one; and with "all" the ports that are left, at 127.0.0.1.
func (t *translator) boundPorts() *boundPorts {
	l := &boundPorts{byAddress: make(map[netip.AddrPort][]boundPort), reachable: make(map[*servicePort]bool)}
	for _, text := range t.o.Listen {
		if text == listenAll {
			continue
		}
		b, err := t.parseListen(text)
		if err != nil {
			t.rep.add(source.Problem{Field: "--listen", Reason: fmt.Sprintf("%s: %v", text, err)})
			continue
		}
		l.add(b)
	}
	named := make(map[*servicePort]bool, len(l.reachable))
	for p := range l.reachable {
		named[p] = true
	}
	t.eachPort(func(s *service, p *servicePort) {
		for _, ip := range s.loopbackAddresses() {
			if !named[p] && listenable(p) && t.needsCapture(s, p) == "" {
				l.add(boundPort{address: netip.AddrPortFrom(ip, uint16(p.number)), s: s, p: p})
			}
		}
	})
	t.sidecarPorts(l, named)
	if slices.Contains(t.o.Listen, listenAll) {
		t.everyPort(l)
	}
	t.warnUnreachable(l)
	return l
}

// eachPort calls f for every port of the services in scope.
func (t *translator) eachPort(f func(s *service, p *servicePort)) {
	for _, s := range t.scope.services {
		for i := range s.ports {
			f(s, &s.ports[i])
		}
	}
}

// parseListen reads HOST:PORT=ADDRESS:PORT.
func (t *translator) parseListen(text string) (b boundPort, err error) {
	what, address, ok := strings.Cut(text, "=")
	host, portText, ok2 := strings.Cut(what, ":")
	port, perr := strconv.ParseUint(portText, 10, 16)
	if !ok || !ok2 || perr != nil || host == "" {
		return b, fmt.Errorf(`wants HOST:PORT=ADDRESS:PORT, such as db:5432=127.0.0.1:5432, or "all"`)
	}
	if b.address, err = parseListenAddress(address); err != nil {
		return b, err
	}
	if b.s = t.scope.serviceNamed(host, t.o); b.s == nil {
		return b, fmt.Errorf("there is no service %s that this proxy may use", qualify(host, t.o.Namespace, t.o.DomainSuffix))
	}
	if b.p = b.s.port(uint32(port)); b.p == nil {
		return b, fmt.Errorf("%s has no port %d", b.s.host, port)
	}
	if !listenable(b.p) {
		return b, fmt.Errorf("port %d of %s carries UDP, which is not proxied", port, b.s.host)
	}
	if why := t.needsCapture(b.s, b.p); why != "" {
		return b, fmt.Errorf("%s", why)
	}
	return b, nil
}

// serviceNamed finds a service by any of the names that clients may use.
func (sc *scope) serviceNamed(host string, o *Options) *service {
	host = strings.ToLower(host)
	if s := sc.find(qualify(host, o.Namespace, o.DomainSuffix)); s != nil {
		return s
	}
	for _, s := range sc.services {
		if slices.Contains(domainForms(s.host, o.Namespace, o.DomainSuffix), host) {
			return s
		}
	}
	return nil
}

// listenable: a stream of bytes comes there.
func listenable(p *servicePort) bool { return p.protocol != protoUDP }

// needsCapture says why a port can't be reached at an address of the proxy's: its
// cluster sends connections on to where their client meant them to go, and that is the
// proxy then. It is empty when there is no such reason.
func (t *translator) needsCapture(s *service, p *servicePort) string {
	if s.resolution == resolveNone {
		return s.host + " has resolution NONE, so only the client knows its addresses, and it can't tell them here; give it endpoints, or resolution DNS"
	}
	own := t.routeBuilder.rule(s).policyOf(p.number)
	if own.lb.value.GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH {
		return s.host + " is balanced by PASSTHROUGH, so only the client knows its addresses, and it can't tell them here"
	}
	return ""
}

// loopbackAddresses are the service's own addresses that this machine has anyway.
func (s *service) loopbackAddresses() []netip.Addr {
	var out []netip.Addr
	for _, a := range s.addresses {
		if ip, err := netip.ParseAddr(a); err == nil && ip.IsLoopback() {
			out = append(out, ip)
		}
	}
	return out
}

// sidecarPorts adds the ports that a Sidecar binds to an address of this machine.
func (t *translator) sidecarPorts(l *boundPorts, named map[*servicePort]bool) {
	for _, e := range t.scope.listeners {
		if !e.bind.IsValid() {
			continue
		}
		for _, in := range e.services {
			s := t.scope.byHost[in.host]
			if s == nil {
				continue
			}
			if p := s.port(e.port); p != nil && !named[p] && listenable(p) && t.needsCapture(s, p) == "" {
				l.add(boundPort{address: netip.AddrPortFrom(e.bind, uint16(e.port)), s: s, p: p})
			}
		}
	}
}

// egressBind returns the address of this machine to which a Sidecar's egress entry
// binds a port that isn't HTTP; without capture 127.0.0.1 is what Istio's API says.
func egressBind(e *networking.IstioEgressListener) (bind netip.Addr) {
	p := parseProtocol(e.GetPort().GetProtocol())
	if e.GetPort().GetNumber() == 0 || p.routable() || p == protoUDP {
		return netip.Addr{}
	}
	if e.Bind == "" && e.CaptureMode == networking.CaptureMode_NONE {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if ip, err := netip.ParseAddr(e.Bind); err == nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		return ip
	}
	return netip.Addr{}
}

// everyPort adds every port that has no address yet and that the http listener can't
// serve, at 127.0.0.1. A port of unknown protocol that would share one with another
// port is left to the http listener, where the port's name tells them apart.
func (t *translator) everyPort(l *boundPorts) {
	var guessed []boundPort
	claims := make(map[netip.AddrPort]int)
	t.eachPort(func(s *service, p *servicePort) {
		if l.reachable[p] || p.protocol.isHTTP() || !listenable(p) || t.needsCapture(s, p) != "" {
			return
		}
		b := boundPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(p.number)), s, p, true}
		guessed = append(guessed, b)
		claims[b.address]++
	})
	for a, have := range l.byAddress {
		claims[a] += len(have)
	}
	for _, b := range guessed {
		if b.p.protocol == protoUnnamed && claims[b.address] > 1 {
			t.rep.warnf(b.s.obj, portField(b.s, b.p.number), "port %d is not opened by --listen all: other services want %s too; "+
				"as HTTP it is reached through --http, or run with --listen %s", b.p.number, b.address, suggestion(b.s, b.p))
			continue
		}
		l.add(b)
	}
}

// suggestion is what --listen could say of a port. Ports below 1024 need a right that
// users of laptops don't have.
func suggestion(s *service, p *servicePort) string {
	at := p.number
	if at < 1024 {
		at += 8000
	}
	return fmt.Sprintf("%s=127.0.0.1:%d", hostPort(s.host, p.number), at)
}

// warnUnreachable tells of ports that carry no HTTP and have no address here.
func (t *translator) warnUnreachable(l *boundPorts) {
	t.eachPort(func(s *service, p *servicePort) {
		if p.protocol.routable() || !listenable(p) || l.reachable[p] {
			return
		}
		if why := t.needsCapture(s, p); why != "" {
			t.rep.warnf(s.obj, portField(s, p.number), "port %d carries no plain HTTP and can't be reached without traffic capture: %s", p.number, why)
			return
		}
		t.rep.warnf(s.obj, portField(s, p.number), "port %d carries no plain HTTP and has no address here: nothing listens for it; "+
			"give the service an address in 127.0.0.0/8, or run with --listen %s, or with --listen all", p.number, suggestion(s, p))
	})
}

// portField is the field of a service's port.
func portField(s *service, number uint32) string {
	switch spec := s.obj.Spec.(type) {
	case *networking.ServiceEntry:
		if i := slices.IndexFunc(spec.Ports, func(p *networking.ServicePort) bool { return p.GetNumber() == number }); i >= 0 {
			return fmt.Sprintf("spec.ports[%d].protocol", i)
		}
	case *source.Service:
		for i, p := range spec.Ports {
			if p.Port == number {
				return fmt.Sprintf("spec.ports[%d]", i)
			}
		}
	}
	return "spec.ports"
}
