// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"pillion/proxy/buf"
	"pillion/proxy/http"
)

// scripted is a connection on which bytes come, and where nobody hears what is
// said.
type scripted struct{ in *bytes.Reader }

func (s scripted) Read(p []byte) (int, error)     { return s.in.Read(p) }
func (scripted) Write(p []byte) (int, error)      { return len(p), nil }
func (scripted) Close() error                     { return nil }
func (scripted) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (scripted) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (scripted) SetDeadline(time.Time) error      { return nil }
func (scripted) SetReadDeadline(time.Time) error  { return nil }
func (scripted) SetWriteDeadline(time.Time) error { return nil }

// witness is a receiver that answers what is complete and remembers how it
// ended.
type witness struct {
	t      *testing.T
	s      Stream
	ex     http.Exchange
	fields http.Fields
	server bool

	mu     sync.Mutex
	heads  int
	ended  bool // END_STREAM came
	reset  bool
	denied bool // the verdict was that the head is malformed
}

func (w *witness) event(end bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reset || w.ended || w.denied {
		w.t.Errorf("an event behind the end (reset %v, ended %v, denied %v)", w.reset, w.ended, w.denied)
	}
	w.ended = end
}

func (w *witness) answer(e Event) {
	if w.server {
		w.s.Head(&http.ResponseHead{Status: 200}, false)
		w.s.Data(make([]byte, 40000), true)
		e.Touch(e.Conn)
	}
}

func (w *witness) OnHead(e Event, b *Block, end bool) Verdict {
	w.event(end)
	v := Good
	if w.server {
		v = b.Request(&w.ex, end)
	} else {
		v = b.Response(&w.ex, end)
	}
	w.heads++
	if v != Good {
		w.denied = true
	} else if end {
		w.answer(e)
	}
	return v
}

func (w *witness) OnData(e Event, p []byte, end bool) {
	w.event(end)
	w.s.Credit(len(p))
	if end {
		w.answer(e)
	}
}

func (w *witness) OnTrailers(e Event, b *Block) Verdict {
	w.event(true)
	v := b.Trailers(&w.fields, cloneBytes)
	if v != Good {
		w.denied = true
	} else {
		w.answer(e)
	}
	return v
}

func (w *witness) OnReset(Event, *http.Error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reset || w.denied {
		w.t.Errorf("a second end (reset %v, denied %v)", w.reset, w.denied)
	}
	w.reset = true
}

func (w *witness) OnTaken(Event, int, bool) {}

// witnesses accepts every request.
type witnesses struct {
	t    *testing.T
	list []*witness
}

func (a *witnesses) Accept(*Conn) (*Stream, Receiver) {
	w := &witness{t: a.t, server: true}
	a.list = append(a.list, w)
	return &w.s, w
}

// frames makes a sequence of frames of a fuzzer's bytes: type, flags, stream
// and length of each, then its payload. What is sent as it is follows the
// type 0xff.
func frames(p []byte) []byte {
	var out []byte
	for len(p) >= 4 {
		typ, flags, id, size := p[0], p[1], uint32(p[2]), int(p[3])
		p = p[4:]
		size = min(size, len(p))
		if typ == 0xff {
			out = append(out, p[:size]...)
		} else {
			out = append(appendFrameHeader(out, size, http2.FrameType(typ%11), http2.Flags(flags), id%16), p[:size]...)
		}
		p = p[size:]
	}
	return out
}

// seeds are sequences that lead somewhere.
func seeds(f *testing.F) {
	get := []byte{0x82, 0x84, 0x86, 0x41, 1, 'a'}
	f.Add(append([]byte{1, 5, 1, 6}, get...))
	f.Add(append(append([]byte{1, 4, 1, 6}, get...), 0, 1, 1, 3, 'a', 'b', 'c'))
	f.Add(append(append([]byte{1, 0, 3, 3}, get[:3]...), append([]byte{9, 4, 3, 3}, get[3:]...)...))
	f.Add([]byte{1, 4, 1, 1, 0x88, 0, 1, 1, 1, 'x', 3, 0, 3, 4, 0, 0, 0, 7, 7, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0})
	f.Add([]byte{4, 0, 0, 6, 0, 4, 0, 0, 0, 9, 8, 0, 1, 4, 0, 0, 0, 5, 6, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8})
}

// closed holds that a connection that has ended keeps nothing.
func closed(t *testing.T, c *Conn, st *Stats, list []*witness) {
	// What was being written when the reader ended is let go by its writer.
	for settled := false; !settled; {
		c.mu.Lock()
		settled = !c.writing
		c.mu.Unlock()
	}
	if n := c.Active(); n != 0 || len(c.streams) != 0 || c.queues != 0 || len(c.waiters) != 0 {
		t.Errorf("%d streams are left, %d of them queued", n, c.queues)
	}
	if st.StreamsActive.Value() != 0 || st.PendingSend.Value() != 0 {
		t.Errorf("the gauges say %d streams and %d octets", st.StreamsActive.Value(), st.PendingSend.Value())
	}
	for i, w := range list {
		if !w.ended && !w.reset && !w.denied && w.s.open {
			t.Errorf("stream %d has no end", i)
		}
	}
}

// FuzzServer lets a client send any sequence of frames.
func FuzzServer(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		in := append(appendSettings([]byte(preface)), frames(p)...)
		acc, st := &witnesses{t: t}, &Stats{}
		c := NewServer(scripted{bytes.NewReader(in)}, buf.Buffer{}, &Config{MaxStreams: 5, Connect: true}, st, acc)
		c.Run()
		closed(t, c, st, acc.list)
	})
}

// FuzzClient lets a server answer three requests with any sequence of frames.
func FuzzClient(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		in := append(appendSettings(nil), frames(p)...)
		st := &Stats{}
		c := NewClient(scripted{bytes.NewReader(in)}, &Config{}, st, idleObserver{})
		var list []*witness
		for i := range 3 {
			w := &witness{t: t}
			list = append(list, w)
			if _, err := c.Open(&w.s, w, request(), i == 0); err != nil {
				t.Fatal(err)
			}
			w.s.Data(make([]byte, 30000), i == 1)
		}
		c.Run()
		closed(t, c, st, list)
	})
}

type idleObserver struct{}

func (idleObserver) CapacityChanged(*Conn) {}

// FuzzFrameHeader compares how a frame is read with x/net's Framer.
func FuzzFrameHeader(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 1, 0x80, 0, 0, 3, 'x'})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < frameHeaderLen {
			return
		}
		want, err := http2.ReadFrameHeader(bytes.NewReader(p))
		if err != nil && err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
		got := parseFrameHeader(p)
		if got.length != int(want.Length) || got.typ != want.Type || got.flags != want.Flags || got.id != want.StreamID {
			t.Errorf("got %+v, want %v", got, want)
		}
		if back := appendFrameHeader(nil, got.length, got.typ, got.flags, got.id); !bytes.Equal(back[:5], p[:5]) {
			t.Errorf("it is written as %x", back)
		}
	})
}
