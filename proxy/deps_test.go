// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// lattice is the direction of imports between the packages of this module:
// "a < b" lets b import a, and all that a may import. Paths are below
// pillion/proxy; "root" is that folder itself. A new edge is a change of
// architecture: make it here, on purpose, and in ARCHITECTURE.md.
//
// The form is that of Go's own src/go/build/deps_test.go.
const lattice = `
	# Leaves: nothing of ours.
	NONE < stats, buf, match, istio/source;
	buf < netio;

	# HTTP: the neutral model, then its codecs.
	stats, buf < http;
	http, netio < http/h1, http/h2;

	# Encryption and identity.
	http, match, netio < tls;
	NONE < tls/localca;
	NONE < tls/controlplane;
	tls < tls/renew < tls/workloadapi, tls/sds, tls/istioca;
	tls/controlplane < tls/istioca;

	# The way up to an upstream.
	stats < outlier;
	http/h1, http/h2, netio, tls < pool;
	pool, outlier, match < cluster;

	# What a route does. No filter imports another one, the router or a cluster.
	http, match < filter < filter/*;
	http, stats, match < trace;
	filter, trace < trace/*;
	filter, match, trace < router;
	router, cluster < forward;

	# The way in.
	http < accesslog;
	http, match, netio, tls < listener;
	http/h1, http/h2, listener, router, forward, accesslog < hcm;
	filter, listener, cluster, accesslog < tcp;

	# Configuration sees the whole data path, the data path never sees
	# configuration.
	istio/source < istio;
	hcm, tcp, filter/*, trace/*, outlier, tls < config;

	stats < admin;
	NONE < demo;
	stats, tls/renew, tls/controlplane < xds;
	config, xds < live;
	stats < pod;
	config, istio, live, pod, admin, tls/localca, tls/renew, tls/workloadapi, tls/sds, tls/istioca < root;
	root, demo < cmd;

	# For tests.
	NONE < proxytest, proxytest/mint;
	root, proxytest < proxytest/inproc;
	tls, tls/localca < tls/renew/renewtest;
	filter < filter/filtertest;
`

// outside tells who may import what from outside of the module, and why.
// Packages that no rule names are free for all.
var outside = []struct {
	imported string // an import path; with /... all below it too
	by       string // space-separated packages as in lattice; "" is nobody
	why      string
}{
	{"golang.org/x/net/http2/...", "http/h2 proxytest/inproc",
		"one package hides the framer, because upstream has begun to move it"},
	{"k8s.io/client-go/...", "",
		"it would more than double the binary in every pod"},
	{"k8s.io/api/...", "",
		"Kubernetes objects are few and read as plain structs"},
	{"net/http", "admin pod demo cmd proxytest/inproc http/h1 istio",
		"the data path has its own codecs; net/http costs several times as much, and its HTTP/2 is served on no port. " +
			"The codec and the translator take the texts of statuses from it"},
	{"crypto/tls", "tls tls/controlplane tls/istioca pod proxytest/inproc",
		"identity checks can't be forgotten where one package alone makes TLS configurations. " +
			"A control plane is no workload: it is known by a name of DNS. The client of a CA matches keys with certificates. " +
			"The kubelet's probes, which the pod sends on, check nobody, and neither does a client of a test"},
	{"github.com/spf13/cobra", "cmd",
		"flags are the command line's business"},
	{"github.com/prometheus/client_golang/...", "stats admin root",
		"everyone else counts through the handles of proxy/stats"},
	{"github.com/fsnotify/fsnotify", "istio/source tls root",
		"only the readers of files watch them"},
	{"google.golang.org/grpc/...", "xds istio pod tls/renew tls/workloadapi tls/sds tls/controlplane tls/istioca cmd",
		"the request path makes no gRPC call; the translator names status codes; the pod sends on the kubelet's gRPC probes; " +
			"the command says where gRPC's own lines go, which is said once for the process"},
	{"github.com/spiffe/go-spiffe/...", "tls/workloadapi",
		"one package speaks the Workload API; identities are checked by proxy/tls"},
	{"github.com/envoyproxy/go-control-plane/...", "istio config admin root xds live pod filter/* trace/* accesslog tls/sds",
		"configuration messages are compiled away before the first request; filters and loggers read their own when they are built"},
	{"google.golang.org/protobuf/...", "istio istio/source config admin root xds live pod filter/* trace/* accesslog tls/sds tls/istioca",
		"as go-control-plane"},
	{"istio.io/api/envoy/...", "istio config live filter/*",
		"the configuration of Istio's own filters is a part of xDS"},
	{"istio.io/api/networking/...", "istio istio/source",
		"Istio's API ends where it has become xDS resources"},
	{"istio.io/api/security/...", "istio istio/source tls/istioca",
		"as networking; the messages of Istio's CA are among them"},
	{"istio.io/api/telemetry/...", "istio istio/source",
		"as networking"},
	{"istio.io/api/mesh/...", "istio istio/source pod",
		"as networking"},
	{"sigs.k8s.io/yaml", "istio istio/source config pod root cmd",
		"YAML is a form of configuration"},
	{"go.yaml.in/yaml/...", "istio istio/source config root cmd",
		"YAML is a form of configuration"},
	{"log", "", "logs are records of log/slog"},
	{"io/ioutil", "", "deprecated since Go 1.16"},
	{"math/rand", "", "math/rand/v2 needs no seed and no lock"},
	{"reflect", "", "it hides work from the reader and from the compiler"},
}

const module = "pillion"

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
	GoFiles                            []string
}

// list runs go list over the patterns.
func list(t *testing.T, patterns ...string) []listed {
	t.Helper()
	// With the profile of cmd/proxy there would be a variant of each package for it.
	args := append([]string{"list", "-pgo=off", "-json=ImportPath,Imports,TestImports,XTestImports,GoFiles"}, patterns...)
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr = "..", os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// short returns a package's name in the lattice.
func short(importPath string) string {
	switch {
	case importPath == module+"/proxy":
		return "root"
	case strings.HasPrefix(importPath, module+"/cmd/"):
		return "cmd"
	}
	return strings.TrimPrefix(importPath, module+"/proxy/")
}

// named tells whether a name of the lattice, maybe ending in /*, means pkg.
func named(name, pkg string) bool {
	if dir, ok := strings.CutSuffix(name, "/*"); ok {
		return path.Dir(pkg) == dir
	}
	return name == pkg
}

// below is the lattice as parsed: for each name, the names that it may import.
type below map[string]map[string]bool

func parseLattice(t *testing.T, text string) below {
	t.Helper()
	b := below{"NONE": {}}
	var rules strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rules.WriteString(line + " ")
	}
	for rule := range strings.SplitSeq(rules.String(), ";") {
		var lower []string
		for i, group := range strings.Split(rule, "<") {
			var names []string
			for name := range strings.SplitSeq(group, ",") {
				if name = strings.TrimSpace(name); name != "" {
					names = append(names, name)
				}
			}
			for _, name := range names {
				if i == 0 {
					if b[name] == nil {
						t.Fatalf("%q stands on the left of %q before any rule has it on the right", name, strings.TrimSpace(rule))
					}
					continue
				}
				if b[name] == nil {
					b[name] = map[string]bool{}
				}
				for _, l := range lower {
					b[name][l] = true
					for deeper := range b[l] {
						b[name][deeper] = true
					}
				}
			}
			lower = names
		}
	}
	return b
}

// rule returns the lattice's name for pkg, and what it may import.
func (b below) rule(pkg string) (string, map[string]bool) {
	if allowed, ok := b[pkg]; ok {
		return pkg, allowed
	}
	for name, allowed := range b {
		if named(name, pkg) {
			return name, allowed
		}
	}
	return "", nil
}

func allows(allowed map[string]bool, pkg string) bool {
	for name := range allowed {
		if named(name, pkg) {
			return true
		}
	}
	return false
}

func TestImportDirection(t *testing.T) {
	b := parseLattice(t, lattice)
	seen := map[string]bool{}
	for _, p := range list(t, "./proxy/...", "./cmd/...") {
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		pkg := short(p.ImportPath)
		name, allowed := b.rule(pkg)
		if name == "" {
			t.Errorf("package %s isn't in the lattice: put it where it belongs", p.ImportPath)
			continue
		}
		seen[name] = true
		for _, imported := range p.Imports {
			if !strings.HasPrefix(imported, module+"/") {
				continue
			}
			if below := short(imported); !allows(allowed, below) {
				t.Errorf("%s imports %s, an edge that the lattice doesn't have", pkg, below)
			}
		}
	}
	for name := range b {
		if name != "NONE" && !seen[name] {
			t.Errorf("the lattice names %s, and there is no such package", name)
		}
	}
}

// TestOutsideImports holds for the code that is shipped; tests may import
// what they like, but for what nobody may.
func TestOutsideImports(t *testing.T) {
	for _, p := range list(t, "./proxy/...", "./cmd/...") {
		pkg := short(p.ImportPath)
		for _, rule := range outside {
			for _, imported := range p.Imports {
				if covers(rule.imported, imported) && !slices.ContainsFunc(strings.Fields(rule.by), func(name string) bool { return named(name, pkg) }) {
					t.Errorf("%s imports %s: %s", pkg, imported, rule.why)
				}
			}
			for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
				// A test may compare with the standard library by reflection
				// and by net/http, so only what would become a dependency of
				// the module counts here.
				if rule.by == "" && strings.Contains(imported, ".") && covers(rule.imported, imported) {
					t.Errorf("the tests of %s import %s: %s", pkg, imported, rule.why)
				}
			}
		}
	}
}

func covers(pattern, imported string) bool {
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return imported == dir || strings.HasPrefix(imported, dir+"/")
	}
	return imported == pattern
}

// TestBlackBoxIsOne keeps the black-box tests from sharing code with what
// they judge.
func TestBlackBoxIsOne(t *testing.T) {
	for _, p := range list(t, "./test/...") {
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if strings.HasPrefix(imported, module+"/proxy") || strings.HasPrefix(imported, module+"/cmd") {
				t.Errorf("%s imports %s: a black-box test knows the binary only", p.ImportPath, imported)
			}
		}
	}
}
