// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pillion/test/rig"
	"pillion/test/wire"
)

// call is one gRPC or gRPC-Web call, made through a real Envoy and through the
// proxy. What the service answers stands in the query of its path, see answer.
type call struct {
	name   string
	path   string
	http1  bool // the client speaks HTTP/1.1
	method string
	fields []string // name: value
	body   string

	status int    // HTTP status of the answer
	grpc   string // its grpc-status, wherever it stands
	tries  int    // how many requests the service gets
	// ours is the grpc-status that the proxy gives where it differs from
	// Envoy's on purpose; why says so.
	ours, why string
}

// callLab is a real Envoy and the proxy beside it, before one service that
// speaks HTTP/2 only.
type callLab struct {
	envoy, ours string // addresses of the forward proxies

	mu   sync.Mutex
	seen map[string][]heard // guarded by mu; by x-case
}

// heard is one request as the service got it.
type heard struct {
	line   string
	fields wire.Fields
	body   string
}

func newCallLab(t *testing.T) *callLab {
	t.Helper()
	lab := &callLab{seen: map[string][]heard{}}
	_, origin, _ := strings.Cut(serveHTTP2(t, nethttp.HandlerFunc(lab.answer)), ":")
	_, gone, _ := strings.Cut(rig.FreeAddr(t), ":")
	dir := t.TempDir()
	text := fillText(t, filepath.Join("testdata", "grpc", "services.yaml"), "origin", origin, "gone", gone)
	write(t, filepath.Join(dir, "services.yaml"), text)
	lab.envoy, lab.ours = startBoth(t, dir)
	return lab
}

// serveHTTP2 serves HTTP/2 by prior knowledge until the test ends.
func serveHTTP2(t *testing.T, h nethttp.Handler) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &nethttp.Server{Handler: h, Protocols: onlyHTTP2()}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
	return ln.Addr().String()
}

func onlyHTTP2() *nethttp.Protocols {
	p := &nethttp.Protocols{}
	p.SetUnencryptedHTTP2(true)
	return p
}

// answer is the service. Of the query, "status" is the HTTP status, "ct" the
// content type, "head" a grpc-status in the head, after which nothing comes,
// "trailer" one in the trailers, "body" a body that isn't gRPC's, "fails" how
// many tries fail, and "hang" leaves the caller without an answer.
func (lab *callLab) answer(w nethttp.ResponseWriter, r *nethttp.Request) {
	body, _ := io.ReadAll(r.Body)
	q := r.URL.Query()
	name := r.Header.Get("x-case")
	lab.mu.Lock()
	lab.seen[name] = append(lab.seen[name], heard{r.Method + " " + r.URL.String(), fieldsOf(r.Header), string(body)})
	try := len(lab.seen[name])
	lab.mu.Unlock()

	if q.Has("hang") {
		<-r.Context().Done()
		return
	}
	if fails, err := strconv.Atoi(q.Get("fails")); err == nil && try > fails {
		q.Set("head", "0")
	}
	w.Header().Set("content-type", "application/grpc")
	if q.Has("ct") {
		w.Header().Set("content-type", q.Get("ct"))
	}
	status := nethttp.StatusOK
	if n, err := strconv.Atoi(q.Get("status")); err == nil {
		status = n
	}
	if q.Has("head") {
		w.Header().Set("grpc-status", q.Get("head"))
		w.Header().Set("grpc-message", "only trailers")
		w.WriteHeader(status)
		return
	}
	w.WriteHeader(status)
	if q.Has("body") {
		_, _ = io.WriteString(w, q.Get("body"))
	} else {
		_, _ = io.WriteString(w, "\x00\x00\x00\x00\x05hello")
		w.(nethttp.Flusher).Flush()
		_, _ = io.WriteString(w, "\x00\x00\x00\x00\x01x")
	}
	if q.Has("trailer") {
		w.Header().Set(nethttp.TrailerPrefix+"grpc-status", q.Get("trailer"))
		w.Header().Set(nethttp.TrailerPrefix+"grpc-message", "in trailers")
		w.Header().Set(nethttp.TrailerPrefix+"x-extra", "a b")
	}
}

func fieldsOf(h nethttp.Header) (out wire.Fields) {
	for name, values := range h {
		for _, v := range values {
			out = append(out, wire.Field{Name: strings.ToLower(name), Value: v})
		}
	}
	return out
}

// reply is what a client got.
type reply struct {
	status           int
	fields, trailers wire.Fields
	body             string
	err              error
	seen             []heard
}

// grpc is the status of a reply, wherever it stands; in gRPC-Web that may be
// the body.
func (r reply) grpc() string {
	for _, f := range []wire.Fields{r.trailers, r.fields} {
		if v := f.Get("grpc-status"); v != "" {
			return v
		}
	}
	if _, after, ok := strings.Cut(r.body, "grpc-status:"); ok {
		v, _, _ := strings.Cut(after, "\r\n")
		return v
	}
	return ""
}

// through makes a call through the proxy at addr, on a connection of its own.
func (lab *callLab) through(t *testing.T, addr string, c call) (r reply) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	defer cancel()
	req, err := nethttp.NewRequestWithContext(ctx, c.method, "http://calls"+c.path, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-case", c.name)
	req.Header.Set("user-agent", "test")
	for _, f := range c.fields {
		name, value, _ := strings.Cut(f, ": ")
		req.Header.Set(name, value)
	}
	client := transport(addr, c.http1)
	defer client.CloseIdleConnections()
	resp, err := client.RoundTrip(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	r = reply{status: resp.StatusCode, fields: fieldsOf(resp.Header), trailers: fieldsOf(resp.Trailer), body: string(body), err: err}
	lab.mu.Lock()
	defer lab.mu.Unlock()
	r.seen = lab.seen[c.name]
	delete(lab.seen, c.name)
	return r
}

// transport connects to addr whatever host is asked for.
func transport(addr string, http1 bool) *nethttp.Transport {
	t := &nethttp.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}}
	if !http1 {
		t.Protocols = onlyHTTP2()
	}
	return t
}

// measured are fields that differ between any two exchanges.
var measured = []string{"date", "x-envoy-upstream-service-time", "x-request-id", "connection"}

// describe lists what both proxies have to agree on.
func (r reply) describe(ignore ...string) string {
	var b strings.Builder
	fields := func(what string, list wire.Fields) {
		var lines []string
		for _, f := range list {
			if !slices.Contains(measured, f.Name) && !slices.Contains(ignore, f.Name) {
				lines = append(lines, fmt.Sprintf("%s %s: %s\n", what, f.Name, f.Value))
			}
		}
		slices.Sort(lines)
		b.WriteString(strings.Join(lines, ""))
	}
	fmt.Fprintf(&b, "status %d\n", r.status)
	fields("field", r.fields)
	fmt.Fprintf(&b, "body %q\n", r.body)
	fields("trailer", r.trailers)
	for _, h := range r.seen {
		fmt.Fprintf(&b, "heard %s %q\n", h.line, h.body)
		fields("  field", h.fields)
	}
	return b.String()
}
