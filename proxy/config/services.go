// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"pillion/proxy/accesslog"
	"pillion/proxy/filter"
	"pillion/proxy/forward"
	"pillion/proxy/http"
	"pillion/proxy/router"
)

// client returns a client of a cluster, which need not exist yet.
func (c *Compiler) client(cluster string) filter.Client {
	return forward.NewClient(c.env.Clusters.Slot(cluster))
}

// httpService compiles where requests of the proxy's own go.
func (c *Compiler) httpService(s *corev3.HttpService) (*filter.HTTPService, error) {
	if err := onlyFields(s, fieldSet("http_uri", "request_headers_to_add")); err != nil {
		return nil, err
	}
	uri := s.GetHttpUri()
	if uri.GetCluster() == "" {
		return nil, errors.New("http_uri.cluster: is needed")
	}
	out := &filter.HTTPService{Client: c.client(uri.GetCluster())}
	if out.Authority, out.Path = splitURI(uri.GetUri()); out.Authority == "" {
		return nil, fmt.Errorf("http_uri.uri: %q has no host", uri.GetUri())
	}
	if d := uri.GetTimeout(); d != nil {
		if d.CheckValid() != nil || d.AsDuration() < 0 {
			return nil, fmt.Errorf("http_uri.timeout: %v is no time to wait", d.AsDuration())
		}
		out.Timeout = d.AsDuration()
	}
	for i, h := range s.GetRequestHeadersToAdd() {
		f, err := serviceField(h.GetHeader())
		if err != nil {
			return nil, fmt.Errorf("request_headers_to_add[%d].header.%w", i, err)
		}
		out.Fields.Append(f)
	}
	return out, nil
}

// grpcService compiles where calls of gRPC go. unsaid bounds them where configuration
// doesn't; what it says may be that they have no bound.
func (c *Compiler) grpcService(s *corev3.GrpcService, unsaid time.Duration) (*filter.GRPCService, error) {
	e := s.GetEnvoyGrpc()
	if err := onlyFields(s, fieldSet("envoy_grpc", "timeout", "initial_metadata")); err != nil {
		return nil, err
	}
	if err := onlyFields(e, fieldSet("cluster_name", "authority", "skip_envoy_headers")); err != nil {
		return nil, fmt.Errorf("envoy_grpc.%w", err)
	}
	if e.GetClusterName() == "" {
		return nil, errors.New("envoy_grpc.cluster_name: is needed")
	}
	// Envoy: AsyncClientImpl of source/common/grpc has the cluster's name for a host.
	out := &filter.GRPCService{Client: c.client(e.GetClusterName()), Authority: cmp.Or(e.GetAuthority(), e.GetClusterName()),
		Timeout: unsaid, Plain: e.GetSkipEnvoyHeaders()}
	if !router.ValidHeaderValue(out.Authority) {
		return nil, fmt.Errorf("envoy_grpc.authority: %q holds a control character", out.Authority)
	}
	if d := s.GetTimeout(); d != nil {
		if d.CheckValid() != nil || d.AsDuration() < 0 {
			return nil, fmt.Errorf("timeout: %v is no time to wait", d.AsDuration())
		}
		out.Timeout = d.AsDuration()
	}
	for i, h := range s.GetInitialMetadata() {
		m, err := grpcMetadata(h)
		if err != nil {
			return nil, fmt.Errorf("initial_metadata[%d].%w", i, err)
		}
		out.Metadata = append(out.Metadata, m)
	}
	return out, nil
}

func grpcMetadata(h *corev3.HeaderValue) (filter.Metadata, error) {
	if err := onlyFields(h, fieldSet("key", "value")); err != nil {
		return filter.Metadata{}, err
	}
	name := strings.ToLower(h.GetKey())
	if !router.ValidHeaderName(name) {
		return filter.Metadata{}, fmt.Errorf("key: %q is no header name", h.GetKey())
	}
	value, err := requestValue(h.GetValue())
	if err != nil {
		return filter.Metadata{}, fmt.Errorf("value: %w", err)
	}
	return filter.Metadata{Name: []byte(name), Value: value}, nil
}

// requestValue compiles the value of a header on the way up.
func requestValue(text string) (filter.Value, error) {
	f, err := router.ParseFormat(text)
	if err != nil {
		return nil, err
	}
	return requestFormat{f}, nil
}

type requestFormat struct{ *router.Format }

func (f requestFormat) Append(dst []byte, ex *http.Exchange) []byte {
	return f.Format.Append(dst, ex, false)
}

// splitURI returns the host and the path of a URI, whose scheme may be missing (Envoy:
// Http::Utility::extractHostPathFromUri).
func splitURI(uri string) (host, path string) {
	if _, rest, ok := strings.Cut(uri, "://"); ok {
		uri = rest
	}
	if i := strings.IndexByte(uri, '/'); i >= 0 {
		return uri[:i], uri[i:]
	}
	return uri, "/"
}

// serviceField compiles a field of requests of the proxy's own. Its value may have
// operators, which see no exchange.
func serviceField(h *corev3.HeaderValue) (http.Field, error) {
	name := strings.ToLower(h.GetKey())
	if !router.ValidHeaderName(name) {
		return http.Field{}, fmt.Errorf("key: %q is no header name", h.GetKey())
	}
	text, err := accesslog.ParseText(h.GetValue())
	if err != nil {
		return http.Field{}, fmt.Errorf("value: %w", err)
	}
	value, _ := text.Append(nil, &http.Exchange{Conn: &http.ConnInfo{}})
	if !router.ValidHeaderValue(string(value)) {
		return http.Field{}, errors.New("value: holds a control character")
	}
	return http.Field{ID: http.LookupHeader([]byte(name)), Name: []byte(name), Value: value}, nil
}
