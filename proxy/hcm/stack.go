// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"context"
	"runtime"
	"time"

	"pillion/proxy/http"
)

// An idle connection consists for the most part of its goroutine's stack, which a
// request makes grow to several times what waiting takes. The runtime gives back half of
// a stack only where hardly any of it is in use, and never comes down to what a new
// goroutine has. So when it is quiet, others go on with waiting.

// stackState is what is known of the stack of the goroutine of an HTTP/1 connection.
type stackState uint8

const (
	stackFresh  stackState = iota // no request was served on it
	stackUsed                     // it may have grown
	stackLeaves                   // the goroutine is asked to leave the rest to another one
)

const (
	// fewStacks are not worth a collection.
	fewStacks = 100
	// leaveTime is what the goroutines of thousands of connections are given to leave.
	leaveTime = 50 * time.Millisecond
)

// renewStacks has other goroutines go on with the connections that have been idle for a
// while, now of http.Now. The old stacks are free then.
func (t *Tracker) renewStacks(ctx context.Context, now int64) {
	var grown []*conn
	t.each(func(c *conn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.hasGrownLocked(now) {
			grown = append(grown, c)
		}
	})
	if len(grown) < fewStacks {
		return
	}
	// New stacks are as big as those that the last collection found were in use, on
	// average; it may have been made under load.
	runtime.GC()
	for _, c := range grown {
		c.mu.Lock()
		if c.hasGrownLocked(now) {
			c.leaveStackLocked()
		}
		c.mu.Unlock()
	}
	select {
	case <-ctx.Done():
	case <-time.After(leaveTime):
	}
}

// leaveStackLocked asks the goroutine to leave; mu is held.
func (c *conn) leaveStackLocked() {
	if c.multi != nil {
		c.leftAt = c.multi.IdleSince()
		c.multi.Leave()
		return
	}
	c.stack = stackLeaves
	c.sc.StopReading()
}

// hasGrownLocked reports whether a goroutine waits on a stack that may have grown; mu is
// held.
func (c *conn) hasGrownLocked(now int64) bool {
	if c.multi != nil {
		idle := c.multi.IdleSince()
		return idle != 0 && idle != c.leftAt && now-idle > int64(sweepEvery) && c.state != stateClosing
	}
	return c.state == stateIdle && c.stack == stackUsed && now-c.since > int64(sweepEvery)
}

// leavesStack reports whether that is why a read has failed: then the connection goes on.
func (c *conn) leavesStack() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stack != stackLeaves {
		return false
	}
	c.stack = stackFresh
	c.sc.ResumeReading()
	return true
}

// waitOn goes on with a connection on a new stack, of which no more is used than waiting
// takes: the runtime would double it.
func (c *conn) waitOn() http.Rest {
	if c.multi != nil {
		c.multi.Await()
	} else {
		c.sc.Await()
	}
	return c.goOn()
}

// stackUsedLocked notes that a request comes; mu is held. One that comes when the
// goroutine was asked to leave is served as any other.
func (c *conn) stackUsedLocked() {
	if c.stack == stackLeaves {
		c.sc.ResumeReading()
	}
	c.stack = stackUsed
}

// stackStaysLocked takes back what renewStacks has asked for, before the connection is
// ended by the same means; mu is held.
func (c *conn) stackStaysLocked() { c.stack = stackUsed }
