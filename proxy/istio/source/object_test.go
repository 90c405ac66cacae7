// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"sync"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestProblemString(t *testing.T) {
	for want, p := range map[string]Problem{
		"a.yaml:3: Gateway/x/y: spec.servers: is required": {File: "a.yaml", Line: 3, Object: "Gateway/x/y", Field: "spec.servers", Reason: "is required"},
		"a.yaml: too large":     {File: "a.yaml", Reason: "too large"},
		"a.yaml:1: kind: wrong": {File: "a.yaml", Line: 1, Field: "kind", Reason: "wrong", Warning: true},
		"5 more":                {Reason: "5 more"},
	} {
		if got := p.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

const positions = `# A comment.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: x
  labels:
    app.kubernetes.io/name: x
spec:
  hosts:
  - a.example.com
  - b.example.com
  http:
  - match:
    - headers:
        end-user: {exact: jason}
        x.y: {exact: z}
    route: &route
    - destination:
        host: reviews
      weight: 1
    - destination: {host: ratings}
      weight: 2
  - route: *route
    cors_policy:
      max_age: 1s
`

func TestProblemLines(t *testing.T) {
	o := loadText(t, positions).Objects[0]
	for field, line := range map[string]int{
		"":                                  2,
		"spec":                              8,
		"spec.hosts[1]":                     11,
		"spec.hosts[2]":                     9,
		"spec.http[0]":                      13,
		"spec.http[0].match[0].headers":     14,
		"spec.http[0].match[0].headers.x.y": 14, // no key x
		`spec.http[0].match[0].headers["x.y"].exact`: 16,
		"spec.http[0].match[0].headers.end-user":     15,
		"spec.http[0].route[1].weight":               22,
		"spec.http[0].route[1].headers.request":      21,
		"spec.http[1].route[1].weight":               22, // where the anchor is
		"spec.http[1].corsPolicy.maxAge":             25, // written in the protobuf form
		"spec.http[9].route":                         12,
		"spec.http.route":                            12,
		"spec.hosts[0].x":                            10,
		`metadata.labels["app.kubernetes.io/name"]`:  7,
		"metadata.annotations":                       4,
		"nothing":                                    2,
		"spec..hosts":                                8,
		"spec.hosts[":                                9,
		`spec.hosts["x`:                              9,
		"spec.hosts[-1]":                             9,
	} {
		p := o.Problem(field, "is %d", 1)
		want := fmt.Sprintf("-:%d: VirtualService/default/x: %s: is 1", line, field)
		if field == "" {
			want = "-:2: VirtualService/default/x: is 1"
		}
		if p.String() != want || p.Warning {
			t.Errorf("got %s, want %s", p, want)
		}
		if w := o.Warn(field, "is %d", 1); !w.Warning || w.Line != line {
			t.Errorf("warning %+v", w)
		}
	}
}

func TestProblemLinesInLists(t *testing.T) {
	set := loadText(t, `apiVersion: v1
kind: List
items:
- {apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: a}, spec: {address: 10.0.0.1}}
- apiVersion: networking.istio.io/v1
  kind: WorkloadEntryList
  items:
  - metadata: {name: b}
    spec:
      address: 10.0.0.1
`)
	for i, want := range []int{4, 10} {
		if p := set.Objects[i].Problem("spec.address", "x"); p.Line != want {
			t.Errorf("%s: line %d, want %d", p.Object, p.Line, want)
		}
	}
}

func TestRelease(t *testing.T) {
	set := loadText(t, positions)
	o := set.Objects[0]
	var wg sync.WaitGroup
	for range 4 { // Problem and Release may run at the same time
		wg.Go(func() { o.Problem("spec.hosts[1]", "x") })
	}
	set.Release()
	wg.Wait()
	if p := o.Problem("spec.hosts[1]", "x"); p.Line != 2 || p.Field != "spec.hosts[1]" {
		t.Errorf("after Release: %s", p)
	}
	made := Object{Kind: "Gateway", Namespace: "a", Name: "b", Line: 5}
	if p := made.Problem("spec", "x"); p.Line != 5 || p.Object != "Gateway/a/b" {
		t.Errorf("of an object made by hand: %s", p)
	}
}

func TestPlaceString(t *testing.T) {
	for _, path := range []string{"spec", "spec.http[0].match[12].headers", `spec.set["a.b"].x`, `["\"\x00"]`, `[""][3]`, "spec.ports.http/2"} {
		if got := parsePath(path).String(); got != path {
			t.Errorf("%q became %q", path, got)
		}
	}
	p := parsePath("a.b")
	if a, b := p.key("x"), p.item(3); a.String() != "a.b.x" || b.String() != "a.b[3]" {
		t.Errorf("siblings %q and %q", a, b)
	}
}

func TestLowerCamel(t *testing.T) {
	for in, want := range map[string]string{
		"max_connections": "maxConnections", "consecutive_5xx_errors": "consecutive5xxErrors", "plain": "plain", "_x": "X", "a__b_": "aB", "": "",
	} {
		if got := lowerCamel(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	fields := []string{"connectionPool", "host", "http", "loadBalancer", "match", "route", "weight"}
	for word, want := range map[string]string{
		"wieght": `; did you mean "weight"?`, "HOST": `; did you mean "host"?`, "rout": `; did you mean "route"?`,
		"routes": `; did you mean "route"?`, "conectionPol": `; did you mean "connectionPool"?`, "zzz": "", "": "", "retries": "",
	} {
		if got := didYouMean(word, fields); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

// TestEntries checks merge keys: what is written out wins, then the earlier of several.
func TestEntries(t *testing.T) {
	root, err := parseYAML([]byte(`
a: &a {x: 1, y: 1}
b: &b {y: 2, z: 2, <<: {w: 2}}
one: {<<: *a, x: 0}
many: {<<: [*b, *a], z: 0}
none: [x]
`))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"one": "x=0 y=1 ", "many": "z=0 y=2 w=2 x=1 ", "none": ""} {
		_, n := lookup(root.Content[0], key)
		got := ""
		for pairs := entries(n); len(pairs) > 1; pairs = pairs[2:] {
			got += pairs[0].Value + "=" + pairs[1].Value + " "
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

// TestParseJSON compares trees of JSON with those that the YAML library makes.
func TestParseJSON(t *testing.T) {
	for _, text := range []string{
		`{}`,
		"---\n{\"a\": [1, -2.5, 1e3, true, false, null, \"x\"],\n\n \"b\": {\"c\":\n{}}}\n",
		"--- {\"a\":1}",
	} {
		got, want := parseJSON([]byte(text)), mustParse(t, text)
		if g, w := dump(got), dump(want); g != w {
			t.Errorf("%s:\ngot  %s\nwant %s", text, g, w)
		}
	}
	if n := parseJSON([]byte(`{"a\/b": "\ud83d\ude00"}`)); n.Content[0].Value != "a/b" || n.Content[1].Value != "😀" {
		t.Errorf("escapes: %s", dump(n))
	}
	for _, text := range []string{"", "a: 1", "{a: 1}", `[{"a": 1}]`, `{"a": 1} {"b": 2}`} {
		if n := parseJSON([]byte(text)); n != nil {
			t.Errorf("%s was read as JSON", text)
		}
	}
}

func mustParse(t *testing.T, text string) *yaml.Node {
	t.Helper()
	root, err := parseYAML([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return root.Content[0]
}

func dump(n *yaml.Node) string {
	s := fmt.Sprintf("%d:%s:%s", n.Line, n.Tag, n.Value)
	for _, c := range n.Content {
		s += "(" + dump(c) + ")"
	}
	return s
}
