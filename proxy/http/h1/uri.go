// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bytes"

	"pillion/proxy/http"
)

// The values that no buffer holds. Read-only.
var (
	schemeHTTP  = []byte("http")
	schemeHTTPS = []byte("https")
	pathRoot    = []byte("/")
	pathStar    = []byte("*")
)

// parseTarget splits a request target (RFC 9112 section 3.2), all of whose
// octets are in class isTarget, and fills Path, and for an absolute-form or
// authority-form target Scheme and Authority.
func parseTarget(h *http.RequestHead, target []byte, lim *Limits) *http.Error {
	switch {
	case h.Method == http.MethodConnect:
		if !lim.connect() {
			return errConnect
		}
		if !validAuthority(target, true) {
			return errAuthority
		}
		h.Authority = target
		return nil
	case target[0] == '/':
		h.Path = target
		return nil
	case len(target) == 1 && target[0] == '*':
		if h.Method != http.MethodOptions {
			return errTarget
		}
		h.Path = target
		return nil
	}
	return parseAbsolute(h, target)
}

// parseAbsolute splits an absolute-form target, which clients send to a
// forward proxy.
func parseAbsolute(h *http.RequestHead, target []byte) *http.Error {
	colon := bytes.IndexByte(target, ':')
	if colon <= 0 || !bytes.HasPrefix(target[colon:], []byte("://")) {
		return errTarget
	}
	switch scheme := target[:colon]; {
	case http.EqualFold(scheme, schemeHTTP):
		h.Scheme = schemeHTTP
	case http.EqualFold(scheme, schemeHTTPS):
		h.Scheme = schemeHTTPS
	default:
		return errScheme
	}
	rest := target[colon+3:]
	end := bytes.IndexByte(rest, '/')
	if end < 0 {
		end = len(rest)
	}
	// A query right behind the authority would need a slash put in front of
	// it. It fails here, as the '?' is in no authority.
	if !validAuthority(rest[:end], false) {
		return errTarget
	}
	h.Authority, h.Path, h.AbsoluteForm = rest[:end], rest[end:], true
	if len(h.Path) == 0 {
		h.Path = pathRoot
		if h.Method == http.MethodOptions {
			h.Path = pathStar // RFC 9112 section 3.2.4
		}
	}
	return nil
}

// validAuthority reports whether a is host [":" port]. Userinfo is refused:
// in http it has no use but to make one host look like another (RFC 9110
// section 4.2.4).
func validAuthority(a []byte, needPort bool) bool {
	if len(a) == 0 {
		return false
	}
	host, port, hasPort := a, []byte(nil), false
	if a[0] == '[' {
		end := bytes.IndexByte(a, ']')
		if end < 0 || !validIPv6(a[1:end]) {
			return false
		}
		if end+1 < len(a) {
			if a[end+1] != ':' {
				return false
			}
			port, hasPort = a[end+2:], true
		}
	} else {
		if colon := bytes.IndexByte(a, ':'); colon >= 0 {
			host, port, hasPort = a[:colon], a[colon+1:], true
		}
		if len(host) == 0 || !all(host, isRegName) {
			return false
		}
	}
	if !hasPort {
		return !needPort
	}
	return validPort(port)
}

// validPort reports whether p is a number of at most 65535. The empty port of
// RFC 3986 is refused: it would be another spelling of a host, for nothing.
func validPort(p []byte) bool {
	if len(p) == 0 || len(p) > 5 {
		return false
	}
	n := 0
	for _, c := range p {
		if class[c]&isDigit == 0 {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535
}

// validIPv6 looks at the octets only, which is enough for a value that is
// compared and never resolved.
func validIPv6(a []byte) bool {
	colons := 0
	for _, c := range a {
		switch {
		case c == ':':
			colons++
		case c != '.' && class[c]&isHex == 0:
			return false
		}
	}
	return colons >= 2
}
