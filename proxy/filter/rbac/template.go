// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"fmt"
	"regexp"
	"strings"

	"pillion/proxy/match"
)

// Shape is a template of paths (Envoy's uri_template). Immutable.
type Shape struct {
	text string
	re   *match.Regex
}

// What * and ** stand for in Envoy (source/extensions/path/uri_template_lib):
// unreserved characters, sub-delimiters and those of encodings; ** has '/' too
// and may be nothing.
const (
	oneSegment   = `[a-zA-Z0-9\-._~%!$&'()+,;:@=*]+`
	manySegments = `[a-zA-Z0-9\-._~%!$&'()+,;:@/=*]*`
	maxVariables = 5
)

var (
	literalPart  = regexp.MustCompile(`^[a-zA-Z0-9\-._~%!$&'()+,;:@=]+$`)
	variableName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]{0,15}$`)
)

// NewShape compiles a template. What Envoy takes a literal with a '*' in it
// for depends on where it stands, so such a one is refused.
func NewShape(text string) (*Shape, error) {
	if len(text) == 0 || len(text) > 256 || text[0] != '/' {
		return nil, fmt.Errorf("%q must begin with '/' and have at most 256 characters", text)
	}
	c := shapeCompiler{}
	var out strings.Builder
	for rest := text; rest != ""; {
		n, re, err := c.part(rest)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
		out.WriteString(re)
		rest = rest[n:]
	}
	re, err := match.NewRegex(out.String())
	if err != nil {
		return nil, err
	}
	return &Shape{text: text, re: re}, nil
}

// shapeCompiler is what the parts of a template have to agree on.
type shapeCompiler struct {
	names []string
	many  bool // there was a **
}

// part compiles the first part of a template.
func (c *shapeCompiler) part(rest string) (n int, re string, err error) {
	switch {
	case strings.HasPrefix(rest, "//"):
		return 0, "", fmt.Errorf("has an empty segment")
	case rest[0] == '/':
		return 1, "/", nil
	case rest[0] == '{':
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			return 0, "", fmt.Errorf("a variable lacks its '}'")
		}
		re, err = c.variable(rest[1:end])
		return end + 1, re, err
	}
	end := strings.IndexAny(rest, "/{")
	if end < 0 {
		end = len(rest)
	}
	re, err = c.segment(rest[:end])
	return end, re, err
}

// segment compiles *, ** or a literal, or one of the two before a literal.
func (c *shapeCompiler) segment(s string) (string, error) {
	re, lit := "", s
	switch {
	case c.many && strings.HasPrefix(s, "*"):
		return "", fmt.Errorf("** must be the last operator")
	case strings.HasPrefix(s, "**"):
		re, lit, c.many = manySegments, s[2:], true
	case strings.HasPrefix(s, "*"):
		re, lit = oneSegment, s[1:]
	}
	if lit != "" && !literalPart.MatchString(lit) {
		return "", fmt.Errorf("%q is neither *, ** nor text that may stand in a path", s)
	}
	return re + regexp.QuoteMeta(lit), nil
}

// variable compiles what stands between braces: name or name=segments.
func (c *shapeCompiler) variable(s string) (string, error) {
	name, segments, given := strings.Cut(s, "=")
	if !variableName.MatchString(name) {
		return "", fmt.Errorf("%q is no name of a variable", name)
	}
	for _, n := range c.names {
		if n == name {
			return "", fmt.Errorf("variable %q stands there twice", name)
		}
	}
	if c.names = append(c.names, name); len(c.names) > maxVariables {
		return "", fmt.Errorf("has more than %d variables", maxVariables)
	}
	if !given {
		segments = "*"
	}
	var parts []string
	for p := range strings.SplitSeq(segments, "/") {
		if p == "" {
			return "", fmt.Errorf("variable %q has an empty segment", name)
		}
		re, err := c.segment(p)
		if err != nil {
			return "", err
		}
		parts = append(parts, re)
	}
	return "(?:" + strings.Join(parts, "/") + ")", nil
}

// Match reports whether a path, without query and fragment, has the shape.
func (s *Shape) Match(path []byte) bool { return s.re.Match(path) }

// String describes the shape.
func (s *Shape) String() string { return fmt.Sprintf("template %q", s.text) }
