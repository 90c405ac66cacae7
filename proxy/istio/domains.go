// SPDX-License-Identifier: Apache-2.0

package istio

import "strings"

// domainForms lists the names by which a host can be asked for, the host itself first.
// The short forms of a Kubernetes name are those that resolve in the proxy's namespace:
// "reviews" only from the same namespace, "reviews.default" and "reviews.default.svc"
// from everywhere. All but the first may collide with the real name of another service.
func domainForms(host, namespace, domainSuffix string) []string {
	if isWildcard(host) {
		return []string{host}
	}
	forms := make([]string, 0, 5)
	forms = append(forms, host, host+".") // the second is an absolute name, RFC 1034 §3.1
	if short, ok := strings.CutSuffix(host, domainSuffix); ok && strings.HasSuffix(short, ".svc.") {
		short = short[:len(short)-len(".svc.")]
		if name, ns, ok := strings.Cut(short, "."); ok {
			if ns == namespace {
				forms = append(forms, name)
			}
			forms = append(forms, host[:len(short)+len(".svc")], short)
		}
	}
	return forms
}

// appendDomain adds the domains of a name: with the port, and before that without it
// if bare is set.
func appendDomain(domains []string, name string, port uint32, bare bool) []string {
	if bare {
		domains = append(domains, bracketIPv6(name))
	}
	return append(domains, hostPort(name, port))
}
