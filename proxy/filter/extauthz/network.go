// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	networkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// networkNamespace is where the server's metadata about a connection goes.
const networkNamespace = "envoy.filters.network.ext_authz"

// NetworkStats are the counters of the network filters of one stat_prefix,
// under Envoy's names (ext_authz.<stat_prefix>.*).
type NetworkStats struct {
	Total, OK, Denied, Error, FailureAllowed stats.Counter
	Disabled, Closed                         stats.Counter
	Active                                   stats.Gauge
}

// Collect reports the counters of a stat_prefix. Istio's ends in a dot, so that
// two stand in the name, as in Envoy's.
func (s *NetworkStats) Collect(e *stats.Emitter, prefix string) {
	for name, c := range map[string]*stats.Counter{"total": &s.Total, "ok": &s.OK, "denied": &s.Denied, "error": &s.Error,
		"failure_mode_allowed": &s.FailureAllowed, "disabled": &s.Disabled, "cx_closed": &s.Closed} {
		e.Counter("ext_authz."+prefix+"."+name, "", c.Value())
	}
	e.Gauge("ext_authz."+prefix+".active", "", s.Active.Value())
}

// Network checks connections. It implements filter.Admitter. Immutable, but for
// its counters.
type Network struct {
	call  grpcCaller
	stats *NetworkStats

	enabled          *metadataMatcher // nil: always
	failureModeAllow bool

	certificate, session bool
	labels               map[string]string
	namespaces           []string
}

var networkFields = fields("stat_prefix", "grpc_service", "failure_mode_allow", "include_peer_certificate", "transport_api_version",
	"filter_enabled_metadata", "bootstrap_metadata_labels_key", "include_tls_session", "metadata_context_namespaces")

// NewNetwork compiles a network filter. Errors name the field.
func NewNetwork(cfg *networkv3.ExtAuthz, s *NetworkStats, env *Env) (*Network, error) {
	if err := only(cfg, networkFields); err != nil {
		return nil, err
	}
	if cfg.GetStatPrefix() == "" {
		return nil, fmt.Errorf("stat_prefix: is needed")
	}
	if v := cfg.GetTransportApiVersion(); v != corev3.ApiVersion_AUTO && v != corev3.ApiVersion_V3 {
		return nil, fmt.Errorf("transport_api_version: %s is not supported", v)
	}
	n := &Network{stats: s, failureModeAllow: cfg.GetFailureModeAllow(), certificate: cfg.GetIncludePeerCertificate(),
		session: cfg.GetIncludeTlsSession(), namespaces: cfg.GetMetadataContextNamespaces()}
	if key := cfg.GetBootstrapMetadataLabelsKey(); key != "" {
		n.labels = env.Labels(key)
	}
	var err error
	if m := cfg.GetFilterEnabledMetadata(); m != nil {
		if n.enabled, err = compileMetadata(m, env.String); err != nil {
			return nil, fmt.Errorf("filter_enabled_metadata.%w", err)
		}
	}
	if cfg.GetGrpcService() == nil {
		return nil, fmt.Errorf("grpc_service: is needed")
	}
	if n.call.to, err = env.GRPC(cfg.GetGrpcService(), defaultTimeout); err != nil {
		return nil, fmt.Errorf("grpc_service.%w", err)
	}
	return n, nil
}

// Admit asks the server about a connection. It asks when the connection has
// come; Envoy waits for its first byte, and lets what the host says pass
// meanwhile.
func (n *Network) Admit(a *filter.Admission) bool {
	if n.enabled != nil && !n.enabled.match(&a.Metadata) {
		n.stats.Disabled.Inc()
		return true
	}
	n.stats.Total.Inc()
	n.stats.Active.Inc()
	answer, ok := n.call.call(n.question(a), &http.Exchange{Conn: a.Conn}, a.Cancelled)
	n.stats.Active.Dec()
	detail := "ext_authz_denied"
	switch d := decideConnection(answer, ok); d.verdict {
	case allowed:
		if len(d.metadata) > 0 {
			a.Metadata.Set(networkNamespace, d.metadata)
		}
		n.stats.OK.Inc()
		return true
	case denied:
		n.stats.Denied.Inc()
	default:
		n.stats.Error.Inc()
		if n.failureModeAllow {
			n.stats.FailureAllowed.Inc()
			return true
		}
		detail = "ext_authz_error"
	}
	n.stats.Closed.Inc()
	a.CodeDetails = detail
	a.Flags |= http.FlagUnauthorizedExternal
	return false
}

// question is what the server is told of a connection.
func (n *Network) question(a *filter.Admission) *authv3.CheckRequest {
	attributes := connectionAttributes(a.Conn, n.certificate, n.session, n.labels)
	if a.Conn != nil {
		attributes.Destination.Service = printable([]byte(a.Conn.SNI))
	}
	o := requestOptions{namespaces: n.namespaces}
	attributes.MetadataContext = &corev3.Metadata{FilterMetadata: o.metadata(&a.Metadata)}
	return &authv3.CheckRequest{Attributes: attributes}
}

// decideConnection reads an answer as far as it is about a connection.
func decideConnection(answer *authv3.CheckResponse, ok bool) *decision {
	if !ok {
		return &decision{}
	}
	d := decide(answer)
	if d.verdict == invalid { // what can't be done to requests is no matter here
		d.verdict = denied
		if answer.GetStatus().GetCode() == 0 {
			d.verdict = allowed
		}
	}
	return d
}
