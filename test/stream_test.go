// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
	"pillion/test/wire"
)

// startOne runs the proxy in front of one origin, as the service app.
func startOne(t *testing.T, binary string, origin *wire.Origin) *rig.Proxy {
	t.Helper()
	return rig.Start(t, binary, rig.Options{}, fill(t, t.TempDir(), "one-service.yaml", "port", origin.Port()))
}

// TestHeaderOrder: fields keep the order and the case in which they came, in
// both directions; only what the proxy adds stands elsewhere.
func TestHeaderOrder(t *testing.T) {
	t.Parallel()
	heads := make(chan string, 1)
	origin := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		heads <- string(r.Head)
		_, err := io.WriteString(w, "HTTP/1.1 200 OK\r\nX-Zebra: 1\r\nx-aPPle: 2\r\nContent-Length: 0\r\nX-Zebra: 3\r\nETag: \"4\"\r\n\r\n")
		return err
	})
	p := startOne(t, binaries.Static(t), origin)
	resp := do(t, p.HTTP, "GET / HTTP/1.1\r\nHost: app\r\nX-Zebra: 1\r\nx-aPPle: 2\r\nAccept: */*\r\nX-Zebra: 3\r\nETag: 4\r\n\r\n")
	wantOrder(t, "the origin", <-heads, "Host: app", "X-Zebra: 1", "x-aPPle: 2", "Accept: */*", "X-Zebra: 3", "ETag: 4")
	wantOrder(t, "the client", string(resp.Head), "X-Zebra: 1", "x-aPPle: 2", "Content-Length: 0", "X-Zebra: 3", `ETag: "4"`)
}

func wantOrder(t *testing.T, who, head string, lines ...string) {
	t.Helper()
	rest := head
	for _, line := range lines {
		var found bool
		if _, rest, found = strings.Cut(rest, "\r\n"+line+"\r\n"); !found {
			t.Errorf("%s got no line %q, or got it elsewhere:\n%s", who, line, head)
			return
		}
		rest = "\r\n" + rest
	}
}

// pattern is bytes that differ from place to place, so that a lost or doubled
// piece shows.
type pattern struct{ at int64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p.at>>16) ^ byte(p.at>>8) ^ byte(p.at)*7
		p.at++
	}
	return len(b), nil
}

// sameAsPattern reads size bytes and compares them.
func sameAsPattern(r io.Reader, size int64) error {
	want, got := make([]byte, 64<<10), make([]byte, 64<<10)
	source := &pattern{}
	for left := size; left > 0; {
		n := min(left, int64(len(got)))
		if _, err := io.ReadFull(r, got[:n]); err != nil {
			return fmt.Errorf("%d bytes before the end: %w", left, err)
		}
		if _, err := source.Read(want[:n]); err != nil {
			return err
		}
		if !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("other bytes somewhere in the last %d before %d", n, size-left+n)
		}
		left -= n
	}
	return nil
}

// TestLargeBodies sends a large body up while it comes back down, both at
// once on one exchange, and looks at the memory that it took.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	const size = 256 << 20
	origin := wire.NewRawOrigin(t, func(c *wire.Conn) {
		if _, err := c.ReadHead(); err != nil {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", size)
		// An error shows at the client.
		_, _ = io.CopyN(c, c.Reader, size)
	})
	p := startOne(t, binaries.Static(t), origin)
	const resident = "process_resident_memory_bytes"
	before := p.Scrape(t).Sum(resident)

	c, err := wire.Dial(p.HTTP, 6*rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: app\r\ncontent-length: %d\r\n\r\n", size)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(c, &pattern{}, size)
		sent <- err
	}()
	head, err := c.ReadInterim()
	if err != nil || head.Status != 200 {
		t.Fatalf("the response's head: %+v, %v", head, err)
	}
	if err := sameAsPattern(c.Raw(), size/2); err != nil {
		t.Fatalf("the first half that came back: %v", err)
	}
	middle := p.Scrape(t).Sum(resident)
	if n, err := io.CopyN(io.Discard, c.Raw(), size/2); err != nil {
		t.Fatalf("the second half that came back: %v after %d bytes", err, n)
	}
	if err := <-sent; err != nil {
		t.Errorf("sending: %v", err)
	}
	const most = 16 << 20
	if before == 0 || middle > before+most {
		t.Errorf("in the middle of a body of %d bytes the resident memory went from %v to %v bytes", size, before, middle)
	}
}

// TestEarlyResponse: a server that answers before it has read the body, and
// reads no more of it, is heard by a client that is still sending.
func TestEarlyResponse(t *testing.T) {
	t.Parallel()
	origin := wire.NewRawOrigin(t, func(c *wire.Conn) {
		if _, err := c.ReadHead(); err != nil {
			return
		}
		if _, err := io.WriteString(c, "HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 9\r\n\r\ntoo large"); err != nil {
			return
		}
		// As servers do: the rest is thrown away until the client stops.
		_, _ = io.Copy(io.Discard, c.Reader)
	})
	p := startOne(t, binaries.Static(t), origin)
	for _, framing := range []string{"content-length: 1073741824", "transfer-encoding: chunked"} {
		c, err := wire.Dial(p.HTTP, rig.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Send("POST / HTTP/1.1\r\nHost: app\r\n" + framing + "\r\n\r\n1000\r\n" + strings.Repeat("x", 1000)); err != nil {
			t.Fatal(err)
		}
		resp, err := c.Read("POST")
		if err != nil || resp.Status != 413 || string(resp.Body) != "too large" {
			t.Errorf("with %s: %+v, %v; want the 413", framing, resp, err)
			continue
		}
		// The rest of the body can't be told from a next request, so the
		// connection has to end.
		if _, err := c.WaitClosed(); err != nil {
			t.Errorf("with %s, after the answer: %v", framing, err)
		}
	}
}

// TestPipelining: a thousand requests at once are answered in their order,
// and the proxy doesn't take them all in first.
func TestPipelining(t *testing.T) {
	t.Parallel()
	origin := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		return wire.Text(w, r, r.Target)
	})
	p := startOne(t, binaries.Static(t), origin)
	c, err := wire.Dial(p.HTTP, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const n = 1000
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			if err := c.Send(get("app", "/"+itoa(i))); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for i := range n {
		resp, err := c.Read("GET")
		if err != nil || resp.Status != 200 || string(resp.Body) != "/"+itoa(i) {
			t.Fatalf("answer %d: %+v, %v", i, resp, err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestRefusedExpectation: a server may refuse a body that it was only told
// of. What the client sends after that must not become a request of its own
// at the server.
func TestRefusedExpectation(t *testing.T) {
	t.Parallel()
	origin := wire.NewRawOrigin(t, func(c *wire.Conn) {
		for {
			r, err := c.ReadHead()
			if err != nil {
				return
			}
			status := 200
			if r.Fields.Get("expect") != "" {
				status = 417
			}
			if err := wire.Answer(c, r, status, "", wire.Field{Name: "x-target", Value: r.Target}); err != nil {
				return
			}
		}
	})
	p := startOne(t, binaries.Race(t), origin)
	origin.Record()
	c, err := wire.Dial(p.HTTP, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hidden := get("app", smuggled)
	if err := c.Send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(hidden))); err != nil {
		t.Fatal(err)
	}
	if resp, err := c.Read("POST"); err != nil || resp.Status != 417 {
		t.Fatalf("%+v, %v; want the 417", resp, err)
	}
	// Either the connection is closed, or this is a body that is thrown away
	// and a request behind it.
	if err := c.Send(hidden + get("app", "/after")); err == nil {
		resp, err := c.Read("GET")
		if err == nil && resp.Fields.Get("x-target") != "/after" {
			t.Errorf("a body was taken for a request: %+v", resp)
		}
		if err != nil && !errors.Is(err, io.EOF) && !wire.IsReset(err) {
			t.Errorf("after the refused body: %v", err)
		}
	}
	for range 3 {
		if resp := do(t, p.HTTP, get("app", "/next")); resp.Status != 200 {
			t.Errorf("the next request got %d", resp.Status)
		}
	}
	if seen := origin.Recorded(); strings.Contains(seen, smuggled) {
		t.Errorf("the origin saw the refused body: %q", seen)
	}
}

// TestRefusedUpgrade: bytes that a client sends behind a request to upgrade
// belong to the new protocol. They reach the server only if it agreed, and
// are never taken for a request.
func TestRefusedUpgrade(t *testing.T) {
	t.Parallel()
	origin := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		return wire.Text(w, r, "no upgrade")
	})
	p := startOne(t, binaries.Race(t), origin)
	origin.Record()
	c, err := wire.Dial(p.HTTP, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send(get("app", "/", "Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==") + get("app", smuggled)); err != nil {
		t.Fatal(err)
	}
	resp, err := c.Read("GET")
	if err != nil || resp.Status != 200 && resp.Status != 403 {
		t.Fatalf("%+v, %v; want the server's 200 or a 403", resp, err)
	}
	if rest, err := c.WaitClosed(); err != nil || len(rest) > 0 {
		t.Errorf("after a refused upgrade: %v, %q", err, rest)
	}
	for range 3 {
		if next := do(t, p.HTTP, get("app", "/next")); next.Status != 200 {
			t.Errorf("the next request got %d", next.Status)
		}
	}
	if seen := origin.Recorded(); strings.Contains(seen, smuggled) {
		t.Errorf("the server saw what was meant for a protocol that it refused: %q", seen)
	}
}

// TestUploadsKeepTheConnection: a server answers while the body comes in, and
// is done at its last byte. However close the two ends are, the connection
// stays good for the next request.
func TestUploadsKeepTheConnection(t *testing.T) {
	t.Parallel()
	origin := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		return wire.Text(w, r, string(r.Body))
	})
	p := startOne(t, binaries.Static(t), origin)
	const size, count = 40000, 3000
	body := strings.Repeat("0123456789", size/10)
	for name, raw := range map[string]string{
		"with a length": fmt.Sprintf("POST / HTTP/1.1\r\nHost: app\r\ncontent-length: %d\r\n\r\n%s", size, body),
		"chunked":       fmt.Sprintf("POST / HTTP/1.1\r\nHost: app\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", size, body),
	} {
		tally := wire.Load{
			Addr: p.HTTP, Request: raw, Conns: 4, Count: count, Patience: rig.Patience,
			Each: func(r *wire.Response, _ time.Duration) {
				if string(r.Body) != body {
					t.Errorf("%s: %d bytes came back, want %d", name, len(r.Body), size)
				}
			},
		}.Run()
		if tally.Failed > 0 || tally.Status[200] != count {
			t.Errorf("%s: statuses %v, %d failed (%v)", name, tally.Status, tally.Failed, tally.Failure)
		}
	}
}
