// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"

	"pillion/proxy/http"
)

// Verdict is what a header block is found to be.
type Verdict uint8

// The verdicts.

const (
	Good Verdict = iota // nothing is wrong
	// Malformed is a stream error PROTOCOL_ERROR (RFC 9113 section 8.1.1).
	Malformed
	TooLarge // more than the limits allow
)

// Request fills ex.Req from the block; with end no body follows. What is in no
// table is copied into the exchange.
func (b *Block) Request(ex *http.Exchange, end bool) Verdict {
	h := &ex.Req
	h.Reset()
	h.Protocol, h.KeepAlive = http.HTTP2, true
	var p requestPseudo
	regularSeen, cookies := false, 0
	length := int64(-1)
	for i := range b.fields {
		f := &b.fields[i]
		if f.bad {
			return Malformed
		}
		if f.pseudo != regular {
			if regularSeen || !p.take(f, keepValue(ex, f)) {
				return Malformed
			}
			continue
		}
		regularSeen = true
		switch f.ID {
		case http.HeaderHost:
			if p.host != nil {
				return Malformed
			}
			p.host = keepValue(ex, f)
			continue
		case http.HeaderCookie:
			cookies++
		default:
			if !allowedField(&f.entry, &length) {
				return Malformed
			}
		}
		h.Fields.Append(keepField(ex, f))
	}
	if b.over {
		return TooLarge
	}
	if cookies > 1 {
		joinCookies(ex)
	}
	if v := p.finish(h); v != Good {
		return v
	}
	h.Framing = framing(length, end)
	_, h.Expect100 = h.Fields.Get(http.HeaderExpect)
	if end && length > 0 {
		return Malformed
	}
	return Good
}

// framing is that of a message with a content-length, -1 for none.
func framing(length int64, end bool) http.Framing {
	switch {
	case end:
		return http.Framing{}
	case length >= 0:
		return http.Framing{Kind: http.BodyLength, Length: length}
	}
	return http.Framing{Kind: http.BodyStream}
}

// keepField returns a field whose octets live as long as the exchange.
func keepField(ex *http.Exchange, f *decoded) http.Field {
	if f.stable {
		return f.Field
	}
	out := f.Field
	if f.ID != http.HeaderOther {
		out.Name = http.HeaderName(f.ID)
	} else {
		out.Name = ex.KeepBytes(f.Name)
	}
	out.Value = ex.KeepBytes(f.Value)
	return out
}

func keepValue(ex *http.Exchange, f *decoded) []byte {
	if f.stable {
		return f.Value
	}
	return ex.KeepBytes(f.Value)
}

// allowedField refuses the fields that HTTP/2 has no place for (RFC 9113
// section 8.2.2), and reads the content length.
func allowedField(f *entry, length *int64) bool {
	switch f.ID {
	case http.HeaderConnection, http.HeaderKeepAlive, http.HeaderProxyConnection, http.HeaderTransferEncoding, http.HeaderUpgrade:
		return false
	case http.HeaderTE:
		return string(f.Value) == "trailers"
	case http.HeaderContentLength:
		n, ok := parseLength(f.Value)
		if !ok || *length >= 0 {
			return false
		}
		*length = n
	}
	return true
}

// parseLength reads a Content-Length: digits only (RFC 9110 section 8.6).
func parseLength(v []byte) (n int64, ok bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// joinCookies makes one line of the crumbs that a client may send (RFC 9113
// section 8.2.3), so that filters and HTTP/1 hosts see what was meant.
func joinCookies(ex *http.Exchange) {
	fields := ex.Req.Fields.All()
	size, first := 0, -1
	for i := range fields {
		if fields[i].ID == http.HeaderCookie {
			size += len(fields[i].Value) + 2
			if first < 0 {
				first = i
			}
		}
	}
	joined := ex.Scratch(size)[:0]
	w := 0
	for r := range fields {
		if fields[r].ID == http.HeaderCookie {
			if len(joined) > 0 {
				joined = append(joined, "; "...)
			}
			joined = append(joined, fields[r].Value...)
			fields[first].NeverIndex = fields[first].NeverIndex || fields[r].NeverIndex
			if r != first {
				continue
			}
		}
		fields[w] = fields[r]
		w++
	}
	ex.Req.Fields.Truncate(w)
	fields[first].Value = joined
}

// requestPseudo gathers the pseudo-header fields of a request.
type requestPseudo struct {
	method, scheme, path, authority, protocol, host []byte
	seen                                            uint8 // bits of pseudo
}

// take notes one field; each may come once (RFC 9113 section 8.3).
func (p *requestPseudo) take(f *decoded, value []byte) bool {
	bit := uint8(1) << f.pseudo
	if p.seen&bit != 0 {
		return false
	}
	p.seen |= bit
	switch f.pseudo {
	case pseudoMethod:
		p.method = value
	case pseudoScheme:
		p.scheme = value
	case pseudoPath:
		p.path = value
	case pseudoAuthority:
		p.authority = value
	case pseudoProtocol:
		p.protocol = value
	default:
		return false
	}
	return true
}

func (p *requestPseudo) has(k pseudo) bool { return p.seen&(1<<k) != 0 }

// finish fills in the head (RFC 9113 section 8.3.1).
func (p *requestPseudo) finish(h *http.RequestHead) Verdict {
	if len(p.method) == 0 || !only(p.method, &methodOctets) {
		return Malformed
	}
	h.RawMethod, h.Method = p.method, http.LookupMethod(p.method)
	// What :authority says wins over Host, which is dropped (section 8.3.1).
	h.Authority = p.authority
	if len(h.Authority) == 0 {
		h.Authority = p.host
	}
	if !only(h.Authority, &authorityOctets) {
		return Malformed
	}
	if h.Method == http.MethodConnect && !p.has(pseudoProtocol) {
		// Section 8.5: neither a scheme nor a path.
		if p.has(pseudoScheme) || p.has(pseudoPath) || len(p.authority) == 0 {
			return Malformed
		}
		return Good
	}
	if len(p.scheme) == 0 || !validPath(p.path, h.Method) {
		return Malformed
	}
	if s := string(p.scheme); s != "http" && s != "https" && !only(p.scheme, &methodOctets) {
		return Malformed
	}
	h.Scheme, h.Path = p.scheme, p.path
	if p.has(pseudoProtocol) {
		return p.finishExtended(h)
	}
	return Good
}

// validPath holds that a path begins with a slash, but for that of OPTIONS *: a
// policy on paths must see what the host sees (CVE-2026-33186 of grpc-go).
func validPath(path []byte, m http.Method) bool {
	if len(path) == 0 || !only(path, &pathOctets) {
		return false
	}
	return path[0] == '/' || m == http.MethodOptions && len(path) == 1 && path[0] == '*'
}

var methodGet = []byte("GET")

// finishExtended turns an extended CONNECT (RFC 8441) into what it stands
// for, the Upgrade of a GET, so that routes and filters need to know one form
// only (Envoy: Http::Utility::transformUpgradeRequestFromH2toH1).
func (p *requestPseudo) finishExtended(h *http.RequestHead) Verdict {
	if h.Method != http.MethodConnect || len(p.protocol) == 0 || !only(p.protocol, &methodOctets) {
		return Malformed
	}
	h.RawMethod, h.Method = methodGet, http.MethodGet
	h.Upgrade, h.ExtendedConnect = p.protocol, true
	return Good
}

// Response fills ex.Resp from the block of a response, interim ones included;
// with end no body follows.
func (b *Block) Response(ex *http.Exchange, end bool) Verdict {
	h := &ex.Resp
	h.Reset()
	h.Protocol, h.KeepAlive = http.HTTP2, true
	length := int64(-1)
	for i := range b.fields {
		f := &b.fields[i]
		if f.bad {
			return Malformed
		}
		if f.pseudo != regular {
			if f.pseudo != pseudoStatus || h.Status != 0 || h.Fields.Len() > 0 {
				return Malformed
			}
			var ok bool
			if h.Status, ok = http.ParseStatus(f.Value); !ok {
				return Malformed
			}
			continue
		}
		if f.ID == http.HeaderTE || !allowedField(&f.entry, &length) {
			return Malformed
		}
		h.Fields.Append(keepField(ex, f))
	}
	switch {
	case b.over:
		return TooLarge
	case h.Status == 0, h.Status == 101: // section 8.6
		return Malformed
	}
	h.Framing = framing(length, end)
	return Good
}

// Trailers fills f from a block of trailers. keep copies octets to where they live
// long enough. What may not pass in a trailer section is dropped.
func (b *Block) Trailers(f *http.Fields, keep func([]byte) []byte) Verdict {
	f.Reset()
	if b.over {
		return TooLarge
	}
	for i := range b.fields {
		d := &b.fields[i]
		if d.bad || d.pseudo != regular {
			return Malformed
		}
		if !http.AllowedTrailer(&d.Field) {
			continue
		}
		out := d.Field
		if !d.stable {
			out.Name, out.Value = keep(d.Name), keep(d.Value)
		}
		f.Append(out)
	}
	return Good
}

// request appends the block of a request.
func (e *encoder) request(dst []byte, h *http.RequestHead) []byte {
	dst = e.begin(dst)
	connect := h.Method == http.MethodConnect
	switch {
	case h.Upgrade != nil:
		dst = e.indexed(dst, http.HeaderOther, staticGET, static[staticGET].Name, methodConnect)
		dst = e.indexed(dst, http.HeaderOther, 0, nameProtocol, h.Upgrade)
	case h.Method == http.MethodGet:
		dst = append(dst, 0x80|staticGET)
	case h.Method == http.MethodPost:
		dst = append(dst, 0x80|staticPOST)
	default:
		dst = e.pseudoField(dst, staticGET, h.RawMethod, h.Method != http.MethodOther)
	}
	if !connect {
		if string(h.Scheme) == "https" {
			dst = append(dst, 0x80|staticHTTPS)
		} else {
			dst = append(dst, 0x80|staticHTTP)
		}
		if len(h.Path) == 1 && h.Path[0] == '/' {
			dst = append(dst, 0x80|staticSlash)
		} else {
			dst = e.pseudoField(dst, staticSlash, h.Path, false)
		}
	}
	if len(h.Authority) > 0 {
		dst = e.pseudoField(dst, staticAuthority, h.Authority, true)
	}
	return e.fields(dst, &h.Fields)
}

var (
	methodConnect = []byte("CONNECT")
	nameProtocol  = []byte(":protocol")
)

// response appends the block of a response. A switch of protocols is success
// here (RFC 8441 section 5).
func (e *encoder) response(dst []byte, h *http.ResponseHead) []byte {
	dst = e.begin(dst)
	status := h.Status
	if status == 101 {
		status = 200
	}
	if i := statusIndex(status); i > 0 {
		dst = append(dst, 0x80|byte(i))
	} else {
		v := [3]byte{byte('0' + status/100), byte('0' + status/10%10), byte('0' + status%10)}
		dst = e.pseudoField(dst, staticStatus200, v[:], true)
	}
	return e.fields(dst, &h.Fields)
}

func statusIndex(status int) int {
	switch status {
	case 200:
		return staticStatus200
	case 204:
		return 9
	case 206:
		return 10
	case 304:
		return 11
	case 400:
		return 12
	case 404:
		return 13
	case 500:
		return 14
	}
	return 0
}

// fields appends the regular fields but for those of an HTTP/1 connection.
func (e *encoder) fields(dst []byte, fields *http.Fields) []byte {
	all := fields.All()
	for i := range all {
		if len(all[i].Name) == 0 {
			continue // no parser makes one
		}
		switch all[i].ID {
		case http.HeaderConnection, http.HeaderKeepAlive, http.HeaderProxyConnection, http.HeaderTransferEncoding,
			http.HeaderUpgrade, http.HeaderHost:
			continue
		case http.HeaderTE:
			if !bytes.Equal(all[i].Value, teTrailers) {
				continue
			}
		}
		dst = e.field(dst, &all[i])
	}
	return dst
}

var teTrailers = []byte("trailers")
