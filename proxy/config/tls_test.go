// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/tls"
	"pillion/proxy/tls/localca"
)

// contextOf makes an Any of a context's JSON.
func contextOf(t *testing.T, m proto.Message, text string) *anypb.Any {
	t.Helper()
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// The contexts that istiod sends for mutual TLS within a mesh.
const (
	istioDownstream = `{"common_tls_context":{
		"tls_params":{"tls_minimum_protocol_version":"TLSv1_2","tls_maximum_protocol_version":"TLSv1_3","cipher_suites":["ECDHE-ECDSA-AES256-GCM-SHA384",
			"ECDHE-RSA-AES256-GCM-SHA384","ECDHE-ECDSA-AES128-GCM-SHA256","ECDHE-RSA-AES128-GCM-SHA256","AES256-GCM-SHA384","AES128-GCM-SHA256"]},
		"alpn_protocols":["h2","http/1.1"],
		"tls_certificate_sds_secret_configs":[{"name":"default","sds_config":{"ads":{},"resource_api_version":"V3"}}],
		"combined_validation_context":{"default_validation_context":{"match_subject_alt_names":[{"prefix":"spiffe://cluster.local/"}]},
			"validation_context_sds_secret_config":{"name":"ROOTCA","sds_config":{"ads":{}}}}},
		"require_client_certificate":true,"disable_stateless_session_resumption":false}`
	istioUpstream = `{"common_tls_context":{
		"tls_params":{"tls_minimum_protocol_version":"TLSv1_2","tls_maximum_protocol_version":"TLSv1_3"},
		"alpn_protocols":["istio-peer-exchange","istio","h2"],
		"tls_certificate_sds_secret_configs":[{"name":"default","sds_config":{"ads":{}}}],
		"combined_validation_context":{"default_validation_context":{"match_subject_alt_names":[{"exact":"spiffe://cluster.local/ns/shop/sa/db"}]},
			"validation_context_sds_secret_config":{"name":"ROOTCA","sds_config":{"ads":{}}}}},
		"sni":"outbound_.9080_._.db.shop.svc.cluster.local"}`
)

func TestIstioContexts(t *testing.T) {
	secrets := tls.NewSecrets()
	ca, err := localca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Issue("shop", "db")
	if err != nil {
		t.Fatal(err)
	}
	c := NewCompiler(Env{Secrets: secrets})
	defer c.Close()
	server, err := c.compileServerTLS("inbound", contextOf(t, &tlsv3.DownstreamTlsContext{}, istioDownstream))
	if err != nil {
		t.Fatal(err)
	}
	client, err := c.compileClientTLS("outbound", contextOf(t, &tlsv3.UpstreamTlsContext{}, istioUpstream))
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := c.compileServerTLS("inbound", contextOf(t, &tlsv3.DownstreamTlsContext{}, istioDownstream)); again != server {
		t.Error("an unchanged context is made anew")
	}
	if _, err := handshake(t, client, server); err == nil || !strings.Contains(err.Error(), "Secret is not supplied by SDS (default)") {
		t.Errorf("without secrets: %v", err)
	}
	if err := ApplySecret(secrets, secretOf("default", leaf.Chain, leaf.Key), "spiffe://cluster.local/ns/shop/sa/db", "test"); err != nil {
		t.Fatal(err)
	}
	if err := ApplySecret(secrets, rootsOf("ROOTCA", ca.Root()), "", "test"); err != nil {
		t.Fatal(err)
	}
	conn, err := handshake(t, client, server)
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.Info(); got.ALPN != "h2" || !got.PeerVerified || got.Peer.URIs[0] != "spiffe://cluster.local/ns/shop/sa/db" || conn.ServerName() != "outbound_.9080_._.db.shop.svc.cluster.local" {
		t.Errorf("%+v for %q", got, conn.ServerName())
	}
}

func secretOf(name string, chain, key []byte) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(chain), PrivateKey: inline(key)}}}
}

func rootsOf(name string, ca []byte) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(ca)}}}
}

// handshake returns the server's end.
func handshake(t *testing.T, c *tls.Client, s *tls.Server) (*tls.Conn, error) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	go func() {
		if conn, err := c.Handshake(ctx, a, tls.ClientOptions{}); err != nil {
			a.Close()
		} else {
			_, _ = conn.Read(make([]byte, 1)) // take the session tickets
		}
	}()
	return s.Handshake(ctx, b)
}

// TestTLSFieldsRefused: what isn't understood is never served as if it
// weren't there. Each error begins with the field.
func TestTLSFieldsRefused(t *testing.T) {
	const cert = `"tls_certificate_sds_secret_configs":[{"name":"default"}]`
	downstream := []struct{ text, want string }{
		{`{}`, "common_tls_context.tls_certificates: a server needs one"},
		{`{"session_ticket_keys":{}}`, "session_ticket_keys: is not supported"},
		{`{"ocsp_staple_policy":"MUST_STAPLE"}`, "ocsp_staple_policy: MUST_STAPLE"},
		{`{"common_tls_context":{"custom_handshaker":{"name":"x"}}}`, "common_tls_context.custom_handshaker: is not supported"},
		{`{"common_tls_context":{"key_log":{"path":"/tmp/x"}}}`, "common_tls_context.key_log: is not supported"},
		{`{"common_tls_context":{"tls_params":{"tls_maximum_protocol_version":"TLSv1_1"}}}`, "common_tls_context.tls_params.tls_maximum_protocol_version: TLSv1_1"},
		{`{"common_tls_context":{"tls_params":{"signature_algorithms":["rsa_pkcs1_sha1"]}}}`, "common_tls_context.tls_params.signature_algorithms: is not supported"},
		{`{"common_tls_context":{` + cert + `,"tls_params":{"cipher_suites":["RC4-MD5"]}}}`, `common_tls_context.tls_params.cipher_suites: cipher suite "RC4-MD5"`},
		{`{"common_tls_context":{` + cert + `,"tls_params":{"ecdh_curves":["P-999"]}}}`, `common_tls_context.tls_params.ecdh_curves: curve "P-999"`},
		{`{"common_tls_context":{"alpn_protocols":[""]}}`, "common_tls_context.alpn_protocols[0]: has 0 bytes"},
		{`{"common_tls_context":{"tls_certificates":[{"pkcs12":{"inline_string":"x"}}]}}`, "common_tls_context.tls_certificates[0].pkcs12: is not supported"},
		{`{"common_tls_context":{"tls_certificates":[{"certificate_chain":{"filename":"/x"},"private_key":{"inline_string":"x"}}]}}`, "common_tls_context.tls_certificates[0].private_key: certificate and key"},
		{`{"common_tls_context":{` + cert + `,"validation_context":{"match_subject_alt_names":[{"exact":"x"}]}}}`, "common_tls_context.validation_context: SAN-based verification"},
		{`{"common_tls_context":{"validation_context":{"match_subject_alt_names":[{"prefix":""}]}}}`, "common_tls_context.validation_context.match_subject_alt_names[0].prefix: must not be empty"},
		{`{"common_tls_context":{"validation_context":{"match_typed_subject_alt_names":[{"san_type":"OTHER_NAME","oid":"1.2.3"}]}}}`, "common_tls_context.validation_context.match_typed_subject_alt_names[0].san_type: OTHER_NAME"},
		{`{"common_tls_context":{"validation_context":{"require_signed_certificate_timestamp":true}}}`, "common_tls_context.validation_context.require_signed_certificate_timestamp: is not supported"},
		{`{"common_tls_context":{"validation_context":{"verify_certificate_hash":["abc"]}}}`, "common_tls_context.validation_context.verify_certificate_hash[0]"},
		{`{"common_tls_context":{"validation_context":{"verify_certificate_spki":["abc"]}}}`, "common_tls_context.validation_context.verify_certificate_spki[0]"},
		{`{"common_tls_context":{"validation_context":{"trusted_ca":{"inline_string":"no PEM"}}}}`, "common_tls_context.validation_context.trusted_ca: trust anchors"},
		{`{"common_tls_context":{"validation_context":{"trusted_ca":{"filename":"/ca"},"crl":{"inline_string":"x"}}}}`, "common_tls_context.validation_context.crl: must be a file"},
	}
	c := NewCompiler(Env{})
	defer c.Close()
	for _, tt := range downstream {
		_, err := c.compileServerTLS("l", contextOf(t, &tlsv3.DownstreamTlsContext{}, tt.text))
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s\n got %v\nwant %s…", tt.text, err, tt.want)
		}
	}
	upstream := []struct{ text, want string }{
		{`{"allow_renegotiation":true}`, "allow_renegotiation: is not supported"},
		{`{"auto_host_sni":true}`, "auto_host_sni: is not supported"},
		{`{"common_tls_context":{"tls_certificate_sds_secret_configs":[{"name":"a"},{"name":"b"}]}}`, "common_tls_context.tls_certificates: a client has one"},
		{`{"common_tls_context":{"tls_certificate_sds_secret_configs":[{}]}}`, "common_tls_context.tls_certificate_sds_secret_configs[0].name: is empty"},
	}
	for _, tt := range upstream {
		_, err := c.compileClientTLS("c", contextOf(t, &tlsv3.UpstreamTlsContext{}, tt.text))
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s\n got %v\nwant %s…", tt.text, err, tt.want)
		}
	}
}

// TestSecretRefusedKeepsTheOld: a resource that is wrong, or that asks for
// what isn't understood, leaves the served one alone and is counted.
func TestSecretRefusedKeepsTheOld(t *testing.T) {
	secrets := tls.NewSecrets()
	ca, err := localca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	if err := ApplySecret(secrets, rootsOf("ROOTCA", ca.Root()), "", "sds"); err != nil {
		t.Fatal(err)
	}
	pinned := rootsOf("ROOTCA", ca.Root())
	pinned.GetValidationContext().VerifyCertificateHash = []string{"x"}
	for name, tt := range map[string]struct {
		r    *tlsv3.Secret
		want string
	}{
		"garbage": {rootsOf("ROOTCA", []byte("garbage")), "holds no PEM block"},
		"a pin":   {pinned, "validation_context.verify_certificate_hash: is not supported"},
		"a key":   {&tlsv3.Secret{Name: "ROOTCA", Type: &tlsv3.Secret_SessionTicketKeys{SessionTicketKeys: &tlsv3.TlsSessionTicketKeys{}}}, "type: only"},
	} {
		if err := ApplySecret(secrets, tt.r, "", "sds"); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	st := secrets.Secret("ROOTCA").Status()
	if st.Failures != 3 || len(st.Anchors) != 1 || st.LastError == "" {
		t.Errorf("%+v", st)
	}
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
