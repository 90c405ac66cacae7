// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"runtime"
	"runtime/metrics"
	"time"
)

// State is the state of the process, numbered as envoy.admin.v3.ServerInfo.State
// and the gauge server.state.
type State int64

// The states.
const (
	StateLive State = iota
	StateDraining
	StatePreInitializing
	StateInitializing
)

// String returns Envoy's name of the state.
func (s State) String() string {
	switch s {
	case StateLive:
		return "LIVE"
	case StateDraining:
		return "DRAINING"
	case StatePreInitializing:
		return "PRE_INITIALIZING"
	}
	return "INITIALIZING"
}

// Server is a Source of the facts about the process that Envoy's dashboards
// and Istio's agent read: server.state, server.uptime and the like. Its fields
// are immutable once it is added to a Registry.
type Server struct {
	// Start is when the process began.
	Start time.Time
	// State returns the state of now. Safe for concurrent use.
	State func() State
	// Connections returns how many connections of clients are open. Safe for
	// concurrent use.
	Connections func() int64
	// Revision is a number that identifies the build. Envoy takes the first
	// digits of the commit.
	Revision uint64
}

// CollectStats reports the metrics.
func (s *Server) CollectStats(e *Emitter) {
	state := s.State()
	live, serving := int64(0), int64(0)
	if state == StateLive {
		live = 1
	}
	if state == StateLive || state == StateDraining {
		serving = 1
	}
	m := ReadMemory()
	e.Gauge("server.state", "", int64(state))
	e.Gauge("server.live", "", live)
	// Istio's agent asks for it before it says that the pod is ready.
	e.Gauge("listener_manager.workers_started", "", serving)
	e.Gauge("server.total_connections", "", s.Connections())
	e.Gauge("server.uptime", "", int64(time.Since(s.Start)/time.Second))
	e.Gauge("server.version", "", int64(s.Revision))
	e.Gauge("server.concurrency", "", int64(runtime.GOMAXPROCS(0)))
	e.Gauge("server.hot_restart_epoch", "", 0)
	e.Gauge("server.memory_allocated", "", int64(m.Allocated))
	e.Gauge("server.memory_heap_size", "", int64(m.HeapSize))
	e.Gauge("server.memory_physical_size", "", int64(m.Physical))
}

// Memory is the memory of the process in bytes, as far as Go's allocator
// knows it, in the terms of envoy.admin.v3.Memory.
type Memory struct {
	Allocated uint64 // held by live and not yet collected objects
	HeapSize  uint64 // reserved for the heap and backed by the system
	Free      uint64 // of HeapSize, not used for objects
	Unmapped  uint64 // given back to the system
	Stacks    uint64 // goroutine stacks
	Physical  uint64 // everything that is backed by the system
}

// ReadMemory reads the memory of now. It doesn't stop the world.
func ReadMemory() Memory {
	s := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/total:bytes"},
	}
	metrics.Read(s)
	objects, unused, free, released := s[0].Value.Uint64(), s[1].Value.Uint64(), s[2].Value.Uint64(), s[3].Value.Uint64()
	return Memory{
		Allocated: objects,
		HeapSize:  objects + unused + free,
		Free:      unused + free,
		Unmapped:  released,
		Stacks:    s[4].Value.Uint64(),
		Physical:  s[5].Value.Uint64() - released,
	}
}
