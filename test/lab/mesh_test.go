// SPDX-License-Identifier: Apache-2.0

package lab

import "testing"

// testMesh is what any mesh has to do, whosever proxies are in it.
func testMesh(t *testing.T, m *mesh) {
	t.Run("bookinfo", func(t *testing.T) { CheckBookinfo(t, m.n, m.app) })
	t.Run("http", func(t *testing.T) { testHTTP(t, m) })
	t.Run("raw", func(t *testing.T) { testRaw(t, m) })
	t.Run("egress", func(t *testing.T) { testEgress(t, m) })
	t.Run("policy", func(t *testing.T) { testPolicy(t, m) })
	t.Run("gateway", func(t *testing.T) { testGateway(t, m) })
}

// TestBookinfo: our proxy in every pod of a mesh with production settings.
func TestBookinfo(t *testing.T) {
	t.Parallel()
	m := startMesh(t, Full, func(string) bool { return true })
	testMesh(t, m)
	t.Run("access log", func(t *testing.T) { testAccessLog(t, m, proxied...) })
	t.Run("telemetry", func(t *testing.T) { testTelemetry(t, m) })
	t.Run("restart", func(t *testing.T) { testRestart(t, m) })
	m.checkLogs(t)
}

// TestBookinfoBesideEnvoy: what a real Envoy with Istio's own agent makes of
// the mesh is what is expected of us, and ours takes its place in each pod, in
// turn, with Envoys in all others.
func TestBookinfoBesideEnvoy(t *testing.T) {
	t.Parallel()
	m := startMesh(t, Safe, func(string) bool { return false })
	envoys := map[string]map[string]bool{}
	t.Run("Envoy everywhere", func(t *testing.T) {
		testMesh(t, m)
		for _, pod := range proxied {
			envoys[pod] = m.statistics(t, pod)
		}
		t.Run("access log", func(t *testing.T) { testAccessLog(t, m, proxied...) })
	})
	for i, pod := range proxied {
		if i > 0 {
			m.swap(proxied[i-1], false)
		}
		m.swap(pod, true)
		m.inStep()
		t.Run("ours in "+pod, func(t *testing.T) {
			testMesh(t, m)
			t.Run("statistics", func(t *testing.T) { testStatistics(t, pod, envoys[pod], m.statistics(t, pod)) })
			t.Run("access log", func(t *testing.T) { testAccessLog(t, m, pod) })
		})
	}
	m.checkLogs(t)
}
