// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"io"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestProfile(t *testing.T) {
	admin := func(status int) string {
		s := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, r.URL.String())
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	dir := t.TempDir()
	pair := &Running{admin: admin(200), Behind: &Running{admin: admin(200)}}
	if err := pair.Profile(t.Context(), 3*time.Second, dir, "h1"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"h1.pprof", "h1-behind.pprof"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != "/debug/pprof/profile?seconds=3" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	busy := &Running{admin: admin(500)}
	if err := busy.Profile(t.Context(), time.Second, dir, "busy"); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("a profile that isn't made: %v", err)
	}
	if err := (&Running{}).Profile(t.Context(), time.Second, dir, "none"); err != nil {
		t.Errorf("a peer that makes none: %v", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("files %v, %v", files, err)
	}
}

// TestBefore: another build of ours is a peer where a variable names one.
func TestBefore(t *testing.T) {
	named := func() bool {
		return slices.ContainsFunc(All(""), func(p Peer) bool { return p.Name() == "before" })
	}
	t.Setenv(beforeBinary, "")
	if named() {
		t.Error("there is a build of before though no variable names one")
	}
	t.Setenv(beforeBinary, filepath.Join(t.TempDir(), "proxy"))
	if !named() {
		t.Error("the build of before isn't there")
	}
	if _, err := (before{}).Locate(t.Context(), ""); err == nil || !strings.Contains(err.Error(), beforeBinary) {
		t.Errorf("error %v, want one that names %s", err, beforeBinary)
	}
}
