// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"testing"

	"pillion/proxy/http"
)

// benchRequest is what a browser-like client in a mesh sends: ten fields.
const benchRequest = "GET /productpage/api/v1/reviews/1?u=normal HTTP/1.1\r\n" +
	"Host: reviews.default.svc.cluster.local:9080\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\n" +
	"Connection: keep-alive\r\n" +
	"end-user: jason\r\n" +
	"X-Request-Id: 3e4e0f2c-7b7f-9f3a-a7d5-35d2b4f3d1c0\r\n" +
	"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n" +
	"Cookie: session=eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9\r\n\r\n"

const benchResponse = "HTTP/1.1 200 OK\r\n" +
	"Content-Type: application/json; charset=utf-8\r\n" +
	"Content-Length: 1024\r\n" +
	"Date: Mon, 23 Nov 2026 13:04:02 GMT\r\n" +
	"Server: gunicorn\r\n" +
	"X-Envoy-Upstream-Service-Time: 4\r\n" +
	"Connection: keep-alive\r\n\r\n"

func BenchmarkRequest(b *testing.B) {
	var p Parser
	var h http.RequestHead
	buf := []byte(benchRequest)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if n, err := p.Request(buf, &h, nil); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkResponse(b *testing.B) {
	var p Parser
	var h http.ResponseHead
	buf := []byte(benchResponse)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if n, err := p.Response(buf, Sent{Method: http.MethodGet}, &h, nil); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkForward is the codec's whole share of passing one request on.
func BenchmarkForward(b *testing.B) {
	var p Parser
	var h http.RequestHead
	buf, out := []byte(benchRequest), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if n, err := p.Request(buf, &h, nil); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
		StripRequestHop(&h)
		out = AppendRequest(out[:0], &h, RequestFraming(&h, true), PersistDefault)
	}
}

func BenchmarkChunks(b *testing.B) {
	var d ChunkDecoder
	piece := make([]byte, 1024)
	var src []byte
	for range 16 {
		src = append(AppendChunkHeader(src, len(piece)), piece...)
		src = AppendChunkEnd(src)
	}
	src = AppendLastChunk(src, nil)
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		d.Reset(http.SideDownstream, nil)
		for rest := src; ; {
			_, n, done, err := d.Next(rest)
			if err != nil {
				b.Fatal(err)
			}
			if rest = rest[n:]; done {
				break
			}
		}
	}
}
