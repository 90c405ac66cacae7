// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"context"
	"net/netip"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"pillion/bench/mesh"
)

func services(n int) *Services {
	return &Services{Mesh: mesh.New(n, true), Listen: netip.MustParseAddrPort("127.0.0.1:9"),
		V1: netip.MustParseAddrPort("127.0.0.1:10"), V2: netip.MustParseAddrPort("127.0.0.1:11")}
}

// TestLikeIstiod compares the number and the size of resources with what an
// istiod sends for 1,000 services with two subsets and a route each: 3,019
// clusters of 2,889 kB, 760 kB of endpoints, 2,118 kB of routes.
func TestLikeIstiod(t *testing.T) {
	set, err := services(1000).Resources()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		typ      string
		n        int
		from, to int // kB
	}{
		{ClusterType, 3000, 2600, 3200},
		{EndpointType, 3000, 500, 860},
		{RouteType, 1, 1700, 2330},
		{ListenerType, 1, 0, 2},
	} {
		size := 0
		for _, a := range set[c.typ] {
			size += len(a.GetValue())
		}
		if len(set[c.typ]) != c.n || size < c.from*1000 || size > c.to*1000 {
			t.Errorf("%s: %d of %d kB, want %d of %d to %d kB", c.typ, len(set[c.typ]), size/1000, c.n, c.from, c.to)
		}
	}
}

// TestServer asks as a proxy does, and takes a push.
func TestServer(t *testing.T) {
	of := services(2)
	set, err := of.Resources()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Serve(set)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := grpc.NewClient(s.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	rpc, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(req *discoveryv3.DeltaDiscoveryRequest, want int) *discoveryv3.DeltaDiscoveryResponse {
		t.Helper()
		if err := rpc.Send(req); err != nil {
			t.Fatal(err)
		}
		r, err := rpc.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.GetTypeUrl() != req.GetTypeUrl() || len(r.GetResources()) != want {
			t.Fatalf("%d resources of %s, want %d of %s", len(r.GetResources()), r.GetTypeUrl(), want, req.GetTypeUrl())
		}
		return r
	}
	answer := func(r *discoveryv3.DeltaDiscoveryResponse, complaint string) {
		t.Helper()
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
		if complaint != "" {
			req.ErrorDetail = &statuspb.Status{Code: 3, Message: complaint}
		}
		if err := rpc.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	answer(ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: ClusterType}, 6), "")
	answer(ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: ListenerType}, 1), "")
	answer(ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: RouteType, ResourceNamesSubscribe: []string{RouteName}}, 1), "")
	name := clusterName(of.Mesh.Last(), "v1")
	last := ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: EndpointType, ResourceNamesSubscribe: []string{name}}, 1)
	if err := s.Settled(ctx, 50*time.Millisecond); err == nil {
		t.Error("settled, though a push isn't answered")
	}
	answer(last, "weight: is too heavy")
	if err := s.Settled(ctx, 5*time.Second); err != nil {
		t.Error(err)
	}
	if sent, refused := s.Sent(); sent == 0 || len(refused) != 1 || refused[0] != "weight: is too heavy" {
		t.Errorf("%d bytes, refused %q", sent, refused)
	}
	heavier, err := pack(of.Endpoints(of.Mesh.Last(), "v1", 2))
	if err != nil {
		t.Fatal(err)
	}
	s.Push(clusterName(of.Mesh.Last(), "v2"), heavier) // nobody wants that one
	s.Push(name, heavier)
	r, err := rpc.Recv()
	if err != nil || len(r.GetResources()) != 1 || r.GetResources()[0].GetName() != name || !proto.Equal(r.GetResources()[0].GetResource(), heavier) {
		t.Errorf("%v, %v", r, err)
	}
}
