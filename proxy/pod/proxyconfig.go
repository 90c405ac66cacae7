// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	mesh "istio.io/api/mesh/v1alpha1"
	"sigs.k8s.io/yaml"
)

// Annotations of the pod that are heeded.
const (
	annotationProxyConfig       = "proxy.istio.io/config"
	annotationDiscovery         = "sidecar.istio.io/discoveryAddress"
	annotationStatusPort        = "status.sidecar.istio.io/port"
	annotationExcludeInterfaces = "traffic.sidecar.istio.io/excludeInterfaces"
)

// defaultServiceCluster is the name that says nothing: another is looked for.
const defaultServiceCluster = "istio-proxy"

// defaultProxyConfig is Istio's (istio.io/istio/pkg/config/mesh).
func defaultProxyConfig() *mesh.ProxyConfig {
	return &mesh.ProxyConfig{
		ConfigPath:               "./etc/istio/proxy",
		BinaryPath:               "/usr/local/bin/envoy",
		ClusterName:              &mesh.ProxyConfig_ServiceCluster{ServiceCluster: defaultServiceCluster},
		DrainDuration:            durationpb.New(45 * time.Second),
		TerminationDrainDuration: durationpb.New(5 * time.Second),
		ProxyAdminPort:           15000,
		ControlPlaneAuthPolicy:   mesh.AuthenticationPolicy_MUTUAL_TLS,
		DiscoveryAddress:         "istiod.istio-system.svc:15012",
		StatNameLength:           189,
		StatusPort:               15020,
	}
}

// mergeProxyConfig puts what text says, YAML or JSON, over base. What it names
// replaces what base has, lists and messages as a whole; proxyMetadata and
// proxyHeaders merge by key. That is Istio's rule
// (istio.io/istio/pkg/config/mesh.MergeProxyConfig). Fields that aren't known
// are returned by name: a newer webhook may send them.
func mergeProxyConfig(base *mesh.ProxyConfig, text string) (unknown []string, err error) {
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("is no YAML: %w", err)
	}
	var named map[string]json.RawMessage
	if err := json.Unmarshal(data, &named); err != nil {
		return nil, fmt.Errorf("is no object of settings")
	}
	over := &mesh.ProxyConfig{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, over); err != nil {
		return nil, fmt.Errorf("is no ProxyConfig: %s", protoReason(err))
	}
	into, from := base.ProtoReflect(), over.ProtoReflect()
	fields := into.Descriptor().Fields()
	metadata, headers := base.GetProxyMetadata(), base.GetProxyHeaders()
	for name, raw := range named {
		fd := fields.ByJSONName(name)
		if fd == nil {
			fd = fields.ByTextName(name)
		}
		switch {
		case fd == nil:
			unknown = append(unknown, name)
		case string(raw) == "null":
		case from.Has(fd):
			into.Set(fd, from.Get(fd))
		default:
			into.Clear(fd) // it is given, as nought
		}
	}
	if len(metadata) > 0 {
		merged := maps.Clone(metadata)
		maps.Copy(merged, base.GetProxyMetadata())
		base.ProxyMetadata = merged
	}
	if headers != nil && base.ProxyHeaders != nil {
		mergeMessage(base.ProxyHeaders.ProtoReflect(), headers.ProtoReflect())
	}
	return unknown, nil
}

// mergeMessage fills what m lacks from base, one level deep.
func mergeMessage(m, base protoreflect.Message) {
	if m.Interface() == base.Interface() {
		return
	}
	base.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if !m.Has(fd) {
			m.Set(fd, v)
		}
		return true
	})
}

// protoReason takes the prefix off an error of protojson, which holds a
// no-break space now and then so that nobody leans on its text.
func protoReason(err error) string {
	s := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return strings.TrimPrefix(s, "proto: ")
}

// proxyConfig merges the settings in Istio's order.
func (v *values) proxyConfig(meshFile string, annotations map[string]string) *mesh.ProxyConfig {
	pc := defaultProxyConfig()
	over := func(place, text, remedy string) {
		if strings.TrimSpace(text) == "" {
			return
		}
		unknown, err := mergeProxyConfig(pc, text)
		if err != nil {
			v.refuse(place, "", err.Error(), remedy)
		}
		for _, name := range unknown {
			v.warn("%s: the field %s isn't known and is passed over", place, name)
		}
	}
	text, _, err := readFile(meshFile)
	if err != nil {
		v.refuse(meshFile, "", err.Error(), "check the volume it is on")
	}
	var settings struct {
		DefaultConfig map[string]any `json:"defaultConfig"`
	}
	if err := yaml.Unmarshal([]byte(text), &settings); err != nil {
		v.refuse(meshFile, "", "is no MeshConfig: "+err.Error(), "it holds what ConfigMap istio has under the key mesh")
	}
	if len(settings.DefaultConfig) > 0 {
		part, err := json.Marshal(settings.DefaultConfig)
		if err != nil {
			v.refuse(meshFile, "", "defaultConfig: "+err.Error(), "")
		}
		over(meshFile+": defaultConfig", string(part), "correct meshConfig.defaultConfig")
	}
	over("PROXY_CONFIG", v.text("PROXY_CONFIG", ""), "the webhook makes it of meshConfig.defaultConfig and of the pod's annotation "+annotationProxyConfig)
	over("annotation "+annotationProxyConfig, annotations[annotationProxyConfig], "correct the annotation of the pod")
	if a, ok := annotations[annotationDiscovery]; ok {
		pc.DiscoveryAddress = a
	}
	if p, ok := annotations[annotationStatusPort]; ok {
		if n, err := strconv.Atoi(p); err == nil {
			pc.StatusPort = int32(min(max(n, -1), 1<<20))
		} else {
			v.refuse("annotation "+annotationStatusPort, p, "is not a port", "correct the annotation of the pod")
		}
	}
	return pc
}
