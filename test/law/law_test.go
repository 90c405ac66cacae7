// SPDX-License-Identifier: Apache-2.0

package law

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pillion/test/need"
)

// file is one text file of the repository.
type file struct {
	path string // below the repository's top folder
	text string
	tree *ast.File // of a Go file
	fset *token.FileSet
}

func (f *file) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// in tells whether the file lies in one of the folders.
func (f *file) in(dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return strings.HasPrefix(f.path, dir+"/") })
}

func (f *file) line(n ast.Node) int { return f.fset.Position(n.Pos()).Line }

// imports returns the file's imports: path → name given to it, or "".
func (f *file) imports() map[string]string {
	all := map[string]string{}
	for _, spec := range f.tree.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		all[path] = ""
		if spec.Name != nil {
			all[path] = spec.Name.Name
		}
	}
	return all
}

// sources reads the files with one of the given names or endings.
func sources(t *testing.T, endings ...string) []*file {
	t.Helper()
	root := need.Root(t)
	var files []*file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "build", "testdata"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(path, e) }) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		files = append(files, &file{path: filepath.ToSlash(rel), text: string(text)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no file ends in %v; is %s the repository?", endings, root)
	}
	return files
}

// goFiles reads and parses every Go file.
func goFiles(t *testing.T) []*file {
	t.Helper()
	fset := token.NewFileSet()
	files := sources(t, ".go")
	for _, f := range files {
		f.fset = fset
		var err error
		if f.tree, err = parser.ParseFile(fset, f.path, f.text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func TestFilesCarryTheirLicence(t *testing.T) {
	const mark = "SPDX-License-Identifier: Apache-2.0"
	for _, f := range sources(t, ".go") {
		if first, _, _ := strings.Cut(f.text, "\n"); first != "// "+mark {
			t.Errorf("%s:1: the first line has to be %q", f.path, "// "+mark)
		}
	}
	for _, f := range sources(t, ".sh", "Makefile", "Dockerfile", ".ci/run") {
		if !strings.Contains(f.text, "# "+mark+"\n") {
			t.Errorf("%s: the line %q is missing", f.path, "# "+mark)
		}
	}
}

func TestFilesStayReadable(t *testing.T) {
	const most = 600
	for _, f := range sources(t, ".go") {
		if n := strings.Count(f.text, "\n"); n > most {
			t.Errorf("%s has %d lines, more than %d: two files would be clearer", f.path, n, most)
		}
	}
}

func TestFunctionsStayReadable(t *testing.T) {
	const most = 80
	for _, f := range goFiles(t) {
		if f.isTest() {
			continue // a table of cases may be long
		}
		for _, decl := range f.tree.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if n := f.fset.Position(fn.End()).Line - f.line(fn) + 1; n > most {
				t.Errorf("%s:%d: %s has %d lines, more than %d: it does more than one thing", f.path, f.line(fn), fn.Name.Name, n, most)
			}
		}
	}
}

// unfinished matches marks of work that was left for later. They rot: what is
// missing is written into an issue, or into the documentation as a limit.
var unfinished = regexp.MustCompile(`\b(` + strings.Join([]string{"TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"}, "|") + `)\b`)

func TestNothingIsLeftForLater(t *testing.T) {
	for _, f := range sources(t, ".go", ".md", ".sh", ".yaml", "Makefile", "Dockerfile", ".ci/run") {
		n := 0
		for line := range strings.Lines(f.text) {
			n++
			if mark := unfinished.FindString(line); mark != "" {
				t.Errorf("%s:%d: %s: finish it, or describe the limit in words", f.path, n, mark)
			}
		}
	}
}

func TestPackagesHaveMeaningfulNames(t *testing.T) {
	for _, f := range goFiles(t) {
		name := strings.TrimSuffix(f.tree.Name.Name, "_test")
		if slices.Contains([]string{"util", "utils", "common", "types", "helpers", "misc", "base"}, name) {
			t.Errorf("%s: package %s: name it by what it provides", f.path, name)
		}
	}
}

func TestExportedThingsAreDocumented(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.isTest() || f.tree.Name.Name == "main" {
			continue
		}
		for _, decl := range f.tree.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
					t.Errorf("%s:%d: %s has no comment: say what its caller may rely on", f.path, f.line(d), d.Name.Name)
				}
			case *ast.GenDecl:
				undocumentedSpecs(t, f, d)
			}
		}
	}
}

// undocumentedSpecs reports exported names of a declaration that neither it
// nor their own line says anything about.
func undocumentedSpecs(t *testing.T, f *file, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
				t.Errorf("%s:%d: type %s has no comment", f.path, f.line(s), s.Name.Name)
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					t.Errorf("%s:%d: %s has no comment", f.path, f.line(s), name.Name)
				}
			}
		}
	}
}

func exportedReceiver(fn *ast.FuncDecl) bool {
	if fn.Recv == nil {
		return true
	}
	typ := fn.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}
