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
	serverTLS // told apart by server name
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
	mode := s.spec.GetTls().GetMode()
	return s.kind() == serverTLS && (mode == networking.ServerTLSSettings_PASSTHROUGH || mode == networking.ServerTLSSettings_AUTO_PASSTHROUGH)
}

// gatewayListener makes the listener of a port that carries TCP or TLS; nil when no
// VirtualService is bound to it.
func (t *translator) gatewayListener(p *gatewayPort) *listenerv3.Listener {
	tls := p.servers[0].kind() == serverTLS
	var chains []*listenerv3.FilterChain
	if tls {
		chains = t.secureChains(p)
	} else {
		chains = t.tcpServers(p)
	}
	if len(chains) == 0 {
		first := p.servers[0]
		kind := "tcp"
		if first.passesThrough() {
			kind = "tls"
		}
		if !t.rep.failed {
			t.rep.warnf(first.obj, first.field(".hosts"), "no VirtualService bound to %s has a %s route for port %d: the port is not opened", first.gateway(), kind, p.number)
		}
		return nil
	}
	l := t.rawListener(p.bind, p.number, chains, tls, false)
	finishGateway(l, tls)
	l.AccessLog = t.logs.of(classGateway).listenerLoggers()
	return l
}

// tcpServers makes the chains of servers of plain TCP.
func (t *translator) tcpServers(p *gatewayPort) []*listenerv3.FilterChain {
	var c rawChains
	for _, s := range p.servers {
		if t.tcpChains(&c, t.boundTo(s), target{port: p.number, gateway: s.gateway()}, nil); c.last {
			break
		}
	}
	return c.list
}

// boundTo lists the VirtualServices that a server has a host in common with.
func (t *translator) boundTo(s *gatewayServer) (bound []*virtualService) {
	for _, v := range visibleRoutes(t.virtualServices, s.gateway(), t.o.Namespace) {
		if len(intersect(s.hostsFor(v.obj.Namespace), v.hosts)) > 0 {
			bound = append(bound, v)
		}
	}
	return bound
}

// servableProtocol reports what of a server's protocol can't be served.
func (t *translator) servableProtocol(s *gatewayServer) bool {
	switch p := parseProtocol(s.spec.Port.GetProtocol()); {
	case s.spec.Tls == nil && p.isTLS(), s.spec.Tls != nil && !p.isTLS() && !p.isHTTP():
		t.rep.errorf(s.obj, s.field(".tls"), "TLS settings and protocol %s don't go together: use HTTPS or TLS", s.spec.Port.GetProtocol())
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
