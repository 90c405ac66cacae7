// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"testing"

	"pillion/proxy/http"
)

type pass string

func (pass) OnRequest(*http.Exchange) Status { return Continue }

// TestChainAfter: chains that leave out different filters agree on what stands
// behind one.
func TestChainAfter(t *testing.T) {
	all := NewChain(pass("a"), pass("b"), nil, pass("d"), pass("e"))
	some := NewChain(nil, pass("b"), pass("c"), nil, pass("e"))
	for _, c := range []struct {
		chain, other *Chain
		ran          int
		next         string
	}{
		{all, all, 0, "b"}, {all, all, 3, ""},
		{some, all, 0, "b"}, {some, all, 1, "c"}, {some, all, 2, "e"}, {some, all, 3, ""},
		{all, some, 0, "d"}, {all, some, 1, "d"}, {all, some, 2, ""},
		{NewChain(nil, nil), all, 0, ""},
	} {
		i := c.chain.After(c.other, c.ran)
		next := ""
		if i < len(c.chain.Request) {
			next = string(c.chain.Request[i].(pass))
		}
		if next != c.next {
			t.Errorf("behind %s comes %q, want %q", c.other.Request[c.ran], next, c.next)
		}
	}
}
