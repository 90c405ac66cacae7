// SPDX-License-Identifier: Apache-2.0

package test

import "testing"

// TestCalls makes every call through a real Envoy and through the proxy, and
// compares all that client and service got to see.
func TestCalls(t *testing.T) {
	t.Parallel()
	lab := newCallLab(t)
	for _, c := range calls() {
		t.Run(c.name, func(t *testing.T) {
			if c.method == "" {
				c.method = "POST"
			}
			envoy, ours := lab.through(t, lab.envoy, c), lab.through(t, lab.ours, c)
			c.check(t, "Envoy", envoy, c.grpc)
			if c.why == "" {
				c.check(t, "ours", ours, c.grpc)
			} else {
				c.check(t, "ours", ours, c.ours)
			}
			var ignore []string
			if c.why != "" {
				ignore = []string{"grpc-status", "grpc-message", "x-extra", "grpc-timeout"}
			}
			if c.tries == perhaps {
				envoy.seen, ours.seen = nil, nil
			}
			if a, b := envoy.describe(ignore...), ours.describe(ignore...); a != b && !t.Failed() {
				t.Errorf("Envoy gives\n%s\nours\n%s", a, b)
			}
		})
	}
}

func (c call) check(t *testing.T, who string, r reply, grpc string) {
	t.Helper()
	switch {
	case r.err != nil:
		t.Errorf("%s: %v", who, r.err)
	case r.status != c.status || r.grpc() != grpc:
		t.Errorf("%s answers %d with grpc-status %q, want %d and %q:\n%s", who, r.status, r.grpc(), c.status, grpc, r.describe())
	case len(r.seen) != c.tries && c.tries != perhaps:
		t.Errorf("%s: the service got %d requests, want %d:\n%s", who, len(r.seen), c.tries, r.describe())
	}
}

const noTrailers = "Envoy drops the trailers of HTTP/1 unless it is told to keep them"

// perhaps is how often the service is asked when that is a race: the head may
// be on its way before the body turns out to be bad.
const perhaps = -1

const (
	isGRPC    = "content-type: application/grpc"
	isWeb     = "content-type: application/grpc-web+proto"
	isWebText = "content-type: application/grpc-web-text"
	wantsText = "accept: application/grpc-web-text"
	messages  = "\x00\x00\x00\x00\x01\x01\x00\x00\x00\x00\x02\x01\x02"
	inBase64  = "AAAAAAEBAAAAAAIBAg=="
)

func calls() []call {
	g := []string{isGRPC, "te: trailers"}
	with := func(more ...string) []string { return append(append([]string{}, g...), more...) }
	all := []call{
		{name: "unary", path: "/t.S/M?trailer=0", fields: g, body: messages, status: 200, grpc: "0", tries: 1},
		{name: "only trailers", path: "/t.S/M?head=5", fields: g, body: messages, status: 200, grpc: "5", tries: 1},
		{name: "failed in trailers", path: "/t.S/M?trailer=14", fields: g, body: messages, status: 200, grpc: "14", tries: 1},
		{name: "HTTP failure of the service", path: "/t.S/M?status=503&body=busy", fields: g, status: 503, tries: 1},
		{name: "suffix", path: "/t.S/M?trailer=0", fields: []string{"content-type: application/grpc+proto", "te: trailers"}, body: messages, status: 200, grpc: "0", tries: 1},
		{name: "subtype of its own", path: "/t.Abort/M", fields: []string{"content-type: application/grpc;x=y"}, status: 200, tries: 0},

		// Local replies.
		{name: "abort", path: "/t.Abort/M", fields: g, status: 200, grpc: "8"},
		{name: "abort of plain HTTP", path: "/t.Abort/M", status: 200},
		{name: "HTTP abort", path: "/t.HTTPAbort/M", fields: g, status: 200, grpc: "2"},
		{name: "HTTP abort of plain HTTP", path: "/t.HTTPAbort/M", status: 418},
		{name: "direct", path: "/t.Direct/M", fields: g, status: 200, grpc: "7"},
		{name: "direct, GET", method: "GET", path: "/t.Direct/M", fields: g, status: 200, grpc: "7"},
		{name: "redirect", path: "/t.Redirect/M", fields: g, status: 200, grpc: "2"},
		{name: "no connection", path: "/t.Down/M", fields: g, status: 200, grpc: "14"},
		{name: "no host", path: "/t.Empty/M", fields: g, status: 200, grpc: "14"},

		// Retries: the default policy has unavailable and cancelled.
		{name: "retry unavailable", path: "/t.S/M?head=14&fails=1", fields: g, body: messages, status: 200, grpc: "0", tries: 2},
		{name: "retry cancelled", path: "/t.S/M?head=1&fails=2", fields: g, body: messages, status: 200, grpc: "0", tries: 3},
		{name: "retries used up", path: "/t.S/M?head=14", fields: g, status: 200, grpc: "14", tries: 3},
		{name: "no retry of internal", path: "/t.S/M?head=13", fields: g, status: 200, grpc: "13", tries: 1},
		{name: "retry internal", path: "/t.Internal/M?head=13&fails=1", fields: g, status: 200, grpc: "0", tries: 2},
		{name: "retry deadline exceeded", path: "/t.Internal/M?head=4&fails=1", fields: g, status: 200, grpc: "0", tries: 2},
		{name: "retry resource exhausted", path: "/t.Internal/M?head=8&fails=1", fields: g, status: 200, grpc: "0", tries: 2},
		{name: "no retry of unavailable", path: "/t.Internal/M?head=14", fields: g, status: 200, grpc: "14", tries: 1},
		{name: "no retry after trailers", path: "/t.S/M?trailer=14&fails=1", fields: g, status: 200, grpc: "14", tries: 1},
		{name: "no retries", path: "/t.Once/M?head=14", fields: g, status: 200, grpc: "14", tries: 1},
		{name: "retry of plain HTTP", path: "/t.S/M?head=14&fails=1", status: 200, grpc: "0", tries: 2},

		// Deadlines.
		{name: "deadline told", path: "/t.S/M?trailer=0", fields: with("grpc-timeout: 5S"), status: 200, grpc: "0", tries: 1},
		{name: "deadline of plain HTTP", path: "/t.S/M?trailer=0", fields: []string{"grpc-timeout: 5S"}, status: 200, grpc: "0", tries: 1},
		{name: "microseconds", path: "/t.S/M?trailer=0", fields: with("grpc-timeout: 9999999u"), status: 200, grpc: "0", tries: 1},
		{name: "too many digits", path: "/t.S/M?trailer=0", fields: with("grpc-timeout: 123456789m"), status: 200, grpc: "0", tries: 1},
		{name: "no unit", path: "/t.S/M?trailer=0", fields: with("grpc-timeout: 5"), status: 200, grpc: "0", tries: 1},
		{name: "route's timeout", path: "/t.Timeout/M?hang", fields: g, body: messages, status: 200, grpc: "14", tries: 1},
		{name: "client's deadline", path: "/t.Once/M?hang", fields: with("grpc-timeout: 200m"), body: messages, status: 200, grpc: "14", tries: 1,
			ours: "4", why: "a deadline of the client's own has a status of its own; UNAVAILABLE makes clients try again"},
		{name: "deadline before the route's timeout", path: "/t.Timeout/M?hang", fields: with("grpc-timeout: 100m"), status: 200, grpc: "14", tries: 1,
			ours: "4", why: "as before"},
		{name: "deadline after the route's timeout", path: "/t.Timeout/M?hang", fields: with("grpc-timeout: 5S"), status: 200, grpc: "14", tries: 1},
		{name: "one try's timeout", path: "/t.Try/M?hang", fields: with("grpc-timeout: 9S"), status: 200, grpc: "14", tries: 2,
			ours: "14", why: "ours tells the service of the deadline, Envoy of the try's time, which would cut off streams"},
	}
	return append(all, webCalls()...)
}

// webCalls are those of gRPC-Web, by clients of HTTP/1.1.
func webCalls() []call {
	text := []string{isWebText, wantsText}
	all := []call{
		{name: "web", path: "/t.S/M?trailer=0", fields: []string{isWeb}, body: messages, status: 200, grpc: "0", tries: 1},
		{name: "web without +proto", path: "/t.S/M?trailer=0", fields: []string{"content-type: application/grpc-web"}, body: messages, status: 200, grpc: "0", tries: 1},
		{name: "web text", path: "/t.S/M?trailer=0", fields: text, body: inBase64, status: 200, tries: 1},
		{name: "web text, binary answer", path: "/t.S/M?trailer=3", fields: []string{isWebText}, body: inBase64, status: 200, grpc: "3", tries: 1},
		{name: "web, text answer", path: "/t.S/M?trailer=3", fields: []string{isWeb, wantsText}, body: messages, status: 200, tries: 1},
		{name: "web, encoding of its own", path: "/t.S/M?trailer=0", fields: []string{isWeb, "grpc-accept-encoding: gzip"}, body: messages, status: 200, grpc: "0", tries: 1},
		{name: "web without a body", path: "/t.S/M?trailer=0", fields: []string{isWeb}, status: 200, grpc: "0", tries: 1},
		{name: "web, GET", method: "GET", path: "/t.S/M?trailer=0", fields: []string{isWeb}, status: 200, grpc: "0", tries: 1},
		{name: "web, only trailers", path: "/t.S/M?head=5", fields: []string{isWeb}, body: messages, status: 200, grpc: "5", tries: 1},
		{name: "web text, only trailers", path: "/t.S/M?head=5", fields: text, body: inBase64, status: 200, grpc: "5", tries: 1},
		{name: "web, no trailers", path: "/t.S/M", fields: []string{isWeb}, body: messages, status: 200, tries: 1},
		{name: "web, retried", path: "/t.S/M?head=14&fails=1", fields: []string{isWeb}, body: messages, status: 200, grpc: "0", tries: 2},
		{name: "web, deadline", path: "/t.S/M?trailer=0", fields: []string{isWeb, "grpc-timeout: 5S"}, body: messages, status: 200, grpc: "0", tries: 1},
		{name: "web, the service has failed", path: "/t.S/M?status=503&ct=text/plain&body=busy", fields: []string{isWeb}, body: messages, status: 503, grpc: "14", tries: 1},
		{name: "web, not gRPC", path: "/t.S/M?ct=text/html&body=plain", fields: []string{isWeb}, body: messages, status: 200, grpc: "2", tries: 1},
		{name: "web, failed with trailers", path: "/t.S/M?status=404&body=oops&trailer=3", fields: []string{isWeb}, body: messages, status: 404, grpc: "12", tries: 1},
		{name: "web, direct", path: "/t.Direct/M", fields: []string{isWeb}, status: 403, grpc: "7"},
		{name: "web, redirect", path: "/t.Redirect/M", fields: []string{isWeb}, status: 301},
		{name: "web, no connection", path: "/t.Down/M", fields: []string{isWeb}, status: 503, grpc: "14"},
		{name: "web text, no connection", path: "/t.Down/M", fields: text, status: 503, grpc: "14"},
		{name: "web, abort", path: "/t.Abort/M", fields: []string{isWeb}, status: 200, grpc: "2",
			ours: "8", why: "Envoy forgets the status that the fault asks for"},
		{name: "web text, no base64", path: "/t.Once/M?trailer=0", fields: text, body: "AAAA!AAA", status: 400, grpc: "13", tries: perhaps},
		{name: "web text, cut short", path: "/t.Once/M?trailer=0", fields: text, body: "AAAAA", status: 400, grpc: "13", tries: perhaps},
		{name: "web, JSON", ours: "0", why: noTrailers, path: "/t.S/M?trailer=0", fields: []string{"content-type: application/grpc-web+json"}, body: messages, status: 200, tries: 1},
		{name: "web, parameter", ours: "0", why: noTrailers, path: "/t.S/M?trailer=0", fields: []string{"content-type: application/grpc-web; charset=utf-8"}, body: messages, status: 200, tries: 1},
	}
	for i := range all {
		all[i].http1 = true
		both := all[i]
		switch both.name {
		case "web, JSON", "web, parameter":
			both.grpc, both.ours, both.why = "0", "", ""
		case "web, failed with trailers":
			both.grpc, both.ours, both.why = "3", "12", "Envoy leaves the service's trailers behind the status that it has made"
		}
		both.http1, both.name = false, both.name+", HTTP/2"
		all = append(all, both)
	}
	return all
}
