// SPDX-License-Identifier: Apache-2.0

package workloadapi_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"pillion/proxy/tls"
	"pillion/proxy/tls/localca"
	"pillion/proxy/tls/renew"
	"pillion/proxy/tls/renew/renewtest"
	"pillion/proxy/tls/workloadapi"
)

// stream is one stream as the server sees it.
type stream struct {
	answer chan *workload.X509SVIDResponse
	end    chan error
}

// server hands its streams to the test.
type server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	streams chan *stream
}

func (s *server) FetchX509SVID(_ *workload.X509SVIDRequest, g grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	// SPIFFE Workload Endpoint section 3: without this the call is refused.
	if md, _ := metadata.FromIncomingContext(g.Context()); len(md["workload.spiffe.io"]) != 1 || md["workload.spiffe.io"][0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing")
	}
	st := &stream{answer: make(chan *workload.X509SVIDResponse), end: make(chan error)}
	select {
	case s.streams <- st:
	case <-g.Context().Done():
		return nil
	}
	for {
		select {
		case a := <-st.answer:
			if err := g.Send(a); err != nil {
				return err
			}
		case err := <-st.end:
			return err
		case <-g.Context().Done():
			return nil
		}
	}
}

// rig is an API and a source that runs in a bubble of virtual time.
type rig struct {
	*server
	log     renewtest.Log
	secrets *tls.Secrets
	source  *workloadapi.Source
}

func serve(t *testing.T, ln net.Listener, s *server) {
	t.Helper()
	g := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-done })
}

func newRig(t *testing.T, o workloadapi.Options) *rig {
	t.Helper()
	r := &rig{server: &server{streams: make(chan *stream)}, secrets: tls.NewSecrets()}
	if o.Dial == nil && o.Socket == "" {
		ln := bufconn.Listen(1 << 16)
		serve(t, ln, r.server)
		o.Dial = ln.DialContext
	}
	o.Certificate, o.Roots, o.Logger = r.secrets.Secret("default"), r.secrets.Secret("ROOTCA"), r.log.Logger()
	var err error
	if r.source, err = workloadapi.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func der(t testing.TB, text []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	for b, rest := pem.Decode(text); b != nil; b, rest = pem.Decode(rest) {
		out.Write(b.Bytes)
	}
	return out.Bytes()
}

func svid(t testing.TB, id string, l localca.Leaf, bundle []byte) *workload.X509SVID {
	t.Helper()
	return &workload.X509SVID{SpiffeId: id, X509Svid: der(t, l.Chain), X509SvidKey: der(t, l.Key), Bundle: der(t, bundle)}
}

func response(svids ...*workload.X509SVID) *workload.X509SVIDResponse {
	return &workload.X509SVIDResponse{Svids: svids}
}

func TestChoosesTheIdentity(t *testing.T) {
	for want, id := range map[string]string{"": renewtest.Peer, renewtest.Own: renewtest.Own} {
		synctest.Test(t, func(t *testing.T) {
			ca := renewtest.NewCA(t) // by the clock in here
			first := svid(t, renewtest.Peer, renewtest.Issue(t, ca, "db"), ca.Root())
			second := svid(t, renewtest.Own, renewtest.Issue(t, ca, "web"), ca.Root())
			r := newRig(t, workloadapi.Options{ID: want})
			(<-r.streams).answer <- response(first, second)
			synctest.Wait()
			if got := r.secrets.Secret("default").Status(); len(got.Chain) == 0 || got.Chain[0].URIs[0].String() != id {
				t.Errorf("want %q: %+v", want, got)
			}
		})
	}
}

// TestWhatIsRefused: the old certificate serves on, the reason is counted,
// and said once.
func TestWhatIsRefused(t *testing.T) {
	type given struct {
		ca   *localca.CA
		own  localca.Leaf
		good *workload.X509SVID
	}
	for _, tc := range []struct {
		name   string
		answer func(given) *workload.X509SVIDResponse
		reason renew.Reason
	}{
		{"another identity", func(g given) *workload.X509SVIDResponse {
			return response(svid(t, renewtest.Peer, renewtest.Issue(t, g.ca, "db"), g.ca.Root()))
		}, renew.Identity},
		{"a name that isn't the certificate's", func(g given) *workload.X509SVIDResponse {
			return response(svid(t, renewtest.Own, renewtest.Issue(t, g.ca, "db"), g.ca.Root()))
		}, renew.Identity},
		{"nothing", func(g given) *workload.X509SVIDResponse {
			return response()
		}, renew.Invalid},
		{"octets", func(g given) *workload.X509SVIDResponse {
			return response(&workload.X509SVID{SpiffeId: renewtest.Own, X509Svid: []byte("x"), X509SvidKey: []byte("y"), Bundle: []byte("z")})
		}, renew.Invalid},
		{"a key that isn't its", func(g given) *workload.X509SVIDResponse {
			return response(svid(t, renewtest.Own, localca.Leaf{Chain: g.own.Chain, Key: renewtest.Issue(t, g.ca, "web").Key}, g.ca.Root()))
		}, renew.Invalid},
		{"no bundle", func(g given) *workload.X509SVIDResponse {
			return response(&workload.X509SVID{SpiffeId: renewtest.Own, X509Svid: g.good.X509Svid, X509SvidKey: g.good.X509SvidKey})
		}, renew.Invalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := renewtest.NewCA(t) // of the bubble's time
				g := given{ca: ca, own: renewtest.Issue(t, ca, "web")}
				g.good = svid(t, renewtest.Own, g.own, ca.Root())
				good, bad := g.good, tc.answer(g)
				r := newRig(t, workloadapi.Options{ID: renewtest.Own})
				st := <-r.streams
				st.answer <- response(good)
				synctest.Wait()
				for range 3 { // an answer that can't be read ends the stream
					select {
					case st.answer <- bad:
					case st = <-r.streams:
						st.answer <- bad
					}
					synctest.Wait()
				}
				now := r.source.Status().Snapshot()
				if now.Updates != 1 || now.Failures[tc.reason] != 3 || now.LastError == nil || len(now.Failures) != 1 {
					t.Errorf("%+v", now)
				}
				if r.log.Count("ERROR", "reason="+string(tc.reason)) != 1 || r.log.Count("ERROR") != 1 {
					t.Errorf("the log:\n%s", r.log.String())
				}
				if got := r.secrets.Secret("default").Status(); got.Updates != 1 || got.LastError == "" {
					t.Errorf("%+v", got)
				}
				if err := renewtest.NewPair(t, r.secrets, ca).Shake(t.Context()); err != nil {
					t.Error(err)
				}
				select {
				case st.answer <- response(good):
				case st = <-r.streams:
					st.answer <- response(good)
				}
				synctest.Wait()
				if now := r.source.Status().Snapshot(); now.Updates != 2 || now.LastError != nil || r.log.Count("renewed again") != 1 {
					t.Errorf("%+v\n%s", now, r.log.String())
				}
			})
		})
	}
}

// TestFederation: a peer of another trust domain is checked by that domain's
// bundle, and by no other.
func TestFederation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := renewtest.NewCA(t)
		other, err := localca.New("other.example")
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t, workloadapi.Options{ID: renewtest.Own})
		st := <-r.streams
		a := response(svid(t, renewtest.Own, renewtest.Issue(t, ca, "web"), ca.Root()))
		a.FederatedBundles = map[string][]byte{"spiffe://other.example": der(t, other.Root())}
		st.answer <- a
		synctest.Wait()
		if got := r.secrets.Secret("ROOTCA").Status(); len(got.Anchors) != 2 {
			t.Fatalf("%+v", got)
		}
		if err := renewtest.NewPair(t, r.secrets, ca).Shake(t.Context()); err != nil {
			t.Error(err)
		}
		// The federated domain's bundle is no good for ours.
		a = response(svid(t, renewtest.Own, renewtest.Issue(t, ca, "web"), other.Root()))
		a.FederatedBundles = map[string][]byte{"spiffe://other.example": der(t, ca.Root())}
		st.answer <- a
		synctest.Wait()
		if err := renewtest.NewPair(t, r.secrets, ca).Shake(t.Context()); err == nil {
			t.Error("a peer was taken by another trust domain's bundle")
		}
	})
}

// TestRotation changes the certificate under handshakes over a real socket,
// through an API that breaks off.
func TestRotation(t *testing.T) {
	ca := renewtest.NewCA(t)
	dir, err := os.MkdirTemp("", "wapi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "socket")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, workloadapi.Options{ID: renewtest.Own, Socket: socket})
	serve(t, ln, r.server)
	st := <-r.streams
	var load *renewtest.Load // once there is a certificate
	n := 0
	rotate := func() {
		n++
		if load != nil {
			load.Next()
		}
		st.answer <- response(svid(t, renewtest.Own, renewtest.Issue(t, ca, "web"), ca.Root()))
	}
	rotate()
	<-r.secrets.Secret("default").Ready()
	load = renewtest.NewPair(t, r.secrets, ca).StartLoad(t.Context())
	for range 100 {
		rotate()
	}
	// Canceled and InvalidArgument would end the library's own watch for good.
	for _, code := range []codes.Code{codes.Unavailable, codes.Canceled, codes.InvalidArgument} {
		st.end <- status.Error(code, "restarted")
		st = <-r.streams
		for range 30 {
			rotate()
		}
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ; r.source.Status().Snapshot().Updates != uint64(n); <-tick.C {
		load.Next()
	}
	shakes, err := load.End()
	if err != nil || shakes == 0 {
		t.Fatalf("after %d handshakes: %v", shakes, err)
	}
	t.Logf("%d certificates, %d handshakes in each direction", n, shakes)
}

// TestDown waits longer and longer for an API that isn't there, or that gives
// us no identity, and says so once.
func TestDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		r := newRig(t, workloadapi.Options{Dial: func(context.Context) (net.Conn, error) {
			dials.Add(1)
			return nil, errors.New("nobody is there")
		}})
		time.Sleep(10 * time.Minute)
		if n := dials.Load(); n < 20 || n > 70 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		if now := r.source.Status().Snapshot(); now.Failures[renew.Unavailable] == 0 || !now.LastSuccess.IsZero() || r.log.Count("ERROR") != 1 {
			t.Errorf("%+v\n%s", now, r.log.String())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, workloadapi.Options{})
		for range 5 {
			(<-r.streams).end <- status.Error(codes.PermissionDenied, "no identity issued")
		}
		<-r.streams
		if now := r.source.Status().Snapshot(); now.Failures[renew.Denied] != 5 || r.log.Count("reason=denied", "no identity issued") != 1 {
			t.Errorf("%+v\n%s", now, r.log.String())
		}
	})
}

// TestSlow calls an API slow that takes the request and doesn't answer, and
// still takes what it says in the end.
func TestSlow(t *testing.T) {
	ca := renewtest.NewCA(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, workloadapi.Options{ID: renewtest.Own})
		st := <-r.streams
		time.Sleep(time.Hour)
		if now := r.source.Status().Snapshot(); now.Failures[renew.Slow] != 1 || r.log.Count("ERROR") != 1 {
			t.Errorf("%+v\n%s", now, r.log.String())
		}
		st.answer <- response(svid(t, renewtest.Own, renewtest.Issue(t, ca, "web"), ca.Root()))
		synctest.Wait()
		if now := r.source.Status().Snapshot(); now.Updates != 1 || now.LastError != nil {
			t.Errorf("%+v", now)
		}
	})
}
