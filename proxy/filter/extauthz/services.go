// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 istiod still sets deprecated fields

package extauthz

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// defaultTimeout is how long a server of gRPC may take (Envoy:
// ExtAuthz config.h, DefaultTimeout).
const defaultTimeout = 200 * time.Millisecond

// setService compiles who is asked. What a route says comes first.
func (f *Filter) setService(cfg *extauthzv3.ExtAuthz, s *extauthzv3.CheckSettings, env *Env) error {
	grpc, web, where := s.GetGrpcService(), s.GetHttpService(), "check_settings."
	if grpc == nil && web == nil {
		grpc, web, where = cfg.GetGrpcService(), cfg.GetHttpService(), ""
	}
	switch {
	case grpc != nil:
		to, err := env.GRPC(grpc, defaultTimeout)
		if err != nil {
			return fmt.Errorf("%sgrpc_service.%w", where, err)
		}
		f.service = &grpcService{grpcCaller{to}, f.request}
	case web != nil:
		if cfg.GetAllowedHeaders() != nil && web.GetAuthorizationRequest().GetAllowedHeaders() != nil {
			return fmt.Errorf("%shttp_service.authorization_request.allowed_headers: can't be combined with allowed_headers", where)
		}
		service, err := newHTTPService(web, f.request, env)
		if err != nil {
			return fmt.Errorf("%shttp_service.%w", where, err)
		}
		f.service = service
	default:
		return fmt.Errorf("services: one of grpc_service and http_service is needed")
	}
	return nil
}

func duration(d *durationpb.Duration) (time.Duration, error) {
	if err := d.CheckValid(); err != nil {
		return 0, err
	}
	if d.AsDuration() < 0 {
		return 0, fmt.Errorf("%v is negative", d.AsDuration())
	}
	return d.AsDuration(), nil
}

// compileHeaders compiles the fields that are added to what is asked. An error
// begins with its place in the list.
func compileHeaders(list []*corev3.HeaderValue, env *Env) (out []header, err error) {
	for i, h := range list {
		if err := only(h, fields("key", "value")); err != nil {
			return nil, fmt.Errorf("[%d].%w", i, err)
		}
		name := strings.ToLower(h.GetKey())
		if !validName([]byte(strings.TrimPrefix(name, ":"))) {
			return nil, fmt.Errorf("[%d].key: %q is no header name", i, h.GetKey())
		}
		v, err := env.Value(h.GetValue())
		if err != nil {
			return nil, fmt.Errorf("[%d].value: %w", i, err)
		}
		out = append(out, header{[]byte(name), v})
	}
	return out, nil
}

func newHTTPService(s *extauthzv3.HttpService, request *requestOptions, env *Env) (*httpService, error) {
	if err := only(s, fields("server_uri", "path_prefix", "path_override", "authorization_request", "authorization_response")); err != nil {
		return nil, err
	}
	uri := s.GetServerUri()
	if uri.GetCluster() == "" {
		return nil, fmt.Errorf("server_uri.cluster: is needed")
	}
	timeout, err := duration(uri.GetTimeout())
	if uri.GetTimeout() == nil || err != nil {
		return nil, fmt.Errorf("server_uri.timeout: %v is none: %w", uri.GetTimeout(), err)
	}
	// A server sees no more of a request's fields than it needs.
	own := *request
	service := &httpService{client: env.Client(uri.GetCluster()), timeout: timeout, request: &own,
		pathPrefix: s.GetPathPrefix(), pathOverride: s.GetPathOverride()}
	if service.pathPrefix != "" && service.pathOverride != "" {
		return nil, fmt.Errorf("path_override: can't be combined with path_prefix")
	}
	for name, p := range map[string]string{"path_prefix": service.pathPrefix, "path_override": service.pathOverride} {
		if p != "" && (p[0] != '/' || !visible([]byte(p))) {
			return nil, fmt.Errorf("%s: %q is no path", name, p)
		}
	}
	a := s.GetAuthorizationRequest()
	if err := only(a, fields("allowed_headers", "headers_to_add")); err != nil {
		return nil, fmt.Errorf("authorization_request.%w", err)
	}
	allowed, err := compileNames(a.GetAllowedHeaders(), env)
	if err != nil {
		return nil, fmt.Errorf("authorization_request.allowed_headers.%w", err)
	}
	own.allowed = slices.Concat(own.allowed, allowed, exact("authorization", ":method", ":path", ":authority"))
	if service.add, err = compileHeaders(a.GetHeadersToAdd(), env); err != nil {
		return nil, fmt.Errorf("authorization_request.headers_to_add%w", err)
	}
	if err := service.setResponse(s.GetAuthorizationResponse(), env); err != nil {
		return nil, fmt.Errorf("authorization_response.%w", err)
	}
	return service, nil
}

// setResponse compiles where the fields of an answer go.
func (s *httpService) setResponse(r *extauthzv3.AuthorizationResponse, env *Env) (err error) {
	for _, to := range []struct {
		name string
		list *names
		from *matcherv3.ListStringMatcher
	}{
		{"allowed_upstream_headers", &s.upstream, r.GetAllowedUpstreamHeaders()},
		{"allowed_upstream_headers_to_append", &s.upstreamAppend, r.GetAllowedUpstreamHeadersToAppend()},
		{"allowed_client_headers", &s.toClient, r.GetAllowedClientHeaders()},
		{"allowed_client_headers_on_success", &s.onSuccess, r.GetAllowedClientHeadersOnSuccess()},
		{"dynamic_metadata_from_headers", &s.toMetadata, r.GetDynamicMetadataFromHeaders()},
	} {
		if *to.list, err = compileNames(to.from, env); err != nil {
			return fmt.Errorf("%s.%w", to.name, err)
		}
	}
	if len(s.toClient) > 0 {
		s.toClient = append(s.toClient, exact("www-authenticate", "location")...)
	}
	return nil
}
