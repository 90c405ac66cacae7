// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	fileaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	telemetry "istio.io/api/telemetry/v1alpha1"

	"pillion/proxy/istio/source"
)

// accessLogFormat is Istio's default text format. It is a file format: others parse it.
const accessLogFormat = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" " +
	"%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% " +
	"\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% " +
	"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" " +
	"\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% " +
	"%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% " +
	"%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"

// providerEnvoy is the one access log provider that every mesh has.
const providerEnvoy = "envoy"

// accessLogs is what the Telemetry resources in force say of the proxy's access log.
type accessLogs struct {
	file   string // where to write; "" is no log
	filter *accesslogv3.AccessLogFilter
}

// loggers are the access logs of a connection manager.
func (a *accessLogs) loggers() []*accesslogv3.AccessLog {
	if a.file == "" {
		return nil
	}
	return []*accesslogv3.AccessLog{fileLog(a.file, a.filter)}
}

// listenerLoggers are those of a listener. They write what never became a request:
// connections for which there is no filter chain.
func (a *accessLogs) listenerLoggers() []*accesslogv3.AccessLog {
	if a.file == "" {
		return nil
	}
	filter := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"NR"}},
	}}
	if a.filter != nil {
		filter = &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{
			AndFilter: &accesslogv3.AndFilter{Filters: []*accesslogv3.AccessLogFilter{filter, a.filter}},
		}}
	}
	return []*accesslogv3.AccessLog{fileLog(a.file, filter)}
}

func fileLog(path string, filter *accesslogv3.AccessLogFilter) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name:   "envoy.access_loggers.file",
		Filter: filter,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: pack(&fileaccesslogv3.FileAccessLog{
			Path: path,
			AccessLogFormat: &fileaccesslogv3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
				Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
					Specifier: &corev3.DataSource_InlineString{InlineString: accessLogFormat},
				}},
			}},
		})},
	}
}

// newAccessLogs lays the Telemetry resources in force over each other. Without any the
// mesh's accessLogFile holds.
func newAccessLogs(inForce []*source.Object, o *Options, rep *report) *accessLogs {
	out := &accessLogs{file: o.AccessLogFile}
	var applied bool
	for _, obj := range inForce {
		spec := obj.Spec.(*telemetry.Telemetry)
		for i, l := range spec.AccessLogging {
			if m := l.GetMatch().GetMode(); m == telemetry.WorkloadMode_SERVER {
				continue // inbound only; all listeners here are outbound
			}
			field := fmt.Sprintf("spec.accessLogging[%d]", i)
			if !usesEnvoyLog(obj, field, l, applied, rep) {
				continue
			}
			applied = true
			if l.GetDisabled().GetValue() {
				*out = accessLogs{}
				continue
			}
			*out = accessLogs{file: "/dev/stdout"}
			if expr := l.GetFilter().GetExpression(); expr != "" {
				filter, err := logFilter(expr)
				if err != nil {
					rep.errorf(obj, field+".filter.expression", "%v", err)
				}
				out.filter = filter
			}
		}
	}
	return out
}

// usesEnvoyLog reports whether an entry is about the provider "envoy". One that names
// no provider is about those of the levels before it.
func usesEnvoyLog(obj *source.Object, field string, l *telemetry.AccessLogging, inherited bool, rep *report) bool {
	if len(l.Providers) == 0 {
		if !inherited {
			rep.warnf(obj, field, "names no provider, and no level above does: add providers: [{name: envoy}]")
		}
		return inherited
	}
	for i, p := range l.Providers {
		if p.Name == providerEnvoy {
			return true
		}
		rep.warnf(obj, fmt.Sprintf("%s.providers[%d].name", field, i), "there is no access log provider %q; a mesh without MeshConfig has only %q", p.Name, providerEnvoy)
	}
	return false
}

// logFilter converts a filter expression. Istio's are CEL; this build knows what is
// most often written: comparisons of response.code with numbers, joined by && or by ||.
func logFilter(expression string) (*accesslogv3.AccessLogFilter, error) {
	if parts := strings.Split(expression, "||"); len(parts) > 1 {
		filters, err := logFilters(parts)
		return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{
			OrFilter: &accesslogv3.OrFilter{Filters: filters},
		}}, err
	}
	if parts := strings.Split(expression, "&&"); len(parts) > 1 {
		filters, err := logFilters(parts)
		return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{
			AndFilter: &accesslogv3.AndFilter{Filters: filters},
		}}, err
	}
	return statusFilter(strings.TrimSpace(expression))
}

func logFilters(parts []string) ([]*accesslogv3.AccessLogFilter, error) {
	var out []*accesslogv3.AccessLogFilter
	for _, p := range parts {
		f, err := logFilter(p)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// statusFilter converts one comparison. Envoy has no "less" and "greater" of its own;
// between whole numbers "at most" and "at least" say the same.
func statusFilter(comparison string) (*accesslogv3.AccessLogFilter, error) {
	unsupported := fmt.Errorf("not supported yet by this build: %q; it understands comparisons such as response.code >= 400, joined by && or ||", comparison)
	rest, ok := strings.CutPrefix(comparison, "response.code")
	if !ok {
		return nil, unsupported
	}
	rest = strings.TrimSpace(rest)
	operators := []string{">=", "<=", "==", "!=", ">", "<"}
	i := slices.IndexFunc(operators, func(op string) bool { return strings.HasPrefix(rest, op) })
	if i < 0 {
		return nil, unsupported
	}
	n, err := strconv.ParseUint(strings.TrimSpace(rest[len(operators[i]):]), 10, 31)
	if err != nil {
		return nil, unsupported
	}
	var op accesslogv3.ComparisonFilter_Op
	switch operators[i] {
	case ">":
		n++
		op = accesslogv3.ComparisonFilter_GE
	case ">=":
		op = accesslogv3.ComparisonFilter_GE
	case "<":
		if n == 0 {
			return nil, unsupported
		}
		n--
		op = accesslogv3.ComparisonFilter_LE
	case "<=":
		op = accesslogv3.ComparisonFilter_LE
	case "==":
		op = accesslogv3.ComparisonFilter_EQ
	case "!=":
		op = accesslogv3.ComparisonFilter_NE
	}
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
		StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: &accesslogv3.ComparisonFilter{
			Op: op,
			// Envoy requires a runtime key; this one is in no runtime layer.
			Value: &corev3.RuntimeUInt32{DefaultValue: uint32(n), RuntimeKey: "istio.io/unset"},
		}},
	}}, nil
}
