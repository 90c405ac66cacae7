// SPDX-License-Identifier: Apache-2.0

package source

import (
	"sync"

	"go.yaml.in/yaml/v3"
)

// origin is where an object was read: its document's text and, in a List, the way to
// the item. It exists so that Problem can name lines without keeping YAML trees, which
// take some thirty times the text's size. It is immutable.
type origin struct {
	doc   *document
	items []int // index in each enclosing List's items, outermost first
	trees *treeCache
}

// lineOf returns the line of a field path of the object; 0 when it can't be found.
func (o *origin) lineOf(field string) int {
	root := o.trees.tree(o.doc)
	for _, i := range o.items {
		_, items := lookup(root, "items")
		if items == nil {
			return 0
		}
		if items = target(items); i >= len(items.Content) {
			return 0
		}
		root = target(items.Content[i])
	}
	if root == nil {
		return 0
	}
	return lineAt(root, parsePath(field))
}

// treeCache keeps the last document that was parsed again, because problems come object
// by object, and many objects may come from one List.
type treeCache struct {
	mu   sync.Mutex
	doc  *document  // guarded by mu
	root *yaml.Node // guarded by mu; tree of doc, not to be changed
}

// tree returns the tree of a document that was parsed and checked before.
func (c *treeCache) tree(doc *document) *yaml.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.doc != doc {
		root, _ := doc.parse() // it could be parsed when it was read; the bytes are the same
		c.doc, c.root = doc, root
	}
	return c.root
}
