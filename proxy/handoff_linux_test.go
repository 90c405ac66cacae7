// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	stdtls "crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	// The test reads these from YAML.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"pillion/proxy/config"
	"pillion/test/need"
	"pillion/test/rig"
)

// inOwnNetwork is set in the process that runs within a network of its own.
const inOwnNetwork = "PILLION_TEST_OWN_NETWORK"

// redirectedListeners are those of a pod, in short: one for all that goes out and one
// for all that comes in, and others that are found by where connections were going.
// OUT and IN are ports. Each chain ends at a server that says the chain's name.
const redirectedListeners = `
- {name: virtualOutbound, address: {socket_address: {address: 0.0.0.0, port_value: OUT}}, use_original_dst: true, filter_chains: [
    {filter_chain_match: {destination_port: OUT}, filters: [TO(out-blackhole)]}, {filters: [TO(out)]}]}
- {name: virtualOutbound6, address: {socket_address: {address: "::", port_value: OUT}}, use_original_dst: true, filter_chains: [
    {filter_chain_match: {destination_port: OUT}, filters: [TO(out6-blackhole)]}, {filters: [TO(out6)]}]}
- {name: virtualInbound, address: {socket_address: {address: 0.0.0.0, port_value: IN}}, listener_filters: [ORIGINAL, TLS, HTTP], filter_chains: [
    {filter_chain_match: {destination_port: IN}, filters: [TO(in-blackhole)]},
    {filter_chain_match: {transport_protocol: tls, application_protocols: [istio-http/1.1, istio-h2]}, filters: [TO(in-tls-http)]},
    {filter_chain_match: {transport_protocol: raw_buffer, application_protocols: [http/1.1, h2c]}, filters: [TO(in-http)]},
    {filter_chain_match: {transport_protocol: tls}, filters: [TO(in-tls)]},
    {filter_chain_match: {destination_port: 9080, transport_protocol: raw_buffer}, filters: [TO(in-9080)]}]}
- {name: virtualInbound6, address: {socket_address: {address: "::", port_value: IN}}, listener_filters: [ORIGINAL, TLS, HTTP], filter_chains: [
    {filter_chain_match: {destination_port: IN}, filters: [TO(in6-blackhole)]},
    {filter_chain_match: {transport_protocol: tls, application_protocols: [istio-http/1.1, istio-h2]}, filters: [TO(in6-tls-http)]},
    {filter_chain_match: {destination_port: 9080, transport_protocol: raw_buffer}, filters: [TO(in6-9080)]},
    {filter_chain_match: {destination_port: 9081}, filters: [PASS(original6)]},
    {filter_chain_match: {destination_port: 9082}, filters: [PASS(local6)]},
    {filter_chain_match: {transport_protocol: raw_buffer, application_protocols: [http/1.1, h2c]}, filters: [TO(in6-http)]},
    {filter_chain_match: {transport_protocol: tls}, filters: [TO(in6-tls)]}]}
- {name: one, bind_to_port: false, address: {socket_address: {address: 10.99.0.1, port_value: 80}}, filter_chains: [{filters: [TO(one)]}]}
- {name: one6, bind_to_port: false, address: {socket_address: {address: "fd99::1", port_value: 80}}, filter_chains: [{filters: [TO(one6)]}]}
- {name: every, bind_to_port: false, address: {socket_address: {address: 0.0.0.0, port_value: 80}}, listener_filters: [HTTP], filter_chains: [
    {filter_chain_match: {transport_protocol: raw_buffer, application_protocols: [http/1.1, h2c]}, filters: [TO(every-http)]}],
   default_filter_chain: {filters: [TO(every-tcp)]}}
- {name: every6, bind_to_port: false, address: {socket_address: {address: "::", port_value: 81}}, filter_chains: [{filters: [TO(every6)]}]}
- {name: two, bind_to_port: false, address: {socket_address: {address: 10.99.0.2, port_value: 82}},
   additional_addresses: [{address: {socket_address: {address: "fd99::2", port_value: 82}}}], filter_chains: [{filters: [TO(two)]}]}
- {name: names, bind_to_port: false, address: {socket_address: {address: 0.0.0.0, port_value: 443}}, listener_filters: [TLS], filter_chains: [
    {filter_chain_match: {transport_protocol: tls, server_names: [a.example.com]}, filters: [TO(name-a)]},
    {filter_chain_match: {transport_protocol: tls, server_names: ["*.example.com"]}, filters: [TO(name-any)]},
    {filter_chain_match: {prefix_ranges: [{address_prefix: 10.99.3.0, prefix_len: 24}]}, filters: [TO(range)]}]}
- {name: again, bind_to_port: false, use_original_dst: true, address: {socket_address: {address: 0.0.0.0, port_value: 83}}, filter_chains: [{filters: [TO(again)]}]}
`

// podClusters lead to a pod's application: at the address that a connection was meant for,
// from the one that the rules of iptables let pass, and at the loopback address. APP is a port.
const podClusters = `
- {name: original6, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 5s, upstream_bind_config: {source_address: {address: "::6", port_value: 0}}}
- {name: local6, type: STATIC, connect_timeout: 5s, load_assignment: {cluster_name: local6, endpoints: [{lb_endpoints: [
    {endpoint: {address: {socket_address: {address: "::1", port_value: APP}}}}]}]}}
`

var listenerFilterNames = strings.NewReplacer(
	"ORIGINAL", `{name: o, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}`,
	"TLS", `{name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}`,
	"HTTP", `{name: h, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}`)

// chainEnd is where a chain of redirectedListeners ends: TO is a cluster that is made for it,
// PASS one of podClusters.
var chainEnd = regexp.MustCompile(`(TO|PASS)\(([\w-]+)\)`)

// redirectedBootstrap writes the listeners out, and starts what the chains lead to. app is
// the port of the pod's application.
func redirectedBootstrap(t *testing.T, out, in, app string) []byte {
	t.Helper()
	text := strings.NewReplacer("OUT", out, "IN", in).Replace(listenerFilterNames.Replace(redirectedListeners))
	clusters := strings.ReplaceAll(podClusters, "APP", app)
	for _, end := range chainEnd.FindAllStringSubmatch(text, -1) {
		name := end[2]
		text = strings.Replace(text, end[0], `{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: `+
			name+`, cluster: `+name+`}}`, 1)
		if end[1] == "PASS" {
			continue
		}
		_, port, _ := net.SplitHostPort(serverAt(t, "127.0.0.1:0", func(net.Conn) string { return name }))
		clusters += fmt.Sprintf("- {name: %s, type: STATIC, connect_timeout: 5s, load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: "+
			"{address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}}\n", name, name, port)
	}
	json, err := yaml.YAMLToJSON([]byte("static_resources:\n  listeners:" + strings.ReplaceAll(text, "\n", "\n  ") + "\n  clusters:\n  " + strings.ReplaceAll(clusters, "\n", "\n  ")))
	if err != nil {
		t.Fatal(err)
	}
	return json
}

// serverAt answers whoever says something.
func serverAt(t *testing.T, addr string, answer func(nc net.Conn) string) string {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for nc, err := ln.Accept(); err == nil; nc, err = ln.Accept() {
			go func() {
				defer nc.Close()
				if _, err := nc.Read(make([]byte, 4096)); err == nil {
					_, _ = nc.Write([]byte(answer(nc)))
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// clientHello is what a client of TLS begins with.
func clientHello(name string, alpn ...string) string {
	ours, theirs := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_ = stdtls.Client(ours, &stdtls.Config{ServerName: name, NextProtos: alpn}).HandshakeContext(ctx)
		_ = ours.Close()
	}()
	p := make([]byte, 4096)
	n, _ := theirs.Read(p)
	_ = theirs.Close()
	return string(p[:n])
}

// TestHandOffLikeEnvoy: a real kernel redirects connections to a real Envoy and to us,
// and the same chain serves each.
func TestHandOffLikeEnvoy(t *testing.T) {
	if os.Getenv(inOwnNetwork) == "" {
		needNetwork(t)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, need.Program(t, "unshare"), "-n", os.Args[0], "-test.run=^TestHandOffLikeEnvoy$", "-test.v")
		cmd.Env = append(os.Environ(), inOwnNetwork+"=yes")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestHandOffLikeEnvoy") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	command(t, "ip link set lo up")
	command(t, "ip addr add 10.98.0.1/32 dev lo")
	command(t, "ip -6 addr add fd98::1/128 dev lo nodad")
	command(t, "ip route add 10.99.0.0/16 dev lo")
	command(t, "ip -6 route add fd99::/64 dev lo")
	command(t, "ip -6 addr add ::6/128 dev lo nodad")
	whom := func(nc net.Conn) string {
		host, _, _ := net.SplitHostPort(nc.RemoteAddr().String())
		return nc.LocalAddr().String() + " is asked by " + host
	}
	serverAt(t, "[fd98::1]:9081", whom)
	serverAt(t, "[::1]:9083", whom)
	path := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(path, redirectedBootstrap(t, "15001", "15006", "9083"), 0o600); err != nil {
		t.Fatal(err)
	}
	rig.RunEnvoy(t, need.Envoy(t), path)
	serveBootstrap(t, redirectedBootstrap(t, "16001", "16006", "9083"))

	payloads := []struct{ name, text string }{
		{"raw", "hello, server\r\n"}, {"HTTP/1", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"}, {"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		{"TLS to a", clientHello("a.example.com")}, {"TLS to b", clientHello("b.example.com", "h2")}, {"TLS to c", clientHello("c.example.org", "istio-http/1.1", "http/1.1")},
	}
	type answers map[string]string
	ask := func(out, in string) answers {
		got := answers{}
		for _, to := range []string{out, in} {
			for _, tables := range []string{"iptables", "ip6tables"} {
				command(t, tables+" -w -t nat -F OUTPUT")
			}
			command(t, "iptables -w -t nat -A OUTPUT -p tcp -d 10.99.0.0/16 -j REDIRECT --to-ports "+to)
			dsts := []string{"10.99.0.1:80", "10.99.0.2:80", "10.99.0.1:81", "10.99.0.2:82", "10.99.0.3:82", "10.99.0.1:83", "10.99.0.1:443", "10.99.3.1:443",
				"10.99.0.1:9080", "10.99.0.1:OUT", "10.99.0.1:IN", "127.0.0.1:OUT", "127.0.0.1:IN"}
			command(t, "ip6tables -w -t nat -A OUTPUT -p tcp -d fd99::/64 -j REDIRECT --to-ports "+to)
			dsts = append(dsts, "[fd99::1]:80", "[fd99::2]:80", "[fd99::1]:81", "[fd99::2]:82", "[fd99::3]:82", "[fd99::1]:OUT", "[::1]:OUT")
			if to == in { // the pod's own address
				command(t, "ip6tables -w -t nat -A OUTPUT -p tcp ! -s ::6 -d fd98::1 -j REDIRECT --to-ports "+to)
				dsts = append(dsts, "[fd98::1]:9080", "[fd98::1]:9081", "[fd98::1]:9082", "[fd98::1]:80", "[fd98::1]:IN", "[::1]:IN")
			}
			for _, dst := range dsts {
				for _, p := range payloads {
					way := map[bool]string{true: "out", false: "in"}[to == out]
					got[way+", "+dst+", "+p.name] = say(t, strings.NewReplacer("OUT", out, "IN", in).Replace(dst), p.text)
				}
			}
		}
		return got
	}
	envoy, ours := ask("15001", "15006"), ask("16001", "16006")
	served := map[string]bool{}
	for what, want := range envoy {
		served[want] = true
		if got := ours[what]; got != want {
			t.Errorf("%s: Envoy serves by %q, we by %q", what, want, got)
		}
	}
	for _, answer := range []string{"[fd98::1]:9081 is asked by ::6", "[::1]:9083 is asked by ::1", "in6-9080", "in6-blackhole"} {
		if !served[answer] {
			t.Errorf("nothing was answered with %q", answer)
		}
	}
	if len(served) < 20 {
		t.Errorf("%d chains only were tried: %v", len(served), served)
	}
	t.Logf("%d connections, %d answers", len(envoy), len(served))
}

// serveBootstrap serves the resources of an Envoy's bootstrap.
func serveBootstrap(t *testing.T, json []byte) {
	t.Helper()
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(json, b); err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{DrainTime: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	commit(t, s, &config.Resources{Listeners: b.GetStaticResources().GetListeners(), Clusters: b.GetStaticResources().GetClusters()})
}

func needNetwork(t *testing.T) {
	t.Helper()
	need.Superuser(t)
	need.IPv6(t)
	need.Envoy(t)
	for _, p := range []string{"ip", "iptables", "ip6tables"} {
		need.Program(t, p)
	}
}

// command runs a program that has to succeed.
func command(t *testing.T, line string) {
	t.Helper()
	f := strings.Fields(line)
	if out, err := exec.Command(need.Program(t, f[0]), f[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
}
