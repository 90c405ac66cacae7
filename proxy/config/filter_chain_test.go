// SPDX-License-Identifier: Apache-2.0

package config

import (
	stdtls "crypto/tls"
	"io"
	nethttp "net/http"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	// The test reads these from YAML.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
)

// sniffing is a listener of a port of unknown protocol, as Istio has them, with
// one more chain for a TLS name.
func sniffing(timeout string, goOn bool) string {
	more := ""
	if goOn {
		more = "continue_on_listener_filters_timeout: true\n"
	}
	return `
name: l
address: {socket_address: {address: 127.0.0.1, port_value: 1}}
listener_filters_timeout: ` + timeout + "\n" + more + `
listener_filters:
- {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}
- {name: http, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}
default_filter_chain:
  filters: [` + tcpProxy("cluster: raw") + `]
filter_chains:
- filter_chain_match: {transport_protocol: raw_buffer, application_protocols: [http/1.1, h2c]}
  filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: test
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
      route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 418, body: {inline_string: teapot}}}]}]}
- filter_chain_match: {transport_protocol: tls, server_names: ["*.example.com"]}
  filters: [` + strings.Replace(tcpProxy("cluster: named"), "stat_prefix: p", "stat_prefix: named", 1) + `]
`
}

// TestSniffedChains: each protocol finds its chain on one port, with all of
// its bytes.
func TestSniffedChains(t *testing.T) {
	r := serveTCP(t, sniffing("10s", true), tcpCluster("raw", "", tcpOrigin(t, echo)), tcpCluster("named", "", tcpOrigin(t, echo)))
	for _, version := range []int{1, 2} {
		if resp, text := ask(t, r.addr, version, nil); resp.StatusCode != nethttp.StatusTeapot || text != "teapot" || resp.ProtoMajor != version {
			t.Errorf("HTTP/%d: %d %q over %s", version, resp.StatusCode, text, resp.Proto)
		}
	}
	// Not a letter at a time is lost when it comes a letter at a time.
	slow := r.dial()
	_, _ = slow.Write([]byte("P"))
	r.wait("listener."+strings.ReplaceAll(r.addr, ":", "_")+".downstream_pre_cx_active", 1)
	for _, c := range []byte("ING me\r\n") {
		_, _ = slow.Write([]byte{c})
	}
	_ = slow.CloseWrite()
	if p, err := io.ReadAll(slow); err != nil || string(p) != "PING me\r\n" {
		t.Errorf("raw bytes: %q, %v", p, err)
	}
	// A client that ends within what could be a request line.
	if got := exchangeBytes(t, r.dial(), []byte("GET /")); string(got) != "GET /" {
		t.Errorf("an unfinished line: %q", got)
	}
	for name, cluster := range map[string]string{"a.example.com": "named", "example.org": "raw"} {
		before := r.value("cluster." + cluster + ".upstream_cx_total")
		nc := r.dial()
		// The origin is no TLS server: it says the client's own hello back.
		err := stdtls.Client(nc, &stdtls.Config{ServerName: name}).HandshakeContext(t.Context())
		if err == nil {
			t.Error("the handshake works")
		}
		_ = nc.Close()
		r.wait("cluster."+cluster+".upstream_cx_total", before+1)
	}
	for name, want := range map[string]float64{
		"tls_inspector.tls_found": 2, "tls_inspector.sni_found": 2, "tls_inspector.alpn_not_found": 2, "tls_inspector.tls_not_found": 4,
		"http_inspector.http11_found": 1, "http_inspector.http2_found": 1, "http_inspector.http_not_found": 2,
	} {
		if got := r.value(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// TestServerSpeaksFirst: it is heard after the deadline where the protocol is
// unknown, and at once where it isn't.
func TestServerSpeaksFirst(t *testing.T) {
	greeter := func() string { return tcpCluster("raw", "", tcpOrigin(t, say("220 ready"))) }
	named := tcpCluster("named", "", refusing(t))
	listenedTo := func(r *tcpRig) string {
		p, _ := io.ReadAll(r.dial())
		return string(p)
	}
	r := serveTCP(t, sniffing("0.1s", true), greeter(), named)
	if got := listenedTo(r); got != "220 ready" {
		t.Errorf("the client hears %q", got)
	}
	timeouts := "listener." + strings.ReplaceAll(r.addr, ":", "_") + ".downstream_pre_cx_timeout"
	r.wait(timeouts, 1)

	r = serveTCP(t, sniffing("0.1s", false), greeter(), named)
	if got := listenedTo(r); got != "" {
		t.Errorf("the connection should be closed, and the client hears %q", got)
	}
	r.wait("listener."+strings.ReplaceAll(r.addr, ":", "_")+".downstream_pre_cx_timeout", 1)

	// Declared to be TCP: there is no time to wait for.
	r = serveTCP(t, tcpChain(tcpProxy("cluster: raw"))+"listener_filters_timeout: 3600s\n", greeter())
	if got := listenedTo(r); got != "220 ready" {
		t.Errorf("on a port of TCP the client hears %q", got)
	}
}

// TestDisabledPorts: a filter that is disabled for the port isn't waited for.
func TestDisabledPorts(t *testing.T) {
	l := strings.ReplaceAll(sniffing("3600s", true), "Inspector}}", "Inspector}, filter_disabled: {or_match: {rules: [{destination_port_range: {start: 1, end: 65536}}, {not_match: {any_match: true}}]}}}")
	r := serveTCP(t, l, tcpCluster("raw", "", tcpOrigin(t, say("220 ready"))), tcpCluster("named", "", refusing(t)))
	if p, _ := io.ReadAll(r.dial()); string(p) != "220 ready" {
		t.Errorf("the client hears %q", p)
	}
}

func TestNoFilterChainMatch(t *testing.T) {
	l := strings.Replace(tcpChain(tcpProxy("cluster: raw")), "- filters:", "- filter_chain_match: {destination_port: 9}\n  filters:", 1)
	r := serveTCP(t, l, tcpCluster("raw", "", refusing(t)))
	if p, _ := io.ReadAll(r.dial()); len(p) > 0 {
		t.Errorf("the client hears %q", p)
	}
	r.wait("listener."+strings.ReplaceAll(r.addr, ":", "_")+".no_filter_chain_match", 1)
}

// TestBadListeners: what can't be served is refused, by name.
func TestBadListeners(t *testing.T) {
	good := tcpChain(tcpProxy("cluster: c"))
	for name, tc := range map[string]struct{ from, to, want string }{
		"unknown listener filter": {"filter_chains:", "listener_filters: [{name: x}]\nfilter_chains:", `listener_filters[0] (x): type "" is not supported`},
		"no rule":                 {"filter_chains:", "listener_filters: [{name: x, filter_disabled: {}}]\nfilter_chains:", "listener_filters[0].filter_disabled: has no rule"},
		"bad range":               {"- filters:", "- filter_chain_match: {prefix_ranges: [{address_prefix: x}]}\n  filters:", `prefix_ranges[0].address_prefix: "x" is no IP address`},
		"long range":              {"- filters:", "- filter_chain_match: {prefix_ranges: [{address_prefix: 1.1.1.1, prefix_len: 33}]}\n  filters:", "prefix_ranges[0].prefix_len: 33"},
		"source type":             {"- filters:", "- filter_chain_match: {source_type: EXTERNAL}\n  filters:", "filter_chain_match.source_type: is not supported"},
		"weights":                 {"cluster: c", "weighted_clusters: {clusters: [{name: c, weight: 0}]}", "filters[1].weighted_clusters: no cluster has a weight"},
		"no cluster":              {"cluster: c,", "", "filters[1].cluster: or weighted_clusters is required"},
		"no attempt":              {"cluster: c", "cluster: c, max_connect_attempts: 0", "filters[1].max_connect_attempts: must be at least 1"},
		"tunnel":                  {"cluster: c", "cluster: c, tunneling_config: {hostname: x}", "filters[1].tunneling_config: is not supported"},
		"no chain":                {"filter_chains:", "unused:", "filter_chains: there is none"},
	} {
		l := &listenerv3.Listener{}
		text := strings.Replace(good, tc.from, tc.to, 1)
		if before, _, cut := strings.Cut(text, "unused:"); cut {
			text = before
		}
		fromYAML(t, strings.ReplaceAll(text, "LOG", "/dev/null"), l)
		c := NewCompiler(Env{})
		_, err := c.Compile(&Resources{Listeners: []*listenerv3.Listener{l}})
		c.Close()
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}
