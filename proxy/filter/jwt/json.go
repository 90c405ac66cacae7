// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"
)

// maxDepth bounds the nesting of JSON in tokens and key sets.
const maxDepth = 64

var (
	errDepth     = errors.New("it is nested too deeply")
	errDuplicate = errors.New("a name stands twice in one object")
	errNotUTF8   = errors.New("it is not UTF-8")
	errTrailing  = errors.New("something follows the value")
	errNotObject = errors.New("it is no object")
)

// parseObject reads a JSON object. Whatever two readers could take in two ways
// is refused: a name that stands twice (RFC 7519 section 4 lets a parser take
// either), octets that aren't UTF-8, and anything behind the value.
func parseObject(text []byte) (map[string]any, error) {
	if !utf8.Valid(text) {
		return nil, errNotUTF8
	}
	d := json.NewDecoder(bytes.NewReader(text))
	v, err := parseValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errTrailing
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, errNotObject
	}
	return object, nil
}

func parseValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == maxDepth {
		return nil, errDepth
	}
	if open == '[' {
		return parseList(d, depth)
	}
	object := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name := t.(string) // Token returns nothing else before a colon
		if _, twice := object[name]; twice {
			return nil, errDuplicate
		}
		if object[name], err = parseValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err = d.Token()
	return object, err
}

func parseList(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		v, err := parseValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.Token()
	return list, err
}
