// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pillion/proxy/proxytest"
	"pillion/proxy/proxytest/inproc"
)

const get = "GET /x HTTP/1.1\nHost: echo:9080\n\n"

// route is the YAML of a VirtualService for the host echo.
func route(http string) string {
	return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: echo, namespace: default}\n" +
		"spec:\n  hosts: [echo]\n  http:\n" + http
}

// rule is the YAML of a DestinationRule for the host echo.
func rule(policy string) string {
	return "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: echo, namespace: default}\n" +
		"spec:\n  host: echo\n  trafficPolicy: " + policy + "\n"
}

func wantLine(t *testing.T, r inproc.Response, line string) {
	t.Helper()
	if r.Line != line {
		t.Errorf("status line %q, want %q (fields %v, body %q)", r.Line, line, r.Fields, r.Body)
	}
}

// TestKeepAlive sends several requests on one connection, by Host header and
// as to a forward proxy, and holds that one upstream connection carries them.
func TestKeepAlive(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(line string, f map[string]string, _ string) string {
			return inproc.OK(line + " host=" + f["host"])
		})
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	for _, req := range []struct{ send, want string }{
		{get, "GET /x HTTP/1.1 host=echo:9080"},
		{"GET http://echo:9080/y?q=1 HTTP/1.1\nHost: echo:9080\n\n", "GET /y?q=1 HTTP/1.1 host=echo:9080"},
		{"GET http://echo.default.svc.cluster.local:9080/z HTTP/1.1\nHost: ignored\n\n", "GET /z HTTP/1.1 host=echo.default.svc.cluster.local:9080"},
		{"GET /w HTTP/1.1\nHost: ECHO:9080\n\n", "GET /w HTTP/1.1 host=ECHO:9080"},
	} {
		r := c.Do(req.send)
		wantLine(t, r, "HTTP/1.1 200 OK")
		if r.Body != req.want || r.Fields["server"] != "envoy" || r.Fields["x-envoy-upstream-service-time"] == "" {
			t.Errorf("%q gives %q with %v", req.send, r.Body, r.Fields)
		}
	}
	if n := b.Conns.Load(); n != 1 {
		t.Errorf("%d upstream connections, want 1", n)
	}
}

// TestHeadersForwarded holds that order and case of a client's fields are
// kept, that hop-by-hop fields go, and that ours come.
func TestHeadersForwarded(t *testing.T) {
	heads := make(chan string, 1)
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		var head strings.Builder
		p := make([]byte, 1)
		for !strings.HasSuffix(head.String(), "\r\n\r\n") {
			if _, err := c.Conn.Read(p); err != nil {
				return
			}
			head.Write(p)
		}
		heads <- head.String()
		c.Send(inproc.OK(""))
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	c.Do("GET /x HTTP/1.1\nX-First: 1\nHOST: echo:9080\nConnection: keep-alive, x-gone\nX-Gone: 1\nX-miXed: Two\nx-request-id: abc\n\n")
	got := <-heads
	want := "GET /x HTTP/1.1\r\nX-First: 1\r\nHOST: echo:9080\r\nX-miXed: Two\r\nx-request-id: abc\r\n" +
		"x-forwarded-proto: http\r\nx-envoy-attempt-count: 1\r\n\r\n"
	if got != want {
		t.Errorf("the backend got\n%q\nwant\n%q", got, want)
	}
}

// TestUnknownHost holds what happens without a service: ALLOW_ANY goes to the
// address that the request names, REGISTRY_ONLY answers 502.
func TestUnknownHost(t *testing.T) {
	b := inproc.Echo(t, "outside")
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	req := fmt.Sprintf("GET /x HTTP/1.1\nHost: 127.0.0.1:%d\n\n", b.Port)
	if r := c.Do(req); r.Body != "outside" {
		t.Errorf("ALLOW_ANY gives %q %q", r.Line, r.Body)
	}
	p.Edit("sidecar.yaml", "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: default, namespace: default}\n"+
		"spec: {egress: [{hosts: ['./*']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n")
	wantLine(t, c.Do(req), "HTTP/1.1 502 Bad Gateway")
	if r := c.Do(get); r.Body != "outside" {
		t.Errorf("a known host gives %q %q", r.Line, r.Body)
	}
}

// TestNotToItself holds that a request for the proxy's own address is not sent
// in a circle.
func TestNotToItself(t *testing.T) {
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", inproc.Echo(t, "x"))})
	for _, name := range []string{"http", "admin", "metrics"} {
		r := inproc.Dial(t, p.Addr("http")).Do("GET /quitquitquit HTTP/1.1\nHost: " + p.Addr(name) + "\n\n")
		if !strings.HasPrefix(r.Line, "HTTP/1.1 503 ") {
			t.Errorf("%s: %s", name, r.Line)
		}
	}
}

// TestBodies sends bodies of every framing, and reads them back.
func TestBodies(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(line string, f map[string]string, body string) string {
			if f["transfer-encoding"] != "" {
				payload, trailer, _ := strings.Cut(body, "|")
				if trailer != "" {
					trailer += "\r\n"
				}
				return fmt.Sprintf("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n%x\r\n%s\r\n0\r\n%s\r\n", len(payload), payload, trailer)
			}
			return inproc.OK(body)
		})
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	for _, size := range []int{0, 1, 1000, 16 << 10, 64 << 10, 1 << 20} {
		body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		r := c.Do(fmt.Sprintf("POST /x HTTP/1.1\nHost: echo:9080\nContent-Length: %d\n\n%s", size, body))
		if r.Body != body {
			t.Errorf("length %d: %d octets came back", size, len(r.Body))
		}
		if size == 0 {
			continue
		}
		r = c.Do(fmt.Sprintf("POST /x HTTP/1.1\nHost: echo:9080\nTransfer-Encoding: chunked\n\n%x\r\n%s\r\n0\r\nX-Sum: 7\r\n\r\n", size, body))
		if r.Body != body+"|X-Sum: 7" {
			t.Errorf("chunked %d: %d octets came back, ending in %q", size, len(r.Body), r.Body[max(0, len(r.Body)-20):])
		}
	}
}

// TestBigBodies are counted whole, however little of them passes through our hands, and
// the connection goes on behind them.
func TestBigBodies(t *testing.T) {
	const size = 5<<20 + 3
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(_ string, _ map[string]string, body string) string { return inproc.OK(body) })
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
	const times = 3
	for range times {
		r := c.Do(fmt.Sprintf("POST /x HTTP/1.1\nHost: echo:9080\nContent-Length: %d\n\n%s", size, body))
		if r.Body != body {
			t.Fatalf("%d octets came back of %d", len(r.Body), size)
		}
	}
	if n := b.Conns.Load(); n != 1 {
		t.Errorf("%d upstream connections, want 1", n)
	}
	for _, name := range []string{"istio_request_bytes_sum", "istio_response_bytes_sum"} {
		p.WaitFor("all octets are in "+name, func() bool { return metric(t, p, name) >= times*size })
		if n := metric(t, p, name); n > times*(size+1000) {
			t.Errorf("%s is %v for bodies of %d octets", name, n, times*size)
		}
	}
}

// TestRequestTime: upstream_rq_time runs from the request's end to the response's, over
// all that comes between, as in Envoy.
func TestRequestTime(t *testing.T) {
	const pause = 200 * time.Millisecond
	body := "HTTP/1.1 200 OK\nContent-Length: 2\n\n"
	for _, c := range []struct {
		name  string
		host  func(c *inproc.Conn)
		yaml  string
		least time.Duration
		most  time.Duration
	}{
		{name: "the host takes its time", host: func(c *inproc.Conn) {
			<-time.After(pause)
			c.Send(body + "ok")
		}, least: pause},
		{name: "the body does", host: func(c *inproc.Conn) {
			c.Send(body)
			<-time.After(pause)
			c.Send("ok")
		}, least: pause},
		{name: "a filter does", host: func(c *inproc.Conn) { c.Send(body + "ok") }, yaml: route("  - fault: {delay: {percentage: {value: 100}, fixedDelay: 1s}}\n" +
			"    timeout: 700ms\n    route: [{destination: {host: echo}}]\n"), most: time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := inproc.NewBackend(t, func(conn *inproc.Conn) {
				conn.Head()
				c.host(conn)
			})
			files := map[string]string{"echo.yaml": inproc.Service("echo", b)}
			if c.yaml != "" {
				files["route.yaml"] = c.yaml
			}
			p := inproc.Start(t, files)
			if r := inproc.Dial(t, p.Addr("http")).Do(get); r.Body != "ok" {
				t.Fatalf("%q %q", r.Line, r.Body)
			}
			p.WaitFor("the response is counted", func() bool { return metric(t, p, "envoy_cluster_upstream_rq_time_count") == 1 })
			if got := time.Duration(metric(t, p, "envoy_cluster_upstream_rq_time_sum") * float64(time.Millisecond)); got < c.least-time.Millisecond || c.most > 0 && got >= c.most {
				t.Errorf("it is %v, want %v and more, less than %v", got, c.least, c.most)
			}
		})
	}
}

// TestBothWaysAtOnce streams up and down in turns on one exchange: each piece
// must arrive before the next is sent.
func TestBothWaysAtOnce(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Head()
		c.Send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n")
		for i := range 20 {
			c.Want(fmt.Sprintf("4\r\nup%02d\r\n", i))
			c.SendRaw(fmt.Sprintf("6\r\ndown%02d\r\n", i))
		}
		c.Want("0\r\n\r\n")
		c.SendRaw("0\r\n\r\n")
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	c.Send("POST /x HTTP/1.1\nHost: echo:9080\nTransfer-Encoding: chunked\n\n")
	for i := range 20 {
		c.SendRaw(fmt.Sprintf("4\r\nup%02d\r\n", i))
		if i == 0 {
			c.Head()
		}
		c.Want(fmt.Sprintf("6\r\ndown%02d\r\n", i))
	}
	c.SendRaw("0\r\n\r\n")
	c.Want("0\r\n\r\n")
}

// TestHalfClose holds that a client that closes its sending side still gets
// its answer.
func TestHalfClose(t *testing.T) {
	release := make(chan struct{})
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Head()
		<-release
		c.Send(inproc.OK("still there"))
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	c.Send(get)
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	close(release)
	if r := c.Response(false); r.Body != "still there" {
		t.Errorf("%q %q", r.Line, r.Body)
	}
	c.WantClosed()
}

// TestNoBodyResponses holds the framing of answers that have no body.
func TestNoBodyResponses(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(line string, _ map[string]string, _ string) string {
			switch {
			case strings.HasPrefix(line, "HEAD"):
				return "HTTP/1.1 200 OK\nContent-Length: 1000\n\n"
			case strings.Contains(line, "/204"):
				return "HTTP/1.1 204 No Content\n\n"
			case strings.Contains(line, "/304"):
				return "HTTP/1.1 304 Not Modified\nContent-Length: 10\nETag: x\n\n"
			}
			return inproc.OK("next")
		})
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	for _, req := range []string{"HEAD /x", "GET /204", "GET /304"} {
		c.Do(req + " HTTP/1.1\nHost: echo:9080\n\n")
		if r := c.Do(get); r.Body != "next" {
			t.Errorf("after %s: %q %q", req, r.Line, r.Body)
		}
	}
	if n := b.Conns.Load(); n != 1 {
		t.Errorf("%d upstream connections, want 1", n)
	}
}

// TestUpstreamFailures holds the replies to hosts that are down, close or talk
// nonsense.
func TestUpstreamFailures(t *testing.T) {
	dead := inproc.Refusing(t)
	for _, tc := range []struct {
		name    string
		backend *inproc.Backend
		line    string
		body    string
	}{
		{"refused", dead, "HTTP/1.1 503 Service Unavailable", "upstream connect error or disconnect/reset before headers. " +
			"retried and the latest reset reason: remote connection failure"},
		{"closes", inproc.NewBackend(t, func(c *inproc.Conn) { c.Head() }), "HTTP/1.1 503 Service Unavailable",
			"upstream connect error or disconnect/reset before headers. reset reason: connection termination"},
		{"nonsense", inproc.NewBackend(t, func(c *inproc.Conn) { c.Head(); c.SendRaw("SSH-2.0-x\r\n\r\n") }), "HTTP/1.1 502 Bad Gateway",
			"upstream connect error or disconnect/reset before headers. reset reason: protocol error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", tc.backend)})
			c := inproc.Dial(t, p.Addr("http"))
			r := c.Do(get)
			wantLine(t, r, tc.line)
			if r.Body != tc.body {
				t.Errorf("body\n%q\nwant\n%q", r.Body, tc.body)
			}
		})
	}
}

// TestCutResponse holds that a response that its host cuts off is cut off for
// the client as well, not completed.
func TestCutResponse(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Head()
		c.Send("HTTP/1.1 200 OK\nContent-Length: 100\n\nonly this")
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	c.Send(get)
	c.Head()
	c.Want("only this")
	c.WantClosed()
}

// TestDeadPooledConnection holds that a pooled connection which its host has
// closed costs no client an error, whatever the method.
func TestDeadPooledConnection(t *testing.T) {
	closed := make(chan struct{}, 1)
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		// One answer for each connection, with no word of closing.
		c.Head()
		c.Send(inproc.OK("one"))
		_ = c.Close()
		closed <- struct{}{}
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	for i := range 600 {
		method := [...]string{"GET", "POST", "PUT"}[i%3]
		r := c.Do(method + " /x HTTP/1.1\nHost: echo:9080\nContent-Length: 0\n\n")
		if r.Body != "one" {
			t.Fatalf("request %d (%s): %q %q", i, method, r.Line, r.Body)
		}
		<-closed
	}
}

// TestRetries counts tries: by status and by failure, on other hosts first.
func TestRetries(t *testing.T) {
	var tries atomic.Int32
	fails := func(n int32) func(c *inproc.Conn) {
		return func(c *inproc.Conn) {
			c.Serve(func(_ string, f map[string]string, body string) string {
				if k := tries.Add(1); k <= n {
					return "HTTP/1.1 503 Service Unavailable\nContent-Length: 4\n\nfail"
				}
				return inproc.OK(f["x-envoy-attempt-count"] + " " + body)
			})
		}
	}
	policy := route("  - retries: {attempts: 2, retryOn: '503', backoff: 1ms}\n    route: [{destination: {host: echo}}]\n")
	for _, tc := range []struct {
		name  string
		fails int32
		send  string
		want  string
		tries int32
	}{
		{"second try", 1, get, "2 ", 2},
		{"limit", 9, get, "fail", 3},
		{"body", 2, "POST /x HTTP/1.1\nHost: echo:9080\nContent-Length: 4\n\nbody", "3 body", 3},
		{"chunked body", 2, "POST /x HTTP/1.1\nHost: echo:9080\nTransfer-Encoding: chunked\n\n4\r\nbody\r\n0\r\n\r\n", "3 body", 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tries.Store(0)
			b := inproc.NewBackend(t, fails(tc.fails))
			p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b), "vs.yaml": policy})
			r := inproc.Dial(t, p.Addr("http")).Do(tc.send)
			if r.Body != tc.want || tries.Load() != tc.tries {
				t.Errorf("%q %q after %d tries, want %q after %d", r.Line, r.Body, tries.Load(), tc.want, tc.tries)
			}
		})
	}
}

// TestNoTimeForARetry holds that a client gets an answer when the route's time
// is up before the back-off of a retry is.
func TestNoTimeForARetry(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(string, map[string]string, string) string {
			return "HTTP/1.1 503 Service Unavailable\nContent-Length: 4\n\nfail"
		})
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b),
		"vs.yaml": route("  - timeout: 300ms\n    retries: {attempts: 50, retryOn: '503', backoff: 10s}\n    route: [{destination: {host: echo}}]\n")})
	r := inproc.Dial(t, p.Addr("http")).Do(get)
	wantLine(t, r, "HTTP/1.1 504 Gateway Timeout")
}

// TestTimeouts holds the route's and the try's timeout, before and within the
// response.
func TestTimeouts(t *testing.T) {
	stall := make(chan struct{})
	defer close(stall)
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		line, _ := c.Head()
		if strings.Contains(line, "/within") {
			c.Send("HTTP/1.1 200 OK\nContent-Length: 10\n\nhalf")
		}
		<-stall
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b),
		"vs.yaml": route("  - timeout: 500ms\n    route: [{destination: {host: echo}}]\n")})
	c := inproc.Dial(t, p.Addr("http"))
	r := c.Do(get)
	wantLine(t, r, "HTTP/1.1 504 Gateway Timeout")
	if r.Body != "upstream request timeout" {
		t.Errorf("body %q", r.Body)
	}
	c.Send("GET /within HTTP/1.1\nHost: echo:9080\n\n")
	c.Head()
	c.Want("half")
	c.WantClosed()

	p.Edit("vs.yaml", route("  - retries: {attempts: 1, perTryTimeout: 50ms, retryOn: 5xx}\n    route: [{destination: {host: echo}}]\n"))
	r = inproc.Dial(t, p.Addr("http")).Do(get)
	wantLine(t, r, "HTTP/1.1 504 Gateway Timeout")
}

// TestPendingQueue holds that requests beyond maxConnections wait for one, and
// that those beyond the queue are refused.
func TestPendingQueue(t *testing.T) {
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	var active, most atomic.Int32
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(string, map[string]string, string) string {
			most.Store(max(most.Load(), active.Add(1)))
			<-gate
			active.Add(-1)
			return inproc.OK("done")
		})
	})
	t.Cleanup(open)
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b),
		"dr.yaml": rule("{connectionPool: {tcp: {maxConnections: 2}, http: {http1MaxPendingRequests: 3}}}")})
	var wg sync.WaitGroup
	var ok, refused atomic.Int32
	for i := range 10 {
		if i == 2 {
			p.WaitFor("both connections are in use", func() bool { return active.Load() == 2 })
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			switch r := inproc.Dial(t, p.Addr("http")).Do(get); {
			case r.Body == "done":
				ok.Add(1)
			case strings.HasPrefix(r.Line, "HTTP/1.1 503 ") && r.Fields["x-envoy-overloaded"] == "true":
				refused.Add(1)
			default:
				t.Errorf("%q %q", r.Line, r.Body)
			}
		}()
	}
	p.WaitFor("five requests are refused", func() bool { return refused.Load() == 5 })
	open()
	wg.Wait()
	if ok.Load() != 5 || most.Load() > 2 {
		t.Errorf("%d were served, at most %d at once; want 5 and 2", ok.Load(), most.Load())
	}
}

// TestMirror holds that a copy of each request, body included, goes to the
// mirror, that the client gets the route's own answer, and that a mirror which
// fails is nobody's business.
func TestMirror(t *testing.T) {
	copies := make(chan string, 4)
	shadow := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(line string, f map[string]string, body string) string {
			copies <- line + " " + f["host"] + " " + body
			return "HTTP/1.1 500 Internal Server Error\nContent-Length: 0\n\n"
		})
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", inproc.Echo(t, "real")), "shadow.yaml": inproc.Service("shadow", shadow),
		"vs.yaml": route("  - mirror: {host: shadow}\n    route: [{destination: {host: echo}}]\n")})
	c := inproc.Dial(t, p.Addr("http"))
	for _, tc := range []struct{ send, want string }{
		{get, "GET /x HTTP/1.1 echo:9080 "},
		{"POST /y HTTP/1.1\nHost: echo:9080\nContent-Length: 4\n\nbody", "POST /y HTTP/1.1 echo:9080 body"},
		{"POST /z HTTP/1.1\nHost: echo:9080\nTransfer-Encoding: chunked\n\n4\r\nbody\r\n0\r\n\r\n", "POST /z HTTP/1.1 echo:9080 body"},
	} {
		if r := c.Do(tc.send); r.Body != "real" {
			t.Errorf("%q %q", r.Line, r.Body)
		}
		if got := <-copies; got != tc.want {
			t.Errorf("the mirror got %q, want %q", got, tc.want)
		}
	}
}

// TestEarlyHints holds that 103 is passed on and does not end the exchange.
func TestEarlyHints(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Head()
		c.Send("HTTP/1.1 103 Early Hints\nLink: </s.css>\n\n")
		c.Send("HTTP/1.1 102 Processing\n\n")
		c.Send(inproc.OK("page"))
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b)})
	c := inproc.Dial(t, p.Addr("http"))
	c.Send(get)
	line, fields := c.Head()
	if line != "HTTP/1.1 103 Early Hints" || fields["link"] != "</s.css>" {
		t.Errorf("%q %v", line, fields)
	}
	if r := c.Response(false); r.Body != "page" {
		t.Errorf("%q %q", r.Line, r.Body)
	}
}

// TestSlowLoris holds that a head that takes too long to come is answered by
// 408 and a closed connection. The bound is the default of 15 s.
func TestSlowLoris(t *testing.T) {
	t.Parallel()
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", inproc.Echo(t, "x"))})
	c := inproc.Dial(t, p.Addr("http"))
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	c.SendRaw("GET / HTTP/1.1\r\nHost: ec")
	r := c.Response(false)
	wantLine(t, r, "HTTP/1.1 408 Request Timeout")
	c.WantClosed()
}

// TestNoAllocations is the bound on the hot path: a keep-alive GET with
// metrics on allocates nothing, from the client's bytes to the client's bytes.
func TestNoAllocations(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		p := make([]byte, 4096)
		_ = c.SetDeadline(time.Time{})
		for {
			if _, err := c.Conn.Read(p); err != nil {
				return
			}
			if _, err := c.Conn.Write(answer); err != nil {
				return
			}
		}
	})
	p := inproc.Start(t, map[string]string{
		"echo.yaml": inproc.Service("echo", b),
		"vs.yaml": route("  - match: [{headers: {end-user: {exact: jason}}}]\n    route: [{destination: {host: echo}}]\n" +
			"  - route: [{destination: {host: echo}}]\n"),
		"dr.yaml": rule("{connectionPool: {tcp: {maxConnections: 100}}, outlierDetection: {consecutive5xxErrors: 5}}"),
	})
	nc, err := net.Dial("tcp", p.Addr("http"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	request := []byte("GET /x HTTP/1.1\r\nHost: echo:9080\r\nUser-Agent: test\r\nAccept: */*\r\nend-user: jason\r\n\r\n")
	in := make([]byte, 4096)
	proxytest.NoAllocs(t, "a keep-alive GET", func() {
		if _, err := nc.Write(request); err != nil {
			t.Fatal(err)
		}
		if n, err := nc.Read(in); err != nil || string(in[:15]) != "HTTP/1.1 200 OK" {
			t.Fatalf("%q %v", in[:n], err)
		}
	})
}
