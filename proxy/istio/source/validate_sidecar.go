// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

func (s *subject) sidecar(at *place, c *networking.Sidecar) {
	if c.WorkloadSelector != nil {
		s.checkSelector(at.key("workloadSelector").key("labels"), c.WorkloadSelector.Labels)
	}
	if len(c.Egress) == 0 && len(c.Ingress) == 0 && c.OutboundTrafficPolicy == nil && c.InboundConnectionPool == nil {
		s.failAt(at, "", "needs egress, ingress, outboundTrafficPolicy or inboundConnectionPool")
	}
	s.sidecarIngress(at, c.Ingress)
	s.connectionPool(at.key("inboundConnectionPool"), c.InboundConnectionPool)
	s.sidecarEgress(at, c.Egress)
	s.outboundPolicy(at.key("outboundTrafficPolicy"), c.OutboundTrafficPolicy)
}

func (s *subject) sidecarIngress(at *place, listeners []*networking.IstioIngressListener) {
	ports := map[uint32]int{}
	for i, l := range listeners {
		here := at.key("ingress").item(i)
		if l.Port == nil {
			s.failAt(here, "port", "is required")
			continue
		}
		s.sidecarPort(here.key("port"), l.Port)
		s.checkPort(here.key("port"), "number", l.Port.Number)
		s.checkBind(here, l.Bind)
		if first, ok := ports[l.Port.Number]; ok {
			s.failAt(here.key("port"), "number", "%d is the port of ingress[%d] too", l.Port.Number, first)
		}
		ports[l.Port.Number] = i
		s.defaultEndpoint(here, l.DefaultEndpoint)
		s.connectionPool(here.key("connectionPool"), l.ConnectionPool)
		if t := l.Tls; t != nil {
			s.ingressTLS(here.key("tls"), t)
			if !parseProtocol(l.Port.Protocol).tls {
				s.failAt(here, "tls", "a listener for %q can't have TLS settings; use TLS or HTTPS", clip(l.Port.Protocol))
			}
		}
	}
}

func (s *subject) ingressTLS(at *place, t *networking.ServerTLSSettings) {
	for _, f := range []struct {
		name  string
		given bool
	}{
		{"subjectAltNames", len(t.SubjectAltNames) > 0},
		{"httpsRedirect", t.HttpsRedirect},
		{"credentialName", t.CredentialName != ""},
		{"credentialNames", len(t.CredentialNames) > 0},
		{"tlsCertificates", len(t.TlsCertificates) > 0},
	} {
		if f.given {
			s.failAt(at, f.name, "isn't supported for a sidecar's ingress")
		}
	}
	if t.Mode == networking.ServerTLSSettings_ISTIO_MUTUAL || t.Mode == networking.ServerTLSSettings_AUTO_PASSTHROUGH {
		s.failAt(at, "mode", "%s isn't supported for a sidecar's ingress", t.Mode)
		return
	}
	s.tlsOptions(at, t)
}

// defaultEndpoint checks where a sidecar's listener sends requests: a port of this
// machine or a socket.
func (s *subject) defaultEndpoint(at *place, endpoint string) {
	if endpoint == "" {
		return
	}
	if path, unix := strings.CutPrefix(endpoint, unixPrefix); unix {
		if reason := badUnixPath(path); reason != "" {
			s.failAt(at, "defaultEndpoint", "%q %s", clip(path), reason)
		}
		return
	}
	host, port, err := net.SplitHostPort(endpoint)
	n, numErr := strconv.Atoi(port)
	if err != nil || numErr != nil || n < 1 || n > maxPort || !oneOf(host, "", "127.0.0.1", "0.0.0.0", "::1", "::") {
		s.failAt(at, "defaultEndpoint", "%q isn't 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix://PATH", clip(endpoint))
	}
}

func (s *subject) sidecarEgress(at *place, listeners []*networking.IstioEgressListener) {
	ports, sockets := map[uint32]int{}, map[string]int{}
	for i, l := range listeners {
		here := at.key("egress").item(i)
		if len(l.Hosts) == 0 {
			s.failAt(here, "hosts", `at least one host is required, such as "./*"`)
		}
		s.egressHosts(here, l.Hosts)
		switch p := l.Port; {
		case p == nil:
			// It takes the ports that are left, so it can't stand before others.
			if i != len(listeners)-1 {
				s.failAt(here, "port", "is required for every listener but the last")
			}
		case p.Number == 0:
			s.egressSocket(here, l)
			if first, ok := sockets[l.Bind]; ok {
				s.failAt(here, "bind", "%q is bound by egress[%d] too", clip(l.Bind), first)
			}
			sockets[l.Bind] = i
		default:
			s.sidecarPort(here.key("port"), p)
			s.checkPort(here.key("port"), "number", p.Number)
			s.checkBind(here, l.Bind)
			if first, ok := ports[p.Number]; ok {
				s.failAt(here.key("port"), "number", "%d is the port of egress[%d] too", p.Number, first)
			}
			ports[p.Number] = i
		}
	}
}

func (s *subject) egressSocket(at *place, l *networking.IstioEgressListener) {
	s.sidecarPort(at.key("port"), l.Port)
	path, unix := strings.CutPrefix(l.Bind, unixPrefix)
	if !unix {
		s.failAt(at.key("port"), "number", "is required unless bind is a socket (unix://PATH)")
		return
	}
	if reason := badUnixPath(path); reason != "" {
		s.failAt(at, "bind", "%q %s", clip(path), reason)
	}
	if l.CaptureMode == networking.CaptureMode_IPTABLES {
		s.failAt(at, "captureMode", "IPTABLES can't capture for a socket")
	}
}

func (s *subject) sidecarPort(at *place, p *networking.SidecarPort) {
	if p.Name != "" {
		s.checkPortName(at, "name", p.Name)
	}
	s.checkProtocol(at, "protocol", p.Protocol, true)
	//lint:ignore SA1019 deprecated, and still part of the API
	if p.TargetPort > 0 {
		s.failAt(at, "targetPort", "has no effect in a Sidecar; leave it out")
	}
}

// egressHosts checks the hosts of one listener and warns of those that others cover.
func (s *subject) egressHosts(at *place, hosts []string) {
	seen := map[string]int{}
	for i, h := range hosts {
		here := at.key("hosts").item(i)
		s.scopedHost(here, h, false)
		ns, name, _ := strings.Cut(h, "/")
		if ns == "." {
			ns = s.Namespace
		}
		for _, cover := range []string{ns + "/" + name, ns + "/*", "*/*"} {
			if first, ok := seen[cover]; ok {
				s.warnAt(here, "", "%q is covered by hosts[%d] already", clip(h), first)
				break
			}
		}
		if _, ok := seen[ns+"/"+name]; !ok {
			seen[ns+"/"+name] = i
		}
	}
}

func (s *subject) outboundPolicy(at *place, p *networking.OutboundTrafficPolicy) {
	if p == nil || p.EgressProxy == nil {
		return
	}
	here := at.key("egressProxy")
	if p.Mode != networking.OutboundTrafficPolicy_ALLOW_ANY {
		s.failAt(here, "", "needs mode ALLOW_ANY")
	}
	if p.EgressProxy.Port == nil {
		s.failAt(here, "port", "is required")
	}
	s.destination(here, p.EgressProxy)
}
