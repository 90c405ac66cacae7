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
	"slices"
	"strings"
	"syscall"
	"testing"

	"pillion/bench/mesh"
	"pillion/bench/origin"
	"pillion/bench/pki"
	"pillion/bench/proc"
	"pillion/bench/proc/proctest"
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
	case origin.SealedRole:
		err = origin.ServeSealed(ctx, os.Args[2])
	case GoNetHTTPRole:
		err = ServeGoNetHTTP(ctx, os.Args[2])
	default:
		proctest.Run(m)
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

// protocol is a pair of protocols, and who can't do it.
type protocol struct {
	name                 string
	downstream, upstream mesh.Protocol
	kind                 origin.Kind
	unable               []string
}

var protocolPairs = []protocol{
	{"h1", mesh.HTTP1, mesh.HTTP1, origin.HTTP, []string{"nghttpx"}},
	{"h2", mesh.HTTP2, mesh.HTTP2, origin.HTTP, []string{"nginx"}},
	{"h1-to-h2", mesh.HTTP1, mesh.HTTP2, origin.HTTP, []string{"nginx"}},
	{"h2-to-h1", mesh.HTTP2, mesh.HTTP1, origin.HTTP, nil},
	{"grpc", mesh.GRPC, mesh.GRPC, origin.GRPC, nil},
	{"tcp", mesh.TCP, mesh.TCP, origin.TCP, []string{"nghttpx"}},
	{"websocket", mesh.WebSocket, mesh.WebSocket, origin.HTTP, []string{"nghttpx"}},
}

// job is a job with a mesh in these protocols.
func (p protocol) job(services int, subsets bool, origins [2]string) Job {
	m := mesh.New(services, subsets && p.upstream != mesh.TCP)
	m.Protocol = p.upstream
	return Job{Mesh: m, Downstream: p.downstream, Origins: origins, Workers: 1, Connections: 64, Streams: 4}
}

// TestPeersDoTheJob starts each peer with one service and with many, in each
// pair of protocols that it speaks.
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
			for _, pair := range protocolPairs {
				origins := o.Addrs[pair.kind]
				why := p.Unable(pair.job(1, true, origins))
				if unable := slices.Contains(pair.unable, p.Name()); unable != (why != "") || unable && !strings.Contains(why, p.Name()) {
					t.Errorf("%s: unable because %q, want %v", pair.name, why, unable)
				}
				if why != "" {
					continue
				}
				for _, job := range []Job{pair.job(1, true, origins), pair.job(40, true, origins), pair.job(40, false, origins)} {
					t.Run(fmt.Sprintf("%s/%d,subsets=%v", pair.name, len(job.Services), job.Subsets), func(t *testing.T) {
						doesTheJob(t, g, p, tool, job)
					})
				}
			}
			routes := protocolPairs[0].job(1, true, o.Addrs[origin.HTTP])
			routes.Routes = 1000
			if p.Unable(routes) != "" {
				return
			}
			t.Run("1000 routes", func(t *testing.T) { doesTheJob(t, g, p, tool, routes) })
		})
	}
}

// sealedJobs are those of mutual TLS, of which the last is for a pair.
func sealedJobs(t *testing.T, certs pki.Set, plain, sealed [2]string) map[string]Job {
	t.Helper()
	jobs := map[string]Job{}
	for name, j := range map[string]TLS{"in": {In: true}, "out": {Out: true}, "pair": {In: true, Out: true}} {
		j.Certificates, j.Group = certs, pki.X25519
		job := protocolPairs[0].job(1, name == "out", plain)
		if name == "out" {
			job.Origins = sealed
		}
		job.TLS = j
		jobs[name] = job
	}
	return jobs
}

// TestPeersDoTLS starts each peer with mutual TLS on either side, and as a pair, and
// sees that it takes no client without the right certificate and no such origin.
func TestPeersDoTLS(t *testing.T) {
	g := proc.NewGroup()
	t.Cleanup(g.Close)
	o, err := origin.Start(g, self(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	others, err := pki.Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := origin.StartSealed(g, self(t), nil, certs)
	if err != nil {
		t.Fatal(err)
	}
	strange, err := origin.StartSealed(g, self(t), nil, others)
	if err != nil {
		t.Fatal(err)
	}
	jobs := sealedJobs(t, certs, o.Addrs[origin.HTTP], sealed.Addrs)
	for _, p := range All(self(t)) {
		if p.Unable(jobs["in"]) != "" {
			continue
		}
		t.Run(p.Name(), func(t *testing.T) {
			tool := located(t, p)
			start := func(t *testing.T, start func(context.Context, *proc.Group, Peer, Tool, string, Job, []int) (*Running, error), job Job, n int) *Running {
				t.Helper()
				r, err := start(t.Context(), g, p, tool, t.TempDir(), job, nil)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { r.Stop(g) })
				if len(r.Processes()) != n || r.Alive() != nil {
					t.Errorf("%d processes, %v", len(r.Processes()), r.Alive())
				}
				return r
			}
			t.Run("in", func(t *testing.T) {
				r, stranger := start(t, Start, jobs["in"], 1), jobs["in"]
				// It trusts the peer's CA, and shows a certificate of another.
				stranger.TLS.Certificates.Client = others.Client
				copyFile(t, certs.Client.CA(), others.Client.CA())
				if err := stranger.ask(t.Context(), r.Addr, question{of: stranger.Last()}); err == nil {
					t.Error("a client of another CA is served")
				}
			})
			t.Run("out", func(t *testing.T) {
				start(t, Start, jobs["out"], 1)
				wrong, dir := jobs["out"], t.TempDir()
				wrong.Origins = strange.Addrs
				l, err := p.Prepare(tool, dir, wrong)
				if err != nil {
					t.Fatal(err)
				}
				process, err := g.Start(*l.Spec)
				if err != nil {
					t.Fatal(err)
				}
				defer g.Stop(process)
				ctx, cancel := context.WithTimeout(t.Context(), readyLimit)
				defer cancel()
				answer := wrong.ask(ctx, l.Addr, question{of: wrong.Last()})
				for errors.Is(answer, syscall.ECONNREFUSED) { // it hasn't started yet
					answer = wrong.ask(ctx, l.Addr, question{of: wrong.Last()})
				}
				if answer == nil || !strings.Contains(answer.Error(), "status 50") {
					t.Errorf("an origin of another CA: %v, want status 502 or 503", answer)
				}
			})
			t.Run("pair", func(t *testing.T) { start(t, StartPair, jobs["pair"], 2) })
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
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
		for _, pair := range protocolPairs {
			if slices.Contains(pair.unable, c.peer.Name()) {
				continue
			}
			t.Run(c.peer.Name()+"/"+pair.name, func(t *testing.T) {
				tool, dir := located(t, c.peer), t.TempDir()
				job := pair.job(1000, true, [2]string{"127.0.0.1:1", "127.0.0.1:2"})
				job.Workers, job.Connections = 2, 1000
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
}

// TestSealedConfigurationsPassTheirOwnCheck: the same for mutual TLS.
func TestSealedConfigurationsPassTheirOwnCheck(t *testing.T) {
	certs, err := pki.Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	here := [2]string{"127.0.0.1:1", "127.0.0.1:2"}
	for name, job := range sealedJobs(t, certs, here, here) {
		for p, args := range map[Peer][]string{envoy{}: {"--mode", "validate"}, haproxy{}: {"-c"}, nginx{}: {"-t"}} {
			t.Run(p.Name()+"/"+name, func(t *testing.T) {
				tool, dir := located(t, p), t.TempDir()
				l, err := p.Prepare(tool, dir, job)
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(t.Context(), tool.Path, append(args, l.Spec.Args...)...)
				cmd.Dir = dir
				if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(strings.ToLower(string(out)), "warning") {
					t.Errorf("%v: %v\n%s", cmd, err, out)
				}
			})
		}
	}
}

// TestWrongEchoesAreRefused: the same for what isn't HTTP/1.1's constant answer.
func TestWrongEchoesAreRefused(t *testing.T) {
	g := proc.NewGroup()
	t.Cleanup(g.Close)
	o, err := origin.Start(g, self(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	closing, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closing.Close() })
	go func() {
		for c, err := closing.Accept(); err == nil; c, err = closing.Accept() {
			_ = c.Close()
		}
	}()
	cases := []struct {
		name, addr string
		speaks     mesh.Protocol
		want       string
	}{
		{"TCP without an echo", closing.Addr().String(), mesh.TCP, ""}, // the end or a reset, of a read or a write
		{"TCP of another protocol", o.Addrs[origin.HTTP][0], mesh.TCP, "echo"},
		{"gRPC without a message", o.Addrs[origin.HTTP][1], mesh.GRPC, "body of 1024 bytes, want 105"},
		{"gRPC of the wrong version", o.Addrs[origin.GRPC][0], mesh.GRPC, `version "v1", want "v2"`},
		{"no WebSocket", o.Addrs[origin.GRPC][0], mesh.WebSocket, ""},
		{"WebSocket of the wrong version", o.Addrs[origin.HTTP][0], mesh.WebSocket, `version "v1", want "v2"`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			job := Job{Mesh: mesh.New(1, true), Downstream: c.speaks}
			if err := job.ask(t.Context(), c.addr, question{of: job.Last(), match: true}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
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
			err := job.ask(t.Context(), srv.Listener.Addr().String(), question{of: job.Last(), match: true})
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
