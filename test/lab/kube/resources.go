// SPDX-License-Identifier: Apache-2.0

package kube

import (
	nethttp "net/http"
	"slices"
	"strings"
)

// served are the kinds of objects: group, versions (the first is preferred),
// kind, plural, and whether they lie in namespaces. Those of istiod are listed
// in istio.io/istio/pkg/config/schema/metadata.yaml. A custom kind has a
// CustomResourceDefinition, by which istiod learns that it is there.
const served = `
core                         v1                     Namespace                        namespaces                        cluster
core                         v1                     Node                             nodes                             cluster
core                         v1                     Pod                              pods                              namespaced
core                         v1                     Service                          services                          namespaced
core                         v1                     Endpoints                        endpoints                         namespaced
core                         v1                     Secret                           secrets                           namespaced
core                         v1                     ConfigMap                        configmaps                        namespaced
core                         v1                     ServiceAccount                   serviceaccounts                   namespaced
core                         v1                     Event                            events                            namespaced
apps                         v1                     Deployment                       deployments                       namespaced
apps                         v1                     DaemonSet                        daemonsets                        namespaced
apps                         v1                     StatefulSet                      statefulsets                      namespaced
apps                         v1                     ReplicaSet                       replicasets                       namespaced
discovery.k8s.io             v1                     EndpointSlice                    endpointslices                    namespaced
coordination.k8s.io          v1                     Lease                            leases                            namespaced
autoscaling                  v2                     HorizontalPodAutoscaler          horizontalpodautoscalers          namespaced
policy                       v1                     PodDisruptionBudget              poddisruptionbudgets              namespaced
networking.k8s.io            v1                     Ingress                          ingresses                         namespaced
networking.k8s.io            v1                     IngressClass                     ingressclasses                    cluster
certificates.k8s.io          v1                     CertificateSigningRequest        certificatesigningrequests        cluster
certificates.k8s.io          v1beta1                ClusterTrustBundle               clustertrustbundles               cluster
admissionregistration.k8s.io v1                     MutatingWebhookConfiguration     mutatingwebhookconfigurations     cluster
admissionregistration.k8s.io v1                     ValidatingWebhookConfiguration   validatingwebhookconfigurations   cluster
apiextensions.k8s.io         v1                     CustomResourceDefinition         customresourcedefinitions         cluster
networking.istio.io          v1,v1beta1,v1alpha3    VirtualService                   virtualservices                   custom
networking.istio.io          v1,v1beta1,v1alpha3    DestinationRule                  destinationrules                  custom
networking.istio.io          v1,v1beta1,v1alpha3    Gateway                          gateways                          custom
networking.istio.io          v1,v1beta1,v1alpha3    ServiceEntry                     serviceentries                    custom
networking.istio.io          v1,v1beta1,v1alpha3    Sidecar                          sidecars                          custom
networking.istio.io          v1,v1beta1,v1alpha3    WorkloadEntry                    workloadentries                   custom
networking.istio.io          v1,v1beta1,v1alpha3    WorkloadGroup                    workloadgroups                    custom
networking.istio.io          v1beta1                ProxyConfig                      proxyconfigs                      custom
networking.istio.io          v1alpha3               EnvoyFilter                      envoyfilters                      custom
security.istio.io            v1,v1beta1             AuthorizationPolicy              authorizationpolicies             custom
security.istio.io            v1,v1beta1             PeerAuthentication               peerauthentications               custom
security.istio.io            v1,v1beta1             RequestAuthentication            requestauthentications            custom
telemetry.istio.io           v1,v1alpha1            Telemetry                        telemetries                       custom
extensions.istio.io          v1alpha1               WasmPlugin                       wasmplugins                       custom
extensions.istio.io          v1alpha1               TrafficExtension                 trafficextensions                 custom
gateway.networking.k8s.io    v1,v1beta1             GatewayClass                     gatewayclasses                    custom-cluster
gateway.networking.k8s.io    v1,v1beta1             Gateway                          gateways                          custom
gateway.networking.k8s.io    v1,v1beta1             HTTPRoute                        httproutes                        custom
gateway.networking.k8s.io    v1                     GRPCRoute                        grpcroutes                        custom
gateway.networking.k8s.io    v1,v1alpha2            TCPRoute                         tcproutes                         custom
gateway.networking.k8s.io    v1,v1alpha2            TLSRoute                         tlsroutes                         custom
gateway.networking.k8s.io    v1alpha2               UDPRoute                         udproutes                         custom
gateway.networking.k8s.io    v1,v1beta1             ReferenceGrant                   referencegrants                   custom
gateway.networking.k8s.io    v1                     BackendTLSPolicy                 backendtlspolicies                custom
gateway.networking.k8s.io    v1                     ListenerSet                      listenersets                      custom
`

// gatewayBundle is the version of the Gateway API that its definitions claim.
// istiod asks for at least 1.6.0 (pkg/config/schema/gatewayapi).
const gatewayBundle = "v1.6.0"

// resource is one kind of objects. It is immutable.
type resource struct {
	Group              string
	Versions           []string
	Kind, Plural       string
	Namespaced, custom bool
}

func readServed() []*resource {
	var all []*resource
	for line := range strings.Lines(strings.TrimSpace(served)) {
		f := strings.Fields(line)
		r := &resource{Group: f[0], Versions: strings.Split(f[1], ","), Kind: f[2], Plural: f[3],
			Namespaced: !strings.HasSuffix(f[4], "cluster"), custom: strings.HasPrefix(f[4], "custom")}
		if r.Group == "core" {
			r.Group = ""
		}
		all = append(all, r)
	}
	return all
}

// apiVersion is how objects name a version of the kind.
func (r *resource) apiVersion(version string) string {
	if r.Group == "" {
		return version
	}
	return r.Group + "/" + version
}

// definition is the kind's CustomResourceDefinition, without a schema.
func (r *resource) definition() Object {
	scope := "Cluster"
	if r.Namespaced {
		scope = "Namespaced"
	}
	meta := Object{"name": r.Plural + "." + r.Group}
	if r.Group == "gateway.networking.k8s.io" {
		meta["annotations"] = Object{"gateway.networking.k8s.io/bundle-version": gatewayBundle, "gateway.networking.k8s.io/channel": "experimental"}
	}
	var versions []any
	for i, v := range r.Versions {
		versions = append(versions, Object{"name": v, "served": true, "storage": i == 0})
	}
	return Object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": meta,
		"spec": Object{"group": r.Group, "scope": scope, "versions": versions,
			"names": Object{"kind": r.Kind, "plural": r.Plural, "singular": strings.ToLower(r.Kind), "listKind": r.Kind + "List"}},
		"status": Object{"conditions": []any{Object{"type": "Established", "status": "True"}, Object{"type": "NamesAccepted", "status": "True"}}},
	}
}

// target is what a path names.
type target struct {
	res      *resource
	version  string
	ns, name string
	sub      string
}

// target reads /api/v1/… and /apis/GROUP/VERSION/….
func (s *store) target(path string) (target, error) {
	unknown := failure(nethttp.StatusNotFound, "NotFound", "the server could not find the requested resource %s", path)
	parts := strings.Split(strings.Trim(path, "/"), "/")
	var t target
	var group string
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		t.version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		group, t.version, parts = parts[1], parts[2], parts[3:]
	default:
		return t, unknown
	}
	// namespaces/NS is an object, namespaces/NS/PLURAL lies in it. Two parts
	// below, status and finalize are subresources of the namespace.
	if len(parts) >= 3 && parts[0] == "namespaces" && parts[2] != "status" && parts[2] != "finalize" {
		t.ns, parts = parts[1], parts[2:]
	}
	if t.res = s.byPlural(group, t.version, parts[0]); t.res == nil || len(parts) > 3 || t.ns != "" && !t.res.Namespaced {
		return t, unknown
	}
	if len(parts) > 1 {
		t.name = parts[1]
	}
	if len(parts) > 2 {
		t.sub = parts[2]
	}
	if t.name != "" && t.ns == "" && t.res.Namespaced {
		return t, unknown
	}
	return t, nil
}

func (s *store) byPlural(group, version, plural string) *resource {
	return s.find(func(r *resource) bool {
		return r.Group == group && r.Plural == plural && slices.Contains(r.Versions, version)
	})
}

func (s *store) byKind(apiVersion, kind string) *resource {
	group, version, grouped := strings.Cut(apiVersion, "/")
	if !grouped {
		group, version = "", apiVersion
	}
	return s.find(func(r *resource) bool {
		return r.Group == group && r.Kind == kind && slices.Contains(r.Versions, version)
	})
}

func (s *store) find(match func(*resource) bool) *resource {
	if i := slices.IndexFunc(s.resources, match); i >= 0 {
		return s.resources[i]
	}
	return nil
}

// discovery answers the pages by which clients learn what there is. It
// returns nil for another path.
func (s *store) discovery(path string) Object {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case path == "/api":
		return Object{"kind": "APIVersions", "versions": []any{"v1"}}
	case path == "/apis":
		var groups []any
		for _, r := range s.resources {
			if g := s.group(r.Group); r.Group != "" && !slices.ContainsFunc(groups, func(have any) bool { return have.(Object)["name"] == r.Group }) {
				groups = append(groups, g)
			}
		}
		return Object{"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
	case path == "/api/v1":
		return s.kinds("", "v1")
	case len(parts) == 2 && parts[0] == "apis":
		g := s.group(parts[1])
		if g == nil {
			return nil
		}
		g["kind"], g["apiVersion"] = "APIGroup", "v1"
		return g
	case len(parts) == 3 && parts[0] == "apis":
		return s.kinds(parts[1], parts[2])
	}
	return nil
}

func (s *store) group(name string) Object {
	var versions []any
	var seen []string
	for _, r := range s.resources {
		if r.Group != name {
			continue
		}
		for _, v := range r.Versions {
			if !slices.Contains(seen, v) {
				seen = append(seen, v)
				versions = append(versions, Object{"groupVersion": r.apiVersion(v), "version": v})
			}
		}
	}
	if versions == nil {
		return nil
	}
	return Object{"name": name, "versions": versions, "preferredVersion": versions[0]}
}

func (s *store) kinds(group, version string) Object {
	var all []any
	for _, r := range s.resources {
		if r.Group == group && slices.Contains(r.Versions, version) {
			all = append(all,
				Object{"name": r.Plural, "singularName": strings.ToLower(r.Kind), "kind": r.Kind, "namespaced": r.Namespaced,
					"verbs": []any{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}},
				Object{"name": r.Plural + "/status", "singularName": "", "kind": r.Kind, "namespaced": r.Namespaced, "verbs": []any{"patch", "update"}})
		}
	}
	if all == nil {
		return nil
	}
	return Object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": (&resource{Group: group}).apiVersion(version), "resources": all}
}
