// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"pillion/proxy"
	"pillion/proxy/live"
	"pillion/proxy/proxytest/inproc"
	"pillion/proxy/xds"
	"pillion/test/rig"
)

// TestZipkin: connection managers whose control plane names no collector send spans to the
// proxy's own Zipkin, which the control plane can neither replace nor remove.
func TestZipkin(t *testing.T) {
	collector := &rig.SpanCollector{}
	web := httptest.NewServer(collector)
	t.Cleanup(web.Close)
	at := netip.MustParseAddrPort(web.Listener.Addr().String())
	d := drive(t, func(o *proxy.Options) {
		o.Discovery.Zipkin = &proxy.Zipkin{Host: at.Addr().String(), Port: at.Port()}
	})
	d.push(edsOf(t, "a"), message(t, &clusterv3.Cluster{}, "name: zipkin\ntype: STATIC"))
	d.push(hostsOf(t, "a", inproc.Echo(t, "from a").Port))
	traced := strings.Replace(managerOf("80"), "stat_prefix: test,", "stat_prefix: test, generate_request_id: true, tracing: {},", 1)
	d.push(listenerOf(t, "l", [3]string{"chain", "", traced}))
	d.push(routesOf(t, "80", "a=a"))
	if err := d.Live().Apply(&xds.Update{TypeURL: live.ClusterType, Removed: []string{"zipkin"}}); err != nil {
		t.Errorf("a removal is refused: %v", err)
	}
	rig.Until(t, "the collector's address is known", func() error {
		return lacks(fetch(t, "http://"+d.addr("admin")+"/clusters"), "zipkin::"+at.String()+"::health_flags")
	})
	dump := fetch(t, "http://"+d.addr("admin")+"/config_dump")
	if err := lacks(dump, `"static_clusters"`, `"envoy.tracers.zipkin"`); err != nil {
		t.Error(err)
	}
	if dynamic := dynamicClusters(t, dump); !slices.Equal(dynamic, []string{"a"}) {
		t.Errorf("the dynamic clusters are %q", dynamic)
	}
	const trace = "0af7651916cd43dd8448eb211c80319c"
	c := dialFrom(t, "127.0.0.1", d.addr("l"))
	if status, _, _, err := c.get("a\r\nX-B3-TraceId: " + trace + "\r\nX-B3-SpanId: b7ad6b7169203331\r\nX-B3-Sampled: 1"); status != "200" {
		t.Fatal(status, err)
	}
	_ = c.Close()
	rig.Until(t, "the exchange is over", func() error { // its span is there then
		if n := d.ActiveConnections(); n > 0 {
			return fmt.Errorf("%d connections are open", n)
		}
		return nil
	})
	begun := time.Now()
	d.Shutdown(context.Background()) // sends what waits
	spans, wrong := collector.Trace(trace)
	if len(spans) != 1 || len(wrong) > 0 || spans[0].Parent != "b7ad6b7169203331" {
		t.Errorf("after %v: spans %+v, errors %q", time.Since(begun), spans, wrong)
	}
}

// dynamicClusters returns the names of the clusters of the control plane in a dump.
func dynamicClusters(t *testing.T, dump string) (names []string) {
	t.Helper()
	var out struct {
		Configs []struct {
			Active []struct{ Cluster struct{ Name string } } `json:"dynamic_active_clusters"`
		}
	}
	if err := json.Unmarshal([]byte(dump), &out); err != nil {
		t.Fatal(err)
	}
	for _, section := range out.Configs {
		for _, c := range section.Active {
			names = append(names, c.Cluster.Name)
		}
	}
	return names
}

// TestServiceCluster: without a control plane the proxy is called in Zipkin's spans, and in
// what it says of its node, as an Envoy beside Istio's agent is, and as the settings of the
// mesh say from then on.
func TestServiceCluster(t *testing.T) {
	collector := &rig.SpanCollector{}
	web := httptest.NewServer(collector)
	t.Cleanup(web.Close)
	at, mesh := web.Listener.Addr().String(), filepath.Join(t.TempDir(), "mesh.yaml")
	settings := func(more string) {
		text := fmt.Sprintf("defaultConfig: {tracing: {sampling: 100, zipkin: {address: %q}}%s}\n", at, more)
		if err := os.WriteFile(mesh, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	settings("")
	s, err := proxy.New(proxy.Options{HTTPAddr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0", MeshConfig: mesh,
		Namespace: "shop", Workload: "cart-v1", Labels: map[string]string{"app": "cart"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	addr := map[string]string{}
	for _, e := range s.Endpoints() {
		addr[e.Name] = e.Addr
	}
	ask := func(service string) {
		t.Helper()
		if dump := fetch(t, "http://"+addr["admin"]+"/server_info"); !strings.Contains(dump, service) {
			t.Errorf("the node isn't %s: %s", service, dump)
		}
		c := dialFrom(t, "127.0.0.1", addr["http"])
		if status, _, _, err := c.get("nobody.example"); status == "" {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	ask("cart.shop")
	reloads := s.Reloads()
	settings(", serviceCluster: mine")
	inproc.WaitFor(t, "the settings are read again", func() bool { return s.Reloads() > reloads })
	ask("mine")
	s.Shutdown(context.Background()) // sends what waits
	spans, wrong := collector.Spans(func(*rig.Span) bool { return true })
	var got []string
	for _, span := range spans {
		got = append(got, span.Service)
	}
	if slices.Sort(got); !slices.Equal(got, []string{"cart.shop", "mine"}) || len(wrong) > 0 {
		t.Errorf("spans of %q, errors %q", got, wrong)
	}
}

// lacks returns an error for the first of words that a text doesn't have.
func lacks(text string, words ...string) error {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return fmt.Errorf("there is no %s in\n%s", w, text)
		}
	}
	return nil
}
