// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strconv"
	"strings"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// ALPN lists towards clients.
var (
	alpnHTTP = []string{"h2", "http/1.1"}
	// alpnMutualTCP is that of ISTIO_MUTUAL servers that carry no HTTP.
	alpnMutualTCP = []string{"istio-peer-exchange", "h2", "http/1.1"}
)

// routeName is istiod's name of an HTTPS server's route configuration. The server alone
// has it: its certificate is its own.
func (s *gatewayServer) routeName() string {
	name := "https." + strconv.FormatUint(uint64(s.spec.Port.Number), 10) + "." + s.spec.Port.Name + "." + s.obj.Name + "." + s.obj.Namespace
	if s.spec.Bind != "" {
		name += "." + s.spec.Bind
	}
	return name
}

// serverNames are the names by which clients choose the server, sorted.
func (s *gatewayServer) serverNames() []string {
	var out []string
	for _, h := range s.hosts {
		if _, name, ok := strings.Cut(h, "/"); ok {
			h = name
		}
		out = append(out, h)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// secureChains makes the filter chains of the servers of a port that speak TLS. Which
// one a client gets is told by the server name that it asks for, so each name is one
// server's.
func (t *translator) secureChains(p *gatewayPort) []*listenerv3.FilterChain {
	var chains []*listenerv3.FilterChain
	var passed rawChains
	owner := make(map[string]*gatewayServer)
	t.warnOfReuse(p)
	for _, s := range p.servers {
		if other := s.sharedName(owner); other != nil {
			t.rep.errorf(s.obj, s.field(".hosts"), "a host of it is served at port %d by %s already; one server name has one certificate", p.number, place(other.obj))
			continue
		}
		switch {
		case s.spec.Tls.Mode == networking.ServerTLSSettings_AUTO_PASSTHROUGH:
			chains = append(chains, t.autoPassthrough(s)...)
		case s.passesThrough():
			vs := visibleRoutes(t.virtualServices, s.gateway(), t.o.Namespace)
			at := target{port: p.number, gateway: s.gateway()}
			before := len(passed.list)
			t.tlsChains(&passed, vs, at, nil, func(v *virtualService) []string { return s.hostsFor(v.obj.Namespace) })
			chains = append(chains, passed.list[before:]...)
		default:
			chains = append(chains, t.terminatingChains(p, s)...)
		}
	}
	return chains
}

// sharedName finds a server that has one of this one's names, and enters it for them.
func (s *gatewayServer) sharedName(owner map[string]*gatewayServer) *gatewayServer {
	for _, n := range s.serverNames() {
		// Who passes connections through is told apart by routes.
		if other := owner[n]; other != nil && !(s.passesThrough() && other.passesThrough()) {
			return other
		}
		owner[n] = s
	}
	return nil
}

// warnOfReuse tells of HTTPS servers of one port that show the same certificate.
// Clients of HTTP/2 use one connection for all names of a certificate (RFC 9113
// section 9.1.1), and get 404 where it belongs to another server. As istioctl
// analyze warns of it (IST0138), and as Istio, no 421 sends them elsewhere.
func (t *translator) warnOfReuse(p *gatewayPort) {
	owner := make(map[string]*gatewayServer)
	for _, s := range p.servers {
		if s.passesThrough() || s.spec.Tls.Mode == networking.ServerTLSSettings_AUTO_PASSTHROUGH || !s.overHTTP() {
			continue
		}
		cert, field := s.obj.Namespace+" "+s.spec.Tls.CredentialName, ".tls.credentialName"
		if s.spec.Tls.CredentialName == "" {
			cert, field = s.spec.Tls.ServerCertificate, ".tls.serverCertificate"
		}
		switch other := owner[cert]; {
		case cert == "":
		case other == nil:
			owner[cert] = s
		default:
			t.rep.warnf(s.obj, s.field(field), "%s of %s shows the same certificate: clients that use one connection for the hosts of both get 404; put the hosts into one server",
				other.field(""), place(other.obj))
		}
	}
}

// terminatingChains makes the chains of a server that ends TLS: of HTTP, or of
// connections that go on by tcp routes.
func (t *translator) terminatingChains(p *gatewayPort, s *gatewayServer) []*listenerv3.FilterChain {
	context := t.serverContext(s)
	if context == nil {
		return nil // reported
	}
	socket := tlsSocket(context)
	var match *listenerv3.FilterChainMatch
	if names := s.serverNames(); !slices.Contains(names, "*") {
		match = &listenerv3.FilterChainMatch{ServerNames: names}
	}
	if s.overHTTP() {
		m := t.gatewayManager(s.routeName())
		chain := newListener(p.bind, p.number, m).FilterChains[0]
		chain.FilterChainMatch, chain.TransportSocket = match, socket
		t.out.Routes = append(t.out.Routes, t.gatewayRoutes(s.routeName(), p.number, []*gatewayServer{s}))
		return []*listenerv3.FilterChain{chain}
	}
	var routed rawChains
	t.tcpChains(&routed, t.boundTo(s), target{port: p.number, gateway: s.gateway()}, nil)
	for _, c := range routed.list {
		if match != nil {
			if c.FilterChainMatch == nil {
				c.FilterChainMatch = &listenerv3.FilterChainMatch{}
			}
			c.FilterChainMatch.ServerNames = match.ServerNames
		}
		c.TransportSocket = socket
	}
	return routed.list
}

// overHTTP: what comes through the server's TLS is HTTP.
func (s *gatewayServer) overHTTP() bool { return parseProtocol(s.spec.Port.Protocol) == protoHTTPS }

// serverContext makes the TLS of a server as istiod's BuildListenerTLSContext does; nil
// when a secret is missing.
//
// Unlike istiod it applies verifyCertificateSpki and verifyCertificateHash wherever
// client certificates come from: what is asked for isn't passed over.
func (t *translator) serverContext(s *gatewayServer) *tlsv3.DownstreamTlsContext {
	tls := s.spec.Tls
	common := &tlsv3.CommonTlsContext{AlpnProtocols: alpnHTTP}
	require := tls.Mode == networking.ServerTLSSettings_MUTUAL || tls.Mode == networking.ServerTLSSettings_ISTIO_MUTUAL
	own := wantSANs(tls.SubjectAltNames)
	own.VerifyCertificateSpki, own.VerifyCertificateHash = tls.VerifyCertificateSpki, tls.VerifyCertificateHash
	crlFile(own, tls.CaCrl)
	if tls.GetInsecureSkipVerify().GetValue() {
		own.TrustChainVerification = tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
	}
	var anchors *tlsv3.SdsSecretConfig
	switch {
	case tls.Mode == networking.ServerTLSSettings_ISTIO_MUTUAL:
		if !t.o.identified() {
			t.rep.errorf(s.obj, s.field(".tls.mode"), "ISTIO_MUTUAL takes a certificate of the mesh, and the proxy has none: name its directory with --certs")
			return nil
		}
		if !s.overHTTP() {
			common.AlpnProtocols = alpnMutualTCP
		}
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{agentSecret(secretOwn)}
		anchors = agentSecret(secretRoots)
	case tls.CredentialName != "" || len(tls.CredentialNames) > 0:
		var ok bool
		if common.TlsCertificateSdsSecretConfigs, anchors, ok = t.serverCredentials(s); !ok {
			return nil
		}
	default:
		common.TlsCertificateSdsSecretConfigs = serverFiles(tls)
		anchors = agentSecret(fileRootName(tls.CaCertificates))
	}
	if require || tls.Mode == networking.ServerTLSSettings_OPTIONAL_MUTUAL {
		common.ValidationContextType = combined(own, anchors)
	}
	if tls.Mode != networking.ServerTLSSettings_ISTIO_MUTUAL {
		common.TlsParams = t.serverParams(s)
	}
	return &tlsv3.DownstreamTlsContext{CommonTlsContext: common, RequireClientCertificate: wrapperspb.Bool(require)}
}

// serverFiles names the certificates of a server that are in files.
func serverFiles(tls *networking.ServerTLSSettings) []*tlsv3.SdsSecretConfig {
	if len(tls.TlsCertificates) == 0 {
		return []*tlsv3.SdsSecretConfig{agentSecret(fileCertName(tls.ServerCertificate, tls.PrivateKey))}
	}
	var out []*tlsv3.SdsSecretConfig
	for _, c := range tls.TlsCertificates {
		out = append(out, agentSecret(fileCertName(c.ServerCertificate, c.PrivateKey)))
	}
	return out
}

// serverCredentials asks for the secrets that a server names; false if one is missing.
func (t *translator) serverCredentials(s *gatewayServer) (certs []*tlsv3.SdsSecretConfig, anchors *tlsv3.SdsSecretConfig, ok bool) {
	tls := s.spec.Tls
	names, field := tls.CredentialNames, ".tls.credentialNames"
	if len(names) == 0 {
		names, field = []string{tls.CredentialName}, ".tls.credentialName"
	}
	for _, n := range names {
		c := t.secrets.certificate(credentialUse{s.obj, s.field(field), n})
		if c == nil {
			return nil, nil, false
		}
		certs = append(certs, c)
	}
	if tls.Mode == networking.ServerTLSSettings_SIMPLE {
		return certs, nil, true
	}
	ca := credentialUse{s.obj, s.field(field), names[0]} // several certificates have the anchors of the first
	if tls.CaCertCredentialName != "" {
		ca.field, ca.credential = s.field(".tls.caCertCredentialName"), tls.CaCertCredentialName
	}
	anchors = t.secrets.anchors(ca)
	return certs, anchors, anchors != nil
}

// cipherSuites are those that istiod passes on (pkg/config/security of Istio); Envoy
// refuses others, and so would leave the port closed.
var cipherSuites = []string{
	"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
	"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA",
	"ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES256-SHA", "AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA", "DES-CBC3-SHA",
}

// serverParams makes versions and suites; nil when nothing is said of them.
func (t *translator) serverParams(s *gatewayServer) *tlsv3.TlsParameters {
	tls := s.spec.Tls
	if tls.MinProtocolVersion == 0 && tls.MaxProtocolVersion == 0 && len(tls.CipherSuites) == 0 {
		return nil
	}
	if lo, hi := tls.MinProtocolVersion, tls.MaxProtocolVersion; lo != 0 && hi != 0 && lo > hi {
		t.rep.errorf(s.obj, s.field(".tls.minProtocolVersion"), "%s is above maxProtocolVersion, %s: no client could connect", lo, hi)
	}
	for _, c := range tls.CipherSuites {
		if !slices.Contains(cipherSuites, c) {
			t.rep.errorf(s.obj, s.field(".tls.cipherSuites"), "%q is not a cipher suite that can be chosen, such as ECDHE-RSA-AES128-GCM-SHA256", c)
		}
	}
	return &tlsv3.TlsParameters{
		// The enumerations have the same numbers.
		TlsMinimumProtocolVersion: tlsv3.TlsParameters_TlsProtocol(tls.MinProtocolVersion),
		TlsMaximumProtocolVersion: tlsv3.TlsParameters_TlsProtocol(tls.MaxProtocolVersion),
		CipherSuites:              tls.CipherSuites,
	}
}

// autoPassthrough makes a chain for every port and subset of the services of the mesh
// that a server has as hosts. Clients name the cluster in the server name, and have to
// offer the mesh's own protocol names; only endpoints that take mutual TLS are in these
// clusters, so that nobody gets anywhere without it.
func (t *translator) autoPassthrough(s *gatewayServer) []*listenerv3.FilterChain {
	var chains []*listenerv3.FilterChain
	for _, svc := range t.scope.services {
		if svc.external || !slices.ContainsFunc(s.serverNames(), func(h string) bool { return covers(h, svc.host) }) {
			continue
		}
		rule := t.routeBuilder.rule(svc)
		for i := range svc.ports {
			p := &svc.ports[i]
			if p.protocol == protoUDP {
				continue
			}
			subsets := []string{""}
			if rule != nil {
				for j := range rule.subsets {
					subsets = append(subsets, rule.subsets[j].Name)
				}
			}
			own := rule.policyOf(p.number)
			for _, sub := range subsets {
				name := sniName(svc.host, sub, p.number)
				proxy := &tcpv3.TcpProxy{StatPrefix: name, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: name}, AccessLog: t.logs.of(classGateway).loggers()}
				applyRawPolicy(proxy, &own, true)
				c := t.rawFilters(classGateway, proxy)
				c.FilterChainMatch = &listenerv3.FilterChainMatch{ServerNames: []string{name}, ApplicationProtocols: alpnMeshAll}
				chains = append(chains, c)
				t.sniClusters[name] = true
			}
		}
	}
	return chains
}

// finishGateway gives the listener of a gateway's port that isn't plain HTTP istiod's
// form.
func finishGateway(l *listenerv3.Listener, tls bool) {
	l.ContinueOnListenerFiltersTimeout = false
	l.ListenerFiltersTimeout = nil
	l.ListenerFilters = nil
	if tls {
		l.ListenerFilters = []*listenerv3.ListenerFilter{{
			Name: filterTLSInspector,
			ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&tlsinspectorv3.TlsInspector{
				InitialReadBufferSize: wrapperspb.UInt32(512),
			})},
		}}
	}
	for _, c := range l.FilterChains {
		c.TransportSocketConnectTimeout = durationpb.New(15 * time.Second)
		if m := c.FilterChainMatch; len(m.GetServerNames()) > 0 {
			m.TransportProtocol = "" // a name comes with TLS only
		}
	}
	l.MaxConnectionsToAcceptPerSocketEvent = wrapperspb.UInt32(1)
}
