// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	nethttp "net/http"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"pillion/proxy/cluster"
	"pillion/proxy/hcm"
	"pillion/proxy/http"
	"pillion/proxy/listener"
	"pillion/test/rig"
)

// served is a listener that serves what was compiled.
type served struct {
	addr     string
	warnings []string
}

// serve compiles one listener and one cluster c, whose host is at origin, and
// serves them until the test ends. filters are put before the router. more are
// further clusters in YAML, fields of the connection manager, "{a: 1, b: 2}", and
// the transport_socket of the chain.
func serve(t *testing.T, origin, filters, routes string, more ...string) served {
	t.Helper()
	_, port, _ := net.SplitHostPort(origin)
	l, cl := &listenerv3.Listener{}, &clusterv3.Cluster{}
	fromYAML(t, fmt.Sprintf(`
name: l
address: {socket_address: {address: 127.0.0.1, port_value: 1}}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: test
      http_filters: [%s{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
      route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [%s]}]}
`, filters, routes), l)
	fromYAML(t, fmt.Sprintf(`
name: c
type: STATIC
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}
load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
`, port), cl)
	all := []*clusterv3.Cluster{cl}
	for _, text := range more {
		if strings.HasPrefix(text, "transport_socket:") {
			own := &listenerv3.FilterChain{}
			fromYAML(t, text, own)
			proto.Merge(l.FilterChains[0], own)
			continue
		}
		if strings.HasPrefix(text, "{") {
			mergeHCM(t, l, text)
			continue
		}
		other := &clusterv3.Cluster{}
		fromYAML(t, text, other)
		all = append(all, other)
	}
	addrs, snap := serveResources(t, Env{Clusters: cluster.NewManager(cluster.Options{})}, &Resources{Listeners: []*listenerv3.Listener{l}, Clusters: all})
	return served{addrs["l"], snap.Warnings}
}

// serveResources compiles resources and serves their HTTP listeners, each by its first
// chain, until the test ends. It returns their addresses by name.
func serveResources(t testing.TB, env Env, r *Resources) (addrs map[string]string, snap *Snapshot) {
	t.Helper()
	c := NewCompiler(env)
	snap, err := c.Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := env.Clusters.Update(snap.Clusters, nil); err != nil {
		t.Fatal(err)
	}
	for place, table := range snap.Tables {
		place.Store(table)
	}
	snap.Committed()
	addrs = map[string]string{}
	tracker := hcm.NewTracker()
	var conns sync.WaitGroup
	var lns []net.Listener
	for name, l := range snap.Listeners {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		lns, addrs[name] = append(lns, ln), ln.Addr().String()
		chain := l.Chains[0]
		var h listener.Handler = hcm.New(chain.HCM, tracker)
		if chain.TLS != nil {
			h = &listener.Secure{TLS: chain.TLS, Timeout: chain.HandshakeTimeout, Next: h, Stats: &listener.SwitchStats{}, Log: slog.New(slog.DiscardHandler)}
		}
		conns.Go(func() {
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				conns.Go(func() {
					h.Serve(nc, &http.ConnInfo{Local: nc.LocalAddr().String(), Remote: nc.RemoteAddr().String()}).Run()
				})
			}
		})
	}
	t.Cleanup(func() {
		for _, ln := range lns {
			ln.Close()
		}
		over, cancel := context.WithCancel(context.Background())
		cancel()
		tracker.Drain(over)
		conns.Wait()
		env.Clusters.Close()
		c.Close()
	})
	return addrs, snap
}

// mergeHCM sets fields of a listener's only connection manager.
func mergeHCM(t *testing.T, l *listenerv3.Listener, fields string) {
	t.Helper()
	f := l.FilterChains[0].Filters[0]
	m, more := &hcmv3.HttpConnectionManager{}, &hcmv3.HttpConnectionManager{}
	if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	fromYAML(t, fields, more)
	proto.Merge(m, more)
	if err := f.GetTypedConfig().MarshalFrom(m); err != nil {
		t.Fatal(err)
	}
}

func fromYAML(t testing.TB, text string, m proto.Message) {
	t.Helper()
	json, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(json, m); err != nil {
		t.Fatal(err)
	}
}

// origin serves HTTP/2 until the test ends.
func origin(t *testing.T, h nethttp.HandlerFunc) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &nethttp.Server{Handler: h, Protocols: onlyHTTP2()}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
	return ln.Addr().String()
}

// onlyHTTP2 is HTTP/2 by prior knowledge.
func onlyHTTP2() *nethttp.Protocols {
	p := &nethttp.Protocols{}
	p.SetUnencryptedHTTP2(true)
	return p
}

// ask sends a request of either version and returns the response, read.
func ask(t *testing.T, addr string, version int, body io.Reader, fields ...string) (*nethttp.Response, string) {
	t.Helper()
	rt := &nethttp.Transport{}
	if version == 2 {
		rt.Protocols = onlyHTTP2()
	}
	defer rt.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := nethttp.NewRequestWithContext(ctx, "POST", "http://"+addr+"/t.S/M", body)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fields {
		k, v, _ := strings.Cut(f, ": ")
		req.Header.Set(k, v)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// TestMaxStreamDuration holds what Envoy 1.40 does, whose route timeout counts
// no more where there is a max_stream_duration.
func TestMaxStreamDuration(t *testing.T) {
	const grpc = "content-type: application/grpc"
	for _, c := range []struct {
		bounds string
		fields []string
		open   bool // the request doesn't end
		status int
		grpc   string
		body   string
		told   string
	}{
		{"max_stream_duration: {max_stream_duration: 0.5s}", nil, false, 504, "", "downstream duration timeout", ""},
		{"max_stream_duration: {max_stream_duration: 0.5s}", nil, true, 408, "", "downstream duration timeout", ""},
		{"max_stream_duration: {max_stream_duration: 0.5s}", []string{grpc, "grpc-timeout: 10S"}, false, 200, "4", "", "500m"},
		{"max_stream_duration: {max_stream_duration: 0s, grpc_timeout_header_max: 0s}", []string{grpc, "grpc-timeout: 500m"}, false, 200, "4", "", "500m"},
		{"max_stream_duration: {max_stream_duration: 0s, grpc_timeout_header_max: 0s}", []string{grpc, "grpc-timeout: 500m"}, true, 200, "4", "", "500m"},
		{"max_stream_duration: {max_stream_duration: 0s, grpc_timeout_header_max: 0.5s}", []string{grpc, "grpc-timeout: 9S"}, false, 200, "4", "", "500m"},
		{"max_stream_duration: {grpc_timeout_header_max: 9s, grpc_timeout_header_offset: 8.5s}", []string{grpc, "grpc-timeout: 60S"}, false, 200, "4", "", "500m"},
		{"max_stream_duration: {max_stream_duration: 9s}, timeout: 0.001s", []string{"answer: yes"}, false, 200, "", "ok", ""},
		{"max_grpc_timeout: 0s, timeout: 0s", []string{grpc, "grpc-timeout: 500m"}, false, 200, "4", "", "500m"},
		{"max_grpc_timeout: 0.5s, timeout: 0s", []string{grpc, "grpc-timeout: 9S"}, false, 200, "14", "", "500m"},
	} {
		for _, version := range []int{1, 2} {
			t.Run(fmt.Sprintf("{%s} with %v, open %t, HTTP/%d", c.bounds, c.fields, c.open, version), func(t *testing.T) {
				t.Parallel()
				told := make(chan string, 1)
				o := origin(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
					told <- r.Header.Get("grpc-timeout")
					if r.Header.Get("answer") != "" {
						_, _ = io.WriteString(w, "ok")
						return
					}
					<-r.Context().Done()
				})
				s := serve(t, o, "", `{match: {prefix: /}, route: {cluster: c, `+c.bounds+`}}`)
				var body io.Reader
				if c.open {
					pipe, end := io.Pipe()
					defer end.Close()
					body = pipe
				}
				resp, text := ask(t, s.addr, version, body, c.fields...)
				if got := resp.Header.Get("grpc-status"); resp.StatusCode != c.status || got != c.grpc || text != c.body {
					t.Errorf("%d, grpc-status %q, %q; want %d, %q, %q", resp.StatusCode, got, text, c.status, c.grpc, c.body)
				}
				select {
				case got := <-told:
					if got != c.told {
						t.Errorf("the service is told of %q, want %q", got, c.told)
					}
				case <-time.After(rig.Patience):
					t.Error("the service is not asked")
				}
			})
		}
	}
}

// TestGRPCFilters: both gRPC filters are built and act, and what is asked of
// them in vain is told.
func TestGRPCFilters(t *testing.T) {
	o := origin(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("content-type", r.Header.Get("content-type"))
		_, _ = io.WriteString(w, "\x00\x00\x00\x00\x00")
		w.Header().Set(nethttp.TrailerPrefix+"grpc-status", "0")
	})
	const package3 = "type.googleapis.com/envoy.extensions.filters.http."
	s := serve(t, o, `{name: web, typed_config: {"@type": `+package3+`grpc_web.v3.GrpcWeb}},
 {name: stats, typed_config: {"@type": `+package3+`grpc_stats.v3.FilterConfig, stats_for_all_methods: true}}, `,
		`{match: {prefix: /}, route: {cluster: c}}`)
	resp, text := ask(t, s.addr, 1, nil, "content-type: application/grpc-web")
	if want := "\x00\x00\x00\x00\x00\x80\x00\x00\x00\x0fgrpc-status:0\r\n"; resp.StatusCode != 200 || text != want {
		t.Errorf("%d %q, want %q", resp.StatusCode, text, want)
	}
	if len(s.warnings) != 1 || !strings.Contains(s.warnings[0], "grpc_stats: stats_for_all_methods") {
		t.Errorf("warnings are %q", s.warnings)
	}
}
