// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"pillion/test/rig"
)

// TestPlaneMonkey: edits, services that come and go, streams that break, istiod that is
// killed, gates that close and garbage, in an order that chance decides. No request of a route that
// is never changed fails and no connection is drained; when it is over the proxy is in step.
func TestPlaneMonkey(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	p.waitGeneration(0)
	l := p.startLoad(50, 100*time.Millisecond, "stable.example", "stable")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 1))
	did := map[string]int{}
	edits, alive := 0, true
	act := func() {
		switch n := chance.IntN(60); {
		case n < 28:
			did["edit"]++
			edits++
			p.istiod.Apply(generation(edits))
		case n < 37:
			did["service comes"]++
			p.istiod.Apply(serviceEntry(fmt.Sprintf("more%d", chance.IntN(5)), p.port, portOf(t, p.one), portOf(t, p.two)))
		case n < 44:
			did["service goes"]++
			name := fmt.Sprintf("more%d", chance.IntN(5))
			p.istiod.Apply(serviceEntry(name, p.port, portOf(t, p.one)))
			p.istiod.Delete(serviceEntry(name, p.port, portOf(t, p.one)))
		case n < 46:
			did["stream breaks"]++
			p.relay.cutAll()
		case n < 47:
			did["gate"]++
			p.gate.set([]gateMode{passing, refusing, silent}[chance.IntN(3)])
		case n < 50:
			did["gate opens"]++
			p.gate.set(passing)
		case n < 59:
			did["garbage"]++
			seed := chance.Uint64()
			garbled := rand.New(rand.NewPCG(seed, 2)) // of the relay's goroutine
			p.relay.corrupt(func(m *discoveryv3.DeltaDiscoveryResponse, octets []byte) [][]byte { return garble(m, octets, garbled) })
			// The edit is what the garbage is made of.
			edits++
			p.istiod.Apply(generation(edits))
		default:
			did["istiod is killed"]++
			p.istiod.Kill()
			alive = false
		}
		if !alive && chance.IntN(10) == 0 {
			p.istiod.Restart()
			alive = true
		}
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(churnTime(20*time.Second, 10*time.Minute)); time.Now().Before(end); <-tick.C {
		act()
		if chance.IntN(3) == 0 {
			p.relay.corrupt(nil)
		}
	}
	p.relay.corrupt(nil)
	p.gate.set(passing)
	if !alive {
		p.istiod.Restart()
	}
	p.relay.cutAll()
	edits++
	p.istiod.Apply(generation(edits))
	rig.UntilWithin(t, time.Minute, "the newest routes serve", func() error {
		_, _, h, err := p.get("edited.example")
		if got := h.Get("X-Generation"); err == nil && got != mark(edits) {
			err = fmt.Errorf("%s", got)
		}
		return err
	})
	l.goesOn(100)
	n := l.end()
	if drained := p.drained(); drained != 0 {
		t.Errorf("%v connections were drained", drained)
	}
	if err := p.ready(); err != nil {
		t.Error(err)
	}
	t.Logf("%v, %d requests, %v NACKs, %v streams", did, n, p.metric("pillion_xds_nacks_total"), p.metric("pillion_xds_streams_total"))
}

// garble returns what can be taken for no valid message. A bit that is flipped anywhere may
// make a message that is valid and says something else, which nobody could tell.
func garble(m *discoveryv3.DeltaDiscoveryResponse, octets []byte, chance *rand.Rand) [][]byte {
	switch chance.IntN(4) {
	case 0: // tags of wire type 7, which doesn't exist
		return [][]byte{append([]byte{0x0f}, octets...)}
	case 1:
		return remade(m, func(r *discoveryv3.Resource) {
			r.GetResource().Value = append([]byte{0x0f}, r.GetResource().GetValue()...)
		})
	case 2:
		return remade(m, func(r *discoveryv3.Resource) { r.GetResource().TypeUrl += "x" })
	}
	return nil // it is lost
}
