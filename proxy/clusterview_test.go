// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"math"
	"testing"

	"pillion/proxy/admin"
	"pillion/proxy/cluster"
)

// TestShownLimits: what is shown of circuit breakers is what opens them, and nothing
// of a priority that no request has.
func TestShownLimits(t *testing.T) {
	m := cluster.NewManager(cluster.Options{})
	defer m.Close()
	cfg := &cluster.Config{Name: "a", Breakers: cluster.Breakers{MaxRequests: math.MaxUint32, MaxRetries: 4}}
	cfg.Conn.MaxConnections, cfg.Conn.MaxPending = 1, 2
	if err := m.Apply([]*cluster.Config{cfg}); err != nil {
		t.Fatal(err)
	}
	got := clusterView{m}.Clusters()
	if len(got) != 1 || got[0].Default != (admin.Limits{MaxConnections: 1, MaxPendingRequests: 2, MaxRequests: math.MaxUint32, MaxRetries: 4}) || got[0].High != nil {
		t.Errorf("%+v", got)
	}
}
