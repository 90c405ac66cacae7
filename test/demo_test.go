// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
)

// TestDemo pastes every line that the demo prints into a shell, in order, and
// looks at what comes out, as a person would who tries it.
func TestDemo(t *testing.T) {
	t.Parallel()
	need.Program(t, "curl")
	dir := t.TempDir()
	p := rig.Start(t, binaries.Static(t), rig.Options{Command: "demo", Args: []string{"--dir", dir}})
	var lines []string
	rig.Until(t, "the demo says what to try", func() error {
		lines = nil
		for line := range strings.Lines(p.Stdout.String()) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "curl ") || strings.HasPrefix(line, "for ") {
				lines = append(lines, line)
			}
		}
		if !strings.Contains(p.Stdout.String(), "ready") {
			return fmt.Errorf("it has printed %d lines", len(lines))
		}
		return nil
	})
	// Each expectation is for the lines that contain its part.
	expected := []struct{ part, output string }{
		{"end-user: jason' -x http://" + p.HTTP + " http://reviews", `"version":"v2"`},
		{"Host: reviews:9080", `"version":"v[13]"`},
		{"uniq -c", `\d`},
		{"health_flags", `/failed_outlier_check`},
		{"time_total", `(?m)^\d\.\d{6}$`},
		{"http://productpage:9080", `"version":"v2"`},
		{"istio_requests_total", `istio_requests_total\{.*destination_version="v2"`},
		{"config_dump", `type.googleapis.com/envoy.admin.v3`},
	}
	used := map[string]bool{}
	for _, line := range lines {
		out := paste(t, line)
		for _, e := range expected {
			if !strings.Contains(line, e.part) {
				continue
			}
			used[e.part] = true
			if !regexp.MustCompile(e.output).MatchString(out) {
				t.Errorf("%s\nprinted\n%s\nand not %s", line, out, e.output)
			}
		}
	}
	for _, e := range expected {
		if !used[e.part] {
			t.Errorf("the demo has no line with %q", e.part)
		}
	}
	editDemo(t, p, dir)
}

// paste runs a line as a shell does, without the proxies of the environment.
func paste(t *testing.T, line string) string {
	t.Helper()
	cmd := exec.Command("bash", "-c", line)
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(strings.ToLower(e), "="); !strings.HasSuffix(name, "_proxy") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

var demoWeight = regexp.MustCompile(`weight: \d+`)

// editDemo makes the canary of the demo 50/50, as its lines say.
func editDemo(t *testing.T, p *rig.Proxy, dir string) {
	t.Helper()
	path := filepath.Join(dir, "20-reviews.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(demoWeight.FindAll(text, -1)); n != 2 {
		t.Fatalf("%s has %d weights, want two", path, n)
	}
	write(t, path, demoWeight.ReplaceAllString(string(text), "weight: 50"))
	rig.Until(t, "v3 gets about half of the requests", func() error {
		n := strings.Count(paste(t, "for i in $(seq 60); do curl -s -x http://"+p.HTTP+" http://reviews:9080/reviews/1; done"), `"version":"v3"`)
		if n < 15 || n > 45 {
			return fmt.Errorf("it got %s of 60", strconv.Itoa(n))
		}
		return nil
	})
}
