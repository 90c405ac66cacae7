// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	mesh "istio.io/api/mesh/v1alpha1"

	"pillion/proxy/istio/source"
)

// FuzzTranslate: whatever the reader takes can be translated without a panic, into
// resources that Envoy's own rules for messages hold of, and that make a bootstrap.
func FuzzTranslate(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		for doc := range bytes.SplitSeq(text, []byte("\n---\n")) {
			f.Add(doc)
		}
	}
	mesh := meshConfig("inbound.meshconfig")
	f.Fuzz(func(t *testing.T, text []byte) {
		set, problems := source.Load([]string{"-"}, source.Options{DefaultNamespace: "default", Stdin: bytes.NewReader(text)})
		if len(problems) > 0 {
			return
		}
		r, problems := Translate(set.Objects, Options{HTTPAddr: "127.0.0.1:15080", Locality: "eu/a/1", Listen: []string{listenAll},
			Inbound: []string{"127.0.0.1:1=127.0.0.1:8080", "127.0.0.1:2=127.0.0.1:8082"}, Labels: map[string]string{"app": "cart"}, MeshConfig: mesh, CertsDir: "certs"})
		if r == nil {
			for _, p := range problems {
				if !p.Warning {
					return
				}
			}
			t.Fatal("refused without an error")
		}
		checkMessages(t, r)
		if _, err := EnvoyBootstrap(r, "127.0.0.1:15000"); err != nil {
			t.Error(err)
		}
		if _, err := r.JSON(); err != nil {
			t.Error(err)
		}
	})
}

// checkMessage holds a message and those that it has packed against their rules. Of a
// type that isn't known here only Istio's filters know.
func checkMessage(t *testing.T, m proto.Message) {
	t.Helper()
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			t.Errorf("Envoy would refuse: %v", err)
		}
	}
	if err := protorange.Range(m.ProtoReflect(), func(p protopath.Values) error {
		inner, ok := p.Index(-1).Value.Interface().(protoreflect.Message)
		if !ok {
			return nil
		}
		packed, ok := inner.Interface().(*anypb.Any)
		if !ok {
			return nil
		}
		if un, err := packed.UnmarshalNew(); err == nil {
			checkMessage(t, un)
		}
		return protorange.Break
	}); err != nil {
		t.Error(err)
	}
}

// checkMessages holds every resource against the rules in its definition.
func checkMessages(t *testing.T, r *Resources) {
	t.Helper()
	for _, list := range [][]proto.Message{
		messages(r.Listeners), messages(r.Routes), messages(r.Clusters), messages(r.Endpoints),
	} {
		for _, m := range list {
			checkMessage(t, m)
		}
	}
	domains := make(map[string]bool)
	for _, rc := range r.Routes {
		clear(domains)
		for _, vh := range rc.VirtualHosts {
			for _, d := range vh.Domains {
				if domains[d] {
					t.Errorf("%s has the domain %s twice", rc.Name, d)
				}
				domains[d] = true
			}
		}
	}
}

// FuzzTracing is the same for what a MeshConfig says of traces.
func FuzzTracing(f *testing.F) {
	providers := loadMesh(f, traceProviders)
	for _, p := range providers.Spec.(*mesh.MeshConfig).ExtensionProviders {
		text, err := protojson.Marshal(&mesh.MeshConfig{
			ExtensionProviders: []*mesh.MeshConfig_ExtensionProvider{p}, DefaultProviders: &mesh.MeshConfig_DefaultProviders{Tracing: []string{p.Name}},
		})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"enableTracing": true, "defaultConfig": {"serviceCluster": "x", "tracing": {"sampling": 5, "maxPathTagLength": 9, "zipkin": {"address": "a.example:9411"},
		"customTags": {"a": {"header": {"name": "x-a"}}, "b": {"environment": {"name": "B"}}}}}}`))
	objs := load(f, collectors)
	f.Fuzz(func(t *testing.T, text []byte) {
		spec := &mesh.MeshConfig{}
		if protojson.Unmarshal(text, spec) != nil {
			return
		}
		r, problems := Translate(objs, Options{HTTPAddr: "127.0.0.1:15080", MeshConfig: &source.Object{Kind: "MeshConfig", Spec: spec},
			LookupEnv: func(name string) (string, bool) { return name, name != "" }})
		if r == nil {
			if !slices.ContainsFunc(problems, func(p source.Problem) bool { return !p.Warning }) {
				t.Fatal("refused without an error")
			}
			return
		}
		checkMessages(t, r)
	})
}
