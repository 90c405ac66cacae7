// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"strings"

	"pillion/proxy/http"
)

// ForwardClientCert says what becomes of x-forwarded-client-cert, in which
// proxies tell who their clients proved to be
// (HttpConnectionManager.forward_client_cert_details).
type ForwardClientCert uint8

// The modes, numbered as in the API.
const (
	Sanitize          ForwardClientCert = iota // the field is dropped
	ForwardOnly                                // a client with a certificate is believed
	AppendForward                              // who is believed, and who it is itself
	SanitizeSet                                // only who the client itself is
	AlwaysForwardOnly                          // every client is believed
)

// ClientCertDetails says what is told of a client's certificate besides its
// hash (HttpConnectionManager.set_current_client_cert_details).
type ClientCertDetails struct {
	Subject, Cert, Chain, DNS, URI bool
}

// forwardClientCert edits x-forwarded-client-cert as Envoy does
// (ConnectionManagerUtility::mutateXfccRequestHeader). It is for the services
// behind: policy of this proxy reads the connection's own facts alone.
func (st *stream) forwardClientCert() {
	fields, cfg := &st.ex.Req.Fields, st.cfg
	if cfg.ForwardClientCert == AlwaysForwardOnly {
		return
	}
	tls := st.ex.Conn.TLS
	if cfg.ForwardClientCert == Sanitize || tls == nil || tls.Peer == nil {
		fields.DelID(http.HeaderXForwardedClientCert)
		return
	}
	if cfg.ForwardClientCert == ForwardOnly {
		return
	}
	own := st.c.clientCert(cfg)
	if cfg.ForwardClientCert == AppendForward && fields.Has(http.HeaderXForwardedClientCert) {
		fields.SetID(http.HeaderXForwardedClientCert, st.appended(http.HeaderXForwardedClientCert, own))
		return
	}
	fields.SetID(http.HeaderXForwardedClientCert, own)
}

// appended joins all lines of a field, which is there, and one value more by
// commas.
func (st *stream) appended(id http.HeaderID, more []byte) []byte {
	fields := &st.ex.Req.Fields
	n := len(more)
	for _, f := range fields.All() {
		if f.ID == id {
			n += len(f.Value) + 1
		}
	}
	out := st.ex.Scratch(n)[:0]
	for _, f := range fields.All() {
		if f.ID == id {
			out = append(append(out, f.Value...), ',')
		}
	}
	return append(out, more...)
}

// certElement is what is told of a connection's client under one
// configuration. It is immutable.
type certElement struct {
	details ClientCertDetails
	text    []byte
}

// clientCert returns the element about the connection's own client. It is made
// once: certificates are large, and don't change while a connection lasts.
func (c *conn) clientCert(cfg *Config) []byte {
	if e := c.cert.Load(); e != nil && e.details == cfg.ClientCert {
		return e.text
	}
	e := &certElement{details: cfg.ClientCert, text: appendClientCert(nil, c.info.TLS, cfg.ClientCert)}
	c.cert.Store(e)
	return e.text
}

// appendClientCert appends an element in Envoy's order. Subject and URI are
// there even if the certificate has none.
func appendClientCert(dst []byte, tls *http.TLSInfo, d ClientCertDetails) []byte {
	start := len(dst)
	key := func(name string) {
		if len(dst) > start {
			dst = append(dst, ';')
		}
		dst = append(dst, name...)
	}
	if tls.Own != nil {
		for _, uri := range tls.Own.URIs {
			key("By=")
			dst = appendName(dst, uri)
		}
	}
	peer := tls.Peer
	if peer.Digest != "" {
		key("Hash=")
		dst = append(dst, peer.Digest...)
	}
	if d.Cert && len(peer.Chain) > 0 {
		key(`Cert="`)
		dst = append(http.AppendPEM(dst, peer.Chain[:1]), '"')
	}
	if d.Chain && len(peer.Chain) > 0 {
		key(`Chain="`)
		dst = append(http.AppendPEM(dst, peer.Chain), '"')
	}
	if d.Subject {
		key(`Subject="`)
		dst = append(appendPrintable(dst, peer.Subject), '"')
	}
	if d.URI {
		if len(peer.URIs) == 0 {
			key("URI=")
		}
		for _, uri := range peer.URIs {
			key("URI=")
			dst = appendName(dst, uri)
		}
	}
	if d.DNS {
		for _, name := range peer.DNS {
			key("DNS=")
			dst = appendName(dst, name)
		}
	}
	return dst
}

// appendName appends a name of a certificate. One that has a character by which
// elements are told apart, which Envoy leaves as it is, is quoted: it could name
// another client otherwise.
func appendName(dst []byte, name string) []byte {
	if !strings.ContainsFunc(name, separates) {
		return append(dst, name...)
	}
	dst = append(dst, '"')
	for i := range len(name) {
		if name[i] == '"' || name[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = appendPrintable(dst, name[i:i+1])
	}
	return append(dst, '"')
}

// appendPrintable appends a text with a question mark for each control character,
// which no field may hold. Subjects come with theirs escaped.
func appendPrintable(dst []byte, text string) []byte {
	for i := range len(text) {
		c := text[i]
		if c < ' ' || c == 0x7f {
			c = '?'
		}
		dst = append(dst, c)
	}
	return dst
}

// separates reports whether a character has a meaning in the field, or none in any.
func separates(c rune) bool {
	return c == ',' || c == ';' || c == '"' || c == '\\' || c < ' ' || c == 0x7f
}
