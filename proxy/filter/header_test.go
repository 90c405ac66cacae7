// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"strings"
	"testing"

	"pillion/proxy/http"
	"pillion/proxy/match"
	"pillion/proxy/proxytest"
)

func request(lines ...string) *http.RequestHead {
	h := &http.RequestHead{RawMethod: []byte("GET"), Scheme: []byte("http"), Authority: []byte("a.b:80"), Path: []byte("/p?q")}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h.Fields.Add([]byte(name), []byte(value))
	}
	return h
}

func exactly(name, value string) HeaderMatcher {
	return NewHeaderMatcher(match.NewHeaderString(name, match.NewString(match.Exact, value, false), match.HeaderOption{}))
}

func TestHeaderMatcherFindsThePart(t *testing.T) {
	h := request("X-Forwarded-Proto: https", "end-user: jason", "End-User: kate", "accept: a")
	for _, c := range []struct {
		name, value string
		want        bool
	}{
		{":method", "GET", true}, {":path", "/p?q", true}, {":path", "/p", false},
		{":authority", "a.b:80", true}, {"host", "a.b:80", true}, {"Host", "A.b:80", false},
		{":scheme", "http", true}, {":status", "", false},
		{"End-user", "jason", true}, {"end-user", "kate", true}, {"end-user", "jason,kate", false},
		{"x-forwarded-proto", "https", true}, {"accept", "b", false}, {"nope", "", false},
	} {
		m := exactly(c.name, c.value)
		if got := m.Match(h); got != c.want {
			t.Errorf("%s: %t, want %t", m.String(), got, c.want)
		}
		if why := m.Why(h); (why == "") != c.want {
			t.Errorf("%s: Why = %q", m.String(), why)
		}
	}
	absent := NewHeaderMatcher(match.NewHeaderPresent(":method", true, match.HeaderOption{Invert: true}))
	if absent.Match(h) {
		t.Error("a request without a method?")
	}
}

func TestHeaderMatcherSaysWhy(t *testing.T) {
	h := request("end-user: jason", "end-user: kate")
	for _, c := range []struct{ name, want string }{
		{"end-user", `"jason", "kate" fails header "end-user" exact "x"`},
		{"nope", `missing, fails header "nope" exact "x"`},
		{":method", `"GET" fails header ":method" exact "x"`},
		{":status", `missing, fails header ":status" exact "x"`},
	} {
		m := exactly(c.name, "x")
		if got := m.Why(h); got != c.want {
			t.Errorf("Why = %s, want %s", got, c.want)
		}
	}
}

func TestHeaderRefOfFields(t *testing.T) {
	h := request("x-a: 1", "X-A: 2")
	a, path := NewHeaderRef("X-a"), NewHeaderRef(":path")
	if v, ok := a.GetFields(&h.Fields); !ok || string(v) != "1" {
		t.Errorf("x-a = %q, %t", v, ok)
	}
	if _, ok := path.GetFields(&h.Fields); ok {
		t.Error("fields have no path")
	}
	if !a.Is(h.Fields.At(1)) || path.Is(h.Fields.At(0)) || string(a.Name()) != "x-a" || a.ID() != http.HeaderOther {
		t.Error("a reference misses its own line")
	}
}

func TestHeaderMatcherAllocatesNothing(t *testing.T) {
	h := request("a: 1", "user-agent: x", "end-user: jason")
	for _, m := range []HeaderMatcher{exactly("end-user", "jason"), exactly("user-agent", "y"), exactly(":path", "/p?q")} {
		proxytest.NoAllocs(t, m.String(), func() { m.Match(h) })
	}
}
