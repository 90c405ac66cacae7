// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"math"
	"math/bits"
	"slices"
	"time"
)

// hostSet is what Pick reads: the hosts of a cluster, sorted out by priority
// and health. It is immutable and replaced as a whole when anything in it
// changes.
type hostSet struct {
	balance *Balance
	all     []*Host // in the order of configuration
	healthy int
	tiers   []tier // by priority, those without hosts included
	// shares are the percentages of the load up to and with each tier; nil
	// when the first tier takes it all.
	shares []uint32
}

// tier is the hosts of one priority that get requests.
type tier struct {
	hosts []*Host
	// sums are the running sums of the hosts' weights; nil when all are equal.
	sums []uint64
	// panicked is set when unhealthy hosts are among them, because too few
	// were healthy.
	panicked bool
	table    lazyTable // for RING_HASH and MAGLEV
}

// totals are the numbers of hosts of one priority.
type totals struct{ all, usable, healthy int }

func (t totals) percent() float64 {
	if t.all == 0 {
		return 0
	}
	return 100 * float64(t.healthy) / float64(t.all)
}

// newHostSet sorts hosts out for a time (http.Now), which matters to slow
// start only.
func newHostSet(b *Balance, hosts []*Host, now int64) *hostSet {
	hs := &hostSet{balance: b, all: hosts}
	var counts []totals
	for _, h := range hosts {
		for len(counts) <= int(h.priority) {
			counts = append(counts, totals{})
		}
		t := &counts[h.priority]
		t.all++
		if h.unusable == "" {
			t.usable++
		}
		if h.Healthy() {
			t.healthy++
			hs.healthy++
		}
	}
	if len(counts) == 0 {
		return hs
	}
	panicked, shares := spread(b, counts)
	hs.tiers = make([]tier, len(counts))
	for i := range hs.tiers {
		t := &hs.tiers[i]
		t.panicked = panicked[i]
		t.hosts = selectHosts(hosts, uint8(i), t.panicked, counts[i])
		t.sums = weigh(b, t.hosts, hosts, uint8(i), now)
	}
	if len(shares) > 1 && shares[0] < 100 {
		hs.shares = shares
	}
	return hs
}

// selectHosts returns the hosts of a priority that get requests.
func selectHosts(hosts []*Host, priority uint8, panicked bool, n totals) []*Host {
	want := n.healthy
	if panicked {
		want = n.usable
	}
	if want == len(hosts) {
		return hosts // the usual case shares the slice
	}
	out := make([]*Host, 0, want)
	for _, h := range hosts {
		if h.priority == priority && (h.Healthy() || panicked && h.unusable == "") {
			out = append(out, h)
		}
	}
	return out
}

// spread decides which priorities are in panic, and shares the load between
// them (Envoy: LoadBalancerBase::recalculatePerPriorityState and
// recalculatePerPriorityPanic). A priority takes the load that its healthy
// hosts stand for, times the overprovisioning factor; what is missing goes to
// the next one.
func spread(b *Balance, counts []totals) (panicked []bool, shares []uint32) {
	factor := b.OverprovisioningFactor
	if factor == 0 {
		factor = 140
	}
	available := make([]uint32, len(counts))
	var sum uint32
	for i, c := range counts {
		if c.all > 0 {
			available[i] = uint32(min(100, uint64(factor)*uint64(c.healthy)/uint64(c.all)))
		}
		sum = min(100, sum+available[i])
	}
	panicked = make([]bool, len(counts))
	all := true
	for i, c := range counts {
		// With all load provided for, a weak priority is no reason to panic.
		panicked[i] = sum < 100 && c.percent() < b.PanicThreshold
		all = all && panicked[i]
	}
	switch {
	case all:
		return panicked, shareByCount(counts)
	case sum == 0:
		// Panic is off and nobody is well: the first priority refuses.
		return panicked, []uint32{100}
	}
	return panicked, shareByHealth(available, sum)
}

// shareByCount shares the load by the number of hosts, for when nobody's
// health means anything.
func shareByCount(counts []totals) []uint32 {
	usable := 0
	for _, c := range counts {
		usable += c.usable
	}
	shares := make([]uint32, len(counts))
	seen := 0
	for i, c := range counts {
		seen += c.usable
		shares[i] = 100
		if usable > 0 {
			shares[i] = uint32(100 * seen / usable)
		}
	}
	return shares
}

func shareByHealth(available []uint32, sum uint32) []uint32 {
	shares := make([]uint32, len(available))
	var given uint32
	last := 0
	for i, a := range available {
		given = min(100, given+a*100/sum)
		shares[i] = given
		if a > 0 {
			last = i
		}
	}
	for i := last; i < len(shares); i++ { // rounding
		shares[i] = 100
	}
	return shares
}

// weightUnit is the precision of weights that are no integers.
const weightUnit = 1 << 20

// weigh returns the running sums of the weights of hosts, nil if all are
// equal. all are the cluster's hosts.
func weigh(b *Balance, hosts, all []*Host, priority uint8, now int64) []uint64 {
	if len(hosts) < 2 {
		return nil
	}
	equal := true
	weights := make([]float64, len(hosts))
	for i, h := range hosts {
		weights[i] = float64(h.weight) * b.SlowStart.factor(now-h.added)
		equal = equal && weights[i] == weights[0]
	}
	if b.LocalityWeighted {
		byLocality(b, weights, hosts, all, priority)
		equal = !slices.ContainsFunc(weights, func(w float64) bool { return w != weights[0] })
	}
	if equal {
		return nil
	}
	heaviest := slices.Max(weights)
	if heaviest == 0 {
		return nil
	}
	// Integers stay as they are; others are scaled so that the lightest still
	// counts and no sum overflows.
	scale := 1.0
	if slices.ContainsFunc(weights, func(w float64) bool { return w != math.Trunc(w) }) {
		scale = weightUnit / heaviest
	}
	sums := make([]uint64, len(weights))
	var sum uint64
	for i, w := range weights {
		if w > 0 {
			sum += uint64(max(1, math.Round(w*scale)))
		}
		sums[i] = sum
	}
	return sums
}

// factor is the part of its weight that a host has after it was added.
func (s *SlowStart) factor(age int64) float64 {
	if s == nil || age >= int64(s.Window) || s.Window <= 0 {
		return 1
	}
	// Envoy: time_factor^(1/aggression), with at least one second passed.
	t := float64(max(age, int64(time.Second))) / float64(s.Window)
	if s.Aggression > 0 && s.Aggression != 1 {
		t = math.Pow(t, 1/s.Aggression)
	}
	return min(1, max(t, s.MinWeightPercent/100))
}

// starting reports whether a host is still in slow start.
func (s *SlowStart) starting(hosts []*Host, now int64) bool {
	return s != nil && slices.ContainsFunc(hosts, func(h *Host) bool { return now-h.added < int64(s.Window) })
}

// byLocality turns weights within a locality into weights within the
// priority: each locality gets its configured share, less what its unhealthy
// hosts leave open beyond the overprovisioning factor
// (Envoy: HostSetImpl::effectiveLocalityWeight).
func byLocality(b *Balance, weights []float64, hosts, all []*Host, priority uint8) {
	factor := float64(b.OverprovisioningFactor) / 100
	if factor == 0 {
		factor = 1.4
	}
	type share struct {
		loc           *Locality
		sum           float64
		hosts, picked int
	}
	var shares []share
	find := func(l *Locality) *share {
		for i := range shares {
			if sameLocality(shares[i].loc, l) {
				return &shares[i]
			}
		}
		shares = append(shares, share{loc: l})
		return &shares[len(shares)-1]
	}
	for _, h := range all {
		if h.priority == priority {
			find(h.locality).hosts++
		}
	}
	for i, h := range hosts {
		s := find(h.locality)
		s.sum += weights[i]
		s.picked++
	}
	for i, h := range hosts {
		s := find(h.locality)
		var w float64
		if s.loc != nil {
			w = float64(s.loc.Weight)
		}
		weights[i] *= w * min(1, factor*float64(s.picked)/float64(s.hosts)) / s.sum
	}
}

// at returns the index of the host in whose part of the weights x falls; x is
// spread evenly over all numbers.
func (t *tier) at(x uint64) int {
	if t.sums == nil {
		hi, _ := bits.Mul64(x, uint64(len(t.hosts)))
		return int(hi)
	}
	target, _ := bits.Mul64(x, t.sums[len(t.sums)-1])
	lo, hi := 0, len(t.sums)-1
	for lo < hi {
		mid := (lo + hi) / 2
		if t.sums[mid] > target {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// weight returns the weight of host i.
func (t *tier) weight(i int) uint64 {
	switch {
	case t.sums == nil:
		return 1
	case i == 0:
		return t.sums[0]
	}
	return t.sums[i] - t.sums[i-1]
}

// choose returns the tier that a request with that random number goes to, nil
// without hosts.
func (hs *hostSet) choose(random uint64) *tier {
	switch {
	case len(hs.tiers) == 0:
		return nil
	case hs.shares == nil:
		return &hs.tiers[0]
	}
	hi, _ := bits.Mul64(random, 100)
	for i, s := range hs.shares {
		if uint32(hi) < s {
			return &hs.tiers[i]
		}
	}
	return &hs.tiers[len(hs.tiers)-1]
}
