// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bufio"
	"errors"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"testing"

	"pillion/proxy/http"
)

const carryHead = "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n"

// between is a response under way from a host to a client: the first piece of its body
// has been passed on.
type between struct {
	up           *ClientConn
	down         *ServerConn
	host, client net.Conn
	// told is closed when the host has written all that it was to.
	told chan struct{}
}

// passing begins a response, of whose body there is what is told.
func passing(t *testing.T, head, told string) *between {
	t.Helper()
	near, host := tcpPair(t)
	client, server := tcpPair(t)
	b := &between{up: NewClientConn(near), down: NewServerConn(server, &Limits{}), host: host, client: client, told: make(chan struct{})}
	go func() {
		defer close(b.told)
		// What comes before it is asked for is no answer, and isn't waited for as one.
		if _, err := nethttp.ReadRequest(bufio.NewReader(host)); err == nil {
			_, _ = io.WriteString(host, head+told)
		}
	}()

	_, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	var req http.RequestHead
	if err := b.down.ReadHead(&req, nil); err != nil {
		t.Fatal(err)
	}
	b.up.Begin()
	if err := b.up.WriteHead(&req, true); err != nil {
		t.Fatal(err)
	}
	var resp http.ResponseHead
	if err := b.up.ReadHead(&resp); err != nil {
		t.Fatal(err)
	}
	if err := b.down.WriteHead(&resp, false); err != nil {
		t.Fatal(err)
	}
	return b
}

// pass passes pieces on until one has been carried, the body has ended, or it broke.
func (b *between) pass() (moved int64, upErr, downErr error) {
	for {
		if !b.up.Buffered() {
			if err := b.down.Flush(); err != nil {
				return moved, nil, err
			}
		}
		p, err := b.up.ReadBody()
		if err == io.EOF {
			return moved, nil, b.down.WriteBody(nil, true)
		}
		if err != nil {
			return moved, err, nil
		}
		if err := b.down.WriteBody(p, false); err != nil {
			return moved, nil, err
		}
		n, upErr, downErr := CarryResponse(b.down, b.up)
		if moved += n; upErr != nil || downErr != nil {
			return moved, upErr, downErr
		}
	}
}

// TestCarryResponse: a big body of a length passes unseen but for its beginning and
// its end, any other piece by piece.
func TestCarryResponse(t *testing.T) {
	whole := strings.Repeat("0123456789abcdef", 1<<20/16)
	for _, c := range []struct {
		name, head, body, want string
		carried                bool
	}{
		{"big", carryHead, whole, whole, true},
		{"small", "HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n", whole[:64<<10], whole[:64<<10], false},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "100000\r\n" + whole + "\r\n0\r\n\r\n", whole, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := passing(t, c.head, c.body)
			got := make(chan string, 1)
			go func() {
				resp, err := nethttp.ReadResponse(bufio.NewReader(b.client), nil)
				if err != nil {
					got <- err.Error()
					return
				}
				p, _ := io.ReadAll(resp.Body)
				got <- string(p)
			}()
			moved, upErr, downErr := b.pass()
			if upErr != nil || downErr != nil || (moved > 0) != c.carried {
				t.Fatalf("%d octets were carried, %v, %v", moved, upErr, downErr)
			}
			if err := b.down.Flush(); err != nil {
				t.Fatal(err)
			}
			reusable, head := b.up.End()
			head.Release()
			if !reusable || !b.down.End() {
				t.Errorf("reusable %v", reusable)
			}
			b.down.Close()
			if p := <-got; p != c.want {
				t.Errorf("%d octets came, want %d", len(p), len(c.want))
			}
		})
	}
}

// TestCarryFails: what breaks while the kernel is at work is told as by the methods
// that read and write.
func TestCarryFails(t *testing.T) {
	part := strings.Repeat("0123456789abcdef", 300<<10/16)
	drain := func(b *between) { _, _ = io.Copy(io.Discard, b.client) }
	t.Run("the host ends", func(t *testing.T) {
		b := passing(t, carryHead, part)
		go drain(b)
		go func() {
			<-b.told
			_ = b.host.(*net.TCPConn).CloseWrite()
		}()
		_, upErr, downErr := b.pass()
		if !errors.Is(upErr, errUpstreamCut) || downErr != nil {
			t.Errorf("%v, %v", upErr, downErr)
		}
		if reusable, head := b.up.End(); reusable {
			head.Release()
			t.Error("the connection would be used again")
		}
	})
	t.Run("the host's time is up", func(t *testing.T) {
		b := passing(t, carryHead, part)
		go func() {
			_, _ = io.ReadFull(b.client, make([]byte, len(part)))
			b.up.Interrupt()
		}()
		if _, upErr, downErr := b.pass(); !errors.Is(upErr, errUpstreamLate) || downErr != nil {
			t.Errorf("%v, %v", upErr, downErr)
		}
	})
	t.Run("the client goes", func(t *testing.T) {
		b := passing(t, carryHead, strings.Repeat(part, 4)[:1<<20])
		_ = b.client.(*net.TCPConn).SetLinger(0)
		_ = b.client.Close()
		if _, upErr, downErr := b.pass(); upErr != nil || !errors.Is(downErr, errClientGone) || !b.down.Closing() {
			t.Errorf("%v, %v", upErr, downErr)
		}
	})
}
