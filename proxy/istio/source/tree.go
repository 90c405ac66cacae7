// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

const (
	// maxDepth is how deep values may nest, aliases followed. Istio's deepest field is
	// below 12; 64 is far from any recursion limit.
	maxDepth = 64
	// maxExpanded is how many nodes a document that uses aliases may stand for. It
	// refuses bombs: a few lines of aliases that unfold to gigabytes.
	maxExpanded = 1 << 20
)

// target follows an alias to the node that it stands for.
func target(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

// isNull reports whether a node is YAML's null or empty. JSON null means "not set"
// throughout Kubernetes and protobuf.
func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}

// isUnset reports whether a node holds nothing: null, or a node made for a missing key.
func isUnset(n *yaml.Node) bool { return n.Kind == 0 || isNull(n) }

// entries returns a mapping's keys and values in turn, with merge keys ("<<") resolved:
// a key written out wins over a merged one, and an earlier merged mapping over a later.
// What isn't a mapping has no entries. The tree must have passed checkTree.
func entries(n *yaml.Node) []*yaml.Node {
	n = target(n)
	if n.Kind != yaml.MappingNode {
		return nil
	}
	merged := false
	for i := 0; i+1 < len(n.Content); i += 2 {
		if isMerge(n.Content[i]) {
			merged = true
		}
	}
	if !merged {
		return n.Content
	}
	var all []*yaml.Node
	have := map[string]bool{}
	add := func(pairs []*yaml.Node) {
		for ; len(pairs) > 1; pairs = pairs[2:] {
			if !isMerge(pairs[0]) && !have[pairs[0].Value] {
				have[pairs[0].Value] = true
				all = append(all, pairs[0], pairs[1])
			}
		}
	}
	add(n.Content)
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			continue
		}
		from := target(n.Content[i+1])
		if from.Kind != yaml.SequenceNode {
			add(entries(from))
			continue
		}
		for _, m := range from.Content {
			add(entries(m))
		}
	}
	return all
}

func isMerge(key *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && key.Tag == "!!merge"
}

// treeError is something that makes a tree unusable whatever it is meant to hold.
type treeError struct {
	line   int
	path   string
	reason string
}

// checkTree looks at all of a document once, so that what reads it later can follow
// aliases without fear: no cycles, no bombs, bounded depth, no key twice, no key that
// isn't a scalar, no tags but YAML's own.
func checkTree(root *yaml.Node, top *place) []treeError {
	c := treeChecker{}
	total := c.check(root, top, 1)
	if len(c.sizes) > 0 && total.nodes > maxExpanded && len(c.errors) == 0 {
		c.fail(root, top, "aliases make the document stand for more than %d values; write less of it as aliases", maxExpanded)
	}
	return c.errors
}

type treeChecker struct {
	errors []treeError
	sizes  map[*yaml.Node]treeSize // of anchored nodes; a zero size marks one being measured
}

// treeSize is what a node stands for, aliases followed.
type treeSize struct {
	nodes  int // at most a little over maxExpanded
	height int
}

func (c *treeChecker) fail(n *yaml.Node, at *place, format string, args ...any) {
	c.errors = append(c.errors, treeError{line: n.Line, path: at.String(), reason: fmt.Sprintf(format, args...)})
}

// check returns the size of n, which stands depth levels deep, and reports what is wrong.
func (c *treeChecker) check(n *yaml.Node, at *place, depth int) treeSize {
	if depth > maxDepth {
		c.fail(n, at, "values nest deeper than %d levels", maxDepth)
		return treeSize{nodes: 1, height: 1}
	}
	if n.Kind == yaml.AliasNode {
		return c.checkAlias(n, at, depth)
	}
	if n.Anchor != "" {
		if c.sizes == nil {
			c.sizes = map[*yaml.Node]treeSize{}
		}
		c.sizes[n] = treeSize{}
	}
	c.checkTag(n, at)
	size := treeSize{nodes: 1}
	switch n.Kind {
	case yaml.MappingNode:
		c.checkKeys(n, at)
		for i := 0; i+1 < len(n.Content); i += 2 {
			size.add(c.check(n.Content[i+1], at.key(n.Content[i].Value), depth+1))
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			size.add(c.check(item, at.item(i), depth+1))
		}
	}
	size.height++
	if n.Anchor != "" {
		c.sizes[n] = size
	}
	return size
}

func (s *treeSize) add(child treeSize) {
	s.nodes = min(s.nodes+child.nodes, maxExpanded+1)
	s.height = max(s.height, child.height)
}

func (c *treeChecker) checkAlias(n *yaml.Node, at *place, depth int) treeSize {
	// An anchor always stands before its aliases, so it has been measured, unless the
	// alias is inside it.
	size := c.sizes[n.Alias]
	if size == (treeSize{}) {
		c.fail(n, at, "alias *%s stands inside of what it names", n.Value)
		return treeSize{nodes: 1, height: 1}
	}
	if depth+size.height-1 > maxDepth {
		c.fail(n, at, "values nest deeper than %d levels", maxDepth)
	}
	return size
}

// checkKeys reports keys that aren't scalars and keys that occur twice.
func (c *treeChecker) checkKeys(n *yaml.Node, at *place) {
	var seen map[string]*yaml.Node
	if len(n.Content) > 16 {
		seen = make(map[string]*yaml.Node, len(n.Content)/2)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			c.fail(key, at, "a key must be a plain value, not %s", describe(key))
			continue
		}
		c.checkTag(key, at)
		if isMerge(key) && !mergeable(n.Content[i+1]) {
			c.fail(key, at, `the merge key "<<" needs a mapping or a list of mappings`)
		}
		if first := duplicateOf(n.Content[:i], seen, key); first != nil {
			c.fail(key, at.key(key.Value), "the key %q is given twice; the first is on line %d", key.Value, first.Line)
		}
	}
}

// duplicateOf returns the earlier key equal to key. Long mappings keep an index in seen.
func duplicateOf(before []*yaml.Node, seen map[string]*yaml.Node, key *yaml.Node) *yaml.Node {
	if seen != nil {
		first := seen[key.Value]
		if first == nil {
			seen[key.Value] = key
		}
		return first
	}
	for i := 0; i+1 < len(before); i += 2 {
		if k := before[i]; k.Kind == yaml.ScalarNode && k.Value == key.Value {
			return k
		}
	}
	return nil
}

func mergeable(n *yaml.Node) bool {
	n = target(n)
	if n.Kind != yaml.SequenceNode {
		return n.Kind == yaml.MappingNode
	}
	for _, m := range n.Content {
		if target(m).Kind != yaml.MappingNode {
			return false
		}
	}
	return true
}

// checkTag refuses tags that give a value a type of their own, such as "!vault".
func (c *treeChecker) checkTag(n *yaml.Node, at *place) {
	switch n.Tag {
	case "", "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!merge", "!!map", "!!seq":
	default:
		c.fail(n, at, "the tag %q isn't supported", n.Tag)
	}
}
