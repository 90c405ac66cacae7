// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"runtime/debug"
	"testing"
)

// TestCollectLess: what was set before holds again afterwards, and a higher setting all
// the time.
func TestCollectLess(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	percent := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	for _, tc := range []struct{ before, during int }{{100, loadingGC}, {50, loadingGC}, {loadingGC, loadingGC}, {1000, 1000}, {-1, -1}} {
		debug.SetGCPercent(tc.before)
		back := collectLess()
		if got := percent(); got != tc.during {
			t.Errorf("set to %d: %d meanwhile, want %d", tc.before, got, tc.during)
		}
		back()
		if got := percent(); got != tc.before {
			t.Errorf("set to %d: %d afterwards", tc.before, got)
		}
	}
}
