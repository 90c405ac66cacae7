// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	stdtls "crypto/tls"
	"net"
	"slices"
	"testing"

	"pillion/proxy/proxytest/inproc"
)

// alpnFilter is istio.alpn as istiod sends it.
const alpnFilter = `{name: istio.alpn, typed_config: {"@type": type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig,
  alpn_override: [{alpn_override: [istio-http/1.0, istio, http/1.0]},
    {upstream_protocol: HTTP11, alpn_override: [istio-http/1.1, istio, http/1.1]}, {upstream_protocol: HTTP2, alpn_override: [istio-h2, istio, h2]}]}},`

// TestALPNByProtocol: what a connection to a host of the mesh offers depends on what the
// request on it will speak, also where that is the client's choice, and raw connections
// offer what the cluster says.
func TestALPNByProtocol(t *testing.T) {
	ca := newCA(t)
	offered := make(chan []string, 4)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			_ = stdtls.Server(nc, &stdtls.Config{GetConfigForClient: func(h *stdtls.ClientHelloInfo) (*stdtls.Config, error) {
				offered <- h.SupportedProtos
				return nil, net.ErrClosed // it has said what there is to know
			}}).Handshake()
			_ = nc.Close()
		}
	}()
	route := rawRoute{port: portOf(t, ln.Addr().String()), filters: alpnFilter, secrets: secretsOf(t, ca, "client"), protocol: "use_downstream_protocol_config: {http2_protocol_options: {}}"}
	socket := outboundSocket("istio-peer-exchange, istio", serverID)
	for _, c := range []struct {
		name, metadata string
		http2, raw     bool
		want           []string
	}{
		{"HTTP/1", "", false, false, []string{"istio-http/1.1", "istio", "http/1.1"}},
		{"HTTP/2", "", true, false, []string{"istio-h2", "istio", "h2"}},
		{"no HTTP", "", false, true, []string{"istio-peer-exchange", "istio"}},
		{"a cluster that wants none", `metadata: {filter_metadata: {istio: {alpn_override: "false"}}}`, false, false, []string{"istio-peer-exchange", "istio"}},
	} {
		r := route
		r.raw, r.cluster = c.raw, c.metadata+"\n"+socket
		addr := r.serve(t)
		switch {
		case c.raw:
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
		case c.http2:
			inproc.Dial2(t, addr).Get(1)
		default:
			inproc.Dial(t, addr).Send("GET / HTTP/1.1\nHost: a\n\n")
		}
		if got := <-offered; !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
