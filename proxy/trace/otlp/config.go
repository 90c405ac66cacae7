// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	detectorsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/resource_detectors/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"pillion/proxy/filter"
)

// Env is what a Collector is built with.
type Env struct {
	// Version is the program's.
	Version string
	// Getenv looks up a variable of the environment.
	Getenv func(name string) string
	// GRPC and HTTP read what configuration says of a service. unsaid is the timeout where
	// it says none.
	GRPC func(s *corev3.GrpcService, unsaid time.Duration) (*filter.GRPCService, error)
	HTTP func(*corev3.HttpService) (*filter.HTTPService, error)
	// Warn hears of what is left out, because it only makes spans say less.
	Warn func(text string)
}

// Name is what the library that makes the spans is called.
const Name = "pillion"

// The types of extensions that are known.
const (
	environmentType = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig"
	staticType      = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig"
	alwaysOnType    = "envoy.extensions.tracers.opentelemetry.samplers.v3.AlwaysOnSamplerConfig"
)

// New compiles the configuration. An error names the field.
func New(cfg *tracev3.OpenTelemetryConfig, env *Env) (*Collector, error) {
	c := &Collector{}
	var err error
	switch grpc, web := cfg.GetGrpcService(), cfg.GetHttpService(); {
	case cfg.GetExporter() != nil:
		return nil, errors.New("exporter: is not supported, only grpc_service and http_service")
	case grpc != nil && web != nil:
		return nil, errors.New("http_service: can't be combined with grpc_service")
	case grpc != nil:
		if c.grpc, err = env.GRPC(grpc, defaultTimeout); err != nil {
			err = fmt.Errorf("grpc_service.%w", err)
		}
	case web != nil:
		if c.http, err = env.HTTP(web); err != nil {
			err = fmt.Errorf("http_service.%w", err)
		} else if c.http.Timeout == 0 {
			c.http.Timeout = defaultTimeout
		}
	default:
		return nil, errors.New("grpc_service: is needed, or http_service")
	}
	if err != nil {
		return nil, err
	}
	resource, err := resourceOf(cfg, env)
	if err != nil {
		return nil, err
	}
	scope := ""
	if set(cfg.GetSetInstrumentationScope()) {
		scope = Name
	}
	c.preamble = newPreamble(resource, scope, env.Version)
	if s := cfg.GetSampler(); s != nil {
		if typ := typeOf(s); typ == alwaysOnType {
			c.sampler = AlwaysOn
		} else {
			env.Warn("sampler: " + typ + " is not supported, the connection manager's shares decide")
		}
	}
	return c, nil
}

// set is the value of a switch that is on where nothing is said.
func set(v *wrapperspb.BoolValue) bool { return v == nil || v.GetValue() }

func typeOf(e *corev3.TypedExtensionConfig) string {
	url := e.GetTypedConfig().GetTypeUrl()
	return url[strings.LastIndexByte(url, '/')+1:]
}

// resourceOf is what all spans have in common: who makes them. What detectors find goes
// before what the proxy says of itself, and each before those that stand before it.
func resourceOf(cfg *tracev3.OpenTelemetryConfig, env *Env) ([]attribute, error) {
	all := map[string]string{}
	if set(cfg.GetSetServiceNameResourceAttribute()) {
		all["service.name"] = "unknown_service:" + Name
		if cfg.GetServiceName() != "" {
			all["service.name"] = cfg.GetServiceName()
		}
	}
	if set(cfg.GetSetTelemetrySdkResourceAttributes()) {
		all["telemetry.sdk.language"], all["telemetry.sdk.name"], all["telemetry.sdk.version"] = "go", Name, env.Version
	}
	for i, d := range cfg.GetResourceDetectors() {
		switch typ := typeOf(d); typ {
		case environmentType:
			maps.Copy(all, fromEnvironment(env.Getenv("OTEL_RESOURCE_ATTRIBUTES")))
		case staticType:
			m := &detectorsv3.StaticConfigResourceDetectorConfig{}
			if err := d.GetTypedConfig().UnmarshalTo(m); err != nil {
				return nil, fmt.Errorf("resource_detectors[%d].typed_config: %w", i, err)
			}
			maps.Copy(all, m.GetAttributes())
		default:
			env.Warn(fmt.Sprintf("resource_detectors[%d]: %s is not supported, spans don't have its attributes", i, typ))
		}
	}
	var out []attribute
	for _, key := range slices.Sorted(maps.Keys(all)) {
		out = append(out, attribute{key, strings.ToValidUTF8(all[key], "\uFFFD")})
	}
	return out, nil
}

// fromEnvironment reads OTEL_RESOURCE_ATTRIBUTES: key=value,key=value, with what would
// be misread percent-encoded (https://opentelemetry.io/docs/specs/otel/resource/sdk/).
// A pair that is none is left out.
func fromEnvironment(text string) map[string]string {
	out := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		if key, value, ok := strings.Cut(pair, "="); ok && strings.TrimSpace(key) != "" {
			value = strings.TrimSpace(value)
			if plain, err := url.PathUnescape(value); err == nil {
				value = plain
			}
			out[strings.TrimSpace(key)] = value
		}
	}
	return out
}
