// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pillion/bench/origin"
	"pillion/bench/proc"
	"pillion/bench/proc/proctest"
	"pillion/test/need"
)

// TestMain lets this test's binary be the origin and the open-loop load.
func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	var err error
	switch role {
	case origin.Role:
		err = origin.ServeFiles(ctx)
	case origin.SealedRole:
		err = origin.ServeSealed(ctx, os.Args[2])
	case HTTP2Role:
		err = ServeHTTP2(ctx, os.Stdin, os.Stdout)
	case SocketRole:
		err = ServeSocket(ctx, os.Stdin, os.Stdout)
	case OpenRole:
		err = ServeOpen(ctx, os.Stdin, os.Stdout)
	default:
		proctest.Run(m)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// started runs an origin for a test and returns the address of its first
// version.
func started(t *testing.T) (g *proc.Group, self, addr string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g = proc.NewGroup()
	t.Cleanup(g.Close)
	o, err := origin.Start(g, self, nil)
	if err != nil {
		t.Fatal(err)
	}
	return g, self, o.Addrs[origin.HTTP][0]
}

// handled serves each connection with f until the test ends and
// returns the address.
func handled(t *testing.T, f func(c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c, bufio.NewReader(c))
			}()
		}
	}()
	return ln.Addr().String()
}

// asked reads a request without a body.
func asked(r *bufio.Reader) bool {
	req, err := nethttp.ReadRequest(r)
	return err == nil && req.Body.Close() == nil
}

func TestWire(t *testing.T) {
	r := Request{Host: "a:1", Path: "/x", Fields: [][2]string{{"end-user", "jason"}}, Body: 70000, Close: true}
	req, err := nethttp.ReadRequest(bufio.NewReader(bytes.NewReader(r.Wire())))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil || len(body) != 70000 || req.Method != "POST" || req.Host != "a:1" || req.URL.Path != "/x" || !req.Close || req.Header.Get("end-user") != "jason" {
		t.Errorf("read back %+v with %d bytes, %v", req, len(body), err)
	}
	if got := string(Request{Host: "a", Path: "/"}.Wire()); got != "GET / HTTP/1.1\r\nHost: a\r\n\r\n" {
		t.Errorf("plain request %q", got)
	}
}

func TestErrorsString(t *testing.T) {
	if got := (Errors{}).String(); got != "none" {
		t.Errorf("no errors: %q", got)
	}
	e := Errors{Connect: 1, Read: 2, Write: 3, Status: 4, Timeout: 5}
	if got := e.String(); got != "1 connect, 2 read, 3 write, 4 status, 5 timeout" || e.Total() != 15 {
		t.Errorf("%q, total %d", got, e.Total())
	}
}

func TestParseWrk(t *testing.T) {
	// What wrk 4.1.0 prints with our script.
	const out = `Running 1s test @ http://127.0.0.1:41111/bench
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.33ms    2.40ms  31.24ms   93.57%
    Req/Sec    31.52k     2.35k   34.78k    70.00%
  31390 requests in 1.00s, 35.62MB read
Requests/sec:  31271.63
Transfer/sec:     35.49MB
bench-result duration_us=1003785 requests=31390 connect=1 read=2 write=3 status=4 timeout=5 p50_us=1734 p90_us=4104 p99_us=12511 p999_us=27001 max_us=31242
`
	us := time.Microsecond
	want := Result{
		Requests: 31390, Duration: 1003785 * us,
		Errors:  Errors{Connect: 1, Read: 2, Write: 3, Status: 4, Timeout: 5},
		Latency: Latency{P50: 1734 * us, P90: 4104 * us, P99: 12511 * us, P999: 27001 * us, Max: 31242 * us},
	}
	got, err := parseWrk([]byte(out))
	if err != nil || got != want {
		t.Errorf("parseWrk = %+v, %v, want %+v", got, err, want)
	}
	if r := got.Rate(); r < 31271 || r > 31272 {
		t.Errorf("rate %v", r)
	}
	for _, bad := range []string{"", "unable to connect", "bench-result requests=1", "bench-result requests=many duration_us=1"} {
		if r, err := parseWrk([]byte(bad)); err == nil {
			t.Errorf("parseWrk(%q) = %+v without an error", bad, r)
		}
	}
}

// TestWrk runs the real wrk: it must understand the script and send the
// requests that we mean.
func TestWrk(t *testing.T) {
	path := need.Program(t, "wrk")
	g, _, addr := started(t)
	w := Wrk{Path: path, Dir: t.TempDir(), Threads: 1}
	for _, req := range []Request{
		{Addr: addr, Host: "h", Path: "/"},
		{Addr: addr, Host: "h", Path: "/", Body: 64 << 10},
		{Addr: addr, Host: "h", Path: "/", Close: true},
	} {
		r, err := w.Run(t.Context(), g, req, 2, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if r.Requests < 100 || r.Errors.Total() != 0 || r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.P999 || r.DriverCPU <= 0 {
			t.Errorf("%+v: result %+v", req, r)
		}
	}
}

func TestWrkSendsTheRequest(t *testing.T) {
	path := need.Program(t, "wrk")
	got := make(chan *nethttp.Request, 1)
	addr := handled(t, func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := nethttp.ReadRequest(r)
			if err != nil {
				return
			}
			n, _ := io.Copy(io.Discard, req.Body)
			req.ContentLength = n
			select {
			case got <- req:
			default:
			}
			_, _ = io.WriteString(c, "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n")
		}
	})
	g := proc.NewGroup()
	defer g.Close()
	w := Wrk{Path: path, Dir: t.TempDir(), Threads: 4}
	res, err := w.Run(t.Context(), g, Request{Addr: addr, Host: "svc:9080", Path: "/p", Fields: [][2]string{{"end-user", "jason"}}, Body: 1000}, 1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if res.Errors.Status == 0 || res.Errors.Status != res.Requests {
		t.Errorf("%d of %d answers with 503 count as errors", res.Errors.Status, res.Requests)
	}
	req := <-got
	if req.Host != "svc:9080" || req.URL.Path != "/p" || req.Method != "POST" || req.Header.Get("end-user") != "jason" || req.ContentLength != 1000 {
		t.Errorf("wrk sent %+v", req)
	}
}

func TestAnswer(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
	for cut := 1; cut < len(ok); cut++ {
		var a answer
		done, err := a.feed([]byte(ok[:cut]))
		if done || err != nil {
			t.Fatalf("after %d bytes: done %v, %v", cut, done, err)
		}
		done, err = a.feed([]byte(ok[cut:]))
		if !done || err != nil || !a.ok() || !a.close {
			t.Fatalf("cut at %d: done %v, %v, %+v", cut, done, err, a)
		}
	}
	bad := []string{
		"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
		ok + "d",
		strings.Repeat("x", maxAnswerHead+1),
	}
	for _, b := range bad {
		var a answer
		if done, err := a.feed([]byte(b)); done || err == nil {
			t.Errorf("feed(%.60q): done %v, error %v", b, done, err)
		}
	}
}

func TestOpenKeepsTheRate(t *testing.T) {
	g, self, addr := started(t)
	spec := OpenSpec{
		Request: Request{Addr: addr, Host: "h", Path: "/"}, Connections: 4, Rate: 1000,
		Warmup: 100 * time.Millisecond, Duration: 400 * time.Millisecond,
	}
	r, err := OpenChild(t.Context(), g, self, nil, spec)
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests != 500 || r.Errors.Total() != 0 {
		t.Errorf("%d requests, errors %v, want 500 and none", r.Requests, r.Errors)
	}
	if r.Duration < 490*time.Millisecond || r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.Max || r.DriverCPU <= 0 {
		t.Errorf("result %+v", r)
	}
	spec.Request.Body = 300 << 10 // larger than a socket's buffer
	spec.Rate = 100
	if r, err = OpenChild(t.Context(), g, self, nil, spec); err != nil || r.Requests != 50 || r.Errors.Total() != 0 {
		t.Errorf("uploads: %+v, %v", r, err)
	}
}

// TestOpenCountsWaitingTime: while the server stalls, requests fall due; each
// of them must show the time that it waited to be sent.
func TestOpenCountsWaitingTime(t *testing.T) {
	const stall = 300 * time.Millisecond
	addr := handled(t, func(c net.Conn, r *bufio.Reader) {
		for n := 1; asked(r); n++ {
			if n == 20 {
				<-time.NewTimer(stall).C
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	r, err := Open(t.Context(), OpenSpec{
		Request: Request{Addr: addr, Host: "h", Path: "/"}, Connections: 1, Rate: 200, Duration: 500 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests != 100 || r.Errors.Total() != 0 {
		t.Errorf("%d requests, errors %v", r.Requests, r.Errors)
	}
	// 60 of the 100 fell due during the stall; a closed loop would show one
	// slow request, and a 90 % quantile of next to nothing.
	if r.Latency.P90 < stall/2 || r.Latency.Max < stall {
		t.Errorf("p90 %v, max %v beside a stall of %v", r.Latency.P90, r.Latency.Max, stall)
	}
}

func TestOpenCountsErrors(t *testing.T) {
	spec := func(addr string) OpenSpec {
		return OpenSpec{Request: Request{Addr: addr, Host: "h", Path: "/"}, Connections: 2, Rate: 10, Duration: 300 * time.Millisecond}
	}
	const good = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	cases := []struct {
		name   string
		handle func(c net.Conn, r *bufio.Reader)
		want   Errors
	}{
		{"status", func(c net.Conn, r *bufio.Reader) {
			for asked(r) {
				_, _ = io.WriteString(c, "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n")
			}
		}, Errors{Status: 3}},
		{"broken connection", func(_ net.Conn, r *bufio.Reader) { asked(r) }, Errors{Read: 3}},
		{"not HTTP", func(c net.Conn, r *bufio.Reader) {
			asked(r)
			_, _ = io.WriteString(c, "hello there, this is no answer\r\n\r\n")
			_, _ = io.Copy(io.Discard, r)
		}, Errors{Read: 3}},
		{"closing politely", func(c net.Conn, r *bufio.Reader) {
			asked(r)
			_, _ = io.WriteString(c, strings.Replace(good, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		}, Errors{}},
		{"closing when idle", func(c net.Conn, r *bufio.Reader) {
			asked(r)
			_, _ = io.WriteString(c, good)
		}, Errors{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r, err := Open(t.Context(), spec(handled(t, c.handle)))
			if err != nil {
				t.Fatal(err)
			}
			if r.Errors != c.want {
				t.Errorf("errors %+v, want %+v", r.Errors, c.want)
			}
		})
	}
}

func TestOpenGivesUp(t *testing.T) {
	var seen atomic.Int64
	addr := handled(t, func(_ net.Conn, r *bufio.Reader) {
		for asked(r) {
			seen.Add(1)
		}
	})
	r, err := Open(t.Context(), OpenSpec{Request: Request{Addr: addr, Host: "h", Path: "/"}, Connections: 2, Rate: 100, Duration: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Errors.Timeout != 10 || seen.Load() != 2 || r.Latency.Max < drainTime {
		t.Errorf("%+v with %d requests sent: want 10 timeouts, 2 sent, latencies of %v", r, seen.Load(), drainTime)
	}
}

func TestOpenRefusesNonsense(t *testing.T) {
	good := OpenSpec{Request: Request{Addr: "127.0.0.1:1", Host: "h", Path: "/"}, Connections: 1, Rate: 1, Duration: time.Second}
	for name, change := range map[string]func(*OpenSpec){
		"rate":        func(s *OpenSpec) { s.Rate = 0 },
		"connections": func(s *OpenSpec) { s.Connections = 0 },
		"duration":    func(s *OpenSpec) { s.Duration = 0 },
		"name":        func(s *OpenSpec) { s.Request.Addr = "localhost:1" },
		"nobody":      func(*OpenSpec) {},
	} {
		s := good
		change(&s)
		if r, err := Open(t.Context(), s); err == nil {
			t.Errorf("%s: %+v without an error", name, r)
		}
	}
	var out bytes.Buffer
	if err := ServeOpen(t.Context(), strings.NewReader("{"), &out); err == nil {
		t.Error("broken JSON is accepted")
	}
	b, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := ServeOpen(t.Context(), bytes.NewReader(b), &out); err == nil || out.Len() != 0 {
		t.Errorf("error %v, output %q", err, out.String())
	}
}

func TestHold(t *testing.T) {
	_, _, addr := started(t)
	h, err := Hold(t.Context(), Request{Addr: addr, Host: "h", Path: "/"}, 20)
	if err != nil {
		t.Fatal(err)
	}
	if failed, err := h.Check(t.Context()); failed != 0 || err != nil || h.Len() != 20 {
		t.Errorf("%d of %d failed, %v", failed, h.Len(), err)
	}
	for _, c := range h.conns[:5] {
		_ = c.Close()
	}
	if failed, err := h.Check(t.Context()); failed != 5 || err != nil {
		t.Errorf("%d failed, %v, want the 5 closed ones", failed, err)
	}
	h.Close()
	if _, err := Hold(t.Context(), Request{Addr: addr, Host: "h", Path: "/", Close: true}, 2); err == nil || !strings.Contains(err.Error(), "connection 1 of 2") {
		t.Errorf("error %v for a peer that closes", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Hold(ctx, Request{Addr: addr, Host: "h", Path: "/"}, 2); err == nil {
		t.Error("a cancelled Hold succeeds")
	}
}
