// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"

	"pillion/proxy/cluster"
	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// TestWeights: targets get their share from the first connections on, and those
// without a weight get none.
func TestWeights(t *testing.T) {
	for _, weights := range [][]uint32{{1}, {1, 1}, {70, 30}, {0, 5, 0}, {1, 2, 3, 4}, {1, 99}, {1 << 31, 1 << 31, 1 << 31}} {
		m := cluster.NewManager(cluster.Options{})
		var targets []Target
		var total uint64
		for i, w := range weights {
			targets = append(targets, Target{Cluster: m.Slot(fmt.Sprint(i)), Weight: w})
			total += uint64(w)
		}
		p := New(&Config{Targets: targets}, NewTracker())
		const n = 1000
		got := map[string]int{}
		for range n {
			got[p.choose().Name()]++
		}
		for i, w := range weights {
			want := int(n * uint64(w) / total)
			if have := got[fmt.Sprint(i)]; have < want-5 || have > want+5 || w == 0 && have != 0 {
				t.Errorf("of weights %v: number %d got %d of %d, want %d", weights, i, have, n, want)
			}
		}
		m.Close()
	}
}

// TestServesTheTarget: a connection is made to the cluster that was chosen, and counts
// for it.
func TestServesTheTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialled := map[string]int{}
		r := newRig(t, func(_ context.Context, address string) (net.Conn, error) {
			dialled[address]++
			return nil, errors.New("no")
		}, nil, nil, "10.0.0.2:80", "10.0.0.3:80")
		defer r.end()
		r.cfg.Targets = []Target{{r.clusters.Slot("10.0.0.2:80"), 1}, {r.clusters.Slot("10.0.0.3:80"), 3}}
		r.proxy = New(r.cfg, r.tracker)
		for range 100 {
			near, far := net.Pipe()
			info, done := r.serve(near)
			<-done
			far.Close()
			if o := info.Outcome(); o.ClusterName != o.Upstream.Address {
				t.Fatalf("%s of cluster %s", o.Upstream.Address, o.ClusterName)
			}
		}
		if a, b := dialled["10.0.0.2:80"], dialled["10.0.0.3:80"]; a < 22 || a > 28 || a+b != 100 {
			t.Errorf("of 100 connections %v, want a quarter and the rest", dialled)
		}
	})
}

// refusal is what net.Dialer says of a port at which nobody listens.
func refusal() error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

// TestConnectFails: what goes wrong before there is a connection, and what it leaves.
func TestConnectFails(t *testing.T) {
	hosts := []string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"}
	const refused = "delayed connect error: Connection refused"
	for _, c := range []struct {
		name     string
		hosts    []string
		cluster  string // empty: c
		attempts int
		breaker  uint32
		fails    int // so many of the first attempts fail
		hangs    bool
		// What is expected.
		dialled  []string
		flags    string
		reason   string
		exceeded uint64
		served   bool
	}{
		{name: "at once", hosts: hosts, attempts: 1, fails: 9, dialled: hosts[:1], flags: "UF,URX", reason: refused, exceeded: 1},
		{name: "each host once", hosts: hosts, attempts: 3, fails: 9, dialled: hosts, flags: "UF,URX", reason: refused, exceeded: 1},
		{name: "one host again and again", hosts: hosts[:1], attempts: 3, fails: 9, dialled: slices.Repeat(hosts[:1], 3), flags: "UF,URX", reason: refused, exceeded: 1},
		{name: "the second one answers", hosts: hosts, attempts: 3, fails: 1, dialled: hosts[:2], flags: "-", served: true},
		{name: "in time or never", hosts: hosts, attempts: 2, hangs: true, dialled: hosts[:2], flags: "UF,URX", exceeded: 1},
		{name: "no host", attempts: 3, flags: "UH"},
		{name: "no cluster", hosts: hosts, cluster: "none", attempts: 3, flags: "NC"},
		{name: "no place", hosts: hosts, attempts: 3, breaker: 1, flags: "UO"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var dialled []string
				r := newRig(t, func(ctx context.Context, address string) (net.Conn, error) {
					dialled = append(dialled, address)
					if c.hangs {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					if len(dialled) <= c.fails {
						return nil, refusal()
					}
					near, far := net.Pipe()
					far.Close()
					return near, nil
				}, c.hosts, func(cfg *Config) { cfg.MaxConnectAttempts = c.attempts })
				defer r.end()
				if c.cluster != "" {
					r.cfg.Targets[0].Cluster = r.clusters.Slot(c.cluster)
				}
				if c.breaker != 0 {
					full := hostsOf("c", c.hosts...)
					full.Conn.MaxConnections = 0
					if err := r.clusters.Update([]*cluster.Config{full}, nil); err != nil {
						t.Fatal(err)
					}
				}
				near, far := net.Pipe()
				info, done := r.serve(near)
				far.Close() // the client has nothing to say
				<-done
				o := info.Outcome()
				if !slices.Equal(dialled, c.dialled) || o.Flags.String() != c.flags || o.UpstreamFailure != c.reason {
					t.Errorf("dialled %v, flags %s, reason %q", dialled, o.Flags, o.UpstreamFailure)
				}
				if len(c.dialled) > 0 && o.Upstream.Address != c.dialled[len(c.dialled)-1] || (o.UpstreamLocal != "") != c.served {
					t.Errorf("the host is %v, reached from %q", o.Upstream, o.UpstreamLocal)
				}
				if n := r.clusters.Get("c").Stats.CxConnectAttemptsExceeded.Value(); n != c.exceeded {
					t.Errorf("%d times the attempts were used up", n)
				}
				if n := r.cfg.Stats.NoRoute.Value(); (n == 1) != (c.flags == "NC") || r.cfg.Stats.CxTotal.Value() != 1 {
					t.Errorf("%d without a route, %d connections", n, r.cfg.Stats.CxTotal.Value())
				}
				// Filters hear of a failure once: the connection has come and gone.
				events := r.told.all()
				if c.served {
					if len(events) != 2 || !events[0].Opened || events[0].Closed || !events[1].Closed || events[1].Host.Address != hosts[1] {
						t.Errorf("filters were told %+v", events)
					}
				} else if len(events) != 1 || !events[0].Opened || !events[0].Closed || events[0].Flags.String() != c.flags {
					t.Errorf("filters were told %+v", events)
				}
			})
		})
	}
}

// TestDrainEndsConnecting: a connection that has no host yet ends with all others.
func TestDrainEndsConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, []string{"10.0.0.1:80", "10.0.0.2:80"}, func(c *Config) { c.MaxConnectAttempts = 2 })
		defer r.end()
		near, far := net.Pipe()
		defer far.Close()
		info, done := r.serve(near)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r.tracker.Drain(ctx)
		<-done
		// Nobody is to blame, and no other host is tried.
		if o := info.Outcome(); o.Flags != http.FlagDownstreamConnTermination || o.Upstream.Address != "10.0.0.1:80" {
			t.Errorf("flags %s, host %s", o.Flags, o.Upstream.Address)
		}
	})
}

// verdict is a network filter that says so much.
type verdict struct{ admits bool }

func (v verdict) Admit(a *filter.Admission) bool {
	if !v.admits {
		a.Flags, a.Details, a.CodeDetails = http.FlagUnauthorizedExternal, "no entry", "rbac_access_denied"
	}
	return v.admits
}

// TestAdmission: who isn't let in has no connection made for him.
func TestAdmission(t *testing.T) {
	for _, filters := range [][]filter.Admitter{{verdict{true}}, {verdict{true}, verdict{false}}, {verdict{false}, verdict{true}}} {
		synctest.Test(t, func(t *testing.T) {
			dials := 0
			r := newRig(t, func(context.Context, string) (net.Conn, error) {
				dials++
				return nil, refusal()
			}, []string{"10.0.0.1:80"}, func(c *Config) { c.Admit = filters })
			defer r.end()
			near, far := net.Pipe()
			info, done := r.serve(near)
			<-done
			if _, err := far.Read(make([]byte, 1)); err == nil {
				t.Error("the client reads something")
			}
			o := info.Outcome()
			if len(filters) == 1 {
				if dials != 1 || o.Details != "" {
					t.Errorf("let in: %d connections, details %q", dials, o.Details)
				}
				return
			}
			if dials != 0 || o.Flags != http.FlagUnauthorizedExternal || o.Details != "rbac_access_denied" || o.TerminationDetails != "no entry" || o.ClusterName != "" {
				t.Errorf("kept out: %d connections, %+v", dials, o)
			}
		})
	}
}
