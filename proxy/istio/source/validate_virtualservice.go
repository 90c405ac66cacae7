// SPDX-License-Identifier: Apache-2.0

package source

import (
	"math"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// meshGateway is the name that stands for all sidecars among gateways.
const meshGateway = "mesh"

func (s *subject) virtualService(at *place, vs *networking.VirtualService) {
	delegate := len(vs.Hosts) == 0
	if delegate {
		for _, f := range []struct {
			name  string
			given bool
		}{{"gateways", len(vs.Gateways) > 0}, {"tls", len(vs.Tls) > 0}, {"tcp", len(vs.Tcp) > 0}} {
			if f.given {
				s.failAt(at, f.name, "a VirtualService without hosts is a delegate, which has http routes only; give hosts")
			}
		}
	}
	s.gatewayNames(at, vs.Gateways)
	mesh := len(vs.Gateways) == 0 || slices.Contains(vs.Gateways, meshGateway)
	s.virtualServiceHosts(at, vs, mesh)
	if len(vs.Http)+len(vs.Tcp)+len(vs.Tls) == 0 {
		s.failAt(at, "", "needs http, tls or tcp routes")
	}
	for i, r := range vs.Http {
		s.httpRoute(at.key("http").item(i), r, delegate)
		if mesh {
			s.noClaims(at.key("http").item(i), r)
		}
	}
	for i, r := range vs.Tls {
		s.tlsRoute(at.key("tls").item(i), r, vs)
	}
	for i, r := range vs.Tcp {
		s.tcpRoute(at.key("tcp").item(i), r)
	}
	s.checkExportTo(at, vs.ExportTo, false)
	s.unreachable(at, vs.Http)
}

func (s *subject) virtualServiceHosts(at *place, vs *networking.VirtualService, mesh bool) {
	hosts := at.key("hosts")
	sni := slices.ContainsFunc(vs.Tls, func(r *networking.TLSRoute) bool {
		return slices.ContainsFunc(r.Match, func(m *networking.TLSMatchAttributes) bool { return len(m.SniHosts) > 0 })
	})
	valid := true
	for i, h := range vs.Hosts {
		switch reason := badHost(h); {
		case h == "*" && mesh:
			s.failAt(hosts.item(i), "", `"*" can't be a host for the mesh's sidecars; name hosts, or gateways other than "mesh"`)
		case reason == "" || isIP(h) || sni && !mesh && strings.HasPrefix(h, "outbound_"):
			continue
		default:
			s.failAt(hosts.item(i), "", "%q %s", clip(h), reason)
		}
		valid = false
	}
	if !valid {
		return
	}
	for i, a := range vs.Hosts {
		for j, b := range vs.Hosts[:i] {
			if hostsOverlap(a, b) {
				s.failAt(hosts.item(i), "", "%q covers the same names as hosts[%d], %q", a, j, b)
				break
			}
		}
	}
}

// gatewayNames checks references to gateways: "mesh", "name", "namespace/name", or the
// old form "name.namespace.svc.cluster.local".
func (s *subject) gatewayNames(at *place, gateways []string) {
	for i, g := range gateways {
		here := at.key("gateways").item(i)
		ns, name, ok := strings.Cut(g, "/")
		switch {
		case !ok:
			if reason := badFQDN(g); reason != "" {
				s.failAt(here, "", "%q %s", clip(g), reason)
			}
		case badLabel(ns) != "" || badLabel(name) != "":
			s.failAt(here, "", "%q isn't a gateway's name; wants name or namespace/name", clip(g))
		}
	}
}

// noClaims refuses matches on JWT claims, which only gateways evaluate before routing.
func (s *subject) noClaims(at *place, r *networking.HTTPRoute) {
	for i, m := range r.Match {
		here := at.key("match").item(i)
		for _, name := range keysOf(m.Headers) {
			if isClaim(name) {
				s.failAt(here.key("headers"), name, "routing by JWT claims works for gateways only")
			}
		}
		for _, name := range keysOf(m.WithoutHeaders) {
			if isClaim(name) {
				s.failAt(here.key("withoutHeaders"), name, "routing by JWT claims works for gateways only")
			}
		}
	}
}

// isClaim reports whether a header's name in a match stands for a JWT claim.
func isClaim(name string) bool {
	const prefix = "@request.auth.claims"
	return len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}

// unreachable warns of routes behind one that takes every request.
func (s *subject) unreachable(at *place, routes []*networking.HTTPRoute) {
	for i, r := range routes {
		if !takesAll(r) {
			continue
		}
		for j := i + 1; j < len(routes); j++ {
			s.warnAt(at.key("http").item(j), "", "never used: http[%d] takes every request", i)
		}
		return
	}
}

// takesAll reports whether a route matches every request.
func takesAll(r *networking.HTTPRoute) bool {
	return len(r.Match) == 0 || slices.ContainsFunc(r.Match, func(m *networking.HTTPMatchRequest) bool {
		anyURI := m.Uri.GetMatchType() == nil
		if p, ok := m.Uri.GetMatchType().(*networking.StringMatch_Prefix); ok {
			anyURI = p.Prefix == "" || p.Prefix == "/"
		}
		return anyURI && m.Scheme == nil && m.Method == nil && m.Authority == nil && len(m.Headers) == 0 && m.Port == 0 &&
			len(m.SourceLabels) == 0 && len(m.Gateways) == 0 && len(m.QueryParams) == 0 && len(m.WithoutHeaders) == 0 &&
			m.SourceNamespace == ""
	})
}

func (s *subject) tlsRoute(at *place, r *networking.TLSRoute, vs *networking.VirtualService) {
	if len(r.Match) == 0 {
		s.failAt(at, "match", "is required: a TLS route is chosen by SNI")
	}
	for i, m := range r.Match {
		here := at.key("match").item(i)
		if len(m.SniHosts) == 0 {
			s.failAt(here, "sniHosts", "is required")
		}
		for j, h := range m.SniHosts {
			s.sniHost(here.key("sniHosts").item(j), h, vs)
		}
		s.checkL4(here, m.DestinationSubnets, m.Port, m.SourceLabels, m.Gateways)
	}
	s.destinations(at, r.Route)
}

func (s *subject) sniHost(at *place, h string, vs *networking.VirtualService) {
	gatewayOnly := len(vs.Gateways) > 0 && !slices.Contains(vs.Gateways, meshGateway)
	reason := badHost(h)
	switch {
	case gatewayOnly && strings.HasPrefix(h, "outbound_"): // as istiod names clusters for AUTO_PASSTHROUGH
	case reason != "" && isIP(h):
		s.warnAt(at, "", "%q is an address, and clients send no SNI for addresses (RFC 6066 §3)", h)
		return
	case reason != "":
		s.failAt(at, "", "%q %s", clip(h), reason)
		return
	}
	if !slices.ContainsFunc(vs.Hosts, func(host string) bool { return hostWithin(h, host) }) {
		s.failAt(at, "", "%q isn't covered by the VirtualService's hosts", clip(h))
	}
}

func (s *subject) tcpRoute(at *place, r *networking.TCPRoute) {
	for i, m := range r.Match {
		s.checkL4(at.key("match").item(i), m.DestinationSubnets, m.Port, m.SourceLabels, m.Gateways)
	}
	s.destinations(at, r.Route)
}

// checkL4 checks what matches of TLS and TCP routes have in common.
func (s *subject) checkL4(at *place, subnets []string, port uint32, labels map[string]string, gateways []string) {
	for i, subnet := range subnets {
		if reason := badSubnet(subnet); reason != "" {
			s.failAt(at.key("destinationSubnets").item(i), "", "%q %s", clip(subnet), reason)
		}
	}
	if port != 0 {
		s.checkPort(at, "port", port)
	}
	s.checkLabels(at.key("sourceLabels"), labels)
	s.gatewayNames(at, gateways)
}

// destinations checks the weighted destinations of a TLS or TCP route.
func (s *subject) destinations(at *place, routes []*networking.RouteDestination) {
	if len(routes) == 0 {
		s.failAt(at, "route", "is required")
	}
	weights := make([]int32, len(routes))
	for i, r := range routes {
		weights[i] = r.Weight
		s.requiredDestination(at.key("route").item(i), r.Destination)
	}
	s.checkWeights(at, weights)
}

// checkWeights checks the weights of one route.
func (s *subject) checkWeights(at *place, weights []int32) {
	var total int64
	for i, w := range weights {
		if w < 0 {
			s.failAt(at.key("route").item(i), "weight", "%d is negative; wants 0 or more", w)
			return
		}
		total += int64(w)
	}
	if len(weights) > 1 && total == 0 {
		s.failAt(at, "route", "the weights of %d destinations add up to 0; give at least one more than 0", len(weights))
	}
	if total > math.MaxUint32 { // Envoy's limit for a weighted cluster
		s.failAt(at, "route", "the weights add up to %d; wants at most %d", total, uint32(math.MaxUint32))
	}
}

func (s *subject) requiredDestination(at *place, d *networking.Destination) {
	if d == nil {
		s.failAt(at, "destination", "is required")
		return
	}
	s.destination(at.key("destination"), d)
}

func (s *subject) destination(at *place, d *networking.Destination) {
	if d == nil {
		return
	}
	if reason := badHost(d.Host); d.Host == "*" {
		s.failAt(at, "host", `"*" names no host to send to`)
	} else if d.Host == "" {
		s.failAt(at, "host", "is required")
	} else if reason != "" {
		s.failAt(at, "host", "%q %s", clip(d.Host), reason)
	}
	if d.Subset != "" {
		if reason := badLabel(d.Subset); reason != "" {
			s.failAt(at, "subset", "%q %s", clip(d.Subset), reason)
		}
	}
	if d.Port != nil {
		s.checkPort(at.key("port"), "number", d.Port.Number)
	}
}
