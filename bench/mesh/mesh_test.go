// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// documents reads the YAML documents of a file.
func documents(t *testing.T, file string) []map[string]any {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.ContainsAny(b, "\t") || strings.Contains(strings.ReplaceAll(string(b), "{{", ""), "{N") {
		t.Errorf("%s has a tab or an unfilled name:\n%s", file, b)
	}
	var out []map[string]any
	for _, doc := range bytes.Split(b, []byte("---\n")) {
		var v map[string]any
		if err := yaml.UnmarshalStrict(doc, &v); err != nil {
			t.Fatalf("%s: %v\n%s", file, err, doc)
		}
		out = append(out, v)
	}
	return out
}

// at follows keys and indices into a document.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("%v: %q asked of %T", path, p, v)
			}
			v = m[p]
		case int:
			l, ok := v.([]any)
			if !ok || p >= len(l) {
				t.Fatalf("%v: element %d asked of %v", path, p, v)
			}
			v = l[p]
		}
	}
	return v
}

// TestProtocols: the port says what the endpoints speak.
func TestProtocols(t *testing.T) {
	for p, want := range map[Protocol]string{HTTP1: "http", HTTP2: "http2", GRPC: "grpc", WebSocket: "http"} {
		m, dir := New(1, true), t.TempDir()
		m.Protocol = p
		if err := m.Write(dir, "127.0.0.1:7001", "127.0.0.1:7002"); err != nil {
			t.Fatal(err)
		}
		spec := at(t, documents(t, filepath.Join(dir, "svc-0000.yaml"))[0], "spec")
		if name, proto := at(t, spec, "ports", 0, "name"), at(t, spec, "ports", 0, "protocol"); name != want || proto != strings.ToUpper(want) {
			t.Errorf("the port of %v is named %v and speaks %v", p, name, proto)
		}
		for i, port := range []float64{7001, 7002} {
			if got := at(t, spec, "endpoints", i, "ports", want); got != port {
				t.Errorf("%v: endpoint %d has port %v", p, i, got)
			}
		}
	}
}

func TestMutual(t *testing.T) {
	const id = "spiffe://cluster.local/ns/bench/sa/server"
	for _, subsets := range []bool{false, true} {
		m, dir := New(1, subsets), t.TempDir()
		m.Mutual = id
		if err := m.Write(dir, "127.0.0.1:7001", "127.0.0.1:7002"); err != nil {
			t.Fatal(err)
		}
		policy := at(t, documents(t, filepath.Join(dir, "svc-0000.yaml"))[2], "spec", "trafficPolicy")
		if mode, san := at(t, policy, "tls", "mode"), at(t, policy, "tls", "subjectAltNames", 0); mode != "ISTIO_MUTUAL" || san != id {
			t.Errorf("mode %v, name %v", mode, san)
		}
	}
}

func TestWriteInbound(t *testing.T) {
	dir := t.TempDir()
	if err := New(1, false).WriteInbound(dir, "127.0.0.1:7001", "STRICT"); err != nil {
		t.Fatal(err)
	}
	docs := documents(t, filepath.Join(dir, "svc-0000.yaml"))
	if len(docs) != 3 {
		t.Fatalf("%d documents", len(docs))
	}
	for _, c := range []struct{ got, want any }{
		{at(t, docs[0], "spec", "selector", "app"), "svc-0000"},
		{at(t, docs[0], "spec", "ports", 0, "targetPort"), 7001.0},
		{at(t, docs[1], "spec", "mtls", "mode"), "STRICT"},
		{at(t, docs[2], "spec", "trafficPolicy", "outlierDetection", "consecutive5xxErrors"), 5.0},
	} {
		if c.got != c.want {
			t.Errorf("%v, want %v", c.got, c.want)
		}
	}
	if err := New(1, false).WriteInbound(dir, "nowhere", "STRICT"); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("error %v", err)
	}
}

func TestWriteTCP(t *testing.T) {
	dir := t.TempDir()
	if err := New(3, true).WriteTCP(dir, "127.0.0.2:7000", "127.0.0.1:7001"); err != nil {
		t.Fatal(err)
	}
	docs := documents(t, filepath.Join(dir, "svc-0000.yaml"))
	if len(docs) != 3 {
		t.Fatalf("%d documents", len(docs))
	}
	for _, c := range []struct {
		got, want any
	}{
		{at(t, docs[0], "spec", "addresses", 0), "127.0.0.2"},
		{at(t, docs[0], "spec", "ports", 0, "number"), 7000.0},
		{at(t, docs[0], "spec", "ports", 0, "protocol"), "TCP"},
		{at(t, docs[0], "spec", "endpoints", 0, "ports", "tcp"), 7001.0},
		{at(t, docs[1], "spec", "tcp", 0, "match", 0, "port"), 7000.0},
		{at(t, docs[1], "spec", "tcp", 0, "route", 0, "destination", "port", "number"), 7000.0},
		{at(t, docs[2], "spec", "host"), "svc-0000.bench.svc.cluster.local"},
	} {
		if c.got != c.want {
			t.Errorf("%v, want %v", c.got, c.want)
		}
	}
	for _, bad := range [][2]string{{"nowhere", "127.0.0.1:1"}, {"127.0.0.1:1", "nowhere"}} {
		if err := New(1, false).WriteTCP(dir, bad[0], bad[1]); err == nil || !strings.Contains(err.Error(), "nowhere") {
			t.Errorf("%v: error %v", bad, err)
		}
	}
}

func TestWrite(t *testing.T) {
	const host = "svc-0002.bench.svc.cluster.local"
	for _, subsets := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "mesh")
		m := New(3, subsets)
		if err := m.Write(dir, "127.0.0.1:1001", "127.0.0.1:1002"); err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != 3 {
			t.Fatalf("%d files, %v, want 3", len(files), err)
		}
		docs := documents(t, filepath.Join(dir, "svc-0002.yaml"))
		var kinds []string
		for _, d := range docs {
			kinds = append(kinds, at(t, d, "kind").(string))
			if at(t, d, "metadata", "name") != "svc-0002" || at(t, d, "metadata", "namespace") != Namespace {
				t.Errorf("metadata %v", d["metadata"])
			}
		}
		if !reflect.DeepEqual(kinds, []string{"ServiceEntry", "VirtualService", "DestinationRule"}) {
			t.Errorf("kinds %v", kinds)
		}
		entry, routes, rule := docs[0], docs[1], docs[2]
		if at(t, entry, "spec", "hosts", 0) != host || at(t, rule, "spec", "host") != host || at(t, routes, "spec", "hosts", 0) != host {
			t.Error("the three resources name different hosts")
		}
		if got := at(t, entry, "spec", "endpoints", 0, "ports", "http"); got != float64(1001) {
			t.Errorf("first endpoint's port %v", got)
		}
		if got := at(t, rule, "spec", "trafficPolicy", "connectionPool", "tcp", "maxConnections"); got != float64(MaxConnections) {
			t.Errorf("maxConnections %v", got)
		}
		http := at(t, routes, "spec", "http").([]any)
		ends := at(t, entry, "spec", "endpoints").([]any)
		if !subsets {
			if len(http) != 1 || len(ends) != 1 || at(t, rule, "spec", "subsets") != nil {
				t.Errorf("plain service: %d routes, %d endpoints, subsets %v", len(http), len(ends), at(t, rule, "spec", "subsets"))
			}
			continue
		}
		if len(http) != 2 || len(ends) != 2 {
			t.Fatalf("%d routes and %d endpoints, want two of each", len(http), len(ends))
		}
		if at(t, http[0], "match", 0, "headers", MatchField, "exact") != MatchValue || at(t, http[0], "route", 0, "destination", "subset") != "v2" {
			t.Errorf("first route %v", http[0])
		}
		if at(t, http[1], "match") != nil || at(t, http[1], "route", 0, "destination", "subset") != "v1" {
			t.Errorf("second route %v", http[1])
		}
		if at(t, ends[1], "ports", "http") != float64(1002) || at(t, ends[1], "labels", "version") != "v2" {
			t.Errorf("second endpoint %v", ends[1])
		}
		if at(t, rule, "spec", "subsets", 1, "labels", "version") != "v2" {
			t.Errorf("subsets %v", at(t, rule, "spec", "subsets"))
		}
	}
}

func TestWriteIsDeterministic(t *testing.T) {
	read := func() string {
		dir := t.TempDir()
		if err := New(2, true).Write(dir, "[::1]:80", "127.0.0.1:81"); err != nil {
			t.Fatal(err)
		}
		var all string
		for _, f := range []string{"svc-0000.yaml", "svc-0001.yaml"} {
			documents(t, filepath.Join(dir, f))
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				t.Fatal(err)
			}
			all += string(b)
		}
		return all
	}
	if first, second := read(), read(); first != second {
		t.Error("two runs differ")
	}
}

func TestBadEndpoints(t *testing.T) {
	for _, bad := range []string{"", "localhost:80", "127.0.0.1", "127.0.0.1:99999"} {
		if err := New(1, true).Write(t.TempDir(), "127.0.0.1:1", bad); err == nil || !strings.Contains(err.Error(), "subset v2") {
			t.Errorf("%q: error %v, want one about subset v2", bad, err)
		}
	}
}

func TestNames(t *testing.T) {
	m := New(12000, false)
	if got := m.Last().Authority(); got != "svc-11999.bench.svc.cluster.local:9080" {
		t.Errorf("last authority %q", got)
	}
	seen := map[string]bool{}
	for _, s := range m.Services {
		if seen[s.Name] {
			t.Fatalf("%s twice", s.Name)
		}
		seen[s.Name] = true
	}
}

// TestRoutes: further routes come before the two others and go to v1.
func TestRoutes(t *testing.T) {
	m, dir := New(1, true), t.TempDir()
	m.Routes = 3
	if err := m.Write(dir, "127.0.0.1:7001", "127.0.0.1:7002"); err != nil {
		t.Fatal(err)
	}
	routes := at(t, documents(t, filepath.Join(dir, "svc-0000.yaml"))[1], "spec", "http")
	if n := len(routes.([]any)); n != 5 {
		t.Fatalf("%d routes", n)
	}
	for i, prefix := range m.Prefixes() {
		if got, to := at(t, routes, i, "match", 0, "uri", "prefix"), at(t, routes, i, "route", 0, "destination", "subset"); got != prefix || to != "v1" {
			t.Errorf("route %d: %v to %v, not %s", i, got, to, prefix)
		}
	}
	if got := at(t, routes, 3, "match", 0, "headers", MatchField, "exact"); got != MatchValue {
		t.Errorf("the fourth route matches %v", got)
	}
}
