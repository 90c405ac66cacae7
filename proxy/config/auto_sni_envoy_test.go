// SPDX-License-Identifier: Apache-2.0

package config

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pillion/test/rig"
	"pillion/test/wire"
)

// nameServer serves HTTPS of both versions with a certificate for some names. It
// answers with the SNI of the connection and the host of the request.
func nameServer(t *testing.T) (addr, roots string) {
	t.Helper()
	ca := newCertMaker(t)
	pair := ca.make(&x509.Certificate{DNSNames: []string{"a.test", "*.wild.test", "own.test"}, IPAddresses: []net.IP{net.IPv4(10, 1, 2, 3)}})
	s := httptest.NewUnstartedServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("x-sni", "["+r.TLS.ServerName+"] "+r.Host)
	}))
	s.TLS = &stdtls.Config{Certificates: []stdtls.Certificate{pair}}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(t.Output(), "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), ca.pem
}

// autoSNICluster is a cluster with TLS whose handshakes depend on each request.
func autoSNICluster(name, addr, roots, auto, context, http string) string {
	return tcpCluster(name, fmt.Sprintf(`typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    upstream_http_protocol_options: {%s}
    explicit_http_config: {%s}
transport_socket:
  name: tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    %s
    common_tls_context: {alpn_protocols: [%s], validation_context: {trusted_ca: {inline_string: %q}}}
`, auto, http, context, map[bool]string{true: "h2", false: "http/1.1"}[strings.Contains(http, "http2")], roots), addr)
}

// TestAutoSNILikeEnvoy: whom the connection says and checks that it is for comes
// from each request, as with a real Envoy.
func TestAutoSNILikeEnvoy(t *testing.T) {
	addr, roots := nameServer(t)
	clusters := []struct{ auto, context, http string }{
		{"auto_sni: true", "", "http_protocol_options: {}"},
		{"auto_sni: true, auto_san_validation: true", "", "http_protocol_options: {}"},
		{"auto_sni: true, auto_san_validation: true", "", "http2_protocol_options: {}"},
		{"auto_sni: true, auto_san_validation: true", "sni: own.test", "http_protocol_options: {}"},
		{"auto_san_validation: true", "sni: own.test", "http_protocol_options: {}"},
		{"", "sni: own.test", "http_protocol_options: {}"},
	}
	hosts := []string{"a.test", "a.test:8443", "b.wild.test", "c.wild.test", "b.c.wild.test", "other.test", "10.1.2.3", "10.1.2.4:443", "[::1]:80", "localhost:80"}
	var routes strings.Builder
	var texts []string
	for i, c := range clusters {
		name := fmt.Sprint("c", i)
		texts = append(texts, autoSNICluster(name, addr, roots, c.auto, c.context, c.http))
		for rewrite, action := range map[string]string{"no": "", "yes": ", host_rewrite_literal: x.wild.test"} {
			fmt.Fprintf(&routes, `{match: {prefix: /, headers: [{name: t, string_match: {exact: %s%s}}]}, route: {cluster: %s%s}},
`, name, rewrite, name, action)
		}
	}
	both := bothJudges(t, httpListener("", "", routes.String()), texts...)
	answers := map[string]int{}
	for i, c := range clusters {
		for _, rewrite := range []string{"no", "yes"} {
			for _, host := range hosts {
				var got [2]string
				for k, j := range both {
					resp, err := wire.Do(j.addr, fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\nt: c%d%s\r\n\r\n", host, i, rewrite), rig.Patience)
					if err != nil {
						t.Fatal(j.name, err)
					}
					got[k] = fmt.Sprint(resp.Status, " ", resp.Fields.Get("x-sni"))
				}
				if answers[got[0]]++; got[0] != got[1] {
					t.Errorf("%v, host %s, rewritten %s: Envoy %s, ours %s", c, host, rewrite, got[0], got[1])
				}
			}
		}
	}
	if answers["503 "] == 0 || answers["200 [b.wild.test] b.wild.test"] == 0 || answers["200 [x.wild.test] x.wild.test"] == 0 || len(answers) < 12 {
		t.Errorf("the answers are %v", answers)
	}
}
