// SPDX-License-Identifier: Apache-2.0

package peermeta

import (
	"bytes"
	"strings"
	"testing"

	"pillion/proxy/http"
)

// wellFormed checks what a peer may be made of.
func wellFormed(t *testing.T, p *http.Peer) {
	t.Helper()
	if p.Principal != "" || p.ServiceHost != "" {
		t.Fatalf("a peer says what only configuration or a certificate may: %+v", p)
	}
	values := []string{p.Workload, p.Namespace, p.ClusterID, p.App, p.Version, p.CanonicalService, p.CanonicalRevision,
		p.Detail.Name, p.Detail.Owner, p.Detail.Identity, p.Detail.Region, p.Detail.Zone}
	for _, v := range p.Detail.Labels {
		values = append(values, v)
	}
	for _, v := range values {
		if len(v) > maxValue || strings.ContainsAny(v, "\r\n\x00") {
			t.Fatalf("%q", v)
		}
	}
}

// FuzzHeader: no value of the field does more than not to be read, and it means the
// same each time.
func FuzzHeader(f *testing.F) {
	good := webExchanger().node.say([]string{"team"}).header
	for _, s := range [][]byte{good, good[:len(good)-4], nil, []byte("===="), bytes.Repeat(good, 3), header(f, map[string]any{"LABELS": map[string]any{"app": "a"}})} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		c := newCache()
		p := c.find(value, "spiffe://td/ns/n/sa/s", decodeHeader)
		again := c.find(value, "spiffe://td/ns/n/sa/s", decodeHeader)
		if (p == nil) != (again == nil) || len(value) <= maxKept && p != again {
			t.Fatalf("%v, then %v", p, again)
		}
		if p == nil {
			return
		}
		if p.Namespace != "n" {
			t.Fatalf("namespace %q", p.Namespace)
		}
		wellFormed(t, p)
	})
}

// FuzzFrame: a connection's first bytes mean the same however they come, and never
// more of them are taken out than have come.
func FuzzFrame(f *testing.F) {
	good := webExchanger().node.say(nil).frame
	for _, s := range [][]byte{good, append(append([]byte{}, good...), "data"...), good[:20], []byte("=#\x04g"), []byte("GET / HTTP/1.1"), []byte("=#\x04g\xff\xff\xff\xff")} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x := webExchanger()
		whole := x.Read(b, "")
		if whole.Skip > len(b) || whole.More && (whole.Skip > 0 || whole.Broken) {
			t.Fatalf("%+v of %d octets", whole, len(b))
		}
		if whole.Peer != nil {
			wellFormed(t, whole.Peer)
		}
		for n := range min(len(b), 12) {
			part := x.Read(b[:n], "")
			if !part.More && (part.Skip != whole.Skip || part.Broken != whole.Broken) {
				t.Fatalf("%d octets: %+v, all: %+v", n, part, whole)
			}
		}
	})
}
