// SPDX-License-Identifier: Apache-2.0

// Package mesh generates the services that every peer of a benchmark is
// configured for, and writes them as the Istio resources that Pillion reads.
//
// All services of a mesh have one shape. Each is a ServiceEntry, a
// VirtualService and a DestinationRule that limits connection pools and ejects
// failing hosts. With subsets there are two, v1 and v2, and a request with
// end-user: jason goes to v2, any other to v1; without, there is one endpoint
// and one route. The output is a function of the arguments alone.
package mesh

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// What every service shares.
const (
	// Port is the services' port.
	Port = 9080
	// Namespace is the services' namespace.
	Namespace = "bench"
	// MatchField and MatchValue select subset v2.
	MatchField = "end-user"
	MatchValue = "jason"
	// MaxConnections limits a host's connections, and its pending and active
	// requests: high enough never to act in a benchmark.
	MaxConnections = 8192
)

// Protocol is what the endpoints of a mesh speak, or the clients of a peer.
type Protocol int

// The protocols.
const (
	HTTP1     Protocol = iota
	HTTP2              // by prior knowledge, without TLS
	GRPC               // likewise, with gRPC's messages and trailers in it
	TCP                // bytes
	WebSocket          // HTTP/1.1 and then an upgraded connection
)

// IsHTTP2 reports whether the protocol is HTTP/2 or inside of it.
func (p Protocol) IsHTTP2() bool { return p == HTTP2 || p == GRPC }

// IsUpgrade reports whether connections are upgraded and then carry bytes.
func (p Protocol) IsUpgrade() bool { return p == WebSocket }

// portName is the name of a service's port, from which Istio takes its protocol.
func (p Protocol) portName() string {
	return [...]string{HTTP1: "http", HTTP2: "http2", GRPC: "grpc", TCP: "tcp", WebSocket: "http"}[p]
}

// Service is one service of the mesh.
type Service struct {
	// Name is its short name.
	Name string
}

// Host is the service's full name.
func (s Service) Host() string { return s.Name + "." + Namespace + ".svc.cluster.local" }

// Authority is the Host field of a request for the service.
func (s Service) Authority() string { return fmt.Sprintf("%s:%d", s.Host(), Port) }

// Mesh is a number of services of one shape.
type Mesh struct {
	Services []Service
	// Subsets: each service has two, chosen by a header match.
	Subsets bool
	// Routes is how many routes more each service with subsets has, before the
	// two others: by the beginning of a path, to v1.
	Routes int
	// Protocol is what the endpoints speak.
	Protocol Protocol
	// Mutual is the identity that endpoints prove in mutual TLS; "" for none.
	Mutual string
}

// New returns a mesh of n services: svc-0000, svc-0001 and so on.
func New(n int, subsets bool) Mesh {
	m := Mesh{Services: make([]Service, n), Subsets: subsets}
	for i := range m.Services {
		m.Services[i].Name = fmt.Sprintf("svc-%04d", i)
	}
	return m
}

// Last is the mesh's last service, which a peer that searches finds last.
func (m Mesh) Last() Service { return m.Services[len(m.Services)-1] }

// Prefixes are the beginnings of paths that the further routes match, each as
// long as the others.
func (m Mesh) Prefixes() []string {
	out := make([]string, m.Routes)
	for i := range out {
		out[i] = fmt.Sprintf("/more-%04d/", i)
	}
	return out
}

// Write creates one YAML file per service in dir, which is made if need be.
// v1 and v2 are the IP addresses and ports of the subsets' endpoints; a mesh
// without subsets has only the first.
func (m Mesh) Write(dir, v1, v2 string) error {
	var ends [2]netip.AddrPort
	for i, a := range []string{v1, v2} {
		var err error
		if ends[i], err = netip.ParseAddrPort(a); err != nil {
			return fmt.Errorf("endpoint of subset v%d: %q isn't an IP address and port", i+1, a)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, s := range m.Services {
		name := filepath.Join(dir, s.Name+".yaml")
		if err := os.WriteFile(name, []byte(m.yaml(s, ends)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// WriteTCP creates the YAML file of a mesh's first service as one of TCP: it
// is reached at its own address and port, which a proxy on loopback listens on.
// There is one endpoint and one route.
func (m Mesh) WriteTCP(dir, listen, endpoint string) error {
	l, err := netip.ParseAddrPort(listen)
	if err != nil {
		return fmt.Errorf("address of the service: %q isn't an IP address and port", listen)
	}
	e, err := netip.ParseAddrPort(endpoint)
	if err != nil {
		return fmt.Errorf("endpoint: %q isn't an IP address and port", endpoint)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	s := m.Services[0]
	text := strings.NewReplacer(
		"{NAME}", s.Name, "{NAMESPACE}", Namespace, "{HOST}", s.Host(), "{LIMIT}", fmt.Sprint(MaxConnections),
		"{ADDR}", l.Addr().String(), "{PORT}", fmt.Sprint(l.Port()),
		"{ADDR1}", e.Addr().String(), "{PORT1}", fmt.Sprint(e.Port()),
	).Replace(ofTCP)
	return os.WriteFile(filepath.Join(dir, s.Name+".yaml"), []byte(text), 0o644)
}

// yaml returns the three resources of a service.
func (m Mesh) yaml(s Service, ends [2]netip.AddrPort) string {
	resources := plain
	if m.Subsets {
		resources = withSubsets
	}
	return strings.NewReplacer(
		"{NAME}", s.Name,
		"{NAMESPACE}", Namespace,
		"{HOST}", s.Host(),
		"{PORT}", fmt.Sprint(Port),
		"{PROTOCOL}", m.Protocol.portName(), "{KIND}", strings.ToUpper(m.Protocol.portName()),
		"{FIELD}", MatchField,
		"{VALUE}", MatchValue,
		"{ROUTES}", m.routes(s),
		"{LIMIT}", fmt.Sprint(MaxConnections), "{TLS}", m.tls(),
		"{ADDR1}", ends[0].Addr().String(), "{PORT1}", fmt.Sprint(ends[0].Port()),
		"{ADDR2}", ends[1].Addr().String(), "{PORT2}", fmt.Sprint(ends[1].Port()),
	).Replace(resources)
}

// routes are the further routes of a service, as lines of its VirtualService.
func (m Mesh) routes(s Service) string {
	var b strings.Builder
	for _, prefix := range m.Prefixes() {
		fmt.Fprintf(&b, "  - match: [{uri: {prefix: %s}}]\n    route: [{destination: {host: %q, subset: v1}}]\n", prefix, s.Host())
	}
	return b.String()
}

// tls is what a DestinationRule says of mutual TLS, as a line of its own.
func (m Mesh) tls() string {
	if m.Mutual == "" {
		return ""
	}
	return fmt.Sprintf("    tls: {mode: ISTIO_MUTUAL, subjectAltNames: [%q]}\n", m.Mutual)
}

// WriteInbound creates the YAML of a mesh's first service as seen by the proxy before
// its workload: mode says what of mutual TLS, and app, an IP address and port, is the
// workload.
func (m Mesh) WriteInbound(dir, app, mode string) error {
	a, err := netip.ParseAddrPort(app)
	if err != nil {
		return fmt.Errorf("address of the workload: %q isn't an IP address and port", app)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	s := m.Services[0]
	text := strings.NewReplacer(
		"{NAME}", s.Name, "{NAMESPACE}", Namespace, "{HOST}", s.Host(), "{LIMIT}", fmt.Sprint(MaxConnections), "{TLS}", "",
		"{PORT}", fmt.Sprint(Port), "{PROTOCOL}", m.Protocol.portName(), "{TARGET}", fmt.Sprint(a.Port()), "{MODE}", mode,
	).Replace(inbound)
	return os.WriteFile(filepath.Join(dir, s.Name+".yaml"), []byte(text), 0o644)
}

// head and tail are what both shapes share: the start of the ServiceEntry, and
// the DestinationRule up to the subsets.
const (
	head = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: {NAME}, namespace: {NAMESPACE}}
spec:
  hosts: ["{HOST}"]
  ports: [{number: {PORT}, name: {PROTOCOL}, protocol: {KIND}}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - {address: "{ADDR1}", ports: {{PROTOCOL}: {PORT1}}, labels: {app: {NAME}, version: v1}}
`
	tail = `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: {NAME}, namespace: {NAMESPACE}}
spec:
  host: "{HOST}"
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: {LIMIT}}
      http: {http1MaxPendingRequests: {LIMIT}, http2MaxRequests: {LIMIT}}
    outlierDetection: {consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s, maxEjectionPercent: 50}
{TLS}`
)

// inbound is a service before whose workload the proxy is.
const inbound = `apiVersion: v1
kind: Service
metadata: {name: {NAME}, namespace: {NAMESPACE}}
spec:
  selector: {app: {NAME}}
  ports: [{name: {PROTOCOL}, port: {PORT}, targetPort: {TARGET}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: {NAME}, namespace: {NAMESPACE}}
spec: {mtls: {mode: {MODE}}}
` + tail

// plain has one endpoint and one route.
const plain = head + `---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: {NAME}, namespace: {NAMESPACE}}
spec:
  hosts: ["{HOST}"]
  http:
  - route: [{destination: {host: "{HOST}"}}]
` + tail

// withSubsets has the routes of the reference mesh.
const withSubsets = head + `  - {address: "{ADDR2}", ports: {{PROTOCOL}: {PORT2}}, labels: {app: {NAME}, version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: {NAME}, namespace: {NAMESPACE}}
spec:
  hosts: ["{HOST}"]
  http:
{ROUTES}  - match: [{headers: {{FIELD}: {exact: {VALUE}}}}]
    route: [{destination: {host: "{HOST}", subset: v2}}]
  - route: [{destination: {host: "{HOST}", subset: v1}}]
` + tail + `  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
`

// ofTCP is a service of TCP.
const ofTCP = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: {NAME}, namespace: {NAMESPACE}}
spec:
  hosts: ["{HOST}"]
  addresses: ["{ADDR}"]
  ports: [{number: {PORT}, name: tcp, protocol: TCP}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - {address: "{ADDR1}", ports: {tcp: {PORT1}}, labels: {app: {NAME}, version: v1}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: {NAME}, namespace: {NAMESPACE}}
spec:
  hosts: ["{HOST}"]
  tcp:
  - match: [{port: {PORT}}]
    route: [{destination: {host: "{HOST}", port: {number: {PORT}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: {NAME}, namespace: {NAMESPACE}}
spec:
  host: "{HOST}"
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: {LIMIT}}
    outlierDetection: {consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s, maxEjectionPercent: 50}
`
