// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := StatePreInitializing
		r := NewRegistry()
		r.Add(&Server{Start: time.Now(), State: func() State { return state }, Connections: func() int64 { return 5 }, Revision: 7})
		read := func() map[string]float64 {
			all := map[string]float64{}
			for _, m := range r.List(Query{UsedOnly: true}) {
				all[m.Name] = m.Value
			}
			return all
		}
		check := func(want map[string]float64) {
			t.Helper()
			got := read()
			for name, v := range want {
				if g, ok := got[name]; !ok || g != v {
					t.Errorf("%s = %v (there: %v), want %v", name, g, ok, v)
				}
			}
		}
		check(map[string]float64{"server.state": 2, "server.live": 0, "server.uptime": 0, "server.version": 7, "server.total_connections": 5,
			"listener_manager.workers_started": 0})
		<-time.NewTimer(90 * time.Second).C
		state = StateLive
		check(map[string]float64{"server.state": 0, "server.live": 1, "server.uptime": 90, "server.hot_restart_epoch": 0,
			"listener_manager.workers_started": 1})
		state = StateDraining
		check(map[string]float64{"server.state": 1, "server.live": 0, "listener_manager.workers_started": 1})
		if got := read(); got["server.memory_allocated"] <= 0 || got["server.memory_heap_size"] < got["server.memory_allocated"] ||
			got["server.memory_physical_size"] < got["server.memory_heap_size"] || got["server.concurrency"] < 1 {
			t.Errorf("memory and concurrency are not plausible: %v", got)
		}
	})
}

func TestStateNames(t *testing.T) {
	for state, want := range map[State]string{
		StateLive: "LIVE", StateDraining: "DRAINING", StatePreInitializing: "PRE_INITIALIZING", StateInitializing: "INITIALIZING",
	} {
		if got := state.String(); got != want {
			t.Errorf("State(%d) = %s, want %s", state, got, want)
		}
	}
}
