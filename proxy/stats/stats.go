// SPDX-License-Identifier: Apache-2.0

// Package stats holds the counters, gauges and histograms of the data path.
//
// The data path only adds to atomics that it got a handle for when its
// configuration was built. Owners of such atomics (a cluster, a listener)
// register as one Source; names and labels are made only when somebody
// reads, so that a cluster's sixty counters cost eight bytes each.
package stats

import "sync/atomic"

// Counter only grows. The zero value is ready.
type Counter struct{ v atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.v.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.v.Add(n) }

// Value returns the count.
func (c *Counter) Value() uint64 { return c.v.Load() }

// Gauge goes up and down. The zero value is ready.
type Gauge struct{ v atomic.Int64 }

// Inc adds one.
func (g *Gauge) Inc() { g.v.Add(1) }

// Dec takes one off.
func (g *Gauge) Dec() { g.v.Add(-1) }

// Add adds n, which may be negative, and returns the new value.
func (g *Gauge) Add(n int64) int64 { return g.v.Add(n) }

// Set replaces the value.
func (g *Gauge) Set(n int64) { g.v.Store(n) }

// Value returns the value.
func (g *Gauge) Value() int64 { return g.v.Load() }
