// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"strconv"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	security "istio.io/api/security/v1beta1"

	"pillion/proxy/istio/source"
)

// Names of filters that decide who may call.
const (
	filterHTTPRBAC    = "envoy.filters.http.rbac"
	filterNetworkRBAC = "envoy.filters.network.rbac"

	// tcpStatPrefix is that of istiod's network filters.
	tcpStatPrefix = "tcp."
)

// authorizer makes the filters of the AuthorizationPolicies for one workload, or for
// one of its ports.
type authorizer struct {
	rules     ruleBuilder // but for what a policy sets
	providers *extAuthz
	byAction  map[security.AuthorizationPolicy_Action][]*source.Object
}

// authorizer picks the policies for a workload. port is nil at a gateway.
func (t *translator) authorizer(w protected, port *inboundPort) *authorizer {
	a := &authorizer{
		rules:     ruleBuilder{trustDomains: t.o.trustDomains(), port: port},
		providers: t.extAuthz,
		byAction:  make(map[security.AuthorizationPolicy_Action][]*source.Object),
	}
	for _, obj := range t.policies.of(t.policies.authz, w) {
		action := obj.Spec.(*security.AuthorizationPolicy).Action
		a.byAction[action] = append(a.byAction[action], obj)
	}
	return a
}

// localActions are the actions that the proxy decides by itself, in the order in which
// it does, with RBAC's name for each.
var localActions = [...]struct {
	action security.AuthorizationPolicy_Action
	rbac   rbacv3.RBAC_Action
}{
	{security.AuthorizationPolicy_AUDIT, rbacv3.RBAC_LOG},
	{security.AuthorizationPolicy_DENY, rbacv3.RBAC_DENY},
	{security.AuthorizationPolicy_ALLOW, rbacv3.RBAC_ALLOW},
}

// ruleSets are the rules of policies with one action: those that are enforced and those
// that are on trial. Either is nil without a policy. Rules without a policy in them are
// something else: that of ALLOW lets nothing through.
type ruleSets struct{ enforced, trial *rbacv3.RBAC }

// sets makes the rules of policies. prefix begins the names of the rules.
func (a *authorizer) sets(objs []*source.Object, action rbacv3.RBAC_Action, tcp bool, prefix string) ruleSets {
	var out ruleSets
	for _, obj := range objs {
		set := &out.enforced
		if dryRun(obj) {
			set = &out.trial
		}
		if *set == nil {
			*set = &rbacv3.RBAC{Action: action, Policies: make(map[string]*rbacv3.Policy)}
		}
		b := a.rules
		b.namespace, b.tcp, b.allows = obj.Namespace, tcp, action == rbacv3.RBAC_ALLOW
		rules := obj.Spec.(*security.AuthorizationPolicy).Rules
		for i, r := range rules {
			if p := b.policy(r); p != nil {
				(*set).Policies[ruleName(prefix, obj, i)] = p
			}
		}
		if len(rules) == 0 {
			(*set).Policies[ruleName(prefix, obj, 0)] = &rbacv3.Policy{
				Permissions: []*rbacv3.Permission{notPermission(anyPermission())},
				Principals:  []*rbacv3.Principal{notPrincipal(anyPrincipal())},
			}
		}
	}
	return out
}

func ruleName(prefix string, obj *source.Object, i int) string {
	return fmt.Sprintf("%sns[%s]-policy[%s]-rule[%d]", prefix, obj.Namespace, obj.Name, i)
}

// dryRun: nothing follows from what the policy decides. The annotation was checked when
// the policy was read.
func dryRun(obj *source.Object) bool {
	on, _ := strconv.ParseBool(obj.Annotations[source.AnnotationDryRun])
	return on
}

// shadowPrefix begins the names under which rules on trial leave what they decide.
// istiod has that of ALLOW where there are none.
func (s *ruleSets) shadowPrefix() string {
	switch s.trial.GetAction() {
	case rbacv3.RBAC_DENY:
		return "istio_dry_run_deny_"
	case rbacv3.RBAC_LOG:
		return ""
	}
	return "istio_dry_run_allow_"
}

// httpRBAC makes the filters of the policies that the proxy decides by itself.
func (a *authorizer) httpRBAC() []*hcmv3.HttpFilter {
	var out []*hcmv3.HttpFilter
	for _, l := range localActions {
		s := a.sets(a.byAction[l.action], l.rbac, false, "")
		if s.enforced == nil && s.trial == nil {
			continue
		}
		out = append(out, httpFilter(filterHTTPRBAC, &httprbacv3.RBAC{
			Rules: s.enforced, ShadowRules: s.trial, ShadowRulesStatPrefix: s.shadowPrefix(),
		}))
	}
	return out
}

// network makes all filters of connections that carry no HTTP.
func (a *authorizer) network() []*listenerv3.Filter {
	out := a.networkCustom()
	for _, l := range localActions {
		s := a.sets(a.byAction[l.action], l.rbac, true, "")
		if s.enforced == nil && s.trial == nil {
			continue
		}
		out = append(out, networkFilter(filterNetworkRBAC, &netrbacv3.RBAC{
			Rules: s.enforced, ShadowRules: s.trial, ShadowRulesStatPrefix: s.shadowPrefix(), StatPrefix: tcpStatPrefix,
		}))
	}
	return out
}

func httpFilter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(config)}}
}

func networkFilter(name string, config proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(config)}}
}

func networkFilterAny(name string, config *anypb.Any) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: config}}
}

func listenerFilter(name string, config proto.Message) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(config)}}
}

func portText(port uint32) string { return strconv.FormatUint(uint64(port), 10) }
