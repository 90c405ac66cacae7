// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// said drains a subscription, each request in words.
func said(t *testing.T, s *subscription, world bool) string {
	t.Helper()
	var all []string
	for s.pending() {
		r, ok := s.next(world)
		if !ok {
			continue
		}
		if len(all) > 64 {
			t.Fatalf("it never ends: %v", all)
		}
		var w []string
		if r.refusal != "" {
			w = append(w, "nack")
		}
		if r.nonce != "" {
			w = append(w, r.nonce)
		}
		for _, n := range r.subscribe {
			w = append(w, "+"+n)
		}
		for _, n := range r.unsubscribe {
			w = append(w, "-"+n)
		}
		w = append(w, r.names...)
		all = append(all, strings.Join(w, " "))
	}
	return strings.Join(all, ", ")
}

func names(text string) set {
	s := set{}
	for n := range strings.FieldsSeq(text) {
		s[n] = struct{}{}
	}
	return s
}

// TestWhatGathers: what is wanted and answered while nothing can be sent comes
// out as few requests, and as the right ones.
func TestWhatGathers(t *testing.T) {
	for _, tc := range []struct {
		name         string
		steps        []string // a list of names is wanted; #nonce is taken, !nonce is refused
		delta, world string
	}{
		{"changes are one", []string{"a", "a b", "b c"}, "+b +c -a", "n0 b c"},
		{"a change that is taken back is none", []string{"a b", "a"}, "", ""},
		// What came of a in between was dropped: it has to be sent again.
		{"a name that went and came back is asked for anew", []string{"", "a"}, "-a, +a", "n0, n0 a"},
		{"with others beside it", []string{"b", "a b"}, "-a +b, +a", "n0 b, n0 a b"},
		{"answers come before changes", []string{"b", "#n1", "!n2", "c"}, "n1, nack n2, -a +c", "n1 a, nack n2 a, n2 c"},
		{"all is unwanted", []string{""}, "-a", "n0"},
		{"many answers are the last ones", []string{"#1", "#2", "#3", "#4", "#5", "#6", "#7", "#8", "#9", "#10", "#11", "#12", "#13", "#14", "#15", "#16", "#17", "#18"},
			"3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18", "3 a, 4 a, 5 a, 6 a, 7 a, 8 a, 9 a, 10 a, 11 a, 12 a, 13 a, 14 a, 15 a, 16 a, 17 a, 18 a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, world := range []bool{false, true} {
				want := tc.delta
				if world {
					want = tc.world
				}
				s := &subscription{url: "x"}
				s.setWant(names("a"))
				if got := said(t, s, world); got != strings.TrimPrefix("+a", map[bool]string{true: "+"}[world]) {
					t.Fatalf("the first request is %q", got)
				}
				s.took("n0", "v0", "")
				said(t, s, world)
				for _, step := range tc.steps {
					switch {
					case strings.HasPrefix(step, "#"):
						s.took(step[1:], "v", "")
					case strings.HasPrefix(step, "!"):
						s.took(step[1:], "v", "no")
					default:
						s.setWant(names(step))
					}
				}
				got := said(t, s, world)
				if !world {
					// Within one request subscriptions come first here.
					want = strings.NewReplacer("-a +c", "+c -a", "-a +b", "+b -a").Replace(want)
				}
				if got != want {
					t.Errorf("world %t: %q, not %q", world, got, want)
				}
			}
		})
	}
}

// model is a server as Istio's is: it keeps what it was told, and looks at a
// request the way that shouldRespondDelta and ShouldRespond do.
type model struct {
	world   bool
	begun   bool
	watched set
	nonce   string // of the last response
	fail    func(format string, args ...any)
}

func (m *model) get(r request) {
	switch {
	case r.refusal != "":
		if r.nonce == "" || len(r.subscribe)+len(r.unsubscribe) > 0 {
			m.fail("a refusal %+v", r)
		}
	case m.world:
		if r.nonce != "" && r.nonce != m.nonce {
			return // stale
		}
		if !m.begun && len(r.names) == 0 {
			m.fail("the first request asks for everything")
		}
		m.begun, m.watched = true, names(strings.Join(r.names, " "))
	case !m.begun:
		if len(r.subscribe) == 0 || r.nonce != "" {
			m.fail("the first request asks for everything: %+v", r)
		}
		m.begun, m.watched = true, names(strings.Join(r.subscribe, " "))
	default:
		changed := false
		for _, n := range r.subscribe {
			changed = changed || !m.watched.has(n)
			m.watched[n] = struct{}{}
		}
		for _, n := range r.unsubscribe {
			changed = changed || m.watched.has(n)
			delete(m.watched, n)
		}
		if changed == (r.nonce != "") {
			m.fail("nonce %q and a change %t: Istio's server refuses both or neither: %+v", r.nonce, changed, r)
		}
	}
}

// FuzzSubscription has a client and a server change their minds in any order,
// with requests and responses on their way, and looks at the rules at each
// request and at what both hold in the end.
func FuzzSubscription(f *testing.F) {
	f.Add(true, []byte{1, 9, 2, 8, 3, 9, 9})
	f.Add(false, []byte{7, 9, 0, 1, 9, 8, 10, 9, 15, 8})
	f.Add(true, []byte{1, 9, 12, 8, 9, 3, 9, 10, 2, 9, 12, 9, 9})
	// A change crosses a response, its answer crosses the next, which is refused.
	f.Add(true, []byte{1, 9, 12, 8, 9, 12, 3, 9, 8, 12, 9, 10, 12, 9})
	f.Fuzz(func(t *testing.T, world bool, steps []byte) {
		s := &subscription{url: "x"}
		m := &model{world: world, fail: t.Fatalf}
		want, round := set{}, 0
		push := func(refusal string) {
			if m.begun {
				round++
				m.nonce = fmt.Sprint("n", round)
				s.took(m.nonce, m.nonce, refusal)
			}
		}
		var way []request // requests that the server hasn't got yet
		send := func() bool {
			r, ok := s.next(world)
			if ok {
				way = append(way, r)
			}
			return ok || s.pending()
		}
		arrive := func() {
			if len(way) > 0 {
				m.get(way[0])
				way = way[1:]
			}
		}
		for _, b := range steps {
			switch b % 16 {
			case 8:
				push("")
			case 9, 11:
				send()
			case 12, 14:
				arrive()
			case 10:
				push("no")
			case 13: // a new stream
				s.reset(map[string]string{"a": "", "z": "1"})
				m.begun, m.watched, m.nonce, way = false, nil, "", nil
			default:
				want = set{}
				for i, n := range []string{"a", "b", "c"} {
					if b>>i&1 == 1 {
						want[n] = struct{}{}
					}
				}
				s.setWant(want)
			}
		}
		for i := 0; send(); i++ {
			if i > 100 {
				t.Fatal("it never ends")
			}
		}
		for len(way) > 0 {
			arrive()
		}
		if m.begun && !maps.Equal(m.watched, want) || !m.begun && len(want) > 0 {
			t.Fatalf("the server knows %v, wanted is %v", m.watched.sorted(), slices.Sorted(maps.Keys(want)))
		}
	})
}
