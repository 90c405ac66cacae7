// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"pillion/proxy/istio/source"
)

// TestPolicySelection: which policies are before a workload. Each forbids everything,
// so that the names of the rules say which are there.
func TestPolicySelection(t *testing.T) {
	policy := func(name, namespace, what string) string {
		return "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: " + name + ", namespace: " + namespace + "}\n" +
			"spec: {" + what + "action: DENY, rules: [{}]}\n"
	}
	const app, other = "selector: {matchLabels: {app: app}}, ", "selector: {matchLabels: {app: other}}, "
	yaml := inboundMesh("{name: http, port: 80}", policy("own", "default", "")+policy("own-app", "default", app)+policy("own-other", "default", other)+
		policy("root", "istio-system", "")+policy("root-app", "istio-system", app)+policy("root-other", "istio-system", other)+
		policy("foreign", "foreign", "")+policy("foreign-app", "foreign", app)+
		policy("waypoint", "default", "targetRefs: [{kind: Service, name: app}], "))
	for _, c := range []struct {
		name      string
		o         Options
		want      string
		complaint string
	}{
		{"labels", Options{Labels: map[string]string{"app": "app", "version": "v1"}}, "own own-app root root-app", ""},
		{"no labels", Options{}, "own root", "AuthorizationPolicy/default/own-app: spec.selector: is not enforced here: the proxy doesn't know the workload's labels"},
		{"namespace", Options{Namespace: "foreign", Labels: map[string]string{"app": "app"}}, "foreign foreign-app root root-app", ""},
		{"root namespace", Options{RootNamespace: "foreign", Labels: map[string]string{"app": "app"}}, "own own-app foreign foreign-app", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Inbound = []string{"127.0.0.1:1=:80"}
			r, problems := Translate(load(t, yaml), c.o)
			if r == nil {
				t.Fatal(describe(problems))
			}
			text, err := r.JSON()
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range strings.Fields("own own-app own-other root root-app root-other foreign foreign-app waypoint") {
				want := strings.Contains(" "+c.want+" ", " "+name+" ")
				if got := strings.Contains(string(text), "policy["+name+"]"); got != want {
					t.Errorf("%s is there: %t, want %t", name, got, want)
				}
			}
			if said := describe(problems); !strings.Contains(said, c.complaint) || !strings.Contains(said, "waypoint: spec.targetRefs: is for gateways") {
				t.Errorf("said %q", said)
			}
		})
	}
	t.Run("no inbound", func(t *testing.T) {
		r, problems := Translate(load(t, yaml), Options{HTTPAddr: "127.0.0.1:1"})
		if r == nil || !strings.Contains(describe(problems), "AuthorizationPolicy/default/own: is not enforced here: the proxy stands before no workload") {
			t.Errorf("said %q", describe(problems))
		}
	})
}

// TestGatewaysSharePort: two Gateways at one port have to have the same policies.
func TestGatewaysSharePort(t *testing.T) {
	gateway := func(name, label string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: " + name + ", namespace: default}\n" +
			"spec: {selector: {istio: " + label + "}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['" + name + ".example']}]}\n"
	}
	const policy = `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: default}
spec: {selector: {matchLabels: {istio: a}}, action: DENY, rules: [{}]}
`
	for _, c := range []struct {
		name, yaml string
		labels     map[string]string
		want       string // of the error; "" is none
		denies     bool
	}{
		{"alike", gateway("one", "a") + gateway("two", "a") + policy, nil, "", true},
		{"not alike", gateway("one", "a") + gateway("two", "b") + policy, nil, "shares a port with Gateway/default/one", false},
		{"by labels", gateway("one", "a") + gateway("two", "b") + policy, map[string]string{"istio": "a"}, "", true},
		{"by other labels", gateway("one", "a") + gateway("two", "b") + policy, map[string]string{"istio": "b"}, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, problems := Translate(load(t, c.yaml), Options{Labels: c.labels})
			if c.want != "" {
				if r != nil || !strings.Contains(describe(problems), c.want) {
					t.Errorf("said %q", describe(problems))
				}
				return
			}
			if r == nil {
				t.Fatal(describe(problems))
			}
			m := &hcmv3.HttpConnectionManager{}
			if err := r.Listeners[0].FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(m); err != nil {
				t.Fatal(err)
			}
			if got := m.HttpFilters[1].Name == filterHTTPRBAC; got != c.denies {
				t.Errorf("filters are %v", m.HttpFilters)
			}
		})
	}
}

// withMeshConfig reads a MeshConfig from a text.
func withMeshConfig(t *testing.T, text string) (*source.Object, []source.Problem) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mesh")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return source.LoadMeshConfig(path)
}

// TestProviders: a policy whose provider can't be asked refuses the configuration.
func TestProviders(t *testing.T) {
	const grpc, http = "{name: p, envoyExtAuthzGrpc: {service: app.default.svc.cluster.local, port: 80", "{name: p, envoyExtAuthzHttp: {service: app.default.svc.cluster.local, port: 80"
	yaml := inboundMesh("{name: http, port: 80}", `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: default}
spec: {action: CUSTOM, provider: {name: p}, rules: [{}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: twice, namespace: a}
spec: {hosts: [twice.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: twice, namespace: b}
spec: {hosts: [twice.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
`)
	for _, c := range []struct{ mesh, want string }{
		{"", "there is no extension provider p: there is no MeshConfig"},
		{"extensionProviders: []", "has no extension provider p"},
		{"extensionProviders: [{name: p, prometheus: {}}]", "doesn't decide on requests"},
		{"extensionProviders: [" + grpc + "}}, " + grpc + "}}]", "extensionProviders[0].name: there are two"},
		{"extensionProviders: [{name: p, envoyExtAuthzGrpc: {service: no.where, port: 80}}]", "envoyExtAuthzGrpc.service: there is no service no.where"},
		{"extensionProviders: [{name: p, envoyExtAuthzGrpc: {service: app.default.svc.cluster.local, port: 81}}]", "has no port 81"},
		{"extensionProviders: [{name: p, envoyExtAuthzGrpc: {service: other/app.default.svc.cluster.local, port: 80}}]", "there is no service other/app"},
		{"extensionProviders: [{name: p, envoyExtAuthzGrpc: {service: twice.example, port: 80}}]", "several namespaces"},
		{"extensionProviders: [" + grpc + ", statusOnError: '999'}}]", `"999" is no status`},
		{"extensionProviders: [" + grpc + ", statusOnError: x}}]", `"x" is no status`},
		{"extensionProviders: [" + grpc + ", timeout: 0s}}]", "too short"},
		{"extensionProviders: [" + grpc + ", includeRequestBodyInCheck: {}}}]", "maxRequestBytes: is required"},
		{"extensionProviders: [" + http + ", pathPrefix: check}}]", "doesn't begin with a slash"},
		{"extensionProviders: [" + http + ", headersToUpstreamOnAllow: ['*']}}]", `can't be "*"`},
		{"extensionProviders: [" + http + "}}]", ""},
		{"extensionProviders: [" + grpc + "}}]", ""},
		{"extensionProviders: [{name: p, envoyExtAuthzGrpc: {service: default/app.default.svc.cluster.local, port: 80}}]", ""},
	} {
		o := Options{Labels: map[string]string{"app": "app"}, Inbound: []string{"127.0.0.1:1=:80"}}
		if c.mesh != "" {
			obj, problems := withMeshConfig(t, c.mesh)
			if obj == nil {
				t.Errorf("%s: %s", c.mesh, describe(problems))
				continue
			}
			o.MeshConfig = obj
		}
		r, problems := Translate(load(t, yaml), o)
		if (r == nil) != (c.want != "") || !strings.Contains(describe(problems), c.want) {
			t.Errorf("%s: refused %t, said %q, want %q", c.mesh, r == nil, describe(problems), c.want)
		}
	}
}

// TestPathNormalization: what the mesh says of paths holds at every listener.
func TestPathNormalization(t *testing.T) {
	for mode, want := range map[string][3]bool{ // normalised, slashes merged, escaped ones decoded
		"DEFAULT": {true, false, false}, "NONE": {}, "BASE": {true, false, false},
		"MERGE_SLASHES": {true, true, false}, "DECODE_AND_MERGE_SLASHES": {true, true, true},
	} {
		obj, problems := withMeshConfig(t, "pathNormalization: {normalization: "+mode+"}")
		if obj == nil {
			t.Fatal(describe(problems))
		}
		r, problems := Translate(load(t, inboundMesh("{name: http, port: 80}", "")), Options{
			HTTPAddr: "127.0.0.1:15080", MeshConfig: obj, Labels: map[string]string{"app": "app"}, Inbound: []string{"127.0.0.1:1=:80"},
		})
		if r == nil {
			t.Fatal(describe(problems))
		}
		for _, l := range r.Listeners {
			filters := l.FilterChains[0].Filters
			m := &hcmv3.HttpConnectionManager{}
			if err := filters[len(filters)-1].GetTypedConfig().UnmarshalTo(m); err != nil {
				t.Fatal(err)
			}
			got := [3]bool{m.NormalizePath.GetValue(), m.MergeSlashes, m.PathWithEscapedSlashesAction == hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD}
			if got != want {
				t.Errorf("%s at %s: %v, want %v", mode, l.Name, got, want)
			}
		}
	}
}
