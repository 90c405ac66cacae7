// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestTerminate(t *testing.T) {
	zero := func(minimum time.Duration) DrainSettings {
		return DrainSettings{Termination: time.Hour, ExitAtZero: true, Minimum: minimum}
	}
	for _, c := range []struct {
		name     string
		role     Role
		settings DrainSettings
		open     []int
		before   func(*Lifecycle)
		hurry    time.Duration // a second signal comes then
		quit     time.Duration // /quitquitquit comes then
		took     time.Duration
		drains   []bool
	}{
		{name: "a sidecar drains what comes in", role: Sidecar, settings: DrainSettings{Termination: 5 * time.Second}, took: 5 * time.Second, drains: []bool{true}},
		{name: "a gateway drains all", role: Router, settings: DrainSettings{Termination: 5 * time.Second}, took: 5 * time.Second, drains: []bool{false}},
		{name: "no time", role: Sidecar, took: 0, drains: []bool{true}},
		{name: "a second signal", role: Sidecar, settings: DrainSettings{Termination: time.Minute}, hurry: 2 * time.Second, took: 2 * time.Second, drains: []bool{true}},
		{name: "quit meanwhile", role: Sidecar, settings: DrainSettings{Termination: time.Minute}, quit: 3 * time.Second, took: 3 * time.Second, drains: []bool{true}},
		{name: "drained before", role: Sidecar, settings: DrainSettings{Termination: time.Minute}, before: (*Lifecycle).DrainNow, took: 0, drains: []bool{true}},
		{name: "drained twice before", role: Sidecar, before: func(l *Lifecycle) { l.DrainNow(); l.DrainNow() }, took: 0, drains: []bool{true}},
		{name: "quit before", role: Sidecar, settings: DrainSettings{Termination: time.Minute}, before: (*Lifecycle).QuitNow, took: 0},
		{name: "at zero", role: Sidecar, settings: zero(5 * time.Second), open: []int{3, 2, 1, 0}, took: 9 * time.Second, drains: []bool{true}},
		{name: "at zero from the start", role: Sidecar, settings: zero(7 * time.Second), took: 8 * time.Second, drains: []bool{true}},
		{name: "at zero, hurried in the minimum", role: Sidecar, settings: zero(time.Minute), hurry: time.Second, took: time.Second, drains: []bool{true}},
		{name: "at zero, hurried while it counts", role: Sidecar, settings: zero(time.Second), open: slices.Repeat([]int{1}, 100), hurry: 4500 * time.Millisecond, took: 4500 * time.Millisecond, drains: []bool{true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				proxy := &fakeProxy{open: c.open}
				l := NewLifecycle(&Pod{Role: c.role, Drain: c.settings}, proxy, quiet())
				if c.before != nil {
					c.before(l)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.hurry > 0 {
					time.AfterFunc(c.hurry, cancel)
				}
				if c.quit > 0 {
					time.AfterFunc(c.quit, l.QuitNow)
				}
				begun := time.Now()
				l.Terminate(ctx)
				if took := time.Since(begun); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				if !slices.Equal(proxy.drains, c.drains) {
					t.Errorf("drains %v, want %v", proxy.drains, c.drains)
				}
				if !l.Ending() {
					t.Error("it isn't ending")
				}
			})
		})
	}
}
