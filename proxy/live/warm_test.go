// SPDX-License-Identifier: Apache-2.0

package live

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs a test in which time passes at once.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// pass lets time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestClusterWarming holds when a cluster whose endpoints don't come is served.
func TestClusterWarming(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.push(edsCluster("a"), edsCluster("b"))
		r.push(httpListener("l", "10.0.0.9:80", "80"))
		r.push(routesTo("80", "a=a"))
		r.push(assignment("b"))
		if got := r.hosts(); got != "b=" {
			t.Errorf("at once: %s", got)
		}
		pass(3 * time.Second)
		if w := strings.Join(r.WaitingFor(), "; "); w != "warming cluster a: no endpoints yet since 3s" {
			t.Errorf("waits for %q", w)
		}
		pass(12 * time.Second)
		if got := r.hosts(); got != "a= b=" {
			t.Errorf("after the deadline: %s", got)
		}
		if w := r.WaitingFor(); len(w) != 0 {
			t.Errorf("still waits for %q", w)
		}
		if p := strings.Join(r.Problems(), "; "); p != "cluster a: no endpoints yet, served without hosts: since 15s" && p != "cluster a: no endpoints yet, served without hosts since 15s" {
			t.Errorf("problems: %q", p)
		}
		r.push(assignment("a", "10.0.0.1:80"))
		if got := r.hosts(); got != "a=10.0.0.1:80 b=" {
			t.Errorf("when they come: %s", got)
		}
		if p := r.Problems(); len(p) != 0 {
			t.Errorf("problems: %q", p)
		}
	})
}

// TestChangedClusterWarming holds that a cluster that is served stays as it is until
// its new version has endpoints, for as long as that takes.
func TestChangedClusterWarming(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.push(edsCluster("a"))
		r.push(assignment("a", "10.0.0.1:80"))
		moved := edsCluster("a")
		moved.EdsClusterConfig.ServiceName = "elsewhere"
		r.push(moved)
		r.wants(EndpointType, "elsewhere")
		pass(time.Hour)
		if got := r.hosts(); got != "a=10.0.0.1:80" {
			t.Errorf("without the new endpoints: %s", got)
		}
		if st := r.Status()[0].Resources[0]; st.Active == nil || st.Warming == nil {
			t.Errorf("state: %+v", st)
		}
		r.push(assignment("elsewhere", "10.0.0.2:80"))
		if got := r.hosts(); got != "a=10.0.0.2:80" {
			t.Errorf("with them: %s", got)
		}
	})
}

// TestListenerWarming holds that a listener waits for its routes: an older version
// serves on for ever, and without one it opens after the deadline.
func TestListenerWarming(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.push(httpListener("old", "10.0.0.9:80", "80"))
		r.push(routesTo("80", "a=a"))
		r.done()
		r.push(httpListener("old", "10.0.0.9:80", "81"), httpListener("new", "10.0.0.9:82", "82"))
		r.wants(RouteType, "80", "81", "82")
		pass(14 * time.Second)
		if got := r.done(); got != "" {
			t.Errorf("before the deadline: %s", got)
		}
		pass(time.Second)
		if got := r.done(); got != "serve new" {
			t.Errorf("after it: %s", got)
		}
		if table := r.serving["new"].Chains[0].HCM.Routes.Load(); table != nil {
			t.Error("it has routes")
		}
		pass(time.Hour)
		r.push(routesTo("82", "a=a"))
		r.push(routesTo("81", "b=b"))
		if got := r.done(); got != "serve old" {
			t.Errorf("when routes come: %s", got)
		}
		if a, b := tableText(r.serving["new"].Chains[0].HCM.Routes.Load()), tableText(r.serving["old"].Chains[0].HCM.Routes.Load()); a != "82{a=a}" || b != "81{b=b}" {
			t.Errorf("routes: %s, %s", a, b)
		}
		r.wants(RouteType, "81", "82")
		if n := len(r.compiler.Places("80")); n != 0 {
			t.Errorf("%d places are kept for routes that nobody reads", n)
		}
	})
}

// TestRemovalLast holds that a cluster stays as long as routes name it, but not for
// ever.
func TestRemovalLast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.push(edsCluster("a"), edsCluster("b"), edsCluster("c"))
		r.push(assignment("a", "10.0.0.1:80"), assignment("b", "10.0.0.2:80"), assignment("c", "10.0.0.3:80"))
		r.push(httpListener("l", "10.0.0.9:80", "80"))
		r.push(routesTo("80", "a=a", "b=b"))
		r.remove(ClusterType, "a", "b", "c")
		r.push(assignment("a"), assignment("b"))
		if got := r.hosts(); got != "a=10.0.0.1:80 b=10.0.0.2:80" {
			t.Errorf("while routes name two of them: %s", got)
		}
		if st := r.Status()[0].Resources[0]; !st.Draining {
			t.Errorf("state: %+v", st)
		}
		if _, has := r.Have(ClusterType)["a"]; has {
			t.Error("the server is told that we have what it has removed")
		}
		r.push(routesTo("80", "a=a"))
		if got := r.hosts(); got != "a=10.0.0.1:80" {
			t.Errorf("while routes name one of them: %s", got)
		}
		r.wants(EndpointType, "a")
		pass(10 * time.Second)
		if got := r.hosts(); got != "" {
			t.Errorf("after the time it is kept for: %s", got)
		}
		r.wants(EndpointType)
		if n := len(r.endpoints.all); n != 0 {
			t.Errorf("%d assignments are kept that nobody needs", n)
		}
	})
}

// TestBackBeforeGone holds that a cluster that comes back while it is kept goes on.
func TestBackBeforeGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.push(edsCluster("a"))
		r.push(assignment("a", "10.0.0.1:80"))
		r.push(httpListener("l", "10.0.0.9:80", "80"))
		r.push(routesTo("80", "a=a"))
		c := r.clusters.Get("a")
		r.remove(ClusterType, "a")
		r.push(edsCluster("a"))
		pass(time.Hour)
		if r.clusters.Get("a") != c || r.hosts() != "a=10.0.0.1:80" {
			t.Errorf("it was made anew or removed: %s", r.hosts())
		}
	})
}

// TestUnboundListener holds that an address that can't be had is tried again.
func TestUnboundListener(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.push(routesTo("80", "a=a"))
		r.fail["l"] = errBusy
		if why := r.refused(httpListener("l", "10.0.0.1:80", "80")); why != "listener l: 10.0.0.1:80 is in use" {
			t.Errorf("refused: %s", why)
		}
		if w := r.WaitingFor(); len(w) != 1 {
			t.Errorf("waits for %q", w)
		}
		pass(5 * time.Second)
		delete(r.fail, "l")
		pass(time.Second)
		if got := r.done(); got != "serve l" {
			t.Errorf("when it is free: %q", got)
		}
		if p := r.Problems(); len(p) != 1 || !strings.Contains(p[0], "waiting for clusters") {
			t.Errorf("problems: %q", p)
		}
	})
}
