// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"pillion/proxy/http"
)

// header is the name of a field that the filter reads or writes. Immutable.
type header struct {
	id   http.HeaderID
	name []byte // in lower case
}

func newHeader(name string) header {
	name = strings.ToLower(name)
	return header{http.LookupHeader([]byte(name)), []byte(name)}
}

// claimHeader copies a claim, found along path, into a field.
type claimHeader struct {
	header header
	path   []string
}

// claimField is a field of a verified token.
type claimField struct {
	header header
	value  []byte
}

// claim finds the value at a path of names, which leads through objects only.
func claim(claims map[string]any, path []string) (v any, ok bool) {
	v = claims
	for _, name := range path {
		object, isObject := v.(map[string]any)
		if !isObject {
			return nil, false
		}
		if v, ok = object[name]; !ok {
			return nil, false
		}
	}
	return v, ok
}

// claimText returns a claim as the value of a field; empty where it makes none
// (Envoy: AuthenticatorImpl::addJWTClaimToHeader). A value that can't stand in a
// field is none: a line end would let whoever chose the claim add fields.
func claimText(v any) string {
	switch v := v.(type) {
	case string:
		if !validValue(v) {
			return ""
		}
		return v
	case float64:
		if v >= 0 && v < math.MaxUint64 && v == math.Trunc(v) {
			return strconv.FormatUint(uint64(v), 10)
		}
		return strconv.FormatFloat(v, 'f', 6, 64)
	case bool:
		return strconv.FormatBool(v)
	case []any, map[string]any:
		text, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		return base64.StdEncoding.EncodeToString(text)
	}
	return ""
}

// validValue reports whether a text may stand in a field (RFC 9110 section
// 5.5).
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return strings.TrimSpace(s) == s
}

// finish makes what the provider hands on of a verified token, once for all
// requests that bring it.
func (p *Provider) finish(t *token) {
	if p.payloadHeader != nil {
		value := t.payload
		if p.padPayload {
			value += strings.Repeat("=", -len(value)&3)
		}
		t.fields = append(t.fields, claimField{*p.payloadHeader, []byte(value)})
	}
	for _, c := range p.claimHeaders {
		v, ok := claim(t.claims, c.path)
		if !ok {
			continue
		}
		if text := claimText(v); text != "" {
			t.fields = append(t.fields, claimField{c.header, []byte(text)})
		}
	}
	t.normalized = t.claims
	for _, name := range p.spaceDelimited {
		text, ok := t.claims[name].(string)
		if !ok {
			continue
		}
		if len(t.normalized) == len(t.claims) {
			t.normalized = cloneObject(t.normalized)
		}
		list := []any{}
		for part := range strings.SplitSeq(text, " ") {
			if part != "" {
				list = append(list, part)
			}
		}
		t.normalized[name] = list
	}
}

func cloneObject(o map[string]any) map[string]any {
	c := make(map[string]any, len(o))
	for k, v := range o {
		c[k] = v
	}
	return c
}

// metadataName is under which filters find what tokens say.
const metadataName = "envoy.filters.http.jwt_authn"

// handOn edits the request for a verified token.
func (p *Provider) handOn(ex *http.Exchange, c *candidate, t *token) {
	fields := &ex.Req.Fields
	for i := range t.fields {
		f := &t.fields[i]
		fields.Append(http.Field{ID: f.header.id, Name: f.header.name, Value: f.value})
	}
	if !p.forward {
		c.remove(ex)
	}
	if p.headerMetadata != "" {
		ex.Metadata.SetField(metadataName, p.headerMetadata, t.header)
	}
	if p.payloadMetadata != "" {
		ex.Metadata.SetField(metadataName, p.payloadMetadata, t.normalized)
	}
}

// tellFailure puts the status of a failed token into metadata.
func (p *Provider) tellFailure(ex *http.Exchange, s Status) {
	if p.failedMetadata != "" {
		ex.Metadata.SetField(metadataName, p.failedMetadata, map[string]any{"code": float64(s), "message": s.String()})
	}
}
