// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pillion/proxy/buf"
)

// pair returns both ends of a mutual connection.
func pair(t testing.TB) (client, server *Conn) {
	t.Helper()
	c, s, _, _ := mesh(t, newTestCA(t, "root"))
	nc, ns := socketPair(t)
	return join(t, c, s, nc, ns)
}

func join(t testing.TB, c *Client, s *Server, nc, ns net.Conn) (client, server *Conn) {
	t.Helper()
	errs := make(chan error, 1)
	go func() {
		var err error
		server, err = s.Handshake(context.Background(), ns)
		errs <- err
	}()
	client, err := c.Handshake(t.Context(), nc, ClientOptions{})
	if serr := <-errs; err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	return client, server
}

// TestBuffered: it says yes if and only if a Read returns at once.
func TestBuffered(t *testing.T) {
	client, server := pair(t)
	p := make([]byte, 64)
	// The session tickets are records that no reader gets to see.
	if n, err := client.TryRead(p); n != 0 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if client.Buffered() {
		t.Error("buffered, but nothing was sent")
	}
	// Three records in one segment, of which the first is read in parts.
	for _, text := range []string{"hello world", "second", "third"} {
		if _, err := server.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(n int, want string) {
		t.Helper()
		m, err := client.Read(p[:n])
		for m < len(want) && err == nil { // records may still be on the way
			var k int
			k, err = client.Read(p[m:n])
			m += k
		}
		if err != nil || string(p[:m]) != want {
			t.Fatalf("read %q, %v; want %q", p[:m], err, want)
		}
	}
	read(5, "hello")
	for range 2 { // asking changes nothing
		if !client.Buffered() {
			t.Error("not buffered within a record")
		}
	}
	read(6, " world") // exactly what is left
	got := ""
	for got != "secondthird" {
		n, err := client.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		got += string(p[:n])
	}
	if client.Buffered() {
		t.Error("buffered, but all was read")
	}
	if n, err := client.TryRead(p); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if client.tap.in.Len() != 0 {
		t.Error("an idle connection holds ciphertext")
	}
	// close_notify, and then FIN.
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(p); err != io.EOF {
		t.Errorf("after close_notify: %v", err)
	}
	if _, err := client.Write([]byte("still")); err != nil {
		t.Error(err)
	}
	if n, err := server.Read(p); err != nil || string(p[:n]) != "still" {
		t.Errorf("%q, %v", p[:n], err)
	}
}

// TestSplitRecords delivers the ciphertext an octet at a time.
func TestSplitRecords(t *testing.T) {
	c, s, _, _ := mesh(t, newTestCA(t, "root"))
	nc, ns := socketPair(t)
	client, server := join(t, c, s, octets{nc}, ns)
	want := bytes.Repeat([]byte("0123456789"), 500)
	go func() { _, _ = client.Write(want) }()
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		m, err := server.TryRead(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		if m == 0 {
			if server.Buffered() {
				t.Fatal("buffered, but TryRead gave nothing")
			}
			if m, err = server.Read(got[n:]); err != nil {
				t.Fatal(err)
			}
		}
		n += m
	}
	if !bytes.Equal(got, want) {
		t.Error("it came out otherwise")
	}
}

// octets writes one octet at a time.
type octets struct{ net.Conn }

func (o octets) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := o.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// TestStream carries many sizes in both directions at once, read by all three
// ways of reading.
func TestStream(t *testing.T) {
	client, server := pair(t)
	var wg sync.WaitGroup
	for _, ends := range [][2]*Conn{{client, server}, {server, client}} {
		want := make([]byte, 1<<20)
		for i := range want {
			want[i] = byte(rand.Uint32())
		}
		wg.Go(func() {
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 1+rand.IntN(40000))
				if _, err := ends[0].Write(rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
		})
		wg.Go(func() {
			got, p := make([]byte, 0, len(want)), make([]byte, 20000)
			for len(got) < len(want) {
				read := ends[1].Read
				if rand.IntN(2) == 0 && !ends[1].Buffered() {
					read = ends[1].TryRead
				}
				n, err := read(p[:1+rand.IntN(len(p))])
				if err != nil {
					t.Error(err)
					return
				}
				got = append(got, p[:n]...)
			}
			if !bytes.Equal(got, want) {
				t.Error("it came out otherwise")
			}
		})
	}
	wg.Wait()
}

// TestIdleMemory: both ends of an idle mutual connection, without the
// goroutines that their owners may have.
func TestIdleMemory(t *testing.T) {
	if testing.Short() {
		return
	}
	const n, most = 200, 20 << 10 // for each end
	c, s, _, _ := mesh(t, newTestCA(t, "root"))
	var before, after runtime.MemStats
	collect := func(m *runtime.MemStats) {
		for range 3 { // what is in pools goes with the second
			runtime.GC()
		}
		runtime.ReadMemStats(m)
	}
	join1 := func() (a, b *Conn) {
		nc, ns := socketPair(t)
		a, b = join(t, c, s, nc, ns)
		p := make([]byte, 1024)
		for _, ends := range [][2]*Conn{{a, b}, {b, a}} {
			if _, err := ends[0].Write(p); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(ends[1], p); err != nil {
				t.Fatal(err)
			}
		}
		return a, b
	}
	join1()
	collect(&before)
	var held []*Conn
	for range n {
		a, b := join1()
		held = append(held, a, b)
	}
	collect(&after)
	each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / (2 * n)
	t.Logf("%d bytes of heap for one end of an idle mutual connection", each)
	if each > most {
		t.Errorf("%d bytes, more than %d", each, most)
	}
	runtime.KeepAlive(held)
}

func TestParseID(t *testing.T) {
	good := map[string]ID{
		"spiffe://cluster.local/ns/a/sa/b": {"cluster.local", "/ns/a/sa/b"},
		"spiffe://td":                      {"td", ""},
		"spiffe://a_b-c.9/X.y-_/..a":       {"a_b-c.9", "/X.y-_/..a"},
	}
	for text, want := range good {
		if got, err := ParseID(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	if MeshID("td", "a", "b").String() != "spiffe://td/ns/a/sa/b" {
		t.Error(MeshID("td", "a", "b"))
	}
	for _, text := range []string{"", "spiffe:", "spiffe://", "spiffe:///x", "SPIFFE://td", "https://td/x", "spiffe://td/", "spiffe://td//x", "spiffe://td/x/", "spiffe://td/./x",
		"spiffe://td/../x", "spiffe://Td/x", "spiffe://td:80/x", "spiffe://u@td/x", "spiffe://td/x?q", "spiffe://td/x#f", "spiffe://td/%41", "spiffe://td/a b",
		"spiffe://td/a\x00", "spiffe://t\x00d/a", "spiffe://" + strings.Repeat("a", 256), "spiffe://td/" + strings.Repeat("a", 2048)} {
		if got, err := ParseID(text); err == nil {
			t.Errorf("%q is taken: %+v", text, got)
		}
	}
}

func FuzzParseID(f *testing.F) {
	for _, text := range []string{"spiffe://cluster.local/ns/a/sa/b", "spiffe://td", "spiffe://td/..", "spiffe://td/%2e"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseID(text)
		if err != nil {
			return
		}
		if id.String() != text {
			t.Fatalf("%q became %q", text, id)
		}
		if strings.ContainsAny(text[len(spiffeScheme):], "%?#@:\\ \x00") || strings.Contains(text+"/", "/../") || strings.HasSuffix(text, "/") {
			t.Fatalf("%q can be read in two ways", text)
		}
	})
}

func BenchmarkHandshake(b *testing.B) {
	for name, edit := range map[string]func(*ClientConfig){"full": func(c *ClientConfig) { c.NoSessions = true }, "resumed": func(*ClientConfig) {}} {
		b.Run(name, func(b *testing.B) {
			c, s, cs, _ := mesh(b, newTestCA(b, "root"))
			cfg := c.cfg
			edit(&cfg)
			c = mustClient(b, cfg, cs.Secrets)
			a := serve(b, s)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.echo(b, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestAbort: a connection that is broken off doesn't end with close_notify, which
// its peer would take for the end of a whole message.
func TestAbort(t *testing.T) {
	client, server := pair(t)
	_ = server.SetLinger(0)
	_ = server.Close()
	if n, err := client.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("%d, %v; want an error that is not the end", n, err)
	}
}

// TestTruncated: the end of the socket isn't that of the stream, unless close_notify
// came before, however the two come.
func TestTruncated(t *testing.T) {
	for _, tc := range []struct {
		name   string
		end    func(server *Conn)
		cut    bool
		failed bool
	}{
		{"close_notify and FIN", func(s *Conn) { _ = s.Close() }, false, false},
		{"close_notify alone", func(s *Conn) { _ = s.CloseWrite() }, false, false},
		{"FIN alone", func(s *Conn) { _ = s.Conn.Close() }, true, false},
		{"within a record", func(s *Conn) { _, _ = s.Conn.Write([]byte{23, 3, 3, 0, 99, 1}); _ = s.Conn.Close() }, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, server := pair(t)
			if _, err := server.Write([]byte("data")); err != nil {
				t.Fatal(err)
			}
			tc.end(server)
			got, err := io.ReadAll(client)
			if string(got) != "data" || (err != nil) != tc.failed || client.Truncated() != tc.cut {
				t.Errorf("%q, %v, truncated %v", got, err, client.Truncated())
			}
		})
	}
}

// TestWriteAwait: messages of one record and of several, and the end instead of an
// answer.
func TestWriteAwait(t *testing.T) {
	client, server := pair(t)
	sizes := []int{1, 1000, maxRecord, maxRecord + 1, 100_000}
	go func() {
		for _, size := range sizes {
			p := make([]byte, size)
			if _, err := io.ReadFull(server, p); err != nil {
				return
			}
			_, _ = server.Write(p[:1])
		}
		_, _ = io.ReadFull(server, make([]byte, 1))
		_ = server.Close()
	}()
	p := make([]byte, 16)
	for _, size := range sizes {
		want := bytes.Repeat([]byte{byte(size)}, size)
		out := buf.GetBytes()
		*out = append(*out, want...)
		if n, err := client.WriteAwait(out); n != size || err != nil {
			t.Fatalf("%d of %d, %v", n, size, err)
		}
		if n, err := client.Read(p); n != 1 || p[0] != byte(size) || err != nil {
			t.Fatalf("after %d: %q, %v", size, p[:n], err)
		}
	}
	out := buf.GetBytes()
	*out = append(*out, 'x')
	if n, err := client.WriteAwait(out); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := client.Read(p); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// countedWrites counts the writes to a connection that is no socket.
type countedWrites struct {
	net.Conn
	n int
}

func (c *countedWrites) Write(p []byte) (int, error) {
	c.n++
	return c.Conn.Write(p)
}

// TestWriteGathers: what makes several records goes out in writes of three.
func TestWriteGathers(t *testing.T) {
	c, s, _, _ := mesh(t, newTestCA(t, "root"))
	nc, ns := socketPair(t)
	count := &countedWrites{Conn: nc}
	client, server := join(t, c, s, count, ns)
	for _, w := range []struct{ size, writes int }{
		{1, 1}, {maxRecord, 1}, {maxRecord + 1, 1}, {gathered, 1}, {gathered + 1, 2}, {5 * gathered, 5},
	} {
		p := bytes.Repeat([]byte("0123456789"), w.size/10+1)[:w.size]
		got := make(chan []byte, 1)
		go func() {
			q := make([]byte, w.size)
			_, _ = io.ReadFull(server, q)
			got <- q
		}()
		count.n = 0
		before := client.Sent()
		n, err := client.Write(p)
		if n != w.size || err != nil || count.n != w.writes {
			t.Errorf("%d bytes: %d in %d writes, want %d; %v", w.size, n, count.n, w.writes, err)
		}
		if sent := client.Sent() - before; sent <= uint64(w.size) {
			t.Errorf("%d bytes: %d were counted on the wire", w.size, sent)
		}
		if !bytes.Equal(<-got, p) {
			t.Errorf("%d bytes: others came", w.size)
		}
	}
	_ = nc.Close()
	if n, err := client.Write(make([]byte, 2*gathered)); n != 0 || err == nil {
		t.Errorf("on a closed connection: %d, %v", n, err)
	}
}

// TestEndBehindByte: a stream that ends behind the one byte that was looked at ahead is
// found to have ended by a reader who takes the byte and then waits.
func TestEndBehindByte(t *testing.T) {
	client, server := pair(t)
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
	for !server.Buffered() {
		if err := server.Await(); err != nil {
			t.Fatal(err)
		}
	}
	p := make([]byte, 10)
	if n, _ := server.Read(p); n != 1 || p[0] != 'x' {
		t.Fatalf("%q", p[:n])
	}
	if err := server.Await(); err != nil {
		t.Fatalf("the end isn't found: %v", err)
	}
	if n, err := server.Read(p); n != 0 || err != io.EOF {
		t.Errorf("%d octets, %v, want the end", n, err)
	}
}
