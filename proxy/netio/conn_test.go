// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"pillion/proxy/buf"
	"pillion/proxy/proxytest"
)

// tcpPair returns both ends of a loopback connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	type result struct {
		c   net.Conn
		err error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := ln.Accept()
		accepted <- result{c, err}
	}()
	dialed, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := <-accepted
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { dialed.Close(); r.c.Close() })
	return dialed.(*net.TCPConn), r.c.(*net.TCPConn)
}

// pairs runs a test over sockets and over an in-memory connection.
func pairs(t *testing.T, f func(t *testing.T, ours, peer net.Conn)) {
	t.Run("tcp", func(t *testing.T) {
		a, b := tcpPair(t)
		f(t, a, b)
	})
	t.Run("pipe", func(t *testing.T) {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		f(t, a, b)
	})
}

// pooled returns what WriteFill takes.
func pooled(s string) *[]byte {
	b := buf.GetBytes()
	*b = append(*b, s...)
	return b
}

func TestFill(t *testing.T) {
	pairs(t, func(t *testing.T, ours, peer net.Conn) {
		var c Conn
		c.Init(ours)
		var in buf.Buffer
		defer in.Release()
		go func() {
			_, _ = peer.Write([]byte("hello "))
			_, _ = peer.Write([]byte("world"))
			_ = peer.Close()
		}()
		var err error
		for err == nil {
			err = c.Fill(&in)
		}
		if err != io.EOF || string(in.Bytes()) != "hello world" {
			t.Errorf("got %q, %v", in.Bytes(), err)
		}
	})
}

func TestWriteFill(t *testing.T) {
	pairs(t, func(t *testing.T, ours, peer net.Conn) {
		var c Conn
		c.Init(ours)
		var in buf.Buffer
		defer in.Release()
		go func() {
			p := make([]byte, 4)
			_, _ = io.ReadFull(peer, p)
			_, _ = peer.Write(append([]byte("got "), p...))
		}()
		wrote, err := c.WriteFill(pooled("ping"), &in)
		if wrote != 4 || err != nil || string(in.Bytes()) != "got ping" {
			t.Errorf("wrote %d, read %q, %v", wrote, in.Bytes(), err)
		}
	})
}

// TestWriteFillBig writes more than the socket takes at once.
func TestWriteFillBig(t *testing.T) {
	pairs(t, func(t *testing.T, ours, peer net.Conn) {
		var c Conn
		c.Init(ours)
		var in buf.Buffer
		defer in.Release()
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
		sum := make(chan bool, 1)
		go func() {
			p := make([]byte, len(big))
			_, err := io.ReadFull(peer, p)
			sum <- err == nil && bytes.Equal(p, big)
			_, _ = peer.Write([]byte("ok"))
		}()
		wrote, err := c.WriteFill(pooled(string(big)), &in)
		if wrote != len(big) || err != nil || string(in.Bytes()) != "ok" {
			t.Errorf("wrote %d of %d, read %q, %v", wrote, len(big), in.Bytes(), err)
		}
		if !<-sum {
			t.Error("the peer read something else")
		}
	})
}

func TestDeadline(t *testing.T) {
	pairs(t, func(t *testing.T, ours, _ net.Conn) {
		var c Conn
		c.Init(ours)
		var in buf.Buffer
		if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		if err := c.Fill(&in); !os.IsTimeout(err) {
			t.Errorf("Fill past the deadline: %v", err)
		}
		if in.Len() != 0 || cap(in.Bytes()) != 0 {
			t.Error("a failed read keeps its buffer")
		}
	})
}

func TestLook(t *testing.T) {
	a, b := tcpPair(t)
	var c Conn
	c.Init(a)
	if got := c.Look(); got != PeerQuiet {
		t.Fatalf("fresh connection: %v", got)
	}
	if _, err := b.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return c.Look() == PeerData && c.Watch() == PeerData })
	var in buf.Buffer
	defer in.Release()
	if err := c.Fill(&in); err != nil || in.Len() != 1 {
		t.Fatalf("Look took the byte: %d, %v", in.Len(), err)
	}
	_ = b.CloseWrite()
	waitFor(t, func() bool { return c.Look() == PeerClosed })
}

func TestLookFindsReset(t *testing.T) {
	a, b := tcpPair(t)
	var c Conn
	c.Init(a)
	_ = b.SetLinger(0)
	_ = b.Close()
	waitFor(t, func() bool { return c.Watch() == PeerReset })
}

// waitFor polls until the kernel has delivered what the peer did.
func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	end := time.Now().Add(5 * time.Second)
	for !f() {
		if time.Now().After(end) {
			t.Fatal("it didn't come about in 5 s")
		}
	}
}

// TestIdleOwnsNoBuffer proves that waiting takes no storage from the pool.
func TestIdleOwnsNoBuffer(t *testing.T) {
	a, b := tcpPair(t)
	var c Conn
	c.Init(a)
	var in buf.Buffer
	done := make(chan error, 1)
	go func() { done <- c.Fill(&in) }()
	if _, err := b.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	in.Advance(1)
	in.ReleaseIfEmpty()
	one := []byte("x")
	proxytest.NoAllocs(t, "a read", func() {
		_, _ = b.Write(one)
		if c.Fill(&in) != nil {
			t.Fatal("read failed")
		}
		in.Advance(in.Len())
		in.ReleaseIfEmpty()
	})
}
