// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	alpnv2 "istio.io/api/envoy/config/filter/http/alpn/v2alpha1"

	"pillion/proxy/pool"
)

const alpnType = "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"

// alpnOverride is what Istio's filter istio.alpn has connections to hosts of the
// mesh offer, so that the sidecar there knows HTTP from raw bytes. Envoy decides it
// for each request; as Istio gives the one configuration to all connection managers
// that lead to hosts with TLS, it is a setting of their clusters here, and their
// connections can be shared. nil if no listener has the filter.
func (c *Compiler) alpnOverride(listeners []*listenerv3.Listener) (*pool.ALPN, error) {
	for _, l := range listeners {
		chains := l.GetFilterChains()
		if d := l.GetDefaultFilterChain(); d != nil {
			chains = append(chains[:len(chains):len(chains)], d)
		}
		for _, fc := range chains {
			found, err := alpnOfChain(fc)
			if err != nil {
				return nil, fmt.Errorf("listener %s: %w", l.GetName(), err)
			}
			if found != nil {
				return c.sameALPN(found), nil
			}
		}
	}
	return nil, nil
}

// sameALPN returns the same pointer for the same names, so that a change of other
// things doesn't look like one of these.
func (c *Compiler) sameALPN(a *pool.ALPN) *pool.ALPN {
	if old := c.alpn; old != nil && alpnText(old) == alpnText(a) {
		return old
	}
	c.alpn = a
	return a
}

// alpnText stands for all of a; it is empty for nil.
func alpnText(a *pool.ALPN) string {
	if a == nil {
		return ""
	}
	return strings.Join(a.HTTP1, ",") + ";" + strings.Join(a.HTTP2, ",")
}

// alpnOfChain returns what the chain's connection manager overrides, nil if it has
// none or no such filter. What can't be decoded is for the chain's own compilation
// to report.
func alpnOfChain(fc *listenerv3.FilterChain) (*pool.ALPN, error) {
	filters := fc.GetFilters()
	if len(filters) == 0 || messageType(filters[len(filters)-1].GetTypedConfig()) != hcmType {
		return nil, nil
	}
	m := &hcmv3.HttpConnectionManager{}
	if filters[len(filters)-1].GetTypedConfig().UnmarshalTo(m) != nil {
		return nil, nil
	}
	for i, f := range m.GetHttpFilters() {
		if messageType(f.GetTypedConfig()) != alpnType || f.GetDisabled() {
			continue
		}
		cfg := &alpnv2.FilterConfig{}
		if err := f.GetTypedConfig().UnmarshalTo(cfg); err != nil {
			return nil, fmt.Errorf("http_filters[%d].typed_config: %w", i, err)
		}
		out := &pool.ALPN{}
		for _, o := range cfg.GetAlpnOverride() {
			switch o.GetUpstreamProtocol() {
			case alpnv2.FilterConfig_HTTP11:
				out.HTTP1 = o.GetAlpnOverride()
			case alpnv2.FilterConfig_HTTP2:
				out.HTTP2 = o.GetAlpnOverride()
			case alpnv2.FilterConfig_HTTP10: // which hosts are never spoken to
			}
		}
		return out, nil
	}
	return nil, nil
}
