// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func newUses(cfg FamilyConfig) (*Family[Counter], *Registry) {
	cfg.Name = "uses"
	cfg.Labels = []string{"a", "b"}
	f := NewFamily(cfg, func(c *Counter, s SeriesScope) { s.Counter("uses_total", "Uses.", c.Value()) })
	r := NewRegistry()
	r.Add(f)
	return f, r
}

func TestFamilySeries(t *testing.T) {
	f, r := newUses(FamilyConfig{})
	f.With("1", "2").Cells.Add(3)
	f.With("12", "").Cells.Inc()
	f.With("", "12").Cells.Inc()
	f.With("1", "2").Cells.Add(4)
	if f.Len() != 3 {
		t.Errorf("%d series, want 3", f.Len())
	}
	want := `# HELP uses_total Uses.
# TYPE uses_total counter
uses_total{a="1",b="2"} 7
uses_total{a="12",b=""} 1
uses_total{a="",b="12"} 1
`
	if text := write(t, r, Query{}); !strings.Contains(text, want) {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	list := names(r.List(Query{UsedOnly: true}))
	if !slices.Contains(list, "istiocustom.uses_total.a.1.b.2: 7") || !slices.Contains(list, "stats.uses.series: 3") {
		t.Errorf("List = %q", list)
	}
	if strings.Contains(fmt.Sprint(list), OverflowLabel) {
		t.Errorf("the overflow series is shown though nothing overflowed: %q", list)
	}
}

func TestFamilyLabelCount(t *testing.T) {
	f, _ := newUses(FamilyConfig{})
	defer func() {
		if msg := fmt.Sprint(recover()); !strings.Contains(msg, "2 labels, got 1") {
			t.Errorf("panic = %q", msg)
		}
	}()
	f.With("1")
}

func TestFamilyCap(t *testing.T) {
	f, r := newUses(FamilyConfig{MaxSeries: 3})
	for i := range 1000 {
		f.With(fmt.Sprint(i), "x").Cells.Inc()
	}
	if f.Len() != 3 {
		t.Errorf("%d series, want 3", f.Len())
	}
	text := write(t, r, Query{})
	for _, line := range []string{
		`uses_total{a="_overflow",b="_overflow"} 997`,
		`pillion_stats_series_overflowed_uses_total{family="uses"} 997`,
		`pillion_stats_series{family="uses"} 3`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("the exposition lacks %s:\n%s", line, text)
		}
	}
}

func TestSeriesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newUses(FamilyConfig{TTL: 30 * time.Minute})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go f.Run(ctx)
		wait := func(d time.Duration) {
			<-time.NewTimer(d).C
			synctest.Wait()
		}

		idle, busy := f.With("idle", ""), f.With("busy", "")
		for range 40 {
			wait(time.Minute)
			if !busy.Touch() {
				t.Fatal("a series that is touched every minute was forgotten")
			}
		}
		if idle.Touch() {
			t.Error("a series untouched for 40 minutes is still there")
		}
		if f.Len() != 1 {
			t.Errorf("%d series, want 1", f.Len())
		}
		if text := write(t, r, Query{}); strings.Contains(text, "idle") ||
			!strings.Contains(text, `pillion_stats_series_expired_total{family="uses"} 1`) {
			t.Errorf("after the expiry:\n%s", text)
		}
		// The holder of the stale handle asks again and gets a live one.
		again := f.With("idle", "")
		if again == idle || !again.Touch() {
			t.Error("With returned a forgotten series")
		}
		again.Cells.Inc()
		if text := write(t, r, Query{}); !strings.Contains(text, `uses_total{a="idle",b=""} 1`) {
			t.Errorf("after the series came back:\n%s", text)
		}
		wait(29 * time.Minute)
		if !again.Touch() {
			t.Error("a series was forgotten before its TTL")
		}
	})
}

// TestOverflowEnds: whoever was sent to the overflow series gets a series of
// its own when there is room again, and the overflow's count stays.
func TestOverflowEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newUses(FamilyConfig{TTL: time.Minute, MaxSeries: 1})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go f.Run(ctx)
		f.With("first", "")
		second := f.With("second", "")
		second.Cells.Inc()
		for range 30 { // it stays in use while the first one is not
			<-time.NewTimer(5 * time.Second).C
			synctest.Wait()
			if !second.Touch() {
				second = f.With("second", "")
			}
		}
		second.Cells.Inc()
		text := write(t, r, Query{})
		for _, line := range []string{`uses_total{a="second",b=""} 1`, `uses_total{a="_overflow",b="_overflow"} 1`} {
			if !strings.Contains(text, line+"\n") {
				t.Errorf("the exposition lacks %s:\n%s", line, text)
			}
		}
	})
}

func TestSeriesWithoutTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newUses(FamilyConfig{TTL: -1})
		ctx, cancel := context.WithCancel(t.Context())
		go f.Run(ctx)
		s := f.With("a", "b")
		<-time.NewTimer(1000 * time.Hour).C
		synctest.Wait()
		if !s.Touch() {
			t.Error("a series without a TTL was forgotten")
		}
		cancel()
	})
}

// TestTouchOutlastsSweeps: between Touch and what is recorded after it, most
// of a TTL may pass before the record is lost.
func TestTouchOutlastsSweeps(t *testing.T) {
	f, _ := newUses(FamilyConfig{})
	s := f.With("a", "b")
	for range 3 {
		for range sweepsPerTTL {
			f.sweep()
		}
		if f.Len() != 1 || !s.Touch() {
			t.Fatal("a series was forgotten within a TTL of its last use")
		}
	}
	for range sweepsPerTTL + 1 {
		f.sweep()
	}
	if f.Len() != 0 || s.Touch() {
		t.Error("a series is there after a TTL without use")
	}
}

func TestTouchDoesNotAllocate(t *testing.T) {
	f, _ := newUses(FamilyConfig{})
	s := f.With("a", "b")
	if n := testing.AllocsPerRun(1000, func() { s.Touch(); s.Cells.Inc() }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkTouchAndInc(b *testing.B) {
	f, _ := newUses(FamilyConfig{})
	s := f.With("a", "b")
	for b.Loop() {
		if s.Touch() {
			s.Cells.Inc()
		}
	}
}
