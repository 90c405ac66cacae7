// SPDX-License-Identifier: Apache-2.0

package proxy

import "runtime/debug"

// loadingGC is how much the heap may grow between two collections while a configuration
// is read, in percent of what is alive. Nearly all that is made then is either kept or
// garbage at once, and what is kept grows all the time, so that most collections find
// little. GOMEMLIMIT, which follows the container's limit, goes before it.
const loadingGC = 400

// collectLess has garbage collected less often until back is called. A percentage that
// the user has set higher, or off, stays.
func collectLess() (back func()) {
	before := debug.SetGCPercent(loadingGC)
	if before < 0 || before > loadingGC {
		debug.SetGCPercent(before)
		return func() {}
	}
	return func() { debug.SetGCPercent(before) }
}
