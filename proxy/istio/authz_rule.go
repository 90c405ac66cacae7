// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	security "istio.io/api/security/v1beta1"
)

func anyPermission() *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_Any{Any: true}}
}

func notPermission(p *rbacv3.Permission) *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_NotRule{NotRule: p}}
}

func allPermissions(of ...*rbacv3.Permission) *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{AndRules: &rbacv3.Permission_Set{Rules: of}}}
}

func somePermission(of ...*rbacv3.Permission) *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_OrRules{OrRules: &rbacv3.Permission_Set{Rules: of}}}
}

func anyPrincipal() *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
}

func notPrincipal(p *rbacv3.Principal) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: p}}
}

func allPrincipals(of ...*rbacv3.Principal) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{Ids: of}}}
}

func somePrincipal(of ...*rbacv3.Principal) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: &rbacv3.Principal_Set{Ids: of}}}
}

// clause is one thing that a rule asks for: one of some values and none of some others.
// M is a Permission or a Principal.
type clause[M any] struct {
	values, not []string
	match       func(values []string) M
	http        bool // can't be told of a connection that carries no HTTP
}

// each matches values one by one.
func each[M any](some func(...M) M, one func(string) M) func([]string) M {
	return func(values []string) M {
		var of []M
		for _, v := range values {
			of = append(of, one(v))
		}
		return some(of...)
	}
}

// logic puts matchers together.
type logic[M any] struct {
	all func(...M) M
	not func(M) M
	any func() M
}

// join makes one matcher of the clauses. Over TCP what is HTTP's alone can't be told. A
// rule that allows is dropped then, so that it allows less; in any other the rest has
// to do, so that it denies more (checkError of pilot/pkg/security/authz/model).
func (l *logic[M]) join(clauses []clause[M], tcp, allows bool) (out M, ok bool) {
	var of []M
	for _, c := range clauses {
		switch {
		case len(c.values)+len(c.not) == 0:
			continue
		case tcp && c.http && allows:
			return out, false
		case tcp && c.http:
			continue
		}
		if len(c.values) > 0 {
			of = append(of, c.match(c.values))
		}
		if len(c.not) > 0 {
			of = append(of, l.not(c.match(c.not)))
		}
	}
	if len(of) == 0 {
		of = []M{l.any()}
	}
	return l.all(of...), true
}

// ruleBuilder makes RBAC policies of one AuthorizationPolicy's rules.
type ruleBuilder struct {
	namespace    string // the policy's
	trustDomains []string
	port         *inboundPort // nil at a gateway
	tcp, allows  bool
}

// policy makes the RBAC policy of a rule; nil when it can't apply.
func (b *ruleBuilder) policy(r *security.Rule) *rbacv3.Policy {
	var permissions []clause[*rbacv3.Permission]
	var principals []clause[*rbacv3.Principal]
	for _, c := range r.When {
		if p, ok := b.permissionCondition(c); ok {
			permissions = append(permissions, p)
		} else {
			principals = append(principals, b.principalCondition(c))
		}
	}
	permission := logic[*rbacv3.Permission]{allPermissions, notPermission, anyPermission}
	principal := logic[*rbacv3.Principal]{allPrincipals, notPrincipal, anyPrincipal}
	out := &rbacv3.Policy{}
	to := r.To
	if len(to) == 0 {
		to = []*security.Rule_To{{}}
	}
	for _, t := range to {
		m, ok := permission.join(append(b.operation(t.GetOperation()), permissions...), b.tcp, b.allows)
		if !ok {
			return nil
		}
		out.Permissions = append(out.Permissions, m)
	}
	from := r.From
	if len(from) == 0 {
		from = []*security.Rule_From{{}}
	}
	for _, f := range from {
		m, ok := principal.join(append(b.source(f.GetSource()), principals...), b.tcp, b.allows)
		if !ok {
			return nil
		}
		out.Principals = append(out.Principals, m)
	}
	return out
}

func (b *ruleBuilder) operation(op *security.Operation) []clause[*rbacv3.Permission] {
	header := func(name string, ignoreCase bool) func([]string) *rbacv3.Permission {
		return each(somePermission, func(v string) *rbacv3.Permission {
			return &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: headerValue(name, v, ignoreCase)}}
		})
	}
	return []clause[*rbacv3.Permission]{
		{op.GetHosts(), op.GetNotHosts(), header(":authority", true), true},
		{op.GetMethods(), op.GetNotMethods(), header(":method", false), true},
		{op.GetPaths(), op.GetNotPaths(), each(somePermission, pathPermission), true},
		{op.GetPorts(), op.GetNotPorts(), each(somePermission, b.port.portPermission), false},
	}
}

func (b *ruleBuilder) source(s *security.Source) []clause[*rbacv3.Principal] {
	return []clause[*rbacv3.Principal]{
		{b.aliases(s.GetPrincipals()), b.aliases(s.GetNotPrincipals()), identity(principalName), false},
		{s.GetRequestPrincipals(), s.GetNotRequestPrincipals(), requestPrincipals, true},
		{s.GetServiceAccounts(), s.GetNotServiceAccounts(), identity(b.account), false},
		{b.domains(s.GetTrustDomains()), b.domains(s.GetNotTrustDomains()), identity(trustDomainName), false},
		{s.GetNamespaces(), s.GetNotNamespaces(), identity(namespaceName), false},
		{s.GetRemoteIpBlocks(), s.GetNotRemoteIpBlocks(), each(somePrincipal, remoteIP), false},
		{s.GetIpBlocks(), s.GetNotIpBlocks(), each(somePrincipal, directIP), false},
	}
}

// permissionCondition makes the clause of a condition on what is called; ok is false
// for one on who calls.
func (b *ruleBuilder) permissionCondition(c *security.Condition) (out clause[*rbacv3.Permission], ok bool) {
	out = clause[*rbacv3.Permission]{values: c.Values, not: c.NotValues}
	switch {
	case c.Key == "destination.ip":
		out.match = each(somePermission, func(v string) *rbacv3.Permission {
			return &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationIp{DestinationIp: cidr(v)}}
		})
	case c.Key == "destination.port":
		out.match = each(somePermission, b.port.portPermission)
	case c.Key == "connection.sni":
		out.match = each(somePermission, func(v string) *rbacv3.Permission {
			return &rbacv3.Permission{Rule: &rbacv3.Permission_RequestedServerName{RequestedServerName: wildcardString(v)}}
		})
	case strings.HasPrefix(c.Key, "experimental.envoy.filters."):
		out.match = func(values []string) *rbacv3.Permission { return envoyMetadata(c.Key, values) }
	default:
		return out, false
	}
	return out, true
}

// principalCondition makes the clause of a condition on who calls. A key that isn't
// known was refused when the policy was read.
func (b *ruleBuilder) principalCondition(c *security.Condition) clause[*rbacv3.Principal] {
	out := clause[*rbacv3.Principal]{values: c.Values, not: c.NotValues}
	claims := func(path ...string) {
		out.http = true
		out.match = func(values []string) *rbacv3.Principal { return claim(path, values) }
	}
	switch {
	case c.Key == "source.ip":
		out.match = each(somePrincipal, directIP)
	case c.Key == "remote.ip":
		out.match = each(somePrincipal, remoteIP)
	case c.Key == "source.namespace":
		out.match = identity(namespaceName)
	case c.Key == "source.serviceAccount":
		out.match = identity(b.account)
	case c.Key == "source.trustDomain":
		out.values, out.not = b.domains(c.Values), b.domains(c.NotValues)
		out.match = identity(trustDomainName)
	case c.Key == "source.principal":
		out.values, out.not = b.aliases(c.Values), b.aliases(c.NotValues)
		out.match = identity(principalName)
	case c.Key == "request.auth.principal":
		out.match, out.http = requestPrincipals, true
	case c.Key == "request.auth.audiences":
		claims("aud")
	case c.Key == "request.auth.presenter":
		claims("azp")
	case strings.HasPrefix(c.Key, "request.auth.claims"):
		claims(bracketed(strings.TrimPrefix(c.Key, "request.auth.claims"))...)
	default:
		name := strings.TrimSuffix(strings.TrimPrefix(c.Key, "request.headers["), "]")
		out.http = true
		out.match = each(somePrincipal, func(v string) *rbacv3.Principal {
			return &rbacv3.Principal{Identifier: &rbacv3.Principal_Header{Header: headerValue(name, v, false)}}
		})
	}
	return out
}

func identity(name func(string) *matcherv3.StringMatcher) func([]string) *rbacv3.Principal {
	return each(somePrincipal, func(v string) *rbacv3.Principal { return authenticated(name(v)) })
}

func (b *ruleBuilder) account(v string) *matcherv3.StringMatcher { return accountName(v, b.namespace) }

func requestPrincipals(values []string) *rbacv3.Principal {
	if len(values) == 1 {
		return requestPrincipal(values[0])
	}
	return each(somePrincipal, requestPrincipal)(values)
}

func directIP(v string) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_DirectRemoteIp{DirectRemoteIp: cidr(v)}}
}

func remoteIP(v string) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_RemoteIp{RemoteIp: cidr(v)}}
}

// domains adds to a trust domain of the mesh its other names.
func (b *ruleBuilder) domains(values []string) []string {
	var out []string
	for _, v := range values {
		add := []string{v}
		if slices.Contains(b.trustDomains, v) {
			add = b.trustDomains
		}
		for _, d := range add {
			if !slices.Contains(out, d) {
				out = append(out, d)
			}
		}
	}
	return out
}

// aliases adds to an identity of the mesh the same one under the mesh's other names.
// "cluster.local" always means the mesh, and one without a whole identity or with *
// for its trust domain is as it is (pilot/pkg/security/trustdomain of Istio).
func (b *ruleBuilder) aliases(values []string) []string {
	var out []string
	for _, v := range values {
		parts := strings.Split(v, "/")
		td := parts[0]
		if len(parts) != 5 || td == "*" || td != "cluster.local" && !slices.ContainsFunc(b.trustDomains, func(d string) bool { return sameDomain(td, d) }) {
			out = append(out, v)
			continue
		}
		var own []string
		for _, d := range b.trustDomains {
			one := d + strings.TrimPrefix(v, td)
			if after, ok := strings.CutPrefix(td, "*"); ok && strings.HasSuffix(d, after) {
				one = v
			}
			if !slices.Contains(own, one) {
				own = append(own, one)
			}
		}
		out = append(out, own...)
	}
	return out
}

// sameDomain compares a trust domain of a policy, with a * at one of its ends, with one
// of the mesh.
func sameDomain(pattern, domain string) bool {
	before, isPrefix := strings.CutSuffix(pattern, "*")
	after, isSuffix := strings.CutPrefix(pattern, "*")
	return pattern == domain || isPrefix && strings.HasPrefix(domain, before) || isSuffix && strings.HasSuffix(domain, after)
}
