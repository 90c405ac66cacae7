// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pillion/proxy/istio/source"
	"pillion/test/need"
)

var update = flag.Bool("update", false, "write what is translated to testdata instead of comparing")

// goldenCase is a configuration in testdata, NAME.yaml, of which the whole result is
// kept: NAME.json, and NAME.problems for what is said about it.
type goldenCase struct {
	name    string
	options Options
}

func goldenCases() []goldenCase {
	const http = "127.0.0.1:15080"
	return []goldenCase{
		{"mesh", Options{HTTPAddr: http}},
		{"routing", Options{HTTPAddr: http, Labels: map[string]string{"app": "cart"}}},
		{"policy", Options{HTTPAddr: http, Locality: "eu/a/1"}},
		{"registry", Options{HTTPAddr: http}},
		{"gateway", Options{HTTPAddr: http}},
		{"tcp", Options{Listen: []string{"far.example.com:443=127.0.0.1:8443"}}},
		{"sidecar", Options{HTTPAddr: http}},
		{"inbound", Options{CertsDir: "certs", Labels: map[string]string{"app": "cart"}, MeshConfig: meshConfig("inbound.meshconfig"), Inbound: []string{
			"127.0.0.1:18080=127.0.0.1:8080", "127.0.0.1:18081=:8081", "127.0.0.2:8082=127.0.0.1:8082", "127.0.0.1:8083=unix:///run/cart.sock", "127.0.0.1:18084=127.0.0.1:8084",
		}}},
		{"telemetry", Options{HTTPAddr: http, CertsDir: "certs", Labels: map[string]string{"app": "cart"}, MeshConfig: meshConfig("inbound.meshconfig"),
			Inbound: []string{"127.0.0.1:18080=127.0.0.1:8080", "127.0.0.1:18081=127.0.0.1:8081"}}},
		{"gatewaypolicy", Options{MeshConfig: meshConfig("inbound.meshconfig")}},
	}
}

// meshConfig reads a MeshConfig of testdata; nil when it is wrong, which a golden file
// then shows.
func meshConfig(name string) *source.Object {
	obj, _ := source.LoadMeshConfig(filepath.Join("testdata", name))
	return obj
}

// load reads resources from YAML as a user's are read. Warnings of the reader are not
// what is tested here.
func load(t testing.TB, yaml string) []*source.Object {
	t.Helper()
	set, problems := source.Load([]string{"-"}, source.Options{
		DefaultNamespace: "default",
		Stdin:            strings.NewReader(yaml),
	})
	for _, p := range problems {
		t.Errorf("reading: %s", p)
	}
	if t.Failed() {
		t.FailNow()
	}
	return set.Objects
}

func loadFile(t testing.TB, name string) []*source.Object {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return load(t, string(text))
}

func describe(problems []source.Problem) string {
	var out strings.Builder
	for _, p := range problems {
		if p.Warning {
			out.WriteString("warning: ")
		}
		out.WriteString(p.String() + "\n")
	}
	return out.String()
}

func TestGolden(t *testing.T) {
	for _, c := range goldenCases() {
		t.Run(c.name, func(t *testing.T) {
			objs := loadFile(t, c.name+".yaml")
			r, problems := Translate(objs, c.options)
			if r == nil {
				t.Fatalf("refused:\n%s", describe(problems))
			}
			text, err := r.JSON()
			if err != nil {
				t.Fatal(err)
			}
			compare(t, c.name+".json", text)
			compare(t, c.name+".problems", []byte(describe(problems)))

			again, _ := Translate(objs, c.options)
			second, err := again.JSON()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(text, second) {
				t.Error("a second translation of the same objects differs")
			}
		})
	}
}

// compare checks text against a file of testdata. An empty text has no file.
func compare(t *testing.T, name string, text []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if len(text) == 0 {
			os.Remove(path)
		} else if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil && !(os.IsNotExist(err) && len(text) == 0) {
		t.Fatal(err)
	}
	if !bytes.Equal(want, text) {
		t.Errorf("%s differs (go test -update writes it anew):\n%s", name, firstDifference(want, text))
	}
}

// firstDifference shows where two texts part.
func firstDifference(want, got []byte) string {
	w, g := strings.Split(string(want), "\n"), strings.Split(string(got), "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	show := func(lines []string) string { return strings.Join(lines[min(i, len(lines)):min(i+8, len(lines))], "\n") }
	return "want:\n" + show(w) + "\ngot:\n" + show(g)
}

// TestEnvoyTakesGolden has a real Envoy check each bootstrap of the golden set.
func TestEnvoyTakesGolden(t *testing.T) {
	envoy := need.Envoy(t)
	for _, c := range goldenCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.options.CertsDir != "" {
				c.options.CertsDir = newAuthority(t).certsDir("spiffe://cluster.local/ns/default/sa/cart")
			}
			r, problems := Translate(loadFile(t, c.name+".yaml"), c.options)
			if r == nil {
				t.Fatalf("refused:\n%s", describe(problems))
			}
			path := writeBootstrap(t, r, "127.0.0.1:0")
			out, err := exec.Command(envoy, "--mode", "validate", "--concurrency", "1", "-l", "error", "-c", path).CombinedOutput()
			if err != nil {
				t.Errorf("Envoy refuses the configuration: %v\n%s", err, out)
			}
		})
	}
}

func writeBootstrap(t *testing.T, r *Resources, admin string) string {
	t.Helper()
	b, err := EnvoyBootstrap(r, admin)
	if err != nil {
		t.Fatal(err)
	}
	text, err := MarshalJSON(b)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
