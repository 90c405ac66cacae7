// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
)

// TestHTTP2 has the standard library's client send many requests at once over
// one connection.
func TestHTTP2(t *testing.T) {
	o := started(t)
	p := &nethttp.Protocols{}
	p.SetUnencryptedHTTP2(true)
	client := &nethttp.Client{Transport: &nethttp.Transport{Protocols: p}}
	defer client.CloseIdleConnections()
	for v, addr := range o.Addrs[HTTP] {
		for _, size := range []int{0, 5, 300_000} {
			t.Run(fmt.Sprintf("%s/%d", Versions[v], size), func(t *testing.T) {
				var all sync.WaitGroup
				for range 20 {
					all.Go(func() {
						if err := fetch(t.Context(), client, addr, size, Versions[v]); err != nil {
							t.Error(err)
						}
					})
				}
				all.Wait()
			})
		}
	}
}

// fetch sends one request and checks the answer.
func fetch(ctx context.Context, client *nethttp.Client, addr string, size int, version string) error {
	method, upload := nethttp.MethodGet, io.Reader(nil)
	if size > 0 {
		method, upload = nethttp.MethodPost, strings.NewReader(strings.Repeat("x", size))
	}
	req, err := nethttp.NewRequestWithContext(ctx, method, "http://"+addr, upload)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 || len(got) != BodySize || resp.ContentLength != BodySize || resp.Header.Get(VersionField) != version {
		return fmt.Errorf("%s %d %v with %d bytes", resp.Proto, resp.StatusCode, resp.Header, len(got))
	}
	return nil
}

// raw is a client that works on frames.
type raw struct {
	t *testing.T
	net.Conn
	*http2.Framer
}

// rawClient connects and sends the preface and settings.
func rawClient(t *testing.T, addr string, settings ...http2.Setting) *raw {
	t.Helper()
	c := dial(t, addr)
	r := &raw{t: t, Conn: c, Framer: http2.NewFramer(c, c)}
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	r.must(r.WriteSettings(settings...))
	return r
}

func (r *raw) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// next returns the next frame that isn't about settings or the connection's
// window.
func (r *raw) next() http2.Frame {
	r.t.Helper()
	for {
		f, err := r.ReadFrame()
		r.must(err)
		switch f := f.(type) {
		case *http2.SettingsFrame:
		case *http2.WindowUpdateFrame:
		default:
			return f
		}
	}
}

// request sends the fields of a request, which the origin doesn't read.
func (r *raw) request(id uint32, ends bool) {
	r.t.Helper()
	r.must(r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x82}, EndHeaders: true, EndStream: ends}))
}

// TestFlowControl: not a byte more than a window allows, and all of them in the
// end.
func TestFlowControl(t *testing.T) {
	o := started(t)
	t.Run("stream", func(t *testing.T) {
		r := rawClient(t, o.Addrs[HTTP][0], http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
		r.request(1, true)
		if f := r.next(); f.Header().Type != http2.FrameHeaders {
			t.Fatalf("%v, want fields", f)
		}
		for _, step := range []struct {
			send func() error
			want int
			ends bool
		}{
			{nil, 100, false},
			{func() error { return r.WriteWindowUpdate(1, 300) }, 300, false},
			{func() error { return r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 200}) }, 100, false},
			{func() error { return r.WriteWindowUpdate(1, 5000) }, 524, true},
		} {
			if step.send != nil {
				r.must(step.send())
			}
			f, ok := r.next().(*http2.DataFrame)
			if !ok || len(f.Data()) != step.want || f.StreamEnded() != step.ends {
				t.Fatalf("%v, want %d bytes, ending: %v", f, step.want, step.ends)
			}
		}
	})
	t.Run("connection", func(t *testing.T) {
		r := rawClient(t, o.Addrs[HTTP][0])
		const requests = 100 // more than 65,535 bytes
		for i := range requests {
			r.request(uint32(2*i+1), true)
		}
		sum, ended := 0, 0
		read := func(until int) {
			t.Helper()
			for sum < until {
				if f, ok := r.next().(*http2.DataFrame); ok {
					sum += len(f.Data())
					if f.StreamEnded() {
						ended++
					}
				}
			}
		}
		read(65535)
		r.must(r.WriteRSTStream(2*requests-1, http2.ErrCodeCancel)) // one that waits
		r.must(r.WritePing(false, [8]byte{1}))
		for f := r.next(); ; f = r.next() {
			if f.Header().Type == http2.FramePing {
				break
			}
			if f.Header().Type == http2.FrameData {
				t.Fatalf("%v beyond the window", f)
			}
		}
		r.must(r.WriteWindowUpdate(0, 1<<20))
		read((requests - 1) * BodySize)
		if ended != requests-1 || sum != (requests-1)*BodySize {
			t.Errorf("%d bytes, %d streams ended", sum, ended)
		}
	})
}

// TestHeaderBlocks decodes what is sent, with the table and without.
func TestHeaderBlocks(t *testing.T) {
	o := started(t)
	for _, size := range []uint32{4096, 0} {
		t.Run(fmt.Sprintf("table of %d", size), func(t *testing.T) {
			r := rawClient(t, o.Addrs[HTTP][1], http2.Setting{ID: http2.SettingHeaderTableSize, Val: size})
			d := hpack.NewDecoder(size, nil)
			lengths := map[int]bool{}
			for id := uint32(1); id < 7; id += 2 {
				r.request(id, true)
				h, ok := r.next().(*http2.HeadersFrame)
				if !ok {
					t.Fatal("no fields")
				}
				fields, err := d.DecodeFull(h.HeaderBlockFragment())
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, f := range fields {
					if f.Name != "date" {
						got = append(got, f.Name+": "+f.Value)
					}
				}
				want := ":status: 200, content-type: text/plain, " + VersionField + ": v2, content-length: 1024"
				if s := strings.Join(got, ", "); s != want {
					t.Errorf("stream %d: %s, want %s", id, s, want)
				}
				lengths[len(h.HeaderBlockFragment())] = true
				r.next() // the body
			}
			if len(lengths) != 2 {
				t.Errorf("blocks of %v bytes: want a first one and shorter ones", lengths)
			}
		})
	}
}

func TestFramesInPieces(t *testing.T) {
	o := started(t)
	var b bytes.Buffer
	w := http2.NewFramer(&b, nil)
	b.WriteString(http2.ClientPreface)
	for _, err := range []error{
		w.WriteSettings(), w.WriteSettingsAck(),
		w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}, EndStream: true}),
		w.WriteContinuation(1, false, []byte{0x84}), w.WriteContinuation(1, true, []byte{0x86}),
		w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x82}, EndHeaders: true}),
		w.WriteDataPadded(3, false, []byte("abc"), make([]byte, 9)),
		w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x82}, EndHeaders: true, EndStream: true}), // trailers
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c := dial(t, o.Addrs[HTTP][0])
	for _, x := range b.Bytes() {
		if _, err := c.Write([]byte{x}); err != nil {
			t.Fatal(err)
		}
	}
	r := &raw{t: t, Conn: c, Framer: http2.NewFramer(c, c)}
	for _, id := range []uint32{1, 3} {
		if f := r.next(); f.Header().Type != http2.FrameHeaders || f.Header().StreamID != id {
			t.Errorf("%v, want fields of stream %d", f, id)
		}
		if f, ok := r.next().(*http2.DataFrame); !ok || f.StreamID != id || len(f.Data()) != BodySize || !f.StreamEnded() {
			t.Errorf("%v, want the body of stream %d", f, id)
		}
	}
}

func TestBadFramesEndTheConnection(t *testing.T) {
	o := started(t)
	for name, bad := range map[string]string{
		"preface":      "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
		"size":         http2.ClientPreface + "\x00\x40\x01\x00\x00\x00\x00\x00\x01",
		"settings":     http2.ClientPreface + "\x00\x00\x01\x04\x00\x00\x00\x00\x00x",
		"continuation": http2.ClientPreface + "\x00\x00\x00\x09\x04\x00\x00\x00\x01",
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, o.Addrs[HTTP][0])
			if _, err := io.WriteString(c, bad); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("error %v, want the end", err)
			}
		})
	}
}

// bytesCodec passes messages on as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error) {
	return *v.(*[]byte), nil
}
func (bytesCodec) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(b)
	return nil
}

var _ encoding.Codec = bytesCodec{}

// TestGRPC has the real gRPC client make unary calls and keep streams open.
func TestGRPC(t *testing.T) {
	o := started(t)
	conn, err := grpc.NewClient(o.Addrs[GRPC][1], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, size := range []int{0, 100, 200_000} {
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { echoed(t, conn, size) })
		}
		all.Wait()
	}
}

// echoed makes a unary call and sends three messages on a stream.
func echoed(t *testing.T, conn *grpc.ClientConn, size int) {
	sent := bytes.Repeat([]byte("m"), size)
	var got []byte
	if err := conn.Invoke(t.Context(), "/a/b", &sent, &got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("unary call with %d bytes: %d bytes back, %v", size, len(got), err)
	}
	s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/a/c")
	if err != nil {
		t.Error(err)
		return
	}
	for i := range 3 {
		if err := s.SendMsg(&sent); err != nil {
			t.Errorf("message %d of %d bytes: %v", i, size, err)
		}
		if err := s.RecvMsg(&got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("message %d of %d bytes: %d back, %v", i, size, len(got), err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Error(err)
	}
	if err := s.RecvMsg(&got); err != io.EOF {
		t.Errorf("the stream's end is %v", err)
	}
}
