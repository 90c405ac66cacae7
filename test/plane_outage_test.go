// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"pillion/test/rig"
)

// settled is how many listeners and clusters were made since the start.
func (p *plane) settled() float64 {
	return p.metric("pillion_config_resources_received_total", "type=lds", "result=taken") + p.metric("pillion_config_resources_total", "type=cds", "result=taken")
}

// hold waits while the control plane is away, with load on.
func hold(l *load, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		l.goesOn(50)
	}
}

// TestPlaneAway: istiod is killed, refuses connections, or takes them and never
// answers. Traffic goes on and the proxy stays ready; one line in the log and one
// metric tell; what istiod has to say afterwards is served at once, and nothing else
// is touched.
func TestPlaneAway(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		goes, back func(p *plane)
	}{
		{"killed", func(p *plane) { p.istiod.Kill() }, func(p *plane) { p.istiod.Restart() }},
		{"refuses", func(p *plane) { p.gate.set(refusing) }, func(p *plane) { p.gate.set(passing) }},
		{"silent", func(p *plane) { p.gate.set(silent) }, func(p *plane) { p.gate.set(passing) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := startPlane(t)
			p.waitGeneration(0)
			l := p.startLoad(50, 250*time.Millisecond, "stable.example", "stable")
			made := p.settled()
			p.waitMetric(rig.Patience, exactly(1), "pillion_xds_connected")

			tc.goes(p)
			p.waitLog(rig.Patience, "level=ERROR", "the control plane doesn't answer; what was served is served on")
			p.waitMetric(rig.Patience, exactly(0), "pillion_xds_connected")
			p.waitMetric(rig.Patience, atLeast(1), "pillion_xds_stream_failures_total")
			p.istiod.Apply(generation(1))
			hold(l, churnTime(3*time.Second, 10*time.Minute))
			if err := p.ready(); err != nil {
				t.Errorf("while istiod is away: %v", err)
			}

			tc.back(p)
			p.waitLog(time.Minute, "level=INFO", "the control plane answers again")
			p.waitMetric(rig.Patience, exactly(1), "pillion_xds_connected")
			p.waitGeneration(1)
			l.goesOn(100)
			l.end()
			if now := p.settled(); now != made {
				t.Errorf("%v listeners and clusters were made anew", now-made)
			}
			if n := len(p.proc.Stderr.Lines("doesn't answer; what was")); n != 1 {
				t.Errorf("the outage is in the log %d times", n)
			}
		})
	}
}

// remade returns a response with another resource in the place of each.
func remade(m *discoveryv3.DeltaDiscoveryResponse, change func(r *discoveryv3.Resource)) [][]byte {
	for _, r := range m.GetResources() {
		change(r)
	}
	octets, err := proto.Marshal(m)
	if err != nil {
		panic(err) // it was just read
	}
	return [][]byte{octets}
}

// TestPlaneGarbage: what istiod sends of routes comes in as something else. Each time
// it is refused, the log and a metric say so, traffic goes on, and the next good push serves.
func TestPlaneGarbage(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	p.waitGeneration(0)
	l := p.startLoad(50, 250*time.Millisecond, "stable.example", "stable")
	const refused = "an update was refused in part"
	huge := make([]byte, 32<<20)
	for i, tc := range []struct {
		name    string
		corrupt func(m *discoveryv3.DeltaDiscoveryResponse, octets []byte) [][]byte
		metric  []string // grows
		log     []string // in a new line
	}{
		{"noise", func(_ *discoveryv3.DeltaDiscoveryResponse, octets []byte) [][]byte {
			noise := make([]byte, len(octets))
			for i := range noise {
				noise[i] = byte(rand.Uint32() | 0x87) // wire type 7 doesn't exist
			}
			return [][]byte{noise}
		}, []string{"pillion_xds_stream_failures_total", "reason=invalid"}, []string{"doesn't answer", "reason=invalid"}},
		{"cut off", func(_ *discoveryv3.DeltaDiscoveryResponse, octets []byte) [][]byte {
			return [][]byte{octets[:len(octets)*2/3]}
		},
			[]string{"pillion_xds_stream_failures_total", "reason=invalid"}, []string{"doesn't answer", "reason=invalid"}},
		{"a resource is cut off", func(m *discoveryv3.DeltaDiscoveryResponse, _ []byte) [][]byte {
			return remade(m, func(r *discoveryv3.Resource) { v := r.GetResource().GetValue(); r.GetResource().Value = v[:len(v)/2] })
		}, []string{"pillion_xds_nacks_total"}, []string{refused, "route configuration " + p.port}},
		{"a resource of another type", func(m *discoveryv3.DeltaDiscoveryResponse, _ []byte) [][]byte {
			return remade(m, func(r *discoveryv3.Resource) { r.GetResource().TypeUrl = clusterURL })
		}, []string{"pillion_xds_nacks_total"}, []string{refused, p.port}},
		{"a resource without a body", func(m *discoveryv3.DeltaDiscoveryResponse, _ []byte) [][]byte {
			return remade(m, func(r *discoveryv3.Resource) { r.Resource = nil })
		}, []string{"pillion_xds_nacks_total"}, []string{refused, p.port}},
		{"a response of a type that wasn't asked for", func(m *discoveryv3.DeltaDiscoveryResponse, _ []byte) [][]byte {
			m.TypeUrl = "type.googleapis.com/envoy.config.nothing.v3.Nothing"
			return remade(m, func(*discoveryv3.Resource) {})
		}, []string{"pillion_xds_unrequested_responses_total"}, nil},
		{"a resource of 32 MiB", func(m *discoveryv3.DeltaDiscoveryResponse, _ []byte) [][]byte {
			return remade(m, func(r *discoveryv3.Resource) { r.GetResource().Value = huge })
		}, []string{"pillion_xds_nacks_total"}, []string{refused, "route configuration " + p.port}},
	} {
		before, lines := p.metric(tc.metric[0], tc.metric[1:]...), len(p.proc.Stderr.Lines(tc.log...))
		once := true
		p.relay.corrupt(func(m *discoveryv3.DeltaDiscoveryResponse, octets []byte) [][]byte {
			if m.GetTypeUrl() != routeURL || !once {
				return [][]byte{octets}
			}
			once = false
			return tc.corrupt(m, octets)
		})
		p.istiod.Apply(generation(2*i + 1))
		p.waitMetric(rig.Patience, atLeast(before+1), tc.metric[0], tc.metric[1:]...)
		if tc.log != nil && len(p.proc.Stderr.Lines(tc.log...)) == lines {
			t.Errorf("%s: the log has no new line with %q", tc.name, tc.log)
		}
		l.goesOn(50)
		p.istiod.Apply(generation(2*i + 2))
		p.waitGeneration(2*i + 2)
	}
	l.goesOn(50)
	l.end()
	if err := p.ready(); err != nil {
		t.Error(err)
	}
	if grown := p.resident(); grown > 160<<20 {
		t.Errorf("the proxy holds %d MiB", grown>>20)
	}
}

// envoyFilter is one that patches what the proxy gets.
func envoyFilter(applyTo, match, patch string) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: bad, namespace: bookinfo}
spec:
  configPatches:
  - applyTo: %s
    match: {context: SIDECAR_OUTBOUND, %s}
    patch: %s
`, applyTo, match, patch)
}

// TestPlaneBadResource: one of istiod's resources asks for what the proxy doesn't do.
// That one is refused, by name and field, the last good one serves on, and the rest is
// taken; istiod counts the refusal. When it is taken back, all is well.
func TestPlaneBadResource(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	p.waitGeneration(0)
	l := p.startLoad(50, 250*time.Millisecond, "stable.example", "stable")
	for i, tc := range []struct {
		kind, bad string // Istio's name of the type; the patch
		log       []string
	}{
		{"lds", envoyFilter("HTTP_FILTER", "listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}",
			`{operation: INSERT_BEFORE, value: {name: lua, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, default_source_code: {inline_string: "x()"}}}}`),
			[]string{"listener 127.0.0.1_" + p.port, "lua"}},
		{"cds", envoyFilter("CLUSTER", "cluster: {service: edited.example}", `{operation: MERGE, value: {lb_policy: CLUSTER_PROVIDED}}`),
			[]string{"cluster outbound|" + p.port + "||edited.example", "lb_policy"}},
		{"rds", envoyFilter("HTTP_ROUTE", "routeConfiguration: {vhost: {name: \"edited.example:"+p.port+"\"}}", `{operation: MERGE, value: {route: {hedge_policy: {initial_requests: 2}}}}`),
			[]string{"route configuration " + p.port, "hedge_policy"}},
	} {
		nacks := p.metric("pillion_xds_nacks_total")
		p.istiod.Apply(tc.bad)
		line := p.waitLog(rig.Patience, append([]string{"an update was refused in part"}, tc.log...)...)
		t.Logf("%s: %s", tc.kind, line)
		p.waitMetric(rig.Patience, atLeast(nacks+1), "pillion_xds_nacks_total")
		p.waitMetric(rig.Patience, atLeast(1), "pillion_config_resources", "type="+tc.kind, "state=refused")
		rig.Until(t, "istiod counts the refusal", func() error {
			page, err := rig.Fetch("GET", "http://"+p.istiod.Ports.Monitoring+"/metrics")
			if err != nil || !strings.Contains(page, `pilot_total_xds_rejects{type="`+tc.kind+`"}`) {
				return fmt.Errorf("%v: it has no pilot_total_xds_rejects of %s", err, tc.kind)
			}
			return nil
		})
		// The rest is taken: another service comes, and is found.
		p.istiod.Apply(generation(2*i + 1))
		if tc.kind != "rds" {
			p.waitGeneration(2*i + 1)
		}
		l.goesOn(50)
		if err := p.ready(); err != nil {
			t.Error(err)
		}
		p.istiod.Delete(tc.bad)
		p.waitMetric(rig.Patience, exactly(0), "pillion_config_resources", "type="+tc.kind, "state=refused")
		p.istiod.Apply(generation(2*i + 2))
		p.waitGeneration(2*i + 2)
	}
	l.end()
}

// TestPlaneFlapping: a host of a service comes and goes a hundred times a second, by
// istiod (which makes fewer pushes of it) and past it. No request fails.
func TestPlaneFlapping(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	p.waitGeneration(0)
	p.istiod.Apply(serviceEntry("flap", p.port, portOf(t, p.one)))
	rig.Until(t, "flap.example serves", func() error {
		status, body, _, err := p.get("flap.example")
		if err == nil && (status != 200 || body != "v1") {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
	l := p.startLoad(50, 100*time.Millisecond, "flap.example", "v1", "v2")
	both := serviceEntry("flap", p.port, portOf(t, p.one), portOf(t, p.two))
	alone := serviceEntry("flap", p.port, portOf(t, p.one))
	pushes := newAssignments(p, "outbound|"+p.port+"||flap.example")
	flap := func(change func(i int)) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i, end := 0, time.Now().Add(churnTime(3*time.Second, 2*time.Minute)); time.Now().Before(end); i++ {
			<-tick.C
			change(i)
		}
	}
	flap(func(i int) { p.istiod.Apply([]string{both, alone}[i%2]) })
	p.istiod.Apply(both)
	last := pushes.wait(t, 2)
	taken := p.metric("pillion_config_resources_received_total", "type=eds", "result=taken")
	n := 0
	flap(func(i int) {
		if p.relay.push(last[i%2]) {
			n++
		}
	})
	p.waitMetric(rig.Patience, atLeast(taken+float64(n)*9/10), "pillion_config_resources_received_total", "type=eds", "result=taken")
	l.goesOn(100)
	l.end()
	t.Logf("%d pushes of endpoints past istiod, %d requests", n, l.requests.Load())
}

// assignments are the last two different responses with the endpoints of a cluster.
type assignments struct {
	p    *plane
	seen chan []byte
}

func newAssignments(p *plane, cluster string) *assignments {
	a := &assignments{p, make(chan []byte, 4096)}
	p.relay.watch(func(r *discoveryv3.DeltaDiscoveryResponse) {
		if r.GetTypeUrl() != "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment" {
			return
		}
		for _, res := range r.GetResources() {
			if res.GetName() != cluster {
				continue
			}
			only := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.GetTypeUrl(), Nonce: "past istiod", Resources: []*discoveryv3.Resource{res}}
			if octets, err := proto.Marshal(only); err == nil {
				select {
				case a.seen <- octets:
				default:
				}
			}
		}
	})
	return a
}

// wait returns n different ones.
func (a *assignments) wait(t *testing.T, n int) [][]byte {
	t.Helper()
	var out [][]byte
	for len(out) < n {
		select {
		case next := <-a.seen:
			known := false
			for _, o := range out {
				known = known || bytes.Equal(o, next)
			}
			if !known {
				out = append(out, next)
			}
		case <-time.After(rig.Patience):
			t.Fatalf("istiod sent %d different assignments, not %d", len(out), n)
		}
	}
	return out
}
