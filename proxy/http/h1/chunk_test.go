// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"fmt"
	"strings"
	"testing"

	"pillion/proxy/http"
)

// decode runs pieces of a chunked body through d and describes the content,
// the trailers, and what is left behind the end, or the error.
func decode(t *testing.T, d *ChunkDecoder, pieces ...string) string {
	t.Helper()
	var content strings.Builder
	for i, piece := range pieces {
		src := []byte(piece)
		for {
			data, n, done, err := d.Next(src)
			if err != nil {
				if again, _, _, err2 := d.Next(src[n:]); len(src) > n && (err2 == nil || again != nil) {
					t.Errorf("%q: goes on after an error", pieces)
				}
				return fmt.Sprintf("%d error %d %s", content.Len(), err.Status, err.Detail)
			}
			content.Write(data)
			src = src[n:]
			if done {
				if len(data) > 0 {
					t.Errorf("%q: content with done", pieces)
				}
				rest := string(src) + strings.Join(pieces[i+1:], "")
				got := fmt.Sprintf("%q", content.String())
				if tr := d.Trailers(); tr != nil {
					got += describeFields(tr)
				}
				if rest != "" {
					got += fmt.Sprintf(" rest=%q", rest)
				}
				return got
			}
			if len(data) == 0 {
				if len(src) != 0 {
					t.Errorf("%q: neither content nor done, but %q left", pieces, src)
				}
				break
			}
		}
	}
	return fmt.Sprintf("%q incomplete", content.String())
}

func TestChunks(t *testing.T) {
	const bad = "error 400 http1.codec_error"
	tests := []struct{ name, raw, want string }{
		{"empty", "0\r\n\r\n", `""`},
		{"one", "5\r\nhello\r\n0\r\n\r\nGET", `"hello" rest="GET"`},
		{"two", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", `"hello world"`},
		{"hex", "A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n", `"01234567890123456789a"`},
		{"leading zeros", "0005\r\nhello\r\n000\r\n\r\n", `"hello"`},
		{"extensions", "5;a;b=c;d=\"e f;,\xff\"\r\nhello\r\n0;z\r\n\r\n", `"hello"`},
		{"CRLF in the content", "4\r\n\r\n\r\n\r\n0\r\n\r\n", `"\r\n\r\n"`},
		{"not ended", "5\r\nhello\r\n0\r\n", `"hello" incomplete`},
		{"greatest size", "7fffffffffffffff\r\nab", `"ab" incomplete`},

		{"trailers", "1\r\na\r\n0\r\nA: 1\r\nb:2\r\n\r\nnext", `"a" [A:1] [b:2] rest="next"`},
		{"trailers of gRPC", "0\r\nGrpc-Status: 0\r\ngrpc-message: ok\r\n\r\n", `"" [Grpc-Status:0] [grpc-message:ok]`},
		{"forbidden trailers", "0\r\nContent-Length: 3\r\nTransfer-Encoding: gzip\r\nHost: a,b\r\nA: 1\r\nAuthorization: x\r\n" +
			"Cookie: c\r\nSet-Cookie: d\r\nConnection: content-length\r\nX-Forwarded-For: 1.1.1.1\r\nx-envoy-internal: true\r\n" +
			"TE: a\r\nTrailer: b\r\nCache-Control: c\r\nContent-Type: d\r\nIf-Match: e\r\nX-Request-Id: f\r\nForwarded: g\r\nB: 2\r\n\r\n",
			`"" [A:1] [B:2]`},

		{"no digit", "\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"extension only", ";a\r\n\r\n", "0 " + bad},
		{"plus", "+5\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"minus", "-5\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"0x", "0x5\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"underscore", "1_0\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"letter g", "5g\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"space in front", " 5\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"space behind", "5 \r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"space before an extension", "5 ;a\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"tab behind", "5\t\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"digit behind a space", "5 5\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"2^63", "8000000000000000\r\n", "0 " + bad},
		{"2^64-1", "ffffffffffffffff\r\n", "0 " + bad},
		{"2^64+5", "10000000000000005\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"LF ends the size", "5\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"LF ends the extension", "5;a\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"LF ends the content", "5\r\nhello\n0\r\n\r\n", "5 " + bad},
		{"CR in the extension", "5;a\rb\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"NUL in the extension", "5;a\x00\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"CR CR LF", "5\r\r\nhello\r\n0\r\n\r\n", "0 " + bad},
		{"too much content", "3\r\nhello\r\n0\r\n\r\n", "3 " + bad},
		{"too little content", "5\r\nhel\r\n0\r\n\r\n", "5 " + bad},
		{"no line end behind the content", "5\r\nhello0\r\n\r\n", "5 " + bad},
		{"CR alone behind the content", "5\r\nhello\r0\r\n\r\n", "5 " + bad},
		{"LF ends the body", "0\r\n\n", "0 " + bad},
		{"LF ends a trailer", "0\r\nA: 1\n\r\n", "0 " + bad},
		{"trailer without colon", "0\r\nA\r\n\r\n", "0 " + bad},
		{"folded trailer", "0\r\nA: 1\r\n 2\r\n\r\n", "0 " + bad},
		{"space in a trailer's name", "0\r\nA : 1\r\n\r\n", "0 " + bad},
		{"NUL in a trailer", "0\r\nA: \x00\r\n\r\n", "0 error 400 http1.invalid_characters"},
		{"too many trailers", "0\r\n" + strings.Repeat("a: b\r\n", 101) + "\r\n", "0 error 431 http1.too_many_headers"},
		{"too long trailers", "0\r\na: " + strings.Repeat("a", 60<<10), "0 error 431 http1.headers_too_large"},
	}
	var d ChunkDecoder // one for all: Reset must suffice
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d.Reset(http.SideDownstream, nil)
			if got := decode(t, &d, tt.raw); got != tt.want {
				t.Fatalf("%q:\n got %s\nwant %s", tt.raw, got, tt.want)
			}
			if len(tt.raw) > 10_000 {
				return
			}
			for cut := 1; cut < len(tt.raw); cut++ {
				d.Reset(http.SideDownstream, nil)
				if got := decode(t, &d, tt.raw[:cut], tt.raw[cut:]); got != tt.want {
					t.Fatalf("cut at %d of %q:\n got %s\nwant %s", cut, tt.raw, got, tt.want)
				}
			}
			d.Reset(http.SideDownstream, nil)
			if got := decode(t, &d, strings.Split(tt.raw, "")...); got != tt.want {
				t.Fatalf("octet by octet %q:\n got %s\nwant %s", tt.raw, got, tt.want)
			}
		})
	}
}

func TestChunksOfUpstream(t *testing.T) {
	var d ChunkDecoder
	for _, raw := range []string{"x", "5\r\nhello0", "0\r\nA\r\n\r\n", "0\r\na: " + strings.Repeat("a", 60<<10)} {
		d.Reset(http.SideUpstream, nil)
		for src := []byte(raw); ; {
			_, n, done, err := d.Next(src)
			if err == errBadResponse {
				break
			}
			if src = src[n:]; err != nil || done || len(src) == 0 {
				t.Errorf("%.20q: %v", raw, err)
				break
			}
		}
	}
}

// TestChunkLine bounds one line, whatever it is made of.
func TestChunkLine(t *testing.T) {
	for _, fill := range []string{"0", " ", ";"} {
		var d ChunkDecoder
		d.Reset(http.SideDownstream, nil)
		size := "1" + strings.Repeat(fill, 5000)
		if fill == "0" {
			size = strings.Repeat(fill, 5000) + "1"
		}
		if got := decode(t, &d, size+";a\r\nx\r\n0\r\n\r\n"); !strings.HasPrefix(got, "0 error 400") {
			t.Errorf("a line of 5000 %q: %s", fill, got)
		}
	}
	var d ChunkDecoder
	d.Reset(http.SideDownstream, &Limits{MaxChunkLine: 30})
	if got := decode(t, &d, "1;"+strings.Repeat("a", 26)+"\r\nx\r\n0\r\n\r\n"); got != `"x"` {
		t.Errorf("a line of 30: %s", got)
	}
	d.Reset(http.SideDownstream, &Limits{MaxChunkLine: 30})
	if got := decode(t, &d, "1;"+strings.Repeat("a", 27)+"\r\nx\r\n0\r\n\r\n"); !strings.HasPrefix(got, "0 error 400") {
		t.Errorf("a line of 31: %s", got)
	}
}

// TestChunkOverhead: content may come in tiny chunks, but not wrapped in
// extensions many times its size.
func TestChunkOverhead(t *testing.T) {
	run := func(chunk string, count int) (sent int, err *http.Error) {
		var d ChunkDecoder
		d.Reset(http.SideDownstream, nil)
		for range count {
			for src := []byte(chunk); len(src) > 0; {
				_, n, _, err := d.Next(src)
				sent += n
				if err != nil {
					return sent, err
				}
				src = src[n:]
			}
		}
		return sent, nil
	}
	if _, err := run("1\r\nx\r\n", 1_000_000); err != nil {
		t.Errorf("chunks of one octet: %v", err)
	}
	if _, err := run("1000;sig="+strings.Repeat("a", 90)+"\r\n"+strings.Repeat("x", 4096)+"\r\n", 1000); err != nil {
		t.Errorf("signed chunks: %v", err)
	}
	sent, err := run("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 10_000)
	if err == nil || sent > 64<<10 {
		t.Errorf("extensions of 200 octets for one of content: %v after %d", err, sent)
	}
}

// TestTrailersOwnMemory: trailers stay when the buffer they came in is gone.
func TestTrailersOwnMemory(t *testing.T) {
	var d ChunkDecoder
	d.Reset(http.SideDownstream, nil)
	src := []byte("0\r\nA: 1\r\n\r\n")
	if _, n, done, err := d.Next(src); n != len(src) || !done || err != nil {
		t.Fatal(n, done, err)
	}
	clear(src)
	if got := describeFields(d.Trailers()); got != " [A:1]" {
		t.Errorf("got %q", got)
	}
	out := AppendLastChunk(nil, d.Trailers())
	if got := string(out); got != "0\r\nA: 1\r\n\r\n" {
		t.Errorf("got %q", got)
	}
	d.Reset(http.SideDownstream, nil)
	if d.Trailers() != nil {
		t.Error("trailers outlive Reset")
	}
	var f http.Fields
	f.Add([]byte("Content-Length"), []byte("1"))
	f.Add([]byte("b"), []byte("2"))
	if got := string(AppendLastChunk(nil, &f)); got != "0\r\nb: 2\r\n\r\n" {
		t.Errorf("got %q", got)
	}
}
