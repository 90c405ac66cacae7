// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"pillion/proxy/filter"
	"pillion/proxy/match"
)

// StringFunc compiles a string matcher. Its error names the field.
type StringFunc func(*matcherv3.StringMatcher) (match.String, error)

// Env is what filters are built with.
type Env struct {
	// Client returns the client of a cluster.
	Client func(cluster string) filter.Client
	// GRPC reads what configuration says of a service; unsaid is the timeout where it
	// says none.
	GRPC   func(s *corev3.GrpcService, unsaid time.Duration) (*filter.GRPCService, error)
	String StringFunc
	// Value compiles the text of a header, with Envoy's %COMMAND% operators.
	Value func(text string) (filter.Value, error)
	// Charge counts a response that a cluster's requests got without being
	// sent (upstream_rq_403 and so on); nil doesn't.
	Charge func(cluster string, status int)
	// Labels are those of the workload beside the proxy, by the key of the
	// node's metadata that holds them.
	Labels func(key string) map[string]string
	// Stats returns the counters of a stat_prefix.
	Stats func(statPrefix string) *Stats
}

// filterFields are the fields that are understood. emit_client_span is about
// tracing.
var filterFields = fields("grpc_service", "http_service", "transport_api_version", "failure_mode_allow",
	"failure_mode_allow_header_add", "with_request_body", "clear_route_cache", "clear_route_cache_headers", "status_on_error",
	"validate_mutations", "metadata_context_namespaces", "filter_enabled", "filter_enabled_metadata", "deny_at_disable",
	"include_peer_certificate", "stat_prefix", "bootstrap_metadata_labels_key", "allowed_headers", "disallowed_headers",
	"include_tls_session", "charge_cluster_response_stats", "encode_raw_headers", "enable_dynamic_metadata_ingestion",
	"max_denied_response_body_bytes", "emit_client_span")

// New compiles the filter of a route. route is nil without an override. It
// returns nil where the route has the filter disabled. Errors name the field.
func New(cfg *extauthzv3.ExtAuthz, route *extauthzv3.ExtAuthzPerRoute, env *Env) (*Filter, error) {
	if err := only(cfg, filterFields); err != nil {
		return nil, err
	}
	settings := &extauthzv3.CheckSettings{}
	if route != nil {
		if err := only(route, fields("disabled", "check_settings")); err != nil {
			return nil, err
		}
		if route.GetDisabled() {
			return nil, nil
		}
		if settings = route.GetCheckSettings(); settings == nil {
			return nil, fmt.Errorf("override: neither disabled nor check_settings is set")
		}
		if err := only(settings, fields("context_extensions", "disable_request_body_buffering", "with_request_body", "grpc_service", "http_service", "emit_client_span")); err != nil {
			return nil, fmt.Errorf("check_settings.%w", err)
		}
	}
	f := &Filter{stats: env.Stats(cfg.GetStatPrefix()),
		failureModeAllow: cfg.GetFailureModeAllow(), failureHeader: cfg.GetFailureModeAllowHeaderAdd(),
		clearRoute: cfg.GetClearRouteCache(), validate: cfg.GetValidateMutations(),
		denyAtDisable: cfg.GetDenyAtDisable().GetDefaultValue().GetValue(), maxDeniedBody: int(cfg.GetMaxDeniedResponseBodyBytes()),
		ignoreMetadata: cfg.EnableDynamicMetadataIngestion != nil && !cfg.GetEnableDynamicMetadataIngestion().GetValue()}
	for _, name := range cfg.GetClearRouteCacheHeaders() {
		f.clearRouteFor = append(f.clearRouteFor, []byte(name))
	}
	if cfg.ChargeClusterResponseStats == nil || cfg.GetChargeClusterResponseStats().GetValue() {
		f.charge = env.Charge
	}
	if err := f.conditions(cfg, env); err != nil {
		return nil, err
	}
	var err error
	if f.request, err = newRequestOptions(cfg, settings, env); err != nil {
		return nil, err
	}
	return f, f.setService(cfg, settings, env)
}

// conditions compiles when the filter acts and how it refuses.
func (f *Filter) conditions(cfg *extauthzv3.ExtAuthz, env *Env) error {
	if v := cfg.GetTransportApiVersion(); v != corev3.ApiVersion_AUTO && v != corev3.ApiVersion_V3 {
		return fmt.Errorf("transport_api_version: %s is not supported", v)
	}
	f.errorStatus = 403
	if s := cfg.GetStatusOnError(); s != nil {
		if f.errorStatus = int(s.GetCode()); f.errorStatus < 200 || f.errorStatus > 599 {
			return fmt.Errorf("status_on_error.code: %d is no final status", s.GetCode())
		}
	}
	f.enabled = match.NewShare(100, 0)
	if p := cfg.GetFilterEnabled(); p != nil {
		f.enabled = match.NewShare(p.GetDefaultValue().GetNumerator(), int32(p.GetDefaultValue().GetDenominator()))
	}
	if m := cfg.GetFilterEnabledMetadata(); m != nil {
		var err error
		if f.enabledMetadata, err = compileMetadata(m, env.String); err != nil {
			return fmt.Errorf("filter_enabled_metadata.%w", err)
		}
	}
	return nil
}

func newRequestOptions(cfg *extauthzv3.ExtAuthz, s *extauthzv3.CheckSettings, env *Env) (*requestOptions, error) {
	o := &requestOptions{rawHeaders: cfg.GetEncodeRawHeaders(), peerCertificate: cfg.GetIncludePeerCertificate(),
		tlsSession: cfg.GetIncludeTlsSession(), extensions: s.GetContextExtensions(), namespaces: cfg.GetMetadataContextNamespaces()}
	if key := cfg.GetBootstrapMetadataLabelsKey(); key != "" {
		o.labels = env.Labels(key)
	}
	body := cfg.GetWithRequestBody()
	o.packAsBytes = body.GetPackAsBytes()
	where := "with_request_body"
	if own := s.GetWithRequestBody(); own != nil {
		body, where = own, "check_settings.with_request_body"
	}
	if s.GetDisableRequestBodyBuffering() {
		body = nil
	}
	if body != nil {
		if body.GetMaxRequestBytes() == 0 {
			return nil, fmt.Errorf("%s.max_request_bytes: must not be 0", where)
		}
		o.maxBody, o.partialBody = int(body.GetMaxRequestBytes()), body.GetAllowPartialMessage()
	}
	var err error
	if o.disallowed, err = compileNames(cfg.GetDisallowedHeaders(), env); err != nil {
		return nil, fmt.Errorf("disallowed_headers.%w", err)
	}
	if o.allowed, err = compileNames(cfg.GetAllowedHeaders(), env); err != nil {
		return nil, fmt.Errorf("allowed_headers.%w", err)
	}
	if o.allowed == nil && cfg.GetAllowedHeaders() != nil {
		o.allowed = names{}
	}
	return o, nil
}

// compileNames compiles a list of matchers, nil for none.
func compileNames(l *matcherv3.ListStringMatcher, env *Env) (names, error) {
	var out names
	for i, m := range l.GetPatterns() {
		s, err := env.String(m)
		if err != nil {
			return nil, fmt.Errorf("patterns[%d]: %w", i, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func exact(list ...string) (out names) {
	for _, s := range list {
		out = append(out, match.NewString(match.Exact, s, false))
	}
	return out
}

func fields(list ...protoreflect.Name) map[protoreflect.Name]bool {
	set := map[protoreflect.Name]bool{}
	for _, n := range list {
		set[n] = true
	}
	return set
}

// only refuses a message in which another field is set: what isn't understood
// must not be served as if it weren't there.
func only(m proto.Message, allowed map[protoreflect.Name]bool) (err error) {
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !allowed[fd.Name()] {
			err = fmt.Errorf("%s: is not supported", fd.Name())
		}
		return err == nil
	})
	if err == nil && len(m.ProtoReflect().GetUnknown()) > 0 {
		err = fmt.Errorf("unknown fields: are not supported")
	}
	return err
}
