// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"io"
	"math"
	"net"
	"sync"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// relay stands between a proxy and the port of istiod that is without TLS. It
// passes delta ADS on, message by message, shows what goes by, and can put
// something else in the place of a response.
type relay struct {
	addr, to string // immutable

	mu     sync.Mutex
	see    func(r *discoveryv3.DeltaDiscoveryResponse) // before a response goes on; guarded by mu
	answer func(r *discoveryv3.DeltaDiscoveryRequest)  // of each request; guarded by mu
	// change returns the messages that take the place of a response; guarded by mu.
	change func(r *discoveryv3.DeltaDiscoveryResponse, octets []byte) [][]byte
	// cut end the streams; guarded by mu.
	cut  map[*context.CancelFunc]bool
	down grpc.ServerStream // the newest stream to the proxy; guarded by mu, which is held while it is written to
}

// frame is a message of gRPC as it is on the wire.
type frame struct{ octets []byte }

// frames is a codec that leaves messages as they are.
type frames struct{}

func (frames) Name() string { return "proto" }

func (frames) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(*frame).octets)}, nil
}

func (frames) Unmarshal(data mem.BufferSlice, v any) error {
	v.(*frame).octets = data.Materialize()
	return nil
}

func startRelay(t testing.TB, to string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: ln.Addr().String(), to: to, cut: map[*context.CancelFunc]bool{}}
	server := grpc.NewServer(grpc.ForceServerCodecV2(frames{}), grpc.UnknownServiceHandler(r.serve), grpc.MaxRecvMsgSize(math.MaxInt32))
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) }) // ends by Stop
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return r
}

// serve passes one stream on.
func (r *relay) serve(_ any, down grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(down)
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	r.mu.Lock()
	r.cut[&cancel], r.down = true, down
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.cut, &cancel)
		if r.down == down {
			r.down = nil
		}
		r.mu.Unlock()
	}()
	conn, err := grpc.NewClient("passthrough:///"+r.to, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frames{}), grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		return err
	}
	defer conn.Close()
	up, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	go func() {
		defer cancel()
		for {
			var f frame
			if down.RecvMsg(&f) != nil {
				_ = up.CloseSend() // the stream ends either way
				return
			}
			r.asked(f.octets)
			if up.SendMsg(&f) != nil {
				return // RecvMsg says why
			}
		}
	}()
	for {
		var f frame
		if err := up.RecvMsg(&f); err == io.EOF {
			return nil
		} else if err != nil {
			if ctx.Err() != nil {
				return grpcstatus.Error(codes.Unavailable, "the relay cut the stream")
			}
			return err
		}
		if err := r.pass(down, f.octets); err != nil {
			return err
		}
	}
}

func (r *relay) asked(octets []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var m discoveryv3.DeltaDiscoveryRequest
	if r.answer != nil && proto.Unmarshal(octets, &m) == nil {
		r.answer(&m)
	}
}

// pass sends a response on, or what takes its place.
func (r *relay) pass(down grpc.ServerStream, octets []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := [][]byte{octets}
	var m discoveryv3.DeltaDiscoveryResponse
	if (r.see != nil || r.change != nil) && proto.Unmarshal(octets, &m) == nil {
		if r.see != nil {
			r.see(&m)
		}
		if r.change != nil {
			list = r.change(&m, octets)
		}
	}
	for _, o := range list {
		if err := down.SendMsg(&frame{o}); err != nil {
			return err
		}
	}
	return nil
}

// push sends a message of the test's own to the proxy; it reports false where there
// is no stream.
func (r *relay) push(octets []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.down != nil && r.down.SendMsg(&frame{octets}) == nil
}

// watch has f see each response before it goes on; nil: nobody does.
func (r *relay) watch(f func(*discoveryv3.DeltaDiscoveryResponse)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.see = f
}

// listen has f see each request; nil: nobody does.
func (r *relay) listen(f func(*discoveryv3.DeltaDiscoveryRequest)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// corrupt has f say what is sent in the place of a response; nil: the response is.
func (r *relay) corrupt(f func(m *discoveryv3.DeltaDiscoveryResponse, octets []byte) [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.change = f
}

// cutAll breaks the streams that are open.
func (r *relay) cutAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for cancel := range r.cut {
		(*cancel)()
	}
}

// gate passes TCP connections on to a server, and can stop: a server that is gone,
// or one behind a network that drops every packet.
type gate struct {
	addr, to string // immutable

	mu   sync.Mutex
	mode gateMode          // guarded by mu, as is all below
	open map[net.Conn]bool // connections of both sides
}

type gateMode int

const (
	passing  gateMode = iota
	refusing          // each connection is closed at once
	silent            // each connection is taken, and nothing comes of it
)

func startGate(t testing.TB, to string) *gate {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{addr: ln.Addr().String(), to: to, open: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { g.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		g.set(refusing)
		all.Wait()
	})
	return g
}

// set changes the mode, and breaks the connections that are open.
func (g *gate) set(mode gateMode) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode = mode
	for c := range g.open {
		_ = c.Close()
	}
}

// keep notes a connection; it reports false if the mode has changed.
func (g *gate) keep(c net.Conn, mode gateMode) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mode != mode {
		return false
	}
	g.open[c] = true
	return true
}

func (g *gate) serve(c net.Conn) {
	defer c.Close()
	g.mu.Lock()
	mode := g.mode
	g.mu.Unlock()
	if mode == refusing || !g.keep(c, mode) {
		return
	}
	defer g.forget(c)
	if mode == silent {
		_, _ = io.Copy(io.Discard, c)
		return
	}
	up, err := net.Dial("tcp", g.to)
	if err != nil {
		return
	}
	defer up.Close()
	if !g.keep(up, mode) {
		return
	}
	defer g.forget(up)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(up, c)
		_ = up.Close()
	}()
	_, _ = io.Copy(c, up)
	_ = c.Close()
	<-done
}

func (g *gate) forget(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, c)
}
