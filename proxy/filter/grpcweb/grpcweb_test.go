// SPDX-License-Identifier: Apache-2.0

package grpcweb

import (
	"strings"
	"testing"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

var (
	_ filter.RequestFilter = (*Filter)(nil)
	_ filter.StreamWrapper = (*Filter)(nil)
)

// request makes an exchange with name: value lines.
func request(lines ...string) *http.Exchange {
	ex := &http.Exchange{}
	add(&ex.Req.Fields, lines...)
	return ex
}

func add(f *http.Fields, lines ...string) {
	for _, l := range lines {
		k, v, _ := strings.Cut(l, ": ")
		f.Add([]byte(k), []byte(v))
	}
}

func text(f *http.Fields) string {
	var b strings.Builder
	for _, fl := range f.All() {
		b.WriteString(string(fl.Name) + ": " + string(fl.Value) + "|")
	}
	return b.String()
}

// TestRequestHead holds what Envoy 1.40 sends to the service.
func TestRequestHead(t *testing.T) {
	const made = "te: trailers|grpc-accept-encoding: identity|"
	for _, c := range []struct {
		lines []string
		web   http.GRPCWeb
		want  string
	}{
		{[]string{"content-type: application/grpc-web"}, http.GRPCWeb{On: true}, "content-type: application/grpc|" + made},
		{[]string{"content-type: application/grpc-web+proto", "content-length: 5"}, http.GRPCWeb{On: true}, "content-type: application/grpc|" + made},
		{[]string{"Content-Type: application/grpc-web-text"}, http.GRPCWeb{On: true, TextRequest: true}, "Content-Type: application/grpc|" + made},
		{[]string{"content-type: application/grpc-web-text+proto", "accept: application/grpc-web-text"},
			http.GRPCWeb{On: true, TextRequest: true, TextResponse: true},
			"content-type: application/grpc|accept: application/grpc-web-text|" + made},
		{[]string{"content-type: application/grpc-web", "accept: application/grpc-web-text+proto", "te: foo", "Grpc-Accept-Encoding: gzip"},
			http.GRPCWeb{On: true, TextResponse: true},
			"content-type: application/grpc|accept: application/grpc-web-text+proto|te: trailers|Grpc-Accept-Encoding: gzip|"},
		{[]string{"content-type: application/grpc-web+json", "content-length: 5"}, http.GRPCWeb{}, "content-type: application/grpc-web+json|content-length: 5|"},
		{[]string{"content-type: application/grpc-web; charset=utf-8"}, http.GRPCWeb{}, "content-type: application/grpc-web; charset=utf-8|"},
		{[]string{"content-type: application/grpc"}, http.GRPCWeb{}, "content-type: application/grpc|"},
		{nil, http.GRPCWeb{}, ""},
	} {
		ex := request(c.lines...)
		ex.Req.Framing = http.Framing{Kind: http.BodyLength, Length: 5}
		if New().OnRequest(ex) != filter.Continue {
			t.Fatal("a request is refused")
		}
		kind := http.BodyLength
		if c.web.On {
			kind = http.BodyStream
		}
		if ex.GRPCWeb != c.web || ex.GRPC != c.web.On || ex.Req.Framing.Kind != kind {
			t.Errorf("%q: %+v, gRPC %t, framing %v", c.lines, ex.GRPCWeb, ex.GRPC, ex.Req.Framing)
		}
		if got := text(&ex.Req.Fields); got != c.want {
			t.Errorf("%q:\n%s\n%s", c.lines, got, c.want)
		}
	}
}

func TestRequestWithoutBody(t *testing.T) {
	ex := request("content-type: application/grpc-web")
	New().OnRequest(ex)
	if ex.Req.Framing.Kind != http.BodyNone {
		t.Errorf("the framing is %v", ex.Req.Framing)
	}
}

func TestWrapOnlyGRPCWeb(t *testing.T) {
	down := &client{}
	ex := request("content-type: application/grpc")
	f := New()
	f.OnRequest(ex)
	if f.Wrap(ex, down) != http.ServerStream(down) {
		t.Error("a plain gRPC exchange is wrapped")
	}
	ex = request("content-type: application/grpc-web")
	f.OnRequest(ex)
	if f.Wrap(ex, down) == http.ServerStream(down) {
		t.Error("a gRPC-Web exchange is not wrapped")
	}
}
