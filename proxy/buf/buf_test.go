// SPDX-License-Identifier: Apache-2.0

package buf

import (
	"bytes"
	"testing"

	"pillion/proxy/proxytest"
)

func TestBuffer(t *testing.T) {
	var b Buffer
	if b.Len() != 0 || b.Bytes() != nil {
		t.Fatal("the zero value isn't empty")
	}
	if n := copy(b.Free(), "hello"); n != 5 {
		t.Fatal("no room")
	}
	b.Commit(5)
	b.Advance(2)
	if got := string(b.Bytes()); got != "llo" {
		t.Fatalf("unread bytes are %q", got)
	}
	if !b.Grow() || string(b.Bytes()) != "llo" {
		t.Fatalf("moving to the front gave %q", b.Bytes())
	}
	b.Advance(3)
	b.ReleaseIfEmpty()
	if b.store != nil {
		t.Error("an empty buffer keeps its storage")
	}
}

func TestBufferGrowsToItsBound(t *testing.T) {
	var b Buffer
	defer b.Release()
	in := bytes.Repeat([]byte("abcdefgh"), Large/8+10)
	if n := b.Write(in); n != Large {
		t.Fatalf("%d bytes fit, want %d", n, Large)
	}
	if !bytes.Equal(b.Bytes(), in[:Large]) {
		t.Error("growing changed the bytes")
	}
	if b.Grow() {
		t.Error("a full buffer of the large class grew")
	}
}

func TestDetach(t *testing.T) {
	var b Buffer
	b.Write([]byte("head body"))
	head := b.Bytes()[:4]
	d := b.Detach()
	b.Write([]byte("more"))
	if string(head) != "head" || string(d.Bytes()) != "head body" || string(b.Bytes()) != "more" {
		t.Errorf("%q %q %q", head, d.Bytes(), b.Bytes())
	}
	d.Release()
	b.Release()
}

func TestUseLarge(t *testing.T) {
	var b Buffer
	defer b.Release()
	b.UseLarge()
	if got := len(b.Free()); got != Large {
		t.Errorf("room for %d bytes, want %d", got, Large)
	}
	b.Write([]byte("x"))
	b.UseLarge() // holds something: nothing happens
	if string(b.Bytes()) != "x" {
		t.Error("unread bytes are lost")
	}
}

func TestReuseAllocatesNothing(t *testing.T) {
	proxytest.NoAllocs(t, "taking and giving back storage", func() {
		var b Buffer
		b.Commit(copy(b.Free(), "x"))
		b.Release()
		p := GetBytes()
		*p = append(*p, "x"...)
		PutBytes(p)
	})
}
