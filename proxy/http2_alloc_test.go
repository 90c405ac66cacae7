// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"pillion/proxy/proxytest"
	"pillion/proxy/proxytest/inproc"
)

// frames reads and writes HTTP/2 frames without allocating.
type frames struct {
	nc  io.ReadWriter
	buf [1 << 14]byte
	out [256]byte
}

// until reads up to the next HEADERS, and returns its stream. It answers
// SETTINGS and ignores the rest.
func (f *frames) until() (id uint32, err error) {
	for {
		if _, err := io.ReadFull(f.nc, f.buf[:9]); err != nil {
			return 0, err
		}
		n := int(f.buf[0])<<16 | int(f.buf[1])<<8 | int(f.buf[2])
		typ, flags, id := f.buf[3], f.buf[4], binary.BigEndian.Uint32(f.buf[5:])
		if _, err := io.ReadFull(f.nc, f.buf[:n]); err != nil {
			return 0, err
		}
		switch {
		case typ == 1:
			return id, nil
		case typ == 4 && flags&1 == 0:
			_, _ = f.nc.Write([]byte{0, 0, 0, 4, 1, 0, 0, 0, 0})
		}
	}
}

// head sends a whole message that is the block.
func (f *frames) head(id uint32, block string) error {
	out := append(f.out[:0], 0, 0, byte(len(block)), 1, 5)
	out = append(binary.BigEndian.AppendUint32(out, id), block...)
	_, err := f.nc.Write(out)
	return err
}

// http2Exchange returns a function that carries one request from an HTTP/2
// client through the proxy to an HTTP/2 host and back.
func http2Exchange(t testing.TB) func() {
	t.Helper()
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		_ = c.SetDeadline(time.Time{})
		if _, err := io.ReadFull(c.Conn, make([]byte, 24)); err != nil {
			return
		}
		f := &frames{nc: c.Conn}
		_, _ = c.Conn.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})
		for {
			id, err := f.until()
			if err != nil || f.head(id, "\x88") != nil { // :status 200
				return
			}
		}
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": http2Service(b)})
	nc, err := net.Dial("tcp", p.Addr("http"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_, _ = io.WriteString(nc, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	f := &frames{nc: nc}
	id := uint32(1)
	return func() {
		// GET, http, /, and an authority that isn't indexed.
		if err := f.head(id, "\x82\x86\x84\x01\x09echo:9080"); err != nil {
			t.Fatal(err)
		}
		if got, err := f.until(); err != nil || got != id {
			t.Fatalf("a response on stream %d: %v", got, err)
		}
		id += 2
	}
}

// TestHTTP2Allocations is the bound on the relayed path: at most one
// allocation for each request.
func TestHTTP2Allocations(t *testing.T) {
	exchange := http2Exchange(t)
	exchange()
	if n := testing.AllocsPerRun(500, exchange); n > 1 && !proxytest.Race {
		t.Errorf("a request allocates %v times", n)
	}
}

func BenchmarkHTTP2(b *testing.B) {
	exchange := http2Exchange(b)
	exchange()
	b.ReportAllocs()
	for b.Loop() {
		exchange()
	}
}
