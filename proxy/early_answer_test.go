// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"pillion/proxy/proxytest/inproc"
)

// TestEarlyResponse holds that an answer to an unfinished upload reaches the
// client, and that the connection then ends.
func TestEarlyResponse(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Head()
		c.Send("HTTP/1.1 413 Content Too Large\nContent-Length: 3\n\nbig")
		_, _ = io.Copy(io.Discard, c.Conn)
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	c.Send("POST /x HTTP/1.1\nHost: echo:9080\nContent-Length: 1000000\n\nsome")
	r := c.Response(false)
	wantLine(t, r, "HTTP/1.1 413 Content Too Large")
	if r.Body != "big" || r.Fields["connection"] != "close" {
		t.Errorf("body %q, fields %v", r.Body, r.Fields)
	}
	c.WantClosed()
	p.WaitFor("the answer is counted", func() bool {
		stats := fetch(t, "http://"+p.Addr("admin")+"/stats?filter=response_before")
		return strings.Contains(stats, ".downstream_rq_response_before_rq_complete: 1\n")
	})
}

// TestAnswerToTheLastOctet: a host that answers the moment it has all of a body has had
// the whole request, whatever the proxy's reader of the body has come to by then, so the
// answer says how long it took.
func TestAnswerToTheLastOctet(t *testing.T) {
	plain := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(string, map[string]string, string) string { return inproc.OK("") })
	})
	multi := inproc.NewBackend2(t, func(c *inproc.Conn2) {
		for {
			if e := c.Next(); e.Kind == "closed" {
				return
			} else if e.End {
				c.Headers(e.ID, true, ":status", "200")
			}
		}
	})
	// More than is sent before anybody waits for the answer.
	body := strings.Repeat("x", 200_000)
	for name, services := range map[string]string{"HTTP/1": inproc.Service("echo", plain), "HTTP/2": inproc.Service2("echo", multi)} {
		for framing, request := range map[string]string{
			"length":  fmt.Sprintf("Content-Length: %d\n\n%s", len(body), body),
			"chunked": fmt.Sprintf("Transfer-Encoding: chunked\n\n%x\r\n%s\r\n0\r\n\r\n", len(body), body),
		} {
			t.Run(name+" "+framing, func(t *testing.T) {
				p := inproc.Start(t, map[string]string{"echo.yaml": services})
				c := inproc.Dial(t, p.Addr("http"))
				for i := range 600 {
					r := c.Do("POST /x HTTP/1.1\nHost: echo:9080\n" + request)
					if r.Line != "HTTP/1.1 200 OK" || r.Fields["x-envoy-upstream-service-time"] == "" {
						t.Fatalf("request %d: %q with %v", i, r.Line, r.Fields)
					}
				}
			})
		}
	}
}

// TestRefusedBody: an answer of the proxy's own to a request whose body nobody has read
// says that the connection ends. It goes on after one without a body, and where the
// body has come while the proxy tried to reach a host.
func TestRefusedBody(t *testing.T) {
	for _, c := range []struct {
		name, vs, body string
		line           string
		closes         bool
	}{
		{"answered, no body", "  - directResponse: {status: 202}\n", "", "HTTP/1.1 202 Accepted", false},
		{"answered", "  - directResponse: {status: 202}\n", "unread", "HTTP/1.1 202 Accepted", true},
		{"no host answers", "  - route: [{destination: {host: echo}}]\n", "unread", "HTTP/1.1 503 Service Unavailable", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", inproc.Refusing(t)), "vs.yaml": route(c.vs)})
			request := fmt.Sprintf("POST /x HTTP/1.1\nHost: echo:9080\nContent-Length: %d\n\n%s", len(c.body), c.body)
			conn := inproc.Dial(t, p.Addr("http"))
			r := conn.Do(request)
			wantLine(t, r, c.line)
			if (r.Fields["connection"] == "close") != c.closes {
				t.Errorf("fields %v", r.Fields)
			}
			if c.closes {
				conn.WantClosed()
			} else {
				wantLine(t, conn.Do(request), c.line)
			}
		})
	}
}

// TestExpectContinue holds that 100 Continue comes from the upstream, and that
// a refusal instead of it ends the connection with the body unsent.
func TestExpectContinue(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		line, _ := c.Head()
		if strings.Contains(line, "/refuse") {
			c.Send("HTTP/1.1 417 Expectation Failed\nContent-Length: 0\n\n")
			return
		}
		c.Send("HTTP/1.1 100 Continue\n\n")
		c.Want("hello")
		c.Send("HTTP/1.1 200 OK\nConnection: close\nContent-Length: 6\n\ngot it")
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	c.Send("POST /x HTTP/1.1\nHost: echo:9080\nExpect: 100-continue\nContent-Length: 5\n\n")
	if line, _ := c.Head(); line != "HTTP/1.1 100 Continue" {
		t.Fatalf("got %q", line)
	}
	c.SendRaw("hello")
	if r := c.Response(false); r.Body != "got it" {
		t.Errorf("%q %q", r.Line, r.Body)
	}
	c = inproc.Dial(t, p.Addr("http"))
	c.Send("POST /refuse HTTP/1.1\nHost: echo:9080\nExpect: 100-continue\nContent-Length: 5\n\n")
	r := c.Response(false)
	wantLine(t, r, "HTTP/1.1 417 Expectation Failed")
	if r.Fields["connection"] != "close" {
		t.Error("the connection is kept, although the client may or may not send its body")
	}
	c.WantClosed()
}
