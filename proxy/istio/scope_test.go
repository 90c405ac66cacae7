// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strings"
	"testing"
)

// TestEgressHosts: which services a Sidecar's hosts bring in.
func TestEgressHosts(t *testing.T) {
	services := serviceYAML("default", "a.default.svc.cluster.local", port80) +
		serviceYAML("other", "b.other.svc.cluster.local", port80) +
		serviceYAML("other", "b.example.com", port80) +
		serviceYAML("third", "c.example.com", port80) +
		serviceYAML("third", "*.wild.example.com", port80)
	for hosts, want := range map[string]string{
		`["*/*"]`:                        "a.default b.other b.example.com c.example.com *.wild.example.com",
		`["./*"]`:                        "a.default",
		`["other/*"]`:                    "b.other b.example.com",
		`["*/b.example.com"]`:            "b.example.com",
		`["third/b.example.com"]`:        "",
		`["*/*.example.com"]`:            "b.example.com c.example.com *.wild.example.com",
		`["*/*.wild.example.com"]`:       "*.wild.example.com",
		`["./*", "third/c.example.com"]`: "a.default c.example.com",
		`["~/*"]`:                        "",
		`["*/*", "~third/*"]`:            "a.default b.other b.example.com",
		`["*/*", "~/*.example.com"]`:     "a.default b.other",
		`["*/*", "~other/b.other.svc.cluster.local"]`: "a.default b.example.com c.example.com *.wild.example.com",
	} {
		r, _ := translate(t, services+sidecarYAML("{egress: [{hosts: "+hosts+"}]}"), Options{})
		var got []string
		for _, c := range r.Clusters {
			if host, _, ok := parseClusterName(c.Name); ok {
				got = append(got, strings.TrimSuffix(host, ".svc.cluster.local"))
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s brings in %q, want %q", hosts, s, want)
		}
	}
}

// TestChooseSidecar: the one that selects the workload, the namespace's, the mesh's.
func TestChooseSidecar(t *testing.T) {
	sidecar := func(namespace, name, selector string) string {
		s := "\n---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec:\n"
		if selector != "" {
			s += "  workloadSelector: {labels: {" + selector + "}}\n"
		}
		return s + "  egress: [{hosts: [\"*/*\"]}]\n"
	}
	all := sidecar("default", "general", "") + sidecar("default", "for-app", "app: shop") +
		sidecar("istio-system", "mesh", "") + sidecar("istio-system", "selective", "app: shop") + sidecar("other", "theirs", "")
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Namespace: "default"}, "general"},
		{Options{Namespace: "default", Labels: map[string]string{"app": "shop", "version": "v1"}}, "for-app"},
		{Options{Namespace: "third"}, "mesh"},
		{Options{Namespace: "third", Labels: map[string]string{"app": "shop"}}, "mesh"},
		{Options{Namespace: "other"}, "theirs"},
	} {
		o := c.o.withDefaults()
		got := chooseSidecar(load(t, all), &o)
		if got == nil || got.Name != c.want {
			t.Errorf("%s %v: %v, want %s", c.o.Namespace, c.o.Labels, got, c.want)
		}
	}
	o := Options{}.withDefaults()
	if got := chooseSidecar(nil, &o); got != nil {
		t.Errorf("none: %v", got)
	}
}

// TestPortListener: an egress entry of a port has that port to itself.
func TestPortListener(t *testing.T) {
	yaml := serviceYAML("default", "a.default.svc.cluster.local", twoPorts) +
		serviceYAML("other", "b.other.svc.cluster.local", twoPorts) +
		sidecarYAML(`{egress: [{port: {number: 9080, protocol: HTTP, name: http}, hosts: ["other/*"]}, {hosts: ["./*"]}]}`)
	r, _ := translate(t, yaml, Options{})
	rc := r.routesOf(t, "http_proxy")
	for host, want := range map[string]string{
		"a:80": "a.default.svc.cluster.local:80", "a:9080": allowAny,
		"b.other:9080": "b.other.svc.cluster.local:9080", "b.other:80": allowAny,
	} {
		if got := hostOf(rc, host).Name; got != want {
			t.Errorf("%s goes to %s, want %s", host, got, want)
		}
	}
	if r.clusterOf("outbound|80||b.other.svc.cluster.local") != nil {
		t.Error("a port that isn't imported has a cluster")
	}
}

// TestRouteBringsService: a route may lead out of what a Sidecar imports.
func TestRouteBringsService(t *testing.T) {
	yaml := serviceYAML("default", "a.default.svc.cluster.local", port80) +
		serviceYAML("other", "b.other.svc.cluster.local", port80) +
		serviceYAML("other", "m.other.svc.cluster.local", port80) + `
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a, namespace: default}
spec:
  hosts: [a]
  http:
  - mirrors: [{destination: {host: m.other.svc.cluster.local}}]
    route: [{destination: {host: b.other.svc.cluster.local}}]
` + sidecarYAML(`{egress: [{hosts: ["./*"]}]}`)
	r, problems := translate(t, yaml, Options{})
	noProblems(t, problems)
	for _, host := range []string{"b.other.svc.cluster.local", "m.other.svc.cluster.local"} {
		if r.clusterOf("outbound|80||"+host) == nil {
			t.Errorf("no cluster of %s", host)
		}
		if got := hostOf(r.routesOf(t, "http_proxy"), host).Name; got != allowAny {
			t.Errorf("%s can be asked for by name: %s", host, got)
		}
	}
}

// TestSameHost: which of several declarations of a host counts.
func TestSameHost(t *testing.T) {
	at := func(namespace, address string) string {
		return strings.Replace(serviceYAML(namespace, "a.example.com", port80), "127.0.0.1", address, 1)
	}
	const kubernetes = `
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: third}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-1, namespace: third, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints: [{addresses: [10.0.0.9]}]
`
	kubernetesHost := strings.Replace(at("other", "127.0.0.4"), "a.example.com", "a.third.svc.cluster.local", 1)
	for _, c := range []struct{ name, yaml, host, want string }{
		{"own namespace", at("other", "127.0.0.2") + at("default", "127.0.0.3"), "a.example.com", "127.0.0.3:80"},
		{"first of others", at("other", "127.0.0.2") + at("third", "127.0.0.3"), "a.example.com", "127.0.0.2:80"},
		{"Kubernetes before others", kubernetesHost + kubernetes, "a.third.svc.cluster.local", "10.0.0.9:80"},
		{"alike in one namespace", at("default", "127.0.0.2") + strings.Replace(at("default", "127.0.0.3"), "name: a-", "name: b-", 1), "a.example.com", "127.0.0.2:80 127.0.0.3:80"},
	} {
		r, _ := translate(t, c.yaml, Options{})
		if got := strings.Join(r.addressesOf("outbound|80||"+c.host), " "); got != c.want {
			t.Errorf("%s: endpoints %s, want %s", c.name, got, c.want)
		}
	}
	unlike := at("default", "127.0.0.2") + strings.NewReplacer("name: a-", "name: b-", "STATIC", "DNS").Replace(at("default", "127.0.0.3"))
	_, problems := translate(t, unlike, Options{})
	wantProblem(t, problems, true, "ServiceEntry/default/b-example-com", "host a.example.com is ignored: it is declared by ServiceEntry/default/a-example-com")
}

// TestAliasCircle: Services that stand for each other stand for nothing.
func TestAliasCircle(t *testing.T) {
	alias := func(name, to string) string {
		return "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: " + name + ", namespace: default}\n" +
			"spec: {type: ExternalName, externalName: " + to + ", ports: [{name: http, port: 80}]}\n"
	}
	yaml := alias("a", "b.default.svc.cluster.local") + alias("b", "a.default.svc.cluster.local") +
		serviceYAML("default", "real.example.com", port80) + alias("c", "d.default.svc.cluster.local") + alias("d", "real.example.com") +
		virtualServiceYAML("default", "v", "[d]", "real.example.com")
	r, problems := translate(t, yaml, Options{})
	wantProblem(t, problems, true, "Service/default/a", "leads back to itself")
	wantProblem(t, problems, true, "VirtualService/default/v", "spec.hosts[0]", "d.default.svc.cluster.local is only another name for real.example.com")
	rc := r.routesOf(t, "http_proxy")
	for _, host := range []string{"c", "d", "c.default.svc.cluster.local:80"} {
		if got := hostOf(rc, host).Name; got != "real.example.com:80" {
			t.Errorf("%s goes to %s", host, got)
		}
	}
	if got := hostOf(rc, "a").Name; got != allowAny {
		t.Errorf("a goes to %s", got)
	}
}

func TestSelectedWorkloads(t *testing.T) {
	workload := func(name, address, labels string) string {
		return "\n---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: " + name +
			", namespace: default, labels: {tier: gold}}\nspec: {address: " + address + ", labels: {" + labels + "}}\n"
	}
	objs := load(t, workload("a", "10.0.0.1", "app: x, tier: tin")+workload("b", "10.0.0.2", "app: x, version: v2")+workload("c", "10.0.0.3", "app: z"))
	idx := newWorkloadEntries(objs)
	for _, c := range []struct {
		labels map[string]string
		want   []string
	}{
		{map[string]string{"app": "x"}, []string{"a", "b"}},
		{map[string]string{"app": "x", "version": "v2"}, []string{"b"}},
		{map[string]string{"tier": "gold"}, []string{"a", "b", "c"}}, // metadata goes before spec
		{map[string]string{"tier": "tin"}, nil},
		{nil, []string{"a", "b", "c"}},
	} {
		var got []string
		for _, e := range idx.selected("default", c.labels) {
			got = append(got, e.name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v selects %v, want %v", c.labels, got, c.want)
		}
	}
	if got := idx.selected("other", nil); got != nil {
		t.Errorf("another namespace has %v", got)
	}
	if got := objs[0].Spec.(interface{ GetLabels() map[string]string }).GetLabels()["tier"]; got != "tin" {
		t.Errorf("the object was changed: tier is %s", got)
	}
}

// TestAddressKinds: an endpoint whose address the resolution can't use is left out,
// since Envoy would refuse the whole cluster.
func TestAddressKinds(t *testing.T) {
	entry := func(resolution string) string {
		return "\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a, namespace: default}\nspec:\n" +
			"  hosts: [a.example.com]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: " + resolution +
			"\n  workloadSelector: {labels: {app: a}}\n"
	}
	workload := func(name, spec string) string {
		return "\n---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: " + name +
			", namespace: default}\nspec: {" + spec + ", labels: {app: a}}\n"
	}
	all := workload("ip", "address: 10.0.0.1") + workload("name", "address: b.example.com") +
		workload("socket", `address: "unix:///run/a"`) + workload("far", "network: other")
	for resolution, want := range map[string]int{"STATIC": 2, "DNS": 2, "DNS_ROUND_ROBIN": 1} {
		r, problems := translate(t, entry(resolution)+all, Options{})
		checkMessages(t, r)
		groups := r.clusterOf("outbound|80||a.example.com").GetLoadAssignment().GetEndpoints()
		if resolution == "STATIC" {
			groups = r.Endpoints[0].Endpoints
		}
		got := 0
		for _, g := range groups {
			got += len(g.LbEndpoints)
		}
		if got != want {
			t.Errorf("%s: %d endpoints, want %d", resolution, got, want)
		}
		if resolution == "DNS_ROUND_ROBIN" {
			wantProblem(t, problems, true, "ServiceEntry/default/a", "spec.resolution", "only the first of 2 is used")
		}
	}
}

// TestSocketEgress: an entry for a Unix socket doesn't take the place of others.
func TestSocketEgress(t *testing.T) {
	yaml := serviceYAML("default", "a.default.svc.cluster.local", port80) + serviceYAML("other", "b.other.svc.cluster.local", port80) +
		sidecarYAML(`{egress: [{bind: "unix:///run/out", port: {number: 0, protocol: HTTP, name: s}, hosts: ["other/*"]}, {hosts: ["./*"]}]}`)
	r, problems := translate(t, yaml, Options{})
	wantProblem(t, problems, true, "Sidecar/default/default", "spec.egress[0].bind")
	rc := r.routesOf(t, "http_proxy")
	if a, b := hostOf(rc, "a").Name, hostOf(rc, "b.other").Name; a != "a.default.svc.cluster.local:80" || b != allowAny {
		t.Errorf("a goes to %s, b to %s", a, b)
	}
}
