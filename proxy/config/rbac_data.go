// SPDX-License-Identifier: Apache-2.0

package config

import (
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"pillion/proxy/filter/rbac"
)

// sourced compiles a matcher of metadata that may be a route's.
func (b *rbacBuilder) sourced(at *place, m *rbacconfigv3.SourcedMetadata) (out rbac.Rule, err error) {
	if err := strict(at, m); err != nil {
		return out, err
	}
	if s := m.GetMetadataSource(); s != rbacconfigv3.MetadataSource_DYNAMIC {
		return out, at.in("metadata_source").errorf("%s is not supported", s)
	}
	return b.metadata(at.in("metadata_matcher"), m.GetMetadataMatcher())
}

func (b *rbacBuilder) metadata(at *place, m *matcherv3.MetadataMatcher) (out rbac.Rule, err error) {
	if m == nil {
		return out, at.errorf("is needed")
	}
	data, err := b.routes.metadata(at, m)
	return rbac.Rule{Op: rbac.Metadata, Data: data}, err
}

// metadata compiles a matcher of dynamic metadata.
func (c *routeCompiler) metadata(at *place, m *matcherv3.MetadataMatcher) (*rbac.DataMatcher, error) {
	if err := strict(at, m); err != nil {
		return nil, err
	}
	if m.GetFilter() == "" {
		return nil, at.in("filter").errorf("is needed")
	}
	if len(m.GetPath()) == 0 {
		return nil, at.in("path").errorf("is needed")
	}
	if m.GetValue() == nil {
		return nil, at.in("value").errorf("is needed")
	}
	out := &rbac.DataMatcher{Filter: m.GetFilter(), Invert: m.GetInvert()}
	for i, p := range m.GetPath() {
		if p.GetKey() == "" {
			return nil, at.item("path", i).errorf("has no key")
		}
		out.Keys = append(out.Keys, p.GetKey())
	}
	var err error
	out.Value, err = c.value(at.in("value"), m.GetValue(), 0)
	return out, err
}

func (c *routeCompiler) value(at *place, m *matcherv3.ValueMatcher, depth int) (out rbac.Value, err error) {
	if depth > maxRuleDepth {
		return out, at.errorf("is nested more than %d deep", maxRuleDepth)
	}
	if err := strict(at, m); err != nil {
		return out, err
	}
	switch v := m.GetMatchPattern().(type) {
	case *matcherv3.ValueMatcher_NullMatch_:
		return rbac.Value{Op: rbac.ValueNull}, nil
	case *matcherv3.ValueMatcher_DoubleMatch:
		return doubleValue(at.in("double_match"), v.DoubleMatch)
	case *matcherv3.ValueMatcher_StringMatch:
		out.Op = rbac.ValueText
		if err := strict(at.in("string_match"), v.StringMatch); err != nil {
			return out, err
		}
		out.Text, err = c.stringMatcher(at.in("string_match"), v.StringMatch)
		return out, err
	case *matcherv3.ValueMatcher_BoolMatch:
		return rbac.Value{Op: rbac.ValueBool, Bool: v.BoolMatch}, nil
	case *matcherv3.ValueMatcher_PresentMatch:
		return rbac.Value{Op: rbac.ValuePresent, Bool: v.PresentMatch}, nil
	case *matcherv3.ValueMatcher_ListMatch:
		if err := strict(at.in("list_match"), v.ListMatch); err != nil {
			return out, err
		}
		if v.ListMatch.GetOneOf() == nil {
			return out, at.in("list_match").errorf("needs one_of")
		}
		one, err := c.value(at.in("list_match").in("one_of"), v.ListMatch.GetOneOf(), depth+1)
		return rbac.Value{Op: rbac.ValueOneOf, Values: []rbac.Value{one}}, err
	case *matcherv3.ValueMatcher_OrMatch:
		if len(v.OrMatch.GetValueMatchers()) < 2 {
			return out, at.in("or_match").errorf("needs two value_matchers or more")
		}
		out.Op = rbac.ValueOr
		for i, or := range v.OrMatch.GetValueMatchers() {
			one, err := c.value(at.in("or_match").item("value_matchers", i), or, depth+1)
			if err != nil {
				return out, err
			}
			out.Values = append(out.Values, one)
		}
		return out, nil
	}
	return out, at.errorf("has no pattern that this build knows")
}

func doubleValue(at *place, m *matcherv3.DoubleMatcher) (out rbac.Value, err error) {
	switch v := m.GetMatchPattern().(type) {
	case *matcherv3.DoubleMatcher_Exact:
		return rbac.Value{Op: rbac.ValueNumber, From: v.Exact}, nil
	case *matcherv3.DoubleMatcher_Range:
		return rbac.Value{Op: rbac.ValueNumber, Range: true, From: v.Range.GetStart(), To: v.Range.GetEnd()}, nil
	}
	return out, at.errorf("needs range or exact")
}
