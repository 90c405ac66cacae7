// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"strings"
	"testing"

	"pillion/proxy/istio/source"
)

// largeMesh is n services, each with a ServiceEntry of two endpoints, a VirtualService
// of two routes and a DestinationRule of two subsets.
func largeMesh(t testing.TB, n int) []*source.Object {
	var yaml strings.Builder
	for i := range n {
		fmt.Fprintf(&yaml, `
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: svc-%[1]d, namespace: default}
spec:
  hosts: [svc-%[1]d.default.svc.cluster.local]
  addresses: [10.%[2]d.%[3]d.1]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  location: MESH_INTERNAL
  endpoints:
  - {address: 127.0.0.1, ports: {http: 18080}, labels: {app: svc-%[1]d, version: v1}}
  - {address: 127.0.0.2, ports: {http: 18080}, labels: {app: svc-%[1]d, version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: svc-%[1]d, namespace: default}
spec:
  hosts: [svc-%[1]d]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: svc-%[1]d, subset: v2}}]
  - route: [{destination: {host: svc-%[1]d, subset: v1}, weight: 90}, {destination: {host: svc-%[1]d, subset: v2}, weight: 10}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: svc-%[1]d, namespace: default}
spec:
  host: svc-%[1]d
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 100}, http: {http1MaxPendingRequests: 100, maxRequestsPerConnection: 10}}
    outlierDetection: {consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s, maxEjectionPercent: 50}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
`, i, i/250, i%250)
	}
	return load(t, yaml.String())
}

// BenchmarkTranslate1000 is a whole translation of a mesh of 1,000 services, what a
// change of any file costs beside reading it.
func BenchmarkTranslate1000(b *testing.B) {
	objs := largeMesh(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		r, problems := Translate(objs, Options{HTTPAddr: "127.0.0.1:15080"})
		if r == nil || len(problems) > 0 || len(r.Clusters) != 3002 {
			b.Fatalf("%d clusters, problems:\n%s", len(r.Clusters), describe(problems))
		}
	}
}

// TestLinear: translation must not grow faster than the mesh. Allocations stand for
// time, which can't be measured on a busy machine.
func TestLinear(t *testing.T) {
	allocs := func(n int) float64 {
		objs := largeMesh(t, n)
		return testing.AllocsPerRun(2, func() { Translate(objs, Options{HTTPAddr: "127.0.0.1:15080"}) })
	}
	small, large := allocs(50), allocs(400)
	if ratio := large / small; ratio > 9 {
		t.Errorf("8 times the services take %.1f times the allocations (%.0f, %.0f)", ratio, small, large)
	}
	if each := large / 400; each > 400 {
		t.Errorf("%.0f allocations for each service", each)
	}
}
