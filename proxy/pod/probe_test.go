// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// probeHandler serves the probes of one text, on a status port 15020, for an
// application at 127.0.0.1.
func probeHandler(t *testing.T, probers string) nethttp.Handler {
	t.Helper()
	in := injected(t)
	in.Environ = with(in.Environ, "ISTIO_KUBE_APP_PROBERS="+probers, "INSTANCE_IP=127.0.0.1")
	p, err := Read(in)
	if err != nil {
		t.Fatal(err)
	}
	return newTestStatus(t, p, &fakeProxy{health: healthy()}).Handler()
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// seen is what an application saw of a probe.
type seen struct {
	mu       sync.Mutex
	requests []*nethttp.Request // guarded by mu
}

func (s *seen) last(t *testing.T) *nethttp.Request {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) == 0 {
		t.Fatal("the application wasn't asked")
	}
	return s.requests[len(s.requests)-1]
}

func (s *seen) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	switch r.URL.Path {
	case "/ok":
		_, _ = io.WriteString(w, "fine")
	case "/teapot":
		w.WriteHeader(nethttp.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	case "/long":
		_, _ = io.WriteString(w, strings.Repeat("x", maxProbeBody+5000))
	case "/hang":
		<-r.Context().Done()
	case "/there":
		nethttp.Redirect(w, r, "/ok", nethttp.StatusFound)
	case "/elsewhere":
		nethttp.Redirect(w, r, "http://elsewhere.example/", nethttp.StatusFound)
	case "/circle":
		nethttp.Redirect(w, r, "/circle", nethttp.StatusFound)
	default:
		w.WriteHeader(nethttp.StatusNotFound)
	}
}

func TestHTTPProbes(t *testing.T) {
	for _, scheme := range []string{"HTTP", "HTTPS"} {
		t.Run(scheme, func(t *testing.T) {
			s := &seen{}
			srv := httptest.NewUnstartedServer(s)
			if scheme == "HTTPS" {
				srv.EnableHTTP2 = true
				srv.StartTLS()
			} else {
				srv.Start()
			}
			defer srv.Close()
			port := portOf(t, srv.Listener.Addr().String())
			for path, want := range map[string]struct {
				code int
				body string // or its beginning
				size int
			}{
				"/ok": {200, "fine", 4}, "ok": {200, "fine", 4}, "/teapot": {418, "short", 15}, "/long": {200, "xxx", maxProbeBody}, "/no": {404, "", 0},
				"/there": {200, "fine", 4}, "/elsewhere": {200, "", 0}, "/circle": {500, "Get", -1}, "/hang": {500, "Get", -1},
			} {
				h := probeHandler(t, fmt.Sprintf(`{"/app-health/app/readyz":{"httpGet":{"path":%q,"port":%s,"scheme":%q,"httpHeaders":[{"name":"X-Own","value":"own"},{"name":"X-Both","value":"own"}]},"timeoutSeconds":1}}`, path, port, scheme))
				code, body, _ := request(h, kubelet, "GET", "http://10.244.1.23:15020/app-health/app/readyz", "User-Agent", "kube-probe/1.37", "X-Both", "kubelet", "Connection", "close")
				if code != want.code || !strings.HasPrefix(body, want.body) || want.size >= 0 && len(body) != want.size {
					t.Errorf("%s: %d with %d bytes, %.80q", path, code, len(body), body)
				}
				r := s.last(t)
				if host, _, _ := net.SplitHostPort(r.RemoteAddr); host != "127.0.0.6" {
					t.Errorf("%s: the probe came from %s", path, r.RemoteAddr)
				}
				if path == "/ok" && (r.Host != "10.244.1.23:"+port || r.UserAgent() != "kube-probe/1.37" || r.Header.Get("X-Own") != "own" || r.Header.Get("X-Both") != "own") {
					t.Errorf("the application saw host %s, headers %v", r.Host, r.Header)
				}
				if want := map[string]int{"HTTP": 1, "HTTPS": 2}[scheme]; r.ProtoMajor != want {
					t.Errorf("%s came over %s", path, r.Proto)
				}
			}
		})
	}
}

func TestProbeHost(t *testing.T) {
	s := &seen{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	port := portOf(t, srv.Listener.Addr().String())
	h := probeHandler(t, fmt.Sprintf(`{"/app-health/app/livez":{"httpGet":{"path":"/ok","port":%s,"httpHeaders":[{"name":"host","value":"shop.example"}]}},
		"/app-lifecycle/app/prestopz":{"httpGet":{"path":"/ok","port":%s}}}`, port, port))
	for target, want := range map[string]string{
		"http://pod:15020/app-health/app/livez":       "shop.example",
		"http://pod:15020/app-lifecycle/app/prestopz": "pod:" + port,
		"http://pod/app-lifecycle/app/prestopz":       "pod",
		"http://pod:1/app-lifecycle/app/prestopz":     "pod:1",
	} {
		if code, _, _ := request(h, kubelet, "GET", target); code != 200 || s.last(t).Host != want {
			t.Errorf("%s: %d, host %s, want %s", target, code, s.last(t).Host, want)
		}
	}
	if code, body, _ := request(h, kubelet, "GET", "http://pod:15020/app-health/other/livez"); code != 400 || !strings.Contains(body, "/app-health/other/livez") {
		t.Errorf("an unknown probe: %d %q", code, body)
	}
}

func TestTCPProbe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	from := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		from <- c.RemoteAddr().String()
		_ = c.Close()
	}()
	h := probeHandler(t, fmt.Sprintf(`{"/app-health/app/startupz":{"tcpSocket":{"port":%s},"timeoutSeconds":1}}`, portOf(t, ln.Addr().String())))
	if code, body, _ := request(h, kubelet, "GET", "/app-health/app/startupz"); code != 200 {
		t.Errorf("%d %s", code, body)
	}
	if host, _, _ := net.SplitHostPort(<-from); host != "127.0.0.6" {
		t.Errorf("the probe came from %s", host)
	}
	_ = ln.Close()
	if code, body, _ := request(h, kubelet, "GET", "/app-health/app/startupz"); code != 500 || !strings.Contains(body, "refused") {
		t.Errorf("with nobody there: %d %s", code, body)
	}
}

// callers notes who calls, and holds calls while hang is set.
func callers(from *atomic.Value, hang *atomic.Bool) grpc.ServerOption {
	return grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if p, ok := peer.FromContext(ctx); ok {
			from.Store(p.Addr.String())
		}
		if hang.Load() {
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		return next(ctx, req)
	})
}

func TestGRPCProbe(t *testing.T) {
	var from atomic.Value
	var hang atomic.Bool
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(callers(&from, &hang))
	hs := health.NewServer()
	hs.SetServingStatus("good", grpc_health_v1.HealthCheckResponse_SERVING)
	hs.SetServingStatus("bad", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	grpc_health_v1.RegisterHealthServer(srv, hs)
	go func() { _ = srv.Serve(ln) }() // it ends with srv
	defer srv.Stop()
	plain := httptest.NewServer(nethttp.NotFoundHandler())
	defer plain.Close()
	at := portOf(t, ln.Addr().String())
	for _, c := range []struct {
		probe string
		hang  bool
		code  int
		body  string
	}{
		{`{"port":` + at + `}`, false, 200, ""},
		{`{"port":` + at + `,"service":"good"}`, false, 200, ""},
		{`{"port":` + at + `,"service":"bad"}`, false, 500, "NOT_SERVING"},
		{`{"port":` + at + `,"service":"none"}`, false, 500, codes.NotFound.String()},
		{`{"port":` + at + `}`, true, 500, codes.DeadlineExceeded.String()},
		{`{"port":` + portOf(t, plain.Listener.Addr().String()) + `}`, false, 500, "rpc error"},
	} {
		hang.Store(c.hang)
		h := probeHandler(t, `{"/app-health/app/livez":{"grpc":`+c.probe+`,"timeoutSeconds":1}}`)
		code, body, _ := request(h, kubelet, "GET", "/app-health/app/livez")
		if code != c.code || !strings.Contains(body, c.body) {
			t.Errorf("%s %v: %d %q, want %d %q", c.probe, c.hang, code, body, c.code, c.body)
		}
	}
	if host, _, _ := net.SplitHostPort(fmt.Sprint(from.Load())); host != "127.0.0.6" {
		t.Errorf("the probe came from %s", host)
	}
}

// TestIPv6Source: the probe of a pod with an IPv6 address comes from ::6, which
// only a pod's rules put on loopback.
func TestIPv6Source(t *testing.T) {
	a := newAppProbes(Probes{Source: Probes{}.Source}, quiet())
	if a.dialer().LocalAddr.(*net.TCPAddr).IP != nil {
		t.Error("an address out of nothing")
	}
	in := injected(t)
	in.Environ = with(in.Environ, "INSTANCE_IP=fd00::1")
	p, err := Read(in)
	if err != nil {
		t.Fatal(err)
	}
	if got := newAppProbes(p.Probes, quiet()).dialer().LocalAddr.String(); got != "[::6]:0" {
		t.Errorf("the probe comes from %s", got)
	}
}

func TestProbeTime(t *testing.T) {
	for _, c := range []struct {
		path    string
		seconds int32
		want    time.Duration
	}{{"/app-health/a/livez", 0, time.Second}, {"/app-health/a/livez", 3, 3 * time.Second}, {"/app-lifecycle/a/prestopz", 0, 0}, {"/app-lifecycle/a/prestopz", 2, 2 * time.Second}} {
		if got := (&Prober{TimeoutSeconds: c.seconds}).within(c.path); got != c.want {
			t.Errorf("%s with %d: %v, want %v", c.path, c.seconds, got, c.want)
		}
	}
}

func TestParseProbers(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "", `null`: "",
		`{"/app-health/a/livez":{"tcpSocket":{"port":1}}}`:                                          "",
		`{"/app-health/a/livez":{"httpGet":{"path":"/","port":65535,"scheme":"HTTPS","host":"x"}}}`: "",
		`{"/app-health/a/livez":{"grpc":{"port":1,"service":null}}}`:                                "",
		`{"/app-health/a/b/livez":{"tcpSocket":{"port":1}}}`:                                        "not of the form",
		`{"/app-health//livez":{"tcpSocket":{"port":1}}}`:                                           "not of the form",
		`{"/app-health/a/deadz":{"tcpSocket":{"port":1}}}`:                                          "not of the form",
		`{"/app-health/a/livez":null}`:                                                              "has 0 of httpGet",
		`{"/app-health/a/livez":{"tcpSocket":{"port":1},"grpc":{"port":1}}}`:                        "has 2 of httpGet",
		`{"/app-health/a/livez":{"tcpSocket":{"port":"http"}}}`:                                     "is not a number",
		`{"/app-health/a/livez":{"tcpSocket":{"port":0}}}`:                                          "is not a number from 1 to 65535",
		`{"/app-health/a/livez":{"tcpSocket":{}}}`:                                                  "has no port",
		`{"/app-health/a/livez":{"tcpSocket":{"port":1},"timeoutSeconds":-1}}`:                      "below 0",
		`{"/app-health/a/livez":{"httpGet":{"port":1,"scheme":"FTP"}}}`:                             "neither HTTP nor HTTPS",
		`[]`: "is no JSON object", ``: "is no JSON object",
	} {
		out, err := parseProbers(text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		if _, err := json.Marshal(out); err != nil {
			t.Error(err)
		}
	}
	if strconv.Itoa(int(portText(7))) != "7" {
		t.Error("a port isn't its number")
	}
}
