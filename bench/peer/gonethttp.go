// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	stdtls "crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	nethttp "net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"pillion/bench/mesh"
	"pillion/bench/pki"
	"pillion/bench/proc"
)

// GoNetHTTPRole is the sub-command of the benchmark's own program that runs
// ServeGoNetHTTP.
const GoNetHTTPRole = "role-go-net-http"

// goNetHTTP is the naive baseline: what a Go programmer writes in an
// afternoon with the standard library.
type goNetHTTP struct{ self string }

func (goNetHTTP) Name() string { return "gonethttp" }
func (goNetHTTP) Summary() string {
	return "the standard library's net/http and httputil.ReverseProxy; the naive baseline"
}

func (p goNetHTTP) Unable(job Job) string {
	if job.Routes > 0 {
		return p.Name() + " matches no paths"
	}
	return ""
}

func (p goNetHTTP) Locate(context.Context, string) (Tool, error) {
	return Tool{Path: p.self, Version: "net/http of " + runtime.Version()}, nil
}

// goNetHTTPConfig is its configuration file.
type goNetHTTPConfig struct {
	Listen  string    `json:"listen"`
	Hosts   []string  `json:"hosts"`
	Origins [2]string `json:"origins"`
	// Idle is how many connections to an origin are kept.
	Idle int `json:"idle"`
	// TCP: bytes are copied to the first origin, and nothing else is done.
	TCP bool `json:"tcp"`
	// TLS is as the job's.
	TLS TLS `json:"tls"`
	// HTTP2 says whether clients and origins speak HTTP/2.
	HTTP2 struct {
		Clients bool `json:"clients"`
		Origins bool `json:"origins"`
	} `json:"http2"`
}

func (p goNetHTTP) Prepare(tool Tool, dir string, job Job) (Launch, error) {
	addr, err := listenAddr()
	if err != nil {
		return Launch{}, err
	}
	c := goNetHTTPConfig{Listen: addr, Origins: job.Origins, Idle: max(job.Connections, 64)}
	c.TCP, c.TLS = job.Downstream == mesh.TCP, job.TLS
	c.HTTP2.Clients, c.HTTP2.Origins = job.Downstream.IsHTTP2(), job.Protocol.IsHTTP2()
	if !job.Subsets {
		c.Origins[1] = c.Origins[0]
	}
	for _, s := range job.Services {
		c.Hosts = append(c.Hosts, s.Authority())
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return Launch{}, err
	}
	file := filepath.Join(dir, "gonethttp.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return Launch{}, err
	}
	return Launch{Addr: addr, Spec: &proc.Spec{
		Name: p.Name(), Path: tool.Path, Args: []string{GoNetHTTPRole, file},
		Env: []string{"GOMAXPROCS=" + strconv.Itoa(job.Workers)},
	}}, nil
}

// ServeGoNetHTTP is the baseline proxy itself. It serves the configuration
// file until ctx ends.
func ServeGoNetHTTP(ctx context.Context, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var c goNetHTTPConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	if c.TCP {
		return serveGoTCP(ctx, ln, c.Origins[0])
	}
	transport, err := goNetHTTPTransport(c)
	if err != nil {
		return err
	}
	if c.TLS.In {
		cfg, err := c.TLS.Certificates.ServerConfig(c.TLS.Group)
		if err != nil {
			return err
		}
		ln = stdtls.NewListener(ln, cfg)
	}
	srv := &nethttp.Server{
		Handler:           goNetHTTPHandler(c, transport),
		Protocols:         protocols(c.HTTP2.Clients),
		ReadHeaderTimeout: 10 * time.Second,
		// Clients that go away in the middle are usual at the end of a load.
		ErrorLog: slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelError),
	}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	if err := srv.Serve(ln); ctx.Err() == nil {
		return err
	}
	return nil
}

// protocols are HTTP/2 by prior knowledge, or HTTP/1.1.
func protocols(http2 bool) *nethttp.Protocols {
	p := &nethttp.Protocols{}
	p.SetHTTP1(!http2)
	p.SetUnencryptedHTTP2(http2)
	return p
}

// goNetHTTPTransport is the way to the origins.
func goNetHTTPTransport(c goNetHTTPConfig) (*nethttp.Transport, error) {
	t := &nethttp.Transport{
		MaxIdleConnsPerHost: c.Idle,
		IdleConnTimeout:     time.Hour,
		Protocols:           protocols(c.HTTP2.Origins),
		DisableCompression:  true, // else it would ask for gzip in the client's name
	}
	if !c.TLS.Out {
		return t, nil
	}
	var err error
	t.TLSClientConfig, err = c.TLS.Certificates.ClientConfig(pki.X25519)
	return t, err
}

// goNetHTTPHandler routes by Host and by the match field.
func goNetHTTPHandler(c goNetHTTPConfig, transport *nethttp.Transport) nethttp.Handler {
	known := make(map[string]bool, len(c.Hosts))
	for _, h := range c.Hosts {
		known[h] = true
	}
	var targets [2]*url.URL
	scheme := "http"
	if c.TLS.Out {
		scheme = "https"
	}
	for i, o := range c.Origins {
		targets[i] = &url.URL{Scheme: scheme, Host: o}
	}
	forward := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			target := targets[0]
			if r.In.Header.Get(mesh.MatchField) == mesh.MatchValue {
				target = targets[1]
			}
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ErrorLog: slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelError),
	}
	return nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if !known[strings.ToLower(r.Host)] {
			nethttp.NotFound(w, r)
			return
		}
		forward.ServeHTTP(w, r)
	})
}
