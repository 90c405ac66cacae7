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
		moving, fewer, others bool
		at                    time.Duration
		want                  int
	}{
		{false, false, false, time.Second, 0}, // never busy: nothing to give back
		{true, false, false, 2 * time.Second, 0},
		{false, false, false, 3 * time.Second, 1},
		{false, false, false, 4 * time.Second, 1},
		{true, false, false, 5 * time.Second, 1},
		{false, false, false, 6 * time.Second, 1}, // too soon after the last
		{false, false, false, 34 * time.Second, 2},
		{false, false, false, 99 * time.Second, 2},
		{true, true, true, 100 * time.Second, 3}, // busy, but with less
		{true, true, true, 101 * time.Second, 3},
		{false, false, false, 131 * time.Second, 4},
		{true, false, true, 132 * time.Second, 4},
		{false, false, true, 133 * time.Second, 5}, // soon after the last, but there is much
		{false, false, false, 134 * time.Second, 5},
		{false, false, true, 135 * time.Second, 6}, // many were closed, which is no movement
	} {
		tr.noteQuiet(t.Context(), step.moving, changes{fewer: step.fewer, others: step.others}, at(step.at))
		if calls != step.want {
			t.Errorf("after %v: %d calls, want %d", step.at, calls, step.want)
		}
	}
}

// TestWorkIsToldOnce: so is the end of other work, when no connection is busy.
func TestWorkIsToldOnce(t *testing.T) {
	calls := 0
	tr := NewTracker()
	tr.OnQuiet = func() { calls++ }
	tr.Worked()
	for i, step := range []struct {
		moving bool
		want   int
	}{{true, 0}, {false, 1}, {false, 1}} {
		tr.noteQuiet(t.Context(), step.moving, changes{}, int64(time.Duration(i+1)*time.Second))
		if calls != step.want {
			t.Errorf("step %d: %d calls, want %d", i, calls, step.want)
		}
	}
}

// TestConnectionsThatClose: most of many are reason enough to give memory back, and so
// are many that have come or gone, when all is quiet.
func TestConnectionsThatClose(t *testing.T) {
	tr := NewTracker()
	tr.OnQuiet = func() {}
	conns := make([]conn, 2*many)
	for i := range conns {
		tr.add(&conns[i])
		if got, want := tr.noteChanges(), (changes{others: i+1 >= many}); got != want {
			t.Errorf("%d have come: %+v", i+1, got)
		}
	}
	tr.noteQuiet(t.Context(), true, changes{fewer: true}, int64(time.Minute))
	if got := tr.noteChanges(); got != (changes{}) {
		t.Errorf("after memory was given back: %+v", got)
	}
	for i := range conns {
		tr.remove(&conns[i])
		gone := i + 1
		if got, want := tr.noteChanges(), (changes{fewer: gone >= many, others: gone >= many}); got != want {
			t.Errorf("%d gone: %+v", gone, got)
		}
	}
	tr.noteQuiet(t.Context(), true, changes{fewer: true}, int64(time.Hour))
	if got := tr.noteChanges(); got != (changes{}) {
		t.Errorf("after memory was given back again: %+v", got)
	}
}
