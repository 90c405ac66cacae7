// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"pillion/proxy/buf"
	"pillion/proxy/http"
)

// peer is the far end of a connection in the words of the wire. A mismatch
// fails the test.
type peer struct {
	t   *testing.T
	nc  net.Conn
	fr  *http2.Framer
	dec *hpack.Decoder
	enc *hpack.Encoder
	hb  bytes.Buffer
	c   *Conn         // ours
	ran chan struct{} // closed when Run has returned
	st  *Stats
	acc *acceptor // of a server's side
}

// events collects what a receiver is told, a line each.
type events struct {
	mu    sync.Mutex
	list  []string
	ended int // ends of the incoming half, and resets
	reset int

	hold bool // what came isn't credited
	s    *Stream
}

func (r *events) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, fmt.Sprintf(format, args...))
}

func (r *events) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.list, " ")
}

func (r *events) end(yes bool) string {
	if !yes {
		return ""
	}
	r.mu.Lock()
	r.ended++
	r.mu.Unlock()
	return ".end"
}

func (r *events) OnHead(e Event, b *Block, end bool) Verdict {
	var ex http.Exchange
	if e.Conn.client {
		v := b.Response(&ex, end)
		r.add("head(%d)%s", ex.Resp.Status, r.end(end))
		return v
	}
	v := b.Request(&ex, end)
	if v == Good {
		r.add("head(%s %s)%s", ex.Req.RawMethod, ex.Req.Path, r.end(end))
	}
	return v
}

func (r *events) OnData(e Event, p []byte, end bool) {
	r.add("data(%d)%s", len(p), r.end(end))
	if !r.hold {
		r.s.Credit(len(p))
	}
}

func (r *events) OnTrailers(_ Event, b *Block) Verdict {
	var f http.Fields
	v := b.Trailers(&f, cloneBytes)
	if v == Good {
		r.add("trailers(%d)%s", f.Len(), r.end(true))
	}
	return v
}

func (r *events) OnReset(_ Event, err *http.Error) {
	r.mu.Lock()
	r.reset++
	r.mu.Unlock()
	r.add("reset(%s)", err.Detail)
}

func (r *events) OnTaken(_ Event, n int, done bool) { r.add("taken(%d,%v)", n, done) }

// acceptor keeps the streams of a server.
type acceptor struct {
	mu      sync.Mutex
	streams []*events
	hold    bool
}

func (a *acceptor) Accept(*Conn) (*Stream, Receiver) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &events{s: &Stream{}, hold: a.hold}
	a.streams = append(a.streams, r)
	return r.s, r
}

func (a *acceptor) holdCredit() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hold = true
}

func (a *acceptor) stream(i int) *events {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i >= len(a.streams) {
		return nil
	}
	r := a.streams[i]
	_ = r.all() // what the reader did before it told of the head is seen now
	return r
}

func tcp(t testing.TB) (a, b net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

const patience = 30 * time.Second

func newPeer(t *testing.T, nc net.Conn, start func(st *Stats) *Conn) *peer {
	p := &peer{t: t, nc: nc, fr: http2.NewFramer(nc, nc), ran: make(chan struct{}), st: &Stats{}}
	_ = nc.SetDeadline(time.Now().Add(patience))
	p.fr.AllowIllegalReads, p.fr.AllowIllegalWrites = true, true
	p.dec = hpack.NewDecoder(4096, nil)
	p.enc = hpack.NewEncoder(&p.hb)
	p.c = start(p.st)
	go func() { p.c.Run(); close(p.ran) }()
	p.c.Flush()
	t.Cleanup(func() {
		_ = nc.Close()
		<-p.ran
		if n := p.st.StreamsActive.Value(); n != 0 {
			t.Errorf("%d streams are active at the end", n)
		}
		if n := p.st.PendingSend.Value(); n != 0 {
			t.Errorf("%d octets are queued at the end", n)
		}
	})
	return p
}

// client is the peer of a server's connection, greeted on both sides.
func client(t *testing.T, cfg *Config, settings ...http2.Setting) *peer {
	t.Helper()
	p := rawClient(t, cfg)
	p.raw(preface)
	p.fr.WriteSettings(settings...)
	p.wantSettings()
	p.want("WINDOW_UPDATE 0")
	p.want("SETTINGS ack")
	p.fr.WriteSettingsAck()
	return p
}

func rawClient(t *testing.T, cfg *Config) *peer {
	a, b := tcp(t)
	acc := &acceptor{}
	p := newPeer(t, a, func(st *Stats) *Conn { return NewServer(b, buf.Buffer{}, cfg, st, acc) })
	p.acc = acc
	return p
}

// server is the peer of a client's connection, greeted on both sides.
func server(t *testing.T, cfg *Config, settings ...http2.Setting) *peer {
	t.Helper()
	a, b := tcp(t)
	p := newPeer(t, a, func(st *Stats) *Conn { return NewClient(b, cfg, st, nil) })
	in := make([]byte, len(preface))
	if _, err := io.ReadFull(a, in); err != nil || string(in) != preface {
		t.Fatalf("%q %v", in, err)
	}
	p.wantSettings()
	p.want("WINDOW_UPDATE 0")
	p.fr.WriteSettings(settings...)
	p.want("SETTINGS ack")
	p.fr.WriteSettingsAck()
	return p
}

func (p *peer) raw(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.nc, s); err != nil {
		p.t.Fatal(err)
	}
}

// block encodes name, value, name, value…
func (p *peer) block(fields ...string) []byte {
	p.hb.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.hb.Bytes())
}

func (p *peer) headers(id uint32, end bool, fields ...string) {
	_ = p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndStream: end, EndHeaders: true})
}

// get and post are the heads of requests.
func (p *peer) get(id uint32) {
	p.headers(id, true, ":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a")
}

func (p *peer) post(id uint32, more ...string) {
	p.headers(id, false, append([]string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a"}, more...)...)
}

func (p *peer) wantSettings() map[http2.SettingID]uint32 {
	p.t.Helper()
	f, err := p.fr.ReadFrame()
	sf, ok := f.(*http2.SettingsFrame)
	if err != nil || !ok || sf.IsAck() {
		p.t.Fatalf("%v %v where SETTINGS are due", f, err)
	}
	out := map[http2.SettingID]uint32{}
	_ = sf.ForeachSetting(func(s http2.Setting) error { out[s.ID] = s.Val; return nil })
	return out
}

// read describes the next frame.
func (p *peer) read() string {
	f, err := p.fr.ReadFrame()
	if err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			return "nothing in time"
		}
		return "closed"
	}
	end := ""
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return "SETTINGS ack"
		}
		return "SETTINGS"
	case *http2.DataFrame:
		if f.StreamEnded() {
			end = " end"
		}
		return fmt.Sprintf("DATA %d %d%s", f.StreamID, len(f.Data()), end)
	case *http2.HeadersFrame:
		if f.StreamEnded() {
			end = " end"
		}
		return fmt.Sprintf("HEADERS %d%s %s", f.StreamID, end, p.fields(f))
	case *http2.WindowUpdateFrame:
		return fmt.Sprintf("WINDOW_UPDATE %d %d", f.StreamID, f.Increment)
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM %d %s", f.StreamID, f.ErrCode)
	case *http2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %s", f.LastStreamID, f.ErrCode)
	case *http2.PingFrame:
		return fmt.Sprintf("PING %v %s", f.IsAck(), f.Data[:])
	}
	return f.Header().String()
}

// fields decodes a block and those that continue it.
func (p *peer) fields(f *http2.HeadersFrame) string {
	block, done := bytes.Clone(f.HeaderBlockFragment()), f.HeadersEnded()
	for !done {
		next, err := p.fr.ReadFrame()
		cf, ok := next.(*http2.ContinuationFrame)
		if err != nil || !ok || cf.StreamID != f.StreamID {
			return fmt.Sprintf("not continued: %v %v", next, err)
		}
		block, done = append(block, cf.HeaderBlockFragment()...), cf.HeadersEnded()
	}
	all, err := oracleDecode(p.dec, block)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for i, h := range all {
		if i > 0 {
			b.WriteByte(' ')
		}
		if len(h.Value) > 100 {
			h.Value = fmt.Sprintf("<%d>", len(h.Value))
		}
		fmt.Fprintf(&b, "%s=%s", h.Name, h.Value)
	}
	return b.String()
}

// want reads frames that begin with these words, in order.
func (p *peer) want(frames ...string) {
	p.t.Helper()
	for _, f := range frames {
		if got := p.read(); !strings.HasPrefix(got, f) {
			p.t.Fatalf("%s came, want %s", got, f)
		}
	}
}

// quiet holds that nothing is sent but the answer of a PING.
func (p *peer) quiet() {
	p.t.Helper()
	_ = p.fr.WritePing(false, [8]byte{'q', 'u', 'i', 'e', 't', '.', '.', '.'})
	p.want("PING true quiet...")
}

// sync waits until all that was sent is handled.
func (p *peer) sync() { p.t.Helper(); p.quiet() }

// goAway wants the end of the connection for a reason.
func (p *peer) goAway(code http2.ErrCode) {
	p.t.Helper()
	for {
		got := p.read()
		if strings.HasPrefix(got, "GOAWAY") {
			if !strings.HasSuffix(got, " "+code.String()) {
				p.t.Fatalf("%s came, want %s", got, code)
			}
			break
		}
		if got == "closed" || got == "nothing in time" {
			p.t.Fatalf("%s, want GOAWAY %s", got, code)
		}
	}
	p.closed()
}

func (p *peer) closed() {
	p.t.Helper()
	_, err := io.Copy(io.Discard, p.nc)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		p.t.Fatal("the connection stays open")
	}
	_ = p.nc.Close()
	<-p.ran
}

// got waits for what a receiver is told.
func (r *events) got(t *testing.T, want string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for r.all() != want {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("the receiver got %q, want %q", r.all(), want)
		}
	}
}
