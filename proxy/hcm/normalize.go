// SPDX-License-Identifier: Apache-2.0

package hcm

import "bytes"

// PathOptions says how request paths are made canonical before they are
// routed and judged (envoy.extensions…http_connection_manager.v3, fields
// normalize_path, merge_slashes and path_with_escaped_slashes_action). What was
// judged is what is forwarded.
type PathOptions struct {
	// EscapedSlashes is what is done about %2F and %5C, before all else.
	EscapedSlashes EscapedSlashes
	// Normalize removes dot segments and decodes unreserved characters
	// (RFC 3986 section 6), and turns backslashes into slashes.
	Normalize bool
	// MergeSlashes makes one slash of several.
	MergeSlashes bool
}

// EscapedSlashes is what becomes of slashes and backslashes that are encoded.
type EscapedSlashes uint8

// The actions.
const (
	KeepEscapedSlashes EscapedSlashes = iota
	RejectEscapedSlashes
	RedirectEscapedSlashes // the client is sent to the canonical path
	DecodeEscapedSlashes
)

// pathResult is what came of a path.
type pathResult uint8

const (
	pathGood         pathResult = iota
	pathBad                     // it has no canonical form
	pathEscapedSlash            // rejected for an encoded slash
	pathRedirect                // encoded slashes were decoded, which the client is to be told
)

// canonical returns the canonical form of target, a path with its query, made in
// room. The order is Envoy's (ConnectionManagerUtility::maybeNormalizePath):
// encoded slashes, dot segments, repeated slashes.
func (o PathOptions) canonical(room, target []byte) ([]byte, pathResult) {
	result := pathGood
	if o.EscapedSlashes != KeepEscapedSlashes {
		decoded, changed := decodeSlashes(room, target)
		if changed {
			switch o.EscapedSlashes {
			case RejectEscapedSlashes:
				return nil, pathEscapedSlash
			case RedirectEscapedSlashes:
				result = pathRedirect
			}
			target, room = decoded, decoded[len(decoded):]
		}
	}
	out, ok := o.normalizePath(room, target)
	if !ok {
		return nil, pathBad
	}
	return out, result
}

// decodeSlashes appends target with encoded slashes and backslashes of the path
// decoded, and reports whether there were any.
func decodeSlashes(dst, target []byte) (out []byte, changed bool) {
	for i := 0; i < len(target); i++ {
		c := target[i]
		if c == '?' {
			return append(dst, target[i:]...), changed
		}
		if c == '%' && i+2 < len(target) {
			if v, ok := unhex(target[i+1], target[i+2]); ok && (v == '/' || v == '\\') {
				c, changed = v, true
				i += 2
			}
		}
		dst = append(dst, c)
	}
	return dst, changed
}

// needsWork reports whether a path holds anything that the options change.
// It is the whole cost for most requests.
func (o PathOptions) needsWork(path []byte) bool {
	prev := byte(0)
	for _, c := range path {
		switch c {
		case '?':
			return false
		case '%':
			if o.Normalize || o.EscapedSlashes != KeepEscapedSlashes {
				return true
			}
		case '\\', '"', '<', '>', '^', '`', '{', '|', '}':
			if o.Normalize {
				return true
			}
		case '.':
			if o.Normalize && prev == '/' {
				return true
			}
		case '/':
			if o.MergeSlashes && prev == '/' {
				return true
			}
		}
		prev = c
	}
	return false
}

// normalizePath appends the canonical form of target, a path with its query,
// to dst. It reports false for a path that has none, such as one with an
// encoded NUL.
func (o PathOptions) normalizePath(dst, target []byte) ([]byte, bool) {
	path, query := target, []byte(nil)
	if i := bytes.IndexByte(target, '?'); i >= 0 {
		path, query = target[:i], target[i:]
	}
	start := len(dst)
	if o.Normalize {
		var ok bool
		if dst, ok = decodeUnreserved(dst, path); !ok {
			return dst, false
		}
		dst = dst[:start+removeDotSegments(dst[start:])]
	} else {
		dst = append(dst, path...)
	}
	if o.MergeSlashes {
		dst = dst[:start+mergeSlashes(dst[start:])]
	}
	return append(dst, query...), true
}

// decodeUnreserved appends path with backslashes as slashes and with the
// percent-encodings of unreserved characters decoded; others keep their form.
// What no path may hold as it is (RFC 3986 section 3.3) is encoded, but for
// brackets.
func decodeUnreserved(dst, path []byte) ([]byte, bool) {
	const hex = "0123456789ABCDEF"
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == '\\':
			c = '/'
		case c == '"' || c == '<' || c == '>' || c == '^' || c == '`' || '{' <= c && c <= '}':
			dst = append(dst, '%', hex[c>>4])
			c = hex[c&15]
		case c == '%' && i+2 < len(path):
			v, ok := unhex(path[i+1], path[i+2])
			if ok && v == 0 {
				return dst, false
			}
			if ok && unreserved(v) {
				c = v
				i += 2
			}
		}
		dst = append(dst, c)
	}
	return dst, true
}

func unhex(hi, lo byte) (byte, bool) {
	h, ok1 := hexDigit(hi)
	l, ok2 := hexDigit(lo)
	return h<<4 | l, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// unreserved is RFC 3986 section 2.3.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// removeDotSegments resolves "." and ".." in place (RFC 3986 section 5.2.4)
// and returns the new length. A segment's path parameters (";…") don't hide
// what it is, as in Envoy since 1.39.1.
func removeDotSegments(p []byte) int {
	w := 0
	for r := 0; r < len(p); {
		end := r + 1
		for end < len(p) && p[end] != '/' {
			end++
		}
		last := end == len(p)
		switch kind := dotKind(p[r:end]); kind {
		case 1, 2:
			if kind == 2 {
				for w > 0 {
					w--
					if p[w] == '/' {
						break
					}
				}
			}
			if last {
				p[w] = '/'
				w++
			}
		default:
			w += copy(p[w:], p[r:end])
		}
		r = end
	}
	if w == 0 && len(p) > 0 {
		p[0] = '/'
		w = 1
	}
	return w
}

// dotKind returns 1 for a segment "/.", 2 for "/..", else 0.
func dotKind(seg []byte) int {
	if len(seg) < 2 || seg[0] != '/' || seg[1] != '.' {
		return 0
	}
	seg = seg[1:]
	if i := bytes.IndexByte(seg, ';'); i >= 0 {
		seg = seg[:i]
	}
	switch len(seg) {
	case 1:
		return 1
	case 2:
		if seg[1] == '.' {
			return 2
		}
	}
	return 0
}

// mergeSlashes makes one slash of several in place and returns the new length.
// A path of nothing but slashes keeps two of them, as with Envoy.
func mergeSlashes(p []byte) int {
	if len(p) > 1 && len(bytes.Trim(p, "/")) == 0 {
		return 2
	}
	w := 0
	for i, c := range p {
		if c == '/' && i > 0 && p[w-1] == '/' {
			continue
		}
		p[w] = c
		w++
	}
	return w
}
