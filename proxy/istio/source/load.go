// SPDX-License-Identifier: Apache-2.0

// Package source reads Istio and Kubernetes resources from YAML and JSON: files,
// directories and standard input. It decodes them into Istio's API types, holds them to
// the rules that Istio's own admission webhook enforces (its pkg/config/validation is
// the base of facts), and names every problem with file, line and field. Watch tells
// when files have changed.
//
// Nothing is skipped in silence: what isn't understood is named in a warning, and what
// would be unsafe to leave out is an error.
package source

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.yaml.in/yaml/v3"
	networking "istio.io/api/networking/v1alpha3"
)

// Options says how Load reads.
type Options struct {
	// DefaultNamespace is the namespace of a resource that names none; empty means
	// "default", as for Kubernetes' tools.
	DefaultNamespace string
	// Strict makes errors of the warnings about unknown kinds, unknown fields and
	// unsupported resources. Kubernetes kinds that a proxy has no use for stay warnings.
	Strict bool
	// Stdin is what the path "-" reads; nil makes "-" an error. Load reads it to its
	// end, so who loads again must give the same text again.
	Stdin io.Reader
}

// maxDocuments bounds the documents of one Load.
const maxDocuments = 100_000

// Load reads every resource that the paths name: files, directories (recursively, the
// .yaml, .yml and .json files in them, sorted) or "-" for standard input. A file may
// hold many documents, and Lists of resources are taken apart.
//
// The second result is empty when all went well. Otherwise it holds the errors, and
// behind them the warnings (Problem.Warning), and the set is nil: configuration is taken
// as a whole or not at all. Problems come in the order of paths, documents and lines;
// files that can't be read come first, and what needs a view of all documents last.
func Load(paths []string, o Options) (*Set, []Problem) {
	if o.DefaultNamespace == "" {
		o.DefaultNamespace = "default"
	}
	var out report
	docs := readDocuments(list(paths, &out).files, &o, &out)
	set := &Set{}
	ids := map[string]*Object{}
	var idle uselessKinds
	for _, r := range readObjects(docs, &o) {
		out.merge(&r.report)
		idle = append(idle, r.useless...)
		for _, obj := range r.objects {
			if first, ok := ids[obj.ID()]; ok {
				out.addError(Problem{File: obj.File, Line: obj.Line, Object: obj.ID(),
					Reason: fmt.Sprintf("also defined at %s:%d; keep one of the two", first.File, first.Line)})
				continue
			}
			ids[obj.ID()] = obj
			set.Objects = append(set.Objects, obj)
		}
	}
	checkDelegates(set.Objects, ids, &out)
	idle.report(&out)
	out.close()
	if len(out.errors) > 0 {
		return nil, append(out.errors, out.warnings...)
	}
	set.Warnings = out.warnings
	return set, nil
}

// readDocuments reads the files and cuts them into documents.
func readDocuments(files []string, o *Options, out *report) []document {
	var docs []document
	total := 0
	for _, name := range files {
		data, err := readFile(name, o.Stdin)
		if err != nil {
			out.addError(Problem{File: name, Reason: pathReason(err)})
			continue
		}
		if total += len(data); total > maxTotalSize {
			out.addError(Problem{File: name, Reason: fmt.Sprintf("with this file the configuration is larger than %d MiB", maxTotalSize>>20)})
			return nil
		}
		data = bytes.TrimPrefix(data, []byte(utf8BOM))
		if line := badUTF8(data); line > 0 {
			out.addError(Problem{File: name, Line: line, Reason: "not UTF-8 text"})
			continue
		}
		docs = append(docs, split(&file{name: name, data: data})...)
		if len(docs) > maxDocuments {
			out.addError(Problem{File: name, Reason: fmt.Sprintf("with this file the configuration has more than %d documents", maxDocuments)})
			return nil
		}
	}
	return docs
}

// readObjects reads the documents on as many processors as there are: YAML is the slow
// part of a load. Results are in the order of documents.
func readObjects(docs []document, o *Options) []result {
	results := make([]result, len(docs))
	trees := &treeCache{}
	batches := batch(docs)
	var next atomic.Int64
	work := func() {
		r := reader{options: o, trees: trees}
		for i := next.Add(1) - 1; i < int64(len(batches)); i = next.Add(1) - 1 {
			from, to := batches[i], len(docs)
			if i+1 < int64(len(batches)) {
				to = batches[i+1]
			}
			r.batch(docs[from:to], results[from:to])
		}
	}
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(batches)) {
		wg.Go(work)
	}
	wg.Wait()
	return results
}

// batch returns where each batch of documents begins: neighbours in one file, enough of
// them to be worth a parser and few enough to share among processors.
func batch(docs []document) []int {
	const most = 32
	var starts []int
	for i := range docs {
		if i == 0 || docs[i].file != docs[i-1].file || i-starts[len(starts)-1] == most {
			starts = append(starts, i)
		}
	}
	return starts
}

// result is what came of one document.
type result struct {
	report
	objects []*Object
	useless uselessKinds
}

// reader reads documents one after another. One goroutine owns it.
type reader struct {
	options *Options
	trees   *treeCache
	arena   arena
	doc     *document // being read
	*result           // of doc
}

func (r *reader) batch(docs []document, results []result) {
	s := newStream(docs)
	for i := range docs {
		r.doc, r.result = &docs[i], &results[i]
		r.arena.reset()
		r.document(s.next(r.doc))
		r.sort()
	}
}

// document reads one document; root is its tree when it was parsed already.
func (r *reader) document(root *yaml.Node) {
	if root == nil {
		var syntax *syntaxError
		if root, syntax = r.doc.parse(); syntax != nil {
			r.addError(Problem{File: r.doc.name, Line: syntax.line, Reason: syntax.reason})
			return
		}
	}
	if root == nil || isNull(root) {
		return
	}
	if bad := checkTree(root, r.arena.root()); len(bad) > 0 {
		label := r.guessLabel(root)
		for _, e := range bad {
			r.addError(Problem{File: r.doc.name, Line: e.line, Object: label, Field: e.path, Reason: e.reason})
		}
		return
	}
	r.object(root, nil, "", "")
}

// guessLabel names the resource of a tree that isn't sound, without following aliases.
func (r *reader) guessLabel(root *yaml.Node) string {
	value := func(n *yaml.Node, key string) *yaml.Node {
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i+1]
			}
		}
		return &yaml.Node{}
	}
	meta := value(root, "metadata")
	o := Object{Kind: value(root, "kind").Value, Namespace: value(meta, "namespace").Value, Name: value(meta, "name").Value}
	if o.Namespace == "" {
		o.Namespace = r.options.DefaultNamespace
	}
	if o.Name == "" {
		return o.Kind
	}
	return o.ID()
}

// object reads one resource or a List of them. items is the way to it through enclosing
// lists; apiVersion and kind are what a typed list lends to items that don't say.
func (r *reader) object(n *yaml.Node, items []int, apiVersion, kind string) {
	n = target(n)
	s := &subject{
		Object: &Object{File: r.doc.name, Line: n.Line},
		root:   n,
		top:    r.arena.root(),
		strict: r.options.Strict,
		out:    &r.report,
	}
	if n.Kind != yaml.MappingNode {
		s.fail(n, s.top, "wants a resource (apiVersion, kind, metadata, spec), not %s", describe(n))
		return
	}
	var ok bool
	if s.Kind, ok = s.header("kind", kind); !ok {
		return
	}
	if s.APIVersion, ok = s.header("apiVersion", apiVersion); !ok {
		return
	}
	group, version := "", s.APIVersion
	if g, v, ok := strings.Cut(s.APIVersion, "/"); ok {
		group, version = g, v
	}
	if strings.HasSuffix(s.Kind, "List") && hasKey(n, "items") {
		r.list(s, items)
		return
	}
	what := classify(group, s.Kind)
	if what == useless {
		r.useless = append(r.useless, uselessKind{kind: s.Kind, file: s.File, line: s.Line})
		return
	}
	if what == supported && group == securityGroup {
		s.strict = true // a policy means all that it says, or isn't served
	}
	s.readMetadata(r.options.DefaultNamespace)
	switch what {
	case unsupported:
		s.ignored(n, s.top, "%s", whyUnsupported(s.Kind))
	case unknown:
		s.unknownKind(group)
	case supported:
		if versions := versionsOf(group); !slices.Contains(versions, version) {
			s.failAt(s.top, "apiVersion", "version %q of %s isn't known; use %s", clip(version), s.Kind, strings.Join(versions, ", "))
			return
		}
		s.readSpec()
		s.origin.Store(&origin{doc: r.doc, items: items, trees: r.trees})
		if s.Name != "" {
			r.objects = append(r.objects, s.Object)
		}
	}
}

// header reads kind or apiVersion.
func (s *subject) header(key, inherited string) (string, bool) {
	_, n := lookup(s.root, key)
	if n == nil || isNull(target(n)) {
		if inherited == "" {
			s.failAt(s.top, key, "is required")
		}
		return inherited, inherited != ""
	}
	v, ok := s.text(n, s.top.key(key))
	if ok && v == "" {
		s.failAt(s.top, key, "is required")
	}
	return v, ok && v != ""
}

// list reads the items of a List or of a typed list such as VirtualServiceList.
func (r *reader) list(s *subject, way []int) {
	kind := strings.TrimSuffix(s.Kind, "List")
	apiVersion := s.APIVersion
	if kind == "" {
		apiVersion = "" // a plain List is of v1 whatever it holds
	}
	_, items := lookup(s.root, "items")
	s.eachItem(items, s.top.key("items"), func(item *yaml.Node, at *place) {
		r.object(item, append(slices.Clone(way), at.index), apiVersion, kind)
	})
}

// unknownKind reports a kind that nobody here knows. A kind that is known in another
// group, or in one that is misspelt, is an error: it is surely meant, and to leave it out
// would change traffic.
func (s *subject) unknownKind(group string) {
	if home, ok := groupOf(s.Kind); ok {
		if versionsOf(group) != nil {
			s.failAt(s.top, "apiVersion", "%s belongs to %s, not to %s", s.Kind, groupName(home), groupName(group))
			return
		}
		if hint := didYouMean(group, []string{home}); hint != "" {
			s.failAt(s.top, "apiVersion", "unknown group %q%s", clip(group), hint)
			return
		}
	}
	_, n := lookup(s.root, "kind")
	hint := ""
	if versionsOf(group) != nil && !s.out.full() {
		hint = didYouMean(s.Kind, []string{"VirtualService", "DestinationRule", "ServiceEntry", "WorkloadEntry", "Gateway",
			"Sidecar", "AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "Telemetry", "Service", "EndpointSlice",
			"Secret", "ConfigMap"})
	}
	if n == nil {
		n = s.root // the kind comes from a typed list
	}
	at := s.top.key("kind")
	if group == securityGroup {
		s.fail(n, at, "unknown kind %s of %s; to leave it out could let in what it should keep out%s", s.Kind, s.APIVersion, hint)
		return
	}
	s.ignored(n, at, "unknown kind %s of %s, ignored%s", s.Kind, s.APIVersion, hint)
}

func groupName(group string) string {
	if group == coreGroup {
		return "the core group (apiVersion: v1)"
	}
	return group
}

// uselessKind is a document of a kind that a proxy has no use for.
type uselessKind struct {
	kind, file string
	line       int
}

type uselessKinds []uselessKind

// report names each kind once.
func (u uselessKinds) report(out *report) {
	count := map[string]int{}
	for _, k := range u {
		count[k.kind]++
	}
	for _, k := range u {
		n := count[k.kind]
		delete(count, k.kind)
		switch n {
		case 0: // named already
		case 1:
			out.addWarning(Problem{File: k.file, Line: k.line, Object: k.kind, Reason: "a proxy has no use for this kind; ignored"})
		default:
			out.addWarning(Problem{File: k.file, Line: k.line, Object: k.kind,
				Reason: fmt.Sprintf("a proxy has no use for this kind; %d documents ignored, this is the first", n)})
		}
	}
}

// checkDelegates warns of a VirtualService without hosts that nothing delegates to: it
// is well-formed and does nothing, and most often its hosts were forgotten.
func checkDelegates(objects []*Object, ids map[string]*Object, out *report) {
	named := map[*Object]bool{}
	for _, o := range objects {
		vs, ok := o.Spec.(*networking.VirtualService)
		if !ok {
			continue
		}
		for _, route := range vs.Http {
			if d := route.Delegate; d != nil {
				ns := d.Namespace
				if ns == "" {
					ns = o.Namespace
				}
				named[ids["VirtualService/"+ns+"/"+d.Name]] = true
			}
		}
	}
	for _, o := range objects {
		if vs, ok := o.Spec.(*networking.VirtualService); ok && len(vs.Hosts) == 0 && !named[o] {
			out.addWarning(o.Warn("spec.hosts", "no hosts, and no other VirtualService delegates to this one, so it has no effect"))
		}
	}
}
