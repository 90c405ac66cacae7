// SPDX-License-Identifier: Apache-2.0

package source

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	telemetry "istio.io/api/telemetry/v1alpha1"
)

// class says what becomes of a document of some kind.
type class int

const (
	unknown     class = iota // nobody's kind that this package knows
	supported                // read into an Object
	unsupported              // known, named and left out
	useless                  // of no use to a proxy; named once per kind
)

// API groups whose kinds are known one by one.
const (
	coreGroup       = ""
	discoveryGroup  = "discovery.k8s.io"
	extensionsGroup = "extensions.istio.io"
	networkingGroup = "networking.istio.io"
	securityGroup   = "security.istio.io"
	telemetryGroup  = "telemetry.istio.io"
)

// versionsOf lists the versions in which a group's kinds are read; nil for other groups.
func versionsOf(group string) []string {
	switch group {
	case networkingGroup:
		return []string{"v1", "v1beta1", "v1alpha3"}
	case securityGroup:
		return []string{"v1", "v1beta1"}
	case telemetryGroup:
		return []string{"v1", "v1alpha1"}
	case coreGroup, discoveryGroup:
		return []string{"v1"}
	}
	return nil
}

// groupOf returns the group of a kind that this package reads.
func groupOf(kind string) (group string, ok bool) {
	switch kind {
	case "VirtualService", "DestinationRule", "ServiceEntry", "WorkloadEntry", "Gateway", "Sidecar":
		return networkingGroup, true
	case "PeerAuthentication", "AuthorizationPolicy", "RequestAuthentication":
		return securityGroup, true
	case "Telemetry":
		return telemetryGroup, true
	case "Service", "Secret", "ConfigMap":
		return coreGroup, true
	case "EndpointSlice":
		return discoveryGroup, true
	}
	return "", false
}

// classify says what to do with a kind of a group.
func classify(group, kind string) class {
	if home, ok := groupOf(kind); ok && home == group {
		return supported
	}
	switch group {
	case networkingGroup:
		if oneOf(kind, "EnvoyFilter", "ProxyConfig", "WorkloadGroup") {
			return unsupported
		}
	case extensionsGroup:
		if oneOf(kind, "WasmPlugin", "TrafficExtension") {
			return unsupported
		}
	case "install.istio.io":
		return unsupported
	case coreGroup:
		if kind == "Endpoints" {
			return unsupported
		}
		if oneOf(kind, "Binding", "Event", "LimitRange", "Namespace", "Node", "PersistentVolume",
			"PersistentVolumeClaim", "Pod", "PodTemplate", "ReplicationController", "ResourceQuota", "ServiceAccount") {
			return useless
		}
	case "apps", "autoscaling", "batch", "policy", "flagger.app":
		return useless
	default:
		// Kubernetes keeps this suffix for its own groups, among them RBAC, CRDs and the
		// Gateway API.
		if strings.HasSuffix(group, ".k8s.io") {
			return useless
		}
	}
	return unknown
}

func oneOf(s string, list ...string) bool { return slices.Contains(list, s) }

// whyUnsupported says what to do instead, for kinds where there is something to do.
func whyUnsupported(kind string) string {
	switch kind {
	case "Endpoints":
		return "not supported, ignored; give the endpoints as a discovery.k8s.io/v1 EndpointSlice"
	case "WorkloadGroup":
		return "not supported, ignored; give each workload as a WorkloadEntry"
	}
	return "not supported, ignored"
}

// readSpec reads the body of a supported kind and validates it when it could be read.
func (s *subject) readSpec() {
	if s.Kind == "EndpointSlice" { // has no spec
		s.Spec = s.readEndpointSlice()
		return
	}
	if s.Kind == "Secret" || s.Kind == "ConfigMap" {
		s.Spec = s.readSecret()
		return
	}
	s.eachEntry(s.root, s.top, []string{"apiVersion", "kind", "metadata", "spec", "status"}, func(string, *yaml.Node, *place) {})
	if s.Kind == "Service" {
		s.Spec = s.readService()
		return
	}
	before := len(s.out.errors)
	spec := newSpec(s.Kind)
	at := s.top.key("spec")
	if _, body := lookup(s.root, "spec"); body != nil && !isUnset(target(body)) {
		s.message(body, at, spec.ProtoReflect())
	}
	s.Spec = spec
	if len(s.out.errors) > before {
		return // what couldn't be read would only raise errors of its own
	}
	switch spec := spec.(type) {
	case *networking.VirtualService:
		s.virtualService(at, spec)
	case *networking.DestinationRule:
		s.destinationRule(at, spec)
	case *networking.ServiceEntry:
		s.serviceEntry(at, spec)
	case *networking.WorkloadEntry:
		s.workloadEntry(at, spec)
	case *networking.Gateway:
		s.gateway(at, spec)
	case *networking.Sidecar:
		s.sidecar(at, spec)
	case *telemetry.Telemetry:
		s.telemetry(at, spec)
	case *security.PeerAuthentication:
		s.peerAuthentication(at, spec)
	case *security.AuthorizationPolicy:
		s.authorizationPolicy(at, spec)
	case *security.RequestAuthentication:
		s.requestAuthentication(at, spec)
	}
}

// newSpec returns an empty message for a supported Istio kind.
func newSpec(kind string) proto.Message {
	switch kind {
	case "VirtualService":
		return &networking.VirtualService{}
	case "DestinationRule":
		return &networking.DestinationRule{}
	case "ServiceEntry":
		return &networking.ServiceEntry{}
	case "WorkloadEntry":
		return &networking.WorkloadEntry{}
	case "Gateway":
		return &networking.Gateway{}
	case "Sidecar":
		return &networking.Sidecar{}
	case "Telemetry":
		return &telemetry.Telemetry{}
	case "AuthorizationPolicy":
		return &security.AuthorizationPolicy{}
	case "RequestAuthentication":
		return &security.RequestAuthentication{}
	}
	return &security.PeerAuthentication{}
}

// metadataKeys are the fields of Kubernetes' ObjectMeta.
func metadataKeys() []string {
	return []string{
		"annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers",
		"generateName", "generation", "labels", "managedFields", "name", "namespace", "ownerReferences",
		"resourceVersion", "selfLink", "uid",
	}
}

// readMetadata reads name, namespace, labels and annotations.
func (s *subject) readMetadata(defaultNamespace string) {
	at := s.top.key("metadata")
	meta := &yaml.Node{}
	if _, n := lookup(s.root, "metadata"); n != nil {
		meta = target(n)
	}
	// The names go into every message, so they are found before anything else is read.
	s.Namespace = defaultNamespace
	if ns := s.metadataName(meta, at, "namespace", badLabel); ns != "" {
		s.Namespace = ns
	}
	before := len(s.out.errors)
	s.Name = s.metadataName(meta, at, "name", badSubdomain)
	if s.Name == "" && len(s.out.errors) == before {
		s.failAt(at, "name", "is required")
	}
	if isUnset(meta) {
		return
	}
	s.eachEntry(meta, at, metadataKeys(), func(key string, val *yaml.Node, here *place) {
		switch key {
		case "labels":
			s.Labels = s.strings(val, here)
		case "annotations":
			s.Annotations = s.strings(val, here)
		}
	})
}

// metadataName reads one of the names and holds it to what Kubernetes accepts, so that
// an ID is unambiguous.
func (s *subject) metadataName(meta *yaml.Node, at *place, key string, bad func(string) string) string {
	_, n := lookup(meta, key)
	if n == nil || isNull(target(n)) {
		return ""
	}
	name, ok := s.text(n, at.key(key))
	if !ok || name == "" {
		return ""
	}
	if reason := bad(name); reason != "" {
		s.failAt(at, key, "%q %s", clip(name), reason)
	}
	return name
}
