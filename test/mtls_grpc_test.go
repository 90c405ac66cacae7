// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"io"
	"strings"
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

// TestSealedGRPC: calls of a gRPC library go from client to server through two
// proxies with mutual TLS between them, of which either may be a real Envoy.
func TestSealedGRPC(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		db, web starter
	}{{"ours", startOurs, startOurs}, {"Envoy serves", startEnvoy, startOurs}, {"Envoy calls", startOurs, startEnvoy}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := startSealedWith(t, "STRICT", "", c.db, c.web)
			conn, err := grpc.NewClient("passthrough:///"+m.web.HTTP, grpc.WithAuthority("db.shop.svc.cluster.local:85"),
				grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			service := testpb.NewTestServiceClient(conn)
			ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
			defer cancel()
			sealedUnary(ctx, t, service)
			sealedStreams(ctx, t, service)
		})
	}
}

// sealedUnary makes calls of one message: one that succeeds, one with a status, and
// one whose time is up.
func sealedUnary(ctx context.Context, t *testing.T, service testpb.TestServiceClient) {
	t.Helper()
	var header, trailer metadata.MD
	body := strings.Repeat("x", 100_000)
	told := metadata.AppendToOutgoingContext(ctx, "tell-bin", "\x00\xff")
	got, err := service.UnaryCall(told, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte(body)}}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || string(got.GetPayload().GetBody()) != body {
		t.Fatalf("%d bytes, %v", len(got.GetPayload().GetBody()), err)
	}
	if caller := header["caller"]; len(caller) != 1 || !strings.Contains(caller[0], "URI="+webID) || !strings.Contains(caller[0], "By="+dbID) {
		t.Errorf("the service is told that %q calls", caller)
	}
	if b := header["told-bin"]; len(b) != 1 || b[0] != "\x00\xff" || len(trailer["in-trailer"]) != 1 {
		t.Errorf("header %v, trailer %v", header, trailer)
	}
	_, err = service.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.NotFound), Message: "no such ü%"}})
	if s := grpcstatus.Convert(err); s.Code() != codes.NotFound || s.Message() != "no such ü%" {
		t.Errorf("a status comes as %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err = service.UnaryCall(short, &testpb.SimpleRequest{ResponseSize: -1}); grpcstatus.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call whose time is up ends with %v", err)
	}
}

// sealedStreams keeps streams open side by side: messages of both directions come in
// turn, and so does the end of each.
func sealedStreams(ctx context.Context, t *testing.T, service testpb.TestServiceClient) {
	t.Helper()
	var calls []testpb.TestService_FullDuplexCallClient
	for range 8 {
		call, err := service.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, call)
	}
	for round := range 2 {
		onAll(t, calls, func(i int, call testpb.TestService_FullDuplexCallClient) error { return exchange(call, i, round) })
	}
	for i, call := range calls {
		if err := call.CloseSend(); err != nil {
			t.Errorf("stream %d: %v", i, err)
		}
		if _, err := call.Recv(); err != io.EOF {
			t.Errorf("stream %d ends with %v", i, err)
		}
	}
}
