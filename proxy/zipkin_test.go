// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/netip"
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

// lacks returns an error for the first of words that a text doesn't have.
func lacks(text string, words ...string) error {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return fmt.Errorf("there is no %s in\n%s", w, text)
		}
	}
	return nil
}
