// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"

	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/filter"
	"pillion/proxy/filter/rbac"
	"pillion/proxy/match"
	"pillion/proxy/stats"
)

const (
	httpRBACType    = "envoy.extensions.filters.http.rbac.v3.RBAC"
	networkRBACType = "envoy.extensions.filters.network.rbac.v3.RBAC"
)

// The fields that mean something here; any other one refuses the resource.
var (
	httpRBACFields = fieldSet("rules", "rules_stat_prefix", "shadow_rules", "shadow_rules_stat_prefix", "track_per_rule_stats")
	// enforcement_type says how often Envoy decides about a connection. What it
	// decides by doesn't change while the connection lives.
	networkRBACFields = fieldSet("rules", "shadow_rules", "shadow_rules_stat_prefix", "stat_prefix", "enforcement_type")
	rbacRulesFields   = fieldSet("action", "policies")
	rbacPolicyFields  = fieldSet("permissions", "principals")
)

// buildRBAC builds the HTTP filter. A route's configuration replaces the
// chain's, also by nothing.
func buildRBAC(ch *chains, base, route *anypb.Any) (any, error) {
	cfg := &httprbacv3.RBAC{}
	if route != nil {
		per := &httprbacv3.RBACPerRoute{}
		if err := route.UnmarshalTo(per); err != nil {
			return nil, err
		}
		if err := onlyFields(per, fieldSet("rbac")); err != nil {
			return nil, err
		}
		if per.GetRbac() != nil {
			cfg = per.GetRbac()
		}
	} else if base != nil {
		if err := base.UnmarshalTo(cfg); err != nil {
			return nil, err
		}
	}
	if err := onlyFields(cfg, httpRBACFields); err != nil {
		return nil, err
	}
	b := rbacBuilder{http: true, perPolicy: cfg.GetTrackPerRuleStats(),
		stats: ch.c.filters.rbacStats(rbacScope{http: true, prefix: ch.prefix})}
	rules, err := b.check("rules", cfg.GetRules(), cfg.GetRulesStatPrefix(), false)
	if err != nil {
		return nil, err
	}
	shadow, err := b.check("shadow_rules", cfg.GetShadowRules(), cfg.GetShadowRulesStatPrefix(), true)
	if err != nil {
		return nil, err
	}
	if f := rbac.New(rules, shadow); f != nil {
		return f, nil
	}
	return nil, nil
}

// buildNetworkRBAC builds the filter of connections; nil does nothing.
func (c *Compiler) buildNetworkRBAC(a *anypb.Any) (filter.Admitter, error) {
	cfg := &networkrbacv3.RBAC{}
	if err := a.UnmarshalTo(cfg); err != nil {
		return nil, err
	}
	if err := onlyFields(cfg, networkRBACFields); err != nil {
		return nil, err
	}
	if cfg.GetStatPrefix() == "" {
		return nil, fmt.Errorf("stat_prefix: is required")
	}
	switch cfg.GetEnforcementType() {
	case networkrbacv3.RBAC_ONE_TIME_ON_FIRST_BYTE, networkrbacv3.RBAC_CONTINUOUS:
	default:
		return nil, fmt.Errorf("enforcement_type: %s is not supported", cfg.GetEnforcementType())
	}
	b := rbacBuilder{stats: c.filters.rbacStats(rbacScope{prefix: cfg.GetStatPrefix()})}
	rules, err := b.check("rules", cfg.GetRules(), "", false)
	if err != nil {
		return nil, err
	}
	shadow, err := b.check("shadow_rules", cfg.GetShadowRules(), cfg.GetShadowRulesStatPrefix(), true)
	if err != nil {
		return nil, err
	}
	if n := rbac.NewNetwork(rules, shadow); n != nil {
		return n, nil
	}
	return nil, nil
}

// rbacBuilder compiles the rules of one filter.
type rbacBuilder struct {
	http      bool
	perPolicy bool
	stats     *rbac.Stats
	routes    routeCompiler // for the predicates that routes have too
}

func (b *rbacBuilder) check(field string, m *rbacconfigv3.RBAC, prefix string, shadow bool) (out rbac.Check, err error) {
	out.Prefix = prefix
	out.Verdicts = b.stats.Verdicts(prefix, "", shadow) // the counters are there without rules, too
	if m == nil {
		return out, nil
	}
	b.routes = routeCompiler{texts: map[string]string{}, regexes: map[string]*match.Regex{}}
	at := &place{name: field}
	if err := onlyFields(m, rbacRulesFields); err != nil {
		return out, at.errorf("%w", err)
	}
	var action rbac.Action
	switch m.GetAction() {
	case rbacconfigv3.RBAC_ALLOW:
		action = rbac.Allow
	case rbacconfigv3.RBAC_DENY:
		action = rbac.Deny
	case rbacconfigv3.RBAC_LOG:
		action = rbac.Log
	default:
		return out, at.in("action").errorf("%s is not supported", m.GetAction())
	}
	policies := make([]rbac.Policy, 0, len(m.GetPolicies()))
	for name, p := range m.GetPolicies() {
		compiled, err := b.policy(at.in(fmt.Sprintf("policies[%q]", name)), p)
		if err != nil {
			return out, err
		}
		compiled.Name = name
		if b.perPolicy {
			compiled.Verdicts = b.stats.Verdicts(prefix, name, shadow)
		}
		policies = append(policies, compiled)
	}
	out.Rules = rbac.NewRules(action, policies)
	return out, nil
}

func (b *rbacBuilder) policy(at *place, m *rbacconfigv3.Policy) (out rbac.Policy, err error) {
	if err := onlyFields(m, rbacPolicyFields); err != nil {
		return out, at.errorf("%w", err)
	}
	if len(m.GetPermissions()) == 0 {
		return out, at.in("permissions").errorf("are needed")
	}
	if len(m.GetPrincipals()) == 0 {
		return out, at.in("principals").errorf("are needed")
	}
	if out.Permissions, err = b.permissions(at, "permissions", m.GetPermissions(), 0); err != nil {
		return out, err
	}
	out.Principals, err = b.principals(at, "principals", m.GetPrincipals(), 0)
	return out, err
}

// rbacScope is one set of counters: of a connection manager or of a network
// filter's stat_prefix.
type rbacScope struct {
	http   bool
	prefix string
}

// rbacStats returns the counters of a scope.
func (f *filterState) rbacStats(at rbacScope) *rbac.Stats {
	s := f.rbac[at]
	if s == nil {
		s = &rbac.Stats{}
		f.rbac[at] = s
		f.registry.Add(stats.SourceFunc(func(e *stats.Emitter) {
			if at.http {
				s.CollectHTTP(e, at.prefix)
			} else {
				s.CollectNetwork(e, at.prefix)
			}
		}))
	}
	return s
}
