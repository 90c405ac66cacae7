// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
	"pillion/test/wire"
)

// TestReferenceUpgradesToHTTP2 runs the reference mesh's 30-subsets-and-pools:
// clients of HTTP/1 are served by hosts of HTTP/2, and a connection carries no
// more than its ten requests.
func TestReferenceUpgradesToHTTP2(t *testing.T) {
	t.Parallel()
	origin := wire.NewH2Origin(t, rig.Patience, wire.H2Options{}, func(c *wire.H2, id uint32) {
		s := c.Snapshot(id)
		_ = c.Head(id, true, wire.Fields{{Name: ":status", Value: "200"}, {Name: "x-path", Value: s.Get(":path")}})
	})
	dir := t.TempDir()
	for _, name := range []string{"10-services.yaml", "30-subsets-and-pools.yaml"} {
		text, err := os.ReadFile(filepath.Join(need.Mesh(t), name))
		if err != nil {
			t.Fatal(err)
		}
		// The mesh's own ports belong to the backends of the other tests.
		mesh := string(text)
		for _, port := range []string{"19081", "19082", "19083", "19084"} {
			mesh = strings.ReplaceAll(mesh, port, origin.Port())
		}
		write(t, filepath.Join(dir, name), mesh)
	}
	p := rig.Start(t, binaries.Static(t), rig.Options{}, dir)
	const requests = 35
	for range requests {
		r, err := wire.Do(p.HTTP, "GET /reviews/1 HTTP/1.1\r\nHost: reviews:9080\r\n\r\n", rig.Patience)
		if err != nil || r.Status != 200 || r.Fields.Get("x-path") != "/reviews/1" {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if n := origin.Accepted(); n < requests/10 {
		t.Errorf("%d requests came on %d connections, want at most ten on each", requests, n)
	}
	if n := p.Scrape(t).Sum("envoy_cluster_upstream_cx_http2_total"); n != float64(origin.Accepted()) {
		t.Errorf("%v connections are counted, the host had %d", n, origin.Accepted())
	}
}
