// SPDX-License-Identifier: Apache-2.0

package inproc

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for bytes.
const patience = 30 * time.Second

// Conn is one end of a connection in the words of the wire. A mismatch fails
// the test.
type Conn struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func newConn(t testing.TB, nc net.Conn) *Conn {
	_ = nc.SetDeadline(time.Now().Add(patience))
	return &Conn{t: t, Conn: nc, r: bufio.NewReader(nc)}
}

// Dial connects to addr as a client.
func Dial(t testing.TB, addr string) *Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return newConn(t, nc)
}

// Send writes text; lines may end in \n, which is sent as CRLF up to the
// first empty line.
func (c *Conn) Send(text string) {
	c.t.Helper()
	head, body, found := strings.Cut(text, "\n\n")
	out := strings.ReplaceAll(head, "\n", "\r\n")
	if found {
		out += "\r\n\r\n" + body
	}
	c.SendRaw(out)
}

// SendRaw writes text as it is.
func (c *Conn) SendRaw(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, text); err != nil {
		c.t.Errorf("sending: %v", err)
	}
}

// Head reads a message's head: its first line, and the fields in lower case.
func (c *Conn) Head() (first string, fields map[string]string) {
	c.t.Helper()
	first, fields, err := c.head()
	if err != nil {
		c.t.Fatalf("reading a head: %v after %q", err, first)
	}
	return first, fields
}

func (c *Conn) head() (first string, fields map[string]string, err error) {
	if first, err = c.line(); err != nil {
		return first, nil, err
	}
	fields = map[string]string{}
	for {
		l, err := c.line()
		if err != nil || l == "" {
			return first, fields, err
		}
		k, v, _ := strings.Cut(l, ":")
		k = strings.ToLower(k)
		if old, ok := fields[k]; ok {
			v = old + ", " + strings.TrimSpace(v)
		}
		fields[k] = strings.TrimSpace(v)
	}
}

func (c *Conn) line() (string, error) {
	l, err := c.r.ReadString('\n')
	return strings.TrimRight(l, "\r\n"), err
}

// Want reads exactly text.
func (c *Conn) Want(text string) {
	c.t.Helper()
	p := make([]byte, len(text))
	if n, err := io.ReadFull(c.r, p); err != nil || string(p) != text {
		c.t.Fatalf("read %q (%v), want %q", p[:n], err, text)
	}
}

// WantClosed reads to the end of the stream and fails if bytes come.
func (c *Conn) WantClosed() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); len(rest) > 0 {
		c.t.Errorf("%q came (%v) where the end was due", rest, err)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Error("the connection stays open")
	}
}

// Response is an answer read by Do.
type Response struct {
	Line   string
	Fields map[string]string
	Body   string
}

// Do sends a request and reads the whole answer.
func (c *Conn) Do(request string) Response {
	c.t.Helper()
	c.Send(request)
	return c.Response(strings.HasPrefix(request, "HEAD "))
}

// Response reads an answer with its body.
func (c *Conn) Response(toHead bool) Response {
	c.t.Helper()
	var r Response
	r.Line, r.Fields = c.Head()
	if toHead || strings.Contains(r.Line, " 204 ") || strings.Contains(r.Line, " 304 ") {
		return r
	}
	switch {
	case r.Fields["transfer-encoding"] != "":
		r.Body = c.Chunked()
	case r.Fields["content-length"] != "":
		var n int
		if _, err := fmt.Sscan(r.Fields["content-length"], &n); err != nil {
			c.t.Fatal(err)
		}
		p := make([]byte, n)
		if _, err := io.ReadFull(c.r, p); err != nil {
			c.t.Fatalf("reading a body of %d octets: %v", n, err)
		}
		r.Body = string(p)
	default:
		p, err := io.ReadAll(c.r)
		if err != nil {
			c.t.Fatalf("reading a body to the end: %v", err)
		}
		r.Body = string(p)
	}
	return r
}

// Chunked reads a chunked body; trailer lines follow the payload after a |.
func (c *Conn) Chunked() string {
	c.t.Helper()
	var b strings.Builder
	for {
		l, err := c.line()
		var n int
		if err == nil {
			_, err = fmt.Sscanf(l, "%x", &n)
		}
		if err != nil {
			c.t.Fatalf("chunk line %q: %v", l, err)
		}
		if n == 0 {
			break
		}
		if _, err := io.CopyN(&b, c.r, int64(n)); err != nil {
			c.t.Fatalf("chunk of %d octets: %v", n, err)
		}
		if l, _ := c.line(); l != "" {
			c.t.Fatalf("%q behind a chunk", l)
		}
	}
	for {
		l, err := c.line()
		if err != nil {
			c.t.Fatal(err)
		}
		if l == "" {
			return b.String()
		}
		b.WriteString("|" + l)
	}
}

// Backend is an upstream host whose connections a function serves.
type Backend struct {
	Port  int
	Conns atomic.Int32 // accepted so far
	ln    net.Listener
}

// NewBackend listens on a free port and runs serve for each connection, which
// is closed when it returns.
func NewBackend(t testing.TB, serve func(c *Conn)) *Backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &Backend{Port: ln.Addr().(*net.TCPAddr).Port, ln: ln}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			b.Conns.Add(1)
			mu.Lock()
			open[nc] = true
			mu.Unlock()
			wg.Add(1)
			go func() {
				defer wg.Done()
				serve(newConn(t, nc))
				_ = nc.Close()
				mu.Lock()
				delete(open, nc)
				mu.Unlock()
			}()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for nc := range open {
			_ = nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return b
}

// Serve answers each request on c with answer until the client leaves.
// answer gets the first line, the fields and the body, and returns the whole
// response in the form of Send; empty closes the connection.
func (c *Conn) Serve(answer func(line string, fields map[string]string, body string) string) {
	for {
		line, fields, err := c.head()
		if err != nil {
			return
		}
		body := ""
		switch {
		case fields["transfer-encoding"] != "":
			body = c.Chunked()
		case fields["content-length"] != "":
			var n int
			_, _ = fmt.Sscan(fields["content-length"], &n)
			p := make([]byte, n)
			if _, err := io.ReadFull(c.r, p); err != nil {
				return
			}
			body = string(p)
		}
		out := answer(line, fields, body)
		if out == "" {
			return
		}
		c.Send(out)
	}
}

// OK is a response with a body.
func OK(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\nContent-Length: %d\n\n%s", len(body), body)
}

// Echo is a backend that answers OK with its own name.
func Echo(t testing.TB, name string) *Backend {
	return NewBackend(t, func(c *Conn) {
		c.Serve(func(string, map[string]string, string) string { return OK(name) })
	})
}

// Service is the YAML of a service "name" on port 9080 in namespace default
// with the given backends as its endpoints.
func Service(name string, backends ...*Backend) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %[1]s, namespace: default}
spec:
  hosts: [%[1]s.default.svc.cluster.local]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
`, name)
	for i, be := range backends {
		fmt.Fprintf(&b, "  - {address: 127.0.0.1, ports: {http: %d}, labels: {app: %s, version: v%d}}\n", be.Port, name, i+1)
	}
	return b.String()
}

// Refusing is a backend that refuses every connection: its port is taken, and
// nobody listens on it.
func Refusing(t testing.TB) *Backend {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return &Backend{Port: sa.(*unix.SockaddrInet4).Port}
}
