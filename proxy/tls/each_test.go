// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"pillion/proxy/buf"
	"pillion/proxy/netio"
)

// taking is a netio.Taker that collects what comes.
type taking struct {
	in   buf.Buffer
	got  strings.Builder
	then func(got string) bool // says whether to read on; nil: always
}

func (t *taking) Take() bool {
	t.got.Write(t.in.Bytes())
	t.in.Advance(t.in.Len())
	return t.then == nil || t.then(t.got.String())
}

// TestEach: the loop brings what Read does and ends as Read does, however records and
// segments fall.
func TestEach(t *testing.T) {
	for _, tc := range []struct {
		name string
		send func(t *testing.T, s *Conn)
		want string
		cut  bool
		err  string
	}{
		{"close_notify and FIN", func(t *testing.T, s *Conn) { write(t, s, "data"); _ = s.Close() }, "data", false, "EOF"},
		{"close_notify alone", func(t *testing.T, s *Conn) { write(t, s, "data"); _ = s.CloseWrite() }, "data", false, "EOF"},
		{"nothing but the end", func(_ *testing.T, s *Conn) { _ = s.Close() }, "", false, "EOF"},
		{"FIN alone", func(t *testing.T, s *Conn) { write(t, s, "data"); _ = s.Conn.Close() }, "data", true, "EOF"},
		{"within a record", func(t *testing.T, s *Conn) {
			write(t, s, "data")
			_, _ = s.Conn.Write([]byte{23, 3, 3, 0, 99, 1})
			_ = s.Conn.Close()
		}, "data", true, "unexpected EOF"},
		{"no TLS at all", func(t *testing.T, s *Conn) {
			write(t, s, "data")
			_, _ = s.Conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		}, "data", false, "received record with version"},
		{"many records at once", func(t *testing.T, s *Conn) {
			for range 300 {
				write(t, s, "0123456789")
			}
			_ = s.Close()
		}, strings.Repeat("0123456789", 300), false, "EOF"},
		{"a large one", func(t *testing.T, s *Conn) { write(t, s, strings.Repeat("x", 100_000)); _ = s.Close() },
			strings.Repeat("x", 100_000), false, "EOF"},
		{"octet by octet", func(t *testing.T, s *Conn) {
			nc := s.tap.io.NetConn()
			s.tap.hold(new([]byte))
			write(t, s, "slow")
			record := *s.tap.held
			s.tap.hold(nil)
			for i := range record {
				if _, err := nc.Write(record[i : i+1]); err != nil {
					t.Error(err)
				}
			}
			_ = s.Close()
		}, "slow", false, "EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, server := pair(t)
			go tc.send(t, server)
			var c netio.Conn
			c.Init(client)
			r := &taking{}
			err := c.Each(&r.in, r)
			if r.got.String() != tc.want || err == nil || !strings.Contains(err.Error(), tc.err) || client.Truncated() != tc.cut {
				t.Errorf("%d octets, %v, truncated %v; want %d, %s, %v", r.got.Len(), err, client.Truncated(), len(tc.want), tc.err, tc.cut)
			}
			if cap(r.in.Bytes()) > 0 {
				t.Error("storage is held at the end")
			}
		})
	}
}

func write(t *testing.T, c *Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Error(err)
	}
}

// TestEachAhead: an octet that Buffered had to take out comes first, and what a Take
// leaves is found by a Read.
func TestEachAhead(t *testing.T) {
	client, server := pair(t)
	write(t, server, "ab")
	write(t, server, "cd")
	for !client.Buffered() {
		if err := client.Await(); err != nil {
			t.Fatal(err)
		}
	}
	r := &taking{then: func(got string) bool { return got != "ab" }}
	defer r.in.Release()
	if err := client.Each(&r.in, r); err != nil || r.got.String() != "ab" {
		t.Fatalf("%q, %v", r.got.String(), err)
	}
	p := make([]byte, 10)
	if n, err := client.Read(p); string(p[:n]) != "cd" || err != nil {
		t.Errorf("%q, %v", p[:n], err)
	}
}

// TestEachAnswers: what Take writes goes out while the loop goes on, and a Close by it says
// close_notify.
func TestEachAnswers(t *testing.T) {
	client, server := pair(t)
	var c netio.Conn
	c.Init(server)
	r := &taking{}
	r.then = func(got string) bool {
		if _, err := c.Write([]byte(strings.ToUpper(got[len(got)-1:]))); err != nil {
			t.Error(err)
		}
		if len(got) == 3 {
			_ = c.Close()
		}
		return true
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Each(&r.in, r) }()
	p := make([]byte, 1)
	for _, s := range []string{"a", "b", "c"} {
		write(t, client, s)
		if _, err := io.ReadFull(client, p); err != nil || string(p) != strings.ToUpper(s) {
			t.Fatalf("%q, %v", p, err)
		}
	}
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := client.Read(p); n != 0 || err != io.EOF || client.Truncated() {
		t.Errorf("%d, %v, truncated %v; want close_notify", n, err, client.Truncated())
	}
	if err := <-ended; err != net.ErrClosed {
		t.Errorf("Each returned %v", err)
	}
}
