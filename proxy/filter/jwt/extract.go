// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"bytes"
	"cmp"
	"net/url"
	"slices"
	"strings"

	"pillion/proxy/http"
	"pillion/proxy/match"
)

// place is the kind of a location.
type place uint8

const (
	inHeader place = iota
	inParam
	inCookie
)

// location is where a token may stand in a request.
type location struct {
	place  place
	header header
	prefix []byte // of the field's value
	name   string // of the parameter or cookie

	// issuers are those whose tokens may stand there; nil is all.
	issuers map[string]bool
}

// allows reports whether a token of that issuer may stand there.
func (l *location) allows(issuer string) bool { return l.issuers == nil || l.issuers[issuer] }

// candidate is what stands where a token may stand.
type candidate struct {
	text []byte // aliases the request
	at   *location
}

// extractor finds the tokens of one or more providers. Immutable.
type extractor struct {
	locations []*location // in the order in which Envoy looks
	cookies   bool
	params    bool
}

// newExtractor merges the locations of providers (Envoy: ExtractorImpl).
func newExtractor(providers ...*Provider) *extractor {
	e := &extractor{}
	for _, p := range providers {
		for _, l := range p.locations {
			e.add(l, p.issuer)
		}
	}
	// Envoy keeps locations in maps that are sorted by name, fields first.
	slices.SortStableFunc(e.locations, func(a, b *location) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.sortKey(), b.sortKey()))
	})
	return e
}

func (l *location) sortKey() string {
	return string(l.header.name) + string(l.prefix) + l.name
}

func (e *extractor) add(l location, issuer string) {
	e.params = e.params || l.place == inParam
	e.cookies = e.cookies || l.place == inCookie
	for _, old := range e.locations {
		if old.place == l.place && old.sortKey() == l.sortKey() {
			if issuer == "" {
				old.issuers = nil
			} else if old.issuers != nil {
				old.issuers[issuer] = true
			}
			return
		}
	}
	l.issuers = nil
	if issuer != "" {
		l.issuers = map[string]bool{issuer: true}
	}
	e.locations = append(e.locations, &l)
}

// extract appends what stands in the request's locations. The caller goes
// through it from the end, as Envoy does.
func (e *extractor) extract(dst []candidate, h *http.RequestHead) []candidate {
	for _, l := range e.locations {
		switch l.place {
		case inHeader:
			dst = l.fromFields(dst, h)
		case inParam:
			if v, ok := param(h.Path, l.name); ok {
				dst = append(dst, candidate{v, l})
			}
		case inCookie:
			if v, ok := cookie(&h.Fields, l.name); ok {
				dst = append(dst, candidate{v, l})
			}
		}
	}
	return dst
}

func (l *location) fromFields(dst []candidate, h *http.RequestHead) []candidate {
	all, begun := h.Fields.All(), len(dst)
	for i := range all {
		if !all[i].Is(l.header.id, l.header.name) {
			continue
		}
		v := all[i].Value
		if l.header.id == http.HeaderAuthorization && len(dst) > begun {
			// Authorization is no list, and which of two lines counts is
			// anybody's guess. Envoy makes one line of them, which is no token.
			dst[begun].text = bytes.Join([][]byte{dst[begun].text, v}, []byte(","))
			continue
		}
		if len(l.prefix) > 0 {
			j := bytes.Index(v, l.prefix)
			if j < 0 {
				continue
			}
			v = tokenAfter(v, j+len(l.prefix))
		}
		dst = append(dst, candidate{v, l})
	}
	return dst
}

// tokenAfter cuts off what can't begin a token behind the prefix. A value in
// which no token begins is taken whole, and then refused.
func tokenAfter(v []byte, after int) []byte {
	for i := after; i < len(v); i++ {
		if tokenOctet(v[i]) {
			return v[i:]
		}
	}
	return v
}

func tokenOctet(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
}

// param returns the first value of a query parameter, decoded.
func param(target []byte, name string) (value []byte, ok bool) {
	_, query := match.CutQuery(target)
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte("&"))
		key, v, _ := bytes.Cut(pair, []byte("="))
		if paramNamed(key, name) {
			return decodePercent(v), true
		}
	}
	return nil, false
}

func paramNamed(key []byte, name string) bool {
	return string(key) == name || bytes.IndexByte(key, '%') >= 0 && string(decodePercent(key)) == name
}

// decodePercent decodes percent-encoding; what is malformed stays as it is.
func decodePercent(v []byte) []byte {
	if bytes.IndexByte(v, '%') < 0 {
		return v
	}
	s, err := url.PathUnescape(string(v))
	if err != nil {
		return v
	}
	return []byte(s)
}

// cookie returns the first cookie of that name (Envoy: Utility::parseCookies).
func cookie(f *http.Fields, name string) (value []byte, ok bool) {
	all := f.All()
	for i := range all {
		if all[i].ID != http.HeaderCookie {
			continue
		}
		for v := all[i].Value; len(v) > 0; {
			var pair []byte
			pair, v, _ = bytes.Cut(v, []byte(";"))
			key, text, eq := bytes.Cut(bytes.TrimSpace(pair), []byte("="))
			if !eq || string(key) != name {
				continue
			}
			if n := len(text); n >= 2 && text[0] == '"' && text[n-1] == '"' {
				text = text[1 : n-1]
			}
			return text, true
		}
	}
	return nil, false
}

// remove takes the token out of the request. Cookies stay, as with Envoy.
func (c *candidate) remove(ex *http.Exchange) {
	switch c.at.place {
	case inHeader:
		ex.Req.Fields.Del(c.at.header.id, c.at.header.name)
	case inParam:
		ex.Req.Path = withoutParam(ex, c.at.name)
	}
}

// withoutParam returns the request target without a query parameter. The other
// ones stay as they were sent.
func withoutParam(ex *http.Exchange, name string) []byte {
	target := ex.Req.Path
	path, query := match.CutQuery(target)
	rest := target[min(len(path)+1+len(query), len(target)):]
	out := append(ex.Scratch(len(target))[:0], path...)
	sep := byte('?')
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte("&"))
		key, _, _ := bytes.Cut(pair, []byte("="))
		if paramNamed(key, name) {
			continue
		}
		out = append(append(out, sep), pair...)
		sep = '&'
	}
	return append(out, rest...)
}

// validName reports whether s may name a field (RFC 9110 section 5.1).
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}
