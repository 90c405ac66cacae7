// SPDX-License-Identifier: Apache-2.0

package config

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
)

// networkRules are filters of connections: fields of the network RBAC filter. NET
// stands for the first three octets of the clients' addresses.
var networkRules = []string{
	"rules: " + permit(`{any: true}`),
	"rules: " + refuse(`{any: true}`),
	"rules: {action: ALLOW}",
	"rules: {action: DENY}",
	"rules: " + permit(`{destination_port: 1}`),
	"rules: " + permit(`{destination_port_range: {start: 1, end: 65536}}`),
	"rules: " + refuse(`{destination_port_range: {start: 1, end: 2}}`),
	"rules: " + permit(`{destination_ip: {address_prefix: 127.0.0.1, prefix_len: 32}}`),
	"rules: " + refuse(`{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}`),
	"rules: " + admit(`{source_ip: {address_prefix: NET.2, prefix_len: 32}}`),
	"rules: " + shut(`{source_ip: {address_prefix: NET.0, prefix_len: 31}}`),
	"rules: " + admit(`{direct_remote_ip: {address_prefix: NET.1, prefix_len: 32}}`),
	"rules: " + shut(`{remote_ip: {address_prefix: NET.1, prefix_len: 32}}`),
	"rules: " + admit(`{not_id: {remote_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}}`),
	"rules: " + permit(`{requested_server_name: {exact: a.test}}`),
	"rules: " + refuse(`{requested_server_name: {suffix: .test}}`),
	"rules: " + permit(`{requested_server_name: {exact: ""}}`),
	"rules: " + permit(`{not_rule: {requested_server_name: {prefix: a}}}`),
	"rules: " + admit(`{authenticated: {principal_name: {exact: "spiffe://td/ns/a/sa/x"}}}`),
	"rules: " + shut(`{authenticated: {principal_name: {prefix: "spiffe://"}}}`),
	"rules: " + admit(`{authenticated: {principal_name: {exact: dns.test}}}`),
	"rules: " + admit(`{authenticated: {principal_name: {safe_regex: {regex: "spiffe://td/.*|dns[.]test"}}}}`),
	"rules: " + admit(`{authenticated: {principal_name: {contains: "CN=bare"}}}`),
	"rules: " + shut(`{not_id: {authenticated: {principal_name: {suffix: "/x"}}}}`),
	"rules: " + permit(`{and_rules: {rules: [{requested_server_name: {exact: a.test}}, {destination_port_range: {start: 1, end: 65536}}]}}`),
	"rules: " + permit(`{or_rules: {rules: [{requested_server_name: {exact: b.test}}, {destination_port: 1}]}}`),
	"rules: " + admit(`{and_ids: {ids: [{source_ip: {address_prefix: NET.1, prefix_len: 32}}, {authenticated: {principal_name: {prefix: spiffe}}}]}}`),
	"rules: " + shut(`{or_ids: {ids: [{source_ip: {address_prefix: NET.2, prefix_len: 32}}, {authenticated: {principal_name: {prefix: spiffe}}}]}}`),
	"rules: " + permit(`{metadata: {filter: f, path: [{key: a}], value: {present_match: true}}}`),
	"rules: {action: LOG, policies: {p: {permissions: [{requested_server_name: {exact: a.test}}], principals: [{any: true}]}}}",
	"rules: {action: DENY, policies: {b: {permissions: [{any: true}], principals: [{any: true}]}, a: {permissions: [{requested_server_name: {exact: a.test}}], principals: [{any: true}]}}}",
	"shadow_rules: " + refuse(`{any: true}`),
	"shadow_rules: " + permit(`{requested_server_name: {exact: a.test}}`) + ", rules: " + permit(`{any: true}`),
	"shadow_rules: " + admit(`{authenticated: {principal_name: {prefix: spiffe}}}`) + ", shadow_rules_stat_prefix: dry_, rules: " + refuse(`{requested_server_name: {exact: b.test}}`),
}

// networkClient is a way to connect.
type networkClient struct {
	source int // last octet of the address
	tls    bool
	sni    string
	cert   *stdtls.Certificate
}

// networkChains is a listener of two chains for each rule, plain and with TLS. Which
// one a client gets is told by where it comes from.
func networkChains(server, roots string) string {
	const format = `%DOWNSTREAM_REMOTE_ADDRESS% %CONNECTION_TERMINATION_DETAILS% `
	var keys string
	for _, k := range []string{"shadow_effective_policy_id", "shadow_engine_result", "dry_shadow_engine_result"} {
		keys += "|%DYNAMIC_METADATA(envoy.filters.network.rbac:" + k + ")%"
	}
	proxy := strings.Replace(tcpProxy("cluster: up"), "%RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_TRANSPORT_FAILURE_REASON% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %REQUESTED_SERVER_NAME% %REQ(:METHOD)%",
		format+keys, 1)
	socket := `
  transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
    common_tls_context: {tls_certificates: [` + server + `], validation_context: {trusted_ca: {inline_string: ` + fmt.Sprintf("%q", roots) + `}}}}}`
	var b strings.Builder
	b.WriteString(`
name: l
address: {socket_address: {address: 0.0.0.0, port_value: 1}}
listener_filters: [{name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]
filter_chains:
`)
	for i, rules := range networkRules {
		for transport, more := range map[string]string{"raw_buffer": "", "tls": socket} {
			rbac := strings.Replace(networkRBAC(strings.ReplaceAll(rules, "NET", networkOf(i))), "stat_prefix: tcp.", fmt.Sprintf("stat_prefix: r%d.", i), 1)
			fmt.Fprintf(&b, `- filter_chain_match: {transport_protocol: %s, source_prefix_ranges: [{address_prefix: %s.0, prefix_len: 24}]}%s
  filters:
  - %s
  - %s
`, transport, networkOf(i), more, rbac, proxy)
		}
	}
	return b.String()
}

func networkOf(rule int) string { return fmt.Sprintf("127.1.%d", rule) }

// networkClients are one of each kind.
func networkClients(ca *certMaker) []networkClient {
	uri, _ := url.Parse("spiffe://td/ns/a/sa/x")
	workload := ca.make(&x509.Certificate{URIs: []*url.URL{uri}})
	named := ca.make(&x509.Certificate{DNSNames: []string{"other.test", "dns.test"}})
	bare := ca.make(&x509.Certificate{Subject: pkix.Name{CommonName: "bare"}})
	return []networkClient{{source: 1}, {source: 2}, {source: 1, tls: true, sni: "a.test"}, {source: 1, tls: true, sni: "b.test", cert: &workload},
		{source: 2, tls: true, sni: "a.test", cert: &named}, {source: 2, tls: true, cert: &bare}}
}

// connect makes a connection and reports whether what it says comes back.
func (c *networkClient) connect(t *testing.T, rule int, addr string) (nc net.Conn, passes bool) {
	t.Helper()
	_, port, _ := net.SplitHostPort(addr)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(fmt.Sprintf("%s.%d", networkOf(rule), c.source))}}
	nc, err := d.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	_ = nc.SetDeadline(time.Now().Add(rig.Patience))
	if c.tls {
		cfg := &stdtls.Config{InsecureSkipVerify: true, ServerName: c.sni} //nolint:gosec // who answers plays no part
		if c.cert != nil {
			cfg.Certificates = []stdtls.Certificate{*c.cert}
		}
		nc = stdtls.Client(nc, cfg)
	}
	_, _ = io.WriteString(nc, "hello")
	p := make([]byte, 5)
	n, _ := io.ReadFull(nc, p)
	if n > 0 && string(p) != "hello" {
		t.Errorf("%q comes back", p[:n])
	}
	return nc, n > 0
}

// TestNetworkRBACLikeEnvoy makes every kind of connection under every filter, to a
// real Envoy and to us: what becomes of it, what the access log says of the filter's
// results, and what is counted has to be the same.
func TestNetworkRBACLikeEnvoy(t *testing.T) {
	ca := newCertMaker(t)
	server := ca.make(&x509.Certificate{DNSNames: []string{"a.test"}})
	both := bothJudges(t, networkChains(pairYAML(t, server), ca.pem), tcpCluster("up", "", tcpOrigin(t, echo)))
	clients := networkClients(ca)
	results := [2]map[string]string{{}, {}} // by rule and client
	denied := 0
	for i, j := range both {
		keys := map[string]string{} // by the client's address
		var conns []net.Conn        // open to the end, so that no address is used twice
		for rule := range networkRules {
			for k := range clients {
				nc, passes := clients[k].connect(t, rule, j.addr)
				conns = append(conns, nc)
				name := fmt.Sprintf("%s by client %d", networkRules[rule], k)
				keys[nc.LocalAddr().String()], results[i][name] = name, fmt.Sprintf("passes %t", passes)
				if !passes && i == 0 {
					denied++
				}
			}
		}
		for _, nc := range conns {
			_ = nc.Close()
		}
		rig.Until(t, j.name+" logs all connections", func() error {
			text, err := os.ReadFile(j.log)
			if err != nil {
				return err
			}
			if n := strings.Count(string(text), "\n"); n < len(keys) {
				return fmt.Errorf("there are %d lines of %d", n, len(keys))
			}
			for line := range strings.Lines(string(text)) {
				key, rest, _ := strings.Cut(line, " ")
				results[i][keys[key]] += ", logged as " + strings.TrimSpace(rest)
			}
			return nil
		})
		for rule := range networkRules {
			for _, count := range []string{"allowed", "denied", "shadow_allowed", "shadow_denied", "dry_.shadow_allowed", "dry_.shadow_denied"} {
				name := fmt.Sprintf("r%d.rbac.%s", rule, count)
				if v := j.values(t, name); v != "none" {
					results[i][name] = v
				}
			}
		}
	}
	for name, want := range results[0] {
		if got := results[1][name]; got != want {
			t.Errorf("%s\nEnvoy %s\nours  %s", name, want, got)
		}
	}
	n := len(networkRules) * len(clients)
	t.Logf("%d connections, %d of them denied", n, denied)
	if denied < n/5 || denied > n*4/5 {
		t.Errorf("%d of %d are denied: the table proves little", denied, n)
	}
}
