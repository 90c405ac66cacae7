// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// Metadata of other filters' use: where the filters say what they decided.
const (
	httpMetadata    = "envoy.filters.http.rbac"
	networkMetadata = "envoy.filters.network.rbac"
	commonMetadata  = "envoy.common"
	accessLogHint   = "access_log_hint"
)

// Check is one rule set at work, with how its results are called.
type Check struct {
	Rules *Rules
	// Prefix begins the keys of metadata (rules_stat_prefix or
	// shadow_rules_stat_prefix).
	Prefix string
	// Verdicts counts all decisions.
	Verdicts *Verdicts
}

// check is a Check ready for use. Immutable.
type check struct {
	rules               *Rules
	verdicts            *Verdicts
	shadow              bool
	policy, result, why string // keys of metadata
}

// newCheck makes c ready; nil for one without rules.
func newCheck(c Check, shadow bool) *check {
	if c.Rules == nil {
		return nil
	}
	kind := "enforced_"
	if shadow {
		kind = "shadow_"
	}
	if c.Verdicts == nil {
		c.Verdicts = &Verdicts{}
	}
	return &check{rules: c.Rules, verdicts: c.Verdicts, shadow: shadow,
		policy: c.Prefix + kind + "effective_policy_id", result: c.Prefix + kind + "engine_result", why: c.Prefix + kind + "reason"}
}

// What metadata says of a result, in Envoy's words.
var (
	resultAllowed any = "allowed"
	resultDenied  any = "denied"
)

// run decides, counts, and tells the result to who reads metadata. Beside what
// Envoy tells, a denial that no policy matched says of how many.
func (c *check) run(in *input, owner string) (by *Policy, allowed bool) {
	by, allowed = c.rules.decide(in)
	c.verdicts.count(allowed)
	if by != nil {
		if by.Verdicts != nil {
			by.Verdicts.count(allowed)
		}
		in.data.SetField(owner, c.policy, by.name)
	}
	if c.rules.action == Log && !c.shadow {
		in.data.SetField(commonMetadata, accessLogHint, by != nil)
	}
	if allowed {
		in.data.SetField(owner, c.result, resultAllowed)
		return by, true
	}
	in.data.SetField(owner, c.result, resultDenied)
	if by == nil {
		in.data.SetField(owner, c.why, c.rules.missed)
	}
	return by, false
}

// Filter decides on requests. Immutable.
type Filter struct{ rules, shadow *check }

// New returns a filter that enforces rules and tries shadow out; nil if neither
// has any.
func New(rules, shadow Check) *Filter {
	f := &Filter{rules: newCheck(rules, false), shadow: newCheck(shadow, true)}
	if f.rules == nil && f.shadow == nil {
		return nil
	}
	return f
}

// denied has no flag, as with Envoy.
var denied = &http.Error{Side: http.SideLocal, Kind: http.KindPolicy, Status: 403, Body: "RBAC: access denied", GRPC: 7}

// OnRequest lets the request pass or answers it.
func (f *Filter) OnRequest(ex *http.Exchange) filter.Status {
	in := input{conn: ex.Conn, head: &ex.Req, client: ex.ClientAddress, data: &ex.Metadata}
	if f.shadow != nil {
		f.shadow.run(&in, httpMetadata)
	}
	if f.rules == nil {
		return filter.Continue
	}
	by, allowed := f.rules.run(&in, httpMetadata)
	if allowed {
		return filter.Continue
	}
	ex.Details = f.rules.rules.detail(by)
	ex.LocalReply = http.LocalReply{Status: denied.Status, Body: denied.Body, Err: denied}
	return filter.Reply
}

// Enforced returns the rules that are enforced, nil if there are none.
func (f *Filter) Enforced() *Rules { return f.rules.set() }

// Shadowed returns the rules that are tried out, nil if there are none.
func (f *Filter) Shadowed() *Rules { return f.shadow.set() }

func (c *check) set() *Rules {
	if c == nil {
		return nil
	}
	return c.rules
}

// Network decides on connections. Immutable.
type Network struct{ rules, shadow *check }

// NewNetwork is New for connections.
func NewNetwork(rules, shadow Check) *Network {
	n := &Network{rules: newCheck(rules, false), shadow: newCheck(shadow, true)}
	if n.rules == nil && n.shadow == nil {
		return nil
	}
	return n
}

// Admit reports whether the connection may be served. It implements
// filter.Admitter.
func (n *Network) Admit(a *filter.Admission) bool {
	in := input{conn: a.Conn, data: &a.Metadata}
	if n.shadow != nil {
		n.shadow.run(&in, networkMetadata)
	}
	if n.rules == nil {
		return true
	}
	by, allowed := n.rules.run(&in, networkMetadata)
	if !allowed {
		a.Details = n.rules.rules.detail(by)
	}
	return allowed
}
