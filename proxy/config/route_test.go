// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	// Overrides carry these in Any fields, which are read from JSON here.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
	"pillion/proxy/router"
)

// routeCluster is a cluster of which only the name is known.
type routeCluster string

func (c routeCluster) Name() string     { return string(c) }
func (c routeCluster) StatName() string { return string(c) }

// routeRig is an environment that records what the compiler asks of it. Each
// list of overrides gets a chain of its own, known by what it was made of.
type routeRig struct {
	clusters map[string]router.Cluster
	chains   map[*filter.Chain]string
	warnings []string
}

func newRouteRig() *routeRig {
	return &routeRig{clusters: map[string]router.Cluster{}, chains: map[*filter.Chain]string{}}
}

func (g *routeRig) env() RouteEnv {
	return RouteEnv{
		Cluster: func(name string) router.Cluster {
			if g.clusters[name] == nil {
				g.clusters[name] = routeCluster(name)
			}
			return g.clusters[name]
		},
		Chain: g.chain,
		Warn:  func(w string) { g.warnings = append(g.warnings, w) },
	}
}

// chain names the overrides that win, such as "fault=route.fault".
func (g *routeRig) chain(levels ...map[string]*anypb.Any) (*filter.Chain, error) {
	names := [...]string{"table", "vhost", "route", "target"}
	won := map[string]string{}
	for i, m := range levels {
		for k := range m {
			if k == "bad" {
				return nil, fmt.Errorf("bad: is not a filter")
			}
			won[k] = names[i]
		}
	}
	var parts []string
	for k, v := range won {
		parts = append(parts, strings.TrimPrefix(k, "envoy.filters.http.")+"="+v)
	}
	slices.Sort(parts)
	c := &filter.Chain{}
	g.chains[c] = strings.Join(parts, " ")
	return c, nil
}

// routeYAML reads a route configuration.
func routeYAML(t testing.TB, text string) *routev3.RouteConfiguration {
	t.Helper()
	js, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	rc := &routev3.RouteConfiguration{}
	if err := protojson.Unmarshal(js, rc); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return rc
}

// receiveRoutes reads the route configurations that a real istiod sent.
func receiveRoutes(t testing.TB, node string) map[string]*routev3.RouteConfiguration {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "istiod", node+"-rds.pb"))
	if err != nil {
		t.Fatal(err)
	}
	resp := &discoveryv3.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(raw, resp); err != nil {
		t.Fatal(err)
	}
	all := map[string]*routev3.RouteConfiguration{}
	for _, res := range resp.GetResources() {
		rc := &routev3.RouteConfiguration{}
		if err := res.GetResource().UnmarshalTo(rc); err != nil {
			t.Fatal(err)
		}
		all[rc.GetName()] = rc
	}
	return all
}

// routeRequest makes an exchange of METHOD HOST PATH and field lines.
func routeRequest(line string, fields ...string) *http.Exchange {
	part := strings.Split(line, " ")
	ex := &http.Exchange{Conn: &http.ConnInfo{Local: "10.0.0.2:9080", Remote: "10.0.0.1:5555"}}
	ex.Req = http.RequestHead{Method: http.LookupMethod([]byte(part[0])), RawMethod: []byte(part[0]),
		Authority: []byte(part[1]), Path: []byte(part[2]), Scheme: []byte("http"), Protocol: http.HTTP11}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		ex.Req.Fields.Add([]byte(name), []byte(value))
	}
	return ex
}

// routeLines prints field lines.
func routeLines(f *http.Fields) string {
	var all []string
	for i := range f.All() {
		l := f.At(i)
		all = append(all, strings.ToLower(string(l.Name))+": "+string(l.Value))
	}
	return strings.Join(all, " | ")
}

// What istiod sends is accepted whole, and nothing of it is passed over.
func TestRoutesOfIstiod(t *testing.T) {
	for _, node := range []string{"full-productpage-v1", "full-reviews-v1", "full-ingressgateway", "kitchen-productpage-v1", "kitchen-ingressgateway"} {
		all := receiveRoutes(t, node)
		if len(all) < 3 {
			t.Fatalf("%s: %d route configurations", node, len(all))
		}
		for name, rc := range all {
			rig := newRouteRig()
			table, err := CompileRoutes(rc, rig.env())
			if err != nil {
				t.Errorf("%s: %s: %v", node, name, err)
				continue
			}
			if len(rig.warnings) > 0 {
				t.Errorf("%s: %s: %q", node, name, rig.warnings)
			}
			for _, vh := range rc.GetVirtualHosts() {
				for _, d := range vh.GetDomains() {
					host := strings.ReplaceAll(d, "*", "anything")
					if got, _ := table.Match(&routeRequest("GET "+host+" /").Req, 0); got == nil || got.Name != vh.GetName() {
						t.Errorf("%s: %s: %s is of %v, want %s", node, name, host, got, vh.GetName())
					}
				}
			}
		}
	}
}

// TestMeshRoutes sends requests through the table of port 9080 that istiod
// made of the reference mesh.
func TestMeshRoutes(t *testing.T) {
	rig := newRouteRig()
	table, err := CompileRoutes(receiveRoutes(t, "full-productpage-v1")["9080"], rig.env())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line, fields string
		vhost, does  string // "-> CLUSTER", or a status with a Location
		chain        string
	}{
		{"GET reviews:9080 /reviews/1", "end-user: jason", "reviews", "-> outbound|9080|v2|reviews.default.svc.cluster.local", ""},
		{"GET REVIEWS.default /reviews/1", "end-user: kate", "reviews", "-> outbound|9080|v1|reviews.default.svc.cluster.local 99/outbound|9080|v2|reviews.default.svc.cluster.local 1", ""},
		{"GET ratings.default.svc.cluster.local.:9080 /", "x-chaos: delay", "ratings", "-> outbound|9080||ratings.default.svc.cluster.local", "fault=route"},
		{"GET ratings /old/7?x", "x-drop: 1", "ratings", "-> outbound|9080||ratings.default.svc.cluster.local /new/7?x", ""},
		{"GET ratings /redirect?q", "", "ratings", "302 http://other.example.com/elsewhere?q", ""},
		{"GET ratings /direct", "", "ratings", "418 teapot\n", ""},
		{"GET ratings /re/12?q=abc", "", "ratings", "-> outbound|9080||ratings.default.svc.cluster.local", "cors=route"},
		{"POST ratings /re/12?q=abc", "", "ratings", "-> outbound|9080||ratings.default.svc.cluster.local", ""},
		{"GET ratings /mirror/x", "", "ratings", "-> outbound|9080||ratings.default.svc.cluster.local", ""},
		{"GET unknown.example.com /x", "", "allow_any", "-> PassthroughCluster", ""},
	} {
		ex := routeRequest(c.line)
		if c.fields != "" {
			ex = routeRequest(c.line, c.fields)
		}
		vh, r := table.Match(&ex.Req, 0)
		if vh == nil || !strings.HasPrefix(vh.Name, c.vhost) || r == nil {
			t.Errorf("%s: %v, %v", c.line, vh, r)
			continue
		}
		if got := describeRoute(ex, r); got != c.does {
			t.Errorf("%s: %s\nwant %s", c.line, got, c.does)
		}
		if got := rig.chains[r.Chain]; got != c.chain {
			t.Errorf("%s: the chain has %q, want %q", c.line, got, c.chain)
		}
		if !vh.IncludeAttemptCount && c.vhost != "allow_any" {
			t.Errorf("%s: attempts are not counted", c.line)
		}
	}
}

// describeRoute applies a route and says what it does.
func describeRoute(ex *http.Exchange, r *router.Route) string {
	if r.Kind != router.Forward {
		status, body := r.Direct(ex)
		loc, _ := ex.Resp.Fields.Get(http.HeaderLocation)
		return fmt.Sprintf("%d %s%s", status, loc, body)
	}
	var targets []string
	for _, t := range r.Targets {
		if len(r.Targets) > 1 {
			targets = append(targets, fmt.Sprintf("%s %d", t.Cluster.Name(), t.Weight))
		} else {
			targets = append(targets, t.Cluster.Name())
		}
	}
	before := string(ex.Req.Path)
	r.ApplyRequest(ex, &r.Targets[0])
	s := "-> " + strings.Join(targets, "/")
	if after := string(ex.Req.Path); after != before {
		s += " " + after
	}
	return s
}

func TestMeshPolicies(t *testing.T) {
	table, err := CompileRoutes(receiveRoutes(t, "full-productpage-v1")["9080"], newRouteRig().env())
	if err != nil {
		t.Fatal(err)
	}
	find := func(line string, fields ...string) *router.Route {
		_, r := table.Match(&routeRequest(line, fields...).Req, 0)
		return r
	}
	def := find("GET productpage /").Retry
	if def == nil || def.String() != "2 retries on connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable" ||
		!def.AvoidPreviousHosts || def.HostAttempts != 5 {
		t.Errorf("the default retry policy is %v", def)
	}
	if find("GET ratings /", "x-chaos: on").Retry != def {
		t.Error("equal retry policies are not shared")
	}
	reviews := find("GET reviews /")
	if p := reviews.Retry; p.PerTryTimeout != 2*time.Second || p.NumRetries != 3 || !slices.Equal(p.StatusCodes, []int{503}) || p == def {
		t.Errorf("the retry policy of reviews is %+v", p)
	}
	if m := find("GET ratings /mirror").Mirrors(); len(m) != 1 || m[0].Cluster.Name() != "outbound|9080|v2|reviews.default.svc.cluster.local" ||
		!m[0].KeepHost || m[0].Fraction != (match.Fraction{Numerator: 1_000_000, Denominator: 1_000_000}) || !m[0].HasTraced || m[0].Traced {
		t.Errorf("the mirrors are %+v", m)
	}
	if _, ok := reviews.Hash(routeRequest("GET reviews /", "x-user: a")); !ok {
		t.Error("reviews has no hash by x-user")
	}
	if reviews.Name != "default" || reviews.Operation != "reviews:9080/*" || reviews.Timeout != 10*time.Second ||
		!strings.HasPrefix(reviews.Source, "/apis/networking.istio.io/v1/namespaces/default/virtual-service/") {
		t.Errorf("reviews is %q of %q by %q, at most %v", reviews.Name, reviews.Source, reviews.Operation, reviews.Timeout)
	}
	old := routeRequest("GET ratings /old/x", "x-drop: 1")
	r := find("GET ratings /old/x")
	r.ApplyRequest(old, r.Target(0))
	r.ApplyResponse(old, r.Target(0))
	if got := routeLines(&old.Req.Fields); got != "x-rewritten: yes | x-envoy-original-path: /old/x" {
		t.Errorf("the request has %s", got)
	}
	if got := routeLines(&old.Resp.Fields); got != "x-from-vs: ratings" {
		t.Errorf("the response has %s", got)
	}
}
