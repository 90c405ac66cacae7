// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 source_ip is deprecated and still used

package config

import (
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	uritemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/filter/rbac"
	"pillion/proxy/match"
)

// maxRuleDepth bounds how deep rules may be nested.
const maxRuleDepth = 32

// strict refuses a message that holds a field which this build doesn't know.
func strict(at *place, m proto.Message) error {
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return at.errorf("holds fields that this build doesn't know")
	}
	return nil
}

func (b *rbacBuilder) permissions(at *place, field string, list []*rbacconfigv3.Permission, depth int) ([]rbac.Rule, error) {
	out := make([]rbac.Rule, len(list))
	for i, m := range list {
		var err error
		if out[i], err = b.permission(at.item(field, i), m, depth); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// permissionSet compiles and_rules and or_rules, which can't be empty.
func (b *rbacBuilder) permissionSet(at *place, op rbac.Op, set *rbacconfigv3.Permission_Set, depth int) (out rbac.Rule, err error) {
	if err := strict(at, set); err != nil {
		return out, err
	}
	if len(set.GetRules()) == 0 {
		return out, at.in("rules").errorf("are needed")
	}
	out.Op = op
	out.Rules, err = b.permissions(at, "rules", set.GetRules(), depth+1)
	return out, err
}

func (b *rbacBuilder) permission(at *place, m *rbacconfigv3.Permission, depth int) (out rbac.Rule, err error) {
	if depth > maxRuleDepth {
		return out, at.errorf("is nested more than %d deep", maxRuleDepth)
	}
	if err := strict(at, m); err != nil {
		return out, err
	}
	switch r := m.GetRule().(type) {
	case *rbacconfigv3.Permission_Any:
		return anyRule(at, r.Any)
	case *rbacconfigv3.Permission_AndRules:
		return b.permissionSet(at.in("and_rules"), rbac.And, r.AndRules, depth)
	case *rbacconfigv3.Permission_OrRules:
		return b.permissionSet(at.in("or_rules"), rbac.Or, r.OrRules, depth)
	case *rbacconfigv3.Permission_NotRule:
		not, err := b.permission(at.in("not_rule"), r.NotRule, depth+1)
		return rbac.Rule{Op: rbac.Not, Rules: []rbac.Rule{not}}, err
	case *rbacconfigv3.Permission_Header:
		return b.header(at.in("header"), r.Header)
	case *rbacconfigv3.Permission_UrlPath:
		return b.urlPath(at.in("url_path"), r.UrlPath)
	case *rbacconfigv3.Permission_UriTemplate:
		return b.template(at.in("uri_template"), r.UriTemplate)
	case *rbacconfigv3.Permission_DestinationIp:
		return ipRange(at.in("destination_ip"), rbac.DestinationIP, r.DestinationIp)
	case *rbacconfigv3.Permission_DestinationPort:
		if r.DestinationPort > 65535 {
			return out, at.in("destination_port").errorf("%d is no port", r.DestinationPort)
		}
		return rbac.Rule{Op: rbac.DestinationPort, From: r.DestinationPort, To: r.DestinationPort + 1}, nil
	case *rbacconfigv3.Permission_DestinationPortRange:
		from, to := r.DestinationPortRange.GetStart(), r.DestinationPortRange.GetEnd()
		if from < 0 || to > 65536 || from >= to {
			return out, at.in("destination_port_range").errorf("[%d, %d) is no range of ports", from, to)
		}
		return rbac.Rule{Op: rbac.DestinationPort, From: uint32(from), To: uint32(to)}, nil
	case *rbacconfigv3.Permission_Metadata:
		return b.metadata(at.in("metadata"), r.Metadata)
	case *rbacconfigv3.Permission_SourcedMetadata:
		return b.sourced(at.in("sourced_metadata"), r.SourcedMetadata)
	case *rbacconfigv3.Permission_RequestedServerName:
		text, err := b.text(at.in("requested_server_name"), r.RequestedServerName)
		return rbac.Rule{Op: rbac.ServerName, Text: text}, err
	case *rbacconfigv3.Permission_Matcher:
		return out, at.in("matcher").errorf("%s is not supported", messageType(r.Matcher.GetTypedConfig()))
	}
	return out, at.errorf("has no rule that this build knows")
}

func (b *rbacBuilder) principals(at *place, field string, list []*rbacconfigv3.Principal, depth int) ([]rbac.Rule, error) {
	out := make([]rbac.Rule, len(list))
	for i, m := range list {
		var err error
		if out[i], err = b.principal(at.item(field, i), m, depth); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (b *rbacBuilder) principalSet(at *place, op rbac.Op, set *rbacconfigv3.Principal_Set, depth int) (out rbac.Rule, err error) {
	if err := strict(at, set); err != nil {
		return out, err
	}
	if len(set.GetIds()) == 0 {
		return out, at.in("ids").errorf("are needed")
	}
	out.Op = op
	out.Rules, err = b.principals(at, "ids", set.GetIds(), depth+1)
	return out, err
}

func (b *rbacBuilder) principal(at *place, m *rbacconfigv3.Principal, depth int) (out rbac.Rule, err error) {
	if depth > maxRuleDepth {
		return out, at.errorf("is nested more than %d deep", maxRuleDepth)
	}
	if err := strict(at, m); err != nil {
		return out, err
	}
	switch r := m.GetIdentifier().(type) {
	case *rbacconfigv3.Principal_Any:
		return anyRule(at, r.Any)
	case *rbacconfigv3.Principal_AndIds:
		return b.principalSet(at.in("and_ids"), rbac.And, r.AndIds, depth)
	case *rbacconfigv3.Principal_OrIds:
		return b.principalSet(at.in("or_ids"), rbac.Or, r.OrIds, depth)
	case *rbacconfigv3.Principal_NotId:
		not, err := b.principal(at.in("not_id"), r.NotId, depth+1)
		return rbac.Rule{Op: rbac.Not, Rules: []rbac.Rule{not}}, err
	case *rbacconfigv3.Principal_Authenticated_:
		return b.authenticated(at.in("authenticated"), r.Authenticated)
	case *rbacconfigv3.Principal_SourceIp:
		return ipRange(at.in("source_ip"), rbac.SourceIP, r.SourceIp)
	case *rbacconfigv3.Principal_DirectRemoteIp:
		return ipRange(at.in("direct_remote_ip"), rbac.DirectRemoteIP, r.DirectRemoteIp)
	case *rbacconfigv3.Principal_RemoteIp:
		return ipRange(at.in("remote_ip"), rbac.RemoteIP, r.RemoteIp)
	case *rbacconfigv3.Principal_Header:
		return b.header(at.in("header"), r.Header)
	case *rbacconfigv3.Principal_UrlPath:
		return b.urlPath(at.in("url_path"), r.UrlPath)
	case *rbacconfigv3.Principal_Metadata:
		return b.metadata(at.in("metadata"), r.Metadata)
	case *rbacconfigv3.Principal_SourcedMetadata:
		return b.sourced(at.in("sourced_metadata"), r.SourcedMetadata)
	case *rbacconfigv3.Principal_FilterState:
		return out, at.in("filter_state").errorf("is not supported")
	case *rbacconfigv3.Principal_Custom:
		return out, at.in("custom").errorf("%s is not supported", messageType(r.Custom.GetTypedConfig()))
	}
	return out, at.errorf("has no identifier that this build knows")
}

// anyRule compiles any, which Envoy takes as true only.
func anyRule(at *place, v bool) (out rbac.Rule, err error) {
	if !v {
		return out, at.in("any").errorf("must be true")
	}
	return rbac.Rule{Op: rbac.Any}, nil
}

func (b *rbacBuilder) authenticated(at *place, m *rbacconfigv3.Principal_Authenticated) (out rbac.Rule, err error) {
	if err := strict(at, m); err != nil {
		return out, err
	}
	if m.GetPrincipalName() == nil {
		return rbac.Rule{Op: rbac.Authenticated}, nil
	}
	text, err := b.text(at.in("principal_name"), m.GetPrincipalName())
	return rbac.Rule{Op: rbac.Principal, Text: text}, err
}

// onlyHTTP refuses what connections of raw bytes don't have. Envoy would let
// it match nothing, also where that denies nothing.
func (b *rbacBuilder) onlyHTTP(at *place) error {
	if !b.http {
		return at.errorf("has no meaning for a connection")
	}
	return nil
}

func (b *rbacBuilder) header(at *place, m *routev3.HeaderMatcher) (out rbac.Rule, err error) {
	if err := b.onlyHTTP(at); err != nil {
		return out, err
	}
	if err := strict(at, m); err != nil {
		return out, err
	}
	field, err := b.routes.header(at, m)
	return rbac.Rule{Op: rbac.Header, Field: &field}, err
}

func (b *rbacBuilder) text(at *place, m *matcherv3.StringMatcher) (match.String, error) {
	if err := strict(at, m); err != nil {
		return match.String{}, err
	}
	return b.routes.stringMatcher(at, m)
}

func (b *rbacBuilder) urlPath(at *place, m *matcherv3.PathMatcher) (out rbac.Rule, err error) {
	if err := b.onlyHTTP(at); err != nil {
		return out, err
	}
	if err := strict(at, m); err != nil {
		return out, err
	}
	if m.GetPath() == nil {
		return out, at.in("path").errorf("is needed")
	}
	text, err := b.text(at.in("path"), m.GetPath())
	return rbac.Rule{Op: rbac.Path, Text: text}, err
}

func (b *rbacBuilder) template(at *place, m *corev3.TypedExtensionConfig) (out rbac.Rule, err error) {
	if err := b.onlyHTTP(at); err != nil {
		return out, err
	}
	cfg := &uritemplatev3.UriTemplateMatchConfig{}
	if err := m.GetTypedConfig().UnmarshalTo(cfg); err != nil {
		return out, at.in("typed_config").errorf("%w", err)
	}
	if err := strict(at.in("typed_config"), cfg); err != nil {
		return out, err
	}
	shape, err := rbac.NewShape(cfg.GetPathTemplate())
	if err != nil {
		return out, at.in("typed_config").in("path_template").errorf("%w", err)
	}
	return rbac.Rule{Op: rbac.Template, Shape: shape}, nil
}

func ipRange(at *place, op rbac.Op, m *corev3.CidrRange) (out rbac.Rule, err error) {
	if err := strict(at, m); err != nil {
		return out, err
	}
	a, err := netip.ParseAddr(m.GetAddressPrefix())
	if err != nil || a.Zone() != "" {
		return out, at.in("address_prefix").errorf("%q is no IP address", m.GetAddressPrefix())
	}
	bits := int(m.GetPrefixLen().GetValue())
	if bits > a.BitLen() {
		return out, at.in("prefix_len").errorf("%d is longer than the address", bits)
	}
	return rbac.Rule{Op: op, Range: netip.PrefixFrom(a, bits).Masked()}, nil
}
