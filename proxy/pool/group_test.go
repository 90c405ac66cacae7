// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pillion/proxy/http"
)

// waitFor starts an Acquire in its own goroutine; its outcome can be received.
func (r *rig) waitFor(host int, deadline int64, cancel <-chan struct{}) chan any {
	out := make(chan any, 1)
	go func() {
		c, err := r.hosts[host].Acquire(deadline, cancel, http.MethodGet)
		if err != nil {
			out <- err
			return
		}
		out <- c
	}()
	return out
}

func outcome(ch chan any) any {
	select {
	case v := <-ch:
		return v
	default:
		return nil
	}
}

func TestQueueIsFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Defaults()
		s.MaxConnections = 1
		r := newRig(t, s, (&pipes{}).dial, time.Hour, "a:1")
		c := r.must(t, 0)
		var waiters []chan any
		for range 5 {
			waiters = append(waiters, r.waitFor(0, 0, nil))
			synctest.Wait()
		}
		if r.Pending() != 5 || r.Open() != 1 {
			t.Fatalf("pending %d, open %d", r.Pending(), r.Open())
		}
		for i := range waiters {
			r.hosts[0].Put(c, true)
			synctest.Wait()
			for j := i + 1; j < len(waiters); j++ {
				if outcome(waiters[j]) != nil {
					t.Fatalf("waiter %d was served before waiter %d", j, i)
				}
			}
			got, ok := outcome(waiters[i]).(*Conn)
			if !ok || got != c || !got.Reused() {
				t.Fatalf("waiter %d got %v", i, got)
			}
		}
		r.hosts[0].Put(c, true)
		if r.Pending() != 0 || r.st.CxTotal.Value() != 1 || r.st.CxOverflow.Value() != 5 || r.st.RqPendingTotal.Value() != 6 {
			t.Errorf("pending %d, cx_total %d, cx_overflow %d, rq_pending_total %d", r.Pending(), r.st.CxTotal.Value(),
				r.st.CxOverflow.Value(), r.st.RqPendingTotal.Value())
		}
		r.close()
	})
}

func TestPendingLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Defaults()
		s.MaxConnections, s.MaxPending = 1, 2
		d := &pipes{block: make(chan struct{})}
		r := newRig(t, s, d.dial, time.Hour, "a:1", "b:1")
		// One connects and one waits: both are pending.
		connecting := r.waitFor(0, 0, nil)
		synctest.Wait()
		waiting := r.waitFor(1, 0, nil)
		synctest.Wait()
		_, err := r.hosts[0].Acquire(0, nil, http.MethodGet)
		if err != errOverflow {
			t.Fatalf("third request: %v", err)
		}
		if err.Status != 503 || err.Flag.String() != "UO" || err.Detail != "upstream_reset_before_response_started{overflow}" ||
			err.Body != "upstream connect error or disconnect/reset before headers. reset reason: overflow" {
			t.Errorf("overflow is %+v", err)
		}
		if r.st.RqPendingOverflow.Value() != 1 {
			t.Errorf("overflow counted %d times", r.st.RqPendingOverflow.Value())
		}
		d.block <- struct{}{}
		synctest.Wait()
		c := outcome(connecting).(*Conn)
		r.hosts[0].Put(c, false)
		d.block <- struct{}{}
		synctest.Wait()
		r.hosts[1].Put(outcome(waiting).(*Conn), true)
		r.close()
	})
}

func TestWaiterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Defaults()
		s.MaxConnections = 1
		r := newRig(t, s, (&pipes{}).dial, time.Hour, "a:1")
		c := r.must(t, 0)
		cancel := make(chan struct{})
		gone := r.waitFor(0, 0, cancel)
		late := r.waitFor(0, http.Now()+int64(time.Second), nil)
		stays := r.waitFor(0, http.Now()+int64(time.Minute), make(chan struct{}))
		synctest.Wait()
		close(cancel)
		synctest.Wait()
		if got := outcome(gone); got != errCancelled {
			t.Errorf("cancelled waiter got %v", got)
		}
		pass(time.Second)
		if got := outcome(late); got != errLate {
			t.Errorf("late waiter got %v", got)
		}
		if r.Pending() != 1 || r.waiting.Load() != 1 {
			t.Errorf("pending %d, waiting %d", r.Pending(), r.waiting.Load())
		}
		r.hosts[0].Put(c, true)
		synctest.Wait()
		if outcome(stays) != c {
			t.Error("the one that stayed was not served")
		}
		r.hosts[0].Put(c, true)
		r.close()
	})
}

// What a waiter was given in the moment in which it gave up is not lost.
func TestAbandonedGrantIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Defaults()
		s.MaxConnections = 1
		r := newRig(t, s, (&pipes{}).dial, time.Hour, "a:1", "b:1")
		grantTo := func(host int) *waiter {
			w := &waiter{pool: r.hosts[host], ready: make(chan struct{})}
			r.mu.Lock()
			r.queue.push(w)
			r.mu.Unlock()
			r.waiting.Add(1)
			r.dispatch(nil)
			if !w.granted {
				t.Fatal("nothing granted")
			}
			return w
		}
		// A place.
		if err := r.abandon(grantTo(0), errLate); err != errLate || r.Open() != 0 {
			t.Fatalf("place: %v, open %d", err, r.Open())
		}
		// A connection.
		c := r.must(t, 0)
		r.hosts[0].Put(c, true)
		w := grantTo(0)
		if w.conn != c {
			t.Fatalf("granted %+v", w)
		}
		_ = r.abandon(w, errLate)
		if r.hosts[0].Idle() != 1 || r.Open() != 1 {
			t.Fatalf("connection: idle %d, open %d", r.hosts[0].Idle(), r.Open())
		}
		// Another host's connection, to be closed.
		w = grantTo(1)
		if w.victim != c {
			t.Fatalf("granted %+v", w)
		}
		_ = r.abandon(w, errLate)
		if r.hosts[0].Idle() != 1 || r.Open() != 1 || r.st.CxDestroy.Value() != 0 {
			t.Fatalf("victim: idle %d, open %d", r.hosts[0].Idle(), r.Open())
		}
		r.close()
	})
}

// At the limit, idle connections of other hosts make room, the one used
// least recently first.
func TestIdleOfOtherHostsMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Defaults()
		s.MaxConnections = 3
		d := &pipes{}
		r := newRig(t, s, d.dial, time.Hour, "a:1", "b:1", "c:1")
		a1, a2, b := r.must(t, 0), r.must(t, 0), r.must(t, 1)
		r.hosts[0].Put(a1, true)
		pass(time.Second)
		r.hosts[1].Put(b, true)
		c := r.must(t, 2) // closes a1
		if r.hosts[0].Open() != 1 || r.hosts[1].Open() != 1 || r.Open() != 3 {
			t.Fatalf("open: a %d, b %d, all %d", r.hosts[0].Open(), r.hosts[1].Open(), r.Open())
		}
		c2 := r.must(t, 2) // closes b
		if r.hosts[1].Open() != 0 || r.hosts[2].Open() != 2 || r.Open() != 3 {
			t.Fatalf("open: b %d, c %d, all %d", r.hosts[1].Open(), r.hosts[2].Open(), r.Open())
		}
		// Nothing idle is left: b waits until one is.
		w := r.waitFor(1, 0, nil)
		synctest.Wait()
		if outcome(w) != nil {
			t.Fatal("a fourth connection")
		}
		r.hosts[2].Put(c, true)
		synctest.Wait()
		b2, ok := outcome(w).(*Conn)
		if !ok || r.hosts[2].Open() != 1 || r.Open() != 3 {
			t.Fatalf("b got %v; open: c %d, all %d", b2, r.hosts[2].Open(), r.Open())
		}
		if got := r.st.CxDestroyLocal.Value(); got != 3 {
			t.Errorf("%d connections were closed to make room, want 3", got)
		}
		r.hosts[0].Put(a2, true)
		r.hosts[1].Put(b2, true)
		r.hosts[2].Put(c2, true)
		r.close()
	})
}

// Two hosts under one limit keep their connections while requests for both
// wait, but nobody is passed over for ever.
func TestConnectionsStayWithTheirHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Defaults()
		s.MaxConnections = 1
		d := &pipes{}
		r := newRig(t, s, d.dial, time.Hour, "a:1", "b:1")
		c := r.must(t, 0)
		b := r.waitFor(1, 0, nil)
		synctest.Wait()
		passed := 0
		for outcome(b) == nil {
			a := r.waitFor(0, 0, nil)
			synctest.Wait()
			r.hosts[0].Put(c, true)
			synctest.Wait()
			got, ok := outcome(a).(*Conn)
			if !ok { // b's turn
				c = nil
				if passed != maxPassed {
					t.Errorf("b was passed over %d times, want %d", passed, maxPassed)
				}
				if d.count() != 2 {
					t.Errorf("%d connections were made, want 2", d.count())
				}
				r.finish(t, a)
				return
			}
			c = got
			passed++
		}
		t.Error("b was served first although a's connection became free")
	})
}

// finish serves what still waits and closes.
func (r *rig) finish(t *testing.T, waiting ...chan any) {
	r.Update(&Settings{MaxConnections: NoLimit, MaxPending: NoLimit, ConnectTimeout: time.Second})
	synctest.Wait()
	for _, w := range waiting {
		c, ok := outcome(w).(*Conn)
		if !ok {
			t.Error("a waiter was not served after the limit was lifted")
			continue
		}
		c.Pool().Put(c, false)
	}
	r.close()
}

func TestLimitsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Defaults()
		s.MaxConnections = 1
		r := newRig(t, s, (&pipes{}).dial, time.Hour, "a:1")
		c1 := r.must(t, 0)
		w := r.waitFor(0, 0, nil)
		synctest.Wait()
		s.MaxConnections = 3
		raised := s
		r.Update(&raised)
		synctest.Wait()
		c2, ok := outcome(w).(*Conn)
		if !ok {
			t.Fatal("a raised limit served nobody")
		}
		c3 := r.must(t, 0)
		lowered := s
		lowered.MaxConnections = 1
		r.Update(&lowered)
		for _, c := range []*Conn{c1, c2, c3} {
			r.hosts[0].Put(c, true)
		}
		if r.Open() != 1 || r.hosts[0].Idle() != 1 {
			t.Errorf("after lowering: open %d, idle %d", r.Open(), r.hosts[0].Idle())
		}
		r.close()
	})
}

// The limit holds at every moment while many goroutines use three hosts.
func TestMaxConnectionsIsExact(t *testing.T) {
	const limit, workers, rounds = 5, 16, 300
	servers := []*server{serve(t, forever), serve(t, forever), serve(t, forever)}
	s := Defaults()
	s.MaxConnections = limit
	var inUse, most atomic.Int32
	r := newRig(t, s, nil, 5*time.Millisecond, servers[0].addr(), servers[1].addr(), servers[2].addr())
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				p := r.hosts[(w+i)%3]
				c, err := p.Acquire(http.Now()+int64(30*time.Second), nil, http.MethodGet)
				if err != nil {
					t.Error(err)
					return
				}
				n := inUse.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				if open := r.Open(); open > limit {
					t.Errorf("%d connections are open", open)
				}
				ok, serr := send(c, http.MethodGet)
				if serr != nil {
					t.Error(serr)
				}
				inUse.Add(-1)
				p.Put(c, ok && i%20 != 0)
			}
		})
	}
	wg.Wait()
	if most.Load() != limit {
		t.Errorf("at most %d connections were in use at once, want %d", most.Load(), limit)
	}
	open := r.hosts[0].Open() + r.hosts[1].Open() + r.hosts[2].Open()
	if int64(open) != r.Open() || r.Open() > limit || r.Pending() != 0 || r.waiting.Load() != 0 {
		t.Errorf("in the end: %d of hosts, %d of the group, %d pending, %d waiting", open, r.Open(), r.Pending(), r.waiting.Load())
	}
	if got := r.st.CxTotal.Value() - r.st.CxDestroy.Value(); got != uint64(open) {
		t.Errorf("cx_total − cx_destroy = %d, open = %d", got, open)
	}
}
