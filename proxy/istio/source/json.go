// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"encoding/json"
	"strings"

	"go.yaml.in/yaml/v3"
)

// looksLikeJSON reports whether a document may be JSON: whether it begins with a brace,
// behind its marker.
func looksLikeJSON(text []byte) bool {
	text = bytes.TrimSpace(bytes.TrimPrefix(text, []byte("---")))
	return len(text) > 0 && text[0] == '{'
}

// parseJSON reads a JSON document into a YAML tree; nil when it isn't JSON. JSON is said
// to be YAML, but the YAML library doesn't know the escapes \/ and \ud83d\ude00, which
// programs that write JSON do use. Kubernetes' own tools make the same distinction.
func parseJSON(text []byte) *yaml.Node {
	if !looksLikeJSON(text) {
		return nil
	}
	// The marker makes way for blanks, so that offsets stay.
	if bytes.HasPrefix(text, []byte("---")) {
		text = append([]byte("   "), text[3:]...)
	}
	if !json.Valid(text) {
		return nil
	}
	r := jsonReader{dec: json.NewDecoder(bytes.NewReader(text)), text: text, line: 1}
	r.dec.UseNumber()
	return r.value(r.token())
}

// jsonReader reads text that is valid JSON.
type jsonReader struct {
	dec  *json.Decoder
	text []byte
	at   int // offset up to which lines are counted
	line int // of that offset, counted from 1
}

// token returns the next token and makes line that of its end, which is that of its
// start: no token of JSON spans lines.
func (r *jsonReader) token() json.Token {
	t, err := r.dec.Token()
	if err != nil {
		return nil // can't be: the text is valid and is read in step with its nesting
	}
	end := int(r.dec.InputOffset())
	r.line += bytes.Count(r.text[r.at:end], []byte("\n"))
	r.at = end
	return t
}

// value reads the value that a token begins.
func (r *jsonReader) value(t json.Token) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: r.line}
	switch t := t.(type) {
	case json.Delim:
		n.Kind, n.Tag, n.Style = yaml.MappingNode, "!!map", yaml.FlowStyle
		if t == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		// Keys of a mapping are values like others here.
		for r.dec.More() {
			n.Content = append(n.Content, r.value(r.token()))
		}
		r.token() // the closing bracket
	case string:
		n.Tag, n.Value, n.Style = "!!str", t, yaml.DoubleQuotedStyle
	case json.Number:
		n.Tag, n.Value = "!!int", t.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case bool:
		n.Tag, n.Value = "!!bool", "false"
		if t {
			n.Value = "true"
		}
	default:
		n.Tag, n.Value = "!!null", "null"
	}
	return n
}
