// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
)

// mixedYAML has ports of every kind, each with a number of its own.
const mixedYAML = `
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mixed, namespace: default}
spec:
  hosts: [mixed.default.svc.cluster.local]
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 81, name: any}
  - {number: 82, name: tcp, protocol: TCP}
  - {number: 83, name: tls, protocol: TLS}
  - {number: 84, name: mongo, protocol: MONGO}
  - {number: 85, name: udp, protocol: UDP}
  endpoints: [{address: 127.0.0.1}]
`

// rawService is a service of one TCP port; more goes into its spec.
func rawService(host, port, protocol, more string) string {
	return `
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ` + strings.ReplaceAll(host, ".", "-") + `, namespace: default}
spec: {hosts: [` + host + `], ports: [{number: ` + port + `, name: p, protocol: ` + protocol + `}], ` + more + `}
`
}

const static = "resolution: STATIC, endpoints: [{address: 127.0.0.1}]"

// TestListenAddresses: which addresses are listened at.
func TestListenAddresses(t *testing.T) {
	vip := rawService("db.default.svc.cluster.local", "5432", "TCP", "addresses: [127.0.0.9], "+static)
	for _, c := range []struct {
		name, yaml string
		listen     []string
		want       []string // besides the http listener
	}{
		{"none", mixedYAML, nil, nil},
		{"a flag", mixedYAML, []string{"mixed:82=127.0.0.2:9082"}, []string{"127.0.0.2_9082"}},
		{"every protocol", mixedYAML, []string{"mixed:80=localhost:1", "mixed.default:81=:2", "mixed:83=[::1]:3"}, []string{"127.0.0.1_1", "0.0.0.0_2", "::1_3"}},
		{"one port at two addresses", mixedYAML, []string{"mixed:82=127.0.0.1:1", "mixed:82=127.0.0.1:2"}, []string{"127.0.0.1_1", "127.0.0.1_2"}},
		{"the same twice", mixedYAML, []string{"mixed:82=127.0.0.1:1", "mixed:82=127.0.0.1:1"}, []string{"127.0.0.1_1"}},
		{"all", mixedYAML, []string{"all"}, []string{"127.0.0.1_81", "127.0.0.1_82", "127.0.0.1_83", "127.0.0.1_84"}},
		{"all but one that is elsewhere", mixedYAML, []string{"all", "mixed:82=127.0.0.1:9082"}, []string{"127.0.0.1_81", "127.0.0.1_83", "127.0.0.1_84", "127.0.0.1_9082"}},
		{"its own address", vip, nil, []string{"127.0.0.9_5432"}},
		{"its own address and all", vip, []string{"all"}, []string{"127.0.0.9_5432"}},
		{"a flag instead of its own address", vip, []string{"db:5432=127.0.0.1:7000"}, []string{"127.0.0.1_7000"}},
		{"TLS may share", rawService("a.example.com", "443", "TLS", static) + rawService("b.example.com", "443", "HTTPS", static), []string{"all"}, []string{"127.0.0.1_443"}},
		{"unknown protocols that clash are left out", rawService("a.example.com", "80", `""`, static) + rawService("b.example.com", "80", `""`, static), []string{"all"}, nil},
		{"a sidecar without capture", mixedYAML + sidecarYAML(`{egress: [{port: {number: 82, protocol: TCP, name: t}, captureMode: NONE, hosts: ["*/*"]}]}`), nil, []string{"127.0.0.1_82"}},
		{"a sidecar that binds", mixedYAML + sidecarYAML(`{egress: [{port: {number: 84, protocol: MONGO, name: t}, bind: 127.0.0.3, hosts: ["*/*"]}]}`), nil, []string{"127.0.0.3_84"}},
		{"a sidecar that binds elsewhere", mixedYAML + sidecarYAML(`{egress: [{port: {number: 84, protocol: MONGO, name: t}, bind: 10.0.0.3, hosts: ["*/*"]}]}`), nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := translate(t, c.yaml, Options{Listen: c.listen})
			if got := listenersOf(r)[1:]; !slices.Equal(got, c.want) {
				t.Errorf("listeners %v, want %v", got, c.want)
			}
		})
	}
}

// TestListenRefused: what can't be listened at is named, with what solves it.
func TestListenRefused(t *testing.T) {
	two := rawService("a.example.com", "5432", "TCP", static) + rawService("b.example.com", "5432", "TCP", static)
	for _, c := range []struct {
		name, yaml string
		listen     []string
		want       []string // in one problem
	}{
		{"no form", mixedYAML, []string{"mixed=127.0.0.1:1"}, []string{"--listen", "mixed=127.0.0.1:1", "HOST:PORT=ADDRESS:PORT"}},
		{"no address", mixedYAML, []string{"mixed:82=mixed:1"}, []string{"--listen", `"mixed" is not an IP address`}},
		{"no service", mixedYAML, []string{"miksed:82=:1"}, []string{"there is no service miksed.default.svc.cluster.local"}},
		{"no port", mixedYAML, []string{"mixed:9=:1"}, []string{"mixed.default.svc.cluster.local has no port 9"}},
		{"UDP", mixedYAML, []string{"mixed:85=:1"}, []string{"port 85", "UDP"}},
		{"no endpoints to go to", rawService("a.example.com", "5432", "TCP", "resolution: NONE"), []string{"a.example.com:5432=:1"}, []string{"resolution NONE"}},
		{"the http listener's", mixedYAML, []string{"mixed:82=:15080"}, []string{"ServiceEntry/default/mixed: spec.ports[2]", "so does the http listener", "--http", "--listen mixed.default.svc.cluster.local:82=0.0.0.0:15081"}},
		{"two at one address", two, []string{"all"}, []string{"-:12: ServiceEntry/default/b-example-com: spec.ports[0]", "(-:3)", "b.example.com:5432 and a.example.com:5432", "127.0.0.1:5432", "--listen b.example.com:5432=127.0.0.1:5433"}},
		{"one within another", two, []string{"a.example.com:5432=127.0.0.1:7", "b.example.com:5432=0.0.0.0:7"}, []string{"a.example.com:5432 would listen at 127.0.0.1:7", "0.0.0.0:7", "--listen a.example.com:5432=127.0.0.1:8"}},
		{"a gateway's", mixedYAML + gatewayYAML("edge", "", server8080), []string{"mixed:82=127.0.0.1:8080"}, []string{"Gateway/default/edge: spec.servers[0].port.number", "127.0.0.1:8080", "mixed.default.svc.cluster.local:82 of ServiceEntry/default/mixed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, problems := Translate(load(t, c.yaml), Options{HTTPAddr: "127.0.0.1:15080", Listen: c.listen})
			if r != nil {
				t.Errorf("it is taken: %v", listenersOf(r))
			}
			wantProblem(t, problems, false, c.want...)
		})
	}
}

// TestUnreachable: ports that nothing listens for are named, with what solves it.
func TestUnreachable(t *testing.T) {
	_, problems := translate(t, mixedYAML, Options{})
	wantProblem(t, problems, true, "spec.ports[2].protocol", "--listen mixed.default.svc.cluster.local:82=127.0.0.1:8082")
	wantProblem(t, problems, true, "spec.ports[3].protocol", "--listen all")
	if len(problems) != 3 {
		t.Errorf("others than TCP, TLS and Mongo are named:\n%s", describe(problems))
	}
	_, problems = translate(t, rawService("a.example.com", "5432", "TCP", "addresses: [127.0.0.5], resolution: NONE"), Options{Listen: []string{"all"}})
	wantProblem(t, problems, true, "spec.ports[0].protocol", "without traffic capture", "resolution NONE")
	clash := rawService("a.example.com", "80", `""`, static) + rawService("b.example.com", "80", "TCP", static)
	_, problems = translate(t, clash, Options{Listen: []string{"all"}})
	wantProblem(t, problems, true, "ServiceEntry/default/a-example-com", "not opened by --listen all", "--listen a.example.com:80=127.0.0.1:8080")
}

// TestPortRoutes: a port with an address of its own is routed by its service's routes,
// whatever host the client asks for: it will be the address.
func TestPortRoutes(t *testing.T) {
	yaml := mixedYAML + virtualServiceYAML("default", "mixed", "[mixed]", "mixed")
	for _, c := range []struct{ port, name string }{{"80", "http"}, {"81", "unknown"}} {
		t.Run(c.name, func(t *testing.T) {
			r, problems := Translate(load(t, yaml), Options{Listen: []string{"mixed:" + c.port + "=127.0.0.1:7000"}})
			if r == nil {
				t.Fatalf("refused:\n%s", describe(problems))
			}
			l, name := r.Listeners[0], "mixed.default.svc.cluster.local:"+c.port
			if got := managerOf(t, l).GetRds().GetRouteConfigName(); got != name {
				t.Errorf("the routes are %s", got)
			}
			if len(r.Routes) != 1 {
				t.Errorf("there are %d route configurations, want that of the port only", len(r.Routes))
			}
			vh := hostOf(r.routesOf(t, name), "127.0.0.1:7000")
			if vh == nil || vh.Name != name || !strings.Contains(vh.Routes[0].GetMetadata().String(), "virtual-service/mixed") {
				t.Errorf("the address leads to %v", vh)
			}
		})
	}
}

// TestRawRoutes: which cluster a connection to a port goes to.
func TestRawRoutes(t *testing.T) {
	service := func(more string) string {
		return rawService("db.default.svc.cluster.local", "5432", "TCP", more+static) + rawService("other.default.svc.cluster.local", "1", "TCP", static)
	}
	routes := func(spec string) string {
		return `
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db, namespace: default}
spec: {hosts: [db], tcp: [` + spec + `]}
`
	}
	const to = "route: [{destination: {host: other}}]"
	const own, other = "outbound|5432||db.default.svc.cluster.local", "outbound|1||other.default.svc.cluster.local"
	for _, c := range []struct {
		name, yaml, at string
		want           []string // clusters of the chains, with the subnet they are for
	}{
		{"none", service(""), "127.0.0.1", []string{own}},
		{"all", service("") + routes("{"+to+"}"), "127.0.0.1", []string{other}},
		{"its port", service("") + routes("{match: [{port: 5432}], "+to+"}"), "127.0.0.1", []string{other}},
		{"another port", service("") + routes("{match: [{port: 1}], "+to+"}"), "127.0.0.1", []string{own}},
		{"another gateway", service("") + routes("{match: [{gateways: [edge]}], "+to+"}"), "127.0.0.1", []string{own}},
		{"another namespace", service("") + routes("{match: [{sourceNamespace: shop}], "+to+"}"), "127.0.0.1", []string{own}},
		{"the address's subnet", service("") + routes("{match: [{destinationSubnets: [127.0.0.0/24]}], "+to+"}"), "127.0.0.1", []string{other}},
		{"another subnet", service("") + routes("{match: [{destinationSubnets: [10.0.0.0/8]}], "+to+"}"), "127.0.0.1", []string{own}},
		{"the service's subnet", service("addresses: [10.1.2.3], ") + routes("{match: [{destinationSubnets: [10.0.0.0/8]}], "+to+"}"), "127.0.0.1", []string{other}},
		{"any address", service("") + routes("{match: [{destinationSubnets: [10.1.2.3/8, 127.0.0.1]}], "+to+"}"), "0.0.0.0",
			[]string{other + " 10.0.0.0/8 127.0.0.1/32", own}},
		{"a subnet twice", service("") + routes("{match: [{destinationSubnets: [10.0.0.0/8]}], "+to+"}, {match: [{destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: db}}]}"),
			"0.0.0.0", []string{other + " 10.0.0.0/8", own}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := translate(t, c.yaml, Options{Listen: []string{"db:5432=" + c.at + ":7000"}})
			var got []string
			for _, chain := range r.Listeners[1].FilterChains {
				is := tcpProxyOf(t, chain).GetCluster()
				for _, p := range chain.GetFilterChainMatch().GetPrefixRanges() {
					is += " " + hostPort(p.AddressPrefix, p.PrefixLen.Value)
				}
				got = append(got, strings.NewReplacer(":8", "/8", ":32", "/32").Replace(is))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("clusters %q, want %q", got, c.want)
			}
		})
	}
}

func tcpProxyOf(t *testing.T, c *listenerv3.FilterChain) *tcpv3.TcpProxy {
	t.Helper()
	p := &tcpv3.TcpProxy{}
	if err := c.Filters[len(c.Filters)-1].GetTypedConfig().UnmarshalTo(p); err != nil {
		t.Fatal(err)
	}
	return p
}
