// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"sync/atomic"
	"time"

	"pillion/proxy/http"
)

// dateCache holds the value of the Date field (RFC 9110 section 6.6.1), made
// once a second.
type dateCache struct{ v atomic.Pointer[datedValue] }

type datedValue struct {
	until int64 // of http.Now
	text  []byte
}

// at returns the value for the time now, of http.Now.
func (d *dateCache) at(now int64) []byte {
	if v := d.v.Load(); v != nil && now < v.until {
		return v.text
	}
	t := http.WallTime(now)
	next := t.Truncate(time.Second).Add(time.Second)
	v := &datedValue{
		until: now + int64(next.Sub(t)),
		text:  []byte(t.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")),
	}
	d.v.Store(v)
	return v.text
}
