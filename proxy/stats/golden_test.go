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
	"pillion/test/lab"
	"pillion/test/need"
	"pillion/test/rig"
)

var update = flag.Bool("update", false, "write what the real Envoy says into testdata")

// naming is one way of showing the statistics of a real Envoy. Its file has a line
// for each: the dotted name, the kind, and the name and labels in the exposition.
// The owners are the cluster, the connection manager, the TCP proxy "raw" and the
// listener 127.0.0.1:1.
type naming struct {
	file          string
	cluster, http string
	tags          func() (*stats.Tags, error)
	skip          *regexp.Regexp // what is named otherwise here
	// envoyTags returns stats_config of the real Envoy's bootstrap.
	envoyTags func(t *testing.T) string
}

var namings = map[string]naming{
	// Envoy's default tags leave "envoy_allowed" of a network filter's tcp.rbac.allowed.
	"Envoy": {file: "testdata/envoy-1.40.0.txt", cluster: "outbound|80|v1|two", http: "ingress", skip: regexp.MustCompile(`\.rbac\.`),
		tags:      func() (*stats.Tags, error) { return nil, nil },
		envoyTags: func(*testing.T) string { return "{}" }},
	"Istio": {file: "testdata/istio-envoy-1.40.0.txt", cluster: "outbound|80|v1|two.default.svc.cluster.local;", http: "inbound_0.0.0.0_80;", skip: regexp.MustCompile(`^$`),
		tags:      func() (*stats.Tags, error) { return stats.IstioTags([]string{"extra"}) },
		envoyTags: istioTags},
}

// istioTags returns stats_config as Istio's agent fills it in, with one extra tag
// and without stats_matcher.
func istioTags(t *testing.T) string {
	path, err := lab.Program(need.Root(t), "envoy_bootstrap.json")
	if err != nil {
		t.Fatal(err)
	}
	need.Lab(t, path)
	template, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(template), `"stats_tags": [`)
	text, _, ok := strings.Cut(text, "{{- if .histogram_buckets }}")
	if !ok {
		t.Fatal("Istio's bootstrap has no stats_tags where they were")
	}
	text = regexp.MustCompile(`{{- (range|end).*?}}`).ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, "{{ $tag }}", "extra")
	return `{use_all_default_tags: false, stats_tags: [` + strings.TrimSuffix(strings.TrimSpace(text), ",") + "}"
}

// TestNamesAreEnvoys: for every statistic that a real Envoy has for a cluster,
// a connection manager, a TCP proxy, a listener and the process, the dotted
// name that a source gives leads to the name and labels that Envoy exposes.
func TestNamesAreEnvoys(t *testing.T) {
	for name, g := range namings {
		t.Run(name, g.check)
	}
}

func (g naming) check(t *testing.T) {
	text, err := os.ReadFile(g.file)
	if err != nil {
		t.Fatal(err)
	}
	tags, err := g.tags()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		dotted, rest, _ := strings.Cut(line, " ")
		kind, want, _ := strings.Cut(strings.TrimSpace(rest), " ")
		r := stats.NewRegistryOf(stats.View{Tags: tags})
		r.Add(stats.SourceFunc(func(e *stats.Emitter) { g.emit(e, dotted, kind) }))
		if list := r.List(stats.Query{}); len(list) != 1 || list[0].Name != dotted {
			t.Errorf("%s is listed as %v", dotted, list)
		}
		var b bytes.Buffer
		if err := r.Write(&b, false, stats.Query{}); err != nil {
			t.Fatal(err)
		}
		if got := series(b.String()); len(got) != 1 || sorted(got[0]) != sorted(want) {
			t.Errorf("%s is exposed as %q, by Envoy as %s", dotted, got, want)
		}
		if !strings.Contains(b.String(), "# TYPE "+strings.SplitN(want, "{", 2)[0]+" "+kind+"\n") {
			t.Errorf("%s should be a %s:\n%s", dotted, kind, b.String())
		}
		n++
	}
	if n < 200 {
		t.Errorf("%s has %d statistics only", g.file, n)
	}
}

// sorted puts the labels of a series, whose values have no comma, in order.
func sorted(series string) string {
	name, labels, ok := strings.Cut(strings.TrimSuffix(series, "}"), "{")
	if !ok {
		return name
	}
	list := strings.Split(labels, ",")
	slices.Sort(list)
	return name + "{" + strings.Join(list, ",") + "}"
}

var codePart = regexp.MustCompile(`^(.*_rq)_(\d)(\d\d|xx)$`)

// emit reports the statistic of a dotted name as its owner would.
func (g naming) emit(e *stats.Emitter, dotted, kind string) {
	var s stats.Scope
	name, ok := strings.CutPrefix(dotted, "cluster."+g.cluster+".")
	if ok {
		s = e.Cluster(g.cluster)
	} else if name, ok = strings.CutPrefix(dotted, "cluster.plain."); ok {
		s = e.Cluster("plain")
	} else if name, ok = strings.CutPrefix(dotted, "http."+g.http+"."); ok {
		s = e.HTTP(g.http)
	} else if name, ok = strings.CutPrefix(dotted, "tcp.raw."); ok {
		s = e.TCP("raw")
	} else if name, ok = strings.CutPrefix(dotted, "listener.127.0.0.1_1."); ok {
		s = e.Listener("127.0.0.1:1")
		if inner, ok := strings.CutPrefix(name, "http."+g.http+"."); ok {
			name, s = inner, s.HTTP(g.http)
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
var owned = regexp.MustCompile(`^(cluster\.(outbound|plain)|http\.(ingress|inbound_.*|plain)\.|tcp\.(raw|rbac)\.|listener\.|server\.|cluster_manager\.|listener_manager\.)`)

// TestGoldenIsEnvoy asks a real Envoy what the golden files say it answers.
func TestGoldenIsEnvoy(t *testing.T) {
	for name, g := range namings {
		t.Run(name, g.ask)
	}
}

func (g naming) ask(t *testing.T) {
	admin, listener := startEnvoy(t, g)
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
		if !owned.MatchString(dotted) || unlike.MatchString(dotted) || g.skip.MatchString(dotted) ||
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
		if err := os.WriteFile(g.file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(g.file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s isn't what Envoy says; -update writes it anew. Envoy:\n%s", g.file, got)
	}
}

// TestPromtool: Prometheus's own checker reads the exposition. It also has
// opinions about good names, which Envoy's names, being fixed, can't follow.
func TestPromtool(t *testing.T) {
	g := namings["Envoy"]
	promtool := need.Program(t, "promtool")
	text, err := os.ReadFile(g.file)
	if err != nil {
		t.Fatal(err)
	}
	r := stats.NewRegistry()
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		r.Add(stats.SourceFunc(func(e *stats.Emitter) { g.emit(e, f[0], f[1]) }))
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
func startEnvoy(t *testing.T, g naming) (admin, listener string) {
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
		"BACKEND", addr(host+":"+port), "CLUSTER", g.cluster, "MANAGER", g.http, "STATS", g.envoyTags(t)).Replace(envoyConfig)
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
stats_config: STATS
static_resources:
  listeners:
  - name: http
    address: LISTENER
    filter_chains:
    - filters:
      - name: envoy.filters.network.rbac
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC
          stat_prefix: tcp.
          rules: {policies: {all: {permissions: [any: true], principals: [any: true]}}}
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: MANAGER
          route_config:
            virtual_hosts:
            - {name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: two}}]}
          http_filters:
          - name: envoy.filters.http.rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules: {policies: {all: {permissions: [any: true], principals: [any: true]}}}
              shadow_rules: {policies: {}}
              shadow_rules_stat_prefix: istio_dry_run_allow_
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
          cluster: two
  clusters:
  - name: two
    alt_stat_name: CLUSTER
    type: STATIC
    outlier_detection: {}
    load_assignment:
      cluster_name: two
      endpoints: [{lb_endpoints: [{endpoint: {address: BACKEND}}]}]
  - name: plain
    type: STATIC
`
