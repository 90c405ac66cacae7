// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"pillion/test/rig"
)

const routeURL = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"

// effects measures how long it takes from the arrival of a push to the first
// answer by a new route.
type effects struct {
	mu     sync.Mutex
	came   map[int]time.Time // when a generation first stood in routes that arrived; guarded by mu
	newest int               // guarded by mu
	delays []time.Duration   // guarded by mu
	last   int               // the newest generation that arrived; guarded by mu
	stale  time.Duration     // see outdated; guarded by mu
}

// see notes the generation of a push that is about to be passed on.
func (e *effects) see(r *discoveryv3.DeltaDiscoveryResponse) {
	if r.GetTypeUrl() != routeURL {
		return
	}
	for _, res := range r.GetResources() {
		_, after, found := bytes.Cut(res.GetResource().GetValue(), []byte("gen-"))
		if !found || len(after) < 6 {
			continue
		}
		n, err := strconv.Atoi(string(after[:6]))
		if err != nil {
			continue
		}
		e.mu.Lock()
		if _, was := e.came[n]; !was {
			e.came[n] = time.Now()
			e.last = max(e.last, n)
		}
		e.mu.Unlock()
	}
}

// answered notes the first answer of a generation, and how old a push was that
// a request didn't see although it arrived before the request started.
func (e *effects) answered(text string, started time.Time) {
	n, err := strconv.Atoi(strings.TrimPrefix(text, "gen-"))
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		return
	}
	for next := n + 1; next <= e.last; next++ {
		if came, ok := e.came[next]; ok { // the first that was missed is the oldest
			e.stale = max(e.stale, started.Sub(came))
			break
		}
	}
	if came, ok := e.came[n]; ok && n > e.newest {
		e.newest = n
		e.delays = append(e.delays, now.Sub(came))
	}
}

// outdated returns how long after the arrival of a push a request still started
// that was answered by older routes. Unlike the delay to the first answer it
// holds neither the time between two requests nor that of the answer.
func (e *effects) outdated() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stale
}

// quantiles returns how many there were, the median, the 99th of a hundred, and
// the longest.
func (e *effects) quantiles() (n int, median, p99, longest time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n = len(e.delays); n == 0 {
		return 0, 0, 0, 0
	}
	slices.Sort(e.delays)
	return n, e.delays[n/2], e.delays[n*99/100], e.delays[n-1]
}

// watchEdits asks for edited.example all the time, on one connection.
func (p *plane) watchEdits(e *effects, stop <-chan struct{}, every time.Duration) (wait func()) {
	p.t.Helper()
	c, err := net.Dial("tcp", p.http)
	if err != nil {
		p.t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		defer c.Close()
		r := bufio.NewReader(c)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			_ = c.SetDeadline(time.Now().Add(rig.Patience))
			started := time.Now()
			_, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: edited.example:%s\r\n\r\n", p.port)
			if err != nil {
				p.t.Errorf("edited.example: %v", err)
				return
			}
			res, err := nethttp.ReadResponse(r, nil)
			if err != nil {
				p.t.Errorf("edited.example: %v", err)
				return
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != 200 || res.Close {
				p.t.Errorf("edited.example: %s %q %v, closes: %v", res.Status, body, err, res.Close)
				return
			}
			e.answered(res.Header.Get("X-Generation"), started)
		}
	})
	return done.Wait
}

// churnTime is how long configuration churns: shorter by default than in make soak.
func churnTime(short, long time.Duration) time.Duration {
	if *soakTime >= time.Minute {
		return min(*soakTime, long)
	}
	return short
}

// TestPlaneChurn: istiod pushes ten edits of routes a second while 200
// connections carry load. No request fails and no connection is drained, what
// hasn't changed isn't touched, memory stays where it was, and a push is in effect at once.
func TestPlaneChurn(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	p.waitGeneration(0)
	stable := p.startLoad(200, 500*time.Millisecond, "stable.example", "stable")
	e := &effects{came: map[int]time.Time{}}
	p.relay.watch(e.see)
	stop := make(chan struct{})
	wait := p.watchEdits(e, stop, 2*time.Millisecond)

	edits := 0
	churn := func(d time.Duration) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
			edits++
			p.istiod.Apply(generation(edits))
		}
		p.waitGeneration(edits)
	}
	churn(churnTime(5*time.Second, time.Minute)) // what the process needs once
	warm := p.resident()
	listeners := p.metric("pillion_config_resources_received_total", "type=lds", "result=taken")
	clusters := p.metric("pillion_config_resources_received_total", "type=cds", "result=taken")
	unchanged := p.metric("pillion_config_resources_received_total", "type=lds", "result=unchanged")
	churn(churnTime(12*time.Second, 5*time.Minute))
	grown := p.resident() - warm
	stable.goesOn(200)
	close(stop)
	wait()
	if n := stable.end(); n == 0 || stable.failed.Load() > 0 {
		t.Errorf("%d requests, %d failed", n, stable.failed.Load())
	}
	if now := p.metric("pillion_config_resources_received_total", "type=lds", "result=taken"); now != listeners {
		t.Errorf("%v listeners were made anew", now-listeners)
	}
	if now := p.metric("pillion_config_resources_received_total", "type=cds", "result=taken"); now != clusters {
		t.Errorf("%v clusters were made anew", now-clusters)
	}
	resent := p.metric("pillion_config_resources_received_total", "type=lds", "result=unchanged") - unchanged
	if resent == 0 {
		t.Error("istiod sent no listener again: the test proves nothing")
	}
	if drained, nacks := p.drained(), p.metric("pillion_xds_nacks_total"); drained != 0 || nacks != 0 {
		t.Errorf("%v connections were drained, %v answers refused", drained, nacks)
	}
	// The short form has little time to warm up, and shares two cores with other tests.
	most, late := int64(24<<20), 500*time.Millisecond
	if *soakTime >= time.Minute {
		most, late = 10<<20, 50*time.Millisecond
	}
	if grown > most {
		t.Errorf("the proxy has grown by %d KiB", grown>>10)
	}
	n, median, p99, longest := e.quantiles()
	t.Logf("%d edits, %d seen in effect: from the push to the first answer by the new route median %v, p99 %v, longest %v; older routes answered requests that started up to %v after it; %v listeners came again; memory %d KiB, %+d KiB",
		edits, n, median, p99, longest, e.outdated(), resent, warm>>10, grown>>10)
	if stale := e.outdated(); stale > late {
		t.Errorf("a request that started %v after a push was answered by older routes", stale)
	}
	if n < edits/2 || median > late {
		t.Errorf("%d of %d edits were seen in effect, after %v", n, edits, median)
	}
	if *soakTime >= time.Minute && p99 > late {
		t.Errorf("one edit of a hundred took %v and more", p99)
	}
}
