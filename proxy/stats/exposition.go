// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// exposition gathers one scrape. Metrics come owner by owner and must be
// written name by name, so each is kept as a value and the number of its
// labels: 16 bytes for a counter. 5,000 clusters of sixty counters each make
// 5 MB this way, where finished protobuf messages would make 60.
type exposition struct {
	tags     *Tags                       // nil: Envoy's own. Immutable
	families map[string]*family          // by exposition name
	scoped   map[scopedName]scopedFamily // the same, by how a Scope names it
	sets     []labels                    // by number
	scopes   map[scopeName]owner
	parts    map[partName]int32 // sets of scopes with labels of a metric's own
	named    map[string]int32   // sets of other metrics
	err      error              // the first metric that could not be taken

	// expected is how many scopes are to report the metrics that come now.
	expected int

	// recent is the scope that reported last: most report many metrics in a row.
	recent      scopeName
	recentOwner owner
}

// labels is one set of labels: names may be shared by many sets.
type labels struct{ names, values []string }

// scopeName is a Scope as the key of a map.
type scopeName struct {
	kind, inner  *scopeKind
	name, within string
}

// owner is what a scope gives to the names and labels of its metrics.
type owner struct {
	prom string // before the last part of the name
	help string // the same, dotted
	set  int32  // of labels
}

// lastName is the last part of a dotted name.
type lastName struct {
	name   string
	part   part
	number int
}

// last is what the last part of a dotted name gives to the name and the labels.
type last struct {
	prom, help string
	labels     labels
}

type scopedName struct {
	before string // prom of the owner
	last   lastName
}

type scopedFamily struct {
	family *family // nil when it could not be made
	labels labels  // beside those of the owner
}

type partName struct {
	set  int32
	last lastName
}

// family is all metrics of one exposition name.
type family struct {
	name, help string
	kind       Kind
	values     []numbered[float64]      // counters and gauges
	dists      []numbered[Distribution] // histograms
}

// numbered is a value with the number of its label set.
type numbered[T any] struct {
	set   int32
	value T
}

func newExposition(t *Tags) *exposition {
	return &exposition{
		tags:     t,
		families: map[string]*family{},
		scoped:   map[scopedName]scopedFamily{},
		sets:     []labels{{}},
		scopes:   map[scopeName]owner{},
		parts:    map[partName]int32{},
		named:    map[string]int32{"": 0},
	}
}

// add stores one value. f is nil when its family could not be made.
func (x *exposition) add(f *family, set int32, m *sample) {
	switch {
	case f == nil:
	case m.dist != nil:
		f.dists = append(f.dists, numbered[Distribution]{set, m.dist})
	default:
		f.values = append(f.values, numbered[float64]{set, m.value})
	}
}

// addScoped stores one value of a scope.
func (x *exposition) addScoped(s *Scope, m *sample) {
	o := x.owner(s)
	key := scopedName{o.prom, lastName{m.name, m.part, m.number}}
	f, ok := x.scoped[key]
	if !ok {
		l := x.last(m)
		f = scopedFamily{x.family(exposed(o.prom+l.prom), "Envoy statistic "+o.help+l.help+".", m.kind), l.labels}
		x.scoped[key] = f
		if f.family != nil && m.kind != KindHistogram && f.labels.names == nil {
			f.family.values = slices.Grow(f.family.values, x.expected)
		}
	}
	set := o.set
	if f.labels.names != nil {
		set = x.partSet(set, key.last, f.labels)
	}
	x.add(f.family, set, m)
}

// addNamed stores one value of a metric that belongs to no scope.
func (x *exposition) addNamed(m *Metric, v *sample) {
	prom, ls := m.Prom, m.Labels
	if prom == "" && x.tags != nil && !m.Raw {
		rest, l := x.tags.extract(m.Name)
		prom, ls = rest, slices.Clip(ls)
		for i := range l.names {
			ls = append(ls, Label{l.names[i], l.values[i]})
		}
	}
	if prom == "" {
		prom = m.Name
	}
	name, help := sanitize(prom), "Statistic "
	if !m.Raw {
		name, help = exposed(prom), "Envoy statistic "
	}
	x.add(x.family(name, help+m.Name+".", m.Kind), x.labelSet(ls), v)
}

// exposed returns the exposition's name of one of Envoy's. An empty part at the
// end, which a tag may leave, isn't there (Envoy: SymbolTable's encoding).
func exposed(name string) string { return sanitize("envoy_" + strings.TrimSuffix(name, ".")) }

// family returns the family of that name. One name has one kind: a metric of
// another kind is refused, since the whole scrape would be.
func (x *exposition) family(name, help string, kind Kind) *family {
	f := x.families[name]
	if f == nil {
		f = &family{name: name, help: help, kind: kind}
		x.families[name] = f
	}
	if f.kind != kind {
		if x.err == nil {
			x.err = fmt.Errorf("metric %s is reported both as %v and as %v; the second is left out", name, f.kind, kind)
		}
		return nil
	}
	return f
}

// The labels that Envoy's default tags take out of a counter's name.
const (
	codeLabel  = "envoy_response_code"
	classLabel = "envoy_response_code_class"
)

func (x *exposition) newSet(l labels) int32 {
	x.sets = append(x.sets, l)
	return int32(len(x.sets) - 1)
}

// owner returns what a scope gives to its metrics. Scopes of the same name share
// a set of labels, so that their metrics are added up as Envoy's are.
func (x *exposition) owner(s *Scope) owner {
	key := scopeName{s.kind, s.inner, s.name, s.within}
	if key == x.recent {
		return x.recentOwner
	}
	o, ok := x.scopes[key]
	if !ok {
		o = x.newOwner(s)
		x.scopes[key] = o
	}
	x.recent, x.recentOwner = key, o
	return o
}

func (x *exposition) newOwner(s *Scope) owner {
	if x.tags != nil {
		// A rule may ask for what follows; the last part of a name is one word.
		rest, l := x.tags.extract(string(append(s.appendOwner(nil), 'x')))
		rest = strings.TrimSuffix(rest, "x")
		o := owner{prom: rest, help: rest}
		if l.names != nil {
			o.set = x.newSet(l)
		}
		return o
	}
	k := s.kind
	l := labels{[]string{k.label}, []string{strings.TrimSuffix(s.name, ";")}}
	o := owner{prom: k.prom, help: k.dotted + "<" + k.label + ">."}
	if in := s.inner; in != nil {
		l = labels{[]string{in.label, k.label}, []string{strings.TrimSuffix(s.within, ";"), l.values[0]}}
		o.prom, o.help = o.prom+in.prom, o.help+in.dotted+"<"+in.label+">."
	}
	o.set = x.newSet(l)
	return o
}

// last returns what the last part of a metric's name gives.
func (x *exposition) last(m *sample) last {
	if x.tags != nil {
		rest, l := x.tags.extract(string(m.appendLast([]byte("x."))))
		rest = strings.TrimPrefix(strings.TrimPrefix(rest, "x"), ".")
		return last{prom: rest, help: rest, labels: l}
	}
	number := []string{strconv.Itoa(m.number)}
	switch m.part {
	case partCode:
		return last{m.name, m.name + "_<" + codeLabel + ">", labels{[]string{codeLabel}, number}}
	case partClass:
		return last{m.name + "_xx", m.name + "_<" + classLabel + ">xx", labels{[]string{classLabel}, number}}
	}
	return last{prom: m.name, help: m.name}
}

// partSet returns the labels of set with those of a metric's own before them.
func (x *exposition) partSet(set int32, name lastName, own labels) int32 {
	key := partName{set, name}
	n, ok := x.parts[key]
	if !ok {
		base := x.sets[set]
		all := labels{slices.Clone(own.names), slices.Clone(own.values)}
		for i, name := range base.names {
			if !slices.Contains(all.names, name) { // a label given twice would spoil the whole scrape
				all.names, all.values = append(all.names, name), append(all.values, base.values[i])
			}
		}
		n = x.newSet(all)
		x.parts[key] = n
	}
	return n
}

// labelSet returns the number of an arbitrary set of labels.
func (x *exposition) labelSet(ls []Label) int32 {
	if len(ls) == 0 {
		return 0
	}
	var key strings.Builder
	for _, l := range ls {
		key.WriteString(l.Name)
		key.WriteByte(0)
		key.WriteString(l.Value)
		key.WriteByte(0)
	}
	n, ok := x.named[key.String()]
	if !ok {
		var l labels
		for _, p := range ls {
			l.names = append(l.names, sanitize(p.Name))
			l.values = append(l.values, p.Value)
		}
		n = x.newSet(l)
		x.named[key.String()] = n
	}
	return n
}

// expect makes room for so many scopes, which report the same metrics: to let the lists
// grow one value at a time takes five times their memory.
func (x *exposition) expect(scopes int) {
	x.expected = scopes
	x.sets = slices.Grow(x.sets, scopes)
	if len(x.scopes) == 0 {
		x.scopes = make(map[scopeName]owner, scopes)
	}
}

// sorted returns the families by name, each with one value per label set.
func (x *exposition) sorted() []*family {
	out := make([]*family, 0, len(x.families))
	for _, f := range x.families {
		f.values = merge(f.values, func(a, b float64) float64 { return a + b })
		f.dists = merge(f.dists, func(a, b Distribution) Distribution {
			s, o := a.Snapshot(), b.Snapshot()
			s.Add(&o)
			return s
		})
		if len(f.values)+len(f.dists) > 0 {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *family) int { return cmp.Compare(a.name, b.name) })
	return out
}

// merge sorts values by label set and adds up those of the same one: two
// owners with one name are one metric to Envoy, and two lines of the same
// labels would be refused.
func merge[T any](list []numbered[T], add func(a, b T) T) []numbered[T] {
	bySet := func(a, b numbered[T]) int { return cmp.Compare(a.set, b.set) }
	if !slices.IsSortedFunc(list, bySet) {
		slices.SortStableFunc(list, bySet)
	}
	w := 0
	for r := range list {
		if w > 0 && list[w-1].set == list[r].set {
			list[w-1].value = add(list[w-1].value, list[r].value)
			continue
		}
		list[w] = list[r]
		w++
	}
	return list[:w]
}

// sanitize makes s a name that every reader of the exposition takes.
func sanitize(s string) string {
	ok := func(i int, c byte) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || i > 0 && '0' <= c && c <= '9'
	}
	for i := range len(s) {
		if !ok(i, s[i]) {
			b := []byte(s)
			for j, c := range b {
				if !ok(j, c) {
					b[j] = '_'
				}
			}
			return string(b)
		}
	}
	return s
}
