// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"pillion/proxy/filter"
	"pillion/proxy/filter/istiostats"
	"pillion/proxy/http"
	"pillion/proxy/listener"
)

// Network filters by the name of their message.
const (
	hcmType      = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	tcpProxyType = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	// metadataExchangeType learns who is at the other end.
	metadataExchangeType = "envoy.tcp.metadataexchange.config.MetadataExchange"
)

// compileChains compiles the filter chains and the choice between them.
func (c *Compiler) compileChains(s *Snapshot, out *Listener, l *listenerv3.Listener, routes map[string]*routev3.RouteConfiguration) error {
	names := map[string]bool{}
	compile := func(fc *listenerv3.FilterChain, place string) (*Chain, error) {
		chain, err := c.compileChain(s, fc, out.Name, out.Direction, routes)
		if err != nil {
			return nil, fmt.Errorf("%s%w", place, err)
		}
		if chain.Name = fc.GetName(); chain.Name == "" || names[chain.Name] {
			chain.Name += "#" + place
		}
		names[chain.Name] = true
		return chain, nil
	}
	var matches []listener.Match
	for i, fc := range l.GetFilterChains() {
		place := fmt.Sprintf("filter_chains[%d]", i)
		m, err := compileMatch(fc.GetFilterChainMatch())
		if err != nil {
			return fmt.Errorf("%s.filter_chain_match.%w", place, err)
		}
		chain, err := compile(fc, place)
		if err != nil {
			return err
		}
		matches, out.Chains = append(matches, m), append(out.Chains, chain)
	}
	if fc := l.GetDefaultFilterChain(); fc != nil {
		var err error
		if out.Default, err = compile(fc, "default_filter_chain"); err != nil {
			return err
		}
	}
	if len(out.Chains) == 0 && out.Default == nil {
		return fmt.Errorf("filter_chains: there is none")
	}
	var err error
	out.Matcher, err = listener.NewMatcher(matches)
	return err
}

// chainFields and chainMatchFields are the fields that mean something here.
var (
	chainFields      = fieldSet("filter_chain_match", "filters", "name", "metadata", "transport_socket", "transport_socket_connect_timeout")
	chainMatchFields = fieldSet("destination_port", "prefix_ranges", "server_names", "transport_protocol", "application_protocols",
		"source_prefix_ranges", "source_ports")
)

// compileChain compiles a chain's filters, of which the last one serves. An
// error begins with its place below the chain.
func (c *Compiler) compileChain(s *Snapshot, fc *listenerv3.FilterChain, listenerName string, d http.Direction, routes map[string]*routev3.RouteConfiguration) (*Chain, error) {
	if err := onlyFields(fc, chainFields); err != nil {
		return nil, fmt.Errorf(".%w", err)
	}
	n := len(fc.GetFilters())
	if n == 0 {
		return nil, fmt.Errorf(".filters: there is none")
	}
	var connection []filter.ConnectionFilter
	var admit []filter.Admitter
	var peers *peerExchange
	var tellEvery time.Duration
	for i, f := range fc.GetFilters()[:n-1] {
		switch typ := messageType(f.GetTypedConfig()); typ {
		case istioStatsType:
			o, err := c.istioStats(f.GetTypedConfig())
			if err != nil {
				return nil, fmt.Errorf(".filters[%d].typed_config.%w", i, err)
			}
			tellEvery = max(tellEvery, o.TellEvery)
			for _, w := range o.Warnings {
				s.Warnings = append(s.Warnings, fmt.Sprintf("listener %s: filters[%d]: istio.stats: %s", listenerName, i, w))
			}
			connection = append(connection, istiostats.NewWith(o, c.env.Own, d, c.env.Families))
		case metadataExchangeType:
			var err error
			if peers, err = compilePeerExchange(f.GetTypedConfig()); err != nil {
				return nil, fmt.Errorf(".filters[%d].typed_config.value.%w", i, err)
			}
		case networkRBACType, networkExtAuthzType:
			build := c.buildNetworkRBAC
			if typ == networkExtAuthzType {
				build = c.buildNetworkExtAuthz
			}
			a, err := build(f.GetTypedConfig())
			if err != nil {
				return nil, fmt.Errorf(".filters[%d].typed_config.%w", i, err)
			}
			if a != nil {
				admit = append(admit, a)
			}
		default:
			return nil, fmt.Errorf(".filters[%d].typed_config: type %q is not supported", i, typ)
		}
	}
	chain := &Chain{}
	if err := c.secureChain(chain, fc, listenerName); err != nil {
		return nil, fmt.Errorf(".%w", err)
	}
	var err error
	last := fc.GetFilters()[n-1].GetTypedConfig()
	switch typ := messageType(last); typ {
	case hcmType:
		m := &hcmv3.HttpConnectionManager{}
		if err = last.UnmarshalTo(m); err == nil {
			chain.HCM, err = c.compileHCM(s, m, d, routes)
		}
		if err == nil {
			chain.HCM.Admit = admit
		}
	case tcpProxyType:
		m := &tcpv3.TcpProxy{}
		if err = last.UnmarshalTo(m); err == nil {
			chain.TCP, err = c.compileTCP(s, m, connection)
		}
		if err == nil {
			chain.TCP.Admit = admit
			chain.TCP.TellEvery = tellEvery
			c.exchangePeers(chain.TCP, peers)
		}
	default:
		err = fmt.Errorf("typed_config: the last filter must be an HTTP connection manager or a TCP proxy, got %q", typ)
	}
	if err != nil {
		return nil, fmt.Errorf(".filters[%d].%w", n-1, err)
	}
	return chain, nil
}

// secureChain compiles the transport socket of a chain.
func (c *Compiler) secureChain(chain *Chain, fc *listenerv3.FilterChain, listenerName string) (err error) {
	socket := fc.GetTransportSocket()
	switch typ := messageType(socket.GetTypedConfig()); {
	case socket == nil, strings.HasSuffix(typ, ".raw_buffer.v3.RawBuffer"), typ == "" && strings.HasSuffix(socket.GetName(), "raw_buffer"):
		return nil
	case typ != downstreamTLSType:
		return fmt.Errorf("transport_socket: %s is not supported", typ)
	}
	if chain.TLS, err = c.compileServerTLS(listenerName, socket.GetTypedConfig()); err != nil {
		return fmt.Errorf("transport_socket.typed_config.%w", err)
	}
	chain.HandshakeTimeout, err = span("transport_socket_connect_timeout", fc.GetTransportSocketConnectTimeout(), listener.DefaultHandshakeTimeout)
	if err == nil && chain.HandshakeTimeout == 0 {
		chain.HandshakeTimeout = listener.DefaultHandshakeTimeout
	}
	return err
}

// compileMatch compiles which connections a chain is for.
func compileMatch(m *listenerv3.FilterChainMatch) (out listener.Match, err error) {
	if err := onlyFields(m, chainMatchFields); err != nil {
		return out, err
	}
	out.ServerNames, out.TransportProtocol = m.GetServerNames(), m.GetTransportProtocol()
	out.ApplicationProtocols = m.GetApplicationProtocols()
	if out.DestinationPort, err = portNumber(m.GetDestinationPort().GetValue()); err != nil {
		return out, fmt.Errorf("destination_port: %w", err)
	}
	if out.DestinationPrefixes, err = compilePrefixes(m.GetPrefixRanges()); err != nil {
		return out, fmt.Errorf("prefix_ranges%w", err)
	}
	if out.SourcePrefixes, err = compilePrefixes(m.GetSourcePrefixRanges()); err != nil {
		return out, fmt.Errorf("source_prefix_ranges%w", err)
	}
	for i, n := range m.GetSourcePorts() {
		p, err := portNumber(n)
		if err != nil {
			return out, fmt.Errorf("source_ports[%d]: %w", i, err)
		}
		out.SourcePorts = append(out.SourcePorts, p)
	}
	return out, nil
}

func portNumber(n uint32) (uint16, error) {
	if n > 65535 {
		return 0, fmt.Errorf("%d is no port", n)
	}
	return uint16(n), nil
}

func compilePrefixes(ranges []*corev3.CidrRange) (out []netip.Prefix, err error) {
	for i, r := range ranges {
		a, err := netip.ParseAddr(r.GetAddressPrefix())
		if err != nil {
			return nil, fmt.Errorf("[%d].address_prefix: %q is no IP address", i, r.GetAddressPrefix())
		}
		a = a.Unmap()
		bits := int(r.GetPrefixLen().GetValue())
		if bits < 0 || bits > a.BitLen() {
			return nil, fmt.Errorf("[%d].prefix_len: %d is longer than the address", i, bits)
		}
		out = append(out, netip.PrefixFrom(a, bits).Masked())
	}
	return out, nil
}
