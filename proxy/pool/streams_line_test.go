// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"pillion/proxy/http"
	"pillion/proxy/http/h2"
)

// Many requests at once share one dial, and one connection.
func TestStreamsShareADial(t *testing.T) {
	hosts := &h2Hosts{held: true}
	streamRig(t, nil, hosts, func(t *testing.T, r *rig, p *Pool) {
		if p.TryStream() != nil || hosts.attempts() != 0 {
			t.Error("there is a connection before the first use")
		}
		var l line
		for range 50 {
			l.join(p, 0, nil)
		}
		l.wantDone(t, 0)
		if hosts.attempts() != 1 || r.Pending() != 50 || p.Stats.RqActive.Value() != 50 {
			t.Errorf("%d dials, %d pending, %d active", hosts.attempts(), r.Pending(), p.Stats.RqActive.Value())
		}
		hosts.block <- struct{}{}
		l.wantDone(t, 50)
		for i, c := range l.got {
			if c != l.got[0] || l.errs[i] != nil {
				t.Fatalf("request %d got another connection, or %v", i, l.errs[i])
			}
		}
		if c := p.TryStream(); c != l.got[0] {
			t.Error("a further request doesn't share the connection")
		} else {
			p.PutStream(c)
		}
		for _, c := range l.got {
			p.PutStream(c)
		}
		if hosts.attempts() != 1 || p.Stats.RqActive.Value() != 0 || p.Stats.RqTotal.Value() != 51 || r.st.CxHTTP2Total.Value() != 1 {
			t.Errorf("%d dials, %d active, %d requests, cx_http2_total %d", hosts.attempts(), p.Stats.RqActive.Value(),
				p.Stats.RqTotal.Value(), r.st.CxHTTP2Total.Value())
		}
	})
}

// Why no connection can be made reaches all that wait for it, and the next
// request tries again.
func TestStreamDialFails(t *testing.T) {
	hosts := &h2Hosts{held: true, fail: errors.New("no")}
	streamRig(t, nil, hosts, func(t *testing.T, r *rig, p *Pool) {
		var l line
		for range 3 {
			l.join(p, 0, nil)
		}
		hosts.block <- struct{}{}
		l.wantDone(t, 3)
		for i, err := range l.errs {
			if err == nil || err.Kind != http.KindConnectFailure || l.got[i] != nil {
				t.Errorf("request %d: %v", i, err)
			}
		}
		if p.Stats.RqActive.Value() != 0 || r.Open() != 0 || r.st.CxConnectFail.Value() != 1 {
			t.Errorf("active %d, open %d, cx_connect_fail %d", p.Stats.RqActive.Value(), r.Open(), r.st.CxConnectFail.Value())
		}
		hosts.fail = nil
		l.join(p, 0, nil)
		hosts.block <- struct{}{}
		l.wantDone(t, 4)
		if l.got[3] == nil {
			t.Fatal("the next request got no connection")
		}
		p.PutStream(l.got[3])
	})
}

func TestStreamConnectTimeout(t *testing.T) {
	hosts := &h2Hosts{held: true}
	streamRig(t, func(s *Settings) { s.ConnectTimeout = time.Second }, hosts, func(t *testing.T, r *rig, p *Pool) {
		var l line
		l.join(p, 0, nil)
		pass(time.Second - 1)
		l.wantDone(t, 0)
		pass(1)
		l.wantDone(t, 1)
		if l.errs[0] != errConnectTimeout || r.st.CxConnectTimeout.Value() != 1 {
			t.Errorf("%v, cx_connect_timeout %d", l.errs[0], r.st.CxConnectTimeout.Value())
		}
	})
}

// How many requests share a connection, and what becomes of the next one.
func TestStreamRoom(t *testing.T) {
	for _, tc := range []struct {
		name        string
		peer        []http2.Setting
		max         uint32
		connections uint32
		requests    int
		served      int
		conns       int
	}{
		{"the host's limit, one connection", concurrent(3), 0, 1, 5, 3, 1},
		{"the host's limit, two connections", concurrent(3), 0, 2, 7, 6, 2},
		{"our limit below the host's", concurrent(3), 2, 1, 3, 2, 1},
		{"our limit above the host's", concurrent(3), 10, 1, 5, 3, 1},
		{"our limit alone", nil, 2, 1, 3, 2, 1},
		{"before the host has named a limit", nil, 0, 1, 101, 100, 1},
		{"no connection allowed", concurrent(3), 0, 0, 4, 3, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hosts := &h2Hosts{settings: tc.peer}
			set := func(s *Settings) { s.MaxStreams, s.MaxConnections = tc.max, tc.connections }
			streamRig(t, set, hosts, func(t *testing.T, _ *rig, p *Pool) {
				var first line // lets the host's SETTINGS arrive
				first.join(p, 0, nil)
				first.wantDone(t, 1)
				p.PutStream(first.got[0])
				var l line
				for range tc.requests {
					l.join(p, 0, nil)
				}
				l.wantDone(t, tc.served)
				if hosts.count() != tc.conns {
					t.Errorf("%d connections, want %d", hosts.count(), tc.conns)
				}
				served := slices.Clone(l.got[:tc.served])
				for _, c := range served {
					p.PutStream(c)
				}
				l.wantDone(t, tc.requests)
				for _, c := range l.got[tc.served:] {
					p.PutStream(c)
				}
			})
		})
	}
}

// A host that allows no stream for now gets its requests when it allows them.
func TestStreamHostWithoutRoom(t *testing.T) {
	hosts := &h2Hosts{settings: concurrent(1)}
	streamRig(t, func(s *Settings) { s.MaxConnections = 1 }, hosts, func(t *testing.T, _ *rig, p *Pool) {
		var l line
		l.join(p, 0, nil)
		l.join(p, 0, nil)
		l.join(p, 0, nil)
		l.wantDone(t, 1)
		h := hosts.at(0)
		h.send(func() error { return h.WriteSettings(concurrent(2)...) })
		l.wantDone(t, 2)
		h.send(func() error { return h.WriteSettings(concurrent(3)...) })
		l.wantDone(t, 3)
		for _, c := range l.got {
			p.PutStream(c)
		}
	})
}

// First come, first served; nobody overtakes those that wait.
func TestStreamsInLine(t *testing.T) {
	hosts := &h2Hosts{settings: concurrent(1)}
	streamRig(t, func(s *Settings) { s.MaxConnections = 1 }, hosts, func(t *testing.T, r *rig, p *Pool) {
		var l line
		for range 6 {
			l.join(p, 0, nil)
		}
		l.wantDone(t, 1)
		for i := range 6 {
			if p.TryStream() != nil {
				t.Fatal("a request overtook those in line")
			}
			l.wantDone(t, i+1)
			p.PutStream(l.got[i])
			synctest.Wait()
		}
		if !slices.IsSorted(l.came) {
			t.Errorf("served in the order %v", l.came)
		}
		if r.st.RqPendingTotal.Value() != 6 {
			t.Errorf("rq_pending_total %d", r.st.RqPendingTotal.Value())
		}
	})
}

func TestStreamsPendingLimit(t *testing.T) {
	hosts := &h2Hosts{settings: concurrent(1)}
	set := func(s *Settings) { s.MaxConnections, s.MaxPending = 1, 2 }
	streamRig(t, set, hosts, func(t *testing.T, r *rig, p *Pool) {
		var l line
		for range 4 {
			l.join(p, 0, nil)
		}
		l.wantDone(t, 2) // one is served, the fourth refused
		if l.got[0] == nil || l.errs[3] != errOverflow || r.st.RqPendingOverflow.Value() != 1 {
			t.Errorf("%v, %v; overflow %d", l.errs[0], l.errs[3], r.st.RqPendingOverflow.Value())
		}
		for i := range 3 {
			p.PutStream(l.got[i])
			synctest.Wait()
		}
	})
}

// A host always gets one connection, whatever others hold.
func TestStreamHostGetsAConnection(t *testing.T) {
	hosts := &h2Hosts{}
	streamRig(t, func(s *Settings) { s.MaxConnections = 1 }, hosts, func(t *testing.T, r *rig, p *Pool) {
		other := &Pool{}
		other.Init(&r.Group, Target{Address: "b:1"})
		var l line
		l.join(p, 0, nil)
		l.join(other, 0, nil)
		l.wantDone(t, 2)
		if r.Open() != 2 || r.st.CxOverflow.Value() != 1 {
			t.Errorf("open %d, cx_overflow %d", r.Open(), r.st.CxOverflow.Value())
		}
		p.PutStream(l.got[0])
		other.PutStream(l.got[1])
	})
}

// Why a connection takes no more requests: it ends with those that it has.
func TestStreamRetirement(t *testing.T) {
	count := func(s *Stats) []uint64 {
		return []uint64{s.CxMaxRequests.Value(), s.CxIdleTimeout.Value(), s.CxMaxDuration.Value()}
	}
	for _, tc := range []struct {
		name string
		set  func(*Settings)
		idle bool          // while the time goes by
		wait time.Duration // before the next request
		kept bool
		want []uint64
	}{
		{"kept", func(*Settings) {}, false, 0, true, []uint64{0, 0, 0}},
		{"requests", func(s *Settings) { s.MaxRequestsPerConnection = 1 }, false, 0, false, []uint64{2, 0, 0}},
		{"fewer requests", func(s *Settings) { s.MaxRequestsPerConnection = 3 }, false, 0, true, []uint64{0, 0, 0}},
		{"idle", func(s *Settings) { s.IdleTimeout = time.Hour }, true, 62 * time.Minute, false, []uint64{0, 1, 0}},
		{"not yet idle", func(s *Settings) { s.IdleTimeout = time.Hour }, true, 59 * time.Minute, true, []uint64{0, 0, 0}},
		{"busy all the time", func(s *Settings) { s.IdleTimeout = time.Hour }, false, 10 * time.Hour, true, []uint64{0, 0, 0}},
		{"no bound", func(s *Settings) { s.IdleTimeout = 0 }, true, 100 * time.Hour, true, []uint64{0, 0, 0}},
		{"age", func(s *Settings) { s.MaxConnectionAge = time.Hour }, false, 62 * time.Minute, false, []uint64{0, 0, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hosts := &h2Hosts{}
			streamRig(t, tc.set, hosts, func(t *testing.T, r *rig, p *Pool) {
				var l line
				l.join(p, 0, nil)
				l.wantDone(t, 1)
				c := l.got[0]
				s, lost := begin(t, c)
				if tc.idle {
					finish(c, s)
				}
				if tc.wait > 0 {
					pass(tc.wait)
				}
				l.join(p, 0, nil)
				l.wantDone(t, 2)
				if kept := l.got[1] == c; kept != tc.kept {
					t.Errorf("kept = %v", kept)
				}
				if !tc.idle {
					if lost.resets.Load() != 0 {
						t.Error("the request in progress was broken off")
					}
					finish(c, s)
				}
				synctest.Wait()
				if ended := hosts.at(0).ended.Load(); ended == tc.kept {
					t.Errorf("the connection has ended: %v", ended)
				}
				p.PutStream(l.got[1])
				if got := count(r.st); !slices.Equal(got, tc.want) {
					t.Errorf("counted %v, want %v", got, tc.want)
				}
			})
		})
	}
}

// A host that goes away, and lets its requests go on, serves no further ones:
// those that wait get another connection at once.
func TestStreamGoAway(t *testing.T) {
	hosts := &h2Hosts{settings: concurrent(1)}
	streamRig(t, func(s *Settings) { s.MaxConnections = 1 }, hosts, func(t *testing.T, _ *rig, p *Pool) {
		var l line
		l.join(p, 0, nil)
		l.wantDone(t, 1)
		s, lost := begin(t, l.got[0])
		l.join(p, 0, nil)
		l.wantDone(t, 1)
		h := hosts.at(0)
		h.send(func() error { return h.WriteGoAway(1, http2.ErrCodeNo, nil) })
		l.wantDone(t, 2)
		if l.got[1] == l.got[0] || hosts.count() != 2 {
			t.Errorf("the one in line has the same connection: %v; %d connections", l.got[1] == l.got[0], hosts.count())
		}
		if lost.resets.Load() != 0 || h.ended.Load() {
			t.Error("the request that the host still serves was broken off")
		}
		finish(l.got[0], s)
		synctest.Wait()
		if !h.ended.Load() {
			t.Error("the connection outlives its last request")
		}
		p.PutStream(l.got[1])
	})
}

// The end of a connection makes room for another.
func TestStreamConnectionLost(t *testing.T) {
	hosts := &h2Hosts{settings: concurrent(1)}
	streamRig(t, func(s *Settings) { s.MaxConnections = 1 }, hosts, func(t *testing.T, r *rig, p *Pool) {
		var l line
		l.join(p, 0, nil)
		l.wantDone(t, 1)
		_, lost := begin(t, l.got[0])
		l.join(p, 0, nil)
		_ = hosts.at(0).nc.Close()
		l.wantDone(t, 2)
		if lost.resets.Load() != 1 || l.got[1] == nil || l.got[1] == l.got[0] {
			t.Errorf("%d resets; the one in line got %v, %v", lost.resets.Load(), l.got[1], l.errs[1])
		}
		p.PutStream(l.got[0])
		p.PutStream(l.got[1])
		if r.st.CxDestroyRemote.Value() != 1 || r.Open() != 1 {
			t.Errorf("cx_destroy_remote %d, open %d", r.st.CxDestroyRemote.Value(), r.Open())
		}
	})
}

// Changes of the configuration end connections with their requests, whether
// these have begun or only have their place; later requests are served.
func TestStreamDrain(t *testing.T) {
	for name, drain := range map[string]func(*rig){
		"socket options": func(r *rig) {
			s := *r.Settings()
			s.Socket.Keepalive = true
			r.Update(&s)
		},
		"http2 options": func(r *rig) {
			s := *r.Settings()
			s.HTTP2.StreamWindow = 1 << 20
			r.Update(&s)
		},
		"host":    func(r *rig) { r.hosts[0].Close() },
		"cluster": func(r *rig) { r.Group.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			hosts := &h2Hosts{}
			streamRig(t, nil, hosts, func(t *testing.T, r *rig, p *Pool) {
				var l line
				l.join(p, 0, nil)
				l.join(p, 0, nil)
				l.wantDone(t, 2)
				a, lost := begin(t, l.got[0])
				drain(r)
				synctest.Wait()
				b, _ := begin(t, l.got[1])
				finish(l.got[1], b)
				if h := hosts.at(0); h.ended.Load() || lost.resets.Load() != 0 {
					t.Error("a request in progress was broken off")
				}
				l.join(p, 0, nil)
				l.wantDone(t, 3)
				if l.got[2] == l.got[0] {
					t.Error("the next request got the old connection")
				}
				c, _ := begin(t, l.got[2])
				finish(l.got[2], c)
				finish(l.got[0], a)
				synctest.Wait()
				if h := hosts.at(0); !h.ended.Load() || h.goAways.Load() != 1 {
					t.Errorf("ended %v, after %d GOAWAYs", h.ended.Load(), h.goAways.Load())
				}
			})
		})
	}
}

// More room by configuration is for those in line, too.
func TestStreamLimitsRaised(t *testing.T) {
	for name, raise := range map[string]func(*Settings){
		"streams":     func(s *Settings) { s.MaxStreams = 2 },
		"connections": func(s *Settings) { s.MaxConnections = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			hosts := &h2Hosts{}
			streamRig(t, func(s *Settings) { s.MaxConnections, s.MaxStreams = 1, 1 }, hosts, func(t *testing.T, r *rig, p *Pool) {
				var l line
				l.join(p, 0, nil)
				l.join(p, 0, nil)
				l.wantDone(t, 1)
				s := *r.Settings()
				raise(&s)
				r.Update(&s)
				l.wantDone(t, 2)
				p.PutStream(l.got[0])
				p.PutStream(l.got[1])
			})
		})
	}
}

// Those that give up leave the line, and hand on what they got in that moment.
func TestStreamWaitersLeave(t *testing.T) {
	hosts := &h2Hosts{settings: concurrent(1)}
	streamRig(t, func(s *Settings) { s.MaxConnections = 1 }, hosts, func(t *testing.T, r *rig, p *Pool) {
		var l line
		l.join(p, 0, nil)
		l.wantDone(t, 1)
		cancel := make(chan struct{})
		l.join(p, 0, cancel)
		l.join(p, http.Now()+int64(time.Second), nil)
		l.join(p, 0, nil)
		close(cancel)
		l.wantDone(t, 2)
		pass(time.Second)
		l.wantDone(t, 3)
		if l.errs[1] != errCancelled || l.errs[2] != errLate || r.Pending() != 1 {
			t.Errorf("%v, %v, %d pending", l.errs[1], l.errs[2], r.Pending())
		}
		// One that is served and cancelled at once takes either way.
		both := make(chan struct{})
		l.join(p, 0, both)
		p.PutStream(l.got[0])
		l.wantDone(t, 4)
		go close(both)
		p.PutStream(l.got[3])
		l.wantDone(t, 5)
		if c := l.got[4]; c != nil {
			p.PutStream(c)
		}
		c := p.TryStream()
		if c == nil {
			t.Fatal("the place is lost")
		}
		p.PutStream(c)
		if p.Stats.RqActive.Value() != 0 {
			t.Errorf("%d requests count as active", p.Stats.RqActive.Value())
		}
	})
}

// Everything at once, for the race detector: each request that gets a place
// can be sent, and at the end all places are free.
func TestStreamsUnderLoad(t *testing.T) {
	hosts := &h2Hosts{settings: concurrent(4)}
	set := func(s *Settings) { s.MaxConnections, s.MaxRequestsPerConnection = 2, 50 }
	streamRig(t, set, hosts, func(t *testing.T, r *rig, p *Pool) {
		var wg sync.WaitGroup
		var sent, refused atomic.Int32
		for w := range 16 {
			wg.Go(func() {
				for i := range 100 {
					cancel := make(chan struct{})
					if (w+i)%5 == 0 {
						go close(cancel)
					}
					c, err := p.AcquireStream(0, cancel)
					if err != nil {
						if err != errCancelled {
							t.Errorf("%v", err.Detail)
						}
						continue
					}
					var s h2.Stream
					if _, err := c.H2.Open(&s, new(nobody), &getHead, true); err != nil {
						refused.Add(1)
						p.PutStream(c)
						continue
					}
					sent.Add(1)
					finish(c, &s)
					if w == 0 && i%30 == 29 {
						next := *r.Settings()
						next.Socket.Keepalive = !next.Socket.Keepalive
						r.Update(&next)
					}
				}
			})
		}
		wg.Wait()
		if sent.Load() < 1000 || refused.Load() > 0 {
			t.Errorf("%d requests were sent, %d had a place and couldn't be", sent.Load(), refused.Load())
		}
		if p.Stats.RqActive.Value() != 0 || p.OpenStreams() != 0 {
			t.Errorf("%d active, %d streams", p.Stats.RqActive.Value(), p.OpenStreams())
		}
	})
}
