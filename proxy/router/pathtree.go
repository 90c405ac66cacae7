// SPDX-License-Identifier: Apache-2.0

package router

import "bytes"

const (
	// manyRoutes is from how many routes on a virtual host has a tree of their
	// paths; fewer are looked at one by one in less time.
	manyRoutes = 16
	// maxBranches bounds the lists of routes that one path leads to: how many of
	// the paths asked for begin one another. With more of them, all routes are
	// looked at.
	maxBranches = 12
)

// pathTree finds those routes of a virtual host that a path may be for, so that a
// thousand routes cost about as much as ten: a radix tree of the literal
// beginnings that the routes ask of a path. Immutable.
type pathTree struct {
	root pathNode
	// rest are the routes that ask for no literal beginning, ascending.
	rest []uint32
}

// pathNode is a place in the tree.
type pathNode struct {
	// label are the bytes that lead here from the parent.
	label []byte
	// routes ask for just the bytes from the root to here, ascending.
	routes []uint32
	// firsts are the first bytes of the children's labels, in the order of
	// children.
	firsts   []byte
	children []*pathNode
}

// newPathTree returns the tree of routes; nil if a look at each is as good.
func newPathTree(routes []Route) *pathTree {
	if len(routes) < manyRoutes {
		return nil
	}
	t := &pathTree{}
	for i := range routes {
		if literal, ok := routes[i].Match.Path.Literal(); ok {
			t.root.add(literal, uint32(i))
		} else {
			t.rest = append(t.rest, uint32(i))
		}
	}
	return t
}

// add enters a route below n under the bytes that are left of its path.
func (n *pathNode) add(left []byte, route uint32) {
	if len(left) == 0 {
		n.routes = append(n.routes, route)
		return
	}
	at := bytes.IndexByte(n.firsts, left[0])
	if at < 0 {
		n.firsts = append(n.firsts, left[0])
		n.children = append(n.children, &pathNode{label: left, routes: []uint32{route}})
		return
	}
	child := n.children[at]
	common := commonPrefix(child.label, left)
	if common < len(child.label) { // part it in two
		upper := &pathNode{label: child.label[:common], firsts: []byte{child.label[common]}, children: []*pathNode{child}}
		child.label = child.label[common:]
		n.children[at], child = upper, upper
	}
	child.add(left[common:], route)
}

// branches are the lists of routes that a path may be for. Each ascends.
type branches struct {
	lists [maxBranches][]uint32
	n     int
}

// add adds a list; false if there is no place for it.
func (b *branches) add(list []uint32) bool {
	if len(list) == 0 {
		return true
	}
	if b.n == len(b.lists) {
		return false
	}
	b.lists[b.n] = list
	b.n++
	return true
}

// next takes the lowest route out of the lists; false at their end.
func (b *branches) next() (route uint32, ok bool) {
	lowest := -1
	for i, list := range b.lists[:b.n] {
		if len(list) > 0 && (lowest < 0 || list[0] < route) {
			lowest, route = i, list[0]
		}
	}
	if lowest < 0 {
		return 0, false
	}
	b.lists[lowest] = b.lists[lowest][1:]
	return route, true
}

// find collects what a path may be for; false if it is too much to tell apart.
func (t *pathTree) find(path []byte, b *branches) bool {
	if !b.add(t.rest) {
		return false
	}
	for n := &t.root; ; {
		if !b.add(n.routes) {
			return false
		}
		if len(path) == 0 {
			return true
		}
		at := bytes.IndexByte(n.firsts, path[0])
		if at < 0 || !bytes.HasPrefix(path, n.children[at].label) {
			return true
		}
		n = n.children[at]
		path = path[len(n.label):]
	}
}

// commonPrefix returns how many bytes a and b have in common at their beginnings.
func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// route returns the first route that takes a request, nil without one.
func (vh *VirtualHost) route(in *input) *Route {
	if vh.paths != nil {
		if r, found := vh.routeByPath(in); found {
			return r
		}
	}
	for i := range vh.Routes {
		if vh.Routes[i].Match.matches(in) {
			return &vh.Routes[i]
		}
	}
	return nil
}

// routeByPath is route by the tree; false if that can't tell.
func (vh *VirtualHost) routeByPath(in *input) (r *Route, found bool) {
	var b branches
	if !vh.paths.find(in.path, &b) {
		return nil, false
	}
	for {
		i, ok := b.next()
		if !ok {
			return nil, true
		}
		if vh.Routes[i].Match.matches(in) {
			return &vh.Routes[i], true
		}
	}
}
