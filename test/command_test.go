// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pillion/test/need"
)

func itoa(n int) string { return strconv.Itoa(n) }

// command runs the binary to its end.
func command(t testing.TB, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(binaries.Static(t), args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	good := referenceFiles(t, "10 20 31")
	empty := t.TempDir()
	for _, c := range []struct {
		args   []string
		code   int
		stderr string // expression that has to match
	}{
		{[]string{"--version"}, 0, ""},
		{[]string{"--help"}, 0, ""},
		{[]string{"validate", good}, 0, ""},
		{[]string{"run"}, 2, `name at least one`},
		{[]string{"no-such-command"}, 2, `no-such-command`},
		{[]string{"run", "--no-such-flag", good}, 2, `no-such-flag`},
		{[]string{"run", filepath.Join(empty, "missing")}, 1, `missing`},
		{[]string{"run", "--http", "127.0.0.1:99999", good}, 1, `99999`},
		{[]string{"validate", filepath.Join(empty, "missing.yaml")}, 1, `missing\.yaml`},
		{[]string{"certs"}, 0, ""},
		{[]string{"certs", "make"}, 2, `there is 'proxy certs init'`},
		{[]string{"certs", "init"}, 2, `name one folder`},
		{[]string{"certs", "init", "--workload", "web", empty}, 2, `is not NAMESPACE/SERVICE-ACCOUNT`},
		{[]string{"certs", "init", "--workload", "../web", empty}, 2, `is not NAMESPACE/SERVICE-ACCOUNT`},
		{[]string{"certs", "init", "--trust-domain", "a b", filepath.Join(empty, "new")}, 1, `no trust domain`},
		{[]string{"run", "--sds", "/socket", good}, 2, `--sds: "/socket" is not unix:PATH`},
		{[]string{"run", "--workload-api", "unix://", good}, 2, `is not unix:PATH`},
		{[]string{"run", "--sds", "unix:/socket", "--ca", "istiod:15012", good}, 2, `one of them`},
		{[]string{"run", "--token", "token", good}, 2, `they go with --ca`},
		{[]string{"run", "--ca", "istiod", good}, 1, `is not HOST:PORT`},
		{[]string{"run", "--workload-api", "unix:/socket", "--identity", "web", good}, 1, `workload's identity`},
		{[]string{"run", "--admin", "", "--metrics", "", "--certs", empty, good}, 1, `cert-chain\.pem(?s:.*)'proxy certs init DIR`},
		{[]string{"run", "--inbound", "127.0.0.1:1", good}, 1, `--inbound: .*ADDRESS:PORT=APPADDRESS:APPPORT`},
		{[]string{"validate", "--mesh-config", filepath.Join(empty, "mesh"), good}, 1, `mesh: `},
	} {
		_, stderr, code := command(t, "", c.args...)
		if code != c.code || !regexp.MustCompile(c.stderr).MatchString(stderr) || (code == 0) != (stderr == "") {
			t.Errorf("%q: exit code %d, stderr %q; want code %d, stderr like %q", c.args, code, stderr, c.code, c.stderr)
		}
	}
}

// TestValidateWholeReference: every file of the reference mesh is fit to run,
// and what a proxy has no use for is named, not refused.
func TestValidateWholeReference(t *testing.T) {
	t.Parallel()
	stdout, stderr, code := command(t, "", "validate", referenceFiles(t, "10 20 30 40 50 60 70 80 90"))
	if code != 0 {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	if said := stdout + stderr; !strings.Contains(said, "Canary") {
		t.Errorf("the Canary, which isn't used, isn't named:\n%s", said)
	}
	// Alternatives of one another can't be loaded together.
	stdout, stderr, code = command(t, "", "validate", referenceFiles(t, "10 20 21"))
	both := regexp.MustCompile(`(?s)20-route-by-header\.yaml:\d+.*21-canary-1-percent\.yaml:\d+|21-canary-1-percent\.yaml:\d+.*20-route-by-header\.yaml:\d+`)
	if said := stdout + stderr; code != 1 || !both.MatchString(said) {
		t.Errorf("two VirtualServices of one name: exit code %d, want 1 and both places:\n%s", code, said)
	}
}

func TestStrict(t *testing.T) {
	t.Parallel()
	text := `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: default}
spec: {hosts: [x], http: [{rout: [], route: [{destination: {host: x}}]}]}
`
	stdout, stderr, code := command(t, text, "validate", "-")
	if said := stdout + stderr; code != 0 || !strings.Contains(said, "rout") {
		t.Errorf("an unknown field: exit code %d, want 0 and a warning that names it:\n%s", code, said)
	}
	stdout, stderr, code = command(t, text, "validate", "--strict", "-")
	if said := stdout + stderr; code != 1 || !strings.Contains(said, "rout") {
		t.Errorf("an unknown field with --strict: exit code %d, want 1 and an error that names it:\n%s", code, said)
	}
}

// TestTranslate: what comes out is JSON, holds istiod's names, and a real
// Envoy takes the other form.
func TestTranslate(t *testing.T) {
	t.Parallel()
	dir := referenceFiles(t, "10 20 31 40")
	stdout, stderr, code := command(t, "", "translate", dir)
	if code != 0 || !json.Valid([]byte(stdout)) {
		t.Fatalf("translate: exit code %d, valid JSON: %v\n%s", code, json.Valid([]byte(stdout)), stderr)
	}
	for _, name := range []string{
		"outbound|9080||reviews.default.svc.cluster.local", "outbound|9080|v1|reviews.default.svc.cluster.local",
		"outbound|9080|v2|reviews.default.svc.cluster.local", "outbound|8080||upload-service.default.svc.cluster.local",
		"PassthroughCluster", "BlackHoleCluster",
	} {
		if !strings.Contains(stdout, strconv.Quote(name)) {
			t.Errorf("translate names no %s", name)
		}
	}
	again, _, _ := command(t, "", "translate", dir)
	if again != stdout {
		t.Error("two translations of the same files differ")
	}

	envoy := need.Envoy(t)
	bootstrap, stderr, code := command(t, "", "translate", "-o", "envoy", dir)
	if code != 0 {
		t.Fatalf("translate -o envoy: exit code %d\n%s", code, stderr)
	}
	path := filepath.Join(t.TempDir(), "envoy.json")
	write(t, path, bootstrap)
	if out, err := exec.Command(envoy, "--mode", "validate", "-c", path).CombinedOutput(); err != nil {
		t.Errorf("envoy --mode validate: %v\n%s", err, out)
	}
}
