// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

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
	f.Fuzz(func(t *testing.T, text []byte) {
		set, problems := source.Load([]string{"-"}, source.Options{DefaultNamespace: "default", Stdin: bytes.NewReader(text)})
		if len(problems) > 0 {
			return
		}
		r, problems := Translate(set.Objects, Options{HTTPAddr: "127.0.0.1:15080", Locality: "eu/a/1", Listen: []string{listenAll}})
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

// checkMessages holds every resource against the rules in its definition.
func checkMessages(t *testing.T, r *Resources) {
	t.Helper()
	for _, list := range [][]proto.Message{
		messages(r.Listeners), messages(r.Routes), messages(r.Clusters), messages(r.Endpoints),
	} {
		for _, m := range list {
			if err := m.(interface{ ValidateAll() error }).ValidateAll(); err != nil {
				t.Errorf("Envoy would refuse: %v", err)
			}
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
