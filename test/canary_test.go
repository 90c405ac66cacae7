// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
	"pillion/test/wire"
)

// versions adds up a tally of the reviews workloads by version.
func versions(t wire.Tally) (v1, v2 int) {
	for origin, n := range t.Origin {
		switch {
		case strings.HasPrefix(origin, "v1-"):
			v1 += n
		case strings.HasPrefix(origin, "v2-"):
			v2 += n
		}
	}
	return v1, v2
}

// wantShare fails the test unless v2's share of the tally, in percent, is
// within tolerance of want, and every request was answered with 200.
func wantShare(t *testing.T, what string, tally wire.Tally, want, tolerance float64) {
	t.Helper()
	if tally.Failed > 0 || tally.Status[200] != tally.Total {
		t.Errorf("%s: %d requests failed (%v), statuses %v", what, tally.Failed, tally.Failure, tally.Status)
	}
	v1, v2 := versions(tally)
	share := 100 * float64(v2) / float64(v1+v2)
	if v1+v2 != tally.Total || share < want-tolerance || share > want+tolerance {
		t.Errorf("%s: v2 got %.2f %% of %d requests (%v), want %v ± %v", what, share, tally.Total, tally.Origin, want, tolerance)
	}
}

// TestCanarySteps walks through the steps of a canary by editing the file,
// with a load running all the while.
func TestCanarySteps(t *testing.T) {
	t.Parallel()
	p, dir := startReference(t, "10 21 31")
	load := wire.Load{Addr: p.HTTP, Request: get("reviews:9080", "/reviews/1"), Conns: 4, Patience: rig.Patience}

	// 0.3 of 20,000 requests is more than four standard deviations.
	load.Count = 20000
	wantShare(t, "1 %", load.Run(), 1, 0.3)

	background := load
	background.Count, background.Conns = 0, 2
	running := background.Start()
	load.Count = 4000
	for _, step := range []struct{ v1, v2 string }{{"50", "50"}, {"0", "100"}, {"100", "0"}} {
		setWeights(t, dir, step.v1, step.v2)
		waitForWeights(t, p, step.v1, step.v2)
		var want float64
		_, _ = fmt.Sscan(step.v2, &want)
		// Four standard deviations at 50 %; none at the ends.
		tolerance := 3.2
		if want == 0 || want == 100 {
			tolerance = 0
		}
		wantShare(t, step.v1+"/"+step.v2, load.Run(), want, tolerance)
	}
	if all := running.Stop(); all.Failed > 0 || all.Status[200] != all.Total || all.Total == 0 {
		t.Errorf("of %d requests while the file was edited %d failed (%v), statuses %v", all.Total, all.Failed, all.Failure, all.Status)
	}
}

// setWeights rewrites the canary's file.
func setWeights(t *testing.T, dir, v1, v2 string) {
	t.Helper()
	write(t, filepath.Join(dir, "21-canary-1-percent.yaml"), strings.NewReplacer("{{v1}}", v1, "{{v2}}", v2).Replace(`
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - route:
    - {destination: {host: reviews, subset: v1}, weight: {{v1}}}
    - {destination: {host: reviews, subset: v2}, weight: {{v2}}}
`))
}

// waitForWeights waits until requests follow the weights: until v2's share
// in a short run is nearer to the new weights than to any other step's.
func waitForWeights(t *testing.T, p *rig.Proxy, v1, v2 string) {
	t.Helper()
	var want float64
	if _, err := fmt.Sscan(v2, &want); err != nil {
		t.Fatal(err)
	}
	probe := wire.Load{Addr: p.HTTP, Request: get("reviews:9080", "/reviews/1"), Conns: 1, Count: 100, Patience: rig.Patience}
	rig.Until(t, "the weights are "+v1+"/"+v2, func() error {
		n1, n2 := versions(probe.Run())
		share := 100 * float64(n2) / float64(n1+n2)
		if share < want-24 || share > want+24 {
			return fmt.Errorf("v2's share is %.0f %%", share)
		}
		return nil
	})
}

// TestChangeIsFast measures from the last write of a file to the first
// request that follows it. The best of a few tries counts, because the test
// shares its machine; a proxy that waits too long on purpose has no good try.
func TestChangeIsFast(t *testing.T) {
	t.Parallel()
	const limit = 200 * time.Millisecond
	p, dir := startReference(t, "10 21 31")
	c, err := wire.Dial(p.HTTP, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	best := time.Hour
	for try := range 6 {
		weights, version := [2]string{"0", "100"}, "v2"
		if try%2 == 1 {
			weights, version = [2]string{"100", "0"}, "v1"
		}
		setWeights(t, dir, weights[0], weights[1])
		written := time.Now()
		rig.Until(t, "requests follow the edited file", func() error {
			if err := c.Send(get("reviews:9080", "/reviews/1")); err != nil {
				t.Fatal(err)
			}
			resp, err := c.Read("GET")
			if err != nil {
				t.Fatal(err)
			}
			if origin := resp.Fields.Get("x-origin"); !strings.HasPrefix(origin, version) {
				return fmt.Errorf("%s answered", origin)
			}
			return nil
		})
		best = min(best, time.Since(written))
	}
	t.Logf("the fastest change took %v", best)
	if best > limit {
		t.Errorf("the fastest of 6 changes took %v, want at most %v", best, limit)
	}
}
