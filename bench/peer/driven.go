// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"pillion/bench/proc"
)

// PrepareDriven implements Driven: the bootstrap has the control plane's address
// and the certificates that names of secrets stand for.
func (e envoy) PrepareDriven(tool Tool, dir string, job Job) (Launch, error) {
	admin, err := listenAddr()
	if err != nil {
		return Launch{}, err
	}
	file := filepath.Join(dir, "envoy.yaml")
	if err := render(file, envoyDriven, job, admin); err != nil {
		return Launch{}, err
	}
	return Launch{Addr: job.Plane.Listen, Spec: &proc.Spec{
		Name: e.Name(), Path: tool.Path,
		Args: []string{"-c", file, "--concurrency", strconv.Itoa(job.Workers), "--disable-hot-restart", "--log-level", "error"},
	}}, nil
}

const envoyDriven = `node: {id: sidecar~127.0.0.1~bench.bench~bench.svc.cluster.local, cluster: bench}
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: {{port (index .Listen 0)}}}}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}}]
  cds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s}
  lds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s}
static_resources:
  secrets:
  - name: default
    tls_certificate:
      certificate_chain: {filename: {{.Plane.Certificates.Client.Chain}}}
      private_key: {filename: {{.Plane.Certificates.Client.Key}}}
  - name: ROOTCA
    validation_context:
      trusted_ca: {filename: {{.Plane.Certificates.Client.CA}}}
  clusters:
  - name: xds-grpc
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: xds-grpc
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: {{host .Plane.Addr}}, port_value: {{port .Plane.Addr}}}}}
`

// PrepareDriven implements Driven: ours is told what Istio's webhook tells a
// container. Its Istio metrics are off, since no resource asks for them.
func (p pillion) PrepareDriven(tool Tool, dir string, job Job) (Launch, error) {
	addrs, err := listenAddrs(4)
	if err != nil {
		return Launch{}, err
	}
	port := func(i int) string { return addrs[i][len("127.0.0.1:"):] }
	adminPort, err := strconv.Atoi(port(0))
	if err != nil {
		return Launch{}, err
	}
	statusPort, err := strconv.Atoi(port(1))
	if err != nil {
		return Launch{}, err
	}
	config, err := json.Marshal(map[string]any{
		"discoveryAddress": job.Plane.Addr, "controlPlaneAuthPolicy": "NONE", "proxyAdminPort": adminPort, "statusPort": statusPort,
	})
	if err != nil {
		return Launch{}, fmt.Errorf("PROXY_CONFIG: %w", err)
	}
	// What a pod mounts: the workload's own certificate, so that no CA is asked, and
	// the root of the control plane.
	for _, mount := range []string{"etc/certs", "var/run/secrets/istio"} {
		at := filepath.Join(dir, filepath.FromSlash(mount))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return Launch{}, err
		}
		if err := os.Symlink(job.Plane.Certificates.Client.Dir, at); err != nil {
			return Launch{}, err
		}
	}
	return Launch{Addr: job.Plane.Listen, Spec: &proc.Spec{
		Name: p.Name(), Path: tool.Path, Args: []string{"sidecar", "--root", dir},
		Env: []string{
			"GOMAXPROCS=" + strconv.Itoa(job.Workers), "PROXY_CONFIG=" + string(config),
			"POD_NAME=bench", "POD_NAMESPACE=bench", "INSTANCE_IP=127.0.0.1", "SERVICE_ACCOUNT=default",
			"ENVOY_STATUS_PORT=" + port(2), "ENVOY_PROMETHEUS_PORT=" + port(3),
		},
	}}, nil
}
