// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"pillion/test/rig"
)

// many is how many services TestPlaneThousand has, each with two subsets and routes of its own.
const many = 1000

// manyService is one of many services: two endpoints, of which the second one is told apart by
// a number.
func manyService(i int, port string, second int) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: svc-%[1]d, namespace: bookinfo}
spec:
  hosts: [svc-%[1]d.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: %[2]s, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.1.%[3]d.%[4]d, labels: {version: v1}}
  - {address: 10.%[5]d.%[3]d.%[4]d, labels: {version: v2}}
`, i, port, i/250, 1+i%250, 2+second)
}

// manyRules are the subsets and the routes of one of many services.
func manyRules(i, weight int) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: svc-%[1]d, namespace: bookinfo}
spec: {host: svc-%[1]d.example, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: svc-%[1]d, namespace: bookinfo}
spec:
  hosts: [svc-%[1]d.example]
  http:
  - match: [{headers: {end-user: {exact: tester}}}]
    route: [{destination: {host: svc-%[1]d.example, subset: v2}}]
  - route:
    - {destination: {host: svc-%[1]d.example, subset: v1}, weight: %[2]d}
    - {destination: {host: svc-%[1]d.example, subset: v2}, weight: %[3]d}
`, i, weight, 100-weight)
}

// cpu is the processor time that the threads of a process have had.
func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(paths) == 0 {
		t.Fatalf("the threads of %d: %v", pid, err)
	}
	var sum time.Duration
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			continue // a thread that has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(n)
	}
	return sum
}

// pushes looks for a text in what is pushed, and for the answer to it.
type pushes struct {
	mu    sync.Mutex
	first time.Time      // of the first response at all; guarded by mu, as is all below
	size  map[string]int // octets, by type
	seen  []byte         // what is looked for
	nonce string         // of the response that has it
	acked bool
}

func (c *pushes) see(r *discoveryv3.DeltaDiscoveryResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		c.first = time.Now()
	}
	for _, res := range r.GetResources() {
		v := res.GetResource().GetValue()
		c.size[r.GetTypeUrl()] += len(v)
		if len(c.seen) > 0 && bytes.Contains(v, c.seen) {
			c.seen, c.nonce = nil, r.GetNonce()
		}
	}
}

func (c *pushes) answered(r *discoveryv3.DeltaDiscoveryRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = c.acked || c.nonce != "" && r.GetResponseNonce() == c.nonce && r.GetErrorDetail() == nil
}

// after makes a change, and waits until the push with a text was taken.
func (c *pushes) after(t testing.TB, text string, change func()) {
	t.Helper()
	c.mu.Lock()
	c.seen, c.nonce, c.acked = []byte(text), "", false
	c.mu.Unlock()
	change()
	rig.UntilWithin(t, time.Minute, "a push with "+text+" was taken", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.acked {
			return fmt.Errorf("it came as %q", c.nonce)
		}
		return nil
	})
}

// TestPlaneThousand: a thousand services as a real istiod sends them, with the filters of
// Istio's own. What it costs is logged; memory is held to its bound.
//
//	go test ./test -run 'TestPlaneThousand$' -v -count=1
func TestPlaneThousand(t *testing.T) {
	t.Parallel()
	p := preparePlane(t)
	for i := range many {
		p.istiod.Apply(manyService(i, p.port, 0) + "---" + manyRules(i, 90))
	}
	c := &pushes{size: map[string]int{}}
	p.relay.watch(c.see)
	p.relay.listen(c.answered)
	p.start()
	p.waitReady()
	c.mu.Lock()
	ready := time.Since(c.first)
	c.mu.Unlock()
	pid := p.proc.PID()
	spent := cpu(t, pid)
	l := p.startLoad(20, 100*time.Millisecond, "stable.example", "stable")
	l.goesOn(200)
	l.end()
	rss := p.resident()
	page, err := rig.Fetch("GET", "http://"+p.pod.metrics+"/stats/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	scraped := p.resident()
	clusters := p.metric("pillion_config_resources", "type=cds", "state=held")
	c.mu.Lock()
	t.Logf("ready %v after the first push, with %v of CPU since its start; %v clusters; octets %v; memory %.1f MiB, after a scrape of %d octets %.1f MiB",
		ready, spent, clusters, c.size, float64(rss)/(1<<20), len(page), float64(scraped)/(1<<20))
	c.mu.Unlock()
	if clusters < 3*many {
		t.Errorf("there are %v clusters", clusters)
	}
	const changes = 10
	for _, tc := range []struct {
		what   string
		bound  time.Duration
		change func(i int) (yaml, text string)
	}{
		{"an endpoint's", 5 * time.Millisecond, func(i int) (string, string) {
			return manyService(500, p.port, 1+i), fmt.Sprintf("10.%d.2.1", 3+i)
		}},
		{"a route's", 150 * time.Millisecond, func(i int) (string, string) {
			name := fmt.Sprintf("tester-%d.", i)
			return strings.Replace(manyRules(501, 80), "tester", name, 1), name
		}},
	} {
		before := cpu(t, pid)
		for i := range changes {
			yaml, text := tc.change(i)
			c.after(t, text, func() { p.istiod.Apply(yaml) })
		}
		t.Logf("%s change: %v of CPU, to be at most %v", tc.what, (cpu(t, pid)-before)/changes, tc.bound)
	}
	t.Logf("memory %.1f MiB after the changes", float64(p.resident())/(1<<20))
	const most = 70 << 20 // 60 MiB, and what isn't collected yet when the machine is busy
	if max(rss, scraped) > most {
		t.Errorf("the proxy holds %.1f MiB, after a scrape %.1f MiB", float64(rss)/(1<<20), float64(scraped)/(1<<20))
	}
	// All counters of 3,000 clusters would be 17 MB.
	if len(page) > 2<<20 {
		t.Errorf("the metrics are %d octets", len(page))
	}
}
