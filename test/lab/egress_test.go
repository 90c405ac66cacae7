// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	stdtls "crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
)

// egressObjects: reviews-v1 may call what is registered and nothing else.
const egressObjects = `
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: closed, namespace: default}
spec:
  workloadSelector: {labels: {app: reviews, version: v1}}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress: [{hosts: ["./*", "istio-system/*"]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: partner, namespace: default}
spec:
  hosts: [partner.example.com]
  addresses: [10.96.3.1]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 9000, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.244.0.30, ports: {http: 8000, tcp: 9000}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named, namespace: default}
spec:
  hosts: [named.example.com]
  addresses: [10.96.3.2]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8000}]
  endpoints: [{address: outside.example.com}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: sealed-outside, namespace: default}
spec:
  hosts: [tls.example.com]
  addresses: [10.96.3.3]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP, targetPort: 443}]
  endpoints: [{address: 10.244.0.30, ports: {tls: 8443, http: 8443}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: sealed-outside, namespace: default}
spec:
  host: tls.example.com
  trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, sni: tls.example.com, insecureSkipVerify: true}}]}
`

func (m *mesh) startOutside() {
	p := m.n.Pod("outside")
	for _, addr := range []string{":8000", ":9080"} {
		p.Run(Command{Path: m.app, Args: []string{"-name", "outside", "-listen", addr}})
		p.WaitListening(int(portOf(addr)))
	}
	cert, key := m.world.issue(m.t, "tls.example.com")
	pair, err := stdtls.X509KeyPair(cert, key)
	if err != nil {
		m.t.Fatal(err)
	}
	m.accept("outside", ":8443", func(c net.Conn) {
		sealed := stdtls.Server(c, &stdtls.Config{Certificates: []stdtls.Certificate{pair}})
		if _, err := nethttp.ReadRequest(bufio.NewReader(sealed)); err == nil {
			text := fmt.Sprintf("%q for %s", sealed.ConnectionState().NegotiatedProtocol, sealed.ConnectionState().ServerName)
			_, _ = fmt.Fprintf(sealed, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
		}
		_ = sealed.Close()
	})
	m.accept("outside", ":9000", greet("outside"))
	m.accept("outside", ":9999", greet("outside"))
}

// testEgress: what leaves the mesh, where all may and where only what is
// registered may.
func testEgress(t *testing.T, m *mesh) {
	const open, closed = "productpage-v1", "reviews-v1"
	for _, tc := range []struct {
		name string
		call call
		code int // 0 for a connection that is closed
	}{
		{"HTTP at a port of its own", call{from: open, url: "http://10.244.0.30:8000/"}, 200},
		{"HTTP at a port that services have", call{from: open, url: "http://10.244.0.30:9080/"}, 200},
		{"registered", call{from: open, url: "http://10.96.3.1/", host: "partner.example.com"}, 200},
		{"registered by a name of DNS", call{from: open, url: "http://10.96.3.2/", host: "named.example.com"}, 200},
		{"TLS for the application", call{from: open, url: "http://10.96.3.3/", host: "tls.example.com"}, 200},
		{"REGISTRY_ONLY: registered", call{from: closed, url: "http://10.96.3.1/", host: "partner.example.com"}, 200},
		{"REGISTRY_ONLY: a service of the mesh", call{from: closed, url: "http://ratings:9080/"}, 200},
		{"REGISTRY_ONLY: HTTP at a port that services have", call{from: closed, url: "http://10.244.0.30:9080/"}, 502},
		{"REGISTRY_ONLY: HTTP at a port of its own", call{from: closed, url: "http://10.244.0.30:8000/"}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := m.ask(tc.call)
			switch {
			case tc.code == 0:
				if err == nil {
					t.Errorf("it was answered with %d %s", r.code, r.body)
				}
			case err != nil:
				t.Error(err)
			case r.code != tc.code:
				t.Errorf("%d %s", r.code, r.body)
			case tc.call.from == closed && r.page.App == "outside" && r.page.Headers["X-Envoy-Peer-Metadata"] != nil:
				t.Error("a stranger is told of the mesh")
			}
		})
	}
	for from, addr := range map[string]string{open: "10.244.0.30:8443", closed: "10.96.3.3:443"} {
		t.Run("TLS of the application from "+from, func(t *testing.T) {
			c, err := m.dial(t.Context(), from, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(rig.Patience))
			roots := x509.NewCertPool()
			roots.AddCert(m.sealedBy.cert)
			sealed := stdtls.Client(c, &stdtls.Config{ServerName: "tls.example.com", RootCAs: roots})
			if _, err := io.WriteString(sealed, "GET / HTTP/1.1\r\nHost: tls.example.com\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(sealed); !strings.HasSuffix(string(text), "for tls.example.com") || err != nil {
				t.Errorf("%q %v", text, err)
			}
		})
	}
	for _, tc := range []struct{ name, from, addr, want string }{
		{"TCP", open, "10.244.0.30:9999", "outside greets 10.244.0.10\na word\n"},
		{"registered TCP", open, "10.96.3.1:9000", "outside greets 10.244.0.10\na word\n"},
		{"TCP at a port of its own, at a port that services have", open, "10.244.0.30:9000", "outside greets 10.244.0.10\na word\n"},
		{"REGISTRY_ONLY: registered TCP", closed, "10.96.3.1:9000", "outside greets 10.244.0.11\na word\n"},
		{"REGISTRY_ONLY: TCP", closed, "10.244.0.30:9999", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := m.talk(tc.from, tc.addr); got != tc.want || err != nil && tc.want != "" {
				t.Errorf("%q %v", got, err)
			}
		})
	}
}
