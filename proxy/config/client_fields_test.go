// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bufio"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
)

// edges are connection managers that differ in what they believe of clients.
var edges = []struct{ name, hcm string }{
	{"sidecar", ""},
	{"sidecar, one trusted proxy", "xff_num_trusted_hops: 1"},
	{"sidecar, internal addresses", "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}, {address_prefix: 'fd00::', prefix_len: 8}]}"},
	{"sidecar, port", "append_x_forwarded_port: true"},
	{"sidecar, always", "forward_client_cert_details: ALWAYS_FORWARD_ONLY"},
	{"sidecar, append", "forward_client_cert_details: APPEND_FORWARD, set_current_client_cert_details: {subject: true, uri: true, dns: true}"},
	{"gateway", "use_remote_address: true"},
	{"gateway of Istio", "use_remote_address: true, forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {subject: true, cert: true, uri: true, dns: true}"},
	{"gateway, one trusted proxy", "use_remote_address: true, xff_num_trusted_hops: 1, append_x_forwarded_port: true"},
	{"gateway, two trusted proxies", "use_remote_address: true, xff_num_trusted_hops: 2"},
	{"gateway, port", "use_remote_address: true, append_x_forwarded_port: true"},
	{"gateway, internal addresses", "use_remote_address: true, internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}"},
	{"gateway, nothing appended", "use_remote_address: true, skip_xff_append: true"},
	{"gateway, request id kept", "use_remote_address: true, preserve_external_request_id: true"},
}

// claims are what clients say of themselves.
var claims = [][]string{
	{},
	{"x-forwarded-for: 10.1.1.1"},
	{"x-forwarded-for: 192.0.2.1"},
	{"x-forwarded-for: 192.0.2.1, 10.1.1.1"},
	{"x-forwarded-for: 192.0.2.1,192.0.2.2,10.0.0.3"},
	{"x-forwarded-for: 192.0.2.1", "x-forwarded-for: 10.0.0.3"},
	{"x-forwarded-for: garbage"},
	{"x-forwarded-for: 10.0.0.1:8080"},
	{"x-forwarded-for: 010.0.0.1"},
	{"x-forwarded-for: 10.0.0.256"},
	{"x-forwarded-for: 10.0.0"},
	{"x-forwarded-for: [fd00::1]"},
	{"x-forwarded-for: fd00::1"},
	{"x-forwarded-for: ::ffff:10.0.0.1"},
	{"x-forwarded-for: 10.0.0.1,"},
	{"x-forwarded-for: ,"},
	{"x-forwarded-for: 127.0.0.1"},
	{"x-forwarded-proto: https"},
	{"x-forwarded-proto: https", "x-forwarded-for: 192.0.2.1, 192.0.2.2"},
	{"x-forwarded-port: 9"},
	{"x-forwarded-host: admin.example.com", "forwarded: for=10.0.0.1", "x-real-ip: 10.0.0.1"},
	{"x-envoy-internal: true"},
	{"x-envoy-internal: true", "x-forwarded-for: 10.1.1.1"},
	{"x-envoy-external-address: 10.0.0.9"},
	{"x-envoy-external-address: 10.0.0.9", "x-forwarded-for: 10.1.1.1"},
	{"x-forwarded-client-cert: By=spiffe://spoof;URI=spiffe://admin"},
	{"x-forwarded-client-cert: By=spiffe://spoof;URI=spiffe://admin", "x-forwarded-client-cert: By=b"},
	{"x-envoy-original-path: /admin", "x-envoy-original-host: admin"},
	{"x-envoy-decorator-operation: op", "x-envoy-downstream-service-cluster: c", "x-envoy-downstream-service-node: n"},
	{"x-envoy-retry-on: 5xx", "x-envoy-retry-grpc-on: cancelled", "x-envoy-max-retries: 9"},
	{"x-envoy-upstream-rq-timeout-ms: 9000", "x-envoy-upstream-rq-per-try-timeout-ms: 9000", "x-envoy-upstream-rq-timeout-alt-response: 204"},
	{"x-envoy-upstream-alt-stat-name: s", "x-envoy-upstream-stream-duration-ms: 9000"},
	{"x-envoy-hedge-on-per-try-timeout: true", "x-envoy-is-timeout-retry: true"},
	{"x-envoy-retriable-status-codes: 500", "x-envoy-retriable-header-names: a"},
	{"x-envoy-force-trace: true", "x-envoy-ip-tags: t", "x-client-trace-id: 1"},
	{"x-envoy-attempt-count: 7", "x-envoy-overloaded: true", "x-envoy-degraded: true"},
	{"x-request-id: mine", "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
	{"x-forwarded-for: 10.1.1.1", "x-envoy-retry-on: 5xx", "x-envoy-max-retries: 0", "x-envoy-original-path: /x"},
}

// TestClientFieldsLikeEnvoy sends what clients may claim to each kind of connection
// manager and to a real Envoy's, and compares what a service gets to see.
func TestClientFieldsLikeEnvoy(t *testing.T) {
	need.Envoy(t)
	origin := echoFields(t)
	envoy := runEnvoys(t, origin)
	cases := 0
	for i, e := range edges {
		ours := serve(t, origin, "", `{match: {prefix: /}, route: {cluster: c}}`, "{"+e.hcm+"}").addr
		for _, c := range claims {
			want, got := fieldsSeen(t, envoy[i], c), fieldsSeen(t, ours, c)
			if !slices.Equal(want, got) {
				t.Errorf("%s, %q:\nEnvoy %q\nours  %q", e.name, c, want, got)
			}
			cases++
		}
	}
	t.Logf("%d cases", cases)
}

// echoFields is an origin that answers with the fields it got.
func echoFields(t *testing.T) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &nethttp.Server{Handler: nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		for name, values := range r.Header {
			for _, v := range values {
				fmt.Fprintf(w, "%s: %s\n", strings.ToLower(name), v)
			}
		}
	})}
	server.Protocols = &nethttp.Protocols{}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
	return ln.Addr().String()
}

// fieldsSeen sends a request with some fields and returns what the origin got, sorted
// and without what is of no interest or can't be the same.
func fieldsSeen(t *testing.T, addr string, fields []string) []string {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	fmt.Fprintf(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n")
	for _, f := range fields {
		fmt.Fprintf(nc, "%s\r\n", f)
	}
	fmt.Fprintf(nc, "\r\n")
	resp, err := nethttp.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatalf("%s %q: %v", addr, fields, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s %q: %d %v", addr, fields, resp.StatusCode, err)
	}
	_, port, _ := net.SplitHostPort(addr)
	lists := map[string][]string{}
	for line := range strings.Lines(string(body)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case name == "x-request-id" && value != "mine":
			value = "made"
		case name == "x-envoy-expected-rq-timeout-ms":
			continue // how long the route waits
		case name == "x-forwarded-port" && value == port:
			value = "own"
		}
		lists[name] = append(lists[name], value)
	}
	var out []string
	for name, values := range lists {
		value := strings.Join(values, ",")
		if name == "x-forwarded-for" {
			value = withoutLoopback(value)
		}
		out = append(out, name+": "+value)
	}
	slices.Sort(out)
	return out
}

// withoutLoopback makes one of two ways to append a client on this machine: Envoy tells
// an address of the machine instead.
func withoutLoopback(list string) string {
	i := strings.LastIndexByte(list, ',')
	last := list[i+1:]
	if last == "127.0.0.1" || last == machineAddress() {
		return list[:i+1] + "loopback"
	}
	return list
}

// machineAddress is the first address of the machine that isn't a loopback one.
func machineAddress() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return ""
}

// runEnvoys runs one Envoy with a listener for each of edges and returns their
// addresses.
func runEnvoys(t *testing.T, origin string) []string {
	t.Helper()
	var managers []string
	for _, e := range edges {
		managers = append(managers, e.hcm)
	}
	return runEnvoy(t, origin, managers, "")
}

// runEnvoy runs one Envoy with a listener for each of some connection managers, given by
// their fields "a: 1, b: 2", and returns the listeners' addresses. socket is their
// transport_socket, as a field, or empty.
func runEnvoy(t *testing.T, origin string, managers []string, socket string) (addrs []string) {
	t.Helper()
	_, originPort, _ := net.SplitHostPort(origin)
	var text strings.Builder
	text.WriteString("static_resources:\n  listeners:\n")
	for _, extra := range managers {
		addr := rig.FreeAddr(t)
		addrs = append(addrs, addr)
		_, port, _ := net.SplitHostPort(addr)
		if extra != "" {
			extra = ", " + extra
		}
		own := socket
		if own != "" {
			own += ", "
		}
		fmt.Fprintf(&text, `  - address: {socket_address: {address: 127.0.0.1, port_value: %s}}
    filter_chains:
    - {%sfilters: [{name: hcm, typed_config:
          {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: test,
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}],
          route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}%s}}]}
`, port, own, extra)
	}
	fmt.Fprintf(&text, `  clusters:
  - name: c
    type: STATIC
    load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
`, originPort)
	path := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	rig.RunEnvoy(t, need.Envoy(t), path, "--file-flush-interval-msec", "50")
	return addrs
}
