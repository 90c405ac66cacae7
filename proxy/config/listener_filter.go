// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
)

// Listener filters by the name of their message.
const (
	tlsInspectorType  = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
	httpInspectorType = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
	originalDstType   = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
)

// portSet tells whether something holds for a destination port.
type portSet = func(port uint16) bool

func everyPort(uint16) bool { return true }

// tlsInspectorFields change nothing here: there is one size of buffer, and nothing
// shows fingerprints.
var tlsInspectorFields = fieldSet("initial_read_buffer_size", "enable_ja3_fingerprinting", "enable_ja4_fingerprinting")

// compileFilters compiles what is looked at before a chain is chosen.
func (out *Listener) compileFilters(l *listenerv3.Listener) error {
	for i, f := range l.GetListenerFilters() {
		ports, err := compileDisabled(f.GetFilterDisabled())
		if err != nil {
			return fmt.Errorf("listener_filters[%d].filter_disabled: %w", i, err)
		}
		switch typ := messageType(f.GetTypedConfig()); typ {
		case tlsInspectorType:
			cfg := &tlsinspectorv3.TlsInspector{}
			if err := f.GetTypedConfig().UnmarshalTo(cfg); err != nil {
				return fmt.Errorf("listener_filters[%d].typed_config: %w", i, err)
			}
			if err := onlyFields(cfg, tlsInspectorFields); err != nil {
				return fmt.Errorf("listener_filters[%d].typed_config.%w", i, err)
			}
			out.SniffTLS = ports
		case httpInspectorType:
			out.SniffHTTP = ports
		case originalDstType:
			out.Redirected = true
		default:
			return fmt.Errorf("listener_filters[%d] (%s): type %q is not supported", i, f.GetName(), typ)
		}
	}
	if out.SniffTLS == nil && needsTLSInspector(l) {
		out.SniffTLS = everyPort
	}
	return nil
}

// needsTLSInspector reports whether a chain can't be chosen without one: Envoy
// adds it then by itself.
func needsTLSInspector(l *listenerv3.Listener) bool {
	for _, fc := range l.GetFilterChains() {
		m := fc.GetFilterChainMatch()
		if m.GetTransportProtocol() == "tls" ||
			m.GetTransportProtocol() == "" && len(m.GetServerNames())+len(m.GetApplicationProtocols()) > 0 {
			return true
		}
	}
	return false
}

// compileDisabled returns the ports for which a filter isn't disabled.
func compileDisabled(p *listenerv3.ListenerFilterChainMatchPredicate) (portSet, error) {
	if p == nil {
		return everyPort, nil
	}
	disabled, err := compilePorts(p, 0)
	if err != nil {
		return nil, err
	}
	return func(port uint16) bool { return !disabled(port) }, nil
}

// maxPredicateDepth bounds how deep predicates may be nested.
const maxPredicateDepth = 16

func compilePorts(p *listenerv3.ListenerFilterChainMatchPredicate, depth int) (portSet, error) {
	if depth > maxPredicateDepth {
		return nil, fmt.Errorf("is nested more than %d deep", maxPredicateDepth)
	}
	switch r := p.GetRule().(type) {
	case *listenerv3.ListenerFilterChainMatchPredicate_OrMatch:
		return compilePortList(r.OrMatch, depth, true)
	case *listenerv3.ListenerFilterChainMatchPredicate_AndMatch:
		return compilePortList(r.AndMatch, depth, false)
	case *listenerv3.ListenerFilterChainMatchPredicate_NotMatch:
		not, err := compilePorts(r.NotMatch, depth+1)
		if err != nil {
			return nil, fmt.Errorf("not_match: %w", err)
		}
		return func(port uint16) bool { return !not(port) }, nil
	case *listenerv3.ListenerFilterChainMatchPredicate_AnyMatch:
		return everyPort, nil
	case *listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange:
		from, to := r.DestinationPortRange.GetStart(), r.DestinationPortRange.GetEnd()
		return func(port uint16) bool { return int32(port) >= from && int32(port) < to }, nil
	}
	return nil, fmt.Errorf("has no rule")
}

// compilePortList compiles a list of which one, or all, must hold.
func compilePortList(set *listenerv3.ListenerFilterChainMatchPredicate_MatchSet, depth int, one bool) (portSet, error) {
	var list []portSet
	for i, p := range set.GetRules() {
		ports, err := compilePorts(p, depth+1)
		if err != nil {
			return nil, fmt.Errorf("rules[%d]: %w", i, err)
		}
		list = append(list, ports)
	}
	return func(port uint16) bool {
		for _, ports := range list {
			if ports(port) == one {
				return one
			}
		}
		return !one
	}, nil
}
