// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	nethttp "net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"pillion/proxy/config"
	"pillion/proxy/stats"
	"pillion/proxy/tls"
	"pillion/proxy/tls/localca"
	"pillion/test/captures"
)

// sidecar is a proxy that serves what a real istiod sent to a node, and to which
// connections are redirected from dst.
type sidecar struct {
	*Server
	node *captures.Node
	dst  atomic.Pointer[netip.AddrPort] // nil: they came where they belong
}

// newSidecar starts a proxy with a certificate of ca. It serves nothing yet.
func newSidecar(t *testing.T, node string, ca *localca.CA, account string) *sidecar {
	t.Helper()
	s, err := New(Options{ServiceAccount: account, Workload: account, DrainTime: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	leaf, err := ca.Issue("default", account)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.secrets.Secret("default").SetKeyPair(tls.KeyPair{Chain: leaf.Chain, Key: leaf.Key}, "", "test"),
		s.secrets.Secret("ROOTCA").SetAnchors(tls.Anchors{CA: ca.Root()}, "test")); err != nil {
		t.Fatal(err)
	}
	sc := &sidecar{Server: s, node: captures.Load(t, node)}
	s.bound.lookup = func(net.Conn) (netip.AddrPort, bool) {
		if a := sc.dst.Load(); a != nil {
			return *a, true
		}
		return netip.AddrPort{}, false
	}
	// The ports of a pod are free in the pod alone.
	for _, l := range sc.node.Listeners {
		if l.GetBindToPort() == nil {
			a := l.GetAddress().GetSocketAddress()
			a.Address, a.PortSpecifier = "127.0.0.1", &corev3.SocketAddress_PortValue{}
		}
	}
	return sc
}

// serve makes the node's resources what is served.
func (s *sidecar) serve(t *testing.T) {
	t.Helper()
	commit(t, s.Server, &config.Resources{Listeners: s.node.Listeners, Routes: s.node.Routes, Clusters: s.node.Clusters, Endpoints: s.node.Endpoints})
}

// commit makes resources what a server serves.
func commit(t *testing.T, s *Server, r *config.Resources) {
	t.Helper()
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	snap, err := s.compiler.Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.bound.stage(snap.Listeners)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.clusters.Update(snap.Clusters, nil); err != nil {
		t.Fatal(err)
	}
	for place, table := range snap.Tables {
		place.Store(table)
	}
	s.bound.commit(st)
	snap.Committed()
}

// leadTo has all endpoints of a service be at addr.
func (s *sidecar) leadTo(t *testing.T, service, addr string) {
	t.Helper()
	to := netip.MustParseAddrPort(addr)
	found := false
	for _, a := range s.node.Endpoints {
		if !strings.HasSuffix(a.GetClusterName(), "|"+service) {
			continue
		}
		for _, l := range a.GetEndpoints() {
			for _, e := range l.GetLbEndpoints() {
				sa := e.GetEndpoint().GetAddress().GetSocketAddress()
				sa.Address, sa.PortSpecifier = to.Addr().String(), &corev3.SocketAddress_PortValue{PortValue: uint32(to.Port())}
				found = true
			}
		}
	}
	if !found {
		t.Fatalf("%s has no endpoint", service)
	}
}

// redirect has connections from now on look as if they were going to dst.
func (s *sidecar) redirect(dst string) {
	if dst == "" {
		s.dst.Store(nil)
		return
	}
	a := netip.MustParseAddrPort(dst)
	s.dst.Store(&a)
}

func (s *sidecar) at(name string) string { return s.bound.addresses()[name] }

// value is a metric, 0 if it isn't there.
func (s *sidecar) value(name string) float64 {
	for _, m := range s.registry.List(stats.Query{}) {
		if m.Name == name {
			return m.Value
		}
	}
	return 0
}

// get sends a request by a connection of its own to addr.
func get(t *testing.T, addr, method, url string) (*nethttp.Response, string) {
	t.Helper()
	tr := &nethttp.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := nethttp.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// say sends text to addr, and returns all that comes back.
func say(t *testing.T, addr, text string) string {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(nc, text)
	got, err := io.ReadAll(nc)
	if errors.Is(err, context.DeadlineExceeded) || err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("%s: %v", addr, err)
	}
	return string(got)
}

// app serves either version of HTTP on port 9080 of an address of its own, and tells
// what it sees of a request.
func app(t *testing.T, addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	both := &nethttp.Protocols{}
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	server := &nethttp.Server{Protocols: both, Handler: nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		w.Header().Set("x-saw", r.Proto+" "+r.Host+" from "+from)
		w.Header().Set("x-cert", r.Header.Get("x-forwarded-client-cert"))
		_, _ = io.WriteString(w, "reviews")
	})}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
}

// TestCapturedMesh: two sidecars serve what a real istiod sent them, one out of its
// pod and one into its pod, with mutual TLS in between.
func TestCapturedMesh(t *testing.T) {
	ca, err := localca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	const pod = "127.0.77.1:9080"
	app(t, pod)
	in := newSidecar(t, "full-reviews-v1-delta", ca, "bookinfo-reviews")
	in.redirect(pod)
	in.serve(t)
	out := newSidecar(t, "full-productpage-v1-delta", ca, "bookinfo-productpage")
	out.leadTo(t, "reviews.default.svc.cluster.local", in.at("virtualInbound"))
	out.serve(t)
	outbound := out.at("virtualOutbound")
	for name := range out.bound.addresses() {
		if name != "virtualOutbound" && name != "virtualInbound" {
			t.Errorf("%s is bound", name)
		}
	}

	out.redirect("10.99.1.10:9080")
	resp, body := get(t, outbound, "GET", "http://reviews.default.svc.cluster.local:9080/reviews/1")
	if resp.StatusCode != 200 || body != "reviews" {
		t.Fatalf("%d %q", resp.StatusCode, body)
	}
	if got, want := resp.Header.Get("x-saw"), "HTTP/1.1 reviews.default.svc.cluster.local:9080 from 127.0.0.6"; got != want {
		t.Errorf("the app saw %q, want %q", got, want)
	}
	const cert = "By=spiffe://cluster.local/ns/default/sa/bookinfo-reviews;Hash="
	if got := resp.Header.Get("x-cert"); !strings.HasPrefix(got, cert) || !strings.HasSuffix(got, ";URI=spiffe://cluster.local/ns/default/sa/bookinfo-productpage") {
		t.Errorf("the app saw the certificate %q", got)
	}
	for path, method := range map[string]string{"/admin": "GET", "/": "POST"} {
		if resp, body := get(t, outbound, method, "http://reviews.default.svc.cluster.local:9080"+path); resp.StatusCode != 403 || body != "RBAC: access denied" {
			t.Errorf("%s %s: %d %q", method, path, resp.StatusCode, body)
		}
	}
	if n := out.value("listener.0.0.0.0_9080.downstream_cx_total"); n != 3 {
		t.Errorf("%v connections were handed to the port's listener", n)
	}

	// What isn't known goes where it was going, whatever it is.
	echo, err := net.Listen("tcp", "127.0.77.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for nc, err := echo.Accept(); err == nil; nc, err = echo.Accept() {
			line := make([]byte, 5)
			_, _ = io.ReadFull(nc, line)
			_, _ = nc.Write(line)
			_ = nc.Close()
		}
	}()
	out.redirect(echo.Addr().String())
	if got := say(t, outbound, "hello"); got != "hello" {
		t.Errorf("through PassthroughCluster: %q", got)
	}
	if n := out.value("cluster.PassthroughCluster;.upstream_cx_total"); n != 1 {
		t.Errorf("PassthroughCluster has made %v connections", n)
	}
}

// TestCapturedEnds: what has to end at the proxy does, and leads to nothing.
func TestCapturedEnds(t *testing.T) {
	ca, err := localca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	const pod = "127.0.77.2:9080"
	app(t, pod)
	s := newSidecar(t, "full-reviews-v1-delta", ca, "bookinfo-reviews")
	s.serve(t)
	outbound, inbound := s.at("virtualOutbound"), s.at("virtualInbound")
	const request = "GET / HTTP/1.1\r\nHost: " + pod + "\r\nConnection: close\r\n\r\n"
	for _, c := range []struct{ what, to, dst string }{
		{"not redirected", outbound, ""},
		{"redirected from the listener's own port", outbound, "10.99.0.1:15001"},
		{"redirected from an address of the inbound listener", outbound, inbound},
		{"inbound from its own port", inbound, "10.99.0.1:15006"},
		{"inbound without TLS, which has to be there", inbound, pod},
	} {
		s.redirect(c.dst)
		if got := say(t, c.to, request); got != "" {
			t.Errorf("%s: the client hears %q", c.what, got)
		}
	}
	name := "listener." + strings.ReplaceAll(inbound, ":", "_") + ".no_filter_chain_match"
	if n := s.value(name); n != 2 {
		t.Errorf("%s is %v", name, n)
	}
	for _, cluster := range []string{"PassthroughCluster;", "inbound|9080||;"} { // the first one is two clusters
		if n := s.value("cluster." + cluster + ".upstream_cx_total"); n != 0 {
			t.Errorf("%s has made %v connections", cluster, n)
		}
	}
}

// TestCapturedMetrics: no series comes twice, though Istio gives two clusters one name
// for their metrics (PassthroughCluster and InboundPassthroughCluster), which Envoy
// adds up.
func TestCapturedMetrics(t *testing.T) {
	ca, err := localca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	s := newSidecar(t, "full-reviews-v1-delta", ca, "bookinfo-reviews")
	s.serve(t)
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		seen := map[string]bool{}
		for _, m := range f.GetMetric() {
			labels := ""
			for _, l := range m.GetLabel() {
				labels += l.GetName() + "=" + l.GetValue() + ","
			}
			if seen[labels] {
				t.Errorf("%s{%s} comes twice", f.GetName(), labels)
			}
			seen[labels] = true
		}
	}
}

// TestBoundListenerMoves: a bound listener whose name or further addresses change keeps
// its port, and what it doesn't need any more is given back.
func TestBoundListenerMoves(t *testing.T) {
	s, err := New(Options{DrainTime: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	probe, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := probe.Addr().(*net.TCPAddr).AddrPort()
	_ = probe.Close()
	place := func(ip string) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: ip,
			PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(at.Port())}}}}
	}
	node := captures.Load(t, "full-ingressgateway-delta")
	var l *listenerv3.Listener
	for _, l = range node.Listeners {
		if l.GetName() == "0.0.0.0_8080" {
			break
		}
	}
	l.Address = place("127.0.0.1")
	serve := func() {
		t.Helper()
		commit(t, s, &config.Resources{Listeners: []*listenerv3.Listener{l}, Routes: node.Routes, Clusters: node.Clusters, Endpoints: node.Endpoints})
		if resp, _ := get(t, at.String(), "GET", "http://nobody.example.com/"); resp.StatusCode != 404 {
			t.Errorf("%s: %d", l.GetName(), resp.StatusCode)
		}
	}
	serve()
	l.AdditionalAddresses = []*listenerv3.AdditionalAddress{{Address: place("127.0.0.2")}}
	serve()
	l.Name = "renamed"
	serve()
	l.AdditionalAddresses = nil
	serve()
	if nc, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port()).String()); err == nil {
		_ = nc.Close()
		t.Error("the second address is still bound")
	}
}
