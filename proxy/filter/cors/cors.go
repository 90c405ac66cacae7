// SPDX-License-Identifier: Apache-2.0

// Package cors is the filter envoy.filters.http.cors: it answers the
// preflight requests of browsers (Fetch standard, section 3.2) by a route's
// policy, and marks responses that other origins may read.
package cors

import (
	"fmt"

	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// Matcher matches an origin.
type Matcher interface{ Match(b []byte) bool }

// Any matches every origin: what the exact origin "*" stands for.
type Any struct{}

// Match returns true.
func (Any) Match([]byte) bool { return true }

// Filter applies one policy. Immutable.
type Filter struct {
	origins     []Matcher
	credentials bool
	preflight   []http.Field // of an answer to a preflight, after the origin
	expose      []byte
	// forwardOthers sends preflights of other origins to the upstream instead
	// of answering them without permission.
	forwardOthers bool
}

// The names of fields that are not numbered.
const (
	nameOrigin      = "access-control-allow-origin"
	nameMethods     = "access-control-allow-methods"
	nameHeaders     = "access-control-allow-headers"
	nameMaxAge      = "access-control-max-age"
	nameExpose      = "access-control-expose-headers"
	nameCredentials = "access-control-allow-credentials"
	nameRequest     = "access-control-request-method"
)

// New compiles a policy with its compiled origins. It returns nil for one
// that is turned off. Errors name the field.
func New(cfg *corsv3.CorsPolicy, origins []Matcher) (*Filter, error) {
	if err := supported(cfg); err != nil {
		return nil, err
	}
	if fe := cfg.GetFilterEnabled(); fe != nil && fe.GetDefaultValue().GetNumerator() == 0 {
		return nil, nil
	}
	f := &Filter{origins: origins, credentials: cfg.GetAllowCredentials().GetValue(), forwardOthers: true}
	if v := cfg.GetForwardNotMatchingPreflights(); v != nil {
		f.forwardOthers = v.GetValue()
	}
	for _, kv := range [][2]string{
		{nameMethods, cfg.GetAllowMethods()}, {nameHeaders, cfg.GetAllowHeaders()}, {nameMaxAge, cfg.GetMaxAge()},
	} {
		if kv[1] != "" {
			f.preflight = append(f.preflight, http.Field{Name: []byte(kv[0]), Value: []byte(kv[1])})
		}
	}
	if v := cfg.GetExposeHeaders(); v != "" {
		f.expose = []byte(v)
	}
	return f, nil
}

func supported(cfg *corsv3.CorsPolicy) (err error) {
	cfg.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		switch fd.Name() {
		case "allow_origin_string_match", "allow_methods", "allow_headers", "expose_headers", "max_age",
			"allow_credentials", "filter_enabled", "forward_not_matching_preflights":
			return true
		}
		err = fmt.Errorf("%s: is not supported", fd.Name())
		return false
	})
	return err
}

// origin returns the request's origin if the policy allows it.
func (f *Filter) origin(ex *http.Exchange) ([]byte, bool) {
	o, ok := ex.Req.Fields.Get(http.HeaderOrigin)
	if !ok || len(o) == 0 {
		return nil, false
	}
	for _, m := range f.origins {
		if m.Match(o) {
			return o, true
		}
	}
	return nil, false
}

// isPreflight reports whether a browser asks what it may send.
func isPreflight(ex *http.Exchange) bool {
	if ex.Req.Method != http.MethodOptions || !ex.Req.Fields.Has(http.HeaderOrigin) {
		return false
	}
	v, ok := ex.Req.Fields.Lookup(http.HeaderOther, []byte(nameRequest))
	return ok && len(v) > 0
}

// preflightReply marks the local reply to a preflight, which OnResponse
// leaves as it is.
var preflightReply = &http.Error{Side: http.SideLocal, Kind: http.KindDirect, Status: 200, Detail: "cors_response"}

// OnRequest answers preflights.
func (f *Filter) OnRequest(ex *http.Exchange) filter.Status {
	if !isPreflight(ex) {
		return filter.Continue
	}
	o, ok := f.origin(ex)
	if !ok && f.forwardOthers {
		return filter.Continue
	}
	ex.LocalReply = http.LocalReply{Status: 200, Err: preflightReply, Bare: true}
	if ok {
		ex.LocalReply.Headers = f.permission(o)
	}
	return filter.Reply
}

// permission are the fields that let a browser go on.
func (f *Filter) permission(origin []byte) []http.Field {
	out := make([]http.Field, 0, len(f.preflight)+2)
	out = append(out, http.Field{Name: []byte(nameOrigin), Value: origin})
	if f.credentials {
		out = append(out, http.Field{Name: []byte(nameCredentials), Value: []byte("true")})
	}
	return append(out, f.preflight...)
}

// OnResponse marks the response for the origin that asked.
func (f *Filter) OnResponse(ex *http.Exchange) {
	if ex.LocalReply.Err == preflightReply {
		return
	}
	o, ok := f.origin(ex)
	if !ok {
		return
	}
	set := func(name string, value []byte) { ex.Resp.Fields.Set(http.HeaderOther, []byte(name), value) }
	set(nameOrigin, o)
	if f.credentials {
		set(nameCredentials, []byte("true"))
	}
	if f.expose != nil {
		set(nameExpose, f.expose)
	}
}
