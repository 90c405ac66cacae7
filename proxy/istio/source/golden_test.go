// SPDX-License-Identifier: Apache-2.0

package source

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// update rewrites the expected problems: go test -run TestRefused -update
var update = flag.Bool("update", false, "rewrite testdata/refused/*.want")

// problems loads paths and returns what Load says of them, as a person reads it, with
// paths cut to their last part.
func problems(t testing.TB, paths []string, o Options) string {
	t.Helper()
	set, all := Load(paths, o)
	if (set == nil) == (len(all) == 0) {
		t.Fatalf("set %v with problems %v", set, all)
	}
	if set != nil {
		all = set.Warnings
	}
	var b strings.Builder
	for _, p := range all {
		p.File = filepath.Base(p.File)
		if p.Warning {
			b.WriteString("warning: ")
		}
		b.WriteString(p.String() + "\n")
	}
	return b.String()
}

// TestRefused holds every message to its exact text. A file of testdata/refused is
// loaded as a whole, and what Load says of it stands beside it.
func TestRefused(t *testing.T) {
	files, err := filepath.Glob("testdata/refused/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			got := problems(t, []string{path}, Options{DefaultNamespace: "default"})
			wantPath := strings.TrimSuffix(path, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(wantPath, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantPath)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}
