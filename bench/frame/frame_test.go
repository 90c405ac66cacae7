// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"
)

// TestFramesAreThoseOfTheLibrary writes with one and reads with the other.
func TestFramesAreThoseOfTheLibrary(t *testing.T) {
	b := AppendSettings(nil, SettingInitialWindowSize, 77, SettingMaxStreams, 5)
	b = AppendWindowUpdate(b, 3, 1000)
	b = append(Append(b, 5, Data, EndStream, 3), "hello"...)
	b = append(Append(b, 8, Ping, Ack, 0), "12345678"...)
	r := http2.NewFramer(nil, bytes.NewReader(b))
	next := func() http2.Frame {
		f, err := r.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	s := next().(*http2.SettingsFrame)
	if v, ok := s.Value(http2.SettingInitialWindowSize); !ok || v != 77 || s.NumSettings() != 2 {
		t.Errorf("%v", s)
	}
	if f := next().(*http2.WindowUpdateFrame); f.StreamID != 3 || f.Increment != 1000 {
		t.Errorf("%v", f)
	}
	if f := next().(*http2.DataFrame); f.StreamID != 3 || !f.StreamEnded() || string(f.Data()) != "hello" {
		t.Errorf("%v", f)
	}
	if f := next().(*http2.PingFrame); !f.IsAck() || string(f.Data[:]) != "12345678" {
		t.Errorf("%v", f)
	}
}

func TestNext(t *testing.T) {
	var b bytes.Buffer
	w := http2.NewFramer(&b, nil)
	for _, err := range []error{
		w.WriteDataPadded(1, true, []byte("hello"), make([]byte, 7)),
		w.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 5, BlockFragment: []byte("block"), EndHeaders: true, PadLength: 3, Priority: http2.PriorityParam{Weight: 9},
		}),
		w.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 4}),
		w.WriteWindowUpdate(0, 12),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	all := b.Bytes()
	for n := range HeaderSize + 13 {
		if _, rest, size := Next(all[:n]); size != -1 || len(rest) != n {
			t.Fatalf("%d bytes of the first frame: size %d, %d left", n, size, len(rest))
		}
	}
	f, rest, _ := Next(all)
	if p, ok := f.Content(); !ok || string(p) != "hello" || !f.Has(EndStream) || f.Stream != 1 {
		t.Errorf("%+v, %q", f, p)
	}
	f, rest, _ = Next(rest)
	if p, ok := f.Content(); !ok || string(p) != "block" || f.Kind != Headers || f.Stream != 5 {
		t.Errorf("%+v, %q", f, p)
	}
	f, rest, _ = Next(rest)
	got := map[uint16]uint32{}
	if !EachSetting(f.Payload, func(s uint16, v uint32) { got[s] = v }) || got[SettingHeaderTableSize] != 4 || len(got) != 1 {
		t.Errorf("%+v, settings %v", f, got)
	}
	if f, rest, _ = Next(rest); f.Increment() != 12 || len(rest) != 0 {
		t.Errorf("%+v", f)
	}
}

func TestMalformed(t *testing.T) {
	if _, _, size := Next(Append(nil, MaxSize+1, Data, 0, 1)); size != MaxSize+1 {
		t.Errorf("a frame that is too large has size %d", size)
	}
	for _, f := range []Frame{
		{Kind: Data, Flags: Padded},
		{Kind: Data, Flags: Padded, Payload: []byte{3, 1, 2}},
		{Kind: Headers, Flags: Priority, Payload: []byte{1, 2, 3, 4}},
		{Kind: Headers, Flags: Priority | Padded, Payload: []byte{1, 2, 3, 4, 5, 6}},
	} {
		if p, ok := f.Content(); ok {
			t.Errorf("%+v has the content %q", f, p)
		}
	}
	if EachSetting([]byte{1, 2, 3}, func(uint16, uint32) { t.Error("half a setting") }) {
		t.Error("half a setting is well formed")
	}
	if n := (Frame{Payload: []byte{1, 2, 3}}).Increment(); n != 0 {
		t.Errorf("three bytes are an increment of %d", n)
	}
}

func FuzzNext(f *testing.F) {
	f.Add(AppendWindowUpdate(nil, 1, 2))
	f.Add(append(Append(nil, 6, Headers, Padded|Priority, 1), 0, 1, 2, 3, 4, 5))
	f.Fuzz(func(t *testing.T, b []byte) {
		for left := b; ; {
			x, rest, size := Next(left)
			if size < 0 || size > MaxSize {
				return
			}
			if len(rest) != len(left)-HeaderSize-size || len(x.Payload) != size {
				t.Fatalf("a frame of %d bytes takes %d of %d", size, len(left)-len(rest), len(left))
			}
			if p, ok := x.Content(); ok && len(p) > size {
				t.Fatalf("content of %d bytes in %d", len(p), size)
			}
			left = rest
		}
	})
}
