// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"sync"
	"time"

	"pillion/proxy/http"
)

// Sweeper closes idle connections whose time is up or that their host has
// closed. One goroutine serves all groups, and it sleeps while no connection
// exists.
type Sweeper struct {
	every time.Duration // immutable
	wake  chan struct{} // has room for one
	stop  chan struct{} // closed by Close
	done  chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	groups []*Group // guarded by mu; those that may have connections
}

// NewSweeper starts a sweeper that looks at each idle connection once per
// interval. It must be closed.
func NewSweeper(every time.Duration) *Sweeper {
	s := &Sweeper{every: every, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

// Close ends the sweeper. No group may get a connection afterwards that is
// expected to be looked after.
func (s *Sweeper) Close() {
	close(s.stop)
	<-s.done
}

func (s *Sweeper) add(g *Group) {
	s.mu.Lock()
	s.groups = append(s.groups, g)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Sweeper) run() {
	defer close(s.done)
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
		}
		for left := true; left; left = s.sweep() {
			timer := time.NewTimer(s.every)
			select {
			case <-s.stop:
				timer.Stop()
				return
			case <-timer.C:
			}
		}
	}
}

// sweep looks at all groups once and forgets those without connections. It
// reports whether any are left.
func (s *Sweeper) sweep() bool {
	s.mu.Lock()
	groups := append([]*Group(nil), s.groups...)
	s.mu.Unlock()
	for _, g := range groups {
		g.sweep(int64(s.every) / 2)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.groups[:0]
	for _, g := range s.groups {
		if g.prune() {
			kept = append(kept, g)
		}
	}
	clear(s.groups[len(kept):])
	s.groups = kept
	return len(kept) > 0
}

// prune forgets pools without connections and reports whether any is left.
// Sweeper.mu is held.
func (g *Group) prune() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept := g.pools[:0]
	for _, p := range g.pools {
		if p.listed = p.open.Load() > 0; p.listed {
			kept = append(kept, p)
		}
	}
	clear(g.pools[len(kept):])
	g.pools = kept
	if len(kept) == 0 {
		g.pools = nil
		g.listed = false
	}
	return g.listed
}

func (g *Group) sweep(older int64) {
	g.mu.Lock()
	pools := append([]*Pool(nil), g.pools...)
	g.mu.Unlock()
	s := g.settings.Load()
	for _, p := range pools {
		p.sweep(s, older)
	}
	if g.waiting.Load() > 0 {
		g.dispatch(nil)
	}
}

// sweepBatch is how many connections a sweep takes out of use at once, for
// some microseconds.
const sweepBatch = 16

// sweep looks at the connections that have been idle for longer than older.
// It takes them out in small batches, the coldest first, so that no lock is
// held while the kernel is asked.
func (p *Pool) sweep(s *Settings, older int64) {
	p.wary.Store(false)
	p.sweepStreams(s, http.Now())
	var batch [sweepBatch]*Conn
	for {
		now := http.Now()
		n := 0
		p.mu.Lock()
		for n < len(batch) && p.idle.tail != nil && now-p.idle.tail.idleSince > older {
			batch[n] = p.idle.popTail()
			n++
		}
		p.mu.Unlock()
		if n == 0 {
			break
		}
		kept := batch[:0]
		for _, c := range batch[:n] {
			if !p.retire(c, s, now) && p.alive(c, now-c.idleSince) {
				kept = append(kept, c)
			} else {
				p.group.release()
			}
		}
		p.mu.Lock()
		for _, c := range kept {
			p.checked.pushHead(c)
		}
		p.mu.Unlock()
	}
	p.mu.Lock()
	p.idle.appendList(&p.checked)
	p.mu.Unlock()
	if p.gone.Load() || p.group.closed.Load() {
		p.drainIdle() // what was out while others were closed
	}
}
