// SPDX-License-Identifier: Apache-2.0

package istio

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	detectorsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/resource_detectors/v3"
	samplersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/samplers/v3"
	mesh "istio.io/api/mesh/v1alpha1"
)

// dynatracePath is where Dynatrace tells its samplers what to sample.
const dynatracePath = "api/v2/samplingConfiguration"

// resourceDetectors find out more about the proxy. The conventions of OpenTelemetry
// let its environment say who it is (OTEL_RESOURCE_ATTRIBUTES).
func resourceDetectors(d *mesh.MeshConfig_ExtensionProvider_ResourceDetectors, conventions bool) []*corev3.TypedExtensionConfig {
	environment := &corev3.TypedExtensionConfig{
		Name:        "envoy.tracers.opentelemetry.resource_detectors.environment",
		TypedConfig: pack(&detectorsv3.EnvironmentResourceDetectorConfig{}),
	}
	var out []*corev3.TypedExtensionConfig
	if d.GetEnvironment() != nil {
		out = append(out, environment)
	}
	if d.GetDynatrace() != nil {
		out = append(out, &corev3.TypedExtensionConfig{
			Name:        "envoy.tracers.opentelemetry.resource_detectors.dynatrace",
			TypedConfig: pack(&detectorsv3.DynatraceResourceDetectorConfig{}),
		})
	}
	if conventions && d.GetEnvironment() == nil {
		out = append(out, environment)
	}
	return out
}

// dynatraceSampler makes the sampler that asks Dynatrace, or the collector itself when
// no other service is named; nil when it was refused.
func (t *tracing) dynatraceSampler(p *mesh.MeshConfig_ExtensionProvider_OpenTelemetryTracingProvider_DynatraceSampler,
	exporter *mesh.MeshConfig_ExtensionProvider_HttpService, host, cluster, field string,
) *corev3.TypedExtensionConfig {
	from, path, at := exporter, dynatracePath, field
	if api := p.HttpService; api != nil {
		var ok bool
		if host, cluster, ok = t.collector(api.Service, api.Port, field+".httpService"); !ok {
			return nil
		}
		from, path, at = api.Http, api.GetHttp().GetPath(), field+".httpService.http"
	} else if exporter == nil {
		t.rep.errorf(t.o.MeshConfig, field+".httpService", "is required: the sampler asks over HTTP, and spans are sent over gRPC")
		return nil
	}
	uri, ok := t.uri(host, path, at+".path")
	if !ok || !t.soundTimeout(from.GetTimeout(), at) {
		return nil
	}
	return &corev3.TypedExtensionConfig{
		Name: "envoy.tracers.opentelemetry.samplers.dynatrace",
		TypedConfig: pack(&samplersv3.DynatraceSamplerConfig{
			Tenant:             p.Tenant,
			ClusterId:          p.ClusterId,
			RootSpansPerMinute: p.RootSpansPerMinute,
			HttpService: &corev3.HttpService{
				HttpUri:             httpURI(uri, cluster, from.GetTimeout(), otlpTimeout),
				RequestHeadersToAdd: headerOptions(t.headers(from.GetHeaders(), at+".headers")),
			},
		}),
	}
}
