// SPDX-License-Identifier: Apache-2.0

package istio

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
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
	alpn := []string{"istio-peer-exchange", "h2", "http/1.1"}
	if http {
		alpn = alpn[1:]
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: pack(&tlsv3.DownstreamTlsContext{
			RequireClientCertificate: wrapperspb.Bool(true),
			CommonTlsContext: &tlsv3.CommonTlsContext{
				TlsParams:                      params,
				TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{workloadSecret("default")},
				ValidationContextType:          workloadValidation(validation, "ROOTCA"),
				AlpnProtocols:                  alpn,
			},
		}),
	}}
}

// workloadValidation validates by own demands and by trust anchors that come as a secret.
func workloadValidation(own *tlsv3.CertificateValidationContext, anchors string) *tlsv3.CommonTlsContext_CombinedValidationContext {
	return &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         own,
			ValidationContextSdsSecretConfig: workloadSecret(anchors),
		},
	}
}

// sdsGRPC is the cluster by which Istio's agent serves secrets to the proxy.
const sdsGRPC = "sds-grpc"

// workloadSecret asks for a secret where Istio's agent serves the workload's own.
func workloadSecret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: sdsGRPC},
			}}},
			SetNodeOnFirstMessageOnly: true,
		}},
		InitialFetchTimeout: durationpb.New(0),
		ResourceApiVersion:  corev3.ApiVersion_V3,
	}}
}

func exactNames(names ...string) []*matcherv3.StringMatcher {
	var out []*matcherv3.StringMatcher
	for _, n := range names {
		out = append(out, exactString(n))
	}
	return out
}
