// SPDX-License-Identifier: Apache-2.0

package law

import (
	"go/ast"
	"strings"
	"testing"
)

// bannedCalls are calls of the standard library that have no place here.
var bannedCalls = []struct {
	pkg, name string
	shipped   bool     // the rule is for shipped code only
	virtual   bool     // fine in tests where time is virtual
	except    []string // files that may, each with its reason beside it
	why       string
}{
	{pkg: "time", name: "Sleep", virtual: true,
		why: "a test that sleeps is slow or flaky: use testing/synctest, or wait for the condition; other code has to watch for cancellation"},
	{pkg: "os", name: "Exit", shipped: true, except: []string{
		"cmd/",         // exit codes are its job
		"scripts/fuzz", // likewise
		"bench/",       // likewise
	}, why: "only a main package decides when the process ends"},
	{pkg: "net", name: "ParseIP", shipped: true,
		why: "net/netip's addresses are values: comparable, and without allocation"},
	{pkg: "context", name: "TO" + "DO",
		why: "take the caller's context"},
}

func TestCallsThatHaveNoPlace(t *testing.T) {
	for _, f := range goFiles(t) {
		imports := f.imports()
		ast.Inspect(f.tree, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			for _, b := range bannedCalls {
				if _, imported := imports[b.pkg]; !imported || pkg.Name != b.pkg || sel.Sel.Name != b.name {
					continue
				}
				// The folders test and bench hold no shipped code.
				test := f.isTest() || f.in("test", "bench", "proxy/proxytest")
				_, synctest := imports["testing/synctest"]
				if b.shipped && test || b.virtual && synctest || hasPrefix(f.path, b.except) {
					continue
				}
				t.Errorf("%s:%d: %s.%s: %s", f.path, f.line(sel), b.pkg, b.name, b.why)
			}
			return true
		})
	}
}

func hasPrefix(path string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}

// TestSkipsGoThroughNeed: a skip that continuous integration can't tell from
// a pass is a test that doesn't run.
func TestSkipsGoThroughNeed(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.in("test/need") {
			continue
		}
		ast.Inspect(f.tree, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			recv, ok := sel.X.(*ast.Ident)
			if !ok || (recv.Name != "t" && recv.Name != "b" && recv.Name != "tb") {
				return true
			}
			switch sel.Sel.Name {
			case "Skip", "Skipf", "SkipNow":
				if !skipAllowed(f, call) {
					t.Errorf("%s:%d: %s: use test/need, which fails where CI=true", f.path, f.line(call), sel.Sel.Name)
				}
			}
			return true
		})
	}
}

// skipAllowed lets a test step aside for a reason that doesn't depend on what
// the machine has: a fuzz input that means nothing, or a race build, in which
// allocations can't be counted.
func skipAllowed(f *file, call *ast.CallExpr) bool {
	for _, decl := range f.tree.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if ok && fn.Pos() <= call.Pos() && call.End() <= fn.End() && strings.HasPrefix(fn.Name.Name, "Fuzz") {
			return true
		}
	}
	for _, arg := range call.Args {
		if lit, ok := arg.(*ast.BasicLit); ok && strings.Contains(lit.Value, "race") {
			return true
		}
	}
	return false
}

// aliases are the names under which packages go that share theirs with one of
// ours, so that a reader never has to look up which one is meant.
var aliases = map[string]string{
	"net/http":           "nethttp",
	"crypto/tls":         "stdtls",
	"pillion/proxy/http": "",
	"pillion/proxy/tls":  "",
}

func TestOneNameForEachPackage(t *testing.T) {
	for _, f := range goFiles(t) {
		for path, name := range f.imports() {
			if want, ok := aliases[path]; ok && name != want && name != "_" {
				t.Errorf("%s: %q is imported as %q, everywhere else as %q", f.path, path, name, want)
			}
		}
	}
}

func TestNoHiddenStart(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, decl := range f.tree.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s:%d: func init: what runs by being imported can't be seen or ordered by a reader; call it from where it is wanted", f.path, f.line(fn))
			}
		}
	}
}

// stateful are types that only make sense for state that changes.
var stateful = map[string]bool{
	"sync.Mutex": true, "sync.RWMutex": true, "sync.Map": true, "sync.Once": true, "sync.WaitGroup": true,
	"atomic.Bool": true, "atomic.Int32": true, "atomic.Int64": true, "atomic.Uint32": true, "atomic.Uint64": true,
	"atomic.Value": true, "atomic.Pointer": true,
}

// TestNoStateOfPackages: two proxies in one process, as tests have them, must
// not meet in a variable. sync.Pool is no state: what it holds is free.
func TestNoStateOfPackages(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.isTest() || f.in("test") {
			continue
		}
		for _, decl := range f.tree.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range d.Specs {
				v, ok := spec.(*ast.ValueSpec)
				if !ok {
					continue
				}
				if name := typeName(v.Type); stateful[name] {
					t.Errorf("%s:%d: %s is a %s of the package: hang it on the object whose state it is", f.path, f.line(v), v.Names[0].Name, name)
				}
			}
		}
	}
}

func typeName(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.SelectorExpr:
		if pkg, ok := x.X.(*ast.Ident); ok {
			return pkg.Name + "." + x.Sel.Name
		}
	case *ast.IndexExpr:
		return typeName(x.X)
	}
	return ""
}

// TestPrintingIsForCommands: a library that prints can't be tested or quieted.
func TestPrintingIsForCommands(t *testing.T) {
	for _, f := range goFiles(t) {
		if !f.in("proxy") || f.isTest() {
			continue
		}
		ast.Inspect(f.tree, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				switch name := typeName(call.Fun); name {
				case "fmt.Print", "fmt.Printf", "fmt.Println":
					t.Errorf("%s:%d: %s: write to an io.Writer that the caller gives, or log by slog", f.path, f.line(call), name)
				}
			}
			return true
		})
	}
}
