// SPDX-License-Identifier: Apache-2.0

package peermeta

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"pillion/proxy/http"
)

// The cache has sets of ways entries: 512 peers, as many as Istio's.
const (
	sets = 128
	ways = 4
)

// maxWorkloads bounds the peers that are kept for being alike; when there are this
// many the map starts anew.
const maxWorkloads = 1024

// cache remembers what values of the metadata mean, so that a request of a known
// peer costs no decoding and no allocation. A value is found by all of its octets
// and the namespace that the peer's certificate has. Reading takes no lock. A value
// has one place in four; what wasn't asked for since the last change of its set
// goes first. The zero value isn't ready; safe for concurrent use.
type cache struct {
	seed maphash.Seed // immutable
	set  [sets]set

	mu        sync.Mutex
	workloads map[http.Peer]*http.Peer // what peers have in common; guarded by mu
}

type set struct {
	way  [ways]atomic.Pointer[entry]
	next uint8 // the way that is looked at first for a new entry; guarded by cache.mu
}

// entry is one value. Immutable, but for used.
type entry struct {
	hash             uint64
	value, namespace string
	peer             *http.Peer  // nil if it can't be read
	used             atomic.Bool // since the last look for one to drop
}

func newCache() *cache {
	return &cache{seed: maphash.MakeSeed(), workloads: map[http.Peer]*http.Peer{}}
}

// find returns the peer that a value stands for, and makes it by decode if it isn't
// known yet. nil: it can't be read.
func (c *cache) find(value []byte, principal string, decode func([]byte) (http.Peer, bool)) *http.Peer {
	namespace := namespaceOf(principal)
	h := maphash.Bytes(c.seed, value)
	s := &c.set[h%sets]
	for i := range s.way {
		e := s.way[i].Load()
		if e != nil && e.hash == h && e.value == string(value) && e.namespace == namespace {
			if !e.used.Load() {
				e.used.Store(true)
			}
			return e.peer
		}
	}
	p, ok := decode(value)
	c.mu.Lock()
	defer c.mu.Unlock()
	var peer *http.Peer
	if ok {
		peer = c.settle(&p, namespace)
	}
	if len(value) <= maxKept {
		s.put(&entry{hash: h, value: string(value), namespace: namespace, peer: peer})
	}
	return peer
}

// settle gives a peer the namespace that was proven, and the workload that it is
// one pod of. mu is held.
func (c *cache) settle(p *http.Peer, namespace string) *http.Peer {
	if namespace != "" {
		p.Namespace = namespace
	}
	alike := *p
	alike.Detail = nil
	w := c.workloads[alike]
	if w == nil {
		if len(c.workloads) >= maxWorkloads {
			clear(c.workloads)
		}
		w = &alike
		c.workloads[alike] = w
	}
	p.Detail.Workload = w
	return p
}

// put puts e into the set, in the place of an entry that wasn't used of late. The
// cache's lock is held.
func (s *set) put(e *entry) {
	for range 2 * ways { // all may be in use: in the second round none is
		i := s.next
		s.next = (s.next + 1) % ways
		old := s.way[i].Load()
		if old == nil || !old.used.Swap(false) {
			s.way[i].Store(e)
			return
		}
	}
	s.way[s.next].Store(e) // others use them faster than we look
}
