// SPDX-License-Identifier: Apache-2.0

// Package wire speaks HTTP/1 in bytes, for tests that judge a proxy from the
// outside: a client that sends exactly what it is told and parses strictly
// what comes back, and an origin that records exactly what reached it. It
// shares no code with the proxy, so a mistake in one isn't hidden by the
// other.
package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Field is one header or trailer line, its name as on the wire.
type Field struct{ Name, Value string }

// Fields is the lines of a head or trailer section in order.
type Fields []Field

// Values returns the values of all lines called name, whatever its case.
func (f Fields) Values(name string) []string {
	var values []string
	for _, field := range f {
		if strings.EqualFold(field.Name, name) {
			values = append(values, field.Value)
		}
	}
	return values
}

// Get returns the first value of name, or "".
func (f Fields) Get(name string) string {
	for _, field := range f {
		if strings.EqualFold(field.Name, name) {
			return field.Value
		}
	}
	return ""
}

// Framing tells how the end of a body was marked.
type Framing string

// The ways to mark a body's end (RFC 9112 section 6.3).
const (
	NoBody  Framing = "none"
	Length  Framing = "length"
	Chunked Framing = "chunked"
	ToClose Framing = "close"
)

// Message is one parsed request or response.
type Message struct {
	Start    string // the start line without its CRLF
	Head     []byte // start line, fields and the empty line, as received
	Fields   Fields
	Framing  Framing
	Body     []byte // without its transfer coding
	RawBody  []byte // as received, chunk sizes and trailers included
	Trailers Fields
}

// maxLine bounds a line so that a peer that sends no line end can't fill the
// memory of the test.
const maxLine = 4 << 20

// readLine reads one line that must end in CRLF and appends it to raw.
func readLine(br *bufio.Reader, raw *[]byte) (string, error) {
	start := len(*raw)
	for {
		part, err := br.ReadSlice('\n')
		*raw = append(*raw, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if err == io.EOF && len(*raw) > start {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		if len(*raw)-start > maxLine {
			return "", errors.New("a line without an end")
		}
	}
	line := (*raw)[start:]
	if !bytes.HasSuffix(line, []byte("\r\n")) {
		return "", fmt.Errorf("line %q ends in a bare LF", line)
	}
	return string(line[:len(line)-2]), nil
}

// readFields reads field lines up to and including the empty one.
func readFields(br *bufio.Reader, raw *[]byte) (Fields, error) {
	var fields Fields
	for {
		line, err := readLine(br, raw)
		if err != nil {
			return nil, unexpected(err)
		}
		if line == "" {
			return fields, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("field line %q has no proper name", line)
		}
		fields = append(fields, Field{name, strings.Trim(value, " \t")})
	}
}

// unexpected turns the end of the stream within a message into an error that
// can't be taken for the end between two.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readHead reads a start line and the fields. It returns io.EOF only where
// the stream ended before the first byte.
func readHead(br *bufio.Reader, m *Message) error {
	var err error
	if m.Start, err = readLine(br, &m.Head); err != nil {
		return err
	}
	m.Fields, err = readFields(br, &m.Head)
	return err
}

// readChunked reads a chunked body and its trailers.
func (m *Message) readChunked(br *bufio.Reader) error {
	m.Framing = Chunked
	for {
		line, err := readLine(br, &m.RawBody)
		if err != nil {
			return unexpected(err)
		}
		digits, _, _ := strings.Cut(line, ";")
		size, err := strconv.ParseUint(digits, 16, 62)
		if err != nil {
			return fmt.Errorf("chunk size line %q", line)
		}
		if size == 0 {
			m.Trailers, err = readFields(br, &m.RawBody)
			return err
		}
		data := make([]byte, size+2)
		if _, err := io.ReadFull(br, data); err != nil {
			return unexpected(err)
		}
		m.RawBody = append(m.RawBody, data...)
		if !bytes.HasSuffix(data, []byte("\r\n")) {
			return fmt.Errorf("chunk of %d bytes is followed by %q, not CRLF", size, data[size:])
		}
		m.Body = append(m.Body, data[:size]...)
	}
}

// readBody reads the body of a message whose framing its fields decide.
// toClose tells what a message without any framing field means.
func (m *Message) readBody(br *bufio.Reader, toClose bool) error {
	lengths, codings := m.Fields.Values("content-length"), m.Fields.Values("transfer-encoding")
	switch {
	case len(codings) > 0 && len(lengths) > 0:
		return errors.New("both content-length and transfer-encoding")
	case len(codings) > 0:
		if len(codings) != 1 || !strings.EqualFold(codings[0], "chunked") {
			return fmt.Errorf("transfer-encoding %q", codings)
		}
		return m.readChunked(br)
	case len(lengths) > 0:
		if len(lengths) != 1 {
			return fmt.Errorf("%d content-length fields", len(lengths))
		}
		size, err := strconv.ParseUint(lengths[0], 10, 62)
		if err != nil {
			return fmt.Errorf("content-length %q", lengths[0])
		}
		m.Framing = Length
		m.Body = make([]byte, size)
		n, err := io.ReadFull(br, m.Body)
		m.Body = m.Body[:n]
		m.RawBody = m.Body
		return unexpected(err)
	case toClose:
		m.Framing = ToClose
		body, err := io.ReadAll(br)
		m.Body, m.RawBody = body, body
		return err
	}
	m.Framing = NoBody
	return nil
}
