// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"bytes"
	"slices"
	"strings"

	"pillion/proxy/match"
)

// changeQuery returns a request target whose query has the parameters in set
// and none of those in remove. What set replaces stands in the place of the
// first of that name; what it adds comes last.
func changeQuery(target []byte, set []parameter, remove [][]byte) []byte {
	path, query := match.CutQuery(target)
	var list []parameter
	for _, piece := range strings.Split(string(query), "&") {
		if piece == "" {
			continue
		}
		key, value, _ := strings.Cut(piece, "=")
		list = append(list, parameter{key, value})
	}
	for _, p := range set {
		i := slices.IndexFunc(list, func(q parameter) bool { return q.key == p.key })
		if i < 0 {
			list = append(list, p)
			continue
		}
		list[i] = p
		rest := slices.DeleteFunc(list[i+1:], func(q parameter) bool { return q.key == p.key })
		list = list[:i+1+len(rest)]
	}
	for _, key := range remove {
		list = slices.DeleteFunc(list, func(q parameter) bool { return q.key == string(key) })
	}
	out := bytes.Clone(path)
	for i, p := range list {
		out = append(out, "?&"[min(i, 1)])
		out = append(append(append(out, p.key...), '='), p.value...)
	}
	return out
}

// soundQuery reports whether a text can stand in a query. With strict it has to
// be percent-encoded where it isn't unreserved (validate_mutations).
func soundQuery(s string, strict bool) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
		if strict && !unreserved(c) && c != '%' && c != '+' {
			return false
		}
	}
	return true
}

// unreserved: RFC 3986 section 2.3.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
