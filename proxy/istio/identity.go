// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"

	mesh "istio.io/api/mesh/v1alpha1"
)

// unnamedCluster is the name of a proxy that says nothing: another is looked for.
const unnamedCluster = "istio-proxy"

// canonicalService is the workload's name among services, found as Istio's injector
// finds it; otherwise when nothing tells.
func (o *Options) canonicalService(otherwise string) string {
	return cmp.Or(firstLabel(o.Labels, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app"), o.WorkloadName, otherwise)
}

// canonicalRevision is the workload's version, found in the same way.
func (o *Options) canonicalRevision() string {
	return cmp.Or(firstLabel(o.Labels, "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"), "latest")
}

// serviceCluster is the name of the proxy in traces, what an Envoy has as its node's
// cluster (getServiceCluster of Istio's pkg/bootstrap).
func (o *Options) serviceCluster() string {
	named := ""
	switch c := o.mesh().GetDefaultConfig().GetClusterName().(type) {
	case *mesh.ProxyConfig_ServiceCluster:
		named = c.ServiceCluster
	case *mesh.ProxyConfig_TracingServiceName_:
		canonical := o.canonicalService(unnamedCluster)
		switch c.TracingServiceName {
		case mesh.ProxyConfig_CANONICAL_NAME_ONLY:
			named = canonical
		case mesh.ProxyConfig_CANONICAL_NAME_AND_NAMESPACE:
			return canonical + "." + o.Namespace
		}
	}
	if named != "" && named != unnamedCluster {
		return named
	}
	app := firstLabel(o.Labels, "app", "app.kubernetes.io/name", "service.istio.io/canonical-name")
	return cmp.Or(app, o.WorkloadName, unnamedCluster) + "." + o.Namespace
}

// otelServiceName is the same by the conventions of OpenTelemetry for Kubernetes.
// https://opentelemetry.io/docs/specs/semconv/non-normative/k8s-attributes/
func (o *Options) otelServiceName() string {
	return cmp.Or(firstLabel(o.Labels, "app.kubernetes.io/instance"), firstLabel(o.Labels, "app.kubernetes.io/name"), o.WorkloadName, "unknown_service")
}
