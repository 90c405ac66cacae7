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
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"pillion/proxy/cluster"
	"pillion/proxy/hcm"
	"pillion/proxy/http"
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
	clusters := cluster.NewManager(cluster.Options{Stats: lab.registry})
	c := NewCompiler(Env{Clusters: clusters, Registry: lab.registry})
	snap, err := c.Compile(res)
	if err != nil {
		t.Fatal(err)
	}
	if err := clusters.Update(snap.Clusters, nil); err != nil {
		t.Fatal(err)
	}
	for place, table := range snap.Tables {
		place.Store(table)
	}
	tracker := hcm.NewTracker()
	var conns sync.WaitGroup
	var lns []net.Listener
	for name := range variants {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		lns = append(lns, ln)
		lab.ours[name] = ln.Addr().String()
		m := hcm.New(snap.Listeners[name].Chains[0].HCM, tracker)
		conns.Go(func() {
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				conns.Go(func() { m.Serve(nc, &http.ConnInfo{Local: nc.LocalAddr().String(), Remote: nc.RemoteAddr().String()}) })
			}
		})
	}
	t.Cleanup(func() {
		for _, ln := range lns {
			ln.Close()
		}
		over, cancel := context.WithCancel(context.Background())
		cancel()
		tracker.Drain(over)
		conns.Wait()
		clusters.Close()
		c.Close()
	})
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

// caseOf returns the case that a path belongs to.
func (lab *authzLab) caseOf(path string) (name string, c *authzCase) {
	for piece := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		piece, _, _ = strings.Cut(piece, "?")
		if c := lab.cases[piece]; c != nil {
			return piece, c
		}
	}
	return "", nil
}

// describe is a request as text: its line, its fields in order of their names,
// its body.
func describe(r *nethttp.Request) string {
	body, _ := io.ReadAll(r.Body)
	lines := []string{r.Method + " " + r.URL.RequestURI() + " host " + r.Host}
	for name, values := range r.Header {
		if name == "X-Request-Id" {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: %q", strings.ToLower(name), values))
	}
	slices.Sort(lines[1:])
	return strings.Join(append(lines, fmt.Sprintf("length %d te %v body %q", r.ContentLength, r.TransferEncoding, body)), "\n")
}

func (lab *authzLab) note(where map[string][]string, name, text string) {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	where[name] = append(where[name], text)
}

func (lab *authzLab) origin() string {
	return serveHTTP1(lab.t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		name, _ := lab.caseOf(r.URL.Path)
		if name == "" {
			name, _ = lab.caseOf(r.Header.Get("x-case"))
		}
		lab.note(lab.seen, name, describe(r))
		w.Header().Set("x-up", "first")
		w.Header().Set("server", "origin")
		_, _ = io.WriteString(w, "hello")
	})
}

func serveHTTP1(t *testing.T, h nethttp.HandlerFunc) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &nethttp.Server{Handler: h}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return ln.Addr().String()
}

func (lab *authzLab) webServer() string {
	return serveHTTP1(lab.t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		name, c := lab.caseOf(r.URL.Path)
		lab.note(lab.asked, name, describe(r))
		switch {
		case c == nil || c.web == nil:
			w.WriteHeader(599)
			return
		case c.web.hang:
			<-r.Context().Done()
			return
		case c.web.raw != "":
			nc, _, err := nethttp.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(nc, c.web.raw)
				_ = nc.Close()
			}
			return
		}
		for _, f := range c.web.fields {
			k, v, _ := strings.Cut(f, ": ")
			w.Header().Add(k, v)
		}
		w.WriteHeader(c.web.status)
		_, _ = io.WriteString(w, c.web.body)
	})
}

type grpcAuthz struct {
	authv3.UnimplementedAuthorizationServer
	lab *authzLab
}

func (g grpcAuthz) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	name, c := g.lab.caseOf(r.GetAttributes().GetRequest().GetHttp().GetPath())
	md, _ := metadata.FromIncomingContext(ctx)
	if c != nil {
		g.lab.note(g.lab.asked, name, describeMetadata(md, c)+"\n"+describeCheck(r))
	}
	switch {
	case c == nil:
		return nil, fmt.Errorf("no case")
	case c.fail == context.DeadlineExceeded:
		<-ctx.Done()
		return nil, ctx.Err()
	case c.fail != nil:
		return nil, c.fail
	}
	return c.grpc, nil
}

// describeMetadata is the fields of a call as text.
func describeMetadata(md metadata.MD, c *authzCase) string {
	var lines []string
	for name, values := range md {
		if name == "x-forwarded-for" {
			continue // Envoy's own address, which tells the server nothing
		}
		lines = append(lines, fmt.Sprintf("%s: %q", name, values))
	}
	slices.Sort(lines)
	return c.name + " " + strings.Join(lines, ", ")
}

// describeCheck is a CheckRequest as text, without what differs each time.
func describeCheck(r *authv3.CheckRequest) string {
	m := proto.Clone(r).(*authv3.CheckRequest)
	a := m.GetAttributes()
	h := a.GetRequest().GetHttp()
	if h.GetId() == "" || a.GetRequest().GetTime().AsTime().Before(time.Now().Add(-time.Minute)) {
		return "no id or an old time"
	}
	h.Id, a.Request.Time = "", nil
	delete(h.GetHeaders(), "x-request-id")
	if h.HeaderMap != nil {
		h.HeaderMap.Headers = slices.DeleteFunc(h.GetHeaderMap().GetHeaders(), func(v *corev3.HeaderValue) bool { return v.GetKey() == "x-request-id" })
	}
	a.GetSource().GetAddress().GetSocketAddress().PortSpecifier = nil
	a.GetDestination().GetAddress().GetSocketAddress().PortSpecifier = nil
	text, err := protojson.Marshal(m)
	if err != nil {
		return err.Error()
	}
	var v any
	_ = json.Unmarshal(text, &v)
	text, _ = json.MarshalIndent(v, "", " ")
	return string(text)
}

func (lab *authzLab) grpcServer() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		lab.t.Fatal(err)
	}
	srv := grpc.NewServer()
	authv3.RegisterAuthorizationServer(srv, grpcAuthz{lab: lab})
	go func() { _ = srv.Serve(ln) }()
	lab.t.Cleanup(srv.Stop)
	return ln.Addr().String()
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
