// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	nethttp "net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pillion/proxy"
	"pillion/proxy/proxytest/inproc"
)

// fetch gets a page of one of the proxy's own endpoints.
func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := nethttp.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestEditUnderLoad moves all traffic from one service's subset to another and
// back while requests run, and adds and removes clusters: none may fail.
func TestEditUnderLoad(t *testing.T) {
	v1, v2 := inproc.Echo(t, "v1"), inproc.Echo(t, "v2")
	weights := func(a, b int) string {
		return route(fmt.Sprintf("  - route:\n    - {destination: {host: echo, subset: v1}, weight: %d}\n    - {destination: {host: echo, subset: v2}, weight: %d}\n", a, b))
	}
	subsets := "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: echo, namespace: default}\n" +
		"spec:\n  host: echo\n  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]\n"
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", v1, v2), "dr.yaml": subsets, "vs.yaml": weights(100, 0)})
	var stop atomic.Bool
	var bad atomic.Int32
	var counts [2]atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c := inproc.Dial(t, p.Addr("http"))
			for !stop.Load() {
				switch r := c.Do(get); r.Body {
				case "v1":
					counts[0].Add(1)
				case "v2":
					counts[1].Add(1)
				default:
					if bad.Add(1) == 1 {
						t.Errorf("%q %q", r.Line, r.Body)
					}
				}
				_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			}
		}()
	}
	for i := range 6 {
		if i%2 == 0 {
			p.Edit("vs.yaml", weights(0, 100))
		} else {
			p.Edit("vs.yaml", weights(100, 0))
		}
		p.Edit("other.yaml", inproc.Service(fmt.Sprintf("other%d", i), v1))
	}
	p.Edit("vs.yaml", weights(0, 100))
	counts[0].Store(0)
	before := counts[1].Load()
	p.WaitFor("v2 serves", func() bool { return counts[1].Load() > before+100 })
	stop.Store(true)
	wg.Wait()
	if n := counts[0].Load(); n > 4 { // requests that were under way
		t.Errorf("v1 still got %d requests after 0/100", n)
	}
}

// TestBadEditIsRefused holds that a mistake is named with its line, counted,
// and changes nothing.
func TestBadEditIsRefused(t *testing.T) {
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", inproc.Echo(t, "ok")),
		"vs.yaml": route("  - route: [{destination: {host: echo}}]\n")})
	c := inproc.Dial(t, p.Addr("http"))
	for _, bad := range []string{
		route("  - route:\n    - {destination: {host: echo}, weight: -5}\n"),
		"this: is: no yaml",
		route("  - route: [{destination: {host: echo}}]\n") + "---\n" + route("  - route: [{destination: {host: echo}}]\n"),
	} {
		p.Edit("vs.yaml", bad)
		if r := c.Do(get); r.Body != "ok" {
			t.Errorf("after %q: %q %q", bad, r.Line, r.Body)
		}
	}
	if !strings.Contains(p.Log(), "vs.yaml:8: VirtualService/default/echo: spec.http[0].route[0].weight: ") {
		t.Errorf("the log doesn't name the line:\n%s", p.Log())
	}
	metrics := fetch(t, "http://"+p.Addr("metrics")+"/stats/prometheus")
	if !strings.Contains(metrics, "\npillion_config_updates_rejected_total 3\n") {
		t.Error("the refusals aren't counted")
	}
	p.Edit("vs.yaml", route("  - directResponse: {status: 418}\n"))
	if r := c.Do(get); !strings.HasPrefix(r.Line, "HTTP/1.1 418 ") {
		t.Errorf("a good edit after bad ones gives %q", r.Line)
	}
}

// TestBadStart holds that a proxy without a good configuration doesn't start,
// and leaves nothing behind.
func TestBadStart(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/bad.yaml", []byte(route("  - route:\n    - {destination: {host: echo}, weight: -5}\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := proxy.New(proxy.Options{Paths: []string{dir}, HTTPAddr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Start()
	bad, ok := err.(*proxy.ConfigError)
	if !ok || !strings.Contains(bad.Error(), "bad.yaml:8: VirtualService/default/echo: spec.http[0].route[0].weight: ") {
		t.Fatalf("the error is %v", err)
	}
	if bad.Summary() != "the configuration has an error" {
		t.Errorf("summary %q", bad.Summary())
	}
}

// TestOutlierIsSeen holds that a failing host is ejected and that /clusters
// and the metrics say so.
func TestOutlierIsSeen(t *testing.T) {
	bad := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(string, map[string]string, string) string {
			return "HTTP/1.1 500 Internal Server Error\nContent-Length: 3\n\nbad"
		})
	})
	good := inproc.Echo(t, "good")
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", bad, good),
		"dr.yaml": rule("{outlierDetection: {consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s, maxEjectionPercent: 50}}")})
	c := inproc.Dial(t, p.Addr("http"))
	failed := 0
	for range 100 {
		if r := c.Do(get); r.Body == "bad" {
			failed++
		}
	}
	if failed != 5 {
		t.Errorf("%d requests failed, want 5", failed)
	}
	var dump struct {
		ClusterStatuses []struct {
			Name         string `json:"name"`
			HostStatuses []struct {
				Address struct {
					SocketAddress struct {
						PortValue int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"address"`
				HealthStatus struct {
					FailedOutlierCheck bool `json:"failed_outlier_check"`
				} `json:"health_status"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal([]byte(fetch(t, "http://"+p.Addr("admin")+"/clusters?format=json")), &dump); err != nil {
		t.Fatal(err)
	}
	ejected := 0
	for _, cl := range dump.ClusterStatuses {
		for _, h := range cl.HostStatuses {
			if h.HealthStatus.FailedOutlierCheck {
				ejected++
				if h.Address.SocketAddress.PortValue != bad.Port {
					t.Errorf("port %d of %s is ejected", h.Address.SocketAddress.PortValue, cl.Name)
				}
			}
		}
	}
	if ejected != 1 {
		t.Errorf("%d hosts are ejected, want 1", ejected)
	}
	metrics := fetch(t, "http://"+p.Addr("metrics")+"/stats/prometheus")
	want := `envoy_cluster_outlier_detection_ejections_active{envoy_cluster_name="outbound|9080||echo.default.svc.cluster.local"} 1`
	if !strings.Contains(metrics, want) {
		t.Errorf("the metrics lack %s", want)
	}
}

// TestDrain holds that a shutdown under load loses no request: clients are
// told with their last answer.
func TestDrain(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/echo.yaml", []byte(inproc.Service("echo", inproc.Echo(t, "ok"))), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := proxy.New(proxy.Options{Paths: []string{dir}, HTTPAddr: "127.0.0.1:0", DrainTime: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	addr := s.Endpoints()[0].Addr
	var wg sync.WaitGroup
	var served, lost atomic.Int32
	for range 8 {
		c := inproc.Dial(t, addr)
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				r := c.Do(get)
				if r.Body != "ok" {
					lost.Add(1)
					return
				}
				served.Add(1)
				if r.Fields["connection"] == "close" {
					return
				}
			}
		}()
	}
	quiet := inproc.Dial(t, addr)
	inproc.WaitFor(t, "the load runs", func() bool { return served.Load() > 100 })
	begun := time.Now()
	wg.Go(func() { s.Shutdown(context.Background()) })
	s.Shutdown(context.Background()) // by two at once, as by a signal and by a test's end
	wg.Wait()
	quiet.WantClosed()
	if lost.Load() > 0 {
		t.Errorf("%d requests were lost", lost.Load())
	}
	if d := time.Since(begun); d > 30*time.Second {
		t.Errorf("the drain took %v although every client was busy", d)
	}
}

// TestFaults holds delays and aborts, with the flags in the access log's place
// of metrics.
func TestFaults(t *testing.T) {
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", inproc.Echo(t, "ok")),
		"vs.yaml": route("  - match: [{uri: {prefix: /abort}}]\n    fault: {abort: {percentage: {value: 100}, httpStatus: 503}}\n    route: [{destination: {host: echo}}]\n" +
			"  - fault: {delay: {percentage: {value: 100}, fixedDelay: 200ms}}\n    route: [{destination: {host: echo}}]\n")})
	c := inproc.Dial(t, p.Addr("http"))
	r := c.Do("GET /abort HTTP/1.1\nHost: echo:9080\n\n")
	wantLine(t, r, "HTTP/1.1 503 Service Unavailable")
	if r.Body != "fault filter abort" {
		t.Errorf("body %q", r.Body)
	}
	begun := time.Now()
	if r := c.Do(get); r.Body != "ok" || time.Since(begun) < 200*time.Millisecond {
		t.Errorf("%q after %v", r.Body, time.Since(begun))
	}
	// An exchange is counted after its last byte was sent.
	for _, flags := range []string{`response_flags="FI"`, `response_flags="DI"`} {
		p.WaitFor("a series with "+flags, func() bool {
			return strings.Contains(fetch(t, "http://"+p.Addr("metrics")+"/stats/prometheus"), flags)
		})
	}
}

// TestGateway holds that a Gateway resource opens its port, and that removing
// it closes the port.
func TestGateway(t *testing.T) {
	b := inproc.Echo(t, "through the gateway")
	port := freePort(t)
	gw := fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: default}\n"+
		"spec: {selector: {app: client}, servers: [{port: {number: %d, name: http, protocol: HTTP}, hosts: [shop.example]}]}\n---\n"+
		"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: shop, namespace: default}\n"+
		"spec: {hosts: [shop.example], gateways: [gw], http: [{route: [{destination: {host: echo, port: {number: 9080}}}]}]}\n", port)
	p := inproc.Start(t, map[string]string{"echo.yaml": inproc.Service("echo", b), "gw.yaml": gw})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	if r := inproc.Dial(t, addr).Do("GET / HTTP/1.1\nHost: shop.example\n\n"); r.Body != "through the gateway" {
		t.Errorf("%q %q", r.Line, r.Body)
	}
	wantLine(t, inproc.Dial(t, addr).Do("GET / HTTP/1.1\nHost: other.example\n\n"), "HTTP/1.1 404 Not Found")
	p.Edit("gw.yaml", "# nothing\n")
	if resp, err := nethttp.Get("http://" + addr); err == nil {
		resp.Body.Close()
		t.Error("the port is still open")
	}
}
