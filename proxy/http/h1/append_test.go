// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"testing"

	"pillion/proxy/http"
)

// forwarded passes a request through the codec as a proxy does.
func forwarded(t *testing.T, raw string) string {
	t.Helper()
	var p Parser
	var h http.RequestHead
	if _, err := p.Request([]byte(raw), &h, nil); err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	StripRequestHop(&h)
	end := h.Framing.Kind == http.BodyNone || h.Framing == http.Framing{Kind: http.BodyLength}
	return string(AppendRequest(nil, &h, RequestFraming(&h, end), PersistDefault))
}

func TestForwardRequest(t *testing.T) {
	tests := []struct{ name, raw, want string }{
		{"order, case and place", "GET /a HTTP/1.1\r\nb: 1\r\nHOST: x\r\nA:  2 \r\nB: 3\r\n\r\n",
			"GET /a HTTP/1.1\r\nb: 1\r\nHOST: x\r\nA: 2\r\nB: 3\r\n\r\n"},
		{"Host last", "GET / HTTP/1.0\r\nA: 1\r\nhost: x\r\n\r\n", "GET / HTTP/1.1\r\nA: 1\r\nhost: x\r\n\r\n"},
		{"absolute form", "GET http://q:1/y HTTP/1.1\r\nA: 1\r\nHost: x\r\n\r\n", "GET /y HTTP/1.1\r\nA: 1\r\nHost: q:1\r\n\r\n"},
		{"framing in place", "PUT / HTTP/1.1\r\nHost: x\r\nCONTENT-length: 007\r\nA: 1\r\n\r\n",
			"PUT / HTTP/1.1\r\nHost: x\r\nCONTENT-length: 7\r\nA: 1\r\n\r\n"},
		{"coding in place", "PUT / HTTP/1.1\r\nHost: x\r\ntransfer-ENCODING: CHUNKED\r\nA: 1\r\n\r\n",
			"PUT / HTTP/1.1\r\nHost: x\r\ntransfer-ENCODING: chunked\r\nA: 1\r\n\r\n"},
		{"length 0 kept", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"},
		{"length 0 added", "PATCH / HTTP/1.1\r\nHost: x\r\n\r\n", "PATCH / HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n"},
		{"hop by hop", "GET / HTTP/1.1\r\nConnection: close, foo\r\nFOO: 1\r\nHost: x\r\nKeep-Alive: 5\r\nProxy-Connection: a\r\nUpgrade: b\r\nA: 1\r\nfoo: 2\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\n\r\n"},
		{"connection in two lines, behind what it names", "GET / HTTP/1.1\r\nFoo: 1\r\nBar: 2\r\nHost: x\r\nConnection: foo\r\nA: 3\r\nConnection: ,bar\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: x\r\nA: 3\r\n\r\n"},
		{"TE", "GET / HTTP/1.1\r\nHost: x\r\nTE: gzip;q=1, Trailers\r\nConnection: TE\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n"},
		{"TE without trailers", "GET / HTTP/1.1\r\nTE: gzip\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"Trailer", "PUT / HTTP/1.1\r\nHost: x\r\nTrailer: A\r\nTransfer-Encoding: chunked\r\n\r\n",
			"PUT / HTTP/1.1\r\nHost: x\r\nTrailer: A\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"Expect", "PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
			"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"},
		{"upgrade", "GET / HTTP/1.1\r\nHost: x\r\nUPGRADE: websocket\r\nA: 1\r\nconnection: keep-alive, Upgrade, A\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: x\r\nUPGRADE: websocket\r\nconnection: upgrade\r\n\r\n"},
		{"h2c", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"upgrade not listed", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := forwarded(t, tt.raw)
			if got != tt.want {
				t.Errorf("%q:\n got %q\nwant %q", tt.raw, got, tt.want)
			}
			if again := forwarded(t, got); again != got {
				t.Errorf("a second hop makes %q of %q", again, got)
			}
		})
	}
}

func TestAppendRequestMade(t *testing.T) {
	var h http.RequestHead
	h.Method, h.RawMethod, h.Path, h.Authority = http.MethodPost, []byte("POST"), []byte("/"), []byte("x")
	h.HostIndex = 99 // lines in front of it were removed
	h.Fields.AddID(http.HeaderContentLength, []byte("5"))
	h.Fields.AddID(http.HeaderTransferEncoding, []byte("gzip"))
	h.Fields.AddID(http.HeaderConnection, []byte("keep-alive"))
	h.Fields.AddID(http.HeaderHost, []byte("other"))
	tests := []struct {
		f       http.Framing
		persist Persist
		upgrade string
		want    string
	}{
		{http.Framing{Kind: http.BodyNone}, PersistDefault, "", "host: x\r\n"},
		{http.Framing{Kind: http.BodyLength, Length: 7}, PersistDefault, "", "content-length: 7\r\nhost: x\r\n"},
		{http.Framing{Kind: http.BodyChunked}, PersistDefault, "", "transfer-encoding: chunked\r\nhost: x\r\n"},
		{http.Framing{Kind: http.BodyChunked}, PersistClose, "", "transfer-encoding: chunked\r\nhost: x\r\nconnection: close\r\n"},
		{http.Framing{Kind: http.BodyNone}, PersistKeepAlive, "", "host: x\r\nconnection: keep-alive\r\n"},
		{http.Framing{Kind: http.BodyNone}, PersistDefault, "foo", "connection: upgrade\r\nhost: x\r\nupgrade: foo\r\n"},
	}
	for _, tt := range tests {
		h.Upgrade = nil
		if tt.upgrade != "" {
			h.Upgrade = []byte(tt.upgrade)
		}
		got := string(AppendRequest([]byte("<"), &h, tt.f, tt.persist))
		if want := "<POST / HTTP/1.1\r\n" + tt.want + "\r\n"; got != want {
			t.Errorf("%+v:\n got %q\nwant %q", tt, got, want)
		}
	}
}

func TestAppendConnect(t *testing.T) {
	h := http.RequestHead{Method: http.MethodConnect, RawMethod: []byte("CONNECT"), Authority: []byte("x:1")}
	got := string(AppendRequest(nil, &h, RequestFraming(&h, true), PersistDefault))
	if want := "CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestForwardResponse(t *testing.T) {
	get := Sent{Method: http.MethodGet, Upgrade: []byte("websocket")}
	head := Sent{Method: http.MethodHead}
	tests := []struct {
		name      string
		sent      Sent
		client    http.Protocol
		raw, want string
	}{
		{"in place", get, http.HTTP11, "HTTP/1.0 200 Fine\r\nb: 1\r\nContent-length: 02\r\nA: 2\r\nB: 3\r\n\r\n",
			"HTTP/1.1 200 Fine\r\nb: 1\r\nContent-length: 2\r\nA: 2\r\nB: 3\r\n\r\n"},
		{"no reason", get, http.HTTP11, "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"},
		{"chunked", get, http.HTTP11, ok200 + "Transfer-Encoding: chunked\r\nA: 1\r\n\r\n", ok200 + "Transfer-Encoding: chunked\r\nA: 1\r\n\r\n"},
		{"chunked to 1.0", get, http.HTTP10, ok200 + "Transfer-Encoding: chunked\r\nA: 1\r\n\r\n", ok200 + "A: 1\r\n\r\n"},
		{"until close", get, http.HTTP11, ok200 + "A: 1\r\n\r\n", ok200 + "A: 1\r\ntransfer-encoding: chunked\r\n\r\n"},
		{"until close to 1.0", get, http.HTTP10, ok200 + "A: 1\r\n\r\n", ok200 + "A: 1\r\n\r\n"},
		{"hop by hop", get, http.HTTP11, ok200 + "Content-Length: 2\r\nConnection: close, Foo\r\nFoo: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nA: 1\r\n\r\n",
			ok200 + "Content-Length: 2\r\nA: 1\r\n\r\n"},
		{"204", get, http.HTTP11, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"304", get, http.HTTP11, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"},
		{"304 chunked", get, http.HTTP11, "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\n"},
		{"HEAD", head, http.HTTP11, ok200 + "Content-Length: 9\r\n\r\n", ok200 + "Content-Length: 9\r\n\r\n"},
		{"HEAD 0", head, http.HTTP11, ok200 + "Content-Length: 0\r\n\r\n", ok200 + "Content-Length: 0\r\n\r\n"},
		{"HEAD chunked", head, http.HTTP11, ok200 + "Transfer-Encoding: chunked\r\n\r\n", ok200 + "\r\n"},
		{"103", get, http.HTTP11, "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"},
		{"101", get, http.HTTP11, "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nA: 1\r\n\r\n",
			"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nA: 1\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p Parser
			var h http.ResponseHead
			if _, err := p.Response([]byte(tt.raw), tt.sent, &h, nil); err != nil {
				t.Fatal(err)
			}
			StripResponseHop(&h)
			f := ResponseFraming(tt.sent.Method, tt.client, &h, false)
			if got := string(AppendResponse(nil, &h, f, PersistDefault)); got != tt.want {
				t.Errorf("%q:\n got %q\nwant %q", tt.raw, got, tt.want)
			}
		})
	}
}

func TestResponseFraming(t *testing.T) {
	length := func(n int64) http.Framing { return http.Framing{Kind: http.BodyLength, Length: n} }
	kind := func(k http.BodyKind) http.Framing { return http.Framing{Kind: k} }
	tests := []struct {
		name   string
		method http.Method
		client http.Protocol
		status int
		had    http.Framing
		end    bool
		want   http.Framing
	}{
		{"length", http.MethodGet, http.HTTP11, 200, length(5), false, length(5)},
		{"stream", http.MethodGet, http.HTTP11, 200, kind(http.BodyStream), false, kind(http.BodyChunked)},
		{"stream to 1.0", http.MethodGet, http.HTTP10, 200, kind(http.BodyStream), false, kind(http.BodyClose)},
		{"length to 1.0", http.MethodGet, http.HTTP10, 200, length(5), false, length(5)},
		{"made by a filter", http.MethodGet, http.HTTP11, 200, kind(http.BodyNone), false, kind(http.BodyChunked)},
		{"no body", http.MethodGet, http.HTTP11, 200, kind(http.BodyStream), true, length(0)},
		{"no body after all", http.MethodGet, http.HTTP11, 200, length(5), true, length(0)},
		{"no body to 1.0", http.MethodGet, http.HTTP10, 200, kind(http.BodyClose), true, length(0)},
		{"204", http.MethodGet, http.HTTP11, 204, length(5), false, kind(http.BodyNone)},
		{"304", http.MethodGet, http.HTTP11, 304, length(5), true, kind(http.BodyNone)},
		{"100", http.MethodPut, http.HTTP11, 100, kind(http.BodyNone), true, kind(http.BodyNone)},
		{"HEAD", http.MethodHead, http.HTTP11, 200, kind(http.BodyNone), true, kind(http.BodyNone)},
		{"HEAD, own reply", http.MethodHead, http.HTTP11, 503, length(19), true, http.Framing{Kind: http.BodyNone, Length: 19}},
		{"CONNECT", http.MethodConnect, http.HTTP11, 200, kind(http.BodyNone), true, kind(http.BodyNone)},
		{"CONNECT refused", http.MethodConnect, http.HTTP11, 404, kind(http.BodyNone), true, length(0)},
	}
	for _, tt := range tests {
		h := http.ResponseHead{Status: tt.status, Framing: tt.had}
		if got := ResponseFraming(tt.method, tt.client, &h, tt.end); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
	h := http.ResponseHead{Status: 503, Framing: length(19)}
	got := string(AppendResponse(nil, &h, ResponseFraming(http.MethodHead, http.HTTP11, &h, true), PersistClose))
	if want := "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 19\r\n\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRequestFraming(t *testing.T) {
	tests := []struct {
		method http.Method
		had    http.Framing
		end    bool
		want   http.Framing
	}{
		{http.MethodPut, http.Framing{Kind: http.BodyLength, Length: 5}, false, http.Framing{Kind: http.BodyLength, Length: 5}},
		{http.MethodPut, http.Framing{Kind: http.BodyChunked}, false, http.Framing{Kind: http.BodyChunked}},
		{http.MethodPut, http.Framing{Kind: http.BodyStream}, false, http.Framing{Kind: http.BodyChunked}},
		{http.MethodGet, http.Framing{Kind: http.BodyNone}, true, http.Framing{Kind: http.BodyNone}},
		{http.MethodGet, http.Framing{Kind: http.BodyLength}, true, http.Framing{Kind: http.BodyLength}},
		{http.MethodPost, http.Framing{Kind: http.BodyNone}, true, http.Framing{Kind: http.BodyLength}},
		{http.MethodOther, http.Framing{Kind: http.BodyStream}, true, http.Framing{Kind: http.BodyLength}},
		{http.MethodDelete, http.Framing{Kind: http.BodyChunked}, true, http.Framing{Kind: http.BodyNone}},
	}
	for _, tt := range tests {
		h := http.RequestHead{Method: tt.method, Framing: tt.had}
		if got := RequestFraming(&h, tt.end); got != tt.want {
			t.Errorf("%+v: got %+v", tt, got)
		}
	}
}

// TestLastNoted pins what the parser and the writer rely on.
func TestLastNoted(t *testing.T) {
	for _, id := range []http.HeaderID{http.HeaderHost, http.HeaderConnection, http.HeaderContentLength, http.HeaderTransferEncoding,
		http.HeaderUpgrade, http.HeaderKeepAlive, http.HeaderProxyConnection, http.HeaderExpect} {
		if id > lastNoted {
			t.Errorf("%v has a number above lastNoted", id)
		}
	}
}

// TestNoAllocations: a message passes through the codec without garbage.
func TestNoAllocations(t *testing.T) {
	request := []byte("POST / HTTP/1.1\r\nA: 1\r\nHost: x\r\nConnection: keep-alive, foo\r\nFoo: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
	response := []byte(ok200 + "A: 1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
	body := []byte("5;a=b\r\nhello\r\n0\r\n\r\n")
	bad := []byte("GET / HTTP/1.1\r\nHost : x\r\n\r\n")
	var p Parser
	var q http.RequestHead
	var r http.ResponseHead
	var d ChunkDecoder
	out := make([]byte, 0, 4096)
	avg := testing.AllocsPerRun(100, func() {
		if _, err := p.Request(request, &q, nil); err != nil {
			t.Fatal(err)
		}
		StripRequestHop(&q)
		out = AppendRequest(out[:0], &q, RequestFraming(&q, false), PersistDefault)
		d.Reset(http.SideDownstream, nil)
		for rest := body; len(rest) > 0; {
			data, n, _, err := d.Next(rest)
			if err != nil {
				t.Fatal(err)
			}
			out = AppendChunkEnd(append(AppendChunkHeader(out, len(data)), data...))
			rest = rest[n:]
		}
		out = AppendLastChunk(out, d.Trailers())
		if _, err := p.Response(response, Sent{}, &r, nil); err != nil {
			t.Fatal(err)
		}
		StripResponseHop(&r)
		out = AppendResponse(out[:0], &r, ResponseFraming(q.Method, q.Protocol, &r, false), PersistClose)
		if _, err := p.Request(bad, &q, nil); err == nil {
			t.Fatal("accepted")
		}
	})
	if avg != 0 {
		t.Errorf("%v allocations for one message each way", avg)
	}
}
