// SPDX-License-Identifier: Apache-2.0

package stats_test

import (
	"bytes"
	"flag"
	"fmt"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pillion/proxy/stats"
	"pillion/test/need"
	"pillion/test/rig"
)

var update = flag.Bool("update", false, "write what the real Envoy says into testdata")

// golden has a line for each statistic of a real Envoy: its dotted name, its
// kind, and its name and labels in the exposition. The owners are the cluster
// "outbound|80|v1|two", the connection manager "ingress", the TCP proxy "raw"
// and the listener 127.0.0.1:1.
const golden = "testdata/envoy-1.40.0.txt"

// TestNamesAreEnvoys: for every statistic that a real Envoy has for a cluster,
// a connection manager, a TCP proxy, a listener and the process, the dotted
// name that a source gives leads to the name and labels that Envoy exposes.
func TestNamesAreEnvoys(t *testing.T) {
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		dotted, kind, want := f[0], f[1], f[2]
		r := stats.NewRegistry()
		r.Add(stats.SourceFunc(func(e *stats.Emitter) { emit(e, dotted, kind) }))
		if list := r.List(stats.Query{}); len(list) != 1 || list[0].Name != dotted {
			t.Errorf("%s is listed as %v", dotted, list)
		}
		var b bytes.Buffer
		if err := r.Write(&b, false, stats.Query{}); err != nil {
			t.Fatal(err)
		}
		if got := series(b.String()); !slices.Equal(got, []string{want}) {
			t.Errorf("%s is exposed as %q, by Envoy as %s", dotted, got, want)
		}
		if !strings.Contains(b.String(), "# TYPE "+strings.SplitN(want, "{", 2)[0]+" "+kind+"\n") {
			t.Errorf("%s should be a %s:\n%s", dotted, kind, b.String())
		}
		n++
	}
	if n < 200 {
		t.Errorf("%s has %d statistics only", golden, n)
	}
}

var codePart = regexp.MustCompile(`^(.*_rq)_(\d)(\d\d|xx)$`)

// emit reports the statistic of a dotted name as its owner would.
func emit(e *stats.Emitter, dotted, kind string) {
	var s stats.Scope
	name, ok := strings.CutPrefix(dotted, "cluster.outbound|80|v1|two.")
	if ok {
		s = e.Cluster("outbound|80|v1|two")
	} else if name, ok = strings.CutPrefix(dotted, "http.ingress."); ok {
		s = e.HTTP("ingress")
	} else if name, ok = strings.CutPrefix(dotted, "tcp.raw."); ok {
		s = e.TCP("raw")
	} else if name, ok = strings.CutPrefix(dotted, "listener.127.0.0.1_1."); ok {
		s = e.Listener("127.0.0.1:1")
		if inner, ok := strings.CutPrefix(name, "http.ingress."); ok {
			name, s = inner, s.HTTP("ingress")
		}
	} else {
		switch kind {
		case "counter":
			e.Counter(dotted, "", 1)
		case "gauge":
			e.Gauge(dotted, "", 1)
		default:
			e.Histogram(dotted, "", stats.HistogramSnapshot{})
		}
		return
	}
	if m := codePart.FindStringSubmatch(name); m != nil {
		if m[3] == "xx" {
			class, _ := strconv.Atoi(m[2])
			s.Class(m[1], class, 1)
		} else {
			code, _ := strconv.Atoi(m[2] + m[3])
			s.Code(m[1], code, 1)
		}
		return
	}
	switch kind {
	case "counter":
		s.Counter(name, 1)
	case "gauge":
		s.Gauge(name, 1)
	default:
		s.Histogram(name, stats.HistogramSnapshot{})
	}
}

// series returns the names with labels of an exposition, those of a
// histogram once and without le.
func series(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		name := line[:max(strings.LastIndexByte(line, ' '), 0)]
		if line[0] == '#' || strings.Contains(name, "_bucket{") || strings.HasSuffix(strings.SplitN(name, "{", 2)[0], "_count") {
			continue
		}
		// Envoy writes braces around no labels at all.
		name = strings.Replace(strings.TrimSuffix(name, "{}"), "_sum", "", 1)
		out = append(out, name)
	}
	return out
}

// unlike are statistics of Envoy that have no place here: of its threads, its
// admin listener, and of features that are not part of a name's pattern.
var unlike = regexp.MustCompile(`^http\.admin\.|^listener\.admin\.|worker_|main_thread|^server\.compilation|^(cluster|http|tcp|listener)\.[^.]*$`)

// owned selects the statistics whose owners emit knows.
var owned = regexp.MustCompile(`^(cluster\.outbound|http\.ingress\.|tcp\.raw\.|listener\.|server\.|cluster_manager\.|listener_manager\.)`)

// TestGoldenIsEnvoy asks a real Envoy what the golden file says it answers.
func TestGoldenIsEnvoy(t *testing.T) {
	admin, listener := startEnvoy(t)
	get := func(path string) string {
		body, err := rig.Fetch("GET", "http://"+admin+path)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	address := strings.ReplaceAll(listener, ":", "_")
	var out strings.Builder
	for line := range strings.Lines(get("/stats")) {
		dotted, _, _ := strings.Cut(line, ": ")
		if !owned.MatchString(dotted) || unlike.MatchString(dotted) ||
			strings.HasPrefix(dotted, "listener.") && !strings.HasPrefix(dotted, "listener."+address) {
			continue
		}
		text := get("/stats/prometheus?filter=" + url.QueryEscape("^"+regexp.QuoteMeta(dotted)+"$"))
		_, kind, ok := strings.Cut(text, "# TYPE ")
		if !ok {
			continue // a text readout
		}
		kind = strings.Fields(kind)[1]
		for _, name := range series(text) {
			fmt.Fprintf(&out, "%s %s %s\n", dotted, kind, name)
		}
	}
	got := strings.ReplaceAll(out.String(), address, "127.0.0.1_1")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s isn't what Envoy says; -update writes it anew. Envoy:\n%s", golden, got)
	}
}

// TestPromtool: Prometheus's own checker reads the exposition. It also has
// opinions about good names, which Envoy's names, being fixed, can't follow.
func TestPromtool(t *testing.T) {
	promtool := need.Program(t, "promtool")
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	r := stats.NewRegistry()
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		r.Add(stats.SourceFunc(func(e *stats.Emitter) { emit(e, f[0], f[1]) }))
	}
	if err := r.AddRuntime(); err != nil {
		t.Fatal(err)
	}
	var b, out bytes.Buffer
	if err := r.Write(&b, false, stats.Query{}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &b, &out, &out
	err = cmd.Run()
	const opinions = 3 // the exit code when names could be better
	if err != nil && cmd.ProcessState.ExitCode() != opinions {
		t.Fatalf("promtool: %v\n%s", err, out.String())
	}
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "envoy_") || !lint.MatchString(line) {
			t.Errorf("promtool: %s", line)
		}
	}
}

// lint matches what promtool has against Envoy's names.
var lint = regexp.MustCompile(`counter metrics should have "_total" suffix|` +
	`non-counter metrics should not have "_total" suffix|` +
	`non-histogram and non-summary metrics should not have "_(count|sum|bucket)" suffix|` +
	`use base unit "seconds" instead of "(milliseconds|days)"|` +
	`metric name should not include type|metric names should not contain abbreviated units`)

// startEnvoy starts a real Envoy, sends it a request, and returns the
// addresses of its admin port and of its HTTP listener.
func startEnvoy(t *testing.T) (admin, listener string) {
	envoy := need.Envoy(t)
	backend := httptest.NewServer(nethttp.NotFoundHandler())
	t.Cleanup(backend.Close)
	host, port, err := net.SplitHostPort(backend.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	admin, listener = rig.FreeAddr(t), rig.FreeAddr(t)
	addr := func(a string) string {
		h, p, _ := strings.Cut(a, ":")
		return fmt.Sprintf("{socket_address: {address: %s, port_value: %s}}", h, p)
	}
	config := strings.NewReplacer("ADMIN", addr(admin), "LISTENER", addr(listener), "RAW", addr(rig.FreeAddr(t)),
		"BACKEND", addr(host+":"+port)).Replace(envoyConfig)
	path := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	rig.StartProcess(t, exec.Command(envoy, "-c", path, "--concurrency", "1", "-l", "warning", "--use-dynamic-base-id"))
	rig.Until(t, "Envoy is ready", func() error {
		_, err := rig.Fetch("GET", "http://"+admin+"/ready")
		return err
	})
	rig.Until(t, "Envoy has forwarded a request", func() error {
		resp, err := nethttp.Get("http://" + listener)
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	rig.Until(t, "Envoy has counted it", func() error {
		body, err := rig.Fetch("GET", "http://"+admin+"/stats?filter=downstream_rq_4xx")
		if err == nil && !strings.Contains(body, ": 1") {
			err = fmt.Errorf("it says %s", body)
		}
		return err
	})
	return admin, listener
}

const envoyConfig = `
admin: {address: ADMIN}
static_resources:
  listeners:
  - name: http
    address: LISTENER
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config:
            virtual_hosts:
            - {name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: "outbound|80|v1|two"}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  - name: tcp
    address: RAW
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: raw
          cluster: outbound|80|v1|two
  clusters:
  - name: outbound|80|v1|two
    type: STATIC
    outlier_detection: {}
    load_assignment:
      cluster_name: two
      endpoints: [{lb_endpoints: [{endpoint: {address: BACKEND}}]}]
`
