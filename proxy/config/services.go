// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"strings"

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
