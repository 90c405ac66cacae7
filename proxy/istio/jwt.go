// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
)

// jwksLifetime is how long fetched keys are used before they are fetched again.
const jwksLifetime = 5 * time.Minute

// jwtFilter makes the filter that verifies the tokens of requests to a workload; nil
// without a RequestAuthentication. A token that is there has to be good; one that is
// missing is for the AuthorizationPolicies to judge. clearRoute chooses the route anew
// once the claims are known, which a gateway's routes may match.
func (t *translator) jwtFilter(w protected, clearRoute bool) *hcmv3.HttpFilter {
	var rules []*security.JWTRule
	for _, obj := range t.policies.of(t.policies.jwt, w) {
		rules = append(rules, obj.Spec.(*security.RequestAuthentication).JwtRules...)
	}
	if len(rules) == 0 {
		return nil
	}
	slices.SortStableFunc(rules, func(a, b *security.JWTRule) int { return cmp.Compare(a.Issuer, b.Issuer) })
	out := &jwtv3.JwtAuthentication{Providers: make(map[string]*jwtv3.JwtProvider, len(rules)), BypassCorsPreflight: true}
	var good, goodOrMissing []*jwtv3.JwtRequirement
	for i, r := range rules {
		name := "origins-" + strconv.Itoa(i)
		p := t.jwtProvider(r)
		p.ClearRouteCache = clearRoute
		out.Providers[name] = p
		one := &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_ProviderName{ProviderName: name}}
		good = append(good, one)
		goodOrMissing = append(goodOrMissing, someRequirement(one,
			&jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_AllowMissing{AllowMissing: &emptypb.Empty{}}}))
	}
	requires := goodOrMissing[0]
	if len(rules) > 1 {
		// Issuers that look in the same place each see the other's token as a bad one, so one
		// good one will do; if there is none, none may be bad.
		requires = someRequirement(append(good, &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAll{
			RequiresAll: &jwtv3.JwtRequirementAndList{Requirements: goodOrMissing},
		}})...)
	}
	out.Rules = []*jwtv3.RequirementRule{{
		Match:           &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		RequirementType: &jwtv3.RequirementRule_Requires{Requires: requires},
	}}
	return httpFilter(filterJWT, out)
}

func someRequirement(of ...*jwtv3.JwtRequirement) *jwtv3.JwtRequirement {
	return &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAny{
		RequiresAny: &jwtv3.JwtRequirementOrList{Requirements: of},
	}}
}

func (t *translator) jwtProvider(r *security.JWTRule) *jwtv3.JwtProvider {
	p := &jwtv3.JwtProvider{
		Issuer:               r.Issuer,
		Audiences:            r.Audiences,
		Forward:              r.ForwardOriginalToken,
		ForwardPayloadHeader: r.OutputPayloadToHeader,
		FromParams:           r.FromParams,
		FromCookies:          r.FromCookies,
		PayloadInMetadata:    jwtPayload,
		NormalizePayloadInMetadata: &jwtv3.JwtProvider_NormalizePayload{
			SpaceDelimitedClaims: []string{"permission", "scope"},
		},
	}
	for _, h := range r.FromHeaders {
		p.FromHeaders = append(p.FromHeaders, &jwtv3.JwtHeader{Name: h.Name, ValuePrefix: h.Prefix})
	}
	for _, c := range r.OutputClaimToHeaders {
		p.ClaimToHeaders = append(p.ClaimToHeaders, &jwtv3.JwtClaimToHeader{HeaderName: c.Header, ClaimName: c.Claim})
	}
	if r.JwksUri == "" {
		p.JwksSourceSpecifier = &jwtv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: r.Jwks},
		}}
		return p
	}
	timeout := r.Timeout
	if timeout == nil {
		timeout = durationpb.New(5 * time.Second)
	}
	p.JwksSourceSpecifier = &jwtv3.JwtProvider_RemoteJwks{RemoteJwks: &jwtv3.RemoteJwks{
		HttpUri: &corev3.HttpUri{
			Uri: r.JwksUri, HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: t.jwksCluster(r.JwksUri)}, Timeout: timeout,
		},
		CacheDuration: durationpb.New(jwksLifetime),
	}}
	return p
}

// jwksCluster finds the cluster from which keys are fetched: that of the service whose
// host the URI names, if it encrypts as the URI demands, else one of its own. (istiod
// fetches keys itself unless it is told otherwise.) The URI was checked when it was read.
func (t *translator) jwksCluster(uri string) string {
	u, _ := url.Parse(uri)
	host, tls := strings.ToLower(u.Hostname()), u.Scheme == "https"
	port := uint32(80)
	if tls {
		port = 443
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		port = uint32(n)
	}
	if s := t.scope.registry.pick(host, t.o.Namespace); s != nil && s.port(port) != nil && (t.scope.byHost[host] == nil || t.scope.byHost[host].obj == s.obj) {
		policy := t.routeBuilder.rules.of(s).policyOf(port)
		if encrypts := policy.tls.value.GetMode() == networking.ClientTLSSettings_SIMPLE; encrypts == tls {
			t.scope.add(s)
			return clusterName(host, "", port)
		}
	}
	name := "jwks|" + strconv.FormatUint(uint64(port), 10) + "||" + host
	if _, ok := t.jwks[name]; !ok {
		t.jwks[name] = newJWKSCluster(name, host, port, tls)
	}
	return name
}

// newJWKSCluster makes a cluster for a host that isn't of the mesh.
func newJWKSCluster(name, host string, port uint32, tls bool) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 name,
		AltStatName:          statPrefix(name),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: newAddress(host, port)},
			}}},
		}}},
	}
	if !tls {
		return c
	}
	c.TransportSocket = tlsSocket(&tlsv3.UpstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:             meshParams(),
			ValidationContextType: combined(wantSANs([]string{host}), agentSecret(fileRootName(systemRoots))),
		},
		Sni: host,
	})
	return c
}
