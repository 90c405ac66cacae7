// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	kyaml "sigs.k8s.io/yaml"

	"pillion/test/need"
)

// load loads paths that must hold no errors.
func load(t testing.TB, o Options, paths ...string) *Set {
	t.Helper()
	set, errs := Load(paths, o)
	for _, p := range errs {
		t.Error(p)
	}
	if set == nil {
		t.FailNow()
	}
	return set
}

// loadText loads one text that must hold no errors.
func loadText(t testing.TB, text string) *Set {
	t.Helper()
	return load(t, Options{DefaultNamespace: "default", Stdin: strings.NewReader(text)}, "-")
}

func TestAccepted(t *testing.T) {
	set := load(t, Options{Strict: true}, "testdata/accepted")
	for _, w := range set.Warnings {
		t.Error(w)
	}
	if len(set.Objects) != 27 {
		t.Errorf("%d objects", len(set.Objects))
	}
}

// TestDecodesAsIstio compares every resource of testdata/accepted with what Istio's own
// decoder makes of the same text: Kubernetes' YAML to JSON, then the UnmarshalJSON of
// istio.io/api.
func TestDecodesAsIstio(t *testing.T) {
	compared := 0
	for _, o := range load(t, Options{}, "testdata/accepted").Objects {
		got, ok := o.Spec.(proto.Message)
		if !ok || o.Name == "json" { // Kubernetes' YAML doesn't know JSON's escapes
			continue
		}
		org := o.origin.Load()
		text, err := kyaml.YAMLToJSON(org.doc.text())
		if err != nil {
			t.Fatal(err)
		}
		var doc struct{ Spec json.RawMessage }
		if err := json.Unmarshal(text, &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Spec == nil {
			doc.Spec = []byte("{}")
		}
		want := reflect.New(reflect.TypeOf(o.Spec).Elem()).Interface().(proto.Message)
		if err := json.Unmarshal(doc.Spec, want); err != nil {
			t.Errorf("%s: %v", o.ID(), err)
			continue
		}
		if !proto.Equal(got, want) {
			t.Errorf("%s:\ngot  %s\nwant %s", o.ID(), prototext.Format(got), prototext.Format(want))
		}
		compared++
	}
	if compared != 22 {
		t.Errorf("%d resources compared", compared)
	}
}

func TestKubernetesSpecs(t *testing.T) {
	specs := map[string]any{}
	for _, o := range load(t, Options{}, "testdata/accepted").Objects {
		specs[o.ID()] = o.Spec
	}
	for id, want := range map[string]any{
		"Service/default/web": &Service{
			Type: "LoadBalancer", ClusterIPs: []string{"10.96.0.1", "fd00::1"}, Selector: map[string]string{"app": "web"},
			Ports: []ServicePort{
				{Name: "http", Port: 80, TargetName: "web", Protocol: "TCP", AppProtocol: "http"},
				{Name: "admin", Port: 9000, TargetPort: 9001, Protocol: "UDP"},
			},
		},
		"Service/default/headless": &Service{
			Type: "ClusterIP", Headless: true, PublishNotReadyAddresses: true,
			Ports: []ServicePort{{Port: 80, TargetPort: 80, Protocol: "TCP"}},
		},
		"Service/default/external": &Service{Type: "ExternalName", ExternalName: "example.com"},
		"EndpointSlice/default/web-1": &EndpointSlice{
			ServiceName: "web", AddressType: "IPv4",
			Endpoints: []Endpoint{
				{Addresses: []string{"10.0.0.1"}, Ready: true, Serving: true, NodeName: "n1", Zone: "a", TargetKind: "Pod", TargetName: "web-abc"},
				{Addresses: []string{"10.0.0.2", "10.0.0.3"}, Serving: true, Terminating: true, Hostname: "h"},
				{Addresses: []string{"10.0.0.4"}, Ready: true, Serving: true, Labels: map[string]string{"x": "1"}},
			},
			Ports: []EndpointPort{{Name: "http", Port: 8080, Protocol: "TCP", AppProtocol: "http"}, {Port: 9001, Protocol: "TCP"}},
		},
	} {
		if !reflect.DeepEqual(specs[id], want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", id, specs[id], want)
		}
	}
}

// TestReferenceMesh loads the reference mesh that lies beside the repository, each with
// one of its alternatives.
func TestReferenceMesh(t *testing.T) {
	mesh := need.Mesh(t)
	entries, err := os.ReadDir(mesh)
	if err != nil {
		t.Fatal(err)
	}
	for _, leaveOut := range [][]string{{"21", "31", "41"}, {"20", "30", "40"}} {
		var paths []string
		for _, e := range entries {
			number, _, _ := strings.Cut(e.Name(), "-")
			if filepath.Ext(e.Name()) == ".yaml" && !oneOf(number, leaveOut...) {
				paths = append(paths, filepath.Join(mesh, e.Name()))
			}
		}
		set := load(t, Options{DefaultNamespace: "default", Strict: true}, paths...)
		if len(set.Objects) != 14 {
			t.Errorf("without %v: %d objects", leaveOut, len(set.Objects))
		}
		for _, w := range set.Warnings {
			if w.Object != "Canary" {
				t.Error(w)
			}
		}
		if len(set.Warnings) != 1 {
			t.Errorf("without %v: %d warnings, want one of the Canary", leaveOut, len(set.Warnings))
		}
	}
}
