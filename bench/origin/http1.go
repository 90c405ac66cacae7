// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"bytes"
	"strconv"
	"strings"
	"time"
)

// maxHead bounds a request head that came in pieces.
const maxHead = 16 << 10

// refusal answers what the origin doesn't take; it shows as an error in the
// load's count.
const refusal = "HTTP/1.1 501 Not Implemented\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

// answers1 are a version's whole responses. Immutable.
type answers1 struct{ usual, large answer1 }

// answer1 is a response that keeps the connection, and the same one closing it.
type answer1 struct{ kept, closing []byte }

func newAnswers1(version string) answers1 {
	response := func(connection, body string) []byte {
		return []byte("HTTP/1.1 200 OK\r\n" +
			"date: " + today() + "\r\n" +
			"content-type: text/plain\r\n" +
			VersionField + ": " + version + "\r\n" +
			connection +
			"content-length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	}
	answer := func(body string) answer1 {
		return answer1{kept: response("", body), closing: response("connection: close\r\n", body)}
	}
	return answers1{usual: answer(body), large: answer(strings.Repeat(body, LargeSize/BodySize))}
}

// body is the usual answer's body.
var body = strings.Repeat("pillion\n", BodySize/8)

// today is the date that all answers carry: the one of the start. Peers pass it
// on and needn't make one.
func today() string { return time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") }

// h1conn is a connection that speaks HTTP/1.1.
type h1conn struct {
	version int
	// socket is what the connection was upgraded to; else nil.
	socket *webSocket
	// head is an unfinished request head; skip is what an unfinished request
	// body lacks. Never both.
	head []byte
	skip int64
	// closing: the request whose body is being skipped is the last. large: it asks for
	// the large answer.
	closing, large bool
	// upgrade: the request is for a WebSocket; key is its key.
	upgrade bool
	key     []byte
}

// take answers each request that is complete.
func (c *h1conn) take(l *loop, b []byte) bool {
	if c.socket != nil {
		return c.socket.take(l, b)
	}
	if len(c.head) > 0 {
		b = append(c.head, b...)
		c.head = nil
	}
	for len(b) > 0 {
		if c.skip > 0 {
			k := min(c.skip, int64(len(b)))
			c.skip -= k
			b = b[k:]
		} else {
			end := bytes.Index(b, []byte("\r\n\r\n"))
			if end < 0 {
				if len(b) > maxHead {
					return false
				}
				c.head = bytes.Clone(b)
				return true
			}
			if !c.begin(b[:end]) {
				l.out = append(l.out, refusal...)
				return false
			}
			b = b[end+4:]
		}
		if c.skip > 0 {
			continue
		}
		switch {
		case c.upgrade:
			c.socket = &webSocket{}
			l.out = appendUpgrade(l.out, Versions[c.version], c.key)
			return len(b) == 0 || c.socket.take(l, b)
		case c.closing:
			l.out = append(l.out, c.answer(l).closing...)
			return false
		}
		l.out = append(l.out, c.answer(l).kept...)
	}
	return true
}

// answer is what the request asks for.
func (c *h1conn) answer(l *loop) *answer1 {
	if c.large {
		return &l.http1[c.version].large
	}
	return &l.http1[c.version].usual
}

// begin reads a request head without its closing empty line. It reports
// whether the request is one that the origin takes.
func (c *h1conn) begin(head []byte) bool {
	c.skip, c.closing, c.upgrade = 0, false, false
	request, rest, _ := bytes.Cut(head, []byte("\r\n"))
	c.large = bytes.Contains(request, []byte(" "+LargePath))
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		// The lengths of the names that matter; most fields end here.
		switch len(name) {
		case len("upgrade"):
			if bytes.EqualFold(name, []byte("upgrade")) && bytes.EqualFold(bytes.TrimSpace(value), []byte("websocket")) {
				c.upgrade = true
			}
		case len("connection"):
			if bytes.EqualFold(name, []byte("connection")) && bytes.EqualFold(bytes.TrimSpace(value), []byte("close")) {
				c.closing = true
			}
		case len("content-length"):
			if bytes.EqualFold(name, []byte("content-length")) {
				n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
				if err != nil || n < 0 {
					return false
				}
				c.skip = n
			}
		case len("transfer-encoding"): // and sec-websocket-key
			if bytes.EqualFold(name, []byte("transfer-encoding")) {
				return false
			}
			if bytes.EqualFold(name, []byte("sec-websocket-key")) {
				c.key = bytes.Clone(bytes.TrimSpace(value))
			}
		}
	}
	return true
}
