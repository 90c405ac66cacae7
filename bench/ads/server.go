// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
)

// Server serves one Set to any number of clients by the delta protocol. It
// keeps what each client acknowledged, so that a push can be waited for.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	grpc *grpc.Server
	ln   net.Listener

	mu      sync.Mutex
	set     Set              // guarded by mu
	streams map[*stream]bool // guarded by mu
	sent    int              // guarded by mu; bytes of resources, of all streams
	refused []string         // guarded by mu; the texts of NACKs
	change  chan struct{}    // guarded by mu; closed and replaced when a client has answered
}

// stream is one client's.
type stream struct {
	server     *Server
	send       chan *discoveryv3.DeltaDiscoveryResponse
	wanted     map[string]map[string]bool // guarded by Server.mu; by type; nil: all of it
	nonce      int                        // guarded by Server.mu
	unanswered map[string]bool            // guarded by Server.mu; nonces
}

// Serve begins to serve set at a free port of loopback.
func Serve(set Set) (*Server, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("ads: %w", err)
	}
	s := &Server{grpc: grpc.NewServer(grpc.MaxSendMsgSize(math.MaxInt32)), ln: ln, set: set,
		streams: map[*stream]bool{}, change: make(chan struct{})}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s.grpc, s)
	go func() { _ = s.grpc.Serve(ln) }()
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Close ends all streams.
func (s *Server) Close() { s.grpc.Stop() }

// Sent returns the bytes of all resources sent, and what clients refused.
func (s *Server) Sent() (bytes int, refused []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent, slices.Clone(s.refused)
}

// DeltaAggregatedResources serves one client.
func (s *Server) DeltaAggregatedResources(rpc discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	st := &stream{server: s, send: make(chan *discoveryv3.DeltaDiscoveryResponse, 64),
		wanted: map[string]map[string]bool{}, unanswered: map[string]bool{}}
	s.mu.Lock()
	s.streams[st] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.streams, st)
		s.mu.Unlock()
	}()
	ctx, cancel := context.WithCancel(rpc.Context())
	defer cancel()
	go func() {
		defer cancel()
		for {
			select {
			case r := <-st.send:
				if rpc.Send(r) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		req, err := rpc.Recv()
		if err != nil {
			return err
		}
		s.take(st, req)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// take handles one request: an answer to a push, a change of what is wanted,
// or both.
func (s *Server) take(st *stream, req *discoveryv3.DeltaDiscoveryRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := req.GetResponseNonce(); n != "" {
		delete(st.unanswered, n)
		if e := req.GetErrorDetail(); e != nil {
			s.refused = append(s.refused, e.GetMessage())
		}
		close(s.change)
		s.change = make(chan struct{})
	}
	typ := req.GetTypeUrl()
	if s.set[typ] == nil {
		return // a type that isn't served, as istiod's silence about some
	}
	wanted, known := st.wanted[typ]
	names := req.GetResourceNamesSubscribe()
	switch {
	case !known && len(names) == 0 || slices.Contains(names, "*"):
		st.wanted[typ] = nil // all
		st.pushLocked(typ, slices.Sorted(maps.Keys(s.set[typ])))
	case len(names) > 0:
		if wanted == nil {
			wanted = map[string]bool{}
			st.wanted[typ] = wanted
		}
		for _, n := range names {
			wanted[n] = true
		}
		st.pushLocked(typ, names)
	}
	for _, n := range req.GetResourceNamesUnsubscribe() {
		delete(wanted, n)
	}
}

// pushLocked sends resources by name; Server.mu is held.
func (st *stream) pushLocked(typ string, names []string) {
	st.nonce++
	r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typ, Nonce: strconv.Itoa(st.nonce), SystemVersionInfo: strconv.Itoa(st.nonce)}
	for _, n := range names {
		a := st.server.set[typ][n]
		if a == nil {
			r.RemovedResources = append(r.RemovedResources, n)
			continue
		}
		r.Resources = append(r.Resources, &discoveryv3.Resource{Name: n, Resource: a})
		st.server.sent += len(a.GetValue())
	}
	st.unanswered[r.Nonce] = true
	st.send <- r
}

// Push replaces one resource and sends it to all clients that want it.
func (s *Server) Push(name string, a *anypb.Any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	typ := a.GetTypeUrl()
	s.set[typ][name] = a
	for st := range s.streams {
		if wanted, known := st.wanted[typ]; known && (wanted == nil || wanted[name]) {
			st.pushLocked(typ, []string{name})
		}
	}
}

// Settled waits until a client is there, has asked for every type, and has
// answered all that was sent.
func (s *Server) Settled(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		s.mu.Lock()
		settled, changed := s.settledLocked(), s.change
		s.mu.Unlock()
		if settled {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("ads: the client hasn't taken everything within %v", limit)
		}
	}
}

func (s *Server) settledLocked() bool {
	for st := range s.streams {
		if len(st.unanswered) == 0 && len(st.wanted) == len(s.set) {
			return true
		}
	}
	return false
}

// PushEndpoints changes the endpoints of subset v1 of one service.
func (s *Server) PushEndpoints(of *Services, service int, weight uint32) error {
	svc := of.Mesh.Services[service%len(of.Mesh.Services)]
	a, err := pack(of.Endpoints(svc, "v1", weight))
	if err != nil {
		return err
	}
	s.Push(clusterName(svc, "v1"), a)
	return nil
}

// PushRoutes changes one route of one service, and that of the service changed
// before back: the whole route configuration is sent.
func (s *Server) PushRoutes(of *Services, service int) error {
	a, err := pack(of.Routes(map[string]bool{of.Mesh.Services[service%len(of.Mesh.Services)].Name: true}))
	if err != nil {
		return err
	}
	s.Push(RouteName, a)
	return nil
}
