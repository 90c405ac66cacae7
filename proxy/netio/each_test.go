// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"pillion/proxy/buf"
)

// taking is a Taker that collects what comes.
type taking struct {
	in  buf.Buffer
	got []byte
	// then is called with what has come so far, and says whether to read on; nil
	// always does.
	then func(got string) bool
}

func (t *taking) Take() bool {
	t.got = append(t.got, t.in.Bytes()...)
	t.in.Advance(t.in.Len())
	return t.then == nil || t.then(string(t.got))
}

// TestEach: nothing is missed, whatever comes when: between two waits, during a Take,
// and the end behind the last octets.
func TestEach(t *testing.T) {
	pairs(t, func(t *testing.T, ours, peer net.Conn) {
		_, socket := peer.(*net.TCPConn)
		var c Conn
		c.Init(ours)
		send := func(s string) {
			if _, err := io.WriteString(peer, s); err != nil {
				t.Error(err)
			}
		}
		end := func() { _ = peer.Close() }
		during := map[string]func(){ // what the peer does while Take looks at this much
			"a":      func() { send("b") },
			"ab":     func() { time.AfterFunc(time.Millisecond, func() { send("c") }) },
			"abc":    func() { send("d"); send("e") },
			"abcde":  func() { time.AfterFunc(time.Millisecond, func() { send("f"); end() }) },
			"abcdef": func() {},
		}
		r := &taking{}
		r.then = func(got string) bool {
			if f := during[got]; f != nil && socket {
				f()
			} else if f != nil { // a pipe's writer waits for us
				go f()
			}
			return true
		}
		go send("a")
		if err := c.Each(&r.in, r); err != io.EOF || string(r.got) != "abcdef" {
			t.Errorf("%q, %v", r.got, err)
		}
		if cap(r.in.Bytes()) > 0 {
			t.Error("storage is held at the end")
		}
	})
}

// TestEachEnough: after a Take that has enough the connection is read on by whoever
// wants to.
func TestEachEnough(t *testing.T) {
	pairs(t, func(t *testing.T, ours, peer net.Conn) {
		var c Conn
		c.Init(ours)
		r := &taking{then: func(got string) bool { return got != "one" && got != "onetwothree" }}
		defer r.in.Release()
		go func() {
			_, _ = io.WriteString(peer, "one")
			_, _ = io.ReadFull(peer, make([]byte, 2))
			_, _ = io.WriteString(peer, "two")
			_, _ = io.ReadFull(peer, make([]byte, 2))
			_, _ = io.WriteString(peer, "three")
		}()
		if err := c.Each(&r.in, r); err != nil {
			t.Fatal(err)
		}
		if _, err := c.WriteFill(pooled("go"), &r.in); err != nil || string(r.in.Bytes()) != "two" {
			t.Fatalf("%q, %v", r.in.Bytes(), err)
		}
		r.Take()
		if _, err := c.Write([]byte("go")); err != nil {
			t.Fatal(err)
		}
		if err := c.Each(&r.in, r); err != nil || string(r.got) != "onetwothree" {
			t.Errorf("%q, %v", r.got, err)
		}
	})
}

// TestEachDeadline: a deadline ends the wait, and nothing else.
func TestEachDeadline(t *testing.T) {
	pairs(t, func(t *testing.T, ours, peer net.Conn) {
		var c Conn
		c.Init(ours)
		r := &taking{then: func(got string) bool { return got != "late" }}
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if err := c.Each(&r.in, r); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%v, want that the time is up", err)
		}
		_ = c.SetReadDeadline(time.Time{})
		go func() { _, _ = io.WriteString(peer, "late") }()
		if err := c.Each(&r.in, r); err != nil {
			t.Errorf("%q, %v", r.got, err)
		}
	})
}

// TestEachClose: Close ends the loop whoever calls it, and no deadline undoes it.
func TestEachClose(t *testing.T) {
	for name, closer := range map[string]func(c *Conn){
		"by Take":             func(c *Conn) { _ = c.Close() },
		"twice":               func(c *Conn) { _ = c.Close(); _ = c.Close() },
		"by another":          func(c *Conn) { done := make(chan bool); go func() { _ = c.Close(); close(done) }(); <-done },
		"while it waits":      func(c *Conn) { time.AfterFunc(time.Millisecond, func() { _ = c.Close() }) },
		"before a deadline":   func(c *Conn) { _ = c.Close(); _ = c.SetReadDeadline(time.Now().Add(time.Hour)) },
		"before no deadline":  func(c *Conn) { _ = c.Close(); _ = c.SetDeadline(time.Time{}) },
		"before one to write": func(c *Conn) { _ = c.Close(); _ = c.SetWriteDeadline(time.Time{}) },
	} {
		t.Run(name, func(t *testing.T) {
			pairs(t, func(t *testing.T, ours, peer net.Conn) {
				var c Conn
				c.Init(ours)
				r := &taking{then: func(string) bool { closer(&c); return true }}
				go func() { _, _ = io.WriteString(peer, "x") }()
				if err := c.Each(&r.in, r); !errors.Is(err, net.ErrClosed) {
					t.Errorf("Each returned %v, want that the connection is closed", err)
				}
				if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Errorf("the peer reads %d octets, %v; want the end", n, err)
				}
				if _, err := ours.Write([]byte("y")); err == nil {
					t.Error("a write succeeds")
				}
			})
		})
	}
}

// TestReceiveLeft: the kernel says with each read whether another one will find
// something.
func TestReceiveLeft(t *testing.T) {
	a, peer := tcpPair(t)
	raw, err := a.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	read := func(size, want int, wantLeft bool) {
		t.Helper()
		err := raw.Read(func(fd uintptr) bool {
			if !tellLeft(fd) {
				t.Fatal("the kernel doesn't tell")
			}
			n, left, err := receiveLeft(fd, make([]byte, size))
			if n != want || left != wantLeft || err != nil {
				t.Errorf("%d octets, left %v, %v; want %d, %v", n, left, err, want, wantLeft)
			}
			return true
		})
		if err != nil {
			t.Error(err)
		}
	}
	_, _ = io.WriteString(peer, "0123456789")
	read(4, 4, true)
	read(100, 6, false)
	_, _ = io.WriteString(peer, "the last")
	_ = peer.CloseWrite()
	read(100, 8, true)
	read(100, 0, true)
}
