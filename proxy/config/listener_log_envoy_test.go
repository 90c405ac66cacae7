// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
)

// pairYAML is a certificate with its key as a DataSource each, in YAML.
func pairYAML(t *testing.T, pair stdtls.Certificate) string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	return fmt.Sprintf("{certificate_chain: {inline_string: %q}, private_key: {inline_string: %q}}", pemOf(pair), text)
}

// loggedListener has chains that serve, refuse and don't take connections, and an
// access log of its own. FORMAT is its format's place.
func loggedListener(pair string) string {
	const file = `{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: LOG,
        log_format: {text_format_source: {inline_string: "%s\n"}}}`
	const format = `L %RESPONSE_CODE%|%RESPONSE_FLAGS%|%RESPONSE_CODE_DETAILS%|%CONNECTION_TERMINATION_DETAILS%|%REQUESTED_SERVER_NAME%|%UPSTREAM_CLUSTER%|` +
		`%UPSTREAM_HOST%|%ROUTE_NAME%|%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_engine_result)%|%DOWNSTREAM_TLS_VERSION%`
	socket := `transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {tls_certificates: [` + pair + `]}}}`
	manager := `{name: hcm, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: in,
      access_log: [` + fmt.Sprintf(file, "H %RESPONSE_CODE%|%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_engine_result)%") + `}],
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}],
      route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}}}`
	chain := func(name string, filters ...string) string {
		return "- filter_chain_match: {server_names: [" + name + "]}\n  " + socket + "\n  filters:\n  - " + strings.Join(filters, "\n  - ") + "\n"
	}
	return `
name: l
address: {socket_address: {address: 127.0.0.1, port_value: 1}}
listener_filters: [{name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]
access_log:
- ` + fmt.Sprintf(file, "NR %RESPONSE_FLAGS% %REQUESTED_SERVER_NAME%") + `, filter: {response_flag_filter: {flags: [NR]}}}
- ` + fmt.Sprintf(file, format) + `}
filter_chains:
` + chain("denied.test", networkRBAC("rules: "+refuse(`{any: true}`)), manager) +
		chain("served.test", networkRBAC("shadow_rules: "+refuse(`{any: true}`)), manager) +
		chain("raw.test", networkRBAC("shadow_rules: "+permit(`{any: true}`)), tcpProxyNoLog("up")) +
		chain("rawdenied.test", networkRBAC("rules: "+permit(`{destination_port: 1}`)), tcpProxyNoLog("up")) +
		chain("nobody.test", networkRBAC("rules: "+permit(`{any: true}`)), tcpProxyNoLog("down"))
}

func tcpProxyNoLog(cluster string) string {
	return `{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: p, cluster: ` + cluster + `}}`
}

// TestListenerLogLikeEnvoy: the access log of a listener has the lines of a real
// Envoy's, for connections that are served, refused by filters, or of no chain.
// That of the connection manager has none for a connection that is refused.
func TestListenerLogLikeEnvoy(t *testing.T) {
	ca := newCertMaker(t)
	pair := ca.make(&x509.Certificate{DNSNames: []string{"a.test"}})
	up := tcpOrigin(t, echo)
	both := bothJudges(t, loggedListener(pairYAML(t, pair)), tcpCluster("up", "", up), tcpCluster("down", "", refusing(t)))
	for _, c := range []struct {
		sni    string
		serves bool
	}{{"denied.test", false}, {"served.test", true}, {"raw.test", true}, {"rawdenied.test", false}, {"nobody.test", false}, {"unknown.test", false}, {"", false}} {
		var got [2]string
		for i, j := range both {
			_ = os.Truncate(j.log, 0)
			if served := speaksTo(t, j.addr, c.sni); served != c.serves {
				t.Errorf("%s: %q is served: %t", j.name, c.sni, served)
			}
			rig.Until(t, j.name+" logs the connection", func() error {
				b, err := os.ReadFile(j.log)
				b = bytes.Trim(b, "\x00") // of the file that was cut
				got[i] = string(b)
				if err == nil && !strings.Contains(got[i], "L ") {
					err = fmt.Errorf("the log is %q", b)
				}
				return err
			})
		}
		if c.sni == "rawdenied.test" { // Envoy decides when it has connected already
			got[0] = strings.Replace(got[0], "up|"+up, "-|-", 1)
		}
		if got[0] != got[1] || got[0] == "" {
			t.Errorf("%q: Envoy logs\n%s\nwe log\n%s", c.sni, got[0], got[1])
		}
	}
}

// speaksTo makes a connection, with TLS if there is a name, sends a request and
// reports whether anything comes back.
func speaksTo(t *testing.T, addr, sni string) bool {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(rig.Patience))
	if sni != "" {
		nc = stdtls.Client(nc, &stdtls.Config{InsecureSkipVerify: true, ServerName: sni}) //nolint:gosec // who answers plays no part
	}
	_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	n, _ := nc.Read(make([]byte, 64))
	return n > 0
}
