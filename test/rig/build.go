// SPDX-License-Identifier: Apache-2.0

// Package rig runs the built binary for black-box tests: it builds it once,
// starts it on free ports, waits until it is ready, asks its admin port, and
// makes sure that it ends.
package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"pillion/test/need"
)

// Builder builds the binary when a test first asks for it, at most once for
// each flavour. If the environment's PILLION_BINARY names one, that is tested
// instead.
type Builder struct {
	dir         string // immutable
	plain, race flavour
}

type flavour struct {
	once sync.Once
	path string
	err  error
}

// NewBuilder puts what it builds into dir, which the caller removes.
func NewBuilder(dir string) *Builder { return &Builder{dir: dir} }

// Static returns the path of the binary as it is shipped: static, stripped.
func (b *Builder) Static(t testing.TB) string {
	t.Helper()
	return b.plain.build(t, filepath.Join(b.dir, "proxy"), []string{"CGO_ENABLED=0"},
		"-trimpath", "-ldflags", "-s -w")
}

// Race returns the path of a binary with the race detector in it.
func (b *Builder) Race(t testing.TB) string {
	t.Helper()
	return b.race.build(t, filepath.Join(b.dir, "proxy-race"), []string{"CGO_ENABLED=1"}, "-race")
}

func (f *flavour) build(t testing.TB, path string, env []string, flags ...string) string {
	t.Helper()
	if given := os.Getenv("PILLION_BINARY"); given != "" {
		return given
	}
	f.once.Do(func() {
		args := append([]string{"build", "-o", path}, flags...)
		cmd := exec.Command("go", append(args, "./cmd/proxy")...)
		cmd.Dir = need.Root(t)
		cmd.Env = append(os.Environ(), env...)
		f.path = path
		if out, err := cmd.CombinedOutput(); err != nil {
			f.err = fmt.Errorf("%v: %w\n%s", cmd, err, out)
		}
	})
	if f.err != nil {
		t.Fatal(f.err)
	}
	return f.path
}
