// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"io"
	"net"
	nethttp "net/http"
	"testing"
)

func TestEcho(t *testing.T) {
	o := started(t)
	c := dial(t, o.Addrs[TCP][0]).(*net.TCPConn)
	sent := make([]byte, 20<<20) // more than the socket's buffers hold
	_, _ = rand.Read(sent)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(append([]byte{Echo}, sent...))
		written <- err
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("the echo differs, or %v", err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(got); n != 0 || err != io.EOF {
		t.Errorf("%d bytes, %v after the end", n, err)
	}
}

func TestSource(t *testing.T) {
	o := started(t)
	c := dial(t, o.Addrs[TCP][1])
	if _, err := c.Write([]byte{Source}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3*len(chunk)/8*8)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(got); i += 8 {
		if string(got[i:i+8]) != "pillion\n" {
			t.Fatalf("%q at %d", got[i:i+8], i)
		}
	}
	// Its end must not keep the origin from anything else.
	c.Close()
	c = dial(t, o.Addrs[TCP][1])
	if _, err := c.Write([]byte{Echo, 'x'}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got[:1]); err != nil || got[0] != 'x' {
		t.Errorf("%q, %v", got[:1], err)
	}
}

func TestUnknownMode(t *testing.T) {
	o := started(t)
	c := dial(t, o.Addrs[TCP][0])
	if _, err := c.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d bytes, %v, want the end", n, err)
	}
}

// masked is a client's frame.
func masked(first byte, payload []byte) []byte {
	b := appendWebSocketHead(nil, first, len(payload))
	b[1] |= 0x80
	mask := []byte{1, 2, 3, 250}
	b = append(b, mask...)
	for i, x := range payload {
		b = append(b, x^mask[i%4])
	}
	return b
}

// TestWebSocket checks the handshake against the example of RFC 6455, section
// 1.3, and frames of each kind of header.
func TestWebSocket(t *testing.T) {
	o := started(t)
	c := dial(t, o.Addrs[HTTP][1])
	if _, err := io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := nethttp.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || resp.Header.Get(VersionField) != "v2" {
		t.Fatalf("%+v", resp)
	}
	for _, x := range []struct {
		first, back byte
		size        int
		pieces      int
	}{
		{0x82, 0x82, 0, 1}, {0x81, 0x81, 125, 1}, {0x82, 0x82, 126, 1}, {0x82, 0x82, 70000, 1},
		{0x01, 0x01, 5, 1}, {0x80, 0x80, 300, 9}, {0x89, 0x8a, 10, 1}, {0x82, 0x82, 20, 26}, {0x88, 0x88, 2, 1},
	} {
		payload := bytes.Repeat([]byte{7, 9, 11}, x.size/3+1)[:x.size]
		frame := masked(x.first, payload)
		step := len(frame)/x.pieces + 1
		for len(frame) > 0 {
			n := min(step, len(frame))
			if _, err := c.Write(frame[:n]); err != nil {
				t.Fatal(err)
			}
			frame = frame[n:]
		}
		want := append(appendWebSocketHead(nil, x.back, x.size), payload...)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("frame %x of %d bytes comes back as %.20x…, %v", x.first, x.size, got, err)
		}
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the closing frame: %d bytes, %v", n, err)
	}
}
