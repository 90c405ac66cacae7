// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"regexp"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	uritemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// The matchers that istiod makes of the values of policies (pilot/pkg/security/authz).
// Values were checked when the policy was read.

const (
	filterJWT  = "envoy.filters.http.jwt_authn"
	jwtPayload = "payload"
	spiffe     = "spiffe://"
)

func exactString(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

func prefixString(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
}

func suffixString(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: s}}
}

func regexString(re string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: re}}}
}

// wildcardString matches a value with a * at one of its ends; "*" is anything but
// nothing.
func wildcardString(v string) *matcherv3.StringMatcher {
	switch {
	case v == "*":
		return regexString(".+")
	case strings.HasPrefix(v, "*"):
		return suffixString(v[1:])
	case strings.HasSuffix(v, "*"):
		return prefixString(v[:len(v)-1])
	}
	return exactString(v)
}

// headerValue matches a header by a value with a * at one of its ends; "*" is any
// value, an empty one too.
func headerValue(name, v string, ignoreCase bool) *routev3.HeaderMatcher {
	m := &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
	if v != "*" {
		s := wildcardString(v)
		s.IgnoreCase = ignoreCase
		m.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: s}
	}
	return m
}

// cidr makes a range of a range or an address.
func cidr(v string) *corev3.CidrRange {
	p, _ := parseSubnet(v)
	return cidrRanges(p)[0]
}

// principalName matches a SPIFFE identity that is written without its scheme.
func principalName(v string) *matcherv3.StringMatcher {
	switch {
	case v == "*":
		return regexString(".+")
	case strings.HasPrefix(v, "*"):
		return regexString(spiffe + ".*" + regexp.QuoteMeta(v[1:]))
	case strings.HasSuffix(v, "*"):
		return prefixString(spiffe + v[:len(v)-1])
	}
	return exactString(spiffe + v)
}

// namespaceName matches identities of a namespace, in which * stands for anything.
func namespaceName(v string) *matcherv3.StringMatcher {
	parts := strings.Split(v, "*")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return regexString(".*/ns/" + strings.Join(parts, ".*") + "/.*")
}

// accountName matches identities of a service account, "name" of the policy's own
// namespace or "namespace/name".
func accountName(v, namespace string) *matcherv3.StringMatcher {
	ns, name, ok := strings.Cut(v, "/")
	if !ok {
		ns, name = namespace, v
	}
	return regexString("spiffe://.+/ns/" + regexp.QuoteMeta(ns) + "/(.+/|)sa/" + regexp.QuoteMeta(name) + "(/.+)?")
}

// trustDomainName matches identities of a trust domain with a * at one of its ends.
func trustDomainName(v string) *matcherv3.StringMatcher {
	before, after, wild := strings.Cut(v, "*")
	switch {
	case v == "*":
		return prefixString(spiffe)
	case !wild:
		return prefixString(spiffe + v + "/")
	}
	return regexString(spiffe + regexp.QuoteMeta(before) + "[^/]*" + regexp.QuoteMeta(after) + "/.*")
}

func authenticated(m *matcherv3.StringMatcher) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{
		Authenticated: &rbacv3.Principal_Authenticated{PrincipalName: m},
	}}
}

// metadataMatcher matches a value in the metadata that a filter has left.
func metadataMatcher(filter string, path []string, value *matcherv3.ValueMatcher) *matcherv3.MetadataMatcher {
	m := &matcherv3.MetadataMatcher{Filter: filter, Value: value}
	for _, key := range path {
		m.Path = append(m.Path, &matcherv3.MetadataMatcher_PathSegment{
			Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key},
		})
	}
	return m
}

func principalMetadata(m *matcherv3.MetadataMatcher) *rbacv3.Principal {
	//lint:ignore SA1019 istiod sets it
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Metadata{Metadata: m}}
}

func stringValue(m *matcherv3.StringMatcher) *matcherv3.ValueMatcher {
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: m}}
}

func listValue(one *matcherv3.ValueMatcher) *matcherv3.ValueMatcher {
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_ListMatch{
		ListMatch: &matcherv3.ListMatcher{MatchPattern: &matcherv3.ListMatcher_OneOf{OneOf: one}},
	}}
}

func anyValue(of ...*matcherv3.ValueMatcher) *matcherv3.ValueMatcher {
	if len(of) == 1 {
		return of[0]
	}
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_OrMatch{OrMatch: &matcherv3.OrMatcher{ValueMatchers: of}}}
}

// claim matches a claim of a JWT by values, one of which it has to be, or to hold if it
// is a list.
func claim(path []string, values []string) *rbacv3.Principal {
	var of []*matcherv3.ValueMatcher
	for _, v := range values {
		of = append(of, stringValue(wildcardString(v)))
	}
	one := anyValue(of...)
	return principalMetadata(metadataMatcher(filterJWT, append([]string{jwtPayload}, path...), anyValue(listValue(one), one)))
}

// requestPrincipal matches a JWT's issuer and subject, "issuer/subject" with a * at one
// end. The subject follows the last slash, as issuers are URLs.
func requestPrincipal(v string) *rbacv3.Principal {
	slash := strings.LastIndexByte(v, '/')
	issuer, subject := exactString(v), exactString("")
	if slash >= 0 {
		issuer, subject = exactString(v[:slash]), exactString(v[slash+1:])
	}
	something := regexString(".+")
	switch {
	case v == "*":
		issuer, subject = something, something
	case strings.HasPrefix(v, "*") && slash < 0:
		issuer, subject = something, suffixString(v[1:])
	case strings.HasPrefix(v, "*"):
		issuer = wildcardString(v[:slash])
	case strings.HasSuffix(v, "*") && slash < 0:
		issuer, subject = prefixString(v[:len(v)-1]), something
	case strings.HasSuffix(v, "*"):
		subject = wildcardString(v[slash+1:])
	}
	part := func(name string, m *matcherv3.StringMatcher) *rbacv3.Principal {
		return principalMetadata(metadataMatcher(filterJWT, []string{jwtPayload, name}, stringValue(m)))
	}
	return allPrincipals(part("iss", issuer), part("sub", subject))
}

// envoyMetadata matches what a filter of Envoy has left, by a key of the form
// experimental.envoy.filters.a.b[c]. A value in brackets is one of a list.
func envoyMetadata(key string, values []string) *rbacv3.Permission {
	filter, name, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(key, "experimental."), "]"), "[")
	var of []*matcherv3.ValueMatcher
	for _, v := range values {
		if strings.HasPrefix(v, "[") && strings.HasSuffix(v, "]") {
			of = append(of, listValue(stringValue(wildcardString(strings.Trim(v, "[]")))))
		} else {
			of = append(of, stringValue(wildcardString(v)))
		}
	}
	//lint:ignore SA1019 istiod sets it
	return &rbacv3.Permission{Rule: &rbacv3.Permission_Metadata{Metadata: metadataMatcher(filter, []string{name}, anyValue(of...))}}
}

// bracketed reads the names in brackets behind a key. If they aren't well-formed all
// of it is one name, as istiod has it.
func bracketed(s string) []string {
	names := strings.Split(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), "][")
	for _, n := range names {
		if strings.ContainsAny(n, "[]") {
			return []string{strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")}
		}
	}
	return names
}

// pathPermission matches the path without its query, by a value with a * at one end or
// by a template.
func pathPermission(v string) *rbacv3.Permission {
	if strings.Contains(v, "{*}") || strings.Contains(v, "{**}") {
		template := strings.NewReplacer("{*}", "*", "{**}", "**").Replace(v)
		return &rbacv3.Permission{Rule: &rbacv3.Permission_UriTemplate{UriTemplate: &corev3.TypedExtensionConfig{
			Name:        "uri-template",
			TypedConfig: pack(&uritemplatev3.UriTemplateMatchConfig{PathTemplate: template}),
		}}}
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_UrlPath{UrlPath: &matcherv3.PathMatcher{
		Rule: &matcherv3.PathMatcher_Path{Path: wildcardString(v)},
	}}}
}

// portPermission matches the workload's port. Envoy compares with the address that the
// client connected to. Where that is a port of the proxy's own, the answer is known.
func (p *inboundPort) portPermission(v string) *rbacv3.Permission {
	n, _ := strconv.ParseUint(v, 10, 16)
	switch {
	case p == nil || p.port == uint32(p.listen.Port()):
		return &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationPort{DestinationPort: uint32(n)}}
	case uint32(n) == p.port:
		return anyPermission()
	}
	return notPermission(anyPermission())
}
