// SPDX-License-Identifier: Apache-2.0

package istio

const zipkinService, otelService = "service: zipkin.tracing.svc.cluster.local, port: 9411", "service: otel.tracing.svc.cluster.local, port: 4317"

// traceProviders are extension providers of all kinds that take spans.
const traceProviders = `
extensionProviders:
- {name: zipkin, zipkin: {` + zipkinService + `}}
- name: zipkin-all
  zipkin: {service: tracing/zipkin.tracing.svc.cluster.local, port: 9411, maxTagLength: 100, enable64bitTraceId: true, path: /spans, timeout: 2s,
    headers: [{name: x-key, value: secret}, {name: x-tenant, value: shop}], traceContextOption: USE_B3_WITH_W3C_PROPAGATION}
- {name: otel, opentelemetry: {` + otelService + `}}
- name: otel-grpc
  opentelemetry: {` + otelService + `, maxTagLength: 50, grpc: {timeout: 4s, initialMetadata: [{name: x-key, value: secret}]},
    resourceDetectors: {environment: {}, dynatrace: {}}}
- name: otel-http
  opentelemetry: {service: otel.tracing.svc.cluster.local, port: 4318, http: {path: /v1/traces, timeout: 5s, headers: [{name: x-key, value: secret}]}}
- {name: otel-conventions, opentelemetry: {` + otelService + `, serviceAttributeEnrichment: OTEL_SEMANTIC_CONVENTIONS, resourceDetectors: {dynatrace: {}}}}
- name: dynatrace
  opentelemetry: {service: otel.tracing.svc.cluster.local, port: 4318, http: {path: /api/v2/otlp, timeout: 5s, headers: [{name: x-key, value: secret}]},
    dynatraceSampler: {tenant: abc, clusterId: 7, rootSpansPerMinute: 100}}
- name: dynatrace-other
  opentelemetry: {` + otelService + `,
    dynatraceSampler: {tenant: abc, clusterId: 7, httpService: {service: zipkin.tracing.svc.cluster.local, port: 9411, http: {path: /sampling, timeout: 1s}}}}
- {name: gone, zipkin: {service: gone.tracing.svc.cluster.local, port: 9411}}
`

func byProvider(name string) string { return "{tracing: [{providers: [{name: " + name + "}]}]}" }

var telemetryGroups = []telemetryGroup{
	{name: "nothing", mesh: "{}", cases: []telemetryCase{
		{"no Telemetry", "", ""},
		{"no provider", "{tracing: [{randomSamplingPercentage: 50}]}", ""},
	}},
	{name: "off", mesh: "enableTracing: false" + traceProviders, cases: []telemetryCase{
		{"no Telemetry", "", ""},
		{"a Telemetry", byProvider("zipkin"), ""},
	}},
	{name: "bootstrap", mesh: `defaultConfig: {tracing: {sampling: 50, maxPathTagLength: 99, enableIstioTags: false, zipkin: {address: "zipkin.tracing:9411"},
  customTags: {a: {literal: {value: x}}, b: {header: {name: x-b, defaultValue: none}}, c: {environment: {name: C}}}}}`, cases: []telemetryCase{
		{"no Telemetry", "", ""},
	}},
	{name: "bootstrap, sampling", mesh: `defaultConfig: {tracing: {sampling: 200, zipkin: {address: "zipkin.tracing:9411"}}}`, cases: []telemetryCase{
		{"above 100", "", ""},
	}},
	{name: "providers", mesh: traceProviders, cases: []telemetryCase{
		{"zipkin", byProvider("zipkin"), ""},
		{"zipkin with all", byProvider("zipkin-all"), ""},
		{"otel", byProvider("otel"), ""},
		{"otel over gRPC", byProvider("otel-grpc"), ""},
		{"otel over HTTP", byProvider("otel-http"), ""},
		{"otel's conventions", byProvider("otel-conventions"), ""},
		{"dynatrace", byProvider("dynatrace"), ""},
		{"dynatrace elsewhere", byProvider("dynatrace-other"), ""},
		{"another case", byProvider("ZipKin"), ""},
		{"unknown", byProvider("unknown"), ""},
		{"without a service", byProvider("gone"), ""},
		{"of another kind", byProvider("prometheus"), ""},
		{"sampling 0", "{tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 0}]}", ""},
		{"sampling 100", "{tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100}]}", ""},
		{"sampling 0.25", "{tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 0.25}]}", ""},
		{"a sampler decides", "{tracing: [{providers: [{name: dynatrace}], randomSamplingPercentage: 5}]}", ""},
		{"tags", `{tracing: [{providers: [{name: zipkin}], customTags: {z: {literal: {value: v}}, a: {header: {name: x-a, defaultValue: none}},
  istio.z: {environment: {name: POD, defaultValue: none}}, f: {formatter: {value: "%REQ(x-f)%"}}}}]}`, ""},
		{"no Istio tags", "{tracing: [{providers: [{name: zipkin}], enableIstioTags: false, customTags: {a: {literal: {value: v}}}}]}", ""},
		{"no tags", "{tracing: [{providers: [{name: zipkin}], enableIstioTags: false}]}", ""},
		{"not reported", "{tracing: [{providers: [{name: zipkin}], disableSpanReporting: true}]}", ""},
		{"not by request ID", "{tracing: [{providers: [{name: zipkin}], useRequestIdForTraceSampling: false}]}", ""},
		{"not reported, not by request ID", "{tracing: [{providers: [{name: zipkin}], disableSpanReporting: true, useRequestIdForTraceSampling: false}]}", ""},
		{"not propagated", "{tracing: [{providers: [{name: zipkin}], disableContextPropagation: true}]}", ""},
		{"client", "{tracing: [{match: {mode: CLIENT}, providers: [{name: zipkin}]}]}", ""},
		{"server", "{tracing: [{match: {mode: SERVER}, providers: [{name: zipkin}], useRequestIdForTraceSampling: false}]}", ""},
		{"one for each", "{tracing: [{match: {mode: CLIENT}, providers: [{name: zipkin}]}, {match: {mode: SERVER}, providers: [{name: otel}], randomSamplingPercentage: 3}]}", ""},
		{"the second adds", "{tracing: [{providers: [{name: zipkin}]}, {match: {mode: CLIENT_AND_SERVER}, randomSamplingPercentage: 3, customTags: {a: {literal: {value: v}}}}]}", ""},
		{"two providers", "{tracing: [{providers: [{name: zipkin}, {name: otel}]}]}", ""},
		{"the workload's", byProvider("zipkin"), "{selector: {matchLabels: {app: shop}}, tracing: [{providers: [{name: otel}], randomSamplingPercentage: 7}]}"},
		{"another workload's", byProvider("zipkin"), "{selector: {matchLabels: {app: cart}}, tracing: [{providers: [{name: otel}], randomSamplingPercentage: 7}]}"},
	}},
	{name: "root", mesh: "defaultConfig: {tracing: {sampling: 20, maxPathTagLength: 77, enableIstioTags: false, customTags: {m: {literal: {value: mesh}}}}}" + traceProviders,
		root: "{tracing: [{providers: [{name: zipkin}], customTags: {r: {literal: {value: root}}}, disableContextPropagation: true}]}", cases: []telemetryCase{
			{"alone", "", ""},
			{"sampling", "{tracing: [{randomSamplingPercentage: 3}]}", ""},
			{"provider", byProvider("otel-grpc"), ""},
			{"tags", "{tracing: [{customTags: {n: {literal: {value: namespace}}}, disableContextPropagation: false}]}", ""},
			{"no tags", "{tracing: [{customTags: {}}]}", ""},
			{"off for the servers", "{tracing: [{match: {mode: SERVER}, disableSpanReporting: true}]}", ""},
			{"off, and on for the workload", "{tracing: [{disableSpanReporting: true}]}", "{selector: {matchLabels: {app: shop}}, tracing: [{disableSpanReporting: false, enableIstioTags: false}]}"},
			{"unknown provider", byProvider("unknown"), ""},
			{"without tracing", "{accessLogging: [{disabled: true}]}", ""},
		}},
	{name: "default provider", mesh: "defaultProviders: {tracing: [otel, zipkin], metrics: [prometheus]}\ndefaultConfig: {tracing: {customTags: {m: {literal: {value: mesh}}}}}" + traceProviders, cases: []telemetryCase{
		{"alone", "", ""},
		{"sampling", "{tracing: [{randomSamplingPercentage: 3}]}", ""},
		{"another", byProvider("zipkin"), ""},
		{"off", "{tracing: [{disableSpanReporting: true}]}", ""},
	}},
	{name: "metrics", mesh: "{}", cases: []telemetryCase{
		{"one is disabled", "{metrics: [{providers: [{name: prometheus}], overrides: [{match: {metric: REQUEST_SIZE}, disabled: true}]}]}", ""},
		{"not disabled", "{metrics: [{overrides: [{match: {metric: GRPC_REQUEST_MESSAGES}, disabled: false}]}]}", ""},
		{"all are disabled", "{metrics: [{overrides: [{disabled: true}]}]}", ""},
		{"all of the servers", "{metrics: [{overrides: [{match: {metric: ALL_METRICS, mode: SERVER}, disabled: true}]}]}", ""},
		{"all of the clients", "{metrics: [{overrides: [{match: {mode: CLIENT}, disabled: true}]}]}", ""},
		{"all but one", "{metrics: [{overrides: [{match: {mode: CLIENT}, disabled: true}, {match: {metric: TCP_SENT_BYTES}, disabled: false}]}]}", ""},
		{"tags of one", `{metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {method: {value: "request.method"}, response_flags: {operation: REMOVE}, a: {value: "'x'"}}}]}]}`, ""},
		{"tags of all", "{metrics: [{overrides: [{tagOverrides: {zone: {value: node.metadata.ZONE}, request_protocol: {operation: REMOVE}}}]}]}", ""},
		{"a metric of its own", "{metrics: [{overrides: [{match: {customMetric: my_metric, mode: SERVER}, tagOverrides: {a: {value: x}}}, {match: {metric: TCP_OPENED_CONNECTIONS, mode: CLIENT}, disabled: true}]}]}", ""},
		{"the later tag", "{metrics: [{overrides: [{tagOverrides: {a: {value: x}, b: {value: z}}}, {match: {metric: REQUEST_COUNT, mode: CLIENT}, tagOverrides: {a: {operation: REMOVE}}}]}]}", ""},
		{"interval", "{metrics: [{reportingInterval: 7s}]}", ""},
		{"another provider", "{metrics: [{providers: [{name: stackdriver}], overrides: [{match: {metric: REQUEST_SIZE}, disabled: true}]}]}", ""},
		{"unknown provider", "{metrics: [{providers: [{name: unknown}]}]}", ""},
		{"the workload's", "{metrics: [{providers: [{name: prometheus}], reportingInterval: 7s, overrides: [{match: {metric: REQUEST_SIZE}, disabled: true}, {match: {metric: REQUEST_COUNT}, tagOverrides: {a: {value: x}}}]}]}",
			"{selector: {matchLabels: {app: shop}}, metrics: [{overrides: [{match: {metric: REQUEST_SIZE}, disabled: false}, {match: {mode: SERVER}, tagOverrides: {b: {value: z}}}]}]}"},
		{"on again", "{metrics: [{overrides: [{disabled: true}]}]}", "{selector: {matchLabels: {app: shop}}, metrics: [{overrides: [{match: {metric: RESPONSE_SIZE, mode: CLIENT}, disabled: false}]}]}"},
	}},
	{name: "metrics of root", mesh: "extensionProviders: [{name: second, prometheus: {}}]",
		root: "{metrics: [{providers: [{name: prometheus}, {name: second}], overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {r: {value: x}}}]}]}", cases: []telemetryCase{
			{"alone", "", ""},
			{"one of them", "{metrics: [{providers: [{name: second}], reportingInterval: 9s, overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {r: {operation: REMOVE}, n: {value: z}}}]}]}", ""},
			{"none is named", "{metrics: [{overrides: [{match: {metric: REQUEST_SIZE}, disabled: true}]}]}", ""},
			{"off for one", "{metrics: [{providers: [{name: prometheus}, {name: second}]}, {providers: [{name: prometheus}], overrides: [{disabled: true}]}]}", ""},
		}},
	{name: "access logs", mesh: "accessLogFile: /var/log/mesh", cases: []telemetryCase{
		{"no Telemetry", "", ""},
		{"for all", "{accessLogging: [{providers: [{name: envoy}]}]}", ""},
		{"no mode", "{accessLogging: [{match: {}, providers: [{name: envoy}]}]}", ""},
		{"servers", "{accessLogging: [{match: {mode: SERVER}, providers: [{name: envoy}]}]}", ""},
		{"clients", "{accessLogging: [{match: {mode: CLIENT}, providers: [{name: envoy}]}]}", ""},
		{"clients and servers", "{accessLogging: [{match: {mode: CLIENT_AND_SERVER}, providers: [{name: envoy}]}]}", ""},
		{"off for servers", "{accessLogging: [{providers: [{name: envoy}]}, {match: {mode: SERVER}, disabled: true}]}", ""},
		{"off for clients alone", "{accessLogging: [{match: {mode: CLIENT}, providers: [{name: envoy}], disabled: true}]}", ""},
		{"one for each", `{accessLogging: [{match: {mode: CLIENT}, providers: [{name: envoy}], filter: {expression: "response.code >= 500"}},
  {match: {mode: SERVER}, providers: [{name: envoy}], filter: {expression: "response.code >= 400"}}]}`, ""},
		{"the last filter", `{accessLogging: [{providers: [{name: envoy}], filter: {expression: "response.code >= 500"}}, {providers: [{name: envoy}], filter: {expression: "response.code >= 400"}}]}`, ""},
		{"a filter without a provider", `{accessLogging: [{providers: [{name: envoy}], filter: {expression: "response.code >= 500"}}, {filter: {expression: "response.code >= 400"}}]}`, ""},
		{"the provider of the other mode", "{accessLogging: [{match: {mode: CLIENT}, providers: [{name: envoy}]}, {match: {mode: SERVER}}]}", ""},
		{"off for the workload's servers", "{accessLogging: [{providers: [{name: envoy}]}]}", "{selector: {matchLabels: {app: shop}}, accessLogging: [{match: {mode: SERVER}, disabled: true}]}"},
		{"on for the workload's servers", "{accessLogging: [{providers: [{name: envoy}], disabled: true}]}",
			`{selector: {matchLabels: {app: shop}}, accessLogging: [{match: {mode: SERVER}, providers: [{name: envoy}], filter: {expression: "response.code == 404"}}]}`},
		{"another provider for servers", "{accessLogging: [{providers: [{name: envoy}]}]}", "{selector: {matchLabels: {app: shop}}, accessLogging: [{match: {mode: SERVER}, providers: [{name: unknown}]}]}"},
		{"no provider", "{accessLogging: [{disabled: true}]}", ""},
		{"on and off", "{accessLogging: [{providers: [{name: envoy}]}, {providers: [{name: envoy}], disabled: true}]}", ""},
		{"off and on", "{accessLogging: [{providers: [{name: envoy}], disabled: true}, {providers: [{name: envoy}]}]}", ""},
	}},
	{name: "access logs by default", mesh: "{accessLogFile: /var/log/mesh, defaultProviders: {accessLogging: [envoy], metrics: [prometheus]}}", cases: []telemetryCase{
		{"no Telemetry", "", ""},
		{"of traces alone", "{tracing: [{randomSamplingPercentage: 50}]}", ""},
		{"off for servers", "{accessLogging: [{match: {mode: SERVER}, disabled: true}]}", ""},
		{"off for clients", "{accessLogging: [{match: {mode: CLIENT}, disabled: true}]}", ""},
		{"another provider", "{accessLogging: [{providers: [{name: unknown}]}]}", ""},
	}},
	{name: "unknown default provider", mesh: "defaultProviders: {tracing: [unknown], metrics: [prometheus]}", cases: []telemetryCase{
		{"alone", "", ""},
	}},
}
