// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	fileaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
)

func telemetryYAML(namespace, name, spec string) string {
	return "\n---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec: " + spec + "\n"
}

// TestAccessLog: who turns the log on and off.
func TestAccessLog(t *testing.T) {
	const on, off = "{accessLogging: [{providers: [{name: envoy}]}]}", "{accessLogging: [{disabled: true}]}"
	shop := map[string]string{"app": "shop"}
	for _, c := range []struct {
		name, yaml string
		o          Options
		file       string
	}{
		{"no one", "", Options{}, ""},
		{"the mesh", "", Options{AccessLogFile: "/var/log/mesh"}, "/var/log/mesh"},
		{"root namespace", telemetryYAML("istio-system", "a", on), Options{}, "/dev/stdout"},
		{"own namespace", telemetryYAML("default", "a", on), Options{}, "/dev/stdout"},
		{"another namespace", telemetryYAML("other", "a", on), Options{}, ""},
		{"off in the namespace", telemetryYAML("default", "a", off) + telemetryYAML("istio-system", "b", on), Options{}, ""},
		{"off with a provider", telemetryYAML("istio-system", "a", on) +
			telemetryYAML("default", "b", "{accessLogging: [{providers: [{name: envoy}], disabled: true}]}"), Options{}, ""},
		{"workload", telemetryYAML("default", "a", "{selector: {matchLabels: {app: shop}}, accessLogging: [{providers: [{name: envoy}]}]}"), Options{Labels: shop}, "/dev/stdout"},
		{"other workload", telemetryYAML("default", "a", "{selector: {matchLabels: {app: cart}}, accessLogging: [{providers: [{name: envoy}]}]}"), Options{Labels: shop}, ""},
		{"on again for a workload", telemetryYAML("istio-system", "a", on) + telemetryYAML("default", "b", off) +
			telemetryYAML("default", "c", "{selector: {matchLabels: {app: shop}}, accessLogging: [{providers: [{name: envoy}]}]}"), Options{Labels: shop}, "/dev/stdout"},
		{"inbound only", telemetryYAML("istio-system", "a", "{accessLogging: [{match: {mode: SERVER}, providers: [{name: envoy}]}]}"), Options{}, ""},
		{"outbound only", telemetryYAML("istio-system", "a", "{accessLogging: [{match: {mode: CLIENT}, providers: [{name: envoy}]}]}"), Options{}, "/dev/stdout"},
		{"the first of the root namespace", telemetryYAML("istio-system", "a", on) + telemetryYAML("istio-system", "b", off), Options{Namespace: "istio-system"}, "/dev/stdout"},
		{"the first of a namespace", telemetryYAML("default", "a", on) + telemetryYAML("default", "b", off), Options{}, "/dev/stdout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := translate(t, c.yaml, c.o)
			logs := managerOf(t, r.Listeners[0]).AccessLog
			if c.file == "" {
				if len(logs) != 0 {
					t.Errorf("there is a log: %v", logs)
				}
				return
			}
			if len(logs) != 1 {
				t.Fatalf("%d logs", len(logs))
			}
			file := &fileaccesslogv3.FileAccessLog{}
			if err := logs[0].GetTypedConfig().UnmarshalTo(file); err != nil {
				t.Fatal(err)
			}
			if file.Path != c.file {
				t.Errorf("to %s", file.Path)
			}
			format := file.GetLogFormat().GetTextFormatSource().GetInlineString()
			if !strings.HasPrefix(format, `[%START_TIME%] "%REQ(:METHOD)%`) || !strings.HasSuffix(format, "%ROUTE_NAME%\n") {
				t.Errorf("format %q", format)
			}
		})
	}
}

// TestTelemetryProblems: what has no effect is named.
func TestTelemetryProblems(t *testing.T) {
	yaml := telemetryYAML("istio-system", "a", `{accessLogging: [{providers: [{name: loki}]}], tracing: [{providers: [{name: zipkin}]}],
  metrics: [{providers: [{name: prometheus}, {name: stackdriver}], overrides: [{match: {metric: REQUEST_COUNT}, disabled: true}]}]}`) +
		telemetryYAML("default", "b", "{accessLogging: [{disabled: true}]}")
	_, problems := translate(t, yaml, Options{})
	wantProblem(t, problems, true, "istio-system/a", "spec.accessLogging[0].providers[0].name", `"loki"`)
	wantProblem(t, problems, true, "istio-system/a", "spec.tracing[0].providers[0].name", "there is no MeshConfig")
	wantProblem(t, problems, true, "istio-system/a", "spec.metrics[0].providers[1].name", "stackdriver is another provider")
	wantProblem(t, problems, true, "default/b", "spec.accessLogging[0]", "names no provider")
	_, problems = translate(t, telemetryYAML("istio-system", "a", "{metrics: [{providers: [{name: prometheus}]}]}"), Options{})
	noProblems(t, problems)

	r, problems := Translate(load(t, telemetryYAML("default", "a", `{accessLogging: [{providers: [{name: envoy}], filter: {expression: "request.path == '/x'"}}]}`)), Options{})
	if r != nil {
		t.Error("a filter that isn't understood is left out")
	}
	wantProblem(t, problems, false, "spec.accessLogging[0].filter.expression", "not supported yet by this build")
}

func TestLogFilter(t *testing.T) {
	type op = accesslogv3.ComparisonFilter_Op
	const (
		ge, le = accesslogv3.ComparisonFilter_GE, accesslogv3.ComparisonFilter_LE
		eq, ne = accesslogv3.ComparisonFilter_EQ, accesslogv3.ComparisonFilter_NE
	)
	for expr, want := range map[string]struct {
		op op
		n  uint32
	}{
		"response.code >= 400":   {ge, 400},
		"response.code > 399":    {ge, 400},
		"response.code<=200":     {le, 200},
		" response.code < 201 ":  {le, 200},
		"response.code == 503":   {eq, 503},
		"response.code  !=  200": {ne, 200},
	} {
		f, err := logFilter(expr)
		if err != nil {
			t.Errorf("%q: %v", expr, err)
			continue
		}
		c := f.GetStatusCodeFilter().GetComparison()
		if c.GetOp() != want.op || c.GetValue().GetDefaultValue() != want.n {
			t.Errorf("%q is %v %d", expr, c.GetOp(), c.GetValue().GetDefaultValue())
		}
	}
	// && binds closer than ||, as in CEL.
	f, err := logFilter("response.code == 404 || response.code >= 500 && response.code != 503")
	if err != nil {
		t.Fatal(err)
	}
	or := f.GetOrFilter().GetFilters()
	if len(or) != 2 || or[0].GetStatusCodeFilter() == nil || len(or[1].GetAndFilter().GetFilters()) != 2 {
		t.Errorf("precedence: %v", f)
	}
	for _, expr := range []string{
		"", "response.code", "response.code >= ", "response.code >= x", "response.code >= -1", "response.code < 0",
		"request.code >= 400", "400 <= response.code", "response.code >= 400 ||", "!(response.code == 200)", "response.code = 200",
		"response.code >= 99999999999", "response.code >= 400 && request.path == '/a'",
	} {
		if f, err := logFilter(expr); err == nil {
			t.Errorf("%q is understood as %v", expr, f)
		}
	}
}

func FuzzLogFilter(f *testing.F) {
	for _, seed := range []string{"response.code >= 400", "response.code == 404 || response.code > 499 && response.code != 503", "||", "&&", "response.code<"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		filter, err := logFilter(expr)
		if err != nil {
			return
		}
		if err := filter.ValidateAll(); err != nil {
			t.Errorf("%q makes a filter that Envoy refuses: %v", expr, err)
		}
	})
}
