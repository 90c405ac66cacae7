// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"

	"go.yaml.in/yaml/v3"
	mesh "istio.io/api/mesh/v1alpha1"
)

// LoadMeshConfig reads a MeshConfig, as it stands under the key "mesh" of Istio's
// ConfigMap, from a file. The object's Spec is a *mesh/v1alpha1.MeshConfig. A field
// that isn't known is an error: policies lean on what stands here. Where Istio's default
// isn't the zero value, which can't be told from no value, a field that isn't given has it. When there are
// errors the object is nil; warnings come with it.
func LoadMeshConfig(path string) (*Object, []Problem) {
	var out report
	refuse := func(line int, reason string) (*Object, []Problem) {
		return nil, []Problem{{File: path, Line: line, Object: "MeshConfig", Reason: reason}}
	}
	data, err := readFile(path, nil)
	if err != nil {
		return refuse(0, pathReason(err))
	}
	data = bytes.TrimPrefix(data, []byte(utf8BOM))
	if line := badUTF8(data); line > 0 {
		return refuse(line, "not UTF-8 text")
	}
	docs := split(&file{name: path, data: data})
	r := reader{options: &Options{}, trees: &treeCache{}, result: &result{}}
	var root *yaml.Node
	for i := range docs {
		tree, syntax := docs[i].parse()
		switch {
		case syntax != nil:
			return refuse(syntax.line, syntax.reason)
		case tree == nil || isNull(tree):
			continue
		case root != nil:
			return refuse(tree.Line, "a second document; a file holds one MeshConfig")
		}
		root, r.doc = tree, &docs[i]
	}
	obj := &Object{Kind: "MeshConfig", Namespace: "istio-system", Name: "istio", File: path}
	spec := &mesh.MeshConfig{EnableTracing: true} // Istio's default
	obj.Spec = spec
	if root == nil {
		return obj, nil
	}
	if bad := checkTree(root, r.arena.root()); len(bad) > 0 {
		return refuse(bad[0].line, bad[0].reason)
	}
	obj.Line = root.Line
	s := &subject{Object: obj, root: target(root), top: r.arena.root(), strict: true, out: &out}
	if hasKey(s.root, "kind") {
		return refuse(root.Line, "is a Kubernetes object; a MeshConfig is the text under its key \"mesh\" alone")
	}
	s.message(root, s.top, spec.ProtoReflect())
	obj.origin.Store(&origin{doc: r.doc, trees: r.trees})
	out.sort()
	out.close()
	if len(out.errors) > 0 {
		return nil, append(out.errors, out.warnings...)
	}
	return obj, out.warnings
}
