// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/test/rig"
)

const (
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
)

// probe is a node that asks istiod for clusters and listeners, and takes them.
type probe struct {
	stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	node   *corev3.Node
}

// connect opens a stream as the sidecar of a pod of bookinfo.
func connect(t *testing.T, l *Rig, pod, ip, account string) *probe {
	t.Helper()
	conn, err := grpc.NewClient(l.Ports.XDS, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	t.Cleanup(cancel)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := structpb.NewStruct(map[string]any{"CLUSTER_ID": ClusterID, "NAMESPACE": "default", "SERVICE_ACCOUNT": account, "INSTANCE_IPS": ip,
		"NAME": pod, "ISTIO_VERSION": "1.31.0", "MESH_ID": TrustDomain})
	if err != nil {
		t.Fatal(err)
	}
	return &probe{stream, &corev3.Node{Id: "sidecar~" + ip + "~" + pod + ".default~default.svc.cluster.local", Metadata: metadata}}
}

// ask requests a type, and returns the answer once it has taken it.
func (p *probe) ask(typeURL string) (*discoveryv3.DiscoveryResponse, error) {
	if err := p.stream.Send(&discoveryv3.DiscoveryRequest{Node: p.node, TypeUrl: typeURL}); err != nil {
		return nil, err
	}
	return p.next(typeURL)
}

func (p *probe) next(typeURL string) (*discoveryv3.DiscoveryResponse, error) {
	for {
		resp, err := p.stream.Recv()
		if err != nil {
			return nil, err
		}
		ack := &discoveryv3.DiscoveryRequest{TypeUrl: resp.GetTypeUrl(), VersionInfo: resp.GetVersionInfo(), ResponseNonce: resp.GetNonce()}
		if err := p.stream.Send(ack); err != nil {
			return nil, err
		}
		if resp.GetTypeUrl() == typeURL {
			return resp, nil
		}
	}
}

// TestIstiodServes: what a sidecar is sent is what the mesh's YAML says, and
// changes with it.
func TestIstiodServes(t *testing.T) {
	t.Parallel()
	for _, flavour := range []Flavour{Full, Safe} {
		t.Run(string(flavour), func(t *testing.T) {
			t.Parallel()
			l := Start(t, Options{Flavour: flavour, Objects: Bookinfo()})
			p := connect(t, l, "productpage-v1", "10.244.0.10", "bookinfo-productpage")
			clusters, err := p.ask(clusterType)
			if err != nil {
				t.Fatal(err)
			}
			listeners, err := p.ask(listenerType)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d clusters, %d listeners", len(clusters.GetResources()), len(listeners.GetResources()))
			text := fmt.Sprint(clusters.GetResources(), listeners.GetResources())
			for _, want := range []string{"outbound|9080|v1|reviews.default.svc.cluster.local", "inbound|9080||", "virtualInbound", "virtualOutbound", "0.0.0.0_9080"} {
				if !strings.Contains(text, want) {
					t.Errorf("%s is missing", want)
				}
			}
			for _, own := range []string{"istio.metadata_exchange", "istio.alpn", "istio.stats"} {
				if has := strings.Contains(text, own); has != (flavour == Full) {
					t.Errorf("%s is there: %v", own, has)
				}
			}
			rig.Until(t, "istiod knows that the proxy is in step", func() error {
				if s := l.Syncz()["productpage-v1.default"]; !s.InStep() {
					return fmt.Errorf("%+v", s)
				}
				return nil
			})
			testChange(t, l, p)
		})
	}
}

// testChange adds a service, takes it away, and ends istiod.
func testChange(t *testing.T, l *Rig, p *probe) {
	const more = `{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: more, namespace: default},
 spec: {hosts: [more.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 10.9.9.9}]}}`
	const cluster = "outbound|80||more.example.com"
	for _, step := range []struct {
		do   func(string)
		want bool
	}{{l.Apply, true}, {l.Delete, false}} {
		step.do(more)
		// A push of an earlier change may come first.
		for has := !step.want; has != step.want; {
			resp, err := p.next(clusterType)
			if err != nil {
				t.Fatalf("waiting for %s to be there: %v: %v", cluster, step.want, err)
			}
			has = strings.Contains(fmt.Sprint(resp.GetResources()), cluster)
		}
	}
	l.Kill()
	for err := error(nil); err == nil; { // pushes that were under way may come first
		_, err = p.next(clusterType)
	}
	l.Restart()
	again, err := connect(t, l, "productpage-v1", "10.244.0.10", "bookinfo-productpage").ask(clusterType)
	if err != nil || len(again.GetResources()) == 0 {
		t.Errorf("after a restart: %v %v", again, err)
	}
}

func TestMeshConfig(t *testing.T) {
	got, err := meshConfig(Safe, "accessLogFile: ''\nextensionProviders: [{name: x}]")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"accessLogFile: \"\"", "name: x", "metrics: []", "trustDomain: cluster.local"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q is missing:\n%s", want, got)
		}
	}
	if _, err := meshConfig("tasty", ""); err == nil {
		t.Error("a flavour that there isn't")
	}
	if _, err := meshConfig(Full, "a: ["); err == nil {
		t.Error("no YAML")
	}
}

// TestGatewayAPI: istiod finds the definitions of the Gateway API, serves a
// route, and writes its status back.
func TestGatewayAPI(t *testing.T) {
	t.Parallel()
	l := Start(t, Options{Objects: append(Bookinfo(), `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shared, namespace: istio-system}
spec:
  gatewayClassName: istio
  addresses: [{type: Hostname, value: istio-ingressgateway.istio-system.svc.cluster.local}]
  listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: ratings, namespace: default}
spec:
  parentRefs: [{name: shared, namespace: istio-system}]
  hostnames: [ratings.example.com]
  rules: [{backendRefs: [{name: ratings, port: 9080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: nowhere, namespace: default}
spec:
  parentRefs: [{name: shared, namespace: istio-system}]
  rules: [{backendRefs: [{name: nobody, port: 1}]}]
`)})
	for _, tc := range []struct{ kind, ns, name, condition, want string }{
		{"HTTPRoute", "default", "ratings", "Accepted", "True"},
		{"HTTPRoute", "default", "ratings", "ResolvedRefs", "True"},
		{"HTTPRoute", "default", "nowhere", "ResolvedRefs", "False"},
		{"Gateway", "istio-system", "shared", "Programmed", "True"},
	} {
		rig.Until(t, tc.kind+" "+tc.name+" has a status", func() error {
			obj, err := l.Kube.Get("gateway.networking.k8s.io/v1", tc.kind, tc.ns, tc.name)
			if err != nil {
				return err
			}
			if got := condition(obj["status"], tc.condition); got != tc.want {
				return fmt.Errorf("%s is %q in %v", tc.condition, got, obj["status"])
			}
			return nil
		})
	}
}

// condition looks for a condition at any depth of a status.
func condition(v any, kind string) string {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if got := condition(e, kind); got != "" {
				return got
			}
		}
	case map[string]any:
		if v["type"] == kind {
			status, _ := v["status"].(string)
			return status
		}
		for _, e := range v {
			if got := condition(e, kind); got != "" {
				return got
			}
		}
	}
	return ""
}
