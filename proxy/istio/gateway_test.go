// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

func gatewayYAML(name, selector, servers string) string {
	return `
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: ` + name + `, namespace: default}
spec: {selector: {` + selector + `}, servers: ` + servers + `}
`
}

const (
	server8080 = `[{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}]`
	server8081 = `[{port: {number: 8081, name: http, protocol: HTTP}, hosts: ["*"]}]`
)

func listenersOf(r *Resources) []string {
	var out []string
	for _, l := range r.Listeners {
		out = append(out, l.Name)
	}
	return out
}

// TestGatewaySelection: with labels a proxy serves the gateways that select it.
func TestGatewaySelection(t *testing.T) {
	yaml := gatewayYAML("mine", "app: edge", server8080) + gatewayYAML("theirs", "app: other", server8081) +
		gatewayYAML("any", "", `[{port: {number: 8082, name: http, protocol: HTTP}, hosts: ["*"]}]`)
	for _, c := range []struct {
		labels map[string]string
		want   []string
	}{
		{nil, []string{"127.0.0.1_15080", "0.0.0.0_8080", "0.0.0.0_8081", "0.0.0.0_8082"}},
		{map[string]string{"app": "edge", "x": "1"}, []string{"127.0.0.1_15080", "0.0.0.0_8080", "0.0.0.0_8082"}},
	} {
		r, problems := translate(t, yaml, Options{Labels: c.labels})
		if got := listenersOf(r); !slices.Equal(got, c.want) {
			t.Errorf("labels %v: listeners %v, want %v", c.labels, got, c.want)
		}
		if c.labels != nil {
			wantProblem(t, problems, true, "Gateway/default/theirs", "spec.selector", "does not select")
		}
	}
}

// TestGatewayListener checks what sets a gateway apart from the http listener.
func TestGatewayListener(t *testing.T) {
	r, _ := translate(t, gatewayYAML("edge", "", server8080), Options{AccessLogFile: "/dev/stdout"})
	m := managerOf(t, r.Listeners[1])
	if m.ServerName != "istio-envoy" || !m.UseRemoteAddress.Value || m.HttpProtocolOptions.AcceptHttp_10 ||
		m.StatPrefix != "outbound_0.0.0.0_8080;" || m.GetRds().RouteConfigName != "http.8080" {
		t.Errorf("not a gateway's: %v", m)
	}
	if len(m.AccessLog) != 1 || len(r.Listeners[1].AccessLog) != 1 ||
		r.Listeners[1].AccessLog[0].Filter.GetResponseFlagFilter().GetFlags()[0] != "NR" {
		t.Error("access logs are not those of the connection manager and the listener")
	}
}

// TestGatewayRefused: servers that can't be served as they ask to be.
func TestGatewayRefused(t *testing.T) {
	for _, c := range []struct {
		servers, address, field string
	}{
		{`[{port: {number: 443, name: https, protocol: HTTPS}, hosts: ["*"], tls: {mode: SIMPLE, credentialName: c}}]`, "", "spec.servers[0].tls.credentialName"},
		{`[{port: {number: 15080, name: http, protocol: HTTP}, hosts: ["*"]}]`, "", "spec.servers[0].port.number"},
		{`[{port: {number: 15080, name: http, protocol: HTTP}, hosts: ["*"], bind: 127.0.0.1}]`, "0.0.0.0:15080", "spec.servers[0].port.number"},
	} {
		address := c.address
		if address == "" {
			address = "127.0.0.1:15080"
		}
		r, problems := Translate(load(t, gatewayYAML("edge", "", c.servers)), Options{HTTPAddr: address})
		if r != nil {
			t.Errorf("%s is not refused", c.servers)
		}
		wantProblem(t, problems, false, "Gateway/default/edge", c.field)
	}
	// Another address on the same port is no conflict.
	servers := `[{port: {number: 15080, name: http, protocol: HTTP}, hosts: ["*"], bind: 127.0.0.2}]`
	if r, problems := Translate(load(t, gatewayYAML("edge", "", servers)), Options{HTTPAddr: "127.0.0.1:15080"}); r == nil {
		t.Errorf("refused:\n%s", describe(problems))
	}
}

// TestGatewayRoutes: hosts that a server has in common with VirtualServices, and the
// order of several VirtualServices' routes.
func TestGatewayRoutes(t *testing.T) {
	route := func(namespace, name, hosts, gateways, http string) string {
		return "\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: " + name + ", namespace: " + namespace +
			"}\nspec: {hosts: " + hosts + ", gateways: " + gateways + ", http: [" + http + "]}\n"
	}
	const ok = "directResponse: {status: 200}}"
	yaml := gatewayYAML("edge", "", `[{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*.example.com", "default/a.example.org"]}]`) +
		gatewayYAML("more", "", `[{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["b.example.net"]}]`) +
		gatewayYAML("unused", "", server8081) +
		route("default", "all", "[a.example.com, b.example.com, a.example.org, x.example.net]", "[edge]", "{name: all, "+ok) +
		route("default", "part", "[a.example.com]", "[edge]", "{name: part, match: [{uri: {prefix: /part}}], "+ok) +
		route("other", "foreign", "[a.example.org, c.example.com]", "[default/edge]", "{name: foreign, "+ok) +
		route("default", "net", "[\"*.example.net\"]", "[more]", "{name: net, "+ok) +
		route("default", "elsewhere", "[d.example.com]", "[other/edge]", "{name: elsewhere, "+ok)
	r, problems := translate(t, yaml, Options{})
	rc := r.routesOf(t, "http.8080")
	for host, want := range map[string]string{
		"a.example.com": "part all", "b.example.com": "all", "c.example.com": "foreign", "a.example.org": "all",
		"b.example.net": "net", "x.example.net": "", "d.example.com": "", "b.example.com:8080": "all",
	} {
		got := ""
		for _, route := range hostOf(rc, host).GetRoutes() {
			if got != "" {
				got += " "
			}
			got += route.Name
		}
		if got != want {
			t.Errorf("%s is routed by %q, want %q", host, got, want)
		}
	}
	// Hosts with the very same routes are one virtual host.
	if vh := hostOf(rc, "b.example.com"); !slices.Contains(vh.Domains, "a.example.org") {
		t.Errorf("%s has domains %v", vh.Name, vh.Domains)
	}
	blackhole := r.routesOf(t, "http.8081").VirtualHosts[0]
	if blackhole.Name != "blackhole:8081" || len(blackhole.Routes) != 0 || blackhole.Domains[0] != "*" {
		t.Errorf("without routes: %v", blackhole)
	}
	wantProblem(t, problems, true, "Gateway/default/unused", "spec.servers[0].hosts", "port 8081 answers 404")
}

// TestHTTPSRedirect: a server may send all clients to HTTPS, routes or not.
func TestHTTPSRedirect(t *testing.T) {
	yaml := gatewayYAML("edge", "", `[{port: {number: 8080, name: http, protocol: HTTP}, hosts: [a.example.com], tls: {httpsRedirect: true}},
		{port: {number: 8080, name: http-b, protocol: HTTP}, hosts: [b.example.com]}]`) + `
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b, namespace: default}
spec: {hosts: [b.example.com], gateways: [edge], http: [{directResponse: {status: 200}}]}
`
	r, _ := translate(t, yaml, Options{})
	rc := r.routesOf(t, "http.8080")
	if got := hostOf(rc, "a.example.com").GetRequireTls(); got != routev3.VirtualHost_ALL {
		t.Errorf("a.example.com: %v", got)
	}
	if got := hostOf(rc, "b.example.com").GetRequireTls(); got != routev3.VirtualHost_NONE {
		t.Errorf("b.example.com: %v", got)
	}
}

// TestGatewayServices: a gateway's routes reach services that a Sidecar hides.
func TestGatewayServices(t *testing.T) {
	yaml := serviceYAML("other", "b.other.svc.cluster.local", port80) + gatewayYAML("edge", "", server8080) + `
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b, namespace: default}
spec: {hosts: [b.example.com], gateways: [edge], http: [{route: [{destination: {host: b.other.svc.cluster.local}}]}]}
` + sidecarYAML(`{egress: [{hosts: ["./*"]}]}`)
	r, problems := translate(t, yaml, Options{})
	noProblems(t, problems)
	if r.clusterOf("outbound|80||b.other.svc.cluster.local") == nil {
		t.Error("no cluster")
	}
}
