// SPDX-License-Identifier: Apache-2.0

package outlier

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// rig is a detector over n hosts with a log.
type rig struct {
	*Detector
	hosts   []*Host
	changes atomic.Int32
	log     bytes.Buffer
}

func newRig(n int, s Settings, chance uint32) *rig {
	r := &rig{}
	r.Detector = New(&s, Options{
		Cluster: "reviews", Logger: slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Changed: func() { r.changes.Add(1) },
		Chance:  func() uint32 { return chance },
	})
	for range n {
		r.hosts = append(r.hosts, &Host{})
	}
	r.SetMembers(r.list(r.hosts))
	return r
}

func (r *rig) list(hosts []*Host) []Member {
	var m []Member
	for i, h := range hosts {
		m = append(m, Member{Host: h, Address: fmt.Sprintf("10.0.0.%d:80", i+1)})
	}
	return m
}

// fail reports n answers of that status.
func (r *rig) fail(host, n, status int) {
	for range n {
		r.Answer(r.hosts[host], status)
	}
}

func (r *rig) out() string {
	var b strings.Builder
	for _, h := range r.hosts {
		if h.Ejected() {
			b.WriteByte('x')
		} else {
			b.WriteByte('.')
		}
	}
	return b.String()
}

// pass lets virtual time go by, and all that is due then happen.
func pass(d time.Duration) {
	<-time.NewTimer(d).C
	synctest.Wait()
}

func mesh() Settings {
	s := Defaults()
	s.MaxEjectionPercent = 50
	return s
}

// The story of the reference mesh: five errors, thirty seconds, and again.
func TestEjectionStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(2, mesh(), 0)
		r.fail(0, 4, 500)
		if r.out() != ".." {
			t.Fatal("ejected before the fifth error")
		}
		r.fail(0, 1, 200)
		r.fail(0, 4, 500)
		if r.out() != ".." {
			t.Fatal("a good answer did not reset the tally")
		}
		r.fail(0, 1, 500)
		if r.out() != "x." || r.changes.Load() != 1 {
			t.Fatalf("after the fifth error: %s, %d changes", r.out(), r.changes.Load())
		}
		r.fail(1, 50, 500)
		if r.out() != "x." {
			t.Fatal("more than 50 % of the hosts are out")
		}
		if got := r.Stats.Overflow.Value(); got != 10 {
			t.Errorf("overflow = %d, want 10", got)
		}
		pass(30*time.Second - time.Nanosecond)
		if st := r.State(r.hosts[0]); !st.Ejected || st.Remaining != time.Nanosecond {
			t.Fatalf("just before the end: %+v", st)
		}
		pass(time.Nanosecond)
		if r.out() != ".." || r.changes.Load() != 2 {
			t.Fatalf("after 30 s: %s, %d changes", r.out(), r.changes.Load())
		}
		if st := r.State(r.hosts[0]); st != (State{Ejections: 1, Recent: 1}) {
			t.Fatalf("the host came back with %+v", st)
		}
		// Again at once: twice as long.
		r.fail(0, 5, 503)
		if st := r.State(r.hosts[0]); st.Remaining != time.Minute || st.Ejections != 2 {
			t.Fatalf("second ejection: %+v", st)
		}
		pass(time.Minute)
		if r.out() != ".." {
			t.Fatal("not back after 60 s")
		}
		// Two healthy intervals forget both.
		pass(20 * time.Second)
		r.fail(0, 5, 500)
		if st := r.State(r.hosts[0]); st.Remaining != 30*time.Second {
			t.Fatalf("after two healthy intervals: %+v", st)
		}
		if got := r.Stats.EnforcedTotal.Value(); got != 3 {
			t.Errorf("enforced_total = %d, want 3", got)
		}
		if got := r.Stats.Active.Value(); got != 1 {
			t.Errorf("ejections_active = %d, want 1", got)
		}
		for _, want := range []string{
			`level=WARN msg="outlier: host ejected" cluster=reviews host=10.0.0.1:80 reason=consecutive_5xx threshold=5 for=30s ejections=1 recent=1 hosts.out=1 hosts.all=2`,
			`msg="outlier: host is back" cluster=reviews host=10.0.0.1:80 why="time is over" after=1m0s ejections=2 recent=2 hosts.out=0 hosts.all=2`,
			`level=DEBUG msg="outlier: host stays in, max_ejection_percent is reached" cluster=reviews host=10.0.0.2:80`,
		} {
			if !strings.Contains(r.log.String(), want) {
				t.Errorf("the log lacks %s\n%s", want, r.log.String())
			}
		}
		r.Close()
	})
}

// Envoy bounds the ejection by max_ejection_time, and with it how long the
// host has to be well until all is forgotten.
func TestEjectionTimeIsCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mesh()
		s.MaxEjectionTime = 100 * time.Second
		r := newRig(2, s, 0)
		var times []time.Duration
		for range 8 {
			r.fail(0, 5, 500)
			st := r.State(r.hosts[0])
			times = append(times, st.Remaining)
			pass(st.Remaining)
		}
		want := []time.Duration{30, 60, 90, 100, 100, 100, 100, 100}
		for i := range want {
			if times[i] != want[i]*time.Second {
				t.Errorf("ejection %d lasts %v, want %v s", i+1, times[i], want[i])
			}
		}
		if st := r.State(r.hosts[0]); st.Recent != 5 || st.Ejections != 8 {
			t.Errorf("after eight ejections: %+v", st)
		}
		r.Close()
	})
}

func TestJitter(t *testing.T) {
	s := mesh()
	s.Jitter = time.Second
	for range 50 {
		r := newRig(2, s, 0)
		r.fail(0, 5, 500)
		if got := r.State(r.hosts[0]).Remaining; got < 29*time.Second || got > 31*time.Second {
			t.Fatalf("remaining = %v", got)
		}
		r.Close()
	}
}

func TestMaxEjectionPercentIsExact(t *testing.T) {
	for _, tc := range []struct {
		hosts     int
		percent   uint8
		always    bool
		wantCount int
	}{
		{1, 10, false, 0},
		{1, 10, true, 1},
		{1, 100, false, 1},
		{2, 10, false, 0},
		{2, 49, false, 0},
		{2, 50, false, 1},
		{2, 100, false, 2},
		{3, 34, false, 1},
		{3, 66, false, 1},
		{3, 67, false, 2},
		{9, 10, false, 0},
		{10, 10, false, 1},
		{10, 10, true, 1},
		{10, 0, false, 0},
		{10, 0, true, 1},
		{200, 1, false, 2},
	} {
		s := mesh()
		s.MaxEjectionPercent, s.AlwaysEjectOneHost = tc.percent, tc.always
		r := newRig(tc.hosts, s, 0)
		for i := range r.hosts {
			r.fail(i, 5, 500)
		}
		if got := strings.Count(r.out(), "x"); got != tc.wantCount {
			t.Errorf("%d hosts, %d %%, always %v: %d out, want %d", tc.hosts, tc.percent, tc.always, got, tc.wantCount)
		}
		if r.Stats.Active.Value() != int64(tc.wantCount) {
			t.Errorf("ejections_active = %d, want %d", r.Stats.Active.Value(), tc.wantCount)
		}
		r.Close()
	}
}

func TestChecks(t *testing.T) {
	const local, late = -1, -2
	for _, tc := range []struct {
		name    string
		set     func(*Settings)
		results []int
		reason  Reason
		ejected bool
	}{
		{"5xx off", func(s *Settings) { s.Consecutive5xx = 0 }, []int{500, 500, 500, 500, 500, 500, 500}, Reason5xx, false},
		{"any 5xx counts", nil, []int{500, 501, 507, 599, 503}, Reason5xx, true},
		{"600 is no 5xx", nil, []int{500, 500, 500, 500, 600, 500}, Reason5xx, false},
		{"gateway is not enforced by default", func(s *Settings) { s.ConsecutiveGateway = 2 }, []int{502, 503}, ReasonGateway, false},
		{"gateway", func(s *Settings) { s.ConsecutiveGateway, s.EnforcingGateway = 3, 100 }, []int{502, 503, 504}, ReasonGateway, true},
		{"500 breaks a gateway run", func(s *Settings) { s.ConsecutiveGateway, s.EnforcingGateway = 3, 100 }, []int{502, 503, 500, 504}, ReasonGateway, false},
		{"local errors are 503 without split", func(s *Settings) { s.Consecutive5xx = 2 }, []int{local, local}, Reason5xx, true},
		{"timeouts are gateway errors without split", func(s *Settings) { s.ConsecutiveGateway, s.EnforcingGateway = 2, 100 }, []int{late, late}, ReasonGateway, true},
		{"split keeps them apart", func(s *Settings) { s.SplitLocalOrigin = true }, []int{500, 500, local, 500, local, 500, local, local, late}, ReasonLocalOrigin, false},
		{"split local", func(s *Settings) { s.SplitLocalOrigin = true; s.ConsecutiveLocalOrigin = 3 }, []int{local, late, local}, ReasonLocalOrigin, true},
		{"an answer, even a bad one, breaks a local run", func(s *Settings) { s.SplitLocalOrigin = true; s.ConsecutiveLocalOrigin = 3 }, []int{local, late, 500, local, local}, ReasonLocalOrigin, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := mesh()
			if tc.set != nil {
				tc.set(&s)
			}
			r := newRig(2, s, 0)
			defer r.Close()
			for _, res := range tc.results {
				switch res {
				case local, late:
					r.LocalFailure(r.hosts[0], res == late)
				default:
					r.Answer(r.hosts[0], res)
				}
			}
			if got := r.hosts[0].Ejected(); got != tc.ejected {
				t.Errorf("ejected = %v, want %v", got, tc.ejected)
			}
			if got := r.Stats.Enforced[tc.reason].Value() == 1; got != tc.ejected {
				t.Errorf("enforced %s = %v, want %v", tc.reason, got, tc.ejected)
			}
		})
	}
}

func TestEnforcingPercentage(t *testing.T) {
	for _, tc := range []struct {
		enforcing uint8
		chance    uint32
		want      bool
	}{{0, 0, false}, {1, 0, true}, {1, 1, false}, {40, 39, true}, {40, 40, false}, {100, 99, true}} {
		s := mesh()
		s.Enforcing5xx = tc.enforcing
		r := newRig(2, s, tc.chance)
		r.fail(0, 5, 500)
		if r.hosts[0].Ejected() != tc.want {
			t.Errorf("enforcing %d, chance %d: ejected = %v", tc.enforcing, tc.chance, !tc.want)
		}
		if r.Stats.Detected[Reason5xx].Value() != 1 {
			t.Errorf("enforcing %d: not counted as detected", tc.enforcing)
		}
		r.Close()
	}
}

func TestMembersChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(4, mesh(), 0)
		all := r.hosts
		r.fail(0, 5, 500)
		pass(time.Second)
		r.fail(1, 5, 500)
		if r.out() != "xx.." {
			t.Fatal(r.out())
		}
		// The same hosts in another order, and one more: state is kept.
		r.SetMembers(r.list([]*Host{all[3], all[1], all[0], all[2], {}}))
		if r.out() != "xx.." {
			t.Fatal("an update lost ejections: " + r.out())
		}
		// One healthy host goes: of three, only one may be out, so the one
		// whose time ends first is back early.
		r.SetMembers(r.list(all[:3]))
		if r.out() != ".x.." || r.Stats.Active.Value() != 1 {
			t.Fatalf("after a removal: %s, active %d", r.out(), r.Stats.Active.Value())
		}
		// The ejected host goes: it is forgotten, and another one may go out.
		r.SetMembers(r.list([]*Host{all[0], all[2]}))
		if r.Stats.Active.Value() != 0 {
			t.Fatalf("active = %d after the ejected host went", r.Stats.Active.Value())
		}
		r.fail(1, 50, 500)
		if all[1].Ejected() {
			t.Fatal("a host that is no member was ejected")
		}
		r.fail(0, 5, 500)
		if r.out() != "x..." {
			t.Fatal(r.out())
		}
		r.SetMembers(nil)
		if r.Stats.Active.Value() != 0 || r.out() != "...." {
			t.Fatalf("no members: %s, active %d", r.out(), r.Stats.Active.Value())
		}
		r.Close()
	})
}

func TestSettingsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mesh()
		s.MaxEjectionPercent = 100
		r := newRig(4, s, 0)
		for i := range 4 {
			r.fail(i, 5, 500)
			pass(time.Second)
		}
		if r.out() != "xxxx" {
			t.Fatal(r.out())
		}
		lower := s
		lower.MaxEjectionPercent = 50
		lower.BaseEjectionTime = time.Hour
		lower.MaxEjectionTime = time.Hour
		r.Update(&lower)
		if r.out() != "..xx" {
			t.Fatal("after lowering to 50 %: " + r.out())
		}
		if got := r.State(r.hosts[3]).Remaining; got != 29*time.Second {
			t.Errorf("an ejection in progress got a new end: %v", got)
		}
		// A lower threshold counts for tallies that have already passed it.
		lower.MaxEjectionPercent = 100
		r.Update(&lower)
		r.fail(0, 4, 500)
		lowest := lower
		lowest.Consecutive5xx = 2
		r.Update(&lowest)
		r.fail(0, 1, 500)
		if r.out() != "x.xx" {
			t.Fatal("a lowered threshold did not act: " + r.out())
		}
		r.Update(nil)
		if r.out() != "...." || r.Stats.Active.Value() != 0 {
			t.Fatalf("off: %s, active %d", r.out(), r.Stats.Active.Value())
		}
		r.fail(0, 50, 500)
		r.LocalFailure(r.hosts[0], true)
		if r.out() != "...." {
			t.Fatal("ejected although off")
		}
		r.Update(&s)
		r.fail(0, 4, 500)
		if r.out() != "...." {
			t.Fatal("tallies from before were kept while off")
		}
		r.Close()
	})
}

// A detector that has nothing to restore and nothing to forget has no timer:
// a synctest bubble can't end while one runs, and this one isn't closed.
func TestNoTimerWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(2, mesh(), 0)
		r.fail(0, 5, 500)
		start := time.Now()
		pass(41 * time.Second)
		r.mu.Lock()
		stopped := !r.timer.Stop()
		r.mu.Unlock()
		if !stopped {
			t.Errorf("a timer still runs after %v", time.Since(start))
		}
	})
}

// Reports from many cores never eject more than allowed, and the active
// gauge is right in the end.
func TestConcurrentReports(t *testing.T) {
	s := mesh()
	s.Consecutive5xx = 3
	hosts := make([]*Host, 10)
	members := make([]Member, len(hosts))
	for i := range hosts {
		hosts[i] = &Host{}
		members[i] = Member{Host: hosts[i]}
	}
	d := New(&s, Options{Changed: func() {
		out := 0
		for _, h := range hosts {
			if h.Ejected() {
				out++
			}
		}
		if out > 5 {
			t.Errorf("%d of 10 hosts are out", out)
		}
	}})
	defer d.Close()
	d.SetMembers(members)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 5000 {
				d.Answer(hosts[(i+w)%len(hosts)], 500)
			}
		})
	}
	wg.Wait()
	if got := d.Stats.Active.Value(); got != 5 {
		t.Errorf("ejections_active = %d, want 5", got)
	}
}

func TestReportsDoNotAllocate(t *testing.T) {
	r := newRig(2, mesh(), 0)
	defer r.Close()
	if n := testing.AllocsPerRun(1000, func() {
		r.Answer(r.hosts[0], 200)
		r.Answer(r.hosts[0], 500)
		r.LocalFailure(r.hosts[0], false)
	}); n != 0 {
		t.Errorf("%v allocations per three reports", n)
	}
}

func BenchmarkAnswer(b *testing.B) {
	r := newRig(2, mesh(), 0)
	defer r.Close()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r.Answer(r.hosts[0], 200)
		}
	})
}
