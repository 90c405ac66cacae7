// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"

	"pillion/proxy/proxytest/inproc"
)

// The example of RFC 6455 section 1.3.
const (
	wsKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	wsAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

const upgradeRequest = "GET /chat HTTP/1.1\nHost: echo:9080\nConnection: Upgrade\nUpgrade: websocket\n" +
	"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: " + wsKey + "\n\n"

// wsRig is a proxy between a client and a host that switch the protocol, each
// by HTTP/1 or by extended CONNECT.
type wsRig struct {
	t     *testing.T
	p     *inproc.Proxy
	down2 bool
	up2   bool
	// host serves a tunnel.
	host func(tun inproc.Tunnel)
	// fields of the request that the host saw last
	seen chan map[string]string
}

// eachPair runs a test over HTTP/1 and HTTP/2 on either side.
func eachPair(t *testing.T, extra map[string]string, host func(inproc.Tunnel), run func(t *testing.T, r *wsRig)) {
	for _, down2 := range []bool{false, true} {
		for _, up2 := range []bool{false, true} {
			name := map[bool]string{false: "h1", true: "h2"}
			t.Run(name[down2]+" to "+name[up2], func(t *testing.T) {
				r := &wsRig{t: t, down2: down2, up2: up2, host: host, seen: make(chan map[string]string, 100)}
				r.start(extra)
				run(t, r)
			})
		}
	}
}

func (r *wsRig) start(extra map[string]string) {
	var yaml string
	if r.up2 {
		b := inproc.NewConnectBackend(r.t, true, func(s *inproc.ConnectStream) {
			r.seen <- s.Head()
			s.Answer(false, ":status", "200", "x-host", "yes")
			r.host(s)
		})
		yaml = strings.Replace(inproc.Service("echo", b), "name: http, protocol: HTTP", "name: http, protocol: HTTP2", 1)
	} else {
		b := inproc.NewBackend(r.t, func(c *inproc.Conn) {
			_, fields := c.Head()
			r.seen <- fields
			key := fields["sec-websocket-key"]
			c.Send("HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\nX-Host: yes\nSec-WebSocket-Accept: " +
				inproc.WebSocketAccept(key) + "\n\n")
			r.host(c.Tunnel())
		})
		yaml = inproc.Service("echo", b)
	}
	files := map[string]string{"echo.yaml": yaml}
	for k, v := range extra {
		files[k] = v
	}
	r.p = inproc.Start(r.t, files)
}

// open makes a tunnel, and sends early before the answer.
func (r *wsRig) open(early string) inproc.Tunnel {
	r.t.Helper()
	if r.down2 {
		s := inproc.DialConnect(r.t, r.p.Addr("http")).Open("echo:9080", "/chat", "websocket", "sec-websocket-version", "13")
		if early != "" {
			_, _ = io.WriteString(s, early)
		}
		h := s.Head()
		if h[":status"] != "200" || h["x-host"] != "yes" || h["sec-websocket-accept"] != "" || h["upgrade"] != "" {
			r.t.Fatalf("the answer is %v (%v)", h, s.Err())
		}
		return s
	}
	c := inproc.Dial(r.t, r.p.Addr("http"))
	c.Send(upgradeRequest + early)
	line, f := c.Head()
	if line != "HTTP/1.1 101 Switching Protocols" || f["sec-websocket-accept"] != wsAccept || !strings.EqualFold(f["upgrade"], "websocket") ||
		!strings.EqualFold(f["connection"], "upgrade") || f["x-host"] != "yes" || f["content-length"]+f["transfer-encoding"] != "" {
		r.t.Fatalf("the answer is %q %v", line, f)
	}
	return c.Tunnel()
}

func echo(tun inproc.Tunnel) {
	if _, err := io.Copy(tun, tun); err != nil {
		tun.Reset()
		return
	}
	_ = tun.CloseWrite()
	// A connection of HTTP/1 is closed when this returns.
}

func want(t *testing.T, tun io.Reader, text string) {
	t.Helper()
	p := make([]byte, len(text))
	if n, err := io.ReadFull(tun, p); err != nil || string(p) != text {
		t.Fatalf("read %q (%v), want %q", p[:n], err, text)
	}
}

// TestUpgradeEcho sends a little both ways, the first of it before the answer,
// and then ends each direction.
func TestUpgradeEcho(t *testing.T) {
	eachPair(t, nil, echo, func(t *testing.T, r *wsRig) {
		tun := r.open("early")
		if n := metric(t, r.p, "envoy_http_downstream_cx_upgrades_active"); n != 1 {
			t.Errorf("%v upgrades are active", n)
		}
		f := <-r.seen
		if r.up2 && (f[":method"] != "CONNECT" || f[":protocol"] != "websocket" || f["connection"] != "") {
			t.Errorf("the host got %v", f)
		}
		if !r.up2 && (!strings.EqualFold(f["connection"], "upgrade") || f["upgrade"] != "websocket" || f["sec-websocket-key"] == "" ||
			f["transfer-encoding"]+f["content-length"] != "") {
			t.Errorf("the host got %v", f)
		}
		want(t, tun, "early")
		for i := range 50 {
			text := fmt.Sprintf("message %d", i)
			if _, err := io.WriteString(tun, text); err != nil {
				t.Fatal(err)
			}
			want(t, tun, text)
		}
		if err := tun.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(tun); err != nil || len(rest) > 0 {
			t.Errorf("behind the end come %q, %v", rest, err)
		}
		r.p.WaitFor("one request is counted, with status 101", func() bool {
			return metric(t, r.p, "istio_requests_total", `response_code="101"`) == 1
		})
		if n := metric(t, r.p, "envoy_http_downstream_cx_upgrades_total"); n != 1 {
			t.Errorf("%v upgrades are counted", n)
		}
		if n := metric(t, r.p, "envoy_http_downstream_cx_upgrades_active"); n != 0 {
			t.Errorf("%v upgrades are active", n)
		}
	})
}

// TestUpgradeBulk sends 10 MiB each way at once.
func TestUpgradeBulk(t *testing.T) {
	const size = 10 << 20
	down := make([]byte, size)
	for i := range down {
		down[i] = byte(rand.Uint32())
	}
	up := bytes.Clone(down)
	up[0]++
	both := func(tun inproc.Tunnel, out, in []byte) error {
		var wg sync.WaitGroup
		var werr error
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, werr = tun.Write(out); werr == nil {
				werr = tun.CloseWrite()
			}
		}()
		got, err := io.ReadAll(tun)
		wg.Wait()
		if err == nil {
			err = werr
		}
		if err == nil && !bytes.Equal(got, in) {
			err = fmt.Errorf("%d octets came that are not those that were sent", len(got))
		}
		return err
	}
	hostErr := make(chan error, 1)
	eachPair(t, nil, func(tun inproc.Tunnel) { hostErr <- both(tun, down, up) }, func(t *testing.T, r *wsRig) {
		if err := both(r.open(""), up, down); err != nil {
			t.Error("client:", err)
		}
		if err := <-hostErr; err != nil {
			t.Error("host:", err)
		}
		for _, name := range []string{"istio_request_bytes_sum", "istio_response_bytes_sum"} {
			r.p.WaitFor("10 MiB are in "+name, func() bool { return metric(t, r.p, name) >= size })
		}
	})
}

// TestUpgradeHalfClose ends one direction and goes on with the other.
func TestUpgradeHalfClose(t *testing.T) {
	t.Run("by the client", func(t *testing.T) {
		eachPair(t, nil, func(tun inproc.Tunnel) {
			got, err := io.ReadAll(tun)
			_, _ = fmt.Fprintf(tun, "after %s %v", got, err)
			_ = tun.CloseWrite()
		}, func(t *testing.T, r *wsRig) {
			tun := r.open("")
			_, _ = io.WriteString(tun, "all")
			_ = tun.CloseWrite()
			if got, err := io.ReadAll(tun); string(got) != "after all <nil>" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	})
	t.Run("by the host", func(t *testing.T) {
		got := make(chan string, 1)
		eachPair(t, nil, func(tun inproc.Tunnel) {
			_, _ = io.WriteString(tun, "all")
			_ = tun.CloseWrite()
			p, err := io.ReadAll(tun)
			got <- fmt.Sprintf("%s %v", p, err)
		}, func(t *testing.T, r *wsRig) {
			tun := r.open("")
			if p, err := io.ReadAll(tun); string(p) != "all" || err != nil {
				t.Errorf("%q, %v", p, err)
			}
			_, _ = io.WriteString(tun, "still here")
			_ = tun.CloseWrite()
			if g := <-got; g != "still here <nil>" {
				t.Errorf("the host got %q", g)
			}
		})
	})
}

// TestUpgradeReset breaks a tunnel off from either side: the other one sees
// that it is no orderly end.
func TestUpgradeReset(t *testing.T) {
	t.Run("by the client", func(t *testing.T) {
		got := make(chan error, 1)
		eachPair(t, nil, func(tun inproc.Tunnel) {
			_, _ = io.WriteString(tun, "go")
			_, err := io.ReadAll(tun)
			got <- err
		}, func(t *testing.T, r *wsRig) {
			tun := r.open("")
			want(t, tun, "go")
			tun.Reset()
			if err := <-got; err == nil {
				t.Error("the host saw an orderly end")
			}
		})
	})
	t.Run("by the host", func(t *testing.T) {
		eachPair(t, nil, func(tun inproc.Tunnel) {
			p := make([]byte, 2)
			_, _ = io.ReadFull(tun, p)
			tun.Reset()
		}, func(t *testing.T, r *wsRig) {
			tun := r.open("")
			_, _ = io.WriteString(tun, "go")
			if _, err := io.ReadAll(tun); err == nil {
				t.Error("the client saw an orderly end")
			}
		})
	})
}

// TestUpgradeDrain holds that a drain waits for tunnels, and breaks them when
// its time is over.
func TestUpgradeDrain(t *testing.T) {
	for _, finish := range []bool{true, false} {
		t.Run(map[bool]string{true: "in time", false: "too late"}[finish], func(t *testing.T) {
			eachPair(t, nil, echo, func(t *testing.T, r *wsRig) {
				tun := r.open("early")
				want(t, tun, "early")
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				done := make(chan struct{})
				go func() {
					r.p.Shutdown(ctx)
					close(done)
				}()
				r.p.WaitFor("the proxy takes no more connections", func() bool {
					nc, err := net.Dial("tcp", r.p.Addr("http"))
					if err == nil {
						_ = nc.Close()
					}
					return err != nil
				})
				_, _ = io.WriteString(tun, "still here")
				want(t, tun, "still here")
				if finish {
					_ = tun.CloseWrite()
				} else {
					cancel()
				}
				_, err := io.ReadAll(tun)
				if finish && err != nil || !finish && err == nil {
					t.Errorf("the tunnel ends with %v", err)
				}
				<-done
			})
		})
	}
}

// TestUpgradeRetrySlot holds that a tunnel which was reached by a repeat doesn't
// count in the retry breaker for as long as it lasts, as in Envoy
// (RetryStateImpl::shouldRetry gives the place back when the head comes).
func TestUpgradeRetrySlot(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		if _, f := c.Head(); f["upgrade"] != "" {
			c.Send("HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\n\n")
			c.WantClosed()
		}
	})
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", inproc.Refusing(t), b),
		"rule.yaml":  rule("{loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {http: {maxRetries: 1}}}"),
		"route.yaml": route("  - route: [{destination: {host: echo}}]\n    retries: {attempts: 2, retryOn: connect-failure}\n")})
	for range 4 {
		c := inproc.Dial(t, p.Addr("http"))
		c.Send("GET /x HTTP/1.1\nHost: echo:9080\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n")
		line, _ := c.Head()
		if !strings.Contains(line, " 101 ") {
			t.Errorf("%s, want a switch: tunnels that were reached by a repeat hold the retry breaker", line)
		}
	}
}
