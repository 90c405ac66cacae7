// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"pillion/proxy/stats"
)

// fake is a proxy as the handler sees one.
type fake struct {
	state     stats.State
	waiting   []string
	clusters  []ClusterStatus
	listeners []ListenerStatus
	dump      Dump
	drained   []DrainOptions
	healthy   []bool
	quits     int
	loggers   *Levels
	registry  *stats.Registry
	requests  stats.Counter
}

func (f *fake) State() stats.State          { return f.state }
func (f *fake) WaitingFor() []string        { return f.waiting }
func (f *fake) Clusters() []ClusterStatus   { return f.clusters }
func (f *fake) Listeners() []ListenerStatus { return f.listeners }
func (f *fake) ConfigDump() Dump            { return f.dump }
func (f *fake) Drain(o DrainOptions)        { f.drained = append(f.drained, o) }
func (f *fake) SetHealthy(h bool)           { f.healthy = append(f.healthy, h) }
func (f *fake) Quit()                       { f.quits++ }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// newFake returns a live proxy with a request counter and two loggers.
func newFake() (*fake, nethttp.Handler) {
	f := &fake{registry: stats.NewRegistry(), loggers: NewLevels(slog.LevelInfo)}
	f.registry.Add(stats.SourceFunc(func(e *stats.Emitter) {
		c := e.Cluster("outbound|80||a.b;")
		c.Counter("upstream_rq_total", f.requests.Value())
		c.Gauge("upstream_cx_active", 0)
		c.Histogram("upstream_rq_time", stats.HistogramSnapshot{})
		var h stats.Histogram
		h.Record(75)
		c.Histogram("upstream_cx_length_ms", &h)
		e.Gauge("server.state", "", 0)
	}))
	return f, NewHandler(Options{
		Logger: quiet(), Stats: f.registry, Ready: f, Clusters: f, Listeners: f, Config: f, Lifecycle: f, Loggers: f.loggers,
		Info: Info{Version: "1.2.3", Started: time.Now(), Node: func() *corev3.Node { return &corev3.Node{Id: "n1"} },
			Options: &adminv3.CommandLineOptions{Concurrency: 2}},
	})
}

// ask sends a request and returns the answer with its body.
func ask(t testing.TB, h nethttp.Handler, method, target string, header ...string) (*nethttp.Response, string) {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Result(), string(body)
}

func TestMethods(t *testing.T) {
	for path, mutates := range map[string]bool{
		"/": false, "/help": false, "/certs": false, "/clusters": false, "/config_dump": false, "/listeners": false,
		"/memory": false, "/ready": false, "/server_info": false, "/stats": false, "/stats/prometheus": false,
		"/debug/pprof/": false, "/debug/pprof/cmdline": false,
		"/drain_listeners": true, "/healthcheck/fail": true, "/healthcheck/ok": true, "/logging": true, "/quitquitquit": true,
		"/reset_counters": true,
	} {
		for method, safe := range map[string]bool{"GET": true, "HEAD": true, "POST": false, "PUT": false, "DELETE": false} {
			f, h := newFake()
			res, body := ask(t, h, method, path)
			want := 200
			if method == "PUT" || method == "DELETE" || mutates && safe {
				want = 405
			}
			if res.StatusCode != want {
				t.Errorf("%s %s: status %d, want %d", method, path, res.StatusCode, want)
			}
			if want == 405 {
				if res.Header.Get("Allow") == "" || !strings.Contains(body, method+" not allowed") {
					t.Errorf("%s %s: Allow %q, body %q", method, path, res.Header.Get("Allow"), body)
				}
				if len(f.drained)+len(f.healthy)+f.quits > 0 {
					t.Errorf("%s %s did something", method, path)
				}
			}
		}
	}
}

func TestCommonHeaders(t *testing.T) {
	_, h := newFake()
	for _, target := range []string{"/", "/stats", "/clusters", "/config_dump", "/nope", "/stats?filter=[", "/debug/pprof/goroutine?debug=1"} {
		res, _ := ask(t, h, "GET", target)
		if got := res.Header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options is %q", target, got)
		}
		if got := res.Header.Get("Content-Type"); strings.Contains(got, "html") {
			t.Errorf("%s: Content-Type is %q", target, got)
		}
		if got := res.Header.Get("Cache-Control"); !strings.Contains(got, "no-cache") {
			t.Errorf("%s: Cache-Control is %q", target, got)
		}
	}
}

func TestUnknownPath(t *testing.T) {
	_, h := newFake()
	for _, path := range []string{"/nope", "/stats/", "/stats//prometheus", "/Help", "/%2e%2e/stats", "/debug/pprof"} {
		res, body := ask(t, h, "GET", path)
		if res.StatusCode != 404 || !strings.HasPrefix(body, "invalid path. admin commands are:\n") {
			t.Errorf("%s: status %d, body %.60q", path, res.StatusCode, body)
		}
	}
}

func TestHelp(t *testing.T) {
	_, h := newFake()
	_, body := ask(t, h, "GET", "/help")
	for _, want := range []string{"  /clusters: ", "  /logging (POST): ", "      graceful: "} {
		if !strings.Contains(body, want) {
			t.Errorf("the help lacks %q:\n%s", want, body)
		}
	}
	if _, front := ask(t, h, "GET", "/"); front != body {
		t.Errorf("the front page is\n%s", front)
	}
}

// TestWebPagesCantSteer: a page that a browser on the machine shows may send
// a POST without asking anybody.
func TestWebPagesCantSteer(t *testing.T) {
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Origin", "http://evil.example"},
	} {
		f, h := newFake()
		if res, _ := ask(t, h, "POST", "/quitquitquit", header...); res.StatusCode != 403 || f.quits != 0 {
			t.Errorf("%q: status %d, %d quits", header, res.StatusCode, f.quits)
		}
	}
}

func TestQuery(t *testing.T) {
	for raw, want := range map[string]string{
		"":                       "",
		"usedonly":               "usedonly=[]",
		"filter=a;b":             "filter=[a;b]",
		"filter=a%7Cb+c":         "filter=[a|b c]",
		"&&a=1&a=2&":             "a=[1 2]",
		"a=%zz":                  "error",
		"a%=1":                   "error",
		strings.Repeat("x", 5e3): "error",
	} {
		q, err := parseQuery(raw)
		got := ""
		for k, v := range q {
			got += k + "=[" + strings.Join(v, " ") + "]"
		}
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%.40q: %s, want %s", raw, got, want)
		}
	}
	_, h := newFake()
	if res, body := ask(t, h, "GET", "/stats?a=%zz"); res.StatusCode != 400 || !strings.Contains(body, "%25") {
		t.Errorf("status %d, body %q", res.StatusCode, body)
	}
}

func TestReady(t *testing.T) {
	f, h := newFake()
	f.waiting = []string{"clusters: a", "b"}
	for _, c := range []struct {
		state  stats.State
		target string
		status int
		body   string
	}{
		{stats.StateLive, "/ready", 200, "LIVE\n"},
		{stats.StatePreInitializing, "/ready", 503, "PRE_INITIALIZING\n"},
		{stats.StateDraining, "/ready", 503, "DRAINING\n"},
		{stats.StateInitializing, "/ready?verbose", 503, "INITIALIZING\nwaiting for clusters: a\nwaiting for b\n"},
	} {
		f.state = c.state
		if res, body := ask(t, h, "GET", c.target); res.StatusCode != c.status || body != c.body {
			t.Errorf("%v %s: %d %q, want %d %q", c.state, c.target, res.StatusCode, body, c.status, c.body)
		}
	}
}

func TestSteering(t *testing.T) {
	f, h := newFake()
	ok := func(target string) {
		t.Helper()
		if res, body := ask(t, h, "POST", target); res.StatusCode != 200 || body != "OK\n" {
			t.Errorf("%s: %d %q", target, res.StatusCode, body)
		}
	}
	ok("/drain_listeners")
	ok("/drain_listeners?graceful")
	ok("/drain_listeners?inboundonly&graceful&skip_exit")
	want := []DrainOptions{{}, {Graceful: true}, {Graceful: true, InboundOnly: true, SkipExit: true}}
	for i := range want {
		if f.drained[i] != want[i] {
			t.Errorf("drain %d is %+v, want %+v", i, f.drained[i], want[i])
		}
	}
	ok("/healthcheck/fail")
	ok("/healthcheck/ok")
	if len(f.healthy) != 2 || f.healthy[0] || !f.healthy[1] {
		t.Errorf("healthy was set to %v", f.healthy)
	}
	ok("/quitquitquit")
	if f.quits != 1 {
		t.Errorf("%d quits", f.quits)
	}
	f.requests.Add(5)
	ok("/reset_counters")
	f.requests.Inc()
	if _, body := ask(t, h, "GET", "/stats?filter=rq_total"); body != "cluster.outbound|80||a.b;.upstream_rq_total: 1\n" {
		t.Errorf("after a reset: %q", body)
	}
}

func TestCerts(t *testing.T) {
	_, h := newFake()
	res, body := ask(t, h, "GET", "/certs")
	if res.Header.Get("Content-Type") != "application/json" || body != "{\n \"certificates\": []\n}\n" {
		t.Errorf("%s %q", res.Header.Get("Content-Type"), body)
	}
}

// oneCert is a secret of both kinds.
type oneCert struct{ status CertificateStatus }

func (c oneCert) Certificates() []CertificateStatus { return []CertificateStatus{c.status} }

// TestCertsForm holds what Envoy says of a file with the same certificate.
func TestCertsForm(t *testing.T) {
	serial, _ := new(big.Int).SetString("4b1f", 16)
	at := time.Now().Truncate(time.Second).UTC()
	c := &x509.Certificate{SerialNumber: serial, NotBefore: at, NotAfter: at.Add(36 * time.Hour), DNSNames: []string{"a.example"},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "td", Path: "/ns/a/sa/b"}}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}
	odd := &x509.Certificate{SerialNumber: big.NewInt(0xabc), NotBefore: at, NotAfter: at.Add(-time.Hour)}
	h := NewHandler(Options{Stats: stats.NewRegistry(), Certs: oneCert{CertificateStatus{Name: "default", Source: "/c.pem", Chain: []*x509.Certificate{c}, Anchors: []*x509.Certificate{odd}}}})
	_, body := ask(t, h, "GET", "/certs")
	from, to, past := at.Format(time.RFC3339), at.Add(36*time.Hour).Format(time.RFC3339), at.Add(-time.Hour).Format(time.RFC3339)
	want := strings.NewReplacer("FROM", from, "PAST", past, "TO", to).Replace(`{
 "certificates": [
  {
   "ca_cert": [
    {
     "path": "/c.pem",
     "serial_number": "0abc",
     "subject_alt_names": [],
     "days_until_expiration": "0",
     "valid_from": "FROM",
     "expiration_time": "PAST"
    }
   ],
   "cert_chain": [
    {
     "path": "/c.pem",
     "serial_number": "4b1f",
     "subject_alt_names": [
      {
       "uri": "spiffe://td/ns/a/sa/b"
      },
      {
       "dns": "a.example"
      },
      {
       "ip_address": "10.0.0.1"
      }
     ],
     "days_until_expiration": "1",
     "valid_from": "FROM",
     "expiration_time": "TO"
    }
   ]
  }
 ]
}
`)
	if body != want {
		t.Errorf("got %s\nwant %s", body, want)
	}
}

func TestServerInfo(t *testing.T) {
	f, h := newFake()
	f.state = stats.StateDraining
	_, body := ask(t, h, "GET", "/server_info")
	for _, want := range []string{
		` "version": "1.2.3",`, ` "state": "DRAINING",`, ` "uptime_current_epoch": "0s",`, `"id": "n1"`, `  "concurrency": 2,`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("server_info lacks %s:\n%s", want, body)
		}
	}
}

func TestMemory(t *testing.T) {
	_, h := newFake()
	_, body := ask(t, h, "GET", "/memory")
	for _, field := range []string{"allocated", "heap_size", "pageheap_unmapped", "pageheap_free", "total_thread_cache", "total_physical_bytes"} {
		if !strings.Contains(body, `"`+field+`": "`) {
			t.Errorf("memory lacks %s:\n%s", field, body)
		}
	}
	if strings.Contains(body, `"allocated": "0"`) {
		t.Errorf("no memory is allocated:\n%s", body)
	}
}

func TestPprof(t *testing.T) {
	_, h := newFake()
	for target, want := range map[string]string{
		"/debug/pprof/":                   "goroutine",
		"/debug/pprof/goroutine?debug=1":  "goroutine profile",
		"/debug/pprof/cmdline":            "admin",
		"/debug/pprof/symbol":             "num_symbols",
		"/debug/pprof/trace?seconds=0.01": "go 1.",
	} {
		res, body := ask(t, h, "GET", target)
		if res.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %.80q", target, res.StatusCode, body)
		}
	}
}

func TestListenersPage(t *testing.T) {
	f, h := newFake()
	f.listeners = []ListenerStatus{{"http", []string{"127.0.0.1:80", "[::1]:80"}}, {"sock", []string{"/run/x"}}}
	if _, body := ask(t, h, "GET", "/listeners"); body != "http::127.0.0.1:80\nhttp::[::1]:80\nsock::/run/x\n" {
		t.Errorf("text: %q", body)
	}
	res, body := ask(t, h, "GET", "/listeners?format=json")
	want := `{
 "listener_statuses": [
  {
   "name": "http",
   "local_address": {
    "socket_address": {
     "address": "127.0.0.1",
     "port_value": 80
    }
   },
   "additional_local_addresses": [
    {
     "socket_address": {
      "address": "::1",
      "port_value": 80
     }
    }
   ]
  },
  {
   "name": "sock",
   "local_address": {
    "pipe": {
     "path": "/run/x"
    }
   }
  }
 ]
}
`
	if body != want || res.Header.Get("Content-Type") != "application/json" {
		t.Errorf("json: %s", body)
	}
}

func TestLogging(t *testing.T) {
	for _, c := range []struct {
		query        string
		status       int
		config, http string
		err          string
	}{
		{"", 200, "info", "info", ""},
		{"?level=debug", 200, "debug", "debug", ""},
		{"?http=trace", 200, "info", "trace", ""},
		{"?paths=http:off,config:critical,", 200, "critical", "off", ""},
		{"?paths=http:warn", 200, "info", "warning", ""},
		{"?paths=", 200, "info", "info", ""},
		{"?level=", 200, "info", "info", ""},
		{"?http=", 200, "info", "info", ""},
		{"?level=loud", 400, "info", "info", "unknown logger level \"loud\""},
		{"?nobody=info", 400, "info", "info", "unknown logger name \"nobody\""},
		{"?paths=http", 400, "info", "info", "empty logger name or empty logger level"},
		{"?paths=http:debug,nobody:debug", 400, "info", "info", "unknown logger name \"nobody\""},
		{"?paths=:debug", 400, "info", "info", "empty logger name"},
		{"?level=debug&http=info", 400, "info", "info", "invalid number of parameters"},
	} {
		f, h := newFake()
		res, body := ask(t, h, "POST", "/logging"+c.query)
		if res.StatusCode != c.status || !strings.Contains(body, "active loggers:\n  a2a: ") || !strings.HasSuffix(body, "\n\n") {
			t.Errorf("%s: %d %q, want %d", c.query, res.StatusCode, body, c.status)
		}
		for name, level := range map[string]string{"config": c.config, "http": c.http} {
			if !strings.Contains(body, "\n  "+name+": "+level+"\n") || LevelName(f.loggers.Level(name)) != level {
				t.Errorf("%s: the level of %s isn't %s: %q", c.query, name, level, body)
			}
		}
		if c.err != "" && (!strings.HasPrefix(body, "error: "+c.err) || !strings.Contains(body, "usage: ")) {
			t.Errorf("%s: %q doesn't say %q", c.query, body, c.err)
		}
	}
}

// TestLoggers: a logger's level lets lines of its own through, whatever its
// attributes are, and no others.
func TestLoggers(t *testing.T) {
	var out strings.Builder
	all := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	levels := NewLevels(slog.LevelWarn)
	config, secret := levels.Logger(LoggerConfig, all), levels.Logger(LoggerSecret, all).With("a", 1).WithGroup("g")
	if !levels.Set(LoggerSecret, LevelTrace) || levels.Set("nobody", LevelTrace) || levels.Level("nobody") != LevelOff {
		t.Error("levels of loggers that aren't there are set")
	}
	config.Info("no")
	config.Warn("one")
	secret.Debug("two", "b", 2)
	secret.Log(t.Context(), LevelTrace, "no") // where lines go doesn't take it
	levels.SetAll(LevelOff)
	secret.Error("no")
	if got := out.String(); strings.Contains(got, "msg=no") || !strings.Contains(got, "msg=one") || !strings.Contains(got, "msg=two a=1 g.b=2") {
		t.Errorf("%s", got)
	}
}

func TestLevelNames(t *testing.T) {
	for l, want := range map[slog.Level]string{
		LevelTrace - 3: "trace", LevelTrace: "trace", slog.LevelDebug + 1: "debug", slog.LevelInfo: "info", slog.LevelWarn: "warning",
		slog.LevelError: "error", LevelCritical + 1: "critical", LevelOff: "off",
	} {
		if got := LevelName(l); got != want {
			t.Errorf("level %d is %s, want %s", l, got, want)
		}
	}
}
