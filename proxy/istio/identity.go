// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"

	mesh "istio.io/api/mesh/v1alpha1"
)

// unnamedCluster is the name of a proxy that says nothing: another is looked for.
const unnamedCluster = "istio-proxy"

// CanonicalService is the name among services of a workload with these labels, and its
// revision (CanonicalService of Istio's pkg/kube/labels).
func CanonicalService(labels map[string]string, workload string) (name, revision string) {
	name = firstLabel(labels, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
	revision = firstLabel(labels, "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
	return cmp.Or(name, workload), cmp.Or(revision, "latest")
}

// serviceCluster is the name of the proxy in traces, what an Envoy has as its node's
// cluster (getServiceCluster of Istio's pkg/bootstrap).
func (o *Options) serviceCluster() string {
	named := ""
	switch c := o.mesh().GetDefaultConfig().GetClusterName().(type) {
	case *mesh.ProxyConfig_ServiceCluster:
		named = c.ServiceCluster
	case *mesh.ProxyConfig_TracingServiceName_:
		canonical, _ := CanonicalService(o.Labels, cmp.Or(o.WorkloadName, unnamedCluster))
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
