// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/protobuf/types/known/structpb"

	"pillion/proxy/http"
)

// node is one value of a compiled JSON format. Immutable.
type node struct {
	kind nodeKind
	// key is what comes in front of the value in an object: the quoted name
	// and a colon.
	key      string
	lit      string    // of nodeLiteral
	text     *template // of nodeText, with literals escaped
	value    segment   // of nodeValue
	children []node    // of nodeObject and nodeList
}

type nodeKind uint8

const (
	nodeLiteral nodeKind = iota // a value that is the same in each line
	nodeNull                    // null
	nodeValue                   // one operator: a number or a string
	nodeText                    // text with operators: a string
	nodeObject
	nodeList
)

// compileJSON compiles the value of a JSON format at path, which errors name.
func compileJSON(v *structpb.Value, path string, env *compileEnv) (node, error) {
	switch v := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		return compileObject(v.StructValue, path, env)
	case *structpb.Value_ListValue:
		n := node{kind: nodeList}
		for i, item := range v.ListValue.GetValues() {
			child, err := compileJSON(item, path+"["+strconv.Itoa(i)+"]", env)
			if err != nil {
				return n, err
			}
			n.children = append(n.children, child)
		}
		return n, nil
	case *structpb.Value_StringValue:
		return compileString(v.StringValue, path, env)
	case *structpb.Value_BoolValue:
		return node{kind: nodeLiteral, lit: strconv.FormatBool(v.BoolValue)}, nil
	case *structpb.Value_NumberValue:
		lit := strconv.FormatFloat(v.NumberValue, 'f', -1, 64)
		if v.NumberValue != float64(int64(v.NumberValue)) {
			lit = `"` + lit + `"` // as Envoy has it
		}
		return node{kind: nodeLiteral, lit: lit}, nil
	}
	return node{kind: nodeNull}, nil
}

// compileObject compiles an object. Its keys are written in sorted order.
func compileObject(s *structpb.Struct, path string, env *compileEnv) (node, error) {
	n := node{kind: nodeObject}
	for _, name := range slices.Sorted(maps.Keys(s.GetFields())) {
		child, err := compileJSON(s.Fields[name], path+"."+name, env)
		if err != nil {
			return n, err
		}
		child.key = quoted(name) + ":"
		n.children = append(n.children, child)
	}
	return n, nil
}

func compileString(s, path string, env *compileEnv) (node, error) {
	t, err := compile(s, env)
	if err != nil {
		return node{}, fmt.Errorf("%s: %w", path, err)
	}
	for i := range t.segments {
		if f := t.segments[i].time; f != nil {
			f.escape(asJSON)
		}
	}
	switch {
	case len(t.segments) == 0:
		return node{kind: nodeLiteral, lit: `""`}, nil
	case len(t.segments) > 1:
		for i := range t.segments {
			if s := &t.segments[i]; s.op == opLiteral {
				s.lit = string(appendEscaped(nil, s.lit, asJSON))
			}
		}
		return node{kind: nodeText, text: t}, nil
	case t.segments[0].op == opLiteral:
		return node{kind: nodeLiteral, lit: quoted(t.segments[0].lit)}, nil
	}
	return node{kind: nodeValue, value: t.segments[0]}, nil
}

func quoted(s string) string {
	return string(append(appendEscaped([]byte{'"'}, s, asJSON), '"'))
}

// append appends the value. With omit, what has no value is left out, objects
// and lists that are empty for it too, and false is returned in that case.
func (n *node) append(dst []byte, ex *http.Exchange, omit bool) ([]byte, bool) {
	switch n.kind {
	case nodeLiteral:
		return append(dst, n.lit...), true
	case nodeText:
		dst = append(dst, '"')
		dst = n.text.append(dst, ex, asJSON, missing(omit))
		return append(dst, '"'), true
	case nodeValue:
		if out, ok := n.appendValue(dst, ex); ok {
			return out, true
		}
		fallthrough
	case nodeNull:
		if omit {
			return dst, false
		}
		return append(dst, "null"...), true
	}
	return n.appendChildren(dst, ex, omit)
}

func (n *node) appendValue(dst []byte, ex *http.Exchange) ([]byte, bool) {
	if n.value.op == opMetadata {
		return n.value.appendMetadataJSON(dst, ex)
	}
	if n.value.op.numeric() {
		return n.value.append(dst, ex, asJSON)
	}
	dst, ok := n.value.append(append(dst, '"'), ex, asJSON)
	return append(dst, '"'), ok
}

func (n *node) appendChildren(dst []byte, ex *http.Exchange, omit bool) ([]byte, bool) {
	open, end := byte('{'), byte('}')
	if n.kind == nodeList {
		open, end = '[', ']'
	}
	dst = append(dst, open)
	start := len(dst)
	for i := range n.children {
		child := &n.children[i]
		before := len(dst)
		if before > start {
			dst = append(dst, ',')
		}
		dst = append(dst, child.key...)
		var ok bool
		if dst, ok = child.append(dst, ex, omit); !ok {
			dst = dst[:before]
		}
	}
	if omit && len(dst) == start && len(n.children) > 0 {
		return dst[:start-1], false
	}
	return append(dst, end), true
}
