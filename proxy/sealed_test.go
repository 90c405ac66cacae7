// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"pillion/proxy/proxytest"
	"pillion/proxy/proxytest/inproc"
	"pillion/proxy/tls"
	"pillion/proxy/tls/localca"
)

// secretsOf are the certificates of a workload, and the roots of its mesh.
func secretsOf(t testing.TB, ca *localca.CA, serviceAccount string) *tls.Secrets {
	t.Helper()
	leaf, err := ca.Issue("shop", serviceAccount)
	if err != nil {
		t.Fatal(err)
	}
	s := tls.NewSecrets()
	if err := s.Secret("default").SetKeyPair(tls.KeyPair{Chain: leaf.Chain, Key: leaf.Key}, "", "test"); err != nil {
		t.Fatal(err)
	}
	if err := s.Secret("ROOTCA").SetAnchors(tls.Anchors{CA: ca.Root()}, "test"); err != nil {
		t.Fatal(err)
	}
	return s
}

func newCA(t testing.TB) *localca.CA {
	t.Helper()
	ca, err := localca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// serverPair is the certificate of the workload that serverID names, for a host of
// crypto/tls.
func serverPair(t testing.TB, ca *localca.CA) stdtls.Certificate {
	t.Helper()
	leaf, err := ca.Issue("shop", "server")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := stdtls.X509KeyPair(leaf.Chain, leaf.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// mutual is the part of a TLS context that both ends of a mesh have in common; san is
// what the other end has to be.
func mutual(alpn, san string) string {
	return `common_tls_context: {alpn_protocols: [` + alpn + `], tls_certificate_sds_secret_configs: [{name: default, sds_config: {ads: {}}}],
  combined_validation_context: {default_validation_context: {match_subject_alt_names: [` + san + `]},
    validation_context_sds_secret_config: {name: ROOTCA, sds_config: {ads: {}}}}}`
}

func inboundSocket(san string) string {
	return `transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
  require_client_certificate: true, ` + mutual("h2, http/1.1", san) + `}}`
}

func outboundSocket(alpn, san string) string {
	return `transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext,
  sni: outbound_.80_._.b, ` + mutual(alpn, san) + `}}`
}

func portOf(t testing.TB, addr string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// sealedPair is a proxy beside a client and one beside its server b, with mutual TLS
// between them, and returns the first one's address.
func sealedPair(t testing.TB, b *inproc.Backend, http2 bool, serverSAN, clientSAN string) string {
	t.Helper()
	ca := newCA(t)
	addr := rawRoute{port: b.Port, chain: inboundSocket(clientSAN), secrets: secretsOf(t, ca, "server")}.serve(t)
	alpn := "http/1.1"
	if http2 {
		alpn = "h2"
	}
	return rawRoute{port: portOf(t, addr), http2: http2, cluster: outboundSocket(alpn, serverSAN), secrets: secretsOf(t, ca, "client")}.serve(t)
}

const (
	serverID = "{exact: spiffe://cluster.local/ns/shop/sa/server}"
	meshID   = "{prefix: spiffe://cluster.local/}"
)

// TestSealedBodies: bodies of many sizes come through two proxies with mutual TLS
// between them, both ways, over either version of HTTP.
func TestSealedBodies(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(_ string, _ map[string]string, body string) string { return inproc.OK(body) })
	})
	for _, http2 := range []bool{false, true} {
		addr := sealedPair(t, b, http2, serverID, meshID)
		c := inproc.Dial(t, addr)
		for _, size := range []int{0, 1, 100, 16 << 10, 16<<10 + 1, 100_000, 3 << 20} {
			body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
			r := c.Do(fmt.Sprintf("POST /x HTTP/1.1\nHost: a\nContent-Length: %d\n\n%s", size, body))
			wantLine(t, r, "HTTP/1.1 200 OK")
			if r.Body != body {
				t.Fatalf("HTTP/2 %v: %d octets came back of %d", http2, len(r.Body), size)
			}
		}
	}
}

// TestSealedRefusals: who can't show who it is gets no request, and sends none.
func TestSealedRefusals(t *testing.T) {
	for _, c := range []struct{ name, server, client, want string }{
		{"the server is another workload", "{exact: spiffe://cluster.local/ns/shop/sa/other}", meshID, "remote connection failure"},
		{"the client is of another mesh", serverID, "{prefix: spiffe://other.mesh/}", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var reached bool
			b := inproc.NewBackend(t, func(conn *inproc.Conn) {
				reached = true
				conn.Serve(func(string, map[string]string, string) string { return inproc.OK("") })
			})
			r := inproc.Dial(t, sealedPair(t, b, false, c.server, c.client)).Do("GET / HTTP/1.1\nHost: a\n\n")
			if r.Line != "HTTP/1.1 503 Service Unavailable" || !strings.Contains(r.Body, c.want) {
				t.Errorf("%s %q", r.Line, r.Body)
			}
			if reached {
				t.Error("the application was reached")
			}
		})
	}
}

// TestCutOverTLS: a body that ends where its connection does is complete if the host
// says by close_notify that it has ended it (RFC 9112 section 9.8). Without, anybody
// on the way may have cut it off, and the client has to see that.
func TestCutOverTLS(t *testing.T) {
	ca := newCA(t)
	pair := serverPair(t, ca)
	const untilClose, sized = "HTTP/1.1 200 OK\n\nall of it", "HTTP/1.1 200 OK\nContent-Length: 9\n\nall of it"
	for _, tc := range []struct {
		name, response   string
		notify, complete bool
	}{
		{"ended by the host", untilClose, true, true},
		{"cut off", untilClose, false, false},
		{"cut off behind its length", sized, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := inproc.NewBackend(t, func(c *inproc.Conn) {
				sealed := stdtls.Server(c.Conn, &stdtls.Config{Certificates: []stdtls.Certificate{pair}})
				if _, err := sealed.Read(make([]byte, 1024)); err != nil {
					t.Error(err)
				}
				_, _ = sealed.Write([]byte(strings.ReplaceAll(tc.response, "\n", "\r\n")))
				if tc.notify {
					_ = sealed.CloseWrite()
				}
			})
			addr := rawRoute{port: b.Port, cluster: outboundSocket("http/1.1", serverID), secrets: secretsOf(t, ca, "client")}.serve(t)

			c := inproc.Dial(t, addr)
			c.Send("GET / HTTP/1.1\nHost: a\n\n")
			_, fields := c.Head()
			switch {
			case fields["content-length"] != "":
				c.Want("all of it")
			case tc.complete:
				c.Want("9\r\nall of it\r\n0\r\n\r\n")
			default:
				c.Want("9\r\nall of it\r\n")
				c.WantClosed()
			}

			c2 := inproc.Dial2(t, addr)
			c2.Get(1)
			c2.Want(1, "head")
			var body string
			e := c2.Next()
			for ; e.Kind == "data"; e = c2.Next() {
				if body += e.Data; e.End {
					break
				}
			}
			if body != "all of it" || e.End != tc.complete || !tc.complete && e.Kind != "reset" {
				t.Errorf("over HTTP/2: %q, then %+v", body, e)
			}
		})
	}
}

// errCut is the end of a socket, which crypto/tls comes to only where no close_notify
// came before.
var errCut = errors.New("ended without close_notify")

type socketEnd struct{ net.Conn }

func (s socketEnd) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err == io.EOF {
		err = errCut
	}
	return n, err
}

// TestRawEndsOverTLS: how one side of a raw connection ended is what the other one is
// told, and that one may still answer.
func TestRawEndsOverTLS(t *testing.T) {
	ca := newCA(t)
	pair := serverPair(t, ca)
	// Who is there is what other tests look at.
	conf := &stdtls.Config{Certificates: []stdtls.Certificate{pair}, InsecureSkipVerify: true}
	for _, tc := range []struct {
		name         string
		host, notify bool // who ends first, and how
		want         error
	}{
		{"ended by the host", true, true, nil},
		{"host cut off", true, false, errCut},
		{"ended by the client", false, true, nil},
		{"client cut off", false, false, errCut},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// speak is one side. Each says a word before it ends.
			speak := func(sealed *stdtls.Conn, first bool) {
				answer := func(want error) {
					if got, err := io.ReadAll(sealed); string(got) != "word" || err != want {
						t.Errorf("first %v: got %q and %v, want %v", first, got, err, want)
					}
				}
				if !first {
					answer(tc.want)
				}
				if _, err := sealed.Write([]byte("word")); err != nil {
					t.Errorf("first %v: %v", first, err)
				}
				if !first || tc.notify {
					_ = sealed.CloseWrite()
				} else {
					_ = sealed.NetConn().(socketEnd).Conn.(*net.TCPConn).CloseWrite()
				}
				if first {
					answer(nil)
				}
			}
			done := make(chan struct{})
			b := inproc.NewBackend(t, func(c *inproc.Conn) {
				defer close(done)
				sealed := stdtls.Server(socketEnd{c.Conn}, conf)
				speak(sealed, tc.host)
			})
			addr := rawRoute{port: b.Port, raw: true, chain: inboundSocket(meshID), cluster: outboundSocket("istio", serverID), secrets: secretsOf(t, ca, "client")}.serve(t)
			c := inproc.Dial(t, addr)
			speak(stdtls.Client(socketEnd{c.Conn}, conf), !tc.host)
			<-done
		})
	}
}

// TestTunnelCutOverTLS: octets of another protocol are passed on as far as they came,
// and their end is the end, however the host's TLS ends.
func TestTunnelCutOverTLS(t *testing.T) {
	ca := newCA(t)
	pair := serverPair(t, ca)
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		sealed := stdtls.Server(c.Conn, &stdtls.Config{Certificates: []stdtls.Certificate{pair}})
		if _, err := sealed.Read(make([]byte, 1024)); err != nil {
			t.Error(err)
		}
		_, _ = sealed.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nfarewell"))
	})
	addr := rawRoute{port: b.Port, manager: "upgrade_configs: [{upgrade_type: websocket}]",
		cluster: outboundSocket("http/1.1", serverID), secrets: secretsOf(t, ca, "client")}.serve(t)
	c := inproc.Dial(t, addr)
	c.Send("GET / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket\n\n")
	if line, _ := c.Head(); line != "HTTP/1.1 101 Switching Protocols" {
		t.Fatal(line)
	}
	got, err := io.ReadAll(c.Tunnel())
	if string(got) != "farewell" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestSealedIdleClose: that the server's proxy closes an idle connection costs no
// client an error, also under TLS.
func TestSealedIdleClose(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(string, map[string]string, string) string { return inproc.OK("x") })
	})
	ca := newCA(t)
	inbound := rawRoute{port: b.Port, chain: inboundSocket(meshID), secrets: secretsOf(t, ca, "server"),
		manager: "common_http_protocol_options: {max_requests_per_connection: 1}"}
	addr := rawRoute{port: portOf(t, inbound.serve(t)), cluster: outboundSocket("http/1.1", serverID), secrets: secretsOf(t, ca, "client")}.serve(t)
	c := inproc.Dial(t, addr)
	for range 20 {
		wantLine(t, c.Do("POST / HTTP/1.1\nHost: a\nContent-Length: 1\n\nx"), "HTTP/1.1 200 OK")
	}
}

// TestMaxRequests: a connection ends with as many requests as it may carry, on either
// version of HTTP, and none is lost.
func TestMaxRequests(t *testing.T) {
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		c.Serve(func(string, map[string]string, string) string { return inproc.OK("x") })
	})
	addr := rawRoute{port: b.Port, manager: "common_http_protocol_options: {max_requests_per_connection: 2}"}.serve(t)
	c := inproc.Dial(t, addr)
	for i, want := range []string{"", "close"} {
		r := c.Do("GET / HTTP/1.1\nHost: a\n\n")
		wantLine(t, r, "HTTP/1.1 200 OK")
		if got := r.Fields["connection"]; got != want {
			t.Errorf("request %d: connection: %q, want %q", i, got, want)
		}
	}
	c.WantClosed()
	c2 := inproc.Dial2(t, addr)
	c2.Get(1)
	if r := c2.Response(1); r.Line != "200" {
		t.Errorf("stream 1: %+v", r)
	}
	c2.Get(3)
	for answered, told := false, false; !answered || !told; {
		e := c2.Next() // in either order
		if e.Kind == "closed" || e.Kind == "reset" {
			t.Fatalf("%+v", e)
		}
		answered = answered || e.ID == 3 && e.End
		told = told || e.Kind == "goaway" && e.Code == 0
	}
}

// TestSealedAllocations is the bound on the hot path with mutual TLS: of two proxies
// and the encryption between them, only crypto/tls allocates, and that once for each
// record that it reads.
func TestSealedAllocations(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
	b := inproc.NewBackend(t, func(c *inproc.Conn) {
		p := make([]byte, 4096)
		_ = c.SetDeadline(time.Time{})
		for {
			if _, err := c.Conn.Read(p); err != nil {
				return
			}
			if _, err := c.Conn.Write(answer); err != nil {
				return
			}
		}
	})
	nc, err := net.Dial("tcp", sealedPair(t, b, false, serverID, meshID))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	request := []byte("GET /x HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\n\r\n")
	in := make([]byte, 4096)
	proxytest.MaxAllocs(t, "a keep-alive GET over mutual TLS", 2, func() {
		if _, err := nc.Write(request); err != nil {
			t.Fatal(err)
		}
		if n, err := nc.Read(in); err != nil || string(in[:15]) != "HTTP/1.1 200 OK" {
			t.Fatalf("%q %v", in[:n], err)
		}
	})
}
