// SPDX-License-Identifier: Apache-2.0

package source

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// place is the position of a value in a document, as a chain from the value up to the
// document's root. Places are made while descending and become text only when there is
// a problem to report.
type place struct {
	up    *place // nil at the root
	name  string // a mapping's key
	index int    // a list's index; inMapping or atRoot otherwise
	arena *arena // where places below this one are made
}

const (
	inMapping = -1
	atRoot    = -2
)

// key returns the place of a mapping's value.
func (p *place) key(name string) *place {
	return p.arena.add(place{up: p, name: name, index: inMapping, arena: p.arena})
}

// item returns the place of a list's element.
func (p *place) item(i int) *place {
	return p.arena.add(place{up: p, index: i, arena: p.arena})
}

// arena makes places without garbage: a descent makes one for every value of a document
// and hardly ever needs one again. Places are valid until reset. (When the slice grows,
// those made before stay valid where they are.)
type arena struct {
	places []place
}

func (a *arena) reset() { a.places = a.places[:0] }

// root returns the place of the root of a resource.
func (a *arena) root() *place { return a.add(place{index: atRoot, arena: a}) }

func (a *arena) add(p place) *place {
	a.places = append(a.places, p)
	return &a.places[len(a.places)-1]
}

// String returns the path in the form of Object.Problem: spec.http[0].route[1].weight.
func (p *place) String() string { return string(p.appendTo(nil)) }

func (p *place) appendTo(b []byte) []byte {
	if p.index == atRoot {
		return b
	}
	b = p.up.appendTo(b)
	switch {
	case p.index >= 0:
		b = append(b, '[')
		b = strconv.AppendInt(b, int64(p.index), 10)
		return append(b, ']')
	case !plainKey(p.name):
		b = append(b, '[')
		b = strconv.AppendQuote(b, p.name)
		return append(b, ']')
	case len(b) > 0:
		b = append(b, '.')
	}
	return append(b, p.name...)
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
func parsePath(path string) *place {
	p := new(arena).root()
	for path != "" {
		if path[0] != '[' {
			path = strings.TrimPrefix(path, ".")
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			if end == 0 {
				return p
			}
			p, path = p.key(path[:end]), path[end:]
			continue
		}
		rest := path[1:]
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			key, err := strconv.Unquote(quoted)
			if err != nil {
				return p
			}
			p, path = p.key(key), strings.TrimPrefix(rest[len(quoted):], "]")
			continue
		}
		digits, after, ok := strings.Cut(rest, "]")
		index, err := strconv.Atoi(digits)
		if !ok || err != nil || index < 0 {
			return p
		}
		p, path = p.item(index), after
	}
	return p
}

// lineAt returns the line of a place in a tree: of a key, the line on which the key
// stands. When the tree doesn't go as far, it is the line of the last thing on the way.
func lineAt(root *yaml.Node, p *place) int {
	line, _ := p.find(root)
	return line
}

// find also returns the node at the place, nil when there is none.
func (p *place) find(root *yaml.Node) (line int, n *yaml.Node) {
	if p.index == atRoot {
		return root.Line, root
	}
	line, n = p.up.find(root)
	if n == nil {
		return line, nil
	}
	n = target(n)
	if p.index == inMapping {
		key, val := lookup(n, p.name)
		if val == nil {
			return line, nil
		}
		return key.Line, val
	}
	if n.Kind != yaml.SequenceNode || p.index >= len(n.Content) {
		return line, nil
	}
	return n.Content[p.index].Line, n.Content[p.index]
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
