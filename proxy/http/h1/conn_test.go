// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"pillion/proxy/http"
	"pillion/proxy/proxytest"
)

// tcpPair returns both ends of a loopback connection.
func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// overBoth runs a test over sockets and over an in-memory connection.
func overBoth(t *testing.T, f func(t *testing.T, client, server net.Conn)) {
	t.Run("tcp", func(t *testing.T) {
		c, s := tcpPair(t)
		f(t, c, s)
	})
	t.Run("pipe", func(t *testing.T) {
		c, s := net.Pipe()
		t.Cleanup(func() { c.Close(); s.Close() })
		f(t, c, s)
	})
}

// body reads all pieces of a body.
func body(t testing.TB, read func() ([]byte, error)) []byte {
	t.Helper()
	var all []byte
	for {
		p, err := read()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("after %d octets: %v", len(all), err)
		}
		all = append(all, p...)
	}
}

// message is one request or response of TestExchange.
type message struct {
	name    string
	framing http.Framing
	body    string
	trailer string
}

func messages() []message {
	big := strings.Repeat("0123456789abcdef", 20000)
	return []message{
		{name: "none"},
		{name: "length", framing: http.Framing{Kind: http.BodyLength, Length: 5}, body: "hello"},
		{name: "empty", framing: http.Framing{Kind: http.BodyLength}},
		{name: "big", framing: http.Framing{Kind: http.BodyLength, Length: int64(len(big))}, body: big},
		{name: "chunked", framing: http.Framing{Kind: http.BodyChunked}, body: "hello"},
		{name: "chunked-big", framing: http.Framing{Kind: http.BodyChunked}, body: big},
		{name: "trailers", framing: http.Framing{Kind: http.BodyChunked}, body: "hello", trailer: "abc"},
	}
}

// TestExchange sends every kind of message in both directions on one
// connection after the other and on one connection all in a row.
func TestExchange(t *testing.T) {
	overBoth(t, func(t *testing.T, client, server net.Conn) {
		served := make(chan error, 1)
		go func() { served <- echoServer(NewServerConn(server, nil)) }()
		c := NewClientConn(client)
		for _, m := range messages() {
			exchange(t, c, m)
		}
		_ = c.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// exchange sends m, which the server echoes, and checks what comes back.
func exchange(t *testing.T, c *ClientConn, m message) {
	t.Helper()
	var req http.RequestHead
	req.Method, req.RawMethod = http.MethodPost, []byte("POST")
	req.Path, req.Authority, req.HostName = []byte("/"+m.name), []byte("example.com"), []byte("Host")
	req.Protocol, req.Framing = http.HTTP11, m.framing
	c.Begin()
	if err := c.WriteHead(&req, m.framing.Kind == http.BodyNone); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	if m.framing.Kind == http.BodyNone {
		sent <- nil
	} else {
		if err := c.SplitWriter(); err != nil {
			t.Fatal(err)
		}
		go func() { sent <- sendBody(c, m) }()
	}
	var resp http.ResponseHead
	if err := c.ReadHead(&resp); err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
	if v, ok := resp.Fields.Lookup(http.HeaderOther, []byte("X-Path")); !ok || string(v) != "/"+m.name || resp.Status != 200 {
		t.Errorf("%s: status %d, X-Path %q", m.name, resp.Status, v)
	}
	if got := body(t, c.ReadBody); string(got) != m.body {
		t.Errorf("%s: %d octets came back, want %d", m.name, len(got), len(m.body))
	}
	if tr := c.ResponseTrailers(); (tr != nil) != (m.trailer != "") {
		t.Errorf("%s: trailers %v", m.name, tr)
	}
	if err := <-sent; err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
	reusable, head := c.End()
	head.Release()
	if !reusable {
		t.Errorf("%s: the connection can't be used again", m.name)
	}
}

func sendBody(c *ClientConn, m message) error {
	if err := c.WriteBody([]byte(m.body), m.trailer == ""); err != nil {
		return err
	}
	if m.trailer != "" {
		var f http.Fields
		f.Add([]byte("X-Sum"), []byte(m.trailer))
		if err := c.WriteTrailers(&f); err != nil {
			return err
		}
	}
	return c.Flush()
}

// echoServer answers each request with its own body until the client leaves.
func echoServer(s *ServerConn) error {
	defer s.Close()
	var req http.RequestHead
	var resp http.ResponseHead
	xPath := []byte("X-Path")
	for begun(s) == nil {
		req.Reset()
		resp.Reset()
		if err := s.ReadHead(&req, nil); err != nil {
			return fmt.Errorf("head: %w", err)
		}
		resp.Status, resp.Protocol = 200, http.HTTP11
		resp.Fields.Add(xPath, req.Path)
		resp.Framing = req.Framing
		if req.Framing.Kind == http.BodyNone {
			resp.Framing = http.Framing{Kind: http.BodyLength}
		}
		if err := s.WriteHead(&resp, false); err != nil {
			return err
		}
		if err := echoBody(s); err != nil {
			return fmt.Errorf("%s: %w", req.Path, err)
		}
		if err := s.Flush(); err != nil {
			return err
		}
		if !s.End() {
			return nil
		}
	}
	return nil
}

func echoBody(s *ServerConn) error {
	for {
		if !s.Buffered() {
			if err := s.Flush(); err != nil {
				return err
			}
		}
		p, err := s.ReadBody()
		if err == io.EOF {
			if tr := s.RequestTrailers(); tr != nil {
				return s.WriteTrailers(tr)
			}
			return s.WriteBody(nil, true)
		}
		if err != nil {
			return err
		}
		if err := s.WriteBody(p, false); err != nil {
			return err
		}
	}
}

// TestHeadSurvivesBody holds that a head's fields stay what they were while a
// body of many buffers is read behind them.
func TestHeadSurvivesBody(t *testing.T) {
	client, server := tcpPair(t)
	payload := bytes.Repeat([]byte("x"), 1<<20)
	go func() {
		_, _ = fmt.Fprintf(client, "POST /up HTTP/1.1\r\nHost: a.example\r\nX-Mark: stays\r\nContent-Length: %d\r\n\r\n", len(payload))
		_, _ = client.Write(payload)
	}()
	s := NewServerConn(server, nil)
	if err := begun(s); err != nil {
		t.Fatal(err)
	}
	var req http.RequestHead
	if err := s.ReadHead(&req, nil); err != nil {
		t.Fatal(err)
	}
	if got := body(t, s.ReadBody); !bytes.Equal(got, payload) {
		t.Errorf("%d octets, want %d", len(got), len(payload))
	}
	v, _ := req.Fields.Lookup(http.HeaderOther, []byte("x-mark"))
	if string(v) != "stays" || string(req.Authority) != "a.example" || string(req.Path) != "/up" {
		t.Errorf("X-Mark %q, authority %q, path %q", v, req.Authority, req.Path)
	}
}

// TestLateBody holds that a body past its deadline is told from a client that
// left.
func TestLateBody(t *testing.T) {
	overBoth(t, func(t *testing.T, client, server net.Conn) {
		go func() { _, _ = io.WriteString(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n") }()
		s := NewServerConn(server, nil)
		var req http.RequestHead
		if err := begun(s); err != nil {
			t.Fatal(err)
		}
		if err := s.ReadHead(&req, nil); err != nil {
			t.Fatal(err)
		}
		s.SetReadDeadline(time.Unix(1, 0))
		_, err := s.ReadBody()
		if he, ok := err.(*http.Error); !ok || he.Status != 408 || he.Detail != "request_overall_timeout" {
			t.Errorf("a late body gives %v", err)
		}
		s.SetReadDeadline(time.Time{})
		_ = client.Close()
		if _, err := s.ReadBody(); err != errClientGone {
			t.Errorf("a client that left gives %v", err)
		}
	})
}

// TestPipelined holds that requests sent in one piece are answered in order.
func TestPipelined(t *testing.T) {
	overBoth(t, func(t *testing.T, client, server net.Conn) {
		go func() { _ = echoServer(NewServerConn(server, nil)) }()
		var want, sent strings.Builder
		for i := range 50 {
			fmt.Fprintf(&sent, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", i)
			fmt.Fprintf(&want, "HTTP/1.1 200 \r\nX-Path: /%d\r\ncontent-length: 2\r\n\r\nab", i)
		}
		go func() { _, _ = io.WriteString(client, sent.String()) }()
		got := make([]byte, want.Len())
		_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := io.ReadFull(client, got)
		norm := strings.NewReplacer("200 OK", "200 ", "Content-Length", "content-length")
		if err != nil && err != io.ErrUnexpectedEOF || strings.Count(norm.Replace(string(got[:n])), "X-Path") < 40 {
			t.Fatalf("%v after %d bytes: %q", err, n, got[:min(n, 300)])
		}
		for i := range 40 {
			if !strings.Contains(string(got[:n]), fmt.Sprintf("X-Path: /%d\r\n", i)) {
				t.Fatalf("no answer to request %d", i)
			}
		}
	})
}

// TestReusedButClosed holds that a request on a connection that the host had
// closed is told apart from one that was lost, and that the kernel vouches
// for its not having been seen.
func TestReusedButClosed(t *testing.T) {
	client, server := tcpPair(t)
	c := NewClientConn(client)
	go func() {
		p := make([]byte, 4096)
		_, _ = server.Read(p)
		_, _ = io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		_ = server.Close()
	}()
	get := func() error {
		var req http.RequestHead
		req.Method, req.RawMethod, req.Path = http.MethodGet, []byte("GET"), []byte("/")
		req.Authority, req.HostName, req.Protocol = []byte("a"), []byte("Host"), http.HTTP11
		var resp http.ResponseHead
		c.Begin()
		_ = c.WriteHead(&req, true)
		if err := c.ReadHead(&resp); err != nil {
			return err
		}
		body(t, c.ReadBody)
		return nil
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	if ok, head := c.End(); !ok {
		t.Fatal("the first answer ends the connection")
	} else {
		head.Release()
	}
	end := time.Now().Add(5 * time.Second)
	for c.Alive() {
		if time.Now().After(end) {
			t.Fatal("the FIN didn't come")
		}
	}
	if err := get(); err != ErrUpstreamUnused {
		t.Fatalf("a closed connection gives %v", err)
	}
	if !c.Unseen() {
		t.Error("the kernel doesn't vouch for a request that met a closed socket")
	}
	if ok, head := c.End(); ok {
		t.Error("a closed connection is given back")
	} else {
		head.Release()
	}
}

// TestKeepAliveAllocatesNothing holds both sides of the codec to no
// allocation for a GET on an open connection.
func TestKeepAliveAllocatesNothing(t *testing.T) {
	client, server := tcpPair(t)
	go func() { _ = echoServer(NewServerConn(server, nil)) }()
	c := NewClientConn(client)
	var req http.RequestHead
	req.Method, req.RawMethod, req.Path = http.MethodGet, []byte("GET"), []byte("/")
	req.Authority, req.HostName, req.Protocol = []byte("a"), []byte("Host"), http.HTTP11
	var resp http.ResponseHead
	proxytest.NoAllocs(t, "the client's side of a GET", func() {
		c.Begin()
		_ = c.WriteHead(&req, true)
		resp.Reset()
		if err := c.ReadHead(&resp); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := c.ReadBody(); err == io.EOF {
				break
			}
		}
		_, head := c.End()
		head.Release()
	})
}

// once is a netio.Taker that has enough after one read.
type once struct{}

func (once) Take() bool { return false }

// begun waits for a request to begin.
func begun(s *ServerConn) error { return s.Each(once{}) }
