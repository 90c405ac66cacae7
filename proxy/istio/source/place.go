// SPDX-License-Identifier: Apache-2.0

package source

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// place is the position of a value in a document, as a chain from the value up to the
// document's root. Places are made while descending, mostly on the stack; they become
// text only when there is a problem to report. The root is a nil *place.
type place struct {
	up   *place
	step step
}

// step is one key or one index of a path.
type step struct {
	key   string
	index int // position in a list; notIndex when the step is a key
}

const notIndex = -1

// key returns the place of a mapping's value.
func (p *place) key(name string) *place {
	return &place{up: p, step: step{key: name, index: notIndex}}
}

// item returns the place of a list's element.
func (p *place) item(i int) *place {
	return &place{up: p, step: step{index: i}}
}

// steps returns the path from the root.
func (p *place) steps() []step {
	var s []step
	for ; p != nil; p = p.up {
		s = append(s, p.step)
	}
	slices.Reverse(s)
	return s
}

// String returns the path in the form of Object.Problem: spec.http[0].route[1].weight.
func (p *place) String() string {
	var b strings.Builder
	for _, s := range p.steps() {
		switch {
		case s.index != notIndex:
			b.WriteByte('[')
			b.WriteString(strconv.Itoa(s.index))
			b.WriteByte(']')
		case !plainKey(s.key):
			b.WriteByte('[')
			b.WriteString(strconv.Quote(s.key))
			b.WriteByte(']')
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.key)
		}
	}
	return b.String()
}

// plainKey reports whether a key can stand in a path without quotes.
func plainKey(key string) bool {
	for i := range len(key) {
		if c := key[i]; !alnum(c) && c != '-' && c != '_' && c != '/' {
			return false
		}
	}
	return key != ""
}

// parsePath reads what String writes. What can't be read ends the path: a problem whose
// path is wrong is still worth reporting, at the nearest parent.
func parsePath(path string) []step {
	var steps []step
	for path != "" {
		if path[0] != '[' {
			path = strings.TrimPrefix(path, ".")
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			if end == 0 {
				return steps
			}
			steps = append(steps, step{key: path[:end], index: notIndex})
			path = path[end:]
			continue
		}
		rest := path[1:]
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			key, err := strconv.Unquote(quoted)
			if err != nil {
				return steps
			}
			steps = append(steps, step{key: key, index: notIndex})
			path = strings.TrimPrefix(rest[len(quoted):], "]")
			continue
		}
		digits, after, ok := strings.Cut(rest, "]")
		index, err := strconv.Atoi(digits)
		if !ok || err != nil || index < 0 {
			return steps
		}
		steps = append(steps, step{index: index})
		path = after
	}
	return steps
}

// lineAt follows a path through a document as far as it goes and returns the line of
// the last thing found: of a key, the line on which the key stands.
func lineAt(n *yaml.Node, steps []step) int {
	line := n.Line
	for _, s := range steps {
		n = target(n)
		if s.index != notIndex {
			if n.Kind != yaml.SequenceNode || s.index >= len(n.Content) {
				return line
			}
			n = n.Content[s.index]
			line = n.Line
			continue
		}
		key, val := lookup(n, s.key)
		if val == nil {
			return line
		}
		line, n = key.Line, val
	}
	return line
}

// lookup finds a key of a mapping, written in JSON or in protobuf form.
func lookup(n *yaml.Node, name string) (key, val *yaml.Node) {
	for pairs := entries(n); len(pairs) > 1; pairs = pairs[2:] {
		if k := pairs[0]; k.Value == name || lowerCamel(k.Value) == name {
			return k, pairs[1]
		}
	}
	return nil, nil
}

// lowerCamel turns a protobuf field's name into its JSON name: max_connections into
// maxConnections.
func lowerCamel(s string) string {
	if !strings.Contains(s, "_") {
		return s
	}
	b := make([]byte, 0, len(s))
	upper := false
	for i := range len(s) {
		c := s[i]
		if c == '_' {
			upper = true
			continue
		}
		if upper && 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper = false
		b = append(b, c)
	}
	return string(b)
}

func alnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
