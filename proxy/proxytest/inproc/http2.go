// SPDX-License-Identifier: Apache-2.0

package inproc

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Conn2 is one end of an HTTP/2 connection in the words of the wire. It
// answers SETTINGS and PING by itself, and gives back the credit of what it
// reads.
type Conn2 struct {
	t   testing.TB
	nc  net.Conn
	Fr  *http2.Framer
	hb  bytes.Buffer
	enc *hpack.Encoder
	// NoCredit keeps the credit of streams.
	NoCredit bool
}

// newConn2 reads on where c has stopped, which may have read ahead.
func newConn2(t testing.TB, from *Conn, settings ...http2.Setting) *Conn2 {
	c := &Conn2{t: t, nc: from.Conn, Fr: http2.NewFramer(from.Conn, from.r)}
	c.Fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.Fr.SetMaxReadFrameSize(1 << 20)
	c.enc = hpack.NewEncoder(&c.hb)
	_ = c.Fr.WriteSettings(settings...)
	return c
}

// Dial2 connects to addr as a client with prior knowledge.
func Dial2(t testing.TB, addr string, settings ...http2.Setting) *Conn2 {
	t.Helper()
	c := Dial(t, addr)
	c.SendRaw(http2.ClientPreface)
	return newConn2(t, c, settings...)
}

// NewBackend2 is a host that serves HTTP/2 connections.
func NewBackend2(t testing.TB, serve func(c *Conn2), settings ...http2.Setting) *Backend {
	t.Helper()
	return NewBackend(t, func(c *Conn) {
		if _, err := io.ReadFull(c.r, make([]byte, len(http2.ClientPreface))); err == nil {
			serve(newConn2(t, c, settings...))
		}
	})
}

// Service2 is Service for hosts that speak HTTP/2.
func Service2(name string, backends ...*Backend) string {
	return strings.ReplaceAll(Service(name, backends...), "name: http, protocol: HTTP}", "name: http, protocol: HTTP2}")
}

// Headers sends a head or trailers: name, value, name, value…
func (c *Conn2) Headers(id uint32, end bool, fields ...string) {
	c.hb.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = c.Fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.hb.Bytes(), EndStream: end, EndHeaders: true})
}

// Get and Post send the heads of requests for echo:9080.
func (c *Conn2) Get(id uint32, more ...string) { c.request(id, "GET", true, more) }

// Post leaves the stream open for a body.
func (c *Conn2) Post(id uint32, more ...string) { c.request(id, "POST", false, more) }

func (c *Conn2) request(id uint32, method string, end bool, more []string) {
	c.Headers(id, end, append([]string{":method", method, ":scheme", "http", ":path", "/x", ":authority", "echo:9080"}, more...)...)
}

// Data sends a piece of a body.
func (c *Conn2) Data(id uint32, p string, end bool) { _ = c.Fr.WriteData(id, end, []byte(p)) }

// Event is something that came on a stream, or GOAWAY.
type Event struct {
	ID     uint32
	Kind   string // "head", "data", "reset", "goaway", or "closed" at the end
	Fields map[string]string
	Data   string
	Code   http2.ErrCode
	End    bool
}

// Next waits for what comes next.
func (c *Conn2) Next() Event {
	for {
		f, err := c.Fr.ReadFrame()
		if err != nil {
			return Event{Kind: "closed", Data: err.Error()}
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = c.Fr.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = c.Fr.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			e := Event{ID: f.StreamID, Kind: "head", Fields: map[string]string{}, End: f.StreamEnded()}
			for _, h := range f.Fields {
				e.Fields[h.Name] = h.Value
			}
			return e
		case *http2.DataFrame:
			e := Event{ID: f.StreamID, Kind: "data", Data: string(f.Data()), End: f.StreamEnded()}
			if n := uint32(len(e.Data)); n > 0 {
				_ = c.Fr.WriteWindowUpdate(0, n)
				if !e.End && !c.NoCredit {
					_ = c.Fr.WriteWindowUpdate(e.ID, n)
				}
			}
			return e
		case *http2.RSTStreamFrame:
			return Event{ID: f.StreamID, Kind: "reset", Code: f.ErrCode}
		case *http2.GoAwayFrame:
			return Event{ID: f.LastStreamID, Kind: "goaway", Code: f.ErrCode}
		}
	}
}

// Want waits for the next event of a kind on a stream.
func (c *Conn2) Want(id uint32, kind string) Event {
	c.t.Helper()
	e := c.Next()
	if e.ID != id || e.Kind != kind {
		c.t.Fatalf("%+v came, want %s on stream %d", e, kind, id)
	}
	return e
}

// Response reads a whole answer; trailers follow the body as |name: value.
func (c *Conn2) Response(id uint32) Response {
	c.t.Helper()
	head := c.Want(id, "head")
	r := Response{Line: head.Fields[":status"], Fields: head.Fields}
	for end := head.End; !end; {
		e := c.Next()
		switch {
		case e.ID != id || e.Kind != "head" && e.Kind != "data":
			c.t.Fatalf("%+v came in an answer on stream %d", e, id)
		case e.Kind == "head":
			for k, v := range e.Fields {
				r.Body += fmt.Sprintf("|%s: %s", k, v)
			}
		}
		r.Body += e.Data
		end = e.End
	}
	return r
}
