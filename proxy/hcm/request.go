// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"

	"pillion/proxy/http"
	"pillion/proxy/http/h1"
)

// prepare edits the request as Envoy's connection manager does before it
// routes (source/common/http/conn_manager_utility.cc, mutateRequestHeaders).
func (st *stream) prepare() *http.Error {
	ex, cfg := &st.ex, st.cfg
	if ex.Req.Protocol == http.HTTP10 && !cfg.AcceptHTTP10 {
		return errOldHTTP
	}
	if ex.Req.Method == http.MethodConnect {
		return errUpgrade
	}
	prepareUpgrade(&ex.Req)
	h1.StripRequestHop(&ex.Req)
	if len(ex.Req.Path) > 0 && ex.Req.Path[0] != '/' {
		return errNoPath // OPTIONS *
	}
	if cfg.Path.needsWork(ex.Req.Path) {
		room := ex.Scratch(len(ex.Req.Path))
		path, ok := cfg.Path.normalizePath(room[:0], ex.Req.Path)
		if !ok {
			st.c.m.Stats.RqFailedNormalization.Inc()
			return errBadPath
		}
		ex.Req.Path = path
	}
	scheme := schemeHTTP
	if ex.Conn.TLS != nil {
		scheme = schemeHTTPS
	}
	if ex.Req.Scheme == nil {
		ex.Req.Scheme = scheme
	}
	fields := &ex.Req.Fields
	if cfg.UseRemoteAddress {
		st.edgeFields(scheme)
	} else {
		drop(fields, &controls)
		if !fields.Has(http.HeaderXForwardedProto) {
			fields.AddID(http.HeaderXForwardedProto, scheme)
		}
		ex.ClientAddress = lastForwarded(fields)
	}
	// Forward-client-cert details are SANITIZE on a connection without
	// mutual TLS: what a client claims to be is not passed on.
	if ex.Conn.TLS == nil {
		fields.DelID(http.HeaderXForwardedClientCert)
	}
	if cfg.GenerateRequestID && (cfg.UseRemoteAddress && !cfg.PreserveRequestID || !fields.Has(http.HeaderXRequestID)) {
		fields.SetID(http.HeaderXRequestID, appendUUID(ex.Scratch(36)[:0]))
	}
	return nil
}

var (
	schemeHTTP  = []byte("http")
	schemeHTTPS = []byte("https")
)

// controls are the fields by which a proxy of the mesh steers another one. No
// client counts as one of those (Envoy: cleanInternalHeaders, and since 1.33
// no address is internal unless it is configured).
var controls = idSet(
	http.HeaderXEnvoyRetriableStatusCodes, http.HeaderXEnvoyRetriableHeaderNames, http.HeaderXEnvoyRetryOn,
	http.HeaderXEnvoyRetryGrpcOn, http.HeaderXEnvoyMaxRetries, http.HeaderXEnvoyUpstreamAltStatName,
	http.HeaderXEnvoyUpstreamRqTimeoutMs, http.HeaderXEnvoyUpstreamRqPerTryTimeoutMs,
	http.HeaderXEnvoyExpectedRqTimeoutMs, http.HeaderXEnvoyHedgeOnPerTryTimeout, http.HeaderXEnvoyIsTimeoutRetry,
	http.HeaderXEnvoyInternal)

// edgeOnly are the further fields that an edge takes off what comes from
// outside (Envoy: cleanExternalHeaders).
var edgeOnly = idSet(http.HeaderXEnvoyOriginalPath, http.HeaderXEnvoyOriginalHost, http.HeaderXEnvoyDecoratorOperation)

func idSet(ids ...http.HeaderID) (set [256]bool) {
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// drop drops every line whose number is in the set.
func drop(fields *http.Fields, set *[256]bool) {
	for i := 0; i < fields.Len(); {
		if id := fields.At(i).ID; set[id] {
			fields.DelID(id)
		} else {
			i++
		}
	}
}

// edgeFields appends the client's address to X-Forwarded-For and tells the
// upstream whether it is one of our own network's (use_remote_address).
func (st *stream) edgeFields(scheme []byte) {
	ex := &st.ex
	fields := &ex.Req.Fields
	client := hostOf(ex.Conn.Remote)
	internal := isInternal(client) && !fields.Has(http.HeaderXForwardedFor)
	if old, ok := fields.Get(http.HeaderXForwardedFor); ok {
		v := ex.Scratch(len(old) + 1 + len(client))[:0]
		v = append(append(v, old...), ',')
		fields.SetID(http.HeaderXForwardedFor, append(v, client...))
	} else {
		fields.AddID(http.HeaderXForwardedFor, append(ex.Scratch(len(client))[:0], client...))
	}
	fields.SetID(http.HeaderXForwardedProto, scheme)
	if internal {
		fields.SetID(http.HeaderXEnvoyInternal, []byte("true"))
		return
	}
	drop(fields, &controls)
	drop(fields, &edgeOnly)
	fields.SetID(http.HeaderXEnvoyExternalAddress, append(ex.Scratch(len(client))[:0], client...))
}

// lastForwarded returns the last address of X-Forwarded-For, which is the
// client's as the proxy before us saw it; nil without a valid one.
func lastForwarded(fields *http.Fields) []byte {
	v, ok := fields.Get(http.HeaderXForwardedFor)
	if !ok {
		return nil
	}
	if i := bytes.LastIndexByte(v, ','); i >= 0 {
		v = v[i+1:]
	}
	v = bytes.TrimSpace(v)
	if !looksLikeIP(v) {
		return nil
	}
	return v
}

// looksLikeIP reports whether a text has the form of an IP address. Parsing
// it would allocate, and nothing but the access log shows it.
func looksLikeIP(v []byte) bool {
	dots, colons := 0, 0
	for _, c := range v {
		switch {
		case c == '.':
			dots++
		case c == ':':
			colons++
		default:
			if _, ok := hexDigit(c); !ok {
				return false
			}
		}
	}
	return dots == 3 || colons >= 2
}

// hostOf cuts the port from an address as text.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// isInternal reports whether an address belongs to the private ranges of
// RFC 1918 and RFC 4193 or to loopback (Envoy's default InternalAddressConfig).
func isInternal(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.IsPrivate() || ip.IsLoopback())
}

// appendUUID appends a random UUID (RFC 9562 version 4).
func appendUUID(dst []byte) []byte {
	const hex = "0123456789abcdef"
	hi, lo := rand.Uint64(), rand.Uint64()
	hi = hi&^0xf000 | 0x4000
	lo = lo&^(0xc<<60) | 0x8<<60
	for i := 60; i >= 0; i -= 4 {
		if i == 28 || i == 12 {
			dst = append(dst, '-')
		}
		dst = append(dst, hex[hi>>i&15])
	}
	dst = append(dst, '-')
	for i := 60; i >= 0; i -= 4 {
		if i == 44 {
			dst = append(dst, '-')
		}
		dst = append(dst, hex[lo>>i&15])
	}
	return dst
}
