// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"slices"
	"strings"

	"pillion/proxy/stats"
)

// Annotations that say which statistics of the proxy there are.
const (
	annotationStatsPrefixes = "sidecar.istio.io/statsInclusionPrefixes"
	annotationStatsSuffixes = "sidecar.istio.io/statsInclusionSuffixes"
	annotationStatsRegexps  = "sidecar.istio.io/statsInclusionRegexps"
	annotationStatTags      = "sidecar.istio.io/extraStatTags"
	annotationStatBuckets   = "sidecar.istio.io/statsHistogramBuckets"
)

// The statistics that there are in any case: those by which readiness, drains,
// policies and Istio's own metrics are seen. They are those of Istio's bootstrap
// (istio.io/istio/pkg/bootstrap: getStatsOptions, and its template).
var (
	shownPrefixes = []string{"reporter=", "cluster_manager", "listener_manager", "server", "cluster.xds-grpc", "wasm", "component", "istio"}
	shownSuffixes = []string{"rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied"}
	shownRegexps  = []string{`vhost\..*\.route\..*`}
	// shownAtEnd is added where the end waits for the last connection.
	shownAtEnd = "downstream_cx_active"
)

// statsView says which of the proxy's statistics there are, and under which
// labels. An annotation replaces the list of ProxyConfig.
func (r *reader) statsView(p *Pod) stats.View {
	given := p.Config.GetProxyStatsMatcher()
	suffixes := shownSuffixes
	if p.Drain.ExitAtZero {
		suffixes = append(slices.Clip(suffixes), shownAtEnd)
	}
	prefixes := r.shown(p, annotationStatsPrefixes, "inclusionPrefixes", given.GetInclusionPrefixes(), shownPrefixes)
	suffixes = r.shown(p, annotationStatsSuffixes, "inclusionSuffixes", given.GetInclusionSuffixes(), suffixes)
	regexps := r.shown(p, annotationStatsRegexps, "inclusionRegexps", given.GetInclusionRegexps(), shownRegexps)
	include, err := stats.NewMatcher(prefixes, suffixes, regexps)
	if err != nil {
		r.refuse("annotation "+annotationStatsRegexps+" or proxyStatsMatcher.inclusionRegexps", "", "has an expression that can't be used: "+err.Error(),
			"write it in the syntax of RE2; it has to match the whole name")
	}
	tags, err := stats.IstioTags(extraTags(p))
	if err != nil {
		r.refuse("annotation "+annotationStatTags+" or extraStatTags of ProxyConfig", "", err.Error(), "give names of labels alone")
	}
	if b := p.Annotations[annotationStatBuckets]; b != "" {
		r.warn("annotation %s is not heeded: the buckets are Envoy's own", annotationStatBuckets)
	}
	return stats.View{Tags: tags, Include: include}
}

// shown returns what an annotation, or a list of ProxyConfig, adds to always.
func (r *reader) shown(p *Pod, annotation, field string, configured, always []string) []string {
	place, list := "ProxyConfig: proxyStatsMatcher."+field, configured
	if text := p.Annotations[annotation]; text != "" {
		place, list = "annotation "+annotation, strings.Split(text, ",")
	}
	out := slices.Clone(always)
	for _, item := range list {
		switch {
		case item == "":
			// Envoy doesn't start with one.
			r.refuse(place, strings.Join(list, ","), "has an empty item, which would match every name", "leave out the comma too many; .* as an expression matches every name")
		case strings.Contains(item, "{pod_ip}"):
			for _, ip := range p.IPs {
				out = append(out, strings.ReplaceAll(item, "{pod_ip}", ip))
			}
		default:
			out = append(out, item)
		}
	}
	return out
}

// extraTags are those of ProxyConfig, then those of the annotation, each once.
func extraTags(p *Pod) (out []string) {
	for _, tag := range append(slices.Clone(p.Config.GetExtraStatTags()), strings.Split(p.Annotations[annotationStatTags], ",")...) {
		if tag != "" && !slices.Contains(out, tag) {
			out = append(out, tag)
		}
	}
	return out
}
