// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"pillion/proxy/cluster"
	"pillion/proxy/config"
	"pillion/proxy/hcm"
	"pillion/proxy/http"
	"pillion/proxy/listener"
	"pillion/proxy/proxytest/inproc"
	"pillion/proxy/tcp"
	"pillion/proxy/tls"
	"pillion/test/rig"
)

// rawRoute is one route to one host as Envoy's API says it.
type rawRoute struct {
	port  int  // of the host, on this machine
	http2 bool // is what the host is spoken to
	// manager, route, chain and cluster are further fields of the connection
	// manager, of the route's action, of the filter chain, and of the cluster.
	manager, route, chain, cluster string
	secrets                        *tls.Secrets
	// network are further network filters, and filters those of the connection
	// manager, before the last one; raw has a TCP proxy serve instead.
	network, filters string
	raw              bool
	// protocol takes the place of what http2 says in HttpProtocolOptions.
	protocol string
	env      config.Env // but for what serve sets
}

// serveRoute serves one route to b, and returns the address.
func serveRoute(t testing.TB, b *inproc.Backend, http2 bool, manager, route string) (addr string) {
	t.Helper()
	return rawRoute{port: b.Port, http2: http2, manager: manager, route: route}.serve(t)
}

// compile makes the listener l and the cluster c of the route.
func (r rawRoute) compile(t testing.TB) (*listenerv3.Listener, *clusterv3.Cluster) {
	t.Helper()
	l, cl := &listenerv3.Listener{}, &clusterv3.Cluster{}
	fromYAML(t, fmt.Sprintf(`
name: l
address: {socket_address: {address: 127.0.0.1, port_value: 1}}
filter_chains:
- filters:
%s
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: test
      http_filters: [%s {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
      route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: c, %s}}]}]}
      %s
  %s
`, r.network, r.filters, r.route, r.manager, r.chain), l)
	if r.raw {
		filters := l.GetFilterChains()[0].GetFilters()
		fromYAML(t, `{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: test, cluster: c}}`,
			filters[len(filters)-1])
	}
	protocol := "explicit_http_config: {http_protocol_options: {}}"
	if r.http2 {
		protocol = "explicit_http_config: {http2_protocol_options: {}}"
	}
	if r.protocol != "" {
		protocol = r.protocol
	}
	fromYAML(t, fmt.Sprintf(`
name: c
type: STATIC
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    %s
load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
%s
`, protocol, r.port, r.cluster), cl)
	return l, cl
}

// serve serves the route until the test ends, and returns the address.
func (r rawRoute) serve(t testing.TB) (addr string) {
	t.Helper()
	l, cl := r.compile(t)
	clusters := cluster.NewManager(cluster.Options{})
	r.env.Clusters, r.env.Secrets = clusters, r.secrets
	c := config.NewCompiler(r.env)
	snap, err := c.Compile(&config.Resources{Listeners: []*listenerv3.Listener{l}, Clusters: []*clusterv3.Cluster{cl}})
	if err != nil {
		t.Fatal(err)
	}
	if err := clusters.Update(snap.Clusters, nil); err != nil {
		t.Fatal(err)
	}
	for place, table := range snap.Tables {
		place.Store(table)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tracker := hcm.NewTracker()
	chain := snap.Listeners["l"].Chains[0]
	raw := tcp.NewTracker()
	var h listener.Handler
	if chain.TCP != nil {
		h = tcp.New(chain.TCP, raw)
	} else {
		h = hcm.New(chain.HCM, tracker)
	}
	if chain.TLS != nil {
		h = &listener.Secure{TLS: chain.TLS, Timeout: chain.HandshakeTimeout, Next: h, Stats: &listener.SwitchStats{}, Log: slog.New(slog.DiscardHandler)}
	}
	var conns sync.WaitGroup
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
	t.Cleanup(func() {
		_ = ln.Close()
		over, cancel := context.WithCancel(context.Background())
		cancel()
		tracker.Drain(over)
		raw.Drain(over)
		conns.Wait()
		clusters.Close()
		c.Close()
	})
	return ln.Addr().String()
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

// freePort returns a port that nobody else is given until the test ends.
func freePort(t *testing.T) int {
	t.Helper()
	return int(netip.MustParseAddrPort(rig.FreeAddr(t)).Port())
}
