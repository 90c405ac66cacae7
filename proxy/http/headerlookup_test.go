// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bytes"
	"strings"
	"testing"
)

func TestLookupHeader(t *testing.T) {
	for id := HeaderOther + 1; id < numHeaderIDs; id++ {
		name := id.String()
		for _, form := range []string{name, strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:]} {
			if got := LookupHeader([]byte(form)); got != id {
				t.Errorf("LookupHeader(%q) = %d, want %d", form, got, id)
			}
		}
	}
	for _, other := range []string{"", "x", "hosts", "content-lengti", "content_length", "x-nothing-of-the-kind",
		strings.Repeat("a", maxKnownName), strings.Repeat("a", maxKnownName+1)} {
		if got := LookupHeader([]byte(other)); got != HeaderOther {
			t.Errorf("LookupHeader(%q) = %v, want none", other, got)
		}
	}
}

// TestLookupHeaderIsExact changes each octet of each name to every other
// value: only the other case of a letter may still be found.
func TestLookupHeaderIsExact(t *testing.T) {
	for id := HeaderOther + 1; id < numHeaderIDs; id++ {
		known := []byte(id.String())
		for i := range known {
			for c := range 256 {
				name := bytes.Clone(known)
				name[i] = byte(c)
				same := bytes.EqualFold(name, known) && c < 0x80
				if got := LookupHeader(name) == id; got != same {
					t.Fatalf("LookupHeader(%q) is %v: %t, want %t", name, id, got, same)
				}
			}
		}
	}
}
