// SPDX-License-Identifier: Apache-2.0

package istio

import "strings"

// domains lists the names by which a request can ask for a host at a port: every form
// with the port, and without it too when bare is set. The short forms of a Kubernetes
// name are those that resolve in the proxy's namespace: "reviews" only from the same
// namespace, "reviews.default" and "reviews.default.svc" from everywhere.
//
// The result has the order in which istiod lists them; expanded is the part of it that
// was made up here, and may collide with the real name of another service.
func domains(host string, port uint32, bare bool, namespace, domainSuffix string) (all []string, expanded map[string]struct{}) {
	forms := []string{host}
	if !isWildcard(host) {
		forms = append(forms, host+".") // an absolute name, RFC 1034 §3.1
		if short, ok := strings.CutSuffix(host, ".svc."+domainSuffix); ok {
			if name, ns, ok := strings.Cut(short, "."); ok {
				if ns == namespace {
					forms = append(forms, name)
				}
				forms = append(forms, short+".svc", short)
			}
		}
	}
	expanded = make(map[string]struct{}, 2*len(forms))
	for i, f := range forms {
		for _, d := range withPort(f, port, bare) {
			all = append(all, d)
			if i > 0 {
				expanded[d] = struct{}{}
			}
		}
	}
	return all, expanded
}

// withPort returns a name with its port, after the name alone if bare is set.
func withPort(name string, port uint32, bare bool) []string {
	if bare {
		return []string{bracketIPv6(name), hostPort(name, port)}
	}
	return []string{hostPort(name, port)}
}
