// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
)

// Sizes of the cache of verified tokens where configuration sets none. Envoy
// has no cache then.
const (
	defaultCacheTokens    = 500
	defaultCacheTokenSize = 4096
)

// digest names a token in the cache.
type digest [sha256.Size]byte

// cache holds verified tokens with the keys that they were verified with, so
// that a token that comes again costs no check of its signature. It has a
// bound, and gives up first what wasn't asked for since the hand of the clock
// last came by. Safe for concurrent use.
type cache struct {
	size, maxToken int // immutable; size 0 keeps nothing

	mu   sync.RWMutex
	byID map[digest]*cached // guarded by mu
	ring []*cached          // guarded by mu
	hand int                // guarded by mu
}

// cached is immutable but for used.
type cached struct {
	id    digest
	token *token
	keys  *keySet
	at    int // in the ring
	used  atomic.Bool
}

func newCache(size, maxToken int) *cache {
	return &cache{size: size, maxToken: maxToken, byID: map[digest]*cached{}}
}

// get returns the token if it was verified with these keys: one that was
// verified with others may not be valid any more.
func (c *cache) get(id *digest, keys *keySet) *token {
	c.mu.RLock()
	e := c.byID[*id]
	c.mu.RUnlock()
	if e == nil || e.keys != keys {
		return nil
	}
	if !e.used.Load() { // which spares the cores a shared line to write to
		e.used.Store(true)
	}
	return e.token
}

// put keeps a verified token.
func (c *cache) put(id *digest, t *token, keys *keySet) {
	if c.size == 0 || len(t.compact) > c.maxToken {
		return
	}
	e := &cached{id: *id, token: t, keys: keys}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch old := c.byID[*id]; {
	case old != nil:
		e.at = old.at
		c.ring[e.at] = e
	case len(c.ring) < c.size:
		e.at = len(c.ring)
		c.ring = append(c.ring, e)
	default:
		for c.ring[c.hand].used.Swap(false) {
			c.hand = (c.hand + 1) % len(c.ring)
		}
		delete(c.byID, c.ring[c.hand].id)
		e.at = c.hand
		c.ring[e.at] = e
		c.hand = (c.hand + 1) % len(c.ring)
	}
	c.byID[*id] = e
}

// drop forgets a token that is not valid any more. Its place in the ring is
// the next but for those before it.
func (c *cache) drop(id *digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byID[*id]; e != nil {
		delete(c.byID, *id)
		c.ring[e.at] = &cached{at: e.at}
	}
}
