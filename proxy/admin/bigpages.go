// SPDX-License-Identifier: Apache-2.0

package admin

import (
	nethttp "net/http"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

const (
	// bigPage is how much a page allocates to be worth a collection.
	bigPage = 4 << 20
	// pagesEvery bounds how often pages cause one: a scrape comes every few seconds.
	pagesEvery = time.Minute
)

// bigPages serves pages of which some are big for the moment that somebody reads them: a
// scrape of 5,000 services, a dump of their configuration. What such a page needed is
// given back after it; the collector alone would wait until the heap has doubled.
type bigPages struct {
	pages    nethttp.Handler
	giveBack func()
	given    atomic.Int64 // Unix time in nanoseconds; 0: never
}

// GiveBackAfterBig returns h with giveBack called after a page that needed much memory,
// from a goroutine of its own, once a minute at most.
func GiveBackAfterBig(h nethttp.Handler, giveBack func()) nethttp.Handler {
	return &bigPages{pages: h, giveBack: giveBack}
}

// ServeHTTP implements net/http.Handler.
func (b *bigPages) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	before := allocated()
	b.pages.ServeHTTP(w, r)
	if allocated()-before < bigPage {
		return
	}
	now, given := time.Now().UnixNano(), b.given.Load()
	if given != 0 && now-given < int64(pagesEvery) || !b.given.CompareAndSwap(given, now) {
		return
	}
	go b.giveBack() // the end of the answer doesn't wait for it
}

// allocated returns how many bytes were ever allocated.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
