// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Names of secrets. Those of a workload's own identity and of files are served by the
// proxy's side, those of Kubernetes by whoever sends the resources.
const (
	secretOwn        = "default"
	secretRoots      = "ROOTCA"
	secretBuiltin    = "builtin://"
	secretKubernetes = "kubernetes://"
	secretGateway    = "kubernetes-gateway://"
	secretConfigMap  = "configmap://"
	secretFileCert   = "file-cert:"
	secretFileRoot   = "file-root:"
	suffixCA         = "-cacert"
	// systemRoots are the trust anchors that the machine has.
	systemRoots = "system"
	// sdsCluster is the cluster by which Istio's agent serves secrets to the proxy.
	sdsCluster = "sds-grpc"

	socketTLS = "envoy.transport_sockets.tls"
	socketRaw = "envoy.transport_sockets.raw_buffer"
)

// fileCertName names a certificate and key in files.
func fileCertName(cert, key string) string { return secretFileCert + cert + "~" + key }

// fileRootName names trust anchors in a file.
func fileRootName(ca string) string { return secretFileRoot + ca }

// agentSecret asks for a secret where Istio's agent serves its own and those of files.
func agentSecret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{
		Name: name,
		SdsConfig: &corev3.ConfigSource{
			ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
				ApiType:             corev3.ApiConfigSource_GRPC,
				TransportApiVersion: corev3.ApiVersion_V3,
				GrpcServices: []*corev3.GrpcService{{
					TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: sdsCluster}},
				}},
				SetNodeOnFirstMessageOnly: true,
			}},
			InitialFetchTimeout: durationpb.New(0),
			ResourceApiVersion:  corev3.ApiVersion_V3,
		},
	}
}

// adsSecret asks for a secret where all resources come from. A missing one doesn't hold
// up the others, so there is no initial_fetch_timeout of 0.
func adsSecret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{
		Name: name,
		SdsConfig: &corev3.ConfigSource{
			ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
			ResourceApiVersion:    corev3.ApiVersion_V3,
		},
	}
}

// exactSANs matches each of some names.
func exactSANs(names []string) []*matcherv3.StringMatcher {
	var out []*matcherv3.StringMatcher
	for _, n := range names {
		out = append(out, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: n}})
	}
	return out
}

// wantSANs makes a validation context that takes peers of some names; of none, all
// whose chain is good. istiod writes them into this deprecated field.
func wantSANs(names []string) *tlsv3.CertificateValidationContext {
	return &tlsv3.CertificateValidationContext{
		//lint:ignore SA1019 istiod sets it
		MatchSubjectAltNames: exactSANs(names),
	}
}

// combined validates by own demands and by anchors that come as a secret.
func combined(own *tlsv3.CertificateValidationContext, anchors *tlsv3.SdsSecretConfig) *tlsv3.CommonTlsContext_CombinedValidationContext {
	return &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         own,
			ValidationContextSdsSecretConfig: anchors,
		},
	}
}

// crlFile sets a list of revoked certificates, unless there is none.
func crlFile(v *tlsv3.CertificateValidationContext, file string) {
	if file != "" {
		v.Crl = &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: file}}
	}
}

// tlsSocket wraps a TLS context.
func tlsSocket(context proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: socketTLS, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(context)}}
}

// secretName makes the resource name of a credentialName (pilot/pkg/model/credentials
// of Istio, ToResourceName).
func secretName(credential string) string {
	for _, scheme := range [...]string{secretKubernetes, secretGateway, secretConfigMap} {
		if strings.HasPrefix(credential, scheme) {
			return credential
		}
	}
	return secretKubernetes + credential
}
