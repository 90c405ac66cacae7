// SPDX-License-Identifier: Apache-2.0

package rbac

import "math"

// indexFrom is from how many policies on an index is made.
const indexFrom = 16

// index finds the policies that can match at all. Most policies name exact
// paths or exact principals, and one that does is looked at only for such a
// request. It changes nothing of what is decided. Immutable.
type index struct {
	byPath, byName map[string][]int32 // positions of policies, ascending
	rest           []int32
}

func newIndex(policies []Policy) *index {
	if len(policies) < indexFrom {
		return nil
	}
	x := &index{byPath: map[string][]int32{}, byName: map[string][]int32{}}
	for i := range policies {
		p := &policies[i]
		switch paths, names := p.needs(Path), p.needs(Principal); {
		case paths != nil:
			put(x.byPath, paths, i)
		case names != nil:
			put(x.byName, names, i)
		default:
			x.rest = append(x.rest, int32(i))
		}
	}
	return x
}

func put(m map[string][]int32, keys []string, i int) {
	for _, k := range keys {
		if l := m[k]; len(l) == 0 || l[len(l)-1] != int32(i) {
			m[k] = append(l, int32(i))
		}
	}
}

// needs returns the exact values of which op has to find one for the policy to
// match; nil if it may match with others too.
func (p *Policy) needs(op Op) []string {
	permissions, principals := Rule{Op: Or, Rules: p.Permissions}, Rule{Op: Or, Rules: p.Principals}
	if v := permissions.needs(op); v != nil {
		return v
	}
	return principals.needs(op)
}

func (r *Rule) needs(op Op) []string {
	switch r.Op {
	case op:
		if v, ok := r.Text.Literal(); ok {
			return []string{v}
		}
	case And:
		for i := range r.Rules {
			if v := r.Rules[i].needs(op); v != nil {
				return v
			}
		}
	case Or:
		var all []string
		for i := range r.Rules {
			v := r.Rules[i].needs(op)
			if v == nil {
				return nil
			}
			all = append(all, v...)
		}
		return all
	}
	return nil
}

// maxLists bounds the lists that are gone through side by side.
const maxLists = 8

// find returns the first policy that matches: of the lists that concern the
// request, the lowest position is always tried next.
func (x *index) find(policies []Policy, in *input) *Policy {
	var lists [maxLists][]int32
	n := 1
	lists[0] = x.rest
	add := func(l []int32) bool {
		if len(l) == 0 {
			return true
		}
		if n == maxLists {
			return false
		}
		lists[n] = l
		n++
		return true
	}
	if path, ok := in.path(); ok {
		add(x.byPath[string(path)])
	}
	if !x.named(in, add) {
		return first(policies, in) // a peer of very many names
	}
	for {
		best, at := int32(math.MaxInt32), -1
		for i := range n {
			if l := lists[i]; len(l) > 0 && l[0] < best {
				best, at = l[0], i
			}
		}
		if at < 0 {
			return nil
		}
		lists[at] = lists[at][1:]
		if p := &policies[best]; p.matches(in) {
			return p
		}
	}
}

// named adds the lists of the peer's names.
func (x *index) named(in *input, add func([]int32) bool) bool {
	if in.conn.TLS == nil {
		return true
	}
	peer := in.peer()
	if peer == nil {
		return add(x.byName[""])
	}
	for _, name := range peer.URIs {
		if !add(x.byName[name]) {
			return false
		}
	}
	for _, name := range peer.DNS {
		if !add(x.byName[name]) {
			return false
		}
	}
	return add(x.byName[peer.Subject])
}

func first(policies []Policy, in *input) *Policy {
	for i := range policies {
		if policies[i].matches(in) {
			return &policies[i]
		}
	}
	return nil
}
