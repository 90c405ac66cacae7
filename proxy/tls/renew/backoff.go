// SPDX-License-Identifier: Apache-2.0

package renew

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is a wait that doubles from Base to Max. A random half of each is
// left out, so that the proxies of a cluster don't ask all at once. Owned by
// one goroutine.
type Backoff struct {
	Base, Max time.Duration
	next      time.Duration
}

// Next returns how long to wait this time.
func (b *Backoff) Next() time.Duration {
	d := max(b.next, b.Base)
	b.next = min(d*2, b.Max)
	return d/2 + rand.N(d/2+1)
}

// Reset begins again at Base.
func (b *Backoff) Reset() { b.next = 0 }

// Wait waits, and reports false if ctx ended before.
func Wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// WaitUntil waits for a time of the wall clock. It looks at the clock once in
// a while, because timers stand still while a machine sleeps and certificates
// don't.
func WaitUntil(ctx context.Context, at time.Time) bool {
	at = at.Round(0) // strips the monotonic reading
	for {
		left := at.Sub(time.Now().Round(0))
		if left <= 0 {
			return ctx.Err() == nil
		}
		if !Wait(ctx, min(left, time.Minute)) {
			return false
		}
	}
}
