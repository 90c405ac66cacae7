// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// maxAnswerHead bounds the head of a response; peers add a few hundred bytes
// to the origin's.
const maxAnswerHead = 16 << 10

// answer follows one HTTP/1.1 response through the reads that bring it. It
// understands what the origin of the benchmark sends, passed on by a proxy
// that is faithful: a length given by Content-Length.
type answer struct {
	// head gathers a head that came in several reads; its room is reused.
	head []byte
	// left is what the body still lacks once inBody.
	left   int64
	inBody bool
	// status and close are known once inBody.
	status int
	close  bool
}

// reset makes a ready for the next response.
func (a *answer) reset() {
	a.head, a.left, a.inBody, a.status, a.close = a.head[:0], 0, false, 0, false
}

// feed takes the next bytes and reports whether the response is complete.
// Bytes beyond its end are an error: nothing was asked for that they could
// answer.
func (a *answer) feed(b []byte) (done bool, err error) {
	if !a.inBody {
		end := -1
		if len(a.head) == 0 {
			end = bytes.Index(b, []byte("\r\n\r\n"))
		}
		switch {
		case end >= 0:
			if err := a.parse(b[:end]); err != nil {
				return false, err
			}
			b = b[end+4:]
		default:
			a.head = append(a.head, b...)
			end = bytes.Index(a.head, []byte("\r\n\r\n"))
			if end < 0 {
				if len(a.head) > maxAnswerHead {
					return false, fmt.Errorf("no end of the head in %d bytes", len(a.head))
				}
				return false, nil
			}
			if err := a.parse(a.head[:end]); err != nil {
				return false, err
			}
			b = a.head[end+4:]
		}
		a.inBody = true
	}
	a.left -= int64(len(b))
	if a.left < 0 {
		return false, fmt.Errorf("%d bytes after the end of the body", -a.left)
	}
	return a.left == 0, nil
}

// parse reads a head without its closing empty line.
func (a *answer) parse(head []byte) error {
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return fmt.Errorf("status line is %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return fmt.Errorf("status line is %q", line)
	}
	a.status = status
	length := int64(-1)
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil || length < 0 {
				return fmt.Errorf("Content-Length is %q", value)
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			return errors.New("a body of unknown length; the origin states one")
		case bytes.EqualFold(name, []byte("connection")):
			a.close = bytes.EqualFold(value, []byte("close"))
		}
	}
	if length < 0 {
		return errors.New("no Content-Length")
	}
	a.left = length
	return nil
}

// ok reports whether a complete response is a success.
func (a *answer) ok() bool { return a.status/100 == 2 }
