// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	nethttp "net/http"
	"strconv"
	"strings"
)

// view is the form in which a client wants objects: in one of their versions,
// or only their metadata.
type view struct {
	apiVersion, kind string
	metadataOnly     bool
}

// viewOf reads the Accept header, where a client asks for metadata by
// "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1".
func viewOf(r *nethttp.Request, t target) view {
	for accept := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		if strings.Contains(accept, "as=PartialObjectMetadata") {
			return view{"meta.k8s.io/v1", "PartialObjectMetadata", true}
		}
	}
	return view{apiVersion: t.res.apiVersion(t.version), kind: t.res.Kind}
}

func (v view) one(obj Object) Object {
	if v.metadataOnly {
		return Object{"apiVersion": v.apiVersion, "kind": v.kind, "metadata": obj["metadata"]}
	}
	obj = maps.Clone(obj)
	obj["apiVersion"], obj["kind"] = v.apiVersion, v.kind
	return obj
}

func (v view) list(objects []Object, rev int64) Object {
	items := make([]any, len(objects)) // never null
	for i, obj := range objects {
		items[i] = v.one(obj)
	}
	return Object{"apiVersion": v.apiVersion, "kind": v.kind + "List", "metadata": Object{"resourceVersion": strconv.FormatInt(rev, 10)}, "items": items}
}

// bookmark says that all up to a revision has been sent, and, at the end of
// the objects that were there first, that they are complete.
func (v view) bookmark(rev int64) Object {
	return Object{"apiVersion": v.apiVersion, "kind": v.kind, "metadata": Object{"resourceVersion": strconv.FormatInt(rev, 10),
		"creationTimestamp": nil, "annotations": Object{"k8s.io/initial-events-end": "true"}}}
}
