// SPDX-License-Identifier: Apache-2.0

package h1

import "pillion/proxy/http"

// Sent is what must be known of a request to understand its response.
type Sent struct {
	Method http.Method
	// Upgrade is the protocol that the request offered to switch to, nil
	// without one: 101 is refused unless it names this protocol.
	Upgrade []byte
}

// Response parses one response head, interim ones (1xx) included, at the
// start of buf; n is as for Request. An error has SideUpstream and Status 502.
func (p *Parser) Response(buf []byte, sent Sent, h *http.ResponseHead, lim *Limits) (n int, err *http.Error) {
	maxHead := lim.headBytes()
	whole := len(buf) <= maxHead
	if !whole {
		buf = buf[:maxHead]
	}
	if whole && !p.decisive(buf) {
		return 0, nil
	}
	n, ok := parseResponse(buf, sent, h, lim)
	if ok && n == more {
		h.Reset()
		if whole {
			p.wait(buf)
			return 0, nil
		}
		ok = false
	}
	*p = Parser{}
	if !ok {
		return 0, errBadResponse
	}
	return n, nil
}

// parseResponse parses a head, or returns more. It returns false when the
// upstream broke the protocol.
func parseResponse(buf []byte, sent Sent, h *http.ResponseHead, lim *Limits) (int, bool) {
	h.Reset()
	pos, ok := parseStatusLine(buf, h)
	if pos == more || !ok {
		return pos, ok
	}
	var l lines
	pos, err := l.parse(&h.Fields, buf, pos, lim.fields(), ofResponse)
	if pos == more || err != nil {
		return pos, err == nil
	}
	if h.Framing, ok = l.responseFraming(h, sent.Method); !ok {
		return 0, false
	}
	h.KeepAlive = l.persistent(h.Protocol) && h.Framing.Kind != http.BodyClose
	if h.Status == 101 {
		h.Upgrade = l.offered(h.Protocol)
		if h.Upgrade == nil || !listed(sent.Upgrade, h.Upgrade) {
			return 0, false
		}
	}
	return pos, true
}

// listed reports whether the comma-separated list has the element.
func listed(list, element []byte) bool {
	for len(list) > 0 {
		var e []byte
		e, list = nextElement(list)
		if http.EqualFold(e, element) {
			return true
		}
	}
	return false
}

// statusEnd is the length of a status line up to and with the code.
const statusEnd = len("HTTP/1.1 200")

// parseStatusLine parses version SP 3DIGIT [SP reason] CRLF and returns the
// position behind it. The space before an absent reason is demanded by RFC
// 9112 section 4, but often left out.
func parseStatusLine(buf []byte, h *http.ResponseHead) (int, bool) {
	if len(buf) < statusEnd {
		// What can't become a status line need not be waited for.
		const form = "HTTP/1."
		k := min(len(buf), len(form))
		return more, string(buf[:k]) == form[:k]
	}
	p, ok := parseVersion(buf[:versionLen])
	if !ok || buf[versionLen] != ' ' {
		return 0, false
	}
	h.Protocol = p
	code := buf[versionLen+1 : statusEnd]
	if !all(code, isDigit) || code[0] == '0' {
		return 0, false
	}
	// RFC 9110 section 15 knows 100 to 599. Others are in use, and as in
	// Envoy they pass.
	h.Status = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')

	end := valueEnd(buf, statusEnd)
	if end > statusEnd {
		if buf[statusEnd] != ' ' {
			return 0, false
		}
		h.Reason = buf[statusEnd+1 : end : end]
	}
	next, err := endOfLine(buf, end)
	return next, err == nil
}

// responseFraming tells how the body of a response is delimited (RFC 9112
// section 6.3), false if nobody could say for sure.
func (l *lines) responseFraming(h *http.ResponseHead, method http.Method) (http.Framing, bool) {
	if l.chunked > 0 && (l.lengths > 0 || h.Protocol == http.HTTP10) {
		return http.Framing{}, false
	}
	switch {
	case h.Status < 200 || h.Status == 204:
		// No framing may be announced here (RFC 9110 section 8.6), but for a
		// length of zero, which some servers send and which misleads nobody.
		return http.Framing{Kind: http.BodyNone}, l.chunked == 0 && l.length == 0
	case h.Status == 304, method == http.MethodHead,
		method == http.MethodConnect && h.Status < 300:
		return http.Framing{Kind: http.BodyNone}, true
	case l.chunked > 0:
		return http.Framing{Kind: http.BodyChunked}, true
	case l.lengths > 0:
		return http.Framing{Kind: http.BodyLength, Length: l.length}, true
	}
	return http.Framing{Kind: http.BodyClose}, true
}
