// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pillion/bench/mesh"
	"pillion/bench/origin"
	"pillion/bench/proc"
	"pillion/test/need"
)

// TestMain lets this test's binary play the programs that are part of the
// benchmark's own.
func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	var err error
	switch role {
	case origin.Role:
		err = origin.ServeFiles(ctx)
	case GoNetHTTPRole:
		err = ServeGoNetHTTP(ctx, os.Args[2])
	default:
		os.Exit(m.Run())
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// self is this test's binary.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// located finds a peer's program, or skips the test if it is another project's.
func located(t *testing.T, p Peer) Tool {
	t.Helper()
	switch p.Name() {
	case "envoy":
		if os.Getenv("ENVOY_BIN") == "" {
			return Tool{Path: need.Envoy(t)}
		}
	case "haproxy", "nginx", "nghttpx":
		return Tool{Path: need.Program(t, p.Name())}
	}
	tool, err := p.Locate(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return tool
}

// TestPeersDoTheJob starts each peer with one service and with many.
func TestPeersDoTheJob(t *testing.T) {
	g := proc.NewGroup()
	t.Cleanup(g.Close)
	o, err := origin.Start(g, self(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range All(self(t)) {
		t.Run(p.Name(), func(t *testing.T) {
			tool := located(t, p)
			for _, m := range []mesh.Mesh{mesh.New(1, true), mesh.New(40, true), mesh.New(40, false)} {
				t.Run(fmt.Sprintf("%d,subsets=%v", len(m.Services), m.Subsets), func(t *testing.T) {
					doesTheJob(t, g, p, tool, Job{Mesh: m, Origins: o.Addrs[origin.HTTP], Workers: 1, Connections: 64})
				})
			}
		})
	}
}

// doesTheJob starts and stops one peer.
func doesTheJob(t *testing.T, g *proc.Group, p Peer, tool Tool, job Job) {
	t.Helper()
	dir := t.TempDir()
	r, err := Start(t.Context(), g, p, tool, dir, job, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Process != nil {
		m, err := proc.ReadMemory(r.Process.PID())
		if err != nil || m.RSS < m.Anon || m.Anon <= 0 {
			t.Errorf("memory %+v, error %v", m, err)
		}
		if r.Ready <= 0 {
			t.Errorf("ready after %v", r.Ready)
		}
	}
	r.Stop(g)
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("files are left: %v", left)
	}
	if c, err := net.Dial("tcp", r.Addr); err == nil && r.Process != nil {
		c.Close()
		t.Errorf("%s still accepts connections", r.Addr)
	}
}

// TestConfigurationsPassTheirOwnCheck gives each configuration to the peer's
// own validator, which also refuses what a mere start would let pass.
func TestConfigurationsPassTheirOwnCheck(t *testing.T) {
	cases := []struct {
		peer Peer
		args func(l Launch) []string
	}{
		{envoy{}, func(l Launch) []string { return append([]string{"--mode", "validate"}, l.Spec.Args...) }},
		{haproxy{}, func(l Launch) []string { return append([]string{"-c"}, l.Spec.Args...) }},
		{nginx{}, func(l Launch) []string { return append([]string{"-t"}, l.Spec.Args...) }},
	}
	for _, c := range cases {
		t.Run(c.peer.Name(), func(t *testing.T) {
			tool, dir := located(t, c.peer), t.TempDir()
			job := Job{Mesh: mesh.New(1000, true), Origins: [2]string{"127.0.0.1:1", "127.0.0.1:2"}, Workers: 2, Connections: 1000}
			l, err := c.peer.Prepare(tool, dir, job)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), tool.Path, c.args(l)...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %v\n%s", cmd, err, out)
			}
			if s := strings.ToLower(string(out)); strings.Contains(s, "warning") || strings.Contains(s, "deprecated") {
				t.Errorf("its configuration draws a warning:\n%s", out)
			}
		})
	}
}

// TestWrongAnswersAreRefused: a peer that answers, but not as asked, must not
// be measured.
func TestWrongAnswersAreRefused(t *testing.T) {
	cases := []struct {
		name    string
		handler nethttp.HandlerFunc
		want    string
	}{
		{"status", func(w nethttp.ResponseWriter, _ *nethttp.Request) { w.WriteHeader(503) }, "status 503"},
		{"no version", func(w nethttp.ResponseWriter, _ *nethttp.Request) {
			_, _ = w.Write(make([]byte, origin.BodySize))
		}, `version ""`},
		{"wrong route", func(w nethttp.ResponseWriter, _ *nethttp.Request) {
			w.Header().Set(origin.VersionField, "v1")
		}, `version "v1", want "v2"`},
		{"short body", func(w nethttp.ResponseWriter, _ *nethttp.Request) {
			w.Header().Set(origin.VersionField, "v2")
			_, _ = w.Write([]byte("short"))
		}, "body of 5 bytes"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(c.handler)
			defer srv.Close()
			job := Job{Mesh: mesh.New(1, true)}
			err := job.ask(t.Context(), srv.Listener.Addr().String(), job.Last(), true)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestCountedRequests(t *testing.T) {
	srv := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if r.URL.Path != "/stats/prometheus" {
			w.WriteHeader(404)
			return
		}
		_, _ = w.Write([]byte("# TYPE istio_requests_total counter\n" +
			"istio_requests_total{a=\"x y\"} 3\nistio_requests_total{a=\"}\"} 4.5e1\nistio_requests_totals{} 9\nother 1\n"))
	}))
	defer srv.Close()
	n, err := counted(t.Context(), srv.Listener.Addr().String(), "istio_requests_total")
	if err != nil || n != 48 {
		t.Errorf("counted %v, error %v, want 48", n, err)
	}
}

func TestMissingPeerSaysHowToGetIt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("ENVOY_BIN", "")
	var missing *MissingError
	if _, err := (envoy{}).Locate(t.Context(), ""); !errors.As(err, &missing) || !strings.Contains(err.Error(), "make tools") {
		t.Errorf("error %v, want a MissingError that names make tools", err)
	}
	t.Setenv("ENVOY_BIN", filepath.Join(t.TempDir(), "nothing"))
	if _, err := (envoy{}).Locate(t.Context(), ""); !errors.As(err, &missing) || !strings.Contains(err.Error(), "ENVOY_BIN") {
		t.Errorf("error %v, want a MissingError that names ENVOY_BIN", err)
	}
}

func TestVersions(t *testing.T) {
	cases := []struct{ got, want string }{
		{haproxyVersion("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"), "HAProxy 2.6.12-1+deb12u4"},
		{haproxyVersion("something else"), "something else"},
		{envoyVersion("/opt/envoy  version: 9e5580933739/1.40.0/Clean/RELEASE/BoringSSL"), "Envoy 1.40.0"},
		{envoyVersion("something else"), "something else"},
	}
	for _, c := range cases {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}
