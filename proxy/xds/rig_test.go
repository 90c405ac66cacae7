// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/tls/controlplane"
)

func TestMain(m *testing.M) {
	// gRPC writes of its own what the tests provoke.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	goleak.VerifyTestMain(m)
}

// short are the names of types in the scripts of the tests.
var short = map[string]string{
	"CDS": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
	"LDS": "type.googleapis.com/envoy.config.listener.v3.Listener",
	"EDS": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	"RDS": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
	"NDS": "type.googleapis.com/istio.networking.nds.v1.NameTable",
}

func shorten(url string) string {
	for name, long := range short {
		if long == url {
			return name
		}
	}
	return url
}

// fakeServer is a server of the discovery service that does what a test says.
type fakeServer struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	streams chan *fakeStream
	refuse  func(context.Context) error // immutable; nil: every stream is taken
	deaf    bool                        // immutable: requests aren't read
	options []grpc.ServerOption         // immutable
}

// fakeStream is a stream as the server has it.
type fakeStream struct {
	md    metadata.MD
	delta grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse] // or nil
	world grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]           // or nil
	asks  chan string                                                                                     // requests in words
	end   chan error
	gone  context.Context
}

func (f *fakeServer) serve(ctx context.Context, st *fakeStream, recv func() (string, error)) error {
	if f.refuse != nil {
		if err := f.refuse(ctx); err != nil {
			return err
		}
	}
	st.md, _ = metadata.FromIncomingContext(ctx)
	st.asks, st.end, st.gone = make(chan string, 4096), make(chan error, 1), ctx
	if !f.deaf {
		go func() {
			defer close(st.asks)
			for {
				text, err := recv()
				if err != nil {
					return
				}
				st.asks <- text
			}
		}()
	}
	f.streams <- st
	select {
	case err := <-st.end:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fakeServer) DeltaAggregatedResources(s grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]) error {
	return f.serve(s.Context(), &fakeStream{delta: s}, func() (string, error) {
		r, err := s.Recv()
		if err != nil {
			return "", err
		}
		w := words{shorten(r.GetTypeUrl())}
		w.common(r.GetNode(), "ack", r.GetResponseNonce(), r.GetErrorDetail().GetCode(), r.GetErrorDetail().GetMessage())
		for _, n := range r.GetResourceNamesSubscribe() {
			w = append(w, "+"+n)
		}
		for _, n := range r.GetResourceNamesUnsubscribe() {
			w = append(w, "-"+n)
		}
		for _, n := range slices.Sorted(maps.Keys(r.GetInitialResourceVersions())) {
			w = append(w, "held:"+n+"@"+r.GetInitialResourceVersions()[n])
		}
		return strings.Join(w, " "), nil
	})
}

func (f *fakeServer) StreamAggregatedResources(s grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]) error {
	return f.serve(s.Context(), &fakeStream{world: s}, func() (string, error) {
		r, err := s.Recv()
		if err != nil {
			return "", err
		}
		w := words{shorten(r.GetTypeUrl())}
		w.common(r.GetNode(), "at", r.GetResponseNonce(), r.GetErrorDetail().GetCode(), r.GetErrorDetail().GetMessage())
		if v := r.GetVersionInfo(); v != "" {
			w = append(w, "version:"+v)
		}
		w = append(w, r.GetResourceNames()...)
		return strings.Join(w, " "), nil
	})
}

type words []string

func (w *words) common(node *Node, verb, nonce string, code int32, message string) {
	if node != nil {
		*w = append(*w, "node:"+node.GetId())
	}
	if nonce != "" {
		if code != 0 {
			verb = fmt.Sprintf("nack(%d)", code)
		}
		*w = append(*w, verb, nonce)
	}
	if message != "" {
		*w = append(*w, "{"+message+"}")
	}
}

// push sends a response: its type, nonce and version, then name=body of
// resources (name@version=body in the delta protocol), and -name of what is gone.
func (st *fakeStream) push(args ...string) error {
	url := short[args[0]]
	if url == "" {
		url = args[0]
	}
	delta := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: args[1], SystemVersionInfo: args[2], ControlPlane: &corev3.ControlPlane{Identifier: "fake"}}
	world := &discoveryv3.DiscoveryResponse{TypeUrl: url, Nonce: args[1], VersionInfo: args[2], ControlPlane: delta.ControlPlane}
	for _, a := range args[3:] {
		if gone, ok := strings.CutPrefix(a, "-"); ok {
			delta.RemovedResources = append(delta.RemovedResources, gone)
			continue
		}
		kind := url
		if bad, ok := strings.CutPrefix(a, "!"); ok { // of a wrong type
			a, kind = bad, short["NDS"]
		}
		name, body, _ := strings.Cut(a, "=")
		name, version, _ := strings.Cut(name, "@")
		delta.Resources = append(delta.Resources, &discoveryv3.Resource{Name: name, Version: version, Resource: &anypb.Any{TypeUrl: kind, Value: []byte(body)}})
		world.Resources = append(world.Resources, &anypb.Any{TypeUrl: kind, Value: []byte(a)})
	}
	if st.world != nil {
		return st.world.Send(world)
	}
	return st.delta.Send(delta)
}

// nameOf names the bodies of the tests: name=text.
func nameOf(_ string, body []byte) (string, error) {
	name, _, ok := bytes.Cut(body, []byte("="))
	if !ok {
		return "", fmt.Errorf("%q has no name", body)
	}
	return string(name), nil
}

// fakeSink records what it is given.
type fakeSink struct {
	updates chan *Update
	have    map[string]map[string]string // guarded by the test
	mu      sync.Mutex
	refuse  error                 // of the next update; guarded by mu
	apply   func(u *Update) error // immutable; nil: refuse tells
}

func (f *fakeSink) Apply(u *Update) error {
	if f.apply != nil {
		return f.apply(u)
	}
	f.updates <- u
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.refuse
	f.refuse = nil
	return err
}

func (f *fakeSink) Have(typeURL string) map[string]string { return f.have[shorten(typeURL)] }

// log keeps lines.
type log struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

// all returns the lines that hold a text.
func (l *log) all(text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// rig is a server and a client that runs, in a bubble of virtual time or not.
type rig struct {
	t      *testing.T
	server *fakeServer
	ln     *bufconn.Listener
	sink   *fakeSink
	client *Client
	log    *log // what a user sees: no debugging
	stop   func()
}

// newRig starts both; creds nil is without TLS. change may alter the options.
func newRig(t *testing.T, world bool, server *fakeServer, creds credentials.TransportCredentials, change func(*rig, *Options)) *rig {
	t.Helper()
	r := &rig{t: t, server: server, sink: &fakeSink{updates: make(chan *Update, 4096)}, log: &log{}}
	r.server.streams = make(chan *fakeStream, 64)
	o := Options{
		Server: controlplane.Server{Address: "istiod.istio-system.svc:15012", Plaintext: creds == nil},
		Node:   func() *Node { return &Node{Id: "me"} }, Types: []string{short["CDS"], short["LDS"]},
		StateOfTheWorld: world, Name: nameOf, Sink: r.sink, Logger: slog.New(slog.NewTextHandler(r.log, nil)),
	}
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	r.ln = newListener()
	// istiod lets its clients ping every 15 s.
	g := grpc.NewServer(append([]grpc.ServerOption{grpc.Creds(creds), grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 15 * time.Second})}, server.options...)...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, r.server)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(r.ln) }()
	t.Cleanup(func() { g.Stop(); <-served })
	o.Server.Dial = func(ctx context.Context, _ string) (net.Conn, error) { return r.ln.DialContext(ctx) }
	if change != nil {
		change(r, &o)
	}
	var err error
	if r.client, err = New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.client.Run(ctx) }()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(r.stop)
	return r
}

func newListener() *bufconn.Listener { return bufconn.Listen(1 << 16) }

// next waits until all is quiet and returns what there is, "" if nothing.
func next(ch <-chan string) string {
	synctest.Wait()
	select {
	case text := <-ch:
		return text
	default:
		return ""
	}
}

// stream returns the next stream that is opened, once the client has asked on
// it: what comes before wasn't asked for.
func (r *rig) stream() *fakeStream {
	r.t.Helper()
	st := <-r.server.streams
	if st == nil {
		r.t.Fatal("no stream")
	}
	synctest.Wait()
	return st
}

// update returns what the Sink got next, in the words of push.
func (r *rig) update(world bool) string {
	synctest.Wait()
	select {
	case u := <-r.sink.updates:
		w := words{shorten(u.TypeURL), u.Version}
		for _, res := range u.Resources {
			body := string(res.Body)
			if !world {
				body = res.Name + "=" + body
				if res.Version != "" {
					body = res.Name + "@" + res.Version + "=" + string(res.Body)
				}
			}
			w = append(w, body)
		}
		for _, n := range u.Removed {
			w = append(w, "-"+n)
		}
		if u.Full {
			w = append(w, "full")
		}
		return strings.Join(w, " ")
	default:
		return ""
	}
}

// script plays lines against a client: what the test does, and what has to
// come of it.
//
//	want EDS a b        Client.Want
//	push CDS n1 v1 a=1  the server sends; see push
//	refuse TEXT         the Sink refuses the next update
//	have CDS a@1        the Sink holds that much
//	end [CODE]          the server ends the stream
//	open                a stream is opened
//	> CDS ack n1        the server gets that; ">" alone: nothing
//	= CDS v1 a=1        the Sink gets that; "=" alone: nothing
func (r *rig) script(world bool, text string) {
	r.t.Helper()
	var st *fakeStream
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		f := strings.Fields(line)
		rest := strings.Join(f[1:], " ")
		var got string
		switch f[0] {
		case "want":
			r.client.Want(short[f[1]], f[2:])
			continue
		case "push":
			if err := st.push(f[1:]...); err != nil {
				r.t.Fatalf("line %d: %s: %v", i+1, line, err)
			}
			continue
		case "refuse":
			r.sink.mu.Lock()
			r.sink.refuse = errors.New(rest)
			r.sink.mu.Unlock()
			continue
		case "have":
			held := map[string]string{}
			for _, a := range f[2:] {
				name, version, _ := strings.Cut(a, "@")
				held[name] = version
			}
			r.sink.have[f[1]] = held
			continue
		case "end":
			var err error
			if len(f) > 1 {
				err = status.Error(codes.Unavailable, rest)
			}
			st.end <- err
			continue
		case "open":
			st = r.stream()
			continue
		case ">":
			got = next(st.asks)
		case "=":
			got = r.update(world)
		default:
			r.t.Fatalf("line %d: %q is no word of scripts", i+1, line)
		}
		if got != rest {
			r.t.Fatalf("line %d: %q, not %q\n%s", i+1, got, line, r.log.all(""))
		}
	}
}
