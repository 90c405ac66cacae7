// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"strings"
	"testing"
)

// The expectations are those of Envoy 1.40 with normalize_path.
func TestNormalizePath(t *testing.T) {
	base := PathOptions{Normalize: true}
	merge := PathOptions{Normalize: true, MergeSlashes: true}
	for _, c := range []struct {
		opt      PathOptions
		in, want string
		bad      bool
	}{
		{opt: base, in: "/", want: "/"},
		{opt: base, in: "/a/b?x=/../y", want: "/a/b?x=/../y"},
		{opt: base, in: "/./admin", want: "/admin"},
		{opt: base, in: "/x/../admin", want: "/admin"},
		{opt: base, in: "/x/%2e%2e/admin", want: "/admin"},
		{opt: base, in: "/x/%2E./admin?q", want: "/admin?q"},
		{opt: base, in: "/%61dmin", want: "/admin"},
		{opt: base, in: "/admin;x=y", want: "/admin;x=y"},
		{opt: base, in: "/x/..;/admin", want: "/admin"},
		{opt: base, in: "/x/..;a=b/admin", want: "/admin"},
		{opt: base, in: "/.;/admin", want: "/admin"},
		{opt: base, in: `/x\..\admin`, want: "/admin"},
		{opt: base, in: "/../admin", want: "/admin"},
		{opt: base, in: "/../../..", want: "/"},
		{opt: base, in: "/a/b/..", want: "/a/"},
		{opt: base, in: "/a/b/.", want: "/a/b/"},
		{opt: base, in: "/a/...", want: "/a/..."},
		{opt: base, in: "/a/.b", want: "/a/.b"},
		{opt: base, in: "//admin", want: "//admin"},
		{opt: base, in: `/\admin`, want: "//admin"},
		{opt: base, in: "/%2fadmin", want: "/%2fadmin"},
		{opt: base, in: "/x/..%2fadmin", want: "/x/..%2fadmin"},
		{opt: base, in: "/;/admin", want: "/;/admin"},
		{opt: base, in: "/%252e%252e/x", want: "/%252e%252e/x"},
		{opt: base, in: "/a%", want: "/a%"},
		{opt: base, in: "/a%4", want: "/a%4"},
		{opt: base, in: "/a%zz", want: "/a%zz"},
		{opt: base, in: "/a%00b", bad: true},
		{opt: merge, in: "//a///b/?c=//d", want: "/a/b/?c=//d"},
		{opt: merge, in: "/a//../b", want: "/a/b"},
		{opt: PathOptions{}, in: "//a/../b%2e", want: "//a/../b%2e"},
	} {
		got, ok := c.opt.normalizePath(nil, []byte(c.in))
		if ok == c.bad {
			t.Errorf("%+v %q: ok = %v", c.opt, c.in, ok)
			continue
		}
		if ok && string(got) != c.want {
			t.Errorf("%+v %q = %q, want %q", c.opt, c.in, got, c.want)
		}
		if !c.bad && c.in != c.want && !c.opt.needsWork([]byte(c.in)) {
			t.Errorf("%+v %q changes, but needsWork says no", c.opt, c.in)
		}
	}
}

// FuzzNormalizePath holds that a canonical path is canonical, never climbs
// and is never taken for one that needs no work.
func FuzzNormalizePath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", `/\..`, "/%2e%2e;x/", "/a//b/./", "/a%", "/..;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if !strings.HasPrefix(in, "/") {
			return
		}
		for _, o := range []PathOptions{{Normalize: true}, {Normalize: true, MergeSlashes: true}} {
			once, ok := o.normalizePath(nil, []byte(in))
			if !ok {
				continue
			}
			if !o.needsWork([]byte(in)) && string(once) != in {
				t.Fatalf("%q became %q, but needsWork says no", in, once)
			}
			path, _, _ := strings.Cut(string(once), "?")
			if !strings.HasPrefix(path, "/") {
				t.Fatalf("%q became %q", in, once)
			}
			for _, seg := range strings.Split(path, "/") {
				if seg == "." || seg == ".." || strings.HasPrefix(seg, "..;") {
					t.Fatalf("%q became %q", in, once)
				}
			}
		}
	})
}
