// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// FuzzLoad feeds Load any text. It must not panic, every problem must have a line and a
// reason, and what is accepted must survive being written as JSON and read again.
func FuzzLoad(f *testing.F) {
	for _, dir := range []string{"testdata/accepted", "testdata/refused"} {
		files, err := filepath.Glob(dir + "/*.yaml")
		if err != nil || len(files) == 0 {
			f.Fatalf("no seeds in %s: %v", dir, err)
		}
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(text))
			for doc := range strings.SplitSeq(string(text), "\n---\n") {
				f.Add(doc)
			}
		}
	}
	f.Add(generatedMesh(1))
	f.Add(`{"apiVersion":"v1","kind":"List","items":[{"kind":"List","apiVersion":"v1","items":[]}]}`)
	f.Add("a: &a [*a]\n---\n<<: *a")
	f.Fuzz(func(t *testing.T, text string) {
		set, errs := Load([]string{"-"}, Options{DefaultNamespace: "default", Stdin: strings.NewReader(text)})
		if set == nil {
			checkProblems(t, errs)
			return
		}
		checkProblems(t, set.Warnings)
		for _, o := range set.Objects {
			if p := o.Problem("spec.http[0].route[0].weight", "x"); p.Line < o.Line && !strings.Contains(text, "*") {
				t.Errorf("%s is on line %d, its problem on line %d", o.ID(), o.Line, p.Line)
			}
			if spec, ok := o.Spec.(proto.Message); ok {
				checkRoundTrip(t, o, spec)
			}
		}
		set.Release()
	})
}

func checkProblems(t *testing.T, problems []Problem) {
	t.Helper()
	for _, p := range problems {
		if p.Reason == "" || p.File == "-" && p.Line < 1 && !strings.Contains(p.Reason, "more than 100000 documents") {
			t.Errorf("problem %+v", p)
		}
	}
}

func checkRoundTrip(t *testing.T, o *Object, spec proto.Message) {
	t.Helper()
	body, err := protojson.Marshal(spec)
	if err != nil {
		t.Fatalf("%s: %v", o.ID(), err)
	}
	text, err := json.Marshal(map[string]any{
		"apiVersion": o.APIVersion, "kind": o.Kind, "spec": json.RawMessage(body),
		"metadata": map[string]any{"name": o.Name, "namespace": o.Namespace, "labels": o.Labels, "annotations": o.Annotations},
	})
	if err != nil {
		t.Fatal(err)
	}
	set, errs := Load([]string{"-"}, Options{Stdin: strings.NewReader(string(text))})
	if set == nil {
		t.Fatalf("%s: refused when read again: %v\n%s", o.ID(), errs, text)
	}
	again := set.Objects[0]
	if !proto.Equal(again.Spec.(proto.Message), spec) || again.ID() != o.ID() ||
		!reflect.DeepEqual(again.Labels, o.Labels) || !reflect.DeepEqual(again.Annotations, o.Annotations) {
		t.Fatalf("%s: changed when read again:\n%v\n%v", o.ID(), spec, again.Spec)
	}
}

// FuzzPath reads and writes field paths.
func FuzzPath(f *testing.F) {
	for _, path := range []string{"spec.http[0].route", `a["b.c"]`, "[", `["`, "a[1", "a[-1].b", "a.[0]"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		once := parsePath(path).String()
		if twice := parsePath(once).String(); twice != once {
			t.Errorf("%q became %q, then %q", path, once, twice)
		}
	})
}
