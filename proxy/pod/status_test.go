// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"pillion/proxy/stats"
)

func newTestStatus(t *testing.T, p *Pod, proxy *fakeProxy) *Status {
	t.Helper()
	s, err := NewStatus(StatusOptions{Pod: p, Proxy: proxy, Lifecycle: NewLifecycle(p, proxy, quiet()), Profiling: true, Started: time.Now(), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// request asks a handler as somebody at an address would.
func request(h nethttp.Handler, from, method, target string, header ...string) (int, string, nethttp.Header) {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = from
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String(), w.Header()
}

const (
	kubelet = "10.244.1.1:40000"
	itself  = "127.0.0.1:40000"
)

func TestReadiness(t *testing.T) {
	for _, c := range []struct {
		name    string
		health  Health
		names   bool
		reasons []string // parts, one for each reason
	}{
		{"ready", healthy(), false, nil},
		{"ready, with names", Health{State: stats.StateLive, Clusters: Updates{1, 9}, Listeners: Updates{2, 0}, NameTable: true}, true, nil},
		{"a certificate is waited for", Health{State: stats.StateLive, Clusters: Updates{1, 0}, Listeners: Updates{1, 0}, Waiting: []string{"no certificate"}}, false, []string{"no certificate"}},
		{"names are wanted", healthy(), true, []string{"NDS"}},
		{"nothing has come", Health{State: stats.StatePreInitializing, ControlPlane: "istiod:15012: connection refused"}, false,
			[]string{"clusters (CDS)", "listeners (LDS)", "PRE_INITIALIZING", "control plane: istiod:15012: connection refused"}},
		{"one type has come", Health{State: stats.StateLive, Clusters: Updates{1, 0}}, false, []string{"no listeners (LDS)"}},
		{"refused", Health{State: stats.StateLive, Clusters: Updates{1, 0}, Listeners: Updates{0, 3}}, false, []string{"all 3 answers with listeners (LDS) were rejected"}},
		{"draining", Health{State: stats.StateDraining, Clusters: Updates{1, 0}, Listeners: Updates{1, 0}}, false, []string{"draining"}},
		{"initializing", Health{State: stats.StateInitializing, Clusters: Updates{1, 0}, Listeners: Updates{1, 0}}, false, []string{"INITIALIZING"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			proxy := &fakeProxy{health: c.health}
			s := newTestStatus(t, &Pod{NameTable: c.names}, proxy)
			want := 503
			if c.reasons == nil {
				want = 200
			}
			for port, h := range map[string]nethttp.Handler{"15020": s.Handler(), "15021": s.ProbeHandler()} {
				if code, body, _ := request(h, kubelet, "GET", "/healthz/ready"); code != want || body != "" {
					t.Errorf("%s: %d %q, want %d and nothing", port, code, body, want)
				}
				_, body, _ := request(h, kubelet, "GET", "/healthz/ready?verbose")
				lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
				if body == "" {
					lines = nil
				}
				if len(lines) != len(c.reasons) || !slices.EqualFunc(lines, c.reasons, strings.Contains) {
					t.Errorf("%s: reasons %q, want %q", port, lines, c.reasons)
				}
			}
		})
	}
}

func TestProbePort(t *testing.T) {
	s := newTestStatus(t, &Pod{}, &fakeProxy{health: healthy()})
	for path, want := range map[string]int{"/healthz/ready": 200, "/healthz/ready/": 200, "/": 404, "/healthz": 404, "/stats/prometheus": 404, "/quitquitquit": 404, "/debug/pprof/": 404} {
		for _, method := range []string{"GET", "POST"} {
			if code, _, _ := request(s.ProbeHandler(), itself, method, path); code != want {
				t.Errorf("%s %s: %d, want %d", method, path, code, want)
			}
		}
	}
}

// TestSteeringIsForThePod: what ends the proxy, and what tells of it, is for the
// pod itself.
func TestSteeringIsForThePod(t *testing.T) {
	for _, c := range []struct {
		from, method, path string
		header             []string
		want               int
		drains             int
		quit               bool
	}{
		{itself, "POST", "/drain", nil, 200, 1, false},
		{"[::1]:1", "POST", "/drain", nil, 200, 1, false},
		{"[::ffff:127.0.0.1]:1", "POST", "/drain", nil, 200, 1, false},
		{itself, "GET", "/drain", nil, 405, 0, false},
		{kubelet, "POST", "/drain", nil, 403, 0, false},
		{kubelet, "GET", "/drain", nil, 403, 0, false},
		{"nobody", "POST", "/drain", nil, 403, 0, false},
		{itself, "POST", "/drain", []string{"Sec-Fetch-Site", "cross-site"}, 403, 0, false},
		{itself, "POST", "/quitquitquit", nil, 200, 0, true},
		{itself, "GET", "/quitquitquit", nil, 405, 0, false},
		{kubelet, "POST", "/quitquitquit", nil, 403, 0, false},
		{itself, "GET", "/debug/pprof/cmdline", nil, 200, 0, false},
		{kubelet, "GET", "/debug/pprof/cmdline", nil, 403, 0, false},
		{itself, "GET", "/debug/ndsz", nil, 404, 0, false},
		{kubelet, "GET", "/debug/ndsz", nil, 403, 0, false},
		{itself, "GET", "/nothing", nil, 404, 0, false},
	} {
		proxy := &fakeProxy{health: healthy()}
		p := &Pod{Role: Sidecar}
		s := newTestStatus(t, p, proxy)
		code, _, _ := request(s.Handler(), c.from, c.method, c.path, c.header...)
		quit := false
		select {
		case <-s.o.Lifecycle.Quit():
			quit = true
		default:
		}
		if code != c.want || len(proxy.drains) != c.drains || quit != c.quit {
			t.Errorf("%s %s from %s: %d, %d drains, quit %v; want %d, %d, %v", c.method, c.path, c.from, code, len(proxy.drains), quit, c.want, c.drains, c.quit)
		}
		if c.drains == 1 && len(s.Ready()) == 0 {
			t.Errorf("%s: it is ready while it drains", c.path)
		}
	}
}

func TestWithoutProfiling(t *testing.T) {
	p := &Pod{}
	proxy := &fakeProxy{}
	s, err := NewStatus(StatusOptions{Pod: p, Proxy: proxy, Lifecycle: NewLifecycle(p, proxy, quiet()), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if code, _, _ := request(s.Handler(), itself, "GET", "/debug/pprof/cmdline"); code != 404 {
		t.Errorf("status %d", code)
	}
}

func TestNameTable(t *testing.T) {
	proxy := &fakeProxy{names: []byte(`{"table":{}}`)}
	s := newTestStatus(t, &Pod{}, proxy)
	code, body, h := request(s.Handler(), itself, "GET", "/debug/ndsz")
	if code != 200 || body != `{"table":{}}` || h.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s %s", code, body, h.Get("Content-Type"))
	}
}

// TestListenLimits: whoever holds connections open keeps nobody out.
func TestListenLimits(t *testing.T) {
	s := newTestStatus(t, &Pod{}, &fakeProxy{health: healthy()})
	srv, err := Listen("127.0.0.1:0", s.ProbeHandler(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	var held []net.Conn
	for i := range maxConns + 50 {
		c, err := net.Dial("tcp", srv.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 { // some have begun a request
			_, _ = io.WriteString(c, "GET /")
		}
		held = append(held, c)
	}
	res, err := nethttp.Get("http://" + srv.Addr() + "/healthz/ready")
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%v, %v", res, err)
	}
	_ = res.Body.Close()
	// The first one was closed for it.
	_ = held[1].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(held[1]); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the oldest connection: %v", err)
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if len(srv.open) > maxConns {
		t.Errorf("%d connections are open", len(srv.open))
	}
}

func TestListenRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := Listen(ln.Addr().String(), nethttp.NotFoundHandler(), quiet()); err == nil || !strings.Contains(err.Error(), "another sidecar") {
		t.Errorf("%v", err)
	}
}
