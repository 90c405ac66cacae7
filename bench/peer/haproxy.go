// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"path/filepath"

	"pillion/bench/mesh"
	"pillion/bench/pki"
	"pillion/bench/proc"
)

// haproxy is the fastest of the peers; set up for speed: every connection to
// an origin shared among all clients and kept, no log, no health check. By
// default it would close idle connections to origins once a quarter of its
// descriptors is in use, which at many clients means one for each request.
type haproxy struct{}

func (haproxy) Name() string { return "haproxy" }
func (haproxy) Summary() string {
	return "HAProxy: http-reuse always, hosts in a map, no log, no health checks"
}

func (haproxy) Unable(job Job) string {
	if job.TLS.In && job.TLS.Group == pki.X25519MLKEM768 {
		return "haproxy has no post-quantum key exchange with this OpenSSL"
	}
	return ""
}

func (h haproxy) Locate(ctx context.Context, _ string) (Tool, error) {
	path, err := find(h.Name(), "HAPROXY_BIN", "make tools installs it (Debian's package haproxy)", "/usr/sbin/haproxy")
	if err != nil {
		return Tool{}, err
	}
	v, err := firstLine(ctx, path, "-v")
	return Tool{Path: path, Version: haproxyVersion(v)}, err
}

func (h haproxy) Prepare(tool Tool, dir string, job Job) (Launch, error) {
	addr, err := listenAddr()
	if err != nil {
		return Launch{}, err
	}
	// haproxy reads the map by the path that the configuration gives.
	if err := render(filepath.Join(dir, "hosts.map"), haproxyMap, job); err != nil {
		return Launch{}, err
	}
	if err := render(filepath.Join(dir, "prefixes.lst"), haproxyPrefixes, job); err != nil {
		return Launch{}, err
	}
	file := filepath.Join(dir, "haproxy.cfg")
	config := haproxyConfig
	if job.Downstream == mesh.TCP {
		config = haproxyTCP
	}
	if err := render(file, config, job, addr); err != nil {
		return Launch{}, err
	}
	return Launch{Addr: addr, Spec: &proc.Spec{
		Name: h.Name(), Path: tool.Path, Args: []string{"-db", "-q", "-f", file}, Dir: dir,
	}}, nil
}

const haproxyMap = `{{range .Services -}}
{{.Host}} {{.Name}}
{{.Host}}:{{$.Port}} {{.Name}}
{{end}}`

// haproxyPrefixes is a file of patterns, which haproxy makes a tree of.
const haproxyPrefixes = `{{range .Prefixes -}}
{{.}}
{{end}}`

const haproxyConfig = `global
    nbthread {{.Workers}}
    maxconn {{add .Connections 512}}
    tune.pool-low-fd-ratio 100
    tune.pool-high-fd-ratio 100{{if .Big}}
    maxpipes {{add .Connections .Connections}}
    tune.pipesize 262144{{end}}{{if gt .Streams 100}}
    tune.h2.max-concurrent-streams {{.Streams}}{{end}}{{if .TLS.On}}
    ssl-default-bind-ciphersuites {{.Suite}}
    ssl-default-server-ciphersuites {{.Suite}}{{end}}

defaults
    mode http
    http-reuse always{{if .Big}}
    option splice-request
    option splice-response{{end}}
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    timeout http-request 10s
    timeout http-keep-alive 1h

frontend mesh
    bind {{index .Listen 0}}{{if .Downstream.IsHTTP2}} proto h2{{end}}{{with .TLS}}{{if .In}} ssl ssl-min-ver TLSv1.3 curves {{.Group}} crt {{.Certificates.Server.Both}} ca-file {{.Certificates.Server.CA}} verify required{{end}}{{end}}
{{- if .Routes}}
    use_backend %[req.hdr(host),lower,map_str(hosts.map)]-v1 if { path -m beg -f prefixes.lst }
{{- end}}
{{- if .Subsets}}
    use_backend %[req.hdr(host),lower,map_str(hosts.map)]-v2 if { req.hdr({{.MatchField}}) -m str {{.MatchValue}} }
{{- end}}
    use_backend %[req.hdr(host),lower,map_str(hosts.map)]-v1
{{range .Services}}
backend {{.Name}}-v1
    server v1 {{index $.Origins 0}}{{if $.Protocol.IsHTTP2}} proto h2{{end}}{{template "tls" $}}
{{- if $.Subsets}}
backend {{.Name}}-v2
    server v2 {{index $.Origins 1}}{{if $.Protocol.IsHTTP2}} proto h2{{end}}{{template "tls" $}}
{{- end}}
{{end}}
{{- define "tls"}}{{with .TLS}}{{if .Out}} ssl ssl-min-ver TLSv1.3 crt {{.Certificates.Client.Both}} ca-file {{.Certificates.Client.CA}} verify required verifyhost {{.Certificates.Server.Host}}{{end}}{{end}}{{end}}`
