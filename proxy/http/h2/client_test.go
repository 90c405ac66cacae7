// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"testing"

	"golang.org/x/net/http2"

	"pillion/proxy/http"
)

func request() *http.RequestHead {
	return &http.RequestHead{RawMethod: []byte("POST"), Method: http.MethodPost, Scheme: []byte("http"), Authority: []byte("a"), Path: []byte("/")}
}

func (p *peer) open(h *http.RequestHead, end bool) (*events, *http.Error) {
	r := &events{s: &Stream{}}
	_, err := p.c.Open(r.s, r, h, end)
	p.c.Flush()
	return r, err
}

func TestClientStream(t *testing.T) {
	p := server(t, &Config{})
	r, _ := p.open(request(), false)
	p.want("HEADERS 1 :method=POST :scheme=http :path=/ :authority=a")
	p.headers(1, false, ":status", "103", "link", "x")
	p.headers(1, false, ":status", "200")
	p.fr.WriteData(1, false, []byte("hello"))
	p.headers(1, true, "x", "y")
	r.got(t, "head(103) head(200) data(5) trailers(1).end")
	p.send(func() { r.s.Data([]byte("late"), true) })
	p.want("DATA 1 4 end")
	if !r.s.Closed() {
		t.Error("the stream stays open")
	}
}

// TestHeadOfNothing holds that a response to HEAD may name the length of a
// body that doesn't come, however it ends.
func TestHeadOfNothing(t *testing.T) {
	p := server(t, &Config{})
	h := request()
	h.Method, h.RawMethod = http.MethodHead, []byte("HEAD")
	r, _ := p.open(h, true)
	p.want("HEADERS 1 end")
	p.headers(1, false, ":status", "200", "content-length", "5")
	p.fr.WriteData(1, true, nil)
	r.got(t, "head(200) data(0).end")
	if r, err := p.open(request(), true); err == nil {
		p.want("HEADERS 3 end")
		p.headers(3, false, ":status", "200", "content-length", "5")
		p.fr.WriteData(3, true, nil)
		r.got(t, "head(200) reset(upstream_reset_before_response_started{protocol_error})")
		p.want("RST_STREAM 3 PROTOCOL_ERROR")
	}
}

// TestLengthOfNothing holds that a response may not name the length of a body
// that its head leaves no place for.
func TestLengthOfNothing(t *testing.T) {
	p := server(t, &Config{})
	r, _ := p.open(request(), true)
	p.want("HEADERS 1 end")
	p.headers(1, true, ":status", "200", "content-length", "5")
	r.got(t, "reset(upstream_reset_before_response_started{protocol_error})")
	p.want("RST_STREAM 1 PROTOCOL_ERROR")
}

func TestServerResets(t *testing.T) {
	p := server(t, &Config{})
	for i, tc := range []struct {
		code http2.ErrCode
		want string
	}{
		{http2.ErrCodeInternal, "reset(upstream_reset_before_response_started{remote_reset})"},
		{http2.ErrCodeRefusedStream, "reset(upstream_reset_before_response_started{remote_refused_stream_reset})"},
	} {
		r, _ := p.open(request(), false)
		p.want("HEADERS")
		p.fr.WriteRSTStream(uint32(2*i+1), tc.code)
		r.got(t, tc.want)
	}
	r, _ := p.open(request(), false)
	p.want("HEADERS 5")
	p.send(func() { r.s.Reset(CodeCancel) })
	p.want("RST_STREAM 5 CANCEL")
	p.headers(5, true, ":status", "200") // it crossed
	p.quiet()
}

func TestServerGoesAway(t *testing.T) {
	p := server(t, &Config{})
	a, _ := p.open(request(), true)
	b, _ := p.open(request(), true)
	p.want("HEADERS 1", "HEADERS 3")
	p.fr.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
	p.sync()
	if _, err := p.open(request(), true); err == nil || p.c.Usable() || p.c.Capacity() > 0 {
		t.Errorf("a stream is opened behind GOAWAY: %v", err)
	}
	p.fr.WriteGoAway(1, http2.ErrCodeNo, nil)
	b.got(t, "reset(upstream_reset_before_response_started{remote_refused_stream_reset})")
	p.headers(1, true, ":status", "200")
	a.got(t, "head(200).end")
	p.closed()
}

func TestServersMaxStreams(t *testing.T) {
	p := server(t, &Config{}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	p.sync()
	p.open(request(), true)
	p.want("HEADERS 1")
	if _, err := p.open(request(), true); err == nil {
		t.Errorf("a second stream: %v", err)
	}
	p.headers(1, true, ":status", "200")
	p.sync()
	if _, err := p.open(request(), true); err != nil {
		t.Errorf("a stream after the first: %v", err)
	}
}

// TestLoss holds that the end of a connection ends each stream once.
func TestLoss(t *testing.T) {
	p := server(t, &Config{})
	a, _ := p.open(request(), false)
	b, _ := p.open(request(), false)
	p.headers(1, false, ":status", "200")
	a.got(t, "head(200)")
	_ = p.nc.Close()
	<-p.ran
	a.got(t, "head(200) reset(upstream_reset_before_response_started{connection_termination})")
	if b.reset != 1 {
		t.Errorf("%d resets of the other stream", b.reset)
	}
	if _, err := p.open(request(), true); err == nil {
		t.Error("a stream is opened on a closed connection")
	}
}
