// SPDX-License-Identifier: Apache-2.0

package router

import (
	"fmt"
	"strings"
	"testing"

	"pillion/proxy/http"
	"pillion/proxy/match"
	"pillion/proxy/proxytest"
)

// TestHeaderOps holds what Envoy 1.40 did with the same operations.
func TestHeaderOps(t *testing.T) {
	for _, c := range []struct{ name, ops, fields, want string }{
		{"append", "+X-A: new", "x-a: 1 | b: 2 | X-A: 3", "x-a: 1 | b: 2 | x-a: 3 | x-a: new"},
		{"append to none", "+X-A: new", "b: 2", "b: 2 | x-a: new"},
		{"if absent", "?x-a: new", "b: 2", "b: 2 | x-a: new"},
		{"if absent, but it is there", "?x-a: new", "X-A: 1", "x-a: 1"},
		{"overwrite", "=x-a: new", "X-A: 1 | b: 2 | x-a: 3", "x-a: new | b: 2"},
		{"overwrite none", "=x-a: new", "b: 2", "b: 2 | x-a: new"},
		{"overwrite if it exists", "!x-a: new", "X-A: 1", "x-a: new"},
		{"overwrite if it exists, but it does not", "!x-a: new", "b: 2", "b: 2"},
		{"remove", "-X-A", "x-a: 1 | b: 2 | X-A: 3", "b: 2"},
		{"remove a known one", "-User-Agent", "user-agent: 1 | b: 2", "b: 2"},
		{"removed before values are read", "-x-a;+x-b: %REQ(x-a)%;?x-a: n", "x-a: 1", "x-a: n"},
		{"values are read before anything is set", "+x-a: 1;+x-a: %REQ(x-a)%2;=x-a: 3", "x-a: 0", "x-a: 3 | x-a: 1 | x-a: 02"},
		{"conditions too", "=x-a: 1;?x-a: 2;!x-b: 3;+x-b: 4", "c: 0", "c: 0 | x-a: 1 | x-a: 2 | x-b: 4"},
		{"empty values are not set", "+x-a: ;=x-e: %REQ(nope)%;+x-d: a%REQ(nope)%b", "x-e: old", "x-e: old | x-d: ab"},
		{"unless they are kept", "+~x-b: ;=~x-f: %REQ(nope)%", "x-f: old", "x-f:  | x-b: "},
	} {
		ex := exchange("GET h /p", strings.Split(c.fields, " | ")...)
		ops(t, strings.Split(c.ops, ";")...).apply(&ex.Req.Fields, ex, false)
		if got := lines(&ex.Req.Fields); got != c.want {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
	}
	var none *HeaderOps
	ex := exchange("GET h /p", "a: 1")
	none.apply(&ex.Req.Fields, ex, false)
	if got := lines(&ex.Req.Fields); got != "a: 1" {
		t.Errorf("no operations make %s", got)
	}
}

func TestManyHeaderOps(t *testing.T) {
	var list []string
	for i := range 2 * maxInline {
		list = append(list, fmt.Sprintf("+x-%d: %%REQ(a)%%", i))
	}
	ex := exchange("GET h /p", "a: 1")
	ops(t, list...).apply(&ex.Req.Fields, ex, false)
	if n := ex.Req.Fields.Len(); n != 2*maxInline+1 {
		t.Errorf("%d lines", n)
	}
}

func TestHeaderOpsRefused(t *testing.T) {
	o := &HeaderOps{}
	for name, want := range map[string]string{":path": "is not a header", "Host": "use host_rewrite_literal", "": "is not a header name",
		"x y": "is not a header name", "Content-Length": "frames the message", "transfer-encoding": "frames the message"} {
		if err := o.Remove(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("removal of %q: %v, want %q", name, err, want)
		}
		if err := o.Set(name, "v", AppendOrAdd, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("setting of %q: %v, want %q", name, err, want)
		}
	}
	for _, name := range []string{"Connection", "upgrade", "Keep-Alive", "proxy-connection"} {
		if err := o.Set(name, "v", AppendOrAdd, false); err == nil || !strings.Contains(err.Error(), "one connection") {
			t.Errorf("setting of %q: %v", name, err)
		}
	}
	for _, value := range []string{"a\r\nb: c", "\x00", "\x7f", "%NOPE%"} {
		if err := o.Set("x", value, AppendOrAdd, false); err == nil {
			t.Errorf("the value %q is accepted", value)
		}
	}
}

// TestLevels holds Envoy's order of the levels: of the target, the route, the
// virtual host and the table.
func TestLevels(t *testing.T) {
	level := func(name string) MessageOps {
		return MessageOps{Request: ops(t, "+x: "+name+" %REQ(:authority)%"), Response: ops(t, "+y: "+name)}
	}
	for _, c := range []struct {
		specific      bool
		request, resp string
	}{
		{false, "x: target h | x: route t.host | x: vhost t.host | x: table t.host", "y: target | y: route | y: vhost | y: table"},
		{true, "x: target h | x: table t.host | x: vhost t.host | x: route t.host", "y: target | y: table | y: vhost | y: route"},
	} {
		r := forwardRoute("a")
		r.Ops, r.Targets[0].Ops, r.Targets[0].HostRewrite = level("route"), level("target"), []byte("t.host")
		r.Rewrite = &Rewrite{Prefix: []byte("/n")}
		vh := &VirtualHost{Ops: level("vhost"), Routes: []Route{r}}
		tab := table(t, Options{Ops: level("table"), MostSpecificWins: c.specific, SuppressEnvoyHeaders: true}, vh)
		ex := exchange("GET h /p")
		_, route := tab.Match(&ex.Req, 0)
		target := route.Target(0)
		route.ApplyRequest(ex, target)
		route.ApplyResponse(ex, target)
		if got := lines(&ex.Req.Fields); got != c.request {
			t.Errorf("request: %s\nwant %s", got, c.request)
		}
		if got := lines(&ex.Resp.Fields); got != c.resp {
			t.Errorf("response: %s\nwant %s", got, c.resp)
		}
		if string(ex.Req.Authority) != "t.host" || string(ex.Req.Path) != "/np" || string(ex.OriginalPath) != "/p" {
			t.Errorf("the request goes to %s%s, it was for %s", ex.Req.Authority, ex.Req.Path, ex.OriginalPath)
		}
	}
}

func rewriteOf(t testing.TB, pattern, sub string) *match.Rewrite {
	t.Helper()
	rw, _, err := match.NewRewrite(pattern, sub)
	if err != nil {
		t.Fatal(err)
	}
	return rw
}

// TestRewritePath holds what Envoy 1.40 made of the same paths.
func TestRewritePath(t *testing.T) {
	pattern, err := match.NewRegex("/o.*")
	if err != nil {
		t.Fatal(err)
	}
	path := func(k match.PathKind, v string, fold bool) match.Path { return match.NewPath(k, v, fold) }
	for _, c := range []struct {
		on       match.Path
		to       Rewrite
		in, want string
	}{
		{path(match.PathPrefix, "/old", false), Rewrite{Prefix: []byte("/n")}, "/old", "/n"},
		{path(match.PathPrefix, "/old", false), Rewrite{Prefix: []byte("/n")}, "/old/x?y=/old", "/n/x?y=/old"},
		{path(match.PathPrefix, "/old", false), Rewrite{Prefix: []byte("/n")}, "/oldx", "/nx"},
		{path(match.PathPrefix, "/old/", true), Rewrite{Prefix: []byte("/new/")}, "/OLD/x?y", "/new/x?y"},
		{path(match.PathExact, "/old", false), Rewrite{Prefix: []byte("/n")}, "/old?x", "/n?x"},
		{path(match.PathSegments, "/old", false), Rewrite{Prefix: []byte("/")}, "/old/x", "//x"},
		{path(match.PathSegments, "/old", false), Rewrite{Prefix: []byte("/")}, "/old?x", "/?x"},
		{match.NewPathPattern(pattern), Rewrite{Prefix: []byte("/n")}, "/old/x?y=1", "/n?y=1"},
		{path(match.PathPrefix, "/a", false), Rewrite{Prefix: []byte("/a?b")}, "/a?q", "/a?b?q"},
		{path(match.PathPrefix, "/", false), Rewrite{Pattern: rewriteOf(t, "/a(.*?)/", `/b\1\0\\/`)}, "/ax/ay/?q=/a/", `/bx/ax/\/ay/?q=/a/`},
		{path(match.PathPrefix, "/", false), Rewrite{Pattern: rewriteOf(t, "z", "y")}, "/none", "/none"},
		{path(match.PathPrefix, "/", false), Rewrite{Pattern: rewriteOf(t, "^/", "")}, "//a", "/a"},
		{path(match.PathPrefix, "/", false), Rewrite{Pattern: rewriteOf(t, "^/", "")}, "/a?b", "a?b"},
	} {
		r := forwardRoute("a")
		r.Match.Path, r.Rewrite = c.on, &c.to
		tab := table(t, Options{}, &VirtualHost{Routes: []Route{r}})
		ex := exchange("GET h "+c.in, "x-envoy-original-path: /evil")
		_, route := tab.Match(&ex.Req, 0)
		route.ApplyRequest(ex, route.Target(0))
		if got := string(ex.Req.Path); got != c.want || string(ex.OriginalPath) != c.in {
			t.Errorf("%s becomes %s of %s, want %s", c.in, got, ex.OriginalPath, c.want)
		}
		if got := lines(&ex.Req.Fields); got != "x-envoy-original-path: "+c.in {
			t.Errorf("%s: %s", c.in, got)
		}
	}
}

// A rewrite to nothing is not made, and leaves no trace (Envoy 1.40).
func TestRewriteToNothing(t *testing.T) {
	r := forwardRoute("a")
	r.Rewrite = &Rewrite{Pattern: rewriteOf(t, "^/", "")}
	tab := table(t, Options{}, &VirtualHost{Routes: []Route{r}})
	for _, path := range []string{"/", "/?b"} {
		ex := exchange("GET h " + path)
		_, route := tab.Match(&ex.Req, 0)
		route.ApplyRequest(ex, route.Target(0))
		if string(ex.Req.Path) != path || ex.OriginalPath != nil || ex.Req.Fields.Len() != 0 {
			t.Errorf("%s becomes %s, with %s", path, ex.Req.Path, lines(&ex.Req.Fields))
		}
	}
}

// TestRewriteHost holds what Envoy 1.40 did.
func TestRewriteHost(t *testing.T) {
	for _, c := range []struct {
		name, target, route string
		forwarded, suppress bool
		fields              string
		host, want          string
	}{
		{"route", "", "new:99", false, false, "", "new:99", "x-envoy-original-host: h.com:81"},
		{"suppressed", "", "new", false, true, "", "new", ""},
		{"forged", "", "new", false, false, "x-envoy-original-host: evil", "new", "x-envoy-original-host: h.com:81"},
		{"forwarded", "", "new", true, true, "", "new", "x-forwarded-host: h.com:81"},
		{"forwarded on", "", "new", true, true, "x-forwarded-host: a", "new", "x-forwarded-host: a,h.com:81"},
		{"forwarded again", "", "new", true, true, "x-forwarded-host: h.com:81", "new", "x-forwarded-host: h.com:81"},
		{"forwarded from two", "", "new", true, true, "x-forwarded-host: a | x-forwarded-host: b", "new", "x-forwarded-host: a,b,h.com:81"},
		{"forwarded from itself", "", "new", true, true, "x-forwarded-host: a | x-forwarded-host: b, h.com:81", "new", "x-forwarded-host: a,b, h.com:81"},
		{"nothing to forward", "", "", true, false, "", "h.com:81", ""},
		{"target", "t", "", true, false, "", "t", ""},
		{"target and route", "t", "r", true, false, "", "r", "x-envoy-original-host: t | x-forwarded-host: t"},
	} {
		r := forwardRoute("a")
		r.Rewrite = &Rewrite{AppendForwardedHost: c.forwarded}
		if c.route != "" {
			r.Rewrite.Host = []byte(c.route)
		}
		if c.target != "" {
			r.Targets[0].HostRewrite = []byte(c.target)
		}
		tab := table(t, Options{SuppressEnvoyHeaders: c.suppress}, &VirtualHost{Routes: []Route{r}})
		ex := exchange("GET h.com:81 /")
		if c.fields != "" {
			addLines(&ex.Req.Fields, strings.Split(c.fields, " | "))
		}
		_, route := tab.Match(&ex.Req, 0)
		route.ApplyRequest(ex, route.Target(0))
		if got := lines(&ex.Req.Fields); got != c.want || string(ex.Req.Authority) != c.host {
			t.Errorf("%s: to %s with %s\nwant %s", c.name, ex.Req.Authority, got, c.want)
		}
	}
}

// TestRedirect holds the Location that Envoy 1.40 made.
func TestRedirect(t *testing.T) {
	on := under("/")
	old := under("/old")
	for _, c := range []struct {
		l          Location
		on         *Criteria
		host, path string
		proto      string
		want       string
	}{
		{Location{}, &on, "h.com:81", "/p?q=1", "", "http://h.com:81/p?q=1"},
		{Location{Path: "/new"}, &on, "h.com:81", "/p?q=1", "", "http://h.com:81/new?q=1"},
		{Location{Path: "/new?z"}, &on, "h.com:81", "/p?q=1", "", "http://h.com:81/new?z"},
		{Location{Path: "/x"}, &on, "h.com", "/a", "https", "https://h.com/x"},
		{Location{Host: "o.com"}, &on, "h.com:81", "/p?q=1", "", "http://o.com/p?q=1"},
		{Location{Host: "o.com"}, &on, "[::1]:80", "/", "", "http://o.com/"},
		{Location{Host: "o.com:99"}, &on, "h.com:81", "/", "", "http://o.com:99/"},
		{Location{Port: 8000}, &on, "h.com:81", "/", "", "http://h.com:8000/"},
		{Location{Port: 8000}, &on, "[::1]", "/", "", "http://[::1]:8000/"},
		{Location{Port: 80}, &on, "h.com", "/", "", "http://h.com:80/"},
		{Location{Host: "o.com", Port: 8443}, &on, "h.com:81", "/", "", "http://o.com:8443/"},
		{Location{Scheme: "https"}, &on, "h.com:81", "/", "", "https://h.com:81/"},
		{Location{Scheme: "https"}, &on, "h.com:80", "/", "", "https://h.com/"},
		{Location{Scheme: "https"}, &on, "h.com:443", "/", "", "https://h.com:443/"},
		{Location{Scheme: "https"}, &on, "[::1]:80", "/", "", "https://[::1]/"},
		{Location{Scheme: "https", Port: 443}, &on, "h.com:81", "/", "", "https://h.com:443/"},
		{Location{Scheme: "http"}, &on, "h.com:443", "/", "https", "http://h.com/"},
		{Location{Scheme: "http"}, &on, "h.com:80", "/", "https", "http://h.com:80/"},
		{Location{StripQuery: true}, &on, "h.com:81", "/p?q=1", "", "http://h.com:81/p"},
		{Location{StripQuery: true, Path: "/n"}, &on, "h", "/p?q=1", "", "http://h/n"},
		{Location{StripQuery: true, Path: "/n?z"}, &on, "h", "/p?q=1", "", "http://h/n?z"},
		{Location{Prefix: []byte("/n")}, &old, "h", "/old/x?y=1", "", "http://h/n/x?y=1"},
		{Location{Prefix: []byte("/n"), StripQuery: true}, &old, "h", "/old/x?y=1", "", "http://h/n/x"},
		{Location{Pattern: rewriteOf(t, "/a(.*)", `/b\1`)}, &on, "h", "/ax?y=1", "", "http://h/bx?y=1"},
	} {
		tab := table(t, Options{}, &VirtualHost{Routes: []Route{{Kind: Redirect, Match: *c.on, Reply: &Reply{Status: 302, Location: c.l}}}})
		ex := exchange("GET " + c.host + " " + c.path)
		if c.proto != "" {
			addLines(&ex.Req.Fields, []string{"x-forwarded-proto: " + c.proto})
		}
		_, route := tab.Match(&ex.Req, 0)
		status, body := route.Direct(ex)
		if got := lines(&ex.Resp.Fields); status != 302 || body != "" || got != "location: "+c.want {
			t.Errorf("%+v of %s%s: %d %s\nwant %s", c.l, c.host, c.path, status, got, c.want)
		}
		if rewrites := c.l.Prefix != nil || c.l.Pattern != nil; rewrites != (ex.OriginalPath != nil) {
			t.Errorf("%+v: the path was %q", c.l, ex.OriginalPath)
		}
	}
}

func TestDirectResponse(t *testing.T) {
	for status, want := range map[int]string{418: "", 304: "location: http://h/p"} {
		r := Route{Kind: Direct, Match: under("/"), Reply: &Reply{Status: status, Body: "tea"}, Ops: MessageOps{Response: ops(t, "=location: mine")}}
		if want == "" {
			r.Ops.Response = nil
		}
		tab := table(t, Options{}, &VirtualHost{Routes: []Route{r}})
		ex := exchange("GET h /p")
		_, route := tab.Match(&ex.Req, 0)
		gotStatus, body := route.Direct(ex)
		if got := lines(&ex.Resp.Fields); gotStatus != status || body != "tea" || got != want {
			t.Errorf("%d %q %s, want %d %s", gotStatus, body, got, status, want)
		}
		route.ApplyResponse(ex, nil)
		if got := lines(&ex.Resp.Fields); want != "" && got != "location: mine" {
			t.Errorf("after the operations: %s", got)
		}
	}
}

// busy is a route that uses everything that changes requests but regular
// expressions, whose engine allocates.
func busy(t testing.TB) *Table {
	r := forwardRoute("a")
	r.Rewrite = &Rewrite{Prefix: []byte("/api/"), Host: []byte("a.default.svc.cluster.local"), AppendForwardedHost: true}
	r.Ops = MessageOps{
		Request:  ops(t, "-x-internal", "=x-client: %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "+x-route: reviews", "?x-path: %REQ(:path)%"),
		Response: ops(t, "-server", "+x-served-by: %UPSTREAM_HOST%"),
	}
	return table(t, Options{}, &VirtualHost{Routes: []Route{r}})
}

func TestApplyAllocatesNothing(t *testing.T) {
	tab := busy(t)
	ex := browser("h")
	saved := http.Fields{}
	saved.CopyFrom(&ex.Req.Fields)
	head := ex.Req
	conn := ex.Conn
	proxytest.NoAllocs(t, "ApplyRequest and ApplyResponse", func() {
		ex.Reset()
		ex.Conn = conn
		ex.Req.Fields.CopyFrom(&saved)
		ex.Req.Authority, ex.Req.Path, ex.Req.Scheme = head.Authority, head.Path, head.Scheme
		_, r := tab.Match(&ex.Req, 0)
		target := r.Target(0)
		r.ApplyRequest(ex, target)
		r.ApplyResponse(ex, target)
	})
	if !strings.Contains(lines(&ex.Req.Fields), "x-path: /reviews/7?full=1") {
		t.Errorf("the request has %s", lines(&ex.Req.Fields))
	}
}

func TestRedirectAllocatesNothing(t *testing.T) {
	tab := table(t, Options{}, &VirtualHost{Routes: []Route{{Kind: Redirect, Match: under("/"),
		Reply: &Reply{Status: 301, Location: Location{Scheme: "https", Host: "o.com", Port: 8443, Prefix: []byte("/x")}}}}})
	ex := browser("h")
	path := ex.Req.Path
	_, r := tab.Match(&ex.Req, 0)
	conn, scheme := ex.Conn, ex.Req.Scheme
	proxytest.NoAllocs(t, "Direct", func() {
		ex.Reset()
		ex.Conn, ex.Req.Path, ex.Req.Scheme = conn, path, scheme
		r.Direct(ex)
	})
}

func BenchmarkApplyRequest(b *testing.B) {
	tab := busy(b)
	ex := browser("h")
	var saved http.Fields
	saved.CopyFrom(&ex.Req.Fields)
	host, path, conn := ex.Req.Authority, ex.Req.Path, ex.Conn
	b.ReportAllocs()
	for b.Loop() {
		ex.Reset()
		ex.Conn, ex.Req.Authority, ex.Req.Path = conn, host, path
		ex.Req.Fields.CopyFrom(&saved)
		_, r := tab.Match(&ex.Req, 0)
		r.ApplyRequest(ex, r.Target(0))
	}
}
