// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"pillion/proxy"
	"pillion/proxy/live"
	"pillion/proxy/proxytest/inproc"
	"pillion/proxy/stats"
	"pillion/proxy/xds"
)

// driven is a server whose control plane is the test.
type driven struct {
	*proxy.Server
	t *testing.T
}

func drive(t *testing.T, change ...func(*proxy.Options)) *driven {
	t.Helper()
	o := proxy.Options{DrainTime: time.Second, AdminAddr: "127.0.0.1:0",
		Discovery: &proxy.Discovery{Address: "unix:" + filepath.Join(t.TempDir(), "nobody"), Plaintext: true}}
	for _, f := range change {
		f(&o)
	}
	s, err := proxy.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	return &driven{s, t}
}

// update is a response with resources of one type.
func update(list ...proto.Message) *xds.Update {
	u := &xds.Update{Version: "1"}
	for _, m := range list {
		var r xds.Resource
		switch m := m.(type) {
		case *clusterv3.Cluster:
			u.TypeURL, r.Name = live.ClusterType, m.GetName()
		case *endpointv3.ClusterLoadAssignment:
			u.TypeURL, r.Name = live.EndpointType, m.GetClusterName()
		case *listenerv3.Listener:
			u.TypeURL, r.Name = live.ListenerType, m.GetName()
		case *routev3.RouteConfiguration:
			u.TypeURL, r.Name = live.RouteType, m.GetName()
		}
		r.Body, _ = proto.MarshalOptions{Deterministic: true}.Marshal(m)
		u.Resources = append(u.Resources, r)
	}
	return u
}

func (d *driven) push(list ...proto.Message) {
	d.t.Helper()
	if err := d.Live().Apply(update(list...)); err != nil {
		d.t.Fatalf("refused: %v", err)
	}
}

func (d *driven) addr(name string) string {
	d.t.Helper()
	for _, e := range d.Endpoints() {
		if e.Name == name {
			return e.Addr
		}
	}
	d.t.Fatalf("there is no listener %s, only %v", name, d.Endpoints())
	return ""
}

func message[M proto.Message](t testing.TB, m M, yaml string, args ...any) M {
	t.Helper()
	fromYAML(t, fmt.Sprintf(yaml, args...), m)
	return m
}

func edsOf(t testing.TB, name string) *clusterv3.Cluster {
	return message(t, &clusterv3.Cluster{}, "name: %s\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}", name)
}

func hostsOf(t testing.TB, name string, ports ...int) *endpointv3.ClusterLoadAssignment {
	var list []string
	for _, p := range ports {
		list = append(list, fmt.Sprintf("{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}", p))
	}
	return message(t, &endpointv3.ClusterLoadAssignment{}, "cluster_name: %s\nendpoints: [{lb_endpoints: [%s]}]", name, strings.Join(list, ","))
}

// managerOf is a filter that serves the routes of a name.
func managerOf(routes string) string {
	return "{name: hcm, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, " +
		"stat_prefix: test, rds: {route_config_name: '" + routes + "', config_source: {ads: {}}}, " +
		"http_filters: [{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}"
}

func rawOf(cluster string) string {
	return "{name: tcp, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: " + cluster + "}}"
}

// listenerOf is a listener at a free port with chains, each a name, the client's address
// and filters.
func listenerOf(t testing.TB, name string, chains ...[3]string) *listenerv3.Listener {
	var list []string
	for _, c := range chains {
		match := ""
		if c[1] != "" {
			match = fmt.Sprintf("filter_chain_match: {source_prefix_ranges: [{address_prefix: %s, prefix_len: 32}]}, ", c[1])
		}
		list = append(list, fmt.Sprintf("{name: %s, %sfilters: [%s]}", c[0], match, c[2]))
	}
	return message(t, &listenerv3.Listener{}, "name: %s\naddress: {socket_address: {address: 127.0.0.1, port_value: 0}}\nfilter_chains: [%s]",
		name, strings.Join(list, ", "))
}

func routesOf(t testing.TB, name string, to ...string) *routev3.RouteConfiguration {
	var list []string
	for _, s := range to {
		host, cluster, _ := strings.Cut(s, "=")
		list = append(list, fmt.Sprintf("{name: '%s', domains: ['%s'], routes: [{match: {prefix: /}, route: {cluster: '%s'}}]}", host, host, cluster))
	}
	return message(t, &routev3.RouteConfiguration{}, "name: '%s'\nvirtual_hosts: [%s]", name, strings.Join(list, ", "))
}

// client is a connection from an address of this machine.
type client struct {
	net.Conn
	r *bufio.Reader
}

func dialFrom(t testing.TB, from, to string) *client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	nc, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return &client{nc, bufio.NewReader(nc)}
}

// get asks for / of a host, and returns the status, the body, and whether the
// connection goes on.
func (c *client) get(host string) (status, body string, keep bool, err error) {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
		return "", "", false, err
	}
	status, err = c.r.ReadString('\n')
	if err != nil {
		return "", "", false, err
	}
	status, _, _ = strings.Cut(strings.TrimPrefix(status, "HTTP/1.1 "), " ")
	keep = true
	n := 0
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return status, "", false, err
		}
		line = strings.ToLower(strings.TrimSpace(line))
		if line == "" {
			break
		}
		if line == "connection: close" {
			keep = false
		}
		_, _ = fmt.Sscanf(line, "content-length: %d", &n)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(c.r, b)
	return status, string(b), keep, err
}

// closes waits until the other end has closed the connection.
func (c *client) closes(t testing.TB, within time.Duration) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(within))
	if _, err := c.r.ReadByte(); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the connection is open after %v (%v)", within, err)
	}
}

// TestDriven walks a server from the first answer of its control plane to a request.
func TestDriven(t *testing.T) {
	d := drive(t)
	if got := d.State(); got != stats.StatePreInitializing {
		t.Errorf("state at the start: %v", got)
	}
	if h := d.Health(); len(h.Reasons(false)) == 0 || h.ControlPlane == "" {
		t.Errorf("health: %+v", h)
	}
	d.push(edsOf(t, "a"))
	d.push(hostsOf(t, "a", inproc.Echo(t, "from a").Port))
	if got := d.State(); got != stats.StateInitializing {
		t.Errorf("state with clusters: %v", got)
	}
	d.push(listenerOf(t, "l", [3]string{"chain", "", managerOf("80")}))
	d.push(routesOf(t, "80", "a=a", "b=b"))
	if got := d.State(); got != stats.StateLive {
		t.Errorf("state when all is there: %v (%q)", got, d.Live().WaitingFor())
	}
	if h := d.Health(); len(h.Reasons(false)) != 0 {
		t.Errorf("reasons: %q", h.Reasons(false))
	}
	c := dialFrom(t, "127.0.0.1", d.addr("l"))
	if status, body, _, err := c.get("a"); status != "200" || body != "from a" {
		t.Errorf("%s %q %v", status, body, err)
	}
	if status, _, keep, err := c.get("b"); status != "503" || !keep {
		t.Errorf("a cluster that has not come gives %s %v", status, err)
	}
	d.push(edsOf(t, "a"), edsOf(t, "b"))
	d.push(hostsOf(t, "b", inproc.Echo(t, "from b").Port))
	if status, body, _, err := c.get("b"); status != "200" || body != "from b" {
		t.Errorf("when it has come: %s %q %v", status, body, err)
	}
	if n := d.ActiveConnections(); n != 1 {
		t.Errorf("%d connections", n)
	}
	dump := fetch(t, "http://"+d.addr("admin")+"/config_dump?include_eds")
	for _, want := range []string{`"dynamic_active_clusters"`, `"cluster_name": "b"`, `"dynamic_route_configs"`} {
		if !strings.Contains(dump, want) {
			t.Errorf("the dump has no %s", want)
		}
	}
	d.BeginDrain(true)
	if _, _, keep, _ := c.get("a"); !keep {
		t.Error("a drain of inbound connections ends an outbound one")
	}
	if _, err := proxy.New(proxy.Options{Paths: []string{"x"}, Discovery: &proxy.Discovery{Address: "a:1"}}); err == nil {
		t.Error("files beside a control plane are taken")
	}
}

// TestChurn has a control plane send all that it has for each of many edits, as istiod
// does, while connections are in use: no request fails, and none of them is drained.
func TestChurn(t *testing.T) {
	d := drive(t)
	v1, v2 := inproc.Echo(t, "v1"), inproc.Echo(t, "v2")
	clusters := []proto.Message{edsOf(t, "v1"), edsOf(t, "v2")}
	d.push(clusters...)
	d.push(hostsOf(t, "v1", v1.Port), hostsOf(t, "v2", v2.Port))
	listeners := []proto.Message{listenerOf(t, "l", [3]string{"chain", "", managerOf("80")}), listenerOf(t, "m", [3]string{"chain", "", managerOf("80")})}
	d.push(listeners...)
	d.push(routesOf(t, "80", "x=v1"))
	var stop atomic.Bool
	var requests, bad atomic.Int64
	var all sync.WaitGroup
	for i := range 6 {
		c := dialFrom(t, "127.0.0.1", d.addr([]string{"l", "m"}[i%2]))
		all.Go(func() {
			for !stop.Load() {
				status, body, keep, err := c.get("x")
				requests.Add(1)
				if err != nil || status != "200" || !keep || body != "v1" && body != "v2" {
					if bad.Add(1) == 1 {
						t.Errorf("%s %q, goes on: %v, %v", status, body, keep, err)
					}
					return
				}
			}
		})
	}
	for i := range 40 {
		before := requests.Load()
		name := fmt.Sprintf("extra%d", i)
		d.push(append(clusters[:2:2], edsOf(t, name))...)
		d.push(hostsOf(t, name, v1.Port))
		d.push(append(listeners[:2:2], listenerOf(t, name, [3]string{"chain", "", managerOf("80")}))...)
		d.push(routesOf(t, "80", fmt.Sprintf("x=v%d", 1+i%2), "y="+name))
		if err := d.Live().Apply(&xds.Update{TypeURL: live.ClusterType, Resources: update(clusters...).Resources, Removed: []string{name}}); err != nil {
			t.Fatal(err)
		}
		d.push(hostsOf(t, "v1", v1.Port))
		if err := d.Live().Apply(&xds.Update{TypeURL: live.ListenerType, Resources: update(listeners...).Resources, Removed: []string{name}}); err != nil {
			t.Fatal(err)
		}
		inproc.WaitFor(t, "requests go on", func() bool { return requests.Load() > before+12 || bad.Load() > 0 })
	}
	stop.Store(true)
	all.Wait()
	if n := v1.Conns.Load(); n > 12 {
		t.Errorf("%d connections to a host that was there all the time", n)
	}
}

// TestOnlyWhatChangedDrains holds which connections a change of a listener ends.
func TestOnlyWhatChangedDrains(t *testing.T) {
	d := drive(t)
	echo := inproc.Echo(t, "ok")
	const one, two = "127.0.0.11", "127.0.0.12"
	d.push(edsOf(t, "a"))
	d.push(hostsOf(t, "a", echo.Port))
	d.push(routesOf(t, "80", "x=a"))
	d.push(routesOf(t, "81", "x=a"))
	chains := func(first, second string) *listenerv3.Listener {
		return listenerOf(t, "l", [3]string{"one", one, first}, [3]string{"two", two, second})
	}
	d.push(chains(managerOf("80"), managerOf("80")))
	a, b := dialFrom(t, one, d.addr("l")), dialFrom(t, two, d.addr("l"))
	check := func(what string, c *client, goesOn bool) {
		t.Helper()
		if status, _, keep, err := c.get("x"); status != "200" || err != nil || keep != goesOn {
			t.Errorf("%s: %s, goes on: %v, %v", what, status, keep, err)
		}
	}
	check("at first", a, true)
	check("at first", b, true)
	d.push(chains(managerOf("81"), managerOf("80")))
	check("other routes", a, true)
	check("routes of the other chain", b, true)
	const gate = "{name: rbac, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: tcp., " +
		"rules: {policies: {all: {permissions: [{any: true}], principals: [{any: true}]}}}}}, "
	d.push(chains(gate+managerOf("81"), managerOf("80")))
	check("a policy about connections", a, false)
	a.closes(t, 20*time.Second)
	check("a policy of the other chain", b, true)
	a = dialFrom(t, one, d.addr("l"))
	check("a connection that came after it", a, true)
	d.push(listenerOf(t, "l", [3]string{"one", one, gate + managerOf("81")}))
	b.closes(t, 20*time.Second) // its chain is gone, and nothing is under way
	check("the chain that stays", a, true)
}

// TestRawConnectionsDrain holds that a raw connection outlives a change of where new ones
// go, and not for long its chain.
func TestRawConnectionsDrain(t *testing.T) {
	d := drive(t)
	echo := inproc.Echo(t, "ok")
	d.push(edsOf(t, "a"), edsOf(t, "b"))
	d.push(hostsOf(t, "a", echo.Port), hostsOf(t, "b", echo.Port))
	d.push(listenerOf(t, "l", [3]string{"one", "", rawOf("a")}), listenerOf(t, "m", [3]string{"one", "", rawOf("a")}))
	c, other := dialFrom(t, "127.0.0.1", d.addr("l")), dialFrom(t, "127.0.0.1", d.addr("m"))
	check := func(what string, c *client) {
		t.Helper()
		if status, _, _, err := c.get("x"); status != "200" || err != nil {
			t.Errorf("%s: %s, %v", what, status, err)
		}
	}
	check("at first", c)
	check("at first", other)
	d.push(listenerOf(t, "l", [3]string{"one", "", rawOf("b")}))
	check("another target", c)
	if err := d.Live().Apply(&xds.Update{TypeURL: live.ListenerType, Removed: []string{"l"}}); err != nil {
		t.Fatal(err)
	}
	check("just removed", c)
	c.closes(t, 20*time.Second)
	check("another listener", other)
}

// TestHTTP2Drains holds that a client of HTTP/2 is told that its chain lets in otherwise
// now, and is served what it had asked for before.
func TestHTTP2Drains(t *testing.T) {
	d := drive(t)
	d.push(edsOf(t, "a"))
	d.push(hostsOf(t, "a", inproc.Echo(t, "ok").Port))
	d.push(routesOf(t, "80", "*=a"))
	d.push(listenerOf(t, "l", [3]string{"one", "", managerOf("80")}))
	c := inproc.Dial2(t, d.addr("l"))
	c.Get(1)
	if r := c.Response(1); r.Body != "ok" {
		t.Fatalf("%+v", r)
	}
	d.push(listenerOf(t, "l", [3]string{"one", "127.0.0.1", managerOf("80")}))
	if e := c.Next(); e.Kind != "goaway" {
		t.Errorf("it is told %+v", e)
	}
	c.Get(3)
	if r := c.Response(3); r.Body != "ok" {
		t.Errorf("a request that was on its way: %+v", r)
	}
}
