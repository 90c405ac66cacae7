// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"bytes"
	"net"
	"net/netip"

	"pillion/proxy/http"
)

// controls are the fields by which a proxy of the mesh steers another one. None
// goes on to the service: Envoy drops what an external client sends
// (cleanInternalHeaders), and its router what it has heeded of an internal one.
var controls = idSet(
	http.HeaderXEnvoyRetriableStatusCodes, http.HeaderXEnvoyRetriableHeaderNames, http.HeaderXEnvoyRetryOn,
	http.HeaderXEnvoyRetryGrpcOn, http.HeaderXEnvoyMaxRetries, http.HeaderXEnvoyUpstreamAltStatName,
	http.HeaderXEnvoyUpstreamRqTimeoutMs, http.HeaderXEnvoyUpstreamRqPerTryTimeoutMs,
	http.HeaderXEnvoyUpstreamRqTimeoutAltResponse, http.HeaderXEnvoyUpstreamStreamDurationMs,
	http.HeaderXEnvoyExpectedRqTimeoutMs, http.HeaderXEnvoyHedgeOnPerTryTimeout, http.HeaderXEnvoyInternal)

// external are controls and what internal clients alone may send on. Since Envoy
// 1.33 no address is internal unless it is configured.
var external = controls.and(http.HeaderXEnvoyForceTrace, http.HeaderXEnvoyIPTags)

// outside are external and what an edge takes off besides.
var outside = external.and(http.HeaderXEnvoyOriginalPath, http.HeaderXEnvoyOriginalHost, http.HeaderXEnvoyDecoratorOperation,
	http.HeaderXEnvoyDownstreamServiceCluster, http.HeaderXEnvoyDownstreamServiceNode)

// fieldIDs is a set of well-known fields.
type fieldIDs [256]bool

func idSet(ids ...http.HeaderID) fieldIDs { return fieldIDs{}.and(ids...) }

// and returns a set with some more.
func (s fieldIDs) and(ids ...http.HeaderID) fieldIDs {
	for _, id := range ids {
		s[id] = true
	}
	return s
}

// drop drops every line whose number is in the set.
func drop(fields *http.Fields, set *fieldIDs) {
	for i := 0; i < fields.Len(); {
		if id := fields.At(i).ID; set[id] {
			fields.DelID(id)
		} else {
			i++
		}
	}
}

// clientFields finds out who the client is, passes that on, and drops what it may
// not say (Envoy: ConnectionManagerUtility::mutateRequestHeaders). An edge, that
// is use_remote_address, takes the connection's word; others that of the proxy
// before them. edge: the client is outside, and nothing that it says is believed.
func (st *stream) clientFields(scheme []byte) (edge bool) {
	ex, cfg := &st.ex, st.cfg
	fields := &ex.Req.Fields
	// Only a request that came through no other proxy can be an internal one.
	var client netip.Addr
	var single bool
	if cfg.UseRemoteAddress {
		client, single = st.edgeClient()
		st.edgeFields(scheme)
	} else {
		var text []byte
		text, single = forwardedHop(fields, cfg.TrustedHops)
		if addr, ok := parseAddr(text); ok {
			client, ex.ClientAddress = addr, text
		}
		if !fields.Has(http.HeaderXForwardedProto) {
			fields.AddID(http.HeaderXForwardedProto, scheme)
		}
	}
	if cfg.AppendForwardedPort {
		st.forwardedPort()
	}
	if single && cfg.internal(client) {
		drop(fields, &controls)
		fields.AddID(http.HeaderXEnvoyInternal, valueTrue)
		return false
	}
	if !cfg.UseRemoteAddress {
		drop(fields, &external)
		return false
	}
	drop(fields, &outside)
	fields.SetID(http.HeaderXEnvoyExternalAddress, st.externalAddress())
	return true
}

var valueTrue = []byte("true")

// internal reports whether a client is one of our own.
func (cfg *Config) internal(client netip.Addr) bool {
	for _, p := range cfg.Internal {
		if p.Contains(client) {
			return true
		}
	}
	return false
}

// edgeClient finds an edge's client: who is connected, or whom trusted proxies in
// front of us name, if they do.
func (st *stream) edgeClient() (client netip.Addr, single bool) {
	ex, cfg := &st.ex, st.cfg
	single = !ex.Req.Fields.Has(http.HeaderXForwardedFor)
	if cfg.TrustedHops > 0 {
		text, _ := forwardedHop(&ex.Req.Fields, cfg.TrustedHops-1)
		if addr, ok := parseAddr(text); ok {
			ex.ClientAddress = ex.KeepBytes(text)
			return addr, single
		}
	}
	if len(cfg.Internal) > 0 {
		client, _ = netip.ParseAddr(hostOf(ex.Conn.Remote))
	}
	return client.Unmap(), single
}

// externalAddress is the client's address as an edge tells it.
func (st *stream) externalAddress() []byte {
	if st.ex.ClientAddress != nil {
		return st.ex.ClientAddress
	}
	client := hostOf(st.ex.Conn.Remote)
	return append(st.ex.Scratch(len(client))[:0], client...)
}

// edgeFields tells who called the edge and how. What a trusted proxy in front of
// it has said of that stays.
func (st *stream) edgeFields(scheme []byte) {
	ex, cfg := &st.ex, st.cfg
	fields := &ex.Req.Fields
	if !cfg.SkipXFFAppend {
		client := hostOf(ex.Conn.Remote)
		own := append(ex.Scratch(len(client))[:0], client...)
		if fields.Has(http.HeaderXForwardedFor) {
			own = st.appended(http.HeaderXForwardedFor, own)
		}
		fields.SetID(http.HeaderXForwardedFor, own)
	}
	if cfg.TrustedHops == 0 || !fields.Has(http.HeaderXForwardedProto) {
		fields.SetID(http.HeaderXForwardedProto, scheme)
	}
}

// forwardedPort tells the port that the client called. An edge believes no other
// but that of a trusted proxy.
func (st *stream) forwardedPort() {
	ex, cfg := &st.ex, st.cfg
	fields := &ex.Req.Fields
	if cfg.UseRemoteAddress && cfg.TrustedHops == 0 || !fields.Has(http.HeaderXForwardedPort) {
		if _, port, err := net.SplitHostPort(ex.Conn.Destination()); err == nil {
			fields.SetID(http.HeaderXForwardedPort, append(ex.Scratch(len(port))[:0], port...))
		}
	}
}

// forwardedHop returns an entry of X-Forwarded-For, counted from the last one,
// which is that of the proxy before us, and whether it is the only one there. The
// lines of the field are one list (RFC 9110 section 5.3).
func forwardedHop(fields *http.Fields, hop int) (entry []byte, single bool) {
	total := 0
	for i := fields.Len() - 1; i >= 0; i-- {
		if fields.At(i).ID != http.HeaderXForwardedFor {
			continue
		}
		for rest := fields.At(i).Value; ; {
			cut := bytes.LastIndexByte(rest, ',')
			if total == hop {
				entry = bytes.TrimSpace(rest[cut+1:])
			}
			if total++; cut < 0 {
				break
			}
			rest = rest[:cut]
		}
	}
	return entry, total == 1 && hop == 0
}

// parseAddr reads an IP address as it stands in X-Forwarded-For, without a port.
// It allocates for IPv6 only, and for what isn't an address.
func parseAddr(text []byte) (netip.Addr, bool) {
	if len(text) == 0 || len(text) > 45 {
		return netip.Addr{}, false
	}
	if addr, ok := parseIPv4(text); ok {
		return addr, true
	}
	if bytes.IndexByte(text, ':') < 0 || bytes.IndexByte(text, '%') >= 0 {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(string(text))
	return addr, err == nil
}

// parseIPv4 reads four decimal numbers without leading zeros.
func parseIPv4(text []byte) (netip.Addr, bool) {
	var octets [4]byte
	n, digits, value := 0, 0, 0
	for _, c := range text {
		switch {
		case '0' <= c && c <= '9':
			if digits > 0 && value == 0 {
				return netip.Addr{}, false
			}
			if value = value*10 + int(c-'0'); value > 255 {
				return netip.Addr{}, false
			}
			digits++
		case c == '.' && digits > 0 && n < 3:
			octets[n] = byte(value)
			n, digits, value = n+1, 0, 0
		default:
			return netip.Addr{}, false
		}
	}
	if n != 3 || digits == 0 {
		return netip.Addr{}, false
	}
	octets[3] = byte(value)
	return netip.AddrFrom4(octets), true
}

// hostOf cuts the port from an address as text.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}
