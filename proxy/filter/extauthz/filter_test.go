// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/proxytest"
)

// frame is a message of gRPC with n octets more than it says.
func frame(p []byte) []byte {
	b := make([]byte, 5, 5+len(p))
	binary.BigEndian.PutUint32(b[1:], uint32(len(p)))
	return append(b, p...)
}

// grpcAnswer is a call that ended well.
func grpcAnswer(body []byte) *filter.ClientAnswer {
	a := &filter.ClientAnswer{Status: 200, Body: body}
	a.Trailers.AddID(http.HeaderGRPCStatus, []byte("0"))
	return a
}

func checkResponse(t testing.TB, m *authv3.CheckResponse) *filter.ClientAnswer {
	t.Helper()
	p, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return grpcAnswer(frame(p))
}

// TestOnlyAGoodAnswerAllows: whatever else a server of gRPC says denies.
func TestOnlyAGoodAnswerAllows(t *testing.T) {
	good := frame(nil) // an empty CheckResponse, whose status is OK
	with := func(set func(*filter.ClientAnswer)) *filter.ClientAnswer {
		a := grpcAnswer(good)
		set(a)
		return a
	}
	status := func(v string) func(*filter.ClientAnswer) {
		return func(a *filter.ClientAnswer) { a.Trailers.SetID(http.HeaderGRPCStatus, []byte(v)) }
	}
	for name, c := range map[string]struct {
		answer *filter.ClientAnswer
		err    *http.Error
		pass   bool
	}{
		"good": {answer: grpcAnswer(good), pass: true},
		"status in the head": {pass: true, answer: with(func(a *filter.ClientAnswer) {
			a.Trailers.Reset()
			a.Fields.AddID(http.HeaderGRPCStatus, []byte("0"))
		})},
		"no connection": {err: &http.Error{Kind: http.KindConnectFailure}},
		"too late":      {err: &http.Error{Kind: http.KindTimeout}},
		"no status":     {answer: with(func(a *filter.ClientAnswer) { a.Trailers.Reset() })},
		"status 7":      {answer: with(status("7"))},
		"status x":      {answer: with(status("x"))},
		"empty status":  {answer: with(status(""))},
		"HTTP 403":      {answer: with(func(a *filter.ClientAnswer) { a.Status = 403 })},
		"HTTP 204":      {answer: with(func(a *filter.ClientAnswer) { a.Status = 204 })},
		"no message":    {answer: grpcAnswer(nil)},
		"half a frame":  {answer: grpcAnswer(good[:4])},
		"compressed":    {answer: grpcAnswer([]byte{1, 0, 0, 0, 0})},
		"two messages":  {answer: grpcAnswer(slices.Concat(good, good))},
		"too short":     {answer: grpcAnswer([]byte{0, 0, 0, 0, 9, 1})},
		"a huge length": {answer: grpcAnswer([]byte{0, 0xff, 0xff, 0xff, 0xff, 1})},
		"no protobuf":   {answer: grpcAnswer(frame([]byte{0xff, 0xff, 0xff}))},
		"no UTF-8":      {answer: grpcAnswer(frame([]byte{0x0a, 3, 0x12, 1, 0xff}))},
	} {
		f, counters := build(t, overGRPC(), &server{answer: c.answer, err: c.err})
		ex := exchange()
		passed := f.OnRequest(ex) == filter.Continue
		if passed != c.pass {
			t.Errorf("%s: passed %t", name, passed)
		}
		if !passed && (ex.LocalReply.Status != 403 || ex.LocalReply.Err.Detail != "ext_authz_error" || ex.LocalReply.Err.Flag != http.FlagUnauthorizedExternal) {
			t.Errorf("%s: the reply is %+v, %+v", name, ex.LocalReply, ex.LocalReply.Err)
		}
		if got, want := counters.all.by[outcomeError].Value(), uint64(1); (got == want) == c.pass {
			t.Errorf("%s: %d errors", name, got)
		}
	}
}

// TestFailureModeAllow lets requests pass when there is no answer, and denies
// those that the server denies all the same.
func TestFailureModeAllow(t *testing.T) {
	cfg := overGRPC()
	cfg.FailureModeAllow, cfg.FailureModeAllowHeaderAdd = true, true
	f, counters := build(t, cfg, &server{err: &http.Error{Kind: http.KindTimeout}})
	ex := exchange()
	if f.OnRequest(ex) != filter.Continue || text(ex.Req.Fields.All()) != "x-envoy-auth-failure-mode-allowed: true|" {
		t.Errorf("%+v, %s", ex.LocalReply, text(ex.Req.Fields.All()))
	}
	if c := counters.of("up"); c.by[outcomeFailureAllowed].Value() != 1 || c.by[outcomeError].Value() != 1 {
		t.Error("it isn't counted")
	}
	f, _ = build(t, cfg, &server{answer: checkResponse(t, &authv3.CheckResponse{Status: status(7)})})
	if f.OnRequest(exchange()) != filter.Reply {
		t.Error("a denial is taken for a failure")
	}
}

// TestUnsoundAnswers: what a server asks for is done as a whole or the request
// fails, and nothing it says can break a message apart, whatever
// validate_mutations says.
func TestUnsoundAnswers(t *testing.T) {
	request := func(name, value string) *authv3.CheckResponse {
		return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: options(name, value)}}}
	}
	response := func(name, value string) *authv3.CheckResponse {
		return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{ResponseHeadersToAdd: options(name, value)}}}
	}
	reply := func(code typev3.StatusCode, name, value string) *authv3.CheckResponse {
		return &authv3.CheckResponse{Status: status(7), HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: code}, Headers: options(name, value)}}}
	}
	query := func(key, value string) *authv3.CheckResponse {
		return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			QueryParametersToSet: []*corev3.QueryParameter{{Key: key, Value: value}}}}}
	}
	for name, m := range map[string]*authv3.CheckResponse{
		"CRLF":             request("x-a", "1\r\nx-b: 2"),
		"LF":               request("x-a", "1\n2"),
		"NUL":              request("x-a", "1\x002"),
		"DEL":              request("x-a", "\x7f"),
		"name with space":  request("x a", "1"),
		"name with CRLF":   request("x\r\na", "1"),
		"name with colon":  request("x:a", "1"),
		"no name":          request("", "1"),
		"a colon alone":    request(":", "1"),
		"path":             request(":path", "p"),
		"path with space":  request(":path", "/p HTTP/1.1"),
		"no path":          request(":path", ""),
		"fragment":         request(":path", "/p#x"),
		"method":           request(":method", "G T"),
		"CONNECT":          request(":method", "CONNECT"),
		"scheme":           request(":scheme", "ftp"),
		"authority":        request(":authority", "a b"),
		"no authority":     request("host", ""),
		"response":         response("x-a", "1\r\n"),
		"response's name":  response("x\n", "1"),
		"reply":            reply(403, "x-a", "\r"),
		"interim status":   reply(100, "x-a", "1"),
		"switch":           reply(101, "x-a", "1"),
		"status too large": reply(600, "x-a", "1"),
		"query":            query("a", "b c"),
		"query's key":      query("a\n", "b"),
		"query's end":      query("a", "b#c"),
	} {
		f, counters := build(t, overGRPC(), &server{answer: checkResponse(t, m)})
		ex := exchange()
		if f.OnRequest(ex) != filter.Reply || ex.LocalReply.Status != 500 || ex.LocalReply.Err.Detail != "ext_authz_invalid" || len(ex.LocalReply.Headers) != 0 {
			t.Errorf("%s: the reply is %+v", name, ex.LocalReply)
		}
		if counters.all.by[outcomeInvalid].Value() != 1 {
			t.Errorf("%s: it isn't counted", name)
		}
	}
}

func options(name, value string) []*corev3.HeaderValueOption {
	return []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: name, RawValue: []byte(value)}}}
}

// TestFramingIsOurs: what a server says of the framing of messages is not
// heeded, in either direction.
func TestFramingIsOurs(t *testing.T) {
	for _, name := range []string{"content-length", "Transfer-Encoding", "connection", "upgrade", "te", "keep-alive", "trailer", "expect"} {
		m := &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: options(name, "1"), ResponseHeadersToAdd: options(name, "1"), HeadersToRemove: []string{name}}}}
		f, _ := build(t, overGRPC(), &server{answer: checkResponse(t, m)})
		ex := exchange("content-length: 7", "x-a: 1")
		if f.OnRequest(ex) != filter.Continue || text(ex.Req.Fields.All()) != "content-length: 7|x-a: 1|" {
			t.Errorf("%s: the request has %s", name, text(ex.Req.Fields.All()))
		}
		f.OnResponse(ex)
		if ex.Resp.Fields.Len() != 0 {
			t.Errorf("%s: the response has %s", name, text(ex.Resp.Fields.All()))
		}
	}
}

func TestTooManyFields(t *testing.T) {
	m := &authv3.OkHttpResponse{}
	for i := range 101 {
		m.Headers = append(m.Headers, options("x-"+strings.Repeat("a", i+1), "v")...)
	}
	for _, m := range []*authv3.OkHttpResponse{m, {Headers: options("x-a", strings.Repeat("v", 61<<10))}} {
		f, _ := build(t, overGRPC(), &server{answer: checkResponse(t, &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: m}})})
		if ex := exchange(); f.OnRequest(ex) != filter.Reply || ex.LocalReply.Status != 500 {
			t.Errorf("the reply is %+v", ex.LocalReply)
		}
	}
}

// TestCancelled: a client that leaves ends the call, and the exchange, at once.
func TestCancelled(t *testing.T) {
	for _, cfg := range []*extauthzv3.ExtAuthz{overGRPC(), overHTTP()} {
		synctest.Test(t, func(t *testing.T) {
			cfg.FailureModeAllow = true // which is about servers
			f, counters := build(t, cfg, &server{wait: true})
			gone := make(chan struct{})
			ex := exchange()
			ex.Cancelled = gone
			begun := time.Now()
			time.AfterFunc(time.Second, func() { close(gone) })
			if f.OnRequest(ex) != filter.Reply || ex.LocalReply.Err.Kind != http.KindClientGone || time.Since(begun) != time.Second {
				t.Errorf("%+v after %v", ex.LocalReply, time.Since(begun))
			}
			if counters.all.by[outcomeError].Value() != 0 {
				t.Error("the server is blamed")
			}
		})
	}
}

// TestSlowServer: the call's time bounds the wait.
func TestSlowServer(t *testing.T) {
	for _, cfg := range []*extauthzv3.ExtAuthz{overGRPC(), overHTTP()} {
		synctest.Test(t, func(t *testing.T) {
			f, _ := build(t, cfg, &server{wait: true})
			begun := time.Now()
			ex := exchange()
			if f.OnRequest(ex) != filter.Reply || time.Since(begun) != 5*time.Second || ex.LocalReply.Status != 403 {
				t.Errorf("%+v after %v", ex.LocalReply, time.Since(begun))
			}
		})
	}
}

// TestEnabledByMetadata is how Istio's CUSTOM action has only those requests
// checked that a shadow policy matches.
func TestEnabledByMetadata(t *testing.T) {
	const ns, key = "envoy.filters.http.rbac", "istio_ext_authz_shadow_effective_policy_id"
	cfg := overGRPC()
	cfg.FilterEnabledMetadata = &matcherv3.MetadataMatcher{Filter: ns, Path: []*matcherv3.MetadataMatcher_PathSegment{
		{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}}},
		Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "istio-ext-authz-opa-"}}}}}
	s := &server{err: &http.Error{Kind: http.KindTimeout}}
	f, counters := build(t, cfg, s)
	for id, checked := range map[string]bool{"istio-ext-authz-opa-ns[a]-policy[b]-rule[0]": true, "istio-ext-authz-other-x": false, "": false} {
		ex := exchange()
		if id != "" {
			ex.Metadata.SetField(ns, key, id)
		}
		s.calls = nil
		waits := f.Waits(ex)
		passed := f.OnRequest(ex) == filter.Continue
		if waits != checked || passed == checked || len(s.calls) > 0 != checked {
			t.Errorf("%q: waits %t, passed %t, %d calls", id, waits, passed, len(s.calls))
		}
	}
	if counters.all.disabled.Value() != 2 {
		t.Errorf("%d are counted as disabled", counters.all.disabled.Value())
	}
	ex := exchange()
	ex.Metadata.SetField(ns, key, "istio-ext-authz-other-x")
	proxytest.NoAllocs(t, "a request that isn't checked", func() {
		if !f.Waits(ex) {
			f.OnRequest(ex)
		}
	})
}

// TestShareOfRequests holds that filter_enabled takes its share, and the same
// requests each time.
func TestShareOfRequests(t *testing.T) {
	cfg := overGRPC()
	cfg.FilterEnabled = &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 25}}
	f, _ := build(t, cfg, &server{})
	n := 0
	for i := range uint64(10000) {
		ex := &http.Exchange{Random: i}
		waits := f.Waits(ex)
		if waits {
			n++
		}
		if again := f.Waits(ex); again != waits {
			t.Fatal("it can't decide")
		}
	}
	if n < 2300 || n > 2700 {
		t.Errorf("%d of 10000 are checked, want 2500", n)
	}
}

func TestBody(t *testing.T) {
	for _, c := range []struct {
		partial bool
		body    http.EarlyBody
		reply   int
		sent    string
		says    string
	}{
		{false, http.EarlyBody{Data: []byte("0123456789"), Whole: true}, 0, "0123456789", "false"},
		{false, http.EarlyBody{Data: []byte("0123456789a")}, 413, "", ""},
		{true, http.EarlyBody{Data: []byte("0123456789a")}, 0, "0123456789", "true"},
		{true, http.EarlyBody{Data: []byte("0123456789")}, 0, "0123456789", "true"},
		{true, http.EarlyBody{Data: []byte("0123456789"), Whole: true}, 0, "0123456789", "false"},
		{true, http.EarlyBody{Whole: true}, 0, "", "false"},
	} {
		cfg := overHTTP()
		cfg.WithRequestBody = &extauthzv3.BufferSettings{MaxRequestBytes: 10, AllowPartialMessage: c.partial}
		s := &server{answer: &filter.ClientAnswer{Status: 200}}
		f, _ := build(t, cfg, s)
		ex := exchange("x-envoy-auth-partial-body: lie")
		ex.EarlyBody = &c.body
		if f.OnRequest(ex) == filter.Reply != (c.reply != 0) || ex.LocalReply.Status != c.reply {
			t.Errorf("%q: %+v", c.body.Data, ex.LocalReply)
			continue
		}
		if c.reply != 0 {
			if len(s.calls) != 0 || ex.LocalReply.Err.Detail != "request_payload_too_large" {
				t.Errorf("%q: %d calls, %+v", c.body.Data, len(s.calls), ex.LocalReply.Err)
			}
			continue
		}
		says, _ := s.calls[0].Fields.Lookup(http.HeaderOther, partialBodyName)
		if string(s.calls[0].Body) != c.sent || string(says) != c.says {
			t.Errorf("%q: the server sees %q, partial %s", c.body.Data, s.calls[0].Body, says)
		}
	}
}

// TestUnverifiedPeer: a server isn't told who a client claims to be.
func TestUnverifiedPeer(t *testing.T) {
	for _, verified := range []bool{false, true} {
		s := &server{answer: grpcAnswer(frame(nil))}
		cfg := overGRPC()
		cfg.IncludePeerCertificate, cfg.IncludeTlsSession, cfg.BootstrapMetadataLabelsKey = true, true, "LABELS"
		f, _ := build(t, cfg, s)
		ex := exchange()
		ex.Conn = &http.ConnInfo{Local: "[::1]:80", Remote: "10.0.0.2:1", OriginalDst: "10.1.1.1:8080", SNI: "a.b", TLS: &http.TLSInfo{PeerVerified: verified,
			Peer: &http.Certificate{URIs: []string{"spiffe://a/b"}, Chain: [][]byte{[]byte("a certificate?")}}, Own: &http.Certificate{DNS: []string{"me"}}}}
		f.OnRequest(ex)
		var m authv3.CheckRequest
		if err := proto.Unmarshal(s.calls[0].Body[5:], &m); err != nil {
			t.Fatal(err)
		}
		a := m.GetAttributes()
		principal, certificate := "", ""
		if verified {
			principal, certificate = "spiffe://a/b", "-----BEGIN%20CERTIFICATE-----%0AYSBjZXJ0aWZpY2F0ZT8%3D%0A-----END%20CERTIFICATE-----%0A"
		}
		if a.GetSource().GetPrincipal() != principal || a.GetSource().GetCertificate() != certificate {
			t.Errorf("verified %t: the source is %v", verified, a.GetSource())
		}
		d := a.GetDestination()
		if d.GetPrincipal() != "me" || d.GetLabels()["app"] != "a" || d.GetAddress().GetSocketAddress().GetPortValue() != 8080 || a.GetTlsSession().GetSni() != "a.b" {
			t.Errorf("the destination is %v, the session %v", d, a.GetTlsSession())
		}
	}
}
