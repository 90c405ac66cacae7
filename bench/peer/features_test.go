// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	nethttp "net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pillion/bench/ads"
	"pillion/bench/mesh"
	"pillion/bench/origin"
	"pillion/bench/pki"
	"pillion/bench/proc"
	"pillion/test/rig"
)

// TestFeatures starts ours with each feature; Start checks that it does the job,
// and what the feature does is looked at where it shows.
func TestFeatures(t *testing.T) {
	g := proc.NewGroup()
	t.Cleanup(g.Close)
	o, err := origin.Start(g, self(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	tool := located(t, pillion{})
	for _, inbound := range []bool{false, true} {
		job := Job{Mesh: mesh.New(1, !inbound), Origins: o.Addrs[origin.HTTP], Workers: 1, Connections: 4, Streams: 1, Inbound: inbound}
		for _, f := range Features(inbound) {
			name := f.Name()
			if inbound {
				name = "inbound" + name
			}
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				r, err := Start(t.Context(), g, f, tool, dir, job, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Stop(g)
				if f.Name() == "+tracing-100" {
					spans(t, r)
				}
				if strings.HasPrefix(f.Name(), "+rbac") || f.Name() == "+jwt" {
					if got := statusOf(t, job, r.Addr, "/elsewhere"); got != nethttp.StatusForbidden {
						t.Errorf("what no rule allows gets %d", got)
					}
				}
			})
		}
	}
}

// TestTraced starts the peers that send spans so that they do.
func TestTraced(t *testing.T) {
	g := proc.NewGroup()
	t.Cleanup(g.Close)
	o, err := origin.Start(g, self(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	job := Job{Mesh: mesh.New(1, true), Origins: o.Addrs[origin.HTTP], Workers: 1, Connections: 4, Streams: 1, Traced: 100}
	for _, p := range []Tracing{pillion{}, envoy{}} {
		t.Run(p.Name(), func(t *testing.T) {
			r, err := Start(t.Context(), g, p, located(t, p), t.TempDir(), job, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Stop(g)
			if p.Name() == Ours {
				spans(t, r)
			}
		})
	}
}

// unlucky is ours, whose first start finds a port taken.
type unlucky struct {
	pillion
	starts *int
}

func (u unlucky) Prepare(tool Tool, dir string, job Job) (Launch, error) {
	l, err := u.pillion.Prepare(tool, dir, job)
	if *u.starts++; *u.starts == 1 {
		l.Spec.Path, l.Spec.Args = "sh", []string{"-c", "exit 1"}
	}
	return l, err
}

// TestPortTakenMeanwhile: a peer that ends before it serves is started anew, and not for
// ever.
func TestPortTakenMeanwhile(t *testing.T) {
	g := proc.NewGroup()
	t.Cleanup(g.Close)
	o, err := origin.Start(g, self(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	job := Job{Mesh: mesh.New(1, true), Origins: o.Addrs[origin.HTTP], Workers: 1, Connections: 4, Streams: 1}
	starts := 0
	r, err := Start(t.Context(), g, unlucky{starts: &starts}, located(t, pillion{}), t.TempDir(), job, nil)
	if err != nil || starts != 2 {
		t.Fatalf("%d starts, %v", starts, err)
	}
	r.Stop(g)
	never := Tool{Path: "false"}
	if _, err := Start(t.Context(), g, pillion{}, never, t.TempDir(), job, nil); err == nil {
		t.Error("a program that always ends is taken for one that serves")
	}
}

// spans waits until the requests of the check have left spans at the collector.
func spans(t *testing.T, r *Running) {
	t.Helper()
	rig.Until(t, "the collector gets spans", func() error {
		n, err := counted(t.Context(), r.admin, "envoy_tracing_opentelemetry_spans_sent")
		if err == nil && n == 0 {
			err = errors.New("none was sent")
		}
		return err
	})
}

// statusOf is the status of a request without a token.
func statusOf(t *testing.T, job Job, addr, path string) int {
	t.Helper()
	req, err := nethttp.NewRequestWithContext(t.Context(), nethttp.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = job.Last().Authority()
	resp, err := nethttp.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// TestDriven has a control plane drive each peer that can be driven.
func TestDriven(t *testing.T) {
	g := proc.NewGroup()
	t.Cleanup(g.Close)
	o, err := origin.Start(g, self(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range All(self(t)) {
		if _, ok := p.(Driven); !ok {
			continue
		}
		t.Run(p.Name(), func(t *testing.T) {
			tool := located(t, p)
			addr, err := listenAddr()
			if err != nil {
				t.Fatal(err)
			}
			job := Job{Mesh: mesh.New(3, true), Origins: o.Addrs[origin.HTTP], Workers: 1, Connections: 4, Streams: 1}
			of := &ads.Services{Mesh: job.Mesh, Listen: netip.MustParseAddrPort(addr),
				V1: netip.MustParseAddrPort(job.Origins[0]), V2: netip.MustParseAddrPort(job.Origins[1])}
			set, err := of.Resources()
			if err != nil {
				t.Fatal(err)
			}
			plane, err := ads.Serve(set)
			if err != nil {
				t.Fatal(err)
			}
			defer plane.Close()
			job.Plane = &Plane{Addr: plane.Addr(), Listen: addr, Certificates: certs}
			r, err := Start(t.Context(), g, p, tool, t.TempDir(), job, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Stop(g)
			for i, push := range []func(*ads.Services, int) error{
				func(of *ads.Services, i int) error { return plane.PushEndpoints(of, i, 2) }, plane.PushRoutes,
			} {
				if err := push(of, 1); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				if err := plane.Settled(ctx, 20*time.Second); err != nil {
					t.Errorf("push %d: %v", i, err)
				}
				cancel()
			}
			if _, refused := plane.Sent(); len(refused) > 0 {
				t.Errorf("refused: %q", refused)
			}
		})
	}
}
