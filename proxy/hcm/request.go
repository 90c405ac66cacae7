// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"math/rand/v2"

	"pillion/proxy/http"
	"pillion/proxy/http/h1"
	"pillion/proxy/trace"
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
	if err := st.canonicalPath(); err != nil {
		return err
	}
	scheme := schemeHTTP
	if ex.Conn.TLS != nil {
		scheme = schemeHTTPS
	}
	if ex.Req.Scheme == nil {
		ex.Req.Scheme = st.claimedScheme(scheme)
	}
	edge := st.clientFields(scheme)
	st.forwardClientCert()
	fields := &ex.Req.Fields
	if cfg.GenerateRequestID && (edge && !cfg.PreserveRequestID || !fields.Has(http.HeaderXRequestID)) {
		fields.SetID(http.HeaderXRequestID, appendUUID(ex.Scratch(36)[:0]))
	} else if edge && cfg.Tracing != nil && !cfg.Tracing.NotPacked {
		trace.SetReason(ex, trace.NotTraceable) // that is for us to decide
	}
	return nil
}

// canonicalPath gives the request the path that it is routed and judged by.
func (st *stream) canonicalPath() *http.Error {
	ex, opt := &st.ex, &st.cfg.Path
	if !opt.needsWork(ex.Req.Path) {
		return nil
	}
	// Encoded slashes are decoded first, and an octet may need three.
	room := ex.Scratch(4 * len(ex.Req.Path))
	path, result := opt.canonical(room[:0], ex.Req.Path)
	switch result {
	case pathBad:
		st.c.m.Stats.RqFailedNormalization.Inc()
		return errBadPath
	case pathEscapedSlash:
		st.c.m.Stats.RqFailedNormalization.Inc()
		return errEscapedSlash
	case pathRedirect:
		st.c.m.Stats.RqRedirectedNormalization.Inc()
		ex.Req.Path = path
		ex.LocalReply.Headers = []http.Field{{ID: http.HeaderLocation, Name: locationName, Value: path}}
		return errNormalizedPath
	}
	ex.Req.Path = path
	return nil
}

var locationName = []byte("location")

var (
	schemeHTTP  = []byte("http")
	schemeHTTPS = []byte("https")
)

// claimedScheme is that of a request which doesn't tell: what the proxy before us
// says it was, unless this is an edge, else that of the connection.
func (st *stream) claimedScheme(connection []byte) []byte {
	if st.cfg.UseRemoteAddress {
		return connection
	}
	v, _ := st.ex.Req.Fields.Get(http.HeaderXForwardedProto)
	switch {
	case http.EqualFold(v, schemeHTTP):
		return schemeHTTP
	case http.EqualFold(v, schemeHTTPS):
		return schemeHTTPS
	}
	return connection
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
