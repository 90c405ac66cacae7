// SPDX-License-Identifier: Apache-2.0

// Package need says what a test does when a part that it wants isn't on the
// machine: a person's run skips the test and says how to get the part, a run
// of continuous integration fails, so that no test can silently stop running.
// It is the only place of the module that may skip a test.
package need

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// missing ends the test: as a failure where CI is "true", as a skip elsewhere.
func missing(t testing.TB, what, remedy string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("this machine has no %s, and CI=true lets no test be skipped: %s", what, remedy)
	}
	t.Skipf("this machine has no %s: %s", what, remedy)
}

const installTools = "make tools installs it"

// Program returns the path of an installed program. Besides PATH it looks
// where Debian puts servers, which isn't in everyone's PATH.
func Program(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path := filepath.Join("/usr/sbin", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	missing(t, name, installTools)
	return ""
}

// Envoy returns the path of the real Envoy that scripts/install-tools.sh puts
// into the user's cache folder, or of the one that the environment's ENVOY_BIN
// names. One in PATH isn't taken: the tests compare with one version.
func Envoy(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("ENVOY_BIN"); path != "" {
		return path
	}
	return Tool(t, "bin", "envoy")
}

// Tool returns the path of something that scripts/install-tools.sh puts into
// the user's cache folder. It has a version that the tests know, so nothing
// else of its name is taken.
func Tool(t testing.TB, names ...string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err == nil {
		path := filepath.Join(append([]string{cache, "pillion", "tools"}, names...)...)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	missing(t, filepath.Join(names...)+" in the cache of tools", installTools)
	return ""
}

// Lab ends the test unless there is a program of the istiod lab at path.
func Lab(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		missing(t, path, "make lab builds it")
	}
}

// Mesh returns the folder of the reference mesh, which stands beside the
// repository and isn't part of it.
func Mesh(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(Root(t), "..", "shared", "mesh")
	if _, err := os.Stat(dir); err != nil {
		missing(t, "reference mesh", "it belongs in "+dir)
	}
	return dir
}

// Captures returns the folder of what a real istiod sent, which stands beside the
// repository and isn't part of it.
func Captures(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(Root(t), "..", "shared", "xds-captures")
	if _, err := os.Stat(dir); err != nil {
		missing(t, "captured responses of istiod", "they belong in "+dir)
	}
	return dir
}

// IPv6 ends the test unless the machine has IPv6, if only on its loopback.
func IPv6(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		missing(t, "IPv6", "turn it on (net.ipv6.conf.lo.disable_ipv6)")
	}
	_ = ln.Close()
}

// Superuser ends the test unless it runs as root.
func Superuser(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "superuser", "run the test as root")
	}
}

// Root returns the top folder of the repository.
func Root(t testing.TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("the path of the sources is unknown")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Queries returns the file of what Istio's dashboards ask Prometheus, which
// stands beside the repository and isn't part of it.
func Queries(t testing.TB) string {
	t.Helper()
	path := filepath.Join(Root(t), "..", "shared", "queries", "grafana-istio.txt")
	if _, err := os.Stat(path); err != nil {
		missing(t, "queries of Istio's dashboards", "they belong in "+path)
	}
	return path
}
