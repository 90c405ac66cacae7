// SPDX-License-Identifier: Apache-2.0

package outlier

import (
	"sync/atomic"
	"time"
)

// Host carries the tallies of one host. The zero value is a healthy host. It
// must not be copied, and belongs to one Detector.
type Host struct {
	// Failures in a row, by Reason. Atomic, changed by the request path.
	tally [numReasons]atomic.Uint32
	// ejected is read by anyone and written with Detector.mu held.
	ejected atomic.Bool

	// Guarded by Detector.mu. Times are Detector.now, 0 is never.
	member    bool   // of the detector's list
	recent    uint32 // ejections that lengthen the next one (Envoy: eject_time_backoff)
	total     uint32 // ejections so far
	ejectedAt int64
	until     int64 // when an ejected host comes back
	decayAt   int64 // when recent goes down by one, for a host that is in
}

// Ejected reports whether the host is out of load balancing now.
func (h *Host) Ejected() bool { return h.ejected.Load() }

// clear resets one tally. Most of the time it is 0, and then the cache line
// stays shared between the cores.
func (h *Host) clear(r Reason) {
	if h.tally[r].Load() != 0 {
		h.tally[r].Store(0)
	}
}

// Member is a host as the detector lists it.
type Member struct {
	Host *Host
	// Address names the host in the log.
	Address string
}

// State is what can be told about a host.
type State struct {
	Ejected bool
	// Remaining is how long an ejected host stays out.
	Remaining time.Duration
	// Ejections counts all of them, Recent those that lengthen the next one.
	Ejections, Recent uint32
	// Failures in a row.
	Consecutive5xx, ConsecutiveGateway, ConsecutiveLocalOrigin uint32
}
