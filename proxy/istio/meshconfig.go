// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"slices"
	"strings"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/wrapperspb"
	mesh "istio.io/api/mesh/v1alpha1"
)

// mesh is the MeshConfig; nil when there is none, of which all fields may be asked for.
func (o *Options) mesh() *mesh.MeshConfig {
	if o.MeshConfig == nil {
		return nil
	}
	m, _ := o.MeshConfig.Spec.(*mesh.MeshConfig)
	return m
}

// withMesh fills options that aren't set from the MeshConfig.
func (o Options) withMesh() Options {
	m := o.mesh()
	o.TrustDomain = cmp.Or(o.TrustDomain, m.GetTrustDomain())
	o.RootNamespace = cmp.Or(o.RootNamespace, m.GetRootNamespace())
	o.AccessLogFile = cmp.Or(o.AccessLogFile, m.GetAccessLogFile())
	if d := m.GetConnectTimeout(); d != nil && o.ConnectTimeout <= 0 {
		o.ConnectTimeout = d.AsDuration()
	}
	if d := m.GetDnsRefreshRate(); d != nil && o.DNSRefreshRate <= 0 {
		o.DNSRefreshRate = d.AsDuration()
	}
	if p := m.GetOutboundTrafficPolicy(); p != nil && p.Mode == mesh.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY {
		o.OutboundPolicy = RegistryOnly
	}
	return o
}

// meshFields are the fields of a MeshConfig that this build acts on.
var meshFields = []string{
	"trustDomain", "trustDomainAliases", "rootNamespace", "accessLogFile", "connectTimeout", "dnsRefreshRate",
	"outboundTrafficPolicy", "pathNormalization", "extensionProviders", "meshMTLS",
	"enableTracing", "defaultProviders.tracing", "defaultProviders.metrics", "defaultProviders.accessLogging",
	"defaultConfig.tracing", "defaultConfig.serviceCluster", "defaultConfig.tracingServiceName",
}

// checkMesh names the fields that have no effect.
func checkMesh(o *Options, rep *report) {
	m := o.mesh()
	if m == nil {
		return
	}
	names := unknownFields(m.ProtoReflect(), "")
	slices.Sort(names)
	for _, name := range names {
		rep.unsupportedf(o.MeshConfig, name, "the field has no effect")
	}
}

// unknownFields lists the fields of a message that aren't among meshFields. Of a message
// of which some are, it is gone into.
func unknownFields(m protoreflect.Message, prefix string) []string {
	var out []string
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := prefix + fd.JSONName()
		switch {
		case slices.Contains(meshFields, name):
		case slices.ContainsFunc(meshFields, func(f string) bool { return strings.HasPrefix(f, name+".") }):
			out = append(out, unknownFields(v.Message(), name+".")...)
		default:
			out = append(out, name)
		}
		return true
	})
	return out
}

// trustDomains are the names of the mesh: its own, then those that it had before.
func (o *Options) trustDomains() []string {
	out := []string{o.TrustDomain}
	for _, a := range o.mesh().GetTrustDomainAliases() {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// normalize sets how far paths are put into one form before anything looks at them.
func (o *Options) normalize(m *hcmv3.HttpConnectionManager) {
	m.NormalizePath = wrapperspb.Bool(true)
	m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_KEEP_UNCHANGED
	switch o.mesh().GetPathNormalization().GetNormalization() {
	case mesh.MeshConfig_ProxyPathNormalization_NONE:
		m.NormalizePath = wrapperspb.Bool(false)
	case mesh.MeshConfig_ProxyPathNormalization_MERGE_SLASHES:
		m.MergeSlashes = true
	case mesh.MeshConfig_ProxyPathNormalization_DECODE_AND_MERGE_SLASHES:
		m.MergeSlashes = true
		m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD
	}
}
