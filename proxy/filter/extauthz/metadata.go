// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"fmt"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"pillion/proxy/http"
	"pillion/proxy/match"
)

// metadataMatcher is a predicate over what other filters have found (Envoy:
// Matchers::MetadataMatcher). Immutable.
type metadataMatcher struct {
	filter string
	path   []string
	value  valueTest
	invert bool
}

// valueTest is a predicate over one value; found is false if there is none.
type valueTest func(v any, found bool) bool

func (m *metadataMatcher) match(md *http.Metadata) bool {
	v, found := md.Get(m.filter, m.path...)
	return m.value(v, found) != m.invert
}

// compileMetadata compiles a matcher; text compiles the strings in it.
func compileMetadata(m *matcherv3.MetadataMatcher, text StringFunc) (*metadataMatcher, error) {
	out := &metadataMatcher{filter: m.GetFilter(), invert: m.GetInvert()}
	if out.filter == "" {
		return nil, fmt.Errorf("filter: is needed")
	}
	if len(m.GetPath()) == 0 {
		return nil, fmt.Errorf("path: is needed")
	}
	for i, p := range m.GetPath() {
		if p.GetKey() == "" {
			return nil, fmt.Errorf("path[%d].key: is needed", i)
		}
		out.path = append(out.path, p.GetKey())
	}
	var err error
	if out.value, err = compileValue(m.GetValue(), text, 0); err != nil {
		return nil, fmt.Errorf("value.%w", err)
	}
	return out, nil
}

// maxNesting bounds matchers within matchers.
const maxNesting = 16

func compileValue(m *matcherv3.ValueMatcher, text StringFunc, depth int) (valueTest, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("match_pattern: is nested too deep")
	}
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.ValueMatcher_NullMatch_:
		return func(v any, found bool) bool { return found && v == nil }, nil
	case *matcherv3.ValueMatcher_BoolMatch:
		want := p.BoolMatch
		return func(v any, _ bool) bool { b, ok := v.(bool); return ok && b == want }, nil
	case *matcherv3.ValueMatcher_PresentMatch:
		want := p.PresentMatch
		return func(v any, found bool) bool { return want && found && v != nil }, nil
	case *matcherv3.ValueMatcher_StringMatch:
		s, err := text(p.StringMatch)
		if err != nil {
			return nil, fmt.Errorf("string_match: %w", err)
		}
		return stringTest(s), nil
	case *matcherv3.ValueMatcher_DoubleMatch:
		return doubleTest(p.DoubleMatch)
	case *matcherv3.ValueMatcher_ListMatch:
		one, err := compileValue(p.ListMatch.GetOneOf(), text, depth+1)
		if err != nil {
			return nil, fmt.Errorf("list_match.one_of.%w", err)
		}
		return func(v any, _ bool) bool {
			list, _ := v.([]any)
			for _, item := range list {
				if one(item, true) {
					return true
				}
			}
			return false
		}, nil
	case *matcherv3.ValueMatcher_OrMatch:
		return compileOr(p.OrMatch.GetValueMatchers(), text, depth)
	}
	return nil, fmt.Errorf("match_pattern: is needed")
}

func stringTest(s match.String) valueTest {
	return func(v any, _ bool) bool {
		t, ok := v.(string)
		return ok && s.MatchString(t)
	}
}

func doubleTest(m *matcherv3.DoubleMatcher) (valueTest, error) {
	lo, hi := m.GetExact(), m.GetExact()
	if r := m.GetRange(); r != nil {
		lo, hi = r.GetStart(), r.GetEnd()
		return func(v any, _ bool) bool { n, ok := v.(float64); return ok && lo <= n && n < hi }, nil
	}
	if m.GetMatchPattern() == nil {
		return nil, fmt.Errorf("double_match.match_pattern: is needed")
	}
	return func(v any, _ bool) bool { n, ok := v.(float64); return ok && n == lo && n == hi }, nil
}

func compileOr(list []*matcherv3.ValueMatcher, text StringFunc, depth int) (valueTest, error) {
	if len(list) < 2 {
		return nil, fmt.Errorf("or_match.value_matchers: needs two or more")
	}
	var tests []valueTest
	for i, m := range list {
		t, err := compileValue(m, text, depth+1)
		if err != nil {
			return nil, fmt.Errorf("or_match.value_matchers[%d].%w", i, err)
		}
		tests = append(tests, t)
	}
	return func(v any, found bool) bool {
		for _, t := range tests {
			if t(v, found) {
				return true
			}
		}
		return false
	}, nil
}
