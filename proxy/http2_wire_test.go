// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"pillion/proxy/proxytest/inproc"
	"pillion/test/wire"
)

const patience = 30 * time.Second

// h2Origin is a host that speaks HTTP/2 in words of the wire.
func h2Origin(t *testing.T, handler func(c *wire.H2, id uint32)) *inproc.Backend {
	t.Helper()
	o := wire.NewH2Origin(t, patience, wire.H2Options{}, handler)
	port, err := strconv.Atoi(o.Port())
	if err != nil {
		t.Fatal(err)
	}
	return &inproc.Backend{Port: port}
}

// http2Service is inproc.Service whose hosts are spoken to over HTTP/2.
func http2Service(b ...*inproc.Backend) string {
	return strings.Replace(inproc.Service("echo", b...), "protocol: HTTP}", "protocol: HTTP2}", 1)
}

func h2Client(t *testing.T, p *inproc.Proxy) *wire.H2 {
	t.Helper()
	c, err := wire.DialH2(p.Addr("http"), patience, wire.H2Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ok200() wire.Fields { return wire.Fields{{Name: ":status", Value: "200"}} }

// TestHTTP2Trailers holds that trailers go both ways, those of a request also
// after those of its response.
func TestHTTP2Trailers(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("request ends last %v", late), func(t *testing.T) {
			got := make(chan wire.H2Stream, 1)
			b := h2Origin(t, func(c *wire.H2, id uint32) {
				if !late {
					_, _ = c.Await(id)
				}
				_ = c.Head(id, false, ok200())
				_ = c.Head(id, true, wire.Fields{{Name: "x-response", Value: "r"}})
				s, _ := c.Await(id)
				got <- s
			})
			p := inproc.Start(t, map[string]string{"echo.yaml": http2Service(b)})
			c := h2Client(t, p)
			id, err := c.Open(false, wire.RequestHead("POST", "echo:9080", "/"))
			must(t, err)
			err = c.Data(id, false, []byte("body"))
			if late { // the host answers at once, so that the stream may be over by then
				_, err := c.Await(id)
				must(t, err)
			} else {
				must(t, err)
				must(t, c.Head(id, true, wire.Fields{{Name: "x-request", Value: "q"}}))
			}
			s, err := c.Await(id)
			if err != nil || s.Trailers.Get("x-response") != "r" || len(s.Trailers) != 1 {
				t.Errorf("the client got %+v, %v", s.Trailers, err)
			}
			up := <-got
			if late {
				// The response is whole without the rest of the request.
				if up.Reset == nil || s.Reset != nil && *s.Reset != http2.ErrCodeNo {
					t.Errorf("resets: upstream %v, downstream %v", up.Reset, s.Reset)
				}
			} else if up.Trailers.Get("x-request") != "q" || string(up.Body) != "body" {
				t.Errorf("the host got %q %+v", up.Body, up.Trailers)
			}
		})
	}
}

// TestHTTP2Smuggling holds that nothing in an HTTP/2 request makes an HTTP/1
// host see a second one.
func TestHTTP2Smuggling(t *testing.T) {
	evil := "GET /evil HTTP/1.1\r\nHost: echo\r\n\r\n"
	for name, tc := range map[string]struct {
		fields wire.Fields
		body   string
		open   bool // the request's end is not sent
	}{
		"a line break in a value":  {wire.Fields{{Name: "x", Value: "a\r\n\r\n" + evil}}, "", false},
		"a line feed in a value":   {wire.Fields{{Name: "x", Value: "a\nb: c"}}, "", false},
		"a line break in a name":   {wire.Fields{{Name: "x\r\ny", Value: "a"}}, "", false},
		"transfer-encoding":        {wire.Fields{{Name: "transfer-encoding", Value: "chunked"}}, "0\r\n\r\n" + evil, false},
		"te":                       {wire.Fields{{Name: "te", Value: "chunked"}}, "", false},
		"connection":               {wire.Fields{{Name: "connection", Value: "keep-alive"}}, "", false},
		"content-length too short": {wire.Fields{{Name: "content-length", Value: "2"}}, "hi" + evil, false},
		"content-length too long":  {wire.Fields{{Name: "content-length", Value: "99999"}}, "hi", false},
		"content-length, no body":  {wire.Fields{{Name: "content-length", Value: "5"}}, "", false},
		"two content-lengths":      {wire.Fields{{Name: "content-length", Value: "2"}, {Name: "content-length", Value: "3"}}, "hi", false},
	} {
		t.Run(name, func(t *testing.T) {
			var whole, second atomic.Int32
			b := inproc.NewBackend(t, func(c *inproc.Conn) {
				n := 0
				c.Serve(func(line string, _ map[string]string, _ string) string {
					if n++; n > 1 {
						second.Add(1)
					}
					if strings.HasSuffix(strings.Fields(line)[1], "/case") {
						whole.Add(1)
					}
					return inproc.OK(line)
				})
			})
			p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
			c := h2Client(t, p)
			method := "POST"
			if tc.body == "" {
				method = "GET"
			}
			id, err := c.Open(tc.body == "", wire.RequestHead(method, "echo:9080", "/case", tc.fields...))
			must(t, err)
			if tc.body != "" {
				_ = c.Data(id, true, []byte(tc.body))
			}
			s, err := c.Await(id)
			must(t, err)
			if s.Reset == nil && !strings.HasPrefix(s.Get(":status"), "4") {
				t.Errorf("%s, body %q", s.Get(":status"), s.Body)
			}
			if whole.Load() != 0 {
				t.Error("the host saw a whole request")
			}
			after, err := c.Get("echo:9080", "/after")
			if err != nil || string(after.Body) != "GET /after HTTP/1.1" || second.Load() != 0 {
				t.Errorf("the next request: %q %v; %d on a used connection", after.Body, err, second.Load())
			}
		})
	}
}
