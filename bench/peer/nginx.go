// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"

	"pillion/bench/mesh"
	"pillion/bench/pki"
	"pillion/bench/proc"
)

// nginx is set up for speed: connections to the origins kept, no access log,
// bodies passed on as they come.
type nginx struct{}

func (nginx) Name() string { return "nginx" }
func (nginx) Summary() string {
	return "nginx: upstream keepalive, no access log, request bodies unbuffered"
}

func (nginx) Unable(job Job) string {
	switch {
	case job.Protocol == mesh.HTTP2:
		return "nginx speaks HTTP/2 to no upstream but gRPC"
	case job.Protocol == mesh.GRPC && !job.Downstream.IsHTTP2():
		return "nginx takes gRPC from HTTP/2 only"
	case job.TLS.In && job.TLS.Group == pki.X25519MLKEM768:
		return "nginx has no post-quantum key exchange with this OpenSSL"
	}
	return ""
}

func (n nginx) Locate(ctx context.Context, _ string) (Tool, error) {
	path, err := find(n.Name(), "NGINX_BIN", "make tools installs it (Debian's package nginx)", "/usr/sbin/nginx")
	if err != nil {
		return Tool{}, err
	}
	v, err := firstLine(ctx, path, "-v")
	return Tool{Path: path, Version: strings.TrimPrefix(v, "nginx version: ")}, err
}

func (n nginx) Prepare(tool Tool, dir string, job Job) (Launch, error) {
	addr, err := listenAddr()
	if err != nil {
		return Launch{}, err
	}
	file := filepath.Join(dir, "nginx.conf")
	config := nginxConfig
	if job.Downstream == mesh.TCP {
		config = nginxTCP
	}
	if err := render(file, config, job, addr); err != nil {
		return Launch{}, err
	}
	return Launch{Addr: addr, Spec: &proc.Spec{
		Name: n.Name(), Path: tool.Path, Args: nginxArgs(dir, file), Dir: dir,
		// The workers outlive a master that is killed; SIGTERM takes them along.
		DeathSignal: syscall.SIGTERM,
	}}, nil
}

// nginxArgs keep nginx within dir: its prefix, and a first error log that
// isn't the system's.
func nginxArgs(dir, file string) []string {
	args := []string{"-p", dir, "-c", file, "-e", "stderr"}
	// As root its workers would change to a user who can't enter dir.
	if u, err := user.Current(); err == nil && u.Uid == "0" {
		args = append(args, "-g", "user "+u.Username+";")
	}
	return args
}

const nginxConfig = `daemon off;
pid nginx.pid;
error_log stderr crit;
worker_processes {{.Workers}};
events {
    worker_connections {{add .Connections .Connections 512}};
}
http {
    access_log off;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;{{if gt .Streams 100}}
    http2_max_concurrent_streams {{.Streams}};{{end}}
    client_max_body_size 0;
    client_body_temp_path body;{{if .Big}}
    client_body_buffer_size 256k;
    proxy_buffer_size 256k;
    proxy_buffers 8 256k;{{end}}
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;

    map_hash_max_size 65536;
    map_hash_bucket_size 128;
    map $host $service {
{{- range .Services}}
        {{.Host}} {{.Name}};
{{- end}}
    }
    map $http_{{underscored .MatchField}} $subset {
        default v1;
{{- if .Subsets}}
        {{.MatchValue}} v2;
{{- end}}
    }
{{- range .Services}}
    upstream {{.Name}}-v1 { server {{index $.Origins 0}}; keepalive {{$.Keep}}; keepalive_requests 1000000000; keepalive_timeout 1h; }
{{- if $.Subsets}}
    upstream {{.Name}}-v2 { server {{index $.Origins 1}}; keepalive {{$.Keep}}; keepalive_requests 1000000000; keepalive_timeout 1h; }
{{- end}}
{{- end}}
    server {
        listen {{index .Listen 0}} backlog=4096{{if .Downstream.IsHTTP2}} http2{{end}}{{if .TLS.In}} ssl{{end}};
{{- with .TLS}}{{if .In}}
        ssl_certificate {{.Certificates.Server.Chain}};
        ssl_certificate_key {{.Certificates.Server.Key}};
        ssl_client_certificate {{.Certificates.Server.CA}};
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        ssl_ecdh_curve {{.Group}};
        ssl_conf_command Ciphersuites {{$.Suite}};
{{- end}}{{end}}
{{- range .Prefixes}}
        location {{.}} {
            proxy_pass http://$service-v1;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }
{{- end}}
        location / {
{{- if .Protocol.IsHTTP2}}
            grpc_pass grpc://$service-$subset;
            grpc_set_header Host $http_host;
            grpc_read_timeout 1h;
            grpc_send_timeout 1h;
{{- else}}
            proxy_pass http{{if .TLS.Out}}s{{end}}://$service-$subset;
{{- with .TLS}}{{if .Out}}
            proxy_ssl_certificate {{.Certificates.Client.Chain}};
            proxy_ssl_certificate_key {{.Certificates.Client.Key}};
            proxy_ssl_trusted_certificate {{.Certificates.Client.CA}};
            proxy_ssl_verify on;
            proxy_ssl_name {{.Certificates.Server.Host}};
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_conf_command Ciphersuites {{$.Suite}};
{{- end}}{{end}}
            proxy_http_version 1.1;
{{- if .Downstream.IsUpgrade}}
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
{{- else}}
            proxy_set_header Connection "";
{{- end}}
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
            proxy_read_timeout 1h;
{{- end}}
        }
    }
}
`
