// SPDX-License-Identifier: Apache-2.0

package peer

// The configurations for TCP: one listener, one cluster with one endpoint, no
// routing. Buffers are as large as each one's documentation advises.

// envoyTCP has the cluster that istiod makes, with its limits.
const envoyTCP = `admin:
  address: {socket_address: {address: 127.0.0.1, port_value: {{port (index .Listen 1)}}}}
static_resources:
  listeners:
  - name: tcp
    address: {socket_address: {address: 127.0.0.1, port_value: {{port (index .Listen 0)}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: tcp
  clusters:
  - name: tcp
    type: STATIC
    connect_timeout: 10s
    lb_policy: LEAST_REQUEST
    circuit_breakers:
      thresholds: [{max_connections: {{.Limit}}, max_pending_requests: {{.Limit}}, max_requests: {{.Limit}}, max_retries: 4294967295}]
    outlier_detection: {interval: 10s, base_ejection_time: 30s, max_ejection_percent: 50, enforcing_success_rate: 0}
    load_assignment:
      cluster_name: tcp
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: {{host (index .Origins 0)}}, port_value: {{port (index .Origins 0)}}}}}
`

// haproxyTCP splices, so that bytes needn't pass through its memory, through
// pipes of the largest size that an unprivileged program may ask for: at many
// bytes that halves its cost. Small messages would be a fifth cheaper without.
const haproxyTCP = `global
    nbthread {{.Workers}}
    maxconn {{add .Connections 512}}
    tune.pipesize 1048576

defaults
    mode tcp
    option splice-request
    option splice-response
    timeout connect 10s
    timeout client 1h
    timeout server 1h

listen tcp
    bind {{index .Listen 0}}
    server v1 {{index .Origins 0}}
`

// nginxTCP may need its stream module loaded.
const nginxTCP = `{{with .StreamModule}}load_module {{.}};
{{end}}daemon off;
pid nginx.pid;
error_log stderr crit;
worker_processes {{.Workers}};
events {
    worker_connections {{add .Connections .Connections 512}};
}
stream {
    access_log off;
    server {
        listen {{index .Listen 0}} backlog=4096;
        proxy_pass {{index .Origins 0}};
        proxy_timeout 1h;
        proxy_buffer_size 256k;
        tcp_nodelay on;
    }
}
`
