// SPDX-License-Identifier: Apache-2.0

package source

import (
	"strconv"

	security "istio.io/api/security/v1beta1"
	telemetry "istio.io/api/telemetry/v1alpha1"
	api "istio.io/api/type/v1beta1"
)

func (s *subject) telemetry(at *place, t *telemetry.Telemetry) {
	if t.Selector != nil {
		s.checkSelector(at.key("selector").key("matchLabels"), t.Selector.MatchLabels)
		if t.TargetRef != nil || len(t.TargetRefs) > 0 {
			s.failAt(at, "selector", "can't be given together with targetRefs")
		}
	}
	if t.TargetRef != nil {
		s.targetRef(at.key("targetRef"), t.TargetRef)
		if len(t.TargetRefs) > 0 {
			s.failAt(at, "targetRef", `can't be given together with "targetRefs"`)
		}
	}
	for i, ref := range t.TargetRefs {
		s.targetRef(at.key("targetRefs").item(i), ref)
	}
	for i, l := range t.AccessLogging {
		here := at.key("accessLogging").item(i)
		s.providers(here, l.Providers)
		if l.Filter != nil && l.Filter.Expression == "" {
			s.failAt(here.key("filter"), "expression", "is required")
		}
	}
	for i, m := range t.Metrics {
		here := at.key("metrics").item(i)
		s.providers(here, m.Providers)
		s.checkDuration(here, "reportingInterval", m.ReportingInterval)
		for j, o := range m.Overrides {
			s.metricsOverride(here.key("overrides").item(j), o)
		}
	}
	for i, tracing := range t.Tracing {
		here := at.key("tracing").item(i)
		s.tracing(here, tracing)
	}
}

func (s *subject) targetRef(at *place, ref *api.PolicyTargetReference) {
	if ref.Name == "" {
		s.failAt(at, "name", "is required")
	}
	if ref.Namespace != "" {
		s.failAt(at, "namespace", "can't be given: the target is in the resource's own namespace")
	}
	switch ref.Group + "/" + ref.Kind {
	case "/Service", "core/Service", "networking.istio.io/ServiceEntry", "gateway.networking.k8s.io/Gateway", "gateway.networking.k8s.io/GatewayClass":
	default:
		s.failAt(at, "kind", "%q of %q can't be a target; wants Service, ServiceEntry of networking.istio.io, or Gateway or GatewayClass of gateway.networking.k8s.io",
			clip(ref.Kind), clip(ref.Group))
	}
}

func (s *subject) providers(at *place, providers []*telemetry.ProviderRef) {
	for i, p := range providers {
		if p.Name == "" {
			s.failAt(at.key("providers").item(i), "name", "is required")
		}
	}
}

func (s *subject) metricsOverride(at *place, o *telemetry.MetricsOverrides) {
	if m, ok := o.Match.GetMetricMatch().(*telemetry.MetricSelector_CustomMetric); ok && m.CustomMetric == "" {
		s.failAt(at.key("match"), "customMetric", "can't be empty")
	}
	for _, name := range keysOf(o.TagOverrides) {
		here := at.key("tagOverrides").key(name)
		tag := o.TagOverrides[name]
		switch {
		case name == "":
			s.failAt(here, "", "a tag's name can't be empty")
		case tag.Operation == telemetry.MetricsOverrides_TagOverride_UPSERT && tag.Value == "":
			s.failAt(here, "value", "is required to set a tag (operation UPSERT)")
		case tag.Operation == telemetry.MetricsOverrides_TagOverride_REMOVE && tag.Value != "":
			s.failAt(here, "value", "has no effect when a tag is removed; leave it out")
		}
	}
}

func (s *subject) tracing(at *place, t *telemetry.Tracing) {
	s.providers(at, t.Providers)
	if len(t.Providers) > 1 {
		s.warnAt(at.key("providers").item(1), "", "has no effect: only the first of several is used")
	}
	if v := t.RandomSamplingPercentage.GetValue(); !(v >= 0 && v <= 100) {
		s.failAt(at, "randomSamplingPercentage", "%v isn't a percentage; wants 0 to 100", v)
	}
	for _, name := range keysOf(t.CustomTags) {
		here := at.key("customTags").key(name)
		if name == "" {
			s.failAt(here, "", "a tag's name can't be empty")
		}
		switch tag := t.CustomTags[name].Type.(type) {
		case *telemetry.Tracing_CustomTag_Literal:
			if tag.Literal.GetValue() == "" {
				s.failAt(here.key("literal"), "value", "is required")
			}
		case *telemetry.Tracing_CustomTag_Header:
			if tag.Header.GetName() == "" {
				s.failAt(here.key("header"), "name", "is required")
			}
		case *telemetry.Tracing_CustomTag_Environment:
			if tag.Environment.GetName() == "" {
				s.failAt(here.key("environment"), "name", "is required")
			}
		case *telemetry.Tracing_CustomTag_Formatter:
			if tag.Formatter.GetValue() == "" {
				s.failAt(here.key("formatter"), "value", "is required")
			}
		}
	}
}

func (s *subject) peerAuthentication(at *place, p *security.PeerAuthentication) {
	if p.Selector != nil {
		s.checkSelector(at.key("selector").key("matchLabels"), p.Selector.MatchLabels)
	}
	if len(p.PortLevelMtls) > 0 && len(p.Selector.GetMatchLabels()) == 0 {
		s.failAt(at, "portLevelMtls", "needs a selector with labels: ports are those of certain workloads")
	}
	ports := map[string]uint32{}
	for port := range p.PortLevelMtls {
		ports[strconv.FormatUint(uint64(port), 10)] = port
	}
	for _, key := range keysOf(ports) {
		s.checkPort(at.key("portLevelMtls").key(key), "", ports[key])
	}
}
