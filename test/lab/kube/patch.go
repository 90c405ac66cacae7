// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"mime"
	nethttp "net/http"

	"sigs.k8s.io/yaml"
)

// patch changes an object by RFC 7396. A strategic merge patch is taken for
// one of these: it differs in lists that are merged by a key. A server-side
// apply is one too, and makes the object if it isn't there.
func (s *Server) patch(contentType string, t target, body []byte) (Object, error) {
	kind, _, _ := mime.ParseMediaType(contentType)
	var apply bool
	switch kind {
	case "application/merge-patch+json", "application/strategic-merge-patch+json":
	case "application/apply-patch+yaml":
		apply = true
		var err error
		if body, err = yaml.YAMLToJSON(body); err != nil {
			return nil, failure(nethttp.StatusBadRequest, "BadRequest", "the body is no YAML: %v", err)
		}
	default:
		return nil, failure(nethttp.StatusUnsupportedMediaType, "UnsupportedMediaType", "a patch of type %q isn't served here", kind)
	}
	change, err := decode(body)
	if err != nil {
		return nil, err
	}
	obj, err := s.store.update(t.res, t.ns, t.name, t.sub, func(obj Object) (Object, error) {
		return merge(obj, change).(Object), nil
	})
	if !apply || !IsNotFound(err) || t.sub != "" {
		return obj, err
	}
	meta, _ := change["metadata"].(Object)
	if meta == nil {
		meta = Object{}
		change["metadata"] = meta
	}
	meta["name"] = t.name
	return s.store.create(t.res, t.ns, change)
}

// merge is MergePatch of RFC 7396, section 2.
func merge(into, patch any) any {
	p, ok := patch.(Object)
	if !ok {
		return patch
	}
	m, ok := into.(Object)
	if !ok {
		m = Object{}
	}
	for k, v := range p {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = merge(m[k], v)
		}
	}
	return m
}
