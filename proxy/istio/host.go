// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strconv"
	"strings"
)

// isWildcard tells a pattern such as "*.example.com" or "*" from the name of one host.
func isWildcard(host string) bool { return len(host) > 0 && host[0] == '*' }

// covers reports whether every host that h stands for is one that pattern stands for.
// Both may be wildcards. "*.example.com" does not cover "example.com".
func covers(pattern, h string) bool {
	switch {
	case !isWildcard(pattern):
		return pattern == h
	case !isWildcard(h):
		return strings.HasSuffix(h, pattern[1:])
	default:
		return len(h) >= len(pattern) && strings.HasSuffix(h, pattern[1:])
	}
}

// overlap reports whether one of the two patterns covers the other.
func overlap(a, b string) bool { return covers(a, b) || covers(b, a) }

// intersect returns the hosts that both lists cover, each once, in the order of a:
// where one entry covers another, the narrower one.
func intersect(a, b []string) []string {
	var out []string
	seen := make(map[string]struct{})
	add := func(h string) {
		if _, ok := seen[h]; !ok {
			seen[h] = struct{}{}
			out = append(out, h)
		}
	}
	for _, x := range a {
		for _, y := range b {
			if covers(y, x) {
				add(x)
			} else if covers(x, y) {
				add(y)
			}
		}
	}
	return out
}

// hostMap finds values by host: the one of that very name, or else that of the most
// specific wildcard that covers it. Its zero value is not usable; see newHostMap.
type hostMap[V any] struct {
	names     map[string]V // by lower-case name
	wildcards map[string]V // by what follows the asterisk
}

func newHostMap[V any]() *hostMap[V] {
	return &hostMap[V]{names: make(map[string]V), wildcards: make(map[string]V)}
}

// at returns the value stored for exactly this pattern.
func (m *hostMap[V]) at(pattern string) (V, bool) {
	if isWildcard(pattern) {
		v, ok := m.wildcards[pattern[1:]]
		return v, ok
	}
	v, ok := m.names[pattern]
	return v, ok
}

func (m *hostMap[V]) set(pattern string, v V) {
	if isWildcard(pattern) {
		m.wildcards[pattern[1:]] = v
		return
	}
	m.names[pattern] = v
}

// find returns the value of the most specific pattern that covers h. It takes one
// lookup per byte of h at most, however many patterns there are.
func (m *hostMap[V]) find(h string) (V, bool) {
	if v, ok := m.at(h); ok {
		return v, true
	}
	suffix := h
	if isWildcard(h) {
		suffix = h[1:]
	}
	if len(m.wildcards) > 0 {
		for i := range len(suffix) + 1 {
			if v, ok := m.wildcards[suffix[i:]]; ok {
				return v, true
			}
		}
	}
	var none V
	return none, false
}

// qualify turns a host as written in a resource into a full name: one without a dot
// is a Kubernetes service of the resource's own namespace. IP addresses, wildcards
// and names with a dot stand as they are.
func qualify(host, namespace, domainSuffix string) string {
	if host == "" || host == "*" || strings.Contains(host, ".") {
		return strings.ToLower(host)
	}
	if strings.Contains(host, ":") { // an IPv6 address
		return host
	}
	return strings.ToLower(host) + "." + namespace + ".svc." + domainSuffix
}

// qualifyGateway turns the name of a gateway into "namespace/name". The forms are
// "mesh", "name", "namespace/name", "./name" and the old "name.namespace[.svc…]".
func qualifyGateway(name, namespace string) string {
	if name == meshGateway {
		return name
	}
	if ns, rest, ok := strings.Cut(name, "/"); ok {
		if ns == "." {
			return namespace + "/" + rest
		}
		return name
	}
	short, rest, ok := strings.Cut(name, ".")
	if !ok {
		return namespace + "/" + name
	}
	ns, _, _ := strings.Cut(rest, ".")
	return ns + "/" + short
}

// hostPort appends a port to a host; an IPv6 address is put in brackets.
func hostPort(host string, port uint32) string {
	return bracketIPv6(host) + ":" + strconv.FormatUint(uint64(port), 10)
}

func bracketIPv6(host string) string {
	if strings.Count(host, ":") > 1 && host[0] != '[' {
		return "[" + host + "]"
	}
	return host
}

// isSubset reports whether labels has every pair of want.
func isSubset(want, labels map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
