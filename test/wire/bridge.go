// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// NewBridge serves WebSocket over HTTP/1 and asks a server for it by extended
// CONNECT over HTTP/2 (RFC 8441): programs that know the former only can so
// be taken over the latter. All share one connection. withKey leaves
// Sec-WebSocket-Key in, which RFC 8441 section 5 has no use for, and browsers
// don't send.
func NewBridge(t testing.TB, server string, patience time.Duration, withKey bool) *Origin {
	t.Helper()
	b := &bridge{server: server, patience: patience, withKey: withKey}
	o := NewRawOrigin(t, b.serve)
	t.Cleanup(b.close)
	return o
}

type bridge struct {
	server   string        // immutable
	patience time.Duration // immutable
	withKey  bool          // immutable

	mu   sync.Mutex
	conn *H2 // guarded by mu
}

func (b *bridge) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		b.conn.Close()
	}
}

// upstream returns the connection, which is made at first and where the last
// one has ended.
func (b *bridge) upstream() (*H2, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil && !b.conn.Closed() && b.conn.GoneAway() == nil {
		return b.conn, nil
	}
	c, err := DialH2(b.server, b.patience, H2Options{})
	if err != nil {
		return nil, err
	}
	if err := c.Ready(); err != nil {
		return nil, err
	}
	if v, _ := c.Setting(http2.SettingEnableConnectProtocol); v != 1 {
		c.Close()
		return nil, fmt.Errorf("the server doesn't offer extended CONNECT")
	}
	b.conn = c
	return c, nil
}

// hop are the fields that have no place in HTTP/2, or are replaced.
var hop = map[string]bool{"Connection": true, "Upgrade": true, "Host": true}

func (b *bridge) serve(down *Conn) {
	r, err := down.ReadHead()
	if err != nil {
		return
	}
	head := Fields{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", r.Target}, {":authority", r.Fields.Get("host")}}
	for _, f := range r.Fields {
		if name := textproto.CanonicalMIMEHeaderKey(f.Name); !hop[name] && (b.withKey || name != "Sec-Websocket-Key") {
			head = append(head, Field{strings.ToLower(f.Name), f.Value})
		}
	}
	c, err := b.upstream()
	if err != nil {
		fmt.Fprintf(down, "HTTP/1.1 502 Bad Gateway\r\nx-bridge: %q\r\ncontent-length: 0\r\n\r\n", err)
		return
	}
	id, err := c.Open(false, head)
	if err != nil {
		return
	}
	s, err := c.AwaitHead(id)
	if err != nil || s.Get(":status") != "200" {
		fmt.Fprintf(down, "HTTP/1.1 502 Bad Gateway\r\nx-bridge: %q\r\ncontent-length: 0\r\n\r\n", fmt.Sprint(s.Fields, err))
		return
	}
	sum := sha1.Sum([]byte(r.Fields.Get("sec-websocket-key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(down, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	for _, f := range s.Fields {
		if f.Name[0] != ':' && f.Name != "sec-websocket-accept" {
			fmt.Fprintf(down, "%s: %s\r\n", f.Name, f.Value)
		}
	}
	if _, err := io.WriteString(down, "\r\n"); err != nil {
		return
	}
	b.tunnel(down, c, id)
}

// tunnel carries bytes both ways until both ends are done, and makes the end
// of one the end of the other.
func (b *bridge) tunnel(down *Conn, c *H2, id uint32) {
	var up sync.WaitGroup
	up.Go(func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := down.Reader.Read(buf)
			if n > 0 && c.Data(id, false, buf[:n]) != nil {
				return
			}
			if err == io.EOF {
				_ = c.Data(id, true, nil) // the stream's end shows below
				return
			}
			if err != nil {
				_ = c.Reset(id, http2.ErrCodeCancel)
				return
			}
		}
	})
	at := 0
	for {
		err := c.Wait(func() bool { s := c.stream(id); return len(s.Body) > at || s.Ended || s.Reset != nil })
		s := c.Snapshot(id)
		if err == ErrPatience && !c.Closed() {
			continue
		}
		if len(s.Body) > at {
			if _, err := down.Write(s.Body[at:]); err != nil {
				break
			}
			at = len(s.Body)
			continue
		}
		break
	}
	down.Close()
	up.Wait()
}
