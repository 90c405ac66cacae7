// SPDX-License-Identifier: Apache-2.0

package router

import (
	"strings"
	"testing"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
)

// named is a cluster of which only the name is known.
type named string

func (n named) Name() string     { return string(n) }
func (n named) StatName() string { return string(n) }

// exchange makes an exchange of a request line, in the form METHOD HOST PATH,
// and field lines.
func exchange(line string, fields ...string) *http.Exchange {
	part := strings.Split(line, " ")
	ex := &http.Exchange{Conn: &http.ConnInfo{Local: "10.0.0.2:9080", Remote: "10.0.0.1:5555"}}
	ex.Req = http.RequestHead{Method: http.LookupMethod([]byte(part[0])), RawMethod: []byte(part[0]),
		Authority: []byte(part[1]), Path: []byte(part[2]), Scheme: []byte("http"), Protocol: http.HTTP11}
	addLines(&ex.Req.Fields, fields)
	return ex
}

func addLines(f *http.Fields, lines []string) {
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		f.Add([]byte(name), []byte(strings.TrimPrefix(value, " ")))
	}
}

// lines prints fields as one string.
func lines(f *http.Fields) string {
	var b strings.Builder
	for i := range f.All() {
		l := f.At(i)
		if id := http.LookupHeader(l.Name); id != l.ID {
			b.WriteString("WRONG NUMBER ")
		}
		if i > 0 {
			b.WriteString(" | ")
		}
		b.WriteString(strings.ToLower(string(l.Name)) + ": " + string(l.Value))
	}
	return b.String()
}

// table makes a table with one virtual host for all domains.
func table(t testing.TB, o Options, vh *VirtualHost) *Table {
	t.Helper()
	b := NewBuilder(o)
	if err := b.Add(vh, []string{"*"}); err != nil {
		t.Fatal(err)
	}
	return b.Table()
}

// forwardRoute is a route for everything to one cluster.
func forwardRoute(cluster string) Route {
	return Route{Kind: Forward, Match: under("/"), Targets: []Target{{Cluster: named(cluster), Weight: 1}}}
}

// under is the criterion of a path prefix.
func under(prefix string) Criteria {
	return Criteria{Path: match.NewPath(match.PathPrefix, prefix, false)}
}

func headerIs(name, value string) filter.HeaderMatcher {
	return filter.NewHeaderMatcher(match.NewHeaderString(name, match.NewString(match.Exact, value, false), match.HeaderOption{}))
}

// ops makes header operations: "-name" removes, "+name: v" appends,
// "?name: v" adds if absent, "=name: v" overwrites or adds, "!name: v"
// overwrites what exists; a '~' behind the sign keeps an empty value.
func ops(t testing.TB, list ...string) *HeaderOps {
	t.Helper()
	o := &HeaderOps{}
	for _, s := range list {
		sign, rest := s[0], s[1:]
		if sign == '-' {
			if err := o.Remove(rest); err != nil {
				t.Fatal(err)
			}
			continue
		}
		rest, keepEmpty := strings.CutPrefix(rest, "~")
		name, value, _ := strings.Cut(rest, ": ")
		action := map[byte]HeaderAction{'+': AppendOrAdd, '?': AddIfAbsent, '=': OverwriteOrAdd, '!': OverwriteIfExists}[sign]
		if err := o.Set(name, value, action, keepEmpty); err != nil {
			t.Fatal(err)
		}
	}
	return o
}
