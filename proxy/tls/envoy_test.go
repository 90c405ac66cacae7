// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pillion/test/need"
	"pillion/test/rig"
)

// envoyConfig is a server of mutual TLS as Istio has it, and a client of it
// that a connection without TLS is passed on by.
const envoyConfig = `
static_resources:
  listeners:
  - name: server
    address: {socket_address: {address: 127.0.0.1, port_value: SERVERPORT}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context: {alpn_protocols: [h2, http/1.1], COMMON, combined_validation_context: {
            default_validation_context: {match_subject_alt_names: [{prefix: "spiffe://cluster.local/"}]},
            validation_context_sds_secret_config: {name: ROOTCA}}}
      filters:
      - name: echo
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}
  - name: client
    address: {socket_address: {address: 127.0.0.1, port_value: CLIENTPORT}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: us}
  clusters:
  - name: us
    type: STATIC
    load_assignment: {cluster_name: us, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: OURPORT}}}}]}]}
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: outbound_.9080_._.db.shop.svc.cluster.local
        common_tls_context: {alpn_protocols: [istio-peer-exchange, istio, h2], COMMON, combined_validation_context: {
          default_validation_context: {match_subject_alt_names: [{exact: "spiffe://cluster.local/ns/shop/sa/db"}]},
          validation_context_sds_secret_config: {name: ROOTCA}}}
  secrets:
  - {name: default, tls_certificate: {certificate_chain: {filename: DIR/cert.pem}, private_key: {filename: DIR/key.pem}}}
  - {name: ROOTCA, validation_context: {trusted_ca: {filename: DIR/ca.pem}}}
`

// envoyRig is a real Envoy with the certificate of serverID, and our server
// that it connects to.
type envoyRig struct{ server, client string }

func startEnvoy(t *testing.T, ca *testCA, ours string) envoyRig {
	t.Helper()
	binary := need.Envoy(t)
	dir := t.TempDir()
	kp := ca.issue(serverID, nil)
	writeFiles(t, dir, map[string][]byte{"cert.pem": kp.Chain, "key.pem": kp.Key, "ca.pem": ca.pem})
	r := envoyRig{rig.FreeAddr(t), rig.FreeAddr(t)}
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	text := strings.NewReplacer("SERVERPORT", port(r.server), "CLIENTPORT", port(r.client), "OURPORT", port(ours), "DIR", dir,
		"COMMON", "tls_certificate_sds_secret_configs: [{name: default}]").Replace(envoyConfig)
	path := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	rig.StartProcess(t, exec.Command(binary, "-c", path, "--concurrency", "1", "-l", "off", "--use-dynamic-base-id"))
	rig.Until(t, "Envoy listens", func() error {
		nc, err := net.Dial("tcp", r.server)
		if err == nil {
			nc.Close()
		}
		return err
	})
	return r
}

// TestEnvoy is mutual TLS with a real Envoy at either end, and what it says
// to certificates that are not right.
func TestEnvoy(t *testing.T) {
	ca, other := newTestCA(t, "root"), newTestCA(t, "other")
	c, s, _, _ := mesh(t, ca)
	ours := serve(t, s)
	e := startEnvoy(t, ca, ours.addr)

	t.Run("we are the client", func(t *testing.T) {
		for i := range 3 {
			nc, err := net.Dial("tcp", e.server)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			conn, err := c.Handshake(t.Context(), nc, ClientOptions{ALPN: []string{"istio-http/1.1", "h2"}})
			if err != nil {
				t.Fatal(err)
			}
			if err := echoed(conn); err != nil {
				t.Error(err)
			}
			if in := conn.Info(); in.ALPN != "h2" || in.Peer.URIs[0] != serverID || !in.PeerVerified || in.Version != "TLSv1.3" || in.Resumed != (i > 0) {
				t.Errorf("%d: %+v", i, in)
			}
		}
	})
	t.Run("we are the server", func(t *testing.T) {
		for range 3 {
			nc, err := net.Dial("tcp", e.client)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			if _, err := nc.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			p := make([]byte, 5)
			if _, err := io.ReadFull(nc, p); err != nil || string(p) != "hello" {
				t.Fatalf("%q, %v; our side: %v", p, err, ours.errs.Load())
			}
			conn := ours.last.Load()
			if in := conn.Info(); in.ALPN != "h2" || in.Peer.URIs[0] != serverID || !in.PeerVerified || conn.ServerName() != "outbound_.9080_._.db.shop.svc.cluster.local" {
				t.Errorf("%+v for %q", in, conn.ServerName())
			}
		}
		if s.Stats().reused.Value() == 0 {
			t.Error("Envoy resumed no session of ours")
		}
	})

	// Where we differ we have to be the stricter one.
	for _, tt := range []struct {
		name   string
		kp     KeyPair
		differ bool
	}{
		{"good", ca.issue(clientID, nil), false},
		{"foreign CA", other.issue(clientID, nil), false},
		{"expired", ca.issue(clientID, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), false},
		{"not yet valid", ca.issue(clientID, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), false},
		{"other trust domain", ca.issue("spiffe://evil.local/ns/a/sa/b", nil), false},
		{"common name only", ca.issue("", func(c *x509.Certificate) { c.Subject.CommonName = clientID }), false},
		{"for servers only", ca.issue(clientID, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), false},
		{"two URIs", ca.issue(clientID, func(c *x509.Certificate) { c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/b/sa/c"}) }), true},
		{"dots in the path", ca.issue("spiffe://cluster.local/ns/../sa/b", nil), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := shows(rawPair(t, tt.kp))
			_, own, _ := strictMeet(t, s, cfg)
			theirs := envoyTakes(t, e.server, cfg)
			if tt.differ && (own == nil || theirs != nil) || !tt.differ && (own == nil) != (theirs == nil) {
				t.Errorf("we say %v, Envoy %v", own, theirs)
			}
		})
	}
}

func envoyTakes(t *testing.T, addr string, cfg *stdtls.Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	d := stdtls.Dialer{Config: cfg}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	return echoed(nc)
}

// echoed has an octet come back. TLS 1.3 tells of a refusal only then.
func echoed(rw io.ReadWriter) error {
	if _, err := rw.Write([]byte{'x'}); err != nil {
		return err
	}
	_, err := io.ReadFull(rw, make([]byte, 1))
	return err
}
