// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"os"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	tagsv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"pillion/proxy/accesslog"
	"pillion/proxy/http"
	"pillion/proxy/match"
	"pillion/proxy/router"
	"pillion/proxy/trace"
)

// Fields of the messages about tracing that mean something here.
var (
	tracingFields = fieldSet("client_sampling", "random_sampling", "overall_sampling", "verbose", "max_path_tag_length", "custom_tags",
		"provider", "spawn_upstream_span", "operation", "upstream_operation", "no_context_propagation")
	routeTracingFields = fieldSet("client_sampling", "random_sampling", "overall_sampling", "custom_tags", "operation", "upstream_operation")
)

// defaultMaxPathTag bounds the path in http.url (Envoy: DefaultMaxPathTagLength).
const defaultMaxPathTag = 256

// tracing compiles what a connection manager says of tracing; nil where nobody collects
// spans. Envoy then still tells others the names of routes, and marks request IDs with
// decisions: nobody would make use of either.
func (c *Compiler) tracing(s *Snapshot, m *hcmv3.HttpConnectionManager, d http.Direction) (*trace.Config, error) {
	t := m.GetTracing()
	if t == nil {
		return nil, nil
	}
	if err := onlyFields(t, tracingFields); err != nil {
		return nil, err
	}
	out := &trace.Config{
		Sampling: trace.Sampling{Client: shareOf(t.GetClientSampling()), Random: shareOf(t.GetRandomSampling()), Overall: shareOf(t.GetOverallSampling())},
		Silent:   t.GetNoContextPropagation(),
		Ingress:  d == http.Inbound,
		Upstream: t.GetSpawnUpstreamSpan().GetValue(),
		Verbose:  t.GetVerbose(),
		MaxPath:  defaultMaxPathTag,
		Node:     []byte(c.env.Node.ID),
		Zone:     []byte(c.env.Node.Zone),
	}
	if n := t.GetMaxPathTagLength(); n != nil {
		out.MaxPath = int(n.GetValue())
	}
	id, err := requestID(m)
	if err != nil {
		return nil, err
	}
	out.NotPacked = !unlessFalse(id.GetPackTraceReason())
	out.NotByRequestID = !unlessFalse(id.GetUseRequestIdForTraceSampling())
	if out.Tags, err = customTags(s.warnOnce, t.GetCustomTags()); err != nil {
		return nil, err
	}
	if out.Operation, err = operationName("operation", t.GetOperation()); err != nil {
		return nil, err
	}
	if out.UpstreamOperation, err = operationName("upstream_operation", t.GetUpstreamOperation()); err != nil {
		return nil, err
	}
	if err := c.tracer(s, out, cmp.Or(t.GetProvider(), c.env.Tracer)); err != nil {
		return nil, at("provider.typed_config", err)
	}
	if out.Spans == nil {
		return nil, nil
	}
	return out, nil
}

// shareOf is a share in hundredths of a percent, as Envoy reckons; all without one.
func shareOf(p *typev3.Percent) match.Fraction {
	if p == nil {
		return match.Fraction{}
	}
	return match.Fraction{Numerator: uint32(min(max(p.GetValue(), 0), 100) * 100), Denominator: 10_000}
}

// shareOfRoute is the share of a route; nil without one.
func shareOfRoute(p *typev3.FractionalPercent) *match.Fraction {
	if p == nil {
		return nil
	}
	f := fractionOf(p)
	return &f
}

// operationName compiles the name of spans; nil without one.
func operationName(field, format string) (trace.Value, error) {
	if format == "" {
		return nil, nil
	}
	t, err := accesslog.ParseText(format)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return t, nil
}

// customTags compiles tags. warn hears of those that have no value here.
func customTags(warn func(string), tags []*tagsv3.CustomTag) (out []trace.Tag, err error) {
	for i, t := range tags {
		v, err := tagValue(warn, t)
		if err == nil && t.GetTag() == "" {
			err = fmt.Errorf("tag: is needed")
		}
		if err != nil {
			return nil, fmt.Errorf("custom_tags[%d].%w", i, err)
		}
		if v != nil {
			out = append(out, trace.Tag{Key: t.GetTag(), Value: v})
		}
	}
	return out, nil
}

// tagValue compiles the value of a tag; nil for one that is never there.
func tagValue(warn func(string), t *tagsv3.CustomTag) (trace.Value, error) {
	switch v := t.GetType().(type) {
	case *tagsv3.CustomTag_Literal_:
		return literalTag(v.Literal.GetValue()), nil
	case *tagsv3.CustomTag_Environment_:
		if v.Environment.GetName() == "" {
			return nil, fmt.Errorf("environment.name: is needed")
		}
		value, ok := os.LookupEnv(v.Environment.GetName())
		if !ok {
			value = v.Environment.GetDefaultValue()
		}
		return literalTag(value), nil
	case *tagsv3.CustomTag_RequestHeader:
		name := []byte(v.RequestHeader.GetName())
		if len(name) == 0 {
			return nil, fmt.Errorf("request_header.name: is needed")
		}
		return &headerTag{id: http.LookupHeader(name), name: name, def: v.RequestHeader.GetDefaultValue()}, nil
	case *tagsv3.CustomTag_Metadata_:
		return metadataTagOf(warn, t.GetTag(), v.Metadata)
	case *tagsv3.CustomTag_Value:
		text, err := accesslog.ParseText(v.Value)
		if err != nil {
			return nil, fmt.Errorf("value: %w", err)
		}
		return text, nil
	}
	return nil, fmt.Errorf("type: one is needed")
}

// literalTag is a fixed value. An empty one is none, as with Envoy.
type literalTag string

func (l literalTag) Append(dst []byte, _ *http.Exchange) ([]byte, bool) {
	return append(dst, l...), l != ""
}

// headerTag is the value of a request's field.
type headerTag struct {
	id   http.HeaderID
	name []byte
	def  string
}

func (h *headerTag) Append(dst []byte, ex *http.Exchange) ([]byte, bool) {
	if v, ok := ex.Req.Fields.Lookup(h.id, h.name); ok {
		return append(dst, v...), true
	}
	return append(dst, h.def...), h.def != ""
}

// metadataTag is what a filter has found out.
type metadataTag struct {
	path *http.MetadataPath
	def  string
}

func (m *metadataTag) Append(dst []byte, ex *http.Exchange) ([]byte, bool) {
	if out, ok := m.path.Append(dst, &ex.Metadata); ok {
		return out, true
	}
	return append(dst, m.def...), m.def != ""
}

func metadataTagOf(warn func(string), tag string, m *tagsv3.CustomTag_Metadata) (trace.Value, error) {
	if m.GetMetadataKey().GetKey() == "" {
		return nil, fmt.Errorf("metadata.metadata_key.key: is needed")
	}
	if kind := m.GetKind(); kind.GetRequest() == nil && kind.GetKind() != nil {
		warn(fmt.Sprintf("tracing: the tag %s is of metadata of %s, which isn't kept; it has its default value", tag, metadataKind(kind)))
		return literalTag(m.GetDefaultValue()), nil
	}
	var keys []string
	for _, segment := range m.GetMetadataKey().GetPath() {
		keys = append(keys, segment.GetKey())
	}
	return &metadataTag{http.NewMetadataPath(m.GetMetadataKey().GetKey(), keys...), m.GetDefaultValue()}, nil
}

func metadataKind(k *metadatav3.MetadataKind) string {
	switch k.GetKind().(type) {
	case *metadatav3.MetadataKind_Route_:
		return "routes"
	case *metadatav3.MetadataKind_Cluster_:
		return "clusters"
	}
	return "hosts"
}

// routeTracing compiles what a route says of tracing.
func (c *routeCompiler) routeTracing(out *router.Route, at *place, r *routev3.Route) error {
	t := r.GetTracing()
	keep := !unlessFalse(r.GetDecorator().GetPropagate())
	if t == nil && !keep {
		return nil
	}
	in := at.in("tracing")
	if err := c.only(in, t, routeTracingFields, nil); err != nil {
		return err
	}
	rt := &trace.Route{KeepOperation: keep, Client: shareOfRoute(t.GetClientSampling()), Random: shareOfRoute(t.GetRandomSampling()),
		Overall: shareOfRoute(t.GetOverallSampling())}
	var err error
	if rt.Tags, err = customTags(func(w string) { c.warn(in, w) }, t.GetCustomTags()); err != nil {
		return in.errorf("%w", err)
	}
	if rt.Operation, err = operationName("operation", t.GetOperation()); err != nil {
		return in.errorf("%w", err)
	}
	if rt.UpstreamOperation, err = operationName("upstream_operation", t.GetUpstreamOperation()); err != nil {
		return in.errorf("%w", err)
	}
	out.More = more(out)
	out.More.Tracing = rt
	return nil
}
