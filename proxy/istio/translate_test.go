// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"pillion/proxy/istio/source"
)

// translate makes resources of YAML, with the http listener on.
func translate(t testing.TB, yaml string, o Options) (*Resources, []source.Problem) {
	t.Helper()
	if o.HTTPAddr == "" {
		o.HTTPAddr = "127.0.0.1:15080"
	}
	r, problems := Translate(load(t, yaml), o)
	if r == nil {
		t.Fatalf("refused:\n%s", describe(problems))
	}
	return r, problems
}

// wantProblem checks that one problem has all the parts of text, and whether it is a
// warning.
func wantProblem(t *testing.T, problems []source.Problem, warning bool, parts ...string) {
	t.Helper()
next:
	for _, p := range problems {
		for _, part := range parts {
			if p.Warning != warning || !strings.Contains(p.String(), part) {
				continue next
			}
		}
		return
	}
	t.Errorf("no problem (warning: %v) with %q among:\n%s", warning, parts, describe(problems))
}

func noProblems(t *testing.T, problems []source.Problem) {
	t.Helper()
	if len(problems) > 0 {
		t.Errorf("unexpected problems:\n%s", describe(problems))
	}
}

// routesOf returns a route configuration.
func (r *Resources) routesOf(t *testing.T, name string) *routev3.RouteConfiguration {
	t.Helper()
	for _, rc := range r.Routes {
		if rc.Name == name {
			return rc
		}
	}
	t.Fatalf("there is no route configuration %s", name)
	return nil
}

// hostOf finds the virtual host of a Host header as Envoy does: by exact name, then
// the longest suffix wildcard, then the one for everything.
func hostOf(rc *routev3.RouteConfiguration, host string) *routev3.VirtualHost {
	host = strings.ToLower(host)
	if rc.IgnorePortInHostMatching {
		host, _, _ = strings.Cut(host, ":")
	}
	var best *routev3.VirtualHost
	longest := -1
	for _, vh := range rc.VirtualHosts {
		for _, d := range vh.Domains {
			if strings.EqualFold(d, host) {
				return vh
			}
			if suffix, ok := strings.CutPrefix(strings.ToLower(d), "*"); ok && strings.HasSuffix(host, suffix) &&
				len(suffix) > longest && (suffix == "" || len(host) > len(suffix)) {
				best, longest = vh, len(suffix)
			}
		}
	}
	return best
}

// clusterOf finds a cluster by name; nil when there is none.
func (r *Resources) clusterOf(name string) *clusterv3.Cluster {
	for _, c := range r.Clusters {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// addressesOf lists "ip:port" of a cluster's endpoints.
func (r *Resources) addressesOf(cluster string) []string {
	var out []string
	for _, e := range r.Endpoints {
		if e.ClusterName != cluster {
			continue
		}
		for _, g := range e.Endpoints {
			for _, lb := range g.LbEndpoints {
				a := lb.GetEndpoint().Address.GetSocketAddress()
				out = append(out, hostPort(a.Address, a.GetPortValue()))
			}
		}
	}
	return out
}

// managerOf unpacks a listener's connection manager.
func managerOf(t *testing.T, l *listenerv3.Listener) *hcmv3.HttpConnectionManager {
	t.Helper()
	m := &hcmv3.HttpConnectionManager{}
	if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// serviceYAML is a ServiceEntry of one host, with ports and one endpoint. It begins
// with the separator of documents, so that several can be put together.
func serviceYAML(namespace, host, ports string) string {
	name := strings.ReplaceAll(strings.ReplaceAll(host, "*", "any"), ".", "-")
	return `
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ` + name + `, namespace: ` + namespace + `}
spec:
  hosts: ["` + host + `"]
  ports: ` + ports + `
  resolution: STATIC
  location: MESH_INTERNAL
  endpoints: [{address: 127.0.0.1, labels: {version: v1}}]
`
}

const (
	port80   = "[{number: 80, name: http, protocol: HTTP}]"
	port9080 = "[{number: 9080, name: http, protocol: HTTP}]"
	twoPorts = "[{number: 80, name: http, protocol: HTTP}, {number: 9080, name: http-alt, protocol: HTTP}]"
)

func TestNothing(t *testing.T) {
	r, problems := Translate(nil, Options{})
	if len(problems) > 0 || len(r.Listeners)+len(r.Routes)+len(r.Endpoints) > 0 {
		t.Errorf("no objects and no address made %v, %v", r, problems)
	}
	if r.clusterOf(passthroughCluster) == nil || r.clusterOf(blackHoleCluster) == nil {
		t.Error("the clusters that are always there aren't")
	}
}

func TestHTTPAddress(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:15080": "127.0.0.1_15080",
		"localhost:1":     "127.0.0.1_1",
		":15080":          "0.0.0.0_15080",
		"[::1]:15080":     "::1_15080",
		"127.0.0.1:0":     "127.0.0.1_0",
	} {
		r, problems := Translate(nil, Options{HTTPAddr: address})
		if r == nil {
			t.Errorf("%s is refused: %s", address, describe(problems))
		} else if got := r.Listeners[0].Name; got != want {
			t.Errorf("%s makes listener %s, want %s", address, got, want)
		}
	}
	for _, address := range []string{"15080", "example.com:80", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1"} {
		if r, problems := Translate(nil, Options{HTTPAddr: address}); r != nil || len(problems) != 1 || problems[0].Warning {
			t.Errorf("%q is not refused: %s", address, describe(problems))
		}
	}
}

// TestHTTPListener checks what sets the http listener apart from others.
func TestHTTPListener(t *testing.T) {
	r, _ := translate(t, "", Options{})
	l := r.Listeners[0]
	m := managerOf(t, l)
	if got := l.Address.GetSocketAddress(); got.Address != "127.0.0.1" || got.GetPortValue() != 15080 {
		t.Errorf("bound to %v", got)
	}
	if l.BindToPort != nil && !l.BindToPort.Value {
		t.Error("not bound")
	}
	if m.StatPrefix != "outbound_127.0.0.1_15080;" || m.GetRds().RouteConfigName != "http_proxy" {
		t.Errorf("stat prefix %s, routes %s", m.StatPrefix, m.GetRds().RouteConfigName)
	}
	if !m.HttpProtocolOptions.AllowAbsoluteUrl.Value || !m.HttpProtocolOptions.AcceptHttp_10 || m.UseRemoteAddress.Value || m.ServerName != "" {
		t.Error("not the options of an http-proxy listener")
	}
	var filters []string
	for _, f := range m.HttpFilters {
		filters = append(filters, f.Name)
	}
	want := "istio.metadata_exchange envoy.filters.http.grpc_stats istio.alpn envoy.filters.http.fault envoy.filters.http.cors istio.stats envoy.filters.http.router"
	if got := strings.Join(filters, " "); got != want {
		t.Errorf("filters are %s", got)
	}
	if len(m.AccessLog) != 0 {
		t.Error("there is an access log without anyone asking")
	}
}

// TestRefused: with an error there are no resources, and every problem is told once.
func TestRefused(t *testing.T) {
	yaml := serviceYAML("default", "a.default.svc.cluster.local", twoPorts) + `
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: default}
spec:
  host: a
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}
  subsets: [{name: v1, labels: {version: v1}}]
`
	r, problems := Translate(load(t, yaml), Options{})
	if r != nil {
		t.Error("TLS is ignored")
	}
	if len(problems) != 1 {
		t.Errorf("%d problems, want 1:\n%s", len(problems), describe(problems))
	}
	wantProblem(t, problems, false, "DestinationRule/default/a", "spec.trafficPolicy.tls.mode", "the proxy has none")
	if problems[0].Line != 19 {
		t.Errorf("line %d", problems[0].Line)
	}
}

// TestObjectsStay: translation reads objects and leaves them as they are.
func TestObjectsStay(t *testing.T) {
	objs := loadFile(t, "routing.yaml")
	before, _ := Translate(objs, Options{HTTPAddr: "127.0.0.1:15080"})
	if _, err := EnvoyBootstrap(before, "127.0.0.1:15000"); err != nil {
		t.Fatal(err)
	}
	after, _ := Translate(objs, Options{HTTPAddr: "127.0.0.1:15080"})
	a, err := before.JSON()
	if err != nil {
		t.Fatal(err)
	}
	b, err := after.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Error("the second translation differs:\n" + firstDifference(a, b))
	}
}
