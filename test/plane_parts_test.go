// SPDX-License-Identifier: Apache-2.0

package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pillion/test/need"
	"pillion/test/rig"
)

func readPEM(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s isn't PEM", path)
	}
	return block.Bytes
}

// meshPeer is an application behind mutual TLS of the mesh, with a certificate of istiod's
// CA. It closes each connection after an answer, so that each request is a handshake, and
// counts the certificates that it was shown.
type meshPeer struct {
	*httptest.Server
	handshakes atomic.Int64
	mu         sync.Mutex
	shown      map[string]bool // serial numbers; guarded by mu
}

func startMeshPeer(t testing.TB, rootPath string) *meshPeer {
	t.Helper()
	dir := filepath.Dir(rootPath)
	issuer, err := x509.ParseCertificate(readPEM(t, filepath.Join(dir, "ca-cert.pem")))
	if err != nil {
		t.Fatal(err)
	}
	issuerKey, err := x509.ParseECPrivateKey(readPEM(t, filepath.Join(dir, "ca-key.pem")))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/bookinfo/sa/peer"}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(99), URIs: []*url.URL{id}, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	root, err := x509.ParseCertificate(readPEM(t, rootPath))
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(root)
	p := &meshPeer{shown: map[string]bool{}}
	p.Server = httptest.NewUnstartedServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		p.handshakes.Add(1)
		p.mu.Lock()
		p.shown[r.TLS.PeerCertificates[0].SerialNumber.String()] = true
		p.mu.Unlock()
		w.Header().Set("Connection", "close")
		_, _ = fmt.Fprint(w, "sealed")
	}))
	p.TLS = &stdtls.Config{Certificates: []stdtls.Certificate{{Certificate: [][]byte{der, issuer.Raw}, PrivateKey: key}},
		ClientAuth: stdtls.RequireAndVerifyClientCert, ClientCAs: roots, SessionTicketsDisabled: true}
	p.StartTLS()
	t.Cleanup(p.Close)
	return p
}

func (p *meshPeer) certificates() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.shown)
}

// TestPlaneCA: the CA is away when the proxy starts, and again when the certificate is due
// to be renewed, under load of which each request is a handshake. Nothing fails after the first
// certificate has come.
func TestPlaneCA(t *testing.T) {
	t.Parallel()
	p := preparePlane(t)
	peer := startMeshPeer(t, p.istiod.RootCert())
	p.istiod.Apply(serviceEntry("sealed", p.port, portOf(t, peer.Server)) + `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: sealed, namespace: bookinfo}
spec: {host: sealed.example, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
`)
	// Renewed every three seconds, each good for sixty.
	p.pod.env = append(p.pod.env, "SECRET_TTL=60s", "SECRET_GRACE_PERIOD_RATIO=0.95")
	p.ca.set(refusing)
	p.start()
	rig.Until(t, "all but the certificate is there", func() error {
		if err := p.ready(); err == nil || !strings.Contains(err.Error(), "the workload has no certificate yet") || strings.Contains(err.Error(), "LDS") {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	p.waitGeneration(0) // what needs no certificate is served
	if status, body, _, err := p.get("sealed.example"); status != 503 {
		t.Errorf("without a certificate: %d %q %v", status, body, err)
	}
	p.waitLog(time.Minute, "level=ERROR", "certificates can't be renewed", "reason=unavailable")
	p.ca.set(passing)
	rig.UntilWithin(t, time.Minute, "the proxy is ready", p.ready)

	l := p.startLoad(10, 50*time.Millisecond, "sealed.example", "sealed")
	rig.Until(t, "certificates are renewed", func() error {
		if n := peer.certificates(); n < 3 {
			return fmt.Errorf("the peer was shown %d", n)
		}
		return nil
	})
	p.ca.set(silent)
	failures := p.metric("pillion_certificate_source_failures_total")
	p.waitMetric(time.Minute, atLeast(failures+1), "pillion_certificate_source_failures_total")
	if err := p.ready(); err != nil {
		t.Errorf("with a certificate that is due: %v", err)
	}
	shown := peer.certificates()
	p.ca.set(passing)
	rig.UntilWithin(t, time.Minute, "certificates are renewed again", func() error {
		if n := peer.certificates(); n == shown {
			return fmt.Errorf("the peer was shown %d", n)
		}
		return nil
	})
	p.waitLog(rig.Patience, "level=INFO", "certificates are renewed again")
	l.goesOn(50)
	l.end()
	t.Logf("%d handshakes, %d certificates", peer.handshakes.Load(), peer.certificates())
}

// TestPlaneDNS: the resolver takes each question and never answers. Services whose hosts are
// named by DNS wait alone: the proxy is ready, and all else is served.
func TestPlaneDNS(t *testing.T) {
	t.Parallel()
	need.Superuser(t) // a resolver is at port 53, and resolv.conf is the process's own
	hole, err := net.ListenPacket("udp", "127.53.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	var questions atomic.Int64
	go func() {
		b := make([]byte, 512)
		for {
			if _, _, err := hole.ReadFrom(b); err != nil {
				return
			}
			questions.Add(1)
		}
	}()
	entry := func(name, resolution string) string {
		return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %[1]s, namespace: bookinfo}
spec: {hosts: [%[1]s.example], location: MESH_EXTERNAL, resolution: %[2]s, ports: [{number: %[3]s, name: http, protocol: HTTP}], endpoints: [{address: %[1]s.nowhere.test}]}
`, name, resolution, "%s")
	}
	p := preparePlane(t)
	for name, resolution := range map[string]string{"strict": "DNS", "logical": "DNS_ROUND_ROBIN"} {
		p.istiod.Apply(fmt.Sprintf(entry(name, resolution), p.port))
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "resolv.conf"), "nameserver 127.53.0.1\noptions timeout:60 attempts:1\n") // a look-up ends when the proxy gives it up
	script := filepath.Join(dir, "pilot-agent")
	write(t, script, fmt.Sprintf("#!/bin/sh\nexec unshare -m sh -c 'mount --bind %s /etc/resolv.conf && exec %s \"$@\"' sh \"$@\"\n", filepath.Join(dir, "resolv.conf"), p.program))
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	p.program = script
	p.start()
	p.waitReady()
	p.waitGeneration(0)
	rig.Until(t, "the resolver was asked", func() error {
		if questions.Load() == 0 {
			return fmt.Errorf("no question came")
		}
		return nil
	})
	l := p.startLoad(20, 100*time.Millisecond, "stable.example", "stable")
	for _, host := range []string{"strict.example", "logical.example"} {
		begun := time.Now()
		if status, body, _, err := p.get(host); status != 503 {
			t.Errorf("%s: %d %q %v", host, status, body, err)
		}
		t.Logf("%s: refused after %v", host, time.Since(begun))
	}
	p.istiod.Apply(generation(1))
	p.waitGeneration(1)
	failed := p.waitLog(time.Minute, "level=WARN", "dns:", "nowhere.test")
	l.goesOn(50)
	l.end()
	// The order of the two tells, on a slow machine too, that nothing waited for a look-up.
	log := p.proc.Stderr.String()
	if ready := strings.Index(log, "the first configuration is complete"); ready < 0 || ready > strings.Index(log, failed) {
		t.Error("the proxy wasn't ready before the first look-up had ended")
	}
}
