// SPDX-License-Identifier: Apache-2.0

package law

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"

	"pillion/test/need"
)

// oldest are the oldest versions that a build may use, each with the flaws
// below it that a remote peer can use.
var oldest = []struct{ path, version, why string }{
	{"golang.org/x/net", "v0.60.0",
		"its HTTP/2 framing and HPACK let a peer use up CPU and memory (CVE-2026-78669, CVE-2026-78659, CVE-2026-97032)"},
	{"google.golang.org/grpc", "v1.82.1",
		"its HTTP/2 server could be kept busy by resets in spite of the limit (the bypass of CVE-2023-39325's mend)"},
}

const oldestGo = "1.26"

// TestVersionGate reads go.mod as it is built, so an upgrade that is undone
// by a merge, or a replace line, doesn't go unnoticed.
func TestVersionGate(t *testing.T) {
	path := filepath.Join(need.Root(t), "go.mod")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse(path, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	if mod.Go == nil || semver.Compare("v"+mod.Go.Version, "v"+oldestGo) < 0 {
		t.Errorf("go.mod asks for Go %+v, older than %s", mod.Go, oldestGo)
	}
	for _, o := range oldest {
		version := ""
		for _, r := range mod.Require {
			if r.Mod.Path == o.path {
				version = r.Mod.Version
			}
		}
		for _, r := range mod.Replace {
			if r.Old.Path == o.path {
				version = r.New.Version
			}
		}
		if version == "" {
			t.Errorf("go.mod doesn't say which %s it uses", o.path)
		} else if semver.Compare(version, o.version) < 0 {
			t.Errorf("%s %s is older than %s: %s", o.path, version, o.version, o.why)
		}
	}
}
