// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	security "istio.io/api/security/v1beta1"
	api "istio.io/api/type/v1beta1"
)

// AnnotationDryRun makes a policy decide without anything following from it.
const AnnotationDryRun = "istio.io/dry-run"

// authorizationPolicy checks a policy. What isn't understood here is an error and never
// a warning: a rule that means less than its author thinks lets in what it shouldn't.
func (s *subject) authorizationPolicy(at *place, p *security.AuthorizationPolicy) {
	s.policyTargets(at, p.Selector, p.TargetRef, p.TargetRefs)
	if text, ok := s.Annotations[AnnotationDryRun]; ok {
		if _, err := strconv.ParseBool(text); err != nil {
			s.failAt(s.top.key("metadata").key("annotations"), AnnotationDryRun, `%q is neither "true" nor "false"`, clip(text))
		}
	}
	custom := p.Action == security.AuthorizationPolicy_CUSTOM
	name := p.GetProvider().GetName()
	switch {
	case custom && name == "":
		s.failAt(at, "provider", "action CUSTOM needs the name of an extension provider")
	case !custom && p.GetProvider() != nil:
		s.failAt(at, "provider", "is for action CUSTOM only")
	case custom && (len(name) > 63 || badLabel(name) != ""):
		s.failAt(at.key("provider"), "name", "%q isn't a provider's name; wants lower case letters, digits and hyphens, at most 63", clip(name))
	}
	if len(p.Rules) == 0 && (custom || p.Action == security.AuthorizationPolicy_DENY) {
		s.failAt(at, "rules", "action %s without a rule never has an effect; an empty rule {} is for every request", p.Action)
	}
	for i, rule := range p.Rules {
		s.policyRule(at.key("rules").item(i), rule, p.Action)
	}
}

// policyTargets checks what a policy is for.
func (s *subject) policyTargets(at *place, selector *api.WorkloadSelector, ref *api.PolicyTargetReference, refs []*api.PolicyTargetReference) {
	given := 0
	if selector != nil {
		given++
		s.checkSelector(at.key("selector").key("matchLabels"), selector.MatchLabels)
	}
	if ref != nil {
		given++
		s.targetRef(at.key("targetRef"), ref)
	}
	if len(refs) > 0 {
		given++
		for i, r := range refs {
			s.targetRef(at.key("targetRefs").item(i), r)
		}
	}
	if given > 1 {
		s.failAt(at, "", "selector, targetRef and targetRefs exclude each other; give one")
	}
}

func (s *subject) policyRule(at *place, r *security.Rule, action security.AuthorizationPolicy_Action) {
	custom := action == security.AuthorizationPolicy_CUSTOM
	// An empty list would be no list, and mean everyone.
	for _, list := range [...]string{"from", "to", "when"} {
		if _, n := at.key(list).find(s.root); n != nil && target(n).Kind == yaml.SequenceNode && len(target(n).Content) == 0 {
			s.failAt(at, list, "can't be empty; leave it out to match everything")
		}
	}
	overTCP := len(r.From) == 0 && len(r.To) == 0
	for i, f := range r.From {
		overTCP = s.policySource(at.key("from").item(i), f.Source, custom) || overTCP
	}
	for i, t := range r.To {
		overTCP = s.policyOperation(at.key("to").item(i), t.Operation) || overTCP
	}
	for i, c := range r.When {
		s.policyCondition(at.key("when").item(i), c, custom)
	}
	if !overTCP && action == security.AuthorizationPolicy_DENY {
		s.warnAt(at, "", "on ports that carry TCP this rule denies everything, since all that it asks for is of HTTP; name the ports that are meant")
	}
}

// valueList is one list of values of a policy.
type valueList struct {
	field  string
	values []string
	check  func(string) string // says why a value is wrong; nil takes all but ""
	tcp    bool                // is known of a connection, without HTTP
	who    bool                // asks for identity, for which action CUSTOM is too early
}

// lists checks lists of values. empty: none of them has a value; tcp: one of them has,
// and is known of a connection.
func (s *subject) lists(at *place, custom bool, lists []valueList) (empty, tcp bool) {
	empty = true
	for _, l := range lists {
		if len(l.values) == 0 {
			continue
		}
		empty, tcp = false, tcp || l.tcp
		if custom && l.who {
			s.failAt(at, l.field, "isn't known yet when action CUSTOM decides")
		}
		s.policyValues(at.key(l.field), l.values, l.check)
	}
	return empty, tcp
}

func (s *subject) policyValues(at *place, values []string, check func(string) string) {
	for i, v := range values {
		switch {
		case v == "":
			s.failAt(at.item(i), "", "an empty value matches nothing")
		case check != nil:
			if why := check(v); why != "" {
				s.failAt(at.item(i), "", "%q %s", clip(v), why)
			}
		}
	}
}

// policySource reports whether something that is known of a connection is asked for.
func (s *subject) policySource(at *place, src *security.Source, custom bool) bool {
	if src == nil {
		s.failAt(at, "source", "is required")
		return false
	}
	at = at.key("source")
	empty, tcp := s.lists(at, custom, []valueList{
		{"principals", src.Principals, nil, true, true},
		{"notPrincipals", src.NotPrincipals, nil, true, true},
		{"requestPrincipals", src.RequestPrincipals, nil, false, true},
		{"notRequestPrincipals", src.NotRequestPrincipals, nil, false, true},
		{"namespaces", src.Namespaces, nil, true, true},
		{"notNamespaces", src.NotNamespaces, nil, true, true},
		{"serviceAccounts", src.ServiceAccounts, badServiceAccount, true, true},
		{"notServiceAccounts", src.NotServiceAccounts, badServiceAccount, true, true},
		{"trustDomains", src.TrustDomains, badTrustDomain, true, true},
		{"notTrustDomains", src.NotTrustDomains, badTrustDomain, true, true},
		{"ipBlocks", src.IpBlocks, badBlock, true, false},
		{"notIpBlocks", src.NotIpBlocks, badBlock, true, false},
		{"remoteIpBlocks", src.RemoteIpBlocks, badBlock, true, false},
		{"notRemoteIpBlocks", src.NotRemoteIpBlocks, badBlock, true, false},
	})
	if empty {
		s.failAt(at, "", "is empty; leave out \"from\" to match every source")
	}
	accounts := len(src.ServiceAccounts) + len(src.NotServiceAccounts)
	if accounts > 0 && len(src.Principals)+len(src.NotPrincipals)+len(src.Namespaces)+len(src.NotNamespaces) > 0 {
		s.failAt(at, "", "serviceAccounts can't be given together with principals or namespaces")
	}
	return tcp
}

// policyOperation reports whether something that is known of a connection is asked for.
func (s *subject) policyOperation(at *place, op *security.Operation) bool {
	if op == nil {
		s.failAt(at, "operation", "is required")
		return false
	}
	at = at.key("operation")
	empty, tcp := s.lists(at, false, []valueList{
		{"hosts", op.Hosts, nil, false, false},
		{"notHosts", op.NotHosts, nil, false, false},
		{"ports", op.Ports, badPort, true, false},
		{"notPorts", op.NotPorts, badPort, true, false},
		{"methods", op.Methods, nil, false, false},
		{"notMethods", op.NotMethods, nil, false, false},
		{"paths", op.Paths, badPathTemplate, false, false},
		{"notPaths", op.NotPaths, badPathTemplate, false, false},
	})
	if empty {
		s.failAt(at, "", "is empty; leave out \"to\" to match every operation")
	}
	return tcp
}

// attribute is what a condition's key may name.
type attribute struct {
	check func(string) string
	who   bool
	key   bool // is followed by a name in brackets
}

// attributeOf finds what a condition's key names.
func attributeOf(key string) (attribute, bool) {
	switch key {
	case "source.ip", "remote.ip", "destination.ip":
		return attribute{check: badBlock}, true
	case "destination.port":
		return attribute{check: badPort}, true
	case "connection.sni":
		return attribute{}, true
	case "source.namespace", "source.principal", "request.auth.principal", "request.auth.audiences", "request.auth.presenter":
		return attribute{who: true}, true
	case "source.serviceAccount":
		return attribute{who: true, check: badServiceAccount}, true
	case "source.trustDomain":
		return attribute{who: true, check: badTrustDomain}, true
	}
	switch {
	case strings.HasPrefix(key, "request.headers["), strings.HasPrefix(key, "experimental.envoy.filters."):
		return attribute{key: true}, true
	case strings.HasPrefix(key, "request.auth.claims["):
		return attribute{key: true, who: true}, true
	}
	return attribute{}, false
}

func (s *subject) policyCondition(at *place, c *security.Condition, custom bool) {
	a, ok := attributeOf(c.Key)
	open := strings.IndexByte(c.Key, '[')
	switch {
	case c.Key == "":
		s.failAt(at, "key", "is required")
	case !ok:
		s.failAt(at, "key", "unknown attribute %q", clip(c.Key))
	case a.key && (open < 1 || !strings.HasSuffix(c.Key, "]") || open >= len(c.Key)-2):
		s.failAt(at, "key", "%q wants a name in brackets at its end", clip(c.Key))
	case strings.HasPrefix(c.Key, "request.headers[") && badHeaderName(strings.TrimPrefix(c.Key[open+1:len(c.Key)-1], ":")) != "":
		s.failAt(at, "key", "%q %s", clip(c.Key[open+1:len(c.Key)-1]), badHeaderName(c.Key[open+1:len(c.Key)-1]))
	case custom && a.who:
		s.failAt(at, "key", "%s isn't known yet when action CUSTOM decides", c.Key)
	}
	if len(c.Values)+len(c.NotValues) == 0 {
		s.failAt(at, "", "needs values or notValues")
	}
	s.policyValues(at.key("values"), c.Values, a.check)
	s.policyValues(at.key("notValues"), c.NotValues, a.check)
}

// badBlock says why a text is no IP address and no range of them.
func badBlock(v string) string {
	var err error
	if strings.Contains(v, "/") {
		_, err = netip.ParsePrefix(v)
	} else {
		_, err = netip.ParseAddr(v)
	}
	if err != nil {
		return "is neither an IP address nor a range such as 10.0.0.0/8"
	}
	return ""
}

func badPort(v string) string {
	if p, err := strconv.ParseUint(v, 10, 32); err != nil || p > maxPort {
		return "isn't a port"
	}
	return ""
}

// badServiceAccount: "name" or "namespace/name".
func badServiceAccount(v string) string {
	ns, name, ok := strings.Cut(v, "/")
	if !ok {
		ns, name = "-", v
	}
	switch {
	case strings.Contains(v, "*"):
		return "can't have a wildcard"
	case ns == "" || name == "" || strings.Contains(name, "/") || len(v) > 320:
		return `isn't a service account; wants "name" or "namespace/name"`
	}
	return ""
}

// badTrustDomain: exact, or with one * at its beginning or end.
func badTrustDomain(v string) string {
	switch {
	case strings.Contains(v, "/"):
		return "isn't a trust domain: it has a slash"
	case strings.Count(v, "*") > 1, strings.Contains(strings.Trim(v, "*"), "*"):
		return "may have one * only, at its beginning or end"
	}
	return ""
}

// templateLiteral are the characters of a segment beside a template (RFC 3986 appendix
// A, pchar).
var templateLiteral = regexp.MustCompile(`^[a-zA-Z0-9-._~%!$&'()+,;:@=]+$`)

// badPathTemplate checks {*} and {**}, each a whole segment, {**} the last of them.
func badPathTemplate(path string) string {
	template := strings.Contains(path, "{*}") || strings.Contains(path, "{**}")
	rest := false
	for _, segment := range strings.Split(strings.Trim(path, "/"), "/") {
		switch {
		case segment == "{*}" || segment == "{**}":
			if rest {
				return "has a template behind {**}, which has to be the last"
			}
			rest = segment == "{**}"
		case strings.ContainsAny(segment, "{}"):
			return "has a brace that isn't part of {*} or {**}, each a segment by itself"
		case template && !templateLiteral.MatchString(segment):
			return "has a segment that can't stand beside a template"
		}
	}
	return ""
}
