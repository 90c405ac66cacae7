// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"sigs.k8s.io/yaml"

	"pillion/proxy/stats"
	"pillion/test/need"
	"pillion/test/rig"
)

// connectionAuthz says the same of every connection, and keeps what it was
// asked.
type connectionAuthz struct {
	authv3.UnimplementedAuthorizationServer
	mu     sync.Mutex
	answer *authv3.CheckResponse // guarded by mu
	fail   error                 // guarded by mu
	asked  []string              // guarded by mu
}

func (a *connectionAuthz) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.GetAttributes().GetSource().GetAddress().GetSocketAddress().PortSpecifier = nil
	r.GetAttributes().GetDestination().GetAddress().GetSocketAddress().PortSpecifier = nil
	text, _ := json.Marshal(r)
	a.asked = append(a.asked, string(text))
	return a.answer, a.fail
}

// say sets the answer, and returns what was asked before.
func (a *connectionAuthz) say(answer *authv3.CheckResponse, fail error) (asked []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked, a.asked = a.asked, nil
	a.answer, a.fail = answer, fail
	return asked
}

// networkListener is a TCP proxy behind the filter. LOG is where the access log
// goes.
func networkListener(addr, more string) string {
	_, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`
name: l
address: {socket_address: {address: 127.0.0.1, port_value: %s}}
filter_chains:
- filters:
  - {name: a, typed_config: {"@type": type.googleapis.com/%s, stat_prefix: tcp., transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: azg}, timeout: 5s}, %s}}
  - name: tcp
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
      stat_prefix: p
      cluster: up
`, port, networkExtAuthzType, more)
}

// echoing sends back what comes on the connection's first read.
func echoing(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(nc, nc)
				nc.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

// TestNetworkExtAuthzDifferential holds that connections fare as with a real
// Envoy, that servers are told the same of them, and that the same is counted.
func TestNetworkExtAuthzDifferential(t *testing.T) {
	envoy := need.Envoy(t)
	for _, more := range []string{"", "failure_mode_allow: true, include_tls_session: true"} {
		authz := &connectionAuthz{}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := grpc.NewServer()
		authv3.RegisterAuthorizationServer(srv, authz)
		go func() { _ = srv.Serve(ln) }()
		t.Cleanup(srv.Stop)

		clusters := []string{tcpCluster("up", "", echoing(t)), tcpCluster("azg", http2Options, ln.Addr().String())}
		ours := serveTCP(t, networkListener("127.0.0.1:1", more), clusters...)
		theirs, admin := startRawEnvoy(t, envoy, more, clusters)

		for _, c := range []struct {
			name   string
			answer *authv3.CheckResponse
			fail   error
			passes bool
		}{
			{"allowed", allow(nil), nil, true},
			{"empty", &authv3.CheckResponse{}, nil, true},
			{"denied", &authv3.CheckResponse{Status: &rpcstatus.Status{Code: 7}}, nil, false},
			{"denied with a reply", deny(401, "x", option("a", "b", 0)), nil, false},
			{"error reply", isError(503, "x"), nil, more != ""},
			{"failed", nil, grpcstatus.Error(codes.Unavailable, "x"), more != ""},
			{"refused call", nil, grpcstatus.Error(codes.PermissionDenied, "x"), more != ""},
		} {
			var asked [2][]string
			for i, addr := range []string{theirs, ours.addr} {
				authz.say(c.answer, c.fail)
				if got := passes(t, addr); got != c.passes {
					t.Errorf("{%s} %s: Envoy or ours (%d) passes %t", more, c.name, i, got)
				}
				asked[i] = authz.say(nil, nil)
			}
			if len(asked[0]) != 1 || !slices.Equal(asked[0], asked[1]) {
				t.Errorf("{%s} %s: the server is asked\n%q by Envoy\n%q by ours", more, c.name, asked[0], asked[1])
			}
		}
		for line := range strings.Lines(admin.Get(t, "/stats?filter=^ext_authz")) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if got := fmt.Sprint(ours.value(name)); got != value {
				t.Errorf("{%s} %s is %s, Envoy has %s", more, name, got, value)
			}
		}
		if len(ours.registry.List(stats.Query{})) == 0 {
			t.Error("nothing is counted")
		}
	}
}

// passes tells whether what is sent on a connection comes back.
func passes(t *testing.T, addr string) bool {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(rig.Patience))
	_, _ = io.WriteString(nc, "hello")
	p := make([]byte, 5)
	n, err := io.ReadFull(nc, p)
	if n == 0 && err != nil {
		return false
	}
	if string(p) != "hello" {
		t.Fatalf("%q comes back, %v", p, err)
	}
	return true
}

func startRawEnvoy(t *testing.T, binary, more string, clusters []string) (addr string, p *rig.Proxy) {
	t.Helper()
	addr, admin := rig.FreeAddr(t), rig.FreeAddr(t)
	_, port, _ := net.SplitHostPort(admin)
	var static struct {
		Listeners []any `json:"listeners"`
		Clusters  []any `json:"clusters"`
	}
	object := func(text string) any {
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	static.Listeners = append(static.Listeners, object(networkListener(addr, more)))
	for _, c := range clusters {
		static.Clusters = append(static.Clusters, object(c))
	}
	text, err := json.Marshal(map[string]any{"static_resources": static,
		"admin": object("address: {socket_address: {address: 127.0.0.1, port_value: " + port + "}}")})
	if err != nil {
		t.Fatal(err)
	}
	return addr, rig.StartEnvoy(t, binary, string(text), addr, admin)
}
