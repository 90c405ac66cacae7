// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"fmt"
	"strings"
	"testing"

	"pillion/proxy/http"
)

func TestRequest(t *testing.T) {
	tests := []struct{ name, raw, want string }{
		{"plain", "GET /a?b HTTP/1.1\r\nHost: x\r\nA: 1\r\n\r\n",
			`GET /a?b host=x HTTP/1.1 none Host@0 [A:1] rest=""`},
		{"order, case and place of Host", "GET / HTTP/1.1\r\nb: 1\r\nA: 2\r\nhOST: x:80\r\nB: 3\r\n\r\n",
			`GET / host=x:80 HTTP/1.1 none hOST@2 [b:1] [A:2] [B:3] rest=""`},
		{"space around values", "GET / HTTP/1.1\r\nHost:x\r\nA: \t 1 2\t \r\nB:\r\nC: \t \r\nD:\tx\r\n\r\n",
			`GET / host=x HTTP/1.1 none Host@0 [A:1 2] [B:] [C:] [D:x] rest=""`},
		{"8-bit and tab in a value", "GET / HTTP/1.1\r\nHost: x\r\nA: \xff\tb\x80\r\n\r\n",
			"GET / host=x HTTP/1.1 none Host@0 [A:\xff\tb\x80] rest=\"\""},
		{"pipelined", "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\n",
			`GET /1 host=x HTTP/1.1 none Host@0 rest="GET /2 HTTP/1.1\r\n"`},
		{"empty line in front", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
			`GET / host=x HTTP/1.1 none Host@0 rest=""`},
		{"underscore in a name", "GET / HTTP/1.1\r\nHost: x\r\nx_user: 1\r\n\r\n",
			`GET / host=x HTTP/1.1 none Host@0 [x_user:1] rest=""`},
		{"any method", "M-SEARCH /a HTTP/1.1\r\nHost: x\r\n\r\n",
			`M-SEARCH /a host=x HTTP/1.1 none Host@0 rest=""`},
		{"odd octets in the path", "GET /a\"b<>\\^`{|}?%zz HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /a\"b<>\\^`{|}?%zz host=x HTTP/1.1 none Host@0 rest=\"\""},

		{"length", "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 007\r\n\r\nhello",
			`PUT / host=x HTTP/1.1 length=7 Host@0 [Content-Length:007] rest="hello"`},
		{"length 0", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
			`GET / host=x HTTP/1.1 length=0 Host@0 [Content-Length:0] rest=""`},
		{"greatest length", "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775807\r\n\r\n",
			`PUT / host=x HTTP/1.1 length=9223372036854775807 Host@0 [Content-Length:9223372036854775807] rest=""`},
		{"chunked", "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n",
			`PUT / host=x HTTP/1.1 chunked Host@0 [Transfer-Encoding:Chunked] rest=""`},

		{"close", "GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close ,,\r\n\r\n",
			`GET / host=x HTTP/1.1 none close Host@0 [Connection:foo, Close ,,] rest=""`},
		{"close beats keep-alive", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n",
			`GET / host=x HTTP/1.1 none close Host@0 [Connection:close] [Connection:keep-alive] rest=""`},
		{"proxy-connection close", "GET / HTTP/1.1\r\nHost: x\r\nProxy-Connection: close\r\n\r\n",
			`GET / host=x HTTP/1.1 none close Host@0 [Proxy-Connection:close] rest=""`},
		{"1.0", "GET / HTTP/1.0\r\nHost: x\r\n\r\n", `GET / host=x HTTP/1.0 none close Host@0 rest=""`},
		{"1.0 kept", "GET / HTTP/1.0\r\nHost: x\r\nConnection: Keep-Alive\r\n\r\n",
			`GET / host=x HTTP/1.0 none Host@0 [Connection:Keep-Alive] rest=""`},
		{"option that is no token", "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive; timeout=5\r\n\r\n",
			`GET / host=x HTTP/1.1 none Host@0 [Connection:keep-alive; timeout=5] rest=""`},

		{"expect", "PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n",
			`PUT / host=x HTTP/1.1 length=1 expect Host@0 [Expect:100-Continue] [Content-Length:1] rest=""`},
		{"expect nothing", "PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
			`PUT / host=x HTTP/1.1 length=0 Host@0 [Expect:100-continue] [Content-Length:0] rest=""`},
		{"expect in 1.0", "PUT / HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
			`PUT / host=x HTTP/1.0 length=1 close Host@0 [Expect:100-continue] [Content-Length:1] rest=""`},

		{"upgrade", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n",
			`GET / host=x HTTP/1.1 none upgrade=websocket Host@0 [Upgrade:websocket] [Connection:keep-alive, Upgrade] rest=""`},
		{"upgrade not listed", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
			`GET / host=x HTTP/1.1 none Host@0 [Upgrade:websocket] rest=""`},
		{"upgrade in 1.0", "GET / HTTP/1.0\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
			`GET / host=x HTTP/1.0 none close Host@0 [Upgrade:websocket] [Connection:Upgrade] rest=""`},
		{"h2c is passed over", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket, H2C\r\nConnection: Upgrade\r\n\r\n",
			`GET / host=x HTTP/1.1 none Host@0 [Upgrade:websocket, H2C] [Connection:Upgrade] rest=""`},
		{"two upgrade lines", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: a\r\nUpgrade: b\r\nConnection: Upgrade\r\n\r\n",
			`GET / host=x HTTP/1.1 none Host@0 [Upgrade:a] [Upgrade:b] [Connection:Upgrade] rest=""`},

		{"absolute", "GET http://q:99/y?z HTTP/1.1\r\nHost: x\r\n\r\n",
			`GET /y?z host=q:99 abs=http HTTP/1.1 none Host@0 rest=""`},
		{"absolute, no path", "GET HTTPS://Q HTTP/1.1\r\nHost: x\r\n\r\n",
			`GET / host=Q abs=https HTTP/1.1 none Host@0 rest=""`},
		{"absolute OPTIONS, no path", "OPTIONS http://q HTTP/1.1\r\nHost: x\r\n\r\n",
			`OPTIONS * host=q abs=http HTTP/1.1 none Host@0 rest=""`},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", `OPTIONS * host=x HTTP/1.1 none Host@0 rest=""`},
		{"IPv6 host", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
			`GET / host=[2001:db8::1]:80 HTTP/1.1 none Host@0 rest=""`},
		{"incomplete", "GET / HTTP/1.1\r\nHost: x\r\n", "incomplete"},
		{"nothing", "", "incomplete"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := parsedRequest([]byte(tt.raw), nil); got != tt.want {
				t.Fatalf("%q:\n got %s\nwant %s", tt.raw, got, tt.want)
			}
			if tt.want != "incomplete" {
				splitRequest(t, []byte(tt.raw), tt.want, nil)
			}
		})
	}
}

// req makes a request of the given lines for x, and an empty line.
func req(method, version string, lines ...string) string {
	return method + " / " + version + "\r\nHost: x\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

func post(lines ...string) string { return req("POST", "HTTP/1.1", lines...) }

// The wants of the abuse tables.
const (
	wantSyntax     = "error 400 http1.codec_error"
	wantCharacters = "error 400 http1.invalid_characters"
	wantBoth       = "error 400 http1.content_length_and_chunked_not_allowed"
	wantCoding     = "error 501 http1.invalid_transfer_encoding"
	wantOption     = "error 400 http1.connection_header_rejected"
	wantAuthority  = "error 400 http.invalid_authority"
	wantTarget     = "error 400 http1.invalid_url"
	wantVersion    = "error 505 http1.codec_error"
)

func TestRequestRefused(t *testing.T) {
	tests := []struct{ name, raw, want string }{
		// Framing.
		{"length and coding", post("Content-Length: 3", "Transfer-Encoding: chunked"), wantBoth},
		{"coding and length", post("Transfer-Encoding: chunked", "Content-Length: 3"), wantBoth},
		{"coding and length 0", post("Transfer-Encoding: chunked", "Content-Length: 0"), wantBoth},
		{"two lengths", post("Content-Length: 3", "Content-Length: 4"), wantSyntax},
		{"two equal lengths", post("Content-Length: 3", "Content-Length: 3"), wantSyntax},
		{"two lengths 0", post("Content-Length: 0", "Content-Length: 0"), wantSyntax},
		{"list of lengths", post("Content-Length: 3, 3"), wantSyntax},
		{"signed length", post("Content-Length: +3"), wantSyntax},
		{"negative length", post("Content-Length: -3"), wantSyntax},
		{"hex length", post("Content-Length: 0x3"), wantSyntax},
		{"fraction", post("Content-Length: 3.0"), wantSyntax},
		{"digits with a gap", post("Content-Length: 3 3"), wantSyntax},
		{"underscore in length", post("Content-Length: 1_0"), wantSyntax},
		{"8-bit digit", post("Content-Length: \xb2"), wantSyntax},
		{"empty length", post("Content-Length:"), wantSyntax},
		{"length 2^63", post("Content-Length: 9223372036854775808"), wantSyntax},
		{"length 2^64", post("Content-Length: 18446744073709551616"), wantSyntax},
		{"length of many digits", post("Content-Length: " + strings.Repeat("9", 99)), wantSyntax},
		{"two codings", post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), wantCoding},
		{"list of codings", post("Transfer-Encoding: gzip, chunked"), wantCoding},
		{"chunked twice", post("Transfer-Encoding: chunked, chunked"), wantCoding},
		{"chunked not last", post("Transfer-Encoding: chunked, identity"), wantCoding},
		{"trailing comma", post("Transfer-Encoding: chunked,"), wantCoding},
		{"leading comma", post("Transfer-Encoding: ,chunked"), wantCoding},
		{"xchunked", post("Transfer-Encoding: xchunked"), wantCoding},
		{"chunked with a parameter", post("Transfer-Encoding: chunked;a=b"), wantCoding},
		{"quoted chunked", post("Transfer-Encoding: \"chunked\""), wantCoding},
		{"identity", post("Transfer-Encoding: identity"), wantCoding},
		{"empty coding", post("Transfer-Encoding:"), wantCoding},
		{"gzip", post("Transfer-Encoding: gzip"), wantCoding},
		{"8-bit behind chunked", post("Transfer-Encoding: chunked\xa0"), wantCoding},
		{"vertical tab before chunked", post("Transfer-Encoding: \x0bchunked"), wantCharacters},
		{"coding in 1.0", req("POST", "HTTP/1.0", "Transfer-Encoding: chunked"), wantSyntax},
		{"space before colon of coding", post("Transfer-Encoding : chunked"), wantSyntax},
		{"tab before colon of length", post("Content-Length\t: 3"), wantSyntax},
		{"NUL in coding", post("Transfer-Encoding: chu\x00nked"), wantCharacters},
		{"folded coding", post("Transfer-Encoding:\r\n chunked"), wantCoding},

		// Lines.
		{"folded line", post("A: 1\r\n 2"), wantSyntax},
		{"folded by tab", post("A: 1\r\n\t2"), wantSyntax},
		{"folded first line", "GET / HTTP/1.1\r\n Host: x\r\n\r\n", wantSyntax},
		{"bare CR in a value", post("A: 1\r2"), wantSyntax},
		{"two CR", post("A: 1\r"), wantSyntax},
		{"CR CR LF as the end", "GET / HTTP/1.1\r\nHost: x\r\n\r\r\n", wantSyntax},
		{"bare LF in a value", post("A: 1\nB: 2"), wantSyntax},
		{"bare LF ends the request line", "GET / HTTP/1.1\nHost: x\r\n\r\n", wantSyntax},
		{"bare LF ends a field line", "GET / HTTP/1.1\r\nHost: x\n\r\n", wantSyntax},
		{"bare LF ends the head", "GET / HTTP/1.1\r\nHost: x\r\n\n", wantSyntax},
		{"only LF", "GET / HTTP/1.1\nHost: x\n\n", wantSyntax},
		{"NUL in a value", post("A: 1\x002"), wantCharacters},
		{"control in a value", post("A: 1\x012"), wantCharacters},
		{"DEL in a value", post("A: 12345678\x7f2"), wantCharacters},
		{"escape in a value", post("A: \x1b[31m"), wantCharacters},
		{"space before colon", post("A : 1"), wantSyntax},
		{"space in a name", post("A B: 1"), wantSyntax},
		{"no colon", post("A"), wantSyntax},
		{"empty name", post(": 1"), wantSyntax},
		{"NUL in a name", post("A\x00: 1"), wantSyntax},
		{"8-bit in a name", post("\xc3\xa4: 1"), wantSyntax},
		{"name in brackets", post("[A]: 1"), wantSyntax},

		// The request line.
		{"method no token", "G(T / HTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"no method", " / HTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"space in front", " GET / HTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"two empty lines in front", "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"LF in front", "\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"CR in front", "\rGET / HTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"tab between", "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"tab behind the target", "GET /\tHTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"space behind the version", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n", wantSyntax},
		{"space in the target", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"0.9", "GET /\r\n", wantSyntax},
		{"0.9 with fields", "GET /\r\nHost: x\r\n\r\n", wantSyntax},
		{"lower-case version", "GET / http/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"1.2", req("GET", "HTTP/1.2"), wantVersion},
		{"2.0", req("GET", "HTTP/2.0"), wantVersion},
		{"preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", wantVersion},
		{"version of one digit", "GET / HTTP/2\r\nHost: x\r\n\r\n", wantSyntax},
		{"version of three digits", "GET / HTTP/1.10\r\nHost: x\r\n\r\n", wantSyntax},
		{"other protocol", "GET / FTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"short version", "GET / HTT\r\nHost: x\r\n\r\n", wantSyntax},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", wantSyntax},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", wantSyntax},

		// The target.
		{"fragment", "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", "error 400 path_normalization_failed"},
		{"NUL in the target", "GET /a\x00b HTTP/1.1\r\nHost: x\r\n\r\n", wantCharacters},
		{"DEL in the target", "GET /abcdefgh\x7f HTTP/1.1\r\nHost: x\r\n\r\n", wantCharacters},
		{"8-bit in the target", "GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"no slash", "GET a HTTP/1.1\r\nHost: x\r\n\r\n", wantTarget},
		{"no target", "GET  HTTP/1.1\r\nHost: x\r\n\r\n", wantSyntax},
		{"query only", "GET ?a HTTP/1.1\r\nHost: x\r\n\r\n", wantTarget},
		{"asterisk with GET", "GET * HTTP/1.1\r\nHost: x\r\n\r\n", wantTarget},
		{"two asterisks", "OPTIONS ** HTTP/1.1\r\nHost: x\r\n\r\n", wantTarget},
		{"authority with GET", "GET x:80 HTTP/1.1\r\nHost: x\r\n\r\n", wantTarget},
		{"CONNECT", "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", "error 404 route_not_found"},
		{"absolute ftp", "GET ftp://q/ HTTP/1.1\r\nHost: x\r\n\r\n", "error 400 http1.invalid_scheme"},
		{"absolute, no host", "GET http:///y HTTP/1.1\r\nHost: x\r\n\r\n", wantTarget},
		{"absolute, userinfo", "GET http://u@q/ HTTP/1.1\r\nHost: x\r\n\r\n", wantTarget},
		{"absolute, query behind the host", "GET http://q?z HTTP/1.1\r\nHost: x\r\n\r\n", wantTarget},
		{"absolute, bad port", "GET http://q:8x/ HTTP/1.1\r\nHost: x\r\n\r\n", wantTarget},
		{"absolute, one slash", "GET http:/q HTTP/1.1\r\nHost: x\r\n\r\n", wantTarget},
		{"scheme relative", "GET ://q HTTP/1.1\r\nHost: x\r\n\r\n", wantTarget},

		// Host.
		{"no Host", "GET / HTTP/1.1\r\nA: 1\r\n\r\n", "error 400 missing_host_header"},
		{"no Host in 1.0", "GET / HTTP/1.0\r\n\r\n", "error 400 missing_host_header"},
		{"absolute without Host", "GET http://q/ HTTP/1.1\r\n\r\n", "error 400 missing_host_header"},
		{"two Hosts", post("Host: y"), wantAuthority},
		{"two equal Hosts", post("host: x"), wantAuthority},
		{"connection lists Host", post("Connection: host"), wantOption},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := parsedRequest([]byte(tt.raw), nil); got != tt.want {
				t.Fatalf("%q:\n got %s\nwant %s", tt.raw, got, tt.want)
			}
			splitRequest(t, []byte(tt.raw), tt.want, nil)
		})
	}
}

func TestHost(t *testing.T) {
	good := []string{"a", "a.b.svc.cluster.local:9080", "A_b-c~d", "1.2.3.4:65535", "[::1]", "[::1]:80",
		"[::ffff:1.2.3.4]:1", "outbound_.9080_._.reviews", "a:0"}
	for _, host := range good {
		raw := "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
		want := "GET / host=" + host + ` HTTP/1.1 none Host@0 rest=""`
		if got := parsedRequest([]byte(raw), nil); got != want {
			t.Errorf("Host %q:\n got %s\nwant %s", host, got, want)
		}
	}
	bad := []string{"", "a,b", "a, b", "a b", "a/b", "a\\b", "u@a", "u:p@a", "a?b", "a#b", "http://a", "a:", "a:8x",
		"a:123456", "a:65536", "a:-1", "a:+1", "a:80:80", ":80", "[::1", "::1", "[::1]80", "[::1]:", "[g::1]", "[1]",
		"[fe80::1%eth0]", "a\xff", "a\tb", "a\"", "<a>", "a%62"}
	for _, host := range bad {
		raw := "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
		if got := parsedRequest([]byte(raw), nil); got != wantAuthority {
			t.Errorf("Host %q: got %s", host, got)
		}
	}
}

func TestConnectionOptionsRefused(t *testing.T) {
	for _, name := range []string{"content-length", "Transfer-Encoding", "HOST", "expect", "authorization", "cookie",
		"X-Forwarded-For", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-client-cert", "x-forwarded-anything",
		"x-envoy-peer-metadata", "X-Envoy-Anything"} {
		for _, value := range []string{name, "close, " + name, name + ",keep-alive", ",\t" + name + " ,"} {
			if got := parsedRequest([]byte(post("Connection: "+value)), nil); got != wantOption {
				t.Errorf("Connection: %s: got %s", value, got)
			}
		}
	}
}

func TestConnect(t *testing.T) {
	lim := &Limits{AllowConnect: true}
	tests := []struct{ raw, want string }{
		{"CONNECT q:443 HTTP/1.1\r\nHost: x\r\n\r\ntunnel",
			`CONNECT  host=q:443 HTTP/1.1 none Host@0 rest="tunnel"`},
		{"CONNECT q HTTP/1.1\r\nHost: x\r\n\r\n", wantAuthority},
		{"CONNECT /q HTTP/1.1\r\nHost: x\r\n\r\n", wantAuthority},
		{"CONNECT http://q:1/ HTTP/1.1\r\nHost: x\r\n\r\n", wantAuthority},
		{"CONNECT q:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", wantSyntax},
		{"CONNECT q:443 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", wantSyntax},
	}
	for _, tt := range tests {
		if got := parsedRequest([]byte(tt.raw), lim); got != tt.want {
			t.Errorf("%q:\n got %s\nwant %s", tt.raw, got, tt.want)
		}
	}
}

func TestRequestLimits(t *testing.T) {
	const small = "GET / HTTP/1.1\r\nHost: x\r\n"
	tests := []struct {
		name, raw, want string
		lim             *Limits
	}{
		{"60 KiB", small + "A: " + strings.Repeat("a", 60<<10-len(small)-7) + "\r\n\r\n", "GET", nil},
		{"60 KiB and one", small + "A: " + strings.Repeat("a", 60<<10-len(small)-6) + "\r\n\r\n", "error 431 http1.headers_too_large", nil},
		{"no end in sight", small + "A: " + strings.Repeat("a", 60<<10), "error 431 http1.headers_too_large", nil},
		{"endless target", "GET /" + strings.Repeat("a", 60<<10), "error 431 http1.headers_too_large", nil},
		{"endless method", strings.Repeat("A", 61<<10), "error 431 http1.headers_too_large", nil},
		{"100 fields", small + strings.Repeat("a: b\r\n", 99) + "\r\n", "GET", nil},
		{"101 fields", small + strings.Repeat("a: b\r\n", 100) + "\r\n", "error 431 http1.too_many_headers", nil},
		{"own field limit", small + "a: b\r\nc: d\r\n\r\n", "error 431 http1.too_many_headers", &Limits{MaxFields: 2}},
		{"own size limit", small + "a: b\r\n\r\n", "error 431 http1.headers_too_large", &Limits{MaxHeadBytes: len(small) + 7}},
		{"own size kept", small + "a: b\r\n\r\nbody", "GET", &Limits{MaxHeadBytes: len(small) + 8}},
		{"syntax before size", "GET / HTTP/1.1\r\nA b: c\r\n" + strings.Repeat("a", 70<<10), wantSyntax, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := parsedRequest([]byte(tt.raw), tt.lim)
			if got != tt.want && !(tt.want == "GET" && strings.HasPrefix(got, "GET / host=x HTTP/1.1")) {
				t.Errorf("got %.200s, want %s", got, tt.want)
			}
		})
	}
}

// TestErrorsClose: a message that can't be framed ends the connection.
func TestErrorsClose(t *testing.T) {
	for _, e := range []*http.Error{errSyntax, errCharacters, errBothFramings, errTransferCoding, errOption, errAuthority,
		errTarget, errScheme, errVersion, errHeadSize, errFieldCount, errNoHost, errFragment, errConnect} {
		if !e.Close || e.Side != http.SideDownstream || e.Retry != http.RetryNever || e.Status < 400 {
			t.Errorf("%v: %+v", e, *e)
		}
	}
}

// TestManyPieces: a head of many lines that comes octet by octet is looked
// through once, not once for each octet. Were it otherwise, this test would
// take minutes.
func TestManyPieces(t *testing.T) {
	lim := &Limits{MaxHeadBytes: 8 << 20, MaxFields: 1 << 20}
	var raw strings.Builder
	raw.WriteString("GET / HTTP/1.1\r\nHost: x\r\n")
	for i := range 100_000 {
		fmt.Fprintf(&raw, "a: %d\r\n", i)
	}
	raw.WriteString("\r\n")
	buf := []byte(raw.String())
	var p Parser
	var h http.RequestHead
	for i := 1; i < len(buf); i++ {
		if n, err := p.Request(buf[:i], &h, lim); n != 0 || err != nil {
			t.Fatal(i, n, err)
		}
	}
	if n, err := p.Request(buf, &h, lim); n != len(buf) || err != nil || h.Fields.Len() != 100_000 {
		t.Fatal(n, err, h.Fields.Len())
	}
	if p != (Parser{}) {
		t.Error("the parser is not ready for the next message")
	}
}
