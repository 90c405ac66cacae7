// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/cluster"
	"pillion/proxy/proxytest/mint"
	"pillion/proxy/stats"
	"pillion/test/need"
	"pillion/test/rig"
	"pillion/test/wire"
)

// jwtLab is a real Envoy and our data path with the same listeners, one for
// each configuration of the filter, before one application.
type jwtLab struct {
	t           *testing.T
	keys        *mint.Keys
	envoy, ours map[string]string // addresses of listeners by name
	admin       *rig.Proxy        // Envoy's
	registry    *stats.Registry   // ours

	mu      sync.Mutex
	seen    []*wire.Request // guarded by mu
	fetched map[string]int  // requests for key sets by path; guarded by mu
}

// jwtCase is one request through both. Besides being compared with each other,
// both have to answer as the case says.
type jwtCase struct {
	name   string
	on     string // listener
	method string // GET if empty
	target string // "/" if empty
	fields []string
	status int
	// stricter says why ours refuses what Envoy lets pass with status, or
	// refuses with another reason.
	stricter string
	// better says why ours passes on another request than Envoy does, to which
	// the application answers with status.
	better string
}

// newJWTLab starts both sides. texts are configurations of the filter in YAML,
// by the names of their listeners, with routes of their own after a line of
// "---".
func newJWTLab(t *testing.T, keys *mint.Keys, texts map[string]string) *jwtLab {
	t.Helper()
	lab := &jwtLab{t: t, keys: keys, envoy: map[string]string{}, ours: map[string]string{}, registry: stats.NewRegistry(), fetched: map[string]int{}}
	app := wire.NewOrigin(t, "app", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		lab.mu.Lock()
		lab.seen = append(lab.seen, r)
		lab.mu.Unlock()
		return wire.Answer(w, r, 200, "hello")
	})
	issuer := wire.NewOrigin(t, "issuer", "127.0.0.1:0", lab.issue)
	r := &Resources{Clusters: []*clusterv3.Cluster{{}, {}, {}}}
	fromYAML(t, tcpCluster("app", "", app.Addr), r.Clusters[0])
	fromYAML(t, tcpCluster("issuer", "", issuer.Addr), r.Clusters[1])
	fromYAML(t, tcpCluster("gone", "", refusing(t)), r.Clusters[2])
	for name, text := range texts {
		text, routes, own := strings.Cut(text, "---\n")
		if !own {
			routes = `[{match: {prefix: /}, route: {cluster: app}}]`
		}
		l := &listenerv3.Listener{}
		lab.envoy[name] = rig.FreeAddr(t)
		_, port, _ := net.SplitHostPort(lab.envoy[name])
		fromYAML(t, jwtListener(name, port, text, routes), l)
		r.Listeners = append(r.Listeners, l)
	}
	lab.startEnvoy(r)
	lab.startOurs(r)
	return lab
}

// issue answers as an issuer of tokens that is in the state that the path
// names. Paths may end in a number, so that each listener has its own.
func (lab *jwtLab) issue(w io.Writer, r *wire.Request) error {
	lab.mu.Lock()
	lab.fetched[r.Target]++
	lab.mu.Unlock()
	good := lab.keys.Set("rsa")
	switch r.Target {
	case "/good?x=y":
		return wire.Answer(w, r, 200, good, wire.Field{Name: "x-host-was", Value: r.Fields.Get("host")})
	case "/html":
		return wire.Answer(w, r, 200, "<html>maintenance</html>")
	case "/empty":
		return wire.Answer(w, r, 200, "")
	case "/none":
		return wire.Answer(w, r, 200, `{"keys":[]}`)
	case "/500":
		return wire.Answer(w, r, 500, good)
	case "/302":
		return wire.Answer(w, r, 302, good, wire.Field{Name: "location", Value: "/trap"})
	case "/201":
		return wire.Answer(w, r, 201, good)
	case "/big":
		return wire.Answer(w, r, 200, strings.Replace(good, "{", `{"pad":"`+strings.Repeat("x", 4<<20)+`",`, 1))
	case "/slow":
		<-lab.t.Context().Done()
	}
	return wire.Answer(w, r, 404, "")
}

func jwtListener(name, port, text, routes string) string {
	return fmt.Sprintf(`
name: %q
address: {socket_address: {address: 127.0.0.1, port_value: %s}}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: %q
      generate_request_id: false
      http_filters:
      - name: envoy.filters.http.jwt_authn
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
%s
      - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
      route_config:
        virtual_hosts:
        - name: v
          domains: ["*"]
          response_headers_to_add: [{header: {key: x-details, value: "%%RESPONSE_CODE_DETAILS%%"}}, {header: {key: x-flags, value: "%%RESPONSE_FLAGS%%"}}]
          routes: %s
`, name, port, name, indent(text, 10), routes)
}

func indent(text string, n int) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		b.WriteString(strings.Repeat(" ", n) + line)
	}
	return b.String()
}

func (lab *jwtLab) startEnvoy(r *Resources) {
	t := lab.t
	t.Helper()
	parts := func(list []proto.Message) string {
		var out []string
		for _, m := range list {
			b, err := protojson.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(b))
		}
		return "[" + strings.Join(out, ",") + "]"
	}
	var listeners, clusters []proto.Message
	for _, l := range r.Listeners {
		listeners = append(listeners, l)
	}
	for _, c := range r.Clusters {
		clusters = append(clusters, c)
	}
	admin := rig.FreeAddr(t)
	host, port, _ := net.SplitHostPort(admin)
	lab.admin = rig.StartEnvoy(t, need.Envoy(t), fmt.Sprintf(
		`{"admin":{"address":{"socket_address":{"address":%q,"port_value":%s}}},"static_resources":{"listeners":%s,"clusters":%s}}`,
		host, port, parts(listeners), parts(clusters)), admin, admin)
}

func (lab *jwtLab) startOurs(r *Resources) {
	t := lab.t
	t.Helper()
	lab.ours, _ = serveResources(t, Env{Clusters: cluster.NewManager(cluster.Options{}), Registry: lab.registry}, r)
}

// jwtAnswer is all of what a side did that has to be equal.
type jwtAnswer struct {
	status int
	body   string
	head   string // the response's fields
	app    string // the request as the application saw it
}

// ask makes a case's request through the proxy at addr.
func (lab *jwtLab) ask(t *testing.T, addr string, c *jwtCase) (a jwtAnswer) {
	t.Helper()
	lab.mu.Lock()
	lab.seen = nil
	lab.mu.Unlock()
	client, err := wire.Dial(addr, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	method, target := c.method, c.target
	if method == "" {
		method = "GET"
	}
	if target == "" {
		target = "/"
	}
	raw := method + " " + target + " HTTP/1.1\r\nHost: api.test\r\n" + strings.Join(append(slices.Clone(c.fields), "", ""), "\r\n")
	if err := client.Send(raw); err != nil {
		t.Fatal(err)
	}
	resp, err := client.Read(method)
	if err != nil {
		t.Fatalf("%v; the request is %.300q", err, raw)
	}
	a.status, a.body = resp.Status, string(resp.Body)
	a.head = sortedFields(resp.Fields, "date", "x-envoy-upstream-service-time", "transfer-encoding", "connection", "server")
	lab.mu.Lock()
	defer lab.mu.Unlock()
	for _, r := range lab.seen {
		a.app += r.Start + "\n" + sortedFields(r.Fields, "x-forwarded-proto", "x-request-id", "x-envoy-expected-rq-timeout-ms")
	}
	return a
}

// sortedFields are the lines of a head in one order. Envoy makes one line of
// two of Authorization.
func sortedFields(f wire.Fields, but ...string) string {
	var lines []string
	if a := f.Values("authorization"); len(a) > 0 {
		lines = append(lines, "authorization: "+strings.Join(a, ","))
		but = append(but, "authorization")
	}
	for _, l := range f {
		if name := strings.ToLower(l.Name); !slices.Contains(but, name) {
			lines = append(lines, name+": "+l.Value)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// run makes every case through both.
func (lab *jwtLab) run(cases []jwtCase) {
	names := map[string]bool{}
	for i := range cases {
		c := &cases[i]
		if c.name = c.on + " " + c.name; names[c.name] {
			lab.t.Fatalf("two cases are called %s", c.name)
		}
		names[c.name] = true
		lab.t.Run(c.name, func(t *testing.T) {
			if lab.envoy[c.on] == "" {
				t.Fatalf("there is no listener %s", c.on)
			}
			envoy, ours := lab.ask(t, lab.envoy[c.on], c), lab.ask(t, lab.ours[c.on], c)
			if envoy.status != c.status {
				t.Errorf("Envoy answers %d, want %d: %s", envoy.status, c.status, envoy.body)
			}
			if c.stricter != "" {
				if ours.status != 401 && ours.status != 403 || ours.app != "" {
					t.Errorf("ours answers %d, want a refusal, since %s", ours.status, c.stricter)
				}
				if ours == envoy {
					t.Errorf("nothing differs where %s: take the allowance away", c.stricter)
				}
				return
			}
			if c.better != "" {
				if ours.status != 200 || ours.app == envoy.app {
					t.Errorf("ours answers %d, want 200 and another request than Envoy's, since %s: %s", ours.status, c.better, ours.app)
				}
				return
			}
			if ours != envoy {
				t.Errorf("they differ:\nEnvoy %+v\nours  %+v", envoy, ours)
			}
		})
	}
}

// counters returns what both have counted below http.<prefix>.jwt_authn., the
// cache aside: where none is configured, Envoy has none.
func (lab *jwtLab) counters(t *testing.T, prefix string) (envoy, ours string) {
	t.Helper()
	start := "http." + prefix + ".jwt_authn."
	body, err := lab.admin.Ask("GET", "/stats?filter="+start)
	if err != nil {
		t.Fatal(err)
	}
	var lines, theirs []string
	for line := range strings.Lines(body) {
		if !strings.Contains(line, "jwt_cache") {
			theirs = append(theirs, line)
		}
	}
	for _, m := range lab.registry.List(stats.Query{}) {
		if strings.HasPrefix(m.Name, start) && !strings.Contains(m.Name, "jwt_cache") {
			lines = append(lines, fmt.Sprintf("%s: %v\n", m.Name, m.Value))
		}
	}
	slices.Sort(lines)
	return strings.Join(theirs, ""), strings.Join(lines, "")
}
