// SPDX-License-Identifier: Apache-2.0

package peermeta

import (
	"cmp"
	"encoding/base64"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/http"
)

// strict bounds what a stranger can make the decoder do: the metadata are three
// levels deep, and a Struct has three messages for each.
var strict = proto.UnmarshalOptions{RecursionLimit: 32}

// decodeHeader reads the value of x-envoy-peer-metadata. false: it can't be read.
func decodeHeader(value []byte) (http.Peer, bool) {
	if len(value) > maxHeader {
		return http.Peer{}, false
	}
	body := make([]byte, base64.StdEncoding.DecodedLen(len(value)))
	n, err := base64.StdEncoding.Strict().Decode(body, value)
	if err != nil {
		return http.Peer{}, false
	}
	s := &structpb.Struct{}
	if strict.Unmarshal(body[:n], s) != nil {
		return http.Peer{}, false
	}
	return peerOf(s), true
}

// decodeFrame reads the body of a frame.
func decodeFrame(body []byte) (http.Peer, bool) {
	packed, all := &anypb.Any{}, &structpb.Struct{}
	if strict.Unmarshal(body, packed) != nil || !packed.MessageIs(all) || strict.Unmarshal(packed.GetValue(), all) != nil {
		return http.Peer{}, false
	}
	s := all.GetFields()["x-envoy-peer-metadata"].GetStructValue()
	if s == nil {
		return http.Peer{}, false
	}
	return peerOf(s), true
}

// peerOf reads a workload. Its values are text that a stranger chose: what no name
// of Kubernetes could be is left out.
func peerOf(s *structpb.Struct) http.Peer {
	text := func(name string) string { return sane(s.GetFields()[name]) }
	labels := map[string]string{}
	for name, v := range s.GetFields()[fieldLabels].GetStructValue().GetFields() {
		if value := sane(v); value != "" && len(name) <= maxValue {
			labels[name] = value
		}
	}
	either := func(a, b string) string {
		if v := labels[a]; v != "" {
			return v
		}
		return labels[b]
	}
	return http.Peer{
		Workload:          text(fieldWorkload),
		Namespace:         text(fieldNamespace),
		ClusterID:         text(fieldCluster),
		CanonicalService:  labels[labelCanonicalName],
		CanonicalRevision: labels[labelCanonicalRevision],
		App:               either(labelAppName, labelApp),
		Version:           either(labelAppVersion, labelVersion),
		Detail: &http.PeerDetail{
			Name: text(fieldName), Owner: text(fieldOwner), Identity: text(fieldIdentity),
			Region: text(fieldRegion), Zone: text(fieldZone), Labels: labels,
		},
	}
}

// PeerOf reads a workload from the metadata of the node beside it, as the proxy tells
// them to istiod. Where the mesh has named no canonical service it is named as Istio's
// webhook does: by the labels of the application, else by the workload.
func PeerOf(metadata *structpb.Struct) http.Peer {
	p := peerOf(metadata)
	p.CanonicalService = cmp.Or(p.CanonicalService, p.App, p.Workload)
	p.CanonicalRevision = cmp.Or(p.CanonicalRevision, p.Version, "latest")
	return p
}

// sane returns a text that fits in a label and in a line of a log.
func sane(v *structpb.Value) string {
	s := v.GetStringValue()
	if len(s) > maxValue || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return ""
	}
	return s
}

// namespaceOf returns the namespace in a SPIFFE identity of Istio's form:
// spiffe://trust-domain/ns/namespace/sa/account.
func namespaceOf(principal string) string {
	_, rest, ok := strings.Cut(principal, "/ns/")
	if !ok {
		return ""
	}
	namespace, _, _ := strings.Cut(rest, "/")
	return namespace
}
