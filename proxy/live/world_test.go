// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"pillion/proxy/xds"
)

// world is a control plane: what it has, and what it has told. It answers as istiod does:
// deleted clusters and listeners are removed, and of what is asked for by name but isn't
// there it sends an empty form.
type world struct {
	r    *rand.Rand
	have map[string]map[string]proto.Message // by type and name
	told map[string]map[string]proto.Message
}

func newWorld(seed uint64) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 1)), have: map[string]map[string]proto.Message{}, told: map[string]map[string]proto.Message{}}
	for _, typ := range []string{ClusterType, EndpointType, ListenerType, RouteType} {
		w.have[typ], w.told[typ] = map[string]proto.Message{}, map[string]proto.Message{}
	}
	return w
}

const faultFilter = `{"name": "fault", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}}`

// edit changes something.
func (w *world) edit() {
	pick := func(prefix string, n int) string { return fmt.Sprintf("%s%d", prefix, w.r.IntN(n)) }
	host := func() string { return fmt.Sprintf("10.0.0.%d:80", 1+w.r.IntN(9)) }
	switch c := pick("c", 8); w.r.IntN(8) {
	case 0:
		delete(w.have[ClusterType], c)
		delete(w.have[EndpointType], c)
	case 1:
		w.have[ClusterType][c] = staticCluster(c, host())
	case 2, 3:
		if w.have[ClusterType][c] == nil || w.r.IntN(4) == 0 {
			w.have[ClusterType][c] = edsCluster(c)
		}
		w.have[EndpointType][c] = assignment(c, host(), host())
	case 4, 5:
		name := pick("r", 4)
		var hosts []string
		for _, h := range []string{"a", "b", "c", "v1", "v2"}[:1+w.r.IntN(5)] {
			hosts = append(hosts, h+"="+pick("c", 8))
		}
		w.have[RouteType][name] = routesTo(name, hosts...)
	case 6:
		var filters []string
		if w.r.IntN(2) == 0 {
			filters = []string{faultFilter}
		}
		i := w.r.IntN(5)
		name := fmt.Sprintf("l%d", i)
		w.have[ListenerType][name] = httpListener(name, fmt.Sprintf("10.1.0.%d:80", i), pick("r", 4), filters...)
	case 7:
		delete(w.have[ListenerType], pick("l", 5))
	}
}

// owed returns what of a type the client has to be told.
func (w *world) owed(typ string, wanted []string) (put []proto.Message, gone []string) {
	have := w.have[typ]
	if typ == EndpointType || typ == RouteType {
		named := map[string]proto.Message{}
		for _, n := range wanted {
			switch {
			case have[n] != nil:
				named[n] = have[n]
			case typ == EndpointType:
				named[n] = assignment(n)
			default:
				named[n] = routesTo(n)
			}
		}
		have = named
		for n := range w.told[typ] {
			if named[n] == nil {
				delete(w.told[typ], n) // it unsubscribed
			}
		}
	}
	for _, n := range slices.Sorted(maps.Keys(have)) {
		if old := w.told[typ][n]; old == nil || !proto.Equal(old, have[n]) {
			put = append(put, have[n])
		}
	}
	for _, n := range slices.Sorted(maps.Keys(w.told[typ])) {
		if have[n] == nil {
			gone = append(gone, n)
		}
	}
	return put, gone
}

// tell sends a part of what is owed of a type; all of it if whole. It reports whether
// something was.
func (w *world) tell(t *testing.T, r *rig, typ string, whole bool) bool {
	r.mu.Lock()
	wanted := r.wanted[typ]
	r.mu.Unlock()
	put, gone := w.owed(typ, wanted)
	if len(put)+len(gone) == 0 {
		return false
	}
	if !whole {
		w.r.Shuffle(len(put), func(i, j int) { put[i], put[j] = put[j], put[i] })
		put = put[:w.r.IntN(len(put)+1)]
		gone = gone[:w.r.IntN(len(gone)+1)]
	}
	u := updateOf(put...)
	u.TypeURL, u.Removed = typ, gone
	if w.r.IntN(3) == 0 { // istiod tells again what it has told
		for n, m := range w.told[typ] {
			if !slices.Contains(gone, n) && !slices.ContainsFunc(u.Resources, func(r xds.Resource) bool { return r.Name == n }) {
				u.Resources = append(u.Resources, updateOf(m).Resources...)
			}
		}
	}
	if err := r.Apply(u); err != nil {
		t.Fatalf("refused: %v", err)
	}
	for _, m := range put {
		_, n := typeOf(m)
		w.told[typ][n] = m
	}
	for _, n := range gone {
		delete(w.told[typ], n)
	}
	return true
}

var pushOrder = []string{ClusterType, EndpointType, ListenerType, RouteType}

// settle tells everything in the order of a push, as often as answers make new names
// wanted.
func (w *world) settle(t *testing.T, r *rig) {
	for moving := true; moving; {
		moving = false
		for _, typ := range pushOrder {
			moving = w.tell(t, r, typ, true) || moving
		}
	}
}

// TestAnyOrder holds that the end does not depend on the way: whatever the order in
// which changes come and however they are split into responses, the state is that of a
// client that is told all at once.
func TestAnyOrder(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w, r := newWorld(seed), newRig(t)
				for range 120 {
					w.edit()
					if w.r.IntN(2) == 0 {
						w.tell(t, r, pushOrder[w.r.IntN(4)], false)
					}
					if w.r.IntN(5) == 0 {
						pass(time.Duration(w.r.IntN(20_000)) * time.Millisecond)
					}
				}
				w.settle(t, r)
				pass(time.Minute)
				w.settle(t, r)
				fresh := newRig(t)
				clear(w.told[ClusterType])
				for _, typ := range pushOrder {
					clear(w.told[typ])
				}
				w.settle(t, fresh)
				pass(time.Minute)
				if got, want := r.state(), fresh.state(); got != want {
					t.Errorf("after many changes:\n%s\nafter one:\n%s", got, want)
				}
				if len(r.warmClusters)+len(r.warmListeners)+len(r.leaving) > 0 {
					t.Error("something still waits")
				}
			})
		})
	}
}
