// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpextauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	netextauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	mesh "istio.io/api/mesh/v1alpha1"
	security "istio.io/api/security/v1beta1"

	"pillion/proxy/istio/source"
)

// extAuthzProvider is a service that decides on requests, ready to be put into filters.
type extAuthzProvider struct {
	name    string
	http    *httpextauthzv3.ExtAuthz
	network *netextauthzv3.ExtAuthz // nil where it is asked over HTTP
}

// extAuthz are the providers of the MeshConfig. They are made when a policy names them,
// so that one that nobody uses may be wrong.
type extAuthz struct {
	config *source.Object // the MeshConfig; may be nil
	rep    *report
	scope  *scope
	made   map[string]*extAuthzProvider // nil values were refused
}

// of finds the provider of a policy; nil when it was refused.
func (e *extAuthz) of(obj *source.Object) *extAuthzProvider {
	name := obj.Spec.(*security.AuthorizationPolicy).GetProvider().GetName()
	if p, ok := e.made[name]; ok {
		return p
	}
	e.made[name] = nil
	if e.config == nil {
		e.rep.errorf(obj, "spec.provider.name", "there is no extension provider %s: there is no MeshConfig; give one with --mesh-config", name)
		return nil
	}
	list := e.config.Spec.(*mesh.MeshConfig).ExtensionProviders
	named := func(p *mesh.MeshConfig_ExtensionProvider) bool { return p.Name == name }
	i := slices.IndexFunc(list, named)
	if i < 0 {
		e.rep.errorf(obj, "spec.provider.name", "%s has no extension provider %s", place(e.config), name)
		return nil
	}
	field := fmt.Sprintf("extensionProviders[%d]", i)
	if slices.ContainsFunc(list[i+1:], named) {
		e.rep.errorf(e.config, field+".name", "there are two extension providers %s", name)
		return nil
	}
	p := &extAuthzProvider{name: name}
	ok := false
	switch kind := list[i].Provider.(type) {
	case *mesh.MeshConfig_ExtensionProvider_EnvoyExtAuthzHttp:
		ok = e.overHTTP(p, kind.EnvoyExtAuthzHttp, field+".envoyExtAuthzHttp")
	case *mesh.MeshConfig_ExtensionProvider_EnvoyExtAuthzGrpc:
		ok = e.overGRPC(p, kind.EnvoyExtAuthzGrpc, field+".envoyExtAuthzGrpc")
	default:
		e.rep.errorf(obj, "spec.provider.name", "extension provider %s doesn't decide on requests: it is neither envoyExtAuthzHttp nor envoyExtAuthzGrpc", name)
	}
	if ok {
		e.made[name] = p
	}
	return e.made[name]
}

// cluster finds the cluster of a provider's service, "host" or "namespace/host".
func (e *extAuthz) cluster(name string, port uint32, field string) (host, cluster string, ok bool) {
	s, part, err := e.scope.providerService(name, port)
	if err != nil {
		e.rep.errorf(e.config, field+part, "%v", err)
		return "", "", false
	}
	e.scope.add(s)
	return s.host, clusterName(s.host, "", port), true
}

func (e *extAuthz) status(text, field string) (*typev3.HttpStatus, bool) {
	if text == "" {
		return nil, true
	}
	code, err := strconv.ParseInt(text, 10, 32)
	if _, known := typev3.StatusCode_name[int32(code)]; err != nil || !known || code == 0 {
		e.rep.errorf(e.config, field+".statusOnError", "%q is no status that can be answered with", text)
		return nil, false
	}
	return &typev3.HttpStatus{Code: typev3.StatusCode(code)}, true
}

// askTimeout: Istio has no default of its own and writes ten minutes.
func askTimeout(d *durationpb.Duration) *durationpb.Duration {
	if d == nil {
		return durationpb.New(600 * time.Second)
	}
	return d
}

func askBody(b *mesh.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody) *httpextauthzv3.BufferSettings {
	if b == nil {
		return nil
	}
	return &httpextauthzv3.BufferSettings{
		MaxRequestBytes: b.MaxRequestBytes, AllowPartialMessage: b.AllowPartialMessage, PackAsBytes: b.PackAsBytes,
	}
}

func (e *extAuthz) overGRPC(out *extAuthzProvider, p *mesh.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider, field string) bool {
	host, cluster, ok := e.cluster(p.Service, p.Port, field)
	status, ok2 := e.status(p.StatusOnError, field)
	if !ok || !ok2 || !e.sound(field, p.Timeout, p.IncludeRequestBodyInCheck) {
		return false
	}
	service := &corev3.GrpcService{
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster, Authority: host}},
		Timeout:         askTimeout(p.Timeout),
	}
	out.http = &httpextauthzv3.ExtAuthz{
		Services:            &httpextauthzv3.ExtAuthz_GrpcService{GrpcService: service},
		FailureModeAllow:    p.FailOpen,
		StatusOnError:       status,
		TransportApiVersion: corev3.ApiVersion_V3,
		WithRequestBody:     askBody(p.IncludeRequestBodyInCheck),
	}
	out.network = &netextauthzv3.ExtAuthz{
		StatPrefix: tcpStatPrefix, GrpcService: service, FailureModeAllow: p.FailOpen, TransportApiVersion: corev3.ApiVersion_V3,
	}
	return true
}

func (e *extAuthz) overHTTP(out *extAuthzProvider, p *mesh.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider, field string) bool {
	host, cluster, ok := e.cluster(p.Service, p.Port, field)
	status, ok2 := e.status(p.StatusOnError, field)
	if !ok || !ok2 || !e.sound(field, p.Timeout, p.IncludeRequestBodyInCheck) {
		return false
	}
	if p.PathPrefix != "" && !strings.HasPrefix(p.PathPrefix, "/") {
		e.rep.errorf(e.config, field+".pathPrefix", "%q doesn't begin with a slash", p.PathPrefix)
		return false
	}
	include := p.IncludeRequestHeadersInCheck
	if len(include) == 0 {
		//lint:ignore SA1019 istiod takes the older field where the newer one is not given
		include = p.IncludeHeadersInCheck
	}
	if slices.Contains(slices.Concat(include, p.HeadersToUpstreamOnAllow, p.HeadersToDownstreamOnDeny, p.HeadersToDownstreamOnAllow), "*") {
		e.rep.errorf(e.config, field, `a header's name can't be "*" by itself; name headers, or a beginning or an end of them`)
		return false
	}
	service := &httpextauthzv3.HttpService{
		ServerUri: &corev3.HttpUri{
			Uri: "http://" + host, HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: cluster}, Timeout: askTimeout(p.Timeout),
		},
		PathPrefix: p.PathPrefix,
	}
	if len(p.IncludeAdditionalHeadersInCheck) > 0 {
		add := &httpextauthzv3.AuthorizationRequest{}
		for _, k := range sortedKeys(p.IncludeAdditionalHeadersInCheck) {
			add.HeadersToAdd = append(add.HeadersToAdd, &corev3.HeaderValue{Key: k, Value: p.IncludeAdditionalHeadersInCheck[k]})
		}
		service.AuthorizationRequest = add
	}
	if len(p.HeadersToUpstreamOnAllow)+len(p.HeadersToDownstreamOnDeny)+len(p.HeadersToDownstreamOnAllow) > 0 {
		service.AuthorizationResponse = &httpextauthzv3.AuthorizationResponse{
			AllowedUpstreamHeaders:        headerNames(p.HeadersToUpstreamOnAllow),
			AllowedClientHeaders:          headerNames(p.HeadersToDownstreamOnDeny),
			AllowedClientHeadersOnSuccess: headerNames(p.HeadersToDownstreamOnAllow),
		}
	}
	out.http = &httpextauthzv3.ExtAuthz{
		Services:            &httpextauthzv3.ExtAuthz_HttpService{HttpService: service},
		FailureModeAllow:    p.FailOpen,
		StatusOnError:       status,
		TransportApiVersion: corev3.ApiVersion_V3,
		AllowedHeaders:      headerNames(include),
		WithRequestBody:     askBody(p.IncludeRequestBodyInCheck),
	}
	return true
}

// sound checks what both kinds of providers have.
func (e *extAuthz) sound(field string, timeout *durationpb.Duration, body *mesh.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody) bool {
	switch {
	case timeout != nil && timeout.AsDuration() < time.Millisecond:
		e.rep.errorf(e.config, field+".timeout", "%s is too short; wants at least 1ms", timeout.AsDuration())
	case body != nil && body.MaxRequestBytes == 0:
		e.rep.errorf(e.config, field+".includeRequestBodyInCheck.maxRequestBytes", "is required")
	default:
		return true
	}
	return false
}

// headerNames matches names of headers, with a * at one end, in any case.
func headerNames(list []string) *matcherv3.ListStringMatcher {
	if len(list) == 0 {
		return nil
	}
	out := &matcherv3.ListStringMatcher{}
	for _, h := range list {
		m := wildcardString(h)
		m.IgnoreCase = true
		out.Patterns = append(out.Patterns, m)
	}
	return out
}
