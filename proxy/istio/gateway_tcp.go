// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	networking "istio.io/api/networking/v1alpha3"
)

// serverKind is what the servers of one port have in common.
type serverKind uint8

const (
	serverHTTP serverKind = iota
	serverTCP
	serverTLS // passed through, told apart by server name
)

func (s *gatewayServer) kind() serverKind {
	switch p := parseProtocol(s.spec.Port.GetProtocol()); {
	case p.isHTTP():
		return serverHTTP
	case p.isTLS():
		return serverTLS
	}
	return serverTCP
}

// passesThrough: the server leaves TLS to the service behind it.
func (s *gatewayServer) passesThrough() bool {
	return s.kind() == serverTLS && s.spec.GetTls().GetMode() == networking.ServerTLSSettings_PASSTHROUGH
}

// gatewayListener makes the listener of a port that carries TCP or TLS; nil when no
// VirtualService is bound to it.
func (t *translator) gatewayListener(p *gatewayPort) *listenerv3.Listener {
	var c rawChains
	tls := p.servers[0].kind() == serverTLS
	for _, s := range p.servers {
		at := target{port: p.number, gateway: s.gateway()}
		vs := visibleRoutes(t.virtualServices, s.gateway(), t.o.Namespace)
		if tls {
			t.tlsChains(&c, vs, at, nil, func(v *virtualService) []string { return s.hostsFor(v.obj.Namespace) })
			continue
		}
		var bound []*virtualService
		for _, v := range vs {
			if len(intersect(s.hostsFor(v.obj.Namespace), v.hosts)) > 0 {
				bound = append(bound, v)
			}
		}
		if t.tcpChains(&c, bound, at, nil); c.last {
			break
		}
	}
	if len(c.list) == 0 {
		first := p.servers[0]
		t.rep.warnf(first.obj, first.field(".hosts"), "no VirtualService bound to %s has a %s route for port %d: the port is not opened",
			first.gateway(), map[bool]string{true: "tls", false: "tcp"}[tls], p.number)
		return nil
	}
	l := t.rawListener(p.bind, p.number, c.list, tls, false)
	l.AccessLog = t.logs.listenerLoggers()
	return l
}

// servableProtocol reports what of a server's protocol can't be served.
func (t *translator) servableProtocol(s *gatewayServer) bool {
	switch p := parseProtocol(s.spec.Port.GetProtocol()); {
	case s.passesThrough():
		return true
	case p.isTLS(), s.spec.Tls != nil && !p.isHTTP():
		t.rep.errorf(s.obj, s.field(".port.protocol"), "%s is not supported yet by this build but for tls mode PASSTHROUGH: the port can't be served with TLS",
			s.spec.Port.GetProtocol())
		return false
	case p == protoUDP:
		t.rep.unsupportedf(s.obj, s.field(".port.protocol"), "port %d of protocol %s is not opened", s.spec.Port.GetNumber(), s.spec.Port.GetProtocol())
		return false
	}
	if strings.HasPrefix(s.spec.Bind, unixPrefix) {
		t.rep.unsupportedf(s.obj, s.field(".bind"), "nothing listens on a Unix socket")
		return false
	}
	return true
}
