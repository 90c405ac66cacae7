// SPDX-License-Identifier: Apache-2.0

package inproc

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Tunnel is one end of a connection whose protocol was switched, whatever
// carries it.
type Tunnel interface {
	io.ReadWriter
	// CloseWrite ends what this end sends.
	CloseWrite() error
	// Reset breaks both directions off.
	Reset()
}

// Tunnel returns the end of a connection of HTTP/1 behind the heads.
func (c *Conn) Tunnel() Tunnel { return plainTunnel{c} }

type plainTunnel struct{ c *Conn }

func (p plainTunnel) Read(b []byte) (int, error)  { return p.c.r.Read(b) }
func (p plainTunnel) Write(b []byte) (int, error) { return p.c.Conn.Write(b) }
func (p plainTunnel) CloseWrite() error           { return p.c.Conn.(*net.TCPConn).CloseWrite() }
func (p plainTunnel) Reset() {
	_ = p.c.Conn.(*net.TCPConn).SetLinger(0)
	_ = p.c.Conn.Close()
}

// frames is a connection of HTTP/2 that knows of extended CONNECT (RFC 8441),
// as the standard library doesn't.
type frames struct {
	nc net.Conn
	fr *http2.Framer

	mu       sync.Mutex
	wake     sync.Cond // of mu
	enc      *hpack.Encoder
	block    bytes.Buffer // that enc writes to
	streams  map[uint32]*ConnectStream
	window   int64 // of the connection, for sending
	initial  int64 // of a stream, for sending
	connect  bool  // the peer has SETTINGS_ENABLE_CONNECT_PROTOCOL
	settled  bool
	gone     error // why the connection is over
	accepted func(s *ConnectStream)
}

// ConnectStream is one stream, and a Tunnel. Its fields are guarded by mu of
// the connection.
type ConnectStream struct {
	f      *frames
	id     uint32
	head   map[string]string // nil until it came
	in     bytes.Buffer
	eof    bool
	err    error
	window int64
}

func newFrames(t testing.TB, nc net.Conn, accepted func(*ConnectStream)) *frames {
	_ = nc.SetDeadline(time.Now().Add(2 * patience))
	f := &frames{nc: nc, fr: http2.NewFramer(nc, nc), streams: map[uint32]*ConnectStream{}, window: 65535, initial: 65535, accepted: accepted}
	f.wake.L = &f.mu
	f.enc = hpack.NewEncoder(&f.block)
	f.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	t.Cleanup(func() { _ = nc.Close() })
	return f
}

// run reads the connection until it ends.
func (f *frames) run() {
	for {
		fr, err := f.fr.ReadFrame()
		f.mu.Lock()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // of the connection; of a stream it isn't the end
		}
		if err != nil {
			f.gone = err
			for _, s := range f.streams {
				s.fail(err)
			}
			f.wake.Broadcast()
			f.mu.Unlock()
			return
		}
		f.take(fr)
		f.wake.Broadcast()
		f.mu.Unlock()
	}
}

func (s *ConnectStream) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (f *frames) take(fr http2.Frame) {
	s := f.streams[fr.Header().StreamID]
	switch fr := fr.(type) {
	case *http2.SettingsFrame:
		if fr.IsAck() {
			return
		}
		if v, ok := fr.Value(http2.SettingInitialWindowSize); ok {
			f.initial = int64(v)
		}
		if v, ok := fr.Value(http2.SettingEnableConnectProtocol); ok {
			f.connect = v == 1
		}
		f.settled = true
		_ = f.fr.WriteSettingsAck()
	case *http2.PingFrame:
		_ = f.fr.WritePing(true, fr.Data)
	case *http2.WindowUpdateFrame:
		if fr.StreamID == 0 {
			f.window += int64(fr.Increment)
		} else if s != nil {
			s.window += int64(fr.Increment)
		}
	case *http2.RSTStreamFrame:
		if s != nil {
			s.fail(http2.StreamError{StreamID: s.id, Code: fr.ErrCode})
		}
	case *http2.MetaHeadersFrame:
		f.takeHead(s, fr)
	case *http2.DataFrame:
		if s != nil {
			s.in.Write(fr.Data())
			s.eof = s.eof || fr.StreamEnded()
		}
	}
}

func (f *frames) takeHead(s *ConnectStream, fr *http2.MetaHeadersFrame) {
	fresh := s == nil
	if fresh {
		s = f.open(fr.StreamID)
	}
	s.head = map[string]string{}
	for _, h := range fr.Fields {
		s.head[h.Name] = h.Value
	}
	s.eof = s.eof || fr.StreamEnded()
	if fresh && f.accepted != nil {
		go f.accepted(s)
	}
}

func (f *frames) open(id uint32) *ConnectStream {
	s := &ConnectStream{f: f, id: id, window: f.initial}
	f.streams[id] = s
	return s
}

// sendHead sends a block of name, value, name, value … .
func (s *ConnectStream) sendHead(end bool, fields ...string) {
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	f.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: f.block.Bytes(), EndHeaders: true, EndStream: end})
}

// Answer sends a response's head, of name, value, name, value … ; with end
// there is no body.
func (s *ConnectStream) Answer(end bool, fields ...string) { s.sendHead(end, fields...) }

// Head waits for the peer's head and returns it, pseudo fields included; nil
// if the stream ends before.
func (s *ConnectStream) Head() map[string]string {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	for s.head == nil && s.err == nil {
		s.f.wake.Wait()
	}
	return s.head
}

// Err returns why the stream was broken off, nil while it wasn't.
func (s *ConnectStream) Err() error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	return s.err
}

// Read implements Tunnel.
func (s *ConnectStream) Read(p []byte) (int, error) {
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for s.in.Len() == 0 {
		switch {
		case s.eof:
			return 0, io.EOF
		case s.err != nil:
			return 0, s.err
		}
		f.wake.Wait()
	}
	n, _ := s.in.Read(p)
	_ = f.fr.WriteWindowUpdate(0, uint32(n))
	if !s.eof {
		_ = f.fr.WriteWindowUpdate(s.id, uint32(n))
	}
	return n, nil
}

// Write implements Tunnel.
func (s *ConnectStream) Write(p []byte) (int, error) {
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	sent := 0
	for sent < len(p) {
		n := min(int64(len(p)-sent), s.window, f.window, 16384)
		switch {
		case s.err != nil:
			return sent, s.err
		case n <= 0:
			f.wake.Wait()
			continue
		}
		s.window -= n
		f.window -= n
		if err := f.fr.WriteData(s.id, false, p[sent:sent+int(n)]); err != nil {
			return sent, err
		}
		sent += int(n)
	}
	return sent, nil
}

// CloseWrite implements Tunnel.
func (s *ConnectStream) CloseWrite() error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	return s.f.fr.WriteData(s.id, true, nil)
}

// Reset implements Tunnel.
func (s *ConnectStream) Reset() {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	_ = s.f.fr.WriteRSTStream(s.id, http2.ErrCodeCancel)
}

// ConnectClient is a client that sends extended CONNECT.
type ConnectClient struct{ f *frames }

// DialConnect connects to addr and waits for its SETTINGS, which have to allow
// extended CONNECT.
func DialConnect(t testing.TB, addr string) *ConnectClient {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	f := newFrames(t, nc, nil)
	_, _ = io.WriteString(nc, http2.ClientPreface)
	_ = f.fr.WriteSettings()
	go f.run()
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.settled && f.gone == nil {
		f.wake.Wait()
	}
	if !f.connect {
		t.Errorf("the proxy doesn't allow extended CONNECT (%v)", f.gone)
	}
	return &ConnectClient{f}
}

// Open sends an extended CONNECT, with further fields name, value … .
func (c *ConnectClient) Open(authority, path, protocol string, fields ...string) *ConnectStream {
	c.f.mu.Lock()
	s := c.f.open(uint32(2*len(c.f.streams) + 1))
	c.f.mu.Unlock()
	s.sendHead(false, append([]string{":method", "CONNECT", ":protocol", protocol, ":scheme", "http", ":path", path,
		":authority", authority}, fields...)...)
	return s
}

// NewConnectBackend is a host of HTTP/2 whose streams a function serves; allow
// makes its SETTINGS allow extended CONNECT.
func NewConnectBackend(t testing.TB, allow bool, serve func(s *ConnectStream)) *Backend {
	t.Helper()
	return NewBackend(t, func(c *Conn) {
		p := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(c.Conn, p); err != nil {
			return
		}
		f := newFrames(t, c.Conn, serve)
		if allow {
			_ = f.fr.WriteSettings(http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
		} else {
			_ = f.fr.WriteSettings()
		}
		f.run()
	})
}

// WebSocketAccept is what a server answers to a key (RFC 6455 section 4.2.2).
func WebSocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
