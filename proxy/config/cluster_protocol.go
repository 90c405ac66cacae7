// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/cluster"
	"pillion/proxy/pool"
	"pillion/proxy/tls"
)

const httpProtocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// protocol compiles what is spoken to the hosts.
func (b *clusterBuilder) protocol() error {
	options := b.in.GetTypedExtensionProtocolOptions()
	for _, name := range slices.Sorted(maps.Keys(options)) {
		cfg := options[name]
		path := "typed_extension_protocol_options[" + name + "]"
		if name != httpProtocolOptions {
			b.warn("%s: is not known and has no effect", path)
			continue
		}
		opts := &httpv3.HttpProtocolOptions{}
		if err := cfg.UnmarshalTo(opts); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := at(path, b.typedHTTP(path, opts)); err != nil {
			return err
		}
	}
	return nil
}

var autoSNIFields = fieldSet("auto_sni", "auto_san_validation")

var typedFields = fieldSet("common_http_protocol_options", "upstream_http_protocol_options", "explicit_http_config",
	"use_downstream_protocol_config")

func (b *clusterBuilder) typedHTTP(path string, o *httpv3.HttpProtocolOptions) error {
	if err := onlyFields(o, typedFields); err != nil {
		return err
	}
	if err := at("common_http_protocol_options", b.commonHTTP(o.GetCommonHttpProtocolOptions())); err != nil {
		return err
	}
	up := o.GetUpstreamHttpProtocolOptions()
	if err := at("upstream_http_protocol_options", onlyFields(up, autoSNIFields)); err != nil {
		return err
	}
	b.out.Conn.AutoSNI, b.out.Conn.AutoSAN = up.GetAutoSni(), up.GetAutoSanValidation()
	conn := &b.out.Conn
	var h2 *corev3.Http2ProtocolOptions
	where := "explicit_http_config"
	switch u := o.GetUpstreamProtocolOptions().(type) {
	case *httpv3.HttpProtocolOptions_ExplicitHttpConfig_:
		if u.ExplicitHttpConfig.GetHttp3ProtocolOptions() != nil {
			return fmt.Errorf("explicit_http_config.http3_protocol_options: is not supported")
		}
		if h2 = u.ExplicitHttpConfig.GetHttp2ProtocolOptions(); h2 != nil {
			conn.Speaks = pool.SpeaksHTTP2
		}
	case *httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
		where = "use_downstream_protocol_config"
		conn.Speaks, h2 = pool.SpeaksClients, u.UseDownstreamProtocolConfig.GetHttp2ProtocolOptions()
	case *httpv3.HttpProtocolOptions_AutoConfig:
		return fmt.Errorf("auto_config: is not supported")
	}
	if h2 == nil {
		return nil
	}
	cfg, err := compileHTTP2(h2)
	if err != nil {
		return at(where+".http2_protocol_options", err)
	}
	conn.HTTP2, conn.MaxStreams = cfg, h2.GetMaxConcurrentStreams().GetValue()
	return nil
}

var commonHTTPFields = fieldSet("idle_timeout", "max_connection_duration", "max_requests_per_connection", "max_headers_count",
	"max_response_headers_kb", "headers_with_underscores_action")

func (b *clusterBuilder) commonHTTP(o *corev3.HttpProtocolOptions) error {
	if o == nil {
		return nil
	}
	if err := onlyFields(o, commonHTTPFields); err != nil {
		return err
	}
	s := &b.out.Conn
	var err error
	if s.IdleTimeout, err = span("idle_timeout", o.GetIdleTimeout(), s.IdleTimeout); err != nil {
		return err
	}
	if s.MaxConnectionAge, err = span("max_connection_duration", o.GetMaxConnectionDuration(), 0); err != nil {
		return err
	}
	s.MaxRequestsPerConnection = number(o.GetMaxRequestsPerConnection(), s.MaxRequestsPerConnection)
	if o.GetMaxHeadersCount() != nil || o.GetMaxResponseHeadersKb() != nil {
		b.warn("common_http_protocol_options: responses have the proxy's own limits on headers")
	}
	return nil
}

// socketMatch is one of transport_socket_matches.
type socketMatch struct {
	name  string
	match map[string]*structpb.Value
	tls   *tls.Client // nil for plain TCP
	// unusable says why connections can't be made with the socket.
	unusable string
}

// socket compiles how connections are secured. A cluster that asks for what isn't
// supported on all connections is refused, rather than served in the clear. A
// socket that only some endpoints ask for makes those unusable: Istio gives nearly
// every cluster of a mesh such a choice, and others take another one.
func (b *clusterBuilder) socket() (err error) {
	if b.plain.tls, err = b.secured(b.in.GetTransportSocket()); err != nil {
		return fmt.Errorf("transport_socket: %w", err)
	}
	b.out.TLS = b.plain.tls
	secured := b.plain.tls != nil
	for i, m := range b.in.GetTransportSocketMatches() {
		s := socketMatch{name: m.GetName(), match: m.GetMatch().GetFields()}
		if s.tls, err = b.secured(m.GetTransportSocket()); err != nil {
			s.unusable = fmt.Sprintf("transport_socket_matches[%d] (%s): %v", i, m.GetName(), err)
		}
		secured = secured || s.tls != nil
		b.sockets = append(b.sockets, s)
	}
	if b.out.Discovery == cluster.OriginalDst && len(b.sockets) > 0 {
		chosen := b.socketFor(nil) // its hosts have no metadata
		if chosen.unusable != "" {
			return errors.New(chosen.unusable)
		}
		b.out.TLS = chosen.tls
	}
	if secured {
		b.offers()
	}
	return nil
}

// offers compiles what handshakes say that depends on more than their context.
func (b *clusterBuilder) offers() {
	istio := b.in.GetMetadata().GetFilterMetadata()["istio"].GetFields()
	if istio["alpn_override"].GetStringValue() != "false" {
		b.out.Conn.ALPN = b.alpn
	}
	if conn, h := &b.out.Conn, b.out.ServiceHost; (conn.AutoSNI || conn.AutoSAN) && !strings.HasPrefix(h, "*") {
		conn.ServerName = h
	}
}

// secured returns the TLS of a socket, nil for plain TCP.
func (b *clusterBuilder) secured(s *corev3.TransportSocket) (*tls.Client, error) {
	typ := messageType(s.GetTypedConfig())
	switch {
	case s == nil, strings.HasSuffix(typ, ".raw_buffer.v3.RawBuffer"), typ == "" && strings.HasSuffix(s.GetName(), "raw_buffer"):
		return nil, nil
	case typ == upstreamTLSType:
		return b.contexts.client(b.in.GetName(), s.GetTypedConfig())
	}
	if typ == "" {
		typ = s.GetName()
	}
	return nil, fmt.Errorf("%s is not supported", typ)
}

// socketFor returns the socket for an endpoint with that metadata. The first match
// counts; without any, it is that of the cluster
// (Envoy: TransportSocketMatcherImpl::resolve).
func (b *clusterBuilder) socketFor(metadata map[string]*structpb.Value) *socketMatch {
	for i := range b.sockets {
		if s := &b.sockets[i]; s.matches(metadata) {
			return s
		}
	}
	return &b.plain
}

func (s *socketMatch) matches(metadata map[string]*structpb.Value) bool {
	for key, want := range s.match {
		got, ok := metadata[key]
		if !ok {
			return false
		}
		if a, isString := want.GetKind().(*structpb.Value_StringValue); isString {
			if b, ok := got.GetKind().(*structpb.Value_StringValue); !ok || a.StringValue != b.StringValue {
				return false
			}
		} else if !proto.Equal(want, got) {
			return false
		}
	}
	return true
}
