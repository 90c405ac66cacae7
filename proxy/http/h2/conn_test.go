// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"pillion/proxy/http"
)

func ok(length string) *http.ResponseHead {
	h := &http.ResponseHead{Status: 200}
	if length != "" {
		h.Fields.Append(fieldOf("content-length", length))
	}
	return h
}

func window(n uint32) http2.Setting { return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n} }

// send does something with a connection from outside of its reader.
func (p *peer) send(f func()) { f(); p.c.Flush() }

func TestGreeting(t *testing.T) {
	p := rawClient(t, &Config{Connect: true, MaxStreams: 7})
	p.raw(preface[:5])
	p.raw(preface[5:])
	p.fr.WriteSettings()
	got := p.wantSettings()
	if got[http2.SettingMaxConcurrentStreams] != 7 || got[http2.SettingEnableConnectProtocol] != 1 || got[http2.SettingInitialWindowSize] != 65535 {
		t.Errorf("%v", got)
	}
	p.want(fmt.Sprintf("WINDOW_UPDATE 0 %d", 1<<20-65535), "SETTINGS ack")
	p.quiet()
}

// TestConnectionErrors holds what ends a server's connection, and how.
func TestConnectionErrors(t *testing.T) {
	frame := func(typ http2.FrameType, flags http2.Flags, id uint32, payload ...byte) string {
		return string(append(appendFrameHeader(nil, len(payload), typ, flags, id), payload...))
	}
	for _, tc := range []struct {
		name, send string
		code       http2.ErrCode
	}{
		{"DATA on no stream", frame(http2.FrameData, 0, 0, 1), http2.ErrCodeProtocol},
		{"DATA on an idle stream", frame(http2.FrameData, 0, 1, 1), http2.ErrCodeProtocol},
		{"too much padding", frame(http2.FrameData, http2.FlagDataPadded, 1, 5, 1), http2.ErrCodeProtocol},
		{"HEADERS on no stream", frame(http2.FrameHeaders, 4, 0), http2.ErrCodeProtocol},
		{"HEADERS on a server's stream", frame(http2.FrameHeaders, 4, 2), http2.ErrCodeProtocol},
		{"HEADERS too short for a priority", frame(http2.FrameHeaders, 0x24, 1, 0), http2.ErrCodeFrameSize},
		{"a broken block", frame(http2.FrameHeaders, 4, 1, 0x80), http2.ErrCodeCompression},
		{"HEADERS not continued", frame(http2.FrameHeaders, 0, 1) + frame(http2.FramePing, 0, 0, make([]byte, 8)...), http2.ErrCodeProtocol},
		{"continued on another stream", frame(http2.FrameHeaders, 0, 1) + frame(http2.FrameContinuation, 4, 3), http2.ErrCodeProtocol},
		{"CONTINUATION of nothing", frame(http2.FrameContinuation, 4, 1), http2.ErrCodeProtocol},
		{"PRIORITY on no stream", frame(http2.FramePriority, 0, 0, 0, 0, 0, 0, 0), http2.ErrCodeProtocol},
		{"RST_STREAM of a wrong size", frame(http2.FrameRSTStream, 0, 1, 0), http2.ErrCodeFrameSize},
		{"RST_STREAM on no stream", frame(http2.FrameRSTStream, 0, 0, 0, 0, 0, 0), http2.ErrCodeProtocol},
		{"RST_STREAM on an idle stream", frame(http2.FrameRSTStream, 0, 1, 0, 0, 0, 0), http2.ErrCodeProtocol},
		{"SETTINGS on a stream", frame(http2.FrameSettings, 0, 1), http2.ErrCodeProtocol},
		{"SETTINGS of a wrong size", frame(http2.FrameSettings, 0, 0, 0), http2.ErrCodeFrameSize},
		{"SETTINGS ack with content", frame(http2.FrameSettings, 1, 0, 0, 0, 0, 0, 0, 0), http2.ErrCodeFrameSize},
		{"ENABLE_PUSH 2", frame(http2.FrameSettings, 0, 0, 0, 2, 0, 0, 0, 2), http2.ErrCodeProtocol},
		{"window beyond 2^31", frame(http2.FrameSettings, 0, 0, 0, 4, 0x80, 0, 0, 0), http2.ErrCodeFlowControl},
		{"MAX_FRAME_SIZE too small", frame(http2.FrameSettings, 0, 0, 0, 5, 0, 0, 1, 0), http2.ErrCodeProtocol},
		{"PUSH_PROMISE", frame(http2.FramePushPromise, 4, 1, 0, 0, 0, 2), http2.ErrCodeProtocol},
		{"PING of a wrong size", frame(http2.FramePing, 0, 0, 1), http2.ErrCodeFrameSize},
		{"PING on a stream", frame(http2.FramePing, 0, 1, make([]byte, 8)...), http2.ErrCodeProtocol},
		{"GOAWAY on a stream", frame(http2.FrameGoAway, 0, 1, make([]byte, 8)...), http2.ErrCodeProtocol},
		{"GOAWAY of a wrong size", frame(http2.FrameGoAway, 0, 0, 1), http2.ErrCodeFrameSize},
		{"WINDOW_UPDATE of a wrong size", frame(http2.FrameWindowUpdate, 0, 0, 1), http2.ErrCodeFrameSize},
		{"WINDOW_UPDATE by nothing", frame(http2.FrameWindowUpdate, 0, 0, 0, 0, 0, 0), http2.ErrCodeProtocol},
		{"WINDOW_UPDATE too large", frame(http2.FrameWindowUpdate, 0, 0, 0x7f, 0xff, 0xff, 0xff), http2.ErrCodeFlowControl},
		{"WINDOW_UPDATE on an idle stream", frame(http2.FrameWindowUpdate, 0, 1, 0, 0, 0, 1), http2.ErrCodeProtocol},
		{"a frame too large", string(appendFrameHeader(nil, 16385, http2.FrameData, 0, 1)), http2.ErrCodeFrameSize},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := client(t, &Config{})
			p.raw(tc.send)
			p.goAway(tc.code)
		})
	}
	t.Run("no preface", func(t *testing.T) {
		p := rawClient(t, &Config{})
		p.raw("GET / HTTP/1.1\r\n\r\n")
		p.goAway(http2.ErrCodeProtocol)
	})
	t.Run("no SETTINGS", func(t *testing.T) {
		p := rawClient(t, &Config{})
		p.raw(preface + frame(http2.FramePing, 0, 0, make([]byte, 8)...))
		p.goAway(http2.ErrCodeProtocol)
	})
}

func TestServerStream(t *testing.T) {
	p := client(t, &Config{})
	p.post(1, "content-length", "5")
	p.fr.WriteData(1, false, []byte("he"))
	p.fr.WriteDataPadded(1, true, []byte("llo"), make([]byte, 10))
	p.sync()
	r := p.acc.stream(0)
	r.got(t, "head(POST /) data(2) data(3).end")
	p.send(func() {
		r.s.Head(ok("2"), false)
		r.s.Data([]byte("ok"), true)
	})
	p.want("HEADERS 1 :status=200 content-length=2", "DATA 1 2 end")
	if !r.s.Closed() || p.c.Active() != 0 {
		t.Error("the stream stays open")
	}
	// PRIORITY and unknown frames do nothing, with a stream or without.
	p.fr.WritePriority(3, http2.PriorityParam{StreamDep: 1})
	p.fr.WriteRawFrame(0x42, 0xff, 9, []byte("what"))
	p.fr.WriteWindowUpdate(1, 5)
	p.fr.WriteRSTStream(1, http2.ErrCodeCancel)
	p.quiet()
}

func TestTrailers(t *testing.T) {
	p := client(t, &Config{}, window(10))
	p.post(1)
	p.fr.WriteData(1, false, []byte("x"))
	p.headers(1, true, "x-sum", "1", "x-more", "2")
	p.sync()
	r := p.acc.stream(0)
	r.got(t, "head(POST /) data(1) trailers(2).end")
	var f http.Fields
	f.Append(fieldOf("grpc-status", "0"))
	p.send(func() {
		r.s.Head(ok(""), false)
		r.s.Data(make([]byte, 25), false)
		if r.s.Trailers(&f) {
			t.Error("trailers went out before what is queued")
		}
	})
	p.want("HEADERS 1", "DATA 1 10")
	p.quiet()
	p.fr.WriteWindowUpdate(1, 15)
	p.want("DATA 1 15", "HEADERS 1 end grpc-status=0")
	r.got(t, "head(POST /) data(1) trailers(2).end taken(15,true)")
}

// TestWindows holds that what a peer allows is never passed, by stream and by
// connection, and that changes of the initial window move open streams.
func TestWindows(t *testing.T) {
	p := client(t, &Config{}, window(10))
	p.get(1)
	p.sync()
	r := p.acc.stream(0)
	p.send(func() {
		r.s.Head(ok(""), false)
		if n := r.s.Data(make([]byte, 100), true); n != 10 {
			t.Errorf("%d octets taken at once, want 10", n)
		}
	})
	p.want("HEADERS 1", "DATA 1 10")
	p.quiet()
	p.fr.WriteWindowUpdate(1, 5)
	p.want("DATA 1 5")
	p.fr.WriteSettings(window(30)) // 20 more
	p.want("SETTINGS ack", "DATA 1 20")
	p.fr.WriteSettings(window(0)) // 30 below nothing
	p.want("SETTINGS ack")
	p.fr.WriteWindowUpdate(1, 30)
	p.quiet()
	p.fr.WriteWindowUpdate(1, 1)
	p.want("DATA 1 1")
	p.fr.WriteSettings(window(1000))
	p.want("SETTINGS ack", "DATA 1 64 end")
	r.got(t, "head(GET /).end taken(5,false) taken(20,false) taken(1,false) taken(64,true)")
}

func TestConnectionWindow(t *testing.T) {
	p := client(t, &Config{}, window(1<<20))
	for _, id := range []uint32{1, 3} {
		p.get(id)
	}
	p.sync()
	a, b := p.acc.stream(0), p.acc.stream(1)
	p.send(func() {
		a.s.Head(ok(""), false)
		b.s.Head(ok(""), false)
		a.s.Data(make([]byte, 65000), false)
		b.s.Data(make([]byte, 1000), true)
		a.s.Data(make([]byte, 1000), true)
	})
	p.want("HEADERS 1", "HEADERS 3")
	total := 0
	for total < 65535 {
		var id, n int
		if _, err := fmt.Sscanf(p.read(), "DATA %d %d", &id, &n); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if total != 65535 {
		t.Fatalf("%d octets came, more than the window", total)
	}
	p.quiet()
	p.fr.WriteWindowUpdate(0, 100000)
	ends := 0
	for ends < 2 {
		s := p.read()
		if !strings.HasPrefix(s, "DATA") {
			t.Fatal(s)
		}
		if strings.HasSuffix(s, "end") {
			ends++
		}
	}
}

// TestWindowErrors holds the bounds of windows that a peer changes.
func TestWindowErrors(t *testing.T) {
	p := client(t, &Config{})
	p.post(1)
	p.fr.WriteWindowUpdate(1, 1<<31-1)
	p.want("RST_STREAM 1 FLOW_CONTROL_ERROR")
	p.post(3)
	p.raw(string(append(appendFrameHeader(nil, 4, http2.FrameWindowUpdate, 0, 3), 0, 0, 0, 0)))
	p.want("RST_STREAM 3 PROTOCOL_ERROR")
	p.acc.stream(0).got(t, "head(POST /) reset(http2.violation.of.messaging.rule)")
	// A window that the new initial one makes too large.
	p.post(5)
	p.fr.WriteWindowUpdate(5, 1<<31-1-65535)
	p.fr.WriteSettings(window(65536))
	p.goAway(http2.ErrCodeFlowControl)
}

// TestCredit holds that a stream's credit comes back when its receiver took
// what came, and the connection's at once.
func TestCredit(t *testing.T) {
	p := client(t, &Config{ConnWindow: 70000})
	p.acc.holdCredit()
	p.post(1)
	for range 3 {
		p.fr.WriteData(1, false, make([]byte, 16384))
	}
	p.want("WINDOW_UPDATE 0 49152")
	p.quiet()
	r := p.acc.stream(0)
	p.send(func() { r.s.Credit(20000) })
	p.quiet()
	p.send(func() { r.s.Credit(20000) })
	p.want("WINDOW_UPDATE 1 40000")
	// 65535 - 49152 + 40000 are left.
	for range 3 {
		p.fr.WriteData(1, false, make([]byte, 16384))
	}
	p.want("WINDOW_UPDATE 0")
	p.fr.WriteData(1, false, make([]byte, 16384))
	p.want("RST_STREAM 1 FLOW_CONTROL_ERROR")
}

// TestPaddingIsCredited holds that padding, which nobody takes, comes back.
func TestPaddingIsCredited(t *testing.T) {
	p := client(t, &Config{})
	p.post(1)
	for i := 0; i < 140; i++ {
		var body []byte
		if i%50 == 0 {
			body = []byte("x")
		}
		p.fr.WriteDataPadded(1, false, body, make([]byte, 255))
	}
	p.want("WINDOW_UPDATE 1")
}

// TestClosedStreams holds RFC 9113 section 5.1 for frames that come late.
func TestClosedStreams(t *testing.T) {
	t.Run("DATA behind the end", func(t *testing.T) {
		p := client(t, &Config{})
		p.get(1)
		p.fr.WriteData(1, false, []byte("x"))
		p.want("RST_STREAM 1 STREAM_CLOSED")
	})
	t.Run("HEADERS behind the end", func(t *testing.T) {
		p := client(t, &Config{})
		p.get(1)
		p.get(1)
		p.want("RST_STREAM 1 STREAM_CLOSED")
	})
	t.Run("DATA on a stream that we reset", func(t *testing.T) {
		p := client(t, &Config{})
		p.post(1)
		p.sync()
		p.send(func() { p.acc.stream(0).s.Reset(http2.ErrCodeCancel) })
		p.want("RST_STREAM 1 CANCEL")
		p.fr.WriteData(1, true, []byte("x"))
		p.quiet()
	})
	t.Run("DATA on a closed stream", func(t *testing.T) {
		p := client(t, &Config{})
		p.get(1)
		p.sync()
		p.send(func() { p.acc.stream(0).s.Head(ok("0"), true) })
		p.want("HEADERS 1 end")
		p.fr.WriteData(1, true, []byte("x"))
		p.goAway(http2.ErrCodeStreamClosed)
	})
	t.Run("an identifier that was passed over", func(t *testing.T) {
		p := client(t, &Config{})
		p.get(5)
		p.get(3)
		p.goAway(http2.ErrCodeStreamClosed)
	})
	t.Run("trailers without end", func(t *testing.T) {
		p := client(t, &Config{})
		p.post(1)
		p.headers(1, false, "x", "y")
		p.want("RST_STREAM 1 PROTOCOL_ERROR")
	})
	t.Run("a body longer than told", func(t *testing.T) {
		p := client(t, &Config{})
		p.post(1, "content-length", "1")
		p.fr.WriteData(1, true, []byte("xy"))
		p.want("RST_STREAM 1 PROTOCOL_ERROR")
	})
	t.Run("a body shorter than told", func(t *testing.T) {
		p := client(t, &Config{})
		p.post(1, "content-length", "3")
		p.headers(1, true, "x", "y")
		p.want("RST_STREAM 1 PROTOCOL_ERROR")
	})
}

func TestMaxStreams(t *testing.T) {
	p := client(t, &Config{MaxStreams: 1})
	p.get(1)
	p.get(3)
	p.want("RST_STREAM 3 REFUSED_STREAM")
	p.sync()
	p.send(func() { p.acc.stream(0).s.Head(ok("0"), true) })
	p.want("HEADERS 1 end")
	p.get(5)
	p.sync()
	p.acc.stream(1).got(t, "head(GET /).end")
}

func TestContinuation(t *testing.T) {
	p := client(t, &Config{})
	block := p.block(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a", "x-long", strings.Repeat("v", 200))
	p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:3], EndStream: true, PadLength: 7,
		Priority: http2.PriorityParam{StreamDep: 1, Weight: 3}})
	p.fr.WriteContinuation(1, false, block[3:20])
	p.fr.WriteContinuation(1, true, block[20:])
	p.sync()
	r := p.acc.stream(0)
	r.got(t, "head(GET /).end")
	// Ours that is larger than a frame is cut up as well.
	h := ok("")
	h.Fields.Append(fieldOf("x-long", strings.Repeat("~", 40000)))
	p.send(func() { r.s.Head(h, true) })
	p.want("HEADERS 1 end :status=200 x-long=<40000>")
	p.get(3)
	p.sync()
	p.send(func() { p.acc.stream(1).s.Head(ok(""), true) })
	p.want("HEADERS 3 end :status=200")
}

func TestDrain(t *testing.T) {
	p := client(t, &Config{})
	p.get(1)
	p.sync()
	p.c.Drain()
	p.want("GOAWAY 2147483647 NO_ERROR")
	p.get(3) // on its way
	p.sync()
	p.c.FinishDrain()
	p.want("GOAWAY 3 NO_ERROR")
	p.get(5)
	p.sync()
	for i := range 2 {
		p.send(func() { p.acc.stream(i).s.Head(ok("0"), true) })
	}
	p.want("HEADERS 1 end", "HEADERS 3 end")
	p.closed()
	if p.acc.stream(2) != nil {
		t.Error("a stream behind the last GOAWAY is served")
	}
}

// TestLongQueue holds that a queue takes little more than what is in it, also
// if it never runs empty.
func TestLongQueue(t *testing.T) {
	p := client(t, &Config{}, window(1000))
	p.get(1)
	p.sync()
	r := p.acc.stream(0)
	p.send(func() {
		r.s.Head(ok(""), false)
		r.s.Data(make([]byte, 2000), false)
	})
	p.want("HEADERS 1", "DATA 1 1000")
	p.fr.WriteWindowUpdate(0, 1<<20)
	for range 500 {
		p.send(func() { r.s.Data(make([]byte, 1000), false) })
		p.fr.WriteWindowUpdate(1, 1000)
		p.want("DATA 1 1000")
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if n := len(*r.s.queue); n > 8<<10 {
		t.Errorf("the queue of 1000 octets is %d long", n)
	}
}

// TestFullSocket fills a socket that nobody reads, and goes on when it is read.
func TestFullSocket(t *testing.T) {
	p := client(t, &Config{}, window(1<<30))
	p.fr.WriteWindowUpdate(0, 1<<30)
	p.get(1)
	p.sync()
	r := p.acc.stream(0)
	const size = 16 << 20
	p.send(func() {
		r.s.Head(ok(""), false)
		r.s.Data(make([]byte, size), true)
	})
	p.want("HEADERS 1")
	for total := 0; total < size; {
		var n int
		s := p.read()
		if _, err := fmt.Sscanf(s, "DATA 1 %d", &n); err != nil {
			t.Fatal(s)
		}
		total += n
	}
}

// TestFloods holds what ends a connection that does nothing but cost.
func TestFloods(t *testing.T) {
	for _, tc := range []struct {
		name string
		send func(p *peer, i int)
	}{
		{"rapid reset", func(p *peer, i int) { p.get(uint32(2*i + 1)); p.fr.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel) }},
		{"made you reset", func(p *peer, i int) {
			p.get(uint32(2*i + 1))
			p.fr.WriteWindowUpdate(uint32(2*i+1), 0)
		}},
		{"malformed heads", func(p *peer, i int) { p.headers(uint32(2*i+1), true, "a", "b") }},
		{"empty DATA", func(p *peer, i int) {
			if i == 0 {
				p.post(1)
			}
			p.fr.WriteData(1, false, nil)
		}},
		{"SETTINGS", func(p *peer, i int) { p.fr.WriteSettings() }},
		{"PING", func(p *peer, i int) { p.fr.WritePing(false, [8]byte{}) }},
		{"PRIORITY", func(p *peer, i int) { p.fr.WritePriority(1, http2.PriorityParam{}) }},
		{"WINDOW_UPDATE", func(p *peer, i int) { p.fr.WriteWindowUpdate(0, 1) }},
		{"unknown frames", func(p *peer, i int) { p.fr.WriteRawFrame(99, 0, 0, nil) }},
		{"GOAWAY", func(p *peer, i int) { p.fr.WriteGoAway(0, 0, nil) }},
		{"RST_STREAM of a closed stream", func(p *peer, i int) {
			if i == 0 {
				p.get(1)
			}
			p.fr.WriteRSTStream(1, http2.ErrCodeCancel)
		}},
		{"CONTINUATION", func(p *peer, i int) {
			if i == 0 {
				p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1})
			}
			p.fr.WriteContinuation(1, false, nil)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := client(t, &Config{})
			go func() {
				for i := range 20000 {
					tc.send(p, i) // fails when the connection ends
				}
			}()
			p.goAway(http2.ErrCodeEnhanceYourCalm)
		})
	}
}
