// SPDX-License-Identifier: Apache-2.0

package live

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/http"
	"pillion/proxy/router"
	"pillion/proxy/xds"
)

// tableText describes a table by where a request to each of some hosts goes.
func tableText(t *router.Table) string {
	if t == nil {
		return "no-table"
	}
	out := t.Name() + "{"
	for _, host := range []string{"a", "b", "c", "v1", "v2"} {
		if to := routeOf(t, host); to != "" {
			out += host + "=" + to + " "
		}
	}
	return strings.TrimSpace(out) + "}"
}

func routeOf(t *router.Table, host string) string {
	_, r := t.Match(&http.RequestHead{Authority: []byte(host), Path: []byte("/")}, 0)
	if r == nil {
		return ""
	}
	return r.Name
}

// TestPush plays what istiod sends a sidecar that has just begun.
func TestPush(t *testing.T) {
	r := newRig(t)
	if w := r.WaitingFor(); len(w) != 1 || w[0] != "waiting for clusters from the control plane" {
		t.Errorf("waits for %q", w)
	}
	r.push(edsCluster("a"), staticCluster("b", "10.0.0.2:80"))
	r.wants(EndpointType, "a")
	if got := r.hosts(); got != "b=10.0.0.2:80" {
		t.Errorf("before endpoints: %s", got)
	}
	r.push(assignment("a", "10.0.0.1:80"))
	if got := r.hosts(); got != "a=10.0.0.1:80 b=10.0.0.2:80" {
		t.Errorf("with endpoints: %s", got)
	}
	r.push(httpListener("l", "10.0.0.9:80", "80"))
	r.wants(RouteType, "80")
	if got := r.done(); got != "" {
		t.Errorf("before routes: %s", got)
	}
	if w := strings.Join(r.WaitingFor(), "; "); w != "warming listener l: no route configuration 80 yet since 0s" {
		t.Errorf("waits for %q", w)
	}
	r.push(routesTo("80", "a=a", "b=b"))
	if got := r.done(); got != "serve l" {
		t.Errorf("with routes: %s", got)
	}
	if got := tableText(r.serving["l"].Chains[0].HCM.Routes.Load()); got != "80{a=a b=b}" {
		t.Errorf("routes: %s", got)
	}
	if w := r.WaitingFor(); len(w) != 0 {
		t.Errorf("waits for %q", w)
	}
}

// TestUnchanged holds that what istiod sends again costs nothing and changes
// nothing.
func TestUnchanged(t *testing.T) {
	r := newRig(t)
	all := [][]proto.Message{{edsCluster("a")}, {assignment("a", "10.0.0.1:80")}, {httpListener("l", "10.0.0.9:80", "80")}, {routesTo("80", "a=a")}}
	for _, list := range all {
		r.push(list...)
	}
	r.done()
	table, modified := r.serving["l"].Chains[0].HCM.Routes.Load(), r.clusters.Get("a").Config()
	for _, list := range all {
		r.push(list...)
	}
	if got := r.done(); got != "" {
		t.Errorf("a listener that has not changed: %s", got)
	}
	if r.serving["l"].Chains[0].HCM.Routes.Load() != table || r.clusters.Get("a").Config() != modified {
		t.Error("routes or clusters were compiled again")
	}
	if n := r.listeners.counts.unchanged.Value(); n != 1 {
		t.Errorf("%d listeners were found unchanged", n)
	}
}

// TestChangedHostsOfRoutes holds that only virtual hosts that changed are compiled.
func TestChangedHostsOfRoutes(t *testing.T) {
	r := newRig(t)
	r.push(httpListener("l", "10.0.0.9:80", "80"))
	r.push(routesTo("80", "a=a", "b=b", "c=c"))
	before := r.serving["l"].Chains[0].HCM.Routes.Load()
	r.push(routesTo("80", "a=a", "b=v2", "c=c"))
	after := r.serving["l"].Chains[0].HCM.Routes.Load()
	if got := tableText(after); got != "80{a=a b=v2 c=c}" {
		t.Errorf("after the change: %s", got)
	}
	if got := tableText(before); got != "80{a=a b=b c=c}" {
		t.Errorf("the old table, which requests may still read: %s", got)
	}
	host := func(t *router.Table, name string) *router.VirtualHost {
		vh, _ := t.Match(&http.RequestHead{Authority: []byte(name), Path: []byte("/")}, 0)
		return vh
	}
	if host(before, "a") != host(after, "a") || host(before, "b") == host(after, "b") {
		t.Error("what was compiled again is not what has changed")
	}
	other := routesTo("80", "a=a", "b=v2", "c=c")
	other.IgnorePortInHostMatching = true
	r.push(other)
	if last := r.serving["l"].Chains[0].HCM.Routes.Load(); host(last, "a") == host(after, "a") || routeOf(last, "a:8080") != "a" {
		t.Error("a change of the whole table left virtual hosts as they were")
	}
}

// TestBadAmongGood holds that each bad resource is refused alone, by name and
// field, and that its last good version serves on.
func TestBadAmongGood(t *testing.T) {
	r := newRig(t)
	r.push(edsCluster("a"), staticCluster("b", "10.0.0.2:80"))
	r.push(assignment("a", "10.0.0.1:80"))
	bad := staticCluster("b", "10.0.0.3:80")
	bad.LrsServer = edsCluster("x").GetEdsClusterConfig().GetEdsConfig()
	why := r.refused(bad, staticCluster("c", "10.0.0.4:80"))
	if why != "cluster b: lrs_server: is not supported" {
		t.Errorf("refused: %s", why)
	}
	if got := r.hosts(); got != "a=10.0.0.1:80 b=10.0.0.2:80 c=10.0.0.4:80" {
		t.Errorf("served: %s", got)
	}
	if p := strings.Join(r.Problems(), "\n"); !strings.Contains(p, "refused cluster b: lrs_server: is not supported") {
		t.Errorf("problems: %s", p)
	}
	st := r.Status()[0].Resources[1]
	if st.Refused == nil || st.Active == nil || st.Refused.Reason != "lrs_server: is not supported" {
		t.Errorf("state of b: %+v", st)
	}
	r.push(staticCluster("b", "10.0.0.2:80")) // as it was
	if st := r.Status()[0].Resources[1]; st.Refused != nil {
		t.Error("it went back to the good one and is still refused")
	}
	why = r.refused(assignment("a", "not-an-ip:80"))
	if !strings.HasPrefix(why, "endpoints of a: for cluster a: endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address:") {
		t.Errorf("refused: %s", why)
	}
	if got := r.hosts(); !strings.HasPrefix(got, "a=10.0.0.1:80 ") {
		t.Errorf("served: %s", got)
	}
}

// TestUnreadable holds what is refused before it is looked at as a whole.
func TestUnreadable(t *testing.T) {
	r := newRig(t)
	good := updateOf(staticCluster("b", "10.0.0.2:80")).Resources[0]
	err := r.Apply(&xds.Update{TypeURL: ClusterType, Resources: []xds.Resource{
		{Name: "torn", Body: good.Body[:len(good.Body)-1]}, {Name: "other", Body: good.Body}, good, good}})
	for _, want := range []string{"cluster torn: can't be decoded", `cluster other: name: the resource itself says "b"`, "cluster b: name: is there twice in one response"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if got := r.hosts(); got != "b=10.0.0.2:80" {
		t.Errorf("served: %s", got)
	}
	if err := r.Apply(&xds.Update{TypeURL: "type.googleapis.com/envoy.service.runtime.v3.Runtime"}); err == nil {
		t.Error("a type that was not asked for is taken")
	}
	for _, typ := range []string{EndpointType, ListenerType, RouteType, SecretType, ExtensionType, NameTableType} {
		if err := r.Apply(&xds.Update{TypeURL: typ, Resources: []xds.Resource{{Name: "x", Body: []byte{0x0a, 0xff}}}}); err == nil {
			t.Errorf("%s: a torn message is taken", typ)
		}
	}
}

// TestPolicyNotUnderstood holds that a listener whose filter isn't known is refused as
// a whole.
func TestPolicyNotUnderstood(t *testing.T) {
	r := newRig(t)
	r.push(routesTo("80", "a=a"))
	r.push(httpListener("l", "10.0.0.9:80", "80"))
	unknown := `{"name": "wall", "typedConfig": {"@type": "type.googleapis.com/google.protobuf.Empty"}}`
	if why := r.refused(httpListener("l", "10.0.0.9:80", "80", unknown), httpListener("m", "10.0.0.9:81", "80", unknown)); !strings.Contains(why, "listener m: filter_chains[0].filters[0].http_filters[0] (wall): type") ||
		!strings.Contains(why, "listener l: ") {
		t.Errorf("refused: %s", why)
	}
	if got := r.done(); got != "serve l" {
		t.Errorf("served: %s", got)
	}
}

// TestRoutesNotUnderstood holds that routes with a policy that their filters can't
// follow are refused, before and after the listener that reads them.
func TestRoutesNotUnderstood(t *testing.T) {
	const fault = `{"name": "fault", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}}`
	bad := routesTo("80", "a=a")
	bad.VirtualHosts[0].TypedPerFilterConfig = map[string]*anypb.Any{"fault": httpListener("x", "1.1.1.1:1", "x").FilterChains[0].Filters[0].GetTypedConfig()}
	r := newRig(t)
	r.push(routesTo("80", "a=a"))
	r.push(httpListener("l", "10.0.0.9:80", "80", fault))
	if why := r.refused(bad); !strings.HasPrefix(why, "route configuration 80: virtual_hosts[0].") {
		t.Errorf("refused: %s", why)
	}
	if got := tableText(r.serving["l"].Chains[0].HCM.Routes.Load()); got != "80{a=a}" {
		t.Errorf("served: %s", got)
	}
}
