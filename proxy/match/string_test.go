// SPDX-License-Identifier: Apache-2.0

package match_test

import (
	"strings"
	"testing"

	"pillion/proxy/match"
	"pillion/proxy/proxytest"
)

func pattern(t testing.TB, src string) match.String {
	t.Helper()
	re, err := match.NewRegex(src)
	if err != nil {
		t.Fatal(err)
	}
	return match.NewPattern(re)
}

func TestString(t *testing.T) {
	text := func(k match.Kind, v string, fold bool) match.String { return match.NewString(k, v, fold) }
	for _, c := range []struct {
		name   string
		m      match.String
		yes    string // inputs, separated by spaces; "-" is the empty one
		no     string
		prints string
	}{
		{"exact", text(match.Exact, "v1", false), "v1", "- V1 v1x xv1 v", `exact "v1"`},
		{"exact any case", text(match.Exact, "Va", true), "va VA vA", "- vaa v", `exact "va" (any case)`},
		{"exact empty", text(match.Exact, "", false), "-", "x", `exact ""`},
		{"prefix", text(match.Prefix, "v1", false), "v1 v1x", "- v V1 xv1", `prefix "v1"`},
		{"prefix any case", text(match.Prefix, "V", true), "v Vx", "- x", `prefix "v" (any case)`},
		{"suffix", text(match.Suffix, "v1", false), "v1 xv1", "- 1 v1x xV1", `suffix "v1"`},
		{"suffix any case", text(match.Suffix, "X", true), "x aX", "- xa", `suffix "x" (any case)`},
		{"contains", text(match.Contains, "ab", false), "ab xaby", "- a ba xABy", `contains "ab"`},
		{"contains any case", text(match.Contains, "aB", true), "AB xABy aab", "- a ba", `contains "ab" (any case)`},
		{"regex", pattern(t, "a+b?"), "a ab aaab", "- b xa abb A", `regex "a+b?"`},
		{"regex of a literal", pattern(t, "abc"), "abc", "- ab abcd ABC", `regex "abc"`},
		{"regex alternatives are whole", pattern(t, "a|bc"), "a bc", "- ac ab abc", `regex "a|bc"`},
		{"regex longest alternative counts", pattern(t, "a|ab"), "a ab", "abb", `regex "a|ab"`},
		{"regex with anchors", pattern(t, "^ab.*$"), "ab abc", "xab", `regex "^ab.*$"`},
		{"regex with flags", pattern(t, "(?i)ab"), "ab AB", "abc", `regex "(?i)ab"`},
		{"regex takes an octet for a character", pattern(t, "a.{2}"), "a\xc3\xa9 a\xff\xff abc", "a\xff aé\xff", `regex "a.{2}"`},
		{"regex with a character of two octets", pattern(t, "é+"), "é \xc3\xa9\xa9", "éé \xe9", `regex "é+"`},
		{"regex with a character that is no octet", pattern(t, `\x{100}`), "", "Ā \x01 -", `regex "\\x{100}"`},
		{"regex matches 8-bit octets", pattern(t, ".*evil.*"), "evil \xffevil\xfe", "ev\xffil", `regex ".*evil.*"`},
		{"regex of nothing", pattern(t, "x*"), "- x xx", "y", `regex "x*"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.m.String(); got != c.prints {
				t.Errorf("String() = %s, want %s", got, c.prints)
			}
			for _, in := range strings.Fields(c.yes) {
				in := []byte(strings.TrimPrefix(in, "-"))
				if !c.m.Match(in) || c.m.Why(in) != "" {
					t.Errorf("%q fails: %s", in, c.m.Why(in))
				}
			}
			for _, in := range strings.Fields(c.no) {
				in := []byte(strings.TrimPrefix(in, "-"))
				if c.m.Match(in) {
					t.Errorf("%q matches", in)
				}
				if why := c.m.Why(in); !strings.Contains(why, c.prints) {
					t.Errorf("Why(%q) = %s", in, why)
				}
			}
		})
	}
}

func TestWhyBoundsItsInput(t *testing.T) {
	m := match.NewString(match.Exact, "x", false)
	if why := m.Why([]byte(strings.Repeat("\n", 10_000))); len(why) > 300 || !strings.Contains(why, "…") {
		t.Errorf("Why is %d bytes long: %.80s", len(why), why)
	}
}

func TestRegexRefused(t *testing.T) {
	for src, want := range map[string]string{
		"a)(b":                                   "unexpected )",
		"(":                                      "missing closing )",
		`\C`:                                     "invalid escape",
		strings.Repeat("a", 10_001):              "more than the 10000 allowed",
		"((a{1,100}){1,100}){1,100}":             "invalid repeat count",
		"(" + strings.Repeat("a", 9_999) + "b)*": "more than the 10000 allowed",
	} {
		if _, err := match.NewRegex(src); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewRegex(%.30q): %v, want %q", src, err, want)
		}
	}
}

// The substitutions and their results are what Envoy 1.40 made of them.
func TestRewrite(t *testing.T) {
	for _, c := range []struct{ pattern, sub, in, want, note string }{
		{"/a(.*)", `/b\1`, "/ax", "/bx", ""},
		{"/a(.*?)/", `/b\1\0\\/`, "/ax/ay/", `/bx/ax/\/ay/`, ""},
		{"/a(.*?)/", `/b\1\0\\/`, "/none", "/none", ""},
		{"x*", "-", "/axb", "-/-a-b-", ""},
		{"^/", "", "//a", "/a", ""},
		{"^/", "", "/", "", ""},
		{"a(b)?", `[\1]`, "/a/ab", "/[]/[b]", ""},
		{"a", "$1", "/a", "/$1", ""},
		{"xxx|one", "two", "/xxx/one/yyy/one/zzz", "/two/two/yyy/two/zzz", ""},
		{"(a)", `foo\2bar`, "/zab", "/zab", "nothing will be rewritten"},
		{"a", `foo\xbar`, "/zab", "/zfoob", "unknown escape at offset 3"},
		{"a", `\`, "/a", "/", "unknown escape at offset 0"},
	} {
		rw, note, err := match.NewRewrite(c.pattern, c.sub)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(rw.Append([]byte(">"), []byte(c.in))); got != ">"+c.want {
			t.Errorf("%s of %q = %q, want %q", rw, c.in, got[1:], c.want)
		}
		if (note == "") != (c.note == "") || !strings.Contains(note, c.note) {
			t.Errorf("%s: note %q, want %q", rw, note, c.note)
		}
	}
	if _, _, err := match.NewRewrite("(", "x"); err == nil {
		t.Error("a pattern that is none is accepted")
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	in := []byte("/reviews/7/comments/outbound-traffic-of-a-service")
	for _, m := range []match.String{
		match.NewString(match.Exact, string(in), false),
		match.NewString(match.Contains, "OUTBOUND-TRAFFIC", true),
		match.NewString(match.Contains, "outbound-traffic", false),
		pattern(t, "/reviews/[0-9]+/.*"),
		pattern(t, "(a|b|/reviews/)?[^x]*service"),
	} {
		if !m.Match(in) {
			t.Errorf("%s fails", m.String())
		}
		proxytest.NoAllocs(t, m.String(), func() { m.Match(in) })
	}
}

// FuzzRegexPrefilter holds that the literal prefix never changes the verdict
// of an expression.
func FuzzRegexPrefilter(f *testing.F) {
	for _, s := range [][2]string{{"abc", "abc"}, {"abc.*", "abcd"}, {"^ab(c|d)$", "abd"}, {"(?i)ab", "AB"}, {"a|ab", "ab"},
		{"", ""}, {"ab\\b.*", "ab c"}, {"(?m)^a$", "a\n"}, {"\\Aa\\z", "a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, src, in string) {
		re, err := match.NewRegex(src)
		if err != nil {
			return
		}
		slow := slowRegex(src)
		if slow == nil {
			return
		}
		if got, want := re.Match([]byte(in)), slow.MatchString(in); got != want {
			t.Errorf("%q on %q: %t, want %t", src, in, got, want)
		}
	})
}

func BenchmarkRegex(b *testing.B) {
	m := pattern(b, "/reviews/[0-9]+/comments")
	hit, miss := []byte("/reviews/1234567/comments"), []byte("/ratings/1234567/comments")
	b.Run("hit", func(b *testing.B) {
		for b.Loop() {
			m.Match(hit)
		}
	})
	b.Run("miss by prefix", func(b *testing.B) {
		for b.Loop() {
			m.Match(miss)
		}
	})
}
