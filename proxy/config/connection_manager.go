// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 istiod still sets start_child_span

package config

import (
	"fmt"
	"net"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	requestidv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"

	"pillion/proxy/forward"
	"pillion/proxy/hcm"
	"pillion/proxy/http"
	"pillion/proxy/http/h1"
)

func direction(d corev3.TrafficDirection) http.Direction {
	switch d {
	case corev3.TrafficDirection_INBOUND:
		return http.Inbound
	case corev3.TrafficDirection_OUTBOUND:
		return http.Outbound
	}
	return http.DirectionUnspecified
}

var listenAddressFields = fieldSet("protocol", "address", "port_value", "ipv4_compat")

// socketAddress returns an address to listen on, in the form of listener.Listen.
func socketAddress(a *corev3.Address) (string, error) {
	sa := a.GetSocketAddress()
	if sa == nil {
		return "", fmt.Errorf("only a socket_address is supported")
	}
	if err := onlyFields(sa, listenAddressFields); err != nil {
		return "", at("socket_address", err)
	}
	if sa.GetProtocol() != corev3.SocketAddress_TCP {
		return "", fmt.Errorf("socket_address.protocol: only TCP is supported")
	}
	if sa.GetPortValue() > 65535 {
		return "", fmt.Errorf("socket_address.port_value: %d is no port", sa.GetPortValue())
	}
	host := sa.GetAddress()
	if sa.GetIpv4Compat() && host == "::" {
		host = "" // every address of both families
	}
	return net.JoinHostPort(host, strconv.Itoa(int(sa.GetPortValue()))), nil
}

// hcmFields are the fields of an HttpConnectionManager that mean something
// here.
var hcmFields = fieldSet("stat_prefix", "codec_type", "rds", "route_config", "http_filters", "server_name",
	"server_header_transformation", "normalize_path", "merge_slashes", "path_with_escaped_slashes_action",
	"use_remote_address", "generate_request_id", "request_id_extension", "preserve_external_request_id",
	"common_http_protocol_options", "http_protocol_options", "http2_protocol_options", "stream_idle_timeout",
	"request_timeout", "request_headers_timeout", "drain_timeout", "access_log", "upgrade_configs", "proxy_100_continue",
	"tracing", "forward_client_cert_details", "set_current_client_cert_details", "skip_xff_append", "internal_address_config",
	"max_request_headers_kb", "xff_num_trusted_hops", "append_x_forwarded_port")

func (c *Compiler) compileHCM(s *Snapshot, m *hcmv3.HttpConnectionManager, d http.Direction, routes map[string]*routev3.RouteConfiguration) (*hcm.Config, error) {
	if err := onlyFields(m, hcmFields); err != nil {
		return nil, err
	}
	if err := checkHCM(m); err != nil {
		return nil, err
	}
	common := m.GetCommonHttpProtocolOptions()
	cfg := &hcm.Config{
		StatPrefix:          m.GetStatPrefix(),
		ServerName:          []byte(orDefault(m.GetServerName(), "envoy")),
		ServerHeader:        hcm.ServerHeader(m.GetServerHeaderTransformation()),
		Path:                pathOptions(m),
		UseRemoteAddress:    m.GetUseRemoteAddress().GetValue(),
		TrustedHops:         int(min(m.GetXffNumTrustedHops(), maxTrustedHops)),
		SkipXFFAppend:       m.GetSkipXffAppend(),
		AppendForwardedPort: m.GetAppendXForwardedPort(),
		ForwardClientCert:   hcm.ForwardClientCert(m.GetForwardClientCertDetails()),
		ClientCert:          clientCertDetails(m.GetSetCurrentClientCertDetails()),
		GenerateRequestID:   unlessFalse(m.GetGenerateRequestId()),
		PreserveRequestID:   m.GetPreserveExternalRequestId(),
		AcceptHTTP10:        m.GetHttpProtocolOptions().GetAcceptHttp_10(),
		IdleTimeout:         hcm.DefaultIdleTimeout,
		HeadersTimeout:      hcm.DefaultHeadersTimeout,
		RequestTimeout:      m.GetRequestTimeout().AsDuration(),
		Limits:              &h1.Limits{},
		Forward:             &forward.Options{},
	}
	cfg.MaxRequests = common.GetMaxRequestsPerConnection().GetValue()
	if d := common.GetIdleTimeout(); d != nil {
		cfg.IdleTimeout = d.AsDuration()
	}
	if d := m.GetRequestHeadersTimeout(); d != nil && d.AsDuration() > 0 {
		cfg.HeadersTimeout = d.AsDuration()
	}
	if kb := m.GetMaxRequestHeadersKb(); kb != nil {
		cfg.Limits.MaxHeadBytes = int(kb.GetValue()) << 10
	}
	if n := common.GetMaxHeadersCount(); n != nil {
		cfg.Limits.MaxFields = int(n.GetValue())
	}
	var err error
	if cfg.Tracing, err = c.tracing(s, m, d); err != nil {
		return nil, at("tracing", err)
	}
	if cfg.Internal, err = internalAddresses(m.GetInternalAddressConfig()); err != nil {
		return nil, fmt.Errorf("internal_address_config: %w", err)
	}
	http2, err := compileHTTP2(m.GetHttp2ProtocolOptions())
	if err != nil {
		return nil, fmt.Errorf("http2_protocol_options: %w", err)
	}
	if cfg.Upgrades, err = compileUpgrades(m.GetUpgradeConfigs()); err != nil {
		return nil, err
	}
	http2.Connect = http2.Connect || cfg.Upgrades.Any()
	http2.MaxHeadBytes, http2.MaxFields = cfg.Limits.MaxHeadBytes, cfg.Limits.MaxFields
	cfg.HTTP2 = &http2
	if cfg.AccessLogs, err = c.accessLogs(s, m.GetAccessLog()); err != nil {
		return nil, fmt.Errorf("access_log%w", err)
	}
	return cfg, c.attachRoutes(s, cfg, m, d, routes)
}

// escapedSlashes are the actions on encoded slashes by their names in xDS.
var escapedSlashes = map[hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction]hcm.EscapedSlashes{
	hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT: hcm.KeepEscapedSlashes,
	hcmv3.HttpConnectionManager_KEEP_UNCHANGED:                  hcm.KeepEscapedSlashes,
	hcmv3.HttpConnectionManager_REJECT_REQUEST:                  hcm.RejectEscapedSlashes,
	hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:           hcm.RedirectEscapedSlashes,
	hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:            hcm.DecodeEscapedSlashes,
}

func pathOptions(m *hcmv3.HttpConnectionManager) hcm.PathOptions {
	return hcm.PathOptions{EscapedSlashes: escapedSlashes[m.GetPathWithEscapedSlashesAction()],
		Normalize: m.GetNormalizePath().GetValue(), MergeSlashes: m.GetMergeSlashes()}
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// Fields of messages in an HttpConnectionManager that mean something here, or that
// say what is done anyway: names of fields keep their case, trailers are passed on,
// targets may be in absolute form, and any method may be used.
var (
	commonDownstreamFields = fieldSet("idle_timeout", "max_requests_per_connection", "max_headers_count", "max_response_headers_kb")
	http1DownstreamFields  = fieldSet("accept_http_10", "allow_absolute_url", "header_key_format", "enable_trailers",
		"override_stream_error_on_invalid_http_message", "allow_custom_methods", "use_balsa_parser")
	requestIDFields = fieldSet("pack_trace_reason", "use_request_id_for_trace_sampling")
)

const (
	preserveCaseType = "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
	requestIDType    = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"
)

// checkHCM refuses values that would be served other than they say.
func checkHCM(m *hcmv3.HttpConnectionManager) error {
	if err := onlyFields(m.GetCommonHttpProtocolOptions(), commonDownstreamFields); err != nil {
		return at("common_http_protocol_options", err)
	}
	if err := onlyFields(m.GetHttpProtocolOptions(), http1DownstreamFields); err != nil {
		return at("http_protocol_options", err)
	}
	if f := m.GetHttpProtocolOptions().GetHeaderKeyFormat(); f != nil && messageType(f.GetStatefulFormatter().GetTypedConfig()) != preserveCaseType {
		return fmt.Errorf("http_protocol_options.header_key_format: only %s is supported", preserveCaseType)
	}
	if _, err := requestID(m); err != nil {
		return at("request_id_extension.typed_config", err)
	}
	switch m.GetCodecType() {
	case hcmv3.HttpConnectionManager_AUTO, hcmv3.HttpConnectionManager_HTTP1, hcmv3.HttpConnectionManager_HTTP2:
	default:
		return fmt.Errorf("codec_type: %s is not supported by this build", m.GetCodecType())
	}
	if _, known := escapedSlashes[m.GetPathWithEscapedSlashesAction()]; !known {
		return fmt.Errorf("path_with_escaped_slashes_action: %s is not supported", m.GetPathWithEscapedSlashesAction())
	}
	if f := m.GetForwardClientCertDetails(); f < hcmv3.HttpConnectionManager_SANITIZE || f > hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY {
		return fmt.Errorf("forward_client_cert_details: %d is not known", f)
	}
	if kb := m.GetMaxRequestHeadersKb(); kb != nil && kb.GetValue() > 60 {
		return fmt.Errorf("max_request_headers_kb: %d is above the bound of 60", kb.GetValue())
	}
	if d := m.GetStreamIdleTimeout(); d.AsDuration() > 0 {
		return fmt.Errorf("stream_idle_timeout: is not supported, only 0")
	}
	return nil
}

// requestID reads how request IDs are made, and refuses those of another kind than a UUID.
func requestID(m *hcmv3.HttpConnectionManager) (*requestidv3.UuidRequestIdConfig, error) {
	cfg := &requestidv3.UuidRequestIdConfig{}
	a := m.GetRequestIdExtension().GetTypedConfig()
	if a == nil {
		return cfg, nil
	}
	if err := unmarshalAs(a, cfg, requestIDType); err != nil {
		return nil, err
	}
	return cfg, onlyFields(cfg, requestIDFields)
}

// routerOptions reads the terminal filter. spans says that it asks for spans of tries.
func routerOptions(f *hcmv3.HttpFilter) (opt *forward.Options, spans bool, err error) {
	r := &routerv3.Router{}
	if tc := f.GetTypedConfig(); tc != nil {
		if err := tc.UnmarshalTo(r); err != nil {
			return nil, false, err
		}
	}
	if err := onlyFields(r, fieldSet("start_child_span", "suppress_envoy_headers", "dynamic_stats")); err != nil {
		return nil, false, err
	}
	return &forward.Options{SuppressEnvoyHeaders: r.GetSuppressEnvoyHeaders()}, r.GetStartChildSpan(), nil
}
