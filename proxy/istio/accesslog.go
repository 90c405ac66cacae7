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

// stdout is where that provider writes.
const stdout = "/dev/stdout"

// accessLogs is what the Telemetry resources in force say of the access logs of a proxy.
type accessLogs struct {
	client accessLog // of outbound listeners, and of gateways
	server accessLog // of inbound ones
}

// of is the log of the listeners of a class (workloadMode of istiod's model.Telemetries).
func (a *accessLogs) of(class listenerClass) *accessLog {
	if class == classInbound {
		return &a.server
	}
	return &a.client
}

// accessLog is one of them.
type accessLog struct {
	file   string // where to write; "" is no log
	filter *accesslogv3.AccessLogFilter
}

// loggers are the access logs of a connection manager.
func (a *accessLog) loggers() []*accesslogv3.AccessLog {
	if a.file == "" {
		return nil
	}
	return []*accesslogv3.AccessLog{fileLog(a.file, a.filter)}
}

// listenerLoggers are those of a listener. They write what never became a request:
// connections for which there is no filter chain.
func (a *accessLog) listenerLoggers() []*accesslogv3.AccessLog {
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

// logEntry is an entry of a Telemetry.
type logEntry struct {
	*telemetry.AccessLogging
	level int  // the resource's place among those in force
	envoy bool // it is about the provider "envoy"
	// filter is what the expression says.
	filter *accesslogv3.AccessLogFilter
}

// newAccessLogs lays the Telemetry resources in force over each other.
func newAccessLogs(inForce []*source.Object, o *Options, rep *report) *accessLogs {
	defaults := o.mesh().GetDefaultProviders().GetAccessLogging()
	for i, name := range defaults {
		if name != providerEnvoy {
			rep.warnf(o.MeshConfig, fmt.Sprintf("defaultProviders.accessLogging[%d]", i), "there is no access log provider %q, only %q", name, providerEnvoy)
		}
	}
	all := logEntries(inForce, defaults, rep)
	byDefault := slices.Contains(defaults, providerEnvoy)
	return &accessLogs{
		client: mergeLogs(all, byDefault, telemetry.WorkloadMode_CLIENT, o.AccessLogFile),
		server: mergeLogs(all, byDefault, telemetry.WorkloadMode_SERVER, o.AccessLogFile),
	}
}

// logEntries reads the entries of all levels. One that names no provider is about those of
// the entry before it, whatever listeners that is for, and first about the mesh's own.
func logEntries(inForce []*source.Object, names []string, rep *report) (out []logEntry) {
	for level, obj := range inForce {
		for i, l := range obj.Spec.(*telemetry.Telemetry).AccessLogging {
			field := fmt.Sprintf("spec.accessLogging[%d]", i)
			if len(l.Providers) > 0 {
				names = logProviders(obj, field, l, rep)
			} else if !slices.Contains(names, providerEnvoy) {
				rep.warnf(obj, field, "names no provider, and no level above does: add providers: [{name: envoy}]")
			}
			e := logEntry{AccessLogging: l, level: level, envoy: slices.Contains(names, providerEnvoy)}
			if expr := l.GetFilter().GetExpression(); expr != "" && e.names() && !l.GetDisabled().GetValue() {
				var err error
				if e.filter, err = logFilter(expr); err != nil {
					rep.errorf(obj, field+".filter.expression", "%v", err)
				}
			}
			out = append(out, e)
		}
	}
	return out
}

// logProviders returns the providers that an entry names.
func logProviders(obj *source.Object, field string, l *telemetry.AccessLogging, rep *report) (names []string) {
	for i, p := range l.Providers {
		names = append(names, p.Name)
		if p.Name != providerEnvoy {
			rep.warnf(obj, fmt.Sprintf("%s.providers[%d].name", field, i), "there is no access log provider %q; a mesh without MeshConfig has only %q", p.Name, providerEnvoy)
		}
	}
	return names
}

// mergeLogs is the log of the listeners of one mode (mergeLogs of istiod's pilot/pkg/model).
// The last level that names providers for them leaves only those, and of the entries that
// name "envoy" the last one's filter holds for all; the last entry that is about it turns it
// on or off. Where there is none, the mesh's accessLogFile holds.
func mergeLogs(all []logEntry, byDefault bool, mode telemetry.WorkloadMode, file string) accessLog {
	inScope, level := byDefault, -1
	var filter *accesslogv3.AccessLogFilter
	for i := range all {
		e := &all[i]
		if len(e.Providers) == 0 || !e.matches(mode) {
			continue
		}
		if e.level != level {
			inScope, level = false, e.level
		}
		if e.names() {
			inScope, filter = true, e.filter
		}
	}
	out := accessLog{file: file}
	if byDefault && len(all) == 0 {
		out.file = stdout
	}
	for i := range all {
		e := &all[i]
		switch {
		case !inScope || !e.envoy || !e.matches(mode):
		case e.GetDisabled().GetValue():
			out = accessLog{}
		default:
			out = accessLog{file: stdout, filter: filter}
		}
	}
	return out
}

// names reports whether the entry itself names the provider "envoy".
func (e *logEntry) names() bool { return e.envoy && len(e.Providers) > 0 }

// matches reports whether an entry is for the listeners of a mode.
func (e *logEntry) matches(mode telemetry.WorkloadMode) bool {
	m := e.GetMatch()
	return m == nil || m.Mode == telemetry.WorkloadMode_CLIENT_AND_SERVER || m.Mode == mode
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
