// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"pillion/test/rig"
)

// rawObjects are services that speak something else than HTTP/1, or at other
// ports, or to pods without a proxy.
var rawObjects = strings.Join([]string{
	service("db", "10.96.2.1", "ratings", "{name: tcp, port: 9000, targetPort: 9000}"), slice("db", "{name: tcp, port: 9000}", "ratings-v1"),
	service("db2", "10.96.2.2", "reviews", "{name: tcp, port: 9000, targetPort: 9000}"), slice("db2", "{name: tcp, port: 9000}", "reviews-v1"),
	service("unnamed", "10.96.2.3", "ratings", "{name: any, port: 9010, targetPort: 9000}"), slice("unnamed", "{name: any, port: 9000}", "ratings-v1"),
	service("bare", "None", "ratings", "{name: tcp, port: 9020, targetPort: 9020}, {name: http, port: 9080, targetPort: 9080}"),
	slice("bare", "{name: tcp, port: 9020}, {name: http, port: 9080}", "ratings-v1"),
	service("echo", "10.96.2.4", "ratings", "{name: grpc, port: 7070, targetPort: 7070}"), slice("echo", "{name: grpc, port: 7070}", "ratings-v1"),
	service("open", "10.96.2.5", "ratings", "{name: http, port: 9082, targetPort: 9082}"), slice("open", "{name: http, port: 9082}", "ratings-v1"),
	service("old", "10.96.2.6", "legacy", "{name: http, port: 9080, targetPort: 9083}, {name: tcp, port: 9000, targetPort: 9000}"),
	slice("old", "{name: http, port: 9083}, {name: tcp, port: 9000}", "legacy"),
	service("upgraded", "10.96.2.7", "reviews", "{name: http, port: 9080, targetPort: 9080}"), slice("upgraded", "{name: http, port: 9080}", "reviews-v1"), `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: upgraded, namespace: default}
spec: {host: upgraded, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}}
`, `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open, namespace: default}
spec: {selector: {matchLabels: {app: ratings}}, mtls: {mode: STRICT}, portLevelMtls: {"9082": {mode: PERMISSIVE}}}
`}, "---")

// greet is a server that speaks first and then says again what it hears.
func greet(name string) func(net.Conn) {
	return func(c net.Conn) {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		if _, err := fmt.Fprintf(c, "%s greets %s\n", name, host); err == nil {
			_, _ = io.Copy(c, c) // until the client ends
		}
	}
}

// startRaw starts the servers behind rawObjects.
func (m *mesh) startRaw() {
	for _, at := range []struct{ pod, addr string }{{"ratings-v1", ":9000"}, {"ratings-v1", ":9020"}, {"reviews-v1", ":9000"}, {"legacy", ":9000"}} {
		m.accept(at.pod, at.addr, greet(at.pod))
	}
	for _, at := range []struct{ pod, addr string }{{"ratings-v1", ":9082"}, {"legacy", ":9083"}} {
		m.n.Pod(at.pod).Run(Command{Path: m.app, Args: []string{"-name", at.pod, "-listen", at.addr}})
		m.n.Pod(at.pod).WaitListening(int(portOf(at.addr)))
	}
	ln, err := m.n.Pod("ratings-v1").Listen("tcp4", ":7070")
	if err != nil {
		m.t.Fatal(err)
	}
	server, state := grpc.NewServer(), health.NewServer()
	healthgrpc.RegisterHealthServer(server, state)
	state.SetServingStatus("shop", healthgrpc.HealthCheckResponse_SERVING)
	go func() { _ = server.Serve(ln) }() // until it is stopped
	m.t.Cleanup(server.Stop)
	m.setHealth = func(up bool) {
		to := healthgrpc.HealthCheckResponse_NOT_SERVING
		if up {
			to = healthgrpc.HealthCheckResponse_SERVING
		}
		state.SetServingStatus("shop", to)
	}
}

func portOf(addr string) uint16 {
	_, text, _ := net.SplitHostPort(addr)
	n, _ := net.LookupPort("tcp", text)
	return uint16(n)
}

// talk connects, says a word, hears what is said until that comes back, ends
// its direction, and returns all that it has heard.
func (m *mesh) talk(from, addr string) (string, error) {
	if from == "" {
		from = "productpage-v1"
	}
	c, err := m.dial(m.t.Context(), from, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(rig.Patience))
	if _, err := io.WriteString(c, "a word\n"); err != nil {
		return "", err
	}
	var heard strings.Builder
	for piece := make([]byte, 512); !strings.HasSuffix(heard.String(), "a word\n"); {
		n, err := c.Read(piece)
		heard.Write(piece[:n])
		if err != nil {
			return heard.String(), err
		}
	}
	// What is behind a proxy ends when its client does.
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	_, err = io.Copy(&heard, c)
	return heard.String(), err
}

// testRaw: connections without HTTP, and the ways of pods without a proxy.
func testRaw(t *testing.T, m *mesh) {
	for _, tc := range []struct{ name, from, addr, want string }{
		{"TCP", "", "db:9000", "ratings-v1 greets 127.0.0.6\na word\n"},
		{"another service at the same port", "", "db2:9000", "reviews-v1 greets 127.0.0.6\na word\n"},
		{"a protocol that isn't told", "", "unnamed:9010", "ratings-v1 greets 127.0.0.6\na word\n"},
		{"headless", "", "10.244.0.13:9020", "ratings-v1 greets 127.0.0.6\na word\n"},
		{"its own service", "ratings-v1", "db:9000", "ratings-v1 greets 127.0.0.6\na word\n"},
		{"a pod without a proxy", "", "old:9000", "legacy greets 10.244.0.10\na word\n"},
		{"within the pod", "ratings-v1", "127.0.0.1:9000", "ratings-v1 greets 127.0.0.1\na word\n"},
		{"from a pod without a proxy, STRICT", "legacy", "10.244.0.13:9000", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := m.talk(tc.from, tc.addr)
			if got != tc.want || err != nil && tc.want != "" {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	for _, tc := range []struct{ from, addr string }{
		{"legacy", "10.244.0.13:15006"}, {"legacy", "10.244.0.13:15001"}, {"", "10.244.0.13:15006"}, {"", "10.244.0.10:15006"}, {"", "10.244.0.10:15001"},
		{"", "127.0.0.1:15006"}, {"", "127.0.0.1:15001"}, {"", "10.244.0.13:15000"}, {"legacy", "10.244.0.13:15000"},
	} {
		t.Run("nobody listens for "+tc.from+" at "+tc.addr, func(t *testing.T) {
			if got, err := m.talk(tc.from, tc.addr); err == nil || got != "" || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	for _, tc := range []struct {
		name string
		call call
		app  string
		want string
		not  string
	}{
		{"headless HTTP", call{url: "http://10.244.0.13:9080/", host: "bare:9080"}, "ratings-v1", "URI=spiffe://cluster.local/ns/default/sa/bookinfo-productpage", ""},
		{"PERMISSIVE, by mutual TLS", call{url: "http://open:9082/"}, "ratings-v1", "URI=spiffe://cluster.local/ns/default/sa/bookinfo-productpage", ""},
		{"PERMISSIVE, in the clear", call{from: "legacy", url: "http://10.244.0.13:9082/"}, "ratings-v1", `"peer":"127.0.0.6:`, "X-Forwarded-Client-Cert"},
		{"PERMISSIVE, in the clear over HTTP/2", call{from: "legacy", url: "http://10.244.0.13:9082/", http2: true}, "ratings-v1", "Go-http-client/2.0", "X-Forwarded-Client-Cert"},
		{"a forged certificate", call{from: "legacy", url: "http://10.244.0.13:9082/", header: []string{"x-forwarded-client-cert: URI=spiffe://cluster.local/ns/default/sa/root"}}, "ratings-v1", `"peer":"127.0.0.6:`, "sa/root"},
		{"a pod without a proxy", call{url: "http://old:9080/"}, "legacy", `"peer":"10.244.0.10:`, "X-Forwarded-Client-Cert"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := m.try(t, tc.call, 200)
			if r.page.App != tc.app || !strings.Contains(r.body, tc.want) || tc.not != "" && strings.Contains(r.body, tc.not) {
				t.Errorf("wanted %s and %s, without %q, not\n%s", tc.app, tc.want, tc.not, r.body)
			}
		})
	}
	t.Run("HTTP in the clear, STRICT", func(t *testing.T) {
		m.try(t, call{url: "http://10.244.0.13:9080/", host: "bare:9080"}, 200) // it is there
		if r, err := m.ask(call{from: "legacy", url: "http://10.244.0.13:9080/", host: "bare:9080"}); err == nil {
			t.Errorf("it was answered with %d %s", r.code, r.body)
		}
	})
	t.Run("h2UpgradePolicy", func(t *testing.T) {
		m.try(t, call{url: "http://upgraded:9080/upgraded"}, 200)
		rig.Until(t, "the proxy of reviews-v1 logs a request of HTTP/2", func() error {
			if !strings.Contains(m.proxies["reviews-v1"].Log(), `"GET /upgraded HTTP/2" 200`) {
				return errors.New("not yet")
			}
			return nil
		})
	})
	t.Run("gRPC", func(t *testing.T) { testGRPC(t, m) })
}

// testGRPC: calls of grpc-go, with an error, and a stream.
func testGRPC(t *testing.T, m *mesh) {
	conn, err := grpc.NewClient("passthrough:///echo:7070", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return m.dial(ctx, "productpage-v1", addr) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m.setHealth(true)
	client := healthgrpc.NewHealthClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	for range 10 {
		if got, err := client.Check(ctx, &healthgrpc.HealthCheckRequest{Service: "shop"}); err != nil || got.GetStatus() != healthgrpc.HealthCheckResponse_SERVING {
			t.Fatalf("%v %v", got, err)
		}
	}
	if _, err := client.Check(ctx, &healthgrpc.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("an error arrives as %v", err)
	}
	stream, err := client.Watch(ctx, &healthgrpc.HealthCheckRequest{Service: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range []healthgrpc.HealthCheckResponse_ServingStatus{healthgrpc.HealthCheckResponse_SERVING, healthgrpc.HealthCheckResponse_NOT_SERVING, healthgrpc.HealthCheckResponse_SERVING} {
		got, err := stream.Recv()
		if err != nil || got.GetStatus() != want {
			t.Fatalf("message %d of a stream: %v %v", n, got, err)
		}
		m.setHealth(want == healthgrpc.HealthCheckResponse_NOT_SERVING)
	}
}
