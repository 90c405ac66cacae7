// SPDX-License-Identifier: Apache-2.0

package router

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pillion/proxy/match"
)

// manyPaths builds a virtual host of routes by path: "=/a" exact, "/a/" a
// beginning, "#/a" segments, "~expression", and "i/a" in any case.
func manyPaths(t testing.TB, paths []string) *VirtualHost {
	t.Helper()
	vh := &VirtualHost{Name: "many"}
	for i, p := range paths {
		r := forwardRoute(fmt.Sprint(i))
		switch p[0] {
		case '=':
			r.Match.Path = match.NewPath(match.PathExact, p[1:], false)
		case '#':
			r.Match.Path = match.NewPath(match.PathSegments, p[1:], false)
		case 'i':
			r.Match.Path = match.NewPath(match.PathPrefix, p[1:], true)
		case '~':
			re, err := match.NewRegex(p[1:])
			if err != nil {
				t.Fatal(err)
			}
			r.Match.Path = match.NewPathPattern(re)
		default:
			r.Match.Path = match.NewPath(match.PathPrefix, p, false)
		}
		vh.Routes = append(vh.Routes, r)
	}
	table(t, Options{}, vh)
	return vh
}

// firstOf is the oracle: each route is looked at.
func firstOf(vh *VirtualHost, in *input) *Route {
	for i := range vh.Routes {
		if vh.Routes[i].Match.matches(in) {
			return &vh.Routes[i]
		}
	}
	return nil
}

// TestManyRoutes: the tree finds what a look at each route finds, whatever the
// paths have in common.
func TestManyRoutes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	parts := []string{"a", "ab", "abc", "b", "a/b", "/", "//", "", "x-1", "x-2", "x-12"}
	random := func() string {
		var b strings.Builder
		b.WriteByte('/')
		for range rng.IntN(4) {
			b.WriteString(parts[rng.IntN(len(parts))])
		}
		return b.String()
	}
	taken := 0
	for range 200 {
		var paths []string
		for range manyRoutes + rng.IntN(60) {
			paths = append(paths, []string{"", "=", "#", "i", "~"}[rng.IntN(5)]+random())
		}
		vh := manyPaths(t, paths)
		if vh.paths == nil {
			t.Fatal("no tree")
		}
		for range 100 {
			in := &input{path: []byte(random())}
			want := firstOf(vh, in)
			if got := vh.route(in); got != want {
				t.Fatalf("%s: %v, not %v, of %q", in.path, got, want, paths)
			}
			if want != nil {
				taken++
			}
		}
	}
	if taken < 5000 {
		t.Errorf("only %d of the paths were for a route", taken)
	}
}

// TestNestedRoutes: more paths that begin one another than are told apart.
func TestNestedRoutes(t *testing.T) {
	var paths []string
	for n := 3 * maxBranches; n > 0; n-- {
		paths = append(paths, "/"+strings.Repeat("a", n))
	}
	vh := manyPaths(t, paths)
	for n := range 4 * maxBranches {
		in := &input{path: []byte("/" + strings.Repeat("a", n))}
		if got, want := vh.route(in), firstOf(vh, in); got != want {
			t.Errorf("%s: %v, not %v", in.path, got, want)
		}
	}
}

// FuzzManyRoutes has paths and a request of any bytes.
func FuzzManyRoutes(f *testing.F) {
	f.Add("/a /b =/a #/a/b i/A", "/a/b")
	f.Add(strings.Repeat("/a ", 20)+"/", "/b")
	f.Fuzz(func(t *testing.T, routes, path string) {
		paths := strings.Fields(routes)
		if len(paths) == 0 || strings.Contains(routes, "~") {
			return
		}
		for len(paths) < manyRoutes {
			paths = append(paths, paths...)
		}
		vh, in := manyPaths(t, paths), &input{path: []byte(path)}
		if got, want := vh.route(in), firstOf(vh, in); got != want {
			t.Errorf("%q: %v, not %v", path, got, want)
		}
	})
}

func BenchmarkManyRoutes(b *testing.B) {
	for _, n := range []int{8, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var paths []string
			for i := range n - 1 {
				paths = append(paths, fmt.Sprintf("/more-%04d/", i))
			}
			vh, in := manyPaths(b, append(paths, "/")), &input{path: []byte("/bench")}
			b.ReportAllocs()
			for b.Loop() {
				if vh.route(in) == nil {
					b.Fatal("no route")
				}
			}
		})
	}
}
