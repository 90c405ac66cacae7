// SPDX-License-Identifier: Apache-2.0

package router

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pillion/proxy/http"
	"pillion/proxy/match"
	"pillion/proxy/proxytest"
)

// hosts makes a table of virtual hosts, "name=domain,domain".
func hosts(t testing.TB, o Options, list ...string) *Table {
	t.Helper()
	b := NewBuilder(o)
	for _, s := range list {
		name, domains, _ := strings.Cut(s, "=")
		if err := b.Add(&VirtualHost{Name: name}, strings.Split(domains, ",")); err != nil {
			t.Fatal(err)
		}
	}
	return b.Table()
}

// TestVirtualHost holds the order and the corner cases of a running Envoy
// 1.40 with the same domains.
func TestVirtualHost(t *testing.T) {
	domains := []string{"exact=foo.com,UP.com,withport:80,[::1]", "suf=*.foo.com,*-x.foo.com", "long=*.a.foo.com", "pre=foo.*,foo-*", "star=*"}
	with := hosts(t, Options{}, domains...)
	without := hosts(t, Options{IgnorePort: true}, domains...)
	for _, c := range []struct{ host, with, without string }{
		{"foo.com", "exact", "exact"}, {"FOO.com", "exact", "exact"}, {"up.com", "exact", "exact"},
		{"foo.com:80", "pre", "exact"}, {"foo.com:", "pre", "exact"}, {"foo.com:abc", "pre", "exact"},
		{"withport:80", "exact", "star"}, {"withport", "star", "star"},
		{"a.foo.com", "long-or-suf", "long-or-suf"}, {"b.a.foo.com", "long", "long"}, {".foo.com", "star", "star"},
		{"a-x.foo.com", "suf", "suf"}, {"-x.foo.com", "suf", "suf"},
		{"foo.", "star", "star"}, {"foo.a", "pre", "pre"}, {"foo.a:80", "pre", "pre"}, {"foo-", "star", "star"}, {"foo-b", "pre", "pre"},
		{"[::1]", "exact", "exact"}, {"[::1]:80", "star", "exact"},
		{"foo.com.", "pre", "pre"}, {"a.foo.com.", "star", "star"}, {"zzz", "star", "star"}, {"", "star", "star"},
		{strings.Repeat("x", 1000) + ".foo.com", "suf", "suf"}, {"FOO." + strings.Repeat("x", 1000), "pre", "pre"},
	} {
		for tab, want := range map[*Table]string{with: c.with, without: c.without} {
			if want == "long-or-suf" {
				want = "suf" // "*.a.foo.com" needs something in front of the dot
			}
			vh, route := tab.Match(&exchange("GET "+c.host+" /").Req, 0)
			if route != nil || vh.Name != want {
				t.Errorf("%.40q: %s, want %s", c.host, vh.Name, want)
			}
		}
	}
	if vh, _ := hosts(t, Options{}, "a=a").Match(&exchange("GET b /").Req, 0); vh != nil {
		t.Errorf("an unknown host is that of %s", vh.Name)
	}
}

func TestDomainsRefused(t *testing.T) {
	for _, c := range []struct{ first, second, want string }{
		{"x", "X", `domain "X" is that of another`},
		{"*", "*", `domain "*" is that of another`},
		{"*.a", "*.A", `domain "*.A" is that of another`},
		{"a.*", "a.*", `domain "a.*" is that of another`},
		{"a", "b\n", `holds the character '\n'`},
		{"a", strings.Repeat("b", 300), "is longer than 264 octets"},
	} {
		b := NewBuilder(Options{})
		if err := b.Add(&VirtualHost{}, []string{c.first}); err != nil {
			t.Fatal(err)
		}
		err := b.Add(&VirtualHost{}, []string{"fine", c.second})
		if de, ok := err.(*DomainError); !ok || de.Index != 1 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %s: %v, want %q", c.first, c.second, err, c.want)
		}
	}
}

func TestFirstRouteWins(t *testing.T) {
	route := func(name string, m Criteria) Route { return Route{Name: name, Match: m} }
	jason := under("/reviews")
	jason.Headers = append(jason.Headers, headerIs("end-user", "jason"))
	asked := under("/")
	asked.Queries = append(asked.Queries, match.NewQueryString("v", match.NewString(match.Exact, "2", false)))
	grpc := under("/")
	grpc.GRPC = true
	some := under("/")
	some.Fraction = match.Fraction{Numerator: 25, Denominator: 100}
	tab := table(t, Options{IgnorePathParameters: true}, &VirtualHost{Name: "v", Routes: []Route{
		route("jason", jason), route("asked", asked), route("grpc", grpc),
		route("exact", Criteria{Path: match.NewPath(match.PathExact, "/x", false)}), route("some", some), route("rest", under("/")),
	}})
	for _, c := range []struct {
		ex     *http.Exchange
		random uint64
		want   string
	}{
		{exchange("GET h /reviews/1", "End-User: jason"), 99, "jason"},
		{exchange("GET h /ratings/1", "End-User: jason"), 99, "rest"},
		{exchange("GET h /reviews?v=2", "end-user: kate"), 99, "asked"},
		{exchange("POST h /", "content-type: application/grpc"), 99, "grpc"},
		{exchange("POST h /", "content-type: application/grpc+proto"), 99, "grpc"},
		{exchange("POST h /", "content-type: application/grpc-web"), 99, "rest"},
		{exchange("GET h /x"), 99, "exact"},
		{exchange("GET h /x;a=b?c"), 99, "exact"},
		{exchange("GET h /x/"), 24, "some"},
		{exchange("GET h /x/"), 125, "rest"},
		{exchange("OPTIONS h *"), 0, ""},
	} {
		vh, r := tab.Match(&c.ex.Req, c.random)
		got := ""
		if r != nil {
			got = r.Name
			if r.VirtualHost() != vh {
				t.Errorf("%s is of another virtual host", got)
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.ex.Req.Path, got, c.want)
		}
	}
}

func TestExplain(t *testing.T) {
	jason := under("/reviews")
	jason.Headers = append(jason.Headers, headerIs("end-user", "jason"))
	some := under("/reviews")
	some.Fraction = match.Fraction{Numerator: 1, Denominator: 100}
	tab := table(t, Options{}, &VirtualHost{Name: "v", Routes: []Route{
		{Name: "ratings", Match: under("/ratings")}, {Name: "jason", Match: jason}, {Name: "some", Match: some},
		{Name: "rest", Match: under("/")}, {Name: "never", Match: under("/")},
	}})
	vh, all := tab.Explain(&exchange("GET h /reviews/1", "end-user: kate").Req, 50)
	var got []string
	for _, v := range all {
		got = append(got, v.Route.Name+": "+v.Why)
	}
	want := []string{
		`ratings: "/reviews/1" fails path prefix "/ratings"`,
		`jason: "kate" fails header "end-user" exact "jason"`,
		`some: not among the 1 of 100 requests taken`,
		`rest: `,
	}
	if vh.Name != "v" || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("explained by\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRequireTLS(t *testing.T) {
	vh := &VirtualHost{Name: "v", RequireTLS: TLSAll, Routes: []Route{forwardRoute("a")}, Ops: MessageOps{Response: ops(t, "+x: y")}}
	tab := table(t, Options{}, vh)
	ex := exchange("GET h.com:80 /a?b")
	_, r := tab.Match(&ex.Req, 0)
	if r.Kind != Redirect {
		t.Fatal("it passes without TLS")
	}
	status, body := r.Direct(ex)
	r.ApplyResponse(ex, nil)
	if got := fmt.Sprint(status, body, lines(&ex.Resp.Fields)); got != "301location: https://h.com:80/a?b" && got != "301 location: https://h.com:80/a?b" {
		t.Errorf("the answer is %s", got)
	}
	if _, all := tab.Explain(&ex.Req, 0); len(all) != 1 || all[0].Route != r {
		t.Error("Explain says something else")
	}
	for fields, forwarded := range map[string]bool{"x-forwarded-proto: https": true, "x-forwarded-proto: http": false, "x-envoy-internal: true": false} {
		if _, r := tab.Match(&exchange("GET h /", fields).Req, 0); (r.Kind == Forward) != forwarded {
			t.Errorf("%s: forwarded %t, want %t", fields, !forwarded, forwarded)
		}
	}
	vh.RequireTLS = TLSExternal
	if _, r := tab.Match(&exchange("GET h /", "x-envoy-internal: true").Req, 0); r.Kind != Forward {
		t.Error("an internal request is redirected")
	}
	if _, r := tab.Match(&exchange("GET h /").Req, 0); r.Kind != Redirect {
		t.Error("an external request passes without TLS")
	}
}

func TestLowerWord(t *testing.T) {
	for c := range 256 {
		src := []byte("........")
		for i := range src {
			src[i] = byte(c)
			var fast [8]byte
			want := src[i]
			if 'A' <= c && c <= 'Z' {
				want += 'a' - 'A'
			}
			if got := lowerInto(fast[:], src); got[i] != want {
				t.Fatalf("octet %#x at %d becomes %#x", c, i, got[i])
			}
		}
	}
}

// FuzzDomains compares the look-up with one that tries every domain.
func FuzzDomains(f *testing.F) {
	f.Add("a.com,*.a.com,*.b.a.com,a.*,*", "x.b.A.com:80")
	f.Add("*-x,x-*,**,[::1]:80", "[::1]:80")
	f.Add("*", "")
	f.Fuzz(func(t *testing.T, list, host string) {
		b := NewBuilder(Options{})
		var kept []string
		for i, d := range strings.Split(list, ",") {
			if d == "" || b.Add(&VirtualHost{Name: d}, []string{d}) != nil {
				continue
			}
			kept = append(kept, d)
			if i > 50 {
				break
			}
		}
		ex := &http.Exchange{Req: http.RequestHead{Authority: []byte(host)}}
		vh, _ := b.Table().Match(&ex.Req, 0)
		got := ""
		if vh != nil {
			got = vh.Name
		}
		if want := slowDomain(kept, host); got != want {
			t.Errorf("%q among %q: %q, want %q", host, kept, got, want)
		}
	})
}

// slowDomain applies Envoy's order literally: exact, the longest suffix, the
// longest prefix, everything.
func slowDomain(domains []string, host string) (best string) {
	low := func(s string) string {
		b := []byte(s)
		for i, c := range b {
			if 'A' <= c && c <= 'Z' {
				b[i] += 'a' - 'A'
			}
		}
		return string(b)
	}
	rank := 0
	for _, d := range domains {
		n := low(d)
		r := 0
		switch {
		case n == "*":
			r = 1
		case strings.HasPrefix(n, "*"):
			if strings.HasSuffix(low(host), n[1:]) && len(host) > len(n)-1 {
				r = 10_000 + len(n)
			}
		case strings.HasSuffix(n, "*"):
			if strings.HasPrefix(low(host), n[:len(n)-1]) && len(host) > len(n)-1 {
				r = 1_000 + len(n)
			}
		case n == low(host):
			r = 100_000
		}
		if r > rank {
			best, rank = d, r
		}
	}
	return best
}

// mesh is a table as a sidecar has it: n virtual hosts, each under five
// domains, and a route by header in front of the default one.
func mesh(t testing.TB, n int) *Table {
	b := NewBuilder(Options{Name: "9080", IgnorePort: true})
	for i := range n {
		jason := under("/")
		jason.Headers = append(jason.Headers, headerIs("end-user", "jason"))
		vh := &VirtualHost{Name: fmt.Sprintf("svc-%d", i), Routes: []Route{
			{Name: "jason", Match: jason, Targets: []Target{{Cluster: named("v2"), Weight: 1}}},
			{Name: "default", Match: under("/"), Targets: []Target{{Cluster: named("v1"), Weight: 99}, {Cluster: named("v2"), Weight: 1}}},
		}}
		fqdn := fmt.Sprintf("svc-%d.default.svc.cluster.local", i)
		if err := b.Add(vh, []string{fqdn, fqdn + ".", fmt.Sprintf("svc-%d", i), fmt.Sprintf("svc-%d.default", i), fmt.Sprintf("10.1.%d.%d", i/256, i%256)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Add(&VirtualHost{Name: "allow_any", Routes: []Route{forwardRoute("PassthroughCluster")}}, []string{"*"}); err != nil {
		t.Fatal(err)
	}
	return b.Table()
}

// browser is a request as a client of the mesh makes it.
func browser(host string) *http.Exchange {
	return exchange("GET "+host+" /reviews/7?full=1", "user-agent: Mozilla/5.0", "accept: */*", "accept-encoding: gzip",
		"x-request-id: 7d9a4c1e-5b1f-4f0e-9b1a-2d3e4f5a6b7c", "x-forwarded-proto: http", "cookie: session=abc", "x-b3-traceid: 463ac35c9f6413ad",
		"end-user: kate")
}

func TestMatchAllocatesNothing(t *testing.T) {
	tab := mesh(t, 100)
	for _, host := range []string{"svc-7.default.svc.cluster.local:9080", "unknown.example.com"} {
		ex := browser(host)
		var r *Route
		proxytest.NoAllocs(t, "Match of "+host, func() { _, r = tab.Match(&ex.Req, 7) })
		proxytest.NoAllocs(t, "Target", func() { r.Target(7) })
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		tab := mesh(b, n)
		ex := browser("svc-0.default.svc.cluster.local:9080")
		b.Run(fmt.Sprintf("%d hosts", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, r := tab.Match(&ex.Req, 7); r.Name != "default" {
					b.Fatal(r.Name)
				}
			}
		})
	}
	tab := table(b, Options{}, &VirtualHost{Routes: []Route{forwardRoute("a")}})
	ex := browser("h")
	b.Run("one default host", func(b *testing.B) {
		for b.Loop() {
			tab.Match(&ex.Req, 7)
		}
	})
}

func BenchmarkTarget(b *testing.B) {
	r := mesh(b, 1).domains.find([]byte("svc-0")).Routes[1]
	rng := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		r.Target(rng.Uint64())
	}
}
