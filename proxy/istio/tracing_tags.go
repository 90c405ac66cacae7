// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"slices"
	"strings"

	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	mesh "istio.io/api/mesh/v1alpha1"
	telemetry "istio.io/api/telemetry/v1alpha1"
)

// customTags are the tags of spans: Istio's own, then those of the Telemetry or, when
// it has none, of the MeshConfig. Their order is that of their names.
func (t *tracing) customTags(s *traceSpec) []*tracingv3.CustomTag {
	var out []*tracingv3.CustomTag
	if s.istioTags {
		out = append(t.serviceTags(), dryRunTags()...)
	}
	if len(s.tags) > 0 {
		for _, name := range sortedKeys(s.tags) {
			out = t.addTag(out, telemetryTag(name, s.tags[name]), spot{s.tagged.obj, joinField(s.tagged.field, name)})
		}
	} else {
		tags := t.proxyTracing().GetCustomTags()
		for _, name := range sortedKeys(tags) {
			out = t.addTag(out, proxyConfigTag(name, tags[name]), spot{t.o.MeshConfig, joinField("defaultConfig.tracing.customTags", name)})
		}
	}
	slices.SortStableFunc(out, func(a, b *tracingv3.CustomTag) int { return strings.Compare(a.Tag, b.Tag) })
	return out
}

// serviceTags say which workload a span is of.
func (t *tracing) serviceTags() []*tracingv3.CustomTag {
	service, revision := CanonicalService(t.o.Labels, cmp.Or(t.o.WorkloadName, "unknown"))
	return []*tracingv3.CustomTag{
		literalTag("istio.canonical_revision", revision),
		literalTag("istio.canonical_service", service),
		literalTag("istio.mesh_id", t.o.TrustDomain), // the injector's, where the mesh has no other
		literalTag("istio.namespace", t.o.Namespace),
		literalTag("istio.cluster_id", t.o.ClusterID),
	}
}

// dryRunTags say what policies on trial would have decided. Without such a policy there
// is no metadata for them, and spans don't have them.
func dryRunTags() []*tracingv3.CustomTag {
	tag := func(name, key string) *tracingv3.CustomTag {
		return &tracingv3.CustomTag{
			Tag: "istio.authorization.dry_run." + name,
			Type: &tracingv3.CustomTag_Metadata_{Metadata: &tracingv3.CustomTag_Metadata{
				Kind: &metadatav3.MetadataKind{Kind: &metadatav3.MetadataKind_Request_{Request: &metadatav3.MetadataKind_Request{}}},
				MetadataKey: &metadatav3.MetadataKey{Key: filterHTTPRBAC, Path: []*metadatav3.MetadataKey_PathSegment{
					{Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: "istio_dry_run_" + key}},
				}},
			}},
		}
	}
	return []*tracingv3.CustomTag{
		tag("allow_policy.name", "allow_shadow_effective_policy_id"),
		tag("allow_policy.result", "allow_shadow_engine_result"),
		tag("deny_policy.name", "deny_shadow_effective_policy_id"),
		tag("deny_policy.result", "deny_shadow_engine_result"),
	}
}

func literalTag(name, value string) *tracingv3.CustomTag {
	return &tracingv3.CustomTag{Tag: name, Type: &tracingv3.CustomTag_Literal_{Literal: &tracingv3.CustomTag_Literal{Value: value}}}
}

func headerTag(name, header, or string) *tracingv3.CustomTag {
	return &tracingv3.CustomTag{Tag: name, Type: &tracingv3.CustomTag_RequestHeader{
		RequestHeader: &tracingv3.CustomTag_Header{Name: header, DefaultValue: or},
	}}
}

func environmentTag(name, variable, or string) *tracingv3.CustomTag {
	return &tracingv3.CustomTag{Tag: name, Type: &tracingv3.CustomTag_Environment_{
		Environment: &tracingv3.CustomTag_Environment{Name: variable, DefaultValue: or},
	}}
}

func telemetryTag(name string, tag *telemetry.Tracing_CustomTag) *tracingv3.CustomTag {
	switch v := tag.GetType().(type) {
	case *telemetry.Tracing_CustomTag_Literal:
		return literalTag(name, v.Literal.GetValue())
	case *telemetry.Tracing_CustomTag_Header:
		return headerTag(name, v.Header.GetName(), v.Header.GetDefaultValue())
	case *telemetry.Tracing_CustomTag_Environment:
		return environmentTag(name, v.Environment.GetName(), v.Environment.GetDefaultValue())
	case *telemetry.Tracing_CustomTag_Formatter:
		return &tracingv3.CustomTag{Tag: name, Type: &tracingv3.CustomTag_Value{Value: v.Formatter.GetValue()}}
	}
	return &tracingv3.CustomTag{Tag: name}
}

func proxyConfigTag(name string, tag *mesh.Tracing_CustomTag) *tracingv3.CustomTag {
	switch v := tag.GetType().(type) {
	case *mesh.Tracing_CustomTag_Literal:
		return literalTag(name, v.Literal.GetValue())
	case *mesh.Tracing_CustomTag_Header:
		return headerTag(name, v.Header.GetName(), v.Header.GetDefaultValue())
	case *mesh.Tracing_CustomTag_Environment:
		return environmentTag(name, v.Environment.GetName(), v.Environment.GetDefaultValue())
	}
	return &tracingv3.CustomTag{Tag: name}
}

// addTag appends a tag that Envoy takes and reports any other.
func (t *tracing) addTag(out []*tracingv3.CustomTag, tag *tracingv3.CustomTag, at spot) []*tracingv3.CustomTag {
	part, reason := tagProblem(tag)
	if reason != "" {
		t.rep.errorf(at.obj, at.field+part, "%s", reason)
		return out
	}
	return append(out, tag)
}

// tagProblem says what of a tag Envoy refuses, and where it stands.
func tagProblem(tag *tracingv3.CustomTag) (part, reason string) {
	const required = "is required"
	switch v := tag.Type.(type) {
	case *tracingv3.CustomTag_Literal_:
		if v.Literal.Value == "" {
			return ".literal.value", required
		}
	case *tracingv3.CustomTag_RequestHeader:
		if reason := badHeaderName(v.RequestHeader.Name); reason != "" {
			return ".header.name", reason
		}
	case *tracingv3.CustomTag_Environment_:
		if v.Environment.Name == "" {
			return ".environment.name", required
		}
	case *tracingv3.CustomTag_Value:
		if v.Value == "" {
			return ".formatter.value", required
		}
	default:
		return "", "has no value; wants one of literal, header, environment and formatter"
	}
	if tag.Tag == "" {
		return "", "a tag's name can't be empty"
	}
	return "", ""
}

// badHeaderName says why a text is no field name, a token of RFC 9110 section 5.6.2;
// empty when it is one.
func badHeaderName(name string) string {
	if name == "" {
		return "is required"
	}
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return "isn't a header's name"
		}
	}
	return ""
}
