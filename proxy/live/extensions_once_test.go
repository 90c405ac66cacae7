// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/xds"
)

// counted has r count how often listeners that have the filter "x0" are compiled. The
// function returns how often since it was called last.
func counted(r *rig) (compiled func() int) {
	n := 0
	r.compiler.SetExtensions(func(name string) *anypb.Any {
		if name == "x0" {
			n++
		}
		return r.extension(name)
	})
	return func() int {
		defer func() { n = 0 }()
		return n
	}
}

// TestExtensionsAtOnce: a response with the configurations of many filters has each
// listener that has them compiled once, and all of them are served.
func TestExtensionsAtOnce(t *testing.T) {
	const many = 5
	r := newRig(t)
	compiled := counted(r)
	var filters []string
	for i := range many {
		filters = append(filters, discovered(fmt.Sprint("x", i), faultURL, ""))
	}
	r.push(httpListener("l", "10.0.0.9:80", "80", filters...))
	r.push(httpListener("m", "10.0.0.9:81", "80", filters[0], filters[1]))
	r.push(httpListener("n", "10.0.0.9:82", "80"))
	r.push(routesTo("80", "a=a"))
	compiled()
	const letPass = `{"@type": "` + faultURL + `"}`
	// all are configurations of which one answers requests.
	all := func(place int, status int) (list []proto.Message) {
		for i := range many {
			config := letPass
			if i == place {
				config = faultWith(status)
			}
			list = append(list, extension(fmt.Sprint("x", i), config))
		}
		return list
	}
	want := func(when string, times, answer int) {
		t.Helper()
		if n := compiled(); n != times {
			t.Errorf("%s: compiled %d times, not %d", when, n, times)
		}
		r.answers(when, answer)
	}
	r.push(all(many-1, 418)...)
	want("all of them", 2, 418) // l and m
	r.push(all(many-1, 418)...)
	want("the same again", 0, 418)
	r.push(all(0, 419)...)
	want("two of them changed", 2, 419)
	r.push(extension("x0", faultWith(420)))
	want("one of them", 2, 420)
	r.push(extension("x0", faultWith(421)), extension("unknown", letPass), extension("x1", faultWith(422)))
	want("with one that nobody has", 2, 421)

	// What is bad is named, and the others are served.
	why := r.refused(extension("x0", faultWith(99)), extension("x1", faultWith(423)), extension("x2", `{"@type": "`+rbacURL+`"}`))
	if !strings.Contains(why, "extension configuration x0: for listener l: ") || !strings.Contains(why, "extension configuration x2: for listener l: ") || strings.Contains(why, "configuration x1") {
		t.Errorf("refused: %s", why)
	}
	r.answers("with two that are bad", 421)
	if got := r.extensions.all["x1"].run; got.reloads != 3 || got.fails != 0 {
		t.Errorf("the good one was taken %d times, refused %d times", got.reloads, got.fails)
	}
	if got := r.extensions.all["x0"].run; got.reloads != 4 || got.fails != 1 {
		t.Errorf("a bad one was taken %d times, refused %d times", got.reloads, got.fails)
	}
	if e := r.extensions.all["x2"]; e.why == "" || !e.bad.is() {
		t.Errorf("the other bad one: %+v", e)
	}
	compiled()
	r.push(extension("x0", letPass), extension("x2", letPass))
	want("mended", 2, 423)

	u := updateOf(extension("x0", faultWith(424)))
	u.Removed = []string{"x1", "x2", "never there"}
	if err := r.Apply(u); err != nil {
		t.Fatal(err)
	}
	want("one changed and two gone", 2, 424)
	if r.extensions.all["x1"] != nil || r.extensions.all["x2"] != nil || r.extension("x1") != nil {
		t.Error("what was removed is held")
	}
	r.push(extension("x0", letPass))
	r.answers("what is gone is missed", 500)

	twice := updateOf(extension("x0", faultWith(425)), extension("x0", faultWith(426)), extension("x1", letPass), extension("x2", letPass))
	if err := r.Apply(twice); err == nil || !strings.Contains(err.Error(), "is there twice") {
		t.Errorf("one name twice: %v", err)
	}
	r.answers("one name twice", 425)
	if n := len(r.compiler.Places("80")); n != 3 {
		t.Errorf("%d places are kept for three lists of filters", n)
	}
	// Of a whole state of the world, what isn't in it is gone.
	compiled()
	full := &xds.Update{TypeURL: ExtensionType, Version: "w", Full: true}
	full.Resources = updateOf(extension("x0", faultWith(427)), extension("x1", faultWith(428))).Resources
	if err := r.Apply(full); err != nil {
		t.Fatal(err)
	}
	r.answers("a whole state of the world", 427)
	r.push(extension("x0", letPass), extension("x1", letPass))
	r.answers("and what is gone with it", 500)
}
