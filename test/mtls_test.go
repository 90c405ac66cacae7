// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pillion/test/rig"
	"pillion/test/wire"
)

// sealedMesh is a proxy beside the workload db and one beside web, which calls it.
type sealedMesh struct {
	web, db *rig.Proxy
	certs   string
	app     *wire.Origin      // what db serves on its HTTP ports
	inbound map[string]string // addresses of db's proxy, by port name
	tcp     string            // address at which web's proxy opens db's TCP port
}

// sealedPorts are db's ports with what their names say of them, and the protocol of a
// ServiceEntry.
var sealedPorts = []struct {
	name, protocol string
	number         int
}{{"http", "HTTP", 80}, {"http2", "HTTP2", 81}, {"grpc", "GRPC", 82}, {"tcp", "TCP", 83}, {"auto", "", 84}, {"grpc-calls", "GRPC", 85}}

// startSealed starts both proxies under a PeerAuthentication of the given mode. policy is
// further YAML for db's proxy.
func startSealed(t *testing.T, mode, policy string) *sealedMesh {
	t.Helper()
	return startSealedWith(t, mode, policy, startOurs, startOurs)
}

// starter starts a proxy on YAML.
type starter func(t testing.TB, flags []string, paths ...string) *rig.Proxy

func startOurs(t testing.TB, flags []string, paths ...string) *rig.Proxy {
	t.Helper()
	return rig.Start(t, binaries.Static(t), rig.Options{Args: flags}, paths...)
}

// startSealedWith is startSealed with other proxies.
func startSealedWith(t *testing.T, mode, policy string, db, web starter) *sealedMesh {
	t.Helper()
	m := &sealedMesh{certs: t.TempDir(), inbound: map[string]string{}, tcp: rig.FreeAddr(t)}
	makeCerts(t, m.certs)
	m.app = wire.NewOrigin(t, "db", "127.0.0.1:0", func(w io.Writer, r *wire.Request) error {
		return wire.Text(w, r, "xfcc="+r.Fields.Get("x-forwarded-client-cert")+" proto="+r.Fields.Get("x-forwarded-proto"))
	})
	h2 := wire.NewH2Origin(t, rig.Patience, wire.H2Options{}, func(c *wire.H2, id uint32) {
		s := c.Snapshot(id)
		_ = c.Head(id, false, wire.Fields{{Name: ":status", Value: "200"}, {Name: "xfcc", Value: s.Get("x-forwarded-client-cert")}})
		_ = c.Data(id, true, []byte("over h2"))
	})
	app := map[string]string{"http": m.app.Port(), "http2": h2.Port(), "grpc": h2.Port(), "tcp": greeter(t, "db", nil), "auto": m.app.Port(), "grpc-calls": echoGRPC(t)}
	// Each workload port is one of its own, since the Service tells them apart.
	var service, entry, inbound strings.Builder
	args := []string{"--namespace", "shop", "--labels", "app=db", "--service-account", "db", "--certs", filepath.Join(m.certs, "shop", "db")}
	for _, p := range sealedPorts {
		m.inbound[p.name] = rig.FreeAddr(t)
		_, port, _ := net.SplitHostPort(m.inbound[p.name])
		target := app[p.name]
		if p.name == "grpc" || p.name == "auto" {
			target = forwarded(t, target)
		}
		args = append(args, "--inbound", m.inbound[p.name]+"=127.0.0.1:"+target)
		fmt.Fprintf(&service, "  - {name: %s, port: %d, targetPort: %s}\n", p.name, p.number, target)
		protocol := p.protocol
		if protocol == "" {
			protocol = "HTTP"
		}
		fmt.Fprintf(&entry, "  - {number: %d, name: %s, protocol: %s}\n", p.number, p.name, protocol)
		fmt.Fprintf(&inbound, "%s: %s, ", p.name, port)
	}
	dbYAML := meshFile(t, fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  selector: {app: db}
  ports:
%s---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: %s}}
%s`, service.String(), mode, policy))
	webYAML := meshFile(t, fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: shop}
spec:
  hosts: [db.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
%s  endpoints:
  - {address: 127.0.0.1, serviceAccount: db, labels: {app: db, security.istio.io/tlsMode: istio}, ports: {%s}}
---
# So that there are handshakes all the time.
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db, namespace: shop}
spec: {host: db.shop.svc.cluster.local, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 50}}}}
`, entry.String(), strings.TrimSuffix(inbound.String(), ", ")))
	m.db = db(t, args, dbYAML)
	m.web = web(t, []string{"--namespace", "shop", "--labels", "app=web", "--service-account", "web",
		"--certs", filepath.Join(m.certs, "shop", "web"), "--listen", "db.shop.svc.cluster.local:83=" + m.tcp}, webYAML)
	return m
}

// meshFile puts YAML into a file of its own.
func meshFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// makeCerts runs `proxy certs init` for both workloads.
func makeCerts(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command(binaries.Static(t), "certs", "init", dir, "--workload", "shop/web", "--workload", "shop/db")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
}

// forwarded opens another port that leads to one of this machine, and returns it.
func forwarded(t *testing.T, port string) string {
	t.Helper()
	o := wire.NewRawOrigin(t, func(c *wire.Conn) {
		up, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return
		}
		defer up.Close()
		go func() {
			_, _ = io.Copy(up, c)
			_ = up.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(c, up)
	})
	return o.Port()
}

const (
	webID = "spiffe://cluster.local/ns/shop/sa/web"
	dbID  = "spiffe://cluster.local/ns/shop/sa/db"
)

// get makes a request of web's to db at a port.
func (m *sealedMesh) get(t *testing.T, port int, more string) *wire.Response {
	t.Helper()
	r, err := wire.Do(m.web.HTTP, fmt.Sprintf("GET /x HTTP/1.1\r\nHost: db.shop.svc.cluster.local:%d\r\nConnection: close\r\n%s\r\n", port, more), rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestSealedMesh: two proxies in a row under STRICT, over each protocol: each side knows
// who the other one is, the application and the metrics are told, and plaintext is refused.
func TestSealedMesh(t *testing.T) {
	t.Parallel()
	m := startSealed(t, "STRICT", "")
	for _, port := range []int{80, 84} {
		r := m.get(t, port, "")
		if r.Status != 200 || !strings.Contains(string(r.Body), "URI="+webID) || !strings.Contains(string(r.Body), "By="+dbID) {
			t.Errorf("port %d: %d %q", port, r.Status, r.Body)
		}
	}
	for _, port := range []int{81, 82} {
		c, err := wire.DialH2(m.web.HTTP, rig.Patience, wire.H2Options{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Get(fmt.Sprintf("db.shop.svc.cluster.local:%d", port), "/")
		if err != nil || string(s.Body) != "over h2" || !strings.Contains(s.Get("xfcc"), "URI="+webID) {
			t.Errorf("port %d: %q %q %v", port, s.Body, s.Fields, err)
		}
		c.Close()
	}
	if name, err := meet(m.tcp, nil); err != nil || name != "db" {
		t.Errorf("TCP: %q, %v", name, err)
	}
	t.Run("plaintext is refused", func(t *testing.T) {
		for name, addr := range m.inbound {
			if r, err := wire.Do(addr, "GET / HTTP/1.1\r\nHost: db\r\nConnection: close\r\n\r\n", rig.Patience); err == nil {
				t.Errorf("%s: %d %q", name, r.Status, r.Body)
			}
		}
	})
	rig.Until(t, "the metrics name both ends", func() error {
		server, client := m.db.Scrape(t), m.web.Scrape(t)
		for what, n := range map[string]float64{
			"requests at db": server.Sum("istio_requests_total", "reporter=destination", "source_principal="+webID, "destination_principal="+dbID,
				"connection_security_policy=mutual_tls"),
			"requests at web": client.Sum("istio_requests_total", "reporter=source", "source_principal="+webID, "destination_principal="+dbID),
			"connections at db": server.Sum("istio_tcp_connections_closed_total", "reporter=destination", "source_principal="+webID,
				"connection_security_policy=mutual_tls"),
			"handshakes at db": server.Sum("envoy_listener_ssl_handshake"),
		} {
			if n == 0 {
				return fmt.Errorf("no %s", what)
			}
		}
		return nil
	})
}

// TestSealedBesideEnvoy: a real Envoy in the place of either one of the two works with the
// other one.
func TestSealedBesideEnvoy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		db, web starter
	}{{"Envoy serves", startEnvoy, startOurs}, {"Envoy calls", startOurs, startEnvoy}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := startSealedWith(t, "STRICT", "", c.db, c.web)
			if r := m.get(t, 80, ""); r.Status != 200 || !strings.Contains(string(r.Body), "URI="+webID) {
				t.Errorf("HTTP: %d %q", r.Status, r.Body)
			}
			h2, err := wire.DialH2(m.web.HTTP, rig.Patience, wire.H2Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer h2.Close()
			for _, port := range []int{81, 82} {
				s, err := h2.Get(fmt.Sprintf("db.shop.svc.cluster.local:%d", port), "/")
				if err != nil || string(s.Body) != "over h2" || !strings.Contains(s.Get("xfcc"), "URI="+webID) {
					t.Errorf("port %d: %q %q %v", port, s.Body, s.Fields, err)
				}
			}
			if name, err := meet(m.tcp, nil); err != nil || name != "db" {
				t.Errorf("TCP: %q, %v", name, err)
			}
			if r, err := wire.Do(m.inbound["http"], "GET / HTTP/1.1\r\nHost: db\r\nConnection: close\r\n\r\n", rig.Patience); err == nil {
				t.Errorf("plaintext: %d %q", r.Status, r.Body)
			}
		})
	}
}

// TestSealedWebSocket: a WebSocket's bytes go through both proxies.
func TestSealedWebSocket(t *testing.T) {
	t.Parallel()
	m := startSealed(t, "STRICT", "")
	m.app.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:"+m.app.Port())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		br := bufio.NewReader(c)
		for line := "x"; line != "\r\n"; {
			if line, err = br.ReadString('\n'); err != nil {
				return
			}
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(c, br)
	}()
	c, err := wire.Dial(m.web.HTTP, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send("GET / HTTP/1.1\r\nHost: db.shop.svc.cluster.local:80\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if r, err := c.ReadInterim(); err != nil || r.Status != 101 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := c.Write([]byte("to and fro")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("to and fro"))
	if _, err := io.ReadFull(c.Raw(), got); err != nil || string(got) != "to and fro" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestPermissiveMesh: PERMISSIVE takes both, and tells them apart.
func TestPermissiveMesh(t *testing.T) {
	t.Parallel()
	m := startSealed(t, "PERMISSIVE", "")
	if r := m.get(t, 80, "x-forwarded-client-cert: URI=spiffe://evil\r\n"); r.Status != 200 || !strings.Contains(string(r.Body), "URI="+webID) {
		t.Errorf("sealed: %d %q", r.Status, r.Body)
	}
	r, err := wire.Do(m.inbound["http"], "GET / HTTP/1.1\r\nHost: db\r\nConnection: close\r\nx-forwarded-client-cert: URI="+webID+"\r\n\r\n", rig.Patience)
	if err != nil || r.Status != 200 || string(r.Body) != "xfcc= proto=http" {
		t.Errorf("plain: %+v, %v", r, err)
	}
	if name, err := meet(m.inbound["tcp"], nil); err != nil || name != "db" {
		t.Errorf("plain TCP: %q, %v", name, err)
	}
}

// TestSealedPolicy: who may call whom is decided by the verified peer, and the access of
// others is denied by name.
func TestSealedPolicy(t *testing.T) {
	t.Parallel()
	const policy = `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web-reads, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {methods: [GET], paths: ["/x"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-evil, namespace: shop}
spec:
  action: DENY
  rules:
  - when: [{key: "request.headers[x-evil]", values: ["*"]}]
`
	m := startSealed(t, "PERMISSIVE", policy)
	if r := m.get(t, 80, ""); r.Status != 200 {
		t.Errorf("web reads: %d %q", r.Status, r.Body)
	}
	if r := m.get(t, 80, "x-evil: 1\r\n"); r.Status != 403 || string(r.Body) != "RBAC: access denied" {
		t.Errorf("evil: %d %q", r.Status, r.Body)
	}
	// A plaintext client is nobody, whatever it says of itself.
	r, err := wire.Do(m.inbound["http"], "GET /x HTTP/1.1\r\nHost: db\r\nConnection: close\r\nx-forwarded-client-cert: URI="+webID+"\r\n\r\n", rig.Patience)
	if err != nil || r.Status != 403 {
		t.Errorf("plaintext: %+v, %v", r, err)
	}
}

// TestRotationUnderLoad: certificates that are made anew while requests run cost none of
// them, and later connections have the new ones.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	m := startSealed(t, "STRICT", "")
	running := wire.Load{Addr: m.web.HTTP, Conns: 8, Patience: rig.Patience,
		Request: "GET /x HTTP/1.1\r\nHost: db.shop.svc.cluster.local:80\r\n\r\n"}.Start()
	serial := func() string { return m.db.Get(t, "/certs") }
	for range 5 {
		before, done := serial(), running.Snapshot().Total
		makeCerts(t, m.certs)
		rig.Until(t, "the new certificate is served", func() error {
			if serial() == before {
				return fmt.Errorf("the certificate is the old one")
			}
			return nil
		})
		rig.Until(t, "requests go on", func() error {
			if running.Snapshot().Total < done+200 {
				return fmt.Errorf("%+v", running.Snapshot())
			}
			return nil
		})
	}
	if tally := running.Stop(); tally.Failed != 0 || tally.Status[200] != tally.Total {
		t.Errorf("%+v", tally)
	}
}

// sealedPolicies decide by who calls, each below a path of its own.
const sealedPolicies = `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: by-identity, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  rules:
  - {from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], to: [{operation: {paths: [/principal]}}]}
  - {from: [{source: {principals: [cluster.local/ns/shop/sa/we]}}], to: [{operation: {paths: [/shorter]}}]}
  - {from: [{source: {principals: ["*"]}}], to: [{operation: {paths: [/anybody]}}]}
  - {from: [{source: {principals: ["cluster.local/ns/shop/*"]}}], to: [{operation: {paths: [/prefix]}}]}
  - {from: [{source: {principals: ["*/sa/web"]}}], to: [{operation: {paths: [/suffix]}}]}
  - {from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/web]}}], to: [{operation: {paths: [/notprincipal]}}]}
  - {from: [{source: {namespaces: [shop]}}], to: [{operation: {paths: [/namespace]}}]}
  - {from: [{source: {namespaces: [sho]}}], to: [{operation: {paths: [/othernamespace]}}]}
  - {from: [{source: {notNamespaces: [shop]}}], to: [{operation: {paths: [/notnamespace]}}]}
  - {from: [{source: {serviceAccounts: [shop/web]}}], to: [{operation: {paths: [/account]}}]}
  - {from: [{source: {serviceAccounts: [w.b]}}], to: [{operation: {paths: [/otheraccount]}}]}
  - {to: [{operation: {paths: [/when]}}], when: [{key: source.principal, values: [cluster.local/ns/shop/sa/web]}]}
  - {to: [{operation: {paths: [/whennot]}}], when: [{key: source.namespace, notValues: [shop]}]}
  - {to: [{operation: {paths: [/local], methods: [GET]}}], from: [{source: {ipBlocks: [127.0.0.0/8]}}]}
`

// TestSealedPolicyLikeEnvoy: who may call is decided as by a real Envoy with the same
// policies, for a caller with an identity and for one without.
func TestSealedPolicyLikeEnvoy(t *testing.T) {
	t.Parallel()
	meshes := map[string]*sealedMesh{}
	for name, db := range map[string]starter{"ours": startOurs, "Envoy": startEnvoy} {
		meshes[name] = startSealedWith(t, "PERMISSIVE", sealedPolicies, db, startOurs)
	}
	allowed := 0
	for _, path := range []string{"principal", "shorter", "anybody", "prefix", "suffix", "notprincipal", "namespace", "othernamespace", "notnamespace",
		"account", "otheraccount", "when", "whennot", "local", "nothing", "principal/", "PRINCIPAL", "x/../principal", "principal?x", "principal%2f"} {
		for _, identity := range []bool{true, false} {
			got := map[string]int{}
			for name, m := range meshes {
				addr, host := m.inbound["http"], "db"
				if identity {
					addr, host = m.web.HTTP, "db.shop.svc.cluster.local:80"
				}
				r, err := wire.Do(addr, "GET /"+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n", rig.Patience)
				if err != nil {
					t.Fatalf("%s /%s: %v", name, path, err)
				}
				got[name] = r.Status
			}
			if got["ours"] != got["Envoy"] {
				t.Errorf("/%s, identity %v: ours %d, Envoy %d", path, identity, got["ours"], got["Envoy"])
			}
			if got["Envoy"] == 200 {
				allowed++
			}
		}
	}
	if allowed < 10 || allowed > 30 {
		t.Errorf("%d of 40 requests are allowed: the policies don't tell them apart", allowed)
	}
}

// TestHalfOpenHandshakes: ten thousand clients that begin a handshake and don't go on
// take a bounded amount of memory, and hold up nobody who does.
func TestHalfOpenHandshakes(t *testing.T) {
	const clients, each = 10_000, 16 << 10
	m := startSealed(t, "STRICT", "")
	before := m.db.Resident(t)
	conns := make([]net.Conn, 0, clients)
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	beginning := []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") // of a ClientHello of 512 octets
	for range clients {
		c, err := net.Dial("tcp", m.inbound["http"])
		if err != nil {
			t.Fatalf("client %d: %v", len(conns), err)
		}
		conns = append(conns, c)
		_, _ = c.Write(beginning) // one that the proxy gave up may be closed
	}
	if r := m.get(t, 80, ""); r.Status != 200 {
		t.Errorf("another client is not served: %d %q", r.Status, r.Body)
	}
	grown := m.db.Resident(t) - before
	if grown > clients*each {
		t.Errorf("%d half-open handshakes take %d MiB, more than %d", clients, grown>>20, clients*each>>20)
	}
	t.Logf("%d KiB for each of %d half-open handshakes", grown/clients>>10, clients)
	rig.Until(t, "they are given up", func() error {
		if n := m.db.OpenFiles(t); n > clients/10 {
			return fmt.Errorf("%d files are open", n)
		}
		return nil
	})
}
