// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/istio/source"
)

// metadataIstio is the namespace of Istio's own metadata on resources.
const metadataIstio = "istio"

// configPath is how resources name the configuration they come from. Istio writes the
// stored version, v1, whichever one the document has.
func configPath(group, kind string, obj *source.Object) string {
	return "/apis/" + group + "/v1/namespaces/" + obj.Namespace + "/" + kind + "/" + obj.Name
}

const (
	groupNetworking     = "networking.istio.io"
	kindVirtualService  = "virtual-service"
	kindDestinationRule = "destination-rule"
)

// istioMetadata makes metadata with one struct, under Istio's namespace.
func istioMetadata(fields map[string]*structpb.Value) *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{metadataIstio: {Fields: fields}}}
}

// clusterName is istiod's name of a cluster: "outbound|9080|v1|reviews.default.svc.cluster.local".
func clusterName(host, subset string, port uint32) string {
	return "outbound|" + strconv.FormatUint(uint64(port), 10) + "|" + subset + "|" + host
}

// Clusters that are always there, and virtual hosts that catch what no service has.
const (
	passthroughCluster = "PassthroughCluster"
	blackHoleCluster   = "BlackHoleCluster"
	allowAny           = "allow_any"
	blockAll           = "block_all"
)

// meshGateway is the gateway name that stands for the sidecars.
const meshGateway = "mesh"

// statPrefix ends a name with the mark by which Istio's stats rules find its end.
func statPrefix(name string) string { return name + ";" }

// pack serializes a message for a field of type Any. The bytes are the same for the
// same message, so that equal configuration stays equal.
func pack(m proto.Message) *anypb.Any {
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		// Marshal fails on invalid UTF-8 only, which neither YAML nor JSON can carry
		// into a string of an object.
		bytes = nil
	}
	return &anypb.Any{
		TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()),
		Value:   bytes,
	}
}

// joinField appends to a field path; a key that has a dot or a bracket is quoted.
func joinField(base, key string) string {
	if strings.ContainsAny(key, ".[]\"") {
		return base + "[" + strconv.Quote(key) + "]"
	}
	return base + "." + key
}
