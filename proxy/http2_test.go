// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"pillion/proxy/proxytest/inproc"
)

// echo2 answers each request with its body, piece by piece, and its trailers.
func echo2(c *inproc.Conn2) {
	for {
		e := c.Next()
		switch e.Kind {
		case "closed":
			return
		case "head":
			switch {
			case e.Fields[":method"] == "":
				c.Headers(e.ID, true, "x-sum", e.Fields["x-sum"])
			case e.End:
				c.Headers(e.ID, false, ":status", "200", "x-method", e.Fields[":method"])
				c.Data(e.ID, "nothing", true)
			default:
				c.Headers(e.ID, false, ":status", "200")
			}
		case "data":
			c.Data(e.ID, e.Data, e.End)
		}
	}
}

// TestHTTP2 holds whole exchanges between HTTP/2 and HTTP/2, and both ways
// between HTTP/1 and HTTP/2.
func TestHTTP2(t *testing.T) {
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service2("echo", inproc.NewBackend2(t, echo2))})
	c := inproc.Dial2(t, p.Addr("http"))
	c.Get(1)
	if r := c.Response(1); r.Line != "200" || r.Body != "nothing" {
		t.Errorf("%+v", r)
	}
	c.Post(3)
	c.Want(3, "head") // before the request has ended
	for _, piece := range []string{"one", strings.Repeat("two", 5000)} {
		c.Data(3, piece, false)
		got := ""
		for len(got) < len(piece) {
			got += c.Want(3, "data").Data
		}
		if got != piece {
			t.Errorf("%d octets come back as %d others", len(piece), len(got))
		}
	}
	c.Headers(3, true, "x-sum", "12")
	if e := c.Want(3, "head"); !e.End || e.Fields["x-sum"] != "12" {
		t.Errorf("trailers come back as %+v", e)
	}
	h1 := inproc.Dial(t, p.Addr("http"))
	if r := h1.Do("POST /x HTTP/1.1\nHost: echo:9080\nContent-Length: 5\n\nhello"); r.Line != "HTTP/1.1 200 OK" || r.Body != "hello" {
		t.Errorf("from HTTP/1: %+v", r)
	}
	if r := h1.Do("HEAD /x HTTP/1.1\nHost: echo:9080\n\n"); r.Line != "HTTP/1.1 200 OK" || r.Fields["x-method"] != "HEAD" {
		t.Errorf("HEAD from HTTP/1: %+v", r)
	}

	old := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(_ string, _ map[string]string, body string) string { return inproc.OK(body) })
	}))})
	c = inproc.Dial2(t, old.Addr("http"))
	c.Post(1)
	c.Data(1, "hello", true)
	if r := c.Response(1); r.Line != "200" || r.Body != "hello" || r.Fields["content-length"] != "5" {
		t.Errorf("to HTTP/1: %+v", r)
	}
}

// TestHTTP2Resets holds that a client's reset reaches the host, and a host's
// the client: before the head as an answer, behind it as a reset.
func TestHTTP2Resets(t *testing.T) {
	resets := make(chan http2.ErrCode, 1)
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service2("echo", inproc.NewBackend2(t, func(c *inproc.Conn2) {
		for {
			e := c.Next()
			switch e.Kind {
			case "closed":
				return
			case "reset":
				resets <- e.Code
			case "head":
				switch e.Fields["x-do"] {
				case "after":
					c.Headers(e.ID, false, ":status", "200")
					fallthrough
				case "before":
					_ = c.Fr.WriteRSTStream(e.ID, http2.ErrCodeInternal)
				case "bad trailers":
					c.Headers(e.ID, false, ":status", "200")
					c.Data(e.ID, "part", false)
					c.Headers(e.ID, true, ":status", "200")
				default:
					c.Headers(e.ID, false, ":status", "200")
				}
			}
		}
	}))})
	c := inproc.Dial2(t, p.Addr("http"))
	c.Get(1)
	c.Want(1, "head")
	_ = c.Fr.WriteRSTStream(1, http2.ErrCodeCancel)
	if code := <-resets; code != http2.ErrCodeCancel {
		t.Errorf("the host got %v", code)
	}
	c.Get(3, "x-do", "before")
	if r := c.Response(3); r.Line != "503" {
		t.Errorf("%+v", r)
	}
	c.Get(5, "x-do", "after")
	c.Want(5, "head")
	c.Want(5, "reset")
	h1 := inproc.Dial(t, p.Addr("http"))
	h1.Send("GET /x HTTP/1.1\nHost: echo:9080\nx-do: bad trailers\n\n")
	if _, f := h1.Head(); f["transfer-encoding"] != "chunked" {
		t.Errorf("%v", f)
	}
	h1.Want("4\r\npart\r\n")
	h1.WantClosed() // without a last chunk
}

// TestHTTP2Retries holds that a request that the host refused or that crossed
// a GOAWAY is sent again whatever the policy says.
func TestHTTP2Retries(t *testing.T) {
	for _, how := range []string{"refused", "goaway"} {
		t.Run(how, func(t *testing.T) {
			first := make(chan bool, 1)
			first <- true
			p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service2("echo", inproc.NewBackend2(t, func(c *inproc.Conn2) {
				for {
					e := c.Next()
					if e.Kind == "closed" {
						return
					}
					if e.Kind != "head" {
						continue
					}
					select {
					case <-first:
						if how == "goaway" {
							_ = c.Fr.WriteGoAway(0, http2.ErrCodeNo, nil)
						} else {
							_ = c.Fr.WriteRSTStream(e.ID, http2.ErrCodeRefusedStream)
						}
					default:
						c.Headers(e.ID, true, ":status", "200")
					}
				}
			}))})
			c := inproc.Dial2(t, p.Addr("http"))
			c.Get(1)
			if r := c.Response(1); r.Line != "200" {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestHTTP2SlowReader holds that a client that doesn't read one answer gets
// the others.
func TestHTTP2SlowReader(t *testing.T) {
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service2("echo", inproc.NewBackend2(t, echo2))})
	c := inproc.Dial2(t, p.Addr("http"), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	c.NoCredit = true
	c.Post(1)
	c.Data(1, strings.Repeat("x", 10000), true)
	c.Want(1, "head")
	if e := c.Want(1, "data"); len(e.Data) != 10 {
		t.Errorf("%d octets beyond the window", len(e.Data))
	}
	c.Get(3)
	if r := c.Response(3); r.Body != "nothing" {
		t.Errorf("%+v", r)
	}
	_ = c.Fr.WriteWindowUpdate(1, 10000)
	for rest, end := 9990, false; !end; {
		e := c.Want(1, "data")
		rest, end = rest-len(e.Data), e.End
		if rest < 0 || end && rest > 0 {
			t.Fatalf("%d octets are left, end %v", rest, end)
		}
	}
}
