// SPDX-License-Identifier: Apache-2.0

package http

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestIsGRPC(t *testing.T) {
	for v, want := range map[string]bool{
		"application/grpc": true, "application/grpc+json": true, "application/grpc-web": false,
		"application/grpc;charset=x": false, "application/json": false, "": false, "Application/grpc": false,
	} {
		var h RequestHead
		h.Fields.AddID(HeaderContentType, []byte(v))
		if got := h.IsGRPC(); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
	if new(RequestHead).IsGRPC() {
		t.Error("a request without a content type is taken for gRPC")
	}
}

func TestResponseIsGRPC(t *testing.T) {
	for _, c := range []struct {
		status            int
		typ, code         string
		follows, headOnly bool
	}{
		{200, "application/grpc", "", true, false},
		{200, "application/grpc+proto", "0", true, true},
		{503, "application/grpc", "", false, false},
		{503, "text/plain", "14", false, true},
		{200, "text/plain", "", false, false},
	} {
		h := ResponseHead{Status: c.status}
		h.Fields.AddID(HeaderContentType, []byte(c.typ))
		if c.code != "" {
			h.Fields.AddID(HeaderGRPCStatus, []byte(c.code))
		}
		if h.IsGRPC(false) != c.follows || h.IsGRPC(true) != c.headOnly {
			t.Errorf("%+v: %t with a body, %t without", c, h.IsGRPC(false), h.IsGRPC(true))
		}
	}
}

func TestGRPCStatus(t *testing.T) {
	for v, want := range map[string]GRPCCode{"0": 0, "16": 16, "014": 14, "0000": 0, "17": GRPCInvalid, "100": GRPCInvalid,
		"x": GRPCInvalid, "-1": GRPCInvalid, " 1": GRPCInvalid, "99999999999999999999": GRPCInvalid} {
		var f Fields
		f.AddID(HeaderGRPCStatus, []byte(v))
		if got, ok := f.GRPCStatus(); !ok || got != want {
			t.Errorf("%q: %d, %t, want %d", v, got, ok, want)
		}
	}
	var f Fields
	if _, ok := f.GRPCStatus(); ok {
		t.Error("there is a status where none is")
	}
	f.AddID(HeaderGRPCStatus, nil)
	if _, ok := f.GRPCStatus(); ok {
		t.Error("there is a status where it is empty")
	}
}

// TestGRPCAndHTTP holds the maps of gRPC's and Google's documents.
func TestGRPCAndHTTP(t *testing.T) {
	for status, want := range map[int]GRPCCode{400: GRPCInternal, 401: GRPCUnauthenticated, 403: GRPCPermissionDenied,
		404: GRPCUnimplemented, 429: GRPCUnavailable, 502: GRPCUnavailable, 503: GRPCUnavailable, 504: GRPCUnavailable,
		200: GRPCUnknown, 301: GRPCUnknown, 418: GRPCUnknown, 500: GRPCUnknown, 0: GRPCUnknown} {
		if got := GRPCOfHTTP(status); got != want {
			t.Errorf("HTTP %d: %d, want %d", status, got, want)
		}
	}
	for code, want := range map[GRPCCode]int{GRPCOK: 200, GRPCCancelled: 499, GRPCUnknown: 500, GRPCInvalidArgument: 400,
		GRPCDeadlineExceeded: 504, GRPCNotFound: 404, GRPCAlreadyExists: 409, GRPCPermissionDenied: 403,
		GRPCResourceExhausted: 429, GRPCFailedPrecond: 400, GRPCAborted: 409, GRPCOutOfRange: 400,
		GRPCUnimplemented: 501, GRPCInternal: 500, GRPCUnavailable: 503, GRPCDataLoss: 500, GRPCUnauthenticated: 401,
		GRPCInvalid: 500, 17: 500} {
		if got := code.HTTP(); got != want {
			t.Errorf("code %d: HTTP %d, want %d", code, got, want)
		}
	}
}

func TestGRPCMessageEncoding(t *testing.T) {
	for s, want := range map[string]string{"": "", "plain": "plain", "no % é way": "no %25 %C3%A9 way",
		"a\r\nb": "a%0D%0Ab", "~ \x7f": "~ %7F", "\x00\xff": "%00%FF"} {
		if got := string(AppendGRPCMessage(nil, s)); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func FuzzGRPCMessageEncoding(f *testing.F) {
	f.Add("no % é way\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		got := string(AppendGRPCMessage([]byte("x"), s))[1:]
		if i := strings.IndexFunc(got, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
			t.Fatalf("%q has become %q", s, got)
		}
		if back, err := url.PathUnescape(got); err != nil || back != s {
			t.Fatalf("%q comes back from %q as %q, %v", s, got, back, err)
		}
	})
}

func TestGRPCTimeout(t *testing.T) {
	for s, want := range map[string]time.Duration{"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond,
		"5u": 5 * time.Microsecond, "6n": 6, "99999999H": math.MaxInt64, "0S": 0, "00000001S": time.Second} {
		var h RequestHead
		h.Fields.AddID(HeaderGRPCTimeout, []byte(s))
		if got, ok := h.GRPCTimeout(); !ok || got != want {
			t.Errorf("%s: %v, %t, want %v", s, got, ok, want)
		}
	}
	if d, ok := new(RequestHead).GRPCTimeout(); ok {
		t.Errorf("without a grpc-timeout it is %v", d)
	}
	// Envoy takes the signed and the spaced one.
	for _, s := range []string{"", "S", "1", "1s", "-1S", "+5S", "1.5S", "999999999S", " 1S", "1 S", "0x1S"} {
		if got, ok := parseGRPCTimeout([]byte(s)); ok {
			t.Errorf("%q is %v", s, got)
		}
	}
}

func FuzzGRPCTimeout(f *testing.F) {
	for _, s := range []string{"1H", "99999999H", "00000001n", "+1S", "123456789S", "5"} {
		f.Add([]byte(s))
	}
	valid := regexp.MustCompile(`^[0-9]{1,8}[HMSmun]$`)
	units := map[byte]float64{'H': 3600, 'M': 60, 'S': 1, 'm': 1e-3, 'u': 1e-6, 'n': 1e-9}
	f.Fuzz(func(t *testing.T, v []byte) {
		got, ok := parseGRPCTimeout(v)
		if ok != valid.Match(v) {
			t.Fatalf("%q: %t", v, ok)
		}
		if !ok {
			return
		}
		n, _ := strconv.Atoi(string(v[:len(v)-1]))
		want := min(float64(n)*units[v[len(v)-1]], float64(math.MaxInt64)/1e9)
		if math.Abs(got.Seconds()-want) > want/1e6 {
			t.Fatalf("%q is %v, want %v s", v, got, want)
		}
		written := AppendGRPCTimeout(nil, got)
		back, ok := parseGRPCTimeout(written)
		if !ok {
			t.Fatalf("%q is written as %q", v, written)
		}
		// What eight digits of milliseconds can say is never cut short.
		if got <= maxGRPCTimeout*time.Millisecond && (back < got || back-got >= time.Millisecond) {
			t.Fatalf("%q comes back from %q as %v", v, written, back)
		}
		if diff := math.Abs(back.Seconds() - got.Seconds()); diff > 0.001 && diff > got.Seconds()/1000 {
			t.Fatalf("%q comes back from %q as %v", v, written, back)
		}
	})
}

// TestAppendGRPCTimeout holds what Envoy 1.40 sends on.
func TestAppendGRPCTimeout(t *testing.T) {
	for want, d := range map[string]time.Duration{"0m": 0, "1m": 1, "2m": 1500 * time.Microsecond, "1000m": time.Second,
		"99999999m": 99999999 * time.Millisecond, "100000S": 100000 * time.Second, "99999999S": 99999999 * time.Second,
		"1666666M": 100000000 * time.Second, "2562047H": math.MaxInt64} {
		if got := string(AppendGRPCTimeout(nil, d)); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	if got := string(AppendGRPCTimeout(nil, -time.Second)); got != "0m" {
		t.Errorf("a time that is over: %s", got)
	}
}

// messages makes a body of messages with the given lengths.
func messages(lengths ...int) (body []byte) {
	for _, n := range lengths {
		body = append(body, 0)
		body = binary.BigEndian.AppendUint32(body, uint32(n))
		body = append(body, make([]byte, n)...)
	}
	return body
}

func TestGRPCMessages(t *testing.T) {
	for _, c := range []struct {
		body []byte
		want uint64
	}{
		{nil, 0}, {messages(0), 1}, {messages(0, 0, 0), 3}, {messages(1, 256, 0, 70000), 4},
		{messages(3, 3)[:9], 2}, {messages(3, 3)[:8], 1}, // one that broke off has begun
		{[]byte{0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3}, 1},
	} {
		for _, size := range []int{1, 2, 3, 4, 5, 6, 7, 1000, len(c.body) + 1} {
			var m GRPCMessages
			m.Start()
			for p := c.body; len(p) > 0; p = p[min(size, len(p)):] {
				m.Add(p[:min(size, len(p))])
			}
			if m.Total() != c.want {
				t.Errorf("%.20x in pieces of %d: %d messages, want %d", c.body, size, m.Total(), c.want)
			}
		}
	}
	var off GRPCMessages
	off.Add(messages(1))
	if off.Total() != 0 {
		t.Error("it counts without being asked")
	}
}

type counter uint64

func (c *counter) CountMessages(n uint64) { *c += counter(n) }

func TestGRPCMessagesTell(t *testing.T) {
	var m GRPCMessages
	var c, other counter
	m.Start()
	m.Settle() // with nobody to tell
	m.Add(messages(1, 1))
	m.TellTo(&c)
	m.TellTo(&other) // the first stays
	if c != 0 {
		t.Errorf("%d before the next piece", c)
	}
	m.Add(messages(1))
	if c != 3 {
		t.Errorf("%d messages were told, want 3", c)
	}
	m.Settle()
	if c != 3 || other != 0 {
		t.Errorf("%d and %d messages were told, want 3 and 0", c, other)
	}
	var late GRPCMessages
	late.Start()
	late.Add(messages(1))
	late.TellTo(&other)
	late.Settle()
	if other != 1 {
		t.Errorf("%d messages were told at the end, want 1", other)
	}
}

// FuzzGRPCMessages cuts a body in two places and compares with a reader that
// has all of it.
func FuzzGRPCMessages(f *testing.F) {
	f.Add(messages(1, 0, 300), 3, 9)
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0}, 1, 5)
	f.Fuzz(func(t *testing.T, body []byte, a, b int) {
		want := uint64(0)
		for p := body; len(p) > 0; {
			want++
			if len(p) < grpcPrefix {
				break
			}
			n := uint64(binary.BigEndian.Uint32(p[1:]))
			p = p[grpcPrefix:]
			p = p[min(n, uint64(len(p))):]
		}
		a = min(max(a, 0), len(body))
		b = min(max(b, a), len(body))
		var m GRPCMessages
		m.Start()
		m.Add(body[:a])
		m.Add(body[a:b])
		m.Add(body[b:])
		if m.Total() != want {
			t.Fatalf("%x cut at %d and %d: %d messages, want %d", body, a, b, m.Total(), want)
		}
	})
}

func BenchmarkGRPCMessages(b *testing.B) {
	for _, size := range []int{10, 1000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			piece := messages(size)
			var m GRPCMessages
			m.Start()
			b.ReportAllocs()
			for b.Loop() {
				m.Add(piece)
			}
		})
	}
}

func TestHostStatus(t *testing.T) {
	for _, c := range []struct {
		name          string
		grpc          bool
		http          int
		head, trailer string
		early, late   int // 0: not known then
	}{
		{"plain", false, 503, "", "", 503, 503},
		{"plain with a grpc-status", false, 200, "14", "14", 200, 200},
		{"only trailers", true, 200, "14", "", 503, 503},
		{"only trailers, fine", true, 200, "0", "", 200, 200},
		{"the head counts first", true, 500, "5", "", 404, 404},
		{"HTTP failure", true, 502, "", "", 502, 502},
		{"in trailers", true, 200, "", "13", 0, 500},
		{"fine in trailers", true, 200, "", "0", 0, 200},
		{"no such code", true, 200, "", "99", 0, 500},
		{"without a status", true, 200, "", "", 0, 200},
	} {
		ex := Exchange{GRPC: c.grpc}
		ex.Resp.Status = c.http
		if c.head != "" {
			ex.Resp.Fields.AddID(HeaderGRPCStatus, []byte(c.head))
		}
		if c.trailer != "" {
			ex.RespTrailers = &Fields{}
			ex.RespTrailers.AddID(HeaderGRPCStatus, []byte(c.trailer))
		}
		if got, known := ex.HostStatus(false); got != c.early || known != (c.early != 0) {
			t.Errorf("%s: at the head %d, %t, want %d", c.name, got, known, c.early)
		}
		if got, known := ex.HostStatus(true); got != c.late || !known {
			t.Errorf("%s: at the end %d, %t, want %d", c.name, got, known, c.late)
		}
	}
}

func TestErrorGRPCStatus(t *testing.T) {
	for _, c := range []struct {
		err    Error
		status int
		want   GRPCCode
	}{
		{Error{GRPC: 4}, 504, GRPCDeadlineExceeded}, {Error{}, 504, GRPCUnavailable}, {Error{}, 200, GRPCUnknown},
		{Error{Kind: KindInjected}, 503, GRPCUnavailable}, {Error{Kind: KindInjected}, 200, GRPCOK},
		{Error{Kind: KindInjected, GRPC: 7}, 200, GRPCPermissionDenied},
	} {
		if got := c.err.GRPCStatus(c.status); got != c.want {
			t.Errorf("%+v as %d: %d, want %d", c.err, c.status, got, c.want)
		}
	}
}
