// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pillion/bench/load"
	"pillion/bench/mesh"
	"pillion/bench/origin"
	"pillion/bench/peer"
	"pillion/bench/pki"
	"pillion/bench/proc"
	"pillion/bench/report"
)

// Settings are the choices of a run that hold for all scenarios.
type Settings struct {
	// Turns is how often each peer is measured under load, MemoryTurns how
	// often where memory or the start is measured.
	Turns, MemoryTurns int
	// Duration is the length of one measurement under load.
	Duration time.Duration
	// Settle is the wait before memory is read.
	Settle time.Duration
	// Workers is the number of threads for traffic that each peer gets.
	Workers int
	// Open says whether open-loop loads are run; OpenHalf reduces them to the
	// one at half of the peak.
	Open, OpenHalf bool
	// Syscalls counts system calls with strace, after the turns.
	Syscalls bool
	// Profiles, if not "", is where CPU profiles of ours go.
	Profiles string
	// Pin, if not empty, are the processors to divide: the first Workers of them
	// for the peer, the others, at least one, for load and origin.
	Pin []int
}

// Located is a peer with its program.
type Located struct {
	Peer peer.Peer
	Tool peer.Tool
}

// Bench is what a run works with. The fields are set by its maker and don't
// change during a run.
type Bench struct {
	Settings
	// Group starts and ends all programs.
	Group *proc.Group
	// Self is the benchmark's executable, Dir a directory for files that the
	// caller removes.
	Self, Dir string
	// Wrk and Strace are the paths of these programs; "" if they aren't here.
	Wrk, H2Load, Strace string
	Peers               []Located
	// Progress prints a line for the person who waits.
	Progress func(format string, args ...any)

	origin *origin.Origin
	// sealed and certs are for scenarios with TLS; made for the first of them.
	sealed *origin.Sealed
	certs  pki.Set
}

// WrkRemedy says how to get the closed-loop load generator.
const WrkRemedy = "wrk isn't here, and the load comes from it: make tools installs it (Debian's package wrk)"

// H2LoadRemedy says the same of HTTP/2's.
const H2LoadRemedy = "h2load isn't here, and the load comes from it: make tools installs it (Debian's package nghttp2-client)"

// reservedFiles is what the benchmark and the peers have open beside the
// connections of a scenario.
const reservedFiles = 256

// Run measures one scenario on all peers.
func (b *Bench) Run(ctx context.Context, sc Scenario) ([]report.Group, error) {
	// A peer has a descriptor for each client and as many for origins, or more
	// where one client has several requests under way.
	if err := proc.RaiseOpenFiles(uint64(2*sc.Connections*max(1, sc.Streams) + reservedFiles)); err != nil {
		return nil, fmt.Errorf("%s: %w", sc.Name, err)
	}
	if b.origin == nil {
		var err error
		if b.origin, err = origin.Start(b.Group, b.Self, b.otherCPUs()); err != nil {
			return nil, err
		}
	}
	if b.sealed == nil && sc.Sealed != Nowhere {
		var err error
		if b.certs, err = pki.Make(b.Dir); err != nil {
			return nil, err
		}
		if b.sealed, err = origin.StartSealed(b.Group, b.Self, b.otherCPUs(), b.certs); err != nil {
			return nil, err
		}
	}
	return sc.Measure.Run(ctx, b, sc)
}

// group is the key exchange with clients.
func (sc Scenario) group() pki.Group {
	if sc.Group == "" {
		return pki.X25519
	}
	return sc.Group
}

// job is what the peers are configured for in a scenario.
func (b *Bench) job(sc Scenario) peer.Job {
	m := mesh.New(sc.Services, sc.Subsets)
	m.Routes = sc.Routes
	m.Protocol = sc.Upstream
	kind := origin.HTTP
	switch sc.Upstream {
	case mesh.GRPC:
		kind = origin.GRPC
	case mesh.TCP:
		kind = origin.TCP
	}
	origins := b.origin.Addrs[kind]
	if sc.Sealed == Out {
		origins = b.sealed.Addrs
	}
	return peer.Job{
		TLS: peer.TLS{
			In: sc.Sealed == In || sc.Sealed == Between, Out: sc.Sealed == Out || sc.Sealed == Between,
			Certificates: b.certs, Group: sc.group(),
		},
		Mesh: m, Downstream: sc.Downstream, Origins: origins,
		Workers: b.Workers, Connections: sc.Connections, Streams: max(1, sc.Streams), Inbound: sc.Inbound, Big: sc.big(), Traced: sc.Traced,
	}
}

// request is the request of a scenario for a peer at addr: for the last
// service, with the field that the first route of a mesh with subsets matches.
func (b *Bench) request(sc Scenario, addr string) load.Request {
	req := load.Request{
		Addr: addr, Host: mesh.New(sc.Services, sc.Subsets).Last().Authority(), Path: "/bench",
		Fields: [][2]string{{mesh.MatchField, mesh.MatchValue}},
	}
	if sc.Inbound {
		if token, _, err := peer.Token(); err == nil { // else the peer that needs it fails
			req.Fields = append(req.Fields, [2]string{"authorization", "Bearer " + token})
		}
	}
	return req
}

// start starts a peer for a scenario.
func (b *Bench) start(ctx context.Context, l Located, sc Scenario) (*peer.Running, error) {
	if sc.Sealed == Between {
		return peer.StartPair(ctx, b.Group, l.Peer, l.Tool, b.Dir, b.job(sc), b.peerCPUs())
	}
	return peer.Start(ctx, b.Group, l.Peer, l.Tool, b.Dir, b.job(sc), b.peerCPUs())
}

// peerCPUs are the processors for the peer, otherCPUs those for load and
// origin; none for no such division.
func (b *Bench) peerCPUs() []int {
	if len(b.Pin) == 0 {
		return nil
	}
	return b.Pin[:b.Workers]
}

func (b *Bench) otherCPUs() []int {
	if len(b.Pin) == 0 {
		return nil
	}
	return b.Pin[b.Workers:]
}

// able are the peers that can do a scenario's job; absent says why the others
// can't.
func (b *Bench) able(sc Scenario) (able []Located, absent []string) {
	for _, l := range b.candidates(sc) {
		why := l.Peer.Unable(b.job(sc))
		if sc.driven() && why == "" {
			if _, can := l.Peer.(peer.Driven); !can {
				why = l.Peer.Name() + " isn't driven by a control plane"
			}
		}
		if _, can := l.Peer.(peer.Tracing); !can && sc.Traced > 0 && why == "" {
			why = l.Peer.Name() + " sends no spans"
		}
		if why != "" {
			absent = append(absent, why)
			b.Progress("%s: left out: %s", sc.Name, why)
			continue
		}
		able = append(able, l)
	}
	return able, absent
}

// candidates are the peers of the run, or ours and its features.
func (b *Bench) candidates(sc Scenario) []Located {
	if !sc.Features {
		return b.Peers
	}
	for _, l := range b.Peers {
		if l.Peer.Name() == peer.Ours {
			out := []Located{l}
			for _, f := range peer.Features(sc.Inbound) {
				out = append(out, Located{Peer: f, Tool: l.Tool})
			}
			return out
		}
	}
	return nil
}

// programs are those of the able that have a program to look at.
func programs(able []Located) []Located {
	return slices.DeleteFunc(slices.Clone(able), func(l Located) bool { return l.Peer.Name() == peer.Direct })
}

// turns calls measure for each peer in turns A B C A B C. A peer that fails is
// reported, left out of later turns, and in the returned error.
func (b *Bench) turns(ctx context.Context, name string, turns int, peers []Located, measure func(l Located, turn int) error) error {
	failed := map[string]bool{}
	var errs []error
	for turn := range turns {
		for _, l := range peers {
			if failed[l.Peer.Name()] {
				continue
			}
			if ctx.Err() != nil {
				return errors.Join(append(errs, context.Cause(ctx))...)
			}
			err := measure(l, turn)
			if ctx.Err() != nil {
				return errors.Join(append(errs, context.Cause(ctx))...)
			}
			if err != nil {
				b.Progress("%s: %s fails and is left out: %v", name, l.Peer.Name(), err)
				failed[l.Peer.Name()] = true
				errs = append(errs, fmt.Errorf("%s: %s: %w", name, l.Peer.Name(), err))
			}
		}
	}
	return errors.Join(errs...)
}

// afresh measures each peer that has a program once in each of MemoryTurns turns; measure
// starts and stops it. What it finds makes up g, whose title is the scenario's if it has
// none, and tell puts it into words for the person who waits.
func (b *Bench) afresh(ctx context.Context, sc Scenario, g report.Group, measure func(l Located) (report.Sample, error),
	tell func(v map[report.Metric]float64) string) ([]report.Group, error) {
	able, absent := b.able(sc)
	g.Scenario, g.Title, g.Absent = sc.Name, cmp.Or(g.Title, sc.Summary), absent
	err := b.turns(ctx, sc.Name, b.MemoryTurns, programs(able), func(l Located, turn int) error {
		s, err := measure(l)
		if err != nil {
			return err
		}
		s.Turn = turn
		g.Samples = append(g.Samples, s)
		b.Progress("%s: turn %d/%d: %s %s", sc.Name, turn+1, b.MemoryTurns, s.Peer, tell(s.Values))
		return nil
	})
	return []report.Group{g}, err
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
