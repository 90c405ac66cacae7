// SPDX-License-Identifier: Apache-2.0

package netio

import (
	"bytes"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// way is what leads from in to out, but for what carries bytes between from and to.
func way(t testing.TB) (in *net.TCPConn, from, to *Conn, out *net.TCPConn) {
	in, src := tcpPair(t)
	dst, out := tcpPair(t)
	from, to = new(Conn), new(Conn)
	from.Init(src)
	to.Init(dst)
	return in, from, to, out
}

// relayed is a relay from in to out.
func relayed(t testing.TB) (in, out *net.TCPConn, moved *atomic.Uint64, done chan [2]error) {
	in, from, to, out := way(t)
	moved, done = new(atomic.Uint64), make(chan [2]error, 1)
	go func() {
		srcErr, dstErr := Relay(to, from, moved)
		_ = to.CloseWrite()
		done <- [2]error{srcErr, dstErr}
	}()
	return in, out, moved, done
}

// TestRelayStream carries 64 MiB past a reader that pauses, in pieces of all
// sizes, and holds no memory for it.
func TestRelayStream(t *testing.T) {
	const total = 64 << 20
	in, out, moved, done := relayed(t)
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i>>8) ^ byte(i*31)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() {
		for sent, size := 0, 1; sent < total; size = size*3%(len(block)-1) + 1 {
			at := sent % len(block)
			n, err := in.Write(block[at:min(at+size, len(block))])
			if err != nil {
				break
			}
			sent += n
		}
		_ = in.CloseWrite()
	}()
	got := make([]byte, 256<<10)
	for have := 0; ; {
		n, err := out.Read(got)
		for i := 0; i < n; {
			at := (have + i) % len(block)
			m := min(n-i, len(block)-at)
			if !bytes.Equal(got[i:i+m], block[at:at+m]) {
				t.Fatalf("the bytes near %d are others", have+i)
			}
			i += m
		}
		have += n
		if err == io.EOF && have == total {
			break
		}
		if err != nil {
			t.Fatalf("%d of %d bytes, %v", have, total, err)
		}
	}
	if errs := <-done; errs != [2]error{} || moved.Load() != total {
		t.Errorf("%v, %d bytes", errs, moved.Load())
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d KiB were allocated on the way", n>>10)
	}
}

// TestRelayNamesTheSide that failed.
func TestRelayNamesTheSide(t *testing.T) {
	in, _, _, done := relayed(t)
	_ = in.SetLinger(0)
	_ = in.Close()
	if errs := <-done; errs[0] == nil || errs[1] != nil {
		t.Errorf("the source was reset: %v", errs)
	}
	in, out, _, done := relayed(t)
	_ = out.SetLinger(0)
	_ = out.Close()
	for p := make([]byte, 64<<10); ; {
		select {
		case errs := <-done:
			if errs[0] != nil || errs[1] == nil {
				t.Errorf("the destination was reset: %v", errs)
			}
			return
		default:
			_ = in.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
			_, _ = in.Write(p)
		}
	}
}

func TestPeek(t *testing.T) {
	a, b := tcpPair(t)
	p := make([]byte, 16)
	_, _ = b.Write([]byte("ab"))
	if n, err := Peek(a, p, 0); err != nil || string(p[:n]) != "ab"[:n] || n == 0 {
		t.Fatalf("%q, %v", p[:n], err)
	}
	_ = a.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := Peek(a, p, 2); !os.IsTimeout(err) {
		t.Errorf("past the deadline: %v", err)
	}
	_ = a.SetReadDeadline(time.Time{})
	type result struct {
		n   int
		err error
	}
	results := make(chan result)
	go func() {
		for have := 2; ; {
			n, err := Peek(a, p, have)
			results <- result{n, err}
			if err != nil {
				return
			}
			have = n
		}
	}()
	_, _ = b.Write([]byte("c"))
	if r := <-results; r.n != 3 || r.err != nil {
		t.Errorf("after one more byte: %v", r)
	}
	_ = b.CloseWrite()
	if r := <-results; r.n != 3 || r.err != io.EOF {
		t.Errorf("after the FIN: %v", r)
	}
	if n, err := a.Read(p); n != 3 || err != nil || string(p[:3]) != "abc" {
		t.Errorf("peeking took bytes: %q, %v", p[:n], err)
	}
}
