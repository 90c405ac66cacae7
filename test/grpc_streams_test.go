// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	"pillion/test/rig"
)

// soakTime is how long streams are kept open. What is found in ten minutes is
// every time-out that is shorter than five, which are those that proxies have
// by default.
var soakTime = flag.Duration("soak", 3*time.Second, "how long the test of long-lived gRPC streams keeps them open; make soak takes ten minutes")

// echoService sends every message of a stream back, and what a call holds; a call may
// ask for a status instead. Who called, as the proxy tells it, stands in the header.
type echoService struct {
	testpb.UnimplementedTestServiceServer
}

func (echoService) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	in, _ := metadata.FromIncomingContext(ctx)
	_ = grpc.SetHeader(ctx, metadata.MD{"caller": in["x-forwarded-client-cert"], "told-bin": in["tell-bin"]})
	_ = grpc.SetTrailer(ctx, metadata.Pairs("in-trailer", "yes"))
	if s := req.GetResponseStatus(); s != nil {
		return nil, grpcstatus.Error(codes.Code(s.GetCode()), s.GetMessage())
	}
	if req.GetResponseSize() < 0 { // never
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &testpb.SimpleResponse{Payload: req.GetPayload()}, nil
}

func (echoService) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	for {
		req, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: req.GetPayload()}); err != nil {
			return err
		}
	}
}

// echoGRPC serves echoService and returns its port.
func echoGRPC(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	testpb.RegisterTestServiceServer(server, echoService{})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) }) // ends by Stop
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// TestManyStreams keeps 200 streams open on four connections, with pauses in
// which nothing at all is sent, and loses no message and no end.
func TestManyStreams(t *testing.T) {
	t.Parallel()
	const conns, streams = 4, 50
	f := startFront(t, "GRPC", echoGRPC(t))
	ctx, cancel := context.WithTimeout(t.Context(), *soakTime+3*rig.Patience)
	defer cancel()
	var calls []testpb.TestService_FullDuplexCallClient
	for range conns {
		conn, err := grpc.NewClient("passthrough:///"+f.gateway, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range streams {
			call, err := testpb.NewTestServiceClient(conn).FullDuplexCall(ctx)
			if err != nil {
				t.Fatal(err)
			}
			calls = append(calls, call)
		}
	}
	// Three rounds with a pause before each but the first.
	for round := range 3 {
		if round > 0 {
			select {
			case <-time.After(*soakTime/2 + time.Second):
			case <-ctx.Done():
			}
		}
		onAll(t, calls, func(i int, call testpb.TestService_FullDuplexCallClient) error { return exchange(call, i, round) })
	}
	onAll(t, calls, func(i int, call testpb.TestService_FullDuplexCallClient) error {
		if err := call.CloseSend(); err != nil {
			return err
		}
		if _, err := call.Recv(); err != io.EOF {
			return fmt.Errorf("the end: %w", err)
		}
		return nil
	})
}

// onAll calls do for all streams at once and reports what went wrong.
func onAll(t *testing.T, calls []testpb.TestService_FullDuplexCallClient, do func(i int, call testpb.TestService_FullDuplexCallClient) error) {
	t.Helper()
	var all sync.WaitGroup
	for i, call := range calls {
		all.Go(func() {
			if err := do(i, call); err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// exchange sends messages of several sizes on a stream and wants each back.
func exchange(call testpb.TestService_FullDuplexCallClient, stream, round int) error {
	for i, size := range []int{0, 100, 40000} {
		mark := fmt.Sprintf("stream %d, round %d, message %d", stream, round, i)
		body := append([]byte(mark), make([]byte, size)...)
		if err := call.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: body}}); err != nil {
			return fmt.Errorf("%s: %w", mark, err)
		}
		back, err := call.Recv()
		if err != nil {
			return fmt.Errorf("%s: %w", mark, err)
		}
		if got := back.GetPayload().GetBody(); string(got) != string(body) {
			return fmt.Errorf("%s came back as %d bytes, %.60q", mark, len(got), got)
		}
	}
	return nil
}
