// SPDX-License-Identifier: Apache-2.0

// Package demo is a small mesh to try the proxy on: the bookinfo workloads
// productpage → reviews v1, v2, v3 → ratings, run in process on free ports,
// with the resources that describe them as files to edit.
package demo

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	nethttp "net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

//go:embed mesh/*.yaml
var meshFiles embed.FS

// Mesh is a running set of workloads. Make it with Start.
type Mesh struct {
	servers []*nethttp.Server
	ports   map[string]int // by workload name
	proxy   atomic.Pointer[url.URL]
	failing atomic.Bool // reviews v1-b answers 500
}

// workload is one in-process server.
type workload struct {
	name, app, version string
	answer             func(m *Mesh, w nethttp.ResponseWriter, r *nethttp.Request)
}

var workloads = []workload{
	{"productpage-v1", "productpage", "v1", (*Mesh).productpage},
	{"reviews-v1-a", "reviews", "v1", reviews("reviews-v1-a", "v1", "")},
	{"reviews-v1-b", "reviews", "v1", reviews("reviews-v1-b", "v1", "")},
	{"reviews-v2", "reviews", "v2", reviews("reviews-v2", "v2", "black")},
	{"reviews-v3", "reviews", "v3", reviews("reviews-v3", "v3", "red")},
	{"ratings-v1", "ratings", "v1", (*Mesh).ratings},
}

// Start runs the workloads on free loopback ports.
func Start() (*Mesh, error) {
	m := &Mesh{ports: map[string]int{}}
	for _, w := range workloads {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			m.Close()
			return nil, fmt.Errorf("workload %s: %w", w.name, err)
		}
		m.ports[w.name] = ln.Addr().(*net.TCPAddr).Port
		srv := &nethttp.Server{
			Handler:           nethttp.HandlerFunc(func(rw nethttp.ResponseWriter, r *nethttp.Request) { w.answer(m, rw, r) }),
			ReadHeaderTimeout: 10 * time.Second,
		}
		m.servers = append(m.servers, srv)
		go func() { _ = srv.Serve(ln) }()
	}
	return m, nil
}

// UseProxy makes the workloads call each other through the proxy at addr.
func (m *Mesh) UseProxy(addr string) {
	m.proxy.Store(&url.URL{Scheme: "http", Host: addr})
}

// Close stops the workloads.
func (m *Mesh) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, s := range m.servers {
		_ = s.Shutdown(ctx)
	}
}

// WriteFiles writes the mesh's resources into dir, with the ports that the
// workloads got. Files that are there already are left alone.
func (m *Mesh) WriteFiles(dir string) error {
	return fs.WalkDir(meshFiles, "mesh", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := meshFiles.ReadFile(path)
		if err != nil {
			return err
		}
		out := string(text)
		for name, port := range m.ports {
			out = strings.ReplaceAll(out, "${"+name+"}", fmt.Sprint(port))
		}
		f, err := os.OpenFile(filepath.Join(dir, filepath.Base(path)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: choose an empty directory", err)
		}
		if err != nil {
			return err
		}
		_, err = io.WriteString(f, out)
		return errors.Join(err, f.Close())
	})
}

// call gets a URL of another service through the proxy, and passes on the
// fields by which a request is recognised on its way.
func (m *Mesh) call(r *nethttp.Request, target string) (any, int) {
	proxy := m.proxy.Load()
	if proxy == nil {
		return "the proxy isn't running yet", nethttp.StatusServiceUnavailable
	}
	req, err := nethttp.NewRequestWithContext(r.Context(), nethttp.MethodGet, target, nil)
	if err != nil {
		return err.Error(), nethttp.StatusInternalServerError
	}
	for _, name := range []string{"End-User", "X-Request-Id"} {
		if v := r.Header.Get(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	client := nethttp.Client{Transport: &nethttp.Transport{Proxy: nethttp.ProxyURL(proxy), DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err.Error(), nethttp.StatusBadGateway
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err.Error(), nethttp.StatusBadGateway
	}
	if json.Valid(body) {
		return json.RawMessage(body), resp.StatusCode
	}
	return strings.TrimSpace(string(body)), resp.StatusCode
}

func (m *Mesh) productpage(w nethttp.ResponseWriter, r *nethttp.Request) {
	reviews, status := m.call(r, "http://reviews:9080/reviews/1")
	reply(w, nethttp.StatusOK, map[string]any{
		"page": "The Comedy of Errors", "reviews": reviews, "reviewsStatus": status,
	})
}

// reviews makes the handler of one version; stars is the colour of its stars,
// empty for a version that shows none.
func reviews(name, version, stars string) func(m *Mesh, w nethttp.ResponseWriter, r *nethttp.Request) {
	return func(m *Mesh, w nethttp.ResponseWriter, r *nethttp.Request) {
		if name == "reviews-v1-b" && m.toggled(r) {
			nethttp.Error(w, "broken on purpose", nethttp.StatusInternalServerError)
			return
		}
		out := map[string]any{"podname": name, "version": version, "review": "An extremely entertaining play."}
		if stars != "" {
			rating, status := m.call(r, "http://ratings:9080/ratings/1")
			out["stars"], out["rating"], out["ratingStatus"] = stars, rating, status
		}
		reply(w, nethttp.StatusOK, out)
	}
}

// toggled switches the failing of reviews-v1-b by /break and /mend, and
// reports whether it fails.
func (m *Mesh) toggled(r *nethttp.Request) bool {
	switch r.URL.Path {
	case "/break":
		m.failing.Store(true)
	case "/mend":
		m.failing.Store(false)
	}
	return m.failing.Load()
}

func (m *Mesh) ratings(w nethttp.ResponseWriter, _ *nethttp.Request) {
	reply(w, nethttp.StatusOK, map[string]any{"stars": 4})
}

func reply(w nethttp.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// Port returns the port of a workload, 0 if there is none of that name.
func (m *Mesh) Port(name string) int { return m.ports[name] }
