// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"bytes"
	"slices"

	"pillion/proxy/http"
)

// action is how a field is changed (HeaderValueOption.append_action).
type action uint8

const (
	overwrite action = iota // or add
	add                     // a line
	appendTo                // the first line there is, after a comma; nothing without one
	addIfAbsent
	overwriteIfExists
)

// mutation is a change of one field. It shares no memory with connections.
type mutation struct {
	action action
	id     http.HeaderID
	name   []byte // in lower case
	value  []byte
}

func newMutation(a action, name, value []byte) mutation {
	name = bytes.ToLower(name)
	return mutation{action: a, id: http.LookupHeader(name), name: name, value: value}
}

// framing are the fields that codecs make themselves: what a server says of
// them would be about its own message, and could only break ours.
func framing(id http.HeaderID) bool {
	switch id {
	case http.HeaderContentLength, http.HeaderTransferEncoding, http.HeaderConnection, http.HeaderKeepAlive,
		http.HeaderProxyConnection, http.HeaderUpgrade, http.HeaderTE, http.HeaderTrailer, http.HeaderExpect:
		return true
	}
	return false
}

// apply changes the fields of a response.
func (m *mutation) apply(f *http.Fields) {
	if m.name[0] == ':' || framing(m.id) {
		return
	}
	old, exists := f.Lookup(m.id, m.name)
	switch m.action {
	case overwrite:
		f.Set(m.id, m.name, m.value)
	case add:
		f.Append(http.Field{ID: m.id, Name: m.name, Value: m.value})
	case appendTo:
		if exists {
			setFirst(f, m, slices.Concat(old, []byte(","), m.value))
		}
	case addIfAbsent:
		if !exists {
			f.Append(http.Field{ID: m.id, Name: m.name, Value: m.value})
		}
	case overwriteIfExists:
		if exists {
			f.Set(m.id, m.name, m.value)
		}
	}
}

// setFirst gives the first line of a name another value.
func setFirst(f *http.Fields, m *mutation, value []byte) {
	for i := range f.Len() {
		if fl := f.At(i); fl.Is(m.id, m.name) {
			fl.Value = value
			return
		}
	}
}

// part is what of a request's head a name with a colon, or host, stands for;
// nil for others.
func part(h *http.RequestHead, m *mutation) *[]byte {
	switch {
	case m.id == http.HeaderHost, string(m.name) == ":authority":
		return &h.Authority
	case string(m.name) == ":path":
		return &h.Path
	case string(m.name) == ":method":
		return &h.RawMethod
	case string(m.name) == ":scheme":
		return &h.Scheme
	}
	return nil
}

// applyRequest changes a request's head. Only sound mutations come here.
func (m *mutation) applyRequest(h *http.RequestHead) {
	p := part(h, m)
	if p == nil {
		m.apply(&h.Fields)
		return
	}
	// These are always there, and only once.
	switch m.action {
	case overwrite, overwriteIfExists:
		*p = m.value
	case add, appendTo:
		*p = slices.Concat(*p, []byte(","), m.value)
	}
	h.Method = http.LookupMethod(h.RawMethod)
}

// removable reports whether a field may be taken off a request: it isn't one
// without Host, :path and the like (Envoy: HeaderUtility::isRemovableHeader).
func removable(id http.HeaderID, name []byte) bool {
	return len(name) > 0 && name[0] != ':' && id != http.HeaderHost && !framing(id)
}

// sound reports whether all of what the server asks for can be done: no
// header has a control character in it, whatever validate_mutations says, as
// the next recipient would take it for another header (Envoy leaves that to
// validate_mutations).
func (f *Filter) sound(d *decision) bool {
	for _, list := range [][]mutation{d.reply, d.response} {
		for i := range list {
			if !list[i].sound() {
				return false
			}
		}
	}
	for i := range d.request {
		if m := &d.request[i]; !m.sound() || !m.soundPart() {
			return false
		}
	}
	for _, q := range d.setQuery {
		if !soundQuery(q.key, f.validate) || !soundQuery(q.value, f.validate) {
			return false
		}
	}
	return true
}

func (m *mutation) sound() bool {
	return validName(bytes.TrimPrefix(m.name, []byte(":"))) && validValue(m.value)
}

// soundPart looks at what goes into the request line.
func (m *mutation) soundPart() bool {
	var h http.RequestHead
	switch p := part(&h, m); {
	case p == nil:
		return true
	case p == &h.RawMethod:
		return validName(m.value) && string(m.value) != "CONNECT"
	case p == &h.Scheme:
		return string(m.value) == "http" || string(m.value) == "https"
	case p == &h.Path:
		return (len(m.value) > 0 && m.value[0] == '/' || m.action == appendTo || m.action == add) && visible(m.value)
	}
	return len(m.value) > 0 && visible(m.value)
}

// visible reports whether all octets are visible ASCII or beyond it, without
// what ends a request target.
func visible(v []byte) bool {
	return !slices.ContainsFunc(v, func(c byte) bool { return c <= ' ' || c == 0x7f || c == '#' })
}

// validName reports whether a name is a token (RFC 9110 section 5.6.2).
func validName(name []byte) bool {
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0:
		default:
			return false
		}
	}
	return len(name) > 0
}

// validValue reports whether a value has no control characters (RFC 9110
// section 5.5) and doesn't begin or end with white space.
func validValue(v []byte) bool {
	for _, c := range v {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// apply changes an allowed request, and remembers how the response is to be
// changed. false: the request is too large now.
func (f *Filter) apply(ex *http.Exchange, d *decision) bool {
	h := &ex.Req
	was := h.Fields.Len()
	for i := range d.request {
		d.request[i].applyRequest(h)
	}
	for _, name := range d.remove {
		if id := http.LookupHeader(name); removable(id, name) {
			h.Fields.Del(id, name)
		}
	}
	if len(d.setQuery) > 0 || len(d.removeQuery) > 0 {
		h.Path = changeQuery(h.Path, d.setQuery, d.removeQuery)
	}
	if len(d.response) > 0 {
		ex.SetState(f, d.response)
	}
	if f.clearRoute && f.matters(d) {
		ex.Reroute = true
	}
	return h.Fields.Len() <= max(maxFields, was) && size(&h.Fields) <= maxFieldBytes
}

// Bounds on what a server can make of a request's fields: Envoy's defaults for
// a head.
const (
	maxFields     = 100
	maxFieldBytes = 60 << 10
)

func size(f *http.Fields) (n int) {
	for _, fl := range f.All() {
		n += len(fl.Name) + len(fl.Value)
	}
	return n
}

// matters reports whether routes may be chosen by what has changed.
func (f *Filter) matters(d *decision) bool {
	if len(d.setQuery) > 0 || len(d.removeQuery) > 0 {
		return true
	}
	named := func(name []byte) bool {
		return f.clearRouteFor == nil || slices.ContainsFunc(f.clearRouteFor, func(n []byte) bool { return bytes.EqualFold(n, name) })
	}
	return slices.ContainsFunc(d.request, func(m mutation) bool { return named(m.name) }) || slices.ContainsFunc(d.remove, named)
}
