// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"os"
	"path/filepath"
	"strconv"

	"pillion/bench/mesh"
	"pillion/bench/proc"
)

// envoy is the reference: a static bootstrap with the clusters, routes, circuit
// breakers and outlier detection that the mesh asks for, and its statistics on,
// as they are by default. It has no access log, none of Istio's own filters, no tracing
// that the job doesn't ask for, and no retry policy, which would make it keep request
// bodies: it carries less than an istio-proxy does.
type envoy struct{}

func (envoy) Name() string { return "envoy" }
func (envoy) Summary() string {
	return "Envoy: static bootstrap, breakers, outlier detection and statistics on, no access log"
}

func (envoy) Unable(Job) string { return "" }

// SendsSpans implements Tracing.
func (envoy) SendsSpans() {}

func (e envoy) Locate(ctx context.Context, _ string) (Tool, error) {
	var cached []string
	if dir, err := os.UserCacheDir(); err == nil {
		cached = []string{filepath.Join(dir, "pillion", "tools", "bin", "envoy")}
	}
	path, err := find(e.Name(), "ENVOY_BIN", "make tools installs it", cached...)
	if err != nil {
		return Tool{}, err
	}
	v, err := firstLine(ctx, path, "--version")
	return Tool{Path: path, Version: envoyVersion(v)}, err
}

func (e envoy) Prepare(tool Tool, dir string, job Job) (Launch, error) {
	addrs, err := listenAddrs(2)
	if err != nil {
		return Launch{}, err
	}
	file := filepath.Join(dir, "envoy.yaml")
	bootstrap := envoyBootstrap
	if job.Downstream == mesh.TCP {
		bootstrap = envoyTCP
	}
	if err := render(file, bootstrap, job, addrs...); err != nil {
		return Launch{}, err
	}
	return Launch{Addr: addrs[0], Spec: &proc.Spec{
		Name: e.Name(), Path: tool.Path,
		Args: []string{"-c", file, "--concurrency", strconv.Itoa(job.Workers), "--disable-hot-restart", "--log-level", "error"},
	}}, nil
}

// envoyBootstrap has for each service the clusters that istiod makes: one of
// the whole service and, if it has subsets, one for each, with istiod's names.
const envoyBootstrap = `admin:
  address: {socket_address: {address: 127.0.0.1, port_value: {{port (index .Listen 1)}}}}
static_resources:
  listeners:
  - name: mesh
    address: {socket_address: {address: 127.0.0.1, port_value: {{port (index .Listen 0)}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: mesh
          codec_type: {{if .Downstream.IsHTTP2}}AUTO{{else}}HTTP1{{end}}
{{- if .Traced}}
          tracing:
            random_sampling: {value: {{.Traced}}}
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                service_name: bench
                http_service: {http_uri: {uri: "http://collector.bench:4318/v1/traces", cluster: collector, timeout: 5s}}
{{- end}}
{{- if .Downstream.IsUpgrade}}
          upgrade_configs: [{upgrade_type: websocket}]
{{- end}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            name: mesh
            virtual_hosts:
{{- range .Services}}
            - name: {{.Host}}:{{$.Port}}
              domains: ["{{.Host}}", "{{.Host}}:{{$.Port}}"]
              routes:
{{- if $.Subsets}}
{{- $host := .Host}}
{{- range $.Prefixes}}
              - match: {prefix: {{.}}}
                route: {cluster: "outbound|{{$.Port}}|v1|{{$host}}", timeout: 0s}
{{- end}}
              - match:
                  prefix: /
                  headers: [{name: {{$.MatchField}}, string_match: {exact: {{$.MatchValue}}}}]
                route: {cluster: "outbound|{{$.Port}}|v2|{{.Host}}", timeout: 0s}
              - match: {prefix: /}
                route: {cluster: "outbound|{{$.Port}}|v1|{{.Host}}", timeout: 0s}
{{- else}}
              - match: {prefix: /}
                route: {cluster: "outbound|{{$.Port}}||{{.Host}}", timeout: 0s}
{{- end}}
{{- end}}
{{- if .TLS.In}}
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [{{.TLS.Group}}]}
            tls_certificates:
            - {certificate_chain: {filename: {{.TLS.Certificates.Server.Chain}}}, private_key: {filename: {{.TLS.Certificates.Server.Key}}}}
            validation_context:
              trusted_ca: {filename: {{.TLS.Certificates.Server.CA}}}
              match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: "spiffe://{{.TrustDomain}}/"}}]
{{- end}}
  clusters:
{{- if .Traced}}
  - name: collector
    type: STATIC
    load_assignment:
      cluster_name: collector
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: {{host (index .Origins 0)}}, port_value: {{port (index .Origins 0)}}}}}
{{- end}}
{{- range .Services}}
{{- if $.Subsets}}
{{- template "cluster" (cluster $ . "" 0 1)}}
{{- template "cluster" (cluster $ . "v1" 0)}}
{{- template "cluster" (cluster $ . "v2" 1)}}
{{- else}}
{{- template "cluster" (cluster $ . "" 0)}}
{{- end}}
{{- end}}
{{- define "cluster"}}
  - name: "outbound|{{.Port}}|{{.Subset}}|{{.Host}}"
    type: STATIC
    connect_timeout: 10s
    lb_policy: LEAST_REQUEST
    circuit_breakers:
      thresholds: [{max_connections: {{.Limit}}, max_pending_requests: {{.Limit}}, max_requests: {{.Limit}}, max_retries: 4294967295}]
    outlier_detection:
      consecutive_5xx: 5
      interval: 10s
      base_ejection_time: 30s
      max_ejection_percent: 50
      enforcing_success_rate: 0
{{- if .Protocol.IsHTTP2}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
{{- end}}
{{- if .TLS.Out}}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {{.TLS.Certificates.Server.Host}}
        common_tls_context:
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
          tls_certificates:
          - {certificate_chain: {filename: {{.TLS.Certificates.Client.Chain}}}, private_key: {filename: {{.TLS.Certificates.Client.Key}}}}
          validation_context:
            trusted_ca: {filename: {{.TLS.Certificates.Client.CA}}}
            match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "{{.TLS.Certificates.Server.ID}}"}}]
{{- end}}
    load_assignment:
      cluster_name: "outbound|{{.Port}}|{{.Subset}}|{{.Host}}"
      endpoints:
      - lb_endpoints:
{{- range .Ends}}
        - endpoint: {address: {socket_address: {address: {{host .}}, port_value: {{port .}}}}}
{{- end}}
{{- end}}
`
