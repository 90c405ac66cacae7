// SPDX-License-Identifier: Apache-2.0

package listener

import "strings"

// Protocol is what the first bytes of a connection belong to.
type Protocol uint8

// The protocols. Raw is all that isn't another one.
const (
	Raw Protocol = iota
	TLS
	HTTP10
	HTTP11
	HTTP2
)

// Hello is what a connection's first bytes tell.
type Hello struct {
	Protocol   Protocol
	ServerName string   // SNI in lower case; empty without
	ALPN       []string // as the client offers them
	// TooLarge says that a ClientHello went on beyond MaxHello.
	TooLarge bool
}

// Wants says what to look for.
type Wants struct{ TLS, HTTP bool }

// Bounds of what is looked at. Envoy's are the same.
const (
	MaxHello       = 16 << 10 // of a ClientHello
	MaxRequestLine = 64 << 10
)

// Sniff tells the protocol of a connection that begins with p. done is false
// while more bytes could change the answer.
func Sniff(p []byte, w Wants) (h Hello, done bool) {
	if len(p) == 0 {
		return Hello{}, !w.TLS && !w.HTTP
	}
	if w.TLS {
		switch v := sniffTLS(p, &h); v {
		case matches:
			return h, true
		case undecided:
			return Hello{}, false
		}
		h = Hello{TooLarge: h.TooLarge}
	}
	if !w.HTTP {
		return h, true
	}
	var v verdict
	h.Protocol, v = sniffHTTP(p)
	return h, v != undecided
}

// verdict is an answer about bytes of which more may come.
type verdict uint8

const (
	undecided verdict = iota
	matches
	differs
)

// sniffHTTP recognises the preface of HTTP/2 and a request line of HTTP/1,
// whatever its method.
func sniffHTTP(p []byte) (Protocol, verdict) {
	if n := min(len(p), len(preface)); string(p[:n]) == preface[:n] {
		if n == len(preface) {
			return HTTP2, matches
		}
		return Raw, undecided
	}
	method := 0
	for method < len(p) && isToken(p[method]) {
		method++
	}
	if method == len(p) && method <= maxMethod {
		return Raw, undecided
	}
	if method == 0 || method > maxMethod || p[method] != ' ' {
		return Raw, differs
	}
	target := p[method+1:]
	end := 0
	for end < len(target) && target[end] > ' ' && target[end] != 0x7f {
		end++
	}
	if end == len(target) {
		if len(p) >= MaxRequestLine {
			return Raw, differs
		}
		return Raw, undecided
	}
	if end == 0 || target[end] != ' ' {
		return Raw, differs
	}
	return sniffVersion(target[end+1:])
}

// preface is how a client begins HTTP/2 (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// maxMethod bounds a method's name; the longest one registered has 17 letters.
const maxMethod = 32

func sniffVersion(p []byte) (Protocol, verdict) {
	const version = "HTTP/1."
	if n := min(len(p), len(version)); string(p[:n]) != version[:n] {
		return Raw, differs
	}
	if len(p) <= len(version)+1 {
		return Raw, undecided
	}
	if end := p[len(version)+1]; end != '\r' && end != '\n' {
		return Raw, differs
	}
	switch p[len(version)] {
	case '0':
		return HTTP10, matches
	case '1':
		return HTTP11, matches
	}
	return Raw, differs
}

// isToken reports whether c may stand in a method (RFC 9110 section 5.6.2).
func isToken(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
