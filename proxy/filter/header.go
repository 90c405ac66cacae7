// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"strconv"
	"strings"

	"pillion/proxy/http"
	"pillion/proxy/match"
)

// pseudo numbers the names that stand for parts of a request outside of its
// fields.
type pseudo uint8

const (
	notPseudo pseudo = iota
	pseudoMethod
	pseudoPath
	pseudoAuthority
	pseudoScheme
	pseudoUnknown // never present
)

// HeaderRef names a part of a message: a field, or one of :method, :path (with
// its query), :authority or host, and :scheme. Other names with a colon are
// never present. Immutable.
type HeaderRef struct {
	id     http.HeaderID
	pseudo pseudo
	name   []byte // in lower case
}

// NewHeaderRef resolves a name, in any case.
func NewHeaderRef(name string) HeaderRef {
	name = strings.ToLower(name)
	r := HeaderRef{name: []byte(name), id: http.LookupHeader([]byte(name))}
	switch {
	case name == ":method":
		r.pseudo = pseudoMethod
	case name == ":path":
		r.pseudo = pseudoPath
	case name == ":authority" || r.id == http.HeaderHost:
		r.pseudo = pseudoAuthority
	case name == ":scheme":
		r.pseudo = pseudoScheme
	case strings.HasPrefix(name, ":"):
		r.pseudo = pseudoUnknown
	}
	return r
}

// Get returns the value of a request's first line of that name.
func (r *HeaderRef) Get(h *http.RequestHead) ([]byte, bool) {
	switch r.pseudo {
	case notPseudo:
		return h.Fields.Lookup(r.id, r.name)
	case pseudoMethod:
		return h.RawMethod, true
	case pseudoPath:
		return h.Path, true
	case pseudoAuthority:
		return h.Authority, true
	case pseudoScheme:
		return h.Scheme, true
	}
	return nil, false
}

// GetFields is Get for a list of fields alone, such as those of a response.
func (r *HeaderRef) GetFields(f *http.Fields) ([]byte, bool) {
	if r.pseudo != notPseudo {
		return nil, false
	}
	return f.Lookup(r.id, r.name)
}

// Is reports whether a field line has the name.
func (r *HeaderRef) Is(f *http.Field) bool { return r.pseudo == notPseudo && f.Is(r.id, r.name) }

// ID is the number of the field's name.
func (r *HeaderRef) ID() http.HeaderID { return r.id }

// Name is the name in lower case. It must not be changed.
func (r *HeaderRef) Name() []byte { return r.name }

// HeaderMatcher is a match.Header bound to the place in a message where its
// value stands. Immutable.
type HeaderMatcher struct {
	test match.Header
	ref  HeaderRef
}

// NewHeaderMatcher binds m.
func NewHeaderMatcher(m match.Header) HeaderMatcher {
	return HeaderMatcher{test: m, ref: NewHeaderRef(m.Name())}
}

// Match reports whether a request satisfies the predicate.
func (m *HeaderMatcher) Match(h *http.RequestHead) bool {
	if m.ref.pseudo != notPseudo {
		v, ok := m.ref.Get(h)
		return m.test.Verdict(ok, ok && m.test.Line(v))
	}
	present := false
	all := h.Fields.All()
	for i := range all {
		if !all[i].Is(m.ref.id, m.ref.name) {
			continue
		}
		if m.test.Line(all[i].Value) {
			return m.test.Verdict(true, true)
		}
		present = true
	}
	return m.test.Verdict(present, false)
}

// String describes the predicate.
func (m *HeaderMatcher) String() string { return m.test.String() }

// Why tells why a request fails the predicate; it is empty when the request
// satisfies it.
func (m *HeaderMatcher) Why(h *http.RequestHead) string {
	if m.Match(h) {
		return ""
	}
	var seen []string
	if v, ok := m.ref.Get(h); ok && m.ref.pseudo != notPseudo {
		seen = append(seen, strconv.Quote(string(v)))
	}
	for i := range h.Fields.All() {
		if f := h.Fields.At(i); m.ref.Is(f) {
			seen = append(seen, strconv.Quote(string(f.Value)))
		}
	}
	if len(seen) == 0 {
		return "missing, fails " + m.String()
	}
	return strings.Join(seen, ", ") + " fails " + m.String()
}
