// SPDX-License-Identifier: Apache-2.0

package grpcweb

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"testing"

	"pillion/proxy/http"
)

// client is the codec of a client: it sends body in pieces of the given size,
// and keeps what it is sent.
type client struct {
	http.ServerStream
	body []byte
	size int
	fail error // in place of io.EOF

	head  *http.ResponseHead
	heads int
	got   []byte
	ended bool
}

func (c *client) ReadBody() ([]byte, error) {
	if len(c.body) == 0 {
		if c.fail != nil {
			return nil, c.fail
		}
		return nil, io.EOF
	}
	n := min(max(c.size, 1), len(c.body))
	p := c.body[:n]
	c.body = c.body[n:]
	return p, nil
}

func (c *client) WriteHead(h *http.ResponseHead, end bool) error {
	c.head, c.ended = h, end
	c.heads++
	return nil
}

func (c *client) WriteBody(p []byte, end bool) error {
	if c.head == nil || c.ended {
		return errors.New("out of order")
	}
	c.got, c.ended = append(c.got, p...), end
	return nil
}

func wrap(c *client, lines ...string) (*http.Exchange, http.ServerStream) {
	ex := request(lines...)
	f := New()
	f.OnRequest(ex)
	return ex, f.Wrap(ex, c)
}

func readAll(s http.ServerStream) (all []byte, err error) {
	for {
		p, err := s.ReadBody()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, p...)
	}
}

const (
	binaryType = "content-type: application/grpc-web+proto"
	textType   = "content-type: application/grpc-web-text"
	wantsText  = "accept: application/grpc-web-text"
)

func TestRequestBody(t *testing.T) {
	body := []byte{0, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9}
	joined := base64.StdEncoding.EncodeToString(body)
	// Each message by itself, as clients that stream have it.
	apart := base64.StdEncoding.EncodeToString(body[:7]) + base64.StdEncoding.EncodeToString(body[7:])
	for name, c := range map[string]struct{ kind, body string }{
		"binary": {binaryType, string(body)}, "text": {textType, joined}, "messages apart": {textType, apart}, "empty": {textType, ""},
	} {
		want := string(body)
		if c.body == "" {
			want = ""
		}
		for size := 1; size <= len(c.body)+1; size++ {
			_, s := wrap(&client{body: []byte(c.body), size: size}, c.kind)
			got, err := readAll(s)
			if err != nil || string(got) != want {
				t.Errorf("%s in pieces of %d: %x, %v", name, size, got, err)
			}
		}
	}
}

func TestBadRequestBody(t *testing.T) {
	broken := &http.Error{Detail: "gone"}
	for body, want := range map[string]string{
		"AAA": errBase64Size.Detail, "A": errBase64Size.Detail, "AAAAAA==A": errBase64Size.Detail,
		"AAAA!AAA": errBase64Data.Detail, "A===": errBase64Data.Detail, "====": errBase64Data.Detail, "AA=A": errBase64Data.Detail,
		"AAB=": errBase64Data.Detail, "AB==": errBase64Data.Detail, "AAA\n": errBase64Data.Detail, "AAA=AAA": errBase64Size.Detail,
		"-_AA": errBase64Data.Detail, "AAAA\x00": errBase64Size.Detail,
	} {
		for size := 1; size <= len(body); size++ {
			_, s := wrap(&client{body: []byte(body), size: size}, textType)
			if _, err := readAll(s); err == nil || err.Error() != want {
				t.Errorf("%q in pieces of %d: %v, want %s", body, size, err, want)
			}
		}
	}
	_, s := wrap(&client{body: []byte("AAA"), fail: broken}, textType)
	if _, err := readAll(s); err != broken {
		t.Errorf("the client's own failure becomes %v", err)
	}
}

// response is what a service says.
type response struct {
	status   int
	head     []string
	body     string
	trailers []string
	headOnly bool
}

// send gives the response to s with its body in pieces of the given size.
func (r *response) send(t *testing.T, ex *http.Exchange, s http.ServerStream, size int) {
	t.Helper()
	ex.Resp.Reset()
	ex.Resp.Status = r.status
	ex.Resp.Framing = http.Framing{Kind: http.BodyStream}
	add(&ex.Resp.Fields, r.head...)
	errs := []error{s.WriteHead(&ex.Resp, r.headOnly)}
	for p := r.body; len(p) > 0; p = p[min(size, len(p)):] {
		errs = append(errs, s.WriteBody([]byte(p[:min(size, len(p))]), false))
	}
	if r.trailers != nil {
		f := &http.Fields{}
		add(f, r.trailers...)
		errs = append(errs, s.WriteTrailers(f))
	} else if !r.headOnly {
		errs = append(errs, s.WriteBody(nil, true))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

const twoMessages = "\x00\x00\x00\x00\x05hello\x00\x00\x00\x00\x01x"

// TestResponses holds what Envoy 1.40 sends to the client.
func TestResponses(t *testing.T) {
	const grpc = "content-type: application/grpc"
	trailers := []string{"grpc-message: in trailers", "Grpc-Status: 0", "x-extra: a b"}
	const proto, base64 = "content-type: application/grpc-web+proto|", "content-type: application/grpc-web-text+proto|"
	frame := "\x80\x00\x00\x006grpc-message:in trailers\r\ngrpc-status:0\r\nx-extra:a b\r\n"
	for _, c := range []struct {
		name    string
		accept  string
		in      response
		head    string
		body    string
		newHead http.BodyKind
	}{
		{"binary", "", response{200, []string{grpc, "content-length: 16"}, twoMessages, trailers, false}, proto, twoMessages + frame, http.BodyStream},
		{"text", wantsText, response{200, []string{grpc}, twoMessages, trailers, false}, base64,
			"AAAAAAVoZWxsbw==AAAAAAF4gAAAADZncnBjLW1lc3NhZ2U6aW4gdHJhaWxlcnMNCmdycGMtc3RhdHVzOjANCngtZXh0cmE6YSBiDQo=", http.BodyStream},
		{"trailers only", "", response{200, []string{grpc, "grpc-status: 5"}, "", nil, true}, "content-type: application/grpc-web+proto|grpc-status: 5|", "", http.BodyLength},
		{"trailers only, text", wantsText, response{200, []string{grpc, "grpc-status: 5"}, "", nil, true}, "content-type: application/grpc-web-text+proto|grpc-status: 5|", "", http.BodyLength},
		{"no trailers", "", response{200, []string{grpc}, twoMessages, nil, false}, proto, twoMessages, http.BodyStream},
		{"no messages", "", response{200, []string{grpc}, "", []string{"grpc-status: 3"}, false}, proto, "\x80\x00\x00\x00\x0fgrpc-status:3\r\n", http.BodyStream},
		{"no messages, text", wantsText, response{200, []string{grpc}, "", []string{"grpc-status: 3"}, false}, base64, "gAAAAA9ncnBjLXN0YXR1czozDQo=", http.BodyStream},
		{"an empty message, text", wantsText, response{200, []string{grpc}, "\x00\x00\x00\x00\x00", []string{"grpc-status: 0"}, false}, base64, "AAAAAAA=gAAAAA9ncnBjLXN0YXR1czowDQo=", http.BodyStream},
		{"a service of gRPC-Web", "", response{200, []string{"content-type: Application/grpc-web ; a=b"}, twoMessages, trailers, false}, proto, twoMessages + frame, http.BodyStream},
		{"failure", "", response{503, []string{"content-type: text/plain", "content-length: 5"}, "plain", nil, false},
			"content-type: application/grpc-web+proto|grpc-message: plain|grpc-status: 14|content-length: 0|", "", http.BodyLength},
		{"failure with trailers", "", response{404, []string{grpc}, "oops", []string{"grpc-status: 3"}, false},
			"content-type: application/grpc-web+proto|grpc-message: oops|grpc-status: 12|content-length: 0|", "", http.BodyLength},
		{"failure in text", wantsText, response{403, []string{"content-type: text/plain"}, "no % é way", nil, false},
			"content-type: application/grpc-web-text+proto|grpc-message: no %25 %C3%A9 way|grpc-status: 7|content-length: 0|", "", http.BodyLength},
		{"not gRPC", "", response{200, []string{"content-type: text/html"}, "plain", nil, false},
			"content-type: application/grpc-web+proto|grpc-message: plain|grpc-status: 2|content-length: 0|", "", http.BodyLength},
		{"redirect", "", response{301, []string{"location: http://foo/"}, "", nil, true},
			"location: http://foo/|content-type: application/grpc-web+proto|", "", http.BodyLength},
	} {
		for size := 1; size <= len(c.in.body)+1; size++ {
			lines := []string{binaryType}
			if c.accept != "" {
				lines = append(lines, c.accept)
			}
			down := &client{}
			ex, s := wrap(down, lines...)
			c.in.send(t, ex, s, size)
			what := fmt.Sprintf("%s in pieces of %d", c.name, size)
			if down.heads != 1 || !down.ended {
				t.Fatalf("%s: %d heads, ended %t", what, down.heads, down.ended)
			}
			if got := text(&down.head.Fields); got != c.head || down.head.Status != c.in.status || down.head.Framing.Kind != c.newHead {
				t.Errorf("%s: %d %s %v, want %d %s", what, down.head.Status, got, down.head.Framing, c.in.status, c.head)
			}
			if string(down.got) != c.body {
				t.Errorf("%s: the body is %q, want %q", what, down.got, c.body)
			}
		}
	}
}

func TestLongFailure(t *testing.T) {
	down := &client{}
	ex, s := wrap(down, binaryType)
	r := response{status: 500, body: string(make([]byte, 3*maxMessage))}
	r.send(t, ex, s, 1000)
	if v, _ := down.head.Fields.Get(http.HeaderGRPCMessage); len(v) != 3*maxMessage {
		t.Errorf("the message has %d octets, want %d of three each", len(v), maxMessage)
	}
}

// TestReplyOfTheProxy: a status that the proxy itself means stays, also when
// the service's answer broke off before.
func TestReplyOfTheProxy(t *testing.T) {
	down := &client{}
	ex, s := wrap(down, binaryType)
	ex.Resp.Status = 500
	if err := errors.Join(s.WriteHead(&ex.Resp, false), s.WriteBody([]byte("half"), false)); err != nil {
		t.Fatal(err)
	}
	if down.head != nil {
		t.Fatal("the head went out before the body was there")
	}
	ex.Err = &http.Error{GRPC: 4}
	r := response{status: 504, head: []string{"content-type: text/plain"}, body: "late"}
	r.send(t, ex, s, 100)
	if got, want := text(&down.head.Fields), "content-type: application/grpc-web+proto|grpc-message: late|grpc-status: 4|content-length: 0|"; got != want || down.heads != 1 {
		t.Errorf("%d heads, the last is %s, want %s", down.heads, got, want)
	}
}

func TestBrokenOffText(t *testing.T) {
	for _, trailers := range [][]string{nil, {"grpc-status: 2"}} {
		down := &client{}
		ex, s := wrap(down, binaryType, wantsText)
		r := response{200, []string{"content-type: application/grpc"}, twoMessages[:9], trailers, false}
		r.send(t, ex, s, 4)
		want := base64.StdEncoding.EncodeToString([]byte(twoMessages[:9]))
		if trailers != nil {
			want += base64.StdEncoding.EncodeToString([]byte("\x80\x00\x00\x00\x0fgrpc-status:2\r\n"))
		}
		if string(down.got) != want {
			t.Errorf("the body is %s, want %s", down.got, want)
		}
	}
}

// FuzzTextRequest compares with the standard library, which knows no padding
// within.
func FuzzTextRequest(f *testing.F) {
	f.Add("AAAA", 1)
	f.Add("AAAAAA==AAAA", 5)
	f.Add("AAB=", 2)
	f.Fuzz(func(t *testing.T, body string, cut int) {
		var want []byte
		bad := len(body)%4 != 0
		for p := body; len(p) >= 4 && !bad; p = p[4:] {
			group, err := base64.StdEncoding.Strict().DecodeString(p[:4])
			want = append(want, group...)
			// It passes over line ends.
			bad = err != nil || len(group) == 0 || p[:4] != base64.StdEncoding.EncodeToString(group)
		}
		_, s := wrap(&client{body: []byte(body), size: min(max(cut, 1), 1<<16)}, textType)
		got, err := readAll(s)
		if (err != nil) != bad {
			t.Fatalf("%q: %v", body, err)
		}
		if !bad && string(got) != string(want) {
			t.Fatalf("%q: %x, want %x", body, got, want)
		}
	})
}

// FuzzTextResponse decodes what was sent: groups of base64 that each end with
// a message.
func FuzzTextResponse(f *testing.F) {
	f.Add([]byte(twoMessages), 3)
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1}, 1)
	f.Fuzz(func(t *testing.T, body []byte, cut int) {
		down := &client{}
		ex, s := wrap(down, binaryType, wantsText)
		r := response{200, []string{"content-type: application/grpc"}, string(body), nil, false}
		r.send(t, ex, s, min(max(cut, 1), 1<<16))
		_, back := wrap(&client{body: down.got, size: 7}, textType)
		got, err := readAll(back)
		if err != nil || string(got) != string(body) {
			t.Fatalf("%x is sent as %s, which is %x, %v", body, down.got, got, err)
		}
	})
}
