// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// caseOf returns the case that a path belongs to.
func (lab *authzLab) caseOf(path string) (name string, c *authzCase) {
	for piece := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		piece, _, _ = strings.Cut(piece, "?")
		if c := lab.cases[piece]; c != nil {
			return piece, c
		}
	}
	return "", nil
}

// describe is a request as text: its line, its fields in order of their names,
// its body.
func describe(r *nethttp.Request) string {
	body, _ := io.ReadAll(r.Body)
	lines := []string{r.Method + " " + r.URL.RequestURI() + " host " + r.Host}
	for name, values := range r.Header {
		if name == "X-Request-Id" {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: %q", strings.ToLower(name), values))
	}
	slices.Sort(lines[1:])
	return strings.Join(append(lines, fmt.Sprintf("length %d te %v body %q", r.ContentLength, r.TransferEncoding, body)), "\n")
}

func (lab *authzLab) note(where map[string][]string, name, text string) {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	where[name] = append(where[name], text)
}

func (lab *authzLab) origin() string {
	return serveHTTP1(lab.t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		name, _ := lab.caseOf(r.URL.Path)
		if name == "" {
			name, _ = lab.caseOf(r.Header.Get("x-case"))
		}
		lab.note(lab.seen, name, describe(r))
		w.Header().Set("x-up", "first")
		w.Header().Set("server", "origin")
		_, _ = io.WriteString(w, "hello")
	})
}

func serveHTTP1(t *testing.T, h nethttp.HandlerFunc) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &nethttp.Server{Handler: h}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return ln.Addr().String()
}

func (lab *authzLab) webServer() string {
	return serveHTTP1(lab.t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		name, c := lab.caseOf(r.URL.Path)
		lab.note(lab.asked, name, describe(r))
		switch {
		case c == nil || c.web == nil:
			w.WriteHeader(599)
			return
		case c.web.hang:
			<-r.Context().Done()
			return
		case c.web.raw != "":
			nc, _, err := nethttp.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(nc, c.web.raw)
				_ = nc.Close()
			}
			return
		}
		for _, f := range c.web.fields {
			k, v, _ := strings.Cut(f, ": ")
			w.Header().Add(k, v)
		}
		w.WriteHeader(c.web.status)
		_, _ = io.WriteString(w, c.web.body)
	})
}

type grpcAuthz struct {
	authv3.UnimplementedAuthorizationServer
	lab *authzLab
}

func (g grpcAuthz) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	name, c := g.lab.caseOf(r.GetAttributes().GetRequest().GetHttp().GetPath())
	md, _ := metadata.FromIncomingContext(ctx)
	if c != nil {
		g.lab.note(g.lab.asked, name, describeMetadata(md, c)+"\n"+describeCheck(r))
	}
	switch {
	case c == nil:
		return nil, fmt.Errorf("no case")
	case c.fail == context.DeadlineExceeded:
		<-ctx.Done()
		return nil, ctx.Err()
	case c.fail != nil:
		return nil, c.fail
	}
	return c.grpc, nil
}

// describeMetadata is the fields of a call as text.
func describeMetadata(md metadata.MD, c *authzCase) string {
	var lines []string
	for name, values := range md {
		if name == "x-forwarded-for" {
			continue // Envoy's own address, which tells the server nothing
		}
		lines = append(lines, fmt.Sprintf("%s: %q", name, values))
	}
	slices.Sort(lines)
	return c.name + " " + strings.Join(lines, ", ")
}

// describeCheck is a CheckRequest as text, without what differs each time.
func describeCheck(r *authv3.CheckRequest) string {
	m := proto.Clone(r).(*authv3.CheckRequest)
	a := m.GetAttributes()
	h := a.GetRequest().GetHttp()
	if h.GetId() == "" || a.GetRequest().GetTime().AsTime().Before(time.Now().Add(-time.Minute)) {
		return "no id or an old time"
	}
	h.Id, a.Request.Time = "", nil
	delete(h.GetHeaders(), "x-request-id")
	if h.HeaderMap != nil {
		h.HeaderMap.Headers = slices.DeleteFunc(h.GetHeaderMap().GetHeaders(), func(v *corev3.HeaderValue) bool { return v.GetKey() == "x-request-id" })
	}
	a.GetSource().GetAddress().GetSocketAddress().PortSpecifier = nil
	a.GetDestination().GetAddress().GetSocketAddress().PortSpecifier = nil
	text, err := protojson.Marshal(m)
	if err != nil {
		return err.Error()
	}
	var v any
	_ = json.Unmarshal(text, &v)
	text, _ = json.MarshalIndent(v, "", " ")
	return string(text)
}

func (lab *authzLab) grpcServer() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		lab.t.Fatal(err)
	}
	srv := grpc.NewServer()
	authv3.RegisterAuthorizationServer(srv, grpcAuthz{lab: lab})
	go func() { _ = srv.Serve(ln) }()
	lab.t.Cleanup(srv.Stop)
	return ln.Addr().String()
}
