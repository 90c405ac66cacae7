// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"bytes"
	"hash/maphash"
	"regexp"
	"strconv"
	"strings"
)

// expression is one of CEL (https://github.com/google/cel-spec), of which what labels
// are made of is understood: literals, attributes, conditions, comparisons, tests of
// strings, and their concatenation. Immutable; safe for concurrent use.
type expression struct {
	root node
	// constant says that no exchange decides the value.
	constant bool
}

// node is one operation.
type node interface{ eval(s *subject) value }

// unknownExpression is the value of what isn't understood.
var unknownExpression = &expression{root: literal{value{kind: kindMissing}}, constant: true}

func (e *expression) eval(s *subject) value { return e.root.eval(s) }

// kind is the type of a value.
type kind uint8

const (
	kindMissing kind = iota // an attribute isn't there, or an operation made no sense
	kindText
	kindInt
	kindBool
)

// value is what an expression says of an exchange. Its text, in s or else in b, aliases
// the exchange.
type value struct {
	kind kind
	s    string
	b    []byte
	n    int64
}

func textOf(s string) value     { return value{kind: kindText, s: s} }
func bytesOf(b []byte) value    { return value{kind: kindText, b: b} }
func numberOf(n int64) value    { return value{kind: kindInt, n: n} }
func truth(b bool) (v value)    { v.kind = kindBool; v.n = b2i(b); return v }
func (v *value) isTrue() bool   { return v.kind == kindBool && v.n == 1 }
func given(s string) (v value)  { return givenIf(textOf(s), s != "") }
func givenBytes(b []byte) value { return givenIf(bytesOf(b), b != nil) }
func givenIf(v value, ok bool) value {
	if !ok {
		return value{}
	}
	return v
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// hash adds the value to h.
func (v *value) hash(h *maphash.Hash) {
	_ = h.WriteByte(byte(v.kind))
	switch v.kind {
	case kindText:
		if v.b != nil {
			_, _ = h.Write(v.b[:min(len(v.b), maxLabel)])
		} else {
			_, _ = h.WriteString(v.s[:min(len(v.s), maxLabel)])
		}
		_ = h.WriteByte(0xff)
	case kindInt, kindBool:
		for i := range 8 {
			_ = h.WriteByte(byte(v.n >> (8 * i)))
		}
	}
}

// label returns the value as that of a label.
func (v *value) label() string {
	switch v.kind {
	case kindText:
		s := v.s
		if v.b != nil {
			s = string(v.b)
		}
		return strings.ToValidUTF8(s[:min(len(s), maxLabel)], "\uFFFD")
	case kindInt:
		return strconv.FormatInt(v.n, 10)
	case kindBool:
		return strconv.FormatBool(v.n == 1)
	}
	return unknown
}

// text returns the octets of a text, which are read-only.
func (v *value) text() []byte {
	if v.b != nil {
		return v.b
	}
	return []byte(v.s)
}

func (v *value) equal(o *value) bool {
	if v.kind != o.kind {
		return false
	}
	if v.kind != kindText {
		return v.n == o.n
	}
	switch {
	case v.b != nil && o.b != nil:
		return bytes.Equal(v.b, o.b)
	case v.b != nil:
		return string(v.b) == o.s
	case o.b != nil:
		return v.s == string(o.b)
	}
	return v.s == o.s
}

type literal struct{ v value }

func (l literal) eval(*subject) value { return l.v }

// choice is a ? b : c.
type choice struct{ when, yes, no node }

func (c choice) eval(s *subject) value {
	when := c.when.eval(s)
	switch {
	case when.kind != kindBool:
		return value{}
	case when.isTrue():
		return c.yes.eval(s)
	}
	return c.no.eval(s)
}

// logic is a && b, or a || b if or is set. One side can decide it although the other
// one makes no sense.
type logic struct {
	or   bool
	a, b node
}

func (l logic) eval(s *subject) value {
	a := l.a.eval(s)
	if a.kind == kindBool && a.isTrue() == l.or {
		return a
	}
	b := l.b.eval(s)
	if b.kind == kindBool && (b.isTrue() == l.or || a.kind == kindBool) {
		return b
	}
	return value{}
}

type not struct{ a node }

func (n not) eval(s *subject) value {
	a := n.a.eval(s)
	return givenIf(truth(!a.isTrue()), a.kind == kindBool)
}

// comparison is one of == != < <= > >=.
type comparison struct {
	op   string
	a, b node
}

func (c comparison) eval(s *subject) value {
	a, b := c.a.eval(s), c.b.eval(s)
	if a.kind == kindMissing || b.kind == kindMissing {
		return value{}
	}
	switch c.op {
	case "==":
		return truth(a.equal(&b))
	case "!=":
		return truth(!a.equal(&b))
	}
	if a.kind != kindInt || b.kind != kindInt {
		return value{}
	}
	switch c.op {
	case "<":
		return truth(a.n < b.n)
	case "<=":
		return truth(a.n <= b.n)
	case ">":
		return truth(a.n > b.n)
	}
	return truth(a.n >= b.n)
}

// sum is the concatenation of texts or the sum of numbers.
type sum struct{ a, b node }

func (c sum) eval(s *subject) value {
	a, b := c.a.eval(s), c.b.eval(s)
	switch {
	case a.kind == kindText && b.kind == kindText:
		return bytesOf(append(append(make([]byte, 0, len(a.text())+len(b.text())), a.text()...), b.text()...))
	case a.kind == kindInt && b.kind == kindInt:
		return numberOf(a.n + b.n)
	}
	return value{}
}

// call is a function of a text: startsWith, endsWith, contains.
type call struct {
	f    func(s, arg []byte) bool
	a, b node
}

func (c call) eval(s *subject) value {
	a, b := c.a.eval(s), c.b.eval(s)
	return givenIf(truth(a.kind == kindText && b.kind == kindText && c.f(a.text(), b.text())), a.kind == kindText && b.kind == kindText)
}

type matches struct {
	a  node
	re *regexp.Regexp
}

func (m matches) eval(s *subject) value {
	a := m.a.eval(s)
	return givenIf(truth(a.kind == kindText && m.re.Match(a.text())), a.kind == kindText)
}

// has tells whether an attribute is there.
type has struct{ a node }

func (h has) eval(s *subject) value {
	a := h.a.eval(s)
	return truth(a.kind != kindMissing)
}

// asText is string(a).
type asText struct{ a node }

func (t asText) eval(s *subject) value {
	a := t.a.eval(s)
	if a.kind == kindInt || a.kind == kindBool {
		return textOf(a.label())
	}
	return a
}
