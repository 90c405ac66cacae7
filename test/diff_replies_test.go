// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"strings"

	"pillion/test/wire"
)

// raw is a reply that is written as it stands. It says so where the
// connection has to be closed after it.
func raw(text string) wire.Handler {
	return func(w io.Writer, r *wire.Request) error {
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		if !strings.Contains(text, "connection: close") && !strings.HasPrefix(text, "HTTP/1.0") {
			return nil
		}
		return wire.ErrClose
	}
}

// status is an answer with a status and a body that names it.
func status(code int) wire.Handler {
	return func(w io.Writer, r *wire.Request) error {
		return wire.Answer(w, r, code, fmt.Sprintf("answer %d\n", code))
	}
}

// replies is what an origin of the differential test can answer, by the
// request's x-reply.
var replies = map[string]wire.Handler{
	"":   status(200),
	"ok": status(200),
	"201": func(w io.Writer, r *wire.Request) error {
		return wire.Answer(w, r, 201, "", wire.Field{Name: "location", Value: "http://act/new/1"})
	},
	"204": status(204), "205": raw("HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n"),
	"304": func(w io.Writer, r *wire.Request) error {
		return wire.Answer(w, r, 304, "", wire.Field{Name: "etag", Value: `"1"`})
	},
	"304 with length": raw("HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncontent-length: 100\r\n\r\n"),
	"404":             status(404), "409": status(409), "429": status(429),
	"500": status(500), "502": status(502), "503": status(503), "504": status(504),
	"599":    raw("HTTP/1.1 599 Odd\r\ncontent-length: 0\r\n\r\n"),
	"reason": raw("HTTP/1.1 200 Fine by me\r\ncontent-length: 0\r\n\r\n"), "no reason": raw("HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"),

	// Framing.
	"chunked":          raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
	"chunked in caps":  raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
	"chunk extensions": raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0;c\r\n\r\n"),
	"chunked empty":    raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
	"trailers":         raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n"),
	"to close":         raw("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end"),
	"length and close": raw("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello"),
	"http/1.0":         raw("HTTP/1.0 200 OK\r\n\r\nan old answer"),
	"empty":            raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
	"large":            raw("HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\n\r\n" + strings.Repeat("0123456789abcdef", 65536)),
	"large chunked":    raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + strings.Repeat("8000\r\n"+strings.Repeat("x", 0x8000)+"\r\n", 32) + "0\r\n\r\n"),
	"head length":      raw("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),
	"head chunked":     raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
	"100 twice":        raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
	"103":              raw("HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),

	// Fields.
	"headers": raw("HTTP/1.1 200 OK\r\nx-resp-set: old\r\nx-resp-add: first\r\nx-resp-remove: 1\r\nx-resp-stay: 1\r\ncontent-length: 0\r\n\r\n"),
	"cookies": raw("HTTP/1.1 200 OK\r\nset-cookie: a=1; Path=/\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n"),
	"own server and date": raw("HTTP/1.1 200 OK\r\nserver: origin/1.0\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n" +
		"x-envoy-upstream-service-time: 99\r\nx-request-id: from-the-origin\r\ncontent-length: 0\r\n\r\n"),
	"hop by hop": raw("HTTP/1.1 200 OK\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nproxy-connection: keep-alive\r\n" +
		"x-hop: 1\r\nupgrade: h2c\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n"),
	"odd values":  raw("HTTP/1.1 200 OK\r\nx-empty:\r\nx-spaces:   two  words  \r\nx-latin: caf\xe9\r\nX-Mixed-Case: Kept\r\nx_under: 1\r\ncontent-length: 0\r\n\r\n"),
	"envoy's own": raw("HTTP/1.1 200 OK\r\nx-envoy-overloaded: true\r\nx-envoy-attempt-count: 7\r\nx-envoy-decorator-operation: op\r\nvia: 1.1 other\r\nalt-svc: h3=\":443\"\r\ncontent-length: 0\r\n\r\n"),

	// Failures.
	"reset":             func(io.Writer, *wire.Request) error { return wire.ErrReset },
	"close":             func(io.Writer, *wire.Request) error { return wire.ErrClose },
	"no http":           raw("SSH-2.0-OpenSSH_9.2\r\nconnection: close\r\n\r\n"),
	"bad status":        raw("HTTP/1.1 abc OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
	"length twice":      raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"),
	"length no number":  raw("HTTP/1.1 200 OK\r\ncontent-length: two\r\nconnection: close\r\n\r\nab"),
	"length and coding": raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n"),
	"unknown coding":    raw("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\nconnection: close\r\n\r\nab"),
	"half a head":       raw("HTTP/1.1 200 OK\r\nconnection: close"),
}
