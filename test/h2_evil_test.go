// SPDX-License-Identifier: Apache-2.0

package test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"pillion/test/rig"
	"pillion/test/wire"
)

// h2Evils are what an upstream that speaks HTTP/2 answers with, by name. The
// client gets 502 or 503, a response that is visibly broken off, or, where
// nothing is wrong with the response itself, that.
func h2Evils() map[string]func(c *wire.H2, id uint32) {
	head := func(end bool, fields ...wire.Field) func(*wire.H2, uint32) {
		return func(c *wire.H2, id uint32) { _ = c.Head(id, end, fields) } // what comes of it shows at the client
	}
	status := field(":status", "200")
	body := func(data string, fields ...wire.Field) func(*wire.H2, uint32) {
		return func(c *wire.H2, id uint32) {
			if c.Head(id, false, fields) == nil {
				_ = c.Data(id, true, []byte(data)) // likewise
			}
		}
	}
	frames := func(n int, write func(f *http2.Framer, id uint32) error) func(*wire.H2, uint32) {
		return func(c *wire.H2, id uint32) {
			for range n {
				if c.Closed() || c.Frames(func(f *http2.Framer) error { return write(f, id) }) != nil {
					return
				}
			}
			_ = c.Reset(id, http2.ErrCodeInternal) // likewise
		}
	}
	return map[string]func(c *wire.H2, id uint32){
		"no status": head(true, field("x", "y")), "two statuses": head(true, status, field(":status", "404")), "status of letters": head(true, field(":status", "2OO")),
		"status 99": head(true, field(":status", "99")), "status 1000": head(true, field(":status", "1000")), "status 101": head(true, field(":status", "101")),
		"CRLF in a value": head(true, status, field("x", "a\r\nset-cookie: evil")), "NUL in a value": head(true, status, field("x", "a\x00b")), "CRLF in a name": head(true, status, field("x\r\ny", "z")),
		"capital in a name": head(true, status, field("X-Y", "z")), "colon in a name": head(true, status, field("x:y", "z")), "transfer-encoding": head(true, status, field("transfer-encoding", "chunked")),
		"connection": head(true, status, field("connection", "x")), "path in a response": head(true, status, field(":path", "/")),
		"body longer than its length": body("hello", status, field("content-length", "3")), "body shorter than its length": body("hello", status, field("content-length", "10")),
		"two lengths": body("hello", status, field("content-length", "5"), field("content-length", "6")), "length that isn't a number": body("hello", status, field("content-length", "x")),
		"setting frame size 0": frames(1, func(f *http2.Framer, _ uint32) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize})
		}),
		"setting window 2^31": frames(1, func(f *http2.Framer, _ uint32) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}),
		"PUSH_PROMISE": frames(1, func(f *http2.Framer, id uint32) error {
			return f.WriteRawFrame(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, id, []byte("\x00\x00\x00\x02\x88"))
		}),
		"SETTINGS flood":           frames(20000, func(f *http2.Framer, _ uint32) error { return f.WriteSettings() }),
		"PING flood":               frames(20000, func(f *http2.Framer, _ uint32) error { return f.WritePing(false, [8]byte{}) }),
		"RST_STREAM flood":         frames(20000, func(f *http2.Framer, id uint32) error { return f.WriteRSTStream(id, http2.ErrCodeCancel) }),
		"empty DATA before a head": frames(20000, func(f *http2.Framer, id uint32) error { return f.WriteData(id, false, nil) }),
		"1xx without an end": func(c *wire.H2, id uint32) {
			for range 5000 {
				if c.Head(id, false, wire.Fields{field(":status", "103")}) != nil {
					return
				}
			}
		},
		"GOAWAY that denies it": frames(1, func(f *http2.Framer, _ uint32) error { return f.WriteGoAway(0, http2.ErrCodeInternal, nil) }),
		"HEADERS on another stream": frames(1, func(f *http2.Framer, id uint32) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id + 1000, BlockFragment: []byte{0x88}, EndHeaders: true})
		}),
	}
}

// TestEvilHTTP2Upstream sends a request for each, over both protocols. The
// next ones have to be served as if nothing had been.
func TestEvilHTTP2Upstream(t *testing.T) {
	evils := h2Evils()
	// under way are those whose connection the proxy hasn't judged yet: it ends
	// one that floods it, with whatever else it carries.
	var underWay sync.WaitGroup
	lab := newAbuseLab(t, true, func(c *wire.H2, id uint32) {
		s := c.Snapshot(id)
		if evil := evils[s.Get("x-evil")]; evil != nil {
			underWay.Add(1)
			defer underWay.Done()
			evil(c, id)
			_ = c.Ping() // fails where the proxy has ended the connection
			return
		}
		answerMulti(c, id)
	})
	for name := range evils {
		t.Run(name, func(t *testing.T) {
			// What the floods say in the end is a reset.
			want := []string{"502", "503", "reset INTERNAL_ERROR", "reset PROTOCOL_ERROR", "reset CANCEL", "broken off"}
			c, err := wire.DialH2(lab.HTTP, rig.Patience, wire.H2Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			s, err := c.Get("multi", "/", field("x-evil", name))
			got := s.Get(":status")
			if s.Reset != nil {
				got = "broken off"
			}
			if err != nil || !slices.Contains(want, got) {
				t.Errorf("over HTTP/2: %s (%v), want one of %q", got, err, want)
			}
			resp, err := wire.Do(lab.HTTP, get("multi", "/", "x-evil: "+name), rig.Patience)
			switch {
			case resp == nil || err != nil:
				got = "broken off"
			default:
				got = itoa(resp.Status)
			}
			if !slices.Contains(want, got) {
				t.Errorf("over HTTP/1: %s, want one of %q", got, want)
			}
			if resp != nil && strings.Contains(string(resp.Head), "evil") {
				t.Errorf("the client got what was smuggled: %q", resp.Head)
			}
			underWay.Wait()
			lab.serves(t)
		})
	}
	lab.wantBack(t)
}
