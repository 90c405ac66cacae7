// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"pillion/bench/origin"
)

// specs are the loads of TCP and WebSocket at an origin.
func specs(o *origin.Origin) map[string]SocketSpec {
	message, answer := WebSocketMessage(100)
	return map[string]SocketSpec{
		"tcp": {Addr: o.Addrs[origin.TCP][0], Hello: []byte{origin.Echo}, Message: make([]byte, 64), Answer: 64},
		"websocket": {
			Addr: o.Addrs[origin.HTTP][0], Upgrade: true, Message: message, Answer: answer,
			Hello: WebSocketHello(Request{Host: "h", Path: "/", Fields: [][2]string{{"end-user", "jason"}}}),
		},
	}
}

func TestMessagesAtTheOrigin(t *testing.T) {
	g, self, o := startedAll(t)
	for name, spec := range specs(o) {
		for _, rate := range []float64{0, 1000} {
			t.Run(fmt.Sprintf("%s at %v", name, rate), func(t *testing.T) {
				spec.Connections, spec.Rate, spec.Warmup, spec.Duration = 4, rate, 100*time.Millisecond, 400*time.Millisecond
				r, err := SocketChild(t.Context(), g, self, nil, spec)
				if err != nil {
					t.Fatal(err)
				}
				if r.Errors.Total() != 0 || rate > 0 && r.Requests != 500 || r.Requests < 50 || r.Bytes != 0 {
					t.Errorf("%d messages, errors %v", r.Requests, r.Errors)
				}
				if r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.Max || r.DriverCPU <= 0 {
					t.Errorf("result %+v", r)
				}
			})
		}
	}
}

func TestBytesOfTheOrigin(t *testing.T) {
	g, self, o := startedAll(t)
	r, err := SocketChild(t.Context(), g, self, nil, SocketSpec{
		Addr: o.Addrs[origin.TCP][0], Hello: []byte{origin.Source}, Connections: 3, Duration: 300 * time.Millisecond,
	})
	if err != nil || r.Bytes < 10<<20 || r.Requests != 0 || r.Errors.Total() != 0 || r.Duration < 290*time.Millisecond {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestBytesAreCounted: exactly those that came, and the early end is an error.
func TestBytesAreCounted(t *testing.T) {
	once := make(chan bool, 1)
	once <- true
	addr := handled(t, func(c net.Conn, r *bufio.Reader) {
		_, _ = r.Peek(1)
		select {
		case <-once:
			_, _ = c.Write(make([]byte, 5_000_001))
		default:
			_, _ = io.Copy(io.Discard, r)
		}
	})
	r, err := RunSocket(t.Context(), SocketSpec{Addr: addr, Hello: []byte{1}, Connections: 1, Duration: 300 * time.Millisecond})
	if err != nil || r.Bytes != 5_000_001 || r.Errors != (Errors{Read: 1}) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestMessagesCountErrors(t *testing.T) {
	for name, x := range map[string]struct {
		handle func(c net.Conn, r *bufio.Reader)
		want   Errors
	}{
		"closing": {func(_ net.Conn, r *bufio.Reader) { _, _ = io.ReadFull(r, make([]byte, 4)) }, Errors{Read: 3}},
		"too much": {func(c net.Conn, r *bufio.Reader) {
			_, _ = io.ReadFull(r, make([]byte, 4))
			_, _ = c.Write(make([]byte, 5))
			_, _ = io.Copy(io.Discard, r)
		}, Errors{Read: 3}},
		"silent": {func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) }, Errors{Timeout: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := RunSocket(t.Context(), SocketSpec{
				Addr: handled(t, x.handle), Message: make([]byte, 4), Answer: 4, Connections: 2, Rate: 10, Duration: 300 * time.Millisecond,
			})
			if err != nil || r.Errors != x.want {
				t.Errorf("%+v, %v, want %+v", r, err, x.want)
			}
		})
	}
}

func TestSocketRefusesNonsense(t *testing.T) {
	answering := func(text string) string {
		return handled(t, func(c net.Conn, r *bufio.Reader) {
			if asked(r) {
				_, _ = io.WriteString(c, text)
			}
		})
	}
	_, _, o := startedAll(t)
	good := specs(o)["websocket"]
	good.Connections, good.Rate, good.Duration = 1, 1, time.Second
	for name, x := range map[string]struct {
		change func(*SocketSpec)
		want   string
	}{
		"connections": {func(s *SocketSpec) { s.Connections = 0 }, "no sense"},
		"answer":      {func(s *SocketSpec) { s.Answer = 0 }, "no sense"},
		"name":        {func(s *SocketSpec) { s.Addr = "localhost:1" }, "IPv4"},
		"nobody":      {func(s *SocketSpec) { s.Addr = "127.0.0.1:1" }, "refused"},
		"refused":     {func(s *SocketSpec) { s.Addr = answering("HTTP/1.1 403 Forbidden\r\n\r\n") }, "403"},
		"early":       {func(s *SocketSpec) { s.Addr = answering("HTTP/1.1 101 x\r\n\r\nabc") }, "spoken to"},
		"end":         {func(s *SocketSpec) { s.Addr = answering("HTTP/1.1 101 x\r\n") }, "EOF"},
	} {
		s := good
		x.change(&s)
		if r, err := RunSocket(t.Context(), s); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %+v, %v, want an error with %q", name, r, err, x.want)
		}
	}
	if err := ServeSocket(t.Context(), strings.NewReader("{"), io.Discard); err == nil {
		t.Error("broken JSON is accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, s := range []SocketSpec{good, {Addr: o.Addrs[origin.TCP][0], Hello: []byte{origin.Source}, Connections: 1, Duration: time.Hour}} {
		if _, err := RunSocket(ctx, s); err == nil {
			t.Error("a cancelled load succeeds")
		}
	}
}
