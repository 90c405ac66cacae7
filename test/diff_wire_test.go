// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"strings"

	"pillion/test/rig"
	"pillion/test/wire"
)

// targetCases are request targets, methods and versions.
func targetCases() []diffCase {
	path := func(name, target, want, route, origin string) diffCase {
		return diffCase{name: name, raw: request("GET", "app", target), status: 200, route: route, origin: origin, target: want}
	}
	refused := func(name, raw string, status int) diffCase {
		return diffCase{name: name, raw: raw, status: status, closes: true}
	}
	return []diffCase{
		path("path with dots", "/a/../exact", "/exact", "uri-exact", "v2"),
		path("path with a dot", "/./exact", "/exact", "uri-exact", "v2"),
		path("path with dots above the root", "/../exact", "/exact", "uri-exact", "v2"),
		path("path with a dot at the end", "/prefix/x/.", "/prefix/x/", "uri-prefix", "v2"),
		path("path with two slashes", "//exact", "//exact", "fallback", "v1"),
		path("path with a slash at the end", "/exact/", "/exact/", "fallback", "v1"),
		path("path escaped", "/%65xact", "/exact", "uri-exact", "v2"),
		path("path with an escaped slash", "/prefix%2Fx", "/prefix%2Fx", "fallback", "v1"),
		path("path with escaped dots", "/a/%2e%2e/exact", "/exact", "uri-exact", "v2"),
		path("path with small hex digits", "/prefix/%c3%a9", "/prefix/%c3%a9", "uri-prefix", "v2"),
		path("path with a backslash", `/a\..\exact`, "/exact", "uri-exact", "v2"),
		path("path with parameters", "/exact;v=1", "/exact;v=1", "fallback", "v1"),
		path("query is left alone", "/exact?a=%65/../b//c", "/exact?a=%65/../b//c", "uri-exact", "v2"),
		path("query that is empty", "/exact?", "/exact?", "uri-exact", "v2"),
		path("path of great length", "/prefix/"+strings.Repeat("x", 8000), "/prefix/"+strings.Repeat("x", 8000), "uri-prefix", "v2"),
		refused("path with a fragment", request("GET", "app", "/exact#part"), 400),
		refused("path with an escaped NUL", request("GET", "app", "/%00"), 400),

		{name: "absolute form", raw: request("GET", "app", "http://app/exact?q=1"), status: 200, route: "uri-exact", origin: "v2", target: "/exact?q=1", host: "app"},
		{name: "absolute form with port", raw: request("GET", "app:80", "http://app:80/exact"), status: 200, route: "uri-exact", origin: "v2", target: "/exact", host: "app:80"},
		{name: "absolute form and another Host", raw: request("GET", "plain", "http://app/exact"), status: 200, route: "uri-exact", origin: "v2", target: "/exact", host: "app"},
		{name: "absolute form without a path", raw: request("GET", "app", "http://app"), status: 200, route: "fallback", origin: "v1", target: "/", host: "app"},
		{name: "absolute form in capitals", raw: request("GET", "app", "HTTP://APP/exact"), status: 200, route: "uri-exact", origin: "v2", target: "/exact"},

		{name: "OPTIONS of a path", raw: request("OPTIONS", "app", "/exact"), status: 200, route: "uri-exact", origin: "v2", target: "/exact"},
		{name: "TRACE", raw: request("TRACE", "app", "/exact"), status: 200, route: "uri-exact", origin: "v2"},
		{name: "method that is rare", raw: request("PURGE", "app", "/exact"), status: 200, route: "uri-exact", origin: "v2"},
		refused("CONNECT", request("CONNECT", "app:80", "app:80"), 404),
	}
}

// fieldCases are request and response fields that a proxy adds, drops, keeps
// or changes.
func fieldCases() []diffCase {
	with := func(name string, fields ...string) diffCase {
		return diffCase{name: name, raw: request("GET", "plain", "/", fields...), status: 200, origin: "v1"}
	}
	reply := func(name, reply string) diffCase { return with(name, "x-reply: "+reply) }
	return []diffCase{
		with("request id", "x-request-id: 7f3c1c1e-6a54-9a0f-b7a6-2f1c6c1d9e11"),
		with("request id that is no UUID", "x-request-id: mine"),
		with("request id twice", "x-request-id: one", "x-request-id: two"),
		with("user agent", "user-agent: test/1.0"),
		with("forwarded for", "x-forwarded-for: 192.0.2.1, 10.0.0.1"),
		with("forwarded proto", "x-forwarded-proto: https"),
		with("forwarded proto that is odd", "x-forwarded-proto: gopher"),
		with("forwarded host and port", "x-forwarded-host: h", "x-forwarded-port: 99", "forwarded: for=192.0.2.1"),
		with("client certificate", "x-forwarded-client-cert: By=spiffe://x;URI=spiffe://y"),
		with("connection close", "connection: close"),
		with("connection keep-alive", "connection: keep-alive", "keep-alive: timeout=5"),
		with("connection names a field", "connection: x-hop", "x-hop: 1", "x-stay: 1"),
		with("proxy connection", "proxy-connection: keep-alive"),
		with("proxy authorization", "proxy-authorization: Basic eA==", "authorization: Bearer x"),
		with("te trailers", "te: trailers"),
		with("te gzip", "te: gzip"),
		with("cookies", "cookie: a=1; b=2", "cookie: c=3"),
		with("the same name twice", "x-many: 1", "x-other: x", "x-many: 2"),
		with("values that are odd", "x-empty:", "x-spaces:  two  words ", "x-latin: caf\xe9", "x_under: 1", "X-Mixed-Case: Kept"),
		with("value of great length", "x-long: "+strings.Repeat("v", 20000)),
		with("many fields", strings.Split(strings.TrimSpace(strings.Repeat("x-n: v\n", 80)), "\n")...),
		with("cache and ranges", "cache-control: no-cache", "range: bytes=0-10", "if-none-match: \"1\"", "accept-encoding: gzip, br"),
		with("via", "via: 1.1 first", "max-forwards: 3"),
		with("envoy: attempt count", "x-envoy-attempt-count: 9"),
		with("envoy: decorator", "x-envoy-decorator-operation: mine"),
		with("envoy: internal", "x-envoy-internal: true", "x-envoy-external-address: 192.0.2.9"),
		with("envoy: original path", "x-envoy-original-path: /admin", "x-envoy-original-host: admin"),
		with("envoy: expected timeout", "x-envoy-expected-rq-timeout-ms: 99"),
		with("envoy: limits that aren't reached", "x-envoy-upstream-rq-timeout-ms: 9000", "x-envoy-max-retries: 1", "x-envoy-upstream-rq-per-try-timeout-ms: 8000"),
		with("peer metadata", "x-envoy-peer-metadata: eA==", "x-envoy-peer-metadata-id: sidecar~x"),
		with("trace context", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "b3: 0af7651916cd43dd-b7ad6b7169203331-1"),
		with("grpc timeout", "grpc-timeout: 5S"),
		with("http2 settings without an upgrade", "http2-settings: AAMAAABkAAQAAP__"),
		{name: "response: location", raw: request("GET", "plain", "/", "x-reply: 201"), status: 201, origin: "v1"},
		reply("response: cookies", "cookies"),
		reply("response: server, date, service time", "own server and date"),
		reply("response: hop by hop", "hop by hop"),
		reply("response: values that are odd", "odd values"),
		reply("response: envoy's own fields", "envoy's own"),
		reply("response: reason phrase", "reason"),
		reply("response: no reason phrase", "no reason"),
	}
}

// framingCases are bodies in both directions.
func framingCases() []diffCase {
	up := func(name, body string, fields ...string) diffCase {
		return diffCase{name: name, raw: requestWithBody("POST", "plain", "/", body, fields...), status: 200, origin: "v1"}
	}
	down := func(name, method, reply string, status int) diffCase {
		return diffCase{name: name, raw: request(method, "plain", "/", "x-reply: "+reply), status: status, origin: "v1"}
	}
	mega := strings.Repeat("0123456789abcdef", 65536)
	return []diffCase{
		up("upload with length", "hello", "content-length: 5"),
		up("upload of nothing", "", "content-length: 0"),
		up("upload without framing", ""),
		up("upload chunked", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "transfer-encoding: chunked"),
		up("upload chunked, coding in capitals", "5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: Chunked"),
		up("upload chunked, nothing in it", "0\r\n\r\n", "transfer-encoding: chunked"),
		up("upload chunked with extensions", "5;a=b;c=\"d\"\r\nhello\r\n0\r\n\r\n", "transfer-encoding: chunked"),
		up("upload chunked with trailers", "5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n", "transfer-encoding: chunked", "trailer: x-sum"),
		up("upload of 1 MiB", mega, fmt.Sprintf("content-length: %d", len(mega))),
		up("upload of 1 MiB, chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(mega), mega), "transfer-encoding: chunked"),
		{name: "GET with a body", raw: requestWithBody("GET", "plain", "/", "hello", "content-length: 5"), status: 200, origin: "v1"},
		{name: "DELETE with a body", raw: requestWithBody("DELETE", "plain", "/", "hello", "content-length: 5"), status: 200, origin: "v1"},
		{name: "HEAD with a body", raw: requestWithBody("HEAD", "plain", "/", "hello", "content-length: 5"), status: 200, origin: "v1"},
		down("HEAD", "HEAD", "head length", 200),
		down("HEAD, chunked", "HEAD", "head chunked", 200),
		down("204", "GET", "204", 204),
		down("205", "GET", "205", 205),
		down("304", "GET", "304", 304),
		down("304 with a length", "GET", "304 with length", 304),
		down("599", "GET", "599", 599),
		down("download chunked", "GET", "chunked", 200),
		down("download chunked, coding in capitals", "GET", "chunked in caps", 200),
		down("download chunked with extensions", "GET", "chunk extensions", 200),
		down("download chunked, nothing in it", "GET", "chunked empty", 200),
		down("download with trailers", "GET", "trailers", 200),
		down("download of nothing", "GET", "empty", 200),
		down("download until the end", "GET", "to close", 200),
		down("download with length, then the end", "GET", "length and close", 200),
		down("download from HTTP/1.0", "GET", "http/1.0", 200),
		down("download of 1 MiB", "GET", "large", 200),
		down("download of 1 MiB, chunked", "GET", "large chunked", 200),
		down("100 that nobody asked for", "GET", "100 twice", 200),
		down("103", "GET", "103", 200),
		{name: "expect 100-continue", raw: request("POST", "plain", "/", "expect: 100-continue", "content-length: 5"), status: 200, origin: "v1", run: expectContinue},
		{name: "expect 100-continue, body at once", raw: requestWithBody("POST", "plain", "/", "hello", "expect: 100-continue", "content-length: 5"), status: 200, origin: "v1"},
		{name: "expect something else", raw: request("GET", "plain", "/", "expect: the-unexpected"), status: 200, origin: "v1"},
		{name: "two on one connection", raw: request("GET", "plain", "/"), status: 200, origin: "v1", tries: 2, run: twice},
		{name: "two at once", raw: request("GET", "plain", "/") + request("GET", "plain", "/second"), status: 200, origin: "v1", tries: 2, run: pipelined},
		{name: "http 1.0", raw: "GET / HTTP/1.0\r\nHost: plain\r\nx-case: {{case}}\r\n\r\n", status: 200, origin: "v1", closes: true},
		{name: "http 1.0 that stays", raw: "GET / HTTP/1.0\r\nHost: plain\r\nx-case: {{case}}\r\nconnection: keep-alive\r\n\r\n", status: 200, origin: "v1"},
		{name: "http 1.0, chunked from the origin", raw: "GET / HTTP/1.0\r\nHost: plain\r\nx-case: {{case}}\r\nx-reply: chunked\r\n\r\n", status: 200, origin: "v1", closes: true},
	}
}

func expectContinue(c *wire.Client, raw string) (*wire.Response, error) {
	if err := c.Send(raw); err != nil {
		return nil, err
	}
	interim, err := c.ReadInterim()
	if err != nil {
		return nil, err
	}
	if interim.Status != 100 {
		return interim, fmt.Errorf("status %d before the body, want 100", interim.Status)
	}
	if err := c.Send("hello"); err != nil {
		return nil, err
	}
	return c.Read("POST")
}

func twice(c *wire.Client, raw string) (*wire.Response, error) {
	var resp *wire.Response
	for range 2 {
		if err := c.Send(raw); err != nil {
			return nil, err
		}
		var err error
		if resp, err = c.Read("GET"); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

func pipelined(c *wire.Client, raw string) (*wire.Response, error) {
	if err := c.Send(raw); err != nil {
		return nil, err
	}
	if resp, err := c.Read("GET"); err != nil {
		return resp, err
	}
	return c.Read("GET")
}

const overflowCase = "too many requests at a time"

// failureCases are answers that a proxy makes because there is no other.
func failureCases(lab *diffLab) []diffCase {
	fails := func(name, reply string, status int) diffCase {
		return diffCase{name: name, raw: request("GET", "once", "/", "x-reply: "+reply), status: status, origin: "v1"}
	}
	return []diffCase{
		{name: "no host", raw: request("GET", "empty", "/"), status: 503},
		{name: "no host, HEAD", raw: request("HEAD", "empty", "/"), status: 503},
		{name: "no host, POST with a body", raw: requestWithBody("POST", "empty", "/", "hello", "content-length: 5"), status: 503},
		{name: "no host in the subset", raw: request("GET", "act", "/subset/empty"), status: 503},
		{name: "no such subset", raw: request("GET", "act", "/subset/unknown"), status: 503},
		{name: "no such service", raw: request("GET", "act", "/host/unknown"), status: 503},
		{name: "nobody listens", raw: request("GET", "gone", "/"), status: 503},
		{name: "nobody listens, by a route", raw: request("GET", "act", "/host/gone"), status: 503},
		{name: "nobody listens, POST", raw: requestWithBody("POST", "gone", "/", "hello", "content-length: 5"), status: 503},
		{name: "nobody listens, no retry", raw: request("GET", "act", "/gone/none"), status: 503},
		fails("upstream closes", "close", 503),
		fails("upstream resets", "reset", 503),
		fails("upstream sends half a head", "half a head", 502),
		fails("upstream speaks no HTTP", "no http", 502),
		fails("upstream's status is no number", "bad status", 502),
		fails("upstream's length is double", "length twice", 502),
		fails("upstream's length is no number", "length no number", 502),
		fails("upstream's length beside a coding", "length and coding", 502),
		fails("upstream's coding is unknown", "unknown coding", 502),
		fails("upstream fails", "500", 500),
		fails("upstream is busy", "429", 429),
		{name: overflowCase, raw: request("GET", "narrow", "/", "x-reply: hold"), status: 503, origin: "v1", tries: 2, run: lab.overflow},
		{name: "upgrade that isn't known", raw: request("GET", "plain", "/", "connection: upgrade", "upgrade: foo"), status: 403},
		{name: "upgrade to h2c", raw: request("GET", "plain", "/", "connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"), status: 200, origin: "v1"},
		{name: "no Host", raw: "GET / HTTP/1.1\r\nx-case: {{case}}\r\n\r\n", status: 400, closes: true},
	}
}

// overflow fills the narrow service with a request that is held, and makes
// two more: one of them fits into the queue, and the other one is refused,
// whichever comes second. The refusal is what is compared; then the origin's
// answer is let go, and the two that fitted have to get it.
func (lab *diffLab) overflow(c *wire.Client, raw string) (*wire.Response, error) {
	clients := []*wire.Client{c}
	for range 2 {
		another, err := wire.Dial(c.RemoteAddr(), rig.Patience)
		if err != nil {
			return nil, err
		}
		defer another.Close()
		clients = append(clients, another)
	}
	if err := clients[0].Send(raw); err != nil {
		return nil, err
	}
	if err := lab.waitSeen(overflowCase, 1); err != nil {
		return nil, err
	}
	type result struct {
		resp *wire.Response
		err  error
	}
	results := make(chan result, len(clients))
	for i, client := range clients {
		if i > 0 {
			if err := client.Send(raw); err != nil {
				return nil, err
			}
		}
		go func() {
			resp, err := client.Read("GET")
			results <- result{resp, err}
		}()
	}
	first := <-results
	lab.release()
	for range 2 {
		if r := <-results; r.err != nil || r.resp.Status != 200 {
			return nil, fmt.Errorf("a request that fitted wasn't answered with 200: %+v", r)
		}
	}
	return first.resp, first.err
}
