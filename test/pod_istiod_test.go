// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/test/lab"
	"pillion/test/rig"
)

const (
	clusterURL  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	listenerURL = "type.googleapis.com/envoy.config.listener.v3.Listener"
)

// fakeIstiod answers delta ADS with fixed resources.
type fakeIstiod struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	resources map[string][]proto.Message // by type; immutable
	names     map[string]string          // the name of the only resource of a type; immutable
	// hold keeps back the answers of LDS until it is closed.
	hold chan struct{}
	// first is the first request of the first stream, with its metadata.
	first chan firstRequest
}

type firstRequest struct {
	node *corev3.Node
	md   metadata.MD
}

func (f *fakeIstiod) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	for n := 0; ; n++ {
		req, err := s.Recv()
		if err != nil {
			return err
		}
		if n == 0 {
			md, _ := metadata.FromIncomingContext(s.Context())
			select {
			case f.first <- firstRequest{req.GetNode(), md}:
			default:
			}
		}
		if req.GetResponseNonce() != "" {
			continue // an ACK, or a NACK that the proxy's log tells
		}
		res := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: req.GetTypeUrl(), Nonce: fmt.Sprint(n), SystemVersionInfo: "1"}
		if req.GetTypeUrl() == listenerURL {
			select {
			case <-f.hold:
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}
		for _, m := range f.resources[req.GetTypeUrl()] {
			a, err := anypb.New(m)
			if err != nil {
				return err
			}
			res.Resources = append(res.Resources, &discoveryv3.Resource{Name: f.names[req.GetTypeUrl()], Resource: a})
		}
		if err := s.Send(res); err != nil {
			return err
		}
	}
}

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func tcpAddress(addr string) *corev3.Address {
	host, portText, _ := net.SplitHostPort(addr)
	n, _ := net.LookupPort("tcp", portText)
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(n)}}}}
}

// startIstiod serves an inbound listener at one address that leads to an
// application at another.
func startIstiod(t *testing.T, inbound, app string) (f *fakeIstiod, addr string) {
	t.Helper()
	manager := &hcmv3.HttpConnectionManager{StatPrefix: "inbound_0.0.0.0_9080;", RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
		Name: "inbound|9080||", VirtualHosts: []*routev3.VirtualHost{{Name: "inbound|http|9080", Domains: []string{"*"}, Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "inbound|9080||"}}},
		}}}}}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(t, &routerv3.Router{})}}}}
	f = &fakeIstiod{hold: make(chan struct{}), first: make(chan firstRequest, 1),
		names: map[string]string{clusterURL: "inbound|9080||", listenerURL: "inbound"},
		resources: map[string][]proto.Message{
			clusterURL: {&clusterv3.Cluster{Name: "inbound|9080||", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
				LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: "inbound|9080||", Endpoints: []*endpointv3.LocalityLbEndpoints{{
					LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: tcpAddress(app)}}}}}}}}},
			listenerURL: {&listenerv3.Listener{Name: "inbound", Address: tcpAddress(inbound), TrafficDirection: corev3.TrafficDirection_INBOUND,
				FilterChains: []*listenerv3.FilterChain{{Name: "http", Filters: []*listenerv3.Filter{{Name: "envoy.filters.network.http_connection_manager",
					ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(t, manager)}}}}}}},
		}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, f)
	go func() { _ = g.Serve(ln) }() // it ends with g
	t.Cleanup(g.Stop)
	return f, ln.Addr().String()
}

// withFileIdentity gives a pod certificates as a CSI driver mounts them.
func withFileIdentity(t *testing.T, p *podRig) {
	t.Helper()
	certs := filepath.Join(t.TempDir(), "certs")
	if stdout, stderr, code := command(t, "", "certs", "init", certs, "--workload", "bookinfo/bookinfo-reviews"); code != 0 {
		t.Fatalf("certs init: %s%s", stdout, stderr)
	}
	into := filepath.Join(p.root, "var/run/secrets/workload-spiffe-credentials")
	if err := os.MkdirAll(into, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cert-chain.pem", "key.pem", "root-cert.pem"} {
		text, err := os.ReadFile(filepath.Join(certs, "bookinfo/bookinfo-reviews", name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(into, name), string(text))
	}
}

// TestPodDriven: istiod is told who the pod is and is shown its token; the pod
// is ready when clusters and listeners have come, and not before; it serves, and
// drains what comes in when it ends.
func TestPodDriven(t *testing.T) {
	t.Parallel()
	app := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, _ *nethttp.Request) { fmt.Fprint(w, "from the app") }))
	defer app.Close()
	inbound := rig.FreeAddr(t)
	istiod, addr := startIstiod(t, inbound, app.Listener.Addr().String())
	p := newPod(t)
	i := slices.IndexFunc(p.env, func(e string) bool { return strings.HasPrefix(e, "PROXY_CONFIG=") })
	p.env[i] = fmt.Sprintf(`PROXY_CONFIG={"discoveryAddress":%q,"controlPlaneAuthPolicy":"NONE","statusPort":%s,"proxyAdminPort":%s,"terminationDrainDuration":"60s"}`,
		addr, port(t, p.status), port(t, p.admin))
	withFileIdentity(t, p)
	program := agent(t)
	proc := p.start(t, program, sidecarArgs...)

	first := <-istiod.first
	if id := first.node.GetId(); id != "sidecar~127.0.0.1~reviews-v1-x.bookinfo~bookinfo.svc.cluster.local" {
		t.Errorf("the node's id is %s", id)
	}
	for key, want := range map[string]string{"NAMESPACE": "bookinfo", "SERVICE_ACCOUNT": "bookinfo-reviews", "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.30.0"} {
		if got := first.node.GetMetadata().GetFields()[key].GetStringValue(); got != want {
			t.Errorf("metadata %s is %q", key, got)
		}
	}
	if got := first.md.Get("authorization"); !slices.Equal(got, []string{"Bearer token"}) || !slices.Equal(first.md.Get("clusterid"), []string{"Kubernetes"}) {
		t.Errorf("authorization %q, clusterid %q", got, first.md.Get("clusterid"))
	}
	rig.Until(t, "listeners alone are waited for", func() error {
		_, body, err := ask("GET", "http://"+p.probe+"/healthz/ready?verbose")
		if err != nil || strings.Contains(body, "CDS") || !strings.Contains(body, "LDS") {
			return fmt.Errorf("%v: %s", err, body)
		}
		return nil
	})
	close(istiod.hold)
	if stdout, stderr, code := p.hook(t, program, "wait", "--timeoutSeconds", "20", "--periodMillis", "20", "--url", "http://"+p.probe+"/healthz/ready"); code != 0 || stdout+stderr != "" {
		t.Fatalf("wait: %d %s%s\n%s", code, stdout, stderr, proc.Stderr)
	}
	if code, body, err := ask("GET", "http://"+inbound+"/"); code != 200 || body != "from the app" || err != nil {
		t.Errorf("through the proxy: %d %q %v", code, body, err)
	}
	stdout, _, code := p.hook(t, program, "request", "--debug-port="+port(t, p.admin), "GET", "config_dump")
	if code != 0 || !strings.Contains(stdout, "inbound|9080||") {
		t.Errorf("request GET config_dump: %d, %.200s", code, stdout)
	}
	if page, err := rig.Fetch("GET", "http://"+p.metrics+"/stats/prometheus"); err != nil || !strings.Contains(page, "envoy_server_state 0") {
		t.Errorf("the metrics: %v", err)
	}

	client := &nethttp.Client{Timeout: rig.Patience}
	defer client.CloseIdleConnections()
	get := func() (closes bool, err error) {
		res, err := client.Get("http://" + inbound + "/")
		if err != nil {
			return false, err
		}
		defer res.Body.Close()
		return res.Close, nil
	}
	if closes, err := get(); closes || err != nil {
		t.Errorf("before the end: closes %v, %v", closes, err)
	}
	proc.Signal(t, syscall.SIGTERM)
	rig.Until(t, "it drains and serves on", func() error {
		closes, err := get()
		if err == nil && !closes {
			err = fmt.Errorf("the connection is kept")
		}
		return err
	})
	if code, _, err := ask("GET", "http://"+p.probe+"/healthz/ready"); code != 503 || err != nil {
		t.Errorf("readiness while it drains: %d, %v", code, err)
	}
	if code, _, err := ask("POST", "http://"+p.status+"/quitquitquit"); code != 200 || err != nil {
		t.Errorf("/quitquitquit: %d, %v", code, err)
	}
	if code := proc.WaitExit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestPodOfRealIstiod: a real istiod takes the node that the pod's environment
// makes, signs its certificate and drives it until it is ready.
func TestPodOfRealIstiod(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, lab.Options{})
	_, secure, err := net.SplitHostPort(l.Ports.Secure)
	if err != nil {
		t.Fatal(err)
	}
	at := "localhost:" + secure
	// Nothing is captured, so that no port of the machine is taken.
	p := newPod(t, "CA_ADDR="+at, "ISTIO_META_INTERCEPTION_MODE=NONE", `ISTIO_META_POD_PORTS=[{"containerPort":9080,"protocol":"TCP"}]`, "ECC_SIGNATURE_ALGORITHM=ECDSA")
	p.env = append(p.env, fmt.Sprintf(`PROXY_CONFIG={"discoveryAddress":%q,"statusPort":%s,"proxyAdminPort":%s,"terminationDrainDuration":"0s"}`, at, port(t, p.status), port(t, p.admin)))
	root, err := os.ReadFile(l.RootCert())
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(l.Token("bookinfo", "bookinfo-reviews"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(p.root, "var/run/secrets/istio/root-cert.pem"), string(root))
	write(t, filepath.Join(p.root, "var/run/secrets/tokens/istio-token"), string(token)+"\n")
	program := agent(t)
	proc := p.start(t, program, sidecarArgs...)
	if _, stderr, code := p.hook(t, program, "wait", "--timeoutSeconds", "30", "--periodMillis", "50", "--url", "http://"+p.probe+"/healthz/ready"); code != 0 {
		t.Fatalf("wait: %d %s\n%s", code, stderr, proc.Stderr)
	}
	stdout, _, code := p.hook(t, program, "request", "--debug-port="+port(t, p.admin), "GET", "certs")
	if code != 0 || !strings.Contains(stdout, "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews") {
		t.Errorf("/certs: %d %s", code, stdout)
	}
	rig.Until(t, "istiod knows the proxy and all that it sent was taken", func() error {
		all := l.Syncz()
		if s, ok := all["reviews-v1-x.bookinfo"]; !ok || !s.InStep() {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
}
