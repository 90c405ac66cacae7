// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Metadata is what filters tell each other, and the access log, about one
// exchange: Envoy's dynamic metadata. A value is JSON as encoding/json decodes
// it into an any (nil, bool, float64, string, []any, map[string]any) and is
// immutable once set, so a filter may hand out what it shares between requests.
// The zero value is empty and costs nothing.
type Metadata struct {
	entries []metadataEntry // owned by the exchange; the latest come last
}

// metadataEntry is all of a filter's fields (key is empty, value usually a
// map[string]any) or one of them.
type metadataEntry struct {
	filter, key string
	value       any
}

// Set gives a filter's metadata. What is set twice is merged as Envoy's
// setDynamicMetadata merges it: fields of the later object replace those of
// the earlier one, other fields stay.
func (m *Metadata) Set(filter string, v any) {
	m.entries = append(m.entries, metadataEntry{filter: filter, value: v})
}

// SetField sets one field of a filter's metadata.
func (m *Metadata) SetField(filter, key string, v any) {
	m.entries = append(m.entries, metadataEntry{filter: filter, key: key, value: v})
}

// Get finds the value at a path of keys, which leads through objects only;
// without a path, all that the filter set.
func (m *Metadata) Get(filter string, path ...string) (any, bool) {
	if len(path) == 0 {
		return m.all(filter)
	}
	for i := len(m.entries) - 1; i >= 0; i-- {
		e := &m.entries[i]
		if e.filter != filter {
			continue
		}
		v, found := e.value, e.key == path[0]
		if e.key == "" {
			v, found = member(e.value, path[0])
		}
		if !found {
			continue
		}
		for _, key := range path[1:] {
			if v, found = member(v, key); !found {
				return nil, false
			}
		}
		return v, true
	}
	return nil, false
}

func member(v any, key string) (any, bool) {
	object, ok := v.(map[string]any)
	if !ok {
		return nil, false
	}
	v, ok = object[key]
	return v, ok
}

// all returns what a filter set in one value, merged if it came in pieces.
func (m *Metadata) all(filter string) (any, bool) {
	var whole any
	var merged map[string]any
	n := 0
	for i := range m.entries {
		e := &m.entries[i]
		if e.filter != filter {
			continue
		}
		n++
		object, isObject := e.value.(map[string]any)
		if e.key == "" && (n == 1 || !isObject) {
			whole, merged = e.value, nil
			continue
		}
		if merged == nil {
			merged = map[string]any{}
			if earlier, ok := whole.(map[string]any); ok {
				for k, v := range earlier {
					merged[k] = v
				}
			}
			whole = merged
		}
		if e.key != "" {
			merged[e.key] = e.value
			continue
		}
		for k, v := range object {
			merged[k] = v
		}
	}
	return whole, n > 0
}

// reset forgets everything and keeps the memory, without what it pointed to.
func (m *Metadata) reset() {
	clear(m.entries)
	m.entries = m.entries[:0]
}

// MetadataPath names a value in the metadata of an exchange, as
// %DYNAMIC_METADATA(FILTER:KEY:...)% does. Immutable.
type MetadataPath struct {
	filter string
	keys   []string
}

// ParseMetadataPath reads FILTER or FILTER:KEY:... .
func ParseMetadataPath(s string) (*MetadataPath, error) {
	parts := strings.Split(s, ":")
	if slices.Contains(parts, "") {
		return nil, errors.New("must be FILTER or FILTER:KEY:KEY and so on, as in envoy.filters.http.rbac:shadow_engine_result")
	}
	return &MetadataPath{parts[0], parts[1:]}, nil
}

// NewMetadataPath is ParseMetadataPath for a path that is in parts already.
func NewMetadataPath(filter string, keys ...string) *MetadataPath { return &MetadataPath{filter, keys} }

// Value finds the value. As with Envoy a null is no value.
func (p *MetadataPath) Value(m *Metadata) (any, bool) {
	v, found := m.Get(p.filter, p.keys...)
	return v, found && v != nil
}

// Append appends the value as text, and returns false if there is none: strings
// as they are, anything else as JSON.
func (p *MetadataPath) Append(dst []byte, m *Metadata) ([]byte, bool) {
	v, found := p.Value(m)
	if !found {
		return dst, false
	}
	if s, ok := v.(string); ok {
		return append(dst, s...), true
	}
	return AppendJSON(dst, v), true
}

// AppendJSON appends a value of metadata as JSON on one line. Keys are in order.
func AppendJSON(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	}
	var out bytes.Buffer // not dst itself, which may be on the caller's stack
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil { // a number that JSON doesn't have
		return append(dst, "null"...)
	}
	return append(dst, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}
