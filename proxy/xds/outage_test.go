// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"pillion/proxy/stats"
)

// metrics returns the values of all metrics by their dotted names.
func (r *rig) metrics() map[string]float64 {
	reg := stats.NewRegistry()
	reg.Add(r.client)
	all := map[string]float64{}
	for _, m := range reg.List(stats.Query{}) {
		all[m.Name] = m.Value
	}
	return all
}

// lines checks how many lines a user has seen: of outages' beginnings, of their
// ends, and all.
func (r *rig) lines(begun, ended, all int) {
	r.t.Helper()
	b, e, a := r.log.all("the control plane doesn't answer"), r.log.all("answers again"), r.log.all("")
	if len(b) != begun || len(e) != ended || len(a) != all {
		r.t.Errorf("%d beginnings, %d ends, %d lines, not %d, %d, %d: %q", len(b), len(e), len(a), begun, ended, all, a)
	}
}

// TestOutage: the server is asked again after waits that double, whoever reads
// the log sees one line when it goes and one when it comes, and the first wait
// after a good stream is short again.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var dialed []time.Time // guarded by mu: gRPC dials from goroutines of its own
		var back atomic.Bool
		r := newRig(t, false, &fakeServer{}, nil, func(r *rig, o *Options) {
			dial := o.Server.Dial
			o.Server.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
				mu.Lock()
				dialed = append(dialed, time.Now())
				mu.Unlock()
				if !back.Load() {
					return nil, errors.New("connection refused")
				}
				return dial(ctx, addr)
			}
		})
		start := time.Now()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		mu.Lock()
		dials := slices.Clone(dialed)
		mu.Unlock()
		base := 500 * time.Millisecond
		for i := range len(dials) - 1 {
			if gap := dials[i+1].Sub(dials[i]); gap < base/2 || gap > base {
				t.Errorf("wait %d is %s, not %s to %s", i, gap, base/2, base)
			}
			base = min(2*base, 30*time.Second)
		}
		s := r.client.Status()
		if s.State != Connecting || s.Down.Sub(start) > time.Second || s.Attempts != len(dials) || len(dials) < 10 || !strings.Contains(s.Err.Error(), "connection refused") {
			t.Errorf("%d attempts, status %+v", len(dials), s)
		}
		r.lines(1, 0, 1)
		if line := r.log.all("doesn't answer")[0]; !strings.Contains(line, "connection refused") || !strings.Contains(line, "reason=unavailable") || !strings.Contains(line, "address=istiod.istio-system.svc:15012") {
			t.Error(line)
		}
		back.Store(true)
		st := r.stream()
		if err := st.push("CDS", "n1", "v1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := r.client.Status(); s.State != Connected || !s.Down.IsZero() || s.Err != nil || s.Attempts != 0 || s.Server != "fake" {
			t.Errorf("status %+v", s)
		}
		r.lines(1, 1, 2)
		m := r.metrics()
		if n := float64(len(dials)); m["control_plane.connected_state"] != 1 || m["pillion.xds.stream_failures.unavailable"] != n || m["cluster_manager.cds.update_failure"] != n ||
			m["cluster_manager.cds.update_success"] != 1 || m["cluster_manager.cds.update_attempt"] != n+1 || m["listener_manager.lds.update_success"] != 0 || m["pillion.xds.streams"] != 1 {
			t.Errorf("metrics %v", m)
		}
		if c := r.client.Counts(); c != (Counts{Requests: c.Requests, Responses: 1, Failed: uint64(len(dials))}) || c.Requests < 2 {
			t.Errorf("counts %+v after %d attempts", c, len(dials))
		}
		broke := time.Now()
		st.end <- status.Error(codes.Unavailable, "caches aren't filled")
		r.stream()
		if gap := time.Since(broke); gap > 500*time.Millisecond {
			t.Errorf("after a good stream the wait is %s", gap)
		}
		r.lines(2, 1, 3)
	})
}

// TestReasons: why there is no answer is told by a word from a short list.
func TestReasons(t *testing.T) {
	for _, tc := range []struct {
		name   string
		refuse error
		reason string
		text   string
	}{
		{"not yet", status.Error(codes.Unavailable, "caches aren't filled"), "unavailable", "caches aren't filled"},
		{"too many", status.Error(codes.ResourceExhausted, "rate limit"), "unavailable", "rate limit"},
		{"somebody else's name", status.Error(codes.PermissionDenied, "no identity matched"), "denied", "no identity matched"},
		{"nobody", status.Error(codes.Unauthenticated, "who are you"), "denied", `there is none in "/nonexistent/token"`},
		{"an end before an answer", nil, "unavailable", "the server ended the stream"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				server := &fakeServer{}
				if tc.refuse != nil {
					server.refuse = func(context.Context) error { calls++; return tc.refuse }
				}
				r := newRig(t, false, server, nil, func(_ *rig, o *Options) { o.Server.TokenFile = "/nonexistent/token" })
				if tc.refuse == nil {
					stop, stopped := make(chan struct{}), make(chan struct{})
					go func() {
						defer close(stopped)
						for {
							select {
							case st := <-r.server.streams:
								calls++
								st.end <- nil
							case <-stop:
								return
							}
						}
					}()
					defer func() { close(stop); <-stopped }()
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if err := r.client.Status().Err; err == nil || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("%v, not %q", err, tc.text)
				}
				if m := r.metrics(); m["pillion.xds.stream_failures."+tc.reason] != float64(calls) || calls < 5 || calls > 12 {
					t.Errorf("%d calls: %v", calls, m)
				}
				r.lines(1, 0, 1)
			})
		})
	}
}

// TestConnectionsOfAge: streams that a server ends in order are opened again at
// once, and nobody is told.
func TestConnectionsOfAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeServer{options: []grpc.ServerOption{grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: time.Minute, MaxConnectionAgeGrace: 5 * time.Second})}}
		r := newRig(t, false, server, nil, nil)
		for i := range 5 {
			begun := time.Now()
			st := r.stream()
			if gap := time.Since(begun); i > 0 && gap > 0 {
				t.Errorf("stream %d came %s late", i, gap)
			}
			if err := st.push("CDS", "n1", "v1", "a=1"); err != nil {
				t.Fatal(err)
			}
			if i == 4 { // and so does one that ends with OK
				time.Sleep(2 * time.Second)
				st.end <- nil
			}
			<-st.gone.Done()
		}
		r.stream()
		synctest.Wait()
		r.lines(0, 0, 0)
		if m := r.metrics(); m["pillion.xds.streams_ended_in_order"] != 5 || m["cluster_manager.cds.update_failure"] != 0 || m["pillion.xds.streams"] != 6 {
			t.Errorf("metrics %v", m)
		}
		if c := r.client.Counts(); c.Ended != 5 || c.Failed != 0 || c.Unopened != 0 || c.Responses != 5 {
			t.Errorf("counts %+v", c)
		}
	})
}

// TestCounts: what ended is told from what failed as Istio's agent tells it.
func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		roots := filepath.Join(t.TempDir(), "roots")
		r := newRig(t, false, &fakeServer{}, nil, func(_ *rig, o *Options) { o.Server.TokenFile = roots })
		want := Counts{}
		for _, tc := range []struct {
			end   error
			count *uint64
		}{
			{nil, &want.Ended},
			{status.Error(codes.Canceled, "done"), &want.Ended},
			{status.Error(codes.DeadlineExceeded, "late"), &want.Ended},
			{status.Error(codes.Unavailable, "error reading from server: EOF"), &want.Ended},
			{status.Error(codes.Unavailable, "the connection is closed: transport is closing"), &want.Ended},
			{status.Error(codes.Unavailable, "caches aren't filled"), &want.Failed},
			{status.Error(codes.Unauthenticated, "who are you"), &want.Failed},
			{status.Error(codes.Internal, "stream terminated by RST_STREAM with error code: INTERNAL_ERROR"), &want.Failed},
		} {
			r.stream().end <- tc.end
			*tc.count++
			synctest.Wait()
			got := r.client.Counts()
			if got.Requests, got.Responses = 0, 0; got != want {
				t.Errorf("after %v: %+v, not %+v", tc.end, got, want)
			}
		}
		// A token that can't be read: the next streams aren't tried.
		if err := os.Mkdir(roots, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := r.client.Counts(); got.Unopened < 2 || got.Ended != want.Ended || got.Failed != want.Failed {
			t.Errorf("without a token: %+v", got)
		}
	})
}

// TestShortStreams: a server that ends each stream in order, as soon as it has
// answered, isn't asked without pause.
func TestShortStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, false, &fakeServer{}, nil, nil)
		begun := time.Now()
		for range 20 {
			st := r.stream()
			if err := st.push("CDS", "n1", "v1"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			st.end <- nil
		}
		if took := time.Since(begun); took < 19*250*time.Millisecond || took > 19*500*time.Millisecond {
			t.Errorf("20 streams in %s", took)
		}
	})
}

// TestRefusedAgain: one who sends the same fault with each update is told each
// time, and the log once.
func TestRefusedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, false, &fakeServer{}, nil, nil)
		st := r.stream()
		for i, refusal := range []string{"a: no", "a: no", "b: no", "", "b: no"} {
			if refusal != "" {
				r.sink.mu.Lock()
				r.sink.refuse = errors.New(refusal)
				r.sink.mu.Unlock()
			}
			if err := st.push("CDS", "n", "v"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := r.client.Status().Types[0]; got.Refused != refusal || got.Updates+got.Refusals != uint64(i+1) {
				t.Errorf("%d: %+v", i, got)
			}
		}
		if lines := r.log.all("an update was refused in part"); len(lines) != 3 || !strings.Contains(lines[0], `reason="a: no"`) {
			t.Errorf("%q", lines)
		}
		if m := r.metrics(); m["cluster_manager.cds.update_rejected"] != 4 || m["cluster_manager.cds.update_success"] != 1 || m["pillion.xds.nacks.envoy.config.cluster.v3.Cluster"] != 4 {
			t.Errorf("metrics %v", m)
		}
	})
}

// TestSilence: a server that takes the stream and says nothing is waited for,
// and the status says so.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, false, &fakeServer{}, nil, nil)
		st := r.stream()
		time.Sleep(9 * time.Second)
		synctest.Wait()
		r.lines(0, 0, 0)
		if s := r.client.Status(); s.State != Silent || s.Err != nil || !s.Types[0].Waiting() || !s.Types[0].All {
			t.Errorf("status %+v", s)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		r.lines(1, 0, 1)
		if s := r.client.Status(); s.State != Silent || s.Err == nil || time.Since(s.Since) < time.Hour {
			t.Errorf("status %+v", s)
		}
		if err := st.push("CDS", "n1", "v1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.lines(1, 1, 2)
		if s := r.client.Status(); s.State != Connected || s.Types[0].Waiting() || !s.Types[1].Waiting() || s.Types[0].Version != "v1" {
			t.Errorf("status %+v", s)
		}
	})
}

// TestNothingToSay: a server that was told the versions of everything may have
// nothing to add, and that is no outage. Empty versions say nothing.
func TestNothingToSay(t *testing.T) {
	for version, lines := range map[string]int{"7": 0, "": 1} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, false, &fakeServer{}, nil, func(r *rig, _ *Options) {
				held := map[string]string{"a": version}
				r.sink.have = map[string]map[string]string{"CDS": held, "LDS": held}
			})
			r.stream()
			time.Sleep(time.Minute)
			synctest.Wait()
			r.lines(lines, 0, lines)
			if s := r.client.Status(); (s.State == Connected) != (lines == 0) {
				t.Errorf("status %+v", s)
			}
		})
	}
}

// TestDeafPort: a port that takes connections and serves nothing is given up
// after a while, each time.
func TestDeafPort(t *testing.T) {
	for _, tc := range []struct {
		name  string
		hello string // what the port says
		after time.Duration
	}{
		{"it is silent", "", 5 * time.Second},
		{"it lets no stream be opened", "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00", 30 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ends []net.Conn
				r := newRig(t, false, &fakeServer{}, nil, func(_ *rig, o *Options) {
					o.Server.Dial = func(context.Context, string) (net.Conn, error) {
						near, far := net.Pipe()
						ends = append(ends, far)
						go func() { _, _ = io.Copy(io.Discard, far) }()
						go func() { _, _ = far.Write([]byte(tc.hello)) }()
						return near, nil
					}
				})
				time.Sleep(tc.after - time.Millisecond)
				synctest.Wait()
				if s := r.client.Status(); s.State != Connecting || s.Attempts != 0 {
					t.Errorf("status %+v", s)
				}
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				if s := r.client.Status(); s.State != Connecting || s.Err == nil || s.Attempts != 1 {
					t.Errorf("status %+v", s)
				}
				r.stop()
				for _, c := range ends {
					_ = c.Close()
				}
			})
		})
	}
}

// TestStopped: Run returns when its context ends, whatever it is doing.
func TestStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, false, &fakeServer{}, nil, nil)
		r.stream()
		synctest.Wait()
		r.stop()
		if s := r.client.Status(); s.State != Stopped {
			t.Errorf("status %+v", s)
		}
		r.lines(0, 0, 0)
		r.client.Want(short["EDS"], []string{"a"})
		if m := r.metrics(); m["control_plane.connected_state"] != 0 || m["pillion.xds.connected"] != 0 || m["control_plane.pending_requests"] != 0 {
			t.Errorf("metrics %v", m)
		}
	})
}

// TestPings: a server that bears fewer pings than istiod gets fewer.
func TestPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeServer{options: []grpc.ServerOption{grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Minute})}}
		r := newRig(t, false, server, nil, nil)
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		if m := r.metrics(); m["pillion.xds.streams"] > 6 || m["control_plane.connected_state"] != 1 || m["pillion.xds.connected"] != 1 {
			t.Errorf("metrics %v", m)
		}
	})
}
