// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pillion/proxy/proxytest"
	"pillion/proxy/xds"
)

// cpuTime is what the process has used. Unlike the time of day it doesn't depend on who
// else the machine works for.
func cpuTime(t testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestCost holds what a change may cost in a big mesh: the endpoints of one cluster of
// 3,000, one weight among 1,000 virtual hosts, and 3,000 clusters that are only sent again.
func TestCost(t *testing.T) {
	if testing.Short() || proxytest.Race {
		t.Skip("cost is measured without the race detector")
	}
	r := bigRig(t)
	var hosts, routes []*xds.Update
	for i := range 2 {
		hosts = append(hosts, updateOf(assignment(serviceName(1500), fmt.Sprintf("10.9.0.%d:8080", i+1))))
		routes = append(routes, updateOf(bigRoutes(1-i)))
	}
	again := &xds.Update{TypeURL: ClusterType}
	for name, e := range r.Sink.clusters.all {
		again.Resources = append(again.Resources, xds.Resource{Name: name, Body: e.good.body})
	}
	for _, c := range []struct {
		what    string
		updates []*xds.Update
		times   int
		most    time.Duration
	}{
		{"one cluster's endpoints", hosts, 200, 5 * time.Millisecond},
		{"one weight among 1,000 virtual hosts", routes, 10, 150 * time.Millisecond},
		{"3,000 clusters sent again", []*xds.Update{again}, 10, 50 * time.Millisecond},
	} {
		begun := cpuTime(t)
		for i := range c.times {
			if err := r.Apply(c.updates[i%len(c.updates)]); err != nil {
				t.Fatal(err)
			}
		}
		each := (cpuTime(t) - begun) / time.Duration(c.times)
		t.Logf("%s: %v of CPU", c.what, each)
		if each > c.most {
			t.Errorf("%s: %v of CPU, more than %v", c.what, each, c.most)
		}
	}
}
