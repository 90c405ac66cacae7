// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	// Known, so that they can be written as text.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"pillion/proxy/cluster"
	"pillion/test/captures"
)

// thousand is what istiod sends to a sidecar in a mesh of a thousand more services,
// each with a DestinationRule of two subsets and a VirtualService: about three
// thousand clusters with two endpoints, and 2 MB of routes. They are made after
// the captured service "reviews".
func thousand(t testing.TB) *Resources {
	t.Helper()
	const like = "reviews.default.svc.cluster.local"
	out := captured(captures.Load(t, "full-productpage-v1-delta"))
	rename := func(i int) func(string) string {
		name := fmt.Sprintf("svc-%04d", i)
		ip := fmt.Sprintf("10.%d.%d.", 100+i/250, i%250)
		r := strings.NewReplacer("reviews", name, "10.99.0.", ip, "10.99.1.", ip)
		return r.Replace
	}
	var clusters []*clusterv3.Cluster
	for _, c := range out.Clusters {
		if strings.HasSuffix(c.GetName(), like) {
			clusters = append(clusters, c)
		}
	}
	var endpoints []*endpointv3.ClusterLoadAssignment
	for _, a := range out.Endpoints {
		if strings.HasSuffix(a.GetClusterName(), like) {
			endpoints = append(endpoints, a)
		}
	}
	for i := range 1000 {
		to := rename(i)
		for _, c := range clusters {
			out.Clusters = append(out.Clusters, renamed(t, c, to))
		}
		for _, a := range endpoints {
			out.Endpoints = append(out.Endpoints, renamed(t, a, to))
		}
	}
	for _, rc := range out.Routes {
		if rc.GetName() != "9080" {
			continue
		}
		for _, vh := range rc.GetVirtualHosts() {
			if !strings.HasPrefix(vh.GetName(), like) {
				continue
			}
			for i := range 1000 {
				rc.VirtualHosts = append(rc.VirtualHosts, renamed(t, vh, rename(i)))
			}
			break
		}
	}
	return out
}

// renamed returns a copy of m with other texts.
func renamed[M proto.Message](t testing.TB, m M, to func(string) string) M {
	t.Helper()
	text, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	out := m.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal([]byte(to(string(text))), out); err != nil {
		t.Fatal(err)
	}
	return out.(M)
}

// BenchmarkCompileThousand compiles the whole set, in a new compiler and in one that
// has compiled it before.
func BenchmarkCompileThousand(b *testing.B) {
	r := thousand(b)
	wire := 0
	var rds *routev3.RouteConfiguration
	for _, rc := range r.Routes {
		if wire += proto.Size(rc); rc.GetName() == "9080" {
			rds = rc
		}
	}
	clustersOf := func() *cluster.Manager {
		m := cluster.NewManager(cluster.Options{})
		b.Cleanup(m.Close)
		return m
	}
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c := NewCompiler(Env{})
			if _, err := c.Compile(r); err != nil {
				b.Fatal(err)
			}
			c.Close()
		}
		b.ReportMetric(float64(len(r.Clusters)), "clusters")
		b.ReportMetric(float64(wire), "rds-bytes")
	})
	b.Run("again", func(b *testing.B) {
		c := NewCompiler(Env{Clusters: clustersOf()})
		defer c.Close()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Compile(r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("routes", func(b *testing.B) {
		env := newRouteRig().env()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := CompileRoutes(rds, env); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("retained", func(b *testing.B) {
		var before, after runtime.MemStats
		for b.Loop() {
			runtime.GC()
			runtime.ReadMemStats(&before)
			c := NewCompiler(Env{Clusters: clustersOf()})
			snap, err := c.Compile(r)
			if err != nil {
				b.Fatal(err)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			runtime.KeepAlive(snap)
			c.Close()
		}
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc), "B-retained")
	})
}
