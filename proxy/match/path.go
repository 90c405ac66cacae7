// SPDX-License-Identifier: Apache-2.0

package match

import (
	"bytes"
	"strconv"
)

// PathKind is how a Path compares.
type PathKind uint8

// The kinds.
const (
	// PathPrefix asks for a prefix, which may end inside a segment.
	PathPrefix PathKind = iota
	// PathExact asks for the whole path.
	PathExact
	// PathSegments asks for a prefix that ends where a segment does.
	PathSegments
	// PathPattern asks that a regular expression matches the whole path.
	PathPattern
)

// Path is a predicate over the path of a request target without its query.
// Immutable.
type Path struct {
	kind  PathKind
	fold  bool
	value []byte
	re    *Regex
}

// NewPath makes a path matcher of any kind but PathPattern. ignoreCase folds
// ASCII letters.
func NewPath(kind PathKind, value string, ignoreCase bool) Path {
	v := []byte(value)
	if ignoreCase {
		lowerInPlace(v)
	}
	return Path{kind: kind, fold: ignoreCase, value: v}
}

// NewPathPattern makes a path matcher of a regular expression. Case is the
// expression's own matter: Envoy ignores case_sensitive here.
func NewPathPattern(re *Regex) Path { return Path{kind: PathPattern, re: re} }

// CutQuery splits a request target at the first '?' or '#'; query has neither
// the '?' nor a fragment.
func CutQuery(target []byte) (path, query []byte) {
	i := bytes.IndexByte(target, '?')
	if j := bytes.IndexByte(target, '#'); j >= 0 {
		if i < 0 || j < i {
			return target[:j], nil
		}
		target = target[:j]
	}
	if i < 0 {
		return target, nil
	}
	return target[:i], target[i+1:]
}

// Match reports whether path, which has no query, satisfies the predicate.
func (p *Path) Match(path []byte) bool {
	n := len(p.value)
	switch p.kind {
	case PathPrefix:
		return len(path) >= n && p.equal(path[:n])
	case PathExact:
		return len(path) == n && p.equal(path)
	case PathSegments:
		return len(path) >= n && p.equal(path[:n]) && (len(path) == n || path[n] == '/')
	case PathPattern:
		return p.re.Match(path)
	}
	return false
}

// Literal returns the bytes that each path that satisfies the predicate begins
// with; false if there are none to tell: for a pattern, or where case is ignored.
func (p *Path) Literal() (beginning []byte, ok bool) {
	return p.value, p.kind != PathPattern && !p.fold
}

func (p *Path) equal(b []byte) bool {
	if p.fold {
		return equalFold(b, p.value)
	}
	return string(b) == string(p.value)
}

// Matched returns how many leading bytes of a path that matches a prefix
// rewrite replaces: the configured prefix, or all of it under a pattern.
func (p *Path) Matched(path []byte) int {
	if p.kind == PathPattern {
		return len(path)
	}
	return min(len(p.value), len(path))
}

// String describes the predicate.
func (p *Path) String() string {
	var s string
	switch p.kind {
	case PathPrefix:
		s = "path prefix "
	case PathExact:
		s = "path "
	case PathSegments:
		s = "path segments "
	case PathPattern:
		return "path " + p.re.String()
	}
	s += strconv.Quote(string(p.value))
	if p.fold {
		s += " (any case)"
	}
	return s
}

// Why tells why path fails the predicate; it is empty when it satisfies it.
func (p *Path) Why(path []byte) string {
	if p.Match(path) {
		return ""
	}
	return clip(path) + " fails " + p.String()
}
