// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"pillion/proxy/config"
	"pillion/proxy/http"
	"pillion/proxy/proxytest"
	"pillion/proxy/proxytest/inproc"
	"pillion/proxy/stats"
)

// Istio's own filters as istiod sends them to the two sidecars of a request.
const (
	clientFilters = `{name: istio.metadata_exchange, typed_config: {"@type": type.googleapis.com/udpa.type.v1.TypedStruct,
        type_url: type.googleapis.com/io.istio.http.peer_metadata.Config, value: {
        upstream_discovery: [{istio_headers: {}}, {workload_discovery: {}}], upstream_propagation: [{istio_headers: {}}]}}},
      {name: envoy.filters.http.grpc_stats, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig,
        emit_filter_state: true, stats_for_all_methods: false}},
      {name: istio.stats, typed_config: {"@type": type.googleapis.com/stats.PluginConfig}},`
	serverFilters = `{name: istio.metadata_exchange, typed_config: {"@type": type.googleapis.com/udpa.type.v1.TypedStruct,
        type_url: type.googleapis.com/io.istio.http.peer_metadata.Config, value: {
        downstream_discovery: [{istio_headers: {}}, {workload_discovery: {}}], downstream_propagation: [{istio_headers: {}}]}}},
      {name: envoy.filters.http.grpc_stats, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig,
        emit_filter_state: true, stats_for_all_methods: false}},
      {name: istio.stats, typed_config: {"@type": type.googleapis.com/stats.PluginConfig, disable_host_header_fallback: true}},`
	peerExchange = `{name: istio.metadata_exchange, typed_config: {"@type": type.googleapis.com/udpa.type.v1.TypedStruct,
        type_url: type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange, value: {enable_discovery: true, protocol: istio-peer-exchange}}}`
	networkStats = `  - {name: istio.stats, typed_config: {"@type": type.googleapis.com/stats.PluginConfig, tcp_reporting_duration: 1s}}`
	inbound      = "\ntraffic_direction: INBOUND"
	outbound     = "\ntraffic_direction: OUTBOUND"
)

// sidecars are the two proxies of a request with mutual TLS between them, and what each
// counts.
type sidecars struct {
	addr           string
	client, server *stats.Registry
}

// nodeEnv is a proxy beside a workload.
func nodeEnv(name string) config.Env {
	return config.Env{
		Own: http.Peer{Workload: name + "-v1", Namespace: "shop", CanonicalService: name, CanonicalRevision: "v1", App: name, Version: "v1",
			ClusterID: "c1", Detail: &http.PeerDetail{Name: name + "-v1-abc", Owner: "kubernetes://apis/apps/v1/namespaces/shop/deployments/" + name + "-v1"}},
		NodeID:   "sidecar~10.0.0.1~" + name + "-v1-abc.shop~shop.svc.cluster.local",
		Registry: stats.NewRegistry(),
	}
}

// pair serves b behind two sidecars. edit may change either.
func pair(t testing.TB, b *inproc.Backend, raw, http2 bool, edit func(client, server *rawRoute)) sidecars {
	t.Helper()
	ca := newCA(t)
	server := rawRoute{port: b.Port, raw: raw, http2: http2, secrets: secretsOf(t, ca, "server"), env: nodeEnv("b"), filters: serverFilters,
		chain: inboundSocket(meshID) + inbound, network: "  - " + peerExchange + "\n" + networkStats}
	client := rawRoute{raw: raw, http2: http2, secrets: secretsOf(t, ca, "client"), env: nodeEnv("a"), filters: clientFilters, network: networkStats,
		chain: outbound}
	alpn := "http/1.1"
	if http2 {
		alpn = "h2"
	}
	if raw {
		alpn = "istio-peer-exchange, istio"
		server.chain = strings.Replace(server.chain, "h2, http/1.1", "istio-peer-exchange, h2, http/1.1", 1)
		client.cluster = "filters: [" + peerExchange + "]\n"
	} else {
		server.network, client.network = "  - "+peerExchange, ""
	}
	client.cluster += `metadata: {filter_metadata: {istio: {services: [{host: b.shop.svc.cluster.local, name: b, namespace: shop}]}}}
` + outboundSocket(alpn, serverID)
	if edit != nil {
		edit(&client, &server)
	}
	client.port = portOf(t, server.serve(t))
	return sidecars{client.serve(t), client.env.Registry, server.env.Registry}
}

// labelled waits until a metric has exactly one series, and returns its labels.
func labelled(t *testing.T, r *stats.Registry, metric string) map[string]string {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var list []*dto.Metric
		for _, f := range families {
			if f.GetName() == metric {
				list = f.GetMetric()
			}
		}
		if len(list) == 1 {
			l := map[string]string{}
			for _, p := range list[0].GetLabel() {
				l[p.GetName()] = p.GetValue()
			}
			return l
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d series of %s, want 1: %v", len(list), metric, list)
		}
	}
}

// wantPeers checks that a metric names both ends.
func wantPeers(t *testing.T, r *stats.Registry, metric, reporter, protocol, security string) {
	t.Helper()
	got := labelled(t, r, metric)
	for name, want := range map[string]string{
		"reporter": reporter, "request_protocol": protocol, "connection_security_policy": security,
		"source_workload": "a-v1", "source_workload_namespace": "shop", "source_canonical_service": "a", "source_canonical_revision": "v1",
		"source_app": "a", "source_version": "v1", "source_cluster": "c1", "source_principal": "spiffe://cluster.local/ns/shop/sa/client",
		"destination_workload": "b-v1", "destination_workload_namespace": "shop", "destination_canonical_service": "b",
		"destination_canonical_revision": "v1", "destination_app": "b", "destination_version": "v1", "destination_cluster": "c1",
		"destination_principal": "spiffe://cluster.local/ns/shop/sa/server", "destination_service_namespace": "shop", "destination_service_name": "b",
	} {
		if got[name] != want {
			t.Errorf("%s of %s: %s = %q, want %q", metric, reporter, name, got[name], want)
		}
	}
	if l := got["destination_service"]; reporter == "source" && l != "b.shop.svc.cluster.local" {
		t.Errorf("destination_service = %q", l)
	}
}

const peerFields = "x-envoy-peer-metadata"

// TestPeersOfRequests: the metrics of both sidecars name both workloads, over either
// version of HTTP, and neither application hears of the exchange.
func TestPeersOfRequests(t *testing.T) {
	t.Run("HTTP/1", func(t *testing.T) {
		seen := make(chan map[string]string, 1)
		b := inproc.NewBackend(t, func(c *inproc.Conn) {
			c.Serve(func(_ string, fields map[string]string, _ string) string {
				seen <- fields
				return "HTTP/1.1 200 OK\nContent-Length: 2\nX-Envoy-Peer-Metadata: bXkgb3du\nX-Envoy-Peer-Metadata-Id: app\n\nok"
			})
		})
		s := pair(t, b, false, false, nil)
		c := inproc.Dial(t, s.addr)
		for range 3 {
			r := c.Do("GET / HTTP/1.1\nHost: a\nX-Envoy-Peer-Metadata: forged\nX-Envoy-Peer-Metadata-Id: forged\n\n")
			wantLine(t, r, "HTTP/1.1 200 OK")
			noPeerFields(t, r.Fields)
			noPeerFields(t, <-seen)
		}
		wantPeers(t, s.client, "istio_requests_total", "source", "http", "unknown")
		wantPeers(t, s.server, "istio_requests_total", "destination", "http", "mutual_tls")
	})
	t.Run("HTTP/2", func(t *testing.T) {
		b := inproc.NewBackend2(t, func(c *inproc.Conn2) {
			e := c.Next()
			noPeerFields(t, e.Fields)
			c.Headers(e.ID, false, ":status", "200", "content-type", "application/grpc")
			c.Data(e.ID, "\x00\x00\x00\x00\x01x", false)
			c.Headers(e.ID, true, "grpc-status", "0")
			for e.Kind != "closed" {
				e = c.Next()
			}
		})
		s := pair(t, b, false, true, nil)
		c := inproc.Dial2(t, s.addr)
		c.Post(1, "content-type", "application/grpc", "te", "trailers")
		c.Data(1, "\x00\x00\x00\x00\x01x", true)
		head := c.Want(1, "head")
		noPeerFields(t, head.Fields)
		for e := head; !e.End; e = c.Next() {
			if e.Kind == "closed" || e.Kind == "reset" {
				t.Fatalf("%+v", e)
			}
		}
		wantPeers(t, s.client, "istio_requests_total", "source", "grpc", "unknown")
		wantPeers(t, s.server, "istio_requests_total", "destination", "grpc", "mutual_tls")
		for _, side := range []*stats.Registry{s.client, s.server} {
			for _, name := range []string{"istio_request_messages_total", "istio_response_messages_total"} {
				if l := labelled(t, side, name); l["source_workload"] != "a-v1" || l["destination_workload"] != "b-v1" || l["source_app"] != "a" {
					t.Errorf("%s: %v", name, l)
				}
			}
		}
	})
}

func noPeerFields(t *testing.T, fields map[string]string) {
	t.Helper()
	for name := range fields {
		if strings.HasPrefix(name, peerFields) {
			t.Errorf("%s: %q was passed on", name, fields[name])
		}
	}
}

// TestPeersKeptFromOutside: a cluster that isn't to hear who calls gets a request
// without it, and a forged one from the application neither.
func TestPeersKeptFromOutside(t *testing.T) {
	for _, metadata := range []string{"{disable_mx: true}", "{external: true}"} {
		seen := make(chan map[string]string, 1)
		b := inproc.NewBackend(t, func(c *inproc.Conn) {
			c.Serve(func(_ string, fields map[string]string, _ string) string {
				seen <- fields
				return inproc.OK("")
			})
		})
		filters := strings.Replace(clientFilters, "upstream_propagation: [{istio_headers: {}}]", "upstream_propagation: [{istio_headers: {skip_external_clusters: true}}]", 1)
		addr := rawRoute{port: b.Port, env: nodeEnv("a"), filters: filters, cluster: "metadata: {filter_metadata: {istio: " + metadata + "}}"}.serve(t)
		wantLine(t, inproc.Dial(t, addr).Do("GET / HTTP/1.1\nHost: a\nX-Envoy-Peer-Metadata: forged\n\n"), "HTTP/1.1 200 OK")
		noPeerFields(t, <-seen)
	}
}

// TestPeersOfConnections: both sidecars of a raw connection name both workloads,
// whoever speaks first, and what is said comes through as it was said.
func TestPeersOfConnections(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	for _, c := range []struct {
		name         string
		serverSpeaks bool
	}{{"the client speaks first", false}, {"the server speaks first", true}} {
		t.Run(c.name, func(t *testing.T) {
			b := inproc.NewBackend(t, func(conn *inproc.Conn) {
				if c.serverSpeaks {
					_, _ = io.WriteString(conn, "hello")
				}
				got, _ := io.ReadAll(conn)
				_, _ = conn.Conn.Write(got)
			})
			s := pair(t, b, true, false, nil)
			nc, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
			if c.serverSpeaks {
				first := make([]byte, 5)
				if _, err := io.ReadFull(nc, first); err != nil || string(first) != "hello" {
					t.Fatalf("%q %v", first, err)
				}
			}
			go func() {
				_, _ = nc.Write(big)
				_ = nc.(*net.TCPConn).CloseWrite()
			}()
			if got, err := io.ReadAll(nc); err != nil || !bytes.Equal(got, big) {
				t.Fatalf("%d octets came back of %d: %v", len(got), len(big), err)
			}
			for _, metric := range []string{"istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total", "istio_tcp_received_bytes_total"} {
				wantPeers(t, s.client, metric, "source", "tcp", "unknown")
				wantPeers(t, s.server, metric, "destination", "tcp", "mutual_tls")
			}
		})
	}
}

// TestPeersOfNobody: where the other end doesn't take part, connections are served all
// the same, and its workload is unknown.
func TestPeersOfNobody(t *testing.T) {
	b := inproc.NewBackend(t, func(conn *inproc.Conn) { _, _ = io.Copy(conn.Conn, conn.Conn) })
	s := pair(t, b, true, false, func(client, _ *rawRoute) { client.env.NodeID = "" })
	for _, text := range []string{"x", "=#\x04g", "=#\x04h and more", "=#"} {
		nc, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(nc, text)
		_ = nc.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(nc); err != nil || string(got) != text {
			t.Errorf("%q came back as %q: %v", text, got, err)
		}
		_ = nc.Close()
	}
	if l := labelled(t, s.server, "istio_tcp_connections_closed_total"); l["source_workload"] != "unknown" || l["source_workload_namespace"] != "shop" {
		t.Errorf("labels are %v", l)
	}
}

// TestPeersBrokenFrame: a connection whose beginning can't be told from its data is
// broken off, and nothing of it reaches the application.
func TestPeersBrokenFrame(t *testing.T) {
	reached := make(chan string, 2)
	b := inproc.NewBackend(t, func(conn *inproc.Conn) {
		got, _ := io.ReadAll(conn)
		reached <- string(got)
	})
	s := pair(t, b, true, false, func(client, _ *rawRoute) { client.env.NodeID = "" })
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = fmt.Fprintf(nc, "=#\x04g\xff\xff\xff\xffdata")
	if got, _ := io.ReadAll(nc); len(got) > 0 {
		t.Errorf("the client got %q", got)
	}
	if got := <-reached; got != "" {
		t.Errorf("the application got %q", got)
	}
}

// TestPeersAllocations: the exchange costs a keep-alive request nothing on top of what
// TLS costs.
func TestPeersAllocations(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		p := make([]byte, 4096)
		_ = c.SetDeadline(time.Time{})
		for {
			if _, err := c.Conn.Read(p); err != nil {
				return
			}
			if _, err := c.Conn.Write(answer); err != nil {
				return
			}
		}
	})
	nc, err := net.Dial("tcp", pair(t, b, false, false, nil).addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	request := []byte("GET /x HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\n\r\n")
	in := make([]byte, 4096)
	proxytest.MaxAllocs(t, "a keep-alive GET over mutual TLS with the exchange of metadata", 2, func() {
		if _, err := nc.Write(request); err != nil {
			t.Fatal(err)
		}
		if n, err := nc.Read(in); err != nil || string(in[:15]) != "HTTP/1.1 200 OK" {
			t.Fatalf("%q %v", in[:n], err)
		}
	})
}
