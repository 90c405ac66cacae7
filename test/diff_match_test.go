// SPDX-License-Identifier: Apache-2.0

package test

// matchCases are the ways to choose a virtual host and a route.
func matchCases() []diffCase {
	// to is a case on the host app that has to take a route.
	to := func(name, route, origin, method, target string, fields ...string) diffCase {
		return diffCase{name: name, raw: request(method, "app", target, fields...), status: 200, route: route, origin: origin, target: target}
	}
	cases := []diffCase{
		to("uri exact", "uri-exact", "v2", "GET", "/exact"),
		to("uri exact with query", "uri-exact", "v2", "GET", "/exact?a=b&c"),
		to("uri exact is no prefix", "fallback", "v1", "GET", "/exact/more"),
		to("uri exact minds case", "fallback", "v1", "GET", "/EXACT"),
		to("uri prefix", "uri-prefix", "v2", "GET", "/prefix/some/where"),
		to("uri prefix itself", "uri-prefix", "v2", "GET", "/prefix/"),
		to("uri prefix without its slash", "fallback", "v1", "GET", "/prefix"),
		to("uri prefix doesn't look into the query", "fallback", "v1", "GET", "/other?/prefix/"),
		to("uri regex", "uri-regex", "v2", "GET", "/regex/42"),
		to("uri regex with query", "uri-regex", "v2", "GET", "/regex/42?x=y"),
		to("uri regex matches the whole path", "fallback", "v1", "GET", "/regex/42/more"),
		to("uri regex doesn't match", "fallback", "v1", "GET", "/regex/forty"),
		to("uri exact without case", "nocase-exact", "v2", "GET", "/nocase/EXACT"),
		to("uri exact without case, with query", "nocase-exact", "v2", "GET", "/nocase/exact?Q"),
		to("uri prefix without case", "nocase-prefix", "v2", "GET", "/NOCASE/prefix/x"),
		to("method exact", "method-exact", "v2", "PUT", "/method", "content-length: 0"),
		to("method regex", "method-regex", "v1", "DELETE", "/method"),
		to("method regex, second branch", "method-regex", "v1", "PATCH", "/method", "content-length: 0"),
		to("method of no route", "fallback", "v1", "GET", "/method"),
		to("header exact", "header-exact", "v2", "GET", "/header", "x-exact: one"),
		to("header exact, name in capitals", "header-exact", "v2", "GET", "/header", "X-EXACT: one"),
		to("header exact with spaces around", "header-exact", "v2", "GET", "/header", "x-exact:   one \t"),
		to("header exact minds case", "fallback", "v1", "GET", "/header", "x-exact: One"),
		to("header exact is no prefix", "fallback", "v1", "GET", "/header", "x-exact: one1"),
		to("header exact, one of two lines", "header-exact", "v2", "GET", "/header", "x-exact: one", "x-exact: two"),
		to("header exact, the second of two lines", "header-exact", "v2", "GET", "/header", "x-exact: two", "x-exact: one"),
		to("header exact, neither of two lines", "fallback", "v1", "GET", "/header", "x-exact: two", "x-exact: three"),
		to("header exact, two values on a line", "fallback", "v1", "GET", "/header", "x-exact: one, two"),
		to("header prefix", "header-prefix", "v1", "GET", "/header", "x-prefix: two and more"),
		to("header regex", "header-regex", "v2", "GET", "/header", "x-regex: abcz"),
		to("header regex matches the whole value", "fallback", "v1", "GET", "/header", "x-regex: abczy"),
		to("header present", "header-present", "v1", "GET", "/header", "x-present: anything"),
		to("header present but empty", "header-present", "v1", "GET", "/header", "x-present:"),
		to("header absent", "fallback", "v1", "GET", "/header"),
		to("first match wins", "header-exact", "v2", "GET", "/header", "x-present: 1", "x-regex: az", "x-exact: one"),
		to("without headers", "without-exact", "v2", "GET", "/without"),
		to("without headers, another value", "without-exact", "v2", "GET", "/without", "x-exact: two"),
		to("without headers, the value", "fallback", "v1", "GET", "/without", "x-exact: one"),
		to("without headers, the name", "fallback", "v1", "GET", "/without", "x-present: 1"),
		to("query exact", "query-exact", "v2", "GET", "/query?q=one"),
		to("query exact among others", "query-exact", "v2", "GET", "/query?a=b&q=one&c=d"),
		to("query exact, first of two", "query-exact", "v2", "GET", "/query?q=one&q=two"),
		to("query exact, second of two", "fallback", "v1", "GET", "/query?q=two&q=one"),
		to("query exact, escaped", "fallback", "v1", "GET", "/query?q=%6fne"),
		to("query exact is no prefix", "fallback", "v1", "GET", "/query?q=one1"),
		to("query name is no suffix", "fallback", "v1", "GET", "/query?xq=one"),
		to("query without a value", "fallback", "v1", "GET", "/query?q"),
		to("query regex", "query-regex", "v1", "GET", "/query?r=123"),
		to("query regex matches the whole value", "fallback", "v1", "GET", "/query?r=123x"),
		to("query prefix", "query-prefix", "v2", "GET", "/query?p=prefix"),
		to("all of many", "all-of", "v2", "GET", "/all?q=one", "x-a: 1", "x-b: 2"),
		to("all of many but one", "fallback", "v1", "GET", "/all?q=one", "x-a: 1", "x-b: 3"),
		to("any of two, the first", "any-of", "v2", "GET", "/any/one"),
		to("any of two, the second", "any-of", "v2", "GET", "/any/two", "x-a: 1"),
		to("any of two, half of the second", "fallback", "v1", "GET", "/any/two"),
		to("source labels", "source-labels", "v2", "GET", "/source/labels"),
		to("source labels of someone else", "fallback", "v1", "GET", "/source/other"),
		to("source namespace", "source-namespace", "v2", "GET", "/source/namespace"),
		to("source namespace of someone else", "fallback", "v1", "GET", "/source/stranger"),
		to("port of another listener", "fallback", "v1", "GET", "/port"),
		to("gateways", "gateways-mesh", "v1", "GET", "/gateway"),
	}
	return append(cases, hostCases()...)
}

// hostCases are the names under which a service goes.
func hostCases() []diffCase {
	const fqdn = "app.default.svc.cluster.local"
	found := func(name, host, route, origin, target string) diffCase {
		return diffCase{name: name, raw: request("GET", host, target), status: 200, route: route, origin: origin, host: host}
	}
	return []diffCase{
		found("host short", "app", "uri-exact", "v2", "/exact"),
		found("host with namespace", "app.default", "uri-exact", "v2", "/exact"),
		found("host with svc", "app.default.svc", "uri-exact", "v2", "/exact"),
		found("host in full", fqdn, "uri-exact", "v2", "/exact"),
		found("host short with port", "app:80", "uri-exact", "v2", "/exact"),
		found("host in full with port", fqdn+":80", "uri-exact", "v2", "/exact"),
		found("host with second port", "app:8080", "port", "v2", "/port"),
		found("host in capitals", "APP", "uri-exact", "v2", "/exact"),
		found("host without a virtual service", "plain", "", "v1", "/"),
		found("host of another namespace", "remote.other", "", "v2", "/"),
		found("host outside of the mesh's domain", "api.example.com", "", "v2", "/"),
		found("host of a virtual service only", "partial.example.com", "known", "v1", "/known"),
		found("host by wildcard", "any.wild.example.com", "known", "v1", "/known/more"),
		found("host by wildcard, two labels", "a.b.wild.example.com", "known", "v1", "/known"),
		found("authority exact", "app:80", "authority-exact", "v1", "/authority"),
		found("authority prefix", fqdn, "authority-prefix", "v2", "/authority"),
		found("authority of no route", "app.default", "fallback", "v1", "/authority"),
		{name: "no route", raw: request("GET", "partial.example.com", "/unknown"), status: 404},
		{name: "no route, wildcard", raw: request("GET", "x.wild.example.com", "/unknown"), status: 404},
		{name: "no route, HEAD", raw: request("HEAD", "partial.example.com", "/unknown"), status: 404},
		{name: "no route, POST with a body", raw: requestWithBody("POST", "partial.example.com", "/unknown", "body", "content-length: 4"), status: 404},
	}
}

// strangerCases are hosts outside of the mesh, which may be reached by their
// addresses.
func (lab *diffLab) strangerCases() []diffCase {
	return []diffCase{
		{name: "stranger by address", raw: request("GET", lab.elsewhere, "/any?q=1"), status: 200, origin: "v1", target: "/any?q=1", host: lab.elsewhere},
		{name: "stranger in absolute form", raw: request("GET", lab.elsewhere, "http://"+lab.elsewhere+"/any"), status: 200, origin: "v1", target: "/any", host: lab.elsewhere},
		{name: "stranger that fails", raw: request("GET", lab.elsewhere, "/", "x-reply: 503"), status: 503, origin: "v1"},
		{name: "stranger's name that doesn't resolve", raw: request("GET", "nowhere.invalid", "/"), status: 503},
	}
}
