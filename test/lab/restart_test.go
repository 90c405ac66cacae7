// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pillion/test/rig"
)

// team is a service of both versions of reviews. (Where a route names the
// version, requests for one without a pod fail, as its author wants.)
var team = service("team", "10.96.5.1", "reviews", "{name: http, port: 9080, targetPort: 9080}") + "---" + teamSlice(true)

// teamSlice are its endpoints, with v1 as it is.
func teamSlice(v1Ready bool) string {
	text := slice("team", "{name: http, port: 9080}", "reviews-v1", "reviews-v2")
	if !v1Ready {
		text = strings.Replace(text, "ready: true, serving: true, terminating: false", "ready: false, serving: true, terminating: true", 1)
	}
	return text
}

// load makes requests, one after the other with a pause, until it is stopped,
// and tells of those that weren't answered with 200.
type load struct {
	stop   context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	by     map[string]int // answers by application; guarded by mu
	failed []string       // guarded by mu
}

func (m *mesh) startLoad(t testing.TB, c call, clients int, pause time.Duration) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel, by: map[string]int{}}
	for range clients {
		l.done.Go(func() {
			tr := m.transport(c.from)
			tr.DisableKeepAlives = false
			defer tr.CloseIdleConnections()
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for ctx.Err() == nil {
				// A request that has begun is waited for.
				r, err := askThrough(context.WithoutCancel(ctx), tr, c)
				l.add(r, err)
				<-tick.C
			}
		})
	}
	return l
}

func (l *load) add(r *reply, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.failed = append(l.failed, err.Error())
	case r.code != 200:
		l.failed = append(l.failed, fmt.Sprintf("%d %s", r.code, r.body))
	default:
		l.by[r.page.App]++
	}
}

// answered is how often an application has answered.
func (l *load) answered(app string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[app]
}

// end stops the load and fails the test for each request that failed.
func (l *load) end(t testing.TB) {
	t.Helper()
	l.stop()
	l.done.Wait()
	t.Logf("answers: %v", l.by)
	for _, f := range l.failed {
		t.Errorf("a request failed: %s", f)
	}
}

// testRestart: a pod is replaced as a rolling update does it, while requests
// go on, short ones and ones that take their time. Kubernetes takes the
// endpoint away and ends the container at the same time.
func testRestart(t *testing.T, m *mesh) {
	short := m.startLoad(t, call{from: "productpage-v1", url: "http://team:9080/load"}, 3, 20*time.Millisecond)
	long := m.startLoad(t, call{from: "ratings-v1", url: "http://team:9080/load?delay=400ms"}, 3, 20*time.Millisecond)
	for _, l := range []*load{short, long} {
		rig.Until(t, "v1 answers", func() error { return atLeast(l.answered("reviews-v1"), 3) })
	}
	m.l.Apply(teamSlice(false))
	m.terminate("reviews-v1")
	before := short.answered("reviews-v1")
	m.put("reviews-v1", true)
	m.inStep()
	m.l.Apply(teamSlice(true))
	for _, l := range []*load{short, long} {
		rig.Until(t, "v1 answers again", func() error { return atLeast(l.answered("reviews-v1"), before+3) })
		before = 0
	}
	short.end(t)
	long.end(t)
}

func atLeast(n, want int) error {
	if n < want {
		return fmt.Errorf("%d times", n)
	}
	return nil
}
