// SPDX-License-Identifier: Apache-2.0

// Package captures gives tests what a real istiod sent to its nodes.
package captures

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/test/need"
)

// Node is what was sent to one node, such as full-reviews-v1-delta: full is with
// production settings, kitchen with everything turned on.
type Node struct {
	Name      string
	Listeners []*listenerv3.Listener
	Routes    []*routev3.RouteConfiguration
	Clusters  []*clusterv3.Cluster
	Endpoints []*endpointv3.ClusterLoadAssignment
}

// All returns all nodes. The resources are the caller's own.
func All(t testing.TB) []*Node {
	t.Helper()
	dirs, err := os.ReadDir(need.Captures(t))
	if err != nil {
		t.Fatal(err)
	}
	var out []*Node
	for _, d := range dirs {
		if d.IsDir() {
			out = append(out, Load(t, d.Name()))
		}
	}
	return out
}

// Load returns one node.
func Load(t testing.TB, name string) *Node {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(need.Captures(t), name, "*.pb"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: there are no responses (%v)", name, err)
	}
	n := &Node{Name: name}
	for _, f := range files {
		for _, a := range Read(t, f) {
			n.add(t, a)
		}
	}
	return n
}

// Read returns the resources of one response, as they came.
func Read(t testing.TB, file string) []*anypb.Any {
	t.Helper()
	wire, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(filepath.Base(file), "-delta-") {
		m := &discoveryv3.DiscoveryResponse{}
		if err := proto.Unmarshal(wire, m); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		return m.GetResources()
	}
	m := &discoveryv3.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(wire, m); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	var list []*anypb.Any
	for _, r := range m.GetResources() {
		list = append(list, r.GetResource())
	}
	return list
}

// nameTable is the type of Istio's own resource for DNS, which isn't configuration
// of listeners.
const nameTable = "type.googleapis.com/istio.networking.nds.v1.NameTable"

func (n *Node) add(t testing.TB, a *anypb.Any) {
	t.Helper()
	if a.GetTypeUrl() == nameTable {
		return
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	switch m := m.(type) {
	case *clusterv3.Cluster:
		n.Clusters = append(n.Clusters, m)
	case *endpointv3.ClusterLoadAssignment:
		n.Endpoints = append(n.Endpoints, m)
	case *listenerv3.Listener:
		n.Listeners = append(n.Listeners, m)
	case *routev3.RouteConfiguration:
		n.Routes = append(n.Routes, m)
	default:
		t.Fatalf("%s: a resource of type %s", n.Name, a.GetTypeUrl())
	}
}
