// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"testing"
	"time"
)

func TestQuietIsToldOnce(t *testing.T) {
	calls := 0
	tr := NewTracker()
	tr.OnQuiet = func() { calls++ }
	at := func(d time.Duration) int64 { return int64(d) }
	for _, step := range []struct {
		moving bool
		at     time.Duration
		want   int
	}{
		{false, time.Second, 0}, // never busy: nothing to give back
		{true, 2 * time.Second, 0},
		{false, 3 * time.Second, 1},
		{false, 4 * time.Second, 1},
		{true, 5 * time.Second, 1},
		{false, 6 * time.Second, 1}, // too soon after the last
		{false, 34 * time.Second, 2},
		{false, 99 * time.Second, 2},
	} {
		tr.noteQuiet(step.moving, at(step.at))
		if calls != step.want {
			t.Errorf("after %v: %d calls, want %d", step.at, calls, step.want)
		}
	}
}
