// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 split_spans_for_request is still set

package config

import (
	"os"

	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"pillion/proxy/trace"
	"pillion/proxy/trace/otlp"
	"pillion/proxy/trace/zipkin"
)

const (
	otelType   = "envoy.config.trace.v3.OpenTelemetryConfig"
	zipkinType = "envoy.config.trace.v3.ZipkinConfig"
)

// tracer sets what follows from who collects the spans.
func (c *Compiler) tracer(s *Snapshot, out *trace.Config, p *tracev3.Tracing_Http) error {
	switch typ := messageType(p.GetTypedConfig()); typ {
	case "":
		return nil
	case otelType:
		return c.openTelemetry(s, out, p.GetTypedConfig())
	case zipkinType:
		return c.zipkin(out, p.GetTypedConfig())
	default:
		s.warnOnce("tracing: " + typ + " is not supported, no spans are sent")
		return nil
	}
}

// reporter returns the reporter of a collector, one for all that are configured alike
// while the proxy's name is the same.
func (c *Compiler) reporter(typed *anypb.Any, counts *trace.Counts, most uint32, collector trace.Collector) *trace.Reporter {
	key := typed.GetTypeUrl() + "\x00" + c.service + "\x00" + string(typed.GetValue())
	return c.env.Reporters.Get(key, counts, int(most), collector)
}

var otelFields = fieldSet("grpc_service", "http_service", "exporter", "service_name", "resource_detectors", "sampler", "max_cache_size",
	"set_telemetry_sdk_resource_attributes", "set_service_name_resource_attribute", "set_instrumentation_scope")

func (c *Compiler) openTelemetry(s *Snapshot, out *trace.Config, typed *anypb.Any) error {
	cfg := &tracev3.OpenTelemetryConfig{}
	if err := unmarshalAs(typed, cfg, otelType); err != nil {
		return err
	}
	if err := onlyFields(cfg, otelFields); err != nil {
		return err
	}
	collector, err := otlp.New(cfg, &otlp.Env{
		GRPC: c.grpcService, HTTP: c.httpService, Version: c.env.Version, Getenv: os.Getenv,
		Warn: func(text string) { s.warnOnce("tracing: " + text) },
	})
	if err != nil {
		return err
	}
	out.Propagation, out.Always = trace.W3C, collector.Sampler() == otlp.AlwaysOn
	out.Spans = c.reporter(typed, &c.env.Reporters.OpenTelemetry, cfg.GetMaxCacheSize().GetValue(), collector)
	return nil
}

var zipkinFields = fieldSet("collector_cluster", "collector_endpoint", "trace_id_128bit", "shared_span_context", "collector_endpoint_version",
	"collector_hostname", "split_spans_for_request", "trace_context_option", "collector_service")

func (c *Compiler) zipkin(out *trace.Config, typed *anypb.Any) error {
	cfg := &tracev3.ZipkinConfig{}
	if err := unmarshalAs(typed, cfg, zipkinType); err != nil {
		return err
	}
	if err := onlyFields(cfg, zipkinFields); err != nil {
		return err
	}
	collector, err := zipkin.New(cfg, &zipkin.Env{Client: c.client, HTTP: c.httpService, Service: c.service})
	if err != nil {
		return err
	}
	out.Propagation, out.Zipkin, out.ShortIDs = trace.B3, true, !cfg.GetTraceId_128Bit()
	if cfg.GetTraceContextOption() == tracev3.ZipkinConfig_USE_B3_WITH_W3C_PROPAGATION {
		out.Propagation |= trace.W3C
	}
	out.SharedSpans = unlessFalse(cfg.GetSharedSpanContext())
	out.Upstream = out.Upstream || cfg.GetSplitSpansForRequest()
	out.Spans = c.reporter(typed, &c.env.Reporters.Zipkin, 0, collector)
	return nil
}
