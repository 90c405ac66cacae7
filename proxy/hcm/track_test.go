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
		moving, fewer bool
		at            time.Duration
		want          int
	}{
		{false, false, time.Second, 0}, // never busy: nothing to give back
		{true, false, 2 * time.Second, 0},
		{false, false, 3 * time.Second, 1},
		{false, false, 4 * time.Second, 1},
		{true, false, 5 * time.Second, 1},
		{false, false, 6 * time.Second, 1}, // too soon after the last
		{false, false, 34 * time.Second, 2},
		{false, false, 99 * time.Second, 2},
		{true, true, 100 * time.Second, 3}, // busy, but with less
		{true, true, 101 * time.Second, 3},
		{false, false, 131 * time.Second, 4},
	} {
		tr.noteQuiet(step.moving, step.fewer, at(step.at))
		if calls != step.want {
			t.Errorf("after %v: %d calls, want %d", step.at, calls, step.want)
		}
	}
}

// TestConnectionsThatClose: one is work that ends, most of many are reason enough to
// give memory back.
func TestConnectionsThatClose(t *testing.T) {
	tr := NewTracker()
	tr.OnQuiet = func() {}
	conns := make([]conn, 2*manyGone)
	for i := range conns {
		tr.add(&conns[i])
	}
	if removed, fewer := tr.noteRemoved(); removed || fewer {
		t.Errorf("none is gone: %v, %v", removed, fewer)
	}
	for i := range conns {
		tr.remove(&conns[i])
		gone := i + 1
		if removed, fewer := tr.noteRemoved(); !removed || fewer != (gone >= manyGone) {
			t.Errorf("%d gone: %v, %v", gone, removed, fewer)
		}
		if removed, _ := tr.noteRemoved(); removed {
			t.Errorf("%d gone: told twice", gone)
		}
	}
	tr.noteQuiet(true, true, int64(time.Hour))
	if _, fewer := tr.noteRemoved(); fewer {
		t.Error("still fewer after memory was given back")
	}
}
