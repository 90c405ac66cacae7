// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"context"
	"io"
	"net"
	nethttp "net/http"
	"path/filepath"
	"strings"
	"testing"
)

func TestServer(t *testing.T) {
	_, h := newFake()
	s, err := Listen("127.0.0.1:0", h, quiet())
	if err != nil {
		t.Fatal(err)
	}
	res, err := nethttp.Get("http://" + s.Addr() + "/ready")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || string(body) != "LIVE\n" || res.ProtoMajor != 1 {
		t.Errorf("%v %q over %s", err, body, res.Proto)
	}
	if _, err := Listen(s.Addr(), h, quiet()); err == nil || !strings.Contains(err.Error(), s.Addr()) {
		t.Errorf("a second server on the address: %v", err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", s.Addr()); err == nil {
		t.Error("the address is still served after Shutdown")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// raw sends bytes and returns the first line of what comes back.
func raw(t *testing.T, network, addr, request string) string {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(c).ReadString('\n') // empty when the server just closes
	return line
}

func TestServerLimits(t *testing.T) {
	_, h := newFake()
	s, err := Listen("127.0.0.1:0", h, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, c := range map[string]struct{ request, answer string }{
		"HTTP/2 by prior knowledge": {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 404"},
		"HTTP/2 by upgrade":         {"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", "HTTP/1.1 200"},
		"big head":                  {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 2*maxHeaderBytes) + "\r\n\r\n", "HTTP/1.1 431"},
		"long path":                 {"GET /" + strings.Repeat("x", 5000) + " HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 404"},
	} {
		if got := raw(t, "tcp", s.Addr(), c.request); !strings.HasPrefix(got, c.answer) {
			t.Errorf("%s: %q, want %s", name, got, c.answer)
		}
	}
}

func TestServerOnUnixSocket(t *testing.T) {
	_, h := newFake()
	path := filepath.Join(t.TempDir(), "admin.sock")
	s, err := Listen(path, h, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := raw(t, "unix", path, "GET /ready HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("answer %q", got)
	}
}
