// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"sync/atomic"
	"time"
)

// keepalive is what a Pool has learned of the time after which its host
// closes idle connections. 0 is nothing yet.
//
// Every close that is seen on an idle connection says that the time is at
// most as long as the connection was idle; every idle connection that is
// seen open says that it is longer. A host that restarts closes connections
// of any age, so a value that is too short is learned now and then; the next
// sweep over older connections corrects it.
type keepalive struct{ ns atomic.Int64 }

const (
	// A host that closes this soon after an answer does so for another
	// reason, such as a limit on requests per connection.
	minKeepalive = int64(5 * time.Millisecond)
	// The margin that is kept from the learned time is a third of it, within
	// these bounds: closes are seen late, above all on a busy machine, and the
	// FIN needs its time as well.
	minMargin = int64(time.Millisecond)
	maxMargin = int64(2 * time.Second)
)

// closed notes that the host was seen to have closed a connection that had
// been idle for that long.
func (k *keepalive) closed(idle int64) {
	if idle < minKeepalive {
		return
	}
	for {
		old := k.ns.Load()
		if old != 0 && old <= idle || k.ns.CompareAndSwap(old, idle) {
			return
		}
	}
}

// open notes that a connection was open after it had been idle for that long.
func (k *keepalive) open(idle int64) {
	for {
		old := k.ns.Load()
		if old == 0 || idle < old || k.ns.CompareAndSwap(old, idle+idle/8) {
			return
		}
	}
}

// expired reports whether the host may be about to close a connection that
// has been idle for that long.
func (k *keepalive) expired(idle int64) bool {
	t := k.ns.Load()
	return t != 0 && idle > t-min(max(t/3, minMargin), maxMargin)
}
