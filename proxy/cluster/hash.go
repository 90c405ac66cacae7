// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// lazyTable is the table of RING_HASH or MAGLEV, built when the first request
// needs it: most clusters of a mesh never get one.
type lazyTable struct {
	mu    sync.Mutex // held while the table is built
	built atomic.Pointer[hashTable]
}

// hashTable maps hashes to indexes of hosts. Immutable.
type hashTable struct {
	// ring are the points of RING_HASH in order, nil for MAGLEV.
	ring []uint64
	// hosts are the owners of the points, or MAGLEV's table.
	hosts []uint32
}

func (t *tier) byHash(b *Balance, hash uint64, attempt int) *Host {
	h := t.table.built.Load()
	if h == nil {
		h = t.buildTable(b)
	}
	return t.hosts[h.find(hash, attempt)]
}

func (t *tier) buildTable(b *Balance) *hashTable {
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	if h := t.table.built.Load(); h != nil {
		return h
	}
	var h *hashTable
	if b.Policy == Maglev {
		h = t.maglev(b.TableSize)
	} else {
		h = t.ring(b.MinRingSize, b.MaxRingSize)
	}
	t.table.built.Store(h)
	return h
}

// find returns the host of a hash. A further attempt goes on to the next
// point of the ring (Envoy: RingHashLoadBalancer::Ring::chooseHost), or to
// another place of MAGLEV's table.
func (h *hashTable) find(hash uint64, attempt int) uint32 {
	if h.ring == nil {
		if attempt > 0 {
			hash ^= math.MaxUint64 - uint64(attempt) + 1
		}
		return h.hosts[hash%uint64(len(h.hosts))]
	}
	i, _ := slices.BinarySearch(h.ring, hash)
	return h.hosts[(i+attempt)%len(h.hosts)]
}

// Defaults of envoy.config.cluster.v3.Cluster.RingHashLbConfig and
// MaglevLbConfig.
const (
	defaultMinRing = 1024
	defaultMaxRing = 8 << 20
	defaultMaglev  = 65537
)

// normalized returns each host's share of all weights, and the extremes.
func (t *tier) normalized() (shares []float64, least, most float64) {
	total := float64(len(t.hosts))
	if t.sums != nil {
		total = float64(t.sums[len(t.sums)-1])
	}
	shares = make([]float64, len(t.hosts))
	least = 1
	for i := range shares {
		s := float64(t.weight(i)) / total
		shares[i] = s
		if s > 0 {
			least = min(least, s)
		}
		most = max(most, s)
	}
	return shares, least, most
}

// ring places each host at points in proportion to its weight, at the hashes
// of "address_number" (Envoy: RingHashLoadBalancer::Ring::Ring, ketama).
func (t *tier) ring(minSize, maxSize uint64) *hashTable {
	if minSize == 0 {
		minSize = defaultMinRing
	}
	if maxSize == 0 {
		maxSize = defaultMaxRing
	}
	shares, least, _ := t.normalized()
	// The lightest host gets a whole number of points, if the size allows.
	scale := min(math.Ceil(least*float64(minSize))/least, float64(maxSize))
	type point struct {
		hash uint64
		host uint32
	}
	points := make([]point, 0, int(math.Ceil(scale)))
	var want, have float64
	var key []byte
	for i, share := range shares {
		want += scale * share
		key = append(append(key[:0], t.hosts[i].Facts.Address...), '_')
		prefix := len(key)
		for n := int64(0); have < want; n++ {
			key = strconv.AppendInt(key[:prefix], n, 10)
			points = append(points, point{xxhash.Sum64(key), uint32(i)})
			have++
		}
	}
	slices.SortFunc(points, func(a, b point) int {
		switch {
		case a.hash < b.hash:
			return -1
		case a.hash > b.hash:
			return 1
		}
		return 0
	})
	h := &hashTable{ring: make([]uint64, len(points)), hosts: make([]uint32, len(points))}
	for i, p := range points {
		h.ring[i], h.hosts[i] = p.hash, p.host
	}
	return h
}

// maglev fills the table by turns of the hosts, each going through its own
// permutation of the places; heavier hosts take more turns (Eisenbud and
// others, "Maglev", NSDI 2016, section 3.4; Envoy: MaglevTable).
func (t *tier) maglev(size uint64) *hashTable {
	if size == 0 {
		size = defaultMaglev
	}
	shares, _, most := t.normalized()
	type builder struct {
		offset, skip, next uint64
		share, target      float64
	}
	builders := make([]builder, len(t.hosts))
	for i := range builders {
		key := t.hosts[i].Facts.Address
		builders[i] = builder{offset: xxhash.Sum64String(key) % size,
			skip: seededHash(key, 1)%(size-1) + 1, share: shares[i]}
	}
	const free = math.MaxUint32
	table := make([]uint32, size)
	for i := range table {
		table[i] = free
	}
	filled := uint64(0)
	for turn := 1; filled < size; turn++ {
		for i := range builders {
			b := &builders[i]
			// The heaviest host places one entry each turn, the others in
			// proportion.
			if float64(turn)*b.share < b.target {
				continue
			}
			if b.share == 0 {
				continue
			}
			b.target += most
			place := (b.offset + b.skip*b.next) % size
			for table[place] != free {
				b.next++
				place = (b.offset + b.skip*b.next) % size
			}
			table[place] = uint32(i)
			b.next++
			if filled++; filled == size {
				break
			}
		}
	}
	return &hashTable{hosts: table}
}

// seededHash is xxHash64 with a seed.
func seededHash(s string, seed uint64) uint64 {
	d := xxhash.NewWithSeed(seed)
	_, _ = d.WriteString(s) // never fails
	return d.Sum64()
}
