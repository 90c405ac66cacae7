// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"pillion/proxy/proxytest/inproc"
)

// toEcho is a route of inproc.Way to its host; more are further members.
func toEcho(more string) string {
	return "  - route: [{destination: {host: echo.default.svc.cluster.local, port: {number: 9080}}}]\n    " + more + "\n"
}

func wantStatus(t *testing.T, got inproc.Message, status int) {
	t.Helper()
	if got.Status != status {
		t.Errorf("status %d, want %d (fields %v, body %.200q)", got.Status, status, got.Fields, got.Body)
	}
}

// TestEachWayEdits: fields of a request and of its response are set, added and
// removed, and the path is rewritten.
func TestEachWayEdits(t *testing.T) {
	inproc.EachWay(t, func(t *testing.T, w *inproc.Way) {
		w.Start(toEcho("match: [{uri: {prefix: /x}}]\n    rewrite: {uri: /y}\n    headers: {request: {set: {x-set: new}, add: {x-add: b}, remove: [x-gone]}, response: {set: {x-set: back}, add: {x-add: d}, remove: [x-gone]}}"),
			func(r inproc.Message) inproc.Message {
				f := r.Fields
				if r.Path != "/y" || f["x-set"] != "new" || strings.ReplaceAll(f["x-add"], ", ", ",") != "a,b" || f["x-gone"] != "" {
					t.Errorf("the host got %s with %v", r.Path, f)
				}
				return inproc.Message{Status: 201, Fields: map[string]string{"x-set": "1", "x-add": "c", "x-gone": "1"}}
			})
		got := w.Do(inproc.Message{Fields: map[string]string{"x-set": "old", "x-add": "a", "x-gone": "1"}})
		wantStatus(t, got, 201)
		if f := got.Fields; f["x-set"] != "back" || strings.ReplaceAll(f["x-add"], ", ", ",") != "c,d" || f["x-gone"] != "" {
			t.Errorf("the client got %v", f)
		}
	})
}

// TestEachWayRetries: a request with a body is repeated on 503 as often as the route
// says, and the last answer is the client's.
func TestEachWayRetries(t *testing.T) {
	inproc.EachWay(t, func(t *testing.T, w *inproc.Way) {
		var tries, failures atomic.Int32
		w.Start(toEcho("retries: {attempts: 2, retryOn: '503'}"), func(r inproc.Message) inproc.Message {
			if r.Body != "again" {
				t.Errorf("the host got %q", r.Body)
			}
			if tries.Add(1) <= failures.Load() {
				return inproc.Message{Status: 503, Body: "no"}
			}
			return inproc.Message{Status: 200, Body: "yes"}
		})
		for _, c := range []struct{ failures, tries, status int }{{0, 1, 200}, {2, 3, 200}, {3, 3, 503}} {
			tries.Store(0)
			failures.Store(int32(c.failures))
			wantStatus(t, w.Do(inproc.Message{Method: "POST", Body: "again"}), c.status)
			if n := int(tries.Load()); n != c.tries {
				t.Errorf("%d failures: %d tries, want %d", c.failures, n, c.tries)
			}
		}
	})
}

// TestEachWayTimeout: who doesn't answer in time is told that nobody waits, and the client
// that it was too late.
func TestEachWayTimeout(t *testing.T) {
	inproc.EachWay(t, func(t *testing.T, w *inproc.Way) {
		told := make(chan struct{})
		w.Start(toEcho("timeout: 0.1s\n    retries: {attempts: 0}"), func(r inproc.Message) inproc.Message {
			<-r.Gone
			close(told)
			return inproc.Message{Status: 200}
		})
		got := w.Do(inproc.Message{Method: "POST", Body: "late"})
		wantStatus(t, got, 504)
		if got.Body != "upstream request timeout" {
			t.Errorf("body %q", got.Body)
		}
		<-told
	})
}

// TestEachWayAnswered: what the proxy answers itself never gets to the host.
func TestEachWayAnswered(t *testing.T) {
	inproc.EachWay(t, func(t *testing.T, w *inproc.Way) {
		w.Start(`  - match: [{uri: {prefix: /abort}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: echo.default.svc.cluster.local, port: {number: 9080}}}]
  - match: [{uri: {prefix: /direct}}]
    directResponse: {status: 202, body: {string: here}}
  - match: [{uri: {prefix: /moved}}]
    redirect: {authority: other.example, uri: /there, redirectCode: 308}
`, func(r inproc.Message) inproc.Message {
			t.Errorf("%s came to the host", r.Path)
			return inproc.Message{Status: 200}
		})
		scheme := "http"
		if w.TLS {
			scheme = "https"
		}
		for _, c := range []struct {
			path           string
			status         int
			body, location string
		}{
			{"/abort", 418, "fault filter abort", ""},
			{"/direct", 202, "here", ""},
			{"/moved", 308, "", scheme + "://other.example/there"},
			{"/else", 404, "", ""},
		} {
			for _, body := range []string{"", "unread"} {
				got := w.Do(inproc.Message{Method: "POST", Path: c.path, Body: body})
				wantStatus(t, got, c.status)
				if got.Body != c.body || got.Fields["location"] != c.location {
					t.Errorf("%s: %q with %v", c.path, got.Body, got.Fields)
				}
			}
		}
	})
}

// TestEachWayBody: a body longer than all buffers comes back whole, with its length told
// before or not, and the answer says how long the host took.
func TestEachWayBody(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 3<<20/16)
	inproc.EachWay(t, func(t *testing.T, w *inproc.Way) {
		w.Start(toEcho(""), func(r inproc.Message) inproc.Message {
			return inproc.Message{Status: 200, Body: r.Body, Trailers: r.Trailers}
		})
		for _, trailers := range []map[string]string{nil, {"x-sum": "7"}} {
			got := w.Do(inproc.Message{Method: "POST", Body: body, Trailers: trailers})
			wantStatus(t, got, 200)
			if got.Body != body || got.Trailers["x-sum"] != trailers["x-sum"] {
				t.Errorf("%d octets came back, and trailers %v", len(got.Body), got.Trailers)
			}
			if got.Fields["x-envoy-upstream-service-time"] == "" {
				t.Errorf("no time in %v", got.Fields)
			}
		}
	})
}

// TestEachWayGRPC: the status of a call, which is in its trailers, reaches the client.
func TestEachWayGRPC(t *testing.T) {
	const message = "\x00\x00\x00\x00\x02hi"
	inproc.EachWay(t, func(t *testing.T, w *inproc.Way) {
		kind := map[string]string{"content-type": "application/grpc"}
		w.Start(toEcho(""), func(r inproc.Message) inproc.Message {
			return inproc.Message{Status: 200, Fields: kind, Body: r.Body, Trailers: map[string]string{"grpc-status": "9", "grpc-message": "not now"}}
		})
		got := w.Do(inproc.Message{Method: "POST", Path: "/s/m", Fields: map[string]string{"content-type": "application/grpc", "te": "trailers"}, Body: message})
		wantStatus(t, got, 200)
		if got.Body != message || got.Trailers["grpc-status"] != "9" || got.Trailers["grpc-message"] != "not now" || got.Fields["grpc-status"] != "" {
			t.Errorf("%q with %v and trailers %v", got.Body, got.Fields, got.Trailers)
		}
	})
}
