// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"pillion/proxy/http/h2"
)

// http2Fields are the fields of Http2ProtocolOptions that mean something here.
// The limits on floods are the codec's own, which are no laxer than Envoy's.
var http2Fields = fieldSet("max_concurrent_streams", "initial_stream_window_size", "initial_connection_window_size",
	"allow_connect", "connection_keepalive", "hpack_table_size", "max_outbound_frames", "max_outbound_control_frames",
	"max_consecutive_inbound_frames_with_empty_payload", "max_inbound_priority_frames_per_stream",
	"max_inbound_window_update_frames_per_data_frame_sent", "override_stream_error_on_invalid_http_message",
	"stream_error_on_invalid_http_messaging", "allow_metadata")

// The bounds that Envoy's API sets on windows, in octets.
const (
	minWindow = 65535
	maxWindow = 1<<31 - 1
)

// compileHTTP2 compiles the settings of either side's HTTP/2 connections.
func compileHTTP2(o *corev3.Http2ProtocolOptions) (h2.Config, error) {
	var cfg h2.Config
	if err := onlyFields(o, http2Fields); err != nil {
		return cfg, err
	}
	for _, w := range []struct {
		field string
		value uint32
		into  *uint32
	}{
		{"initial_stream_window_size", number(o.GetInitialStreamWindowSize(), 0), &cfg.StreamWindow},
		{"initial_connection_window_size", number(o.GetInitialConnectionWindowSize(), 0), &cfg.ConnWindow},
	} {
		if w.value != 0 && (w.value < minWindow || w.value > maxWindow) {
			return cfg, fmt.Errorf("%s: %d is not between %d and %d", w.field, w.value, minWindow, maxWindow)
		}
		*w.into = w.value
	}
	cfg.MaxStreams = number(o.GetMaxConcurrentStreams(), 0)
	cfg.Connect = o.GetAllowConnect()
	if o.GetAllowMetadata() {
		return cfg, fmt.Errorf("allow_metadata: is not supported")
	}
	ka := o.GetConnectionKeepalive()
	var err error
	if cfg.KeepaliveInterval, err = span("interval", ka.GetInterval(), 0); err != nil {
		return cfg, at("connection_keepalive", err)
	}
	if cfg.KeepaliveTimeout, err = span("timeout", ka.GetTimeout(), 0); err != nil {
		return cfg, at("connection_keepalive", err)
	}
	return cfg, nil
}
