// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"slices"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httpextauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	netextauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	security "istio.io/api/security/v1beta1"

	"pillion/proxy/istio/source"
)

const (
	filterHTTPExtAuthz    = "envoy.filters.http.ext_authz"
	filterNetworkExtAuthz = "envoy.filters.network.ext_authz"

	// Rules of action CUSTOM decide nothing by themselves. They leave their name, by which
	// the filter that asks the provider knows that it has to.
	customPrefix       = "istio-ext-authz-"
	customShadowPrefix = "istio_ext_authz_"
	customPolicyID     = customShadowPrefix + "shadow_effective_policy_id"
)

// customPolicies are the policies that leave the decision to one provider.
type customPolicies struct {
	provider *extAuthzProvider
	objs     []*source.Object
}

// custom groups the policies of action CUSTOM by provider, in the order of names. A
// provider that isn't known or that can't be used refuses the configuration. A policy
// on trial would still ask the provider and do as it says (istiod's builder.go notes
// so), so it is left out.
func (a *authorizer) custom() []customPolicies {
	var out []customPolicies
	for _, obj := range a.byAction[security.AuthorizationPolicy_CUSTOM] {
		if dryRun(obj) {
			a.providers.rep.warnf(obj, joinField("metadata.annotations", source.AnnotationDryRun), "has no form for action CUSTOM: the policy is left out")
			continue
		}
		p := a.providers.of(obj)
		if p == nil {
			continue
		}
		i := slices.IndexFunc(out, func(c customPolicies) bool { return c.provider == p })
		if i < 0 {
			i = len(out)
			out = append(out, customPolicies{provider: p})
		}
		out[i].objs = append(out[i].objs, obj)
	}
	slices.SortFunc(out, func(a, b customPolicies) int { return cmp.Compare(a.provider.name, b.provider.name) })
	return out
}

func (a *authorizer) customRules(c *customPolicies, tcp bool) *rbacv3.RBAC {
	return a.sets(c.objs, rbacv3.RBAC_DENY, tcp, customPrefix+c.provider.name+"-").enforced
}

// httpCustom makes the filters that leave the decision to providers.
func (a *authorizer) httpCustom() []*hcmv3.HttpFilter {
	var out []*hcmv3.HttpFilter
	for _, c := range a.custom() {
		ask := proto.Clone(c.provider.http).(*httpextauthzv3.ExtAuthz)
		ask.FilterEnabledMetadata = concerned(filterHTTPRBAC, c.provider.name)
		out = append(out,
			httpFilter(filterHTTPRBAC, &httprbacv3.RBAC{ShadowRules: a.customRules(&c, false), ShadowRulesStatPrefix: customShadowPrefix}),
			httpFilter(filterHTTPExtAuthz, ask))
	}
	return out
}

// networkCustom is httpCustom for connections. A provider that is asked over HTTP is
// asked about requests only.
func (a *authorizer) networkCustom() []*listenerv3.Filter {
	var out []*listenerv3.Filter
	for _, c := range a.custom() {
		if c.provider.network == nil {
			for _, obj := range c.objs {
				a.providers.rep.warnf(obj, "spec.provider", "%s is asked over HTTP, so nothing asks it about connections that carry no HTTP", c.provider.name)
			}
			continue
		}
		ask := proto.Clone(c.provider.network).(*netextauthzv3.ExtAuthz)
		ask.FilterEnabledMetadata = concerned(filterNetworkRBAC, c.provider.name)
		out = append(out,
			networkFilter(filterNetworkRBAC, &netrbacv3.RBAC{
				ShadowRules: a.customRules(&c, true), ShadowRulesStatPrefix: customShadowPrefix, StatPrefix: tcpStatPrefix,
			}),
			networkFilter(filterNetworkExtAuthz, ask))
	}
	return out
}

// concerned matches the name that a rule of a provider has left.
func concerned(filter, provider string) *matcherv3.MetadataMatcher {
	return metadataMatcher(filter, []string{customPolicyID}, stringValue(prefixString(customPrefix+provider)))
}
