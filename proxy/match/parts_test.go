// SPDX-License-Identifier: Apache-2.0

package match_test

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pillion/proxy/match"
)

// slowRegex is a full match without the prefilter, nil if it can't be had.
func slowRegex(src string) *regexp.Regexp {
	re, err := regexp.Compile(`\A(?:` + src + `)\z`)
	if err != nil {
		return nil
	}
	return re
}

// verdict runs a header test over lines, nil for a missing field.
func verdict(h match.Header, lines []string) bool {
	matched := false
	for _, l := range lines {
		matched = matched || h.Line([]byte(l))
	}
	return h.Verdict(lines != nil, matched)
}

// TestHeader holds what a running Envoy 1.40 did with the same matchers and
// requests. The lines of an input are separated by '|'; "none" is a missing
// field.
func TestHeader(t *testing.T) {
	inv, empty := match.HeaderOption{Invert: true}, match.HeaderOption{MissingAsEmpty: true}
	both := match.HeaderOption{Invert: true, MissingAsEmpty: true}
	var plain match.HeaderOption
	a := match.NewString(match.Exact, "a", false)
	anything := pattern(t, ".*")
	for _, c := range []struct {
		h       match.Header
		yes, no string
	}{
		{match.NewHeaderPresent("x", true, plain), "a A - a|b 05", "none"},
		{match.NewHeaderPresent("x", true, inv), "none", "a - a|b"},
		{match.NewHeaderPresent("x", false, plain), "none", "a - a|b"},
		{match.NewHeaderPresent("x", false, inv), "a - a|b", "none"},
		{match.NewHeaderPresent("x", true, empty), "none a -", ""},
		{match.NewHeaderPresent("x", false, empty), "", "none a -"},

		{match.NewHeaderString("x", a, plain), "a a|b b|a", "none A b - a,b xay"},
		{match.NewHeaderString("x", a, inv), "A b - a,b xay", "none a a|b"},
		{match.NewHeaderString("x", a, both), "none A b - a,b", "a a|b"},
		{match.NewHeaderString("x", match.NewString(match.Exact, "", false), empty), "none -", "a"},
		{match.NewHeaderString("x", match.NewString(match.Exact, "", false), plain), "-", "none a"},
		{match.NewHeaderString("x", match.NewString(match.Exact, "a,b", false), plain), "a,b", "a|b"},
		{match.NewHeaderString("x", match.NewString(match.Suffix, "b", false), plain), "b a|b a,b", "a xay"},
		{match.NewHeaderString("x", anything, empty), "none a - a|b", ""},
		{match.NewHeaderString("x", anything, both), "", "none a - a|b"},

		{match.NewHeaderRange("x", 5, 10, plain), "5 5|5 +5 05 9 4|6", "none a - -5 5x 10 4.5"},
		{match.NewHeaderRange("x", -5, 6, plain), "5 -5 +5 05 -0", "none -6 6"},
		{match.NewHeaderRange("x", 5, 10, inv), "a - -5 5x 10", "none 5 5|5 +5"},
		{match.NewHeaderRange("x", 5, 10, both), "none a 10", "5"},
		{match.NewHeaderRange("x", math.MinInt64, math.MaxInt64, plain), "-9223372036854775808 9223372036854775806",
			"9223372036854775807 9223372036854775808 -9223372036854775809 99999999999999999999 + - 0x1"},
	} {
		check := func(in string, want bool) {
			t.Helper()
			var lines []string
			switch in {
			case "none":
			case "-":
				lines = []string{""}
			default:
				lines = strings.Split(in, "|")
			}
			if got := verdict(c.h, lines); got != want {
				t.Errorf("%s of %s: %t, want %t", c.h.String(), in, got, want)
			}
		}
		for _, in := range strings.Fields(c.yes) {
			check(in, true)
		}
		for _, in := range strings.Fields(c.no) {
			check(in, false)
		}
	}
}

func TestHeaderPrints(t *testing.T) {
	h := match.NewHeaderString("end-user", match.NewString(match.Exact, "jason", false), match.HeaderOption{Invert: true})
	if got, want := h.String(), `header "end-user" not exact "jason"`; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
	h = match.NewHeaderRange("n", -1, 5, match.HeaderOption{MissingAsEmpty: true})
	if got, want := h.String(), `header "n" in [-1, 5) (missing is empty)`; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
}

// TestPath holds what a running Envoy 1.40 did.
func TestPath(t *testing.T) {
	re, err := match.NewRegex("/fo+")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		p       match.Path
		yes, no string
	}{
		{match.NewPath(match.PathPrefix, "/foo", false), "/foo /foo/ /foobar /foo?x /foo/bar?x /foo;a=b /foo%2f /foo/../x", "/FOO/x /fo //foo /x?/foo"},
		{match.NewPath(match.PathPrefix, "/Foo", true), "/foo/ /FOO/x", "/fo //foo"},
		{match.NewPath(match.PathExact, "/foo", false), "/foo /foo?x", "/foo/ /foobar /FOO /foo;a=b /foo%2f /fo"},
		{match.NewPath(match.PathExact, "/foo", true), "/FOO /Foo?x", "/foo/"},
		{match.NewPath(match.PathSegments, "/foo", false), "/foo /foo/ /foo?x /foo/bar?x /foo/../x", "/foobar /FOO/x /foo;a=b /foo%2f /fo"},
		{match.NewPath(match.PathSegments, "/foo", true), "/FOO/x /foo", "/FOOx"},
		{match.NewPathPattern(re), "/foo /fo /foo?x", "/foo/ /foobar /FOO /foo;a /foo\xff"},
		{match.NewPath(match.PathPrefix, "/foo?x", false), "", "/foo /foo?x"},
	} {
		for _, in := range strings.Fields(c.yes) {
			if path, _ := match.CutQuery([]byte(in)); !c.p.Match(path) || c.p.Why(path) != "" {
				t.Errorf("%s", c.p.Why(path))
			}
		}
		for _, in := range strings.Fields(c.no) {
			if path, _ := match.CutQuery([]byte(in)); c.p.Match(path) || !strings.Contains(c.p.Why(path), c.p.String()) {
				t.Errorf("%q matches %s", in, c.p.String())
			}
		}
	}
}

func TestCutQuery(t *testing.T) {
	for in, want := range map[string][2]string{
		"/a": {"/a", ""}, "/a?": {"/a", ""}, "/a?b?c": {"/a", "b?c"}, "/a#f?b": {"/a", ""}, "/a?b#f": {"/a", "b"}, "": {"", ""}, "*": {"*", ""},
	} {
		path, query := match.CutQuery([]byte(in))
		if string(path) != want[0] || string(query) != want[1] {
			t.Errorf("CutQuery(%q) = %q, %q, want %q", in, path, query, want)
		}
	}
}

// TestQuery holds what a running Envoy 1.40 did: nothing is decoded, and the
// first parameter of a name counts.
func TestQuery(t *testing.T) {
	exact := func(v string) match.Query { return match.NewQueryString("q", match.NewString(match.Exact, v, false)) }
	for _, c := range []struct {
		q       match.Query
		yes, no string
	}{
		{match.NewQueryPresent("q", true), "q q= q=a q=a&q=b x=1&q=a q=a;x=y &&q=a =q&q=a q=%61", "- %71=a a?q=a Q=a qq=1 x=q"},
		{match.NewQueryPresent("q", false), "- %71=a Q=a", "q q=a x=1&q"},
		{exact("a"), "q=a q=a&q=b x=1&q=a &&q=a =q&q=a", "- q q= q=A q=b&q=a q=a%20b q=a+b q=%61 q=a=b"},
		{exact("a%20b"), "q=a%20b", "q=a+b"},
		{exact(""), "q q= q&q=a", "- q=a"},
		{match.NewQueryString("q", pattern(t, "a.*")), "q=a q=a%20b q=a;x=y q=a=b", "q q=b&q=a q=%61"},
		{match.NewQueryPresent("", true), "=x", "- &&"},
	} {
		for _, in := range strings.Fields(c.yes) {
			if in := []byte(strings.TrimPrefix(in, "-")); !c.q.Match(in) || c.q.Why(in) != "" {
				t.Errorf("%q: %s", in, c.q.Why(in))
			}
		}
		for _, in := range strings.Fields(c.no) {
			if in := []byte(strings.TrimPrefix(in, "-")); c.q.Match(in) || !strings.Contains(c.q.Why(in), c.q.String()) {
				t.Errorf("%q matches %s", in, c.q.String())
			}
		}
	}
}

func FuzzQueryValue(f *testing.F) {
	for _, s := range []string{"", "q", "q=", "a=1&q=2&q=3", "&&", "=&q", "q=a=b"} {
		f.Add(s, "q")
	}
	f.Fuzz(func(t *testing.T, query, name string) {
		got, ok := match.QueryValue([]byte(query), name)
		for part := range strings.SplitSeq(query, "&") {
			n, v, _ := strings.Cut(part, "=")
			if part == "" || n != name {
				continue
			}
			// Parameters are cut at their first '=', so names hold none.
			if !ok || string(got) != v {
				t.Fatalf("%q of %q = %q, %t, want %q", name, query, got, ok, v)
			}
			return
		}
		if ok && !strings.Contains(name, "=") && !strings.Contains(name, "&") {
			t.Fatalf("%q of %q = %q, want none", name, query, got)
		}
	})
}

// FuzzRange compares the number parser with strconv's.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"0", "-0", "+7", "", "-", "9223372036854775807", "-9223372036854775808", "9223372036854775808", "1_0", "00012"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := strconv.ParseInt(s, 10, 64)
		h := match.NewHeaderRange("x", n, n+1, match.HeaderOption{})
		if n == math.MaxInt64 {
			return // the range's end can't be said
		}
		if got := h.Line([]byte(s)); got != (err == nil) {
			t.Errorf("%q: %t, strconv says %v", s, got, err)
		}
	})
}
