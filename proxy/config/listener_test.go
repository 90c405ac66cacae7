// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	// The test reads these from YAML.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/http/header_formatters/preserve_case/v3"

	"pillion/proxy/accesslog"
	"pillion/proxy/http"
	"pillion/proxy/listener"
)

// compileListenerYAML compiles a listener l with one chain and more fields.
func compileListenerYAML(t *testing.T, env Env, more string) (*Listener, *Snapshot, error) {
	t.Helper()
	l := &listenerv3.Listener{}
	fromYAML(t, "name: l\n"+more+`
filter_chains: [{filter_chain_match: {destination_port: 9080}, filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: p, cluster: c}}]}]`, l)
	c := NewCompiler(env)
	t.Cleanup(c.Close)
	snap, err := c.Compile(&Resources{Listeners: []*listenerv3.Listener{l}})
	if err != nil {
		return nil, nil, err
	}
	return snap.Listeners["l"], snap, nil
}

const somewhere = "address: {socket_address: {address: 0.0.0.0, port_value: 15001}}\n"

// TestListenerPlaces: where a listener is found, and by whom.
func TestListenerPlaces(t *testing.T) {
	const original = `listener_filters: [{name: o, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}]`
	for _, c := range []struct {
		yaml, addr                  string
		more                        []string
		unbound, redirected, handOf bool
	}{
		{yaml: somewhere, addr: "0.0.0.0:15001"},
		{yaml: somewhere + "bind_to_port: true", addr: "0.0.0.0:15001"},
		{yaml: somewhere + "bind_to_port: false", addr: "0.0.0.0:15001", unbound: true},
		{yaml: somewhere + "use_original_dst: true", addr: "0.0.0.0:15001", redirected: true, handOf: true},
		{yaml: somewhere + "use_original_dst: false", addr: "0.0.0.0:15001"},
		{yaml: somewhere + original, addr: "0.0.0.0:15001", redirected: true},
		{yaml: `address: {socket_address: {address: "::", port_value: 80}}`, addr: "[::]:80"},
		{yaml: `address: {socket_address: {address: "::", port_value: 80, ipv4_compat: true}}`, addr: ":80"},
		{yaml: somewhere + `additional_addresses: [{address: {socket_address: {address: "::", port_value: 15001}}}]`, addr: "0.0.0.0:15001", more: []string{"[::]:15001"}},
	} {
		l, _, err := compileListenerYAML(t, Env{}, c.yaml)
		if err != nil {
			t.Errorf("%s: %v", c.yaml, err)
			continue
		}
		if l.Address != c.addr || !slices.Equal(l.Additional, c.more) || l.Unbound != c.unbound || l.Redirected != c.redirected || l.HandOff != c.handOf {
			t.Errorf("%s\n\tis at %s and %v, unbound %t, redirected %t, hands off %t", c.yaml, l.Address, l.Additional, l.Unbound, l.Redirected, l.HandOff)
		}
	}
}

// TestListenerRefuses names what can't be served as it says.
func TestListenerRefuses(t *testing.T) {
	const filter = `listener_filters: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.`
	for yaml, want := range map[string]string{
		"":                            "address: only a socket_address is supported",
		"address: {pipe: {path: /x}}": "address: only a socket_address is supported",
		"address: {socket_address: {address: 0.0.0.0, port_value: 65536}}":                 "address: socket_address.port_value: 65536 is no port",
		"address: {socket_address: {address: 0.0.0.0, named_port: http}}":                  "address: socket_address.named_port: is not supported",
		"address: {socket_address: {address: 0.0.0.0, port_value: 1, protocol: UDP}}":      "address: socket_address.protocol: only TCP is supported",
		"address: {socket_address: {address: a, port_value: 1, resolver_name: x}}":         "address: socket_address.resolver_name: is not supported",
		somewhere + "transparent: true":                                                    "transparent: is not supported",
		somewhere + "freebind: true":                                                       "freebind: is not supported",
		somewhere + "internal_listener: {}":                                                "internal_listener: is not supported",
		somewhere + "filter_chain_matcher: {}":                                             "filter_chain_matcher: is not supported",
		somewhere + "listener_filters_timeout: -1s":                                        "listener_filters_timeout: must not be negative",
		somewhere + "additional_addresses: [{}]":                                           "additional_addresses[0].address: only a socket_address is supported",
		somewhere + "additional_addresses: [{socket_options: {}}]":                         "additional_addresses[0].socket_options: is not supported",
		somewhere + filter + "proxy_protocol.v3.ProxyProtocol}}]":                          `listener_filters[0] (f): type "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol" is not supported`,
		somewhere + filter + "tls_inspector.v3.TlsInspector}, filter_disabled: {}}]":       "listener_filters[0].filter_disabled: has no rule",
		somewhere + "access_log: [{name: f, filter: {}, typed_config: {\"@type\": FILE}}]": "access_log[0].typed_config: path: ",
		somewhere + "listener_filters: [{name: f}]":                                        `listener_filters[0] (f): type "" is not supported`,
		somewhere + "default_filter_chain: {filters: [{name: x}]}":                         "default_filter_chain.filters[0].typed_config: the last filter must be",
	} {
		yaml = strings.Replace(yaml, "FILE", "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", 1)
		_, _, err := compileListenerYAML(t, Env{}, yaml)
		if want = "listener l: " + want; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s\n\tgave %v, want %s", yaml, err, want)
		}
	}
}

// TestListenerLogs: a connection that no chain is for is logged as Envoy logs it.
func TestListenerLogs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	file := `typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: ` + path + `,
    log_format: {text_format_source: {inline_string: "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %RESPONSE_CODE% %DOWNSTREAM_LOCAL_ADDRESS%\n"}}}`
	sinks := accesslog.NewSinks(nil)
	l, snap, err := compileListenerYAML(t, Env{Sinks: sinks}, somewhere+`access_log:
- {name: f, filter: {response_flag_filter: {flags: [NR]}}, `+file+`}
- {name: other, filter: {response_flag_filter: {flags: [UH]}}, `+file+`}
- {name: grpc, typed_config: {"@type": type.googleapis.com/google.protobuf.Empty}}`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"access_log: google.protobuf.Empty is not supported, nothing is logged there"}
	if !slices.Equal(snap.Warnings, want) {
		t.Errorf("warnings are %q, want %q", snap.Warnings, want)
	}
	client, server := net.Pipe()
	defer client.Close()
	none, err := listener.NewMatcher(nil)
	if err != nil {
		t.Fatal(err)
	}
	logged := accesslog.Connections{Logs: l.AccessLogs, Next: &listener.Switch{Matcher: none, Stats: new(listener.SwitchStats)}}
	logged.Serve(server, &http.ConnInfo{Local: "127.0.0.1:15001", OriginalDst: "10.0.0.1:80"}).Run()
	if err := sinks.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "NR filter_chain_not_found 0 10.0.0.1:80\n"; string(got) != want {
		t.Errorf("the log is %q, want %q", got, want)
	}
	if l, _, err := compileListenerYAML(t, Env{}, somewhere); err != nil || l.AccessLogs != nil {
		t.Errorf("without logs: %v, %v", l, err)
	}
}

// TestManagerRefuses: what a connection manager asks for within messages of its own is
// done or refused, too.
func TestManagerRefuses(t *testing.T) {
	compile := func(fields string) (*Snapshot, error) {
		l := &listenerv3.Listener{}
		fromYAML(t, "name: l\n"+somewhere+`
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: p
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
      route_config: {virtual_hosts: [{name: v, domains: ["*"]}]}
`, l)
		mergeHCM(t, l, fields)
		c := NewCompiler(Env{})
		defer c.Close()
		return c.Compile(&Resources{Listeners: []*listenerv3.Listener{l}})
	}
	const types = `{"@type": type.googleapis.com/envoy.extensions.`
	for fields, want := range map[string]string{
		"{common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}}":                                         "common_http_protocol_options.headers_with_underscores_action: is not supported",
		"{common_http_protocol_options: {max_stream_duration: 1s}}":                                                                 "common_http_protocol_options.max_stream_duration: is not supported",
		"{common_http_protocol_options: {max_connection_duration: 1s}}":                                                             "common_http_protocol_options.max_connection_duration: is not supported",
		"{http_protocol_options: {default_host_for_http_10: a}}":                                                                    "http_protocol_options.default_host_for_http_10: is not supported",
		"{http_protocol_options: {header_key_format: {proper_case_words: {}}}}":                                                     "http_protocol_options.header_key_format: only ",
		"{request_id_extension: {typed_config: " + types + "http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig}}}": "request_id_extension.typed_config.",
	} {
		_, err := compile(fields)
		if want = "listener l: filter_chains[0].filters[0]." + want; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s\n\tgave %v, want %s", fields, err, want)
		}
	}
	for _, fields := range []string{
		"{http_protocol_options: {header_key_format: {stateful_formatter: {name: p, typed_config: " + types + "http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig}}}}}",
		"{request_id_extension: {typed_config: " + types + "request_id.uuid.v3.UuidRequestIdConfig, pack_trace_reason: false}}}",
		"{common_http_protocol_options: {idle_timeout: 1s, max_requests_per_connection: 5}, http_protocol_options: {accept_http_10: true}}",
	} {
		if snap, err := compile(fields); err != nil || len(snap.Warnings) > 0 {
			t.Errorf("%s: %v", fields, err)
		}
	}
}
