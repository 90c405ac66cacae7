// SPDX-License-Identifier: Apache-2.0

package match

import (
	"bytes"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"sync"
	"unicode/utf8"
)

// MaxProgram bounds the number of instructions a regular expression may
// compile to. Go's engine is linear in the input, but each input byte may
// cost a visit to every instruction, so a huge pattern would let clients
// spend our time. istiod lets a VirtualService have at most 1,024 characters
// of pattern, far below this.
const MaxProgram = 10_000

// Regex is a regular expression in RE2 syntax that has to match the whole of
// its input, as envoy.type.matcher.v3.RegexMatcher. As with Envoy each octet, of
// the expression too, is one character, the Latin-1 one. Immutable.
type Regex struct {
	src    string
	prefix []byte // every match begins with these bytes
	whole  bool   // the prefix is the only match
	re     *regexp.Regexp
}

// NewRegex compiles a pattern. The error says what is wrong with it.
func NewRegex(src string) (*Regex, error) {
	wide := string(widen(nil, []byte(src)))
	alone, err := compile(wide)
	if err != nil {
		return nil, err
	}
	// Leftmost-first search between two anchors finds a match of the whole
	// input exactly when there is one. The group keeps alternation inside.
	anchored, err := regexp.Compile(`\A(?:` + wide + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("regular expression %s: %w", strconv.Quote(src), err)
	}
	lit, whole := alone.LiteralPrefix()
	prefix, all := narrow(lit)
	return &Regex{src: src, prefix: prefix, whole: whole && all, re: anchored}, nil
}

// widen appends b with each octet as the character of that number.
func widen(dst, b []byte) []byte {
	for _, c := range b {
		dst = utf8.AppendRune(dst, rune(c))
	}
	return dst
}

// narrow undoes widen as far as it goes, and reports whether that was all. A
// character that is no octet makes an expression match nothing.
func narrow(s string) (b []byte, all bool) {
	for _, r := range s {
		if r > 0xff {
			return b, false
		}
		b = append(b, byte(r))
	}
	return b, true
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// wideTexts are inputs that had to be widened.
var wideTexts = sync.Pool{New: func() any { return new([]byte) }}

// compile checks a pattern's size before it compiles it.
func compile(src string) (*regexp.Regexp, error) {
	tree, err := syntax.Parse(src, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("regular expression %s: %w", strconv.Quote(src), err)
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, fmt.Errorf("regular expression %s: %w", strconv.Quote(src), err)
	}
	if n := len(prog.Inst); n > MaxProgram {
		return nil, fmt.Errorf("regular expression of %d bytes compiles to %d instructions, more than the %d allowed: make it shorter or split it",
			len(src), n, MaxProgram)
	}
	return regexp.Compile(src)
}

// Match reports whether the expression matches all of b.
func (r *Regex) Match(b []byte) bool {
	if !bytes.HasPrefix(b, r.prefix) {
		return false
	}
	if r.whole {
		return len(b) == len(r.prefix)
	}
	if isASCII(b) {
		return r.re.Match(b)
	}
	text := wideTexts.Get().(*[]byte)
	*text = widen((*text)[:0], b)
	ok := r.re.Match(*text)
	wideTexts.Put(text)
	return ok
}

// String describes the predicate.
func (r *Regex) String() string { return "regex " + strconv.Quote(r.src) }

// Rewrite replaces each match of a pattern, which need not span the input, as
// envoy.type.matcher.v3.RegexMatchAndSubstitute. Immutable.
type Rewrite struct {
	re    *regexp.Regexp
	src   string
	sub   string
	parts []rewritePart
	inert bool // the substitution names a group that doesn't exist
}

// rewritePart is literal text followed by a group, -1 for none.
type rewritePart struct {
	text  string
	group int
}

// NewRewrite compiles a pattern and a substitution in RE2's form: \0 is the
// match, \1 to \9 its groups, \\ a backslash. note is not empty when the
// substitution is malformed in a way that Envoy accepts in silence: a
// reference to a group that does not exist disables the rewrite, and an
// unknown escape cuts the substitution short.
func NewRewrite(pattern, substitution string) (rw *Rewrite, note string, err error) {
	re, err := compile(pattern)
	if err != nil {
		return nil, "", err
	}
	rw = &Rewrite{re: re, src: pattern, sub: substitution}
	text := make([]byte, 0, len(substitution))
	for i := 0; i < len(substitution); i++ {
		c := substitution[i]
		if c != '\\' {
			text = append(text, c)
			continue
		}
		i++
		switch {
		case i < len(substitution) && substitution[i] == '\\':
			text = append(text, '\\')
		case i < len(substitution) && '0' <= substitution[i] && substitution[i] <= '9':
			group := int(substitution[i] - '0')
			if group > re.NumSubexp() {
				rw.inert = true
				return rw, fmt.Sprintf("substitution %q refers to group %d of a pattern with %d: nothing will be rewritten",
					substitution, group, re.NumSubexp()), nil
			}
			rw.parts = append(rw.parts, rewritePart{string(text), group})
			text = text[:0]
		default:
			rw.parts = append(rw.parts, rewritePart{string(text), -1})
			return rw, fmt.Sprintf("substitution %q ends at the unknown escape at offset %d", substitution, i-1), nil
		}
	}
	rw.parts = append(rw.parts, rewritePart{string(text), -1})
	return rw, "", nil
}

// Append appends src with every match replaced. Unlike matching it allocates:
// Go's engine returns group positions in fresh slices.
func (r *Rewrite) Append(dst, src []byte) []byte {
	if r.inert {
		return append(dst, src...)
	}
	done := 0
	for _, m := range r.re.FindAllSubmatchIndex(src, -1) {
		dst = append(dst, src[done:m[0]]...)
		for _, p := range r.parts {
			dst = append(dst, p.text...)
			if p.group >= 0 && m[2*p.group] >= 0 {
				dst = append(dst, src[m[2*p.group]:m[2*p.group+1]]...)
			}
		}
		done = m[1]
	}
	return append(dst, src[done:]...)
}

// String describes the rewrite.
func (r *Rewrite) String() string {
	return "regex " + strconv.Quote(r.src) + " to " + strconv.Quote(r.sub)
}
