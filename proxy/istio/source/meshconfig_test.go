// SPDX-License-Identifier: Apache-2.0

package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	mesh "istio.io/api/mesh/v1alpha1"
)

func loadMesh(t testing.TB, text string) (*Object, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	obj, problems := LoadMeshConfig(path)
	var said []string
	for _, p := range problems {
		p.File = "mesh.yaml"
		said = append(said, p.String())
	}
	return obj, strings.Join(said, "\n")
}

func TestLoadMeshConfig(t *testing.T) {
	obj, said := loadMesh(t, "# a comment\ntrustDomain: a.example\nextensionProviders:\n- name: x\n  envoyExtAuthzGrpc: {service: s, port: 1, timeout: 1s}\n")
	if obj == nil || said != "" {
		t.Fatal(said)
	}
	spec := obj.Spec.(*mesh.MeshConfig)
	if spec.TrustDomain != "a.example" || spec.ExtensionProviders[0].GetEnvoyExtAuthzGrpc().GetPort() != 1 {
		t.Errorf("read %v", spec)
	}
	if p := obj.Problem("extensionProviders[0].envoyExtAuthzGrpc.port", "x"); p.Line != 5 {
		t.Errorf("the provider is on line %d", p.Line)
	}
	for text, tracing := range map[string]bool{"# nothing\n": true, "rootNamespace: a": true, "enableTracing: true": true, "enableTracing: false": false} {
		obj, said := loadMesh(t, text)
		if obj == nil || said != "" {
			t.Errorf("%q: %s", text, said)
		} else if got := obj.Spec.(*mesh.MeshConfig).EnableTracing; got != tracing {
			t.Errorf("%q: tracing %v", text, got)
		}
	}
	for text, want := range map[string]string{
		"trustDomian: a":                        `mesh.yaml:1: MeshConfig/istio-system/istio: trustDomian: unknown field "trustDomian"; did you mean "trustDomain"?`,
		"a: 1\n---\nb: 2":                       "mesh.yaml:3: MeshConfig: a second document; a file holds one MeshConfig",
		"\napiVersion: v1\nkind: ConfigMap":     `mesh.yaml:2: MeshConfig: is a Kubernetes object; a MeshConfig is the text under its key "mesh" alone`,
		"[a]":                                   "mesh.yaml:1: MeshConfig/istio-system/istio: wants a mapping, not a list",
		"trustDomain: {}":                       "mesh.yaml:1: MeshConfig/istio-system/istio: trustDomain: wants a string, not a mapping",
		"trustDomain: 'a":                       "mesh.yaml:1: MeshConfig: ",
		"pathNormalization: {normalization: X}": "mesh.yaml:1: MeshConfig/istio-system/istio: pathNormalization.normalization: wants one of ",
		"a: \xff":                               "mesh.yaml:1: MeshConfig: not UTF-8 text",
		"a: &a [*a]":                            "mesh.yaml:1: MeshConfig: ",
	} {
		if obj, said := loadMesh(t, text); obj != nil || !strings.HasPrefix(said, want) {
			t.Errorf("%q: %q, want %q", text, said, want)
		}
	}
	if obj, problems := LoadMeshConfig(filepath.Join(t.TempDir(), "none")); obj != nil || len(problems) != 1 {
		t.Errorf("a missing file: %v", problems)
	}
}

// FuzzMeshConfig: any text is read or refused with a reason.
func FuzzMeshConfig(f *testing.F) {
	f.Add("trustDomain: a\nextensionProviders: [{name: x, envoyExtAuthzHttp: {service: s, port: 1}}]")
	f.Add("a: &a [*a]\n---\n<<: *a")
	f.Fuzz(func(t *testing.T, text string) {
		if obj, said := loadMesh(t, text); obj == nil && said == "" {
			t.Error("refused without a reason")
		}
	})
}
