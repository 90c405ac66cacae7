// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"pillion/proxy/proxytest/inproc"
)

// service is a gRPC server behind the proxy. A handler that isn't set echoes.
type service struct {
	testpb.UnimplementedTestServiceServer
	calls  atomic.Int64
	port   int
	unary  func(ctx context.Context, call int64) error
	stream func(s testpb.TestService_FullDuplexCallServer) error
}

func (s *service) UnaryCall(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	n := s.calls.Add(1)
	if s.unary != nil {
		if err := s.unary(ctx, n); err != nil {
			return nil, err
		}
	}
	return &testpb.SimpleResponse{Payload: r.Payload}, nil
}

func (s *service) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	s.calls.Add(1)
	if s.stream != nil {
		return s.stream(stream)
	}
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: m.Payload}); err != nil {
			return err
		}
	}
}

// serve starts the service, which stops with the test.
func (s *service) serve(t *testing.T) *service {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = ln.Addr().(*net.TCPAddr).Port
	server := grpc.NewServer()
	testpb.RegisterTestServiceServer(server, s)
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(server.Stop)
	return s
}

// callsYAML is the host "calls", whose hosts are the services.
func callsYAML(services ...*service) string {
	var b strings.Builder
	b.WriteString(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: calls, namespace: default}
spec:
  hosts: [calls.default.svc.cluster.local]
  ports: [{number: 80, name: grpc, protocol: GRPC}, {number: 81, name: grpc-web, protocol: GRPC-WEB}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
`)
	for i, s := range services {
		fmt.Fprintf(&b, "  - {address: 127.0.0.1, ports: {grpc: %[1]d, grpc-web: %[1]d}, labels: {app: calls, version: v%[2]d}}\n", s.port, i+1)
	}
	return b.String()
}

func callsRoute(http string) string {
	return strings.ReplaceAll(route(http), "echo", "calls")
}

// dial returns a client that calls the host through the proxy, and doesn't
// repeat anything by itself.
func dial(t *testing.T, p *inproc.Proxy) testpb.TestServiceClient {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+p.Addr("http"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("calls"), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return testpb.NewTestServiceClient(c)
}

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func payload(text string) *testpb.Payload { return &testpb.Payload{Body: []byte(text)} }

// metric sums the series of a counter that have all of the labels, given as
// name="value".
func metric(t *testing.T, p *inproc.Proxy, name string, labels ...string) (sum float64) {
	t.Helper()
	resp, err := nethttp.Get("http://" + p.Addr("metrics") + "/stats/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
series:
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, name+"{") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(line, l) {
				continue series
			}
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		sum += v
	}
	return sum
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("the call ends with %v (%v), want %v", got, err, want)
	}
}

func TestGRPCUnary(t *testing.T) {
	s := (&service{unary: func(_ context.Context, call int64) error {
		if call == 2 {
			return status.Error(codes.NotFound, "no % such é thing")
		}
		return nil
	}}).serve(t)
	p := inproc.Start(t, map[string]string{"calls.yaml": callsYAML(s)})
	client := dial(t, p)
	r, err := client.UnaryCall(patient(t), &testpb.SimpleRequest{Payload: payload("hello")})
	if err != nil || string(r.Payload.Body) != "hello" {
		t.Fatalf("%v, %v", r, err)
	}
	_, err = client.UnaryCall(patient(t), &testpb.SimpleRequest{})
	wantCode(t, err, codes.NotFound)
	if m := status.Convert(err).Message(); m != "no % such é thing" {
		t.Errorf("the message is %q", m)
	}
	for code, want := range map[string]float64{"0": 1, "5": 1} {
		p.WaitFor("the call is counted", func() bool {
			return metric(t, p, "istio_requests_total", `request_protocol="grpc"`, `response_code="200"`, `grpc_response_status="`+code+`"`) == want
		})
	}
	if n, m := metric(t, p, "istio_request_messages_total"), metric(t, p, "istio_response_messages_total"); n != 2 || m != 1 {
		t.Errorf("%v and %v messages are counted, want 2 and 1", n, m)
	}
	if n := metric(t, p, "envoy_cluster_grpc_5"); n != 1 {
		t.Errorf("the cluster has %v calls with status 5, want 1", n)
	}
}

// TestGRPCStream: both directions flow at once, and messages count while the
// stream goes on.
func TestGRPCStream(t *testing.T) {
	s := (&service{}).serve(t)
	p := inproc.Start(t, map[string]string{"calls.yaml": callsYAML(s)})
	stream, err := dial(t, p).FullDuplexCall(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		text := strings.Repeat("x", i*i*i*10)
		if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: payload(text)}); err != nil {
			t.Fatal(err)
		}
		m, err := stream.Recv()
		if err != nil || string(m.Payload.Body) != text {
			t.Fatalf("message %d: %d octets, %v", i, len(m.GetPayload().GetBody()), err)
		}
	}
	if n := metric(t, p, "istio_response_messages_total", `destination_version="v1"`); n != 20 {
		t.Errorf("%v messages are counted while the stream is open, want 20", n)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("the stream ends with %v", err)
	}
	p.WaitFor("the stream is counted", func() bool { return metric(t, p, "istio_requests_total", `grpc_response_status="0"`) == 1 })
}

func TestGRPCRetry(t *testing.T) {
	s := (&service{unary: func(_ context.Context, call int64) error {
		if call < 3 {
			return status.Error(codes.Unavailable, "not yet")
		}
		return nil
	}}).serve(t)
	p := inproc.Start(t, map[string]string{"calls.yaml": callsYAML(s)})
	r, err := dial(t, p).UnaryCall(patient(t), &testpb.SimpleRequest{Payload: payload("again")})
	if err != nil || string(r.Payload.Body) != "again" || s.calls.Load() != 3 {
		t.Errorf("%v, %v after %d calls", r, err, s.calls.Load())
	}
}

// TestGRPCDeadline: the service is told of the deadline, capped by nothing, and
// the call ends with it.
func TestGRPCDeadline(t *testing.T) {
	left := make(chan time.Duration, 1)
	s := (&service{unary: func(ctx context.Context, call int64) error {
		if call == 1 {
			return nil // all connections are made
		}
		d, _ := ctx.Deadline()
		left <- time.Until(d)
		<-ctx.Done()
		return ctx.Err()
	}}).serve(t)
	p := inproc.Start(t, map[string]string{"calls.yaml": callsYAML(s)})
	client := dial(t, p)
	if _, err := client.UnaryCall(patient(t), &testpb.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(patient(t), time.Second)
	defer cancel()
	_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{})
	wantCode(t, err, codes.DeadlineExceeded)
	select {
	case d := <-left:
		if d <= 0 || d > time.Second {
			t.Errorf("the service was told of %v", d)
		}
	case <-patient(t).Done():
		t.Error("the service was not called")
	}
}

func TestGRPCAbort(t *testing.T) {
	s := (&service{}).serve(t)
	p := inproc.Start(t, map[string]string{"calls.yaml": callsYAML(s),
		"route.yaml": callsRoute("  - fault: {abort: {grpcStatus: DATA_LOSS, percentage: {value: 100}}}\n    route: [{destination: {host: calls}}]\n")})
	_, err := dial(t, p).UnaryCall(patient(t), &testpb.SimpleRequest{})
	wantCode(t, err, codes.DataLoss)
	if status.Convert(err).Message() != "fault filter abort" || s.calls.Load() != 0 {
		t.Errorf("%v after %d calls", err, s.calls.Load())
	}
	p.WaitFor("the abort is counted", func() bool {
		return metric(t, p, "istio_requests_total", `response_flags="FI"`, `grpc_response_status="15"`) == 1
	})
}

// TestGRPCOutlier: a host that fails in the trailers of 200s is ejected, one
// that refuses what it was asked is not.
func TestGRPCOutlier(t *testing.T) {
	for code, ejected := range map[codes.Code]bool{codes.Internal: true, codes.InvalidArgument: false} {
		t.Run(code.String(), func(t *testing.T) {
			bad := (&service{stream: func(s testpb.TestService_FullDuplexCallServer) error {
				// The head goes first, so that the status comes in trailers.
				if err := s.SendHeader(metadata.Pairs("x-head", "1")); err != nil {
					return err
				}
				return status.Error(code, "no")
			}}).serve(t)
			good := (&service{}).serve(t)
			p := inproc.Start(t, map[string]string{"calls.yaml": callsYAML(bad, good), "rule.yaml": strings.ReplaceAll(rule(
				"{loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 300s, maxEjectionPercent: 100}}"), "echo", "calls")})
			client := dial(t, p)
			call := func() error {
				s, err := client.FullDuplexCall(patient(t))
				if err != nil {
					return err
				}
				if err := s.CloseSend(); err != nil {
					return err
				}
				if _, err = s.Recv(); err == io.EOF {
					return nil
				}
				return err
			}
			for range 20 {
				if err := call(); err != nil && status.Code(err) != code {
					t.Fatal(err)
				}
			}
			if n := bad.calls.Load(); (n == 3) != ejected {
				t.Errorf("the failing host got %d of 20 calls", n)
			}
		})
	}
}

// TestGRPCQuietStream: a stream is quiet for longer than a try may take and
// than connections may be idle, and goes on.
func TestGRPCQuietStream(t *testing.T) {
	s := (&service{}).serve(t)
	p := inproc.Start(t, map[string]string{"calls.yaml": callsYAML(s),
		"route.yaml": callsRoute("  - retries: {attempts: 2, perTryTimeout: 100ms}\n    route: [{destination: {host: calls}}]\n"),
		"rule.yaml":  strings.ReplaceAll(rule("{connectionPool: {http: {idleTimeout: 1s}}}"), "echo", "calls")})
	stream, err := dial(t, p).FullDuplexCall(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	exchange := func() {
		t.Helper()
		if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: payload("x")}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	exchange()
	<-time.NewTimer(2500 * time.Millisecond).C
	exchange()
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("the stream ends with %v", err)
	}
}

// TestGRPCSlowResponse: the time of one try ends when the response has begun.
func TestGRPCSlowResponse(t *testing.T) {
	s := (&service{stream: func(s testpb.TestService_FullDuplexCallServer) error {
		if _, err := s.Recv(); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for range 4 {
			if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: payload("x")}); err != nil {
				return err
			}
			<-time.NewTimer(400 * time.Millisecond).C
		}
		return nil
	}}).serve(t)
	p := inproc.Start(t, map[string]string{"calls.yaml": callsYAML(s),
		"route.yaml": callsRoute("  - retries: {attempts: 2, perTryTimeout: 1s}\n    route: [{destination: {host: calls}}]\n")})
	stream, err := dial(t, p).FullDuplexCall(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		if _, err = stream.Recv(); err != nil {
			break
		}
		n++
	}
	if n != 4 || err != io.EOF {
		t.Errorf("%d messages, then %v", n, err)
	}
}

// TestGRPCWeb calls a gRPC service as a browser does, by HTTP/1.1.
func TestGRPCWeb(t *testing.T) {
	s := (&service{}).serve(t)
	p := inproc.Start(t, map[string]string{"calls.yaml": callsYAML(s)})
	for _, c := range []struct{ kind, body, want string }{
		{"application/grpc-web+proto", "\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x80\x00\x00\x00\x1fgrpc-message:\r\ngrpc-status:0\r\n"},
		{"application/grpc-web-text", "AAAAAAA=", "AAAAAAA="},
	} {
		req, err := nethttp.NewRequestWithContext(patient(t), "POST", "http://"+p.Addr("http")+"/grpc.testing.TestService/UnaryCall", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "calls"
		req.Header.Set("content-type", c.kind)
		req.Header.Set("accept", c.kind)
		resp, err := nethttp.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("content-type"), c.kind) {
			t.Errorf("%s: %s, %v, %q, %v", c.kind, resp.Status, resp.Header, body, err)
		}
		if !strings.HasPrefix(string(body), c.want[:8]) || len(body) < 20 {
			t.Errorf("%s: %q", c.kind, body)
		}
	}
	p.WaitFor("the calls are counted", func() bool {
		return metric(t, p, "istio_requests_total", `request_protocol="grpc"`, `grpc_response_status="0"`) == 2
	})
	if n, m := metric(t, p, "istio_request_messages_total"), metric(t, p, "istio_response_messages_total"); n != 2 || m != 2 {
		t.Errorf("%v and %v messages are counted, want 2 and 2", n, m)
	}
}
