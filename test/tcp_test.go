// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pillion/test/rig"
)

// greeter serves TCP on a free port: it says its name first, then sends back
// what comes, and "bye" behind the client's end. It returns the port.
func greeter(t testing.TB, name string, config *stdtls.Config) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain := ln
	if config != nil {
		ln = stdtls.NewListener(ln, config)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(rig.Patience))
				if _, err := io.WriteString(c, name+"\n"); err != nil {
					return
				}
				if _, err := io.Copy(c, c); err == nil {
					_, _ = io.WriteString(c, "bye")
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = plain.Close()
		serving.Wait()
	})
	_, port, _ := net.SplitHostPort(plain.Addr().String())
	return port
}

// selfSigned is a certificate that nobody checks.
func selfSigned(t testing.TB) *stdtls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &stdtls.Config{Certificates: []stdtls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// meet connects, hears the greeting, has something sent back, and sees the end
// of both directions. It returns who was met.
func meet(addr string, config *stdtls.Config) (name string, err error) {
	nc, err := net.DialTimeout("tcp", addr, rig.Patience)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(rig.Patience))
	half := nc.(interface{ CloseWrite() error })
	if config != nil {
		c := stdtls.Client(nc, config)
		nc, half = c, c
	}
	r := bufio.NewReader(nc)
	if name, err = r.ReadString('\n'); err != nil {
		return "", fmt.Errorf("no greeting: %w", err)
	}
	if _, err := io.WriteString(nc, "over and out"); err != nil {
		return "", err
	}
	if err := half.CloseWrite(); err != nil {
		return "", err
	}
	rest, err := io.ReadAll(r)
	if err != nil || string(rest) != "over and outbye" {
		return "", fmt.Errorf("%q came back: %w", rest, err)
	}
	return strings.TrimSpace(name), nil
}

// tcpMesh writes a mesh of a database with two versions, with ports of every
// kind, and a gateway.
func tcpMesh(t *testing.T, weights [2]int) (path string, port map[string]string) {
	t.Helper()
	config := selfSigned(t)
	port = map[string]string{}
	for _, name := range []string{"tcp", "tls", "any", "gateway", "passthrough"} {
		port[name] = freePort(t)
	}
	text := fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: default}
spec:
  hosts: [db.default.svc.cluster.local]
  addresses: [127.0.0.1]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: %[1]s, name: tcp, protocol: TCP}, {number: %[2]s, name: tls, protocol: TLS}, {number: %[3]s, name: any}]
  endpoints:
  - {address: 127.0.0.1, ports: {tcp: %[6]s, tls: %[8]s, any: %[6]s}, labels: {app: db, version: v1}}
  - {address: 127.0.0.1, ports: {tcp: %[7]s, tls: %[9]s, any: %[7]s}, labels: {app: db, version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db, namespace: default}
spec: {host: db, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db, namespace: default}
spec:
  hosts: [db, "*.example.com"]
  tcp:
  - match: [{port: %[1]s, destinationSubnets: [10.0.0.0/8]}]
    route: [{destination: {host: db, subset: v2}}]
  - match: [{port: %[1]s}]
    route:
    - {destination: {host: db, subset: v1}, weight: %[10]d}
    - {destination: {host: db, subset: v2}, weight: %[11]d}
  tls:
  - {match: [{port: %[2]s, sniHosts: [two.example.com]}], route: [{destination: {host: db, subset: v2}}]}
  - {match: [{port: %[2]s, sniHosts: ["*.example.com"]}], route: [{destination: {host: db, subset: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: %[4]s, name: tcp, protocol: TCP}, hosts: ["*"], bind: 127.0.0.1}
  - {port: {number: %[5]s, name: tls, protocol: TLS}, hosts: ["*.example.com"], tls: {mode: PASSTHROUGH}, bind: 127.0.0.1}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: default}
spec:
  hosts: ["*.example.com"]
  gateways: [edge]
  tcp: [{match: [{port: %[4]s}], route: [{destination: {host: db, subset: v2, port: {number: %[1]s}}}]}]
  tls: [{match: [{sniHosts: [one.example.com]}], route: [{destination: {host: db, subset: v1, port: {number: %[2]s}}}]}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: log, namespace: default}
spec: {accessLogging: [{providers: [{name: envoy}]}]}
`, port["tcp"], port["tls"], port["any"], port["gateway"], port["passthrough"],
		greeter(t, "v1", nil), greeter(t, "v2", nil), greeter(t, "v1", config), greeter(t, "v2", config), weights[0], weights[1])
	path = filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, text)
	return path, port
}

// TestTCP holds who is met at each kind of port, that both directions end
// separately, and that what happened is told.
func TestTCP(t *testing.T) {
	t.Parallel()
	path, port := tcpMesh(t, [2]int{100, 0})
	p := startSubject(t, nil, path)
	meetAll(t, port)
	if *subjectName != "ours" {
		return
	}
	rig.Until(t, "the connections are counted and logged", func() error {
		m := p.Scrape(t)
		if n := m.Sum("istio_tcp_connections_opened_total", "destination_service=db.default.svc.cluster.local"); n != 6 {
			return fmt.Errorf("%v connections opened", n)
		}
		if n := m.Sum("istio_tcp_connections_closed_total"); n != 6 {
			return fmt.Errorf("%v connections closed", n)
		}
		if n := m.Sum("istio_tcp_received_bytes_total", "destination_version=v2"); n == 0 {
			return fmt.Errorf("no octets received by v2")
		}
		if len(p.Stdout.Lines("outbound|"+port["tcp"]+"|v1|db.default.svc.cluster.local", " 12 18 ")) != 1 {
			return fmt.Errorf("the log has no line of the tcp route:\n%s", p.Stdout)
		}
		return nil
	})
}

// TestTCPInEnvoy holds that the translation makes an unmodified Envoy do the
// same.
func TestTCPInEnvoy(t *testing.T) {
	t.Parallel()
	path, port := tcpMesh(t, [2]int{100, 0})
	startEnvoy(t, nil, path)
	meetAll(t, port)
}

// meetAll meets who is behind each port of tcpMesh.
func meetAll(t *testing.T, port map[string]string) {
	t.Helper()
	sni := func(name string) *stdtls.Config { return &stdtls.Config{ServerName: name, InsecureSkipVerify: true} }
	for _, tc := range []struct {
		what, port string
		tls        *stdtls.Config
		want       string
	}{
		{"a tcp route", "tcp", nil, "v1"},
		{"a tls route", "tls", sni("two.example.com"), "v2"},
		{"a wildcard of a tls route", "tls", sni("three.example.com"), "v1"},
		{"a gateway's tcp route", "gateway", nil, "v2"},
		{"a gateway's tls route", "passthrough", sni("one.example.com"), "v1"},
	} {
		if got, err := meet("127.0.0.1:"+port[tc.port], tc.tls); got != tc.want || err != nil {
			t.Errorf("%s leads to %q (%v), want %s", tc.what, got, err, tc.want)
		}
	}
	if got, err := meet("127.0.0.1:"+port["passthrough"], sni("two.example.com")); err == nil {
		t.Errorf("a name that no route has leads to %s", got)
	}
	// A server that speaks first where the protocol isn't known waits no longer
	// than for the client's silence.
	if got, err := meet("127.0.0.1:"+port["any"], nil); err != nil || got != "v1" && got != "v2" {
		t.Errorf("a port of unknown protocol: %q, %v", got, err)
	}
}

// TestTCPWeights holds that connections are shared by weight.
func TestTCPWeights(t *testing.T) {
	t.Parallel()
	path, port := tcpMesh(t, [2]int{75, 25})
	startSubject(t, nil, path)
	const total = 400
	met := map[string]int{}
	for range total {
		got, err := meet("127.0.0.1:"+port["tcp"], nil)
		if err != nil {
			t.Fatal(err)
		}
		met[got]++
	}
	// Five standard deviations of a fair draw.
	if n := met["v2"]; n < 100-44 || n > 100+44 {
		t.Errorf("of %d connections v2 got %d, want a quarter: %v", total, n, met)
	}
}

// TestListenFollows holds that what is listened at follows the files.
func TestListenFollows(t *testing.T) {
	t.Parallel()
	first, second, origin := freePort(t), freePort(t), greeter(t, "here", nil)
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	mesh := func(port, more string) string {
		return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: default}
spec:
  hosts: [db.default.svc.cluster.local]
  resolution: STATIC
  ports: [{number: %s, name: tcp, protocol: TCP}]
  endpoints: [{address: 127.0.0.1, ports: {tcp: %s}}]
%s`, port, origin, more)
	}
	write(t, path, mesh(first, ""))
	p := rig.Start(t, binaries.Static(t), rig.Options{Args: []string{"--listen", "all"}}, path)
	if got, err := meet("127.0.0.1:"+first, nil); got != "here" || err != nil {
		t.Errorf("met %q, %v", got, err)
	}
	write(t, path, mesh(second, ""))
	rig.Until(t, "the port is where it has moved to", func() error {
		_, err := meet("127.0.0.1:"+second, nil)
		return err
	})
	if got, err := meet("127.0.0.1:"+first, nil); err == nil {
		t.Errorf("%s is still at the old address", got)
	}
	write(t, path, mesh(second, fmt.Sprintf(`---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other, namespace: default}
spec: {hosts: [other.example.com], resolution: DNS, ports: [{number: %s, name: tcp, protocol: TCP}]}
`, second)))
	rig.Until(t, "a second one for the address is refused, with both places and the remedy", func() error {
		if len(p.Stderr.Lines("would both listen at 127.0.0.1:"+second, "mesh.yaml:13", "mesh.yaml:1)", "--listen other.example.com:"+second)) == 0 {
			return fmt.Errorf("the log doesn't say so: %s", p.Stderr)
		}
		return nil
	})
	if got, err := meet("127.0.0.1:"+second, nil); got != "here" || err != nil {
		t.Errorf("after a change that was refused: met %q, %v", got, err)
	}
}

// TestListen holds that --listen opens a port that has no address here.
func TestListen(t *testing.T) {
	t.Parallel()
	at := "127.0.0.1:" + freePort(t)
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: default}
spec:
  hosts: [db.default.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  endpoints: [{address: 127.0.0.1, ports: {tcp: %s}}]
`, greeter(t, "here", nil)))
	rig.Start(t, binaries.Static(t), rig.Options{Args: []string{"--listen", "db:5432=" + at}}, path)
	if got, err := meet(at, nil); got != "here" || err != nil {
		t.Errorf("met %q, %v", got, err)
	}
	_, stderr, code := command(t, "", "run", "--listen", "db:9=127.0.0.1:0", path)
	if code != 1 || !strings.Contains(stderr, "db.default.svc.cluster.local has no port 9") {
		t.Errorf("a port that isn't there: exit code %d, %s", code, stderr)
	}
}
