// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// generatedMesh returns YAML for n services: a ServiceEntry, a VirtualService and a
// DestinationRule each, in one file.
func generatedMesh(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: svc-%[1]d
  namespace: default
spec:
  hosts: [svc-%[1]d.default.svc.cluster.local]
  ports:
  - {number: 9080, name: http, protocol: HTTP}
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - {address: 127.0.0.1, ports: {http: 19081}, labels: {app: svc-%[1]d, version: v1}}
  - {address: 127.0.0.1, ports: {http: 19083}, labels: {app: svc-%[1]d, version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: svc-%[1]d
  namespace: default
spec:
  hosts: [svc-%[1]d]
  http:
  - match:
    - headers: {end-user: {exact: jason}}
    route:
    - destination: {host: svc-%[1]d, subset: v2}
  - timeout: 10s
    retries: {attempts: 2, perTryTimeout: 2s}
    route:
    - destination: {host: svc-%[1]d, subset: v1}
      weight: 99
    - destination: {host: svc-%[1]d, subset: v2}
      weight: 1
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: svc-%[1]d
  namespace: default
spec:
  host: svc-%[1]d
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 100}
      http: {http1MaxPendingRequests: 100, maxRequestsPerConnection: 10}
    outlierDetection: {consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s, maxEjectionPercent: 50}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
`, i)
	}
	return b.String()
}

func writeGenerated(tb testing.TB, n int) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "mesh.yaml")
	if err := os.WriteFile(path, []byte(generatedMesh(n)), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// BenchmarkLoad loads 3,000 documents. It also reports the process's own processor time,
// garbage collection included, which other work on the machine doesn't lengthen much.
func BenchmarkLoad(b *testing.B) {
	path := writeGenerated(b, 1000)
	for _, procs := range []int{1, 2} {
		b.Run(fmt.Sprintf("docs=3000/procs=%d", procs), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			info, err := os.Stat(path)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(info.Size())
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				set, errs := Load([]string{path}, Options{})
				if len(errs) > 0 || len(set.Objects) != 3000 {
					b.Fatalf("errors %v", errs)
				}
				set.Release()
			}
			b.ReportMetric(float64((processorTime(b)-before).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestLoadKeepsLittle holds a loaded set to a multiple of its text that rules out that
// YAML trees, which take some thirty times as much, are kept.
func TestLoadKeepsLittle(t *testing.T) {
	const services = 300
	path := writeGenerated(t, services)
	load(t, Options{}, path) // makes what protobuf makes once
	before := heapInUse()
	set := load(t, Options{}, path)
	withText := heapInUse() - before
	set.Release()
	released := heapInUse() - before
	size := int64(len(generatedMesh(services)))
	if withText > 12*size {
		t.Errorf("%d KiB for %d KiB of text", withText>>10, size>>10)
	}
	if released > withText-size {
		t.Errorf("Release freed %d KiB of %d KiB of text", (withText-released)>>10, size>>10)
	}
	runtime.KeepAlive(set)
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
