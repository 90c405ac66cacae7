// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"strings"
)

// bad is a request that is refused for its head: 400, and nothing of it
// reaches the origin.
func bad(name, raw string) abuse { return abuse{name: name, raw: raw, status: []int{400}} }

// tail is what a confused proxy would take for a second request.
const tail = "GET " + smuggled + " HTTP/1.1\r\nHost: {{host}}\r\n\r\n"

// lengthAbuse are wrong and contradicting lengths (RFC 9112 section 6.3).
func lengthAbuse() []abuse {
	cl := func(name, value string) abuse {
		return bad("length "+name, "POST / HTTP/1.1\r\nHost: {{host}}\r\nContent-Length: "+value+"\r\n\r\nhello"+tail)
	}
	lines := func(name, fields, body string) abuse {
		return bad("length "+name, "POST / HTTP/1.1\r\nHost: {{host}}\r\n"+fields+"\r\n\r\n"+body)
	}
	return []abuse{
		lines("and coding", "Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"+tail),
		lines("after coding", "Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"+tail),
		lines("of nothing and coding", "Content-Length: 0\r\nTransfer-Encoding: chunked", "0\r\n\r\n"+tail),
		{name: "length and unknown coding", status: []int{400, 501},
			raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\nhello" + tail},
		lines("and coding in a second line of another case", "content-length: 5\r\nTRANSFER-ENCODING: Chunked", "0\r\n\r\n"+tail),
		lines("twice, different", "Content-Length: 5\r\nContent-Length: 6", "hello"+tail),
		lines("twice, the first empty", "Content-Length:\r\nContent-Length: 5", "hello"+tail),
		lines("twice, apart", "Content-Length: 5\r\nX-Between: 1\r\ncontent-length: 0", "hello"+tail),
		{name: "length twice, equal", raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
			status: []int{400, 200}, stays: true, check: once("content-length")},
		cl("list of equals", "5, 5"), cl("list", "5, 6"), cl("with a comma", "5,"),
		cl("plus", "+5"), cl("minus", "-5"), cl("minus nothing", "-0"), cl("hex", "0x5"), cl("hex digits", "a"),
		cl("octal mark", "0o5"), cl("with a space inside", "5 5"), cl("with a tab inside", "5\t5"), cl("fraction", "5.0"),
		cl("exponent", "5e0"), cl("empty", ""), cl("with an underscore", "5_0"), cl("and letters", "5a"), cl("quoted", `"5"`),
		cl("and a semicolon", "5;"), cl("with a NUL", "5\x00"), cl("with a vertical tab", "\x0b5"), cl("with a form feed", "5\x0c"),
		cl("in other digits", "٥"), cl("of 20 digits", "99999999999999999999"), cl("that wraps 64 bits", "18446744073709551621"),
		cl("of 2^63", "9223372036854775808"), cl("on a folded line", "\r\n 5"),
		bad("length with a space before the colon", "POST / HTTP/1.1\r\nHost: {{host}}\r\nContent-Length : 5\r\n\r\nhello"+tail),
		{name: "body of GET", raw: "GET / HTTP/1.1\r\nHost: {{host}}\r\nContent-Length: " + itoa(len(tail)) + "\r\n\r\n" + strings.ReplaceAll(tail, "{{host}}", "12345678"),
			status: []int{200, 400}, stays: true, check: bodyIs(strings.ReplaceAll(tail, "{{host}}", "12345678"))},
		{name: "body of HEAD", raw: "HEAD / HTTP/1.1\r\nHost: {{host}}\r\nContent-Length: " + itoa(len(tail)) + "\r\n\r\n" + strings.ReplaceAll(tail, "{{host}}", "12345678"),
			status: []int{200, 400}, stays: true, check: bodyIs(strings.ReplaceAll(tail, "{{host}}", "12345678"))},
		{name: "body of OPTIONS", raw: "OPTIONS / HTTP/1.1\r\nHost: {{host}}\r\nContent-Length: " + itoa(len(tail)) + "\r\n\r\n" + strings.ReplaceAll(tail, "{{host}}", "12345678"),
			status: []int{200, 400}, stays: true, check: bodyIs(strings.ReplaceAll(tail, "{{host}}", "12345678"))},
	}
}

// once makes a check: a field name stands in the origin's bytes once.
func once(name string) func(string) error {
	return func(seen string) error {
		if n := strings.Count(strings.ToLower(seen), "\r\n"+name+":"); n != 1 {
			return fmt.Errorf("the field %s stands there %d times", name, n)
		}
		return nil
	}
}

// bodyIs makes a check: the origin got the bytes as a body, framed by their
// length, and not as a request.
func bodyIs(body string) func(string) error {
	return func(seen string) error {
		if !strings.HasSuffix(seen, "\r\n\r\n"+body) || !strings.Contains(strings.ToLower(seen), fmt.Sprintf("\r\ncontent-length: %d\r\n", len(body))) {
			return fmt.Errorf("the body isn't framed as one of %d bytes", len(body))
		}
		return nil
	}
}

// codingAbuse are transfer codings that one side may not see (RFC 9112
// section 6.1).
func codingAbuse() []abuse {
	te := func(name, line string, status ...int) abuse {
		return abuse{name: "coding " + name, status: append(status, 400),
			raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\n" + line + "\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + tail}
	}
	return []abuse{
		te("xchunked", "Transfer-Encoding: xchunked", 501), te("identity", "Transfer-Encoding: identity", 501),
		te("gzip", "Transfer-Encoding: gzip", 501), te("gzip, chunked", "Transfer-Encoding: gzip, chunked", 501),
		te("chunked, gzip", "Transfer-Encoding: chunked, gzip", 501), te("chunked, chunked", "Transfer-Encoding: chunked, chunked", 501),
		te("chunked, identity", "Transfer-Encoding: chunked, identity", 501),
		te("twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
		te("twice, the second unknown", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x", 501),
		te("twice, the first unknown", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked", 501),
		te("with a comma behind", "Transfer-Encoding: chunked,", 501), te("with a comma before", "Transfer-Encoding: ,chunked", 501),
		te("quoted", `Transfer-Encoding: "chunked"`, 501), te("with a parameter", "Transfer-Encoding: chunked;q=1", 501),
		te("with a semicolon", "Transfer-Encoding: chunked;", 501), te("empty", "Transfer-Encoding:", 501),
		te("with a vertical tab", "Transfer-Encoding: \x0bchunked", 501), te("with a form feed", "Transfer-Encoding: chunked\x0c", 501),
		te("with a NUL", "Transfer-Encoding: chunked\x00"), te("with a no-break space", "Transfer-Encoding: \xa0chunked", 501),
		te("with a space before the colon", "Transfer-Encoding : chunked"), te("with a tab before the colon", "Transfer-Encoding\t: chunked"),
		te("on a folded line", "Transfer-Encoding:\r\n chunked", 501), te("folded", "Transfer-Encoding: x\r\n\tchunked", 501),
		te("behind a space", " Transfer-Encoding: chunked"), te("with a CR", "Transfer-Encoding: chunked\r", 501),
		te("behind a CR", "X: 1\rTransfer-Encoding: chunked"), te("in two words", "Transfer Encoding: chunked"),
		bad("coding with HTTP/1.0", "POST / HTTP/1.0\r\nHost: {{host}}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"+tail),
		{name: "coding behind a bare LF, and a length", raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nContent-Length: 5\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + tail,
			status: []int{400}},
		{name: "coding behind a tab", raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nTransfer-Encoding:\tchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			status: []int{200, 400}, stays: true, check: has("transfer-encoding: chunked\r\n", "hello")},
		{name: "coding in capitals", raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nTransfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			status: []int{200}, stays: true, check: has("transfer-encoding: chunked\r\n", "hello")},
	}
}

// chunkAbuse are chunked bodies that break the grammar (RFC 9112 section 7.1).
// The head is fine, so the origin may have seen it, but never a whole request.
func chunkAbuse() []abuse {
	chunked := func(name, body string) abuse {
		return abuse{name: "chunk " + name, status: []int{400, 413}, partial: true,
			raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nTransfer-Encoding: chunked\r\n\r\n" + body + "\r\n0\r\n\r\n" + tail}
	}
	flood := strings.Repeat("1;"+strings.Repeat("x", 200)+"\r\na\r\n", 10000)
	dropped := func(name, field string) abuse {
		return abuse{name: "trailer " + name, status: []int{200, 400}, stays: true, partial: true, check: has("!" + field),
			raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + field + "\r\n\r\n"}
	}
	return []abuse{
		chunked("plus", "+5\r\nhello"), chunked("minus", "-5\r\nhello"), chunked("0x", "0x5\r\nhello"), chunked("underscore", "0_5\r\nhello"),
		chunked("space before", " 5\r\nhello"), chunked("tab before", "\t5\r\nhello"), chunked("empty", "\r\nhello"), chunked("no digit", "g\r\nhello"),
		chunked("quoted", "\"5\"\r\nhello"), chunked("comma", "5,5\r\nhello"), chunked("NUL", "5\x00\r\nhello"), chunked("vertical tab", "5\x0b\r\nhello"),
		chunked("two numbers", "5 5\r\nhello"), chunked("bare LF", "5\nhello"), chunked("bare CR", "5\rhello"), chunked("CR CR LF", "5\r\r\nhello"),
		chunked("2^64-1", "ffffffffffffffff\r\nhello"), chunked("2^63", "8000000000000000\r\nhello"),
		chunked("17 digits", "10000000000000005\r\nhello"), chunked("many zeros", strings.Repeat("0", 5000)+"5\r\nhello"),
		chunked("longer than its size", "3\r\nhello"), chunked("longer by one", "4\r\nhello"),
		chunked("without CRLF behind", "5\r\nhelloX"), chunked("LF behind", "5\r\nhello\n0\r\n\r\n"),
		chunked("extension with a bare LF", "5;a=b\nhello"), chunked("extension with a bare CR", "5;a=b\rc\r\nhello"), chunked("extension with a NUL", "5;a=\x00\r\nhello"),
		chunked("extension of 16 KiB", "5;"+strings.Repeat("x", 16<<10)+"\r\nhello"),
		{name: "chunk extension flood", raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nTransfer-Encoding: chunked\r\n\r\n" + flood + "0\r\n\r\n", status: []int{400, 413, 0}, partial: true},
		chunked("last one with a bare LF", "0\n\n"),
		chunked("trailer with a space in its name", "0\r\nX Y: 1\r\n"), chunked("trailer without a colon", "0\r\nnothing\r\n"),
		chunked("trailer folded", "0\r\nX: 1\r\n y\r\n"), chunked("trailer with a NUL", "0\r\nX: \x00\r\n"), chunked("trailer with a bare LF", "0\r\nX: 1\nY: 2\r\n"),
		{name: "trailers of 100 KiB", raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + strings.Repeat("y", 100<<10) + "\r\n\r\n", status: []int{400, 413, 431}, partial: true},
		{name: "trailers, 1500 of them", raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("X: y\r\n", 1500) + "\r\n", status: []int{400, 413, 431}, partial: true},
		dropped("length", "Content-Length: 99"), dropped("coding", "Transfer-Encoding: gzip"), dropped("host", "Host: other"),
		dropped("authorization", "Authorization: Basic eA=="), dropped("connection", "Connection: x"), dropped("expect", "Expect: 100-continue"),
		dropped("cookie", "Cookie: a=1"), dropped("forwarded", "X-Forwarded-For: 192.0.2.1"),
	}
}

// lineAbuse are field lines that parsers read differently (RFC 9112 section 5).
func lineAbuse() []abuse {
	line := func(name, line string) abuse {
		return bad("line "+name, "GET / HTTP/1.1\r\nHost: {{host}}\r\n"+line+"\r\n\r\n"+tail)
	}
	return []abuse{
		line("with a bare CR", "X: a\rb"), line("ended by a bare CR", "X: a\rY: b"), line("with a NUL", "X: a\x00b"), line("with a NUL in its name", "X\x00: a"),
		line("with a control", "X: a\x01b"), line("with DEL", "X: a\x7fb"), line("with an 8-bit name", "X\xe9: a"), line("with a control in its name", "X\x01: a"),
		line("with a space before the colon", "X : a"), line("with a tab before the colon", "X\t: a"), line("with a space in its name", "X Y: a"),
		line("with a bracket in its name", "X(): a"), line("with a slash in its name", "X/Y: a"), line("with quotes in its name", `"X": a`),
		line("without a name", ": a"), line("without a colon", "nothing"), line("folded", "X: a\r\n b"), line("folded by a tab", "X: a\r\n\tb"),
		line("folded, nothing on it", "X: a\r\n \r\nY: b"), line("of spaces", "   "), line("with an escape", "X: a\x1b[31m"),
		bad("line folded, the first", "GET / HTTP/1.1\r\n Host: {{host}}\r\n\r\n"+tail),
		bad("line behind a space, the first", "GET / HTTP/1.1\r\n X: y\r\nHost: {{host}}\r\n\r\n"+tail),
		{name: "lines ended by a bare LF", raw: "GET / HTTP/1.1\nHost: {{host}}\nX: y\n\n", status: []int{200, 400}, stays: true, check: has("\r\nx: y\r\n")},
		{name: "line ended by a bare LF", raw: "GET / HTTP/1.1\r\nHost: {{host}}\r\nX: y\nZ: 1\r\n\r\n", status: []int{200, 400}, stays: true, check: has("\r\nx: y\r\n", "\r\nz: 1\r\n")},
		{name: "line with a latin letter", raw: "GET / HTTP/1.1\r\nHost: {{host}}\r\nX: caf\xe9\r\n\r\n", status: []int{200, 400}, stays: true, check: has("x: caf\xe9\r\n")},
		{name: "line with a tab", raw: "GET / HTTP/1.1\r\nHost: {{host}}\r\nX: a\tb\r\n\r\n", status: []int{200}, stays: true, check: has("x: a\tb\r\n")},
	}
}

// startLineAbuse are request lines (RFC 9112 sections 2.2, 2.3 and 3).
func startLineAbuse() []abuse {
	start := func(name, line string, status ...int) abuse {
		return abuse{name: "start " + name, status: append(status, 400), raw: line + "\r\nHost: {{host}}\r\n\r\n" + tail}
	}
	return []abuse{
		start("with two spaces", "GET  / HTTP/1.1"), start("with two spaces before the version", "GET /  HTTP/1.1"), start("with tabs", "GET\t/\tHTTP/1.1"),
		start("with a space behind", "GET / HTTP/1.1 "), start("with a word behind", "GET / HTTP/1.1 x"), start("behind a space", " GET / HTTP/1.1"),
		start("with a bare CR", "GET /\r HTTP/1.1"), start("with a NUL", "GET /\x00 HTTP/1.1"), start("with a control", "GET /\x01 HTTP/1.1"),
		start("with DEL", "GET /\x7f HTTP/1.1"), start("with a space in the target", "GET /a b HTTP/1.1"), start("with a fragment", "GET /a#b HTTP/1.1"),
		start("without a version", "GET /", 505), start("without a target", "GET HTTP/1.1"), start("with an empty target", "GET  HTTP/1.1"),
		start("in small letters", "GET / http/1.1", 505), start("of HTTP/2.0", "GET / HTTP/2.0", 505), start("of HTTP/0.9", "GET / HTTP/0.9", 505),
		start("of HTTP/3", "GET / HTTP/3", 505), start("of HTTP/1.10", "GET / HTTP/1.10", 505), start("of HTTP/11", "GET / HTTP/11", 505),
		start("of HTTP/1,1", "GET / HTTP/1,1", 505), start("of another protocol", "GET / ICY/1.1", 505), start("of HTTP/1.1 in full", "GET / HTTP/1.1/x", 505),
		start("without a method", " / HTTP/1.1"), start("with brackets in the method", "G(T / HTTP/1.1"), start("with a colon in the method", "GET: / HTTP/1.1"),
		start("with an 8-bit method", "G\xc9T / HTTP/1.1"), start("with a target without a slash", "GET foo HTTP/1.1"), start("with *", "GET * HTTP/1.1"),
		start("with a target of another scheme", "GET ftp://{{host}}/ HTTP/1.1"), start("with a target of no host", "GET http:///x HTTP/1.1"),
		start("with a target with a user", "GET http://u@{{host}}/ HTTP/1.1"), start("CONNECT", "CONNECT {{host}}:80 HTTP/1.1", 403, 404, 405, 501),
		start("CONNECT of a path", "CONNECT / HTTP/1.1", 403, 404, 405, 501),
		{name: "start of HTTP/1.2", raw: "GET / HTTP/1.2\r\nHost: {{host}}\r\n\r\n", status: []int{200, 400, 505}, stays: true},
		{name: "start of two methods", raw: "GET GET / HTTP/1.1\r\nHost: {{host}}\r\n\r\n", status: []int{400}},
		{name: "start after empty lines", raw: "\r\n\r\nGET / HTTP/1.1\r\nHost: {{host}}\r\n\r\n", status: []int{200, 400}, stays: true},
		{name: "start of a TLS handshake", raw: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 512), status: []int{400, 0}},
		{name: "start of zeros", raw: strings.Repeat("\x00", 4096), status: []int{400, 0}},
		{name: "start of SSH", raw: "SSH-2.0-OpenSSH_9.2\r\n\r\n", status: []int{400, 505}},
		{name: "start with an 8-bit path", raw: "GET /caf\xe9 HTTP/1.1\r\nHost: {{host}}\r\n\r\n", status: []int{200, 400}, stays: true},
		{name: "start without an end", raw: "GET /" + strings.Repeat("a", 200<<10), status: []int{400, 414, 431}},
	}
}

// hostAbuse are names of hosts on which a route and an origin could disagree
// (RFC 9112 section 3.2).
func hostAbuse() []abuse {
	host := func(name, lines string) abuse {
		return bad("host "+name, "GET / HTTP/1.1\r\n"+lines+"X: y\r\n\r\n"+tail)
	}
	return []abuse{
		host("none", ""), host("twice", "Host: {{host}}\r\nHost: other\r\n"), host("twice, equal", "Host: {{host}}\r\nHost: {{host}}\r\n"),
		host("empty", "Host:\r\n"), host("list", "Host: {{host}},other\r\n"), host("with a space", "Host: {{host}} other\r\n"),
		host("with a path", "Host: {{host}}/path\r\n"), host("with a user", "Host: user@{{host}}\r\n"), host("with a query", "Host: {{host}}?q\r\n"),
		host("with a fragment", "Host: {{host}}#f\r\n"), host("with two ports", "Host: {{host}}:80:80\r\n"), host("with a word for a port", "Host: {{host}}:http\r\n"),
		host("with a port beyond 65535", "Host: {{host}}:99999\r\n"), host("with a backslash", "Host: {{host}}\\x\r\n"), host("with an open bracket", "Host: [::1\r\n"),
		host("with a control", "Host: {{host}}\x01\r\n"), host("with a scheme", "Host: http://{{host}}\r\n"), host("twice, one folded", "Host: {{host}}\r\n Host: other\r\n"),
		host("with a space before the colon", "Host : {{host}}\r\n"),
	}
}

// limitAbuse are heads of great size: Envoy's limits are 60 KiB and 100 fields.
func limitAbuse() []abuse {
	head := func(name, fields string, status ...int) abuse {
		return abuse{name: "limit " + name, status: status, stays: true, raw: "GET / HTTP/1.1\r\nHost: {{host}}\r\n" + fields + "\r\n"}
	}
	return []abuse{
		head("value of 50 KiB", "X: "+strings.Repeat("y", 50<<10)+"\r\n", 200), head("value of 70 KiB", "X: "+strings.Repeat("y", 70<<10)+"\r\n", 431),
		head("value of 1 MiB", "X: "+strings.Repeat("y", 1<<20)+"\r\n", 431), head("name of 70 KiB", strings.Repeat("x", 70<<10)+": y\r\n", 431),
		head("95 fields", strings.Repeat("X: y\r\n", 95), 200), head("101 fields", strings.Repeat("X: y\r\n", 101), 431),
		head("5000 fields", strings.Repeat("X: y\r\n", 5000), 431), head("70 KiB in 70 fields", strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 70), 431),
		{name: "limit target of 20 KiB", raw: "GET /" + strings.Repeat("a", 20<<10) + " HTTP/1.1\r\nHost: {{host}}\r\n\r\n", status: []int{200}, stays: true},
		{name: "limit target of 70 KiB", raw: "GET /" + strings.Repeat("a", 70<<10) + " HTTP/1.1\r\nHost: {{host}}\r\n\r\n", status: []int{414, 431}},
	}
}

// hopAbuse are fields that a client wants to have removed or passed on
// between hops (RFC 9110 section 7.6.1).
func hopAbuse() []abuse {
	// named is a field that the client calls hop-by-hop: refused, or passed on.
	named := func(name, value string) abuse {
		return abuse{name: "connection names " + name, status: []int{200, 400}, stays: true, check: has(name + ": " + value),
			raw: "GET / HTTP/1.1\r\nHost: {{host}}\r\n" + name + ": " + value + "\r\nConnection: " + name + "\r\n\r\n"}
	}
	return []abuse{
		named("x-forwarded-for", "192.0.2.1"), named("x-forwarded-proto", "https"), named("authorization", "basic eA=="), named("cookie", "a=1"),
		{name: "connection names host", raw: "GET / HTTP/1.1\r\nHost: {{host}}\r\nConnection: host\r\n\r\n", status: []int{200, 400}, stays: true, check: has("\r\nhost: lane-")},
		{name: "connection names content-length", raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nContent-Length: 5\r\nConnection: content-length\r\n\r\nhello",
			status: []int{200, 400}, stays: true, check: has("\r\ncontent-length: 5\r\n")},
		{name: "connection names transfer-encoding", raw: "POST / HTTP/1.1\r\nHost: {{host}}\r\nTransfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			status: []int{200, 400}, stays: true, check: has("\r\ntransfer-encoding: chunked\r\n")},
		{name: "client certificate that nobody verified", raw: "GET / HTTP/1.1\r\nHost: {{host}}\r\nx-forwarded-client-cert: URI=spiffe://x\r\n\r\n", status: []int{200}, stays: true, check: has("!x-forwarded-client-cert")},
		{name: "upgrade to h2c", raw: "GET / HTTP/1.1\r\nHost: {{host}}\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", status: []int{200, 403}, stays: true, check: has("!upgrade", "!h2c")},
		{name: "upgrade to something", raw: "GET / HTTP/1.1\r\nHost: {{host}}\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n" + tail, status: []int{403}},
	}
}
