// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"fmt"
	"strconv"
	"strings"

	"pillion/proxy/http"
	"pillion/proxy/match"
)

// DataMatcher asks for a value in the metadata that filters before this one
// have set (envoy.type.matcher.v3.MetadataMatcher). Immutable.
type DataMatcher struct {
	Filter string
	Keys   []string
	Value  Value
	Invert bool
}

func (m *DataMatcher) match(data *http.Metadata) bool {
	if data == nil {
		return m.Invert // a value that isn't there matches nothing
	}
	v, found := data.Get(m.Filter, m.Keys...)
	return m.Value.match(v, found) != m.Invert
}

// String describes the matcher.
func (m *DataMatcher) String() string {
	s := m.Filter + "[" + strings.Join(m.Keys, ".") + "] "
	if m.Invert {
		s += "not "
	}
	return s + m.Value.String()
}

// ValueOp is what a Value asks of a JSON value.
type ValueOp uint8

// The operations; the zero value matches nothing.
const (
	ValueNever  ValueOp = iota
	ValueNull           // it is null
	ValueNumber         // a number in [From, To], or in [From, To) if it is a Range
	ValueText
	ValueBool
	ValuePresent // it is there
	ValueOneOf   // a list with such an element
	ValueOr      // one of Values holds
)

// Value is a predicate over a JSON value (envoy.type.matcher.v3.ValueMatcher).
// Immutable.
type Value struct {
	Op       ValueOp
	Text     match.String
	Bool     bool // of ValueBool and ValuePresent
	Range    bool
	From, To float64
	Values   []Value // of ValueOr; the one of ValueOneOf
}

func (m *Value) match(v any, found bool) bool {
	switch m.Op {
	case ValueNull:
		return found && v == nil
	case ValueNumber:
		n, ok := v.(float64)
		if m.Range {
			return ok && m.From <= n && n < m.To
		}
		return ok && n == m.From
	case ValueText:
		s, ok := v.(string)
		return ok && m.Text.MatchString(s)
	case ValueBool:
		b, ok := v.(bool)
		return ok && b == m.Bool
	case ValuePresent:
		return found && m.Bool
	case ValueOneOf:
		list, _ := v.([]any)
		for _, element := range list {
			if m.Values[0].match(element, true) {
				return true
			}
		}
	case ValueOr:
		for i := range m.Values {
			if m.Values[i].match(v, found) {
				return true
			}
		}
	}
	return false
}

// String describes the predicate.
func (m *Value) String() string {
	switch m.Op {
	case ValueNull:
		return "null"
	case ValueNumber:
		if m.Range {
			return fmt.Sprintf("in [%v, %v)", m.From, m.To)
		}
		return fmt.Sprint(m.From)
	case ValueText:
		return m.Text.String()
	case ValueBool:
		return strconv.FormatBool(m.Bool)
	case ValuePresent:
		if m.Bool {
			return "present"
		}
	case ValueOneOf:
		return "one of " + m.Values[0].String()
	case ValueOr:
		parts := make([]string, len(m.Values))
		for i := range m.Values {
			parts[i] = m.Values[i].String()
		}
		return "(" + strings.Join(parts, " or ") + ")"
	}
	return "never"
}
