// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"slices"
	"strconv"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/api/networking/v1alpha3"
)

// ALPN lists towards workloads of the mesh. The first offers the exchange of metadata
// over TCP; istio.alpn puts others in their place for requests of HTTP.
var (
	alpnMesh   = []string{"istio-peer-exchange", "istio"}
	alpnMeshH2 = []string{"istio-peer-exchange", "istio", "h2"}
)

const metadataSocketMatch = "envoy.transport_socket_match"

// secure sets how the connections of a cluster are encrypted: by what a DestinationRule
// says, else by mutual TLS to those hosts that take it (auto mTLS), as istiod's
// buildUpstreamTLSSettings has it.
func (b *clusterBuilder) secure(c *clusterv3.Cluster, s *service, p *servicePort, sub string, pol *policy) {
	tls := pol.tls.value
	http2 := speaksHTTP2(p.protocol, pol)
	sni := sniName(s.host, sub, p.number)
	switch {
	case tls == nil:
		if b.autoMTLS(s, p, pol) {
			c.TransportSocketMatches = []*clusterv3.Cluster_TransportSocketMatch{
				{
					Name:            "tlsMode-istio",
					Match:           &structpb.Struct{Fields: map[string]*structpb.Value{"tlsMode": structpb.NewStringValue("istio")}},
					TransportSocket: tlsSocket(istioMutual(b.accounts, sni, http2)),
				},
				{
					Name:            "tlsMode-disabled",
					Match:           &structpb.Struct{},
					TransportSocket: &corev3.TransportSocket{Name: socketRaw, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(&rawbufferv3.RawBuffer{})}},
				},
			}
			if c.GetType() == clusterv3.Cluster_ORIGINAL_DST {
				// Its hosts carry no metadata by which to choose.
				c.TransportSocket, c.TransportSocketMatches = c.TransportSocketMatches[0].TransportSocket, nil
			}
		}
	case tls.Mode == networking.ClientTLSSettings_ISTIO_MUTUAL:
		if !b.o.identified() {
			b.rep.errorf(pol.tls.obj, pol.tls.field(".mode"), "ISTIO_MUTUAL takes a certificate of the mesh, and the proxy has none: name its directory with --certs")
			return
		}
		sans := tls.SubjectAltNames
		if sans == nil {
			sans = b.accounts
		}
		c.TransportSocket = tlsSocket(istioMutual(sans, cmp.Or(tls.Sni, sni), http2))
	case tls.Mode == networking.ClientTLSSettings_SIMPLE, tls.Mode == networking.ClientTLSSettings_MUTUAL:
		if context := b.originate(s, pol, http2); context != nil {
			c.TransportSocket = tlsSocket(context)
		}
	}
}

// speaksHTTP2: connections of the cluster are of HTTP/2 whatever the client speaks.
func speaksHTTP2(p protocol, pol *policy) bool {
	o := &httpv3.HttpProtocolOptions{}
	upstreamProtocol(o, p, pol.pool.value.GetHttp())
	return o.GetExplicitHttpConfig().GetHttp2ProtocolOptions() != nil
}

// sniName is a cluster's name as a server name, in which there can be no bar.
func sniName(host, subset string, port uint32) string {
	return "outbound_." + strconv.FormatUint(uint64(port), 10) + "_." + subset + "_." + host
}

// autoMTLS: hosts of the service that take mutual TLS get it without being asked for.
func (b *clusterBuilder) autoMTLS(s *service, p *servicePort, pol *policy) bool {
	if s.external || !b.o.identified() || b.modes.disablesNamespace(s.namespace) {
		return false
	}
	if s.resolution != resolveNone && pol.lb.value.GetSimple() != networking.LoadBalancerSettings_PASSTHROUGH {
		return true
	}
	// One answer has to hold for all hosts.
	return len(p.endpoints) > 0 && !slices.ContainsFunc(p.endpoints, func(e *endpoint) bool {
		return e.workload.labels[labelTLSMode] != tlsModeIstio
	})
}

// meshParams are istiod's versions for connections to hosts. Envoy's own end with 1.2.
func meshParams() *tlsv3.TlsParameters {
	return &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
		TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
	}
}

// istioMutual is the context by which workloads of the mesh call each other.
func istioMutual(sans []string, sni string, http2 bool) *tlsv3.UpstreamTlsContext {
	context := &tlsv3.UpstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:                      meshParams(),
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{agentSecret(secretOwn)},
			ValidationContextType:          combined(wantSANs(sans), agentSecret(secretRoots)),
			AlpnProtocols:                  alpnMesh,
		},
		Sni: sni,
	}
	if http2 {
		context.CommonTlsContext.AlpnProtocols = alpnMeshH2
	}
	return context
}

// originate is the context of SIMPLE and MUTUAL, by which servers outside of the mesh
// are called; nil when a secret that it needs is missing.
//
// istiod drops a credentialName of a sidecar whose rule has no workloadSelector, and
// sends plaintext: a sidecar may not read secrets. This proxy has been given them, so
// they hold.
func (b *clusterBuilder) originate(s *service, pol *policy, http2 bool) *tlsv3.UpstreamTlsContext {
	tls := pol.tls.value
	sans := tls.SubjectAltNames
	if len(sans) == 0 && !s.kubernetes {
		sans = b.accounts
	}
	common := &tlsv3.CommonTlsContext{TlsParams: meshParams()}
	mutual := tls.Mode == networking.ClientTLSSettings_MUTUAL
	skip := tls.GetInsecureSkipVerify().GetValue()
	switch {
	case tls.CredentialName != "":
		want := credentialUse{obj: pol.tls.obj, field: pol.tls.field(".credentialName"), credential: tls.CredentialName}
		if mutual {
			cert := b.secrets.certificate(want)
			if cert == nil {
				return nil
			}
			common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{cert}
		}
		if !skip {
			anchors := b.secrets.anchors(want)
			if anchors == nil {
				return nil
			}
			own := wantSANs(sans)
			crlFile(own, tls.CaCrl)
			common.ValidationContextType = combined(own, anchors)
		}
	default:
		if mutual {
			common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{agentSecret(fileCertName(tls.ClientCertificate, tls.PrivateKey))}
		}
		if skip {
			common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{}
			break
		}
		own := wantSANs(sans)
		crlFile(own, tls.CaCrl)
		common.ValidationContextType = combined(own, agentSecret(fileRootName(cmp.Or(tls.CaCertificates, systemRoots))))
	}
	if http2 {
		common.AlpnProtocols = []string{"h2"}
	}
	return &tlsv3.UpstreamTlsContext{CommonTlsContext: common, Sni: tls.Sni}
}

// applyAutoSNI makes each request's host the server name that is asked for, and the
// name that the server has to prove, where a rule gives none.
func applyAutoSNI(options *httpv3.HttpProtocolOptions, tls *networking.ClientTLSSettings) {
	if m := tls.GetMode(); m != networking.ClientTLSSettings_SIMPLE && m != networking.ClientTLSSettings_MUTUAL {
		return
	}
	if tls.Sni != "" {
		return
	}
	options.UpstreamHttpProtocolOptions = &corev3.UpstreamHttpProtocolOptions{
		AutoSni:           true,
		AutoSanValidation: len(tls.SubjectAltNames) == 0 && !tls.GetInsecureSkipVerify().GetValue(),
	}
}

// takesTLS says whether an endpoint is to be reached by mutual TLS: a rule decides, else
// the workload's label and its PeerAuthentication (istiod's mtlsChecker).
func (b *clusterBuilder) takesTLS(e *endpoint, pol *policy) bool {
	if pol.tls.value != nil {
		return pol.tls.value.Mode == networking.ClientTLSSettings_ISTIO_MUTUAL
	}
	return e.workload.labels[labelTLSMode] == tlsModeIstio && !b.modes.disables(e.workload, e.port())
}

// forCluster returns the endpoints as a cluster of that policy is to see them: those
// that don't get mutual TLS don't ask for it.
func (b *clusterBuilder) forCluster(endpoints []*endpoint, pol *policy) []*endpoint {
	var out []*endpoint
	for i, e := range endpoints {
		if e.lb.Metadata.FilterMetadata[metadataSocketMatch] == nil || b.takesTLS(e, pol) {
			if out != nil {
				out = append(out, e)
			}
			continue
		}
		if out == nil {
			out = append(make([]*endpoint, 0, len(endpoints)), endpoints[:i]...)
		}
		out = append(out, e.plain())
	}
	if out == nil {
		return endpoints
	}
	return out
}

// warnPlain tells that workloads which take mutual TLS get plaintext, since the proxy
// has no certificate to show them.
func (b *clusterBuilder) warnPlain(s *service, endpoints []*endpoint, pol *policy) {
	if b.o.identified() || s.external {
		return
	}
	for _, e := range endpoints {
		if pol.tls.value == nil && b.takesTLS(e, pol) {
			b.rep.warnf(e.workload.obj, e.workload.labelField(labelTLSMode),
				"the workload takes mutual TLS, but the proxy has no certificate: plaintext is sent. Name the certificate's directory with --certs")
		}
	}
}
