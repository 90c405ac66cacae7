// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pillion/test/rig"
	"pillion/test/wire"
)

// TestDrain ends a proxy that is busy: the request that it has begun is
// answered in full, an idle connection is closed, no new one is served, and
// the exit code is 0.
func TestDrain(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	origin := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		if r.Target == "/slow" {
			close(arrived)
			select {
			case <-release:
			case <-t.Context().Done():
			}
		}
		return wire.Text(w, r, "whole")
	})
	path := fill(t, t.TempDir(), "one-service.yaml", "port", origin.Port())
	p := rig.Start(t, binaries.Static(t), rig.Options{}, path)

	idle, err := wire.Dial(p.HTTP, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if err := idle.Send(get("app", "/")); err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Read("GET"); err != nil {
		t.Fatal(err)
	}
	busy, err := wire.Dial(p.HTTP, 2*rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if err := busy.Send(get("app", "/slow")); err != nil {
		t.Fatal(err)
	}
	<-arrived

	p.Signal(t, syscall.SIGTERM)
	rig.Until(t, "no new connection is served", func() error {
		c, err := net.Dial("tcp", p.HTTP)
		if err == nil {
			defer c.Close()
			return errors.New("it is accepted")
		}
		return nil
	})
	close(release)
	resp, err := busy.Read("GET")
	if err != nil {
		t.Fatalf("the request in progress: %v", err)
	}
	if resp.Status != 200 || string(resp.Body) != "whole" {
		t.Errorf("the request in progress got status %d, body %q", resp.Status, resp.Body)
	}
	if !strings.EqualFold(resp.Fields.Get("connection"), "close") {
		t.Errorf("the response while draining has connection: %q, want close", resp.Fields.Get("connection"))
	}
	if rest, err := idle.WaitClosed(); err != nil || len(rest) > 0 {
		t.Errorf("the idle connection: %v, %q", err, rest)
	}
	if code := p.WaitExit(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestQuit: POST /quitquitquit ends the process without waiting.
func TestQuit(t *testing.T) {
	t.Parallel()
	path := fill(t, t.TempDir(), "one-service.yaml", "port", "1")
	p := rig.Start(t, binaries.Static(t), rig.Options{}, path)
	if _, err := p.Ask("GET", "/quitquitquit"); err == nil {
		t.Error("GET /quitquitquit was obeyed; a link or a crawler must not end a proxy")
	}
	if _, err := p.Ask("POST", "/quitquitquit"); err != nil {
		t.Error(err)
	}
	if code := p.WaitExit(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestGateway: a Gateway opens a port of its own, which serves its hosts only.
func TestGateway(t *testing.T) {
	t.Parallel()
	origin := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		return wire.Text(w, r, r.Target)
	})
	gateway := rig.FreeAddr(t)
	_, port, _ := net.SplitHostPort(gateway)
	dir := t.TempDir()
	fill(t, dir, "one-service.yaml", "port", origin.Port())
	fill(t, dir, "gateway.yaml", "gateway", port)
	rig.Start(t, binaries.Static(t), rig.Options{Args: []string{"--labels", "istio=ingressgateway"}}, dir)
	for _, c := range []struct {
		host, path string
		status     int
		body       string
	}{
		{"shop.example.com", "/shop/items", 200, "/items"},
		{"shop.example.com:" + port, "/shop/items", 200, "/items"},
		{"SHOP.example.com", "/shop/items", 200, "/items"},
		{"shop.example.com", "/other", 404, ""},
		{"app.default.svc.cluster.local", "/shop/items", 404, ""},
	} {
		resp := do(t, gateway, get(c.host, c.path))
		if resp.Status != c.status || string(resp.Body) != c.body {
			t.Errorf("%s%s: status %d, body %q, want %d, %q", c.host, c.path, resp.Status, resp.Body, c.status, c.body)
		}
	}
}

// TestIdleUpstreamCloses: a server may close an idle connection at any time,
// and no client pays for that. Where the close crosses the next request, a GET
// is repeated. A POST is not if the server's kernel had taken it: nobody can
// tell then whether the application saw it (RFC 9110 section 9.2.2).
func TestIdleUpstreamCloses(t *testing.T) {
	t.Parallel()
	origin := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		if err := wire.Text(w, r, ""); err != nil {
			return err
		}
		if r.Fields.Get("x-then") == "close" {
			return wire.ErrClose // without having said so
		}
		return nil
	})
	p := startOne(t, binaries.Static(t), origin)
	tally := wire.Load{Addr: p.HTTP, Request: get("app", "/", "x-then: close"), Conns: 8, Count: 4000, Patience: rig.Patience}.Run()
	if tally.Failed > 0 || tally.Status[200] != 4000 {
		t.Errorf("closes that cross the next request: statuses %v, %d failed (%v)", tally.Status, tally.Failed, tally.Failure)
	}
	post := strings.Replace(get("app", "/", "content-length: 4"), "GET", "POST", 1) + "body"
	for i := range 100 {
		request := []string{get("app", "/"), post}[i%2]
		if resp := do(t, p.HTTP, request); resp.Status != 200 {
			t.Fatalf("status %d for %q", resp.Status, request)
		}
		if n := origin.CloseConns(); n == 0 {
			t.Fatal("the proxy kept no connection")
		}
	}
}

// TestUnmatchedHost: ALLOW_ANY passes on to the named address, and an address
// where nothing is answers like a failed connection.
func TestUnmatchedHost(t *testing.T) {
	t.Parallel()
	origin := wire.NewOrigin(t, "elsewhere", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		return wire.Text(w, r, r.Fields.Get("host"))
	})
	path := fill(t, t.TempDir(), "one-service.yaml", "port", "1")
	p := rig.Start(t, binaries.Static(t), rig.Options{}, path)
	resp := do(t, p.HTTP, fmt.Sprintf("GET http://%s/x HTTP/1.1\r\nHost: %[1]s\r\n\r\n", origin.Addr))
	if resp.Status != 200 || string(resp.Body) != origin.Addr {
		t.Errorf("an address outside of the mesh: status %d, body %q; want it passed on", resp.Status, resp.Body)
	}
}

// TestHalfClose: a client that sends no more may still get its answer. Envoy
// drops the connection instead, so this is no case of the differential test.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	origin := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		return wire.Text(w, r, "whole")
	})
	path := fill(t, t.TempDir(), "one-service.yaml", "port", origin.Port())
	p := rig.Start(t, binaries.Static(t), rig.Options{}, path)
	c, err := wire.Dial(p.HTTP, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send(get("app", "/")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if resp, err := c.Read("GET"); err != nil || resp.Status != 200 || string(resp.Body) != "whole" {
		t.Fatalf("the answer after a half-close: %+v, %v", resp, err)
	}
	if rest, err := c.WaitClosed(); err != nil || len(rest) > 0 {
		t.Errorf("after the answer: %v, %q", err, rest)
	}
}

// TestEndWhileStarting: a proxy that waits for its first certificate ends when it is told
// to, and doesn't wait on.
func TestEndWhileStarting(t *testing.T) {
	t.Parallel()
	admin := rig.FreeAddr(t)
	p := rig.StartProcess(t, exec.Command(binaries.Static(t), "run", "--http", "", "--metrics", "", "--admin", admin,
		"--sds", "unix:"+filepath.Join(t.TempDir(), "nobody"), referenceFiles(t, "10")))
	rig.Until(t, "its admin endpoint is there", func() error {
		if p.Exited() {
			t.Fatalf("it ended: %s", p.Stderr)
		}
		nc, err := net.Dial("tcp", admin)
		if err == nil {
			_ = nc.Close()
		}
		return err
	})
	p.Signal(t, syscall.SIGTERM)
	if code := p.WaitExit(t); code != 0 {
		t.Errorf("exit code %d: %s", code, p.Stderr)
	}
	if lines := p.Stderr.Lines("starting without a certificate"); len(lines) > 0 {
		t.Errorf("it waited on: %v", lines)
	}
}
