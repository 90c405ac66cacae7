// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bytes"

	"pillion/proxy/http"
)

// Parser finds and parses the heads of one direction of one connection. Its
// zero value is ready; it makes itself ready for the next message when it
// returns a head or an error. Not safe for concurrent use.
type Parser struct {
	// scanned is how many bytes were looked at in vain: there is no end of the
	// head in them.
	scanned int
	// begun is set once the first line, which tells most of what is no HTTP,
	// was parsed.
	begun bool
}

// Request parses one request head at the start of buf.
//
// n > 0: the head is complete and ends before buf[n]; h is filled, and its
// slices alias buf. n == 0 with no error: more bytes are needed; call again
// with a longer buf that starts with the same bytes (it may have moved). Time
// stays linear however the bytes arrive. An error has SideDownstream, the
// status to answer with and Close set. The Fields of h keep every line but
// Host; StripRequestHop takes out what must not be forwarded.
//
// Scheme is set by an absolute-form target only. Neither the path is
// normalized nor its escapes are looked at: that is the router's business.
func (p *Parser) Request(buf []byte, h *http.RequestHead, lim *Limits) (n int, err *http.Error) {
	maxHead := lim.headBytes()
	whole := len(buf) <= maxHead
	if !whole {
		buf = buf[:maxHead]
	}
	if whole && !p.decisive(buf) {
		return 0, nil
	}
	n, err = parseRequest(buf, h, lim)
	if n == more && err == nil {
		h.Reset()
		if whole {
			p.wait(buf)
			return 0, nil
		}
		err = errHeadSize
	}
	*p = Parser{}
	if err != nil {
		return 0, err
	}
	return n, nil
}

// wait notes that a parse of buf ran out of bytes.
func (p *Parser) wait(buf []byte) {
	p.scanned = len(buf)
	p.begun = bytes.LastIndexByte(buf, '\n') > 1
}

// decisive reports whether it is worth to parse buf: always when it is seen
// first, as it mostly is a whole head; then when the first line has ended; and
// after that once a line has come that is empty, as the last one is, or ended
// by anything but one CRLF.
func (p *Parser) decisive(buf []byte) bool {
	if p.scanned == 0 {
		return true
	}
	for i := p.scanned; ; i++ {
		lf := bytes.IndexByte(buf[i:], '\n')
		if lf < 0 {
			p.scanned = len(buf)
			return false
		}
		i += lf
		if !p.begun || buf[i-1] != '\r' || buf[i-2] == '\n' || buf[i-2] == '\r' {
			return true
		}
	}
}

// parseRequest parses a head, or returns more.
func parseRequest(buf []byte, h *http.RequestHead, lim *Limits) (int, *http.Error) {
	h.Reset()
	pos, err := parseRequestLine(buf, h, lim)
	if pos <= 0 {
		return pos, err
	}
	var l lines
	pos, err = l.parse(&h.Fields, buf, pos, lim.fields(), ofRequest)
	if pos <= 0 {
		return pos, err
	}
	if l.hosts != 1 {
		if l.hosts == 0 {
			return 0, errNoHost
		}
		return 0, errAuthority
	}
	if !validAuthority(l.host, false) {
		return 0, errAuthority
	}
	if len(h.Authority) == 0 {
		h.Authority = l.host
	}
	h.HostIndex, h.HostName = l.hostIndex, l.hostName
	if h.Framing, err = l.requestFraming(h); err != nil {
		return 0, err
	}
	h.KeepAlive = l.persistent(h.Protocol)
	h.Upgrade = l.offered(h.Protocol)
	h.Expect100 = l.expect && h.Protocol == http.HTTP11 &&
		(h.Framing.Kind == http.BodyChunked || h.Framing.Length > 0)
	return pos, nil
}

// parseRequestLine parses method SP target SP version CRLF, with one space
// each, and returns the position behind it.
func parseRequestLine(buf []byte, h *http.RequestHead, lim *Limits) (int, *http.Error) {
	pos := 0
	// One empty line before the request is passed over, for old clients that
	// end a body with a CRLF too many (RFC 9112 section 2.2).
	if len(buf) > 0 && buf[0] == '\r' {
		n, err := endOfLine(buf, 0)
		if n <= 0 {
			return n, err
		}
		pos = n
	}
	sp := tokenEnd(buf, pos)
	if sp == len(buf) {
		return more, nil
	}
	if buf[sp] != ' ' || sp == pos {
		return 0, errSyntax
	}
	h.RawMethod = buf[pos:sp:sp]
	h.Method = http.LookupMethod(h.RawMethod)

	pos = sp + 1
	sp = targetEnd(buf, pos)
	if sp == len(buf) {
		return more, nil
	}
	switch c := buf[sp]; {
	case c == '#':
		return 0, errFragment
	case c < ' ' && c != '\r' && c != '\n' && c != '\t' || c == 0x7f:
		return 0, errCharacters
	case c != ' ' || sp == pos:
		return 0, errSyntax
	}
	target := buf[pos:sp:sp]

	pos, err := parseRequestVersion(buf, sp+1, h)
	if pos <= 0 {
		return pos, err
	}
	if err := parseTarget(h, target, lim); err != nil {
		return 0, err
	}
	return pos, nil
}

const versionLen = len("HTTP/1.1")

func parseRequestVersion(buf []byte, pos int, h *http.RequestHead) (int, *http.Error) {
	end := pos + versionLen
	if end > len(buf) {
		end = len(buf)
	}
	if p, ok := parseVersion(buf[pos:end]); ok {
		h.Protocol = p
	} else if isVersion(buf[pos:end]) {
		return 0, errVersion
	} else if end-pos == versionLen || bytes.IndexByte(buf[pos:end], '\n') >= 0 {
		return 0, errSyntax
	} else {
		return more, nil
	}
	next, err := endOfLine(buf, end)
	if err != nil {
		err = errSyntax
	}
	return next, err
}

// parseVersion parses the name of a version that is spoken here.
func parseVersion(v []byte) (http.Protocol, bool) {
	switch string(v) {
	case "HTTP/1.1":
		return http.HTTP11, true
	case "HTTP/1.0":
		return http.HTTP10, true
	}
	return http.ProtocolUnknown, false
}

// isVersion reports whether v has the form of any HTTP version.
func isVersion(v []byte) bool {
	return len(v) == versionLen && string(v[:5]) == "HTTP/" &&
		class[v[5]]&isDigit != 0 && v[6] == '.' && class[v[7]]&isDigit != 0
}

// requestFraming tells how the body of a request is delimited (RFC 9112
// section 6.3).
func (l *lines) requestFraming(h *http.RequestHead) (http.Framing, *http.Error) {
	switch {
	case l.chunked > 0 && l.lengths > 0:
		return http.Framing{}, errBothFramings
	case l.chunked > 0 && h.Protocol == http.HTTP10:
		// The version has no transfer codings: someone on the way may not
		// have seen this one (RFC 9112 section 6.1).
		return http.Framing{}, errSyntax
	case h.Method == http.MethodConnect && (l.chunked > 0 || l.length > 0):
		// Content of a CONNECT has no meaning (RFC 9110 section 9.3.6); what
		// follows the head is the tunnel's.
		return http.Framing{}, errSyntax
	case l.chunked > 0:
		return http.Framing{Kind: http.BodyChunked}, nil
	case l.lengths > 0:
		return http.Framing{Kind: http.BodyLength, Length: l.length}, nil
	}
	return http.Framing{Kind: http.BodyNone}, nil
}
