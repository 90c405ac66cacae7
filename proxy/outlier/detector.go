// SPDX-License-Identifier: Apache-2.0

package outlier

import (
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"pillion/proxy/stats"
)

// Options are what a Detector needs from its owner.
type Options struct {
	// Cluster names the cluster in the log.
	Cluster string
	Logger  *slog.Logger
	// Changed is called after hosts were ejected or came back, from any
	// goroutine and without a lock held. It is not called for changes made by
	// Update and SetMembers.
	Changed func()
	// Chance returns a number from 0 to 99 for the enforcing percentages; nil
	// for a random one.
	Chance func() uint32
}

// Stats are the detector's counters, under Envoy's names below
// "outlier_detection.".
type Stats struct {
	Active        stats.Gauge               // ejections_active
	EnforcedTotal stats.Counter             // ejections_enforced_total
	Overflow      stats.Counter             // ejections_overflow: not ejected because of the percentage
	Detected      [numReasons]stats.Counter // ejections_detected_…, by Reason
	Enforced      [numReasons]stats.Counter // ejections_enforced_…, by Reason
}

// Detector decides on the ejection of the hosts of one cluster. All methods
// are safe for concurrent use.
type Detector struct {
	Stats Stats

	opts     Options                  // immutable
	start    time.Time                // immutable; the zero of now
	settings atomic.Pointer[Settings] // nil: off

	mu      sync.Mutex
	members []Member    // guarded by mu; the slice is never changed in place
	active  int         // guarded by mu; ejected members
	timer   *time.Timer // guarded by mu; nil until the first ejection
	events  []event     // guarded by mu; to be logged once it is free
	closed  bool        // guarded by mu
}

// New returns a detector without hosts. Settings nil turn it off until Update.
func New(s *Settings, o Options) *Detector {
	d := &Detector{opts: o, start: time.Now()}
	if d.opts.Chance == nil {
		d.opts.Chance = func() uint32 { return rand.Uint32N(100) }
	}
	d.settings.Store(s)
	return d
}

// now is a time in nanoseconds, never 0.
func (d *Detector) now() int64 { return int64(time.Since(d.start)) + 1 }

// Answer reports the status of an answer that h gave.
func (d *Detector) Answer(h *Host, status int) {
	s := d.settings.Load()
	if s == nil {
		return
	}
	if s.SplitLocalOrigin {
		h.clear(ReasonLocalOrigin)
	}
	d.external(s, h, status)
}

// LocalFailure reports an attempt on h that got no answer: the connection
// could not be made or broke, or, with timeout, the time ran out.
func (d *Detector) LocalFailure(h *Host, timeout bool) {
	s := d.settings.Load()
	switch {
	case s == nil:
	case s.SplitLocalOrigin:
		d.count(s, h, ReasonLocalOrigin)
	case timeout:
		d.external(s, h, 504)
	default:
		d.external(s, h, 503)
	}
}

func (d *Detector) external(s *Settings, h *Host, status int) {
	if status < 500 || status > 599 {
		h.clear(Reason5xx)
		h.clear(ReasonGateway)
		return
	}
	if status >= 502 && status <= 504 {
		d.count(s, h, ReasonGateway)
	} else {
		h.clear(ReasonGateway)
	}
	d.count(s, h, Reason5xx)
}

func (d *Detector) count(s *Settings, h *Host, r Reason) {
	limit, _ := s.threshold(r)
	if n := h.tally[r].Add(1); limit > 0 && n >= limit && !h.ejected.Load() {
		d.detected(h, r)
	}
}

// detected ejects h if that is allowed.
func (d *Detector) detected(h *Host, r Reason) {
	d.mu.Lock()
	ejected := d.judge(h, r)
	d.unlock()
	if ejected && d.opts.Changed != nil {
		d.opts.Changed()
	}
}

// judge reports whether it ejected h. mu is held.
func (d *Detector) judge(h *Host, r Reason) bool {
	s := d.settings.Load()
	if s == nil || d.closed || !h.member || h.ejected.Load() {
		return false
	}
	limit, enforcing := s.threshold(r)
	// Reports that come at once may all have seen the threshold; the first
	// one resets the tally, so the others stop here.
	if limit == 0 || h.tally[r].Load() < limit {
		return false
	}
	h.tally[r].Store(0)
	d.Stats.Detected[r].Inc()
	if !d.mayEject(s) {
		d.Stats.Overflow.Inc()
		d.note(event{kind: refused, host: h, why: r.String(), limit: limit})
		return false
	}
	if d.opts.Chance() >= uint32(enforcing) {
		return false
	}
	d.eject(s, h, r)
	return true
}

// mayEject reports whether one more host fits in the percentage. mu is held.
func (d *Detector) mayEject(s *Settings) bool {
	return (d.active+1)*100 <= int(s.MaxEjectionPercent)*len(d.members) || d.active == 0 && s.AlwaysEjectOneHost
}

// eject takes a member out. mu is held.
func (d *Detector) eject(s *Settings, h *Host, r Reason) {
	// The number of base times is bounded by the longest ejection (Envoy:
	// DetectorImpl::ejectHost), so that a host does not have to live down
	// more than it was punished for.
	if time.Duration(h.recent)*s.BaseEjectionTime < s.MaxEjectionTime+s.BaseEjectionTime {
		h.recent++
	}
	h.total++
	out := min(time.Duration(h.recent)*s.BaseEjectionTime, s.MaxEjectionTime)
	if s.Jitter > 0 {
		out += rand.N(s.Jitter)
	}
	h.ejectedAt = d.now()
	h.until = h.ejectedAt + int64(out)
	h.decayAt = 0
	h.ejected.Store(true)
	d.active++
	d.Stats.Active.Inc()
	d.Stats.EnforcedTotal.Inc()
	d.Stats.Enforced[r].Inc()
	limit, _ := s.threshold(r)
	d.note(event{kind: ejected, host: h, why: r.String(), limit: limit, time: out})
	d.schedule()
}

// restore brings an ejected host back. mu is held.
func (d *Detector) restore(s *Settings, h *Host, why string) {
	now := d.now()
	for r := range h.tally {
		h.tally[r].Store(0)
	}
	h.ejected.Store(false)
	h.until = 0
	if s != nil {
		h.decayAt = now + int64(s.Interval)
	}
	d.active--
	d.Stats.Active.Dec()
	d.note(event{kind: restored, host: h, why: why, time: time.Duration(now - h.ejectedAt)})
}

// tick does what is due: it brings hosts back and lets ejections be forgotten.
func (d *Detector) tick() {
	d.mu.Lock()
	s := d.settings.Load()
	if s == nil || d.closed {
		d.mu.Unlock()
		return
	}
	now := d.now()
	changed := false
	for _, m := range d.members {
		h := m.Host
		switch {
		case h.ejected.Load():
			if h.until <= now {
				d.restore(s, h, "time is over")
				changed = true
			}
		case h.recent > 0 && h.decayAt <= now:
			h.recent--
			h.decayAt += int64(s.Interval)
		}
	}
	d.schedule()
	d.unlock()
	if changed && d.opts.Changed != nil {
		d.opts.Changed()
	}
}

// schedule sets the timer to the next thing to do. It is the only timer of a
// cluster, and doesn't run while no host was ejected lately. mu is held.
func (d *Detector) schedule() {
	var next int64
	for _, m := range d.members {
		at := m.Host.until
		if !m.Host.ejected.Load() {
			if m.Host.recent == 0 {
				continue
			}
			at = m.Host.decayAt
		}
		if next == 0 || at < next {
			next = at
		}
	}
	if next == 0 || d.closed {
		if d.timer != nil {
			d.timer.Stop()
		}
		return
	}
	wait := time.Duration(max(next-d.now(), 0))
	if d.timer == nil {
		d.timer = time.AfterFunc(wait, d.tick)
		return
	}
	d.timer.Reset(wait)
}

// SetMembers replaces the list of hosts. Hosts that stay keep their state;
// those that go lose it. The caller must not change the slice afterwards.
func (d *Detector) SetMembers(members []Member) {
	d.mu.Lock()
	defer d.unlock()
	old := d.members
	for _, m := range old {
		m.Host.member = false
	}
	for _, m := range members {
		m.Host.member = true
	}
	for _, m := range old {
		h := m.Host
		if h.member {
			continue
		}
		if h.ejected.Load() {
			d.active--
			d.Stats.Active.Dec()
		}
		h.forget()
	}
	d.members = members
	d.settle()
}

// forget makes the host as new. Detector.mu is held.
func (h *Host) forget() {
	for r := range h.tally {
		h.tally[r].Store(0)
	}
	h.ejected.Store(false)
	h.recent, h.total, h.ejectedAt, h.until, h.decayAt = 0, 0, 0, 0, 0
}

// Update replaces the settings; nil turns the detector off and brings all
// hosts back. Ejections in progress keep the end that they were given.
func (d *Detector) Update(s *Settings) {
	d.mu.Lock()
	defer d.unlock()
	d.settings.Store(s)
	if s != nil {
		d.settle()
		return
	}
	for _, m := range d.members {
		if m.Host.ejected.Load() {
			d.restore(nil, m.Host, "outlier detection was turned off")
		}
		m.Host.forget()
	}
	d.schedule()
}

// settle brings hosts back until no more are out than the percentage allows,
// those with the least time left first. mu is held.
func (d *Detector) settle() {
	s := d.settings.Load()
	if s == nil {
		return
	}
	for d.active*100 > int(s.MaxEjectionPercent)*len(d.members) && !(d.active == 1 && s.AlwaysEjectOneHost) {
		var first *Host
		for _, m := range d.members {
			if m.Host.ejected.Load() && (first == nil || m.Host.until < first.until) {
				first = m.Host
			}
		}
		d.restore(s, first, "more hosts were out than max_ejection_percent allows")
	}
	d.schedule()
}

// Close ends the detector: nothing is ejected or restored any more.
func (d *Detector) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.timer != nil {
		d.timer.Stop()
	}
}

// State returns what is known of a host.
func (d *Detector) State(h *Host) State {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := State{
		Ejected: h.ejected.Load(), Ejections: h.total, Recent: h.recent,
		Consecutive5xx:         h.tally[Reason5xx].Load(),
		ConsecutiveGateway:     h.tally[ReasonGateway].Load(),
		ConsecutiveLocalOrigin: h.tally[ReasonLocalOrigin].Load(),
	}
	if st.Ejected {
		st.Remaining = time.Duration(max(h.until-d.now(), 0))
	}
	return st
}
