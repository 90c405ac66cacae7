// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// StartEnvoy runs a real Envoy on a bootstrap that makes it serve the given
// addresses, and returns when it is ready. What it counts is read from its
// admin port. It is stopped when the test ends.
func StartEnvoy(t testing.TB, envoy, bootstrap, http, admin string) *Proxy {
	t.Helper()
	path := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(path, []byte(bootstrap), 0o644); err != nil {
		t.Fatal(err)
	}
	p := &Proxy{HTTP: http, Admin: admin, Metrics: admin}
	p.process = StartProcess(t, exec.Command(envoy, "-c", path, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error",
		"--file-flush-interval-msec", "50"))
	p.Stdout, p.Stderr = p.process.Stdout, p.process.Stderr
	Until(t, "Envoy is ready", func() error {
		if p.process.Exited() {
			t.Fatalf("Envoy doesn't take the translation: %s", p.Stderr)
		}
		_, err := p.Ask("GET", "/ready")
		return err
	})
	return p
}

// RunEnvoy runs a real Envoy on the bootstrap in a file, whatever it serves, and returns
// when it does. It is for bootstraps without an admin port to ask. It is stopped when
// the test ends.
func RunEnvoy(t testing.TB, envoy, path string, flags ...string) {
	t.Helper()
	p := StartProcess(t, exec.Command(envoy, append([]string{"-c", path, "--disable-hot-restart", "--concurrency", "1", "-l", "info", "--log-format", "%v"}, flags...)...))
	Until(t, "Envoy serves", func() error {
		if p.Exited() {
			t.Fatalf("Envoy didn't start:\n%s", p.Stderr)
		}
		if len(p.Stderr.Lines("starting main dispatch loop")) == 0 {
			return errors.New("it has not begun")
		}
		return nil
	})
}
