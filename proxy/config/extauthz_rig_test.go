// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	nethttp "net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"sigs.k8s.io/yaml"

	"pillion/proxy/cluster"
	"pillion/proxy/stats"
	"pillion/test/need"
	"pillion/test/rig"
)

// authzLab is a real Envoy and our own listeners on the same configuration,
// with one authorization server of each kind and one origin behind both. What
// a server is to say to a case, whose name is the path's first segment, stands
// in cases.
type authzLab struct {
	t           *testing.T
	cases       map[string]*authzCase // immutable once requests are made
	envoy, ours map[string]string     // addresses by variant
	clusters    []string              // in YAML
	registry    *stats.Registry       // ours
	admin       *rig.Proxy            // Envoy's

	mu    sync.Mutex
	asked map[string][]string // guarded by mu; what authorization servers saw, by case
	seen  map[string][]string // guarded by mu; what the origin saw, by case
}

// authzCase is one request through one variant of the filter.
type authzCase struct {
	name, variant string
	method        string
	path          string // behind the name
	body          string
	fields        []string
	http2         bool

	web  *webAnswer            // of the HTTP server
	grpc *authv3.CheckResponse // of the gRPC server
	fail error                 // of the gRPC server

	status int // that both have to answer
	// unlike says what differs on purpose, as lines of the text that is
	// compared, "-" for Envoy's and "+" for ours.
	unlike []string
}

type webAnswer struct {
	status int
	fields []string
	body   string
	hang   bool
	raw    string // in place of all else
}

// variants are the filters of the listeners, by name. AZ, AZG, GONE are
// clusters.
func newAuthzLab(t *testing.T, variants map[string]string, cases []*authzCase) *authzLab {
	t.Helper()
	envoy := need.Envoy(t)
	lab := newOwnAuthzLab(t, variants, cases)
	lab.startEnvoy(envoy, variants, lab.clusters)
	return lab
}

// newOwnAuthzLab is a lab without an Envoy.
func newOwnAuthzLab(t *testing.T, variants map[string]string, cases []*authzCase) *authzLab {
	t.Helper()
	lab := &authzLab{t: t, cases: map[string]*authzCase{}, envoy: map[string]string{}, ours: map[string]string{},
		asked: map[string][]string{}, seen: map[string][]string{}, registry: stats.NewRegistry()}
	for _, c := range cases {
		if lab.cases[c.name] != nil {
			t.Fatalf("two cases are called %s", c.name)
		}
		lab.cases[c.name] = c
	}
	lab.clusters = []string{tcpCluster("up", "", lab.origin()), tcpCluster("other", "", lab.origin()), tcpCluster("az", "", lab.webServer()),
		tcpCluster("azg", http2Options, lab.grpcServer()), tcpCluster("slow", http2Options, lab.grpcServer()), tcpCluster("gone", "", rig.FreeAddr(t)), tcpCluster("goneg", http2Options, rig.FreeAddr(t))}
	lab.serve(variants, lab.clusters)
	return lab
}

const http2Options = `typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}`

// shadowPolicy is what Istio puts before the filter of a CUSTOM policy: a policy
// that enforces nothing, but tells which requests are to be checked.
const shadowPolicy = `
      - name: rbac
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
          shadow_rules_stat_prefix: istio_ext_authz_
          shadow_rules:
            action: DENY
            policies:
              "istio-ext-authz-opa-ns[a]-policy[b]-rule[0]":
                permissions: [{header: {name: x-want, string_match: {exact: custom}}}]
                principals: [{any: true}]
              "istio-ext-authz-other-ns[a]-policy[b]-rule[0]":
                permissions: [{header: {name: x-want, string_match: {exact: another}}}]
                principals: [{any: true}]`

// authzListener is a listener in YAML. That of the variant custom has a shadow
// policy.
func authzListener(name, addr, filter string) string {
	_, port, _ := net.SplitHostPort(addr)
	before := ""
	if name == "custom" {
		before = shadowPolicy
	}
	perRoute := func(text string) string {
		return `typed_per_filter_config: {authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, ` + text + `}}`
	}
	return fmt.Sprintf(`
name: "%s"
address: {socket_address: {address: 127.0.0.1, port_value: %s}}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: "%s"
      http_filters:%s
      - {name: authz, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, %s}}
      - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
      route_config:
        response_headers_to_add:
        - {header: {key: x-details, value: "%%RESPONSE_CODE_DETAILS%%"}}
        - {header: {key: x-flags, value: "%%RESPONSE_FLAGS%%"}}
        virtual_hosts:
        - name: v
          domains: ["*"]
          %s
          routes:
          - {match: {prefix: /, headers: [{name: x-route, string_match: {exact: other}}]}, route: {cluster: other}, response_headers_to_add: [{header: {key: x-took, value: other}}]}
          - {match: {prefix: /, headers: [{name: x-want, string_match: {exact: disabled}}]}, route: {cluster: up}, %s}
          - {match: {prefix: /, headers: [{name: x-want, string_match: {exact: unbuffered}}]}, route: {cluster: up}, %s}
          - {match: {prefix: /, headers: [{name: x-want, string_match: {exact: direct}}]}, direct_response: {status: 207, body: {inline_string: direct}}}
          - {match: {prefix: /}, route: {cluster: up}, %s}
`, name, port, name, before, filter, perRoute(`check_settings: {context_extensions: {vhost: v, both: vhost}}`), perRoute(`disabled: true`),
		perRoute(`check_settings: {disable_request_body_buffering: true}`), perRoute(`check_settings: {context_extensions: {route: r, both: route}}`))
}

// serve serves the variants in this process.
func (lab *authzLab) serve(variants map[string]string, clusterTexts []string) {
	t := lab.t
	res := &Resources{}
	for name, filter := range variants {
		l := &listenerv3.Listener{}
		fromYAML(t, authzListener(name, "127.0.0.1:1", filter), l)
		res.Listeners = append(res.Listeners, l)
	}
	for _, text := range clusterTexts {
		c := &clusterv3.Cluster{}
		fromYAML(t, text, c)
		res.Clusters = append(res.Clusters, c)
	}
	lab.ours, _ = serveResources(t, Env{Clusters: cluster.NewManager(cluster.Options{Stats: lab.registry}), Registry: lab.registry}, res)
}

func (lab *authzLab) startEnvoy(binary string, variants map[string]string, clusters []string) {
	t := lab.t
	bootstrap := map[string]any{}
	admin, first := rig.FreeAddr(t), ""
	_, adminPort, _ := net.SplitHostPort(admin)
	var resources struct {
		Listeners []any `json:"listeners"`
		Clusters  []any `json:"clusters"`
	}
	object := func(text string) any {
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for name, filter := range variants {
		addr := rig.FreeAddr(t)
		lab.envoy[name], first = addr, addr
		resources.Listeners = append(resources.Listeners, object(authzListener(name, addr, filter)))
	}
	for _, c := range clusters {
		resources.Clusters = append(resources.Clusters, object(c))
	}
	bootstrap["static_resources"] = resources
	bootstrap["admin"] = object("address: {socket_address: {address: 127.0.0.1, port_value: " + adminPort + "}}")
	bootstrap["node"] = map[string]any{"id": "n", "cluster": "c"}
	text, err := json.Marshal(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	lab.admin = rig.StartEnvoy(t, binary, string(text), first, admin)
}

// through makes a case's request and returns all that came of it as text.
func (lab *authzLab) through(t *testing.T, addr string, c *authzCase) (status int, text string) {
	t.Helper()
	rt := &nethttp.Transport{DisableCompression: true}
	if c.http2 {
		rt.Protocols = onlyHTTP2()
	}
	defer rt.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	method := c.method
	if method == "" {
		method = "GET"
	}
	var body io.Reader
	if c.body != "" {
		body = strings.NewReader(c.body)
	}
	req, err := nethttp.NewRequestWithContext(ctx, method, "http://"+addr+"/"+c.name+c.path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "app.example"
	req.Header.Set("user-agent", "test")
	req.Header.Set("x-case", c.name)
	for _, f := range c.fields {
		k, v, _ := strings.Cut(f, ": ")
		req.Header.Add(k, v)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, "no response: " + err.Error()
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	lines := []string{fmt.Sprint("status ", resp.StatusCode, " body ", string(got), " ", err)}
	for name, values := range resp.Header {
		switch name {
		case "Date", "X-Envoy-Upstream-Service-Time":
			continue
		}
		lines = append(lines, fmt.Sprintf("response %s: %q", strings.ToLower(name), values))
	}
	slices.Sort(lines[1:])
	lab.mu.Lock()
	defer lab.mu.Unlock()
	for _, a := range lab.asked[c.name] {
		lines = append(lines, strings.Split("asked "+a, "\n")...)
	}
	for _, s := range lab.seen[c.name] {
		lines = append(lines, strings.Split("origin "+s, "\n")...)
	}
	delete(lab.asked, c.name)
	delete(lab.seen, c.name)
	return resp.StatusCode, strings.Join(lines, "\n")
}

// differences are the lines that only one side has.
func differences(envoy, ours string) (out []string) {
	a, b := strings.Split(envoy, "\n"), strings.Split(ours, "\n")
	for _, l := range a {
		if i := slices.Index(b, l); i >= 0 {
			b = slices.Delete(b, i, i+1)
			continue
		}
		out = append(out, "-"+l)
	}
	for _, l := range b {
		out = append(out, "+"+l)
	}
	return out
}

// compareCounters compares what both sides have counted: of the filters, of the
// clusters that requests were for, and of the servers' own. Of a slow server
// and of streams that are given up it is a race who resets first.
func (lab *authzLab) compareCounters(t *testing.T, cases []*authzCase) {
	t.Helper()
	counted := func(name string) bool {
		return strings.Contains(name, "ext_authz") || strings.HasPrefix(name, "cluster.") && strings.Contains(name, "upstream_rq_") &&
			!strings.Contains(name, "pending") && !strings.Contains(name, "reset") && !strings.HasPrefix(name, "cluster.slow")
	}
	theirs, ours := map[string]string{}, map[string]string{}
	for line := range strings.Lines(lab.admin.Get(t, "/stats?type=Counters")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && counted(name) && value != "0" {
			theirs[name] = value
		}
	}
	for _, m := range lab.registry.List(stats.Query{UsedOnly: true}) {
		if counted(m.Name) && m.Value != 0 {
			ours[m.Name] = fmt.Sprint(m.Value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		if ours[name] != theirs[name] {
			t.Errorf("%s is %s, Envoy has %s", name, ours[name], theirs[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		if theirs[name] == "" {
			t.Errorf("%s is %s, Envoy has none", name, ours[name])
		}
	}
}
