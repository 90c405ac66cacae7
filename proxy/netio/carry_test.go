// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// carrying is what one Carry came to.
type carrying struct {
	moved          int64
	srcErr, dstErr error
}

// carried has n bytes carried from in to out.
func carried(t *testing.T, n int64) (in, out *net.TCPConn, from *Conn, done chan carrying) {
	in, from, to, out := way(t)
	done = make(chan carrying, 1)
	go func() {
		var c carrying
		c.moved, c.srcErr, c.dstErr = Carry(to, from, n)
		done <- c
	}()
	return in, out, from, done
}

// TestCarry moves what was asked for, and leaves what follows in its socket.
func TestCarry(t *testing.T) {
	const n = 3<<20 + 17
	in, out, from, done := carried(t, n)
	sent := bytes.Repeat([]byte("0123456789abcde"), n/15+100)
	go func() { _, _ = in.Write(sent) }()
	got := make([]byte, n)
	if _, err := io.ReadFull(out, got); err != nil || !bytes.Equal(got, sent[:n]) {
		t.Fatalf("%v, equal: %v", err, bytes.Equal(got, sent[:n]))
	}
	if c := <-done; c != (carrying{moved: n}) {
		t.Errorf("%+v", c)
	}
	rest := make([]byte, len(sent)-n)
	if _, err := io.ReadFull(from.NetConn(), rest); err != nil || !bytes.Equal(rest, sent[n:]) {
		t.Errorf("of what follows: %v, equal: %v", err, bytes.Equal(rest, sent[n:]))
	}
}

// TestCarryLittle: where little comes at a time the caller has to copy.
func TestCarryLittle(t *testing.T) {
	in, out, _, done := carried(t, 1<<30)
	p := make([]byte, 100)
	var moved int64
	for {
		if _, err := in.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, p); err != nil {
			t.Fatal(err)
		}
		if moved += int64(len(p)); moved == leanRun*int64(len(p)) {
			break
		}
	}
	if c := <-done; c != (carrying{moved: moved}) {
		t.Errorf("%+v, want %d bytes", c, moved)
	}
}

// TestCarryNamesTheSide that ended or failed, and counts what has passed.
func TestCarryNamesTheSide(t *testing.T) {
	in, out, _, done := carried(t, 1<<30)
	if _, err := in.Write(make([]byte, 10<<10)); err != nil {
		t.Fatal(err)
	}
	_ = in.CloseWrite()
	if c := <-done; c != (carrying{moved: 10 << 10, srcErr: io.EOF}) {
		t.Errorf("the source ended: %+v", c)
	}
	_ = out.Close()

	in, out, _, done = carried(t, 1<<40)
	go func() {
		for p := make([]byte, 256<<10); ; {
			if _, err := in.Write(p); err != nil {
				return
			}
		}
	}()
	_ = out.SetLinger(0)
	_ = out.Close()
	if c := <-done; c.srcErr != nil || c.dstErr == nil {
		t.Errorf("the destination was reset: %+v", c)
	}

	_, _, from, done := carried(t, 1<<30)
	_ = from.SetReadDeadline(time.Now().Add(-time.Second))
	if c := <-done; !errors.Is(c.srcErr, os.ErrDeadlineExceeded) || c.moved != 0 {
		t.Errorf("past the deadline: %+v", c)
	}
}
