// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pillion/bench/origin"
	"pillion/bench/proc"
	"pillion/test/need"
)

// startedAll runs an origin for a test and returns its addresses.
func startedAll(t *testing.T) (*proc.Group, string, *origin.Origin) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g := proc.NewGroup()
	t.Cleanup(g.Close)
	o, err := origin.Start(g, self, nil)
	if err != nil {
		t.Fatal(err)
	}
	return g, self, o
}

// served runs the standard library's server for HTTP/2 by prior knowledge.
func served(t *testing.T, f nethttp.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(f)
	s.Config.Protocols = &nethttp.Protocols{}
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestH2Load(t *testing.T) {
	path := need.Program(t, "h2load")
	g, _, o := startedAll(t)
	h := H2Load{Path: path, Dir: t.TempDir()}
	for _, req := range []Request{{Host: "h", Path: "/"}, {Host: "h", Path: "/", Body: 20000}} {
		req.Addr = o.Addrs[origin.HTTP][0]
		r, err := h.Run(t.Context(), g, req, 2, 3, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if r.Requests < 100 || r.Errors.Total() != 0 || r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.P999 || r.DriverCPU <= 0 || r.Duration < 900*time.Millisecond {
			t.Errorf("%+v: result %+v", req, r)
		}
	}
}

func TestH2LoadSendsTheRequest(t *testing.T) {
	path := need.Program(t, "h2load")
	var most, now atomic.Int64
	wrong := make(chan string, 1)
	addr := served(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Host != "svc:9080" || r.URL.Path != "/p" || r.Method != "POST" || r.Header.Get("end-user") != "jason" {
			select {
			case wrong <- fmt.Sprintf("%+v", r):
			default:
			}
		}
		w.WriteHeader(503)
	})
	g := proc.NewGroup()
	defer g.Close()
	req := Request{Addr: addr, Host: "svc:9080", Path: "/p", Fields: [][2]string{{"end-user", "jason"}}, Body: 1000}
	r, err := (H2Load{Path: path, Dir: t.TempDir()}).Run(t.Context(), g, req, 2, 4, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests == 0 || r.Errors.Status != r.Requests || most.Load() > 8 {
		t.Errorf("%+v, at most %d at once", r, most.Load())
	}
	select {
	case s := <-wrong:
		t.Errorf("h2load sent %s", s)
	default:
	}
}

func TestParseH2Load(t *testing.T) {
	const out = `finished in 1.50s, 64000.67 req/s, 65.49MB/s
requests: 96001 total, 96065 started, 96001 done, 95990 succeeded, 11 failed, 4 errored, 1 timeout
status codes: 95990 2xx, 0 3xx, 0 4xx, 7 5xx
traffic: 98.23MB (103004073) total, 1.83MB (1920020) headers (space savings 95.31%), 93.75MB (98305024) data
`
	r, err := parseH2Load(out)
	if want := (Result{Requests: 96001, Duration: 1500 * time.Millisecond, Errors: Errors{Status: 7, Read: 4, Timeout: 1}}); err != nil || r != want {
		t.Errorf("%+v, %v, want %+v", r, err, want)
	}
	for _, bad := range []string{"", "finished in 1.00s, 1 req/s", strings.Replace(out, "1.50s", "0.5.0s", 1), strings.Replace(out, "96001 done", strings.Repeat("9", 30)+" done", 1)} {
		if r, err := parseH2Load(bad); err == nil {
			t.Errorf("%q gives %+v", bad, r)
		}
	}
	log := filepath.Join(t.TempDir(), "log")
	if _, err := h2loadLatency(log); err == nil {
		t.Error("no log and no error")
	}
	for text, good := range map[string]bool{"1\t200\t500\n2\t200\t700\n": true, "1\t200\n": false, "1\t200\tx\n": false} {
		if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := h2loadLatency(log)
		if (err == nil) != good || good && (l.Max < 690*time.Microsecond || l.Max > 720*time.Microsecond) {
			t.Errorf("%q: %+v, %v", text, l, err)
		}
	}
}

// TestHTTP2AtTheOrigin runs each mode, closed and open, in a child.
func TestHTTP2AtTheOrigin(t *testing.T) {
	g, self, o := startedAll(t)
	for _, rate := range []float64{0, 1000} {
		for mode, addr := range map[Mode]string{Fetch: o.Addrs[origin.HTTP][0], Unary: o.Addrs[origin.GRPC][0], Messages: o.Addrs[origin.GRPC][0]} {
			t.Run(fmt.Sprintf("mode %d at %v", mode, rate), func(t *testing.T) {
				spec := HTTP2Spec{
					Request: Request{Addr: addr, Host: "h", Path: "/", Fields: [][2]string{{"end-user", "jason"}}}, Mode: mode,
					Connections: 3, Streams: 4, Rate: rate, Warmup: 100 * time.Millisecond, Duration: 400 * time.Millisecond,
				}
				if mode == Fetch {
					spec.Want = origin.BodySize
				} else {
					spec.Request.Body = 100
				}
				r, err := HTTP2Child(t.Context(), g, self, nil, spec)
				if err != nil {
					t.Fatal(err)
				}
				if r.Errors.Total() != 0 || rate > 0 && r.Requests != 500 || r.Requests < 50 {
					t.Errorf("%d requests, errors %v", r.Requests, r.Errors)
				}
				if r.Duration < 490*time.Millisecond || r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.Max || r.DriverCPU <= 0 {
					t.Errorf("result %+v", r)
				}
			})
		}
	}
}

// TestStalledBesideOthers: calls go on beside a stream that isn't read, and a
// load that has none where it should have one doesn't pass for one.
func TestStalledBesideOthers(t *testing.T) {
	_, _, o := startedAll(t)
	spec := HTTP2Spec{
		Request: Request{Addr: o.Addrs[origin.GRPC][0], Host: "h", Path: "/", Body: 100}, Mode: Unary,
		Connections: 2, Streams: 4, Stalled: 1, Duration: 300 * time.Millisecond,
	}
	r, err := RunHTTP2(t.Context(), spec)
	if err != nil || r.Errors.Total() != 0 || r.Requests < 50 {
		t.Errorf("%+v, %v", r, err)
	}
	spec.Mode, spec.Want = Fetch, origin.BodySize
	if r, err := RunHTTP2(t.Context(), spec); err == nil {
		t.Errorf("stalled GET requests: %+v", r)
	}
	l := &http2Loop{conns: []conn2{{client2: &client2{calls: map[uint32]*call2{1: {stalled: true, got: 1000}}}}}}
	if err := l.stalled(); err == nil || !strings.Contains(err.Error(), "1000 octets") {
		t.Errorf("a stream that got little: %v", err)
	}
}

// TestHTTP2AtTheLibrary has a server that looks at each request.
func TestHTTP2AtTheLibrary(t *testing.T) {
	var seen atomic.Int64
	addr := served(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if r.Host != "svc:9080" || r.URL.Path != "/p" || r.Method != "GET" || r.Header.Get("end-user") != "jason" {
			w.WriteHeader(400)
			return
		}
		if seen.Add(1)%10 == 0 {
			w.WriteHeader(503)
			return
		}
		_, _ = io.WriteString(w, "abc")
	})
	spec := HTTP2Spec{
		Request:     Request{Addr: addr, Host: "svc:9080", Path: "/p", Fields: [][2]string{{"end-user", "jason"}}},
		Connections: 2, Streams: 2, Rate: 1000, Duration: 200 * time.Millisecond, Want: 3,
	}
	r, err := RunHTTP2(t.Context(), spec)
	if err != nil || r.Requests != 200 || seen.Load() != 200 || r.Errors != (Errors{Status: 20}) {
		t.Errorf("%+v, %v; the server saw %d", r, err, seen.Load())
	}
	spec.Want = 4
	if r, err := RunHTTP2(t.Context(), spec); err != nil || r.Errors.Status != 200 {
		t.Errorf("bodies of a wrong length: %+v, %v", r, err)
	}
}

// TestGRPCAtTheLibrary has the real gRPC server answer.
func TestGRPCAtTheLibrary(t *testing.T) {
	var seen, streams atomic.Int64
	s := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		if m, _ := grpc.MethodFromServerStream(s); m != "/svc/method" {
			return status.Error(codes.Unimplemented, m)
		}
		streams.Add(1)
		for {
			var b []byte
			err := s.RecvMsg(&b)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if seen.Add(1)%10 == 0 {
				return status.Error(codes.Unavailable, "now and then")
			}
			if err := s.SendMsg(&b); err != nil {
				return err
			}
		}
	}))
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	spec := HTTP2Spec{
		Request: Request{Addr: ln.Addr().String(), Host: "svc", Path: "/svc/method", Body: 100}, Mode: Unary,
		Connections: 2, Streams: 2, Rate: 1000, Duration: 200 * time.Millisecond,
	}
	if r, err := RunHTTP2(t.Context(), spec); err != nil || r.Requests != 200 || r.Errors != (Errors{Status: 20}) {
		t.Errorf("unary: %+v, %v", r, err)
	}
	before := streams.Load()
	spec.Mode = Messages
	r, err := RunHTTP2(t.Context(), spec)
	if err != nil || r.Requests != 200 || r.Errors != (Errors{Status: 20}) {
		t.Errorf("messages: %+v, %v", r, err)
	}
	// One stream for each slot, and one for each that the server ended.
	if n := streams.Load() - before; n < 20 || n > 24 {
		t.Errorf("%d streams", n)
	}
}

// bytesCodec passes messages on as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string                  { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(b)
	return nil
}

// framed serves HTTP/2 connections frame by frame: f gets each request's
// stream.
func framed(t *testing.T, settings []http2.Setting, f func(w *http2.Framer, id uint32) bool) string {
	t.Helper()
	return handled(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := io.ReadFull(r, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		w := http2.NewFramer(c, r)
		if w.WriteSettings(settings...) != nil {
			return
		}
		for {
			x, err := w.ReadFrame()
			if err != nil {
				return
			}
			if h, ok := x.(*http2.HeadersFrame); ok && !f(w, h.StreamID) {
				return
			}
		}
	})
}

// okFields is ":status: 200".
var okFields = []byte{0x88}

func TestHTTP2CountsErrors(t *testing.T) {
	cases := []struct {
		name   string
		answer func(w *http2.Framer, id uint32) bool
		want   Errors
	}{
		{"fine", func(w *http2.Framer, id uint32) bool {
			return w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: okFields, EndHeaders: true, EndStream: true, PadLength: 4}) == nil
		}, Errors{}},
		{"fine, in pieces", func(w *http2.Framer, id uint32) bool {
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{}})
			_ = w.WriteContinuation(id, true, okFields)
			_ = w.WritePing(false, [8]byte{})
			return w.WriteDataPadded(id, true, []byte("abc"), make([]byte, 3)) == nil
		}, Errors{}},
		{"reset", func(w *http2.Framer, id uint32) bool {
			return w.WriteRSTStream(id, http2.ErrCodeRefusedStream) == nil
		}, Errors{Read: 3}},
		{"going away", func(w *http2.Framer, _ uint32) bool { return w.WriteGoAway(0, http2.ErrCodeNo, nil) == nil }, Errors{Read: 3}},
		{"broken connection", func(*http2.Framer, uint32) bool { return false }, Errors{Read: 3}},
		{"bad fields", func(w *http2.Framer, id uint32) bool {
			return w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0xff, 0xff, 0xff}, EndHeaders: true}) == nil
		}, Errors{Read: 3}},
		{"bad frame", func(w *http2.Framer, _ uint32) bool {
			return w.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 16385)) == nil
		}, Errors{Read: 3}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r, err := RunHTTP2(t.Context(), HTTP2Spec{
				Request: Request{Addr: framed(t, nil, c.answer), Host: "h", Path: "/"}, Connections: 2, Streams: 1, Rate: 10, Duration: 300 * time.Millisecond,
			})
			if err != nil || r.Errors != c.want {
				t.Errorf("%+v, %v, want errors %+v", r, err, c.want)
			}
		})
	}
}

// TestHTTP2WaitsForWindows: a server with a window of one message gives it back
// a little at a time.
func TestHTTP2WaitsForWindows(t *testing.T) {
	const message = grpcPrefix + 100
	var over atomic.Int64
	addr := handled(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := io.ReadFull(r, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		w := http2.NewFramer(c, r)
		_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: message})
		window := message
		for {
			x, err := w.ReadFrame()
			if err != nil {
				return
			}
			switch x := x.(type) {
			case *http2.HeadersFrame:
				_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: x.StreamID, BlockFragment: okFields, EndHeaders: true})
			case *http2.DataFrame:
				if window -= len(x.Data()); window < 0 {
					over.Add(1)
				}
				_ = w.WriteData(x.StreamID, false, x.Data())
				window += message
				_ = w.WriteWindowUpdate(x.StreamID, 60)
				_ = w.WriteWindowUpdate(x.StreamID, message-60)
				_ = w.WriteWindowUpdate(0, message)
				if x.StreamEnded() { // the end of the load: trailers with grpc-status: 0
					_ = w.WriteHeaders(http2.HeadersFrameParam{
						StreamID: x.StreamID, BlockFragment: []byte("\x00\x0bgrpc-status\x010"), EndHeaders: true, EndStream: true,
					})
				}
			}
		}
	})
	r, err := RunHTTP2(t.Context(), HTTP2Spec{
		Request: Request{Addr: addr, Host: "h", Path: "/", Body: message - grpcPrefix}, Mode: Messages,
		Connections: 1, Streams: 1, Duration: 200 * time.Millisecond,
	})
	if err != nil || r.Requests < 20 || r.Errors.Total() != 0 || over.Load() > 0 {
		t.Errorf("%+v, %v, %d times beyond the window", r, err, over.Load())
	}
}

func TestHTTP2GivesUp(t *testing.T) {
	addr := framed(t, nil, func(*http2.Framer, uint32) bool { return true })
	spec := HTTP2Spec{Request: Request{Addr: addr, Host: "h", Path: "/"}, Connections: 2, Streams: 1, Rate: 100, Duration: 100 * time.Millisecond}
	if r, err := RunHTTP2(t.Context(), spec); err != nil || r.Errors != (Errors{Timeout: 10}) || r.Latency.Max < drainTime {
		t.Errorf("%+v, %v: want 10 timeouts, latencies of %v", r, err, drainTime)
	}
}

func TestHTTP2RefusesNonsense(t *testing.T) {
	few := framed(t, []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 3}}, func(*http2.Framer, uint32) bool { return true })
	http1 := handled(t, func(c net.Conn, r *bufio.Reader) {
		_, _ = r.Peek(1)
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
	})
	for name, x := range map[string]struct {
		change func(*HTTP2Spec)
		want   string
	}{
		"streams":     {func(s *HTTP2Spec) { s.Streams = 0 }, "0 streams"},
		"connections": {func(s *HTTP2Spec) { s.Connections = 0 }, "0 connections"},
		"rate":        {func(s *HTTP2Spec) { s.Rate = -1 }, "-1 requests"},
		"duration":    {func(s *HTTP2Spec) { s.Duration = 0 }, "above 0"},
		"name":        {func(s *HTTP2Spec) { s.Request.Addr = "localhost:1" }, "IPv4"},
		"nobody":      {func(*HTTP2Spec) {}, "refused"},
		"few streams": {func(s *HTTP2Spec) { s.Request.Addr = few }, "allows 3 streams"},
		"HTTP/1.1":    {func(s *HTTP2Spec) { s.Request.Addr = http1 }, "127.0.0.1"},
	} {
		s := HTTP2Spec{Request: Request{Addr: "127.0.0.1:1", Host: "h", Path: "/"}, Connections: 1, Streams: 4, Rate: 1, Duration: time.Second}
		x.change(&s)
		if r, err := RunHTTP2(t.Context(), s); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %+v, %v, want an error with %q", name, r, err, x.want)
		}
	}
	if err := ServeHTTP2(t.Context(), strings.NewReader("{"), io.Discard); err == nil {
		t.Error("broken JSON is accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := RunHTTP2(ctx, HTTP2Spec{Request: Request{Addr: few, Host: "h", Path: "/"}, Connections: 1, Streams: 1, Duration: time.Hour}); err == nil {
		t.Error("a cancelled load succeeds")
	}
}

func TestHoldHTTP2(t *testing.T) {
	_, _, o := startedAll(t)
	h, err := HoldHTTP2(t.Context(), Request{Addr: o.Addrs[origin.HTTP][0], Host: "h", Path: "/"}, 20)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if failed, err := h.Check(t.Context()); failed != 0 || err != nil || h.Len() != 20 {
			t.Errorf("%d of %d failed, %v", failed, h.Len(), err)
		}
	}
	for _, c := range h.conns[:5] {
		_ = c.Close()
	}
	if failed, err := h.Check(t.Context()); failed != 5 || err != nil {
		t.Errorf("%d failed, %v, want the 5 closed ones", failed, err)
	}
	h.Close()
	for name, answer := range map[string]func(*http2.Framer, uint32) bool{
		"failed":           func(w *http2.Framer, id uint32) bool { return w.WriteRSTStream(id, http2.ErrCodeCancel) == nil },
		"ends":             func(w *http2.Framer, _ uint32) bool { return w.WriteGoAway(1, http2.ErrCodeNo, nil) == nil },
		"connection 1 of ": func(*http2.Framer, uint32) bool { return false },
	} {
		if _, err := HoldHTTP2(t.Context(), Request{Addr: framed(t, nil, answer), Host: "h", Path: "/"}, 2); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want one with %q", err, name)
		}
	}
}
