// SPDX-License-Identifier: Apache-2.0

package istio

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	mesh "istio.io/api/mesh/v1alpha1"
)

// meshCiphers are istiod's cipher suites of TLS 1.2 between workloads.
var meshCiphers = []string{
	"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
	"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
	"AES256-GCM-SHA384", "AES128-GCM-SHA256",
}

// inboundTLS makes the socket in which mutual TLS ends: the client has to prove an
// identity of one of the mesh's trust domains.
func (t *translator) inboundTLS(http bool) *corev3.TransportSocket {
	validation := &tlsv3.CertificateValidationContext{}
	for _, td := range t.o.trustDomains() {
		//lint:ignore SA1019 istiod sets it
		validation.MatchSubjectAltNames = append(validation.MatchSubjectAltNames, prefixString(spiffe+td+"/"))
	}
	params := &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
		TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		CipherSuites:              meshCiphers,
	}
	if own := t.o.mesh().GetMeshMTLS(); own != nil {
		if own.MinProtocolVersion == mesh.MeshConfig_TLSConfig_TLSV1_3 {
			params.TlsMinimumProtocolVersion = tlsv3.TlsParameters_TLSv1_3
		}
		if len(own.CipherSuites) > 0 {
			params.CipherSuites = own.CipherSuites
		}
	}
	alpn := alpnMutualTCP
	if http {
		alpn = alpnHTTP
	}
	return tlsSocket(&tlsv3.DownstreamTlsContext{
		RequireClientCertificate: wrapperspb.Bool(true),
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:                      params,
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{agentSecret(secretOwn)},
			ValidationContextType:          combined(validation, agentSecret(secretRoots)),
			AlpnProtocols:                  alpn,
		},
	})
}
