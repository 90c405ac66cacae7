// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"pillion/test/need"
	"pillion/test/rig"
)

func TestEnvoyBootstrap(t *testing.T) {
	r, _ := Translate(loadFile(t, "registry.yaml"), Options{HTTPAddr: "127.0.0.1:15080"})
	b, err := EnvoyBootstrap(r, "127.0.0.1:15000")
	if err != nil {
		t.Fatal(err)
	}
	if a := b.Admin.Address.GetSocketAddress(); a.Address != "127.0.0.1" || a.GetPortValue() != 15000 {
		t.Errorf("admin at %v", a)
	}
	if err := b.ValidateAll(); err != nil {
		t.Errorf("Envoy would refuse: %v", err)
	}
	for _, c := range b.StaticResources.Clusters {
		if len(c.Filters) > 0 {
			t.Errorf("%s still has filters of Istio's own", c.Name)
		}
		if k := c.GetType(); k == clusterv3.Cluster_EDS || k == clusterv3.Cluster_ORIGINAL_DST {
			t.Errorf("%s is of type %s", c.Name, k)
		}
	}
	m := &hcmv3.HttpConnectionManager{}
	if err := b.StaticResources.Listeners[0].FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	var filters []string
	for _, f := range m.HttpFilters {
		filters = append(filters, f.Name)
	}
	want := "envoy.filters.http.grpc_stats envoy.filters.http.fault envoy.filters.http.cors envoy.filters.http.dynamic_forward_proxy envoy.filters.http.router"
	if got := strings.Join(filters, " "); got != want {
		t.Errorf("filters are %s", got)
	}
	if m.GetRouteConfig().GetName() != "http_proxy" {
		t.Errorf("routes are %v", m.GetRouteSpecifier())
	}
	if r.clusterOf(passthroughCluster).GetType() != clusterv3.Cluster_ORIGINAL_DST {
		t.Error("the resources were changed")
	}

	for _, admin := range []string{"localhost:15000", "127.0.0.1", "x"} {
		if _, err := EnvoyBootstrap(r, admin); err == nil {
			t.Errorf("admin address %q is taken", admin)
		}
	}
	if b, err := EnvoyBootstrap(r, ""); err != nil || b.Admin != nil {
		t.Errorf("no admin address: %v, %v", b.GetAdmin(), err)
	}
	r.Routes = nil
	if _, err := EnvoyBootstrap(r, ""); err == nil {
		t.Error("a listener without its routes makes a bootstrap")
	}
}

// backend is a server that answers with its name, the path and the Host it was asked for.
func backend(t *testing.T, name string) (port int) {
	t.Helper()
	s := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		fmt.Fprintf(w, "%s %s %s", name, r.URL.Path, r.Host)
	}))
	t.Cleanup(s.Close)
	_, p, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err = strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// freePort returns a port that nobody else is given until the test ends.
func freePort(t *testing.T) int {
	t.Helper()
	return int(netip.MustParseAddrPort(rig.FreeAddr(t)).Port())
}

// runEnvoy starts Envoy on a bootstrap and returns when it serves.
func runEnvoy(t *testing.T, bootstrap string) {
	t.Helper()
	rig.RunEnvoy(t, need.Envoy(t), bootstrap)
}

// TestEnvoyRoutes runs a real Envoy on a translated mesh: by Host header, as a forward
// proxy and through a gateway, requests get where Istio's resources say.
func TestEnvoyRoutes(t *testing.T) {
	need.Envoy(t)
	v1, v2, ratings, outside := backend(t, "v1"), backend(t, "v2"), backend(t, "ratings"), backend(t, "outside")
	edge, proxy := freePort(t), freePort(t)
	yaml := fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews.default.svc.cluster.local]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - {address: 127.0.0.1, ports: {http: %d}, labels: {app: reviews, version: v1}}
  - {address: 127.0.0.1, ports: {http: %d}, labels: {app: reviews, version: v2}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ratings, namespace: other}
spec:
  hosts: [ratings.other.svc.cluster.local]
  ports: [{number: 80, name: http, protocol: HTTP}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: %d}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews, reviews.example.com]
  gateways: [mesh, edge]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - match: [{uri: {prefix: /old/}}]
    rewrite: {uri: /new/, authority: rewritten.example.com}
    route: [{destination: {host: reviews, subset: v1}}]
  - match: [{uri: {exact: /teapot}}]
    directResponse: {status: 418, body: {string: teapot}}
  - match: [{uri: {exact: /abort}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 555}}
    route: [{destination: {host: reviews, subset: v1}}]
  - match: [{uri: {exact: /nowhere}}]
    route: [{destination: {host: reviews, subset: v9}}]
  - route: [{destination: {host: reviews, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec: {servers: [{port: {number: %d, name: http, protocol: HTTP}, bind: 127.0.0.1, hosts: ["*"]}]}
`, v1, v2, ratings, edge)
	r, problems := Translate(load(t, yaml), Options{HTTPAddr: fmt.Sprintf("127.0.0.1:%d", proxy)})
	if r == nil {
		t.Fatalf("refused:\n%s", describe(problems))
	}
	runEnvoy(t, writeBootstrap(t, r, ""))

	proxyURL := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", proxy)}
	direct := &nethttp.Client{Transport: &nethttp.Transport{}}
	forward := &nethttp.Client{Transport: &nethttp.Transport{Proxy: nethttp.ProxyURL(proxyURL)}}
	t.Cleanup(direct.CloseIdleConnections)
	t.Cleanup(forward.CloseIdleConnections)
	for _, c := range []struct {
		port             int // whose listener is asked by Host; 0 is by forward proxy
		host, path, user string
		status           int
		body             string
	}{
		{proxy, "reviews:9080", "/reviews/1", "", 200, "v1 /reviews/1 reviews:9080"},
		{proxy, "reviews:9080", "/reviews/1", "jason", 200, "v2 /reviews/1 reviews:9080"},
		{proxy, "reviews", "/a", "", 200, "v1 /a reviews"},
		{proxy, "reviews.default.svc.cluster.local:9080", "/a", "jason", 200, "v2 /a reviews.default.svc.cluster.local:9080"},
		{proxy, "ratings.other", "/r", "", 200, "ratings /r ratings.other"},
		{0, "reviews:9080", "/reviews/1", "jason", 200, "v2 /reviews/1 reviews:9080"},
		{0, "reviews:9080", "/reviews/1", "", 200, "v1 /reviews/1 reviews:9080"},
		{proxy, "reviews:9080", "/old/x", "", 200, "v1 /new/x rewritten.example.com"},
		{proxy, "reviews:9080", "/teapot", "", 418, "teapot"},
		{proxy, "reviews:9080", "/abort", "", 555, "fault filter abort"},
		{proxy, "reviews:9080", "/nowhere", "", 503, ""},
		{edge, "reviews.example.com", "/g", "jason", 200, "v2 /g reviews.example.com"},
		{edge, "reviews.example.com:1234", "/g", "", 200, "v1 /g reviews.example.com:1234"},
		{edge, "www.example.org", "/g", "", 404, ""},
		// A host that the mesh doesn't know is reached by its own address.
		{0, fmt.Sprintf("127.0.0.1:%d", outside), "/out", "", 200, fmt.Sprintf("outside /out 127.0.0.1:%d", outside)},
		{proxy, fmt.Sprintf("127.0.0.1:%d", outside), "/out", "", 200, fmt.Sprintf("outside /out 127.0.0.1:%d", outside)},
	} {
		client, to := direct, fmt.Sprintf("127.0.0.1:%d", c.port)
		if c.port == 0 {
			client, to = forward, c.host
		}
		req, err := nethttp.NewRequestWithContext(t.Context(), nethttp.MethodGet, "http://"+to+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = c.host
		if c.user != "" {
			req.Header.Set("end-user", c.user)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s%s: %v", c.host, c.path, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Errorf("%s%s: %v", c.host, c.path, err)
		}
		if resp.StatusCode != c.status || string(body) != c.body {
			t.Errorf("%s%s for %q: %d %q, want %d %q", c.host, c.path, c.user, resp.StatusCode, body, c.status, c.body)
		}
	}
}
