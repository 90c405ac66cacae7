// SPDX-License-Identifier: Apache-2.0

// Package peermeta is Istio's exchange of metadata: the workloads at both ends of
// a request or of a raw connection tell each other who they are, so that metrics,
// access logs and traces of either side name both.
//
// Requests carry it in the fields x-envoy-peer-metadata and
// x-envoy-peer-metadata-id, which are taken out before an application sees them;
// raw connections carry a frame before their first byte. Forms and names are
// those of Istio's own filters (istio/proxy:
// source/extensions/filters/http/peer_metadata,
// source/extensions/filters/network/metadata_exchange, extensions/common/metadata_object).
//
// What a peer says of itself is a label and no proof of anything: it names no
// principal, and where there is a certificate the namespace is that of its
// SPIFFE ID. What can't be read makes the peer unknown and is counted.
package peermeta

import (
	"encoding/base64"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/http"
)

// Bounds on what is told, and on what is listened to: a value of the field in
// octets, and a frame's body. A name of Kubernetes has 253 octets at most.
const (
	maxHeader = 16 << 10
	maxFrame  = 60 << 10
	maxValue  = 512
	// maxKept is what of either is remembered. Nobody who has nothing to hide is near.
	maxKept = 8 << 10
)

// The fields of the metadata.
const (
	fieldName      = "NAME"
	fieldNamespace = "NAMESPACE"
	fieldWorkload  = "WORKLOAD_NAME"
	fieldCluster   = "CLUSTER_ID"
	fieldIdentity  = "IDENTITY"
	fieldOwner     = "OWNER"
	fieldLabels    = "LABELS"
	fieldRegion    = "REGION"
	fieldZone      = "AVAILABILITY_ZONE"
)

// The labels that say what metrics want to know. The first one of two that is
// there counts.
const (
	labelCanonicalName     = "service.istio.io/canonical-name"
	labelCanonicalRevision = "service.istio.io/canonical-revision"
	labelAppName           = "app.kubernetes.io/name"
	labelApp               = "app"
	labelAppVersion        = "app.kubernetes.io/version"
	labelVersion           = "version"
)

// Node is what a proxy tells of the workload beside it. One without an id, which no
// control plane has given a place in a mesh, tells nothing. Safe for concurrent use.
type Node struct {
	own    http.Peer         // immutable
	labels map[string]string // immutable
	id     string            // immutable

	mu    sync.Mutex
	words map[string]*words // by the further labels that are told; guarded by mu
}

// words are all forms of what is told. Immutable.
type words struct {
	header []byte // x-envoy-peer-metadata
	id     []byte // x-envoy-peer-metadata-id
	frame  []byte // of raw connections
}

// NewNode returns the node with that id (type~ip~pod.namespace~domain) beside the
// workload own, which has those labels.
func NewNode(own http.Peer, labels map[string]string, id string) *Node {
	return &Node{own: own, labels: maps.Clone(labels), id: id, words: map[string]*words{}}
}

// say returns what is told, with further labels. It is made once for each list of
// these, of which configuration has one or two.
func (n *Node) say(more []string) *words {
	more = slices.Sorted(slices.Values(more))
	key := strings.Join(more, "\x00")
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.words[key]
	if w == nil {
		w = n.encode(more)
		if len(w.header) > maxHeader || len(w.frame) > maxFrame {
			// Nobody would listen, and the other end is to know the rest.
			w = n.encode(nil)
		}
		n.words[key] = w
	}
	return w
}

func (n *Node) encode(more []string) *words {
	s := n.metadata(more)
	w := &words{id: []byte(n.id)}
	// A message that was made here can't fail to be encoded.
	body, _ := deterministic.Marshal(s)
	w.header = base64.StdEncoding.AppendEncode(nil, body)
	all := &structpb.Struct{Fields: map[string]*structpb.Value{
		"x-envoy-peer-metadata":    structpb.NewStructValue(s),
		"x-envoy-peer-metadata-id": structpb.NewStringValue(n.id),
	}}
	packed := &anypb.Any{}
	_ = anypb.MarshalFrom(packed, all, deterministic)
	body, _ = deterministic.Marshal(packed)
	w.frame = binary.BigEndian.AppendUint32(w.frame, magic)
	w.frame = binary.BigEndian.AppendUint32(w.frame, uint32(len(body)))
	w.frame = append(w.frame, body...)
	return w
}

var deterministic = proto.MarshalOptions{Deterministic: true}

// metadata is the workload as a Struct. What isn't known is left out.
func (n *Node) metadata(more []string) *structpb.Struct {
	own, detail := &n.own, n.own.Detail
	if detail == nil {
		detail = &http.PeerDetail{}
	}
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	put(s, fieldName, detail.Name)
	put(s, fieldNamespace, own.Namespace)
	put(s, fieldWorkload, own.Workload)
	put(s, fieldCluster, own.ClusterID)
	put(s, fieldIdentity, detail.Identity)
	put(s, fieldOwner, detail.Owner)
	put(s, fieldRegion, detail.Region)
	put(s, fieldZone, detail.Zone)
	labels := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	put(labels, labelCanonicalName, own.CanonicalService)
	put(labels, labelCanonicalRevision, own.CanonicalRevision)
	put(labels, labelApp, own.App)
	put(labels, labelVersion, own.Version)
	for _, l := range more {
		put(labels, l, n.labels[l])
	}
	s.Fields[fieldLabels] = structpb.NewStructValue(labels)
	return s
}

func put(s *structpb.Struct, name, value string) {
	if value != "" {
		s.Fields[name] = structpb.NewStringValue(strings.ToValidUTF8(value, "\uFFFD"))
	}
}
