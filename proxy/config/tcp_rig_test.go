// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"pillion/proxy/accesslog"
	"pillion/proxy/cluster"
	"pillion/proxy/filter/istiostats"
	"pillion/proxy/hcm"
	"pillion/proxy/http"
	"pillion/proxy/listener"
	"pillion/proxy/stats"
	"pillion/proxy/tcp"
	"pillion/test/rig"
)

// tcpRig serves one compiled listener of any chains.
type tcpRig struct {
	t        testing.TB
	addr     string
	registry *stats.Registry
	clusters *cluster.Manager
	tracker  *tcp.Tracker
	log      string // path of the access log
}

// tcpCluster is a cluster of hosts in YAML; more goes below it.
func tcpCluster(name, more string, hosts ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "name: %s\ntype: STATIC\nconnect_timeout: 5s\n%s\nload_assignment:\n  cluster_name: %s\n  endpoints:\n  - lb_endpoints:\n", name, more, name)
	for _, h := range hosts {
		host, port, _ := net.SplitHostPort(h)
		fmt.Fprintf(&b, "    - {endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}\n", host, port)
	}
	return b.String()
}

// tcpProxy is a network filter in YAML. LOG is where the access log goes.
func tcpProxy(more string) string {
	return `{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: p, ` + more + `,
      access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: LOG,
        log_format: {text_format_source: {inline_string: "%RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_TRANSPORT_FAILURE_REASON% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %REQUESTED_SERVER_NAME% %REQ(:METHOD)%\n"}}}}]}}`
}

// tcpChain is a listener with one chain in YAML.
func tcpChain(proxy string) string {
	return `
name: l
traffic_direction: OUTBOUND
address: {socket_address: {address: 127.0.0.1, port_value: 1}}
filter_chains:
- filters:
  - {name: istio.stats, typed_config: {"@type": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/stats.PluginConfig}}
  - ` + proxy + "\n"
}

func serveTCP(t testing.TB, listen string, clusters ...string) *tcpRig {
	t.Helper()
	r := &tcpRig{t: t, registry: stats.NewRegistry(), tracker: tcp.NewTracker(), log: filepath.Join(t.TempDir(), "log")}
	l := &listenerv3.Listener{}
	fromYAML(t, strings.ReplaceAll(listen, "path: LOG", "path: "+r.log), l)
	res := &Resources{Listeners: []*listenerv3.Listener{l}}
	for _, text := range clusters {
		c := &clusterv3.Cluster{}
		fromYAML(t, text, c)
		res.Clusters = append(res.Clusters, c)
	}
	r.clusters = cluster.NewManager(cluster.Options{Stats: r.registry})
	sinks := accesslog.NewSinks(nil)
	c := NewCompiler(Env{Own: http.Peer{Workload: "web", Namespace: "shop"}, Families: istiostats.NewFamilies(r.registry),
		Sinks: sinks, Clusters: r.clusters, Registry: r.registry})
	snap, err := c.Compile(res)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.clusters.Update(snap.Clusters, nil); err != nil {
		t.Fatal(err)
	}
	for place, table := range snap.Tables {
		place.Store(table)
	}
	web := hcm.NewTracker()
	want := snap.Listeners["l"]
	ln, err := listener.Listen("l", "127.0.0.1:0", want.Direction, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	inspectors := &listener.InspectorStats{}
	r.registry.Add(inspectors)
	r.registry.Add(ln)
	sw := &listener.Switch{Matcher: want.Matcher, TLS: want.SniffTLS, HTTP: want.SniffHTTP, Timeout: want.SniffTimeout,
		Continue: want.SniffContinue, Stats: &ln.Stats, Inspectors: inspectors}
	handler := func(c *Chain) (h listener.Handler) {
		if c.TCP != nil {
			h = tcp.New(c.TCP, r.tracker)
		} else {
			h = hcm.New(c.HCM, web)
		}
		if c.TLS != nil {
			h = &listener.Secure{TLS: c.TLS, Timeout: c.HandshakeTimeout, Next: h, Stats: &ln.Stats, Log: slog.New(slog.DiscardHandler)}
		}
		return h
	}
	for _, c := range want.Chains {
		sw.Chains = append(sw.Chains, handler(c))
	}
	if want.Default != nil {
		sw.Default = handler(want.Default)
	}
	ln.SetHandler(&accesslog.Connections{Logs: want.AccessLogs, Next: sw})
	ln.Start()
	r.addr = ln.Addr()
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { r.tracker.Run(ctx) })
	t.Cleanup(func() {
		ln.Close()
		stop()
		r.tracker.Drain(ctx)
		r.tracker.Close()
		web.Drain(ctx)
		work.Wait()
		r.clusters.Close()
		c.Close()
		_ = sinks.Close()
	})
	return r
}

// dial connects to the listener.
func (r *tcpRig) dial() *net.TCPConn {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	return nc.(*net.TCPConn)
}

// value returns a metric, 0 if there is none. Its name may end in *.
func (r *tcpRig) value(name string) (v float64) {
	for _, m := range r.registry.List(stats.Query{}) {
		if start, ok := strings.CutSuffix(name, "*"); m.Name == name || ok && strings.HasPrefix(m.Name, start) {
			v += m.Value
		}
	}
	return v
}

// wait waits until a metric has a value.
func (r *tcpRig) wait(name string, want float64) {
	r.t.Helper()
	r.until(func() bool { return r.value(name) == want }, func() string {
		return fmt.Sprintf("%s is %v, want %v", name, r.value(name), want)
	})
}

func (r *tcpRig) until(f func() bool, what func() string) {
	r.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-late:
			r.t.Fatal(what())
		}
	}
}

// eachTick calls f every millisecond until it reports that it is done.
func eachTick(f func() (done bool)) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		<-tick.C
	}
}

// line waits for the access log's only line.
func (r *tcpRig) line() (line string) {
	r.t.Helper()
	r.until(func() bool {
		b, _ := os.ReadFile(r.log)
		line = strings.TrimSpace(string(b))
		return line != ""
	}, func() string { return "there is no line in the access log" })
	return line
}

// tcpOrigin serves connections until the test ends.
func tcpOrigin(t testing.TB, f func(nc *net.TCPConn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
				f(nc.(*net.TCPConn))
			}()
		}
	}()
	return ln.Addr().String()
}

func echo(nc *net.TCPConn) { _, _ = io.Copy(nc, nc) }

// say answers every connection with a text at once and ends.
func say(text string) func(*net.TCPConn) {
	return func(nc *net.TCPConn) {
		_, _ = io.WriteString(nc, text)
		_ = nc.CloseWrite()
		_, _ = io.Copy(io.Discard, nc)
	}
}

// refusing returns an address at which nobody listens.
func refusing(t *testing.T) string {
	t.Helper()
	return rig.FreeAddr(t)
}
