// SPDX-License-Identifier: Apache-2.0

package http_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"pillion/proxy/http"
)

func TestMetadata(t *testing.T) {
	var claims any
	if err := json.Unmarshal([]byte(`{"iss":"a","realm_access":{"roles":["x","y"]},"aud":["1"]}`), &claims); err != nil {
		t.Fatal(err)
	}
	var m http.Metadata
	if v, ok := m.Get("jwt"); ok || v != nil {
		t.Fatalf("empty: %v %v", v, ok)
	}
	m.Set("jwt", map[string]any{"payload": claims, "old": 1.0})
	m.Set("other", "text")
	m.Set("jwt", map[string]any{"old": 2.0})
	m.SetField("jwt", "field", true)

	for _, c := range []struct {
		filter string
		path   []string
		want   any
		found  bool
	}{
		{"jwt", []string{"payload", "iss"}, "a", true},
		{"jwt", []string{"payload", "realm_access", "roles"}, []any{"x", "y"}, true},
		{"jwt", []string{"payload", "realm_access", "none"}, nil, false},
		{"jwt", []string{"payload", "iss", "deeper"}, nil, false},
		{"jwt", []string{"payload", "aud", "0"}, nil, false},
		{"jwt", []string{"old"}, 2.0, true},
		{"jwt", []string{"field"}, true, true},
		{"jwt", nil, map[string]any{"payload": claims, "old": 2.0, "field": true}, true},
		{"other", nil, "text", true},
		{"other", []string{"x"}, nil, false},
		{"none", nil, nil, false},
	} {
		got, found := m.Get(c.filter, c.path...)
		if found != c.found || !reflect.DeepEqual(got, c.want) {
			t.Errorf("Get(%s, %q) = %v, %v", c.filter, c.path, got, found)
		}
	}
}

func TestMetadataOfAReusedExchange(t *testing.T) {
	var ex http.Exchange
	value := any(map[string]any{"a": "b"})
	use := func() {
		ex.Reset()
		if _, ok := ex.Metadata.Get("f"); ok {
			t.Fatal("metadata outlived its exchange")
		}
		ex.Metadata.Set("f", value)
		ex.Metadata.SetField("f", "c", value)
		if _, ok := ex.Metadata.Get("f", "c", "a"); !ok {
			t.Fatal("not found")
		}
	}
	use()
	if n := testing.AllocsPerRun(100, use); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
