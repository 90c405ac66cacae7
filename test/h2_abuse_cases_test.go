// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"pillion/test/wire"
)

// The ways to give a peer up that floods: the last one is for a close that
// overtakes its GOAWAY.
var (
	calm     = []string{"goaway ENHANCE_YOUR_CALM", "goaway PROTOCOL_ERROR", "closed"}
	refused  = []string{"reset PROTOCOL_ERROR", "goaway PROTOCOL_ERROR", "400", "closed"}
	survived = append([]string{"open"}, calm...)
)

// openGet opens a stream with a request to app.
func openGet(c *wire.H2, end bool, more ...wire.Field) uint32 {
	id, _ := c.Open(end, wire.RequestHead("GET", "app", "/", more...)) // a failure shows in what comes of it
	return id
}

// resetAbuse lets streams die young, by the client's hand or by the proxy's.
func resetAbuse() []h2Abuse {
	// each opens streams and does something to each; more are codes by which
	// the first one may be enough.
	each := func(name string, n int, do func(f *http2.Framer, id uint32) error, more ...string) h2Abuse {
		return h2Abuse{name: name, want: append(more, calm...), run: func(c *wire.H2) string {
			for range n {
				if c.Closed() {
					break
				}
				id := openGet(c, false)
				if c.Frames(func(f *http2.Framer) error { return do(f, id) }) != nil {
					break
				}
			}
			_ = c.WaitClosed() // ending says so
			return ending(c)
		}}
	}
	return []h2Abuse{
		// CVE-2023-44487, and its kin by which the server resets (CVE-2025-8671).
		each("rapid reset", 4000, func(f *http2.Framer, id uint32) error { return f.WriteRSTStream(id, http2.ErrCodeCancel) }),
		each("made reset by an increment of 0", 4000, func(f *http2.Framer, id uint32) error { return f.WriteWindowUpdate(id, 0) }),
		each("made reset by a window overflow", 4000, func(f *http2.Framer, id uint32) error {
			if err := f.WriteWindowUpdate(id, 1<<31-1); err != nil {
				return err
			}
			return f.WriteWindowUpdate(id, 1<<31-1)
		}),
		each("made reset by a short PRIORITY", 4000, func(f *http2.Framer, id uint32) error {
			return f.WriteRawFrame(http2.FramePriority, 0, id, []byte{0, 0, 0})
		}, "goaway FRAME_SIZE_ERROR"),
		each("made reset by DATA behind the end", 4000, func(f *http2.Framer, id uint32) error {
			if err := f.WriteData(id, true, nil); err != nil {
				return err
			}
			return f.WriteData(id, true, []byte("more"))
		}, "goaway STREAM_CLOSED"),
	}
}

// blockAbuse is about header blocks: endless ones, and small ones that become
// large ones.
func blockAbuse() []h2Abuse {
	// continued begins a block and goes on with parts.
	continued := func(name string, n int, part []byte) h2Abuse {
		return h2Abuse{name: name, want: []string{"goaway ENHANCE_YOUR_CALM", "goaway PROTOCOL_ERROR", "goaway INTERNAL_ERROR", "goaway COMPRESSION_ERROR", "closed"}, run: func(c *wire.H2) string {
			id := c.NewStream()
			_ = c.Frames(func(f *http2.Framer) error { // a failure ends the flood
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x82}, EndStream: true})
			})
			for range n {
				if c.Closed() || c.Frames(func(f *http2.Framer) error { return f.WriteContinuation(id, false, part) }) != nil {
					break
				}
			}
			_ = c.WaitClosed() // ending says so
			return ending(c)
		}}
	}
	literal := append([]byte{0x00, 0x01, 'x', 0x7f, 0x80, 0x7e}, bytes.Repeat([]byte("y"), 16255)...)
	// bomb fills the table with one large field and refers to it again and
	// again.
	bomb := func(name, field string, n int) h2Abuse {
		return h2Abuse{name: name, want: []string{"reset PROTOCOL_ERROR", "reset ENHANCE_YOUR_CALM", "reset REFUSED_STREAM", "reset INTERNAL_ERROR", "431", "400",
			"goaway ENHANCE_YOUR_CALM", "goaway PROTOCOL_ERROR", "closed"}, check: has("!GET / "), run: func(c *wire.H2) string {
			var b bytes.Buffer
			e := hpack.NewEncoder(&b)
			for _, f := range wire.RequestHead("GET", "app", "/") {
				_ = e.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value}) // to a bytes.Buffer
			}
			_ = e.WriteField(hpack.HeaderField{Name: field, Value: strings.Repeat("v", 3900)}) // likewise
			b.Write(bytes.Repeat([]byte{0x80 | 62}, n))
			id := c.NewStream()
			_ = c.Frames(func(*http2.Framer) error { return c.Block(id, true, b.Bytes()) }) // shows in the outcome
			return outcome(c, id)
		}}
	}
	crumbs := func(name string, n int, value string) h2Abuse {
		return h2Abuse{name: name, want: []string{"431", "400", "reset PROTOCOL_ERROR", "reset ENHANCE_YOUR_CALM", "reset REFUSED_STREAM", "reset INTERNAL_ERROR", "goaway ENHANCE_YOUR_CALM", "closed"},
			check: has("!GET / "), run: func(c *wire.H2) string {
				return outcome(c, openGet(c, true, slices.Repeat([]wire.Field{{Name: "cookie", Value: value}}, n)...))
			}}
	}
	return []h2Abuse{
		continued("CONTINUATION without an end", 3000, literal),
		continued("CONTINUATION that is empty", 5000, nil),
		bomb("HPACK bomb", "x-bomb", 3000), bomb("cookie bomb", "cookie", 3000), bomb("host bomb", "host", 3000),
		bomb("bomb of a field that is dropped", "keep-alive", 3000),
		crumbs("cookie crumbs", 4000, "a=b"), crumbs("cookie crumbs of 100 KiB", 50, strings.Repeat("c", 2048)),
		{name: "head of 100 KiB", want: []string{"431", "reset PROTOCOL_ERROR", "reset ENHANCE_YOUR_CALM", "reset REFUSED_STREAM", "reset INTERNAL_ERROR", "goaway ENHANCE_YOUR_CALM", "closed"}, check: has("!GET / "),
			run: func(c *wire.H2) string {
				return outcome(c, openGet(c, true, wire.Field{Name: "x", Value: strings.Repeat("y", 100<<10)}))
			}},
		{name: "trailers of 1500 fields", want: []string{"200", "431", "reset PROTOCOL_ERROR", "reset ENHANCE_YOUR_CALM", "reset REFUSED_STREAM", "reset INTERNAL_ERROR", "goaway ENHANCE_YOUR_CALM", "closed"}, quiet: true,
			run: func(c *wire.H2) string {
				id := openGet(c, false)
				_ = c.Head(id, true, slices.Repeat(wire.Fields{{Name: "x-t", Value: "1"}}, 1500)) // shows in the outcome
				return outcome(c, id)
			}},
		{name: "1500 declared trailers", want: []string{"200", "431", "reset PROTOCOL_ERROR"}, quiet: true, run: func(c *wire.H2) string {
			var names []string
			for i := range 1500 {
				names = append(names, "x"+strconv.Itoa(i))
			}
			return outcome(c, openGet(c, true, wire.Field{Name: "trailer", Value: strings.Join(names, ",")}))
		}},
		{name: "HPACK with an index that isn't there", want: []string{"goaway COMPRESSION_ERROR", "closed"}, run: func(c *wire.H2) string {
			id := c.NewStream()
			_ = c.Frames(func(*http2.Framer) error { return c.Block(id, true, []byte{0xff, 0x80, 0x01}) }) // shows in the outcome
			return outcome(c, id)
		}},
		{name: "trailers without an end", want: []string{"reset PROTOCOL_ERROR", "goaway PROTOCOL_ERROR", "closed", "400"}, run: func(c *wire.H2) string {
			id := openGet(c, false)
			_ = c.Head(id, false, wire.Fields{{Name: "x-t", Value: "1"}}) // shows in the outcome
			return outcome(c, id)
		}},
	}
}

// floodAbuse are frames that cost their sender nothing.
func floodAbuse() []h2Abuse {
	// open floods beside a stream that is open.
	open := func(name string, n int, want []string, quiet bool, write func(f *http2.Framer, id uint32, i int) error) h2Abuse {
		return h2Abuse{name: name, want: want, quiet: quiet, run: func(c *wire.H2) string {
			id := openGet(c, false)
			return flood(c, n, func(f *http2.Framer, i int) error { return write(f, id, i) })
		}}
	}
	unread := func(a h2Abuse) h2Abuse {
		a.options = wire.H2Options{NoAcks: true, Stuck: true}
		return a
	}
	return []h2Abuse{
		open("SETTINGS", 12000, survived, true, func(f *http2.Framer, _ uint32, _ int) error { return f.WriteSettings() }),
		open("PING", 12000, survived, true, func(f *http2.Framer, _ uint32, _ int) error { return f.WritePing(false, [8]byte{}) }),
		unread(open("PING whose answers nobody reads", 1000000, calm, false, func(f *http2.Framer, _ uint32, _ int) error { return f.WritePing(false, [8]byte{}) })),
		unread(open("SETTINGS whose answers nobody reads", 1000000, calm, false, func(f *http2.Framer, _ uint32, _ int) error { return f.WriteSettings() })),
		open("PRIORITY", 20000, survived, true, func(f *http2.Framer, id uint32, _ int) error {
			return f.WritePriority(id, http2.PriorityParam{Weight: 1})
		}),
		open("PRIORITY of streams that nobody opened", 20000, survived, true, func(f *http2.Framer, id uint32, i int) error {
			return f.WritePriority(id+2*uint32(i)+2, http2.PriorityParam{Weight: 1})
		}),
		open("WINDOW_UPDATE", 20000, survived, true, func(f *http2.Framer, id uint32, _ int) error { return f.WriteWindowUpdate(id, 1) }),
		open("WINDOW_UPDATE of the connection", 20000, survived, true, func(f *http2.Framer, _ uint32, _ int) error { return f.WriteWindowUpdate(0, 1) }),
		open("DATA that is empty", 20000, calm, false, func(f *http2.Framer, id uint32, _ int) error { return f.WriteData(id, false, nil) }),
		open("DATA of padding alone", 20000, append([]string{"goaway FLOW_CONTROL_ERROR"}, survived...), true, func(f *http2.Framer, id uint32, _ int) error {
			return f.WriteDataPadded(id, false, nil, []byte{0})
		}),
		open("frames of unknown types", 20000, survived, true, func(f *http2.Framer, id uint32, _ int) error { return f.WriteRawFrame(0xfa, 0, id, nil) }),
		open("table sizes back and forth", 6000, survived, true, func(f *http2.Framer, _ uint32, i int) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(i%2) * 4096})
		}),
		{name: "initial windows back and forth over 90 streams", want: survived, quiet: true, run: func(c *wire.H2) string {
			for range 90 {
				openGet(c, false)
			}
			return flood(c, 3000, func(f *http2.Framer, i int) error {
				return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i%2) * 65535})
			})
		}},
		{name: "table sizes back and forth while answers come", want: survived, quiet: true, run: func(c *wire.H2) string {
			for i := range 300 {
				_ = c.Frames(func(f *http2.Framer) error { // shows in the outcome
					return f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(i%2) * 4096})
				})
				if s := outcome(c, openGet(c, true)); s != "200" {
					return s
				}
			}
			return ending(c)
		}},
	}
}

// windowAbuse leaves the proxy alone with what it has to send.
func windowAbuse() []h2Abuse {
	return []h2Abuse{
		{name: "no window for 100 bodies of 1 MB", want: []string{"open"}, quiet: true, check: has("/size/1000000"),
			options: wire.H2Options{NoCredit: true, Settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}},
			run: func(c *wire.H2) string {
				var ids []uint32
				for range 100 {
					id, _ := c.Open(true, wire.RequestHead("GET", "app", "/size/1000000")) // shows in the outcome
					ids = append(ids, id)
				}
				for _, id := range ids {
					if s, err := c.AwaitHead(id); err != nil || s.Get(":status") != "200" {
						return "no head: " + s.Get(":status")
					}
				}
				if c.Ping() != nil {
					return ending(c)
				}
				return ending(c)
			}},
		{name: "more streams than the proxy allows", want: []string{"refused", "goaway ENHANCE_YOUR_CALM", "goaway PROTOCOL_ERROR", "closed"}, run: func(c *wire.H2) string {
			most, said := c.Setting(http2.SettingMaxConcurrentStreams)
			if !said || most > 5000 {
				return "the proxy advertises no bound on streams"
			}
			var last uint32
			for range most + 50 {
				last, _ = c.Open(false, wire.RequestHead("POST", "app", "/")) // shows in the outcome
			}
			if s := outcome(c, last); s != "reset REFUSED_STREAM" && s != "reset PROTOCOL_ERROR" {
				return s
			}
			return "refused"
		}},
		{name: "window beyond 2^31-1", want: []string{"goaway FLOW_CONTROL_ERROR", "closed"}, run: func(c *wire.H2) string {
			return flood(c, 3, func(f *http2.Framer, _ int) error { return f.WriteWindowUpdate(0, 1<<31-1) })
		}},
		{name: "DATA beyond the window", want: []string{"goaway FLOW_CONTROL_ERROR", "reset FLOW_CONTROL_ERROR", "closed"}, run: func(c *wire.H2) string {
			id, _ := c.Open(false, wire.RequestHead("POST", "multi", "/")) // shows in the outcome
			part := make([]byte, 16384)
			how := flood(c, 4000, func(f *http2.Framer, _ int) error { return f.WriteData(id, false, part) })
			if s := c.Snapshot(id); how == "open" && s.Reset != nil {
				return "reset " + s.Reset.String()
			}
			return how
		}},
		{name: "HEADERS behind GOAWAY", want: []string{"200", "reset REFUSED_STREAM", "goaway PROTOCOL_ERROR", "closed", "nothing"}, quiet: true, run: func(c *wire.H2) string {
			_ = c.Frames(func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, nil) }) // shows in the outcome
			return outcome(c, openGet(c, true))
		}},
	}
}

// settingAbuse are values of settings that nobody may send (RFC 9113 section
// 6.5.2), and frames that clients don't send.
func settingAbuse() []h2Abuse {
	setting := func(name string, id http2.SettingID, value uint32, want ...string) h2Abuse {
		return h2Abuse{name: "setting " + name, want: append(want, "closed"), run: func(c *wire.H2) string {
			return flood(c, 1, func(f *http2.Framer, _ int) error { return f.WriteSettings(http2.Setting{ID: id, Val: value}) })
		}}
	}
	raw := func(name string, typ http2.FrameType, flags http2.Flags, id uint32, payload string, want ...string) h2Abuse {
		return h2Abuse{name: name, want: append(want, "closed"), run: func(c *wire.H2) string {
			return flood(c, 1, func(f *http2.Framer, _ int) error { return f.WriteRawFrame(typ, flags, id, []byte(payload)) })
		}}
	}
	return []h2Abuse{
		setting("frame size 0", http2.SettingMaxFrameSize, 0, "goaway PROTOCOL_ERROR"), setting("frame size 2^24", http2.SettingMaxFrameSize, 1<<24, "goaway PROTOCOL_ERROR"),
		setting("initial window 2^31", http2.SettingInitialWindowSize, 1<<31, "goaway FLOW_CONTROL_ERROR"), setting("push 2", http2.SettingEnablePush, 2, "goaway PROTOCOL_ERROR"),
		setting("connect protocol 2", http2.SettingEnableConnectProtocol, 2, "goaway PROTOCOL_ERROR"),
		raw("SETTINGS of 5 octets", http2.FrameSettings, 0, 0, "12345", "goaway FRAME_SIZE_ERROR"), raw("SETTINGS on a stream", http2.FrameSettings, 0, 1, "", "goaway PROTOCOL_ERROR"),
		raw("SETTINGS with ACK and payload", http2.FrameSettings, http2.FlagSettingsAck, 0, "123456", "goaway FRAME_SIZE_ERROR"),
		raw("PING of 7 octets", http2.FramePing, 0, 0, "1234567", "goaway FRAME_SIZE_ERROR"), raw("PUSH_PROMISE from a client", http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, "\x00\x00\x00\x02\x82", "goaway PROTOCOL_ERROR"),
		raw("HEADERS on stream 2", http2.FrameHeaders, http2.FlagHeadersEndHeaders, 2, "\x82", "goaway PROTOCOL_ERROR"), raw("DATA on stream 0", http2.FrameData, 0, 0, "x", "goaway PROTOCOL_ERROR"),
		raw("RST_STREAM of a stream that nobody opened", http2.FrameRSTStream, 0, 9, "\x00\x00\x00\x08", "goaway PROTOCOL_ERROR"), raw("WINDOW_UPDATE of 3 octets", http2.FrameWindowUpdate, 0, 0, "\x00\x00\x01", "goaway FRAME_SIZE_ERROR"),
		raw("CONTINUATION out of the blue", http2.FrameContinuation, http2.FlagContinuationEndHeaders, 1, "\x82", "goaway PROTOCOL_ERROR"),
		raw("padding longer than the frame", http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, 1, "\xff\x82", "goaway PROTOCOL_ERROR"),
	}
}

// smuggleAbuse are messages that become others when they are written as
// HTTP/1, unless they are refused (RFC 9113 sections 8.2 and 8.3).
func smuggleAbuse() []h2Abuse {
	// head sends a head without a body.
	head := func(name string, want []string, check func(string) error, fields ...wire.Field) h2Abuse {
		return h2Abuse{name: "smuggle " + name, want: want, check: check, quiet: slices.Contains(want, "200"), run: func(c *wire.H2) string {
			id, _ := c.Open(true, fields) // shows in the outcome
			return outcome(c, id)
		}}
	}
	with := func(name, field, value string) h2Abuse {
		return head(name, refused, has("!GET /"), wire.RequestHead("GET", "app", "/", wire.Field{Name: field, Value: value})...)
	}
	pseudo := func(name, field, value string) h2Abuse {
		h := wire.RequestHead("GET", "app", "/")
		for i := range h {
			if h[i].Name == field {
				h[i].Value = value
			}
		}
		return head(name, refused, has("!GET /"), h...)
	}
	// body sends a content-length and a body that may not fit.
	body := func(name, length, data string, more ...wire.Field) h2Abuse {
		return h2Abuse{name: "smuggle " + name, want: refused, check: has("!\r\n0\r\n\r\n"), run: func(c *wire.H2) string {
			id, _ := c.Open(false, wire.RequestHead("POST", "app", "/", append(more, wire.Field{Name: "content-length", Value: length})...)) // shows in the outcome
			_ = c.Frames(func(f *http2.Framer) error { return f.WriteData(id, true, []byte(data)) })                                         // likewise
			return outcome(c, id)
		}}
	}
	inject := "x\r\n\r\nGET " + smuggled + " HTTP/1.1\r\nHost: app\r\n\r\n"
	return []h2Abuse{
		with("CRLF in a value", "x", inject), with("LF in a value", "x", "a\nb: c"), with("CR in a value", "x", "a\rb"), with("NUL in a value", "x", "a\x00b"),
		with("CRLF in a name", "x\r\ny", "1"), with("LF in a name", "x\ny", "1"), with("NUL in a name", "x\x00y", "1"), with("colon in a name", "x:y", "1"),
		with("space in a name", "x y", "1"), with("space behind a name", "x ", "1"), with("capital in a name", "X-Y", "1"), with("empty name", "", "1"), with("8-bit name", "x\xff", "1"),
		// Envoy passes these two on; RFC 9113 section 8.2.1 calls them malformed.
		with("space before a value", "x", " a"), with("tab behind a value", "x", "a\t"),
		pseudo("CRLF in the path", ":path", "/"+inject), pseudo("space in the path", ":path", "/ HTTP/1.1"), pseudo("NUL in the path", ":path", "/\x00"), pseudo("path without a slash", ":path", "svc/method"),
		pseudo("empty path", ":path", ""), pseudo("fragment in the path", ":path", "/a#b"),
		pseudo("CRLF in the method", ":method", "GET / HTTP/1.1\r\nx: y\r\n\r\nGET"), pseudo("space in the method", ":method", "GET "+smuggled), pseudo("empty method", ":method", ""),
		pseudo("CRLF in the scheme", ":scheme", "http\r\nx: y"), pseudo("space in the scheme", ":scheme", "ht tp"),
		pseudo("CRLF in the authority", ":authority", "app\r\nx: y"), pseudo("space in the authority", ":authority", "a pp"), pseudo("userinfo in the authority", ":authority", "user@app"), pseudo("slash in the authority", ":authority", "app/x"),
		with("te chunked", "te", "chunked"), with("connection", "connection", "x"), with("connection close", "connection", "close"), with("keep-alive", "keep-alive", "1"), with("proxy-connection", "proxy-connection", "x"),
		with("upgrade", "upgrade", "websocket"), with("transfer-encoding", "transfer-encoding", "chunked"), with("transfer-encoding identity", "transfer-encoding", "identity"), with("pseudo field unknown", ":x", "1"), with("status in a request", ":status", "200"),
		head("pseudo field twice", refused, has("!GET /"), append(wire.RequestHead("GET", "app", "/"), wire.Field{Name: ":path", Value: smuggled})...),
		head("no method", refused, has("!GET /"), wire.RequestHead("GET", "app", "/")[1:]...),
		head("no path", refused, has("!GET /"), wire.RequestHead("GET", "app", "/")[:3]...),
		head("pseudo field behind others", refused, has("!GET /"), wire.Field{Name: ":method", Value: "GET"}, wire.Field{Name: ":scheme", Value: "http"}, wire.Field{Name: ":authority", Value: "app"}, wire.Field{Name: "x", Value: "y"}, wire.Field{Name: ":path", Value: "/"}),
		head("neither authority nor host", refused, has("!GET /"), wire.Field{Name: ":method", Value: "GET"}, wire.Field{Name: ":scheme", Value: "http"}, wire.Field{Name: ":path", Value: "/"}),
		head("authority and another host", []string{"200", "400", "reset PROTOCOL_ERROR"}, has("!elsewhere"), wire.RequestHead("GET", "app", "/", wire.Field{Name: "host", Value: "elsewhere"})...),
		head("two hosts", []string{"200", "400", "reset PROTOCOL_ERROR", "closed"}, has("!elsewhere"), wire.RequestHead("GET", "app", "/", wire.Field{Name: "host", Value: "app"}, wire.Field{Name: "host", Value: "elsewhere"})...),
		head("te trailers", []string{"200"}, nil, wire.RequestHead("GET", "app", "/", wire.Field{Name: "te", Value: "trailers"})...),
		head("CONNECT with a path", []string{"reset PROTOCOL_ERROR", "goaway PROTOCOL_ERROR", "400", "404", "closed"}, has("!CONNECT"), wire.RequestHead("CONNECT", "app", "/")...),
		head("CONNECT", []string{"404", "405", "403", "reset PROTOCOL_ERROR", "reset REFUSED_STREAM"}, has("!CONNECT"), wire.Field{Name: ":method", Value: "CONNECT"}, wire.Field{Name: ":authority", Value: "app:80"}),
		head("extended CONNECT of an unknown protocol", []string{"403", "404", "400", "501", "reset PROTOCOL_ERROR"}, has("!upgrade"), append(wire.RequestHead("CONNECT", "app", "/"), wire.Field{Name: ":protocol", Value: "foo"})...),
		head("protocol without CONNECT", refused, has("!GET /"), append(wire.RequestHead("GET", "app", "/"), wire.Field{Name: ":protocol", Value: "websocket"})...),
		head("h2c as extended CONNECT", []string{"403", "404", "400", "501", "reset PROTOCOL_ERROR"}, has("!h2c"), append(wire.RequestHead("CONNECT", "app", "/"), wire.Field{Name: ":protocol", Value: "h2c"})...),
		head("content-length and no body", refused, has("!\r\n0\r\n\r\n"), wire.RequestHead("POST", "app", "/", wire.Field{Name: "content-length", Value: "30"})...),
		body("body shorter than its length", "10", "hello"), body("body longer than its length", "3", "hello"), body("length that isn't a number", "x", "hello"), body("length with a sign", "+5", "hello"), body("length that is negative", "-5", "hello"),
		body("list of lengths", "5, 6", "hello"), body("length beyond 2^63", "9223372036854775808", "hello"), body("two lengths", "5", "hello", wire.Field{Name: "content-length", Value: "6"}),
	}
}
