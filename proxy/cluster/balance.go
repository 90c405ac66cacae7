// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"math"
	"math/rand/v2"
)

// PickArgs is what the choice of a host depends on.
type PickArgs struct {
	// Hash places the request for RING_HASH and MAGLEV, if HasHash is set;
	// otherwise it goes to a random place.
	Hash    uint64
	HasHash bool
	// Avoid are hosts that were tried already; one of them is chosen only if
	// no other was found.
	Avoid []*Host
	// OriginalDst (host:port) is where the connection was going before it was
	// redirected, and Authority what the request names. ORIGINAL_DST clusters
	// use the first one that is not empty.
	OriginalDst string
	Authority   []byte
	// Random decides what is left to chance; 0 for a new random number.
	Random uint64
}

// golden is 2^64 divided by the golden ratio. Its multiples modulo 2^64 fill
// the range evenly at any time, so that counting with them through weights
// gives each host its share after few picks already, without the lock that a
// schedule by deadlines (Envoy's EDF) needs. The sequence is known as that of
// Kronecker or Weyl; its discrepancy is O(log n / n).
const golden = 0x9e3779b97f4a7c15

// mix spreads the bits of x: the output function of SplitMix64.
func mix(x uint64) uint64 {
	x += golden
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// maxRepicks is how often another pick by policy is made when a host is to be
// avoided (Istio's host_selection_retry_max_attempts), before the others are
// tried in order.
const maxRepicks = 5

// Pick chooses a host, nil if none can take the request. It takes no lock and
// allocates nothing.
func (c *Cluster) Pick(a *PickArgs) *Host {
	if c.original != nil {
		return c.original.pick(c, a)
	}
	random := a.Random
	if random == 0 {
		random = rand.Uint64()
	}
	hs := c.hosts.Load()
	t := hs.choose(random)
	if t == nil || len(t.hosts) == 0 {
		c.Stats.CxNoneHealthy.Inc()
		return nil
	}
	if t.panicked {
		c.Stats.LbHealthyPanic.Inc()
	}
	if len(t.hosts) == 1 {
		return t.hosts[0]
	}
	h := t.pick(c, hs.balance, a, random, 0)
	if len(a.Avoid) > 0 && avoided(a, h) {
		return c.pickOther(hs, t, a, random, h)
	}
	return h
}

func avoided(a *PickArgs, h *Host) bool {
	for _, o := range a.Avoid {
		if o.Same(h) {
			return true
		}
	}
	return false
}

// pickOther looks for a host that is not to be avoided.
func (c *Cluster) pickOther(hs *hostSet, t *tier, a *PickArgs, random uint64, h *Host) *Host {
	for attempt := 1; attempt <= maxRepicks; attempt++ {
		random = mix(random)
		if o := t.pick(c, hs.balance, a, random, attempt); !avoided(a, o) {
			return o
		}
	}
	start := t.at(random)
	for i := range t.hosts {
		if o := t.hosts[(start+i)%len(t.hosts)]; !avoided(a, o) {
			return o
		}
	}
	return h
}

// pick chooses one of two or more hosts by policy.
func (t *tier) pick(c *Cluster, b *Balance, a *PickArgs, random uint64, attempt int) *Host {
	random = mix(random) // the upper bits have chosen the tier
	switch b.Policy {
	case LeastRequest:
		if t.sums == nil || b.ActiveRequestBias > 0 {
			return t.leastRequest(b, random)
		}
	case Random:
		return t.hosts[t.at(random)]
	case RingHash, Maglev:
		hash := a.Hash
		if !a.HasHash {
			hash = random
		}
		return t.byHash(b, hash, attempt)
	}
	// ROUND_ROBIN, and LEAST_REQUEST that is told to ignore requests.
	n := c.turn.Add(1)
	if t.sums == nil {
		return t.hosts[n%uint64(len(t.hosts))]
	}
	return t.hosts[t.at(n*golden)]
}

// leastRequest draws some hosts at random, by weight, and takes the one with
// the fewest active requests for its weight; among equals the one drawn
// first, so that without load the shares are those of the weights.
//
// Unlike Envoy it never draws the same host twice in a row: with two hosts,
// that would leave a quarter of the choices without a comparison.
func (t *tier) leastRequest(b *Balance, random uint64) *Host {
	choices := max(b.ChoiceCount, 2)
	best := t.at(random)
	cost := t.cost(b, best)
	last := best
	for range choices - 1 {
		random = mix(random)
		i := t.at(random)
		if i == last {
			random = mix(random)
			// Any other host; weights matter little for one comparison.
			i = (last + 1 + int(random%uint64(len(t.hosts)-1))) % len(t.hosts)
		}
		last = i
		if t.zero(i) {
			continue
		}
		if n := t.cost(b, i); n < cost {
			best, cost = i, n
		}
	}
	return t.hosts[best]
}

// zero reports whether a host is to get nothing.
func (t *tier) zero(i int) bool { return t.sums != nil && t.weight(i) == 0 }

// cost is what one more request on host i would burden it with.
func (t *tier) cost(b *Balance, i int) float64 {
	active := float64(t.hosts[i].pool.Stats.RqActive.Value())
	if t.sums == nil {
		return active
	}
	if b.ActiveRequestBias != 1 {
		active = math.Pow(active, b.ActiveRequestBias)
	}
	return active / float64(t.weight(i))
}
