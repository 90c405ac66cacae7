// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"strings"
	"testing"

	"pillion/proxy/http"
)

const ok200 = "HTTP/1.1 200 OK\r\n"

func TestResponse(t *testing.T) {
	get := Sent{Method: http.MethodGet}
	head := Sent{Method: http.MethodHead}
	websocket := Sent{Method: http.MethodGet, Upgrade: []byte("chat, WebSocket")}
	tests := []struct {
		name string
		sent Sent
		raw  string
		want string
	}{
		{"length", get, ok200 + "a: 1\r\nContent-Length: 2\r\nA: 3\r\n\r\nok",
			`200 "OK" HTTP/1.1 length=2 [a:1] [Content-Length:2] [A:3] rest="ok"`},
		{"length 0", get, ok200 + "Content-Length: 0\r\n\r\n", `200 "OK" HTTP/1.1 length=0 [Content-Length:0] rest=""`},
		{"chunked", get, ok200 + "Transfer-Encoding: chunked\r\n\r\n",
			`200 "OK" HTTP/1.1 chunked [Transfer-Encoding:chunked] rest=""`},
		{"until close", get, ok200 + "\r\nok", `200 "OK" HTTP/1.1 until-close close rest="ok"`},
		{"until close, though kept", get, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
			`200 "OK" HTTP/1.0 until-close close [Connection:keep-alive] rest=""`},
		{"1.0 kept", get, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n",
			`200 "OK" HTTP/1.0 length=1 [Connection:keep-alive] [Content-Length:1] rest=""`},
		{"1.0", get, "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
			`200 "OK" HTTP/1.0 length=1 close [Content-Length:1] rest=""`},
		{"close", get, ok200 + "Connection: close\r\nContent-Length: 1\r\n\r\n",
			`200 "OK" HTTP/1.1 length=1 close [Connection:close] [Content-Length:1] rest=""`},
		{"Host is nothing special", get, ok200 + "Host: a,b\r\nHost:\r\nContent-Length: 0\r\n\r\n",
			`200 "OK" HTTP/1.1 length=0 [Host:a,b] [Host:] [Content-Length:0] rest=""`},
		{"no reason", get, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", `200 "" HTTP/1.1 length=0 [Content-Length:0] rest=""`},
		{"empty reason", get, "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", `200 "" HTTP/1.1 length=0 [Content-Length:0] rest=""`},
		{"long reason", get, "HTTP/1.1 404 no such\tthing\xff\r\nContent-Length: 0\r\n\r\n",
			`404 "no such\tthing\xff" HTTP/1.1 length=0 [Content-Length:0] rest=""`},
		{"status out of range", get, "HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n", `999 "x" HTTP/1.1 length=0 [Content-Length:0] rest=""`},

		{"204", get, "HTTP/1.1 204 No Content\r\n\r\n", `204 "No Content" HTTP/1.1 none rest=""`},
		{"204 with length 0", get, "HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n", `204 "x" HTTP/1.1 none [Content-Length:0] rest=""`},
		{"304 with length", get, "HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n", `304 "x" HTTP/1.1 none [Content-Length:9] rest=""`},
		{"304 chunked", get, "HTTP/1.1 304 x\r\nTransfer-Encoding: chunked\r\n\r\n", `304 "x" HTTP/1.1 none [Transfer-Encoding:chunked] rest=""`},
		{"HEAD with length", head, ok200 + "Content-Length: 9\r\n\r\n", `200 "OK" HTTP/1.1 none [Content-Length:9] rest=""`},
		{"HEAD chunked", head, ok200 + "Transfer-Encoding: chunked\r\n\r\n", `200 "OK" HTTP/1.1 none [Transfer-Encoding:chunked] rest=""`},
		{"HEAD with nothing", head, ok200 + "\r\n", `200 "OK" HTTP/1.1 none rest=""`},
		{"CONNECT", Sent{Method: http.MethodConnect}, ok200 + "Content-Length: 9\r\n\r\n", `200 "OK" HTTP/1.1 none [Content-Length:9] rest=""`},
		{"CONNECT refused", Sent{Method: http.MethodConnect}, "HTTP/1.1 403 x\r\nContent-Length: 9\r\n\r\n", `403 "x" HTTP/1.1 length=9 [Content-Length:9] rest=""`},
		{"100", get, "HTTP/1.1 100 Continue\r\n\r\n" + ok200, `100 "Continue" HTTP/1.1 none rest="HTTP/1.1 200 OK\r\n"`},
		{"103", get, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", `103 "Early Hints" HTTP/1.1 none [Link:</a>] rest=""`},
		{"101", websocket, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81",
			`101 "Switching Protocols" HTTP/1.1 none upgrade=websocket [Upgrade:websocket] [Connection:Upgrade] rest="\x81"`},
		{"offer of an upgrade", get, ok200 + "Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
			`200 "OK" HTTP/1.1 length=0 [Upgrade:h2c] [Connection:Upgrade] [Content-Length:0] rest=""`},
		{"incomplete", get, ok200 + "Content-Length: 2\r\n", "incomplete"},
		{"hardly begun", get, "HTT", "incomplete"},
		{"nothing", get, "", "incomplete"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := parsedResponse([]byte(tt.raw), tt.sent, nil); got != tt.want {
				t.Fatalf("%q:\n got %s\nwant %s", tt.raw, got, tt.want)
			}
			if tt.want != "incomplete" {
				splitResponse(t, []byte(tt.raw), tt.sent, tt.want, nil)
			}
		})
	}
}

// TestResponseRefused: what an upstream host may do to poison the client or
// the next one on the connection.
func TestResponseRefused(t *testing.T) {
	get := Sent{Method: http.MethodGet}
	websocket := Sent{Method: http.MethodGet, Upgrade: []byte("websocket")}
	length := "Content-Length: 2\r\n"
	tests := []struct {
		name string
		sent Sent
		raw  string
	}{
		{"length and coding", get, ok200 + length + "Transfer-Encoding: chunked\r\n\r\n"},
		{"length and coding to HEAD", Sent{Method: http.MethodHead}, ok200 + length + "Transfer-Encoding: chunked\r\n\r\n"},
		{"two lengths", get, ok200 + length + "Content-Length: 3\r\n\r\n"},
		{"two equal lengths", get, ok200 + length + length + "\r\n"},
		{"list of lengths", get, ok200 + "Content-Length: 2, 2\r\n\r\n"},
		{"signed length", get, ok200 + "Content-Length: +2\r\n\r\n"},
		{"empty length", get, ok200 + "Content-Length: \r\n\r\n"},
		{"huge length", get, ok200 + "Content-Length: 9223372036854775808\r\n\r\n"},
		{"gzip", get, ok200 + "Transfer-Encoding: gzip\r\n\r\n"},
		{"gzip, chunked", get, ok200 + "Transfer-Encoding: gzip, chunked\r\n\r\n"},
		{"identity", get, ok200 + "Transfer-Encoding: identity\r\n\r\n"},
		{"two codings", get, ok200 + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"coding in 1.0", get, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"204 with length", get, "HTTP/1.1 204 x\r\nContent-Length: 2\r\n\r\n"},
		{"204 chunked", get, "HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"100 with length", get, "HTTP/1.1 100 x\r\nContent-Length: 2\r\n\r\n"},
		{"103 chunked", get, "HTTP/1.1 103 x\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"101 unasked", get, "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"},
		{"101 to something else", websocket, "HTTP/1.1 101 x\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\n"},
		{"101 to nothing", websocket, "HTTP/1.1 101 x\r\n\r\n"},
		{"101 without Connection", websocket, "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n"},
		{"101 to two", websocket, "HTTP/1.1 101 x\r\nUpgrade: websocket, foo\r\nConnection: Upgrade\r\n\r\n"},
		{"101 in 1.0", websocket, "HTTP/1.0 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"},
		{"101 to h2c", Sent{Method: http.MethodGet, Upgrade: []byte("h2c")}, "HTTP/1.1 101 x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"},
		{"1.2", get, "HTTP/1.2 200 OK\r\n" + length + "\r\n"},
		{"2.0", get, "HTTP/2.0 200 OK\r\n" + length + "\r\n"},
		{"lower case", get, "http/1.1 200 OK\r\n" + length + "\r\n"},
		{"two digits", get, "HTTP/1.1 99 OK\r\n" + length + "\r\n"},
		{"leading 0", get, "HTTP/1.1 099 OK\r\n" + length + "\r\n"},
		{"four digits", get, "HTTP/1.1 2000 OK\r\n" + length + "\r\n"},
		{"signed status", get, "HTTP/1.1 +20 OK\r\n" + length + "\r\n"},
		{"no status", get, "HTTP/1.1 OK\r\n" + length + "\r\n"},
		{"two spaces", get, "HTTP/1.1  200 OK\r\n" + length + "\r\n"},
		{"tab", get, "HTTP/1.1 200\tOK\r\n" + length + "\r\n"},
		{"control in the reason", get, "HTTP/1.1 200 O\x01K\r\n" + length + "\r\n"},
		{"CR in the reason", get, "HTTP/1.1 200 O\rK\r\n" + length + "\r\n"},
		{"empty line in front", get, "\r\n" + ok200 + length + "\r\n"},
		{"other protocol", get, "SSH-2.0-x\r\n"},
		{"other protocol, short", get, "220 x"},
		{"bare LF", get, "HTTP/1.1 200 OK\nContent-Length: 2\n\n"},
		{"bare LF in a field", get, ok200 + "A: b\n" + length + "\r\n"},
		{"bare CR", get, ok200 + "A: b\rc\r\n" + length + "\r\n"},
		{"NUL", get, ok200 + "A: b\x00\r\n" + length + "\r\n"},
		{"folded", get, ok200 + "A: b\r\n c\r\n" + length + "\r\n"},
		{"space before colon", get, ok200 + "Content-Length : 2\r\n\r\n"},
		{"no colon", get, ok200 + "A\r\n" + length + "\r\n"},
		{"empty name", get, ok200 + ": b\r\n" + length + "\r\n"},
		{"101 fields", get, ok200 + strings.Repeat("a: b\r\n", 101) + "\r\n"},
		{"connection lists length", get, ok200 + "Connection: content-length\r\n" + length + "\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const want = "error 502 upstream_reset_before_response_started{protocol_error}"
			if got := parsedResponse([]byte(tt.raw), tt.sent, nil); got != want {
				t.Fatalf("%q:\n got %s\nwant %s", tt.raw, got, want)
			}
			splitResponse(t, []byte(tt.raw), tt.sent, want, nil)
		})
	}
	for _, endless := range []string{"HTTP/1.1 200 ", ok200 + "A", ok200 + "A: "} {
		raw := endless + strings.Repeat("a", 60<<10)
		if got := parsedResponse([]byte(raw), get, nil); !strings.HasPrefix(got, "error 502") {
			t.Errorf("endless %q: %.100s", endless, got)
		}
	}
	e := errBadResponse
	if e.Side != http.SideUpstream || e.Kind != http.KindUpstreamProtocol || e.Flag != http.FlagUpstreamProtocolError {
		t.Errorf("%+v", *e)
	}
}
