// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"path/filepath"

	"pillion/bench/mesh"
	"pillion/bench/proc"
)

// nghttpx is nghttp2's own proxy, for HTTP/2 a reference of how cheap it can be.
// It routes by host and path; a header field can't select a subset, so it has
// less to do than the others. It keeps no statistics either.
type nghttpx struct{}

func (nghttpx) Name() string { return "nghttpx" }
func (nghttpx) Summary() string {
	return "nghttpx: HTTP/2 only; routes by host alone, no statistics, no log"
}

func (nghttpx) Unable(job Job) string {
	if job.Downstream == mesh.TCP {
		return "nghttpx proxies no TCP"
	}
	if !job.Downstream.IsHTTP2() && !job.Protocol.IsHTTP2() {
		return "nghttpx is compared for HTTP/2 only"
	}
	return ""
}

func (n nghttpx) Locate(ctx context.Context, _ string) (Tool, error) {
	path, err := find(n.Name(), "NGHTTPX_BIN", "make tools installs it (Debian's package nghttp2-proxy)", "/usr/sbin/nghttpx")
	if err != nil {
		return Tool{}, err
	}
	v, err := firstLine(ctx, path, "--version")
	return Tool{Path: path, Version: v}, err
}

func (n nghttpx) Prepare(tool Tool, dir string, job Job) (Launch, error) {
	addr, err := listenAddr()
	if err != nil {
		return Launch{}, err
	}
	file := filepath.Join(dir, "nghttpx.conf")
	if err := render(file, nghttpxConfig, job, addr); err != nil {
		return Launch{}, err
	}
	return Launch{Addr: addr, HostOnly: true, Spec: &proc.Spec{
		Name: n.Name(), Path: tool.Path, Args: []string{"--conf=" + file}, Dir: dir,
	}}, nil
}

// nghttpxConfig routes all hosts but those of the mesh to nowhere: nghttpx
// insists on a backend for the rest, and the second one refuses.
const nghttpxConfig = `frontend={{comma (index .Listen 0)}};no-tls
workers={{.Workers}}
single-process=yes
errorlog-file=/dev/stderr
log-level=FATAL
no-server-rewrite=yes
no-via=yes
backend-keep-alive-timeout=1h{{if gt .Streams 100}}
frontend-http2-max-concurrent-streams={{.Streams}}
backend-http2-max-concurrent-streams={{.Streams}}{{end}}
frontend-http2-read-timeout=1h
frontend-read-timeout=1h
backend-read-timeout=1h
{{- range .Services}}
backend={{comma (index $.Origins (last $.Subsets))}};{{.Host}}{{if $.Protocol.IsHTTP2}};proto=h2{{end}}
{{- end}}
backend=127.0.0.1,1
`
