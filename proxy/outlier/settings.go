// SPDX-License-Identifier: Apache-2.0

// Package outlier takes hosts that fail out of load balancing for a while:
// Envoy's outlier detection. Each host carries its own tallies, which the
// request path changes without a lock; the Detector of a cluster decides,
// under its lock, whether a host that passed a threshold may be ejected, and
// gives it back when its time is over.
//
// It knows nothing of clusters and of HTTP: the owner reports results, hands
// over the list of hosts when that changes, and is told when a host's state
// has changed.
//
// # Where this differs from Envoy
//
// Semantics and names are those of Envoy 1.40
// (source/common/upstream/outlier_detection_impl.cc), among them that
// MaxEjectionPercent is exact: with the default of 10 % a cluster of fewer
// than ten hosts never loses one, unless AlwaysEjectOneHost is set. On
// purpose this package differs in three points:
//
//   - A host comes back when its ejection time is over, not at the end of
//     the analysis interval in which that happens.
//   - MaxEjectionPercent also holds when hosts leave the cluster: the host
//     that is nearest to the end of its time comes back early.
//   - With SplitLocalOrigin, a connection that was made does not reset the
//     local-origin tally, only an answer does; otherwise a host that accepts
//     connections and never answers could not be ejected.
package outlier

import "time"

// Settings are the limits of one cluster's detector. A threshold of 0 turns
// its check off. Percentages are 0 to 100. Immutable once handed over.
type Settings struct {
	Consecutive5xx         uint32 // answers 500 to 599 in a row
	ConsecutiveGateway     uint32 // answers 502, 503, 504 in a row
	ConsecutiveLocalOrigin uint32 // with SplitLocalOrigin: failures without an answer in a row
	Enforcing5xx           uint8  // chance in percent that a detection ejects
	EnforcingGateway       uint8
	EnforcingLocalOrigin   uint8
	// SplitLocalOrigin counts failures without an answer in a tally of their
	// own. Without it they count as answers 503, and timeouts as 504.
	SplitLocalOrigin bool
	// MaxEjectionPercent is the share of all hosts that may be out at once.
	MaxEjectionPercent uint8
	// AlwaysEjectOneHost lets one host be ejected whatever the percentage.
	AlwaysEjectOneHost bool
	// Interval is how long a host must stay in for its next ejection to be
	// one BaseEjectionTime shorter.
	Interval time.Duration
	// BaseEjectionTime times the number of recent ejections is how long a
	// host stays out, at most MaxEjectionTime, plus up to Jitter.
	BaseEjectionTime time.Duration
	MaxEjectionTime  time.Duration
	Jitter           time.Duration
}

// Defaults returns what Envoy assumes for fields that are not set
// (envoy.config.cluster.v3.OutlierDetection).
func Defaults() Settings {
	return Settings{
		Consecutive5xx: 5, ConsecutiveGateway: 5, ConsecutiveLocalOrigin: 5,
		Enforcing5xx: 100, EnforcingGateway: 0, EnforcingLocalOrigin: 100,
		MaxEjectionPercent: 10,
		Interval:           10 * time.Second,
		BaseEjectionTime:   30 * time.Second,
		MaxEjectionTime:    300 * time.Second,
	}
}

// Reason is the check that found an outlier.
type Reason uint8

// The reasons.
const (
	Reason5xx Reason = iota
	ReasonGateway
	ReasonLocalOrigin
	numReasons
)

var reasonNames = [numReasons]string{"consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure"}

// String returns Envoy's name of the check, as in its metrics.
func (r Reason) String() string { return reasonNames[r] }

// threshold returns the limit of the check and its enforcing percentage.
func (s *Settings) threshold(r Reason) (limit uint32, enforcing uint8) {
	switch r {
	case ReasonGateway:
		return s.ConsecutiveGateway, s.EnforcingGateway
	case ReasonLocalOrigin:
		return s.ConsecutiveLocalOrigin, s.EnforcingLocalOrigin
	}
	return s.Consecutive5xx, s.Enforcing5xx
}
