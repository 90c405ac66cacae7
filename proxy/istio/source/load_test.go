// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// workload returns a small document.
func workload(name string) string {
	return "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: " + name + "}\nspec: {address: 10.0.0.1}\n"
}

// writeFiles writes files below a new directory.
func writeFiles(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func symlink(t testing.TB, to, link string) {
	t.Helper()
	if err := os.Symlink(to, link); err != nil {
		t.Fatal(err)
	}
}

// names returns the names of a set's objects in order.
func names(set *Set) string {
	var all []string
	for _, o := range set.Objects {
		all = append(all, o.Name)
	}
	return strings.Join(all, " ")
}

func TestLoadDirectory(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"b.yaml":             workload("b"),
		"a.yml":              workload("a1") + "---\n" + workload("a2"),
		"c.JSON":             `{"apiVersion":"networking.istio.io/v1","kind":"WorkloadEntry","metadata":{"name":"c"},"spec":{"address":"10.0.0.1"}}`,
		"ba/x.yaml":          workload("ba-x"),
		".hidden.yaml":       "not: read",
		".git/config.yaml":   "not: read",
		"README.md":          "# not read",
		"b.yaml~":            "not: read",
		"empty.yaml":         "# nothing\n---\n---\n",
		"outside.d/sub.yaml": workload("sub"),
	})
	set := load(t, Options{}, dir)
	// "b.yaml" sorts before "ba": a directory's name has nothing behind it.
	if got := names(set); got != "a1 a2 b ba-x c sub" {
		t.Errorf("read %q", got)
	}
	if f := set.Objects[3].File; f != filepath.Join(dir, "ba/x.yaml") {
		t.Errorf("file named %s", f)
	}
	if l := set.Objects[1].Line; l != 6 {
		t.Errorf("second document on line %d", l)
	}
}

func TestLoadReadsFilesOnce(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.yaml": workload("a"), "sub/b.yaml": workload("b")})
	symlink(t, "a.yaml", filepath.Join(dir, "z.yaml"))
	symlink(t, ".", filepath.Join(dir, "loop"))
	symlink(t, "..", filepath.Join(dir, "sub", "up"))
	symlink(t, filepath.Join(dir, "sub"), filepath.Join(dir, "zsub"))
	set := load(t, Options{}, filepath.Join(dir, "sub", "..", "a.yaml"), dir, dir+"/", filepath.Join(dir, "sub"))
	if got := names(set); got != "a b" {
		t.Errorf("read %q", got)
	}
}

// configMap lays out a directory as the kubelet mounts a ConfigMap.
func configMap(t testing.TB, version string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	swapConfigMap(t, dir, version, files)
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		symlink(t, filepath.Join("..data", first), filepath.Join(dir, first))
	}
	return dir
}

// swapConfigMap replaces the content of a mounted ConfigMap as the kubelet does: a new
// directory, and a link renamed over the old one.
func swapConfigMap(t testing.TB, dir, version string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, version, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := os.Readlink(filepath.Join(dir, "..data"))
	symlink(t, version, filepath.Join(dir, "..data_tmp"))
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if before != "" {
		if err := os.RemoveAll(filepath.Join(dir, before)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoadConfigMap(t *testing.T) {
	dir := configMap(t, "..2026_01_01", map[string]string{"a.yaml": workload("a"), "sub/b.yaml": workload("b")})
	if got := names(load(t, Options{}, dir)); got != "a b" {
		t.Errorf("read %q", got)
	}
	if got := names(load(t, Options{}, filepath.Join(dir, "a.yaml"))); got != "a" {
		t.Errorf("read %q", got)
	}
}

func TestLoadStdin(t *testing.T) {
	set := load(t, Options{DefaultNamespace: "ns", Stdin: strings.NewReader(workload("a"))}, "-", "-")
	if len(set.Objects) != 1 || set.Objects[0].ID() != "WorkloadEntry/ns/a" || set.Objects[0].File != "-" {
		t.Errorf("read %+v", set.Objects)
	}
	if set = load(t, Options{}); len(set.Objects) != 0 || len(set.Warnings) != 0 {
		t.Errorf("read %+v of nothing", set)
	}
}

// TestUnreadable covers what Load says of paths that it can't read.
func TestUnreadable(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"latin.yaml": "a: 1\nb: caf\xe9\n",
		"utf16.yaml": "\xff\xfea\x00",
		"cr.yaml":    "a: 1\r---\rb: 2\r",
		"bom.yaml":   "\xef\xbb\xbf" + workload("bom"),
		"crlf.yaml":  strings.ReplaceAll(workload("crlf"), "\n", "\r\n"),
		"nul.yaml":   "a: 1\nb: \x00\n",
	})
	symlink(t, "nowhere", filepath.Join(dir, "dangling.yaml"))
	symlink(t, "nowhere", filepath.Join(dir, "dangling"))
	empty := t.TempDir()
	got := problems(t, []string{filepath.Join(dir, "missing.yaml"), dir, "-", empty},
		Options{Stdin: iotest.ErrReader(errors.New("broken pipe"))})
	want := `missing.yaml: no such file or directory
dangling.yaml: no such file or directory
latin.yaml:2: not UTF-8 text
utf16.yaml:1: not UTF-8 text
-: broken pipe
cr.yaml:1: invalid YAML: a document marker follows a line end other than LF or CRLF; use LF
nul.yaml:2: invalid YAML: control characters are not allowed
warning: ` + filepath.Base(empty) + `: no .yaml, .yml or .json file in this directory
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := problems(t, []string{"-"}, Options{}); got != "-: standard input can't be read here\n" {
		t.Errorf("got %s", got)
	}
}

// endless reads one letter for ever.
type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

func TestLoadLimits(t *testing.T) {
	if got := problems(t, []string{"-"}, Options{Stdin: endless('#')}); got != "-: larger than 64 MiB\n" {
		t.Errorf("large file: %s", got)
	}
	many := strings.NewReader(strings.Repeat("---\n", maxDocuments+2))
	if got := problems(t, []string{"-"}, Options{Stdin: many}); got != "-: with this file the configuration has more than 100000 documents\n" {
		t.Errorf("many documents: %s", got)
	}
}

func TestManyProblemsAreCutShort(t *testing.T) {
	var b strings.Builder
	for i := range maxProblems + 5 {
		fmt.Fprintf(&b, "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w%d}\nspec: {adress: x}\n", i)
	}
	_, all := Load([]string{"-"}, Options{Stdin: strings.NewReader(b.String())})
	if len(all) != 2*maxProblems+2 {
		t.Fatalf("%d problems", len(all))
	}
	if got := all[maxProblems].String(); got != "5 more errors aren't shown" {
		t.Errorf("last error %q", got)
	}
	if got := all[len(all)-1].String(); got != "5 more warnings aren't shown" {
		t.Errorf("last warning %q", got)
	}
}

// TestStrict checks what Strict makes errors of, and what not.
func TestStrict(t *testing.T) {
	text := `apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: example.com/v1
kind: Widget
metadata: {name: w}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: e}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: w, nme: w}
spec: {address: 10.0.0.1, wieght: 5}
`
	options := func(strict bool) Options {
		return Options{DefaultNamespace: "default", Strict: strict, Stdin: strings.NewReader(text)}
	}
	lines := []string{
		`-:6: Widget/default/w: kind: unknown kind Widget of example.com/v1, ignored`,
		`-:9: EnvoyFilter/default/e: not supported, ignored`,
		`-:15: WorkloadEntry/default/w: metadata.nme: unknown field "nme"; did you mean "name"?`,
		`-:16: WorkloadEntry/default/w: spec.wieght: unknown field "wieght"; did you mean "weight"?`,
	}
	const last = "warning: -:1: Namespace: a proxy has no use for this kind; ignored\n"
	if got, want := problems(t, []string{"-"}, options(true)), strings.Join(lines, "\n")+"\n"+last; got != want {
		t.Errorf("strict: got\n%s\nwant\n%s", got, want)
	}
	for i := range lines {
		lines[i] = "warning: " + lines[i]
	}
	if got, want := problems(t, []string{"-"}, options(false)), strings.Join(lines, "\n")+"\n"+last; got != want {
		t.Errorf("not strict: got\n%s\nwant\n%s", got, want)
	}
}

// TestWarningsOfGoodResources covers warnings that don't come with errors.
func TestWarningsOfGoodResources(t *testing.T) {
	got := problems(t, []string{"-"}, Options{DefaultNamespace: "default", Stdin: strings.NewReader(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: unreachable}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /v2}}, {uri: {prefix: /}, name: rest}]
    delegate: {name: named, namespace: default}
  - match: [{uri: {prefix: /v3}}]
    delegate: {name: elsewhere, namespace: other}
  - route: [{destination: {host: reviews, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: named}
spec:
  http: [{route: [{destination: {host: reviews}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: forgotten}
spec:
  http: [{route: [{destination: {host: reviews}}]}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec:
  workloadSelector: {labels: {}}
  egress:
  - hosts: ["./a.b", "default/a.b", "default/*", "*/*", "prod/*"]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: none}
spec:
  hosts: ["*a.example.com"]
  workloadSelector: {labels: {app: x}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: remote}
spec: {network: net-2}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: sni}
spec:
  hosts: [10.0.0.1]
  tls: [{match: [{sniHosts: [10.0.0.1]}], route: [{destination: {host: x}}]}]
`)})
	want := `warning: -:10: VirtualService/default/unreachable: spec.http[1]: never used: http[0] takes every request
warning: -:12: VirtualService/default/unreachable: spec.http[2]: never used: http[0] takes every request
warning: -:30: Sidecar/default/default: spec.workloadSelector.labels: a selector without labels selects every workload of the namespace
warning: -:32: Sidecar/default/default: spec.egress[0].hosts[1]: "default/a.b" is covered by hosts[0] already
warning: -:32: Sidecar/default/default: spec.egress[0].hosts[4]: "prod/*" is covered by hosts[3] already
warning: -:38: ServiceEntry/default/none: spec.hosts[0]: "*a.example.com" has a wildcard that isn't a label of its own
warning: -:39: ServiceEntry/default/none: spec.workloadSelector: has no effect with resolution NONE; use STATIC
warning: -:44: WorkloadEntry/default/remote: spec: no address, so the workload is reached through the gateways of network "net-2"
warning: -:51: VirtualService/default/sni: spec.tls[0].match[0].sniHosts[0]: "10.0.0.1" is an address, and clients send no SNI for addresses (RFC 6066 §3)
warning: -:23: VirtualService/default/forgotten: spec.hosts: no hosts, and no other VirtualService delegates to this one, so it has no effect
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestBatchesAreIndependent checks that documents read with one parser come out as each
// would by itself: a broken one, one with an anchor that another uses, empty ones.
func TestBatchesAreIndependent(t *testing.T) {
	var text, want strings.Builder
	for i := range 100 {
		switch i {
		case 40:
			text.WriteString("a: [\n---\n")
			want.WriteString("-:201: invalid YAML: did not find expected node content\n")
		case 50:
			text.WriteString("# empty\n---\n...\n---\n")
		default:
			text.WriteString(workload(fmt.Sprint("w", i)) + "---\n")
		}
	}
	if got := problems(t, []string{"-"}, Options{Stdin: strings.NewReader(text.String())}); got != want.String() {
		t.Errorf("got\n%s\nwant\n%s", got, want.String())
	}

	text.Reset()
	text.WriteString(strings.Replace(workload("a"), "10.0.0.1", "&ip 10.0.0.1", 1) + "---\n" + strings.Replace(workload("b"), "10.0.0.1", "*ip", 1))
	if got := problems(t, []string{"-"}, Options{Stdin: strings.NewReader(text.String())}); got != "-:9: invalid YAML: unknown anchor 'ip' referenced\n" {
		t.Errorf("got %s", got)
	}
}

// TestLinesOfManyDocuments checks that documents of a large file have their own lines,
// whichever way they were parsed.
func TestLinesOfManyDocuments(t *testing.T) {
	text := strings.Repeat("\n# comment\n", 3) + generatedMesh(50)
	lines := strings.Split(text, "\n")
	set := loadText(t, text)
	if len(set.Objects) != 150 {
		t.Fatalf("%d objects", len(set.Objects))
	}
	for _, o := range set.Objects {
		if got := lines[o.Line-1]; got != "apiVersion: networking.istio.io/v1" {
			t.Fatalf("%s begins on line %d: %s", o.ID(), o.Line, got)
		}
		p := o.Warn("metadata.name", "x")
		if got := lines[p.Line-1]; got != "  name: "+o.Name {
			t.Fatalf("%s has its name on line %d: %s", o.ID(), p.Line, got)
		}
	}
	if !slices.IsSortedFunc(set.Objects, func(a, b *Object) int { return a.Line - b.Line }) {
		t.Error("objects aren't in the order of the file")
	}
}
