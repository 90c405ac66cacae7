// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"pillion/proxy/istio/source"
)

// istiodInbound is what a real istiod sent to sidecars about their inbound side: filter
// chains of the listener virtualInbound, filters that decide, and a cluster. Left out is
// what concerns tracing.
type istiodInbound struct {
	StrictHTTP, StrictAuto, PermissiveAuto []map[string]any // filter chains
	KitchenHTTP, KitchenTCP                []any            // RBAC filters
	Cluster                                []map[string]any
}

// inboundOf translates the mesh and policies of the captures for a workload.
func inboundOf(t *testing.T, app, port string, more ...string) *Resources {
	t.Helper()
	var objs []*source.Object
	for _, name := range append([]string{"istiod/mesh.yaml", "istiod/policies.yaml"}, more...) {
		objs = append(objs, loadFile(t, name)...)
	}
	r, problems := Translate(objs, Options{
		Identity: true, ClusterID: "lab", AccessLogFile: "/dev/stdout", Labels: map[string]string{"app": app},
		Inbound: []string{"127.0.0.1:1" + port + "=127.0.0.1:" + port},
	})
	if r == nil {
		t.Fatalf("refused:\n%s", describe(problems))
	}
	return r
}

// chainsOf are the filter chains of the one inbound listener, but for its address alone.
func chainsOf(t *testing.T, r *Resources) []map[string]any {
	t.Helper()
	var out []map[string]any
	for _, l := range r.Listeners {
		if l.TrafficDirection.String() != "INBOUND" {
			continue
		}
		for _, c := range l.FilterChains {
			out = append(out, generic(t, c).(map[string]any))
		}
	}
	return out
}

// TestInboundLikeIstiod compares filter chains, field by field, with a real istiod's.
// Left out are its destination ports: here each port has a listener of its own.
func TestInboundLikeIstiod(t *testing.T) {
	var want istiodInbound
	text, err := os.ReadFile("testdata/istiod/inbound.json")
	if err != nil {
		t.Fatal(err)
	}
	// istiod has these chains for what no service declares; here the port has a name.
	rename := strings.NewReplacer(`"virtualInbound-catchall-http"`, `"0.0.0.0_9090"`, `"virtualInbound"`, `"0.0.0.0_9090"`,
		`"InboundPassthroughCluster;"`, `"inbound_0.0.0.0_9090;"`, `"InboundPassthroughCluster"`, `"inbound|9090||"`,
		`"inbound|http|0"`, `"inbound|http|9090"`, `":0/*"`, `":9090/*"`)
	if err := json.Unmarshal([]byte(rename.Replace(string(text))), &want); err != nil {
		t.Fatal(err)
	}
	chains := func(name string, want []map[string]any, r *Resources) {
		t.Run(name, func(t *testing.T) {
			got := chainsOf(t, r)
			if len(got) != len(want) || len(want) == 0 {
				t.Fatalf("%d chains, want %d", len(got), len(want))
			}
			for i := range want {
				delete(want[i]["filterChainMatch"].(map[string]any), "destinationPort")
				same(t, "a chain", want[i], got[i])
			}
		})
	}
	reviews := inboundOf(t, "reviews", "9080")
	chains("strict HTTP", want.StrictHTTP, reviews)
	chains("strict auto", want.StrictAuto, inboundOf(t, "reviews", "9090"))
	chains("permissive auto", want.PermissiveAuto, inboundOf(t, "productpage", "9090"))
	t.Run("policies of all kinds", func(t *testing.T) {
		got := chainsOf(t, inboundOf(t, "reviews", "9080", "istiod/policies-kitchen.yaml"))
		same(t, "HTTP", want.KitchenHTTP, rbacFilters(got[0]))
		got = chainsOf(t, inboundOf(t, "reviews", "9090", "istiod/policies-kitchen.yaml"))
		same(t, "TCP", want.KitchenTCP, rbacFilters(got[1]))
	})
	t.Run("cluster", func(t *testing.T) {
		i := slices.IndexFunc(reviews.Clusters, func(c *clusterv3.Cluster) bool { return c.Name == "inbound|9080||" })
		if i < 0 {
			t.Fatal("there is none")
		}
		got := generic(t, reviews.Clusters[i]).(map[string]any)
		// istiod's goes where the captured connection went, and from an address that isn't
		// captured again.
		for _, k := range []string{"@type", "type", "lbPolicy", "cleanupInterval", "upstreamBindConfig", "loadAssignment"} {
			delete(want.Cluster[0], k)
			delete(got, k)
		}
		same(t, "the cluster", any(want.Cluster[0]), any(got))
	})
}

// rbacFilters picks the RBAC filters of a chain, its connection manager's included.
func rbacFilters(chain map[string]any) []any {
	var out []any
	for _, f := range chain["filters"].([]any) {
		filter := f.(map[string]any)
		if strings.HasSuffix(filter["name"].(string), ".rbac") {
			out = append(out, f)
		}
		inner, _ := filter["typedConfig"].(map[string]any)["httpFilters"].([]any)
		for _, h := range inner {
			if strings.HasSuffix(h.(map[string]any)["name"].(string), ".rbac") {
				out = append(out, h)
			}
		}
	}
	return out
}
