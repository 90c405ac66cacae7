// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestHalfOpen: a place is kept for a second, whoever waits; then the oldest
// handshake loses it, and no other one.
func TestHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHalfOpen(2)
		enter := func() (*place, context.Context) {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			p := h.enter(ctx, cancel)
			return p, ctx
		}
		start := time.Now()
		first, firstCtx := enter()
		go func() { // a handshake that goes on for as long as it is let
			<-firstCtx.Done()
			h.leave(first)
		}()
		second, secondCtx := enter()
		third, thirdCtx := enter()
		if third == nil || firstCtx.Err() != context.Canceled || secondCtx.Err() != nil || thirdCtx.Err() != nil {
			t.Fatalf("%v, %v, %v, %v", third, firstCtx.Err(), secondCtx.Err(), thirdCtx.Err())
		}
		if waited := time.Since(start); waited < time.Second || waited > 2*time.Second {
			t.Errorf("the third got its place after %v", waited)
		}
		h.leave(second)
		h.leave(third)
		if n := h.Evicted.Value(); n != 1 || len(h.places) != 0 || h.oldest.Len() != 0 {
			t.Errorf("%d lost their place, %d are taken", n, len(h.places))
		}
	})
}

// TestHalfOpenGivesUp: who finds no place in its time goes away.
func TestHalfOpenGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHalfOpen(1)
		never := func() {} // a handshake that doesn't end when it is told to
		held := h.enter(t.Context(), never)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if p := h.enter(ctx, cancel); p != nil {
			t.Error("there is a place that nobody has left")
		}
		h.leave(held)
		if p := h.enter(t.Context(), never); p == nil {
			t.Error("a place that was left is gone")
		}
	})
}
