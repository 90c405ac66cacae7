// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 istiod and its users still set deprecated fields

package config

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"pillion/proxy/router"
)

// headerLevel is a message that has header operations: a route configuration,
// a virtual host, a route or a weighted cluster.
type headerLevel interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

func compileOps(at *place, l headerLevel) (ops router.MessageOps, err error) {
	ops.Request, err = headerOps(at, "request_headers_to_", l.GetRequestHeadersToAdd(), l.GetRequestHeadersToRemove())
	if err == nil {
		ops.Response, err = headerOps(at, "response_headers_to_", l.GetResponseHeadersToAdd(), l.GetResponseHeadersToRemove())
	}
	return ops, err
}

func headerOps(at *place, prefix string, add []*corev3.HeaderValueOption, remove []string) (*router.HeaderOps, error) {
	if len(add) == 0 && len(remove) == 0 {
		return nil, nil
	}
	ops := &router.HeaderOps{}
	for i, name := range remove {
		if err := ops.Remove(name); err != nil {
			return nil, at.item(prefix+"remove", i).errorf("%w", err)
		}
	}
	for i, o := range add {
		if err := addHeader(ops, at.item(prefix+"add", i), o); err != nil {
			return nil, err
		}
	}
	return ops, nil
}

func addHeader(ops *router.HeaderOps, at *place, o *corev3.HeaderValueOption) error {
	action, ok := headerAction(o)
	if !ok {
		return at.in("append_action").errorf("can't be combined with append")
	}
	h := o.GetHeader()
	value := h.GetValue()
	if raw := h.GetRawValue(); len(raw) > 0 {
		if value != "" {
			return at.in("header").in("raw_value").errorf("can't be combined with value")
		}
		value = string(raw)
	}
	if err := ops.Set(h.GetKey(), value, action, o.GetKeepEmptyValue()); err != nil {
		return at.in("header").errorf("%s: %w", h.GetKey(), err)
	}
	return nil
}

// headerAction reads the new field or the old one; false when both are set.
func headerAction(o *corev3.HeaderValueOption) (router.HeaderAction, bool) {
	if old := o.GetAppend(); old != nil {
		if old.GetValue() {
			return router.AppendOrAdd, o.GetAppendAction() == 0
		}
		return router.OverwriteOrAdd, o.GetAppendAction() == 0
	}
	switch o.GetAppendAction() {
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		return router.AddIfAbsent, true
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
		return router.OverwriteOrAdd, true
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		return router.OverwriteIfExists, true
	}
	return router.AppendOrAdd, true
}
