// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pillion/proxy/proxytest/inproc"
)

const (
	websocketOn = "upgrade_configs: [{upgrade_type: WebSocket}]"
	switching   = "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\n"
)

// TestUpgradeAllowed holds who may switch: the connection manager says it, and
// the route has the last word. What isn't allowed is 403, and the connection
// ends.
func TestUpgradeAllowed(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		_, f := c.Head()
		c.Send(strings.Replace(switching, "websocket", f["upgrade"], 1) + "\n")
		echo(c.Tunnel())
	})
	for _, c := range []struct {
		manager, route, protocol string
		allowed                  bool
	}{
		{"", "", "websocket", false},
		{websocketOn, "", "websocket", true},
		{websocketOn, "", "WEBSOCKET", true},
		{websocketOn, "", "foo", false},
		{websocketOn, "", "websocket, foo", false},
		{"upgrade_configs: [{upgrade_type: websocket, enabled: false}]", "", "websocket", false},
		{"upgrade_configs: [{upgrade_type: websocket, enabled: false}]", websocketOn, "websocket", true},
		{"", websocketOn, "websocket", true},
		{websocketOn, "upgrade_configs: [{upgrade_type: websocket, enabled: false}]", "websocket", false},
		{websocketOn, "upgrade_configs: [{upgrade_type: foo}]", "foo", true},
		{websocketOn, "upgrade_configs: [{upgrade_type: foo}]", "websocket", true},
	} {
		t.Run(fmt.Sprintf("%s,%s,%s", c.manager, c.route, c.protocol), func(t *testing.T) {
			conn := inproc.Dial(t, serveRoute(t, b, false, c.manager, c.route))
			conn.Send("GET / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: " + c.protocol + "\n\nhello")
			if c.allowed {
				if line, f := conn.Head(); line != "HTTP/1.1 101 Switching Protocols" {
					t.Fatalf("%q %v", line, f)
				}
				conn.Want("hello")
				return
			}
			if r := conn.Response(false); r.Line != "HTTP/1.1 403 Forbidden" || r.Fields["connection"] != "close" {
				t.Errorf("%+v", r)
			}
			conn.WantClosed()
		})
	}
}

// TestUpgradeCounted: what a client may not switch to is counted.
func TestUpgradeCounted(t *testing.T) {
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", inproc.Echo(t, "echo"))})
	conn := inproc.Dial(t, p.Addr("http"))
	conn.Send("GET / HTTP/1.1\nHost: echo:9080\nConnection: upgrade\nUpgrade: foo\n\n")
	if r := conn.Response(false); r.Line != "HTTP/1.1 403 Forbidden" {
		t.Errorf("%+v", r)
	}
	if n := metric(t, p, "envoy_http_downstream_rq_ws_on_non_ws_route"); n != 1 {
		t.Errorf("the counter says %v", n)
	}
}

// TestUpgradeRefused holds that an answer other than 101 is handed on as it is
// and ends both connections: what the client sent behind its request reaches
// nobody.
func TestUpgradeRefused(t *testing.T) {
	for _, c := range []struct{ name, answer, line, body string }{
		{"400", "HTTP/1.1 400 Bad Request\nContent-Length: 2\n\nno", "HTTP/1.1 400 Bad Request", "no"},
		{"200", inproc.OK("plain"), "HTTP/1.1 200 OK", "plain"},
		{"426", "HTTP/1.1 426 Upgrade Required\nUpgrade: foo\nConnection: Upgrade\nContent-Length: 0\n\n", "HTTP/1.1 426 Upgrade Required", ""},
		{"another protocol", "HTTP/1.1 101 Switching Protocols\nUpgrade: foo\nConnection: Upgrade\n\n", "HTTP/1.1 502 Bad Gateway", "*"},
		{"no protocol", "HTTP/1.1 101 Switching Protocols\n\n", "HTTP/1.1 502 Bad Gateway", "*"},
		{"101 with a body", switching + "Transfer-Encoding: chunked\n\n", "HTTP/1.1 502 Bad Gateway", "*"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rest := make(chan string, 1)
			b := inproc.NewBackend(t, func(conn *inproc.Conn) {
				conn.Head()
				conn.Send(c.answer)
				p, _ := io.ReadAll(conn.Tunnel())
				rest <- string(p)
			})
			conn := inproc.Dial(t, serveRoute(t, b, false, websocketOn, ""))
			conn.Send("GET / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
			r := conn.Response(false)
			if r.Line != c.line || c.body != "*" && r.Body != c.body || r.Fields["connection"] != "close" {
				t.Errorf("%+v", r)
			}
			conn.WantClosed()
			if p := <-rest; p != "" {
				t.Errorf("the host got %q", p)
			}
			if n := b.Conns.Load(); n != 1 {
				t.Errorf("%d connections to the host", n)
			}
		})
	}
}

// TestUnaskedSwitch holds that a 101 that nobody asked for is no answer.
func TestUnaskedSwitch(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Head()
		c.Send(switching + "\n")
	})
	wantLine(t, inproc.Dial(t, serveRoute(t, b, false, websocketOn, "")).Do("GET / HTTP/1.1\nHost: a\n\n"), "HTTP/1.1 502 Bad Gateway")
}

// TestUpgradeWithBody holds that an offer which comes with a body is passed
// over: the request is an ordinary one, and so is the next.
func TestUpgradeWithBody(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(line string, f map[string]string, body string) string {
			return inproc.OK(f["upgrade"] + f["connection"] + body)
		})
	})
	c := inproc.Dial(t, serveRoute(t, b, false, websocketOn, ""))
	for range 2 {
		r := c.Do("POST / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket\nContent-Length: 4\n\nbody")
		if r.Line != "HTTP/1.1 200 OK" || r.Body != "body" {
			t.Errorf("%+v", r)
		}
	}
}

// TestConnectRefused holds what an extended CONNECT is answered that doesn't
// lead to a tunnel. A success that isn't one would be taken for one.
func TestConnectRefused(t *testing.T) {
	for _, c := range []struct{ answer, status string }{
		{"HTTP/1.1 400 Bad Request\nContent-Length: 2\n\nno", "400"},
		{inproc.OK("plain"), "502"},
		{switching + "Sec-WebSocket-Accept: " + wsAccept + "\n\n", "502"}, // not to the key that was made
		{switching + "\n", "502"},
	} {
		b := inproc.NewBackend(t, func(conn *inproc.Conn) {
			if _, f := conn.Head(); len(f["sec-websocket-key"]) != 24 {
				t.Errorf("the key is %q", f["sec-websocket-key"])
			}
			conn.Send(c.answer)
			_, _ = io.ReadAll(conn.Tunnel())
		})
		s := inproc.DialConnect(t, serveRoute(t, b, false, websocketOn, "")).Open("a", "/", "websocket")
		_, _ = io.WriteString(s, "early")
		if h := s.Head(); h[":status"] != c.status {
			t.Errorf("%q gives %v, %v", c.answer, h, s.Err())
		}
	}
	// A client's own key is its own to check.
	b := inproc.NewBackend(t, func(conn *inproc.Conn) {
		_, f := conn.Head()
		conn.Send(switching + "Sec-WebSocket-Accept: " + inproc.WebSocketAccept(f["sec-websocket-key"]) + "\n\n")
		echo(conn.Tunnel())
	})
	s := inproc.DialConnect(t, serveRoute(t, b, false, websocketOn, "")).Open("a", "/", "websocket", "sec-websocket-key", wsKey)
	if h := s.Head(); h[":status"] != "200" || h["sec-websocket-accept"] != wsAccept {
		t.Errorf("%v", h)
	}
}

// TestHostWithoutConnect holds that nothing is sent to a host of HTTP/2 that
// doesn't allow extended CONNECT.
func TestHostWithoutConnect(t *testing.T) {
	var streams atomic.Int32
	b := inproc.NewConnectBackend(t, false, func(s *inproc.ConnectStream) { streams.Add(1) })
	r := inproc.Dial(t, serveRoute(t, b, true, websocketOn, "")).Do("GET / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket\n\n")
	wantLine(t, r, "HTTP/1.1 503 Service Unavailable")
	if streams.Load() != 0 {
		t.Error("the host got a request")
	}
}

// TestUpgradeAccept holds that a client of HTTP/1 gets the answer to its key,
// whether the host of HTTP/2 gives one or not, and that a refusal is no tunnel.
func TestUpgradeAccept(t *testing.T) {
	for _, fields := range [][]string{{":status", "204"}, {":status", "200", "sec-websocket-accept", wsAccept}} {
		b := inproc.NewConnectBackend(t, true, func(s *inproc.ConnectStream) {
			s.Answer(false, fields...)
			echo(s)
		})
		c := inproc.Dial(t, serveRoute(t, b, true, websocketOn, ""))
		c.Send(upgradeRequest + "hello")
		if line, f := c.Head(); line != "HTTP/1.1 101 Switching Protocols" || f["sec-websocket-accept"] != wsAccept {
			t.Errorf("%q %v", line, f)
		}
		c.Want("hello")
	}
	b := inproc.NewConnectBackend(t, true, func(s *inproc.ConnectStream) { s.Answer(true, ":status", "404") })
	c := inproc.Dial(t, serveRoute(t, b, true, websocketOn, ""))
	wantLine(t, c.Do(upgradeRequest), "HTTP/1.1 404 Not Found")
	c.WantClosed()
}

// TestUpgradeIdle holds that a tunnel on which nothing moves ends after the
// route's idle_timeout, and that the route's timeout doesn't count.
func TestUpgradeIdle(t *testing.T) { checkEnds(t, "timeout: 0.5s, idle_timeout: 1s") }

// TestUpgradeBusy holds that a tunnel on which octets move outlives the idle
// timeout.
func TestUpgradeBusy(t *testing.T) {
	t.Parallel()
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Head()
		c.Send(switching + "\n")
		echo(c.Tunnel())
	})
	c := inproc.Dial(t, serveRoute(t, b, false, websocketOn, "idle_timeout: 1s"))
	c.Send(upgradeRequest)
	c.Head()
	for start := time.Now(); time.Since(start) < 2500*time.Millisecond; {
		c.SendRaw("hello")
		c.Want("hello")
	}
}

// TestUpgradeMaxDuration holds that a tunnel ends with the time of the stream.
func TestUpgradeMaxDuration(t *testing.T) {
	checkEnds(t, "max_stream_duration: {max_stream_duration: 1s}")
}

// checkEnds holds that the route's bounds end a tunnel for both sides, which
// see that it is no orderly end.
func checkEnds(t *testing.T, bounds string) {
	t.Helper()
	t.Parallel()
	left := make(chan error, 1)
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		_, f := c.Head()
		c.Send(switching + "Sec-WebSocket-Accept: " + inproc.WebSocketAccept(f["sec-websocket-key"]) + "\n\n")
		tun := c.Tunnel()
		_, err := io.Copy(tun, tun)
		left <- err
	})
	addr := serveRoute(t, b, false, websocketOn, bounds)
	for _, open := range []func() inproc.Tunnel{
		func() inproc.Tunnel {
			c := inproc.Dial(t, addr)
			c.Send(upgradeRequest)
			c.Head()
			return c.Tunnel()
		},
		func() inproc.Tunnel {
			s := inproc.DialConnect(t, addr).Open("a", "/", "websocket")
			s.Head()
			return s
		},
	} {
		tun := open()
		_, _ = io.WriteString(tun, "hello")
		want(t, tun, "hello")
		if _, err := io.ReadAll(tun); err == nil {
			t.Error("the client saw an orderly end")
		}
		if err := <-left; err == nil {
			t.Error("the host saw an orderly end")
		}
	}
}

// FuzzUpgrade sends octets behind a request to switch, cut at random places,
// to a host that refuses: none of them reaches it.
func FuzzUpgrade(f *testing.F) {
	f.Add([]byte("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"), uint8(3), uint8(7))
	f.Add([]byte("\r\n\r\n0\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), uint8(0), uint8(200))
	f.Add([]byte{}, uint8(1), uint8(2))
	got := make(chan string, 16)
	b := inproc.NewBackend(f, func(c *inproc.Conn) {
		head := make([]byte, 0, 512)
		one := make([]byte, 1)
		tun := c.Tunnel()
		for !strings.HasSuffix(string(head), "\r\n\r\n") {
			if _, err := tun.Read(one); err != nil {
				return
			}
			head = append(head, one[0])
		}
		_, _ = io.WriteString(tun, strings.ReplaceAll(inproc.OK("no"), "\n", "\r\n"))
		rest, _ := io.ReadAll(tun)
		got <- string(rest)
	})
	addr := serveRoute(f, b, false, websocketOn, "")
	f.Fuzz(func(t *testing.T, behind []byte, a, z uint8) {
		c := inproc.Dial(t, addr)
		all := "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" + string(behind)
		i := min(int(a), len(all))
		j := min(i+int(z), len(all))
		for _, p := range []string{all[:i], all[i:j], all[j:]} {
			// The proxy may have answered and closed before all of it is sent.
			_, _ = io.WriteString(c.Conn, p)
		}
		if r := c.Response(false); r.Line != "HTTP/1.1 200 OK" || r.Body != "no" {
			t.Errorf("%+v", r)
		}
		if rest := <-got; rest != "" {
			t.Errorf("the host got %q", rest)
		}
	})
}
