// SPDX-License-Identifier: Apache-2.0

// Package test drives the built binary from the outside: the reference mesh,
// a real Prometheus, a real Envoy on the same YAML, and clients and upstreams
// that break the protocol.
package test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
)

// binaries builds the proxy when the first test asks for it.
var binaries *rig.Builder

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests wait more than they compute, so that more of them run side
	// by side than there are cores.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "pillion-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = rig.NewBuilder(dir)
	code := m.Run()
	reference.close()
	os.RemoveAll(dir)
	os.Exit(code)
}

// fill replaces each {{name}} in a file of testdata and writes the result
// into dir under the same name. Values are given as name, value, name, value.
func fill(t testing.TB, dir, name string, values ...string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	write(t, path, fillText(t, filepath.Join("testdata", name), values...))
	return path
}

// fillText is fill for a file whose text goes elsewhere.
func fillText(t testing.TB, path string, values ...string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var pairs []string
	for i := 0; i < len(values); i += 2 {
		pairs = append(pairs, "{{"+values[i]+"}}", values[i+1])
	}
	filled := strings.NewReplacer(pairs...).Replace(string(text))
	if _, rest, open := strings.Cut(filled, "{{"); open {
		t.Fatalf("%s: nothing given for {{%.20s", path, rest)
	}
	return filled
}

// write replaces a file the way editors do that don't rename: truncate, then
// write.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// referenceFiles copies files of the reference mesh, named by their numbers
// ("10 20 31"), into a folder of the test's own.
func referenceFiles(t testing.TB, numbers string) string {
	t.Helper()
	dir := t.TempDir()
	addReferenceFiles(t, dir, numbers)
	return dir
}

func addReferenceFiles(t testing.TB, dir, numbers string) {
	t.Helper()
	for number := range strings.FieldsSeq(numbers) {
		found, err := filepath.Glob(filepath.Join(need.Mesh(t), number+"-*.yaml"))
		if err != nil || len(found) != 1 {
			t.Fatalf("the reference mesh has %d files %s-*.yaml, not one", len(found), number)
		}
		text, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, filepath.Base(found[0])), string(text))
	}
}
