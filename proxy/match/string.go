// SPDX-License-Identifier: Apache-2.0

// Package match holds the compiled predicates of routes and policies: over a
// string, a header, a path and a query.
//
// A matcher is a plain immutable value, never a closure, so that the same
// structure that decides a request can afterwards say what it asks for
// (String) and why an input failed it (Why). Match works on the bytes of the
// read buffer and allocates nothing; Why is for people and may allocate.
//
// Behaviour follows Envoy 1.40. Where its documentation is silent, the tables
// in the tests record what a running Envoy did.
package match

import (
	"bytes"
	"strconv"
	"unsafe"
)

// Kind is how a String compares.
type Kind uint8

// The kinds.
const (
	Exact Kind = iota
	Prefix
	Suffix
	Contains
	Pattern // a regular expression that matches the whole input
)

var kindNames = [...]string{"exact", "prefix", "suffix", "contains", "regex"}

// String returns the word that Envoy's configuration uses.
func (k Kind) String() string { return kindNames[k] }

// String is a predicate over one string, as envoy.type.matcher.v3.StringMatcher.
// Immutable; the zero value matches the empty string only.
type String struct {
	kind  Kind
	fold  bool
	value []byte // in lower case when fold is set
	re    *Regex // for Pattern
}

// NewString makes a matcher of any kind but Pattern. ignoreCase folds ASCII
// letters only, as Envoy does.
func NewString(kind Kind, value string, ignoreCase bool) String {
	v := []byte(value)
	if ignoreCase {
		lowerInPlace(v)
	}
	return String{kind: kind, fold: ignoreCase, value: v}
}

// NewPattern makes a matcher of a regular expression.
func NewPattern(re *Regex) String { return String{kind: Pattern, re: re} }

// Match reports whether b satisfies the predicate.
func (m *String) Match(b []byte) bool {
	switch m.kind {
	case Exact:
		return len(b) == len(m.value) && m.equal(b)
	case Prefix:
		return len(b) >= len(m.value) && m.equal(b[:len(m.value)])
	case Suffix:
		return len(b) >= len(m.value) && m.equal(b[len(b)-len(m.value):])
	case Contains:
		if m.fold {
			return containsFold(b, m.value)
		}
		return bytes.Contains(b, m.value)
	case Pattern:
		return m.re.Match(b)
	}
	return false
}

// MatchString is Match of a string.
func (m *String) MatchString(s string) bool {
	return m.Match(unsafe.Slice(unsafe.StringData(s), len(s)))
}

// Literal returns the only text that the predicate holds for; false if there
// may be others.
func (m *String) Literal() (string, bool) {
	return string(m.value), m.kind == Exact && !m.fold
}

// equal compares b, which has the length of the value.
func (m *String) equal(b []byte) bool {
	if m.fold {
		return equalFold(b, m.value)
	}
	return string(b) == string(m.value)
}

// String describes the predicate, as in `prefix "v1" (any case)`.
func (m *String) String() string {
	if m.kind == Pattern {
		return m.re.String()
	}
	s := m.kind.String() + " " + strconv.Quote(string(m.value))
	if m.fold {
		s += " (any case)"
	}
	return s
}

// Why tells why b fails the predicate; it is empty when b satisfies it.
func (m *String) Why(b []byte) string {
	if m.Match(b) {
		return ""
	}
	return clip(b) + " fails " + m.String()
}

// clip quotes an input and bounds its length, so that a message about a
// hostile request stays readable.
func clip(b []byte) string {
	const most = 64
	if len(b) > most {
		return strconv.Quote(string(b[:most])) + "…"
	}
	return strconv.Quote(string(b))
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

func lowerInPlace(b []byte) {
	for i, c := range b {
		b[i] = lower(c)
	}
}

// equalFold compares b with low, which is in lower case and of the same length.
func equalFold(b, low []byte) bool {
	for i, c := range b {
		if c != low[i] && lower(c) != low[i] {
			return false
		}
	}
	return true
}

// containsFold reports whether low, which is in lower case, occurs in b.
func containsFold(b, low []byte) bool {
	for i := 0; i+len(low) <= len(b); i++ {
		if equalFold(b[i:i+len(low)], low) {
			return true
		}
	}
	return false
}
