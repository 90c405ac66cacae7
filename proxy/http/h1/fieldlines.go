// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bytes"

	"pillion/proxy/http"
)

// lines is what the field lines of a head say about the message as a whole,
// gathered while they are parsed.
type lines struct {
	hosts     int
	host      []byte
	hostName  []byte
	hostIndex int

	lengths int
	length  int64
	chunked int

	upgrades int
	upgrade  []byte
	expect   bool
	options  options
}

// options is the set of connection options that the codec acts on.
type options uint8

const (
	optClose options = 1 << iota
	optKeepAlive
	optUpgrade
)

// lastNoted bounds the header numbers that the codec acts on, which are the
// lowest, so that one comparison sets most lines apart.
const lastNoted = http.HeaderExpect

// more is the position that parsers return when bytes are missing.
const more = -1

// section tells whose field lines are parsed.
type section uint8

const (
	ofRequest  section = iota // Host goes to lines and not among the fields
	ofResponse                // Host means nothing
	ofTrailers                // nothing means anything to the codec
)

// parse parses field lines from buf[pos:] up to and with the empty line that
// ends them, appends them to f, and returns the position behind it, or more
// when the empty line isn't there yet. Errors are those for requests.
func (l *lines) parse(f *http.Fields, buf []byte, pos, maxFields int, of section) (int, *http.Error) {
	for count := 0; ; count++ {
		if pos >= len(buf) {
			return more, nil
		}
		if buf[pos] == '\r' {
			return endOfLine(buf, pos)
		}
		if count == maxFields {
			return 0, errFieldCount
		}
		colon := tokenEnd(buf, pos)
		if colon == len(buf) {
			return more, nil
		}
		// This one test refuses space before the colon, a line that folds
		// the one before it, an empty name and a line with no colon.
		if buf[colon] != ':' || colon == pos {
			return 0, errSyntax
		}
		end := valueEnd(buf, colon+1)
		next, err := endOfLine(buf, end)
		if next <= 0 {
			return next, err
		}
		name := buf[pos:colon:colon]
		value := trimOWS(buf[colon+1 : end : end])
		id := http.LookupHeader(name)
		if id != http.HeaderOther && id <= lastNoted && of != ofTrailers {
			if id == http.HeaderHost && of == ofRequest {
				l.hosts++
				l.host, l.hostName, l.hostIndex = value, name, f.Len()
				pos = next
				continue
			}
			if err := l.note(id, value); err != nil {
				return 0, err
			}
		}
		f.Append(http.Field{ID: id, Name: name, Value: value})
		pos = next
	}
}

// endOfLine returns the position behind the CRLF at buf[i], more if it isn't
// there yet, and an error if something else is.
func endOfLine(buf []byte, i int) (int, *http.Error) {
	if i >= len(buf) {
		return more, nil
	}
	switch buf[i] {
	case '\r':
		if i+1 == len(buf) {
			return more, nil
		}
		if buf[i+1] == '\n' {
			return i + 2, nil
		}
		return 0, errSyntax
	case '\n':
		return 0, errSyntax
	}
	return 0, errCharacters
}

// note takes in a line that the codec acts on.
func (l *lines) note(id http.HeaderID, value []byte) *http.Error {
	switch id {
	case http.HeaderContentLength:
		n, ok := parseLength(value)
		// Two equal ones would be harmless here, but not for a next hop that
		// takes another than the one we forward (RFC 9112 section 6.3).
		if !ok || l.lengths > 0 {
			return errSyntax
		}
		l.lengths, l.length = 1, n
	case http.HeaderTransferEncoding:
		if l.chunked > 0 || !http.EqualFoldString(value, "chunked") {
			return errTransferCoding
		}
		l.chunked = 1
	case http.HeaderConnection:
		return l.noteOptions(value)
	case http.HeaderProxyConnection:
		// Never a standard, and keep-alive in it is not to be honoured
		// (RFC 9112 appendix C.2.2), but close does no harm. As Envoy.
		if http.EqualFoldString(value, "close") {
			l.options |= optClose
		}
	case http.HeaderUpgrade:
		l.upgrades++
		l.upgrade = value
	case http.HeaderExpect:
		l.expect = l.expect || http.EqualFoldString(value, "100-continue")
	}
	return nil
}

// noteOptions takes in the value of a Connection line.
func (l *lines) noteOptions(value []byte) *http.Error {
	for len(value) > 0 {
		var opt []byte
		opt, value = nextElement(value)
		if o := optionOf(opt); o != 0 {
			l.options |= o
		} else if protected(opt) {
			return errOption
		}
	}
	return nil
}

// optionOf returns the option of that name, 0 for one that the codec does not
// know.
func optionOf(name []byte) options {
	switch {
	case http.EqualFoldString(name, "keep-alive"):
		return optKeepAlive
	case http.EqualFoldString(name, "close"):
		return optClose
	case http.EqualFoldString(name, "upgrade"):
		return optUpgrade
	}
	return 0
}

// nextElement cuts the first element, trimmed and possibly empty, off a
// comma-separated list without quoted strings.
func nextElement(list []byte) (element, rest []byte) {
	if i := bytes.IndexByte(list, ','); i >= 0 {
		return trimOWS(list[:i]), list[i+1:]
	}
	return trimOWS(list), nil
}

// protected reports whether a field must not be named as a connection option.
// Whoever names one wants it to vanish on the way: what frames the message, or
// what the next hop trusts the proxy to tell it about the sender. An option
// that is no token is passed over; it can't be the name of a field.
func protected(name []byte) bool {
	switch http.LookupHeader(name) {
	case http.HeaderContentLength, http.HeaderTransferEncoding, http.HeaderHost,
		http.HeaderExpect, http.HeaderAuthorization, http.HeaderCookie:
		return true
	}
	return hasPrefixFold(name, "x-forwarded-") || hasPrefixFold(name, "x-envoy-")
}

func hasPrefixFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && http.EqualFoldString(b[:len(prefix)], prefix)
}

// parseLength parses the value of Content-Length: digits only, at most
// 2^63-1. A list, even of one number repeated, is no length.
func parseLength(v []byte) (int64, bool) {
	if len(v) == 0 {
		return 0, false
	}
	var n int64
	for _, c := range v {
		if class[c]&isDigit == 0 {
			return 0, false
		}
		d := int64(c - '0')
		if n > (1<<63-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

// persistent tells from the version and the connection options whether the
// sender wants the connection kept (RFC 9112 section 9.3).
func (l *lines) persistent(p http.Protocol) bool {
	if l.options&optClose != 0 {
		return false
	}
	return p == http.HTTP11 || l.options&optKeepAlive != 0
}

// offered returns the protocol that Upgrade names if Connection lists it, so
// that it is meant for us, else nil. An offer may always be passed over
// (RFC 9110 section 7.8), and is if it is not a single line, or names h2c: a
// connection switched to HTTP/2 behind the proxy would escape its rules.
func (l *lines) offered(p http.Protocol) []byte {
	if l.upgrades != 1 || l.options&optUpgrade == 0 || p != http.HTTP11 || len(l.upgrade) == 0 {
		return nil
	}
	for rest := l.upgrade; len(rest) > 0; {
		var protocol []byte
		protocol, rest = nextElement(rest)
		if hasPrefixFold(protocol, "h2") || hasPrefixFold(protocol, "http/") {
			return nil
		}
	}
	return l.upgrade
}
