// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"time"

	"pillion/test/wire"
)

// actionCases are what a route does to a request, or instead of sending it.
func actionCases() []diffCase {
	act := func(name, target string, status int, fields ...string) diffCase {
		return diffCase{name: name, raw: request("GET", "act", target, fields...), status: status}
	}
	sent := func(name, target, want, host string, fields ...string) diffCase {
		c := act(name, target, 200, fields...)
		c.origin, c.target, c.host = "v1", want, host
		return c
	}
	return []diffCase{
		act("redirect path", "/redirect/path", 301),
		act("redirect path keeps the query", "/redirect/path?a=b", 301),
		act("redirect host", "/redirect/host", 301),
		act("redirect host and path", "/redirect/both", 301),
		act("redirect 302", "/redirect/302", 302),
		act("redirect 303", "/redirect/303", 303),
		act("redirect 307", "/redirect/307", 307),
		act("redirect 308", "/redirect/308", 308),
		act("redirect scheme", "/redirect/scheme", 301),
		act("redirect port", "/redirect/port", 301),
		act("redirect derived port", "/redirect/derived", 301),
		act("redirect to a path without a slash", "/redirect/relative", 301),
		act("redirect with another prefix", "/redirect/prefix/rest?q", 301),
		{name: "redirect POST", raw: requestWithBody("POST", "act", "/redirect/307", "body", "content-length: 4"), status: 307},
		{name: "redirect keeps the port", raw: request("GET", "act:80", "/redirect/path"), status: 301},
		act("redirect from https", "/redirect/path", 301, "x-forwarded-proto: https"),

		sent("rewrite prefix", "/rewrite/prefix/a/b?q=1", "/a/b?q=1", "act"),
		sent("rewrite prefix to nothing", "/rewrite/prefix/", "/", "act"),
		sent("rewrite exact", "/rewrite/exact?q=1", "/other?q=1", "act"),
		sent("rewrite host", "/rewrite/host/x", "/rewrite/host/x", "rewritten.example.com"),
		sent("rewrite both", "/rewrite/both/x", "/both/x", "rewritten.example.com:81"),
		sent("rewrite by expression", "/rewrite/regex/one/two/three?q=1", "/two/three/by/one?q=1", "act"),
		sent("rewrite by expression that doesn't match", "/rewrite/regex", "/rewrite/regex", "act"),

		act("direct with a body", "/direct/200", 200),
		act("direct without a body", "/direct/404", 404),
		act("direct 503", "/direct/503", 503),
		act("direct with headers", "/direct/headers", 200),
		{name: "direct to HEAD", raw: request("HEAD", "act", "/direct/200"), status: 200},
		{name: "direct to POST", raw: requestWithBody("POST", "act", "/direct/200", "body", "content-length: 4"), status: 200},

		sent("headers of the route", "/headers/route", "", "act", "x-set: old", "x-add: first", "x-remove: 1", "x-gone: 1", "x-stay: 1", "x-reply: headers"),
		sent("headers of the route, many lines", "/headers/route", "", "act", "x-set: a", "x-set: b", "x-remove: 1", "X-Remove: 2", "x-reply: headers"),
		sent("headers of the route, none there", "/headers/route", "", "act"),
		sent("headers of the destination", "/headers/destination", "", "act", "x-both: client", "x-add: client", "x-remove: 1", "x-reply: headers"),
		sent("headers set the host", "/headers/host", "", "set.example.com"),
		sent("headers with operators", "/headers/format", "", "act", "x-in: value"),
		sent("headers with operators that have nothing", "/headers/format", "", "act"),

		act("fault abort", "/fault/abort", 418),
		act("fault abort 503", "/fault/abort503", 503),
		{name: "fault abort of a POST", raw: requestWithBody("POST", "act", "/fault/abort", "body", "content-length: 4"), status: 418},
		{name: "fault abort of a HEAD", raw: request("HEAD", "act", "/fault/abort"), status: 418},
		sent("fault never", "/fault/never", "/fault/never", "act"),
		timed(sent("fault delay", "/fault/delay", "/fault/delay", "act"), 150*time.Millisecond),
		timed(act("fault delay, then abort", "/fault/both", 500), 100*time.Millisecond),

		{name: "weights of 0 and 100", raw: request("GET", "act", "/weight/all"), status: 200, origin: "v2"},
		{name: "weights with headers", raw: request("GET", "act", "/weight/headers", "x-chosen: client"), status: 200, origin: "v1"},
		{name: "destination in another namespace", raw: request("GET", "act", "/host/other"), status: 200, origin: "v2"},
	}
}

// timed makes a case fail that is answered too early.
func timed(c diffCase, least time.Duration) diffCase {
	c.run = func(client *wire.Client, raw string) (*wire.Response, error) {
		start := time.Now()
		if err := client.Send(raw); err != nil {
			return nil, err
		}
		resp, err := client.Read("GET")
		// Envoy's clock is that of its event loop, which lags: the more, the busier
		// the machine is.
		if took := time.Since(start); err == nil && took < least*4/5 {
			err = fmt.Errorf("answered after %v, want at least %v", took, least)
		}
		return resp, err
	}
	return c
}

// private is what made older Envoys take a client for one of the mesh's own,
// whose x-envoy-… fields they obeyed.
const private = "x-forwarded-for: 10.0.0.1"

// retryCases count how often an origin is asked.
func retryCases() []diffCase {
	try := func(name, target, reply string, status, tries int, fields ...string) diffCase {
		return diffCase{name: name, raw: request("GET", "act", target, append(fields, "x-reply: "+reply)...), status: status, origin: "v1", tries: tries}
	}
	post := func(name, target, body, reply string, status, tries int) diffCase {
		return diffCase{name: name, status: status, origin: "v1", tries: tries,
			raw: requestWithBody("POST", "act", target, body, fmt.Sprintf("content-length: %d", len(body)), "x-reply: "+reply)}
	}
	return []diffCase{
		try("retry until it works", "/retry/5xx", "503+500+ok", 200, 3),
		try("retry until tries run out", "/retry/5xx", "503", 503, 4),
		try("retry keeps the last answer", "/retry/5xx", "500+502+503+504", 504, 4),
		try("retry not what isn't named", "/retry/5xx", "404", 404, 1),
		try("retry after a reset", "/retry/5xx", "reset+ok", 200, 2),
		try("retry after an early end", "/retry/5xx", "close+ok", 200, 2),
		post("retry a POST with its body", "/retry/5xx", "the body", "503+ok", 200, 2),
		try("retry gateway errors", "/retry/gateway", "502+503+ok", 200, 3),
		try("retry gateway errors, not a 500", "/retry/gateway", "500", 500, 1),
		try("retry by number", "/retry/codes", "503+409+ok", 200, 3),
		try("retry by number, another", "/retry/codes", "500", 500, 1),
		try("retry 4xx", "/retry/4xx", "409+ok", 200, 2),
		try("retry 4xx, another", "/retry/4xx", "404", 404, 1),
		try("retry a reset", "/retry/reset", "reset+close+ok", 200, 3),
		try("retry a reset, not a status", "/retry/reset", "503", 503, 1),
		try("retry resets until tries run out", "/retry/reset", "reset", 503, 3),
		try("retry with nothing named, a status", "/retry/unspecified", "503", 503, 1),
		try("retry never", "/retry/none", "close", 503, 1),
		try("retry by default not a status", "/", "503", 503, 1),
		{name: "retry by default not a reset", raw: request("GET", "once", "/", "x-reply: reset"), status: 503, origin: "v1"},
		try("retry asked for by a client outside", "/", "503+500+ok", 503, 1, "x-envoy-retry-on: 5xx", "x-envoy-max-retries: 5"),
		try("retry asked for by a client with a private address", "/", "503+500+ok", 503, 1, private, "x-envoy-retry-on: 5xx", "x-envoy-max-retries: 5"),

		within(try("timeout", "/timeout/short", "hold", 504, 1), 750*time.Millisecond),
		within(post("timeout of a POST", "/timeout/short", "body", "hold", 504, 1), 750*time.Millisecond),
		try("timeout in time", "/timeout/short", "ok", 200, 1),
		within(try("timeout of each try", "/timeout/try", "hold", 504, 3), 1800*time.Millisecond),
		within(try("timeout of the first try", "/timeout/try", "hold+ok", 200, 2), 600*time.Millisecond),
		try("timeout given by a client with a private address", "/timeout/none", "ok", 200, 1, private, "x-envoy-upstream-rq-timeout-ms: 1"),
		try("timeout given by a client outside", "/timeout/none", "ok", 200, 1, "x-envoy-upstream-rq-timeout-ms: 1"),
	}
}

// within makes a case fail that isn't answered at about the time of its limit.
func within(c diffCase, limit time.Duration) diffCase {
	c = timed(c, limit)
	run := c.run
	c.run = func(client *wire.Client, raw string) (*wire.Response, error) {
		start := time.Now()
		resp, err := run(client, raw)
		if took := time.Since(start); err == nil && took > limit+5*time.Second {
			err = fmt.Errorf("the limit of %v passed unnoticed: answered after %v", limit, took)
		}
		return resp, err
	}
	return c
}
