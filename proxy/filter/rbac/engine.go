// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"pillion/proxy/stats"
)

// Action is what becomes of a request that a policy of a rule set matches.
type Action uint8

// The actions.
const (
	Allow Action = iota // and any other is denied
	Deny                // and any other is allowed
	Log                 // all are allowed; that one matches is noted for the access log
)

// Policy says who (one of Principals) may do what (one of Permissions).
// Immutable.
type Policy struct {
	Name        string
	Permissions []Rule
	Principals  []Rule
	// Verdicts counts the decisions by this policy; nil counts none.
	Verdicts *Verdicts

	name   any    // Name, as metadata has it
	detail string // %RESPONSE_CODE_DETAILS% of a denial by it
}

func (p *Policy) matches(in *input) bool {
	return anyMatches(p.Permissions, in) && anyMatches(p.Principals, in)
}

// String describes the policy.
func (p *Policy) String() string {
	permissions, principals := Rule{Op: Or, Rules: p.Permissions}, Rule{Op: Or, Rules: p.Principals}
	return p.Name + ": " + permissions.String() + " by " + principals.String()
}

// Verdicts count decisions.
type Verdicts struct{ Allowed, Denied stats.Counter }

func (v *Verdicts) count(allowed bool) {
	if allowed {
		v.Allowed.Inc()
	} else {
		v.Denied.Inc()
	}
}

// Rules is a set of policies with what they do. Immutable.
type Rules struct {
	action   Action
	policies []Policy // by name
	index    *index   // nil if there is none
	none     string   // detail of a denial that no policy matched
	missed   any      // what was missing, as metadata has it
}

// NewRules makes a rule set. As with Envoy the first policy by name that
// matches is the one that decides.
func NewRules(action Action, policies []Policy) *Rules {
	r := &Rules{action: action, policies: slices.Clone(policies), none: Detail("none")}
	slices.SortFunc(r.policies, func(a, b Policy) int { return strings.Compare(a.Name, b.Name) })
	for i := range r.policies {
		p := &r.policies[i]
		p.name, p.detail = p.Name, Detail(p.Name)
	}
	r.missed = fmt.Sprintf("none of %d policies matched", len(r.policies))
	r.index = newIndex(r.policies)
	return r
}

// Detail is how a denial is told of in %RESPONSE_CODE_DETAILS% and
// %CONNECTION_TERMINATION_DETAILS% (Envoy: RBAC::responseDetail).
func Detail(policy string) string {
	return "rbac_access_denied_matched_policy[" + strings.Map(func(r rune) rune {
		if r < 0x80 && unicode.IsSpace(r) {
			return '_'
		}
		return r
	}, policy) + "]"
}

// Action returns what a match does.
func (r *Rules) Action() Action { return r.action }

// Policies returns the policies by name. They must not be changed.
func (r *Rules) Policies() []Policy { return r.policies }

// decide returns the policy that matches, nil if none does, and what follows.
func (r *Rules) decide(in *input) (by *Policy, allowed bool) {
	by = r.find(in)
	switch r.action {
	case Allow:
		return by, by != nil
	case Deny:
		return by, by == nil
	case Log:
		return by, true
	}
	return by, false
}

// find returns the first policy that matches.
func (r *Rules) find(in *input) *Policy {
	if r.index != nil {
		return r.index.find(r.policies, in)
	}
	return first(r.policies, in)
}

// detail is what to say of a denial by a policy, or by none.
func (r *Rules) detail(by *Policy) string {
	if by == nil {
		return r.none
	}
	return by.detail
}
