// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"bytes"
	stdtls "crypto/tls"
	"encoding/binary"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// clientHello returns what Go's client says first.
func clientHello(t testing.TB, name string, alpn ...string) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_ = stdtls.Client(theirs, &stdtls.Config{ServerName: name, NextProtos: alpn, InsecureSkipVerify: true}).Handshake()
		_ = theirs.Close()
	}()
	p := make([]byte, MaxHello)
	n, err := ours.Read(p)
	if err != nil {
		t.Fatal(err)
	}
	// One write of Go's is one record.
	for n < recordHeader+int(binary.BigEndian.Uint16(p[3:])) {
		more, err := ours.Read(p[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += more
	}
	return p[:n]
}

// inRecords cuts a handshake message of one record into records of n octets.
func inRecords(hello []byte, n int) []byte {
	var out []byte
	for body := range slices.Chunk(hello[recordHeader:], n) {
		out = append(out, hello[:3]...)
		out = binary.BigEndian.AppendUint16(out, uint16(len(body)))
		out = append(out, body...)
	}
	return out
}

var both = Wants{TLS: true, HTTP: true}

// TestSniff holds what connections are taken for, and that no shorter
// beginning of one leads to another answer.
func TestSniff(t *testing.T) {
	hello := clientHello(t, "Reviews.Example.com", "h2", "http/1.1")
	tls := Hello{Protocol: TLS, ServerName: "reviews.example.com", ALPN: []string{"h2", "http/1.1"}}
	for _, tc := range []struct {
		name, bytes string
		wants       Wants
		want        Hello
	}{
		{"HTTP/1.1", "GET /a?b=c HTTP/1.1\r\n", both, Hello{Protocol: HTTP11}},
		{"HTTP/1.0", "GET / HTTP/1.0\n", both, Hello{Protocol: HTTP10}},
		{"a method of one's own", "M-SEARCH * HTTP/1.1\r\n", both, Hello{Protocol: HTTP11}},
		{"a method longer than any", strings.Repeat("M", 40) + " / HTTP/1.1\r\n", both, Hello{}},
		{"HTTP/2", preface, both, Hello{Protocol: HTTP2}},
		{"nearly HTTP/2", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", both, Hello{}},
		{"HTTP/1.2", "GET / HTTP/1.2\r\n", both, Hello{}},
		{"a request without a version", "GET /\r\n", both, Hello{}},
		{"SMTP", "EHLO me\r\n", both, Hello{}},
		{"bytes", "\x00\x01\x02", both, Hello{}},
		{"TLS", string(hello), both, tls},
		{"TLS in records of 100 octets", string(inRecords(hello, 100)), both, tls},
		{"TLS in records of one octet", string(inRecords(hello, 1)), both, tls},
		{"TLS where only HTTP is looked for", string(hello), Wants{HTTP: true}, Hello{}},
		{"HTTP where only TLS is looked for", "GET / HTTP/1.1\r\n", Wants{TLS: true}, Hello{}},
		{"a record that isn't of a handshake", "\x17\x03\x03\x00\x05hello", both, Hello{}},
		{"a handshake that isn't a ClientHello", "\x16\x03\x01\x00\x04\x02\x00\x00\x00", both, Hello{}},
		{"an empty record", "\x16\x03\x01\x00\x00", both, Hello{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, done := Sniff([]byte(tc.bytes), tc.wants)
			if !done || !reflect.DeepEqual(got, tc.want) {
				t.Fatalf("got %+v, done %v, want %+v", got, done, tc.want)
			}
			for cut := range tc.bytes {
				if got, done := Sniff([]byte(tc.bytes[:cut]), tc.wants); done && !reflect.DeepEqual(got, tc.want) {
					t.Fatalf("of %d octets it makes %+v", cut, got)
				}
			}
		})
	}
}

// TestSniffBounds holds how much is looked at.
func TestSniffBounds(t *testing.T) {
	endless := append([]byte("\x16\x03\x01\x40\x00\x01\x00\xff\xff"), make([]byte, 1<<14-4)...)
	endless = append(endless, endless[:5]...)
	if h, done := Sniff(endless, both); !done || !h.TooLarge || h.Protocol != Raw {
		t.Errorf("a ClientHello without end: %+v, done %v", h, done)
	}
	if h, done := Sniff(append([]byte("GET /"), bytes.Repeat([]byte("a"), MaxRequestLine)...), both); !done || h.Protocol != Raw {
		t.Errorf("a request line without end: %+v, done %v", h, done)
	}
	if _, done := Sniff(nil, both); done {
		t.Error("nothing is taken for something")
	}
}

// FuzzSniff holds that an answer, once given, stays the same whatever follows,
// and that Go's server reads the same from a ClientHello.
func FuzzSniff(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n"), 3, true, true)
	f.Add([]byte(preface), 5, true, true)
	f.Add(clientHello(f, "a.example.com", "h2"), 30, true, true)
	f.Add(inRecords(clientHello(f, "a.example.com", "istio"), 7), 30, true, false)
	f.Fuzz(func(t *testing.T, p []byte, cut int, tls, http bool) {
		if cut < 0 || cut > len(p) {
			return
		}
		w := Wants{TLS: tls, HTTP: http}
		whole, _ := Sniff(p, w)
		if part, done := Sniff(p[:cut], w); done && !reflect.DeepEqual(part, whole) {
			t.Errorf("%d octets are %+v, all %d are %+v", cut, part, len(p), whole)
		}
		if whole.Protocol == TLS {
			compareWithGo(t, p, whole)
		}
	})
}

// recording is a connection on which p comes and nobody hears what is said.
type recording struct {
	net.Conn
	r *bytes.Reader
}

func (c recording) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c recording) Write(p []byte) (int, error) { return len(p), nil }
func (c recording) Close() error                { return nil }

// compareWithGo lets crypto/tls read the same ClientHello. What it refuses
// proves nothing: a connection is passed on and not served.
func compareWithGo(t *testing.T, p []byte, got Hello) {
	var seen *stdtls.ClientHelloInfo
	_ = stdtls.Server(recording{r: bytes.NewReader(p)}, &stdtls.Config{GetConfigForClient: func(h *stdtls.ClientHelloInfo) (*stdtls.Config, error) {
		seen = h
		return nil, net.ErrClosed
	}}).Handshake()
	if seen != nil && (!strings.EqualFold(seen.ServerName, got.ServerName) || len(seen.SupportedProtos)+len(got.ALPN) > 0 && !slices.Equal(seen.SupportedProtos, got.ALPN)) {
		t.Errorf("Go reads %q %q, we %q %q", seen.ServerName, seen.SupportedProtos, got.ServerName, got.ALPN)
	}
}
