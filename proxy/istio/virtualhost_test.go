// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// virtualServiceYAML routes hosts to a host, under a route name that is the resource's.
func virtualServiceYAML(namespace, name, hosts, to string) string {
	return `
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ` + name + `, namespace: ` + namespace + `}
spec:
  hosts: ` + hosts + `
  http: [{name: ` + name + `, route: [{destination: {host: ` + to + `}}]}]
`
}

// TestHosts looks up Host headers as Envoy does.
func TestHosts(t *testing.T) {
	yaml := serviceYAML("default", "reviews.default.svc.cluster.local", port9080) +
		serviceYAML("default", "shop.default.svc.cluster.local", twoPorts) +
		serviceYAML("default", "multi.default.svc.cluster.local", "[{number: 8001, name: http-a, protocol: HTTP}, {number: 8002, name: http-b, protocol: HTTP}]") +
		serviceYAML("other", "ratings.other.svc.cluster.local", port9080) +
		serviceYAML("default", "*.wild.example.com", port80) +
		serviceYAML("default", "db.default.svc.cluster.local", "[{number: 5432, name: tcp, protocol: TCP}]")
	r, _ := translate(t, yaml, Options{})
	rc := r.routesOf(t, "http_proxy")
	for host, want := range map[string]string{
		"reviews:9080":                            "reviews.default.svc.cluster.local:9080",
		"Reviews:9080":                            "reviews.default.svc.cluster.local:9080",
		"reviews":                                 "reviews.default.svc.cluster.local:9080",
		"reviews.default":                         "reviews.default.svc.cluster.local:9080",
		"reviews.default:9080":                    "reviews.default.svc.cluster.local:9080",
		"reviews.default.svc:9080":                "reviews.default.svc.cluster.local:9080",
		"reviews.default.svc.cluster.local:9080":  "reviews.default.svc.cluster.local:9080",
		"reviews.default.svc.cluster.local.:9080": "reviews.default.svc.cluster.local:9080",
		"reviews:80":                              allowAny,
		"shop":                                    "shop.default.svc.cluster.local:80",
		"shop:80":                                 "shop.default.svc.cluster.local:80",
		"shop:9080":                               "shop.default.svc.cluster.local:9080",
		"multi:8001":                              "multi.default.svc.cluster.local:8001",
		"multi":                                   allowAny, // either port could be meant
		"ratings:9080":                            allowAny, // of another namespace
		"ratings.other:9080":                      "ratings.other.svc.cluster.local:9080",
		"a.wild.example.com":                      "*.wild.example.com:80",
		"a.b.wild.example.com:80":                 "*.wild.example.com:80",
		"wild.example.com":                        allowAny,
		"db:5432":                                 allowAny,
		"example.com":                             allowAny,
	} {
		if vh := hostOf(rc, host); vh == nil || vh.Name != want {
			t.Errorf("%s goes to %v, want %s", host, vh.GetName(), want)
		}
	}
}

// TestHostsAreUnique: Envoy refuses a route configuration in which a domain or a
// virtual host's name occurs twice, so no set of resources may lead to one.
func TestHostsAreUnique(t *testing.T) {
	yaml := serviceYAML("default", "a.default.svc.cluster.local", twoPorts) +
		serviceYAML("default", "a.default", port80) + // a short form of the first
		serviceYAML("default", "a", port80) + // another
		serviceYAML("other", "a.default.svc.cluster.local", port80) + // the same in another namespace
		virtualServiceYAML("default", "one", `["a.default.svc.cluster.local", b.example.com]`, "a") +
		virtualServiceYAML("default", "two", `["b.example.com"]`, "a") +
		virtualServiceYAML("other", "three", `["*.example.com"]`, "a.default.svc.cluster.local")
	r, problems := translate(t, yaml, Options{})
	seen := make(map[string]string)
	names := make(map[string]bool)
	for _, vh := range r.routesOf(t, "http_proxy").VirtualHosts {
		if names[vh.Name] {
			t.Errorf("two virtual hosts %s", vh.Name)
		}
		names[vh.Name] = true
		for _, d := range vh.Domains {
			d = strings.ToLower(d)
			if seen[d] != "" {
				t.Errorf("domain %s is in %s and %s", d, seen[d], vh.Name)
			}
			seen[d] = vh.Name
		}
	}
	if got := seen["a.default:80"]; got != "a.default:80" {
		t.Errorf("a.default:80 is in %s, though a service has this very name", got)
	}
	wantProblem(t, problems, true, "VirtualService/default/two", "b.example.com is routed by VirtualService/default/one")
}

// TestSharedAddress: services with one address are told apart by port, and port 80 has
// the address alone.
func TestSharedAddress(t *testing.T) {
	yaml := strings.ReplaceAll(serviceYAML("default", "a.example.com", port9080)+serviceYAML("default", "b.example.com", port80),
		"  resolution:", "  addresses: [10.0.0.1]\n  resolution:")
	r, _ := translate(t, yaml, Options{})
	rc := r.routesOf(t, "http_proxy")
	for host, want := range map[string]string{
		"10.0.0.1": "b.example.com:80", "10.0.0.1:80": "b.example.com:80", "10.0.0.1:9080": "a.example.com:9080",
	} {
		if got := hostOf(rc, host).Name; got != want {
			t.Errorf("%s goes to %s, want %s", host, got, want)
		}
	}
}

// TestWildcardVirtualService: a service is routed by what names it most exactly.
func TestWildcardVirtualService(t *testing.T) {
	yaml := serviceYAML("default", "a.example.com", port80) +
		serviceYAML("default", "b.example.com", port80) +
		serviceYAML("default", "c.b.example.com", port80) +
		serviceYAML("default", "d.example.org", port80) +
		virtualServiceYAML("default", "wide", `["*.example.com"]`, "d.example.org") +
		virtualServiceYAML("default", "narrow", `["*.b.example.com"]`, "d.example.org") +
		virtualServiceYAML("default", "exact", `[a.example.com]`, "d.example.org")
	r, problems := translate(t, yaml, Options{})
	noProblems(t, problems)
	rc := r.routesOf(t, "http_proxy")
	for host, want := range map[string]string{
		"a.example.com": "exact", "b.example.com": "wide", "c.b.example.com": "narrow", "d.example.org": "default",
	} {
		if got := hostOf(rc, host).Routes[0].Name; got != want {
			t.Errorf("%s is routed by %s, want %s", host, got, want)
		}
	}
}

// TestUnmatchedPortKeepsDefault: a VirtualService all of whose matches are about
// another port leaves this one as it is.
func TestUnmatchedPortKeepsDefault(t *testing.T) {
	yaml := serviceYAML("default", "a.example.com", twoPorts) + `
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a, namespace: default}
spec:
  hosts: [a.example.com]
  http: [{name: only-80, match: [{port: 80}], directResponse: {status: 200}}]
`
	r, _ := translate(t, yaml, Options{})
	rc := r.routesOf(t, "http_proxy")
	if got := hostOf(rc, "a.example.com:80").Routes[0].Name; got != "only-80" {
		t.Errorf("port 80 is routed by %s", got)
	}
	if got := hostOf(rc, "a.example.com:9080").Routes[0].Name; got != "default" {
		t.Errorf("port 9080 is routed by %s", got)
	}
}

// TestUnknownHost: a VirtualService for a host without a service is for port 80.
func TestUnknownHost(t *testing.T) {
	yaml := serviceYAML("default", "a.example.com", port9080) +
		virtualServiceYAML("default", "outside", "[www.example.org]", "a.example.com") +
		virtualServiceYAML("default", "typo", "[revews]", "a.example.com")
	r, problems := translate(t, yaml, Options{})
	rc := r.routesOf(t, "http_proxy")
	if got := hostOf(rc, "www.example.org").Routes[0].GetRoute().GetCluster(); got != "outbound|9080||a.example.com" {
		t.Errorf("www.example.org leads to %s", got)
	}
	wantProblem(t, problems, true, "VirtualService/default/typo", "spec.hosts[0]", "there is no service revews.default.svc.cluster.local")
	if len(problems) != 1 {
		t.Errorf("more problems than that:\n%s", describe(problems))
	}
}

func sidecarYAML(spec string) string {
	return `
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: default}
spec: ` + spec + "\n"
}

// TestOutboundPolicy: what becomes of hosts that no service has.
func TestOutboundPolicy(t *testing.T) {
	proxy := serviceYAML("default", "egress.default.svc.cluster.local", port80)
	for _, c := range []struct {
		name, yaml string
		policy     OutboundPolicy
		cluster    string // "" is a direct response
	}{
		{"default", "", AllowAny, passthroughCluster},
		{"option", "", RegistryOnly, ""},
		{"sidecar blocks", sidecarYAML("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"), AllowAny, ""},
		{"sidecar blocks by default", sidecarYAML("{outboundTrafficPolicy: {}}"), AllowAny, ""},
		{"sidecar allows", sidecarYAML("{outboundTrafficPolicy: {mode: ALLOW_ANY}}"), RegistryOnly, passthroughCluster},
		{"egress proxy", proxy + sidecarYAML("{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: egress, port: {number: 80}}}}"),
			AllowAny, "outbound|80||egress.default.svc.cluster.local"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := translate(t, c.yaml, Options{OutboundPolicy: c.policy})
			vh := hostOf(r.routesOf(t, "http_proxy"), "www.example.org")
			route := vh.Routes[0]
			if c.cluster == "" {
				if vh.Name != blockAll || route.GetDirectResponse().GetStatus() != 502 {
					t.Errorf("%s: %v", vh.Name, route)
				}
				return
			}
			if vh.Name != allowAny || route.GetRoute().GetCluster() != c.cluster {
				t.Errorf("%s: %v", vh.Name, route)
			}
			if d := route.GetRoute().Timeout; d == nil || d.AsDuration() != 0 {
				t.Errorf("timeout %v; without one Envoy's is 15 s", d)
			}
		})
	}
}

// TestVisibility: exportTo of services and of VirtualServices.
func TestVisibility(t *testing.T) {
	export := func(yaml, to string) string {
		return strings.Replace(yaml, "  hosts:", "  exportTo: ["+to+"]\n  hosts:", 1)
	}
	yaml := serviceYAML("default", "a.example.com", port80) +
		export(serviceYAML("other", "private.example.com", port80), `"."`) +
		export(serviceYAML("other", "shared.example.com", port80), "default") +
		export(serviceYAML("other", "none.example.com", port80), `"~"`) +
		export(virtualServiceYAML("other", "theirs", "[a.example.com]", "a.example.com"), `"."`) +
		virtualServiceYAML("other", "public", "[a.example.com]", "a.example.com") +
		export(virtualServiceYAML("other", "given", "[a.example.com]", "a.example.com"), "default") +
		export(virtualServiceYAML("default", "own", "[a.example.com]", "a.example.com"), `"."`)
	r, problems := translate(t, yaml, Options{})
	rc := r.routesOf(t, "http_proxy")
	for host, want := range map[string]string{
		"private.example.com": allowAny, "shared.example.com": "shared.example.com:80", "none.example.com": allowAny,
	} {
		if got := hostOf(rc, host).Name; got != want {
			t.Errorf("%s goes to %s, want %s", host, got, want)
		}
	}
	// Routes that are one's own go before those that are for some, and those before
	// the ones for all.
	if got := hostOf(rc, "a.example.com").Routes[0].Name; got != "own" {
		t.Errorf("a.example.com is routed by %s", got)
	}
	wantProblem(t, problems, true, "VirtualService/other/given", "VirtualService/default/own")
	wantProblem(t, problems, true, "VirtualService/other/public", "VirtualService/default/own")
}

// TestSelfContained: every cluster that routes name is there, but for those that
// problems are about, and every EDS cluster has its endpoints.
func TestSelfContained(t *testing.T) {
	for _, name := range []string{"mesh", "policy", "registry", "gateway", "sidecar"} {
		r, _ := Translate(loadFile(t, name+".yaml"), Options{HTTPAddr: "127.0.0.1:15080"})
		var used []string
		for _, rc := range r.Routes {
			for _, vh := range rc.VirtualHosts {
				for _, route := range vh.Routes {
					used = append(used, clustersOf(route)...)
				}
			}
		}
		for _, cluster := range used {
			if r.clusterOf(cluster) == nil {
				t.Errorf("%s: a route leads to %s, which isn't there", name, cluster)
			}
		}
		for _, c := range r.Clusters {
			if eds := c.GetEdsClusterConfig(); eds != nil && !slices.ContainsFunc(messagesOf(r), func(n string) bool { return n == eds.ServiceName }) {
				t.Errorf("%s: there are no endpoints for %s", name, c.Name)
			}
		}
	}
}

func messagesOf(r *Resources) []string {
	var out []string
	for _, e := range r.Endpoints {
		out = append(out, e.ClusterName)
	}
	return out
}

func clustersOf(r *routev3.Route) []string {
	var out []string
	if c := r.GetRoute().GetCluster(); c != "" {
		out = append(out, c)
	}
	for _, w := range r.GetRoute().GetWeightedClusters().GetClusters() {
		out = append(out, w.Name)
	}
	for _, m := range r.GetRoute().GetRequestMirrorPolicies() {
		out = append(out, m.Cluster)
	}
	return out
}
