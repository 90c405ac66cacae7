// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"fmt"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"

	"pillion/proxy/http"
)

// Filter chooses the exchanges that are logged. Immutable.
type Filter struct {
	kind     filterKind
	compare  accesslogv3.ComparisonFilter_Op
	than     int64
	flags    http.Flags // of filterFlags; 0: any flag
	children []*Filter
}

type filterKind uint8

const (
	filterAll filterKind = iota
	filterStatus
	filterDuration
	filterFlags
	filterAnd
	filterOr
)

// ParseFilter compiles a filter; nil gives nil, which passes all. A kind that
// is not understood is an error: to log what was to be left out may cost
// much, and to leave out what was to be logged may cost more.
func ParseFilter(cfg *accesslogv3.AccessLogFilter) (*Filter, error) {
	if cfg == nil {
		return nil, nil
	}
	switch f := cfg.GetFilterSpecifier().(type) {
	case *accesslogv3.AccessLogFilter_StatusCodeFilter:
		return comparison("status_code_filter", filterStatus, f.StatusCodeFilter.GetComparison())
	case *accesslogv3.AccessLogFilter_DurationFilter:
		return comparison("duration_filter", filterDuration, f.DurationFilter.GetComparison())
	case *accesslogv3.AccessLogFilter_NotHealthCheckFilter:
		return &Filter{kind: filterAll}, nil // no request is known to be a health check
	case *accesslogv3.AccessLogFilter_ResponseFlagFilter:
		return flagFilter(f.ResponseFlagFilter.GetFlags())
	case *accesslogv3.AccessLogFilter_AndFilter:
		return combination("and_filter", filterAnd, f.AndFilter.GetFilters())
	case *accesslogv3.AccessLogFilter_OrFilter:
		return combination("or_filter", filterOr, f.OrFilter.GetFilters())
	}
	return nil, fmt.Errorf("%T is not supported; status_code_filter, duration_filter, response_flag_filter, and_filter and or_filter are",
		cfg.GetFilterSpecifier())
}

func comparison(field string, kind filterKind, c *accesslogv3.ComparisonFilter) (*Filter, error) {
	if _, ok := accesslogv3.ComparisonFilter_Op_name[int32(c.GetOp())]; !ok || c == nil {
		return nil, fmt.Errorf("%s.comparison: must have an op and a value", field)
	}
	return &Filter{kind: kind, compare: c.GetOp(), than: int64(c.GetValue().GetDefaultValue())}, nil
}

func flagFilter(names []string) (*Filter, error) {
	f := &Filter{kind: filterFlags}
	for i, name := range names {
		flag, ok := flagNamed(name)
		if !ok {
			return nil, fmt.Errorf("response_flag_filter.flags[%d]: %q is no response flag", i, name)
		}
		f.flags |= flag
	}
	return f, nil
}

func flagNamed(name string) (http.Flags, bool) {
	for i := range longFlags {
		if longFlags[i].flag.String() == name {
			return longFlags[i].flag, true
		}
	}
	return 0, false
}

func combination(field string, kind filterKind, list []*accesslogv3.AccessLogFilter) (*Filter, error) {
	f := &Filter{kind: kind}
	for i, cfg := range list {
		child, err := ParseFilter(cfg)
		if err != nil {
			return nil, fmt.Errorf("%s.filters[%d]: %w", field, i, err)
		}
		f.children = append(f.children, child)
	}
	return f, nil
}

// pass reports whether ex is to be logged.
func (f *Filter) pass(ex *http.Exchange) bool {
	switch f.kind {
	case filterStatus:
		return f.holds(int64(ex.Resp.Status))
	case filterDuration:
		ms, ok := spanTotal.of(ex)
		return ok && f.holds(ms)
	case filterFlags:
		return ex.Flags&f.flags != 0 || f.flags == 0 && ex.Flags != 0
	case filterAnd:
		for _, c := range f.children {
			if !c.pass(ex) {
				return false
			}
		}
	case filterOr:
		for _, c := range f.children {
			if c.pass(ex) {
				return true
			}
		}
		return false
	}
	return true
}

func (f *Filter) holds(n int64) bool {
	switch f.compare {
	case accesslogv3.ComparisonFilter_EQ:
		return n == f.than
	case accesslogv3.ComparisonFilter_GE:
		return n >= f.than
	case accesslogv3.ComparisonFilter_LE:
		return n <= f.than
	}
	return n != f.than
}
