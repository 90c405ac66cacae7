// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pillion/test/need"
	"pillion/test/rig"
)

// anyOrigin serves HTTP of either version on a free port, and what begins with
// "raw" it sends back as it is. It returns the port.
func anyOrigin(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var both nethttp.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	web := &handedOver{Listener: ln, conns: make(chan net.Conn), done: make(chan struct{})}
	server := &nethttp.Server{Protocols: &both, Handler: nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		fmt.Fprintf(w, "%s for %s", r.Proto, r.URL.Path)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(web) })
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				r := bufio.NewReader(c)
				head, _ := r.Peek(3)
				if string(head) != "raw" {
					web.take(&peeked{c, r})
					return
				}
				_, _ = io.Copy(c, r)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// handedOver is a listener of connections that others have accepted.
type handedOver struct {
	net.Listener
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *handedOver) take(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close()
	}
}

func (l *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *handedOver) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// peeked is a connection of which something has been read ahead.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (c *peeked) Read(p []byte) (int, error) { return c.r.Read(p) }

// TestUnknownProtocol holds that a port that doesn't say what it carries serves
// HTTP of both versions, by the routes of its service, and bytes that are none,
// all at one address. A real Envoy on the same YAML does the same.
func TestUnknownProtocol(t *testing.T) {
	t.Parallel()
	at := "127.0.0.1:" + freePort(t)
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: app, namespace: default}
spec:
  hosts: [app.default.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 7000, name: any}]
  endpoints: [{address: 127.0.0.1, ports: {any: %s}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app, namespace: default}
spec:
  hosts: [app]
  http:
  - {match: [{uri: {prefix: /old}}], rewrite: {uri: /new}, route: [{destination: {host: app}}]}
  - {route: [{destination: {host: app}}]}
`, anyOrigin(t)))
	// Some bytes could still become HTTP, so that the time is waited for.
	listen := []string{"--listen", "app:7000=" + at, "--protocol-detection-timeout", "1500ms"}
	t.Run("ours", func(t *testing.T) {
		p := rig.Start(t, binaries.Static(t), rig.Options{Args: listen}, path)
		if !strings.Contains(p.Stdout.String(), "app.default.svc.cluster.local:7000 "+at) {
			t.Errorf("the first line doesn't say what is open there: %s", p.Stdout)
		}
		if !strings.Contains(p.Get(t, "/listeners"), at) {
			t.Error("/listeners doesn't have the address")
		}
		speakAll(t, at)
		rig.Until(t, "each is counted as what it is", func() error {
			m := p.Scrape(t)
			http, raw := m.Sum("istio_requests_total", "destination_service=app.default.svc.cluster.local"), m.Sum("istio_tcp_connections_closed_total")
			if http != 4 || raw != 2 {
				return fmt.Errorf("%v requests and %v connections", http, raw)
			}
			return nil
		})
		p.Signal(t, syscall.SIGTERM) // Envoy is to have the address
		p.WaitExit(t)
	})
	t.Run("envoy", func(t *testing.T) {
		need.Envoy(t)
		startEnvoy(t, listen, path)
		speakAll(t, at)
	})
}

// speakAll speaks every protocol to an address.
func speakAll(t *testing.T, at string) {
	t.Helper()
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		var one nethttp.Protocols
		one.SetHTTP1(version == "HTTP/1.1")
		one.SetUnencryptedHTTP2(version == "HTTP/2.0")
		tr := &nethttp.Transport{Protocols: &one}
		c := &nethttp.Client{Transport: tr, Timeout: rig.Patience}
		for path, want := range map[string]string{"/x": "/x", "/old/y": "/new/y"} {
			r, err := c.Get("http://" + at + path)
			if err != nil {
				t.Errorf("%s: %v", version, err)
				continue
			}
			body, err := io.ReadAll(r.Body)
			_ = r.Body.Close()
			if string(body) != version+" for "+want || err != nil {
				t.Errorf("%s of %s: status %d, %q, %v", version, path, r.StatusCode, body, err)
			}
		}
		tr.CloseIdleConnections()
	}
	for _, text := range []string{"raw bytes", "raw\x16\x03\x01\x00GET / HTTP/1.1\r\n\r\n"} {
		if got, err := echoed(at, text); got != text || err != nil {
			t.Errorf("%q came back as %q, %v", text, got, err)
		}
	}
}

// echoed sends text, waits for it to come back, ends, and returns all that came
// back. Envoy breaks off a client that ends before it knows what it speaks.
func echoed(at, text string) (string, error) {
	nc, err := net.DialTimeout("tcp", at, rig.Patience)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(rig.Patience))
	if _, err := io.WriteString(nc, text); err != nil {
		return "", err
	}
	back := make([]byte, len(text))
	if n, err := io.ReadFull(nc, back); err != nil {
		return string(back[:n]), err
	}
	if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	rest, err := io.ReadAll(nc)
	return string(back) + string(rest), err
}
