// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 istiod and its users still set deprecated fields

package config

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"pillion/proxy/filter"
	"pillion/proxy/match"
	"pillion/proxy/router"
)

var matchFields = fieldSet("prefix", "path", "safe_regex", "path_separated_prefix", "case_sensitive", "runtime_fraction",
	"headers", "query_parameters", "grpc")

func (c *routeCompiler) criteria(at *place, m *routev3.RouteMatch) (out router.Criteria, err error) {
	if err := c.only(at, m, matchFields, nil); err != nil {
		return out, err
	}
	if out.Path, err = c.path(at, m); err != nil {
		return out, err
	}
	for i, h := range m.GetHeaders() {
		hm, err := c.header(at.item("headers", i), h)
		if err != nil {
			return out, err
		}
		out.Headers = append(out.Headers, hm)
	}
	for i, q := range m.GetQueryParameters() {
		qm, err := c.query(at.item("query_parameters", i), q)
		if err != nil {
			return out, err
		}
		out.Queries = append(out.Queries, qm)
	}
	out.GRPC = m.GetGrpc() != nil
	out.Fraction = fraction(m.GetRuntimeFraction())
	return out, nil
}

func (c *routeCompiler) path(at *place, m *routev3.RouteMatch) (p match.Path, err error) {
	fold := !unlessFalse(m.GetCaseSensitive())
	switch s := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		return match.NewPath(match.PathPrefix, s.Prefix, fold), nil
	case *routev3.RouteMatch_Path:
		return match.NewPath(match.PathExact, s.Path, fold), nil
	case *routev3.RouteMatch_PathSeparatedPrefix:
		if v := s.PathSeparatedPrefix; len(v) < 2 || strings.ContainsAny(v, "?#") || strings.HasSuffix(v, "/") {
			return p, at.in("path_separated_prefix").errorf("%q must not be \"/\", end with '/', or hold '?' or '#'", v)
		}
		return match.NewPath(match.PathSegments, s.PathSeparatedPrefix, fold), nil
	case *routev3.RouteMatch_SafeRegex:
		re, err := c.regex(at.in("safe_regex"), s.SafeRegex)
		if err != nil {
			return p, err
		}
		return match.NewPathPattern(re), nil
	}
	return p, at.errorf("it needs one of prefix, path, path_separated_prefix and safe_regex")
}

func (c *routeCompiler) header(at *place, h *routev3.HeaderMatcher) (out filter.HeaderMatcher, err error) {
	name := h.GetName()
	if !router.ValidHeaderName(strings.TrimPrefix(name, ":")) {
		return out, at.in("name").errorf("%q is not a header name", name)
	}
	name = c.text(name)
	opt := match.HeaderOption{Invert: h.GetInvertMatch(), MissingAsEmpty: h.GetTreatMissingHeaderAsEmpty()}
	var m match.Header
	switch s := h.GetHeaderMatchSpecifier().(type) {
	case nil:
		m = match.NewHeaderPresent(name, true, opt)
	case *routev3.HeaderMatcher_PresentMatch:
		m = match.NewHeaderPresent(name, s.PresentMatch, opt)
	case *routev3.HeaderMatcher_RangeMatch:
		m = match.NewHeaderRange(name, s.RangeMatch.GetStart(), s.RangeMatch.GetEnd(), opt)
	default:
		v, err := c.headerValue(at, h)
		if err != nil {
			return out, err
		}
		m = match.NewHeaderString(name, v, opt)
	}
	return filter.NewHeaderMatcher(m), nil
}

// headerValue compiles the value of a header matcher, in the old forms too.
func (c *routeCompiler) headerValue(at *place, h *routev3.HeaderMatcher) (match.String, error) {
	switch s := h.GetHeaderMatchSpecifier().(type) {
	case *routev3.HeaderMatcher_StringMatch:
		return c.stringMatcher(at.in("string_match"), s.StringMatch)
	case *routev3.HeaderMatcher_ExactMatch:
		return match.NewString(match.Exact, s.ExactMatch, false), nil
	case *routev3.HeaderMatcher_PrefixMatch:
		return match.NewString(match.Prefix, s.PrefixMatch, false), nil
	case *routev3.HeaderMatcher_SuffixMatch:
		return match.NewString(match.Suffix, s.SuffixMatch, false), nil
	case *routev3.HeaderMatcher_ContainsMatch:
		return match.NewString(match.Contains, s.ContainsMatch, false), nil
	case *routev3.HeaderMatcher_SafeRegexMatch:
		re, err := c.regex(at.in("safe_regex_match"), s.SafeRegexMatch)
		return match.NewPattern(re), err
	}
	return match.String{}, at.errorf("this kind of match is not supported")
}

func (c *routeCompiler) query(at *place, q *routev3.QueryParameterMatcher) (out match.Query, err error) {
	if q.GetName() == "" {
		return out, at.in("name").errorf("is needed")
	}
	name := c.text(q.GetName())
	switch s := q.GetQueryParameterMatchSpecifier().(type) {
	case nil:
		return match.NewQueryPresent(name, true), nil
	case *routev3.QueryParameterMatcher_PresentMatch:
		return match.NewQueryPresent(name, s.PresentMatch), nil
	case *routev3.QueryParameterMatcher_StringMatch:
		v, err := c.stringMatcher(at.in("string_match"), s.StringMatch)
		return match.NewQueryString(name, v), err
	}
	return out, at.errorf("this kind of match is not supported")
}

func (c *routeCompiler) stringMatcher(at *place, m *matcherv3.StringMatcher) (match.String, error) {
	kind, value := match.Exact, ""
	switch s := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return match.NewString(match.Exact, s.Exact, m.GetIgnoreCase()), nil
	case *matcherv3.StringMatcher_Prefix:
		kind, value = match.Prefix, s.Prefix
	case *matcherv3.StringMatcher_Suffix:
		kind, value = match.Suffix, s.Suffix
	case *matcherv3.StringMatcher_Contains:
		kind, value = match.Contains, s.Contains
	case *matcherv3.StringMatcher_SafeRegex:
		if m.GetIgnoreCase() {
			return match.String{}, at.in("ignore_case").errorf("has no effect on safe_regex: begin the expression with (?i)")
		}
		re, err := c.regex(at.in("safe_regex"), s.SafeRegex)
		return match.NewPattern(re), err
	default:
		return match.String{}, at.errorf("it needs one of exact, prefix, suffix, contains and safe_regex")
	}
	if value == "" {
		return match.String{}, at.in(kind.String()).errorf("must not be empty: it would match everything")
	}
	return match.NewString(kind, value, m.GetIgnoreCase()), nil
}

// compileString compiles a string matcher outside of a route configuration.
// The error names the field below m.
func compileString(m *matcherv3.StringMatcher) (match.String, error) {
	c := &routeCompiler{regexes: map[string]*match.Regex{}}
	return c.stringMatcher(&place{name: "matcher"}, m)
}

func (c *routeCompiler) regex(at *place, m *matcherv3.RegexMatcher) (*match.Regex, error) {
	src := m.GetRegex()
	if re := c.regexes[src]; re != nil {
		return re, nil
	}
	if src == "" {
		return nil, at.in("regex").errorf("is needed")
	}
	re, err := match.NewRegex(src)
	if err != nil {
		return nil, at.in("regex").errorf("%w", err)
	}
	c.regexes[src] = re
	return re, nil
}

// rewrite compiles a pattern and its substitution. What Envoy accepts without
// a word though it can't be meant is warned of, and then done as Envoy does.
func (c *routeCompiler) rewrite(at *place, m *matcherv3.RegexMatchAndSubstitute) (*match.Rewrite, error) {
	if m.GetPattern().GetRegex() == "" {
		return nil, at.in("pattern").in("regex").errorf("is needed")
	}
	if !targetText(m.GetSubstitution()) {
		return nil, at.in("substitution").errorf("%q holds a space or a control character", m.GetSubstitution())
	}
	rw, note, err := match.NewRewrite(m.GetPattern().GetRegex(), m.GetSubstitution())
	if err != nil {
		return nil, at.in("pattern").in("regex").errorf("%w", err)
	}
	if note != "" {
		c.warn(at, note)
	}
	return rw, nil
}

// targetText reports whether s may become part of a request target or an
// authority: anything that could end the request line or a field may not.
func targetText(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// fraction compiles a share of requests. There is no runtime layer, so that
// the default always counts, as in an Envoy whose key isn't set.
func fraction(f *corev3.RuntimeFractionalPercent) match.Fraction {
	if f == nil {
		return match.Fraction{}
	}
	return fractionOf(f.GetDefaultValue())
}

func fractionOf(p *typev3.FractionalPercent) match.Fraction {
	return match.Fraction{Numerator: p.GetNumerator(), Denominator: match.Per(int32(p.GetDenominator()))}
}
