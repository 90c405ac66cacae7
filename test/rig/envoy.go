// SPDX-License-Identifier: Apache-2.0

package rig

import (
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
