// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"bytes"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// holdTogether looks at what an answer has made of an exchange: whatever the
// server says, messages stay whole, and a request passes only as one that can
// be sent.
func holdTogether(t *testing.T, f *Filter, ex *http.Exchange) {
	t.Helper()
	whole := func(what string, fields []http.Field) {
		for _, fl := range fields {
			if !validName(fl.Name) || !validValue(fl.Value) {
				t.Errorf("%s has %q: %q", what, fl.Name, fl.Value)
			}
		}
	}
	if f.OnRequest(ex) == filter.Reply {
		if s := ex.LocalReply.Status; s < 200 || s > 599 {
			t.Errorf("the reply's status is %d", s)
		}
		whole("the reply", ex.LocalReply.Headers)
		return
	}
	h := &ex.Req
	whole("the request", h.Fields.All())
	if !validName(h.RawMethod) || h.Method != http.LookupMethod(h.RawMethod) || h.Method == http.MethodConnect {
		t.Errorf("the method is %q", h.RawMethod)
	}
	if len(h.Path) == 0 || h.Path[0] != '/' || bytes.ContainsAny(h.Path, " \r\n\x00#") {
		t.Errorf("the path is %q", h.Path)
	}
	if len(h.Authority) == 0 || bytes.ContainsAny(h.Authority, " \r\n\x00") {
		t.Errorf("the authority is %q", h.Authority)
	}
	f.OnResponse(ex)
	whole("the response", ex.Resp.Fields.All())
}

// FuzzCheckResponse gives the filter any octets for a gRPC answer's body.
func FuzzCheckResponse(f *testing.F) {
	add := func(m *authv3.CheckResponse) {
		p, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame(p), true)
	}
	f.Add([]byte(nil), false)
	add(&authv3.CheckResponse{})
	add(&authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
		Headers: options(":path", "/x?y"), HeadersToRemove: []string{"x-a"}, ResponseHeadersToAdd: options("x-b", "1"),
		QueryParametersToSet: []*corev3.QueryParameter{{Key: "a", Value: "b"}}, QueryParametersToRemove: []string{"a"}}}})
	add(&authv3.CheckResponse{Status: status(7), HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: 401}, Headers: options("set-cookie", "a"), Body: "no"}}})
	add(&authv3.CheckResponse{Status: status(13), HttpResponse: &authv3.CheckResponse_ErrorResponse{ErrorResponse: &authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: 503}, Headers: options("host", "a")}}})
	f.Fuzz(func(t *testing.T, body []byte, validate bool) {
		cfg := overGRPC()
		cfg.ValidateMutations = validate
		filter, _ := build(t, cfg, &server{answer: grpcAnswer(body)})
		holdTogether(t, filter, exchange("x-a: 1", "x-a: 2"))
	})
}

// FuzzHTTPAnswer gives it a field of an HTTP answer; codecs let no others pass
// than whole ones.
func FuzzHTTPAnswer(f *testing.F) {
	f.Add(200, "x-a", "1", "x-envoy-auth-headers-to-remove", "x-b, host")
	f.Add(403, "location", "/x", "www-authenticate", "Basic")
	f.Add(200, "x-up", ":path", "x-envoy-auth-headers-to-remove", ",,:method")
	f.Fuzz(func(t *testing.T, status int, name, value, name2, value2 string) {
		if status < 200 || status > 999 {
			t.Skip()
		}
		a := &filter.ClientAnswer{Status: status}
		for _, fl := range [][2]string{{name, value}, {name2, value2}} {
			if !validName([]byte(fl[0])) || !validValue([]byte(fl[1])) {
				t.Skip()
			}
			a.Fields.Add([]byte(fl[0]), []byte(fl[1]))
		}
		cfg := overHTTP()
		s := &server{answer: a}
		fi, _ := build(t, cfg, s)
		service := fi.service.(*httpService)
		service.upstream, service.upstreamAppend, service.onSuccess = exact(name), exact(name2), exact(name)
		holdTogether(t, fi, exchange("x-a: 1", "x-b: 1"))
	})
}
