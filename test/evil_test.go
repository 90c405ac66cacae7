// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
	"pillion/test/wire"
)

// poison is the body of a response that an evil upstream sends unasked. No
// client may ever get it.
const poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"

// evil is a reply that breaks the protocol.
type evil struct {
	name   string
	method string // GET unless set
	reply  string
	stays  bool // the upstream leaves the connection open afterwards
	// status lists what the client may get. 0 is a response that visibly has
	// no proper end, or none at all.
	status []int
	body   string // of a 200
}

// TestEvilUpstream sends two requests for each reply: the one that gets it,
// and one behind it on the same upstream connections, which has to get its
// own answer.
func TestEvilUpstream(t *testing.T) {
	t.Parallel()
	replies := map[string]evil{}
	for _, e := range evilReplies() {
		if _, double := replies[e.name]; double {
			t.Fatalf("two replies are called %s", e.name)
		}
		replies[e.name] = e
	}
	if len(replies) < 30 {
		t.Errorf("there are %d replies, want at least 30", len(replies))
	}
	p, lanes := newLanes(t, 8, func() *wire.Origin {
		return wire.NewRawOrigin(t, func(c *wire.Conn) { serveEvil(c, replies) })
	})
	before := p.Scrape(t)
	t.Run("replies", func(t *testing.T) {
		for _, e := range replies {
			t.Run(e.name, func(t *testing.T) {
				t.Parallel()
				l := <-lanes
				defer func() { lanes <- l }()
				e.try(t, p, l)
			})
		}
	})
	wantNoLeak(t, p, before)
}

// serveEvil answers a request that names a reply with it, and all others
// properly.
func serveEvil(c *wire.Conn, replies map[string]evil) {
	for {
		r, err := c.ReadHead()
		if err != nil {
			return
		}
		e, ok := replies[r.Fields.Get("x-evil")]
		if !ok {
			if err := wire.Text(c, r, "good"); err != nil {
				return
			}
			continue
		}
		if _, err := io.WriteString(c, e.reply); err != nil || !e.stays {
			return
		}
	}
}

func (e evil) try(t *testing.T, p *rig.Proxy, l lane) {
	c, err := wire.Dial(p.HTTP, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { c.Close() }()
	method := e.method
	if method == "" {
		method = "GET"
	}
	evilRequest := strings.Replace(get(l.host, "/evil", "x-evil: "+e.name), "GET", method, 1)
	if err := c.Send(evilRequest); err != nil {
		t.Fatal(err)
	}
	resp, err := c.Read(method)
	status := 0
	if resp != nil && err == nil {
		status = resp.Status
	}
	if !slices.Contains(e.status, status) {
		t.Errorf("answered %d (%v), want one of %v", status, err, e.status)
	}
	if status == 200 && string(resp.Body) != e.body {
		t.Errorf("body %.200q, want %q", resp.Body, e.body)
	}
	if resp != nil && strings.Contains(string(resp.Head)+string(resp.RawBody), "poison") {
		t.Errorf("the client got what the upstream sent unasked: %.500q", resp.Head)
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !wire.IsReset(err) {
		t.Errorf("the client's view: %v", err)
	}
	e.next(t, p, l, c, status)
}

// next makes proper requests after the evil one: on the same connection, if
// it is still good, and on new ones.
func (e evil) next(t *testing.T, p *rig.Proxy, l lane, c *wire.Client, status int) {
	t.Helper()
	request := get(l.host, "/good")
	if status != 0 {
		err := c.Send(request)
		if err == nil {
			var resp *wire.Response
			if resp, err = c.Read("GET"); err == nil && (resp.Status != 200 || string(resp.Body) != "good") {
				t.Errorf("the next request on the connection got %d, %q", resp.Status, resp.Body)
			}
		}
		if err != nil && !errors.Is(err, io.EOF) && !wire.IsReset(err) {
			t.Errorf("the next request on the connection: %v", err)
		}
	}
	for range 3 {
		if resp := do(t, p.HTTP, request); resp.Status != 200 || string(resp.Body) != "good" {
			t.Errorf("the next request got %d, %q", resp.Status, resp.Body)
		}
	}
}

// evilReplies is the table. What contradicts itself is answered with 502, as
// Envoy does; what ends too early must not look complete.
func evilReplies() []evil {
	head := func(name, fields, body string, status ...int) evil {
		if len(status) == 0 {
			status = []int{502}
		}
		return evil{name: name, reply: "HTTP/1.1 200 OK\r\n" + fields + "\r\n\r\n" + body, status: status, body: body}
	}
	line := func(name, start string) evil {
		return evil{name: name, reply: start + "\r\ncontent-length: 2\r\n\r\nok", status: []int{502}}
	}
	cut := func(name, fields, body string) evil { return head(name, fields, body, 0, 502) }
	open := func(e evil) evil { e.stays = true; return e }
	with := func(e evil, body string) evil { e.body = body; return e }
	return []evil{
		head("length and coding", "content-length: 2\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
		head("coding and length", "transfer-encoding: chunked\r\ncontent-length: 2", "2\r\nok\r\n0\r\n\r\n"),
		head("two lengths", "content-length: 2\r\ncontent-length: 3", "okk"),
		head("two equal lengths", "content-length: 2\r\ncontent-length: 2", "ok", 502, 200),
		head("list of lengths", "content-length: 2, 3", "okk"), head("negative length", "content-length: -2", "ok"),
		head("hex length", "content-length: 0x2", "ok"), head("signed length", "content-length: +2", "ok"),
		head("length beyond 2^63", "content-length: 9223372036854775808", "ok"), head("length that wraps", "content-length: 18446744073709551618", "ok"),
		head("unknown coding", "transfer-encoding: gzip", "ok"), head("two codings", "transfer-encoding: chunked, chunked", "2\r\nok\r\n0\r\n\r\n"),
		head("coding before chunked", "transfer-encoding: gzip, chunked", "2\r\nok\r\n0\r\n\r\n"), head("xchunked", "transfer-encoding: xchunked", "ok"),
		head("coding with a vertical tab", "transfer-encoding: \x0bchunked", "ok"),

		open(with(head("bytes after the length", "content-length: 2", "ok"+poison, 200), "ok")),
		open(with(head("bytes after the last chunk", "transfer-encoding: chunked", "2\r\nok\r\n0\r\n\r\n"+poison, 200), "ok")),
		open(with(head("bytes after nothing", "content-length: 0", poison, 200), "")),
		open(evil{name: "body of 204", reply: "HTTP/1.1 204 No Content\r\n\r\n" + poison, status: []int{204, 502}}),
		open(evil{name: "length of 204", reply: "HTTP/1.1 204 No Content\r\ncontent-length: 6\r\n\r\npoison", status: []int{204, 502}}),
		open(evil{name: "coding of 204", reply: "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n", status: []int{204, 502}}),
		open(evil{name: "body of 304", reply: "HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\npoison", status: []int{304, 502}}),
		open(evil{name: "body of HEAD", method: "HEAD", reply: "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison", status: []int{200, 502}}),

		evil{name: "100 without an end", reply: strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 5000), status: []int{502}},
		open(evil{name: "100 many times", reply: strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100) + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", status: []int{502}}),
		evil{name: "103 with a bad line", reply: "HTTP/1.1 103 Early Hints\r\nbad line\r\n\r\n" + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", status: []int{502}},
		open(evil{name: "101 that nobody asked for", reply: "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n" + poison, status: []int{502}}),
		evil{name: "199", reply: "HTTP/1.1 199 What\r\n\r\n" + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", status: []int{200, 502}, body: "ok"},

		cut("length that isn't reached", "content-length: 100", "only this"), cut("chunks without an end", "transfer-encoding: chunked", "5\r\nhello\r\n"),
		cut("half a chunk", "transfer-encoding: chunked", "ff\r\nhello"), cut("chunk size of no number", "transfer-encoding: chunked", "5\r\nhello\r\nzz\r\nx\r\n0\r\n\r\n"),
		cut("chunk longer than its size", "transfer-encoding: chunked", "3\r\nhello\r\n0\r\n\r\n"), cut("chunk size that wraps", "transfer-encoding: chunked", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
		cut("chunk size line with a bare LF", "transfer-encoding: chunked", "5\nhello\r\n0\r\n\r\n"), cut("chunk extension of 1 MiB", "transfer-encoding: chunked", "5;"+strings.Repeat("x", 1<<20)+"\r\nhello\r\n0\r\n\r\n"),
		cut("trailer with a bad line", "transfer-encoding: chunked", "5\r\nhello\r\n0\r\nbad line\r\n\r\n"), cut("half of the trailers", "transfer-encoding: chunked", "5\r\nhello\r\n0\r\nx: y\r\n"),

		line("HTTP/2.0", "HTTP/2.0 200 OK"), line("HTTP/1.1 in small letters", "http/1.1 200 OK"), line("status 99", "HTTP/1.1 99 Low"), line("status 1000", "HTTP/1.1 1000 High"),
		line("status 000", "HTTP/1.1 000 Zero"), line("status with a sign", "HTTP/1.1 +20 OK"), line("status of letters", "HTTP/1.1 2OO OK"), line("version only", "HTTP/1.1"),
		line("binary", "\x00\x01\x02\x03"), line("a request", "GET / HTTP/1.1"), line("reason with a NUL", "HTTP/1.1 200 O\x00K"), line("reason with a bare CR", "HTTP/1.1 200 O\rK"),
		evil{name: "nothing", status: []int{503}}, evil{name: "half a head", reply: "HTTP/1.1 200 OK\r\ncontent-le", status: []int{502, 503}},
		head("NUL in a value", "content-length: 2\r\nx: a\x00b", "ok"), head("bare CR in a value", "content-length: 2\r\nx: a\rb", "ok"), head("folded line", "content-length: 2\r\nx: a\r\n b", "ok"),
		head("line without a colon", "content-length: 2\r\nnothing", "ok"), head("space in a name", "content-length: 2\r\nx y: z", "ok"), head("space before the colon", "content-length : 2", "ok"),
		head("no name", "content-length: 2\r\n: x", "ok"), head("control in a value", "content-length: 2\r\nx: \x01", "ok"),
		head("head of 100 KiB", "content-length: 2\r\nx: "+strings.Repeat("y", 100<<10), "ok"), head("500 fields", "content-length: 2"+strings.Repeat("\r\nx: y", 500), "ok"),
		evil{name: "bare LF line ends", reply: "HTTP/1.1 200 OK\ncontent-length: 2\n\nok", status: []int{200, 502}, body: "ok"},
	}
}

// TestUnaskedBytes: what an upstream sends on an idle connection is never
// taken for the answer to the next request: neither a whole response, nor the
// 408 with which some servers announce that they close.
func TestUnaskedBytes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, unasked string }{
		{"response", poison},
		{"408", "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"},
		{"garbage", "garbage"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			answered, written := make(chan struct{}), make(chan struct{})
			origin := wire.NewRawOrigin(t, func(conn *wire.Conn) {
				for {
					r, err := conn.ReadHead()
					if err != nil {
						return
					}
					if err := wire.Text(conn, r, "good"); err != nil {
						return
					}
					if r.Target != "/first" {
						continue
					}
					// The proxy has passed the answer on when the client says
					// so, so that these bytes come to an idle connection.
					select {
					case <-answered:
					case <-t.Context().Done():
						return
					}
					_, _ = io.WriteString(conn, c.unasked) // the proxy may have closed by now
					written <- struct{}{}
				}
			})
			path := fill(t, t.TempDir(), "one-service.yaml", "port", origin.Port())
			p := rig.Start(t, binaries.Static(t), rig.Options{}, path)
			for range 20 {
				if resp := do(t, p.HTTP, get("app", "/first")); string(resp.Body) != "good" {
					t.Fatalf("the first request got %d, %q", resp.Status, resp.Body)
				}
				answered <- struct{}{}
				<-written
				// A connection that was used within the last millisecond is
				// trusted without a look.
				since := time.Now()
				rig.Until(t, "the connection was idle for more than a moment", func() error {
					if idle := time.Since(since); idle < 5*time.Millisecond {
						return errors.New(idle.String())
					}
					return nil
				})
				if resp := do(t, p.HTTP, get("app", "/second")); resp.Status != 200 || string(resp.Body) != "good" {
					t.Errorf("the request after unasked bytes got %d, %q", resp.Status, resp.Body)
				}
			}
		})
	}
}
